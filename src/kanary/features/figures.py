"""Figures of a feature for papers: its histogram, examples, logit weights and learned functions, as SVG or PNG files."""

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise, repeat
from pathlib import Path
from typing import Any

from kanary.errors import KanaryError
from kanary.features.drawing import (
    BAR,
    EDGE,
    NEGATIVE,
    POSITIVE,
    SOFT,
    Panel,
    bars,
    curve,
    file,
    grid,
    line,
    place,
    rect,
    ticks,
    words,
)
from kanary.features.example_rows import examples_panel, heat
from kanary.features.feature import Feature, Interval
from kanary.features.glyphs import cells, visible
from kanary.features.index import FeatureIndex
from kanary.files import write_atomic, write_text
from kanary.progress import bar
from kanary.scales import Scale, number

LEFT, RIGHT, GAP = 46, 12, 18
WIDE, NARROW = 560, 320
TOKEN_CELLS = 13
SCALE = 3
"""Pixels of a PNG per unit of its SVG: 288 to the inch."""


def write_svg(index: FeatureIndex, latents: Iterable[int], folder: Path, *, quiet: bool = False) -> None:
    """``FOLDER/feature-12.svg``, everything on one sheet, and ``feature-12-activations.svg`` and so on, its parts."""
    for stem, panel in _figures(index, latents, quiet):
        write_text(folder / f"{stem}.svg", file(panel))


def write_png(index: FeatureIndex, latents: Iterable[int], folder: Path, *, quiet: bool = False) -> None:
    """The files of :func:`write_svg` as PNG, of three times as many pixels.

    Raises:
        KanaryError: what draws them is not installed.
    """
    for stem, panel in _figures(index, latents, quiet):
        _write_bytes(folder / f"{stem}.png", png(file(panel)))


def png(svg: str) -> bytes:
    """An SVG of :func:`kanary.features.drawing.file` as PNG, drawn with the fonts of this machine.

    Raises:
        KanaryError: what draws it is not installed.
    """
    try:
        from resvg_py import svg_to_bytes
    except ImportError:
        raise KanaryError(
            'PNG needs resvg-py, which is not installed: pip install "kanary[figures]". Or take --svg.'
        ) from None
    return bytes(svg_to_bytes(svg_string=svg, zoom=SCALE, dpi=96))


def figures(feature: Feature) -> list[Panel]:
    """The parts of a feature's figure that there is something to draw for, and the whole before them."""
    parts = [activations_panel(feature), examples_panel(feature, WIDE)]
    right = [logits_panel(feature.logits)] if feature.logits else []
    right += [function_panel(each) for each in feature.functions]
    return [_sheet(feature, parts, right), *parts, *right]


def activations_panel(feature: Feature) -> Panel:
    """Counts of non-zero activations in 50 bins, on a logarithmic scale; their axis is the strip of ten even intervals."""
    top, base, end = 18, 118, WIDE - RIGHT
    counts, maximum = feature.histogram["counts"], feature.maximum or 1.0
    x = Scale.of([], (LEFT, end), low=0, high=maximum, padding=0)
    y = Scale.of([max([2, *counts])], (base, top), log=True, low=0.6)
    heights = [base - y.at(count) if count else 0.0 for count in counts]
    strip = "".join(_interval(each, x, base, maximum) for each in feature.intervals)
    ends = [interval.low for interval in feature.intervals] + [maximum]
    body = [
        words(LEFT, 10, f"firings by activation, n = {feature.fired:,}", fill=SOFT),
        grid(y, LEFT, end),
        bars(x, feature.histogram["edges"], heights, base, repeat(BAR)),
        strip,
        *(words(x.at(v), base + 30, number(v, 2), fill=SOFT, anchor="middle", size=9.5) for v in ends),
    ]
    return Panel("activations", f"Histogram of {feature.fired:,} activations", WIDE, base + 36, "".join(body))


def _interval(interval: Interval, x: Scale, y: float, maximum: float) -> str:
    a, b = x.at(interval.low), x.at(interval.high)
    colour = heat((interval.low + interval.high) / 2, maximum)
    count = words((a + b) / 2, y + 12.5, f"{interval.count:,}", anchor="middle", size=9.5)
    return rect(a, y, b - a - 0.6, 17, colour) + count


