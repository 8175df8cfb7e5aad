"""Scores tell what an explanation is worth: planted meanings score high, mixtures less, shuffled explanations chance."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from explain_world import CAKE, DOT, OF, PIECE, SEVEN, VOCABULARY, WORDS, after, mixed, on, pool
from kanary.explain.controls import Controls, Judging, shuffled
from kanary.explain.embedding import Embedding
from kanary.explain.evidence import gather, gather_random
from kanary.explain.judges import EmbeddingJudge, Oracle, RuleJudge
from kanary.explain.rule import RuleExplainer, learn
from kanary.explain.scorers import Detection, Examples, Fuzzing, Intruder, RubricGrade, Simulation, marked
from kanary.explain.statistics import correlation, mean, pearson, separation, spearman
from kanary.explain.table import ITSELF, rows, summary
from kanary.explain.types import Evidence, Excerpt, Explanation, Failed, Half, Score, Scorer

PLANTED = [after(PIECE, OF), on(CAKE, 3), on(SEVEN), on(DOT), *(on(i, i + 1) for i in range(4, 40, 2))]
WORLD = pool([*PLANTED, mixed(0.2, CAKE, SEVEN)])
MIXED = len(PLANTED)
SCORERS: list[Scorer] = [Detection(), Fuzzing(), Simulation()]


def run(coroutine: Any) -> Any:
    return asyncio.run(coroutine)


def explained(evidence: Evidence) -> Explanation:
    found: Explanation = run(RuleExplainer(VOCABULARY).explain(evidence))
    return found


def scored(scorer: Scorer, latent: int, judge: Any = None, other: int | None = None) -> Score:
    """Of the latent's evidence, by its own explanation or that of ``other``."""
    explanation = explained(gather(WORLD, latent if other is None else other))
    found: Score = run(scorer.score(explanation, gather(WORLD, latent), judge or RuleJudge()))
    return found


# --- what an explanation is worth ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("latent", [0, 1, 2])
def test_a_planted_meaning_scores_high_and_a_mixture_clearly_less(latent: int) -> None:
    for scorer in SCORERS:
        planted, blend = scored(scorer, latent), scored(scorer, MIXED)
        assert planted.value is not None
        assert blend.value is not None
        assert planted.value >= 0.9, (scorer.name, planted)
        assert blend.value < planted.value - 0.1, (scorer.name, blend)


def test_shuffled_explanations_score_chance_within_their_interval() -> None:
    n = len(PLANTED)
    # what is planted excludes each other at a token, which correlates a little below 0
    for scorer, chance, bias in zip(SCORERS, (0.5, 0.5, 0.0), (0.01, 0.01, 0.04), strict=True):
        (row,) = rows({ITSELF: [[scored(scorer, i, other=(i + 2) % n)] for i in range(2, n)]})
        assert row.n >= 15
        assert row.value.low is not None
        assert row.value.high is not None
        assert row.value.low - bias <= chance <= row.value.high + bias, row


def test_a_latent_that_fires_at_random_cannot_be_explained() -> None:
    found = []
    for latent in range(2, len(PLANTED)):
        evidence = gather_random(WORLD, latent)
        try:
            found.append([run(Detection().score(explained(evidence), evidence, RuleJudge()))])
        except Failed:
            continue
    low, high = rows({ITSELF: found})[0].value[1:]
    assert low is not None
    assert high is not None
    assert low <= 0.5 <= high
    assert high < 0.65


def test_the_oracle_gets_full_marks() -> None:
    for scorer in [*SCORERS, Intruder()]:
        for latent in (0, MIXED):
            assert scored(scorer, latent, Oracle()).value == pytest.approx(1.0)


def test_words_alone_tell_the_intruder_and_the_examples() -> None:
    embedding = Embedding(["".join(WORDS[i] for i in row) for row in WORLD.pieces.ids])
    assert (scored(Intruder(20), 0, EmbeddingJudge(embedding)).value or 0) > 0.5  # guessing: 0.2
    assert (scored(Examples(embedding), 2).value or 0) > 0.8
    assert abs((scored(Examples(embedding), MIXED).value or 0) - 0.5) < 0.3


def test_the_rubric_of_the_rule_grades_a_pattern_above_a_mixture() -> None:
    planted, blend = scored(RubricGrade(), 2), scored(RubricGrade(), MIXED)
    assert planted.value == 5
    assert planted.said.startswith("low-level: ")
    assert blend.value is not None
    assert blend.value < 5
    assert scored(RubricGrade(), 0).said.startswith("high-level: ")  # a token in its context


# --- what is asked -------------------------------------------------------------------------------------------------------


