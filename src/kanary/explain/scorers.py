"""What is asked of a judge about held-out excerpts, and what the answers amount to.

Detection, fuzzing and the intruder are defined as in delphi (Paulo et al., arXiv 2410.13928), the simulation as by Bills et
al. (2023), the rubric as in RouteSAE (arXiv 2503.08200). Every number has its interval, from resampling the excerpts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kanary.explain.embedding import Embedding
from kanary.explain.statistics import Estimate, correlation, mean, pearson, separation
from kanary.explain.types import Evidence, Excerpt, Explanation, Failed, Judge, Score, Scorer

MARKED = 0.3
"""Tokens are marked whose activation is at least this share of their excerpt's largest."""
INTRUDERS = 10
"""Questions about an intruder per latent."""
SET = 5
"""Excerpts in a question about an intruder: one of them does not belong, so that guessing is right in one of five."""
CHANCE = {
    "detection": 0.5,
    "fuzzing": 0.5,
    "intruder": 1 / SET,
    "simulation": 0.0,
    "examples": 0.5,
    "surprisal": 0.5,
    "contrastive": 0.5,
}
"""What guessing scores."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Detection:
    """Does the latent so explained fire in this excerpt? Value: AUROC.

    Positives are the strongest excerpts and a sample of the others, negatives are random ones, ones with the same token and
    ones of the nearest latent.
    """

    most: int = 50
    """Positives, and negatives, at most."""
    seed: int = 0
    name: str = "detection"

    async def score(self, explanation: Explanation, evidence: Evidence, judge: Judge) -> Score:
        draw = np.random.default_rng([self.seed, evidence.latent, 1])
        positive, negative = (some(each, self.most, draw) for each in (evidence.test.firing, evidence.test.negatives))
        order = draw.permutation(len(positive) + len(negative))
        both = [*positive, *negative]
        answers = np.full(len(both), np.nan)
        answers[order] = await judge.holds(explanation, [both[i] for i in order])
        return separated(self.name, judge.name, answers[: len(positive)], answers[len(positive) :], draw)


@dataclass(frozen=True)
class Fuzzing:
    """Are the marked tokens those that are meant? Value: AUROC.

    In every second excerpt in which the latent fires the tokens are marked on which it does, in the others as many on which it
    is silent.
    """

    most: int = 50
    """Excerpts at most."""
    seed: int = 0
    name: str = "fuzzing"

    async def score(self, explanation: Explanation, evidence: Evidence, judge: Judge) -> Score:
        draw = np.random.default_rng([self.seed, evidence.latent, 2])
        excerpts = some(evidence.test.firing, self.most, draw)
        excerpts = tuple(excerpts[i] for i in draw.permutation(len(excerpts)))
        excerpts = tuple(e for e in excerpts if (e.activations <= 0).any())
        true = [i % 2 == 0 for i in range(len(excerpts))]
        marks = [marked(e) if right else _wrong(e, draw) for e, right in zip(excerpts, true, strict=True)]
        answers = np.array(await judge.marked(explanation, excerpts, marks), np.float64)
        right = np.array(true, bool)
        return separated(self.name, judge.name, answers[right], answers[~right], draw)


@dataclass(frozen=True)
class Intruder:
    """Which excerpt does not belong? No explanation is given: it is the latent that is scored. Value: share found."""

    questions: int = INTRUDERS
    seed: int = 0
    name: str = "intruder"

    async def score(self, explanation: Explanation, evidence: Evidence, judge: Judge) -> Score:
        draw = np.random.default_rng([self.seed, evidence.latent, 3])
        firing, silent = evidence.test.firing, evidence.test.silent
        if len(firing) < SET - 1 or not silent:
            return _nothing(self.name, judge.name)
        found: list[float] = []
        failures = 0
        by_strength = sorted(firing, key=lambda e: -e.maximum)
        for _ in range(self.questions):
            start = int(draw.integers(0, max(1, len(by_strength) - 2 * SET)))
            alike = by_strength[start : start + 2 * SET]  # neighbours in strength, as in one of delphi's quantiles
            chosen = [alike[i] for i in draw.choice(len(alike), SET - 1, replace=False)]
            place = int(draw.integers(SET))
            stranger = silent[int(draw.integers(len(silent)))]
            marks = [marked(e) for e in chosen]
            marks.insert(place, _wrong(stranger, draw, len(marks[0])))
            chosen.insert(place, stranger)
            try:
                found.append(float(await judge.odd(chosen, marks) == place))
            except Failed:
                failures += 1
        return _score(self.name, judge.name, mean(found, draw), len(found), failures)


@dataclass(frozen=True)
class Simulation:
    """What does the latent do at every token? Value: Pearson r of the simulated with the true activations.

    Over the strongest excerpts and random ones together; ``top`` and ``random`` are those of each part. Random are as many in
    which it fires as in which it does not.
    """

    most: int = 10
    """Excerpts of each kind at most: the strongest, others in which it fires, others in which it does not."""
    seed: int = 0
    name: str = "simulation"

    async def score(self, explanation: Explanation, evidence: Evidence, judge: Judge) -> Score:
        draw = np.random.default_rng([self.seed, evidence.latent, 4])
        top = evidence.test.top[: self.most]
        random = some(evidence.test.spread, self.most, draw) + some(evidence.test.silent, self.most, draw)
        excerpts = top + random
        simulated = await judge.values(explanation, excerpts)
        pairs = [
            (np.asarray(x, np.float64), e.activations.astype(np.float64), e in top)
            for x, e in zip(simulated, excerpts, strict=True)
        ]
        good = [pair for pair in pairs if len(pair[0]) == len(pair[1]) and np.isfinite(pair[0]).all()]
        value = pearson([x for x, _, _ in good], [y for _, y, _ in good], draw)
        more: dict[str, float] = {}
        for part, strongest in (("top", True), ("random", False)):
            those = [(x, y) for x, y, is_top in good if is_top == strongest]
            r = correlation([x for x, _ in those], [y for _, y in those])
            more |= {part: r} if r is not None else {}
        return _score(self.name, judge.name, value, len(good), len(pairs) - len(good), more)


@dataclass(frozen=True)
class Examples:
    """Are excerpts in which the latent fires like others in which it does, more than like those in which it is silent?

    No explanation and no judge: excerpts are compared with those of the training half as bags of words. Value: AUROC.
    """

    embedding: Embedding
    seed: int = 0
    name: str = "examples"

    async def score(self, explanation: Explanation, evidence: Evidence, judge: Judge) -> Score:
        draw = np.random.default_rng([self.seed, evidence.latent, 5])
        if not evidence.train.firing or not evidence.train.silent:
            return _nothing(self.name, "tf-idf")
        known = [self.embedding.mean(_texts(each)) for each in (evidence.train.firing, evidence.train.silent)]
        contrast = known[0] - known[1]
        test = (evidence.test.firing, evidence.test.negatives)
        positive, negative = (self.embedding.along(_texts(each), contrast) for each in test)
        return separated(self.name, "tf-idf", positive, negative, draw, at=0.0)


@dataclass(frozen=True)
class RubricGrade:
    """How clear is what the strongest excerpts have in common, from 1 to 5, and of what kind? Value: the grade."""

    most: int = 10
    name: str = "rubric"

    async def score(self, explanation: Explanation, evidence: Evidence, judge: Judge) -> Score:
        excerpts = evidence.test.top[: self.most]
        if not excerpts:
            return _nothing(self.name, judge.name)
        try:
            grade = await judge.rubric(explanation, excerpts)
        except Failed:
            return _nothing(self.name, judge.name, failures=1)
        value = Estimate(float(grade.grade), None, None)
        return _score(self.name, judge.name, value, 1, 0, said=f"{grade.category}: {grade.reason}")


def _texts(excerpts: Sequence[Excerpt]) -> list[str]:
    return [excerpt.text for excerpt in excerpts]


def marked(excerpt: Excerpt) -> list[int]:
    """The places of the tokens that are marked where the latent fires."""
    least = max(MARKED * excerpt.maximum, 1e-12)
    return np.flatnonzero(excerpt.activations >= least).tolist()


def _wrong(excerpt: Excerpt, draw: np.random.Generator, count: int | None = None) -> list[int]:
    """As many places on which the latent is silent."""
    silent = np.flatnonzero(excerpt.activations <= 0)
    wanted = len(marked(excerpt)) if count is None else count
    return sorted(draw.choice(silent, min(max(1, wanted), len(silent)), replace=False).tolist())


def some(excerpts: Sequence[Excerpt], most: int, draw: np.random.Generator) -> tuple[Excerpt, ...]:
    """``most`` of them at random, in their order; all if there are no more."""
    if len(excerpts) <= most:
        return tuple(excerpts)
    return tuple(excerpts[i] for i in np.sort(draw.choice(len(excerpts), most, replace=False)))


def separated(
    name: str, judge: str, positive: Floats, negative: Floats, draw: np.random.Generator, at: float = 0.5
) -> Score:
    """``at``: the answer above which it is a yes."""
    good = [each[np.isfinite(each)] for each in (positive, negative)]
    failures = len(positive) + len(negative) - len(good[0]) - len(good[1])
    found = separation(good[0] + (0.5 - at), good[1] + (0.5 - at), draw)
    more: dict[str, float] = {}
    for key, value in (
        ("balanced_accuracy", found.balanced_accuracy.value),
        ("balanced_accuracy_low", found.balanced_accuracy.low),
        ("balanced_accuracy_high", found.balanced_accuracy.high),
        ("f1", found.f1),
    ):
        more |= {key: value} if value is not None else {}
    return _score(name, judge, found.auroc, len(good[0]) + len(good[1]), failures, more)


def _score(
    name: str,
    judge: str,
    found: Estimate,
    n: int,
    failures: int,
    more: dict[str, float] | None = None,
    said: str = "",
) -> Score:
    return Score(name, judge, found.value, found.low, found.high, n, failures, more or {}, said)


def _nothing(name: str, judge: str, failures: int = 0) -> Score:
    return Score(name, judge, None, None, None, 0, failures)


def cannot(scorer: Scorer, judge: Judge) -> Score:
    """In the place of a score that this judge cannot give."""
    return Score(scorer.name, judge.name, None, None, None, 0, 0, said=f"{judge.name} cannot")
