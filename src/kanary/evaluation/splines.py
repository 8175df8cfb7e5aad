"""What an SAE's learned functions do on a text: how far from straight they are, their names, and what straight ones would do.

All over the values that occurred (:mod:`kanary.evaluation.densities`). psi(f) is what a latent adds at code f.

- *nonlinearity* = 1 - |sum p f psi|^2 / (sum p f^2 · sum p |psi|^2): the share of the energy that a straight line through the
  origin, at even speed, leaves over; for an encoder's function y(z) the same with y for psi. Straightening loses it.
- *curvature* = 1 - (largest eigenvalue of sum p psi psi^T) / sum p |psi|^2: the share off the best straight line, whatever the
  speed along it. 0 where the direction stays the same.
- *turning angle*: between psi at the 10 % and at the 90 % quantile of the latent's codes, in degrees.
"""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from kanary.evaluation.densities import INSIDE, Density, Strays
from kanary.evaluation.latents import writes_residual
from kanary.evaluation.result import Metric
from kanary.lm import LanguageModel
from kanary.lm.unembed import unembedding
from kanary.sae import SAE
from kanary.sae.decoders.linear import LinearDecoder
from kanary.sae.readable import (
    NEGLIGIBLE,
    STRONG,
    WEAK,
    LatentFunction,
    blocks,
    drawn,
    learned,
    read,
    require,
    spline_alone,
    turning,
    turns,
    values,
)
from kanary.splines import SymbolicFits, census, symbolic_fit

SHARES = (WEAK, 0.5, STRONG)
"""Weak, middle and strong: quantiles of a latent's own values."""
LEAST = 32
"""Values of a latent below which it has no name and is left out of means over latents."""
CURVED = 0.01
"""Curvature from which a latent counts as curved."""
DRAWN = 1e-3
"""Share off the straight line from which the report draws a latent."""
SHOWN = 12
"""Latents of each part that the report draws."""
TOKENS = 5
"""Top tokens at each intensity."""
NAN = float("nan")


class Shown(NamedTuple):
    """A latent that the report draws."""

    function: LatentFunction
    """Where every bin in turn holds values, first, middle and last: ``[3 · bins]``, NaN where a bin holds none."""
    knots: Tensor
    """``[knots, 2]``: x and y of the knots that lie where there are values."""
    intensities: Tensor
    """``[3, 2]``: x and y at ``SHARES``."""
    tokens: tuple[tuple[str, ...], ...]
    """The tokens whose logits rise most at the three ``SHARES``; empty where there are no logits to speak of."""


@dataclasses.dataclass(frozen=True)
class Functions:
    """The functions of one part of an SAE, on the text. Per latent, and NaN where it had no values, on the CPU."""

    part: str
    """"encoder" or "decoder"."""
    name: str
    turns: bool
    """Whether directions may change with intensity."""
    density: Density
    energy: Tensor
    """``[d_sae]`` float64: mean of y^2 (encoder) or |psi|^2 (decoder) over the latent's values; squared standardised units."""
    nonlinearity: Tensor
    """``[d_sae]`` float64"""
    curvature: Tensor
    """``[d_sae]`` float64; 0 for an encoder."""
    turning: Tensor
    """``[d_sae]`` float64, degrees; 0 for an encoder."""
    quantiles: Tensor
    """``[d_sae, 3]`` float64: the values at ``SHARES``."""
    fits: SymbolicFits
    """One per latent: the function by name."""
    shown: tuple[Shown, ...] = ()
    """Those with most energy off the straight line, the most first."""

    @property
    def bent(self) -> Tensor:
        """``[d_sae]``: curvature where directions turn, else nonlinearity."""
        return self.curvature if self.turns else self.nonlinearity


Show = Callable[[int], None]


@torch.no_grad()
def measure_functions(
    sae: SAE,
    densities: Mapping[str, Density],
    lm: LanguageModel | None = None,
    *,
    shown: int = SHOWN,
    show: Show | None = None,
) -> list[Functions]:
    """The functions of each part of ``sae`` that has some, with ``densities`` counted on a text.

    Args:
        lm: for the top tokens.
        shown: how many latents of each part to prepare for drawing.
        show: called with the number of functions done since the last call.

    Raises:
        KanaryError: no part of ``sae`` has functions of single latents.
    """
    unembed = unembedding(lm) if lm is not None and writes_residual(sae, lm) else None
    found = []
    for part in require(sae):
        each = _measured(sae, part, densities[part], show)
        size = each.energy * each.density.values * each.bent
        most = size.nan_to_num(0).topk(min(shown, len(size))).indices
        most = most[each.bent[most] > DRAWN]
        tokens: list[tuple[tuple[str, ...], ...]] = [()] * len(most)
        if part == "decoder" and lm is not None and unembed is not None:
            tokens = top_tokens(sae, lm, unembed, most, each.quantiles[most])
        pictures = tuple(shown._replace(tokens=top) for shown, top in zip(_drawn(sae, each, most), tokens, strict=True))
        found.append(dataclasses.replace(each, shown=pictures))
    return found


