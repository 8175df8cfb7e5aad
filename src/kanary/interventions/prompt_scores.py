"""How well each latent tells two lists of prompts apart, by several scores; all are 0 where it does not."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from kanary.activations.pool import generator
from kanary.evaluation.result import Metric
from kanary.evaluation.sums import RESAMPLES, estimate

LEAST_SPREAD = 0.05
"""Of a latent's largest value: what its deviation counts as at least, or one that hardly varies would win by a division."""
_CELLS = 2**23
"""Comparisons of two prompts that are held at a time: 32 MB."""


class Values(NamedTuple):
    """What the scores are made of; ``[prompts, latents]`` float32 each."""

    pooled: Tensor
    strong: Tensor


@dataclass(frozen=True)
class Score:
    """A number for every latent: positive where it belongs to the positive prompts."""

    says: str
    of: Callable[[Values, Values, Tensor, Tensor], Tensor]
    """(positive, negative, weights ``[resamples, positives]``, ``[resamples, negatives]``) -> ``[resamples, latents]``."""
    neutral: float = 0.0
    """Its value where nothing is told apart."""


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return weights @ values / weights.sum(1, keepdim=True)


def _mean_difference(positive: Values, negative: Values, p: Tensor, n: Tensor) -> Tensor:
    return _mean(positive.pooled, p) - _mean(negative.pooled, n)


def _rank_share(positive: Values, negative: Values, p: Tensor, n: Tensor) -> Tensor:
    return _mean(positive.strong, p) - _mean(negative.strong, n)


def auroc(positive: Tensor, negative: Tensor, p: Tensor, n: Tensor) -> Tensor:
    """``[resamples, latents]``: the chance that a row of ``positive`` is above one of ``negative``, both ``[rows, latents]``,
    with rows weighed by ``p`` and ``n``, ``[resamples, rows]``; ties count half."""
    p, n = (each / each.sum(1, keepdim=True) for each in (p, n))
    found, some = [], max(1, _CELLS // (len(positive) * len(negative)))
    for a, b in zip(positive.split(some, 1), negative.split(some, 1), strict=True):
        above = torch.stack(
            [(row > b).float() + (row == b).float() / 2 for row in a]
        )  # [positives, negatives, latents]
        found.append(torch.einsum("rp,rpl->rl", p, torch.einsum("rn,pnl->rpl", n, above)))
    return torch.cat(found, 1).clamp(0, 1)  # sums of weights in float32 may be a little above 1


def _auroc(positive: Values, negative: Values, p: Tensor, n: Tensor) -> Tensor:
    return auroc(positive.pooled, negative.pooled, p, n)


def _cohens_d(positive: Values, negative: Values, p: Tensor, n: Tensor) -> Tensor:
    """With the pooled deviation of both lists."""
    total, squares = torch.zeros(()), torch.zeros(())
    for values, weights in ((positive.pooled, p), (negative.pooled, n)):
        mean = _mean(values, weights)
        squares = squares + weights @ values.square() - weights.sum(1, keepdim=True) * mean.square()
        total = total + weights.sum(1, keepdim=True) - 1
    spread = (squares / total).clamp_min(0).sqrt()
    largest = torch.maximum(positive.pooled.amax(0), negative.pooled.amax(0))
    return _mean_difference(positive, negative, p, n) / spread.maximum(LEAST_SPREAD * largest).clamp_min(1e-30)


SCORES: dict[str, Score] = {
    "mean_difference": Score("mean over the positive prompts minus mean over the negative ones", _mean_difference),
    "rank_share": Score("share of tokens at which it is strong, positive minus negative", _rank_share),
    "auroc": Score("chance that a positive prompt has more of it than a negative one", _auroc, 0.5),
    "cohens_d": Score("difference of the means over the deviation within the lists", _cohens_d),
}


def plain_scores(values: Values, positive: Tensor) -> dict[str, Tensor]:
    """Score -> ``[latents]``; ``positive [prompts]`` bool says which prompts are of the positive list."""
    a, b = _sides(values, positive)
    ones = torch.ones(1, len(a.pooled)), torch.ones(1, len(b.pooled))
    return {name: score.of(a, b, *ones)[0] for name, score in SCORES.items()}


def resampled_scores(values: Values, positive: Tensor, seed: int) -> list[dict[str, Metric]]:
    """For every latent each score, with its 95 % interval by bootstrap over the prompts of either list."""
    a, b = _sides(values, positive)
    weights = [_draws(len(each.pooled), seed, number) for number, each in enumerate((a, b))]
    n = len(positive)
    tables = {name: score.of(a, b, *weights) for name, score in SCORES.items()}
    latents = range(values.pooled.shape[1])
    return [{name: estimate(table[:, i], n) for name, table in tables.items()} for i in latents]


def _sides(values: Values, positive: Tensor) -> tuple[Values, Values]:
    return tuple(Values(values.pooled[side], values.strong[side]) for side in (positive, ~positive))  # type: ignore[return-value]


def _draws(prompts: int, seed: int, number: int) -> Tensor:
    """``[1 + resamples, prompts]``: how often each is drawn; row 0 is the list itself."""
    drawn = torch.randint(prompts, (RESAMPLES, prompts), generator=generator("prompts", seed, number))
    counts = torch.zeros(RESAMPLES, prompts).scatter_add_(1, drawn, torch.ones(drawn.shape))
    return torch.cat([torch.ones(1, prompts), counts])
