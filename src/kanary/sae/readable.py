"""The learned functions of an SAE, latent by latent, as curves that can be drawn and named.

A part that works on latents keeps its functions in ``curves`` (:class:`~kanary.sae.curves.LatentCurves`). An encoder makes
of a latent's score z a pre-activation. A decoder makes of a code f a vector psi(f), an arc through the origin, of which is
drawn what was learned: the length of a gain, or an arc's coordinate off its straight line.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from kanary.errors import KanaryError
from kanary.kernels import score_at
from kanary.sae.codes import SparseCodes
from kanary.sae.curves import LatentCurves
from kanary.sae.decoders.kan_bend import KANBend
from kanary.sae.decoders.kan_gain import KANGain
from kanary.sae.parts import DECODERS, ENCODERS, Part
from kanary.splines import SymbolicFit, percentiles, symbolic_fit

if TYPE_CHECKING:
    from kanary.sae.model import SAE

POINTS = 65
"""At which a function is read, evenly over its grid."""
BLOCK = 2**24
"""Numbers of contributions held at a time."""
WEAK, STRONG = 0.1, 0.9
"""Quantiles of a latent's values between which it is said to turn."""
NEGLIGIBLE = 1e-4
"""Share of a latent's energy that is as good as none: a coordinate off its line that has less is not named."""


@dataclass(frozen=True)
class LatentFunction:
    """What one part of an SAE learned for one latent: a function of one variable."""

    latent: int
    part: str
    """"encoder", which reads scores, or "decoder", which reads codes; both where they are positive."""
    name: str
    """The part's own name, such as "kan-bend"."""
    says: str
    """What ``y`` is, in words."""
    turns: bool
    """Whether directions turn, so that ``y`` is an arc's coordinate off its straight line."""
    basis: str
    knots: Tensor
    """``[knots]``: between neighbouring ones the function is one piece of its basis."""
    range: tuple[float, float]
    """The grid: where values lay when it was last moved. Beyond it the function goes on as a straight line."""
    x: Tensor
    """``[points]``"""
    y: Tensor
    """``[points]`` float64."""
    linear: Tensor
    """``[points]`` float64: the linear (ReLU) part, which is x itself; of an arc, the coordinate along its straight line."""
    weight: Tensor
    """``[points]``: how many values lie about each x; 1 everywhere if that was not asked for."""
    turning: float
    """Degrees between what the latent adds at its weak (10 %) and at its strong (90 %) values; 0 of what does not turn, NaN
    without values."""

    @property
    def straight(self) -> Tensor:
        """``[points]`` float64: what ``y`` would be if nothing bent, in any drawing the line beside it."""
        return torch.zeros_like(self.linear) if self.turns else self.linear

    @cached_property
    def fit(self) -> SymbolicFit:
        """y by name, as a formula in x with its R² and range, over where there are values (a quarter of a second)."""
        w = self.weight.double().cpu()
        energy = w * (self.y.square() + self.linear.square()).nan_to_num().cpu()
        bent = bool((w * self.y.square().nan_to_num().cpu()).sum() > NEGLIGIBLE * energy.sum())
        y = self.y.cpu() if bent else torch.zeros_like(w)
        return symbolic_fit(self.x.nan_to_num()[None].cpu(), y[None], w[None])[0]


class Reading(NamedTuple):
    """Functions at some points, and how far from straight they are; all float64, NaN for shares of no energy.

    The energy is E y^2 of an encoder's function and E|psi|^2 of a decoder's, over the given weights.
    """

    y: Tensor
    """``[functions, points]``, see :class:`LatentFunction`."""
    linear: Tensor
    """``[functions, points]``"""
    energy: Tensor
    """``[functions]``"""
    nonlinearity: Tensor
    """``[functions]``: share of the energy that no straight line through the origin explains, at even speed along it."""
    curvature: Tensor
    """``[functions]``: share of the energy off the straight line, at any speed; 0 of what has one dimension only."""


def learned(sae: "SAE") -> dict[str, LatentCurves]:
    """The functions of single latents of "encoder" and "decoder", as far as they have any."""
    found = {"encoder": _curves(sae.encoder), "decoder": _curves(sae.decoder)}
    return {part: curves for part, curves in found.items() if curves is not None}


def require(sae: "SAE") -> dict[str, LatentCurves]:
    """:func:`learned`, of which there must be some.

    Raises:
        KanaryError: no part of ``sae`` has functions of single latents.
    """
    if not (found := learned(sae)):
        kinds = (("encoder", ENCODERS), ("decoder", DECODERS))
        known = [f"{kind} {name}" for kind, parts in kinds for name, cls in parts.items() if _curves(cls(2, 2))]
        raise KanaryError(
            f"An SAE with encoder {sae.encoder.name} and decoder {sae.decoder.name} has no learned functions of single "
            f"latents. Parts that have: {', '.join(known) or 'none'}."
        )
    return found


