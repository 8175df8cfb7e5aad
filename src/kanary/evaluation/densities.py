"""Where the values lie that an SAE's learned functions read: a histogram for every latent, on its function's own grid."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from kanary.sae import SAE, SparseCodes
from kanary.sae.readable import inputs, learned

INSIDE = 48
"""Bins of one width on a grid, which starts at zero."""
BEYOND = 8
"""Bins after its end, each 2^(1/4) times as far from zero as the one before; the last holds all that is further out."""


class Density(NamedTuple):
    """The values that the functions of one part read. On the CPU."""

    edges: Tensor
    """``[d_sae, bins]`` float64: the lower end of every bin."""
    counts: Tensor
    """``[d_sae, bins]`` int64: values in it."""
    means: Tensor
    """``[d_sae, bins]`` float64: their mean; of an empty bin the lower end."""
    outside: Tensor
    """``[d_sae]`` int64: values outside the grid."""
    tokens: int
    """On how many tokens this was counted."""
    tokens_outside: int
    """On how many of them any value lay outside its grid."""

    @property
    def values(self) -> Tensor:
        """``[d_sae]`` int64: how many values there were."""
        return self.counts.sum(1)

    @property
    def share_outside(self) -> float:
        """Share of all values that lie outside their grid; NaN without values."""
        total = int(self.counts.sum())
        return int(self.outside.sum()) / total if total else float("nan")

    def ends(self) -> Tensor:
        """``[d_sae, bins]`` float64: the upper end of every bin; the last, which has none, goes as far above its mean as
        below."""
        return torch.cat([self.edges[:, 1:], 2 * self.means[:, -1:] - self.edges[:, -1:]], 1)

    def reach(self) -> Tensor:
        """``[d_sae]`` float64: the end of the last bin that holds values, up to which a function is drawn; without values
        that of its grid."""
        filled = self.counts > 0
        last = (filled * torch.arange(filled.shape[1])).amax(1).where(filled.any(1), INSIDE - 1)
        return self.ends().gather(1, last[:, None])[:, 0]

    def spread(self) -> Tensor:
        """``[d_sae, bins]`` float64: how far to either side of its mean a bin's values can be spread evenly."""
        high = F.pad(self.edges[:, 1:], (0, 1), value=torch.inf)  # the last has no end
        return torch.minimum(self.means - self.edges, high - self.means)

    def points(self, least: int = 1) -> tuple[Tensor, Tensor]:
        """Two points in every bin that stand for its values, and how many each stands for: ``[d_sae, 2 · bins]`` float64.

        A bin's mean and variance are kept, values spread evenly (Gauss's two points). Latents with fewer than ``least``
        values have no weight.
        """
        away = self.spread() / math.sqrt(3)
        x = torch.stack([self.means - away, self.means + away], 2).flatten(1)
        weights = self.counts.double().repeat_interleave(2, 1) / 2
        return x, weights * (self.values >= least)[:, None]

    def quantiles(self, shares: Sequence[float]) -> Tensor:
        """The values below which ``shares`` of each latent's values lie: ``[d_sae, shares]``; NaN without values.

        Right to the width of a bin, within which values count as spread evenly about their mean.
        """
        reached = self.counts.cumsum(1).double()
        wanted = reached[:, -1:] * torch.tensor(shares, dtype=torch.float64)
        at = torch.searchsorted(reached, wanted.clamp_min(1e-9)).clamp(max=self.counts.shape[1] - 1)
        count, mean, half = (each.gather(1, at) for each in (self.counts.double(), self.means, self.spread()))
        share = (wanted - (reached.gather(1, at) - count)) / count
        return (mean + half * (2 * share - 1)).where(self.values[:, None] > 0, torch.nan)


@dataclass
class Strays:
    """What the functions that latents share, on edges or in a hidden layer, read outside their grids."""

    read: int = 0
    """Values that functions read."""
    outside: int = 0
    """Of these, outside the function's grid."""
    tokens: int = 0
    tokens_outside: int = 0
    """Tokens with any such value."""

    def add(self, sae: SAE, x: Tensor) -> None:
        """Counts raw activations ``x [tokens, d_model]``; nothing where the encoder has no such functions."""
        stray = sae.encoder.outside(sae.standardise(x), sae.decoder.b_dec)
        if stray is not None:
            self.read, self.tokens = self.read + stray.numel(), self.tokens + len(stray)
            self.outside += int(stray.sum())
            self.tokens_outside += int(stray.any(1).sum())


class Densities:
    """Counts the values that the functions of ``sae`` read, batch by batch, in memory that does not grow with them."""

    def __init__(self, sae: SAE) -> None:
        self.sae, self.tokens = sae, 0
        self.parts = {part: _Histogram(curves.basis.grid[:, -1].double()) for part, curves in learned(sae).items()}

    @torch.no_grad()
    def add(self, x: Tensor, codes: SparseCodes | None = None) -> None:
        """Counts raw activations ``x [tokens, d_model]``, none of them special, whose ``codes`` may be known already."""
        if not self.parts:
            return
        codes = self.sae.encode(x) if codes is None else codes
        self.tokens += len(x)
        for part, values in inputs(self.sae, x, codes).items():
            self.parts[part].add(values, codes)

    def result(self) -> dict[str, Density]:
        """ "encoder" and "decoder", as far as they have functions."""
        return {part: histogram.result(self.tokens) for part, histogram in self.parts.items()}


class _Histogram:
    def __init__(self, upper: Tensor) -> None:
        """``upper [d_sae]`` float64: where the grids end."""
        self.upper, bins = upper, INSIDE + BEYOND
        self.counts = torch.zeros(len(upper) * bins, dtype=torch.int64, device=upper.device)
        self.sums = torch.zeros(len(upper) * bins, dtype=torch.float64, device=upper.device)
        self.outside = torch.zeros(len(upper), dtype=torch.int64, device=upper.device)
        self.tokens_outside = 0

    def add(self, values: Tensor, codes: SparseCodes) -> None:
        values = values.double()
        place = values / self.upper[codes.indices]
        out = (place < 0) | (place > 1)
        after = INSIDE + (4 * place.clamp_min(1).log2()).floor()
        bins = torch.where(place < 1, (place * INSIDE).floor(), after).clamp(0, INSIDE + BEYOND - 1).long()
        cells = codes.indices * (INSIDE + BEYOND) + bins
        # fast because it touches only the cells that are hit
        self.counts.index_add_(0, cells, torch.ones_like(cells))
        self.sums.index_add_(0, cells, values)
        self.outside.index_add_(0, codes.indices, out.long())
        self.tokens_outside += len(codes.rows()[out].unique())

    def result(self, tokens: int) -> Density:
        steps = torch.arange(INSIDE, dtype=torch.float64) / INSIDE
        steps = torch.cat([steps, 2 ** (torch.arange(BEYOND, dtype=torch.float64) / 4)])
        edges = self.upper.cpu()[:, None] * steps
        counts, sums = (each.reshape(len(edges), -1).cpu() for each in (self.counts, self.sums))
        means = torch.where(counts > 0, sums / counts, edges)
        return Density(edges, counts, means, self.outside.cpu(), tokens, self.tokens_outside)
