"""Numbers with intervals for answers about positives and negatives, and for predicted activations."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

DRAWS = 400
"""Resamples of an interval."""
FEWEST = 5
"""Positives, and negatives, that an interval needs."""

Floats = NDArray[np.float64]


class Estimate(NamedTuple):
    """A number with its 95 % interval; None where there is too little to go by."""

    value: float | None
    low: float | None
    high: float | None


class Separation(NamedTuple):
    """How well answers tell positives from negatives."""

    auroc: Estimate
    balanced_accuracy: Estimate
    f1: float | None


def separation(positive: Floats, negative: Floats, draw: np.random.Generator) -> Separation:
    """Of the answers given for positives ``[n]`` and negatives ``[m]``; above 0.5 is a yes. A tie counts half.

    Each class is resampled by itself.
    """
    if not len(positive) or not len(negative):
        nothing = Estimate(None, None, None)
        return Separation(nothing, nothing, None)
    wins = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    yes, no = positive > 0.5, negative <= 0.5
    of_positives, of_negatives = _weights(len(positive), draw), _weights(len(negative), draw)
    auroc = ((of_positives @ wins) * of_negatives).sum(1)
    accuracy = (of_positives @ yes + of_negatives @ no) / 2
    enough = min(len(positive), len(negative)) >= FEWEST
    wrong = int((~no).sum()) + int((~yes).sum())
    right = int(yes.sum())
    f1 = 2 * right / (2 * right + wrong) if right + wrong else 0.0
    return Separation(
        _estimate(float(wins.mean()), auroc, enough),
        _estimate(float((yes.mean() + no.mean()) / 2), accuracy, enough),
        f1,
    )


def pearson(predicted: Sequence[Floats], true: Sequence[Floats], draw: np.random.Generator) -> Estimate:
    """The correlation over all tokens of all excerpts, which are resampled whole. 0 where the prediction is constant.

    None where the true activation is, which nothing can be correlated with.
    """
    if not predicted:
        return Estimate(None, None, None)
    sums = _sums(predicted, true)
    value = _correlation(sums.sum(0)[None])[0]
    if np.isnan(value):
        return Estimate(None, None, None)
    resampled = _correlation(_weights(len(sums), draw) @ sums)
    return _estimate(float(value), resampled[np.isfinite(resampled)], len(sums) >= FEWEST)


def correlation(predicted: Sequence[Floats], true: Sequence[Floats]) -> float | None:
    """The value of :func:`pearson` alone."""
    value = float(_correlation(_sums(predicted, true).sum(0)[None])[0]) if predicted else float("nan")
    return None if np.isnan(value) else value


def mean(values: Sequence[float], draw: np.random.Generator) -> Estimate:
    """Of independent values, which are resampled."""
    if not len(values):
        return Estimate(None, None, None)
    x = np.asarray(values, np.float64)
    return _estimate(float(x.mean()), _weights(len(x), draw) @ x, len(x) >= FEWEST)


def spearman(x: Floats, y: Floats, draw: np.random.Generator) -> Estimate:
    """Rank correlation of pairs ``[n]``, which are resampled and ranked anew; ties have their mean rank."""
    if len(x) < FEWEST:
        return Estimate(None, None, None)
    rows = draw.integers(0, len(x), (DRAWS, len(x)))
    resampled = np.array([_rank_correlation(x[row], y[row]) for row in rows])
    return _estimate(_rank_correlation(x, y), resampled[np.isfinite(resampled)], True)


def _rank_correlation(x: Floats, y: Floats) -> float:
    a, b = _ranks(x), _ranks(y)
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else float("nan")


def _ranks(x: Floats) -> Floats:
    _, which, counts = np.unique(x, return_inverse=True, return_counts=True)
    ends = counts.cumsum()
    found: Floats = (ends - (counts - 1) / 2)[which]
    return found


def _sums(predicted: Sequence[Floats], true: Sequence[Floats]) -> Floats:
    """``[n, 6]``: of each excerpt the number of tokens, and the sums of x, y, xx, yy and xy."""
    x, y = np.concatenate(predicted), np.concatenate(true)
    lengths = np.array([len(each) for each in predicted])
    starts = np.cumsum(lengths) - lengths
    columns = np.add.reduceat(np.stack([x, y, x * x, y * y, x * y], 1), starts)
    found: Floats = np.column_stack([lengths, columns])
    return found


def _correlation(sums: Floats) -> Floats:
    """``sums [rows, 6]``: n, x, y, xx, yy, xy. NaN where y is constant, 0 where x is."""
    n, x, y, xx, yy, xy = sums.T
    spread_x, spread_y = np.maximum(xx - x * x / n, 0), np.maximum(yy - y * y / n, 0)
    found = np.where(spread_y > 1e-12 * np.maximum(yy, 1e-30), 0.0, np.nan)
    some = (spread_x > 1e-12 * np.maximum(xx, 1e-30)) & np.isfinite(found)
    found[some] = ((xy - x * y / n)[some]) / np.sqrt(spread_x[some] * spread_y[some])
    return found


def _weights(n: int, draw: np.random.Generator) -> Floats:
    """``[DRAWS, n]``: the share of each of ``n`` things in a resample."""
    rows = draw.integers(0, n, (DRAWS, n)) + n * np.arange(DRAWS)[:, None]
    return np.bincount(rows.reshape(-1), minlength=DRAWS * n).reshape(DRAWS, n) / n


def _estimate(value: float, resampled: Floats, enough: bool) -> Estimate:
    if not enough or not len(resampled):
        return Estimate(value, None, None)
    ordered = np.sort(resampled)
    low, high = (_quantile(ordered, share) for share in (0.025, 0.975))
    return Estimate(value, round(low, 12), round(high, 12))


def _quantile(ordered: Floats, share: float) -> float:
    """Between neighbours by a line, as numpy does in ten times the time."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return float(ordered[below] + (place - below) * (ordered[above] - ordered[below]))
