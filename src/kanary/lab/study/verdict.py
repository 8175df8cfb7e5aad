"""Paired differences between SAEs of the same seeds, and the rule by which a family wins."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, variance
from typing import Literal, NamedTuple

from kanary.evaluation.comparison.matched import t_quantile

Outcome = Literal["win", "tie", "loss", "mixed", "no verdict"]


class Difference(NamedTuple):
    """Ours less theirs, paired by seed, with its 95 % interval (Student's t)."""

    mean: float
    low: float
    high: float
    n: int
    """Seeds that both have."""
    theirs: float
    """Their mean over these seeds."""

    @property
    def percent(self) -> float:
        """The difference as a share of theirs, in %."""
        return 100 * self.mean / self.theirs if self.theirs else math.nan


def difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Difference:
    """Seed -> number, of two SAEs trained on the same batches. Without two seeds in common there is no interval."""
    both = [seed for seed in ours if seed in theirs and math.isfinite(ours[seed]) and math.isfinite(theirs[seed])]
    if not both:
        return Difference(math.nan, math.nan, math.nan, 0, math.nan)
    values = [ours[seed] - theirs[seed] for seed in both]
    mean, other = fmean(values), fmean(theirs[seed] for seed in both)
    if len(both) < 2:
        return Difference(mean, math.nan, math.nan, 1, other)
    half = t_quantile(len(values) - 1) * math.sqrt(variance(values, mean) / len(values))
    return Difference(mean, mean - half, mean + half, len(values), other)


def outcome(found: Difference, *, higher_is_better: bool) -> Outcome:
    """A difference whose interval holds 0 is a tie."""
    if found.n < 2:
        return "no verdict"
    low, high = (found.low, found.high) if higher_is_better else (-found.high, -found.low)
    return "win" if low > 0 else "loss" if high < 0 else "tie"


def at_level(against: Sequence[Outcome], veto: Sequence[Outcome] = ()) -> Outcome:
    """One family at one L0.

    Args:
        against: its outcomes against all the controls that decide: it must beat every one, and loses to any.
        veto: its outcomes in something that must not get worse: a win that is a loss there is mixed.
    """
    if not against or "no verdict" in against:
        return "no verdict"
    if "loss" in against:
        return "loss"
    if any(each != "win" for each in against):
        return "tie"
    return "mixed" if "loss" in veto else "win"


def in_setting(levels: Sequence[Outcome]) -> Outcome:
    """One family in one setting, from its outcomes at every L0: more than half of them decide, unless others contradict."""
    if not levels or "no verdict" in levels:
        return "no verdict"
    wins, losses = levels.count("win"), levels.count("loss")
    if (wins and losses) or "mixed" in levels:
        return "mixed"
    return "win" if 2 * wins > len(levels) else "loss" if 2 * losses > len(levels) else "tie"


def over_settings(settings: Sequence[Outcome]) -> Outcome:
    """One family in the whole study: it wins where it wins in any of the settings that decide."""
    order: tuple[Outcome, ...] = ("win", "mixed", "tie", "loss")
    return next((each for each in order if each in settings), "no verdict")
