"""What a job found: for people in a few lines, for programs in files, for the app in the index."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kanary.explain.scorers import CHANCE
from kanary.explain.statistics import Estimate, spearman
from kanary.explain.table import Result, Row, summary, write_explanations, write_table
from kanary.features.index import FeatureIndex
from kanary.files import write_json

_ROOM = 5  # features with a best concept that an agreement needs


@dataclass(frozen=True)
class Explained:
    """What a job found; the explanations are in the index's labels too."""

    sae: str
    by: str
    asked: int
    """Features that were to be explained."""
    results: Mapping[int, Result]
    failed: Mapping[int, str]
    """Latent -> why it has no explanation."""
    table: Sequence[Row]
    agreement: Mapping[str, tuple[Estimate, int]]
    """Scorer -> rank correlation of its scores with the F1 of the feature's best concept, and n; on the labelled corpus."""
    spent: str
    """What calls of a language model cost, in a sentence; empty without any."""
    usd: float
    """US dollars that were, or may have been, charged; 0 where no price is known."""
    stopped: str
    """Why it ended before the last feature or control; empty if it did not."""
    folder: Path
    """Where explanations.csv, table.csv and summary.json are."""

    @property
    def summary(self) -> str:
        """One line for people."""
        return summary(self.table, sae=self.sae, by=self.by, features=len(self.results), failed=len(self.failed))

    @property
    def remarks(self) -> list[str]:
        """Lines for people beside the table: how scores go with the truth, costs, and what went wrong."""
        found = []
        for name, (r, n) in self.agreement.items():
            if r.value is not None and r.low is not None:
                found.append(
                    f"Rank correlation of {name} with the F1 of the best concept: {r.value:.2f} "
                    f"[{r.low:.2f}, {r.high:.2f}] (n {n})."
                )
        reasons = Counter(self.failed.values())
        found += [f"{count} without an explanation: {why}." for why, count in reasons.most_common(3)]
        found += [self.spent] if self.spent else []
        if self.stopped:
            done = len(self.results) + len(self.failed)
            found.append(f"Stopped when {done:,} of {self.asked:,} features were done: {self.stopped}")
        return [*found, f"Tables: {self.folder}"]

    def write(self, **about: Any) -> None:
        """Into its folder.

        Args:
            about: what else summary.json is to say.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        write_explanations(self.folder / "explanations.csv", self.results)
        write_table(self.folder / "table.csv", self.table)
        about |= {"summary": self.summary, "asked": self.asked, "stopped": self.stopped}
        about |= {"spent": self.spent, "usd": self.usd}
        about |= {"failed": {str(latent): why for latent, why in self.failed.items()}}
        about |= {"agreement": {name: [*estimate, n] for name, (estimate, n) in self.agreement.items()}}
        write_json(self.folder / "summary.json", about | {"rows": [row.to_json() for row in self.table]})


def keep(index: FeatureIndex, results: Mapping[int, Result]) -> None:
    """With the index's labels, where the app finds them; the judge is part of a score's name, and so seen with the score."""
    index.labels.add_explanations(_label(latent, result) for latent, result in results.items())


def _label(latent: int, result: Result) -> tuple[int, str, str, list[dict[str, Any]], str | None]:
    scores = [
        {
            "name": f"{s.name}, {s.judge}",
            "value": s.value,
            "low": s.low,
            "high": s.high,
            "n": s.n,
            "failures": s.failures,
            "chance": CHANCE.get(s.name),
        }
        for s in result.scores
        if s.value is not None
    ]
    explanation = result.explanation
    return latent, explanation.text, explanation.by, scores, explanation.title


def agreement(index: FeatureIndex, results: Mapping[int, Result], seed: int) -> dict[str, tuple[Estimate, int]]:
    """Of the features that have a best concept, how scores go with its F1."""
    f1 = index.columns().get("f1")
    if f1 is None:
        return {}
    pairs: dict[str, list[tuple[float, float]]] = {}
    for latent, result in results.items():
        for score in result.scores:
            if score.value is not None and np.isfinite(f1[latent]):
                pairs.setdefault(score.name, []).append((score.value, float(f1[latent])))
    draw = np.random.default_rng([seed, 31])
    found: dict[str, tuple[Estimate, int]] = {}
    for name, each in pairs.items():
        scores, best = (np.array(column) for column in zip(*each, strict=True))
        if len(each) >= _ROOM:
            found[name] = spearman(scores, best, draw), len(each)
    return found