class Watching:
    """Answers like the oracle, and remembers what was asked."""

    name = "watching"

    def __init__(self) -> None:
        self.asked: list[tuple[Sequence[Excerpt], Any]] = []

    async def holds(self, explanation: Explanation, excerpts: Sequence[Excerpt]) -> list[float]:
        self.asked.append((excerpts, None))
        return [float(e.maximum > 0) if i % 10 else float("nan") for i, e in enumerate(excerpts)]

    async def marked(self, explanation: Explanation, excerpts: Sequence[Excerpt], marks: Any) -> list[float]:
        self.asked.append((excerpts, marks))
        return [0.5] * len(excerpts)


def test_detection_is_that_of_delphi_by_hand() -> None:
    """Class-balanced accuracy over held-out excerpts in which the latent fires, and others."""
    evidence = gather(WORLD, MIXED)
    explanation = explained(evidence)
    found = run(Detection().score(explanation, evidence, RuleJudge()))
    positive = [p > 0.5 for p in explanation.rule.holds(evidence.test.firing)]  # type: ignore[union-attr]
    negative = [p > 0.5 for p in explanation.rule.holds(evidence.test.negatives)]  # type: ignore[union-attr]
    by_hand = (sum(positive) / len(positive) + sum(not p for p in negative) / len(negative)) / 2
    assert found.more["balanced_accuracy"] == pytest.approx(by_hand)
    assert found.n == len(positive) + len(negative) == 100