def _measured(sae: SAE, part: str, density: Density, show: Show | None) -> Functions:
    columns: dict[str, list[Tensor]] = {}
    fits: SymbolicFits = []
    latents, quantiles = torch.arange(sae.d_sae), density.quantiles(SHARES)
    (points, weights), (_, enough) = density.points(), density.points(LEAST)
    for rows in blocks(sae, points.shape[1], sae.d_sae):
        x, weight = points[rows], weights[rows]
        found = read(sae, part, latents[rows], x, weight)
        y = found.y.cpu().nan_to_num()
        none = (weight * y.square()).sum(1) <= NEGLIGIBLE * weight.sum(1) * found.energy.cpu()
        fits += symbolic_fit(x, y.masked_fill(none[:, None], 0), enough[rows])
        angles = turning(sae, latents[rows], quantiles[rows][:, [0, -1]]) if part == "decoder" else torch.zeros(len(x))
        new = (found.energy, found.nonlinearity, found.curvature, angles)
        for name, column in zip(_COLUMNS, new, strict=True):
            some = weight.sum(1) > 0
            columns.setdefault(name, []).append(column.double().cpu().where(some, torch.nan))
        if show:
            show(len(x))
    module = sae.encoder if part == "encoder" else sae.decoder
    energy, nonlinearity, curvature, degrees = (torch.cat(columns[name]) for name in _COLUMNS)
    bends = turns(sae, part)
    return Functions(part, module.name, bends, density, energy, nonlinearity, curvature, degrees, quantiles, fits, ())


_COLUMNS = ("energy", "nonlinearity", "curvature", "turning")


@torch.no_grad()
def top_tokens(
    sae: SAE, lm: LanguageModel, unembed: Tensor, latents: Tensor, codes: Tensor
) -> list[tuple[tuple[str, ...], ...]]:
    """The tokens whose logits each of ``latents [m]`` raises most at each of its ``codes [m, intensities]``.

    Args:
        unembed: ``[d_model, vocab]``, see :func:`kanary.lm.unembed.unembedding`.
    """
    found = []
    for latent, at in zip(latents.tolist(), codes, strict=True):
        psi = values(sae, "decoder", torch.tensor([latent], device=sae.mean.device), at[None].to(sae.mean.device))[0]
        ids = (psi.to(unembed) @ unembed).topk(min(TOKENS, unembed.shape[1]), dim=1).indices
        found.append(tuple(tuple(str(lm.tokenizer.decode([token])) for token in row) for row in ids.tolist()))
    return found


@torch.no_grad()
def over_values(sae: SAE, of: Functions, latents: Tensor, x: Tensor) -> Iterator[LatentFunction]:
    """The functions of ``latents [m]`` at ``x [m, points]``, about the straight lines of the values that occurred."""
    counts = of.density.counts[latents].double()
    counts[counts.sum(1) == 0, :INSIDE] = 1  # nothing occurred: anything on the grid may
    at = torch.cat([x, of.density.means[latents]], 1)
    weight = torch.cat([torch.zeros_like(x), counts], 1)
    ends, here = of.quantiles[latents][:, [0, -1]], x.shape[1]
    for each in drawn(sae, of.part, latents, at, weight, ends):
        x, y, linear, w = (column[:here] for column in (each.x, each.y, each.linear, each.weight))
        yield dataclasses.replace(each, x=x, y=y, linear=linear, weight=w)


def _drawn(sae: SAE, of: Functions, latents: Tensor) -> Iterator[Shown]:
    """The functions of ``latents [m]`` where there are values, and nowhere else."""
    density = of.density
    counts, low, means = (each[latents] for each in (density.counts, density.edges, density.means))
    half = density.spread()[latents]
    bins = torch.stack([means - half, means, means + half], 2).flatten(1)
    weight = counts.double().repeat_interleave(3, 1)
    end = bins.shape[1]
    knots = learned(sae)[of.part].basis.breaks().cpu().double().expand(sae.d_sae, -1)[latents]
    functions = over_values(sae, of, latents, torch.cat([bins, knots, of.quantiles[latents]], 1))
    for row, function in enumerate(functions):
        pairs = torch.stack([function.x, function.y], 1)[end:]
        here = (torch.searchsorted(low[row], knots[row], right=True) - 1).clamp_min(0)
        kept = pairs[: knots.shape[1]][counts[row][here] > 0]
        empty = weight[row] == 0
        x, y, linear = (each[:end].masked_fill(empty, NAN) for each in (function.x, function.y, function.linear))
        yield Shown(
            dataclasses.replace(function, x=x, y=y, linear=linear, weight=weight[row]),
            kept,
            pairs[knots.shape[1] :],
            (),
        )


