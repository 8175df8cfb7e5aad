"""Two dictionaries are compared as the definitions say, and beside what a random dictionary would have scored."""

import sys
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kanary.errors import KanaryError
from kanary.evaluation.dictionary import match


def random(rows: int, width: int, seed: int) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def cosines(a: Tensor, b: Tensor) -> np.ndarray:
    x, y = a.double().numpy(), b.double().numpy()
    return np.abs(x @ y.T) / np.outer(np.sqrt((x**2).sum(1)), np.sqrt((y**2).sum(1)))


def best_assignment(similar: np.ndarray) -> float:
    """The largest mean of one-to-one pairs, by trying all of them."""
    table = similar if similar.shape[0] <= similar.shape[1] else similar.T
    rows = range(len(table))
    return max(
        float(np.mean([table[i, j] for i, j in zip(rows, p, strict=True)]))
        for p in permutations(range(table.shape[1]), len(table))
    )


@pytest.mark.parametrize(("n", "m"), [(4, 6), (6, 4), (5, 5), (1, 3), (1, 1)])
def test_numbers_are_those_of_the_definitions(n: int, m: int) -> None:
    a, b = random(n, 3, n), random(m, 3, 10 + m)
    similar = cosines(a, b)
    found = match(a, b, draws=2)
    assert found.a_in_b.value == pytest.approx(similar.max(1).mean(), abs=1e-6)
    assert found.b_in_a.value == pytest.approx(similar.max(0).mean(), abs=1e-6)
    assert found.mcc.value == pytest.approx(best_assignment(similar), abs=1e-6)
    assert found.best_in_b.tolist() == pytest.approx(similar.max(1).tolist(), abs=1e-6)
    assert found.best_in_a.tolist() == pytest.approx(similar.max(0).tolist(), abs=1e-6)
    assert found.pairs.shape == (min(n, m), 2)
    assert [len(set(column)) for column in found.pairs.T.tolist()] == [min(n, m)] * 2
    paired = similar[found.pairs[:, 0].numpy(), found.pairs[:, 1].numpy()]
    assert paired.mean() == pytest.approx(found.mcc.value, abs=1e-6)


def test_a_dictionary_in_another_order_with_other_signs_and_lengths_is_the_same() -> None:
    a, draw = random(200, 8, 0), torch.Generator().manual_seed(1)
    order = torch.randperm(200, generator=draw)
    sizes = torch.rand(200, 1, generator=draw) * 100 + 0.01
    found = match(a, -a[order] * sizes)
    for each in (found.a_in_b, found.b_in_a, found.mcc):
        assert each.value == pytest.approx(1, abs=1e-6)
        assert each.chance.high < 0.99
    assert torch.equal(order[found.pairs[:, 1]], found.pairs[:, 0])


def test_what_two_dictionaries_share_is_what_they_score() -> None:
    basis = torch.eye(9)
    found = match(basis[:6], basis[3:7])  # three directions in common
    assert (found.a_in_b.value, found.b_in_a.value, found.mcc.value) == (3 / 6, 3 / 4, 3 / 4)


@settings(max_examples=15, deadline=None)
@given(n=st.integers(1, 12), m=st.integers(1, 12), width=st.integers(1, 6), seed=st.integers(0, 10**6))
def test_the_two_sides_can_be_exchanged(n: int, m: int, width: int, seed: int) -> None:
    a, b = random(n, width, seed), random(m, width, seed + 1)
    one, other = match(a, b, draws=2), match(b, a, draws=2)
    assert one.mcc.value == pytest.approx(other.mcc.value, abs=1e-6)
    assert one.a_in_b.value == pytest.approx(
        other.b_in_a.value, abs=1e-6
    )  # processors round the two products differently
    assert one.b_in_a.value == pytest.approx(other.a_in_b.value, abs=1e-6)
    assert one.mcc.value <= (one.a_in_b if n <= m else one.b_in_a).value + 1e-6  # nothing beats the best of each row


def test_chance_in_three_dimensions_is_that_of_uniform_cosines() -> None:
    """In three dimensions |cos| of a random direction is uniform on [0, 1] (Archimedes): mean 1/2, variance 1/12."""
    found = match(random(1, 3, 5), random(30, 3, 6), draws=600).b_in_a.chance
    assert found.n == 600
    spread = (1 / 12 / 30) ** 0.5
    assert found.value == pytest.approx(0.5, abs=5 * spread / 600**0.5)
    assert found.high - found.low == pytest.approx(2 * 1.964 * spread, rel=0.15)  # t(599) at 97.5 % is 1.964
    assert (found.high + found.low) / 2 == pytest.approx(found.value)


def test_random_dictionaries_score_what_chance_says_most_of_the_time() -> None:
    a = random(24, 10, 0)
    inside = {"a_in_b": 0, "b_in_a": 0, "mcc": 0}
    for seed in range(40):
        found = match(a, random(30, 10, 100 + seed), seed)
        for name in inside:
            each = getattr(found, name)
            inside[name] += each.chance.low <= each.value <= each.chance.high
    assert all(33 <= count <= 40 for count in inside.values()), inside  # 38 expected; fewer than 33 once in 300 times


def test_chance_depends_on_the_seed_alone() -> None:
    a, b = random(5, 4, 0), random(6, 4, 1)
    assert match(a, b, 3).mcc == match(a, b, 3).mcc
    assert match(a, b, 3).mcc.chance.value != match(a, b, 4).mcc.chance.value
    assert match(a, b, 3).mcc.value == match(a, b, 4).mcc.value


def test_pieces_of_any_size_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = random(23, 5, 0), random(31, 5, 1)
    whole = match(a, b)
    monkeypatch.setattr("kanary.evaluation.dictionary.BLOCK", 70)  # two rows at a time, the last one alone
    parts = match(a, b)
    assert parts.mcc.value == pytest.approx(whole.mcc.value, abs=1e-6)
    assert torch.allclose(parts.best_in_a, whole.best_in_a, atol=1e-6)
    assert torch.allclose(parts.best_in_b, whole.best_in_b, atol=1e-6)


def test_a_row_of_zeros_is_similar_to_nothing() -> None:
    a = torch.eye(3)
    b = torch.stack([a[0], torch.zeros(3), a[2]])
    found = match(a, b)
    assert found.best_in_b.tolist() == [1, 0, 1]
    assert found.mcc.value == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("a", "b", "options", "says"),
    [
        (torch.ones(3, 4), torch.ones(3, 5), {}, "4 and 5 numbers"),
        (torch.ones(3), torch.ones(3, 3), {}, r"first dictionary has shape \[3\]"),
        (torch.ones(3, 3), torch.ones(0, 3), {}, r"second dictionary has shape \[0, 3\]"),
        (torch.ones(2, 2), torch.tensor([[1.0, 2.0], [torch.nan, 0.0]]), {}, "Row 1 of the second"),
        (torch.tensor([[torch.inf, 2.0]]), torch.ones(2, 2), {}, "Row 0 of the first"),
        (torch.ones(2, 2), torch.ones(2, 2), {"draws": 1}, "draws=1"),
    ],
)
def test_what_cannot_be_compared_is_refused(a: Tensor, b: Tensor, options: dict[str, int], says: str) -> None:
    with pytest.raises(KanaryError, match=says):
        match(a, b, **options)


def test_without_scipy_the_extra_to_install_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(KanaryError, match=r'pip install -e "\.\[eval\]"'):
        match(torch.eye(2), torch.eye(2))
