"""An evaluation as CSV files, for spreadsheets and data frames.

UTF-8, lines end in ``\\n``, text is quoted, numbers are not. A number that does not exist is an empty cell; every other
has as many digits as it takes to read the same number back.
"""

import csv
import math
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

from torch import Tensor

from kanary.evaluation.result import Details, Evaluation, LatentTable, Metric
from kanary.files import disk_errors, write_atomic

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
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write_tables(folder: Path, evaluation: Evaluation, decode: Callable[[int], str]) -> None:
    """Writes the four tables into ``folder``, each of them whole or not at all.

    - ``l0.csv``: how many tokens have how many active latents, per SAE.
    - ``losses.csv``: what each SAE and control does to the model's predictions, with 95 % intervals.
    - ``capability.csv``: one line per prompt and answerer, the model alone first.
    - ``logit_weights.csv``: one line per latent.

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
    _write(folder / "logit_weights.csv", tuple(_WEIGHTS), _logit_weights(evaluation, cache(decode)))


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
    for rows, is_control in ((evaluation.saes, "false"), (evaluation.controls, "true")):
        for name, groups in rows.items():
            metrics = {metric: value for group in groups.values() for metric, value in group.items()}
            numbers: list[Cell] = []
            for loss in LOSSES:
                numbers += metrics[loss][:3] if loss in metrics else (None, None, None)
            yield [name, is_control, _site(name, evaluation), *numbers, _tokens(metrics)]


def _tokens(metrics: dict[str, Metric]) -> int | None:
    return next((metrics[loss].n for loss in LOSSES if loss in metrics), None)


def _site(name: str, evaluation: Evaluation) -> Cell:
    """Where the SAE or control was put; controls carry it in their names, or belong to an SAE."""
    for sae, about in evaluation.about.items():
        if name == sae or name in about.get("twins", ()):
            site: Cell = about.get("site")
            return site
    return name.rpartition(" at ")[2] if " at " in name else None


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


_WEIGHTS = (
    "sae",
    "latent",
    "density",
    "firings",
    "mean",
    "std",
    "skewness",
    "kurtosis",
    "highest_token",
    "lowest_token",
    "max_decoder_cosine",
)


def _logit_weights(evaluation: Evaluation, decode: Callable[[int], str]) -> Iterator[list[Cell]]:
    for name, table in evaluation.latents.items():
        columns = list(_latent_columns(table, evaluation.details.get(name), decode))
        for latent, row in enumerate(zip(*columns, strict=True)):
            yield [name, latent, *row]


def _latent_columns(
    table: LatentTable, details: Details | None, decode: Callable[[int], str]
) -> Iterator[Iterable[Cell]]:
    """The columns after ``sae`` and ``latent``, ``d_sae`` cells each."""
    absent: list[Cell] = [None] * len(table.max_decoder_cosine)

    def numbers(values: Tensor | None) -> list[Cell]:
        return absent if values is None else values.tolist()

    def tokens(ids: Tensor | None) -> Iterable[Cell]:
        return absent if ids is None else map(decode, ids.tolist())

    yield numbers(None if details is None else details.firings.double() / details.tokens)
    yield numbers(None if details is None else details.firings)
    for moment in (table.logit_mean, table.logit_std, table.logit_skewness, table.logit_kurtosis):
        yield numbers(moment)
    yield tokens(table.highest_token)
    yield tokens(table.lowest_token)
    yield numbers(table.max_decoder_cosine)
