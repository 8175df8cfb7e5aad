"""Plots with a row for every name: bars, and intervals around a value that means "no difference"."""

import math
from collections.abc import Iterator, Sequence
from itertools import groupby

from kanary.ink import CHARACTER, COLOURS, WIDTH, document
from kanary.ink import coordinate as _c
from kanary.ink import escaped as _text
from kanary.ink import short as _short
from kanary.scales import Scale, number, usable
from kanary.svg import BOTTOM, RIGHT, TOP, Axis, Series, outline, swatches, x_axis

NAMES, LINE, HEADING = 160, 5.5, 20  # of intervals: room for their names; height of one of a row; of the title


def bars(
    names: Sequence[str],
    values: Sequence[float],
    lows: Sequence[float],
    highs: Sequence[float],
    x: Axis,
    title: str,
    groups: Sequence[str],
) -> str:
    """Horizontal bars, each below its name and number, with whiskers from ``lows`` to ``highs``; one colour per group.

    A value that is missing keeps its row, with a dash.
    """
    rows = list(zip(names, map(float, values), map(float, lows), map(float, highs), strict=True))
    kinds = list(dict.fromkeys(groups))
    legend, depth = swatches(kinds, start=16, shapes=False) if len(kinds) > 1 else ("", 0.0)
    ends = [v for _, *numbers in rows for v in numbers if usable(v, x.log)]
    low = x.low if x.log else min(0.0, x.low or 0.0)
    scale = Scale.of(ends, (16, WIDTH - RIGHT), log=x.log, low=low, high=x.high)
    top, step = TOP + depth, 34
    base = top + step * len(rows)
    body = []
    for i, (name, value, low, high) in enumerate(rows):
        body.append(_bar(scale, top + step * i, name, (value, low, high), kinds.index(groups[i]) % COLOURS))
    height = base + BOTTOM
    axis = "".join(x_axis(scale, x.label, top, base))
    return document(title, f"Bars for {', '.join(map(str, names))}.", height, legend + axis + "".join(body))


def intervals(names: Sequence[tuple[str, str]], series: Sequence[Series], x: Axis, title: str, *, zero: float) -> str:
    """Values with whiskers, a row for every name and in it a marker for every series, beside a line at ``zero``.

    Args:
        names: of every row, what it has in common with its neighbours and what sets it apart; the first is shown once.
        series: ``xs`` are rows, ``ys`` the values there, ``lows`` and ``highs`` the ends of their intervals; a value without
            one gets a hollow marker.
        title: is written over the plot.
        zero: the value that means that there is no difference.
    """
    ends = [float(v) for each in series for values in (each.ys, each.lows or (), each.highs or ()) for v in values]
    scale = Scale.of(ends, (NAMES, WIDTH - RIGHT), log=x.log, low=x.low if x.low is not None else zero, high=x.high)
    legend, depth = swatches([each.name for each in series], start=16)
    top = TOP + HEADING + depth
    tops, base, labels = _rows(names, LINE * len(series), top + 4)
    head = f'<text x="4" y="{TOP + 8}">{_text(_short(title, WIDTH - 8))}</text>'
    head += f'<g transform="translate(0 {HEADING})">{legend}</g>'
    axis = "".join(x_axis(scale, x.label, top, base))
    if usable(zero, x.log):
        axis += f'<path class="axis" d="M{_c(scale.at(zero))} {_c(top)}V{_c(base)}"/>'
    body = "".join(
        f'<g class="s{i % COLOURS}">{"".join(_marks(scale, names, tops, each, i))}</g>' for i, each in enumerate(series)
    )
    kinds = ", ".join(dict.fromkeys(common for common, _ in names))
    words = f"Intervals for {kinds}; in each row {', '.join(each.name for each in series)}. Horizontal: {x.label}."
    return document(title, words, base + BOTTOM, head + axis + labels + body)


def _rows(names: Sequence[tuple[str, str]], height: float, top: float) -> tuple[list[float], float, str]:
    """Where each row begins, where the last one ends, and their names."""
    tops, labels = [], []
    for common, rows in groupby(names, key=lambda name: name[0]):
        for i, (_, own) in enumerate(rows):
            middle, own = _c(top + height / 2 + 4), _short(own, NAMES / 2)
            labels.append(f'<text class="label" x="{NAMES - 8}" y="{middle}" text-anchor="end">{_text(own)}</text>')
            if i == 0:
                room = NAMES - 12 - CHARACTER * (len(own) + 1)
                labels.append(f'<text x="4" y="{middle}">{_text(_short(common, room))}</text>')
            tops.append(top)
            top += height + 1
        top += 7
    return tops, top, "".join(labels)


def _marks(
    scale: Scale, names: Sequence[tuple[str, str]], tops: Sequence[float], series: Series, index: int
) -> Iterator[str]:
    missing = [math.nan] * len(series.xs)
    numbers = zip(series.xs, series.ys, series.lows or missing, series.highs or missing, strict=True)
    for row, value, low, high in numbers:
        if not usable(value, scale.log):
            continue
        y, known = tops[int(row)] + LINE * (index + 0.5), math.isfinite(low) and math.isfinite(high)
        if known and low != high:  # an end that has no place on the axis lies beyond it
            left = scale.at(low) if usable(low, scale.log) else scale.start
            right = scale.at(high) if usable(high, scale.log) else scale.end
            yield f'<path class="whisker" d="M{_c(left)} {_c(y)}H{_c(right)}"/>'
        span = f" ({number(low)} to {number(high)})" if known else ", no interval"
        tip = _text(f"{' '.join(names[int(row)])}, {series.name}: {number(value)}{span}")
        shape = outline(index, scale.at(value), y)
        yield f'<path class="{"mark" if known else "line"}" d="{shape}"><title>{tip}</title></path>'


def _bar(scale: Scale, top: float, name: str, numbers: tuple[float, float, float], colour: int) -> str:
    value, low, high = numbers
    label = number(value)
    if math.isfinite(value) and math.isfinite(low) and math.isfinite(high) and low != high:
        label += f" ({number(low)} to {number(high)})"
    room = scale.end - scale.start - CHARACTER * (len(label) + 2)
    parts = [
        f'<text x="{_c(scale.start)}" y="{_c(top + 13)}">{_text(_short(name, room))}</text>',
        f'<text class="label" x="{_c(scale.end)}" y="{_c(top + 13)}" text-anchor="end">{_text(label)}</text>',
    ]
    if usable(value, scale.log):
        zero = scale.start if scale.log else scale.at(0)
        at, end = sorted((zero, scale.at(value)))
        parts.append(
            f'<g class="s{colour}"><rect class="mark" x="{_c(at)}" y="{_c(top + 18)}" width="{_c(max(end - at, 0.6))}"'
            f' height="10"><title>{_text(f"{name}: {label}")}</title></rect></g>'
        )
        if usable(low, scale.log) and usable(high, scale.log) and low != high:
            a, b, middle = _c(scale.at(low)), _c(scale.at(high)), _c(top + 23)
            tips = f"M{a} {_c(top + 20)}v6M{b} {_c(top + 20)}v6"
            parts.append(f'<path class="whisker" d="M{a} {middle}H{b}{tips}"/>')
    return "".join(parts)
