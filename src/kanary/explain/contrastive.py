"""The contrastive benchmark: is there a latent that tells pairs of stories apart that differ in one concept?

After CE-Bench (Gulko et al., arXiv 2509.00691), whose code has two faults: the mean of the data set is never subtracted, and
its score is a maximum of z-scores, which grows with the number of latents. Here the mean is subtracted, and the score is a
percentile: the latent that tells half of a concept's pairs apart best is looked for among all latents on the other half.
0.5 is chance at any width. What CE-Bench's code computes is given too, under its own name.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray

from kanary.errors import KanaryError
from kanary.explain.statistics import Estimate, mean
from kanary.lm import LanguageModel
from kanary.sae import SAE
from kanary.text.labelled.concepts import known
from kanary.text.labelled.record import pairs
from kanary.text.windows import encode

CONCEPTS, PAIRS = 24, 8
"""Concepts, evenly over those that can be switched, and pairs of stories of each."""

_TRIED = 64  # pairs of a concept, of which enough must differ where the model reads them

Means = NDArray[np.float64]


@dataclass(frozen=True)
class Contrast:
    """What the benchmark found for one SAE."""

    contrastive: Estimate
    """Percentile, by the difference of the two stories of a pair."""
    independence: Estimate
    """Percentile, by how far a pair is from the mean of all stories."""
    interpretability: Estimate
    """Percentile, by the sum of both."""
    ce_bench: float
    """CE-Bench's "interpretability score" as published: mean over pairs of the largest z-score. Only for equal widths."""
    n: int
    """Concepts."""


@dataclass(frozen=True)
class Stories:
    """Mean activations of stories, in pairs that differ in one concept."""

    concepts: tuple[str, ...]
    means: NDArray[np.float64]
    """``[concepts, pairs, 2, d_sae]``"""


def contrast(stories: Stories, seed: int = 0) -> Contrast:
    """The numbers of one SAE; intervals are from resampling the concepts."""
    without = stories.means.mean((0, 1, 2))
    apart = np.abs(stories.means[:, :, 0] - stories.means[:, :, 1])  # [concepts, pairs, d_sae]
    away = np.abs(stories.means.mean(2) - without)
    alive = stories.means.max((0, 1, 2)) > 0
    draw = np.random.default_rng([seed, 51])
    by_difference, by_distance, by_both = (
        mean(_percentiles(each[..., alive]), draw) for each in (apart, away, apart + away)
    )
    published = apart + np.abs(stories.means.mean(2))  # the mean of the data set stays 0 there
    largest = float(_largest_z(published).mean())
    return Contrast(by_difference, by_distance, by_both, largest, len(stories.concepts))


@torch.no_grad()
def read_stories(
    lm: LanguageModel,
    saes: Sequence[SAE],
    *,
    concepts: int = CONCEPTS,
    per_concept: int = PAIRS,
    seed: int = 0,
    show: Callable[[int], None] = lambda pairs: None,
) -> list[Stories]:
    """Runs the model once on every story; for each SAE its mean codes, special tokens left out.

    Args:
        show: told of pairs.

    Raises:
        KanaryError: the model reads so little that no story of a pair differs from the other there; fewer than 2 pairs.
    """
    if per_concept < 2:
        raise KanaryError(
            f"per_concept={per_concept}: half of the pairs choose a latent, the others judge it; give 2 or more."
        )
    switched = [concept.name for concept in known().values() if concept.switch]
    which = [switched[i] for i in np.linspace(0, len(switched) - 1, min(concepts, len(switched))).round().astype(int)]
    names: list[str] = []
    found: list[list[list[list[Means]]]] = [[] for _ in saes]
    for name in which:
        told = list(islice(_pairs(lm, name, seed), per_concept))
        show(per_concept)
        if len(told) == per_concept:
            names.append(name)
            both = [[_means(lm, saes, ids) for ids in pair] for pair in told]
            for number, each in enumerate(found):
                each.append([[one[number] for one in pair] for pair in both])
    if not names:
        raise KanaryError(f"The stories differ only behind the {lm.context} tokens that {lm.name} can read.")
    return [Stories(tuple(names), np.array(each)) for each in found]


def _pairs(lm: LanguageModel, concept: str, seed: int) -> Iterator[tuple[list[int], list[int]]]:
    """Token ids of pairs of stories, as far as the model can read them, that differ there."""
    for pair in islice(pairs(concept, seed), _TRIED):
        with_it, without = (encode(lm, [record.text])[0][: lm.context - 1] for record in pair)
        if with_it != without:
            yield with_it, without


def _means(lm: LanguageModel, saes: Sequence[SAE], ids: Sequence[int]) -> list[Means]:
    first = [lm.bos_id] if lm.bos_id is not None else []
    tokens = torch.tensor([[*first, *ids]], device=lm.device)
    sites = [str(sae.config.trained_on["site"]) for sae in saes]
    x = lm.capture(tokens, list(dict.fromkeys(sites)))
    found = []
    for sae, site in zip(saes, sites, strict=True):
        codes = sae.encode(x[site][0, len(first) :])
        sums = np.bincount(codes.indices.cpu().numpy(), codes.values.double().cpu().numpy(), sae.d_sae)
        found.append(sums / max(1, len(ids)))
    return found


def _percentiles(sizes: Means) -> list[float]:
    """``sizes [concepts, pairs, latents]``: for each concept where the best latent of the first half of the pairs stands in the
    second half, as the share of the other latents that are smaller, equal ones counted half. None without latents."""
    if not sizes.shape[2]:
        return []
    half = sizes.shape[1] // 2
    best = sizes[:, :half].mean(1).argmax(1)
    later = sizes[:, half:].mean(1)
    chosen = np.take_along_axis(later, best[:, None], 1)
    smaller = (later < chosen).sum(1) + ((later == chosen).sum(1) - 1) / 2
    found: list[float] = (smaller / max(1, sizes.shape[2] - 1)).tolist()
    return found


def _largest_z(sizes: Means) -> NDArray[np.float64]:
    """``[concepts, pairs]``: over latents."""
    spread = sizes.std(-1)
    found: NDArray[np.float64] = (sizes.max(-1) - sizes.mean(-1)) / np.where(spread > 0, spread, 1)
    return found
