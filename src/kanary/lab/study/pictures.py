"""Every family's differences to the controls that decide, as one plot per setting."""

from collections.abc import Iterator
from pathlib import Path

from kanary.files import write_text
from kanary.ink import file
from kanary.lab.study.findings import Findings
from kanary.lab.study.judgement import DECIDES
from kanary.lab.study.verdict import Difference
from kanary.svg import Axis, Series
from kanary.svg_rows import intervals

EQUAL = {"width": "as many latents", "parameters": "as many parameters", "flops": "as many training FLOPs"}
"""Control -> what it and the family have alike."""


def write_pictures(found: Findings, folder: Path) -> None:
    """Writes ``fvu-SETTING.svg`` for every setting that has something to show."""
    for setting in found.study.grids:
        if plot := differences(found, setting):
            write_text(folder / name(setting), file(plot))


def name(setting: str) -> str:
    """Of the file with a setting's plot."""
    return f"fvu-{setting}.svg"


def differences(found: Findings, setting: str) -> str:
    """FVU as a multiple of each control's, with intervals; empty where nothing has been compared."""
    controls = ["width", *found.study.design.decides]
    shown = [c for c in found.comparisons if c.setting == setting and c.metric == DECIDES and c.control in controls]
    rows = {(c.family, c.l0): None for c in shown}
    place = {row: at for at, row in enumerate(rows)}

    def series() -> Iterator[Series]:
        for control in dict.fromkeys(controls):
            ours = [c for c in shown if c.control == control]
            ends = [
                [1 + end / c.difference.theirs for end in (c.difference.mean, c.difference.low, c.difference.high)]
                for c in ours
            ]
            values, lows, highs = zip(*ends, strict=True) if ends else ((), (), ())
            yield Series(EQUAL.get(control, control), [place[c.family, c.l0] for c in ours], values, lows, highs)

    if not shown:
        return ""
    title = f"{setting}: {found.study.design.settings[setting].title}; families and L0"
    axis = Axis("FVU, divided by a linear SAE's with …", log=True)
    return intervals([(family, str(l0)) for family, l0 in rows], list(series()), axis, title, zero=1)


def _multiple(difference: Difference, end: str) -> float:
    value: float = 1 + getattr(difference, end) / difference.theirs
    return value
