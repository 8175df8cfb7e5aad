"""A comparison as one page that loads nothing: verdicts at matched L0, Pareto plots, every SAE as measured."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from kanary.evaluation.comparison.curves import COLUMNS, Match, Point
from kanary.evaluation.comparison.families import Family, count, listed
from kanary.evaluation.comparison.labels import setting_label
from kanary.evaluation.comparison.table import METHOD, by_family, counted, seeds, shown
from kanary.evaluation.pages.page import render
from kanary.evaluation.result import Metric
from kanary.svg import Axis, Series, lines

if TYPE_CHECKING:
    from kanary.evaluation.comparison.compare import Comparison

TITLES = {
    "explained_variance": "Explained variance",
    "ce_loss_score": "CE score (zero ablation)",
    "dead_share": "Dead latents",
}


def page(comparison: "Comparison") -> str:
    """The whole page as HTML; names from the runs are escaped."""
    saes = [entry for entry in comparison.entries if not entry.family.control]
    return render(
        "compare.html.jinja",
        title=f"{len(saes)} SAE{'s' if len(saes) != 1 else ''} at matched L0",
        runs=listed((entry.run for entry in saes), 12),
        families=len({entry.family for entry in saes}),
        held_out=_held_out(comparison),
        flags=[f"{flag.mark}: {flag.text}" for flag in comparison.flags],
        warnings=comparison.warnings,
        columns=[column.heading for column in COLUMNS.values()],
        levels=[level for l0 in comparison.at if (level := _level(comparison, l0))["rows"]],
        figures=[_figure(comparison, metric) for metric in TITLES],
        entries=list(_entries(comparison)),
        notes=[*METHOD, counted(comparison)],
    )


def _held_out(comparison: "Comparison") -> str:
    """What the SAEs were measured on, as far as they agree: the flags say where they do not."""
    alike = {
        (f"{count(h.get('tokens'))} tokens of {h.get('text')}", f"losses on {count(h.get('loss_tokens'))}")
        for h in (entry.held_out for entry in comparison.entries)
    }
    return f"Measured on {', '.join(alike.pop())}." if len(alike) == 1 else "Not all were measured on the same tokens."


def _level(comparison: "Comparison", l0: float) -> dict[str, Any]:
    rows = [
        _row(comparison, family) | {"seeds": seeds([m.estimate for m in cells.values()]), "cells": list(_cells(cells))}
        for family, cells in by_family(comparison, l0).items()
    ]
    return {"l0": f"{l0:g}", "rows": rows}


def _cells(cells: Mapping[str, Match]) -> Iterator[dict[str, Any] | None]:
    for metric, column in COLUMNS.items():
        match = cells.get(metric)
        yield match and {
            "value": shown(match.estimate, column),
            "best": match.verdict is not None and match.verdict.status == "best",
            "words": _words(match),
        }


def _words(match: Match) -> str:
    words = match.verdict.text if match.verdict else "control"
    return "; ".join([words, *([note] if (note := match.estimate.note) and note not in words else [])])


def _row(comparison: "Comparison", family: Family) -> dict[str, Any]:
    return {"name": comparison.labels[family], "marks": comparison.marks(family), "control": bool(family.control)}


def _entries(comparison: "Comparison") -> Iterator[dict[str, Any]]:
    """Every SAE and control by itself."""
    for entry in comparison.entries:
        l0, control = entry.metrics["l0"].value, bool(entry.family.control)
        yield _row(comparison, entry.family) | {
            "title": entry.title,
            "setting": setting_label(entry.setting),
            "seed": "–" if entry.seed is None else entry.seed,
            "tokens": "–" if control else count(entry.family.tokens_trained),
            "parameters": "–" if control else count(entry.about["parameters"]),
            "l0": f"{l0:.4g}" if math.isfinite(l0) else "–",
            "cells": [_number(entry.metrics, name) for name in COLUMNS],
        }


def _number(metrics: Mapping[str, Metric], name: str) -> str:
    value = metrics[name].value if name in metrics else math.nan
    if not math.isfinite(value):
        return "–"
    return (f"{100 * value:.2f} %" if COLUMNS[name].percent else f"{value:.4f}").replace("-", "−")


# --- plots --------------------------------------------------------------------------------------------------------


def _figure(comparison: "Comparison", metric: str) -> dict[str, Any]:
    """A plot, what it leaves out, and all of it as a table."""
    points = [p for p in comparison.points if metric in p.estimates and p.l0 > 0]
    low, high = _room(points, metric)
    drawn = [p for p in points if not p.family.control or low <= p.estimates[metric].mean <= high]
    off = _off(*(Counter(comparison.labels[p.family] for p in some) for some in (points, drawn)))
    cut = any(p.estimates[metric].low < low or p.estimates[metric].high > high for p in drawn)
    notes = ["Controls are dashed; those with a single L0 are points."] if any(p.family.control for p in drawn) else []
    notes += [f"Far off, so only in the table: {listed(off)}."] if off else []
    rows = [
        _row(comparison, point.family)
        | {
            "setting": setting_label(point.setting),
            "l0": f"{point.l0:.4g}",
            "value": shown(point.estimates[metric], COLUMNS[metric]),
            "over": point.estimates[metric].label,
        }
        for point in points
    ]
    return {
        "title": TITLES[metric],
        "heading": COLUMNS[metric].heading,
        "note": " ".join([*notes, *(["Bars that would leave the plot are cut."] if cut else [])]),
        "svg": _plot(comparison, drawn, metric, low, high),
        "rows": rows,
    }


def _off(every: Counter[str], drawn: Counter[str]) -> list[str]:
    """The names of those that are not drawn; of how many points, where others of the same name are."""
    lost = {name: n - drawn[name] for name, n in every.items() if n > drawn[name]}
    return [f"{name} ({n} of {every[name]} points)" if n < every[name] else name for name, n in lost.items()]


def _room(points: list[Point], metric: str) -> tuple[float, float]:
    """Between what values to draw: those of the SAEs, with as much again on either side."""
    means = [p.estimates[metric].mean for p in points if not p.family.control]
    if not means:
        return -math.inf, math.inf
    span = max(max(means) - min(means), 0.05 * abs(max(means)), 0.001)
    return min(means) - span, max(means) + span


def _plot(comparison: "Comparison", points: list[Point], metric: str, low: float, high: float) -> str:
    column = COLUMNS[metric]
    scale = 100 if column.percent else 1
    series = []
    # the controls of one kind are one series, with gaps between their families
    names = {family: family.control or label for family, label in comparison.labels.items()}
    for name in dict.fromkeys(names.values()):
        rows: list[tuple[float, ...]] = []
        for family in (family for family in names if names[family] == name):
            own = sorted((p for p in points if p.family == family), key=lambda p: p.l0)
            found = [(p.l0, p.estimates[metric]) for p in own]
            rows += [(math.nan,) * 4] if rows and own else []
            # a missing end stays NaN: max and min return their first argument then
            rows += [(l0, scale * e.mean, scale * max(e.low, low), scale * min(e.high, high)) for l0, e in found]
        if rows:
            xs, ys, lows, highs = zip(*rows, strict=True)
            series.append(Series(name, xs, ys, lows, highs, dashed=any(f.control == name for f in names)))
    y = Axis(TITLES[metric] + " (% of all)" * column.percent, low=0.0 if column.percent else None)
    return lines(series, Axis("L0, active latents per token", log=True), y, TITLES[metric])
