"""Which simple function a learned curve is: y ≈ a·g(b·x + c) + d, for thousands of sampled curves at once.

Every shape g of ``shapes.py`` is fitted to every curve (``search.py``), weighted by the density of inputs: what never
occurs is never judged. The name is chosen by parsimony. Let U be the share of variance that a shape leaves unexplained,
1 − R². The least log(U + NEGLIGIBLE) + PARSIMONY · complexity wins: every further inner parameter must remove about the
share PARSIMONY of what was left, and differences far below NEGLIGIBLE decide nothing. Shapes whose U is within the same
margin of the named one's are *equivalent*: these data cannot tell them apart.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kanary.errors import KanaryError
from kanary.splines.search import Curves, search
from kanary.splines.shapes import BY_NAME, SHAPES, SIGMOID, Shape

FEWEST = 8
"""Different x with weight that a curve needs; with fewer it is "too little data"."""
SIMPLE = 0.99
"""R² from which a curve counts as a simple form."""
PARSIMONY = 0.15
"""What one more step of complexity costs: exp(−0.15) = 0.86 of the unexplained variance must be enough for it."""
NEGLIGIBLE = 1e-4
"""Unexplained share of variance that is as good as none: errors of 1 % of the standard deviation."""
CENSUS = (
    "linear",
    "saturating",
    "thresholded",
    "bump",
    "periodic",
    "power-like",
    "other",
    "constant",
    "too little data",
)
"""The lines of a census."""

_ROWS = 1024  # curves at a time
_FLAT = 1e-6  # a span of y below so much of |y| is rounding
_NOTHING = 1e-6  # a share of the weight too small to be seen in R²
_ROUNDING = 0.01  # of the span of y, that a formula's rounded numbers may be off by
_SHIFTED = 20  # exp(20) is the most that the factor of an exponential may take up of its shift
_TWINS = ("tanh", "sigmoid")
_Values = tuple[float, float, float, float]


@dataclass(frozen=True)
class SymbolicFit:
    """The simple function that one curve was found to be."""

    name: str
    """A shape of ``shapes.py``, only the nearest one where ``r2`` is low; or "constant", or "too little data"."""
    formula: str
    """Its text in x, such as "2.1 * tanh(0.8 x - 0.3) + 0.1", rounded so that y is off by at most 1 % of its span."""
    a: float
    b: float
    c: float
    d: float
    """y ≈ a·g(b·x + c) + d; NaN where there is too little data, and a = b = c = 0 for a constant."""
    r2: float
    """Weighted share of the variance of y that is explained; NaN for a constant or too little data."""
    ranges: tuple[tuple[float, float], ...]
    """Where it holds: first and last x of every run of neighbouring points that all have weight."""
    equivalents: tuple[str, ...]
    """Other names that say these data as well, best first; none for a line, which nearly every shape can imitate."""
    runner_up: str
    """The next best shape by the same rule, equivalent or not; "" where no shape was fitted."""
    runner_up_r2: float

    def at(self, x: Tensor) -> Tensor:
        """The function at ``x`` (any shape), float64; NaN outside ``ranges``, where nothing is claimed."""
        x = x.double()
        inside = torch.zeros_like(x, dtype=torch.bool)
        for low, high in self.ranges:
            inside |= (x >= low) & (x <= high)
        g = BY_NAME[self.name].g if self.name in BY_NAME else torch.zeros_like
        return (self.a * g(self.b * x + self.c) + self.d).where(inside, torch.nan)


SymbolicFits = list[SymbolicFit]
"""One for each curve, in their order."""


def fit(x: Tensor, y: Tensor, weight: Tensor | None = None) -> SymbolicFits:
    """Names the function behind every curve.

    Args:
        x: ``[latents, points]``, the inputs at which each curve was sampled, in any order.
        y: ``[latents, points]``, its values there; not read where there is no weight.
        weight: ``[latents, points]`` ≥ 0, how much input there is at each point, in any unit; default: the same everywhere.
            A point with less than a millionth of its curve's weight has no say in R², and counts as one without.

    Raises:
        KanaryError: shapes that differ, x or y that is not finite, a weight that is negative or not finite.
    """
    weight = torch.ones_like(x) if weight is None else weight
    _check(x, y, weight)
    fits: SymbolicFits = []
    for start in range(0, len(x), _ROWS):
        fits += _fit_rows(*(t[start : start + _ROWS].detach().to("cpu", torch.float64) for t in (x, y, weight)))
    return fits


def census(fits: Sequence[SymbolicFit], *, simple: float = SIMPLE) -> dict[str, int]:
    """How many curves are of each kind, in the order of ``CENSUS``; those with R² below ``simple`` are "other".

    Thresholded are relu, step and absolute value; power-like are powers, roots, reciprocal, exponential and logarithm.
    """
    counts = dict.fromkeys(CENSUS, 0)
    for found in fits:
        if found.name not in BY_NAME:
            counts[found.name] += 1
        else:
            counts[BY_NAME[found.name].kind if found.r2 >= simple else "other"] += 1
    return counts


def _check(x: Tensor, y: Tensor, weight: Tensor) -> None:
    if x.ndim != 2 or x.shape[1] == 0 or x.shape != y.shape or x.shape != weight.shape:
        shapes = ", ".join(f"{name} {list(t.shape)}" for name, t in (("x", x), ("y", y), ("weight", weight)))
        raise KanaryError(
            f"Curves to be named must share one shape [latents, points], and a point each; these are {shapes}."
        )
    for name, values, wrong in (
        ("x", x, ~x.isfinite()),
        ("weight", weight, ~weight.isfinite() | (weight < 0)),
        ("y", y, ~y.isfinite() & (weight > 0)),
    ):
        if wrong.any():
            latent, point = wrong.nonzero()[0].tolist()
            fix = "weights are finite and not negative" if name == "weight" else "give the point a finite value"
            if name == "y":
                fix += ", or weight 0 if the function is not known there"
            value = values[latent, point].item()
            raise KanaryError(f"The curve of latent {latent} has {name} = {value:g} at point {point}: {fix}.")


def _fit_rows(x: Tensor, y: Tensor, weight: Tensor) -> SymbolicFits:
    """:func:`fit` of curves that were checked, float64."""
    x, order = x.sort(1)
    y, weight = y.gather(1, order), weight.gather(1, order)
    has = weight > _NOTHING * weight.sum(1, keepdim=True)
    y, weight = y.where(has, 0), weight.where(has, 0)
    lowest, highest = y.where(has, torch.inf).amin(1), y.where(has, -torch.inf).amax(1)
    enough = _distinct(x, has) >= FEWEST
    flat = enough & (highest - lowest <= _FLAT * y.abs().amax(1))
    curved = (enough & ~flat).nonzero().squeeze(1)
    named = iter(_fit_curved(*(t[curved] for t in (x, y, weight))) if len(curved) else [])
    fits: SymbolicFits = []
    for row in range(len(x)):
        if enough[row] and not flat[row]:
            fits.append(next(named))
        elif flat[row]:
            fits.append(_unnamed("constant", ((lowest + highest) / 2)[row].item(), _ranges(x[row], has[row])))
        else:
            fits.append(_unnamed("too little data", math.nan, _ranges(x[row], has[row])))
    return fits


def _distinct(x: Tensor, has: Tensor) -> Tensor:
    """How many different x with weight each row has: ``[curves]``."""
    known = x.where(has, torch.inf).sort(1).values
    same = (known[:, 1:] == known[:, :-1]) & known[:, 1:].isfinite()
    return has.sum(1) - same.sum(1)


def _unnamed(name: str, value: float, ranges: tuple[tuple[float, float], ...]) -> SymbolicFit:
    formula = "" if math.isnan(value) else f"{value:.3g}"
    zero = 0.0 * value  # or NaN
    return SymbolicFit(name, formula, zero, zero, zero, value, math.nan, ranges, (), "", math.nan)


def _ranges(x: Tensor, has: Tensor) -> tuple[tuple[float, float], ...]:
    """First and last of every run of points with weight, of one curve sorted by x."""
    runs: list[tuple[float, float]] = []
    before = False
    for value, here in zip(x.tolist(), has.tolist(), strict=True):
        if here:
            runs.append((runs.pop()[0] if before else value, value))
        before = here
    return tuple(runs)


def _fit_curved(x: Tensor, y: Tensor, weight: Tensor) -> SymbolicFits:
    """:func:`fit` of curves that are sorted by x, have enough data and are not constant; y is 0 where no weight is."""
    has = weight > 0
    low, high = x.where(has, torch.inf).amin(1, keepdim=True), x.where(has, -torch.inf).amax(1, keepdim=True)
    middle, half = (low + high) / 2, (high - low) / 2
    w = weight / weight.sum(1, keepdim=True)
    y_size = y.abs().amax(1, keepdim=True)  # that squares of very small or large numbers are numbers
    scaled = (y / y_size - (w * y / y_size).sum(1, keepdim=True)).where(has, 0)
    scaled = scaled / (w * scaled.square()).sum(1, keepdim=True).sqrt()
    b, c, left = search(Curves(((x - middle) / half).where(has, 0), w, scaled))
    steps = torch.tensor([[float(shape.complexity)] for shape in SHAPES], dtype=torch.float64)
    order = ((left + NEGLIGIBLE).log() + PARSIMONY * steps).argsort(dim=0, stable=True)  # [shapes, curves], best first
    margin = (left.gather(0, order[:1]) + NEGLIGIBLE) * math.exp(PARSIMONY)
    as_good = left + NEGLIGIBLE <= margin
    fits: SymbolicFits = []
    for row, (best, *others) in enumerate(order.T.tolist()):
        known = has[row]
        start = SHAPES[best], b[best, row].item(), c[best, row].item()
        shape, values = _readable(SHAPES[best], *_in_x(*start, *(t[row, known] for t in (x, y, w))))
        also = [SHAPES[i].name for i in others if as_good[i, row] and SHAPES[best].complexity]
        fits.append(
            SymbolicFit(
                shape.name,
                _formula(shape, values, x[row, known]),
                *values,
                r2=1 - left[best, row].item(),
                ranges=_ranges(x[row], known),
                equivalents=_with_twin(shape.name, also),
                runner_up=SHAPES[others[0]].name,
                runner_up_r2=1 - left[others[0], row].item(),
            )
        )
    return fits


def _with_twin(name: str, also: list[str]) -> tuple[str, ...]:
    """The equivalents ``also`` of ``name``, and tanh and sigmoid always together."""
    if name in _TWINS:
        return (*(twin for twin in _TWINS if twin != name), *also)
    return tuple(each for other in also for each in (_TWINS if other in _TWINS else (other,)))


def _in_x(shape: Shape, b: float, c: float, x: Tensor, y: Tensor, w: Tensor) -> _Values:
    """a, b, c, d of y ≈ a·g(b·x + c) + d from b and c in u, for the points with weight of one curve (``[points]``)."""
    middle, half = (x[0] + x[-1]).item() / 2, (x[-1] - x[0]).item() / 2
    if shape.name == "linear":
        c = 0.0
    elif not shape.free[0]:
        c = c * half - b * middle  # |b| stays 1: a and d take up the change of scale
    else:
        b = b / half
        c = c - b * middle
        if not shape.free[1] and abs(c) <= _SHIFTED:
            c = 0.0
    g = shape.g(b * x + c)
    mean_g, mean_y = (w * g).sum(), (w * y).sum()
    a = ((w * (g - mean_g) * (y - mean_y)).sum() / (w * (g - mean_g).square()).sum()).item()
    return a, b, c, mean_y.item() - a * mean_g.item()


def _readable(shape: Shape, a: float, b: float, c: float, d: float) -> tuple[Shape, _Values]:
    """The same function with a sine's a > 0 and |c| ≤ π, and a tanh as a sigmoid where that has the smaller offset."""
    if shape.name == "sine":
        return shape, (abs(a), b, math.remainder(c if a > 0 else c + math.pi, 2 * math.pi), d)
    if shape.name == "tanh" and min(abs(d - a), abs(d + a)) < abs(d):
        s = 1 if abs(d - a) <= abs(d + a) else -1
        return SIGMOID, (2 * s * a, 2 * s * b, 2 * s * c, d - s * a)
    return shape, (a, b, c, d)


