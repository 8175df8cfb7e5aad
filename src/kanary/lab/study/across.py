"""What the seeds of one SAE have in common: directions, and whether the same latents are curved the same way."""

from collections.abc import Sequence
from itertools import combinations, permutations
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from kanary.activations.pool import generator
from kanary.lab.study.measure import Latents, best_cosines

ALIKE = 0.7
"""Cosine from which two latents of different seeds count as the same."""
CURVED = 0.01
"""Share of the energy off the straight line from which a latent counts as curved."""


class Across(NamedTuple):
    """Means over all pairs of seeds; NaN where there is nothing to compare.

    If curves are in the data and not fitted interference, seeds agree on which latents are curved and where to.
    """

    stability: float
    """Mean over the latents of one seed of the largest |cosine| with one of the other; both of those that fire."""
    stability_chance: float
    """The same with random directions for the other."""
    matched_share: float
    """Share of latents whose best counterpart has a cosine of at least ``ALIKE`` and has them for its own best."""
    curvature_correlation: float
    """Spearman's correlation of the curvature of these pairs."""
    bend_cosine: float
    """Mean |cosine| of where they turn to, of pairs that are both curved."""
    bend_cosine_chance: float
    """The same with the counterparts exchanged among each other."""
    curved_pairs: float
    """How many such pairs there are per two seeds."""


def across(seeds: Sequence[Latents]) -> Across:
    """Compares the latents of at least two seeds."""
    alive = [_alive(each) for each in seeds]
    pairs = [_compared(a, b) for a, b in combinations(alive, 2)]
    stability = fmean(float(best_cosines(a.direction, b.direction).mean()) for a, b in permutations(alive, 2))
    columns = [_mean(column) for column in zip(*pairs, strict=True)]
    return Across(stability, fmean(_chance(each) for each in alive), *columns)


def _alive(latents: Latents) -> Latents:
    return Latents(*(column[latents.firings > 0] for column in latents))


def _chance(latents: Latents) -> float:
    draw = torch.randn(latents.direction.shape, generator=generator("random dictionary of a study"))
    return float(best_cosines(latents.direction, F.normalize(draw, dim=1)).mean())


def _compared(a: Latents, b: Latents) -> tuple[float, float, float, float, float]:
    """Of one pair of seeds: the last five fields."""
    ours, theirs = _partners(a.direction, b.direction)
    share = len(ours) / min(len(a.direction), len(b.direction))
    x, y = a.curvature[ours], b.curvature[theirs]
    both = (x > CURVED) & (y > CURVED)
    bends, others = a.bend[ours][both], b.bend[theirs][both]
    shuffled = others[torch.randperm(len(others), generator=generator("bends of a study"))]
    nan = float("nan")
    cosines = [float((bends * each).sum(1).abs().mean()) if len(bends) else nan for each in (others, shuffled)]
    return share, spearman(x, y), cosines[0], cosines[1], float(both.sum())


def _partners(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of unit ``a [n, d]`` and ``b [m, d]`` that are each other's nearest, and near: indices into both."""
    cosines = a @ b.T
    best, there = cosines.max(1)
    back = cosines.argmax(0)
    ours = ((back[there] == torch.arange(len(a))) & (best >= ALIKE)).nonzero().squeeze(1)
    return ours, there[ours]


def spearman(x: Tensor, y: Tensor) -> float:
    """Rank correlation of ``x [n]`` and ``y [n]``, ties at their mean rank; NaN where one of them does not vary."""
    ranks = [_ranks(each) for each in (x, y)]
    a, b = (each - each.mean() for each in ranks)
    size = float(a.norm() * b.norm())
    return float(a @ b) / size if size else float("nan")


def _ranks(x: Tensor) -> Tensor:
    _, place, counts = x.double().unique(return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - (counts - 1) / 2)[place].double() if len(x) else x.double()


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if value == value]
    return fmean(known) if known else float("nan")
