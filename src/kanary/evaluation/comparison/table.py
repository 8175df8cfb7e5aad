"""A comparison as a table for the terminal, and as rows for CSV and JSON."""

import csv
import io
import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from kanary.evaluation.comparison.curves import COLUMNS, Column, Match, Point
from kanary.evaluation.comparison.families import Entry, Family
from kanary.evaluation.comparison.labels import setting_label
from kanary.evaluation.comparison.matched import Estimate, Verdict

if TYPE_CHECKING:
    from rich.table import Table

    from kanary.evaluation.comparison.compare import Comparison

NAME = 26  # columns for the names, of 100
SIGNS = {"best": "▲△", "tie": "=≈", "worse": "▼▽", "no verdict": "??", "alone": "  "}  # the second for few seeds
METHOD = (
    "Between measured points the numbers are linear in log L0; nothing is followed more than 5 % in L0 beyond them, and "
    "what is (by more than 1 %) is called extrapolated. Where some seeds have a point within 5 % of the L0, only these are "
    "averaged. Between points more than a factor of 2 apart there is no verdict: the line may err by as much as "
    "families differ.",
    "Intervals are 95 % t intervals over seeds, all judged on the same windows; with 1 seed the interval is over documents "
    "only, and says nothing of what another seed would give.",
    "A family is worse than the best where Welch's 95 % interval of the difference leaves out 0, else it is a tie; fewer "
    "than 3 seeds are marked as few.",
    "A letter marks the families that are unlike most in what is not like for like; all of them where there is no most.",
)


def shown(estimate: Estimate, column: Column) -> str:
    """``0.9612 ±0.0004``, with the decimals that the interval deserves; of one cut at 0 or 1 the other end."""
    scale = 100 if column.percent else 1
    mean, half = scale * estimate.mean, scale * estimate.half
    decimals = 1 if column.percent else 4 if half < 0.001 else 3  # a NaN is no reason for more
    width = "" if math.isnan(half) or (estimate.seeds == 1 and half == 0) else f" ±{half:.{decimals}f}"
    if column.percent and width and abs(estimate.low + estimate.high - 2 * estimate.mean) > 1e-9:
        up = estimate.low <= 0
        width = f" ({'≤' if up else '≥'}{scale * (estimate.high if up else estimate.low):.{decimals}f})"
    text = f"{round(mean, decimals) + 0.0:.{decimals}f}{width}{' %' if column.percent else ''}"
    return text.replace("-", "−")


def counted(comparison: "Comparison") -> str:
    """How many differences were judged, and what that means."""
    if not (n := comparison.comparisons):
        return "No difference was judged: that takes two families with two seeds each."
    return f"{n} differences were judged, each by itself: of {n} that are none, {n / 20:.2g} or more would be called worse."


# --- the terminal -------------------------------------------------------------------------------------------------


