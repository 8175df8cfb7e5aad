"""A learned function of one variable for every latent: what the KAN parts that work on latents are made of.

The functions start at zero, so that a KAN SAE begins as the linear SAE it contains, and join when a tenth of the training is
over: by then it is known how large each latent's values are, which decides where its knots lie.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kanary.config import option
from kanary.errors import KanaryError
from kanary.kernels import Pattern, on_triton
from kanary.splines import Basis, fit, make_basis

SPLINES = {"hat": 2, "bspline": 4}  # bases whose functions are 0 at 0 without their first coefficient; fewest knots
LEAST = 32  # values of a latent below which they do not say how far its grid must reach
BEYOND = 3.0  # standard deviations above the mean at which a grid ends, or at the largest value if that is less
NARROWEST = 1e-3  # of the usual reach
AGAIN = (1 / 3, 1 / 2)  # shares of training at which grids move again: values grow long after functions have joined
WITHIN = 16  # sites per piece at which functions on two grids are compared
ROWS = 1024  # functions moved at a time


@dataclass(frozen=True)
class CurveOptions:
    knots: int = option(8, "numbers by which each function is described")
    basis: str = option("hat", "of the functions: hat (piecewise linear) or bspline (cubic)")
    joins: float = option(0.1, "share of training after which the functions begin to learn")
    pace: float = option(0.1, "share of the learning rate at which the functions learn")


class Schedule:
    """When functions join, move their grids, and how fast they learn.

    Grids move when the functions join, at a third and at half of training, and then stay, so that what a function says can
    settle. There is always a step before, so that something is known of the values.
    """

    def __init__(self, joins: float, pace: float) -> None:
        if not 0 <= joins < 0.5 or not 0 <= pace <= 1:
            raise KanaryError(f"joins={joins} must lie between 0 and 0.5, pace={pace} between 0 and 1.")
        self.joins, self.pace = joins, pace

    def moves(self, step: int, steps: int) -> bool:
        """Whether grids follow the data before this step."""
        return step in self._moves(steps)

    def listens(self, step: int, steps: int) -> bool:
        """Whether grids will move later, so that values must be counted."""
        return step < max(self._moves(steps))

    def now(self, step: int, steps: int) -> float:
        """Share of the learning rate for the functions."""
        return self.pace if self.joined(step, steps) else 0.0

    def joined(self, step: int, steps: int) -> bool:
        """Whether the functions learn by this step."""
        return step >= self._first(steps)

    def _first(self, steps: int) -> int:
        return max(1, round(self.joins * steps))

    def _moves(self, steps: int) -> set[int]:
        first = self._first(steps)
        return {first, *(again for share in AGAIN if (again := round(share * steps)) > first)}


class Reach(nn.Module):
    """How large the values of each latent are: their number, sum, sum of squares and largest, since it last forgot.

    State: ``counts``, ``sums``, ``squares``, ``largest``, each ``[d_sae]``.
    """

    counts: Tensor
    sums: Tensor
    squares: Tensor
    largest: Tensor

    def __init__(self, d_sae: int) -> None:
        super().__init__()
        for name in ("counts", "sums", "squares", "largest"):
            self.register_buffer(name, torch.zeros(d_sae))

    @torch.no_grad()
    def count(self, values: Tensor, latents: Tensor | None = None) -> None:
        """Adds what lies above zero of ``values [entries]`` of ``latents [entries]``, or of dense ``[tokens, d_sae]``."""
        values = values.to(self.sums.dtype)
        values = torch.where((values > 0) & values.isfinite(), values, 0)
        if latents is None:
            found = [(values > 0).sum(0), values.sum(0), values.square().sum(0)]
            self.largest.copy_(torch.maximum(self.largest, values.amax(0)))
        else:  # a batch by itself first: single entries would be lost in the rounding of large totals
            terms = ((values > 0).to(values.dtype), values, values.square())
            found = [torch.zeros_like(self.sums).index_add_(0, latents, term) for term in terms]
            self.largest.scatter_reduce_(0, latents, values, "amax")
        for total, term in zip((self.counts, self.sums, self.squares), found, strict=True):
            total.add_(term)

    def upper(self) -> Tensor | None:
        """``[d_sae]``, where grids from zero should end; latents with too few values get the others' median.

        None if there are no values at all.
        """
        if not self.counts.any():
            return None
        known = self.counts >= self.counts.max().clamp_max(LEAST)
        mean = self.sums / self.counts.clamp_min(1)
        deviation = (self.squares / self.counts.clamp_min(1) - mean.square()).clamp_min(0).sqrt()
        upper = torch.minimum(mean + BEYOND * deviation, self.largest)
        usual = upper[known].median()
        return torch.where(known, upper, usual).clamp_min(NARROWEST * usual)

    def forget(self) -> None:
        for buffer in self.buffers():
            buffer.zero_()


class LatentCurves(nn.Module):
    """Functions ``s_i(v)`` of ``v >= 0`` with ``s_i(0) = 0``, ``outputs`` of them for every latent, on the latent's own grid.

    Knots lie evenly on ``[0, upper_i]``; beyond, functions go on as straight lines. G = ``knots`` numbers describe a
    function, the first of which is 0 and not stored.

    State: ``coefficients [d_sae, outputs, G - 1]``, the grids, and the reach of the values.
    """

    def __init__(self, d_sae: int, options: CurveOptions, outputs: int = 1, learned: bool = True) -> None:
        super().__init__()
        if options.basis not in SPLINES:
            raise KanaryError(
                f"basis={options.basis!r} is not for a latent's function, which is 0 at 0: choose hat or bspline."
            )
        if options.knots < SPLINES[options.basis]:
            raise KanaryError(
                f"knots={options.knots} are too few for basis={options.basis}: give {SPLINES[options.basis]} or more."
            )
        self.basis: Basis = make_basis(options.basis, options.knots, d_sae)
        self.basis.set_range(0.0, 1.0)
        self.schedule = Schedule(options.joins, options.pace)
        self.reach = Reach(d_sae)
        self.listening = self._idle = False
        if learned:  # else the caller has coefficients of its own
            self.coefficients = nn.Parameter(torch.zeros(d_sae, outputs, options.knots - 1))

    def forward(self, values: Tensor, latents: Tensor, output: int = 0, order: int = 0) -> Tensor:
        """``s_i(v)``, or its slope (order 1), of each of ``values [entries]`` of ``latents [entries]``: ``[entries]``."""
        return self.basis.gather(values, latents, self.full(self.coefficients[:, output]), order)

    def at(self, codes: Tensor, pattern: Pattern | None, coefficients: Tensor) -> Tensor:
        """Functions of ``coefficients [d_sae, G - 1]`` at every code, in the shape of the codes.

        ``codes``: ``[nnz]`` at ``pattern``, or dense ``[tokens, d_sae]`` without one, of which only those that are not 0
        are evaluated.
        """
        numbers = self.full(coefficients)
        if pattern is not None:
            return self.basis.gather(codes, pattern.latents, numbers)
        rows, latents = codes.detach().nonzero(as_tuple=True)
        bent = self.basis.gather(codes[rows, latents], latents, numbers)
        # where a code is 0 its function is too, but not its slope, by which a threshold learns
        slopes = self.basis.gather(*self._origins(), numbers.detach(), order=1)
        return (codes * slopes).index_put((rows, latents), bent)

    def terms(self, values: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
        """What a caller with coefficients of its own multiplies at ``values [entries]`` of ``latents [entries]``.

        Returns (``[entries, K]`` int64, which of the G - 1; ``[entries, K]``, the basis functions); K = 2 for hats, 4 for
        cubic splines, the one that is not stored among them as another one's 0.
        """
        return self._stored(*self.basis.terms(values, latents))

    def slopes_at_zero(self) -> tuple[Tensor, Tensor]:
        """The derivatives of :meth:`terms` at the code 0 of every latent: ``[d_sae, K]`` each."""
        return self._stored(*self.basis.terms(*self._origins(), order=1))

    def line(self) -> Tensor:
        """``[d_sae, G - 1]``: the coefficients of ``s(v) = v``."""
        return self.basis.grid[:, 1:] * fit(_unit(self.basis), lambda v: v)[:, 1:]

    @staticmethod
    def full(coefficients: Tensor) -> Tensor:
        """``[..., G - 1]`` with the zero in front that is not stored: ``[..., G]``."""
        return nn.functional.pad(coefficients, (1, 0))

    @property
    def idle(self) -> bool:
        """Whether, in training, all functions are 0 and do not learn yet: nobody needs them."""
        return self.training and self._idle

    @property
    def fused(self) -> bool:
        """Whether decoders leave these functions to kernels that evaluate them themselves: hats, on a GPU."""
        return self.basis.name == "hat" and on_triton(self.basis.grid)

    def before_step(self, step: int, steps: int, coefficients: Tensor | None = None) -> None:
        """Moves the grids when it is time, keeping the functions.

        ``coefficients [d_sae, outputs, G - 1]`` are changed in place; this module's own unless others are given.
        """
        mine = self.coefficients if coefficients is None else coefficients
        if self.schedule.moves(step, steps):
            self.move(mine)
        self.listening = self.schedule.listens(step, steps)
        self._idle = not self.schedule.joined(step, steps) and not bool(mine.any())

    @torch.no_grad()
    def move(self, coefficients: Tensor) -> None:
        """Puts the grids where the values were, and forgets the values.

        Functions stay as near as the new knots allow: least squares over the new grid among functions that are 0 at 0. An
        optimiser's moments stay what they were; where grids move little, so do the coefficients.
        """
        upper = self.reach.upper()
        if upper is not None:
            ratio = upper / self.basis.grid[:, 1]
            self.basis.set_range(0.0, upper)
            for rows, ratios in zip(coefficients.split(ROWS), ratio.split(ROWS), strict=True):
                if rows.any():
                    rows.copy_(rows @ _stretched(self.basis, ratios).mT)
        self.reach.forget()

    def pace(self, step: int, steps: int) -> float:
        """Share of the learning rate for the coefficients: the schedule's for grids of length 1, and as much more as grids
        are longer, because functions are of the size of the values they read."""
        return self.schedule.now(step, steps) * float(self.basis.grid[:, 1].mean())

    def count(self, values: Tensor, latents: Tensor | None = None) -> None:
        """Takes note of ``values [entries]`` of ``latents [entries]``, or of dense ``[tokens, d_sae]``, while it matters."""
        if self.listening:
            self.reach.count(values, latents)

    def _origins(self) -> tuple[Tensor, Tensor]:
        """A value of 0 for every latent, and the latents."""
        upper = self.basis.grid[:, 1]
        return torch.zeros_like(upper), torch.arange(len(upper), device=upper.device)

    @staticmethod
    def _stored(numbers: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        return (numbers - 1).clamp_min_(0), weights * (numbers > 0)


def spread(pattern: Pattern, numbers: Tensor, count: int) -> Pattern:
    """The pattern in which every entry, of latent i, becomes the K entries ``i * count + numbers [nnz or 1, K]``."""
    latents = (pattern.latents[:, None] * count + numbers).reshape(-1)
    return Pattern(latents, pattern.offsets * numbers.shape[1], pattern.d_sae * count)


def _unit(basis: Basis) -> Basis:
    """The same basis on one grid from 0 to 1."""
    unit = make_basis(basis.name, basis.size).to(basis.grid)
    unit.set_range(0.0, 1.0)
    return unit


def _stretched(basis: Basis, ratio: Tensor) -> Tensor:
    """``[m, G - 1, G - 1]``: old coefficients to new ones, for grids from 0 that become ``ratio [m]`` times as long."""
    unit = _unit(basis).double()
    sites = torch.linspace(0, 1, WITHIN * basis.size, dtype=torch.float64, device=ratio.device)
    new = unit.dense(sites, None)[:, 1:]  # [sites, G - 1]
    old = unit.dense((ratio.double()[:, None] * sites).reshape(-1), None)[:, 1:].view(len(ratio), len(sites), -1)
    found: Tensor = torch.linalg.pinv(new) @ old
    return found.to(basis.grid.dtype)
