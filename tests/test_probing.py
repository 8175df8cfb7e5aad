"""Probes reach the optimum that scikit-learn finds, on tokens drawn fairly, and score what is planted."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from allocations import at_most
from kanary.errors import KanaryError
from kanary.evaluation.concepts import logistic as solver
from kanary.evaluation.concepts import probing
from kanary.evaluation.concepts.logistic import logistic
from kanary.evaluation.concepts.probing import (
    Draws,
    balanced_draws,
    best_units,
    columns,
    entries_at,
    fit_probes,
    mean_differences,
    probe_all,
    probe_top,
)
from kanary.evaluation.sums import GROUPS
from kanary.sae import SparseCodes

linear_model = pytest.importorskip("sklearn.linear_model")
metrics = pytest.importorskip("sklearn.metrics")

TOKENS, LATENTS, WIDTH = 3000, 20, 6


def reference(x: Any, y: Any) -> np.ndarray:
    """scikit-learn's optimum: weights, then the bias."""
    model = linear_model.LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-12, max_iter=1000)
    model.fit(np.asarray(x), np.asarray(y))
    return np.append(model.coef_[0], model.intercept_[0])


class Corpus:
    """Tokens of 60 documents with three concepts, and codes in which they are planted.

    ``easy`` is latent 3, ``either`` is latent 5 or 6, each on half of its tokens, ``chance`` is nowhere.
    """

    concepts = ("easy", "either", "chance")

    def __init__(self, tokens: int = TOKENS, documents: int = 60, seed: int = 0) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.documents = torch.arange(tokens) * documents // tokens + 1000
        self.test = self.documents % 2 == 1
        self.labels = torch.rand(tokens, 3, generator=draw) < torch.tensor([0.1, 0.2, 0.5])
        self.judged = torch.rand(tokens, 3, generator=draw) < 0.9
        values = torch.rand(tokens, LATENTS, generator=draw) + 0.5
        dense = values * (torch.rand(tokens, LATENTS, generator=draw) < 0.1)
        half = torch.rand(tokens, generator=draw) < 0.5
        dense[:, 3] = values[:, 3] * self.labels[:, 0]
        dense[:, 5] = values[:, 5] * (self.labels[:, 1] & half)
        dense[:, 6] = values[:, 6] * (self.labels[:, 1] & ~half)
        self.dense = dense
        self.codes = SparseCodes.from_dense(dense)
        directions = torch.randn(LATENTS, WIDTH, generator=draw)
        self.x = dense @ directions + 0.1 * torch.randn(tokens, WIDTH, generator=draw)

    def draws(self, **options: Any) -> Draws:
        return balanced_draws(self.concepts, self.labels, self.judged, self.test, self.documents, **options)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus()


@pytest.fixture(scope="module")
def draws(corpus: Corpus) -> Draws:
    return corpus.draws()


def problem(n: int, k: int, seed: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(n, k))
    y = (x[:, 0] + 0.5 * draw.normal(size=n) > 0.3).astype(float)
    if kind == "separable":
        x[:, 0] = np.where(y > 0, 3.0, -3.0) + 0.1 * x[:, 0]
    if kind == "collinear":
        x[:, 1] = x[:, 0]
    if kind == "rare":  # a latent that fires three times, long as it is after the standardisation
        x[:, 0] = 0.0
        x[:3, 0] = n**0.5
    if kind == "unrelated":
        y = draw.permutation(y)
    return x, y


KINDS = ["overlapping", "separable", "collinear", "rare", "unrelated"]


def test_the_solver_reaches_scikit_learns_optimum_in_one_batch_of_unequal_problems() -> None:
    problems = [problem(n, 4, seed, kind) for seed, kind in enumerate(KINDS) for n in (60, 400)]
    x, (y, counted) = torch.zeros(10, 400, 4).double(), torch.zeros(2, 10, 400).double()
    for i, (some, holds) in enumerate(problems):
        n = len(holds)
        x[i, :n], y[i, :n], counted[i, :n] = torch.tensor(some), torch.tensor(holds), 1
        x[i, n:] = 7.0  # whatever is in rows that do not count
    found = logistic(x, y, counted).numpy()
    for (some, holds), mine in zip(problems, found, strict=True):
        np.testing.assert_allclose(mine, reference(some, holds), atol=2e-6)
        chance = 1 / (1 + np.exp(-(some @ mine[:-1] + mine[-1])))
        gradient = np.append(some.T @ (chance - holds) + mine[:-1], (chance - holds).sum())
        assert np.linalg.norm(gradient) < 1.01e-6