# --- in numbers ---------------------------------------------------------------------------------------------------


def spline_metrics(found: list[Functions]) -> dict[str, dict[str, Metric]]:
    """The group "splines" of ``metrics.json``: names start with the part; n counts tokens, values or latents.

    There are no intervals: every number is of all the values together.
    """
    numbers = {f"{each.part}_{name}": metric for each in found for name, metric in _metrics(each)}
    return {"splines": numbers} if numbers else {}


def stray_metrics(found: Strays | None) -> dict[str, dict[str, Metric]]:
    """The same shares for functions that latents share, on edges or in a hidden layer; empty where there are none."""
    if found is None or not found.read:
        return {}
    shares = {"values_outside": (found.outside, found.read), "tokens_outside": (found.tokens_outside, found.tokens)}
    return {"splines": {f"encoder_{name}": Metric(some / n, NAN, NAN, n) for name, (some, n) in shares.items()}}


def _metrics(of: Functions) -> Iterator[tuple[str, Metric]]:
    density, count = of.density, of.density.values
    energy = (of.energy * count).nan_to_num()
    known = count >= LEAST
    n, total = int(known.sum()), int(count.sum())

    def number(value: float, n: int) -> Metric:
        return Metric(value, NAN, NAN, n)

    def weighted(shares: Tensor) -> Metric:
        return number(float((energy * shares.nan_to_num()).sum() / energy.sum()), total)

    yield "nonlinearity", weighted(of.nonlinearity)
    if of.turns:
        yield "curvature", weighted(of.curvature)
        curvature, degrees = of.curvature[known], of.turning[known]
        yield "curvature_per_latent", number(float(curvature.mean()), n)
        yield "curved_share", number(float((curvature > CURVED).double().mean()), n)
        yield "turning_angle", number(float(degrees.mean()), n)
        yield "turning_angle_p90", number(float(degrees.quantile(0.9)) if n else NAN, n)
    yield "values_outside", number(density.share_outside, total)
    yield "tokens_outside", number(density.tokens_outside / max(1, density.tokens), density.tokens)
    kinds = census(of.fits)
    named = sum(kinds.values()) - kinds.pop("too little data")
    for kind, latents in kinds.items():
        yield f"share_{kind.replace('-', '_')}", number(latents / named if named else NAN, named)


# --- straightened -------------------------------------------------------------------------------------------------


@torch.no_grad()
def straighten(sae: SAE, densities: Mapping[str, Density]) -> SAE:
    """A copy of ``sae`` in which every function is the best straight line through the origin: what is lost is the control.

    Least squares over the values counted in ``densities`` (over the grid for a latent without any). A decoder becomes a
    linear one whose directions keep the length that fits best. An encoder's functions become straight lines, so that it
    still selects the same latents.

    Raises:
        KanaryError: no part of ``sae`` has functions of single latents.
    """
    found = require(sae)
    straight = copy.deepcopy(sae)
    for part in found:
        density = densities[part]
        x, weight = density.points()
        unknown = weight.sum(1) == 0
        weight[unknown] = (x[unknown] <= density.edges[unknown, INSIDE, None]).double()  # everywhere on the grid
        rows = blocks(sae, x.shape[1], sae.d_sae)
        slopes = torch.cat([_slopes(sae, part, at, x[at], weight[at]) for at in rows])
        if part == "encoder":
            curves = learned(straight)["encoder"]
            slopes = slopes if spline_alone(sae) else slopes - 1
            curves.coefficients[:, 0] = slopes[:, None] * curves.line()
        else:
            decoder = LinearDecoder(sae.d_model, sae.d_sae).to(sae.mean)
            decoder.W_dec.copy_(slopes)
            decoder.b_dec.copy_(sae.decoder.b_dec)
            straight.decoder = decoder
            straight.config = dataclasses.replace(straight.config, decoder=decoder.describe())
    return straight.eval()


def _slopes(sae: SAE, part: str, rows: slice, x: Tensor, weight: Tensor) -> Tensor:
    """w of the best y ≈ w·x for the latents ``rows``: ``[m]`` of an encoder, ``[m, d_model]`` of a decoder; float64."""
    device = sae.mean.device
    x, weight = x.to(device), weight.to(device)
    made = values(sae, part, torch.arange(sae.d_sae, device=device)[rows], x).double()
    p = weight * x / (weight * x.square()).sum(1, keepdim=True)
    return torch.einsum("mp,mp...->m...", p, made)
