"""The numbers of a study as CSV files."""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kanary.files import write_text
from kanary.lab.study.cells import Cell
from kanary.lab.study.findings import Findings, mean_and_half
from kanary.lab.study.verdict import Difference

Row = list[Any]
TABLES = ("verdicts", "paired", "summary", "cells", "tuning", "seeds", "matched")
PAIR = ("difference", "low", "high", "percent", "seeds", "outcome")


def write_tables(found: Findings, folder: Path) -> None:
    """Writes every one of ``TABLES``."""
    made = {
        "verdicts": _verdicts(found),
        "paired": _paired(found),
        "summary": _summary(found),
        "cells": _cells(found),
        "tuning": _tuning(found),
        "seeds": _seeds(found),
        "matched": _matched(found),
    }
    for name in TABLES:
        write_text(folder / f"{name}.csv", _csv(made[name]))


def _verdicts(found: Findings) -> list[Row]:
    settings = list(found.study.grids)
    rows = [
        [v.family, *(v.settings.get(name, "") for name in settings), v.outcome, v.confirmed, _number(v.gain)]
        for v in found.verdicts
    ]
    return [["family", *settings, "outcome", "confirmed", "gain"], *rows]


def _paired(found: Findings) -> list[Row]:
    rows = [
        [
            c.setting,
            c.family,
            c.l0,
            c.control,
            c.role.variant.name,
            c.role.l0,
            c.metric,
            *_pair(c.difference),
            c.outcome,
        ]
        for c in found.comparisons
    ]
    return [["setting", "family", "L0", "control", "SAE", "control_L0", "metric", *PAIR], *rows]


def _matched(found: Findings) -> list[Row]:
    rows = [
        [c.setting, c.l0, c.sparsifier, c.ours.name, c.theirs.name, c.metric, *_pair(c.difference), c.outcome]
        for c in found.at_l0
    ]
    return [["setting", "L0", "sparsifier", "KAN", "linear", "metric", *PAIR], *rows]


def _pair(d: Difference) -> Row:
    return [*map(_number, (d.mean, d.low, d.high, d.percent)), d.n]


def _cells(found: Findings) -> list[Row]:
    """One row per SAE."""
    metrics = _metrics(found)
    rows = [
        [cell.setting, cell.variant.family, cell.variant.name, cell.l0, cell.seed, *(values.get(m) for m in metrics)]
        for cell, values in found.numbers.cells.items()
    ]
    return [["setting", "family", "SAE", "L0_asked", "seed", *metrics], *rows]


def _summary(found: Findings) -> list[Row]:
    """Mean over seeds, and half the width of its interval, of every SAE."""
    names = [name for name in _metrics(found) if name != "failed"]
    rows: list[Row] = []
    for setting, grid in found.study.grids.items():
        for role in grid.reported():
            columns = [found.values(setting, role, name) for name in names]
            if n := max(map(len, columns), default=0):
                spread = [value for column in columns for value in mean_and_half(column)]
                rows.append([setting, role.variant.family, role.variant.name, role.l0, n, *map(_number, spread)])
    head = [column for name in names for column in (name, f"{name}_half")]
    return [["setting", "family", "SAE", "L0_asked", "seeds", *head], *rows]


def _tuning(found: Findings) -> list[Row]:
    """The learning rate of every SAE, and what was tried."""
    rows: list[Row] = []
    for setting, variant in dict.fromkeys((cell.setting, cell.variant) for cell in found.numbers.cells):
        if found.study.tuned([Cell(setting, variant, 0, 0)]):
            chosen = found.study.chosen(setting, variant)
            tried = " ".join(f"{rate:g}:{fvu:.4f}" for rate, fvu in chosen.tried.items())
            rows.append([setting, variant.name, chosen.rate, _number(chosen.lr), chosen.at_edge, tried])
    return [["setting", "SAE", "rate", "learning_rate", "at_edge", "tuning_fvu_by_rate"], *rows]


def _seeds(found: Findings) -> list[Row]:
    """What seeds have in common."""
    names = list(next(iter(found.seeds.values()), {}))
    rows = [
        [setting, role.variant.family, role.variant.name, role.l0, *(_number(values[name]) for name in names)]
        for (setting, role), values in found.seeds.items()
    ]
    return [["setting", "family", "SAE", "L0", *names], *rows]


def _metrics(found: Findings) -> list[str]:
    return list(dict.fromkeys(name for values in found.numbers.cells.values() for name in values))


def _csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _number(value: float | None) -> float | str:
    """Six digits; empty where there is none."""
    if value is None or not math.isfinite(value):
        return ""
    return float(f"{value:.6g}")
