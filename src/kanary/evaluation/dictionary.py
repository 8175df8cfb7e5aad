"""Do two dictionaries hold the same directions? Beside every number stands what a random dictionary would have scored.

MMCS is the mean over the rows of one dictionary of the best |cosine| in the other (Sharkey et al. 2022). MCC is the mean
|cosine| of the one-to-one pairs that make it largest (Hungarian algorithm; O'Neill et al. 2024, arXiv 2411.13117).
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from kanary.activations.pool import generator
from kanary.errors import KanaryError
from kanary.evaluation.result import Metric

BLOCK = 2**24
"""Cosines held at a time besides the matrix that the assignment needs: 64 MB."""


class Similarity(NamedTuple):
    """A similarity of two dictionaries, from 0 to 1."""

    value: float
    chance: Metric
    """The same with a random dictionary in the place of the second: mean of ``n`` draws, and the interval in which 95 of
    100 such dictionaries fall (Student's t)."""


@dataclass(frozen=True)
class DictionaryMatch:
    """How far the directions of dictionary a ``[n, d]`` and dictionary b ``[m, d]`` agree, whatever their order and sign."""

    a_in_b: Similarity
    """MMCS of a: mean over its rows of the best |cosine| in b."""
    b_in_a: Similarity
    """MMCS of b."""
    mcc: Similarity
    """Mean |cosine| of the ``min(n, m)`` pairs."""
    best_in_b: Tensor
    """``[n]`` float32: the best |cosine| of every row of a."""
    best_in_a: Tensor
    """``[m]`` float32: the best |cosine| of every row of b."""
    pairs: Tensor
    """``[min(n, m), 2]`` int64: row of a and row of b, by row of the smaller dictionary."""


class _Found(NamedTuple):
    best_in_b: Tensor
    best_in_a: Tensor
    pairs: Tensor
    mcc: float

    def values(self) -> list[float]:
        return [float(self.best_in_b.double().mean()), float(self.best_in_a.double().mean()), self.mcc]


@torch.no_grad()
def match(a: Tensor, b: Tensor, seed: int = 0, *, draws: int = 5) -> DictionaryMatch:
    """Compares ``a [n, d]`` with ``b [m, d]``: an SAE's ``W_dec`` with known directions, or with that of another seed.

    Rows need not be unit; a row of zeros is similar to nothing. The matrix of the assignment takes ``8 n m`` bytes and
    its time grows with the cube of the smaller dictionary (4,096 random rows: 4 s of one core); each draw costs as much
    again.

    Args:
        seed: of the random dictionaries, whose rows point in every direction alike.
        draws: random dictionaries of the size of b that a is compared with; at least 2.

    Raises:
        KanaryError: shapes that do not fit, NaN or infinity, fewer than 2 draws, or scipy is not installed.
    """
    _check(a, b, draws)
    assign, quantile = scipy_parts()
    ours, theirs = (F.normalize(each.detach().to("cpu", torch.float64), dim=1).float() for each in (a, b))
    found = _match(ours, theirs, assign)
    draw = generator("random dictionary", seed)
    chance = [
        _match(ours, F.normalize(torch.randn(theirs.shape, generator=draw), dim=1), assign).values()
        for _ in range(draws)
    ]
    t = float(quantile(draws - 1, 0.975))
    a_in_b, b_in_a, mcc = (
        Similarity(value, _interval(torch.tensor(column, dtype=torch.float64), t))
        for value, column in zip(found.values(), zip(*chance, strict=True), strict=True)
    )
    return DictionaryMatch(a_in_b, b_in_a, mcc, found.best_in_b, found.best_in_a, found.pairs)


def _check(a: Tensor, b: Tensor, draws: int) -> None:
    for name, each in (("first", a), ("second", b)):
        if each.ndim != 2 or not each.numel():
            raise KanaryError(
                f"The {name} dictionary has shape {list(each.shape)}: give [directions, d_model], one direction per row."
            )
        if not bool(each.isfinite().all()):
            row = int((~each.isfinite().all(1)).nonzero()[0])
            raise KanaryError(
                f"Row {row} of the {name} dictionary holds NaN or infinity; leave it out of the comparison."
            )
    if a.shape[1] != b.shape[1]:
        raise KanaryError(
            f"The dictionaries have directions of {a.shape[1]} and {b.shape[1]} numbers: only SAEs of activations of one "
            "width can be compared."
        )
    if draws < 2:
        raise KanaryError(f"draws={draws}: an interval needs 2 random dictionaries or more.")


def scipy_parts() -> tuple[Any, Any]:
    """What matching takes from scipy: the assignment, and the quantiles of Student's t.

    Raises:
        KanaryError: scipy is not installed.
    """
    try:
        from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]
        from scipy.special import stdtrit  # type: ignore[import-untyped]
    except ImportError as error:
        raise KanaryError('Matching dictionaries needs the package scipy: pip install -e ".[eval]"') from error
    return linear_sum_assignment, stdtrit


def _match(a: Tensor, b: Tensor, assign: Any) -> _Found:
    """``a [n, d]`` and ``b [m, d]``, rows unit or zero."""
    if len(a) > len(b):
        other = _match(b, a, assign)
        return _Found(other.best_in_a, other.best_in_b, other.pairs.flip(1), other.mcc)
    # float64, negative and no taller than wide: scipy then works on this very matrix instead of a copy
    cost = torch.empty(len(a), len(b), dtype=torch.float64)
    best_in_a = torch.zeros(len(b))
    rows = max(1, BLOCK // len(b))
    for start in range(0, len(a), rows):
        cosines = (a[start : start + rows] @ b.T).abs_().clamp_(max=1)
        best_in_a = torch.maximum(best_in_a, cosines.amax(0))
        torch.neg(cosines, out=cosines)
        cost[start : start + rows] = cosines
    pairs = torch.stack([torch.from_numpy(each).to(torch.int64) for each in assign(cost.numpy())], dim=1)
    return _Found(-cost.amin(1).float(), best_in_a, pairs, -float(cost[pairs[:, 0], pairs[:, 1]].mean()))


def _interval(values: Tensor, t: float) -> Metric:
    mean, spread = float(values.mean()), float(values.std()) * math.sqrt(1 + 1 / len(values))
    return Metric(mean, max(0.0, mean - t * spread), min(1.0, mean + t * spread), len(values))