def logits_panel(logits: Mapping[str, Any]) -> Panel:
    """The histogram of the logit weights of all tokens, and the ten that are raised and lowered most."""
    top, base = 18, 78
    counts, edges = logits["histogram"]["counts"], logits["histogram"]["edges"]
    x = Scale.of([], (EDGE, NARROW - EDGE), low=edges[0], high=edges[-1], padding=0)
    y = Scale.of([math.sqrt(max([1, *counts]))], (base, top), low=0, padding=0)
    fills = [NEGATIVE if low + high < 0 else POSITIVE for low, high in pairwise(edges)]
    most = max([abs(one["value"]) for side in ("positive", "negative") for one in logits[side]], default=1.0)
    lists = (("raises", logits["positive"], POSITIVE), ("lowers", logits["negative"], NEGATIVE))
    body = [
        words(EDGE, 10, f"logit weights of {sum(counts):,} tokens (heights: roots of counts)", fill=SOFT),
        bars(x, edges, [base - y.at(math.sqrt(count)) for count in counts], base, fills),
        line(EDGE, base, NARROW - EDGE, base),
        ticks(x, base + 13),
    ]
    for column, (title, tokens, fill) in enumerate(lists):
        start = EDGE + column * NARROW / 2
        body.append(words(start, base + 36, title, bold=True))
        for row, one in enumerate(tokens):
            body.append(_token_row(start, base + 52 + 15 * row, one, most or 1.0, fill))
    rows = max(len(tokens) for _, tokens, _ in lists)
    return Panel("logits", "Logit weights", NARROW, base + 46 + 15 * rows, "".join(body))


def _token_row(x: float, y: float, one: Mapping[str, Any], most: float, fill: str) -> str:
    shown = visible(one["token"]).replace(" ", "␣")
    while cells(shown) > TOKEN_CELLS:
        shown = shown[:-2] + "…"
    end = x + NARROW / 2 - 2 * EDGE
    length = rect(x + 74, y - 7, max(1.0, (end - x - 112) * abs(one["value"]) / most), 6, fill)
    return words(x, y, shown, size=10) + length + words(end, y, number(one["value"]), anchor="end", size=10)


def function_panel(function: Mapping[str, Any]) -> Panel:
    """A learned function beside what a straight one would be, above a rug of the inputs that it saw."""
    top, base, rug, end = 30, 138, 6, NARROW - EDGE
    xs, ys, straight = function["x"], function["y"], function["straight"]
    x, y = Scale.of(xs, (LEFT, end), padding=0), Scale.of([*ys, *straight], (base, top))
    density = function["density"] or {"edges": [], "counts": []}
    most = math.log1p(max([1, *density["counts"]]))
    seen = [rug * math.log1p(count) / most for count in density["counts"]]
    body = [
        words(EDGE, 10, f"{function['part']}: {function['name']}", bold=True),
        words(end, 10, "dashed: straight", fill=SOFT, anchor="end", size=9.5),
        words(EDGE, 23, _under(function), fill=SOFT, size=9.5),
        grid(y, LEFT, end),
        curve(zip(map(x.at, xs), map(y.at, straight), strict=True), SOFT, 1.2, "5 4"),
        curve(zip(map(x.at, xs), map(y.at, ys), strict=True), POSITIVE),
        bars(x, density["edges"], seen, base + rug + 2, repeat(BAR)),
        line(LEFT, base + rug + 2, end, base + rug + 2),
        ticks(x, base + rug + 15),
    ]
    name = str(function["part"])
    return Panel(name, f"Learned function of the {name}", NARROW, base + rug + 22, "".join(body))


def _under(function: Mapping[str, Any]) -> str:
    formula = function["formula"]
    said = f"≈ {formula['text']}, R² {number(formula['r2'])}" if formula else function["says"]
    return said if len(said) <= 62 else said[:61] + "…"


def _sheet(feature: Feature, left: list[Panel], right: list[Panel]) -> Panel:
    sae = feature.sae
    label = f": {visible(feature.label)}" if feature.label else ""
    title = f"Feature {feature.latent:,}{label}"
    where = f"{sae['name']}, {sae['where']} of {Path(str(sae['model'])).name}"
    facts = f"fires on {feature.density:.3%} of {feature.tokens:,} tokens, at most {number(feature.maximum)}"
    parts = [words(EDGE, 20, title[:110], size=16, bold=True), words(EDGE, 38, f"{where}; {facts}", fill=SOFT)]
    height = 0.0
    for column, x in ((left, 0), (right, WIDE + GAP)):
        y = 54.0
        for panel in column:
            parts.append(place(panel, x, y))
            y += panel.height + GAP
        height = max(height, y)
    width = WIDE + GAP + NARROW if right else WIDE
    return Panel("", title, width, height, "".join(parts))


def _figures(index: FeatureIndex, latents: Iterable[int], quiet: bool) -> Iterator[tuple[str, Panel]]:
    latents = list(latents)
    with bar("drawing", len(latents), "features", quiet) as show:
        for latent in latents:
            for panel in figures(index[latent]):
                yield "-".join(filter(None, (f"feature-{latent}", panel.name))), panel
            show(1)


def _write_bytes(path: Path, content: bytes) -> None:
    def write(partial: Path) -> None:
        partial.write_bytes(content)

    write_atomic(path, write)