def functions(
    sae: "SAE", latents: int | Sequence[int] | Tensor | None = None, x: Tensor | None = None
) -> list[LatentFunction]:
    """See :meth:`kanary.sae.SAE.splines`."""
    found = require(sae)
    listed = _listed(sae, latents)
    if x is None:
        return [each for part in found for each in drawn(sae, part, listed)]
    flat = x.reshape(-1, sae.d_model)
    codes = sae.encode(flat)
    read_there = inputs(sae, flat, codes)
    return [each for part in found for each in _over(sae, part, listed, read_there[part], codes.indices)]


@torch.no_grad()
def _over(sae: "SAE", part: str, latents: Tensor, read_there: Tensor, owners: Tensor) -> Iterator[LatentFunction]:
    """The functions of ``latents [m]`` over the values ``read_there [nnz]`` of latents ``owners [nnz]``."""
    upper = learned(sae)[part].basis.grid[:, -1]
    place = (read_there / upper[owners] * (POINTS - 1)).round()
    on = (place >= 0) & (place < POINTS)
    counts = torch.bincount(owners[on] * POINTS + place[on].long(), minlength=sae.d_sae * POINTS)
    shares = torch.tensor([WEAK, STRONG], dtype=torch.float64)
    ends = percentiles(read_there, owners, sae.d_sae, shares)
    weight = counts.view(-1, POINTS).cpu()[latents]
    return drawn(sae, part, latents, weight=weight, ends=ends.cpu()[latents])


@torch.no_grad()
def drawn(
    sae: "SAE",
    part: str,
    latents: Tensor,
    x: Tensor | None = None,
    weight: Tensor | None = None,
    ends: Tensor | None = None,
) -> Iterator[LatentFunction]:
    """The functions of ``latents [m]`` in ``part`` ("encoder" or "decoder").

    Args:
        x: ``[m, points]``, where to read them; default: ``POINTS`` points evenly over the grids.
        weight: ``[m, points]``, how much data there is, which decides where an arc's straight line lies.
        ends: ``[m, 2]``, weak and strong values; default: a tenth and nine tenths of the grid.
    """
    curves = learned(sae)[part]
    module = sae.encoder if part == "encoder" else sae.decoder
    knots = curves.basis.breaks().cpu().expand(sae.d_sae, -1)[latents]
    if x is None:
        x = knots[:, :1] + (knots[:, -1:] - knots[:, :1]) * torch.linspace(0, 1, POINTS).to(knots)
    weight = torch.ones_like(x) if weight is None else weight
    ends = knots[:, -1:] * torch.tensor([WEAK, STRONG]).to(knots) if ends is None else ends
    says = "coefficient of its direction" if part == "decoder" else "pre-activation"
    bends = turns(sae, part)
    says = "coordinate off its straight line" if bends else says
    for rows in blocks(sae, x.shape[1], len(latents)):
        found = read(sae, part, latents[rows], x[rows], weight[rows])
        angles = turning(sae, latents[rows], ends[rows]) if bends else torch.zeros(len(x[rows]))
        for at, latent in enumerate(latents[rows].tolist(), rows.start):
            grid = knots[at]
            y, linear = (each[at - rows.start].cpu() for each in found[:2])
            span = float(grid[0]), float(grid[-1])
            yield LatentFunction(
                latent,
                part,
                module.name,
                says,
                bends,
                curves.basis.name,
                grid,
                span,
                x[at],
                y,
                linear,
                weight[at],
                float(angles[at - rows.start]),
            )


@torch.no_grad()
def turning(sae: "SAE", latents: Tensor, ends: Tensor) -> Tensor:
    """``[m]`` float64 degrees between what ``latents [m]`` add at the two codes ``ends [m, 2]``; NaN where these are."""
    device = sae.mean.device
    psi = values(sae, "decoder", latents.to(device), ends.nan_to_num().to(device)).double()
    weak, strong = F.normalize(psi, dim=2).unbind(1)
    # exact where the angle is small, as arccos of a cosine is not
    angles = 2 * torch.atan2((weak - strong).norm(dim=1), (weak + strong).norm(dim=1)).rad2deg()
    return angles.cpu().where(ends.isfinite().all(1).cpu(), torch.nan)


@torch.no_grad()
def read(sae: "SAE", part: str, latents: Tensor, x: Tensor, weight: Tensor) -> Reading:
    """The functions of ``latents [m]`` at ``x [m, points]``, of which ``weight [m, points]`` says how much data there is.

    Holds the contributions of all of them: see :func:`blocks`.
    """
    latents, x, weight = (each.to(sae.mean.device) for each in (latents, x, weight))
    made = values(sae, part, latents, x).double()
    x, p = x.double(), weight.double() / weight.double().sum(1, keepdim=True)
    if part == "encoder":
        energy = (p * made.square()).sum(1)
        straight = (p * x * made).sum(1).square() / (p * x.square()).sum(1)
        return Reading(made, x, energy, (1 - straight / energy).clamp_min(0), torch.zeros_like(energy))
    gram = made @ made.mT  # of points: all that is asked for is in it
    energy = (p * gram.diagonal(dim1=1, dim2=2)).sum(1)
    towards = (gram @ (p * x)[..., None]).squeeze(2)
    straight = (p * x * towards).sum(1) / (p * x.square()).sum(1)
    best = principal(gram, p)
    curvature = 1 - (p * best.square()).sum(1) / energy
    y, linear = _coordinates(sae, latents, x, made, gram, p, best)
    return Reading(y, linear, energy, (1 - straight / energy).clamp_min(0), curvature.clamp_min(0))


