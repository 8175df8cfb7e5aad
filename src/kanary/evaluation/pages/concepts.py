"""The report's tables on the labelled corpus: what latents, neurons and controls tell of its concepts."""

import math
from collections.abc import Iterator
from typing import NamedTuple

from kanary.evaluation.concepts.best import Found
from kanary.evaluation.concepts.ground_truth import GroundTruth
from kanary.evaluation.concepts.measure import shuffled_name
from kanary.evaluation.pages.glossary import CONCEPT_UNITS, CONCEPTS
from kanary.evaluation.pages.pictures import NOTHING, controls_of, interval, short
from kanary.evaluation.result import Evaluation
from kanary.scales import number
from kanary.text.labelled import find_concept


class Row(NamedTuple):
    """One number of the SAE beside its controls."""

    name: str
    explanation: str
    cells: list[tuple[str, str]]
    """Value, and its interval or what else belongs to it; the SAE's first."""
    n: str
    """With its unit, where rows of one table have several."""


class Tables(NamedTuple):
    """What the report shows of one SAE."""

    columns: list[str]
    groups: list[tuple[str, list[Row]]]
    tokens: int
    documents: int
    too_rare: dict[str, str]
    notes: list[str]
    """What has no number, and why."""


def concept_tables(evaluation: Evaluation, name: str) -> Tables | None:
    """The tables of the SAE ``name``; None where no concepts were looked for."""
    truth = evaluation.concepts
    if truth is None:
        return None
    site = truth.concepts.rows[name].site
    controls = {control: short(evaluation, control, name) for control in controls_of(evaluation, name)}
    twins = {control: words for control, words in controls.items() if control in truth.rows}
    own = {f"neurons at {site}": "neurons", f"random directions at {site}": "random directions"}
    own |= twins
    own[shuffled_name(name)] = "shuffled labels"
    rows = [name, *own]
    groups = [
        ("Over all concepts", list(_summaries(truth, rows))),
        ("Concept by concept: AUROC of the best unit", list(_concepts(truth, rows))),
    ]
    left_out = truth.concepts.left_out
    notes = [_DASHES, *(f"Left out: {controls[each]}. {left_out[each]}." for each in controls if each in left_out)]
    counts = truth.concepts.tokens, truth.concepts.documents
    return Tables([name, *own.values()], groups, *counts, dict(truth.concepts.too_rare), notes)


_DASHES = (
    "All rows are over the same concepts. A dash stands for what was not measured: random directions have no probes, probes "
    "on all coordinates are those of the neurons, and what fires or is silent are latents alone."
)


def _summaries(truth: GroundTruth, rows: list[str]) -> Iterator[Row]:
    summaries = [truth.summary(row) for row in rows]
    for key in dict.fromkeys(key for summary in summaries for key in summary):
        cells = [summary.get(key, NOTHING) for summary in summaries]
        n, unit = next((m.n for m in cells if m.n), 0), CONCEPT_UNITS.get(key, "")
        counted = f"{n:,} {unit}{'s' if unit and n != 1 else ''}".strip()
        yield Row(key, CONCEPTS.get(key, ""), [(number(m.value), interval(m)) for m in cells], counted)


def _concepts(truth: GroundTruth, rows: list[str]) -> Iterator[Row]:
    mine = truth.concepts.rows[rows[0]].found
    for concept in sorted(mine, key=lambda name: -mine[name].auroc.value):
        found = [truth.concepts.rows[row].found[concept] for row in rows]
        cells = [_cell(row, each) for row, each in zip(rows, found, strict=True)]
        yield Row(concept, find_concept(concept).says, cells, f"{found[0].positives:,} tokens")


def _cell(row: str, found: Found) -> tuple[str, str]:
    """AUROC; below it the unit, and how well it tells the concept from its siblings."""
    what = "neuron" if row.startswith("neurons") else "direction" if row.startswith("random directions") else "latent"
    what = "component" if row.startswith("PCA") else what
    words = f"{'−' if found.sign < 0 else ''}{what} {found.unit}"
    if math.isfinite(found.sibling_auroc.value):
        words += f"; siblings {number(found.sibling_auroc.value)}"
    return number(found.auroc.value), words
