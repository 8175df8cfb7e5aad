"""Plots as small SVG texts, for pages that load nothing: histograms, scatters and lines; rows are in :mod:`kanary.svg_rows`.

The texts stand inside HTML (so they name no XML namespace). Numbers that are NaN, infinite or beyond 1e100 (or not positive,
on a logarithmic axis) are left out. Sizes are in units of the viewBox, about one pixel.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kanary.ink import CHARACTER, COLOURS, SHADES, WIDTH, document
from kanary.ink import coordinate as _c
from kanary.ink import escaped as _text
from kanary.ink import short as _short
from kanary.scales import Scale, number, usable

HEIGHT = 280
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 10, 46  # margins around the plotting area
FEW = 60  # points up to which each one gets a marker or a tooltip
SHAPES = 7
STRIP = 44  # height of the bars under lines, and the gap above them


@dataclass(frozen=True)
class Axis:
    """What an axis shows."""

    label: str
    """With its unit."""
    log: bool = False
    """Logarithmic; what is not positive is left out."""
    low: float | None = None
    """The axis reaches at least down to this; None: a little below the data."""
    high: float | None = None
    """The axis reaches at least up to this; None: a little above the data."""


@dataclass(frozen=True)
class Series:
    """One line of :func:`lines`, or what stands in the rows of :func:`kanary.svg_rows.intervals`; in the order given."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    lows: Sequence[float] | None = None
    """Lower ends of the error bars."""
    highs: Sequence[float] | None = None
    dashed: bool = False


def histogram(edges: Sequence[float], counts: Sequence[float], x: Axis, y: Axis, title: str) -> str:
    """Bars between neighbouring edges.

    Args:
        edges: ``[bins + 1]`` ascending.
        counts: ``[bins]`` heights of the bars; one that is zero draws nothing.
    """
    edges = list(map(float, edges))
    bins = [
        (left, right, float(count))
        for left, right, count in zip(edges, edges[1:], counts, strict=False)
        if usable(left, x.log) and usable(right, x.log) and usable(float(count), y.log) and count > 0
    ]
    plot = _Plot(x, y, [e for left, right, _ in bins for e in (left, right)], [c for *_, c in bins], tight_x=True)
    base = plot.y.start
    marks = []
    for left, right, count in bins:
        at, end, top = plot.x.at(left), plot.x.at(right), plot.y.at(count)
        width = max(end - at - (0.6 if end - at > 3 else 0), 0.4)
        tip = f"{number(left)} to {number(right)}: {number(count, 6)}"
        marks.append(
            f'<rect class="mark" x="{_c(at)}" y="{_c(top)}" width="{_c(width)}" height="{_c(base - top)}">'
            f"<title>{_text(tip)}</title></rect>"
        )
    body = f'<g class="s0">{"".join(marks)}</g>'
    return plot.svg(title, f"Histogram of {len(bins)} filled bins.", body)


def scatter(
    xs: Sequence[float],
    ys: Sequence[float],
    x: Axis,
    y: Axis,
    title: str,
    colours: Sequence[float] | None = None,
    colour_label: str | None = None,
) -> str:
    """Points, coloured by ``colours`` (grey where that is not finite) with a bar that explains the colours."""
    shades = [math.nan] * len(xs) if colours is None else list(map(float, colours))
    points = [
        (float(a), float(b), c)
        for a, b, c in zip(xs, ys, shades, strict=True)
        if usable(float(a), x.log) and usable(float(b), y.log)
    ]
    right = RIGHT if colours is None else 72
    plot = _Plot(x, y, [p[0] for p in points], [p[1] for p in points], right=right)
    finite = [p[2] for p in points if math.isfinite(p[2])]
    scale = Scale.of(finite, (plot.y.start, plot.y.end), padding=0)
    groups: dict[str, list[str]] = {}
    for a, b, c in points:
        tip = f"<title>{_text(f'{number(a)}, {number(b)}')}</title>" if len(points) <= FEW else ""
        shade = "s0" if colours is None else f"r{_shade(scale, c)}" if math.isfinite(c) else "soft"
        dot = f'<circle class="dot" cx="{_c(plot.x.at(a))}" cy="{_c(plot.y.at(b))}" r="2.2"'
        groups.setdefault(shade, []).append(f"{dot}>{tip}</circle>" if tip else f"{dot}/>")
    body = "".join(f'<g class="{shade}">{"".join(dots)}</g>' for shade, dots in sorted(groups.items()))
    if colours is not None:
        body += _colour_bar(scale, colour_label or "")
    return plot.svg(title, f"Scatter plot of {len(points)} points.", body)


