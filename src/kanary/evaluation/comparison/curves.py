"""Families at the L0s that were measured, and at one L0 between them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import NamedTuple

from kanary.evaluation.comparison.families import Entry, Family, Options, grouped
from kanary.evaluation.comparison.matched import (
    Curve,
    Estimate,
    Reading,
    Seed,
    Verdict,
    estimate,
    interpolate,
    mean_metric,
    verdicts,
)
from kanary.evaluation.result import Metric


class Column(NamedTuple):
    """A metric that is judged."""

    heading: str
    higher_is_better: bool = True
    percent: bool = False


COLUMNS = {
    "explained_variance": Column("EV"),
    "ce_loss_score": Column("CE score"),
    "ce_loss_score_mean": Column("CE (mean)"),
    "kl_div_score": Column("KL score"),
    "dead_share": Column("dead", higher_is_better=False, percent=True),
}


class Point(NamedTuple):
    """The SAEs (or controls) of one family and one setting, over seeds."""

    family: Family
    setting: Options
    estimates: Mapping[str, Estimate]

    @property
    def l0(self) -> float:
        return self.estimates["l0"].mean if "l0" in self.estimates else math.nan


class Match(NamedTuple):
    """A family's metric at one L0."""

    family: Family
    l0: float
    metric: str
    estimate: Estimate
    verdict: Verdict | None
    """None for controls, and for metrics that are not judged."""


def matches(families: Mapping[Family, list[Entry]], l0: float) -> list[Match]:
    """Every metric of every family that covers ``l0``, and the verdicts on those that are judged."""
    found = []
    for metric in metric_names(entry for group in families.values() for entry in group):
        rows = {family: value for family, group in families.items() if (value := at_l0(group, metric, l0))}
        judged: dict[Family, Verdict] = {}
        saes = [family for family in rows if not family.control]
        if metric in COLUMNS and saes:
            higher = COLUMNS[metric].higher_is_better
            judged = dict(zip(saes, verdicts([rows[f] for f in saes], higher_is_better=higher), strict=True))
        found += [Match(family, l0, metric, value, judged.get(family)) for family, value in rows.items()]
    return found


def at_l0(entries: Sequence[Entry], metric: str, l0: float) -> Estimate | None:
    """The metric of one family at ``l0``, each seed interpolated by itself; None where no seed covers it.

    Seeds measured near ``l0`` are not averaged with seeds that were read off a line between points further away.
    """
    read: dict[Seed, Reading] = {}
    for seed, group in grouped(entries, lambda e: e.seed).items():
        if (value := interpolate(_curve(group, metric), l0)) is not None:
            read[seed] = value
    near = {seed: value for seed, value in read.items() if value.near} or read
    found = _estimate({seed: value.metric for seed, value in near.items()}, metric)
    worst = max(near.values(), key=lambda r: (r.wide, r.note), default=None)
    return replace(found, note=worst.note, wide=worst.wide) if found and worst else None


def _estimate(by_seed: Mapping[Seed, Metric], metric: str) -> Estimate | None:
    """The mean over seeds; a share and its interval stay within 0 and 1, which extrapolation and t intervals may leave."""
    found = estimate(by_seed)
    if found is None or metric not in COLUMNS or not COLUMNS[metric].percent:
        return found
    mean, low, high = (min(max(v, 0.0), 1.0) for v in (found.mean, found.low, found.high))  # NaN stays
    return replace(found, mean=mean, low=low, high=high)


def _curve(entries: Sequence[Entry], metric: str) -> Curve:
    """One point per setting; what shares a seed and a setting is averaged."""
    points = []
    for group in grouped(entries, lambda e: e.setting).values():
        found = [e for e in group if metric in e.metrics and math.isfinite(e.metrics[metric].value)]
        if found:
            points.append(
                (fmean(e.metrics["l0"].value for e in found), mean_metric([e.metrics[metric] for e in found]))
            )
    return points


def measured(entries: Sequence[Entry]) -> list[Point]:
    """Families in order, and their settings by L0."""
    points = []
    for (family, setting), group in grouped(entries, lambda e: (e.family, e.setting)).items():
        estimates = {name: value for name in metric_names(group) if (value := _over_seeds(group, name))}
        if l0 := _over_seeds(group, "l0"):
            estimates["l0"] = l0
        points.append(Point(family, setting, estimates))
    return points


def _over_seeds(entries: Sequence[Entry], metric: str) -> Estimate | None:
    by_seed = {}
    for seed, group in grouped(entries, lambda e: e.seed).items():
        found = [e.metrics[metric] for e in group if metric in e.metrics and math.isfinite(e.metrics[metric].value)]
        if found:
            by_seed[seed] = mean_metric(found)
    return _estimate(by_seed, metric)


def metric_names(entries: Iterable[Entry]) -> list[str]:
    """Every metric but the L0: the judged ones first, the others in the order of the files."""
    names = dict.fromkeys([*COLUMNS, *(name for entry in entries for name in entry.metrics)])
    return [name for name in names if name != "l0"]
