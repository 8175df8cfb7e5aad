"""Where the values of some columns lie, from which functions of them take their grids."""

import torch
from torch import Tensor, nn

from kanary.splines import Basis, make_basis, refit

LEAST = 32  # rows below which they do not say where a grid should lie
BEYOND = 3.0  # standard deviations about the mean at which a grid ends, or at the extremes if they are nearer
NARROWEST = 0.1  # of the usual width: a column that hardly moves says little, and would soon be far outside
BLOCK = 2**24  # numbers held at a time while functions move to another grid


class Spread(nn.Module):
    """Mean, deviation and extremes of columns of numbers, of all rows since it last forgot.

    State: ``rows []``, and ``sums``, ``squares``, ``lowest``, ``highest``, each ``[columns]``.
    """

    rows: Tensor
    sums: Tensor
    squares: Tensor
    lowest: Tensor
    highest: Tensor

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(()))
        for name in ("sums", "squares", "lowest", "highest"):
            self.register_buffer(name, torch.zeros(columns))

    @torch.no_grad()
    def count(self, values: Tensor) -> None:
        """Adds ``values [n, columns]``, but no row with NaN or infinity."""
        values = values[values.isfinite().all(1)]
        if not len(values):
            return
        lowest, highest = values.aminmax(dim=0)
        empty = self.rows == 0
        self.lowest.copy_(torch.where(empty, lowest, torch.minimum(lowest, self.lowest)))
        self.highest.copy_(torch.where(empty, highest, torch.maximum(highest, self.highest)))
        self.sums += values.sum(0)
        self.squares += values.square().sum(0)
        self.rows += len(values)

    def range(self) -> tuple[Tensor, Tensor] | None:
        """``[columns]`` each, where grids should begin and end; None with too few rows, or if nothing ever changes."""
        if self.rows < LEAST:
            return None
        mean = self.sums / self.rows
        reach = BEYOND * (self.squares / self.rows - mean.square()).clamp_min(0).sqrt()
        low, high = torch.maximum(mean - reach, self.lowest), torch.minimum(mean + reach, self.highest)
        middle, half = (low + high) / 2, (high - low).clamp_min(0) / 2
        moving = half[half > 0]
        if not len(moving):
            return None
        half = half.clamp_min(NARROWEST * moving.median())
        return middle - half, middle + half

    def forget(self) -> None:
        for buffer in self.buffers():
            buffer.zero_()

    @torch.no_grad()
    def place(self, basis: Basis, coefficients: Tensor) -> None:
        """Puts the grids of ``basis`` where the values were, keeping functions, and forgets the values.

        ``coefficients [columns, G]``, or ``[m, columns, G]`` for m functions of every column, are changed in place.
        """
        if (ends := self.range()) is not None:
            old = make_basis(basis.name, basis.size, basis.functions).to(basis.grid)
            old.set_grid(basis.grid)
            basis.set_range(*ends)
            if coefficients.any():
                rows = coefficients.view(-1, *coefficients.shape[-2:])
                for some in rows.split(max(1, BLOCK // (rows[0].numel() * basis.size))):
                    some.copy_(refit(some, old, basis)[0])
        self.forget()


def outside(basis: Basis, values: Tensor) -> Tensor:
    """``[n, columns]`` bool: whether ``values [n, columns]`` lie outside each column's grid."""
    low, high = basis.ends(None)
    return (values < low) | (values > high)