def test_a_wide_problem_with_more_coordinates_than_tokens_reaches_the_optimum() -> None:
    x, y = problem(80, 120, 0, "overlapping")
    x[:, 1:40] = x[:, :1] * 30 + x[:, 1:40]  # nearly one direction: hard for float32
    found = logistic(torch.tensor(x)[None], torch.tensor(y)[None], torch.ones(1, 80).double())[0]
    np.testing.assert_allclose(found.numpy(), reference(x, y), atol=2e-6)


def test_no_optimum_is_an_error_and_not_a_probe() -> None:
    y, counted = torch.arange(20).double()[None] % 2, torch.ones(1, 20).double()
    with pytest.raises(KanaryError, match="length nan"):
        logistic(torch.full((1, 20, 2), torch.nan).double(), y, counted)
    with patch.object(solver, "_ITERATIONS", 1), pytest.raises(KanaryError, match="did not reach its optimum"):
        logistic(torch.randn(1, 20, 2).double(), y, counted)


@pytest.mark.parametrize("which", ["codes", "x", "full"])
def test_a_probe_is_scikit_learns_on_standardised_values(corpus: Corpus, draws: Draws, which: str) -> None:
    values = corpus.codes if which == "codes" else corpus.x * torch.tensor([1e3, 1e-3, 1, 1, 1, 1]) + 50
    dense = corpus.dense if which == "codes" else values
    probed = probe_all(values, draws) if which == "full" else probe_top(values, draws, [3])[3]
    for name, probe in probed.probes.items():
        units = probe.units.numpy()
        train, test = draws.train_rows[name].numpy(), draws.test_rows[name].numpy()
        x = dense.double().numpy()[:, units]
        mean, scale = x[train].mean(0), x[train].std(0)
        standard = (x - mean) / scale
        y = corpus.labels[:, corpus.concepts.index(name)].numpy()
        expected = reference(standard[train], y[train])
        log_odds = standard[test] @ expected[:-1] + expected[-1]
        np.testing.assert_allclose(probe.log_odds(values, torch.tensor(test)), log_odds, atol=1e-4)
        score = probed.scores[name]
        assert score.accuracy.value == pytest.approx(metrics.accuracy_score(y[test], log_odds > 0), abs=1e-6)
        assert score.auroc.value == pytest.approx(metrics.roc_auc_score(y[test], log_odds), abs=2e-5)
        assert score.auroc.n == score.accuracy.n == len(test)
        assert len(units) == (WIDTH if which == "full" else 3)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(-3, 3), min_size=1, max_size=8),
    st.lists(st.integers(-3, 3), min_size=1, max_size=8),
    st.integers(0, 99),
)
def test_auroc_with_ties_and_weights_is_scikit_learns(positive: list[int], negative: list[int], seed: int) -> None:
    scores = np.array(positive + negative, dtype=float)
    y = np.arange(len(scores)) < len(positive)
    weights = np.random.default_rng(seed).integers(1, 4, size=(len(scores), 3))
    found = probing._auroc(
        torch.tensor(positive).double(), torch.tensor(negative).double(), torch.tensor(weights).float()
    )
    expected = [metrics.roc_auc_score(y, scores, sample_weight=w) for w in weights.T]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


def test_draws_are_balanced_and_keep_the_halves_apart(corpus: Corpus, draws: Draws) -> None:
    with patch.object(probing, "TRAIN", 70), patch.object(probing, "TEST", 60):
        few = corpus.draws()
    for found, most in ((draws, (2000, 500)), (few, (70, 60))):
        for c, name in enumerate(corpus.concepts):
            for rows, half, limit in ((found.train_rows, False, most[0]), (found.test_rows, True, most[1])):
                drawn = rows[name]
                n = len(drawn) // 2
                counts = corpus.judged[:, c] & (corpus.test == half)
                available = [int((counts & (corpus.labels[:, c] == holds)).sum()) for holds in (True, False)]
                assert len(drawn) == 2 * n == 2 * min(*available, limit)
                assert bool(counts[drawn].all())
                assert corpus.labels[drawn, c].tolist() == [True] * n + [False] * n
                assert len(drawn.unique()) == 2 * n