def lines(
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    title: str,
    under: Sequence[tuple[float, float, float]] = (),
    under_label: str = "",
) -> str:
    """Lines with a marker per point (where a series has few), error bars and a legend; a gap where a value is missing.

    Args:
        under: bars in a strip of their own below the lines, such as how many values there are: left end, right end, height
            as a share of the strip.
        under_label: what they are, for those who cannot see them.
    """
    clean = [_points(each, x, y) for each in series]
    xs = [p.x for points in clean for p in points if p]
    ys = [v for points in clean for p in points if p for v in (p.y, p.low, p.high) if v is not None]
    names = [each.name for each in series]
    legend, depth = swatches(names) if len(series) > 1 else ("", 0.0)
    ends = [end for left, right, _ in under for end in (left, right)]
    plot = _Plot(x, y, xs + ends, ys, above=depth, below=STRIP if under else 0)
    body = "".join(_drawn(plot, each, points, i) for i, (each, points) in enumerate(zip(series, clean, strict=True)))
    shown = f"{len(series)} series: {', '.join(names)}." if len(series) > 1 else f"{len(xs)} points."
    shown += f" Under it, {under_label}." if under else ""
    return plot.svg(title, f"Line plot of {shown}", legend + "".join(_strip(plot, under)) + body)


def _strip(plot: "_Plot", under: Sequence[tuple[float, float, float]]) -> Iterator[str]:
    """Bars between the lines and the horizontal axis."""
    bars = "".join(
        f"M{_c(plot.x.at(left))} {_c(plot.base)}V{_c(plot.base - (STRIP - 8) * share)}H{_c(plot.x.at(right))}V{_c(plot.base)}z"
        for left, right, share in under
    )
    if bars:
        yield f'<g class="soft"><path class="dot" d="{bars}"/></g>'


# --- drawing ------------------------------------------------------------------------------------------------------


class _Plot:
    """The frame of a plot with two axes."""

    def __init__(
        self,
        x: Axis,
        y: Axis,
        xs: Sequence[float],
        ys: Sequence[float],
        *,
        right: float = RIGHT,
        above: float = 0,
        below: float = 0,
        tight_x: bool = False,
    ) -> None:
        """``tight_x``: a histogram, whose bars fill the width and stand on the ground."""
        floor, ceiling = y.low, y.high
        if tight_x and floor is None:
            floor = min(ys, default=0.2) / 2 if y.log else 0.0
        if tight_x and not ys and ceiling is None:
            ceiling = 1.0
        self.labels = x.label, y.label
        self.top, self.base = TOP + above, HEIGHT - BOTTOM + above
        padding = 0.01 if tight_x else 0.04
        self.x = Scale.of(xs, (LEFT, WIDTH - right), log=x.log, low=x.low, high=x.high, padding=padding)
        self.y = Scale.of(ys, (self.base - below, self.top), log=y.log, low=floor, high=ceiling)

    def svg(self, title: str, description: str, body: str) -> str:
        """The whole picture; axes are described in words as well."""
        words = f"{description} Horizontal: {self.labels[0]}. Vertical: {self.labels[1]}."
        frame = [*x_axis(self.x, self.labels[0], self.top, self.base), *self._y_axis()]
        return document(title, words, self.base + BOTTOM, "".join(frame) + body)

    def _y_axis(self) -> Iterator[str]:
        for value, label in self.y.ticks():
            at = self.y.at(value)
            yield f'<path class="grid" d="M{_c(self.x.start)} {_c(at)}H{_c(self.x.end)}"/>'
            yield f'<text x="{LEFT - 6}" y="{_c(at + 4)}" text-anchor="end">{_text(label)}</text>'
        yield _upright(self.labels[1], 12, (self.top + self.base) / 2, self.base - self.top)


def x_axis(scale: Scale, label: str, top: float, base: float) -> Iterator[str]:
    for value, tick in scale.ticks():
        at = scale.at(value)
        yield f'<path class="grid" d="M{_c(at)} {_c(top)}V{_c(base)}"/>'
        yield f'<text x="{_c(at)}" y="{_c(base + 16)}" text-anchor="middle">{_text(tick)}</text>'
    yield f'<path class="axis" d="M{_c(scale.start)} {_c(base)}H{_c(scale.end)}"/>'
    text = _text(_short(label, scale.end - scale.start))
    middle = (scale.start + scale.end) / 2
    yield f'<text class="label" x="{_c(middle)}" y="{_c(base + 36)}" text-anchor="middle">{text}</text>'


def _upright(label: str, x: float, y: float, room: float) -> str:
    return (
        f'<text class="label" transform="translate({_c(x)} {_c(y)})rotate(-90)" text-anchor="middle">'
        f"{_text(_short(label, room + 30))}</text>"
    )


