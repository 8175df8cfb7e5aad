"""The examples of a feature as rows of a figure: tokens coloured by their activation, underlined by their effect."""

import math
from collections.abc import Iterator
from html import escape

from kanary.features.drawing import EDGE, INK, MONO, SOFT, Panel, at, line, rect, words
from kanary.features.feature import Example, Feature
from kanary.features.glyphs import cells, visible
from kanary.scales import number

TOP = 10
"""Of the strongest; of every interval one."""
CELL, ROW = 6.1, 16
"""Width of a letter and height of a row."""
VALUE, BEFORE, AFTER = 42, 34, 48
"""Room for the value; letters before the focus and from it on."""
STRONG = 0.1
"""Nats from which an effect is drawn thicker."""
_HEAT = ["#fff6d3", "#ffefb5", "#ffe693", "#ffdc70", "#ffd04e", "#ffc130", "#fdb01c", "#f89c0e", "#f18808", "#e87404"]
UNDERLINED = "underlined: the loss without the feature is higher (red) or lower (blue, dotted)"
LOWERS, RAISES = "#0b5fa5", "#b8143c"


def heat(value: float, maximum: float) -> str:
    """The colour of an activation, on the page's logarithmic scale: the level is ⌈10 · log10(1 + 9 · value / maximum)⌉."""
    level = math.ceil(len(_HEAT) * math.log10(1 + 9 * value / maximum) - 1e-9)
    return _HEAT[min(len(_HEAT), max(1, level)) - 1]


def examples_panel(feature: Feature, width: float) -> Panel:
    """The strongest examples, then one of every interval that has some, from the highest down."""
    parts, y = [], 10.0
    for title, examples in _groups(feature):
        parts.append(words(EDGE, y, title, fill=SOFT))
        for example in examples:
            y += ROW
            parts.append(words(VALUE - 8, y, number(example.value), fill=SOFT, anchor="end", size=9.5))
            parts.append(_row(example, feature.maximum, y))
        y += ROW + 6
    if any(example.effects for example in feature.examples):
        parts.append(
            words(
                EDGE, y, "underlined: the loss without the feature is higher (red) or lower (blue, dotted)", fill=SOFT
            )
        )
        y += ROW
    if not parts:
        parts = [words(EDGE, y, "It fires nowhere in this text.", fill=SOFT)]
        y += ROW
    return Panel("examples", f"Examples of feature {feature.latent:,}", width, y - 4, "".join(parts))


def _groups(feature: Feature) -> Iterator[tuple[str, list[Example]]]:
    if feature.top:
        shown = feature.top[:TOP]
        yield f"strongest, {len(shown)} of {feature.fired:,} firings", [feature.examples[i] for i in shown]
    drawn = [interval.examples[0] for interval in reversed(feature.intervals) if interval.examples]
    if drawn:
        yield f"one drawn at random from each interval, {len(drawn)} of 10", [feature.examples[i] for i in drawn]


def _row(example: Example, maximum: float, y: float) -> str:
    """The tokens around the focus, which stands below the focus of every other row."""
    values, effects, focus = dict(example.activations), dict(example.effects), example.focus
    shown = [visible(token) for token in example.tokens]
    left = VALUE + BEFORE * CELL
    x, i, parts = left, focus, []
    while i < len(shown) and x + CELL * cells(shown[i]) <= left + AFTER * CELL:
        parts.append(_token(x, y, shown[i], values.get(i, 0.0), effects.get(i, 0.0), maximum, i == focus))
        x, i = x + CELL * cells(shown[i]), i + 1
    if not parts:  # one token that is longer than the room
        parts.append(_token(x, y, shown[focus][: AFTER - 1] + "…", values.get(focus, 0.0), 0.0, maximum, True))
    x, i = left, focus - 1
    while i >= 0 and x - CELL * cells(shown[i]) >= VALUE:
        x -= CELL * cells(shown[i])
        parts.append(_token(x, y, shown[i], values.get(i, 0.0), effects.get(i, 0.0), maximum, False))
        i -= 1
    return f'<g font-family="{MONO}" font-size="10" xml:space="preserve">{"".join(parts)}</g>'


def _token(x: float, y: float, text: str, value: float, effect: float, maximum: float, focus: bool) -> str:
    wide = CELL * cells(text)
    indent = CELL * (len(text) - len(text.lstrip(" "))) if text.strip(" ") else 0.0
    parts = [rect(x + indent, y - 10, wide - indent, 13, heat(value, maximum))] if value > 0 else []
    parts.append(_letters(x + indent, y, text.strip(" "), focus))
    if effect:
        dashes, colour = ("1.5 1.5", LOWERS) if effect < 0 else ("", RAISES)
        parts.append(line(x + 0.5, y + 4, x + wide - 0.5, y + 4, colour, 2 if abs(effect) >= STRONG else 1, dashes))
    return "".join(parts)


def _letters(x: float, y: float, text: str, bold: bool) -> str:
    """Stretched to their cells, whichever font is at hand."""
    weight = ' font-weight="bold"' if bold else ""
    size = f'textLength="{at(CELL * cells(text))}" lengthAdjust="spacingAndGlyphs"'
    return f'<text x="{at(x)}" y="{at(y)}" fill="{INK}"{weight} {size}>{escape(text)}</text>' if text else ""
