"""An evaluation as CSV files, for spreadsheets and data frames.

UTF-8, lines end in ``\\n``, text is quoted, numbers are not. A number that does not exist is an empty cell; every other
has as many digits as it takes to read the same number back.
"""

import csv
import math
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import repeat
from pathlib import Path

from kanary.evaluation.result import Evaluation, flat
from kanary.files import disk_errors, write_atomic
from kanary.text.labelled import find_concept

Cell = str | int | float | None
MODEL_ALONE = "model alone"
LOSSES = (
    "ce_loss_without_sae",
    "ce_loss_with_sae",
    "ce_loss_with_ablation",
    "ce_loss_with_mean_ablation",
    "ce_loss_score",
    "ce_loss_score_mean",
    "kl_div_with_sae",
    "kl_div_score",
    "kl_div_score_mean",
    "top1_agreement",
)
"""The metrics of ``losses.csv``."""
TABLES = ("l0.csv", "losses.csv", "capability.csv", "logit_weights.csv", "concepts.csv")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write_tables(folder: Path, evaluation: Evaluation, decode: Callable[[int], str]) -> None:
    """Writes the tables into ``folder``, each of them whole or not at all.

    - ``l0.csv``: how many tokens have how many active latents, per SAE.
    - ``losses.csv``: what each SAE and control does to the model's predictions, with 95 % intervals.
    - ``capability.csv``: one line per prompt and answerer, the model alone first.
    - ``logit_weights.csv``: one line per latent.
    - ``concepts.csv``: one line per SAE or control and concept of the labelled corpus.

    A table for which the evaluation has nothing is not written, and one of an earlier evaluation is removed.

    Args:
        decode: token id -> its text.

    Raises:
        KanaryError: the disk is full, or the folder forbidden.
    """
    _write(folder / "l0.csv", ("sae", "active_latents", "tokens"), _l0(evaluation))
    _write(folder / "losses.csv", _loss_columns(), _losses(evaluation))
    columns = ("prompt", "answer", "document", "name", "rank", "probability", "continuation")
    _write(folder / "capability.csv", columns, _capability(evaluation))
    _write(
        folder / "logit_weights.csv",
        ("sae", "latent", "density", "firings", *_WEIGHTS),
        _logit_weights(evaluation, cache(decode)),
    )
    _write(folder / "concepts.csv", CONCEPTS, _concepts(evaluation))


def guarded(text: str) -> str:
    """``text`` with an apostrophe before it if a spreadsheet would take it for a formula.

    Prompts and tokens are arbitrary text, and ``=HYPERLINK(…)`` in a cell runs when the file is opened (OWASP, "CSV
    injection"). This is the one change that a text undergoes on its way into a table.
    """
    return "'" + text if text.startswith(_FORMULA) else text


def _write(path: Path, columns: Iterable[str], rows: Iterator[list[Cell]]) -> None:
    first = next(rows, None)
    if first is None:
        with disk_errors(path):
            path.unlink(missing_ok=True)
        return

    def write(partial: Path) -> None:
        with partial.open("w", encoding="utf-8", newline="") as file:
            # all text is quoted, because before Python 3.13 the writer leaves a lone carriage return bare
            table = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
            table.writerow(columns)
            table.writerow(map(_cell, first))
            table.writerows(map(_cell, row) for row in rows)

    write_atomic(path, write)


def _cell(value: Cell) -> Cell:
    if isinstance(value, str):
        return guarded(value)
    return None if value is None or not math.isfinite(value) else value


def _l0(evaluation: Evaluation) -> Iterator[list[Cell]]:
    for name, details in evaluation.details.items():
        for active, tokens in zip(details.l0_values.tolist(), details.l0_counts.tolist(), strict=True):
            yield [name, active, tokens]


def _loss_columns() -> list[str]:
    return ["name", "is_control", "site", *(f"{name}{end}" for name in LOSSES for end in ("", "_low", "_high")), "n"]


