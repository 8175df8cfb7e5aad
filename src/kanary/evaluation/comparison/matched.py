"""Numbers at one L0, and what may be said of their differences: interpolation, intervals over seeds, verdicts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean, variance
from typing import Literal, NamedTuple

import numpy as np

from kanary.evaluation.result import Metric

CONFIDENCE = 0.95
ALONE = 0.01  # a single measured point speaks for L0s this close, as a share of the L0
BEYOND = 0.05  # a curve is followed this far beyond its ends, as a share of the L0; closer than this is "near"
WIDE = 2.0  # neighbours whose L0s differ by a greater factor say too little of what lies between for a verdict
FEW = 3  # seeds below which a verdict is marked
NODES, WEIGHTS = np.polynomial.legendre.leggauss(64)

Seed = int | None
Curve = Sequence[tuple[float, Metric]]
"""(L0, metric) of SAEs that differ in sparsity alone, in any order."""
Status = Literal["best", "tie", "worse", "no verdict", "alone"]


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its 95 % interval; of one seed, the number with its bootstrap interval over documents."""

    values: tuple[float, ...]
    """One per seed."""
    mean: float
    low: float
    high: float
    note: str = ""
    """How it was read off, where that was not at or between near points."""
    wide: bool = False
    """Read between points too far apart for a verdict."""

    @property
    def seeds(self) -> int:
        return len(self.values)

    @property
    def lack(self) -> str:
        """Why there can be no verdict."""
        return self.note if self.wide else "1 seed" if self.seeds < 2 else ""

    @property
    def half(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2

    @property
    def label(self) -> str:
        """What the interval is over."""
        return f"{self.seeds} seeds" if self.seeds > 1 else "1 seed: interval over documents only"


class Verdict(NamedTuple):
    """How a family compares with the best at one L0 in one metric."""

    status: Status
    loss: float = math.nan
    """How far behind the best, in units of the metric; positive is worse."""
    low: float = math.nan
    high: float = math.nan
    few: bool = False
    """Fewer than three seeds on a side."""
    why: str = ""
    """What a verdict is missing."""

    @property
    def text(self) -> str:
        """In words."""
        others = {"no verdict": f"no verdict ({self.why})", "alone": "nothing to compare with"}
        words = others.get(self.status, self.status)
        if self.status in ("tie", "worse") and not math.isnan(self.loss):
            words += f" by {self.loss:.3g}" if self.status == "worse" else f": {self.loss:.3g} behind"
            words += f" ({self.low:.3g} to {self.high:.3g})"
        return words.replace("-", "−") + (", few seeds" if self.few else "")


class Reading(NamedTuple):
    """A curve read off at one L0."""

    metric: Metric
    near: bool = True
    """A point was measured within 5 % of the L0."""
    note: str = ""
    wide: bool = False


def interpolate(curve: Curve, l0: float) -> Reading | None:
    """The metric at ``l0``, linear in log L0 between the two neighbouring measured points; None where none is near.

    The bootstrap limits are carried through with the same weights, as if the points moved together: they were measured
    on the same windows. Beyond the ends the last two points are followed for at most 5 % in L0, and never for more than
    the distance between them. A point alone speaks for L0s within 1 % of its own.
    """
    points = _merged(curve)
    if len(points) < 2:
        near = points and abs(l0 / points[0][0] - 1) <= ALONE + 1e-12
        return Reading(points[0][1]) if near else None
    right = next((i for i, (x, _) in enumerate(points) if x >= l0), len(points) - 1)
    (a, at_a), (b, at_b) = points[max(right, 1) - 1], points[max(right, 1)]
    share = math.log(l0 / a) / math.log(b / a)
    off = min(abs(l0 / end - 1) for end in (a, b))
    near = off <= BEYOND + 1e-12
    beyond, wide = not 0 <= share <= 1, b / a > WIDE + 1e-9 and not near
    if beyond and not (near and -1 <= share <= 2):
        return None
    note = f"nothing measured between L0 {a:.3g} and {b:.3g}" if wide else ""
    if beyond and off > ALONE:
        note = f"extrapolated from L0 {a if share < 0 else b:.4g}"
    return Reading(_weighted([(1 - share, at_a), (share, at_b)]), near, note, wide)


def _merged(curve: Curve) -> list[tuple[float, Metric]]:
    """Points that have an L0 and a number, by L0; those with the same L0 are averaged."""
    groups: dict[float, list[Metric]] = {}
    for l0, metric in sorted(curve):
        if l0 > 0 and math.isfinite(l0) and math.isfinite(metric.value):
            groups.setdefault(l0, []).append(metric)
    return [(l0, mean_metric(metrics)) for l0, metrics in groups.items()]


def mean_metric(metrics: Sequence[Metric]) -> Metric:
    """The mean of measurements that are not independent: the limits are averaged too."""
    return metrics[0] if len(metrics) == 1 else _weighted([(1 / len(metrics), metric) for metric in metrics])


def _weighted(terms: Sequence[tuple[float, Metric]]) -> Metric:
    """Sum of weight x metric; beyond the ends of a curve one weight is negative and swaps the limits."""
    terms = [(weight, metric) for weight, metric in terms if weight != 0]  # a measured point stays as it is
    value = math.fsum(weight * m.value for weight, m in terms)
    low = math.fsum(min(weight * m.low, weight * m.high) for weight, m in terms)
    high = math.fsum(max(weight * m.low, weight * m.high) for weight, m in terms)
    return Metric(value, low, high, min(m.n for _, m in terms))


def estimate(by_seed: Mapping[Seed, Metric]) -> Estimate | None:
    """The mean over seeds (what has none counts as one more); None where there is no number."""
    found = [m for m in by_seed.values() if math.isfinite(m.value)]
    values = tuple(m.value for m in found)
    if not found:
        return None
    if len(found) == 1:
        return Estimate(values, *found[0][:3])
    mean = fmean(values)
    half = t_quantile(len(values) - 1) * math.sqrt(variance(values, mean) / len(values))
    return Estimate(values, mean, mean - half, mean + half)


def welch(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    """(difference of means a - b, low, high): 95 % interval with unequal variances (Welch 1947).

    Both need two values or more. Without any variance the interval is a point.
    """
    difference = fmean(a) - fmean(b)
    parts = [(variance(values) / len(values), len(values) - 1) for values in (a, b)]
    total = sum(square for square, _ in parts)
    if total == 0:
        return difference, difference, difference
    df = 1 / sum((square / total) ** 2 / free for square, free in parts)  # Welch-Satterthwaite
    half = t_quantile(df) * math.sqrt(total)
    return difference, difference - half, difference + half


def verdicts(estimates: Sequence[Estimate], *, higher_is_better: bool) -> list[Verdict]:
    """Each estimate against the best of them, in their order.

    The best itself is called so only where every other is worse: with a tie it is part of the tie, and with a verdict
    missing nothing is said.
    """
    if len(estimates) == 1:
        return [Verdict("alone")]
    sign = 1 if higher_is_better else -1
    best = max(range(len(estimates)), key=lambda i: sign * estimates[i].mean)
    found = [
        Verdict("best") if i == best else _behind(estimates[best], other, sign) for i, other in enumerate(estimates)
    ]
    others = [verdict for i, verdict in enumerate(found) if i != best]
    if any(verdict.status != "worse" for verdict in others):
        tied = any(verdict.status == "tie" for verdict in others)
        rival = next((v.why for v in others if v.why), "")
        found[best] = Verdict("tie" if tied else "no verdict", why=estimates[best].lack or f"a rival: {rival}")
    return [
        v._replace(few=v.status in ("best", "tie", "worse") and min(e.seeds, estimates[best].seeds) < FEW)
        for v, e in zip(found, estimates, strict=True)
    ]


def _behind(best: Estimate, other: Estimate, sign: int) -> Verdict:
    if why := other.lack or (best.lack and f"the best: {best.lack}"):
        return Verdict("no verdict", why=why)
    difference, low, high = welch([sign * v for v in best.values], [sign * v for v in other.values])
    rounding = 1e-12 * abs(best.mean)  # seeds that agree in every digit leave no interval to hide it
    return Verdict("tie" if low <= rounding else "worse", difference, low, high)


@lru_cache(maxsize=4096)
def t_quantile(df: float) -> float:
    """The t for which a Student variable with ``df >= 1`` degrees of freedom lies within ±t with 95 % probability."""
    low, high = 0.0, 2.0
    while _within(high, df) < CONFIDENCE:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, df) < CONFIDENCE else (low, middle)
    return high


def _within(t: float, df: float) -> float:
    """P(|T| < t): the density's integral after x = sqrt(df) tan(angle), which leaves cos(angle)^(df - 1)."""
    top = math.atan(t / math.sqrt(df))
    integral = top / 2 * float(WEIGHTS @ np.cos(top / 2 * (NODES + 1)) ** (df - 1))
    return 2 / math.sqrt(math.pi) * math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) * integral