def test_draws_depend_on_the_seed_and_on_no_other_concept(corpus: Corpus, draws: Draws) -> None:
    alone = balanced_draws(
        ["either"], corpus.labels[:, 1:2], corpus.judged[:, 1:2], corpus.test, corpus.documents, seed=0
    )
    assert torch.equal(alone.train_rows["either"], draws.train_rows["either"])
    assert not torch.equal(corpus.draws(seed=1).train_rows["either"], draws.train_rows["either"])


def test_rare_concepts_are_left_out_with_their_numbers(corpus: Corpus) -> None:
    labels = corpus.labels.clone()
    labels[:, 0] = False
    rows = (corpus.judged[:, 0] & ~corpus.test).nonzero()[:49, 0]
    labels[rows, 0] = True
    found = balanced_draws(corpus.concepts, labels, corpus.judged, corpus.test, corpus.documents)
    assert list(found.train_rows) == ["either", "chance"]
    assert list(found.left_out) == ["easy"]
    assert "selection half 49 and" in found.left_out["easy"]
    assert "test half 0 and" in found.left_out["easy"]
    assert set(probe_top(corpus.codes, found, [1])[1].scores) == {"either", "chance"}


def test_nothing_is_probed_where_every_concept_is_rare(corpus: Corpus) -> None:
    none = balanced_draws(
        corpus.concepts, torch.zeros_like(corpus.labels), corpus.judged, corpus.test, corpus.documents
    )
    for found in (probe_top(corpus.codes, none, [2])[2], probe_all(corpus.x, none)):
        assert not found.scores
        assert np.isnan(found.mean.accuracy.value)
        assert found.mean.accuracy.n == 0


def test_mean_differences_of_codes_and_activations(corpus: Corpus, draws: Draws) -> None:
    for values, dense in ((corpus.codes, corpus.dense), (corpus.x, corpus.x)):
        found = mean_differences(values, draws)
        for c, rows in enumerate(draws.train_rows.values()):
            x = dense.double().numpy()[rows.numpy()]
            n = len(x) // 2
            np.testing.assert_allclose(found[:, c], x[:n].mean(0) - x[n:].mean(0), atol=1e-12)


def test_a_mean_is_that_of_the_drawn_tokens_without_the_draws_of_each(corpus: Corpus, draws: Draws) -> None:
    draw = torch.Generator().manual_seed(0)
    test = corpus.test.nonzero()[:, 0]
    rows = test[torch.randint(len(test), (6000,), generator=draw)]
    values = torch.rand(6000, generator=draw)
    with at_most(8 * 1001 * GROUPS):  # not 4 * 1001 * 6000
        found = draws.mean(values, rows)
    weights = draws.weights(rows).double()
    torch.testing.assert_close(found, values.double() @ weights / weights.sum(0))
    few = test[corpus.documents[test] < 1008]  # four documents
    alone = draws.mean(values[: len(few)], few)
    assert float(alone[0]) == pytest.approx(float(values[: len(few)].double().mean()))
    assert bool(alone[1:].isnan().all())
    assert bool(draws.mean(values[:0], few[:0]).isnan().all())


def test_mean_differences_take_no_memory_for_tokens_times_concepts(corpus: Corpus, draws: Draws) -> None:
    expected = [mean_differences(values, draws) for values in (corpus.codes, corpus.x)]
    most = 8 * sum(map(len, draws.train_rows.values()))
    assert most < 8 * TOKENS * len(corpus.concepts) / 2
    with patch.object(probing, "_ROWS", 64), at_most(most):
        found = [mean_differences(values, draws) for values in (corpus.codes, corpus.x)]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_best_units_come_in_order_of_their_differences(draws: Draws) -> None:
    differences = torch.tensor([[0.1, 0, 0], [0.4, 0, 0], [-0.9, 0, 0], [0.2, 0, 0]])
    assert best_units(differences, draws, 2)["easy"].tolist() == [1, 3]
    assert best_units(differences.abs(), draws, 9)["easy"].tolist() == [2, 1, 3, 0]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=12), st.integers(0, 99))
