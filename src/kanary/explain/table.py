"""Scores of many features as a table: a row per scorer, the explanations themselves beside their controls."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kanary.evaluation.tables import guarded
from kanary.explain.contrastive import Contrast
from kanary.explain.scorers import CHANCE
from kanary.explain.statistics import Estimate, mean
from kanary.explain.types import Explanation, Score
from kanary.files import write_text

ITSELF = "explanation"
"""The row that is no control."""


@dataclass(frozen=True)
class Result:
    """What was found of one latent."""

    explanation: Explanation
    scores: tuple[Score, ...]


@dataclass(frozen=True)
class Row:
    """The mean of one score over features."""

    what: str
    """``explanation``, or the name of a control."""
    scorer: str
    judge: str
    value: Estimate
    """95 % interval from resampling the features."""
    n: int
    """Features with a value; of the contrastive benchmark, concepts."""
    unscored: int
    """Features without one."""
    failures: int
    """Answers that were missing, in all."""
    more: Mapping[str, float]
    """Means of the scores' further numbers."""

    def to_json(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "scorer": self.scorer,
            "judge": self.judge,
            "value": self.value.value,
            "low": self.value.low,
            "high": self.value.high,
            "chance": CHANCE.get(self.scorer),
            "n": self.n,
            "unscored": self.unscored,
            "failures": self.failures,
            **self.more,
        }


def rows(scored: Mapping[str, Iterable[Sequence[Score]]], seed: int = 0) -> list[Row]:
    """``scored``: for the explanations and for every control the scores of each feature."""
    found = []
    for what, features in scored.items():
        by_scorer: dict[tuple[str, str], list[Score]] = {}
        for scores in features:
            for score in scores:
                by_scorer.setdefault((score.name, score.judge), []).append(score)
        for (scorer, judge), each in by_scorer.items():
            found.append(_row(what, scorer, judge, each, seed))
    return sorted(found, key=lambda row: row.scorer)  # stable: the explanations stay before their controls


def _row(what: str, scorer: str, judge: str, scores: Sequence[Score], seed: int) -> Row:
    values = [score.value for score in scores if score.value is not None]
    more = {}
    for key in dict.fromkeys(key for score in scores for key in score.more if not key.endswith(("_low", "_high"))):
        more[key] = float(np.mean([score.more[key] for score in scores if key in score.more]))
    estimate = mean(values, np.random.default_rng([seed, 11]))
    failures = sum(score.failures for score in scores)
    return Row(what, scorer, judge, estimate, len(values), len(scores) - len(values), failures, more)


def contrastive_row(what: str, found: Contrast) -> Row:
    """The contrastive benchmark of an SAE as a whole."""
    more = {
        "independence": found.independence.value,
        "interpretability": found.interpretability.value,
        "ce_bench_as_published": found.ce_bench,
    }
    known = {name: value for name, value in more.items() if value is not None}
    return Row(what, "contrastive", "none", found.contrastive, found.n, 0, 0, known)


def shown(table: Sequence[Row]) -> str:
    """The table as lines of text."""
    lines = [("score", "judge", "of", "mean", "95 % interval", "n", "failed")]
    for row in table:
        low, high = row.value.low, row.value.high
        interval = "" if low is None or high is None else f"{low:.3f} to {high:.3f}"
        value = "" if row.value.value is None else f"{row.value.value:.3f}"
        lines.append(
            (row.scorer, row.judge, row.what, value, interval, f"{row.n:,}", f"{row.failures + row.unscored:,}")
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def told(value: Estimate, digits: int = 3) -> str:
    """``0.672 [0.661, 0.683]``."""
    if value.value is None:
        return ""
    interval = "" if value.low is None or value.high is None else f" [{value.low:.{digits}f}, {value.high:.{digits}f}]"
    return f"{value.value:.{digits}f}{interval}"


def summary(table: Sequence[Row], *, sae: str, by: str, features: int, failed: int) -> str:
    """One line: every score of the explanations with its interval, judge and n."""
    parts = []
    for row in table:
        if row.what == ITSELF and row.value.value is not None:
            parts.append(f"{row.scorer} {told(row.value, 2)} (judge {row.judge}, n {row.n})")
    lost = f", {failed} without an explanation" if failed else ""
    missing = sum(row.failures for row in table if row.what == ITSELF)
    lost += f", {missing:,} answers missing" if missing else ""
    return f"{features:,} features of {sae} explained by {by}{lost}: {', '.join(parts) or 'not scored'}."


def write_explanations(path: Path, results: Mapping[int, Result]) -> None:
    """A row per feature and score, as CSV: explanation, score, interval, n, failures, and what the judge said."""
    header = ["latent", "title", "explanation", "by", "score", "judge", "value", "low", "high", "n", "failures", "said"]
    write_text(path, csv_text([header, *_explained(results)]))


def write_table(path: Path, table: Sequence[Row], **columns: str) -> None:
    """A row per score and control; ``columns`` are put before the others, the same in every row."""
    values = [columns | row.to_json() for row in table]
    names = list(dict.fromkeys(name for row in values for name in row))
    write_text(path, csv_text([names, *([row.get(name) for name in names] for row in values)]))


def _explained(results: Mapping[int, Result]) -> Iterator[list[Any]]:
    for latent, result in results.items():
        said = [latent, result.explanation.title, result.explanation.text, result.explanation.by]
        for score in result.scores:
            numbers = (score.value, score.low, score.high, score.n, score.failures)
            yield [*said, score.name, score.judge, *numbers, score.said]
        if not result.scores:
            yield [*said, *[None] * 8]


def csv_text(lines: Iterable[Sequence[Any]]) -> str:
    """Lines of cells as CSV; a text that a spreadsheet would take for a formula is guarded."""
    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for line in lines:
        writer.writerow([_cell(value) for value in line])
    return text.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return guarded(value)
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else value
