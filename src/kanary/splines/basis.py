"""What every basis of one-dimensional functions has in common: its grid, its two ways of evaluation, its outside rule.

A function is ``s(v) = sum_g c_g B_g(v)`` with ``size`` coefficients. It is evaluated in a local coordinate u of the
grid (per piece for splines), as ``sum_p family_p(u) rows_p``: for a cubic spline the four rows are the polynomial of
the piece, so that an entry reads four numbers however fine the grid is; for the other bases they are the coefficients.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from kanary.errors import KanaryError, nearest

OUTSIDE = ("linear", "constant")
# entries treated at a time: on a CPU their temporaries stay in the cache, on a GPU few launches are worth more
TILE, GPU_TILE = 2**16, 2**22


@dataclass(frozen=True)
class Spot:
    """Where values lie on their grid.

    Attributes:
        piece: int64, which piece of the function, or None where it has one piece only.
        at: the local coordinate, kept within the grid.
        beyond: by how much the local coordinate lies outside the grid; 0 inside.
        scale: du/dv, broadcastable to ``at``.
    """

    piece: Tensor | None
    at: Tensor
    beyond: Tensor
    scale: Tensor


class Basis(nn.Module):
    """One basis on one grid that all functions share, or on a grid per function. Computes in the grid's precision.

    Outside the grid a function goes on as the straight line with its value and slope at the end (``"linear"``), or keeps
    its value at the end (``"constant"``); it never falls silent. NaN gives NaN for its own entry.

    Args:
        size: G, coefficients per function.
        functions: how many functions have a grid of their own; None: one grid for all.
        outside: ``"linear"`` or ``"constant"``.
        uniform: knots are evenly spaced between two ends; only splines may have free knots.

    State: ``grid [functions or 1, 2]`` (the ends), or ``[functions or 1, knots]`` with free knots. From -1 to 1 at first.
    """

    name: ClassVar[str]
    least: ClassVar[int] = 2  # coefficients
    first: float = 0.0  # the local coordinate runs from here
    last: float = 1.0  # to here
    grid: Tensor

    def __init__(
        self,
        size: int,
        functions: int | None = None,
        outside: str = "linear",
        uniform: bool = True,
        knots: int | None = None,
    ) -> None:
        super().__init__()
        if size < self.least:
            raise KanaryError(
                f"A grid of {size} is too small for the basis {self.name!r}: give it {self.least} or more coefficients."
            )
        if functions is not None and functions < 1:
            raise KanaryError(f"A basis for {functions} functions: give 1 or more, or None for one grid shared by all.")
        if outside not in OUTSIDE:
            raise KanaryError(
                f"outside={outside!r} is no rule for values outside the grid. {nearest(outside, OUTSIDE)}"
            )
        self.size, self.functions, self.outside, self.uniform = size, functions, outside, uniform
        self.knots = knots or size
        self.active = size if knots is None else size - knots + 2  # basis functions that matter at one value
        ends = torch.linspace(-1, 1, 2 if uniform else self.knots)
        self.register_buffer("grid", ends.repeat(functions or 1, 1))

    # --- what a basis is ---

    def locate(
        self, values: Tensor, functions: Tensor | None, piece: Tensor | None = None
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """``values [...]`` -> (piece or None, local coordinate, its derivative du/dv); ``piece`` where it is known."""
        low, high = self.ends(functions)
        scale = (self.last - self.first) / (high - low)
        return None, (values - low) * scale + self.first, scale

    def family(self, u: Tensor, order: int) -> list[Tensor]:
        """The derivatives of the given ``order`` (0 to 2) at ``u [...]``, one ``[...]`` per member of the family."""
        raise NotImplementedError

    def rows(self, coefficients: Tensor) -> Tensor:
        """``coefficients [functions, G]`` -> ``[members of the family, functions * pieces]``, differentiable."""
        return coefficients.T

    def row(self, spot: Spot, functions: Tensor) -> Tensor:
        """Which column of ``rows`` each entry reads."""
        return functions

    def local(self, spot: Spot, functions: Tensor | None, order: int) -> list[Tensor]:
        """The basis functions that are not zero at ``spot``, one ``[...]`` each."""
        return self.weights(spot, order)

    def refresh(self) -> None:
        """Recomputes what follows from the grid; called whenever it changes."""

    # --- the grid ---

    def ends(self, functions: Tensor | None) -> tuple[Tensor, Tensor]:
        """Both ends of the grid, of each of ``functions [...]``, or ``[1]`` where one grid is shared."""
        low, high = self.grid[:, 0], self.grid[:, -1]
        if self.functions is None or functions is None:
            return low, high
        return pick(low, functions), pick(high, functions)

    def breaks(self) -> Tensor:
        """``[functions or 1, B]``: the knots of a spline; G evenly spaced points for the other bases."""
        if not self.uniform:
            return self.grid
        steps = torch.linspace(0, 1, self.knots, dtype=self.grid.dtype, device=self.grid.device)
        return self.grid[:, :1] + (self.grid[:, -1:] - self.grid[:, :1]) * steps

    @torch.no_grad()
    def set_grid(self, grid: Tensor) -> None:
        """Takes ``grid [functions or 1, 2 or knots]``, whose rows must increase; keeps no function: see ``update_grid``."""
        if grid.shape != self.grid.shape:
            raise KanaryError(f"A grid of shape {list(grid.shape)} for a basis that needs {list(self.grid.shape)}.")
        grid = grid.to(self.grid)
        good = grid.isfinite().all(1) & (grid.diff(dim=1) > 0).all(1)
        if not good.all():
            row = int(good.int().argmin())
            raise KanaryError(f"Grid {row}: its knots {grid[row].tolist()} must be finite and increase strictly.")
        self.grid.copy_(grid)
        self.refresh()

    def set_range(self, low: Tensor | float, high: Tensor | float) -> None:
        """Evenly spaced knots from ``low`` to ``high``, numbers or ``[functions]``."""
        low, high = (torch.as_tensor(end).to(self.grid).reshape(-1, 1) for end in (low, high))
        steps = torch.linspace(0, 1, self.grid.shape[1], dtype=self.grid.dtype, device=self.grid.device)
        self.set_grid((low + (high - low) * steps).expand(len(self.grid), -1))

    @torch.no_grad()
    def share_outside(self, values: Tensor, functions: Tensor | None = None) -> float:
        """Share of ``values [...]`` (of ``functions [...]``) that lie outside their grid; NaN lies outside."""
        low, high = self.ends(functions)
        inside = (values >= low) & (values <= high)
        return 1 - float(inside.double().mean()) if values.numel() else 0.0

    # --- evaluation ---

    def spot(self, values: Tensor, functions: Tensor | None, piece: Tensor | None = None) -> Spot:
        piece, u, scale = self.locate(values.to(self.grid.dtype), functions, piece)
        at = u.clamp(self.first, self.last)
        return Spot(piece, at, u - at, scale)

    def weights(self, spot: Spot, order: int) -> list[Tensor]:
        """The family's derivatives with respect to the value, the outside rule applied; one ``[...]`` per member."""
        members = self.family(spot.at, order)
        if order == 0:
            if self.outside == "constant":
                return members
            slopes = self.family(spot.at, 1)
            return [torch.addcmul(m, spot.beyond, slope) for m, slope in zip(members, slopes, strict=True)]
        factor = spot.scale**order
        if order > 1 or self.outside == "constant":
            factor = factor * (spot.beyond == 0)
        return [member * factor for member in members]

    def gather(self, values: Tensor, functions: Tensor, coefficients: Tensor, order: int = 0) -> Tensor:
        """Each value through its own function: reads at most 4 numbers per entry for splines, G for the others.

        Args:
            values: ``[entries]``.
            functions: ``[entries]`` int64, which function each value belongs to; may repeat in any order.
            coefficients: ``[functions, G]``.
            order: 0 for the values, 1 for the derivative with respect to ``values``.

        Returns ``[entries]``, differentiable (once) in ``values`` and ``coefficients``.
        """
        if values.ndim != 1 or values.shape != functions.shape:
            raise KanaryError(
                f"values {list(values.shape)} and functions {list(functions.shape)} must be two lists of equal length."
            )
        self._ready(functions, order)
        self._check(coefficients)
        rows = self.rows(coefficients.to(self.grid.dtype)).contiguous()
        gathered: Tensor = _Gather.apply(self, order, values, functions, rows)
        return gathered

    def terms(self, values: Tensor, functions: Tensor | None, order: int = 0) -> tuple[Tensor, Tensor]:
        """The basis functions that are not zero at each value: what a caller with coefficients of its own multiplies.

        Args:
            values: ``[entries]``, differentiable (once).
            functions: ``[entries]`` int64, or None where one grid is shared.
            order: 0 for the values, 1 for the derivative.

        Returns:
            (``[entries, K]`` int64, which of the G; ``[entries, K]``, their values); K = 2 for hats, 4 for cubic
            splines, G for the other bases.
        """
        self._ready(functions, order)
        with torch.no_grad():
            piece = self.spot(values, functions).piece
        weights = self._evaluate(values, functions, order, False)
        numbers = torch.arange(weights.shape[1], device=values.device)
        return numbers.expand(weights.shape) if piece is None else piece[:, None] + numbers, weights

    def dense(self, values: Tensor, functions: Tensor | None, order: int = 0) -> Tensor:
        """All basis functions at ``values [entries]`` (of ``functions [entries]``) -> ``[entries, G]``.

        Or at ``values [n, m]``, column i of function ``functions[i]`` of ``[m]`` -> ``[n, m, G]``.
        """
        self._ready(functions, order)
        return self._evaluate(values, functions, order, True)

    def _evaluate(self, values: Tensor, functions: Tensor | None, order: int, everything: bool) -> Tensor:
        evaluated: Tensor = _Evaluate.apply(self, order, values, functions, everything)
        return evaluated

    def expand(self, x: Tensor, order: int = 0) -> Tensor:
        """``x [n, m]`` -> ``[n, m * G]``, all basis functions of every coordinate; column i has grid i, or the shared one.

        As large as it says: the caller passes a tile of rows and multiplies the result with its weights.
        """
        if x.ndim != 2 or (self.functions is not None and x.shape[1] != self.functions):
            columns = "m" if self.functions is None else self.functions
            raise KanaryError(f"x has shape {list(x.shape)}, but this basis expands [n, {columns}].")
        # one number per column, not per entry: a grid is then looked up once for all rows
        functions = None if self.functions is None else torch.arange(self.functions, device=x.device)
        return self.dense(x, functions, order).flatten(1)

    def _ready(self, functions: Tensor | None, order: int) -> None:
        if order not in (0, 1):
            raise KanaryError(f"order={order}: 0 for the values or 1 for the derivative.")
        if self.functions is not None and functions is None:
            raise KanaryError(f"This basis has {self.functions} grids: say which function each value belongs to.")

    def _check(self, coefficients: Tensor) -> None:
        wanted = [self.functions or "functions", self.size]
        if coefficients.ndim != 2 or coefficients.shape[1] != self.size or len(coefficients) == 0:
            raise KanaryError(f"Coefficients have shape {list(coefficients.shape)}, this basis needs {wanted}.")
        if self.functions is not None and len(coefficients) != self.functions:
            raise KanaryError(
                f"Coefficients of {len(coefficients)} functions, but the basis has {self.functions} grids."
            )

    def _apply(self, *args: object, **options: object) -> "Basis":
        super()._apply(*args, **options)
        self.refresh()  # what follows from the grid is as exact as its new precision allows
        return self

    def _load_from_state_dict(self, *args: object) -> None:
        super()._load_from_state_dict(*args)
        self.refresh()


