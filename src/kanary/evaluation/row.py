"""One batch at one site, and what one SAE or control makes of it."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from kanary.activations.pool import generator
from kanary.evaluation.densities import Densities, Strays
from kanary.evaluation.metrics import health_metrics, sparsity_metrics
from kanary.evaluation.result import Details, Metric
from kanary.evaluation.standin import PCA, Spliced, StandIn
from kanary.evaluation.sums import Sums, by_window
from kanary.sae import SparseCodes
from kanary.sae.parts import TILE

POINTS = 2000  # tokens whose norms are kept for the picture
EXACT_L0 = 2048  # numbers of active latents that are counted one by one; above, in bins of 1 %


class Whole(NamedTuple):
    """What others' metrics need to know of the batch as it was read."""

    mean: Tensor
    """``[width]`` float64."""
    tokens: int

    @classmethod
    def of(cls, x: Tensor) -> "Whole":
        """``x [tokens, width]``."""
        return cls(x.double().mean(0), len(x))


class View:
    """The activations of one batch at one site, and which of them count."""

    def __init__(self, x: Tensor, special: Tensor, whole: Whole | None = None) -> None:
        """``x [windows, position, width]``, ``special [windows, position]``; ``whole``: the batch, where these windows are
        only a part of it."""
        self.raw = x
        self.kept = ~special
        self.x = x[self.kept]  # [tokens, width]
        self.window, self.position = self.kept.nonzero(as_tuple=True)  # of every token
        self.windows, self.length = special.shape
        self.whole = whole or Whole.of(self.x)
        exact = self.x.double()
        self.size = torch.linalg.vector_norm(exact, dim=1)
        self.spread = (exact - self.whole.mean).square().sum(1)  # squared distance from the batch's mean

    def sums(self) -> dict[str, Tensor]:
        """Per window."""
        return {
            "n": self.kept.sum(1),
            "x": by_window(self.x, self.window, self.windows),
            "square": by_window(self.size.square(), self.window, self.windows),
            "norm": by_window(self.size, self.window, self.windows),
        }

    def pieces(self, size: int) -> Iterator[slice]:
        return (slice(a, a + size) for a in range(0, len(self.x), size))

    def spliced(self, x_hat: Tensor) -> Tensor:
        """``[windows, position, width]`` with ``x_hat [tokens, width]`` wherever a token is not special."""
        new = self.raw.clone()
        new[self.kept] = x_hat.to(new.dtype)
        return new


