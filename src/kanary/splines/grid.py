"""Grids that follow the data, and moving a function from one grid to another without changing it."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kanary.errors import KanaryError
from kanary.splines.basis import Basis

TAIL = 0.005  # share of the values that a new grid leaves outside at each end
EVEN = 0.1  # free knots: share of even spacing, so that tied percentiles still make different knots
LEAST = 32  # values below which percentiles say too little
WITHIN = 4  # sites per piece at which functions are compared
ROWS = 1024  # functions treated at a time


@dataclass(frozen=True)
class GridUpdate:
    """What an update of a grid did.

    Attributes:
        change: ``[functions]``, root mean square of (new - old) over that of the old function, over the old and the new
            range together; 0 where the old function was zero and stays so.
        moved: ``[grids]``, whether a grid moved; one keeps its place where its values are too few or all equal.
        outside_before, outside_after: share of the values given that lie outside the grid.
    """

    change: Tensor
    moved: Tensor
    outside_before: float
    outside_after: float


@torch.no_grad()
def percentiles(values: Tensor, functions: Tensor, count: int, shares: Tensor) -> Tensor:
    """The quantiles ``shares [K]`` of the values of each function, between neighbours by straight lines.

    Args:
        values: ``[entries]``; NaN and infinity are refused.
        functions: ``[entries]`` int64 below ``count``.

    Returns ``[count, K]``; NaN for a function without values.
    """
    bad = ~values.isfinite()
    if bad.any():
        at = int(bad.int().argmax())
        raise KanaryError(
            f"Value {at} of {len(values)} is {float(values[at])} (function {int(functions[at])}): a grid cannot be made "
            "of values that are not finite. Leave them out, or find out where they come from."
        )
    if len(functions) and not 0 <= int(functions.min()) <= int(functions.max()) < count:
        raise KanaryError(
            f"Functions are numbered 0 to {count - 1}, not {int(functions.min())} to {int(functions.max())}."
        )
    order = values.argsort()
    order = order[functions[order].argsort(stable=True)]
    counts = torch.bincount(functions, minlength=count)
    place = shares.to(values.device).double() * (counts[:, None] - 1)
    below = place.floor().long().clamp_(0)
    start = (counts.cumsum(0) - counts)[:, None]
    ordered = torch.cat([values[order], values.new_zeros(1)])  # one more, for functions without values at the end
    left = ordered[start + below]
    right = ordered[start + torch.minimum(below + 1, (counts[:, None] - 1).clamp(0))]
    found = left + (right - left) * (place - below).to(values)
    return found.masked_fill(counts[:, None] == 0, torch.nan)


@torch.no_grad()
def grid_of(
    basis: Basis, values: Tensor, functions: Tensor | None = None, low: float | None = None, tail: float = TAIL
) -> tuple[Tensor, Tensor]:
    """The grid on which values lie, all but a share ``tail`` at each end.

    ``values [entries]`` belong to ``functions [entries]``; or ``values [n, m]``, column i to function i; or any
    ``values [...]`` where one grid is shared.

    Free knots lie at equally distant percentiles, mixed with a little even spacing. ``low`` fixes the lower end, such as 0
    for codes. A grid with fewer than ``LEAST`` values, or whose values are as good as equal, stays as it is.

    Returns (grid, ``[grids]`` whether it moved).
    """
    if not 0 <= tail < 0.5:
        raise KanaryError(f"tail={tail}: the share left outside at each end must be at least 0 and below 0.5.")
    count = len(basis.grid)
    values, functions = _listed(basis, values, functions)
    shares = torch.linspace(tail, 1 - tail, basis.grid.shape[1], dtype=torch.float64, device=values.device)
    grid = percentiles(values, functions, count, shares).to(basis.grid)
    if low is not None:
        grid = grid.clamp(min=low)
        grid[:, 0] = low
    ends = grid[:, :1], grid[:, -1:]
    grid = (1 - EVEN) * grid + EVEN * (ends[0] + (ends[1] - ends[0]) * torch.linspace(0, 1, grid.shape[1]).to(grid))
    grid[:, 0], grid[:, -1] = ends[0][:, 0], ends[1][:, 0]
    resolution = 64 * torch.finfo(grid.dtype).eps * grid.abs().amax(1)
    enough = torch.bincount(functions, minlength=count) >= LEAST
    moved = enough & (grid.diff(dim=1) > resolution[:, None]).all(1)
    return torch.where(moved[:, None], grid, basis.grid), moved


@torch.no_grad()
def update_grid(
    basis: Basis,
    coefficients: Tensor,
    values: Tensor,
    functions: Tensor | None = None,
    low: float | None = None,
    tail: float = TAIL,
) -> GridUpdate:
    """Moves the grid of ``basis`` to where ``values`` lie and changes ``coefficients`` in place to keep the functions.

    Args:
        coefficients: ``[..., functions, G]``; leading dimensions are functions on the same grid (a layer's outputs).
        values, functions, low, tail: as for :func:`grid_of`.

    An optimiser's moments of the coefficients belong to the old grid: reset them.
    """
    values = values.detach()
    before = basis.share_outside(values, functions)
    old = copy.deepcopy(basis)
    grid, moved = grid_of(basis, values, functions, low, tail)
    if not moved.any():
        return GridUpdate(coefficients.new_zeros(coefficients.shape[-2]), moved, before, before)
    basis.set_grid(grid)
    kept, change = refit(coefficients, old, basis)
    stays = ~moved.to(coefficients.device)[:, None]  # those are left exactly as they were
    coefficients.copy_(torch.where(stays, coefficients, kept))
    change = torch.where(stays[:, 0], 0, change)
    return GridUpdate(change, moved, before, basis.share_outside(values, functions))


@torch.no_grad()
def refit(coefficients: Tensor, old: Basis, new: Basis) -> tuple[Tensor, Tensor]:
    """The same functions on another grid or basis: ``coefficients [..., functions, G_old]``.

    Exact wherever the new basis contains the old functions (finer splines with all of the old knots, Chebyshev of higher
    degree on the same range), otherwise least squares over the new range.

    Returns (``[..., functions, G_new]``, ``[functions]``): the coefficients, and the relative change of each function, as
    in :class:`GridUpdate`, all leading dimensions together.
    """
    if len({len(old.grid), len(new.grid), 1}) > 2 or coefficients.shape[-1] != old.size:
        raise KanaryError(
            f"Cannot move coefficients {list(coefficients.shape)} from {len(old.grid)} grids of {old.size} "
            f"coefficients to {len(new.grid)} of {new.size}."
        )
    exact_old, exact_new = copy.deepcopy(old).double(), copy.deepcopy(new).double()
    grids = max(len(old.grid), len(new.grid))
    maps, errors, sizes = [], [], []
    for start in range(0, grids, ROWS):
        rows = torch.arange(start, min(start + ROWS, grids), device=old.grid.device)
        sites = _sites(exact_new, rows, exact_old)
        there, here = _design(exact_new, sites, rows), _design(exact_old, sites, rows)
        maps.append(_solve(there, here))
        points = _points(exact_old, exact_new, rows)
        was = _design(exact_old, points, rows)
        now = _design(exact_new, points, rows) @ maps[-1]
        errors.append((now - was).mT @ (now - was))
        sizes.append(was.mT @ was)
    move, error, size = (torch.cat(parts).to(coefficients.dtype) for parts in (maps, errors, sizes))
    moved = (move @ coefficients[..., None]).squeeze(-1)
    return moved, _ratio(coefficients, error, size)


def _ratio(coefficients: Tensor, error: Tensor, size: Tensor) -> Tensor:
    """Root of the quadratic form ``error`` over that of ``size`` (``[grids, G, G]``), summed over leading dimensions."""
    wrong, right = (((form @ coefficients[..., None]).squeeze(-1) * coefficients).sum(-1) for form in (error, size))
    wrong, right = (part.reshape(-1, part.shape[-1]).double().sum(0).clamp(min=0) for part in (wrong, right))
    return torch.where(right > 0, (wrong / right).sqrt(), wrong.sqrt()).to(coefficients.dtype)


@torch.no_grad()
def fit(basis: Basis, function: Callable[[Tensor], Tensor]) -> Tensor:
    """The coefficients ``[functions or 1, G]`` of a known function, such as ``torch.relu``: least squares on the grid."""
    exact = copy.deepcopy(basis).double()
    rows = torch.arange(len(basis.grid), device=basis.grid.device)
    sites = _sites(exact, rows)
    return _solve(_design(exact, sites, rows), function(sites)[..., None]).squeeze(-1).to(basis.grid)


def _listed(basis: Basis, values: Tensor, functions: Tensor | None) -> tuple[Tensor, Tensor]:
    if basis.functions is None:
        return values.reshape(-1), torch.zeros(values.numel(), dtype=torch.int64, device=values.device)
    if functions is None and values.ndim == 2 and values.shape[1] == basis.functions:
        functions = torch.arange(basis.functions, device=values.device).expand(values.shape)
    if functions is None or functions.shape != values.shape:
        raise KanaryError(f"This basis has {basis.functions} grids: say for every value which function it belongs to.")
    return values.reshape(-1), functions.reshape(-1)


def _of(grids: Tensor, rows: Tensor) -> Tensor:
    """``grids [functions or 1, B]`` of the functions ``rows``."""
    return grids[rows] if len(grids) > 1 else grids.expand(len(rows), -1)


def _sites(basis: Basis, rows: Tensor, other: Basis | None = None) -> Tensor:
    """``[rows, S]``: knots and points between them, and the knots of ``other`` as far as they lie within the range."""
    breaks = _of(basis.breaks(), rows)
    steps = torch.arange(WITHIN, device=breaks.device) / WITHIN
    within = breaks[:, :-1, None] + breaks.diff(dim=1)[..., None] * steps
    sites = torch.cat([within.flatten(1), breaks[:, -1:]], 1)
    if other is None:
        return sites
    knots = _of(other.breaks(), rows)
    return torch.cat([sites, torch.minimum(torch.maximum(knots, breaks[:, :1]), breaks[:, -1:])], 1)


def _points(old: Basis, new: Basis, rows: Tensor) -> Tensor:
    """``[rows, S]``: evenly spaced over both ranges together."""
    ends = torch.cat([_of(basis.grid, rows) for basis in (old, new)], 1)
    low, high = ends.amin(1, keepdim=True), ends.amax(1, keepdim=True)
    count = 4 * WITHIN * max(old.size, new.size)
    return low + (high - low) * (torch.arange(count, dtype=low.dtype, device=low.device) + 0.5) / count


def _design(basis: Basis, sites: Tensor, rows: Tensor) -> Tensor:
    """All basis functions at ``sites [rows, S]`` -> ``[rows, S, G]``."""
    functions = None if basis.functions is None else rows[:, None].expand(sites.shape).reshape(-1)
    return basis.dense(sites.reshape(-1), functions).detach().reshape(*sites.shape, basis.size)


def _solve(design: Tensor, target: Tensor) -> Tensor:
    """Least squares: ``design [F, S, G]``, ``target [F, S, T]`` -> ``[F, G, T]``."""
    q, r = torch.linalg.qr(design)
    solution: Tensor = torch.linalg.solve_triangular(r, q.mT @ target, upper=True)
    return solution
