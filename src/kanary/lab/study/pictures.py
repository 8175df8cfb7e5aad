"""Every family's differences to the controls that decide, as one plot per setting."""

import math
from pathlib import Path

from kanary.files import write_text
from kanary.ink import file
from kanary.lab.study.findings import Findings
from kanary.lab.study.judgement import DECIDES
from kanary.lab.study.verdict import Difference
from kanary.svg import Axis, Series
from kanary.svg_rows import intervals

EQUAL = {
    "width": "linear, as many latents",
    "parameters": "linear, as many parameters",
    "flops": "linear, as many training FLOPs",
}
"""Control -> what it is, and what it and the family have alike."""


def write_pictures(found: Findings, folder: Path) -> None:
    """Writes ``fvu-SETTING.svg`` for every setting that has something to show."""
    for setting in found.study.grids:
        if plot := differences(found, setting):
            write_text(folder / picture_file(setting), file(plot))


def picture_file(setting: str) -> str:
    """The file of a setting's plot."""
    return f"fvu-{setting}.svg"


def differences(found: Findings, setting: str) -> str:
    """FVU as a multiple of each control's, with intervals; empty where nothing has been compared."""
    controls = dict.fromkeys(["width", *found.study.design.decides])
    shown = [c for c in found.comparisons if c.setting == setting and c.metric == DECIDES and c.control in controls]
    if not shown:
        return ""
    rows = list(dict.fromkeys((c.family, c.l0) for c in shown))
    series = []
    for control in controls:
        ours = [c for c in shown if c.control == control]
        values, lows, highs = ([_multiple(c.difference, end) for c in ours] for end in ("mean", "low", "high"))
        series.append(
            Series(EQUAL.get(control, control), [rows.index((c.family, c.l0)) for c in ours], values, lows, highs)
        )
    title = f"{setting}: {found.study.design.settings[setting].title}"
    axis = Axis("FVU, divided by that of the control", log=True)
    return intervals([(family, f"L0 {l0}") for family, l0 in rows], series, axis, title, zero=1)


def _multiple(difference: Difference, end: str) -> float:
    value: float = getattr(difference, end)
    return 1 + value / difference.theirs if difference.theirs else math.nan
