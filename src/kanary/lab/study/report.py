"""What a study says, as one Markdown page to read."""

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from kanary.files import write_text
from kanary.lab.study.cells import Cell
from kanary.lab.study.findings import Findings, mean_and_half
from kanary.lab.study.folder import WAIT
from kanary.lab.study.judgement import DECIDES, curves_are_real
from kanary.lab.study.pictures import picture_file, write_pictures
from kanary.lab.study.tables import write_tables
from kanary.lab.study.verdict import Difference

if TYPE_CHECKING:
    from kanary.lab.study.run import Study

SHOWN = ("fvu", "ce_loss_score", "ce_loss_score_mean", "dead_share", "mcc", "feature_f1", "concept_auroc", "concept_f1")
"""Columns of the page; summary.csv has all."""
COSTS = ("parameters", "flops", "bits", "cpu_seconds", "peak_mb")
CURVES = ("decoder_curvature", "decoder_curved_share", "decoder_turning_angle", "straightened_fvu_lost")
WAITS = (
    "Not begun: it is for the best KAN family, which is known when all have been measured with all seeds in the real "
    "settings. To begin now, name one as `best` under `matched` in the study's file."
)
ACROSS = ("stability", "stability_chance", "curvature_correlation", "bend_cosine", "bend_cosine_chance", "curved_pairs")


def write_report(study: "Study", folder: Path) -> Path:
    """Writes every table and ``report.md``; returns the latter."""
    with study.results.claim("report", WAIT) as ours:
        if ours:  # else another process has been writing the same all the time
            found = Findings.of(study)
            write_tables(found, folder)
            write_pictures(found, folder)
            write_text(folder / "report.md", page(found))
    return folder / "report.md"


def page(found: Findings) -> str:
    """The whole page."""
    study = found.study
    outcomes = [*(c.outcome for c in found.comparisons), *(c.outcome for c in found.at_l0)]
    judged = sum(outcome != "no verdict" for outcome in outcomes)
    parts = [
        "# What the study found",
        f"{len(found.numbers.cells)} SAEs; seeds {', '.join(map(str, study.design.seeds))}. Differences are paired by seed, "
        "with 95 % intervals (Student's t); one whose interval holds 0 is a tie. The rule is in the study's README.md.",
        *study.notes,
        *_broken(found),
        "## How far it has come",
        _extent(found),
        "## Verdicts",
        _verdicts(found),
        *_questions(found),
        "## FVU against every control",
        *_pictures(found),
        _against(found),
        *_by_setting(found),
        "## Learned functions, and whether seeds agree on them",
        _curves(found),
        "## All sparsifiers at matched L0",
        *_matched(found),
        f"{judged} differences were judged. With nothing to find, one in twenty would still lie beyond its interval.",
    ]
    return "\n\n".join(parts) + "\n"


def _extent(found: Findings) -> str:
    """What is there of what the design asks for: where a family is not listed as complete, its verdict is open."""
    study, rows = found.study, []
    for setting, grid in study.grids.items():
        planned = [
            Cell(setting, role.variant, role.l0, seed) for role in grid.reported() for seed in study.design.seeds
        ]
        there = [cell for cell in planned if cell in found.numbers.cells]
        whole = [family for family in grid.families if _whole(found, setting, family)]
        rows.append([setting, f"{len(there)} of {len(planned)}", ", ".join(whole) or "none"])
    return markdown(
        ["setting", "SAEs", "families that are complete, with the controls that decide, at every L0 and seed"], rows
    )


def _whole(found: Findings, setting: str, family: str) -> bool:
    study, grid = found.study, found.study.grids[setting]
    return all(
        Cell(setting, role.variant, role.l0, seed) in found.numbers.cells
        for role in grid.reported((family,), study.design.decides)
        for seed in study.design.seeds
    )


def _broken(found: Findings) -> Iterator[str]:
    broken = [cell.id for cell, values in found.numbers.cells.items() if values.get("failed") is not None]
    if broken:
        yield f"Trainings that broke down, which count as losses: {', '.join(broken)}."


def _verdicts(found: Findings) -> str:
    design, settings = found.study.design, list(found.study.grids)
    real = any(design.settings[name].real for name in settings)
    rows = [
        [
            v.family,
            *(v.settings.get(name, "–") for name in settings),
            v.outcome if real else "nothing real was measured",
            v.confirmed or "–",
            f"{100 * v.gain:+.1f} %" if math.isfinite(v.gain) else "–",
        ]
        for v in found.verdicts
    ]
    head = ["family", *settings, "on real activations", "with new seeds", "FVU to the better control there"]
    return markdown(head, rows)