class _Point(NamedTuple):
    x: float
    y: float
    low: float | None
    high: float | None


def _points(series: Series, x: Axis, y: Axis) -> list[_Point | None]:
    """The series' points; None where one cannot be drawn."""
    missing = [math.nan] * len(series.xs)
    lows, highs = series.lows or missing, series.highs or missing
    return [
        _Point(float(a), float(b), *(float(v) if usable(float(v), y.log) else None for v in (low, high)))
        if usable(float(a), x.log) and usable(float(b), y.log)
        else None
        for a, b, low, high in zip(series.xs, series.ys, lows, highs, strict=True)
    ]


def _drawn(plot: _Plot, series: Series, points: Sequence[_Point | None], index: int) -> str:
    """One series: its line, its error bars, its markers."""
    path, pen = [], "M"
    for p in points:
        path.append(f"{pen}{_c(plot.x.at(p.x))} {_c(plot.y.at(p.y))}" if p else "")
        pen = "L" if p else "M"
    dashes = ' stroke-dasharray="5 4"' if series.dashed else ""
    parts = [f'<path class="line" d="{"".join(path)}"{dashes}/>'] if any(path) else []
    errors = "".join(
        f"M{_c(plot.x.at(p.x))} {_c(plot.y.at(p.low))}V{_c(plot.y.at(p.high))}"
        for p in points
        if p and p.low is not None and p.high is not None and p.low != p.high
    )
    parts += [f'<path class="whisker" d="{errors}"/>'] if errors else []
    if len(points) <= FEW:
        parts += [_marker(plot, series.name, p, index) for p in points if p]
    return f'<g class="s{index % COLOURS}">{"".join(parts)}</g>'


def _marker(plot: _Plot, name: str, p: _Point, index: int) -> str:
    interval = f" ({number(p.low)} to {number(p.high)})" if p.low is not None and p.high is not None else ""
    tip = f"{name}: {number(p.x)}, {number(p.y)}{interval}"
    shape = outline(index, plot.x.at(p.x), plot.y.at(p.y))
    return f'<path class="mark" d="{shape}"><title>{_text(tip)}</title></path>'


def outline(index: int, x: float, y: float) -> str:
    """Outline of the marker of a series: disc, square, triangle, diamond, cross, triangle down, bar.

    Colours repeat with the same period, so the shape turns once more with every round.
    """
    outlines = [
        "m-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0z",
        "m-3-3h6v6h-6z",
        "m0-4.2l4 7h-8z",
        "m0-4.4l4.4 4.4l-4.4 4.4l-4.4-4.4z",
        "m-1.3-4h2.6v2.7h2.7v2.6h-2.7v2.7h-2.6v-2.7h-2.7v-2.6h2.7z",
        "m0 4.2l4-7h-8z",
        "m-4-1.5h8v3h-8z",
    ]
    return f"M{_c(x)} {_c(y)}{outlines[(index + index // SHAPES) % SHAPES]}"


def _shade(scale: Scale, value: float) -> int:
    share = (scale.at(value) - scale.start) / (scale.end - scale.start)
    return min(SHADES - 1, int(share * SHADES))


def _colour_bar(scale: Scale, label: str) -> str:
    step = (scale.end - scale.start) / SHADES
    x = WIDTH - 62
    parts = [
        f'<g class="r{i}"><rect class="ramp" x="{x}" y="{_c(scale.start + step * (i + 1))}" width="9"'
        f' height="{_c(-step + 0.3)}"/></g>'
        for i in range(SHADES)
    ]
    parts += [f'<text x="{x + 13}" y="{_c(scale.at(v) + 4)}">{_text(tick)}</text>' for v, tick in scale.ticks(5)]
    return "".join(parts) + _upright(label, WIDTH - 3, (scale.start + scale.end) / 2, scale.start - scale.end)


def swatches(names: Sequence[str], start: float = LEFT, shapes: bool = True) -> tuple[str, float]:
    """Swatches and names in as many rows as they need, and the height of all rows; all squares unless ``shapes``."""
    parts, x, y = [], start, TOP + 6.0
    for i, name in enumerate(names):
        shown = _short(name, WIDTH - start - RIGHT - 16)
        width = 18 + CHARACTER * len(shown)
        if x > start and x + width > WIDTH - RIGHT:
            x, y = start, y + 17
        parts.append(
            f'<g class="s{i % COLOURS}"><path class="swatch" d="{outline(i if shapes else 1, x + 4, y)}"/></g>'
            f'<text x="{_c(x + 12)}" y="{_c(y + 4)}">{_text(shown)}</text>'
        )
        x += width + 8
    return "".join(parts), y + 14 - TOP
