"""Linear probes: how well a few units, or a whole activation, tell whether a concept holds at a token.

SAEBench's k-sparse probing (Karvonen et al. 2025, arXiv 2503.09532), here per token, where it averages over texts. For
every concept:

1. as many tokens where it holds as tokens where it does not are drawn from the selection half (at most ``TRAIN`` of
   each) and from the test half (at most ``TEST`` of each);
2. the k units with the largest ``|mean where it holds - mean where it does not|`` are chosen, in the units of the
   values as they are;
3. the chosen units are standardised (mean 0, variance 1 over the drawn tokens), so that the penalty is the same whatever
   they are measured in, and a logistic regression with an L2 penalty (C = 1) is fitted to the optimum;
4. accuracy and AUROC are those on the draw of the test half, where chance is .5.

The full probe does the same with all coordinates. Other things to probe are the same calls: raw activations in place of
codes, or draws with shuffled labels, which must score chance.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from kanary.activations.pool import generator
from kanary.errors import KanaryError
from kanary.evaluation.concepts.logistic import logistic
from kanary.evaluation.result import Metric
from kanary.evaluation.sums import FEWEST, GROUPS, bootstrap, estimate
from kanary.kernels.sparse import transposed_product
from kanary.sae import SparseCodes

TRAIN = 2000
"""Positives, and as many negatives, of the selection half that a probe is fitted to, at most."""
TEST = 500
"""Positives, and as many negatives, of the test half that it is judged on, at most."""
LEAST = 50
"""Positives and negatives that each half must have, or the concept is left out."""
_ROOM = 2**21  # numbers in the problems that are solved together
_ROWS = 2**14  # tokens whose values are held in float64 together

_T = TypeVar("_T")
Values = Tensor | SparseCodes
"""What a probe reads: ``[tokens, units]``, the coordinates of an activation or the latents of an SAE; on the CPU."""


@dataclass(frozen=True)
class Draws:
    """The tokens that the probes of every concept are fitted to and judged on.

    A draw holds as many tokens with the concept as without: first those with it.
    """

    concepts: tuple[str, ...]
    labels: Tensor
    """``[tokens, concepts]`` bool; the permuted ones where they are shuffled."""
    judged: Tensor
    """``[tokens, concepts]`` bool: the token counts for the concept."""
    test: Tensor
    """``[tokens]`` bool: the test half."""
    train_rows: Mapping[str, Tensor]
    """Concept -> ``[2 n]`` int64, tokens of the selection half."""
    test_rows: Mapping[str, Tensor]
    """Concept -> ``[2 n]`` int64, tokens of the test half."""
    left_out: Mapping[str, str]
    """Concepts with too few tokens -> why."""
    groups: Tensor
    """``[tokens]`` int64: the group of documents of every token of the test half (0 elsewhere)."""
    counts: Tensor
    """``[GROUPS, 1 + resamples]`` float32: how often each group is drawn by the bootstrap; column 0 is the sample."""

    def weights(self, rows: Tensor) -> Tensor:
        """``[rows, 1 + resamples]`` float32: how often each token of the test half is drawn.

        NaN in the resamples where the tokens come from fewer than ``FEWEST`` groups of documents: no interval.
        """
        groups = self.groups[rows]
        weights = self.counts[groups]
        if len(groups.unique()) < FEWEST:
            weights[:, 1:] = torch.nan
        return weights

    def mean(self, values: Tensor, rows: Tensor) -> Tensor:
        """The mean of ``values [rows]`` over tokens of the test half, and its resamples: ``[1 + resamples]`` float64.

        NaN in the resamples as in :meth:`weights`.
        """
        # fast because a resample needs no more than each group's sum: the draws of single tokens would be 8 kB each
        table = torch.zeros(len(self.counts), 2, dtype=torch.float64)
        table.index_add_(0, self.groups[rows], torch.stack([values.double(), torch.ones(len(rows)).double()], 1))
        total, n = (self.counts.double().T @ table).unbind(1)
        if int((table[:, 1] > 0).sum()) < FEWEST:
            total[1:] = torch.nan
        return total / n


def balanced_draws(
    concepts: Sequence[str],
    labels: Tensor,
    judged: Tensor,
    test: Tensor,
    documents: Tensor,
    *,
    seed: int = 0,
    shuffle: bool = False,
) -> Draws:
    """Draws the tokens for the probes of every concept; the same for every SAE, whose scores can then be compared.

    Args:
        concepts: their names, in the order of the labels' last dimension.
        labels: ``[tokens, concepts]`` bool: whether the concept holds.
        judged: ``[tokens, concepts]`` bool: whether the token counts for the concept.
        test: ``[tokens]`` bool: False = selection half, True = test half.
        documents: ``[tokens]`` int64, which the bootstrap draws.
        shuffle: permute the rows of ``labels`` and ``judged`` among the tokens of each half: a control, chance is .5.

    Raises:
        KanaryError: shapes that do not belong together.
    """
    labels, judged, test, documents = (t.cpu() for t in (labels, judged, test, documents))
    shape = (len(test), len(concepts))
    if labels.shape != shape or judged.shape != shape or documents.shape != test.shape:
        raise KanaryError(
            f"Probing {len(concepts)} concepts on {len(test)} tokens needs labels and judged of shape {shape} and "
            f"documents of shape {tuple(test.shape)}; got {tuple(labels.shape)}, {tuple(judged.shape)} and "
            f"{tuple(documents.shape)}."
        )
    if shuffle:
        order = _shuffled(test, seed)
        labels, judged = labels[order], judged[order]
    train_rows, test_rows, left_out = {}, {}, {}
    for concept, holds, counts in zip(concepts, labels.T.contiguous(), judged.T.contiguous(), strict=True):
        draw = generator(f"probing/{concept}", seed)
        sides = [(half & counts & side).nonzero()[:, 0] for half in (~test, test) for side in (holds, ~holds)]
        if min(map(len, sides)) < LEAST:
            found = "selection half {} and {}, test half {} and {}".format(*map(len, sides))
            left_out[concept] = f"fewer than {LEAST} tokens with and without it in each half ({found})"
            continue
        train_rows[concept] = _balanced(sides[0], sides[1], TRAIN, draw)
        test_rows[concept] = _balanced(sides[2], sides[3], TEST, draw)
    groups = torch.zeros_like(documents)
    groups[test] = documents[test].unique(return_inverse=True)[1] % GROUPS
    counts = bootstrap(torch.bincount(groups[test], minlength=GROUPS), seed).T.float().contiguous()
    return Draws(tuple(concepts), labels, judged, test, train_rows, test_rows, left_out, groups, counts)


@dataclass(frozen=True)
class Probe:
    """A fitted logistic regression, for values as they are (the standardisation is folded in)."""

    units: Tensor
    """``[k]`` int64, the units that it reads, the one with the largest mean difference first."""
    weight: Tensor
    """``[k]`` float64."""
    bias: float

    def log_odds(self, values: Values, rows: Tensor) -> Tensor:
        """``[rows]`` float64 of the tokens ``rows``; above 0 the probe says that the concept holds."""
        parts = [columns(values, some, self.units) @ self.weight + self.bias for some in rows.split(_ROWS)]
        return torch.cat(parts)


class Score(NamedTuple):
    """What a probe reaches on the balanced draw of the test half; chance is .5."""

    accuracy: Metric
    auroc: Metric


@dataclass(frozen=True)
class Probed:
    """The probes of every concept that is not left out, and what they reach."""

    probes: Mapping[str, Probe]
    scores: Mapping[str, Score]
    mean: Score
    """Over the concepts; its intervals, too, are over documents, which are drawn for all concepts alike."""


def probe_top(values: Values, draws: Draws, ks: Sequence[int] = (1, 2, 5)) -> dict[int, Probed]:
    """The probes on the ``k`` best units for each of ``ks``.

    Args:
        values: ``[tokens, units]``: codes of an SAE, or activations as they are.

    Raises:
        KanaryError: ``k`` below 1, another number of tokens than the draws have, NaN or infinity.
    """
    if min(ks) < 1:
        raise KanaryError(f"A probe needs at least 1 unit, got k = {min(ks)}.")
    best = best_units(mean_differences(values, draws).abs(), draws, max(ks))
    return {k: _judged(probes, values, draws) for k, probes in fit_probes(values, draws, best, ks).items()}


def probe_all(x: Tensor, draws: Draws) -> Probed:
    """The full probes, on all coordinates of ``x [tokens, width]``; raises as :func:`probe_top`."""
    _check(x, draws)
    width = x.shape[1]
    everything = dict.fromkeys(draws.train_rows, torch.arange(width))
    return _judged(fit_probes(x, draws, everything, [width])[width], x, draws)


def mean_differences(values: Values, draws: Draws) -> Tensor:
    """Mean where the concept holds minus mean where it does not, over the tokens that its probe is fitted to.

    Returns:
        ``[units, concepts]`` float64, one column for each concept of ``draws.train_rows``.
    """
    _check(values, draws)
    rows = torch.cat([torch.zeros(0, dtype=torch.int64), *draws.train_rows.values()])
    sizes = torch.tensor([len(each) for each in draws.train_rows.values()], dtype=torch.int64)
    concept = torch.arange(len(sizes)).repeat_interleave(sizes)
    holds = torch.arange(len(rows)) - (sizes.cumsum(0) - sizes)[concept] < sizes[concept] // 2
    weights = (2.0 * holds - 1).double() / (sizes[concept] // 2)
    order = rows.argsort()
    rows, concept, weights = rows[order], concept[order], weights[order]
    width = values.d_sae if isinstance(values, SparseCodes) else values.shape[1]
    found = torch.zeros(width, len(sizes), dtype=torch.float64)
    for first in range(0, len(draws.test), _ROWS):
        some = values[first : first + _ROWS]
        here = slice(*torch.searchsorted(rows, torch.tensor([first, first + _ROWS])).tolist())
        contrast = torch.zeros(some.tokens if isinstance(some, SparseCodes) else len(some), len(sizes)).double()
        contrast[rows[here] - first, concept[here]] = weights[here]
        if isinstance(some, SparseCodes):
            found += transposed_product(some.values.double(), some.pattern, contrast)
        else:
            found += some.double().T @ contrast
    return found


def best_units(differences: Tensor, draws: Draws, k: int) -> dict[str, Tensor]:
    """Concept -> the ``k`` units with the largest ``differences [units, concepts]``, the largest first (all, if fewer)."""
    order = differences.T.topk(min(k, len(differences)), dim=1).indices
    return dict(zip(draws.train_rows, order, strict=True))


def fit_probes(
    values: Values, draws: Draws, units: Mapping[str, Tensor], ks: Sequence[int]
) -> dict[int, dict[str, Probe]]:
    """For each of ``ks``, the probe of every concept on the first ``k`` of its ``units [most]``, equally many for each.

    Problems of about the same size are solved together.
    """
    fitted: dict[int, dict[str, Probe]] = {k: {} for k in ks}
    names = sorted(units, key=lambda name: len(draws.train_rows[name]))
    largest = len(draws.train_rows[names[-1]]) * (len(units[names[-1]]) + 1) if names else 1
    for some in _some(names, max(1, _ROOM // largest)):
        rows = [draws.train_rows[name] for name in some]
        x = pad_sequence([columns(values, r, units[n]) for r, n in zip(rows, some, strict=True)], batch_first=True)
        y = pad_sequence([(torch.arange(len(r)) < len(r) // 2).double() for r in rows], batch_first=True)
        counted = pad_sequence([torch.ones(len(r)).double() for r in rows], batch_first=True)
        mean, scale = _standardise(x, counted)
        for k in fitted:
            weights = logistic(x[:, :, :k], y, counted)
            raw = weights[:, :-1] / scale[:, :k]
            biases = (weights[:, -1] - (raw * mean[:, :k]).sum(1)).tolist()
            fitted[k] |= {name: Probe(units[name][:k], raw[i], biases[i]) for i, name in enumerate(some)}
    return {k: {name: probes[name] for name in units} for k, probes in fitted.items()}


def columns(values: Values, rows: Tensor, units: Tensor) -> Tensor:
    """The values of ``units [k]`` at the tokens ``rows``: ``[rows, k]`` float64 on the CPU."""
    if isinstance(values, Tensor):
        found: Tensor = values[rows][:, units].double()
        return found
    which, latents, entries = entries_at(values, rows)
    column = torch.full((values.d_sae,), -1)
    column[units] = torch.arange(len(units))
    places = column[latents]
    wanted = (places >= 0).nonzero()[:, 0]
    dense = torch.zeros(len(rows), len(units), dtype=torch.float64)
    dense[which[wanted], places[wanted]] = entries[wanted]
    return dense


def entries_at(codes: SparseCodes, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The non-zero values at the tokens ``rows``: which of ``rows``, latent, value (float64), each ``[nnz]``."""
    starts, ends = codes.offsets[rows], codes.offsets[rows + 1]
    lengths = ends - starts
    which = torch.arange(len(rows)).repeat_interleave(lengths)
    at = torch.arange(len(which)) + (ends - lengths.cumsum(0))[which]
    return which, codes.indices[at], codes.values[at].double()