def _formula(shape: Shape, values: _Values, x: Tensor) -> str:
    """The function as text, with as few digits as keep y, at the ``x`` with data, within ``_ROUNDING``."""

    def y(a: float, b: float, c: float, d: float) -> Tensor:
        return a * shape.g(b * x + c) + d

    a, b, c, d = values
    exact = y(a, b, c, d)
    span = (exact.max() - exact.min()).item()
    reach = abs(b) * (x.max() - x.min()).item()
    for digits in range(2, 16):
        # c and d are rounded beside what they are added to, so that they may vanish
        a, b, c, d = (_rounded(v, s, digits) for v, s in zip(values, (values[0], values[1], reach, span), strict=True))
        if bool(((y(a, b, c, d) - exact).abs() <= _ROUNDING * span).all()):
            break
    z = _term(b, " x", first=True) + _term(c) if b > 0 or c <= 0 else f"{c:.12g}" + _term(b, " x")
    factor = "" if a == 1 else "-" if a == -1 else f"{a:.12g} * "
    text = shape.text.format(a=factor, z=z) + _term(d)
    return text.replace(" * 1 /", " /").replace("(x)^", "x^").replace("/ (x)", "/ x")


def _rounded(value: float, beside: float, digits: int) -> float:
    """``value`` in units of the last of ``digits`` significant digits of ``beside``."""
    return round(value, digits - 1 - math.floor(math.log10(abs(beside)))) if beside else value


def _term(factor: float, of: str = "", *, first: bool = False) -> str:
    """Something to add to a formula: " + 0.3", " - 0.8 x", at the front "x" or "-0.8 x"; nothing where it is zero."""
    if not factor:
        return ""
    size = of.strip() if of and abs(factor) == 1 else f"{abs(factor):.12g}{of}"
    if first:
        return size if factor > 0 else "-" + size
    return f" {'+' if factor > 0 else '-'} {size}"
