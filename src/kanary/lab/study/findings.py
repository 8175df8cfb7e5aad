"""What a study has found so far, put together once for its tables and its page."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from statistics import fmean, variance
from typing import TYPE_CHECKING, Any

from kanary.evaluation.comparison.matched import interpolate, t_quantile
from kanary.evaluation.result import Metric
from kanary.lab.study.cells import Cell, Role, Variant
from kanary.lab.study.judgement import Comparison, Numbers, Verdict, comparisons, verdicts
from kanary.lab.study.verdict import Difference, Outcome, difference, outcome

if TYPE_CHECKING:
    from kanary.lab.study.run import Study

AT_MATCHED_L0 = {"fvu": False, "ce_loss_score": True, "dead_share": False}
"""Metric of the stage of all sparsifiers -> whether higher is better."""


@dataclasses.dataclass(frozen=True)
class AtL0:
    """The best KAN family against a linear SAE with the same sparsifier, read at one L0."""

    setting: str
    l0: int
    sparsifier: str
    ours: Variant
    theirs: Variant
    metric: str
    difference: Difference
    outcome: Outcome


@dataclasses.dataclass(frozen=True)
class Findings:
    """Everything that the tables show."""

    study: "Study"
    numbers: Numbers
    comparisons: list[Comparison]
    verdicts: list[Verdict]
    best: str | None
    """The KAN family of the stage of all sparsifiers."""
    at_l0: list[AtL0]
    seeds: dict[tuple[str, Role], dict[str, Any]]
    """(setting, SAE) -> what its seeds have in common."""

    @classmethod
    def of(cls, study: "Study") -> "Findings":
        best = study.best()
        numbers = study.numbers(best)
        judged = numbers, study.design, study.grids
        return cls(
            study,
            numbers,
            list(comparisons(*judged, study.design.seeds)),
            verdicts(*judged),
            best,
            list(_at_l0(study, numbers, best)) if best else [],
            {
                (name, role): found
                for name, grid in study.grids.items()
                for role in grid.reported()
                if (found := study.compare_seeds(name, role))
            },
        )

    def values(self, setting: str, role: Role, metric: str) -> list[float]:
        """One per seed."""
        return list(self.numbers.of(setting, role, metric, self.study.design.seeds).values())


def mean_and_half(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and half the width of its 95 % interval (Student's t; NaN for one value)."""
    if not values:
        return math.nan, math.nan
    mean = fmean(values)
    if len(values) < 2:
        return mean, math.nan
    return mean, t_quantile(len(values) - 1) * math.sqrt(variance(values, mean) / len(values))


def _at_l0(study: "Study", numbers: Numbers, best: str) -> Iterator[AtL0]:
    for name, grid in study.grids.items():
        for sparsifier in ("", *study.design.matched.sparsifiers):
            variants = study.matched_variants(name, best, sparsifier)
            for theirs in variants[1:]:
                for l0 in grid.levels:
                    for metric, higher in AT_MATCHED_L0.items():
                        both = (_read(study, numbers, name, each, l0, metric) for each in (variants[0], theirs))
                        found = difference(*both)
                        if found.n:
                            verdict = outcome(found, higher_is_better=higher)
                            yield AtL0(name, l0, sparsifier or "topk", variants[0], theirs, metric, found, verdict)


def _read(study: "Study", numbers: Numbers, setting: str, variant: Variant, l0: int, metric: str) -> dict[int, float]:
    """Seed -> the metric at ``l0``: TopK has just that, others are interpolated in log L0 (see ``interpolate``)."""
    if not variant.sparsifier:
        return numbers.of(setting, Role(variant, l0), metric, study.design.seeds)
    found = {}
    for seed in study.design.seeds:
        cells = [Cell(setting, variant, target, seed) for target in study.design.matched.targets]
        known = [numbers.cells[cell] for cell in cells if cell in numbers.cells]
        curve = [
            (each["l0"], Metric(each[metric], each[metric], each[metric], 1))
            for each in known
            if each.get(metric) is not None
        ]
        reading = interpolate(curve, l0) if curve else None
        if reading is not None and not reading.wide:
            found[seed] = reading.metric.value
    return found