def terminal_table(comparison: "Comparison") -> "Table":
    """At matched L0 first, then as measured; controls below the SAEs."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title="At matched L0, then as measured: mean and 95 % interval over seeds",
        caption=Text("\n".join(_caption(comparison))),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("", overflow="fold", max_width=NAME)
    for heading in ("L0", "n", *(column.heading for column in COLUMNS.values())):
        table.add_column(heading, justify="right", no_wrap=True)
    for l0 in comparison.at:
        rows = by_family(comparison, l0)
        for family, cells in rows.items():
            table.add_row(
                Text(_name(comparison, family), style="dim" if family.control else ""),
                f"{l0:g}{_read(cells.values())}",
                seeds([match.estimate for match in cells.values()]),
                *(_cell(cells[name], column) if name in cells else "–" for name, column in COLUMNS.items()),
            )
        if rows:
            table.add_section()
    matched = {match.family for match in comparison.matched}
    for point in comparison.points:
        if point.family.control.endswith(" twin") and point.family in matched:
            continue  # long, and already above
        table.add_row(
            Text(f"{_name(comparison, point.family)} {setting_label(point.setting)}".rstrip(), style="dim"),
            f"{point.l0:.4g}" if math.isfinite(point.l0) else "–",
            seeds([point.estimates[name] for name in COLUMNS if name in point.estimates]),
            *(_measured(point, name) for name in COLUMNS),
        )
    return table


def by_family(comparison: "Comparison", l0: float) -> dict[Family, dict[str, Match]]:
    """The judged metrics at ``l0``, families in order, controls last."""
    rows: dict[Family, dict[str, Match]] = {}
    for match in comparison.matched:
        if match.l0 == l0 and match.metric in COLUMNS:
            rows.setdefault(match.family, {})[match.metric] = match
    return {family: rows[family] for family in comparison.labels if family in rows}


def seeds(estimates: list[Estimate]) -> str:
    """``3``, or ``2–3`` where metrics differ."""
    found = sorted({estimate.seeds for estimate in estimates}) or [0]
    return f"{found[0]}" if found[0] == found[-1] else f"{found[0]}–{found[-1]}"


def _name(comparison: "Comparison", family: Family) -> str:
    marks = comparison.marks(family)
    return comparison.labels[family] + (f" [{marks}]" if marks else "")


def _read(matches: Iterable[Match]) -> str:
    """How a row was read off."""
    found = [match.estimate for match in matches if match.estimate.note]
    return "" if not found else "↔" if any(estimate.wide for estimate in found) else "→"


def _cell(match: Match, column: Column) -> str:
    verdict = match.verdict or Verdict("alone")
    return _tight(match.estimate, column) + SIGNS[verdict.status][verdict.few]


def _measured(point: Point, metric: str) -> str:
    if metric not in point.estimates:
        return "–"
    return _tight(point.estimates[metric], COLUMNS[metric]) + " "


def _tight(estimate: Estimate, column: Column) -> str:
    return shown(estimate, column).replace(" ", "").replace("±0.", "±.")


def _caption(comparison: "Comparison") -> Iterator[str]:
    yield "▲ best  = tie with the best  ▼ worse (△ ≈ ▽: few seeds, under 3)  ? no verdict (1 seed, or ↔)"
    yield "L0 →: extrapolated; ↔: from points more than a factor of 2 apart. [a]: unlike most, or all unlike."
    yield "n: seeds; with 1 seed the interval is over documents only. Twins as measured are in the page, CSV and JSON."
    yield counted(comparison)
    for flag in comparison.flags:
        yield f"[{flag.mark}] not like for like: {flag.text}"


# --- CSV and JSON -------------------------------------------------------------------------------------------------


def to_csv(comparison: "Comparison") -> str:
    """Rows marked ``sae`` or ``control`` hold one as measured; rows marked ``matched`` one family, L0 and metric."""
    rows = [
        _entry(comparison, entry) | {name: metric.value for name, metric in entry.metrics.items()}
        for entry in comparison.entries
    ]
    rows += [_match(comparison, match) for match in comparison.matched]
    file = io.StringIO()
    writer = csv.DictWriter(file, dict.fromkeys(key for row in rows for key in row), lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(_null, rows))
    return file.getvalue()


def to_json(comparison: "Comparison") -> dict[str, Any]:
    """The same for other programs; a number that does not exist is null."""
    saes = [
        _entry(comparison, entry)
        | {"metrics": {name: _null(metric._asdict()) for name, metric in entry.metrics.items()}, "about": entry.about}
        for entry in comparison.entries
    ]
    return {
        "format": "kanary-comparison-1",
        "at": list(comparison.at),
        "saes": [_null(row) for row in saes if row["row"] == "sae"],
        "controls": [_null(row) for row in saes if row["row"] == "control"],
        "matched": [_null(_match(comparison, match)) for match in comparison.matched],
        "not_like_for_like": [
            {"mark": f.mark, "text": f.text, "families": sorted(comparison.labels[x] for x in f.families)}
            for f in comparison.flags
        ],
        "warnings": comparison.warnings,
        "comparisons": comparison.comparisons,
    }


def _entry(comparison: "Comparison", entry: Entry) -> dict[str, Any]:
    control = bool(entry.family.control)
    return (
        {"row": "control" if control else "sae"}
        | _family(comparison, entry.family)
        | {
            "run": entry.run,
            "sae": entry.name,
            "parameters": None if control else entry.about["parameters"],
            "setting": setting_label(entry.setting),
            "seed": entry.seed,
            "weights": None if control else entry.about["weights"],
            "l0": entry.metrics["l0"].value,
        }
    )


def _match(comparison: "Comparison", match: Match) -> dict[str, Any]:
    verdict, estimate = match.verdict, match.estimate
    row = {"row": "matched"} | _family(comparison, match.family)
    row |= {
        "l0": match.l0,
        "metric": match.metric,
        "value": estimate.mean,
        "low": estimate.low,
        "high": estimate.high,
        "seeds": estimate.seeds,
        "interval": estimate.label,
        "read": estimate.note or "measured or interpolated",
    }
    if verdict is not None:
        words = verdict.status + (", few seeds" if verdict.few else "")
        row |= {"verdict": words, "behind": verdict.loss, "behind_low": verdict.low, "behind_high": verdict.high}
    return row


def _family(comparison: "Comparison", family: Family) -> dict[str, Any]:
    alike = ("control", "site", "kind", "encoder", "decoder", "d_sae", "tokens_trained")
    row = {"family": comparison.labels[family], "not_like_for_like": comparison.marks(family)}
    return row | {name: getattr(family, name) for name in alike}


def _null(row: dict[str, Any]) -> dict[str, Any]:
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}