def test_missing_answers_are_counted_and_positives_come_mixed_with_negatives() -> None:
    judge: Any = Watching()
    found = run(Detection().score(explained(gather(WORLD, 1)), gather(WORLD, 1), judge))
    excerpts = judge.asked[0][0]
    assert found.failures == -(-len(excerpts) // 10)
    assert found.n == len(excerpts) - found.failures
    assert found.value == 1.0
    fires = [e.maximum > 0 for e in excerpts]
    assert 0.2 < sum(fires[: len(fires) // 2]) / sum(fires) < 0.8


def test_fuzzing_marks_firing_tokens_in_half_of_the_excerpts_and_silent_ones_in_the_others() -> None:
    judge: Any = Watching()
    found = run(Fuzzing().score(explained(gather(WORLD, 1)), gather(WORLD, 1), judge))
    excerpts, marks = judge.asked[0]
    right = [bool((e.activations[m] > 0).all()) for e, m in zip(excerpts, marks, strict=True)]
    wrong = [bool((e.activations[m] <= 0).all()) for e, m in zip(excerpts, marks, strict=True)]
    assert sum(right) == sum(wrong) == len(excerpts) / 2
    assert all(len(m) == len(marked(e)) for e, m in zip(excerpts, marks, strict=True))
    assert found.value == 0.5


def test_judges_do_not_look_at_activations() -> None:
    evidence = gather(WORLD, 0)
    explanation = explained(evidence)
    excerpts = evidence.test.firing + evidence.test.negatives
    blind = [replace(e, activations=np.zeros_like(e.activations)) for e in excerpts]
    marks = [[3, 4]] * len(excerpts)
    for judge in (RuleJudge(), EmbeddingJudge(Embedding([e.text for e in excerpts]))):
        assert run(judge.holds(explanation, excerpts)) == run(judge.holds(explanation, blind))
        assert run(judge.marked(explanation, excerpts, marks)) == run(judge.marked(explanation, blind, marks))
    for a, b in zip(
        run(RuleJudge().values(explanation, excerpts)), run(RuleJudge().values(explanation, blind)), strict=True
    ):
        assert np.array_equal(a, b)


def test_a_judge_that_cannot_answer_says_so() -> None:
    judge = EmbeddingJudge(Embedding([]))
    scores = run(Judging([(Simulation(), judge)]).scores(explained(gather(WORLD, 0)), gather(WORLD, 0)))
    assert scores[0].value is None
    assert scores[0].said == "tf-idf cannot"


def test_nothing_to_score_is_no_score() -> None:
    empty = Half((), (), (), (), ())
    evidence = replace(gather(WORLD, 0), test=empty)
    for scorer in [*SCORERS, Intruder(), RubricGrade()]:
        found = run(scorer.score(explained(gather(WORLD, 0)), evidence, RuleJudge()))
        assert found.value is None
        assert found.n == 0


# --- controls and tables -------------------------------------------------------------------------------------------------


def test_every_control_stands_in_the_table() -> None:
    explanations = {i: explained(gather(WORLD, i)) for i in (1, 2, 3)}
    judging = Judging([(Detection(), RuleJudge())])
    controls = Controls(WORLD, None, RuleExplainer(VOCABULARY), judging, VOCABULARY, 0)

    async def all_of_them() -> dict[str, list[tuple[Score, ...]]]:
        found: dict[str, list[tuple[Score, ...]]] = {}
        others = shuffled(list(explanations), 0)
        for latent, explanation in explanations.items():
            async for name, scores in controls.of(latent, explanation, explanations[others[latent]]):
                found.setdefault(name, []).append(scores)
        return found

    table = rows(run(all_of_them()))
    names = [row.what for row in table]
    assert names == ["oracle", "shuffled explanation", "random explanation", "most frequent token", "random latent"]
    assert table[0].value.value == 1.0
    assert all(row.n == 3 for row in table)
    line = summary(
        rows({ITSELF: [[scored(Detection(), i)] for i in range(6)]}), sae="topk", by="rule", features=6, failed=1
    )
    assert line.startswith("6 features of topk explained by rule, 1 without an explanation: detection ")
    assert "(judge rule, n 6)" in line
    assert "[" in line


# --- statistics ----------------------------------------------------------------------------------------------------------


def test_numbers_equal_a_brute_force_reference() -> None:
    draw = np.random.default_rng(3)
    positive, negative = draw.integers(0, 4, 30) / 3, draw.integers(0, 3, 20) / 3
    wins = sum((p > n) + 0.5 * (p == n) for p in positive for n in negative) / 600
    found = separation(positive, negative, draw)
    assert found.auroc.value == pytest.approx(wins)
    x, y = [draw.random(9) for _ in range(6)], [draw.random(9) for _ in range(6)]
    assert pearson(x, y, draw).value == pytest.approx(np.corrcoef(np.concatenate(x), np.concatenate(y))[0, 1])
    a, b = np.array([1.0, 2, 2, 4, 5, 7]), np.array([3.0, 1, 4, 4, 9, 8])
    ranks = [[1, 2.5, 2.5, 4, 5, 6], [2, 1, 3.5, 3.5, 6, 5]]
    assert spearman(a, b, draw).value == pytest.approx(np.corrcoef(ranks)[0, 1])


def test_shortcuts_equal_what_they_stand_for() -> None:
    draw = np.random.default_rng(4)
    x, y = [draw.random(9) for _ in range(6)], [draw.random(9) for _ in range(6)]
    assert correlation(x, y) == pytest.approx(pearson(x, y, draw).value)
    assert correlation([], []) is None
    values = draw.random(40).tolist()
    resampled = np.array([np.mean(draw.choice(values, 40)) for _ in range(4000)])
    found = mean(values, draw)
    assert [found.low, found.high] == pytest.approx(np.percentile(resampled, [2.5, 97.5]), abs=0.02)
    embedding = Embedding(["a cat", "a dog", "a dog and a cat"])
    texts = ["a cat and a cat", "", "the dog", "a"]
    dense = embedding.of(texts)
    assert np.allclose(np.sqrt((dense**2).sum(1)), [1, 0, 1, 1])
    assert np.allclose(embedding.mean(texts), dense.mean(0))
    direction = draw.random(dense.shape[1]).astype(np.float32)
    assert np.allclose(embedding.along(texts, direction), dense @ direction, atol=1e-6)
    assert embedding.along([], direction).shape == (0,)


def test_equal_expectations_are_a_tie_for_fuzzing() -> None:
    explanation = explained(gather(WORLD, 2))
    silent = [e for e in gather(WORLD, 2).test.silent if SEVEN not in e.ids and SEVEN + 1 not in e.ids][:5]
    marks = [list(range(n)) for n in (1, 2, 3, 5, 7)]
    assert run(RuleJudge().marked(explanation, silent, marks[: len(silent)])) == [0.5] * len(silent)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    draw, held = np.random.default_rng(0), 0
    for _ in range(200):
        found = separation(draw.normal(1, 1, 40), draw.normal(0, 1, 40), draw).auroc  # true AUROC: 0.760
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0.7602 <= found.high
    assert 0.88 <= held / 200 <= 0.99


def test_a_constant_prediction_correlates_with_nothing() -> None:
    draw = np.random.default_rng(0)
    y = [draw.random(8) for _ in range(6)]
    assert pearson([np.full(8, 3.0)] * 6, y, draw).value == 0.0
    assert pearson(y, [np.zeros(8)] * 6, draw).value is None


def test_rules_need_something_to_learn_from() -> None:
    with pytest.raises(Failed, match="fires on 0 tokens"):
        learn(Half((), (), gather(WORLD, 0).train.silent, (), ()), VOCABULARY)