def _coordinates(
    sae: "SAE", latents: Tensor, x: Tensor, psi: Tensor, gram: Tensor, p: Tensor, best: Tensor
) -> tuple[Tensor, Tensor]:
    """What is drawn of arcs ``psi [m, points, d_model]``, and their linear part: each ``[m, points]``."""
    curves = learned(sae)["decoder"]
    directions = sae.W_dec[latents].double()
    along = (psi @ directions[..., None]).squeeze(2)
    if isinstance(sae.decoder, KANGain):
        return along, x
    if not isinstance(sae.decoder, KANBend):  # an arc in the whole space, whose straight line is the best one
        along = best * torch.where((p * best * x).sum(1, keepdim=True) < 0, -1, 1)
    elif sae.decoder.options.rank == 1:  # the coordinate off the direction is this very function
        bend = curves(x.reshape(-1).to(sae.mean), latents.repeat_interleave(x.shape[1]))
        return bend.reshape(x.shape).double(), along
    return principal(gram - along[..., None] * along[:, None], p), along


def principal(gram: Tensor, p: Tensor) -> Tensor:
    """First principal coordinate about the origin, with a mean that is not negative.

    Args:
        gram: ``[m, points, points]``, the products of points with one another.
        p: ``[m, points]``, their weights.
    """
    root = p.sqrt()
    scaled = (root[..., None] * gram * root[:, None]).nan_to_num(0, 0, 0)  # without data there is nothing
    sizes, axes = torch.linalg.eigh(scaled)
    coordinate = (gram @ (root * axes[..., -1])[..., None]).squeeze(2)
    # an axis with a smaller share is rounding
    some = sizes[:, -1:] > 1e-13 * gram.diagonal(dim1=1, dim2=2).amax(1, keepdim=True)
    coordinate = torch.where(some, coordinate / sizes[:, -1:].clamp_min(1e-300).sqrt(), 0)
    return coordinate * torch.where((p * coordinate).sum(1, keepdim=True) < 0, -1, 1)


@torch.no_grad()
def values(sae: "SAE", part: str, latents: Tensor, x: Tensor) -> Tensor:
    """The function of each of ``latents [m]`` at ``x [m, points]``: of an encoder the pre-activations ``[m, points]``; of a
    decoder psi, what the latent adds, ``[m, points, d_model]``, standardised."""
    flat, owners = x.reshape(-1).to(sae.mean.dtype), latents.repeat_interleave(x.shape[1])
    if part == "decoder":
        return sae.decoder.contribution(owners, flat).reshape(*x.shape, sae.d_model)
    made: Tensor = learned(sae)[part](flat, owners)
    return (made if spline_alone(sae) else flat + made).reshape(x.shape)


@torch.no_grad()
def inputs(sae: "SAE", x: Tensor, codes: SparseCodes) -> dict[str, Tensor]:
    """What the functions of each part read at every entry of ``codes``: ``[nnz]``.

    Args:
        x: ``[tokens, d_model]``, the raw activations that were encoded.
    """
    found = {}
    for part in learned(sae):
        if part == "decoder":
            found[part] = codes.values
        else:
            W_enc, b_enc = (sae.encoder.get_parameter(name) for name in ("W_enc", "b_enc"))
            scores = score_at(sae.standardise(x) - sae.decoder.b_dec, W_enc, codes.pattern)
            found[part] = scores + b_enc[codes.indices]
    return found


def blocks(sae: "SAE", points: int, functions: int) -> Iterator[slice]:
    """So many functions at a time, each read at ``points``, that ``BLOCK`` numbers hold their contributions."""
    size = max(1, BLOCK // (points * max(points, sae.d_model)))
    return (slice(start, min(start + size, functions)) for start in range(0, functions, size))


def turns(sae: "SAE", part: str) -> bool:
    """Whether what the functions of ``part`` make may change its direction with intensity."""
    return part == "decoder" and not isinstance(sae.decoder, KANGain)


def spline_alone(sae: "SAE") -> bool:
    """Whether the encoder's splines are all of a pre-activation, and not what is added to a score."""
    return getattr(sae.encoder.options, "start", "zero") == "relu"


def _curves(part: Part) -> LatentCurves | None:
    curves = getattr(part, "curves", None)
    return curves if isinstance(curves, LatentCurves) else None


def _listed(sae: "SAE", latents: int | Sequence[int] | Tensor | None) -> Tensor:
    if latents is None:
        return torch.arange(sae.d_sae)
    listed = torch.as_tensor([latents] if isinstance(latents, int) else latents, dtype=torch.int64).reshape(-1).cpu()
    wrong = (listed < 0) | (listed >= sae.d_sae)
    if wrong.any():
        raise KanaryError(f"There is no latent {int(listed[wrong][0])}: this SAE has 0 to {sae.d_sae - 1:,}.")
    return listed
