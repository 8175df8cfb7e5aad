"""What all plots of :mod:`kanary.svg` are made of: the outermost element with its colours, coordinates, and words that fit.

Colours come from CSS: a page may set ``--series-0`` to ``--series-6``, ``--plot-ink``, ``--plot-soft`` and ``--plot-grid``;
without them a light and a dark set follow the reader's ``prefers-color-scheme``, and print is always light. They are those of
Okabe and Ito (2008), distinguishable with every common colour blindness; the ramp is viridis.
"""

import html
import re
from collections.abc import Sequence
from functools import cache

from kanary.scales import trim

WIDTH = 420
CHARACTER = 6.3
"""Mean width of a character of the font, which SVG cannot ask for."""

_LIGHT = ["#0072b2", "#c14f00", "#00795a", "#a8487f", "#946200", "#2a7fb8", "#555555"]
_DARK = ["#56b4e9", "#f08a4b", "#2fc79a", "#e39ac4", "#e6a817", "#9ad1f2", "#bbbbbb"]
_VIRIDIS = ["440154", "482878", "3e4a89", "31688e", "26828e", "1f9e89", "35b779", "6dcd59", "b4de2c", "fde725"]
COLOURS, SHADES = len(_LIGHT), 8
"""Of series, after which they come again, and of the ramp: classes ``s0`` … and ``r0`` …"""


def document(title: str, description: str, height: float, body: str) -> str:
    """A whole plot, which says what it is."""
    name = escaped(title)
    return (
        f'<svg class="plot" role="img" aria-label="{name}" viewBox="0 0 {WIDTH} {coordinate(height)}">'
        f"<title>{name}</title><desc>{escaped(description)}</desc><style>{_style()}</style>{body}</svg>"
    )


def file(plot: str) -> str:
    """A plot as the text of an SVG file, on paper of its own: a page that shows it may be light or dark without saying so."""
    paper = ".plot{background:#fff}@media screen and (prefers-color-scheme:dark){.plot{background:#14181f}}"
    return plot.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace("<style>", f"<style>{paper}", 1)


@cache
def _style() -> str:
    def colours(series: Sequence[str], ink: str, soft: str, grid: str, shades: Sequence[str]) -> str:
        rules = f".plot{{color:var(--plot-ink,{ink})}}.plot .label,.plot .soft{{color:var(--plot-soft,{soft})}}"
        rules += f".plot .grid{{stroke:var(--plot-grid,{grid})}}"
        rules += "".join(f".plot .s{i}{{color:var(--series-{i},{c})}}" for i, c in enumerate(series))
        return rules + "".join(f".plot .r{i}{{color:#{c}}}" for i, c in enumerate(shades))

    return (
        ".plot{font:12px system-ui,sans-serif}.plot text,.plot .mark,.plot .dot,.plot .swatch,.plot .ramp{fill:currentColor}"
        ".plot .dot{fill-opacity:.6}.plot .line{fill:none;stroke:currentColor;stroke-width:1.8;stroke-linecap:round}"
        ".plot .axis,.plot .whisker{fill:none;stroke:currentColor;stroke-width:1.2}.plot .grid{stroke-width:.7}"
        + colours(_LIGHT, "#1c2430", "#515b69", "#dde1e7", _VIRIDIS[:SHADES])
        + "@media screen and (prefers-color-scheme:dark){"
        + colours(_DARK, "#e7eaf0", "#a9b3c1", "#333b47", _VIRIDIS[-SHADES:])
        + "}"
    )


def coordinate(value: float) -> str:
    """A coordinate, with at most one decimal."""
    return trim(f"{value:.1f}").replace("-0", "0") if abs(value) < 0.05 else trim(f"{value:.1f}")


def short(text: str, room: float) -> str:
    """The text, cut where it would not fit in ``room``."""
    most = max(4, int(room / CHARACTER))
    return text if len(text) <= most else text[: most - 1] + "…"


def escaped(text: str) -> str:
    """Escaped, without the characters that XML forbids."""
    allowed = re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)
    return html.escape(allowed)