def pick(numbers: Tensor, at: Tensor) -> Tensor:
    """``numbers [n]`` at ``at [...]``: ``numbers[at]``, several times as fast on a CPU."""
    return numbers.index_select(0, at.reshape(-1)).view(at.shape)


def _tiles(values: Tensor) -> Iterator[slice]:
    size = max(1, (GPU_TILE if values.is_cuda else TILE) // max(1, values[:1].numel()))
    return (slice(start, start + size) for start in range(0, len(values), size))


def _dot(weights: list[Tensor], numbers: list[Tensor]) -> Tensor:
    total = weights[0] * numbers[0]
    for weight, number in zip(weights[1:], numbers[1:], strict=True):
        total.addcmul_(weight, number)
    return total


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, basis: Basis, order: int, values: Tensor, functions: Tensor, rows: Tensor) -> Tensor:
        needs_values = ctx.needs_input_grad[2]  # type: ignore[attr-defined]
        out = rows.new_empty(len(values))
        slopes = rows.new_empty(len(values) if needs_values else 0)
        pieces = functions.new_empty(len(values) if basis.active < basis.size else 0, dtype=torch.int16)
        for part in _tiles(values):
            spot = basis.spot(values[part], functions[part])
            if len(pieces) and spot.piece is not None:
                pieces[part] = spot.piece
            index = basis.row(spot, functions[part])
            numbers = [row.index_select(0, index) for row in rows]
            out[part] = _dot(basis.weights(spot, order), numbers)
            if needs_values:
                slopes[part] = _dot(basis.weights(spot, order + 1), numbers)
        ctx.save_for_backward(values, functions, slopes, pieces)
        ctx.basis, ctx.order, ctx.shape = basis, order, rows.shape  # type: ignore[attr-defined]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        values, functions, slopes, pieces = ctx.saved_tensors  # type: ignore[attr-defined]
        needs_values, _, needs_rows = ctx.needs_input_grad[2:]  # type: ignore[attr-defined]
        basis: Basis = ctx.basis  # type: ignore[attr-defined]
        d_values = (grad * slopes).to(values.dtype) if needs_values else None
        if not needs_rows:
            return None, None, d_values, None, None
        d_rows = grad.new_zeros(ctx.shape)  # type: ignore[attr-defined]
        for part in _tiles(values):
            spot = basis.spot(values[part], functions[part], pieces[part].long() if len(pieces) else None)
            index = basis.row(spot, functions[part])
            for d_row, weight in zip(d_rows, basis.weights(spot, ctx.order), strict=True):  # type: ignore[attr-defined]
                d_row.scatter_add_(0, index, weight * grad[part])  # adds up where functions repeat
        return None, None, d_values, None, d_rows


