"""The simple functions that a learned curve is compared with: y ≈ a·g(b·x + c) + d, one entry of ``SHAPES`` per g.

Inner parameters are searched in u, the curve's range of data mapped to [−1, 1], so that "steep" and "near the edge" mean
the same for every curve. The limits keep what gives a shape its name (the kink, the peak, the point of inflection, half
a period) in or next to the data: a straight piece of a curve is no evidence for a sine.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shape:
    """One function g and where its b and c are searched."""

    name: str
    kind: str
    """The line of the census that it counts in."""
    text: str
    """How a formula writes a·g(z), from ``{a}`` and ``{z}``; ``{a}`` ends in " * " where it is multiplied."""
    g: Callable[[Tensor], Tensor]
    complexity: int
    """Steps of the parsimony rule: 0 = straight, 1 = bent with one inner parameter, 2 = with two."""
    free: tuple[bool, bool]
    """Whether b and c are fitted; what is not makes no difference that a and d could not make, or must stay as it is."""
    b: tuple[float, float] = (1, 1)
    """Least and greatest |b|, in u."""
    c: tuple[float, float] = (0, 0)
    """Least and greatest c / |b|, in u: with b > 0, minus where b·u + c = 0."""
    bank: tuple[tuple[float, float], ...] = ((1, 0),)
    """Candidates (b, c), in u, that a fit starts from."""

    def clip(self, b: Tensor, c: Tensor, sign: Tensor) -> tuple[Tensor, Tensor]:
        """``b`` and ``c`` (any shape) brought inside the limits, ``b`` with the given sign."""
        size = (b * sign).clamp(*self.b)
        low, high = self.c
        return size * sign, c.maximum(low * size).minimum(high * size)


def _spaced(low: float, high: float, n: int) -> list[float]:
    """``n`` numbers from ``low`` to ``high``, each the same multiple of the one before."""
    return [low * (high / low) ** (i / (n - 1)) for i in range(n)]


def _even(low: float, high: float, n: int) -> list[float]:
    return [low + (high - low) * i / (n - 1) for i in range(n)]


def _at(centres: Iterable[float], signs: tuple[int, ...] = (1,)) -> tuple[tuple[float, float], ...]:
    """z = ±(u − centre)."""
    return tuple((s, -s * m) for m in centres for s in signs)


def _beyond(gaps: Iterable[float]) -> tuple[tuple[float, float], ...]:
    """z = 1 + gap ± u: positive on all the data, and as near to zero as the gap."""
    return tuple((s, 1 + gap) for gap in gaps for s in (1, -1))


def _placed(sizes: list[float], reach: float) -> tuple[tuple[float, float], ...]:
    """z = b·(u − m) with |m| ≤ reach: the steeper, the closer the places."""
    return tuple((b, -b * m) for b in sizes for m in _even(-reach, reach, 9 + 2 * math.ceil(b)))


def _waves(sizes: list[float], phases: int = 6) -> tuple[tuple[float, float], ...]:
    """z = b·u + c with phases over half a turn: a has a sign."""
    return tuple((b, math.pi * i / phases) for b in sizes for i in range(phases))


def _power(exponent: float) -> Callable[[Tensor], Tensor]:
    return lambda z: z.clamp_min(0) ** exponent  # data at the very edge may fall below zero by rounding


_MIDDLE = _even(-0.95, 0.95, 39)
_FAR = [s * m for m in (0.0, 0.25, 0.5, 0.75, 1.0, 1.3, 1.7, 2.3, 3.0, 4.0, 6.0, 9.0) for s in (1, -1)]
_SHIFT, _SCALE, _BOTH = (False, True), (True, False), (True, True)

SHAPES: tuple[Shape, ...] = (
    Shape("linear", "linear", "{a}{z}", lambda z: z, 0, (False, False)),
    Shape("square", "power-like", "{a}({z})^2", torch.square, 1, _SHIFT, c=(-10, 10), bank=_at(_FAR)),
    Shape("cube", "power-like", "{a}({z})^3", lambda z: z**3, 1, _SHIFT, c=(-10, 10), bank=_at(_FAR)),
    Shape(
        "square root", "power-like", "{a}sqrt({z})", _power(0.5), 1, _SHIFT,
        c=(1, 5), bank=_beyond([0, *_spaced(1e-3, 4, 12)]),
    ),
    Shape(
        "power 3/2", "power-like", "{a}({z})^1.5", _power(1.5), 1, _SHIFT,
        c=(1, 5), bank=_beyond([0, *_spaced(1e-2, 4, 10)]),
    ),
    Shape(
        "reciprocal", "power-like", "{a}1 / ({z})", torch.reciprocal, 1, _SHIFT,
        c=(1.001, 9), bank=_beyond(_spaced(1e-3, 8, 24)),
    ),
    Shape(
        "exponential", "power-like", "{a}exp({z})", torch.exp, 1, _SCALE,
        b=(0.1, 12), bank=tuple((s * b, 0) for b in _spaced(0.1, 12, 24) for s in (1, -1)),
    ),
    Shape(
        "logarithm", "power-like", "{a}log({z})", torch.log, 1, _SHIFT,
        c=(1.0001, 9), bank=_beyond(_spaced(1e-4, 8, 24)),
    ),
    Shape("absolute value", "thresholded", "{a}|{z}|", torch.abs, 1, _SHIFT, c=(-0.95, 0.95), bank=_at(_MIDDLE)),
    Shape("relu", "thresholded", "{a}relu({z})", torch.relu, 1, _SHIFT, c=(-0.95, 0.95), bank=_at(_MIDDLE, (1, -1))),
    # c is found by trying every place between two points, see symbolic.py
    Shape("step", "thresholded", "{a}step({z})", lambda z: (z > 0).to(z.dtype), 1, (False, False)),
    Shape(
        "tanh", "saturating", "{a}tanh({z})", torch.tanh, 2, _BOTH,
        b=(0.7, 30), c=(-1.2, 1.2), bank=_placed(_spaced(0.7, 30, 12), 1.2),
    ),
    Shape(
        "gaussian", "bump", "{a}exp(-({z})^2)", lambda z: (-z.square()).exp(), 2, _BOTH,
        b=(0.7, 15), c=(-1, 1), bank=_placed(_spaced(0.7, 15, 10), 1),
    ),
    Shape(
        "rational", "bump", "{a}1 / (1 + |{z}|)", lambda z: 1 / (1 + z.abs()), 2, _BOTH,
        b=(0.7, 30), c=(-0.95, 0.95), bank=_placed(_spaced(0.7, 30, 10), 0.95),
    ),
    Shape(
        "sine", "periodic", "{a}sin({z})", torch.sin, 2, _BOTH,
        b=(0.6 * math.pi, 4 * math.pi), c=(-math.inf, math.inf), bank=_waves(_even(0.6 * math.pi, 4 * math.pi, 21)),
    ),
)  # fmt: skip
BY_NAME = {shape.name: shape for shape in SHAPES}
# the same curves as tanh: a·tanh(z) + d = 2a·sigmoid(2z) + d − a
SIGMOID = replace(BY_NAME["tanh"], name="sigmoid", text="{a}sigmoid({z})", g=torch.sigmoid)
BY_NAME[SIGMOID.name] = SIGMOID