def _questions(found: Findings) -> Iterator[str]:
    head = ["setting", "family", "L0", "control", "metric", "difference (95 %)", "seeds", "outcome"]
    for question in found.study.design.questions:
        rows = [
            [
                c.setting,
                c.family,
                c.l0,
                f"{c.control}: {c.role.variant.name}",
                c.metric,
                *_words(c.difference),
                c.outcome,
            ]
            for c in found.comparisons
            if c.family in question.families and c.control in question.against and c.metric in question.metrics
        ]
        yield f"## {question.ask}"
        yield markdown(head, rows) if rows else "Nothing was measured for this yet."


def _words(d: Difference) -> tuple[str, int]:
    span = f" ({d.low:+.4g} to {d.high:+.4g})" if d.n > 1 else ""
    return f"{d.mean:+.4g}{span}", d.n


def _pictures(found: Findings) -> Iterator[str]:
    for setting in dict.fromkeys(c.setting for c in found.comparisons if c.metric == DECIDES):
        yield f"![{setting}: FVU of every family as a multiple of that of linear SAEs]({picture_file(setting)})"


def _against(found: Findings) -> str:
    controls = list(found.study.design.controls)
    places: dict[tuple[str, str, int], dict[str, str]] = {}
    for c in found.comparisons:
        if c.metric == DECIDES:
            d = c.difference
            span = f" ({100 * d.low / d.theirs:+.1f} to {100 * d.high / d.theirs:+.1f})" if d.n > 1 else ""
            places.setdefault((c.setting, c.family, c.l0), {})[c.control] = f"{d.percent:+.1f} %{span} {c.outcome}"
    rows = [[*place, *(cells.get(control, "") for control in controls)] for place, cells in places.items()]
    return markdown(["setting", "family", "L0", *controls], rows)


def _by_setting(found: Findings) -> Iterator[str]:
    for setting, grid in found.study.grids.items():
        rows = []
        for role in grid.reported():
            if seeds := len(found.values(setting, role, DECIDES)):
                shown = [_spread(found.values(setting, role, name)) for name in SHOWN]
                costs = [_plain(found.values(setting, role, name)) for name in COSTS]
                rows.append([role.variant.name, role.l0, seeds, *shown, *costs])
        yield f"## {setting}: {found.study.design.settings[setting].title}"
        yield markdown(["SAE", "L0", "seeds", *SHOWN, *COSTS], rows) if rows else "Nothing is finished here yet."


def _curves(found: Findings) -> str:
    rows = []
    for (setting, role), shared in found.seeds.items():
        values = [found.values(setting, role, name) for name in CURVES]
        if any(values) or role.variant == found.study.grids[setting].base("linear"):
            agreed = ["–" if shared[name] is None else f"{shared[name]:.3g}" for name in ACROSS]
            curved = curves_are_real(shared) if values[0] else "–"
            rows.append([setting, role.variant.name, role.l0, *map(_spread, values), *agreed, curved])
    return markdown(["setting", "SAE", "L0", *CURVES, *ACROSS, "curves"], rows)


def _matched(found: Findings) -> Iterator[str]:
    if not found.at_l0:
        yield "Nothing is finished here yet." if found.best else WAITS
        return
    named = "named in the design" if found.study.design.matched.best else "the best by the tuning split"
    yield f"The KAN family: {found.best}, {named}."
    head = ["setting", "L0", "sparsifier", "KAN", "linear", "metric", "difference (95 %)", "seeds", "outcome"]
    yield markdown(
        head,
        [
            [c.setting, c.l0, c.sparsifier, c.ours.name, c.theirs.name, c.metric, *_words(c.difference), c.outcome]
            for c in found.at_l0
        ],
    )


def markdown(head: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    """A table."""
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in (head, ["---"] * len(head), *rows))


def _spread(values: Sequence[float]) -> str:
    mean, half = mean_and_half(values)
    if math.isnan(mean):
        return "–"
    return f"{mean:.4g}" if math.isnan(half) else f"{mean:.4g} ± {half:.2g}"


def _plain(values: Sequence[float]) -> str:
    return f"{fmean(values):,.4g}" if values else "–"