def _losses(evaluation: Evaluation) -> Iterator[list[Cell]]:
    sites = {name: about.get("site") for name, about in evaluation.about.items()}
    sites |= {twin: sites[name] for name, about in evaluation.about.items() for twin in about.get("twins", ())}
    for rows, is_control in ((evaluation.saes, "false"), (evaluation.controls, "true")):
        for name, groups in rows.items():
            metrics = flat(groups)
            n = next((metrics[loss].n for loss in LOSSES if loss in metrics), None)
            numbers: list[Cell] = [each for loss in LOSSES for each in metrics.get(loss, (None,) * 4)[:3]]
            # the identity and a PCA carry their site in their names
            yield [name, is_control, sites.get(name) or name.partition(" at ")[2] or None, *numbers, n]


def _capability(evaluation: Evaluation) -> Iterator[list[Cell]]:
    found = evaluation.capability
    if found is None:
        return
    answers = {MODEL_ALONE: found.without, **found.rows}
    for number, prompt in enumerate(found.prompts):
        for name, row in answers.items():
            answer = row[number]
            asked: list[Cell] = [prompt.text, prompt.answer, prompt.document]
            yield [*asked, name, answer.rank, answer.probability, answer.continuation]


CONCEPTS = (
    *("name", "is_control", "site", "concept", "parent", "positives", "documents"),
    *("unit", "sign", "auroc", "auroc_low", "auroc_high", "sibling_auroc"),
    *("f1_unit", "f1_sign", "threshold", "f1", "f1_low", "f1_high", "precision", "recall"),
    *("probe_1", "probe_2", "probe_5", "probe_all"),
    *("graded_unit", "graded_r", "graded_r_low", "graded_r_high"),
)
"""The columns of ``concepts.csv``; numbers of probes are accuracies."""


def _concepts(evaluation: Evaluation) -> Iterator[list[Cell]]:
    if evaluation.concepts is None:
        return
    for name, row in evaluation.concepts.concepts.rows.items():
        probes = evaluation.concepts.probes.get(name, {})
        for concept, found in row.found.items():
            unit: list[Cell] = [found.unit, found.sign, *found.auroc[:3], found.sibling_auroc.value]
            best: list[Cell] = [found.f1_unit, found.f1_sign, found.threshold, *found.f1[:3]]
            best += [found.precision.value, found.recall.value]
            scores = [probes[k].scores.get(concept) if k in probes else None for k in ("1", "2", "5", "all")]
            graded = row.graded.get(concept)
            yield [
                *(name, "false" if name in evaluation.saes else "true", row.site),
                *(concept, find_concept(concept).parent or "", found.positives, found.documents),
                *unit,
                *best,
                *(score and score.accuracy.value for score in scores),
                *((graded.unit, *graded.r[:3]) if graded else (None,) * 4),
            ]


_WEIGHTS = {  # column -> field of LatentTable
    "mean": "logit_mean",
    "std": "logit_std",
    "skewness": "logit_skewness",
    "kurtosis": "logit_kurtosis",
    "highest_token": "highest_token",
    "lowest_token": "lowest_token",
    "max_decoder_cosine": "max_decoder_cosine",
}


def _logit_weights(evaluation: Evaluation, decode: Callable[[int], str]) -> Iterator[list[Cell]]:
    for name, table in evaluation.latents.items():
        details = evaluation.details.get(name)
        firings = None if details is None else details.firings
        density = None if details is None else details.firings.double() / details.tokens
        columns: list[Iterable[Cell]] = [repeat(None) if each is None else each.tolist() for each in (density, firings)]
        for column, field in _WEIGHTS.items():
            values = getattr(table, field)
            cells = repeat(None) if values is None else values.tolist()
            columns.append(map(decode, cells) if column.endswith("_token") and values is not None else cells)
        for latent, row in enumerate(zip(*columns, strict=False)):
            yield [name, latent, *row]
