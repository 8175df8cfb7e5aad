"""Units against concepts: scores from bins against brute force, choices made on one half and judged on the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kanary.evaluation import sums
from kanary.evaluation.concepts import best, units
from kanary.evaluation.concepts.best import Half, choose, correlations, judge, judge_graded, monosemanticity
from kanary.evaluation.concepts.units import SLOTS, DenseUnits, Entries, SparseUnits, Truth, cut, pieces, unit_scores
from kanary.sae import SparseCodes

few = settings(max_examples=40, deadline=None)


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sparse(matrix: Tensor) -> SparseUnits:
    return SparseUnits.of([SparseCodes.from_dense(matrix)])


def truth_of(tokens: int, concepts: int = 5, seed: int = 0) -> Truth:
    """Random labels; three of the columns share what is judged."""
    labels = torch.rand(tokens, concepts, generator=draw(seed)) < 0.3
    judged = torch.rand(tokens, concepts, generator=draw(seed + 1)) < 0.7
    judged[:, 1:3] = judged[:, :1]
    return Truth.of(labels, judged)


def coarse(tokens: int, n: int, seed: int = 0) -> Tensor:
    """Values with many ties; most are zero, some negative."""
    values = torch.randint(-2, 6, (tokens, n), generator=draw(seed)).float() / 2
    return values * (torch.rand(tokens, n, generator=draw(seed + 1)) < 0.4)


def auroc_by_pairs(values: Any, positive: Any, judged: Any) -> float:
    """Every positive against every negative."""
    above, below = values[positive & judged].astype(float), values[~positive & judged].astype(float)
    won = (above[:, None] > below).sum() + 0.5 * (above[:, None] == below).sum()
    return float(won / (len(above) * len(below)))


def f1_by_threshold(values: Any, positive: Any, judged: Any) -> tuple[float, float]:
    """The best F1 and the highest threshold that gives it."""
    values, positive = values[judged], positive[judged]
    found = []
    for threshold in np.unique(values):
        said = values >= threshold
        found.append((2 * (said & positive).sum() / (said.sum() + positive.sum()), threshold))
    return max(found)


def all_scores(these: Any, truth: Truth) -> tuple[Tensor, Tensor]:
    found = list(unit_scores(these, truth))
    starts = [each.first for each in found]
    assert starts == sorted(starts)
    return torch.cat([each.auroc for each in found], 1), torch.cat([each.f1 for each in found], 1)


# --- scores from bins ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 7])
def test_scores_with_ties_are_those_of_brute_force(seed: int) -> None:
    values, truth = coarse(90, 6, seed), truth_of(90, seed=seed)
    auroc, f1 = all_scores(sparse(values), truth)
    dense_auroc, dense_f1 = all_scores(DenseUnits(values), truth)
    assert auroc.shape == (1, 6, 5)
    assert dense_auroc.shape == (2, 6, 5)
    labels, judged = truth.labels.numpy(), truth.judged.numpy()
    for sign, a, f in ((1, auroc[0], f1[0]), (1, dense_auroc[0], dense_f1[0]), (-1, dense_auroc[1], dense_f1[1])):
        for unit in range(6):
            column = sign * values[:, unit].numpy()
            for c in range(5):
                case = column, labels[:, c], judged[:, c]
                assert float(a[unit, c]) == pytest.approx(auroc_by_pairs(*case), abs=1e-5)
                assert float(f[unit, c]) == pytest.approx(f1_by_threshold(*case)[0], abs=1e-5)


def test_a_concept_without_positives_has_no_scores() -> None:
    truth = Truth.of(torch.zeros(20, 1, dtype=torch.bool), torch.ones(20, 1, dtype=torch.bool))
    auroc, _ = all_scores(DenseUnits(torch.randn(20, 2, generator=draw())), truth)
    assert bool(auroc.isnan().all())


def test_many_different_values_are_cut_finely_enough() -> None:
    """A concept of one token in a hundred, told by the largest values of one unit and the smallest of another."""
    n = 3000
    labels = torch.rand(n, 1, generator=draw(1)) < 0.01
    values = torch.randn(n, 4, generator=draw(2))
    for unit in range(4):
        values[:, unit] += labels[:, 0] * (2 * unit - 3)
    truth = Truth.of(labels, torch.ones_like(labels))
    auroc, f1 = all_scores(DenseUnits(values), truth)
    for unit in range(4):
        for i, sign in enumerate((1, -1)):
            case = sign * values[:, unit].numpy(), labels[:, 0].numpy(), np.ones(n, dtype=bool)
            assert float(auroc[i, unit, 0]) == pytest.approx(auroc_by_pairs(*case), abs=5e-3)
            exact = f1_by_threshold(*case)[0]
            assert exact * 0.8 - 0.01 <= float(f1[i, unit, 0]) <= exact + 1e-6


@pytest.mark.parametrize("kind", ["sparse", "dense"])
def test_pieces_of_any_size_give_the_same(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values, truth = torch.randn(300, 23, generator=draw()).relu(), truth_of(300)
    values[:, 4] = 0  # a latent that never fires
    these = sparse(values) if kind == "sparse" else DenseUnits(values)
    whole, chosen, r = all_scores(these, truth), choose(these, truth), correlations(these, values[:, :2])
    for entries, cells in ((1, 2**22), (700, 2**22), (2**20, 1), (2**20, 3 * SLOTS * 8)):
        monkeypatch.setattr(units, "ENTRIES", entries)
        monkeypatch.setattr(units, "CELLS", cells)
        monkeypatch.setattr(best, "_LATENTS", 5)
        assert len(list(unit_scores(these, truth))) > 1
        for one, other in zip(all_scores(these, truth), whole, strict=True):
            torch.testing.assert_close(one, other)
        for one, other in zip(choose(these, truth), chosen, strict=True):
            assert torch.equal(one.unit, other.unit)
        torch.testing.assert_close(correlations(these, values[:, :2]), r)


@few
@given(sizes=st.lists(st.integers(0, 9), max_size=12), entries=st.integers(1, 20), most=st.integers(1, 5))
def test_pieces_cover_all_units_within_their_limits(sizes: list[int], entries: int, most: int) -> None:
    ranges = list(pieces(torch.tensor(sizes, dtype=torch.int64), entries, most))
    assert [unit for first, last in ranges for unit in range(first, last)] == list(range(len(sizes)))
    for first, last in ranges:
        assert last - first == 1 or (last - first <= most and sum(sizes[first:last]) <= entries)


def test_codes_in_pieces_are_the_latents_of_the_whole() -> None:
    values = coarse(60, 9)
    codes = SparseCodes.from_dense(values)
    split = SparseUnits.of([codes[:1], codes[1:40], codes[40:40], codes[40:]])
    assert split.tokens == 60
    assert split.sizes.tolist() == (values != 0).sum(0).tolist()
    for unit in range(9):
        assert torch.equal(split.column(unit), values[:, unit])
        assert torch.equal(split.column(unit), DenseUnits(values).column(unit))


@few
@given(
    columns=st.lists(st.lists(st.sampled_from([-3.5, -1.0, -0.0, 0.0, 1e-40, 0.25, 2.0]), max_size=30), max_size=4),
    many=st.integers(0, 300),
)
def test_bins_keep_the_order_and_equal_values_together(columns: list[list[float]], many: int) -> None:
    columns = [*columns, torch.randn(many, generator=draw(many)).tolist()]
    values = torch.tensor([v for column in columns for v in column])
    found = cut(Entries(values, torch.arange(len(values)), torch.tensor([len(column) for column in columns])))
    unit = torch.repeat_interleave(torch.arange(len(columns)), torch.tensor([len(column) for column in columns]))
    bins = torch.empty_like(found.bins).index_copy_(0, found.order, found.bins)
    assert torch.equal(bins // SLOTS, unit)
    for i in range(len(columns)):
        mine, slots = values[unit == i], bins[unit == i] % SLOTS
        order = mine.argsort()
        assert bool((slots[order].diff() >= 0).all())
        if len(mine.unique()) <= units.BINS:
            assert torch.equal(slots[order].diff() > 0, mine[order].diff() > 0), "each value has a bin of its own"
        assert bool((slots[mine < 0] < found.zeros[i]).all())
        assert bool((slots[mine > 0] > found.zeros[i]).all())


def test_what_is_not_judged_changes_nothing() -> None:
    truth, values = truth_of(200), coarse(200, 4)
    aside = torch.zeros(200, dtype=torch.bool)
    aside[::3] = True
    judged = truth.judged & ~aside[:, None]
    labels, changed = truth.labels.clone(), values.clone()
    labels[aside], changed[aside] = ~labels[aside], 99.0
    one = all_scores(sparse(values), Truth.of(truth.labels, judged))
    other = all_scores(sparse(changed), Truth.of(labels, judged))
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b)


# --- exact numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_auroc_and_threshold_are_those_of_scikit_learn(seed: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    values = coarse(400, 1, seed)[:, 0] if seed else torch.randn(400, generator=draw())
    positive = torch.rand(400, generator=draw(seed + 5)) < 0.2
    assert best.auroc(values[positive], values[~positive]) == pytest.approx(
        metrics.roc_auc_score(positive.numpy(), values.numpy()), abs=1e-12
    )
    precision, recall, _ = metrics.precision_recall_curve(positive.numpy(), values.numpy())
    f1 = (2 * precision * recall / np.maximum(precision + recall, 1e-12)).max()
    threshold = best.best_threshold(values, positive, torch.ones_like(positive))
    said = values >= threshold
    assert metrics.f1_score(positive.numpy(), said.numpy()) == pytest.approx(f1, abs=1e-12)
    assert threshold == pytest.approx(f1_by_threshold(values.numpy(), positive.numpy(), np.ones(400, dtype=bool))[1])


@pytest.mark.parametrize("place", [0, 9])
def test_equal_values_are_on_the_same_side_of_a_threshold(place: int) -> None:
    """Ten tokens at 1, of which one is positive, cannot be told apart: the threshold lies below the positive at 0.5."""
    values, positive = torch.tensor([1.0] * 10 + [0.5] + [0.0] * 30), torch.zeros(41, dtype=torch.bool)
    positive[[place, 10]] = True
    assert best.best_threshold(values, positive, torch.ones_like(positive)) == 0.5


def half_of(truth: Truth, documents: Tensor, values: Tensor | None = None, siblings: Tensor | None = None) -> Half:
    n = len(documents)
    none = torch.zeros_like(truth.labels)
    return Half(
        truth, none if siblings is None else siblings, torch.zeros(n, 0) if values is None else values, documents, 0
    )


def test_what_is_best_by_chance_on_one_half_is_at_chance_on_the_other() -> None:
    """Unit 0 is perfect on the selection half and noise on the test half; unit 1 is good on both."""
    n = 4000
    labels = torch.rand(2 * n, 1, generator=draw()) < 0.2
    values = torch.randn(2 * n, 2, generator=draw(1))
    values[:, 1] += 1.5 * labels[:, 0]
    values[:n, 0] = labels[:n, 0] + 0.01 * values[:n, 0]
    documents = torch.arange(2 * n) // 40
    truth = [Truth.of(part, torch.ones_like(part)) for part in labels.split(n)]
    halves = half_of(truth[0], documents[:n]), half_of(truth[1], documents[n:])
    found = judge(DenseUnits(values[:n]), DenseUnits(values[n:]), halves).found[0]
    assert (found.unit, found.f1_unit) == (0, 0)
    assert found.auroc.value == pytest.approx(0.5, abs=0.04)
    assert found.auroc.low < 0.5 < found.auroc.high
    back = judge(DenseUnits(values[n:]), DenseUnits(values[:n]), halves[::-1]).found[0]
    assert back.unit == 1
    assert back.auroc.value == pytest.approx(auroc_by_pairs(*_case(values[:n, 1], labels[:n, 0])), abs=1e-12)


def _case(values: Tensor, positive: Tensor) -> tuple[Any, Any, Any]:
    return values.numpy(), positive.numpy(), np.ones(len(values), dtype=bool)


def test_numbers_of_the_test_half_are_those_of_numpy_with_the_threshold_of_the_other() -> None:
    values, truth = coarse(800, 3).abs(), truth_of(800, 2)
    values[:, 1] += truth.labels[:, 0] * (torch.rand(800, generator=draw(8)) < 0.7)
    halves = [
        half_of(Truth.of(truth.labels[a:b], truth.judged[a:b]), torch.arange(a, b) // 10)
        for a, b in ((0, 400), (400, 800))
    ]
    found = judge(sparse(values[:400]), sparse(values[400:]), (halves[0], halves[1])).found[0]
    assert (found.unit, found.f1_unit, found.sign, found.f1_sign) == (1, 1, 1, 1)
    column, labels, judged = values[:, 1].numpy(), truth.labels[:, 0].numpy(), truth.judged[:, 0].numpy()
    threshold = f1_by_threshold(column[:400], labels[:400], judged[:400])[1]
    assert found.threshold == threshold
    said, held = (column >= threshold)[400:] & judged[400:], (labels & judged)[400:]
    hits = (said & held).sum()
    assert found.auroc.value == pytest.approx(auroc_by_pairs(column[400:], labels[400:], judged[400:]), abs=1e-12)
    assert found.f1.value == pytest.approx(2 * hits / (said.sum() + held.sum()), abs=1e-12)
    assert found.precision.value == pytest.approx(hits / said.sum(), abs=1e-12)
    assert found.recall.value == pytest.approx(hits / held.sum(), abs=1e-12)
    assert found.positives == held.sum()
    assert found.documents == len({i // 10 for i in held.nonzero()[0].tolist()})
    assert found.auroc.n == judged[400:].sum()
    for each in (found.auroc, found.f1, found.precision, found.recall):
        assert each.low < each.value < each.high


def test_a_resample_is_the_sample_with_documents_repeated() -> None:
    values, truth = coarse(300, 1)[:, 0], truth_of(300, 1)
    half = half_of(truth, torch.arange(300) // 12 * 7)
    positive = truth.labels[:, 0]
    found = best.resampled_auroc(values, positive, truth.judged[:, 0] & ~positive, half)
    assert found.shape == (1001,)
    for row in (0, 1, 2, 500):
        tokens = torch.repeat_interleave(torch.arange(300), half.draws[row][torch.arange(300) // 12].long())
        case = (values[tokens].numpy(), positive[tokens].numpy(), truth.judged[tokens, 0].numpy())
        assert float(found[row]) == pytest.approx(auroc_by_pairs(*case), abs=1e-6)


def test_tokens_of_one_document_are_no_independent_witnesses() -> None:
    noise = torch.randn(40, generator=draw())
    labels = (torch.rand(40, 1, generator=draw(1)) < 0.5).repeat_interleave(30, 0)
    values = noise.repeat_interleave(30)
    truth = Truth.of(labels, torch.ones_like(labels))
    width = []
    for documents in (torch.arange(1200) // 30, torch.arange(1200)):
        row = best.resampled_auroc(values, labels[:, 0], ~labels[:, 0], half_of(truth, documents))
        interval = sums.estimate(row, 1200)
        width.append(interval.high - interval.low)
    assert width[0] > 3 * width[1]


def test_neurons_have_no_sign_and_latents_do() -> None:
    n = 600
    labels = torch.rand(n, 1, generator=draw()) < 0.3
    values = torch.rand(n, 2, generator=draw(1)) + 0.5
    values[:, 1] -= 0.4 * labels[:, 0]
    half = half_of(Truth.of(labels, torch.ones_like(labels)), torch.arange(n) // 10)
    neuron = judge(DenseUnits(values), DenseUnits(values), (half, half)).found[0]
    assert (neuron.unit, neuron.sign, neuron.f1_unit, neuron.f1_sign) == (1, -1, 1, -1)
    assert neuron.auroc.value == pytest.approx(auroc_by_pairs(*_case(-values[:, 1], labels[:, 0])), abs=1e-12)
    assert neuron.f1.value == pytest.approx(f1_by_threshold(*_case(-values[:, 1], labels[:, 0]))[0], abs=1e-12)
    assert neuron.threshold < 0
    latent = judge(sparse(values), sparse(values), (half, half)).found[0]
    assert (latent.unit, latent.sign, latent.f1_sign) == (0, 1, 1)


def test_shuffled_rows_stay_whole_and_documents_stay_where_they_are() -> None:
    half = half_of(truth_of(50), torch.arange(50) // 5, torch.rand(50, 1), torch.rand(50, 5, generator=draw(3)) < 0.3)
    mixed = half.shuffled(0)

    def rows(these: Half) -> Tensor:
        truth = these.truth
        return torch.cat([these.values, truth.labels, truth.judged, truth.columns, these.siblings], 1)

    assert torch.equal(mixed.documents, half.documents)
    assert not torch.equal(rows(mixed), rows(half))
    assert sorted(rows(mixed).tolist()) == sorted(rows(half).tolist())


# --- graded concepts and monosemanticity --------------------------------------------------------------------------


def test_correlations_are_those_of_numpy() -> None:
    matrix, values = coarse(200, 7), torch.randn(200, 3, generator=draw()) * 50 + 900
    matrix[:, 3], matrix[:, 5] = 0, 2.5  # never fires; always alike
    values[torch.rand(200, 3, generator=draw(1)) < 0.6] = torch.nan
    for these in (sparse(matrix), DenseUnits(matrix)):
        found = correlations(these, values)
        for unit in range(7):
            for i in range(3):
                given = ~values[:, i].isnan()
                v, y = matrix[given, unit].double().numpy(), values[given, i].double().numpy()
                expected = 0.0 if unit in (3, 5) else np.corrcoef(v, y)[0, 1]
                assert float(found[unit, i]) == pytest.approx(expected, abs=1e-9)


def test_a_graded_concept_is_followed_by_its_unit_on_the_other_half() -> None:
    n = 500
    values = torch.full((2 * n, 1), torch.nan)
    values[::3, 0] = torch.randn(len(values[::3]), generator=draw())
    matrix = torch.randn(2 * n, 4, generator=draw(1))
    matrix[::3, 2] -= 2 * values[::3, 0]
    none = torch.zeros(n, 0, dtype=torch.bool)
    halves = [half_of(Truth.of(none, none), torch.arange(n) // 10, part) for part in values.split(n)]
    (found,), r = judge_graded(DenseUnits(matrix[:n]), DenseUnits(matrix[n:]), (halves[0], halves[1]))
    given = ~values[n:, 0].isnan()
    expected = np.corrcoef(matrix[n:][given, 2].double(), values[n:][given, 0].double())[0, 1]
    assert found.unit == 2
    assert found.r.value == pytest.approx(expected, abs=1e-9)
    assert found.r.low < expected < found.r.high < -0.7
    assert found.r.n == int(given.sum())
    tokens = torch.repeat_interleave(torch.arange(n), halves[1].draws[3][torch.arange(n) // 10].long())
    tokens = tokens[given[tokens]]
    again = np.corrcoef(matrix[n:][tokens, 2].double(), values[n:][tokens, 0].double())[0, 1]
    assert float(r[3, 0]) == pytest.approx(again, abs=1e-9)


def test_monosemanticity_by_hand() -> None:
    """100 tokens a half; concept 0 holds at 20 and is judged everywhere, concept 1 at 10 of the 50 that are judged."""
    labels, judged = torch.zeros(100, 2, dtype=torch.bool), torch.ones(100, 2, dtype=torch.bool)
    labels[:20, 0], labels[50:60, 1], judged[:50, 1] = True, True, False
    half = half_of(Truth.of(labels, judged), torch.arange(100) // 5)
    first, second = torch.zeros(100, 5), torch.zeros(100, 5)
    first[:20, 0], second[:10, 0], second[20:30, 0] = 1, 3, 1  # of concept 0: 30 of 40 on the test half
    first[50:70, 1], second[50:70, 1] = -1, -2  # of concept 1: half of its activity on judged tokens
    first[:19, 2], second[:30, 2] = 1, 1  # fires too rarely to count
    first[:, 3], second[:, 3] = 1, 1  # of no concept
    first[:20, 4], second[50:70, 4] = 1, 1  # of concept 0 on one half, of the other on the other
    found = monosemanticity(sparse(first), sparse(second), (half, half))
    expected = [(30 / 40 - 0.2) / 0.8, (0.5 - 0.2) / 0.8, 0.0, -0.2 / 0.8]
    assert found.value == pytest.approx(sum(expected) / 4, abs=1e-9)
    assert found.n == 4
    assert found.low < found.value < found.high
