"""Scales of plots: from values to coordinates, with round ticks; and numbers as people write them."""

import math
from collections.abc import Iterable
from typing import NamedTuple

LARGEST, SMALLEST = 1e100, 1e-100  # what is beyond has no place on an axis: differences and ratios must stay floats


class Scale(NamedTuple):
    """From values to coordinates; ``low`` and ``high`` are log10 of the values on a logarithmic axis."""

    low: float
    high: float
    log: bool
    start: float
    end: float

    @classmethod
    def of(
        cls,
        values: Iterable[float],
        span: tuple[float, float],
        *,
        log: bool = False,
        low: float | None = None,
        high: float | None = None,
        padding: float = 0.04,
    ) -> "Scale":
        """A scale over the usable ``values`` that reaches at least to ``low`` and ``high``, onto the coordinates ``span``.

        Args:
            padding: share of the width left free at an end that the values set.
        """
        marks = [_inner(v, log) for v in values if usable(v, log)]
        ends = [_inner(v, log) if v is not None and usable(v, log) else None for v in (low, high)]
        known = marks + [end for end in ends if end is not None]
        least, most = (min(known), max(known)) if known else (0.0, 1.0)
        if most - least <= 1e-9 * max(abs(least), abs(most), SMALLEST):
            room = 0.5 if log else abs(least) / 10 if abs(least) > SMALLEST else 0.5
            least, most = least - room, most + room
        room = padding * (most - least)
        free_low = ends[0] is None or min(marks, default=math.inf) < ends[0]
        free_high = ends[1] is None or max(marks, default=-math.inf) > ends[1]
        least, most = least - room * free_low, most + room * free_high
        return cls(least, most, log, *span)

    def at(self, value: float) -> float:
        """The coordinate of a value, kept between the ends."""
        share = (_inner(value, self.log) - self.low) / (self.high - self.low)
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)

    def ticks(self, most: int = 6) -> list[tuple[float, str]]:
        """At most about ``most`` round values inside the scale, ascending, with their labels."""
        if not self.log:
            return _round_ticks(self.low, self.high, most)
        exponents = range(math.ceil(self.low), math.floor(self.high) + 1)
        if len(exponents) > 1:
            every = math.ceil(len(exponents) / most)
            return [(10.0**e, _power(e)) for e in exponents if e % every == 0]
        near = range(math.floor(self.low), math.floor(self.high) + 1)
        for steps in ((1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
            values = [(m * 10.0**e, (0.5 if m == 1.5 else m) * 10.0**e) for e in near for m in steps]
            inside = [(v, _compact(v, step, v)) for v, step in values if self.low <= math.log10(v) <= self.high]
            if len(inside) > 2:
                return inside
        return inside if len(inside) > 1 else _round_ticks(10.0**self.low, 10.0**self.high, most)


def number(value: float, digits: int = 3) -> str:
    """A number for people, to ``digits`` digits; an en dash for what is not finite.

    ``0.9998`` becomes ``1.00``, but ``1.0`` is ``1``: the zeros say that it was rounded.
    """
    if not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    place = math.floor(math.log10(abs(value)))
    decimals = max(0, digits - 1 - place)
    if place < -4 or place >= 9:
        text, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{trim(text)}e{int(exponent)}".replace("-", "−")
    text = f"{value:,.{decimals}f}"
    exact = abs(round(value, decimals) - value) <= 1e-9 * abs(value)
    return (trim(text) if exact else text).replace("-", "−")


def trim(digits: str) -> str:
    """Without the zeros that end a decimal fraction."""
    return digits.rstrip("0").rstrip(".") if "." in digits else digits


def usable(value: float, log: bool) -> bool:
    """Whether a value has a place on an axis."""
    return abs(value) <= LARGEST and (value >= SMALLEST or not log)


def _inner(value: float, log: bool) -> float:
    return math.log10(value) if log else value


def _round_ticks(low: float, high: float, most: int) -> list[tuple[float, str]]:
    raw = (high - low) / most
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(m * size for m in (1, 2, 5, 10) if m * size >= raw * (1 - 1e-9))
    values = [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return [(v, _compact(v, step, max(-low, high))) for v in values if low <= v <= high]


def _compact(value: float, step: float, largest: float) -> str:
    """A tick's label, in the unit that suits the ``largest``, with just the decimals that the step between ticks needs."""
    if value == 0:
        return "0"
    if largest >= 1e12 or step < 1e-5:
        digits = max(0, math.floor(math.log10(abs(value))) - math.floor(math.log10(step)))
        text, exponent = f"{value:.{digits}e}".split("e")
        return f"{text}e{int(exponent)}".replace("-", "−")
    units = ((1e9, 1e9, "B"), (1e6, 1e6, "M"), (1e4, 1e3, "k"))
    unit, suffix = next(((unit, suffix) for least, unit, suffix in units if largest >= least), (1.0, ""))
    decimals = max(0, -math.floor(math.log10(step / unit) + 1e-9))
    return f"{value / unit:,.{decimals}f}{suffix}".replace("-", "−")


def _power(exponent: int) -> str:
    if -4 < exponent < 7:
        return _compact(10.0**exponent, 10.0**exponent, 10.0**exponent)
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