def _standardise(x: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """Gives ``x [problems, n, k]`` mean 0 and variance 1 in place, 0 in rows that are not counted; (mean, scale)."""
    n = counted.sum(1)[:, None]
    mean = x.sum(1) / n
    x.sub_(mean[:, None]).mul_(counted[:, :, None])
    scale = (x.square().sum(1) / n).sqrt()
    scale[scale <= 1e-7 * mean.abs()] = 1  # a constant, up to the rounding of float32, says nothing
    scale[scale == 0] = 1
    x.div_(scale[:, None])
    return mean, scale


def _judged(probes: Mapping[str, Probe], values: Values, draws: Draws) -> Probed:
    scores, everything = {}, []
    for name, probe in probes.items():
        rows = draws.test_rows[name]
        log_odds = probe.log_odds(values, rows)
        n = len(rows) // 2
        right = torch.cat([log_odds[:n] > 0, log_odds[n:] <= 0])
        both = draws.mean(right, rows), _auroc(log_odds[:n], log_odds[n:], draws.weights(rows))
        scores[name] = Score(estimate(both[0], 2 * n), estimate(both[1], 2 * n))
        everything.append(torch.stack(both))
    mean = mean_over(everything, 2)
    tokens = sum(score.accuracy.n for score in scores.values())
    return Probed(probes, scores, Score(estimate(mean[0], tokens), estimate(mean[1], tokens)))


def _auroc(positive: Tensor, negative: Tensor, weights: Tensor) -> Tensor:
    """Share of pairs in the right order, ties half: of the scores ``positive [n]`` and ``negative [m]``.

    Args:
        weights: ``[n + m, 1 + resamples]``, how often each is drawn.
    """
    negative, order = negative.sort()
    mine, theirs = weights[: len(positive)], weights[len(positive) :][order]
    below = F.pad(theirs.cumsum(0), (0, 0, 1, 0))  # negatives below a place in their order
    ranks = below[torch.searchsorted(negative, positive)] + below[torch.searchsorted(negative, positive, right=True)]
    pairs = mine.double().sum(0) * theirs.double().sum(0)
    return (mine * ranks).double().sum(0) / 2 / pairs


def mean_over(concepts: Sequence[Tensor], numbers: int) -> Tensor:
    """The mean of each's ``[numbers, 1 + resamples]``, where it has a number; one without an interval counts as fixed."""
    if not concepts:
        return torch.full((numbers, 1), torch.nan, dtype=torch.float64)
    values = torch.stack(list(concepts))
    return torch.where(values.isfinite(), values, values[:, :, :1]).nanmean(0)


def _balanced(positive: Tensor, negative: Tensor, most: int, draw: torch.Generator) -> Tensor:
    n = min(len(positive), len(negative), most)
    return torch.cat([rows[torch.randperm(len(rows), generator=draw)[:n]] for rows in (positive, negative)])


def _shuffled(test: Tensor, seed: int) -> Tensor:
    """``[tokens]`` int64: a token of the same half for every token."""
    order, draw = torch.arange(len(test)), generator("probing/shuffled", seed)
    for half in (~test, test):
        rows = half.nonzero()[:, 0]
        order[rows] = rows[torch.randperm(len(rows), generator=draw)]
    return order


def _check(values: Values, draws: Draws) -> None:
    tokens = len(values) if isinstance(values, Tensor) else values.tokens
    if tokens != len(draws.test):
        raise KanaryError(f"There are values of {tokens} tokens, but the probes are drawn from {len(draws.test)}.")
    parts = (values if isinstance(values, Tensor) else values.values).split(_ROWS)  # isfinite makes copies
    if not all(bool(part.isfinite().all()) for part in parts):
        raise KanaryError("A probe cannot be fitted to NaN or infinity; leave out the tokens that have them.")


def _some(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    yield from (items[a : a + size] for a in range(0, len(items), size))
