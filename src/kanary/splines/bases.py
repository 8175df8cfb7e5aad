"""Five bases of one-dimensional functions, found by name."""

from math import factorial

import torch
from torch import Tensor, nn

from kanary.errors import KanaryError, nearest
from kanary.splines.basis import Basis, Spot, pick

# exp(-FAR) is below what float64 can add to 1; smaller numbers would become denormal, with which a CPU is 15 times slower
FAR = 40.0


class BSpline(Basis):
    """Splines of one degree on K knots: G = K + degree - 1 coefficients, of which degree + 1 matter at each value.

    The end knots count degree + 1 times, so that ``s(low) = c[0]`` and ``s(high) = c[-1]`` (de Boor 1978, ch. IX).
    Buffer ``table [powers, degree + 1, grids * (K - 1)]``: the polynomials of the basis on every piece, by powers of the
    local coordinate, which runs from 0 to 1 on each piece. It follows from the grid and is not saved.
    """

    degree: int
    table: Tensor

    def __init__(self, size: int, functions: int | None = None, outside: str = "linear", uniform: bool = True) -> None:
        super().__init__(size, functions, outside, uniform, size - self.degree + 1)
        self.register_buffer("table", torch.empty(0), persistent=False)
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        # evenly spaced knots give the same polynomials whatever their ends are
        knots = torch.arange(self.knots, device=self.grid.device)[None] if self.uniform else self.grid
        self.table = _polynomials(knots.double(), self.degree).to(self.grid.dtype)

    def locate(
        self, values: Tensor, functions: Tensor | None, piece: Tensor | None = None
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        if self.uniform:
            low, high = self.ends(functions)
            scale = (self.knots - 1) / (high - low)
            u = (values - low) * scale
            if piece is None:  # limited before it becomes an integer, which would overflow; afterwards because of NaN
                piece = u.clamp(0, self.knots - 2).long().clamp_(0)
            return piece, u - piece, scale
        flat = self.grid.reshape(-1)
        start = 0 if self.functions is None or functions is None else functions * self.knots
        if piece is None:
            piece = self._bisect(values, flat, start)
        at = piece + start
        left = pick(flat, at)
        scale = 1 / (pick(flat, at + 1) - left)
        return piece, (values - left) * scale, scale

    def _bisect(self, values: Tensor, flat: Tensor, start: Tensor | int) -> Tensor:
        """The last piece whose left knot is not above each value; reads log2 K knots."""
        last = self.knots - 2
        piece = torch.zeros(values.shape, dtype=torch.int64, device=values.device)
        step = 1 << last.bit_length() >> 1
        while step:
            further = (piece + step).clamp_(max=last)
            piece = torch.where(pick(flat, further + start) <= values, further, piece)
            step >>= 1
        return piece

    def family(self, u: Tensor, order: int) -> list[Tensor]:
        powers = [torch.ones_like(u), u]
        for _ in range(self.degree - 1):
            powers.append(powers[-1] * u)
        members = [torch.zeros_like(u)] * order
        for exponent in range(order, self.degree + 1):
            factor = factorial(exponent) // factorial(exponent - order)
            members.append(powers[exponent - order] * factor if factor > 1 else powers[exponent - order])
        return members[: self.degree + 1]

    def rows(self, coefficients: Tensor) -> Tensor:
        windows = coefficients.unfold(1, self.degree + 1, 1)  # [functions, K - 1, degree + 1]
        table = self.table.unflatten(2, (-1, self.knots - 1))
        pieces = torch.einsum("fik,pkfi->pfi" if len(table[0, 0]) > 1 else "fik,pkni->pfi", windows, table)
        return pieces.flatten(1)

    def row(self, spot: Spot, functions: Tensor) -> Tensor:
        assert spot.piece is not None
        return functions * (self.knots - 1) + spot.piece

    def local(self, spot: Spot, functions: Tensor | None, order: int) -> list[Tensor]:
        assert spot.piece is not None
        index = spot.piece
        if self.functions is not None and not self.uniform:
            assert functions is not None
            index = functions * (self.knots - 1) + index
        # the derivatives of the lower powers are zero
        powers = list(zip(self.weights(spot, order), self.table, strict=True))[min(order, self.degree) :]
        totals = [powers[0][0] * pick(column, index) for column in powers[0][1]]
        for weight, columns in powers[1:]:
            for total, column in zip(totals, columns, strict=True):
                total.addcmul_(weight, pick(column, index))
        return totals


def _polynomials(knots: Tensor, degree: int) -> Tensor:
    """``knots [F, K]`` -> ``[powers, degree + 1, F * (K - 1)]``, every B-spline on every piece (Taylor at its left end)."""
    pieces = knots.shape[1] - 1
    around = torch.arange(pieces, device=knots.device)[:, None] + torch.arange(1 - degree, degree + 1).to(knots.device)
    near = [knots[:, column.clamp(0, pieces)] for column in around.T]  # 2 * degree knots about each piece
    width = knots.diff(dim=1)
    powers = []
    for order in range(degree + 1):
        derivatives = _b_splines(near, knots[:, :-1], degree, order)
        powers.append(torch.stack([d * width**order / factorial(order) for d in derivatives]))
    return torch.stack(powers).flatten(2)


def _b_splines(near: list[Tensor], at: Tensor, degree: int, order: int) -> list[Tensor]:
    """Derivatives of the degree + 1 B-splines that are not zero between ``near[degree - 1]`` and ``near[degree]``.

    Raises the degree one by one (Cox, de Boor); the last ``order`` times it differentiates instead.
    """
    k, splines = degree, [torch.ones_like(at)]
    for p in range(1, k + 1):
        shares = [spline / (near[k + r] - near[k + r - p]) for r, spline in enumerate(splines)]
        zero = torch.zeros_like(at)
        below, above = [zero, *shares], [*shares, zero]
        if p > k - order:
            splines = [p * (b - a) for b, a in zip(below, above, strict=True)]
            continue
        # the first and the last term are zero, whatever their knot
        splines = [
            (at - near[max(k - 1 + r - p, 0)]) * below[r] + (near[min(k + r, 2 * k - 1)] - at) * above[r]
            for r in range(p + 1)
        ]
    return splines


class Hat(BSpline):
    """Piecewise linear: ``c[g]`` is the value at knot g. 2 coefficients per value; about 8 FLOPs."""

    name, degree, least = "hat", 1, 2


class CubicBSpline(BSpline):
    """Cubic B-splines, twice continuously differentiable inside the grid, once at its ends. 4 coefficients per value."""

    name, degree, least = "bspline", 3, 4


class WholeRange(Basis):
    """A basis whose functions all matter everywhere; its grid is a range only."""

    def __init__(self, size: int, functions: int | None = None, outside: str = "linear", uniform: bool = True) -> None:
        if not uniform:
            raise KanaryError(f"The basis {self.name!r} has a range, not knots: free knots need 'hat' or 'bspline'.")
        super().__init__(size, functions, outside)


class GaussianRBF(WholeRange):
    """``B_g(v) = exp(-((v - t_g) / h)^2)`` on G centres at distance h (Li 2024, arXiv 2405.06721), without a LayerNorm."""

    name = "rbf"

    def __init__(self, size: int, functions: int | None = None, outside: str = "linear", uniform: bool = True) -> None:
        super().__init__(size, functions, outside, uniform)
        self.last = size - 1.0

    def family(self, u: Tensor, order: int) -> list[Tensor]:
        members = []
        for centre in range(self.size):
            away = u - centre
            bell = torch.exp(-(away * away).clamp(max=FAR))
            members.append(bell if order == 0 else -2 * away * bell if order == 1 else (4 * away * away - 2) * bell)
        return members


class Chebyshev(WholeRange):
    """``B_g = T_g(u)``, g < G, on the range moved to [-1, 1]; by recurrence, whose gradients stay finite everywhere."""

    name, first, last = "chebyshev", -1.0, 1.0

    def family(self, u: Tensor, order: int) -> list[Tensor]:
        members = [torch.ones_like(u), u, *[u] * (self.size - 2)]
        for n in range(2, self.size):
            members[n] = 2 * u * members[n - 1] - members[n - 2]
        for d in range(1, order + 1):  # the recurrence, differentiated d times
            lower, members = members, [torch.zeros_like(u)] * self.size
            members[1] = torch.full_like(u, 1.0 if d == 1 else 0.0)
            for n in range(2, self.size):
                members[n] = 2 * u * members[n - 1] + 2 * d * lower[n - 1] - members[n - 2]
        return members


class Rational(Chebyshev):
    """``B_g = T_g(u) / (1 + Q(u)^2)``, ``Q(u) = q_1 u + ... + q_J u^J``: Pade functions without real poles.

    The numerators belong to each function, the learned ``denominator [J]`` to all of them, as the groups of KAT do
    (Yang & Wang 2024, arXiv 2409.10594); the square keeps the functions smooth where an absolute value would not.
    """

    name = "rational"

    def __init__(
        self, size: int, functions: int | None = None, outside: str = "linear", uniform: bool = True, degree: int = 2
    ) -> None:
        super().__init__(size, functions, outside, uniform)
        if degree < 1:
            raise KanaryError(f"A rational basis needs a denominator of degree 1 or more, got {degree}.")
        self.denominator = nn.Parameter(torch.eye(degree)[0])  # at zero the square would have no gradient

    def gather(self, values: Tensor, functions: Tensor, coefficients: Tensor, order: int = 0) -> Tensor:
        self._ready(functions, order)
        inside, beyond = self._limit(values, functions)
        numerator, slope = (super(Rational, self).gather(inside, functions, coefficients, d) for d in (0, 1))
        return self._divide(numerator, slope, *self._denominator(inside, functions), beyond, order)

    def _evaluate(self, values: Tensor, functions: Tensor | None, order: int, everything: bool) -> Tensor:
        inside, beyond = self._limit(values, functions)
        numerator, slope = (super(Rational, self)._evaluate(inside, functions, d, everything) for d in (0, 1))
        below, d_below = self._denominator(inside, functions)
        return self._divide(numerator, slope, below[..., None], d_below[..., None], beyond[..., None], order)

    def _limit(self, values: Tensor, functions: Tensor | None) -> tuple[Tensor, Tensor]:
        values = values.to(self.grid.dtype)
        inside = torch.minimum(torch.maximum(values, self.ends(functions)[0]), self.ends(functions)[1])
        return inside, values - inside

    def _denominator(self, inside: Tensor, functions: Tensor | None) -> tuple[Tensor, Tensor]:
        """(1 + Q^2, its derivative with respect to the value)."""
        _, u, scale = self.locate(inside, functions)
        q, slope = torch.zeros_like(u), torch.zeros_like(u)
        for weight in self.denominator.flip(0):  # Horner; Q has no constant, so it ends with one more factor u
            slope = slope * u + q
            q = q * u + weight
        q, slope = q * u, slope * u + q
        return 1 + q * q, 2 * q * slope * scale

    def _divide(
        self, above: Tensor, d_above: Tensor, below: Tensor, d_below: Tensor, beyond: Tensor, order: int
    ) -> Tensor:
        quotient = above / below
        slope = (d_above - quotient * d_below) / below
        if self.outside == "constant":
            return quotient if order == 0 else slope * (beyond == 0)
        return quotient + slope * beyond if order == 0 else slope


BASES: dict[str, type[BSpline | WholeRange]] = {
    basis.name: basis for basis in (CubicBSpline, Hat, GaussianRBF, Chebyshev, Rational)
}


def make_basis(
    name: str, size: int, functions: int | None = None, outside: str = "linear", uniform: bool = True
) -> Basis:
    """The basis ``name`` with ``size`` coefficients per function; see :class:`~kanary.splines.basis.Basis`."""
    if name not in BASES:
        raise KanaryError(f"Unknown basis {name!r}. {nearest(name, BASES)}")
    return BASES[name](size, functions, outside, uniform)