def test_columns_and_entries_are_those_of_the_dense_codes(tokens: list[int], seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    dense = torch.randn(10, 7, generator=draw) * (torch.rand(10, 7, generator=draw) < 0.4)
    codes, rows, units = SparseCodes.from_dense(dense), torch.tensor(tokens, dtype=torch.int64), torch.tensor([5, 0, 3])
    expected = dense[rows][:, units].double()
    assert torch.equal(columns(codes, rows, units), expected)
    assert torch.equal(columns(dense, rows, units), expected)
    which, latents, values = entries_at(codes, rows)
    again = torch.zeros(len(rows), 7).double()
    again[which, latents] = values
    assert torch.equal(again, dense[rows].double())


def test_planted_concepts_are_found_and_two_latents_need_two_units(corpus: Corpus, draws: Draws) -> None:
    one, two, five = (probe_top(corpus.codes, draws)[k] for k in (1, 2, 5))
    assert one.probes["easy"].units.tolist() == [3]
    assert one.scores["easy"].accuracy.value == one.scores["easy"].auroc.value == 1
    assert set(two.probes["either"].units.tolist()) == {5, 6}
    assert one.scores["either"].accuracy.value == pytest.approx(0.75, abs=0.08)
    assert two.scores["either"].accuracy.value == 1
    assert five.scores["chance"].auroc.low < 0.5 < five.scores["chance"].auroc.high
    assert one.mean.accuracy.value == pytest.approx(
        np.mean([one.scores[name].accuracy.value for name in corpus.concepts])
    )


def test_a_latent_that_is_silent_where_the_concept_holds_is_chosen_too(corpus: Corpus, draws: Draws) -> None:
    dense = corpus.dense.clone()
    dense[:, 3] = 2.0 * ~corpus.labels[:, 0]
    found = probe_top(SparseCodes.from_dense(dense), draws, [1])[1]
    assert found.probes["easy"].units.tolist() == [3]
    assert float(found.probes["easy"].weight[0]) < 0
    assert found.scores["easy"].accuracy.value == found.scores["easy"].auroc.value == 1


def test_shuffled_labels_score_chance_and_keep_the_halves(corpus: Corpus) -> None:
    shuffled = corpus.draws(shuffle=True)
    for half in (corpus.test, ~corpus.test):
        both = 2 * corpus.labels[half].long() + corpus.judged[half]
        assert torch.equal(shuffled.labels[half].sum(0), corpus.labels[half].sum(0))
        mixed = 2 * shuffled.labels[half].long() + shuffled.judged[half]
        assert torch.equal(mixed.unique(dim=0, return_counts=True)[1], both.unique(dim=0, return_counts=True)[1])
    found = probe_top(corpus.codes, shuffled, [5])[5]
    assert abs(found.scores["easy"].auroc.value - 0.5) < 0.12
    assert abs(found.mean.accuracy.value - 0.5) < 0.06
    assert abs(probe_all(corpus.x, shuffled).mean.auroc.value - 0.5) < 0.06


def test_units_of_measurement_and_constant_coordinates_do_not_matter(corpus: Corpus, draws: Draws) -> None:
    constant = torch.full((TOKENS, 1), 4000.1)
    scaled = torch.cat([corpus.x * torch.tensor([1e4, 1, 1e-4, 1, 1, 1]) + 3, constant], 1)
    plain, other = probe_all(corpus.x, draws), probe_all(scaled, draws)
    rows = torch.arange(TOKENS)
    for name in corpus.concepts:
        first, second = plain.probes[name].log_odds(corpus.x, rows), other.probes[name].log_odds(scaled, rows)
        np.testing.assert_allclose(first, second, atol=2e-2)  # what float32 keeps of the scaled values
        assert other.probes[name].weight[-1].abs() < 1e-9


def test_pieces_in_which_the_work_is_done_change_nothing(corpus: Corpus, draws: Draws) -> None:
    whole = probe_top(corpus.codes, draws, [2])[2], probe_all(corpus.x, draws)
    with patch.object(probing, "_ROOM", 1), patch.object(probing, "_ROWS", 100):
        pieces = probe_top(corpus.codes, draws, [2])[2], probe_all(corpus.x, draws)
    for first, second in zip(whole, pieces, strict=True):
        for name in corpus.concepts:
            np.testing.assert_allclose(first.probes[name].weight, second.probes[name].weight, atol=1e-5)
            assert torch.equal(first.probes[name].units, second.probes[name].units)
            np.testing.assert_allclose(first.scores[name].auroc, second.scores[name].auroc, atol=1e-3)


def test_intervals_are_over_documents(corpus: Corpus) -> None:
    """What goes wrong goes wrong in whole documents: intervals must be wider than over independent tokens."""
    labels = corpus.labels.clone()
    wrong = corpus.documents % 8 < 2
    values = torch.where(wrong, ~labels[:, 2], labels[:, 2]).float()[:, None]
    widths = {}
    for which, documents in (("documents", corpus.documents), ("tokens", 2 * torch.arange(TOKENS) + corpus.test)):
        draws = balanced_draws(corpus.concepts, labels, corpus.judged, corpus.test, documents)
        score = probe_top(values, draws, [1])[1].scores["chance"]
        widths[which] = score.accuracy.high - score.accuracy.low
        assert score.accuracy.low < score.accuracy.value < score.accuracy.high
        assert score.auroc.low < score.auroc.value < score.auroc.high
    n, value = score.accuracy.n, score.accuracy.value
    normal = 2 * 1.96 * (value * (1 - value) / n) ** 0.5
    assert widths["tokens"] == pytest.approx(normal, rel=0.25)
    assert widths["documents"] > 2.5 * widths["tokens"]


def test_too_few_documents_have_no_interval_but_keep_the_mean_in_its_own() -> None:
    corpus = Corpus()
    labels = corpus.labels.clone()
    labels[:, 0] = False
    for half in (False, True):
        labels[(corpus.test == half).nonzero()[:150, 0], 0] = True
    judged = corpus.judged.clone()
    judged[:, 0] = corpus.documents < 1008  # four documents of each half
    draws = balanced_draws(corpus.concepts, labels, judged, corpus.test, corpus.documents)
    found = probe_top(corpus.codes, draws, [1])[1]
    score = found.scores["easy"].accuracy
    assert np.isfinite(score.value)
    assert np.isnan([score.low, score.high]).all()
    assert found.mean.accuracy.low <= found.mean.accuracy.value <= found.mean.accuracy.high


def test_bad_input_is_refused(corpus: Corpus, draws: Draws) -> None:
    with pytest.raises(KanaryError, match="2999 tokens, but the probes are drawn from 3000"):
        probe_top(corpus.codes[:2999], draws)
    with pytest.raises(KanaryError, match="k = 0"):
        probe_top(corpus.codes, draws, [0, 1])
    broken = corpus.x.clone()
    broken[17, 2] = torch.inf
    with pytest.raises(KanaryError, match="NaN or infinity"):
        probe_all(broken, draws)
    with pytest.raises(KanaryError, match=r"labels and judged of shape \(3000, 2\)"):
        balanced_draws(["a", "b"], corpus.labels, corpus.judged, corpus.test, corpus.documents)


def test_more_units_are_asked_for_than_there_are(corpus: Corpus, draws: Draws) -> None:
    found = probe_top(corpus.x, draws, [WIDTH + 5])[WIDTH + 5]
    full = probe_all(corpus.x, draws)
    for name in corpus.concepts:
        assert sorted(found.probes[name].units.tolist()) == list(range(WIDTH))
        weights: Tensor = found.probes[name].weight[found.probes[name].units.argsort()]
        np.testing.assert_allclose(weights, full.probes[name].weight, atol=1e-5)
    assert fit_probes(corpus.x, draws, {}, [2]) == {2: {}}