class Row:
    """The sums of one SAE or control."""

    def __init__(self, standin: StandIn) -> None:
        self.standin, self.sums, self.width = standin, Sums(), 0
        self.sae = standin.sae if isinstance(standin, Spliced) else None
        # controls such as an untrained relu SAE may be dense: a piece at a time bounds what their codes take
        room = TILE * (16 if self.sae and self.sae.mean.is_cuda else 1)
        self.piece = max(1, room // self.sae.d_sae) if self.sae else TILE
        if self.sae:
            self.l0_values = l0_bins(self.sae.d_sae)
            norms = torch.linalg.vector_norm(self.sae.W_dec.detach().double(), dim=1)
            self.unit = norms / self.sae.scale.double()  # one unit of a latent, in units of the activation
            self.firings = torch.zeros(self.sae.d_sae, dtype=torch.int64, device=self.unit.device)

    def add(self, view: View, groups: Tensor) -> Tensor:
        """Counts one batch whose windows are in ``groups``; the reconstruction ``[tokens, width]``."""
        self.width = view.x.shape[1]
        if not len(view.x):
            return view.x
        columns, made = [], []
        for piece in view.pieces(self.piece):
            x_hat, codes = self.standin(view.x[piece])
            made.append(x_hat)
            columns.append(self._columns(view, piece, x_hat, codes))
            if codes is not None:
                self.count(view, piece, codes)
        per_token = {name: torch.cat([c[name] for c in columns]) for name in columns[0]}
        table = by_window(torch.stack([*per_token.values()], 1), view.window, view.windows)
        sums = dict(zip(per_token, table.unbind(1), strict=True))
        if self.sae:
            sums["l0_histogram"] = self._histogram(per_token["l0"], view)
        self.sums.add(groups, **sums)
        self.look(view, per_token["error"])
        return torch.cat(made)

    def count(self, view: View, piece: slice, codes: SparseCodes) -> None:
        """Called with the codes of every piece of a batch."""
        self.firings += torch.bincount(codes.indices, minlength=codes.d_sae)

    def look(self, view: View, error: Tensor) -> None:
        """Called after every batch with the squared error ``[tokens]``."""

    def _columns(self, view: View, piece: slice, x_hat: Tensor, codes: SparseCodes | None) -> dict[str, Tensor]:
        """One value per token."""
        x, y, size = view.x[piece].double(), x_hat.double(), view.size[piece]
        square, dot = y.square().sum(1), (x * y).sum(1)
        error, norm = (x - y).square().sum(1), square.sqrt()
        columns = {
            "error": error,
            "square": square,
            "dot": dot,
            "norm": norm,
            "ratio": torch.where(size > 0, norm / size, 1.0),  # an activation of zero has no size to compare with
            "cosine": dot / (norm * size).clamp_min(1e-300),
            "legacy": torch.where(view.spread[piece] > 0, 1 - error / view.spread[piece], 0.0),
            "error_by_batch": error / view.whole.tokens,
        }
        if codes is not None:
            columns["l0"] = codes.l0().double()
            sizes = codes.values.double().abs() * self.unit[codes.indices]
            columns["l1"] = torch.zeros_like(error).index_add_(0, codes.rows(), sizes)
        return columns

    def _histogram(self, l0: Tensor, view: View) -> Tensor:
        """``[windows, bins]``: tokens of each window by their number of active latents."""
        bins = torch.searchsorted(self.l0_values.to(l0.device), l0.long(), right=True) - 1
        cells = view.window * len(self.l0_values) + bins
        return torch.bincount(cells, minlength=view.windows * len(self.l0_values)).reshape(view.windows, -1)

    def sparsity(self, site: Sums, draws: Tensor, tokens: int) -> dict[str, dict[str, Metric]]:
        if self.sae is None:  # a PCA's code has k numbers, always; the identity has no latents
            value = float(self.standin.k) if isinstance(self.standin, PCA) else float("nan")
            return {"sparsity": {"l0": Metric(value, value, value, tokens)}}
        found = sparsity_metrics(site, self.sums, draws, self.l0_values)
        return found | health_metrics(self.firings.cpu(), tokens)


class DetailedRow(Row):
    """An SAE that is looked at closely: also each latent's firings, the error by position, a sample of norms, and what the
    learned functions read."""

    def __init__(self, standin: Spliced, name: str, seed: int, window: int) -> None:
        super().__init__(standin)
        width, device = standin.sae.d_sae, standin.sae.mean.device
        self.windows_fired = torch.zeros(width, dtype=torch.int64, device=device)
        self.strength = torch.zeros(width, dtype=torch.float64, device=device)
        self.position_error = torch.zeros(window, dtype=torch.float64, device=device)
        self.position_tokens = torch.zeros(window, dtype=torch.int64, device=device)
        self.densities, self.strays = Densities(standin.sae), Strays()
        self.draw = generator(f"points {name}", seed)
        self.points, self.keys = torch.zeros(0, 2, dtype=torch.float64), torch.zeros(0)
        self.fired = torch.zeros(0, width, dtype=torch.bool, device=device)  # [windows, d_sae] of this batch

    def count(self, view: View, piece: slice, codes: SparseCodes) -> None:
        super().count(view, piece, codes)
        if piece.start == 0:
            self.fired = torch.zeros(view.windows, codes.d_sae, dtype=torch.bool, device=codes.indices.device)
        values = codes.values.double() * self.unit[codes.indices]
        self.strength += torch.bincount(codes.indices, weights=values, minlength=codes.d_sae)
        self.fired[view.window[piece][codes.rows()], codes.indices] = True
        self.densities.add(view.x[piece], codes)
        self.strays.add(self.densities.sae, view.x[piece])

    def look(self, view: View, error: Tensor) -> None:
        self.windows_fired += self.fired.sum(0)
        self.position_error.index_add_(0, view.position, error)
        self.position_tokens += view.kept.sum(0)
        # the tokens with the largest of random keys: a sample in which each token so far is equally likely
        keys = torch.cat([self.keys, torch.rand(len(error), generator=self.draw)])
        points = torch.cat([self.points, torch.stack([view.size, error.sqrt()], 1).cpu()])
        best = keys.topk(min(POINTS, len(keys))).indices
        self.keys, self.points = keys[best], points[best]

    def details(self, site: Sums, tokens: int) -> Details:
        n, square, x = (site.columns[name].sum(0) for name in ("n", "square", "x"))
        variance = square / n - (x / n).square().sum()
        counts = self.sums.columns["l0_histogram"].sum(0).long()
        seen = counts.nonzero().squeeze(1)
        return Details(
            tokens=tokens,
            l0_values=self.l0_values[seen],
            l0_counts=counts[seen],
            firings=self.firings.cpu(),
            windows_fired=self.windows_fired.cpu(),
            strength=self.strength.cpu(),
            position_fvu=self.position_error.cpu() / self.position_tokens.cpu() / variance,
            position_tokens=self.position_tokens.cpu(),
            norms=self.points,
            densities=self.densities.result(),
            strays=self.strays,
        )


def l0_bins(d_sae: int) -> Tensor:
    """``[bins]`` int64: every number up to ``EXACT_L0 - 1``, then steps of 1 % up to ``d_sae``."""
    exact = torch.arange(min(EXACT_L0, d_sae + 1))
    if d_sae < EXACT_L0:
        return exact
    steps = int(math.log(d_sae / EXACT_L0) / math.log(1.01)) + 1
    rough = EXACT_L0 * 1.01 ** torch.arange(steps, dtype=torch.float64)
    bins: Tensor = torch.cat([exact, rough.long()]).unique()
    return bins