class _Evaluate(torch.autograd.Function):
    """``[entries, K]``, the basis functions that are not zero, or (``everything``) ``[entries, G]``."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, basis: Basis, order: int, values: Tensor, functions: Tensor | None, everything: bool
    ) -> Tensor:
        ctx.save_for_backward(values, functions)  # type: ignore[arg-type]  # None is fine
        ctx.basis, ctx.order, ctx.everything = basis, order, everything  # type: ignore[attr-defined]
        out = basis.grid.new_zeros(*values.shape, basis.size if everything else basis.active)
        for part in _tiles(values):
            known, tile = _of_tile(functions, values, part), out[part]
            spot = basis.spot(values[part], known)
            start = _start(spot, tile) if everything else None
            for number, weight in enumerate(basis.local(spot, known, order)):
                if start is None:
                    tile[..., number] = weight
                else:
                    tile.view(-1)[number:].scatter_(0, start, weight.reshape(-1))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.needs_input_grad[2]:  # type: ignore[attr-defined]
            return None, None, None, None, None
        values, functions = ctx.saved_tensors  # type: ignore[attr-defined]
        basis: Basis = ctx.basis  # type: ignore[attr-defined]
        d_values = torch.empty_like(values)
        for part in _tiles(values):
            known, tile = _of_tile(functions, values, part), grad[part].contiguous()
            spot = basis.spot(values[part], known)
            start = _start(spot, tile) if ctx.everything else None  # type: ignore[attr-defined]
            slopes = basis.local(spot, known, ctx.order + 1)  # type: ignore[attr-defined]
            flat = tile.view(-1)
            if start is None:
                d_values[part] = _dot(slopes, list(tile.unbind(-1)))
            else:
                numbers = [flat[number:].index_select(0, start) for number in range(basis.active)]
                d_values[part] = _dot([slope.reshape(-1) for slope in slopes], numbers).view(tile.shape[:-1])
        return None, None, d_values, None, None


def _of_tile(functions: Tensor | None, values: Tensor, part: slice) -> Tensor | None:
    """Which functions the rows ``part`` of ``values`` belong to, where those of all rows may be the same."""
    return functions[part] if functions is not None and functions.ndim == values.ndim else functions


def _start(spot: Spot, tile: Tensor) -> Tensor | None:
    """Where in the flattened ``tile [..., G]`` the first basis function of every entry lies; None: at the front."""
    if spot.piece is None:
        return None
    piece = spot.piece.reshape(-1)
    return torch.arange(0, len(piece) * tile.shape[-1], tile.shape[-1], device=tile.device).add_(piece)
