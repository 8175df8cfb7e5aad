"""Pieces of figures: SVG in which every colour and font is written out, so that all programs draw the same."""

from collections.abc import Iterable
from html import escape
from typing import NamedTuple

from kanary.scales import Scale, trim

INK, SOFT, GRID, PAPER = "#1c2430", "#515b69", "#dde1e7", "#ffffff"
BAR, POSITIVE, NEGATIVE = "#8a96a5", "#0072b2", "#c14f00"
EDGE = 6
SANS, MONO = "Helvetica, Arial, 'DejaVu Sans', sans-serif", "'DejaVu Sans Mono', Menlo, Consolas, monospace"


class Panel(NamedTuple):
    """A drawing with its upper left corner at 0, 0."""

    name: str
    """What its file is called."""
    title: str
    """What it shows, for those who cannot see it."""
    width: float
    height: float
    body: str


def file(panel: Panel) -> str:
    """``panel`` as the text of an SVG file."""
    size = f'width="{at(panel.width)}" height="{at(panel.height)}" viewBox="0 0 {at(panel.width)} {at(panel.height)}"'
    paper = rect(0, 0, panel.width, panel.height, PAPER)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {size} font-family="{escape(SANS)}" font-size="11">'
        f"<title>{escape(panel.title)}</title>{paper}{panel.body}</svg>\n"
    )


def place(panel: Panel, x: float, y: float) -> str:
    """``panel`` inside another one."""
    return f'<g transform="translate({at(x)} {at(y)})">{panel.body}</g>'


def words(
    x: float, y: float, text: str, *, fill: str = INK, anchor: str = "start", size: float = 11, bold: bool = False
) -> str:
    """A line of text whose baseline is at ``y``."""
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{at(x)}" y="{at(y)}" fill="{fill}" text-anchor="{anchor}" font-size="{at(size)}"{weight}>'
        f"{escape(text)}</text>"
    )


def grid(y: Scale, left: float, right: float) -> str:
    """Lines at the round values of ``y``, and the values before them."""
    return "".join(
        line(left, y.at(value), right, y.at(value), GRID)
        + words(left - 6, y.at(value) + 4, label, fill=SOFT, anchor="end", size=9.5)
        for value, label in y.ticks(4)
    )


def ticks(x: Scale, baseline: float) -> str:
    """The round values of ``x``."""
    return "".join(words(x.at(v), baseline, label, fill=SOFT, anchor="middle", size=9.5) for v, label in x.ticks(5))


def bars(x: Scale, edges: list[float], heights: list[float], base: float, fills: Iterable[str]) -> str:
    """Bars from ``base`` up by ``heights``, between neighbouring ``edges``."""
    return "".join(
        rect(x.at(low) + 0.3, base - height, max(0.5, x.at(high) - x.at(low) - 0.6), height, fill)
        for low, high, height, fill in zip(edges, edges[1:], heights, fills, strict=False)
        if height > 0
    )


def rect(x: float, y: float, width: float, height: float, fill: str) -> str:
    return f'<rect x="{at(x)}" y="{at(y)}" width="{at(max(width, 0))}" height="{at(max(height, 0))}" fill="{fill}"/>'


def line(x1: float, y1: float, x2: float, y2: float, stroke: str = INK, width: float = 1, dashes: str = "") -> str:
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    ends = f'x1="{at(x1)}" y1="{at(y1)}" x2="{at(x2)}" y2="{at(y2)}"'
    return f'<line {ends} stroke="{stroke}" stroke-width="{at(width)}"{dashed}/>'


def curve(points: Iterable[tuple[float, float]], stroke: str, width: float = 1.6, dashes: str = "") -> str:
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    path = " ".join(f"{at(x)},{at(y)}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{stroke}" stroke-width="{at(width)}"{dashed}/>'


def at(value: float) -> str:
    """A coordinate, with at most one decimal."""
    return trim(f"{value:.1f}")
