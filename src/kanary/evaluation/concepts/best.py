"""The best unit for each concept, chosen on the selection half of a sample and judged, exactly, on the test half.

All intervals are bootstraps over the documents of the test half (over latents for monosemanticity), with the units held
fixed that were chosen on the selection half.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from kanary.activations.pool import generator
from kanary.evaluation.concepts.sample import Sample
from kanary.evaluation.concepts.units import SLOTS, Entries, SparseUnits, Truth, Units, cut, pieces, unit_scores
from kanary.evaluation.result import Metric
from kanary.evaluation.sums import GROUPS, RESAMPLES, bootstrap, estimate
from kanary.text.labelled.concepts import find_concept

FEWEST_TOKENS = 50
"""Positive tokens, and negative ones, below which nothing is measured."""
FEWEST_FIRINGS = 20
"""Of a latent, in each half, below which its monosemanticity is not measured."""
_LATENTS = 4096  # treated at a time


@dataclass(frozen=True)
class Half:
    """One half of a sample, for the concepts that are measured."""

    truth: Truth
    siblings: Tensor
    """``[tokens, concepts]`` bool: negatives of the concept at which its parent holds; none without a parent."""
    values: Tensor
    """``[tokens, graded]`` float32, NaN where none is given."""
    documents: Tensor
    """``[tokens]`` int64."""
    seed: int
    """Of the bootstrap."""

    @classmethod
    def of(cls, sample: Sample, concepts: Sequence[str], graded: Sequence[str], seed: int) -> "Half":
        """Of a ``sample`` of one half, the columns of ``concepts`` and ``graded``."""
        column = {name: i for i, name in enumerate(sample.concepts)}
        chosen = [column[name] for name in concepts]
        truth = Truth.of(sample.labels[:, chosen], sample.judged[:, chosen])
        siblings = torch.zeros_like(truth.labels)
        for i, name in enumerate(concepts):
            if (parent := find_concept(name).parent) in column:
                held = sample.labels[:, column[parent]] & sample.judged[:, column[parent]]
                siblings[:, i] = held & truth.judged[:, i] & ~truth.labels[:, i]
        values = sample.values[:, [sample.graded.index(name) for name in graded]]
        return cls(truth, siblings, values, sample.documents, seed)

    def shuffled(self, seed: int) -> "Half":
        """What holds at each token is that of another one, drawn at random; the documents stay where they are."""
        order = torch.randperm(len(self.documents), generator=generator("shuffled labels", seed))
        truth = replace(
            self.truth, **{name: getattr(self.truth, name)[order] for name in ("labels", "judged", "columns")}
        )
        return replace(self, truth=truth, siblings=self.siblings[order], values=self.values[order])

    @cached_property
    def groups(self) -> Tensor:
        """``[tokens]`` int64: the group of documents that each is in."""
        groups: Tensor = self.documents.unique(return_inverse=True)[1] % GROUPS
        return groups

    @cached_property
    def draws(self) -> Tensor:
        """``[1 + resamples, groups]`` float32: how often each group is drawn; row 0 is the half itself."""
        tokens = torch.bincount(self.groups, minlength=GROUPS)
        return bootstrap(tokens, self.seed)[:, tokens > 0].float()

    def sums(self, tokens: Tensor, *columns: Tensor) -> Tensor:
        """``[1 + resamples, columns]`` float64: sums of ``columns``, each ``[n]``, over ``tokens [tokens]`` bool."""
        groups = self.groups[tokens]
        table = torch.zeros(self.draws.shape[1], len(columns), dtype=torch.float64)
        table.index_add_(0, groups, torch.stack(columns, 1).double())
        return self.draws.double() @ table

    def counts(self, slots: Tensor, tokens: Tensor) -> Tensor:
        """``[1 + resamples, SLOTS]``: how many of ``tokens [n]`` are in each of ``slots [n]``."""
        cells = self.draws.shape[1] * SLOTS
        table = torch.bincount(self.groups[tokens] * SLOTS + slots, minlength=cells).view(-1, SLOTS)
        return (self.draws @ table.float()).double()


class Choice(NamedTuple):
    """For every concept, the unit that tells it best."""

    unit: Tensor
    """``[concepts]`` int64."""
    sign: Tensor
    """``[concepts]`` int64: 1, or -1 where smaller values are more of the concept."""
    score: Tensor
    """``[concepts]``, on the half that it was chosen on."""


def choose(units: Units, truth: Truth) -> tuple[Choice, Choice]:
    """The best unit of every concept by AUROC, and the best by F1; of equally good ones the first."""
    none = torch.zeros(truth.concepts, dtype=torch.int64)
    best = [Choice(none, none, torch.full((truth.concepts,), -1.0))] * 2
    signs = torch.tensor(units.signs)
    for found in unit_scores(units, truth):
        for i, scores in enumerate((found.auroc, found.f1)):
            score, at = scores.flatten(0, 1).max(0)
            sign, unit = signs[at // scores.shape[1]], found.first + at % scores.shape[1]
            better = score > best[i].score
            old = best[i]
            best[i] = Choice(
                torch.where(better, unit, old.unit),
                torch.where(better, sign, old.sign),
                torch.where(better, score, old.score),
            )
    return best[0], best[1]


@dataclass(frozen=True)
class Found:
    """The best units for one concept; numbers are those of the test half."""

    unit: int
    """The best by AUROC."""
    sign: int
    """1, or -1 where smaller values are more of the concept; latents are always taken as they are."""
    auroc: Metric
    sibling_auroc: Metric
    """Of the same unit, among the tokens where the concept's parent holds; NaN without a parent or with fewer than 50
    such negatives."""
    f1_unit: int
    """The best by F1."""
    f1_sign: int
    threshold: float
    """Chosen on the selection half: the concept is said to hold where ``f1_sign * value >= threshold``."""
    f1: Metric
    precision: Metric
    """NaN where the threshold is never reached."""
    recall: Metric
    positives: int
    """Tokens at which the concept holds."""
    documents: int
    """That they are from."""


class Judged(NamedTuple):
    """Every concept's best units, and the bootstrap of their scores."""

    found: list[Found]
    auroc: Tensor
    """``[1 + resamples, concepts]`` float64; row 0 is the number itself."""
    f1: Tensor
    """``[1 + resamples, concepts]`` float64."""


def judge(selection: Units, test: Units, halves: tuple[Half, Half]) -> Judged:
    """Chooses units by their values on the selection half, ``selection``, and judges them by those on the other."""
    chosen, seen = halves
    by_auroc, by_f1 = choose(selection, chosen.truth)
    found, aurocs, f1s = [], [], []
    for i in range(chosen.truth.concepts):
        positive, judged = seen.truth.labels[:, i], seen.truth.judged[:, i]
        unit, sign = int(by_auroc.unit[i]), int(by_auroc.sign[i])
        values = sign * test.column(unit)
        auroc = resampled_auroc(values, positive, judged & ~positive, seen)
        enough = int(seen.siblings[:, i].sum()) >= FEWEST_TOKENS
        sibling = resampled_auroc(values, positive, seen.siblings[:, i], seen) if enough else NONE
        f1_unit, f1_sign = int(by_f1.unit[i]), int(by_f1.sign[i])
        threshold = best_threshold(
            f1_sign * selection.column(f1_unit), chosen.truth.labels[:, i], chosen.truth.judged[:, i]
        )
        said = f1_sign * test.column(f1_unit)[judged] >= threshold
        hits, claims, held = seen.sums(judged, said & positive[judged], said, positive[judged]).unbind(1)
        n = int(judged.sum())
        found.append(
            Found(
                unit,
                sign,
                estimate(auroc, n),
                estimate(sibling, int((positive | seen.siblings[:, i]).sum()) if enough else 0),
                f1_unit,
                f1_sign,
                threshold,
                estimate(2 * hits / (claims + held), n),
                estimate(hits / claims, n),
                estimate(hits / held, n),
                int(positive.sum()),
                len(seen.documents[positive].unique()),
            )
        )
        aurocs.append(auroc)
        f1s.append(2 * hits / (claims + held))
    return Judged(found, torch.stack(aurocs, 1), torch.stack(f1s, 1))


NONE = torch.full((1,), math.nan, dtype=torch.float64)
"""A number that does not exist."""


def auroc(positive: Tensor, negative: Tensor) -> float:
    """The chance that a value of ``positive [p]`` is above one of ``negative [n]``; ties count half. NaN if either is empty."""
    if not len(positive) or not len(negative):
        return math.nan
    ordered, positive = negative.sort().values, positive.contiguous()
    below = sum(int(torch.searchsorted(ordered, positive, right=right).sum()) for right in (False, True))
    return below / 2 / len(positive) / len(negative)


def resampled_auroc(values: Tensor, positive: Tensor, negative: Tensor, half: Half) -> Tensor:
    """The exact AUROC, then its resamples, ``[1 + resamples]`` float64.

    The resamples take values that share one of 64 bins for equal; how far this moves the AUROC of the half itself is
    taken off them again.

    Args:
        values: ``[tokens]`` float32.
        positive, negative: ``[tokens]`` bool.
    """
    tokens = positive | negative
    kept, holds, where = values[tokens], positive[tokens], tokens.nonzero().squeeze(1)
    order, bins, _ = cut(Entries(kept, where, torch.tensor([len(kept)])))
    slots = torch.empty_like(bins).index_copy_(0, order, bins)
    p, n = (half.counts(slots[those], where[those]) for those in (holds, ~holds))
    binned = (p * (n.cumsum(1) - n / 2)).sum(1) / (p.sum(1) * n.sum(1))
    return (binned - binned[0] + auroc(kept[holds], kept[~holds])).clamp(0, 1)


def best_threshold(values: Tensor, positive: Tensor, judged: Tensor) -> float:
    """The least value (of those that there are) that counts as a yes where F1 is largest; of equal ones the highest.

    Args:
        values: ``[tokens]``; positive, judged: ``[tokens]`` bool.
    """
    ordered, order = values[judged].sort(descending=True)
    hits = positive[judged][order].cumsum(0)
    f1 = 2 * hits.double() / (torch.arange(1, len(hits) + 1) + hits[-1])
    f1[:-1][ordered[1:] == ordered[:-1]] = -1  # equal values are on the same side
    return float(ordered[f1.argmax()])


@dataclass(frozen=True)
class FoundGraded:
    """The unit that follows a graded concept's value best."""

    unit: int
    r: Metric
    """Pearson's, on the test half, over the tokens that have a value; 0 without interval where the unit does not vary."""


def judge_graded(selection: Units, test: Units, halves: tuple[Half, Half]) -> tuple[list[FoundGraded], Tensor]:
    """For every graded concept, the unit whose values have the largest ``|r|`` with its own on the selection half.

    Returns:
        What was found, and ``r`` with its resamples, ``[1 + resamples, graded]`` float64.
    """
    found, resampled = [], [torch.zeros(len(halves[1].draws), 0, dtype=torch.float64)]
    for i, unit in enumerate(correlations(selection, halves[0].values).abs().argmax(0).tolist()):
        y = halves[1].values[:, i].double()
        given = ~y.isnan()
        v, y = test.column(unit)[given].double(), y[given]
        v, y = v - v.mean(), y - y.mean()
        r = _pearson(*halves[1].sums(given, torch.ones_like(v), v, y, v * v, y * y, v * y).unbind(1))
        resampled.append(r[:, None])
        found.append(FoundGraded(unit, estimate(r if bool(v.any()) else torch.zeros_like(NONE), len(y))))
    return found, torch.cat(resampled, 1)


def correlations(units: Units, values: Tensor) -> Tensor:
    """``[units, graded]`` float64: Pearson's r of every unit with ``values [tokens, graded]`` where they are not NaN."""
    given = ~values.isnan()
    y = values.double().nan_to_num(0)
    y = torch.where(given, y - y.sum(0) / given.sum(0), 0)
    columns = torch.cat([given.double(), y], 1)
    some, graded = given.any(1), values.shape[1]
    parts = [torch.zeros(0, graded, dtype=torch.float64)]
    for first, last in pieces(units.sizes, 2**20, _LATENTS):
        entries = _those(units.entries(first, last), some)
        sums = _product(entries, entries.values.double(), columns)
        squares = _product(entries, entries.values.double().square(), columns[:, :graded])
        n, yy = given.sum(0).double(), y.square().sum(0)
        parts.append(_pearson(n, sums[:, :graded], torch.zeros_like(n), squares, yy, sums[:, graded:]))
    return torch.cat(parts)


def _pearson(n: Tensor, v: Tensor, y: Tensor, vv: Tensor, yy: Tensor, vy: Tensor) -> Tensor:
    """From sums; 0 where one of the two does not vary."""
    spread_v, spread_y = vv - v * v / n, yy - y * y / n
    varies = (spread_v > 1e-12 * vv) & (spread_y > 1e-12 * yy)
    return torch.where(varies, (vy - v * y / n) / (spread_v * spread_y).clamp_min(1e-300).sqrt(), 0.0)


def _those(entries: Entries, tokens: Tensor) -> Entries:
    """The entries at ``tokens [tokens]`` bool."""
    kept = tokens[entries.tokens]
    total = F.pad(kept.cumsum(0), (1, 0))
    ends = F.pad(entries.counts.cumsum(0), (1, 0))
    return Entries(entries.values[kept], entries.tokens[kept], total[ends].diff())


def _product(entries: Entries, weights: Tensor, columns: Tensor) -> Tensor:
    """``[units, columns]``: for every unit the sum of ``columns [tokens, columns]``, each entry with its weight."""
    ends, shape = F.pad(entries.counts.cumsum(0), (1, 0)), (len(entries.counts), len(columns))
    matrix = torch.sparse_csr_tensor(ends, entries.tokens, weights, shape, check_invariants=False)
    return matrix @ columns


def monosemanticity(selection: SparseUnits, test: SparseUnits, halves: tuple[Half, Half]) -> Metric:
    """How much of a latent's activity is its best concept's: mean over latents of (share - base) / (1 - base).

    ``share`` is the part of the latent's summed ``|value|`` on judged tokens that falls on tokens where the concept holds,
    ``base`` the concept's share of the judged tokens: 1 for a latent of one concept alone, 0 for one that fires anywhere.
    A latent's best concept is the one for which this number is largest on the selection half, among those on whose judged
    tokens it fires at least 20 times there; the number is that of the test half. The mean is over the ``n`` latents that
    fire at least 20 times in each half; its interval is a bootstrap over them.
    """
    parts = [torch.zeros(0, dtype=torch.float64)]
    enough = (selection.sizes >= FEWEST_FIRINGS) & (test.sizes >= FEWEST_FIRINGS)
    for first, last in pieces(selection.sizes + test.sizes, 2**22, _LATENTS):
        chosen, fired = _purity(selection.entries(first, last), halves[0].truth)
        seen, _ = _purity(test.entries(first, last), halves[1].truth)
        score, best = chosen.masked_fill(fired < FEWEST_FIRINGS, -math.inf).max(1)
        counted = enough[first:last] & score.isfinite()
        parts.append(seen.gather(1, best[:, None]).squeeze(1)[counted])
    purity = torch.cat(parts)
    purity = purity[purity.isfinite()]  # a latent may be silent wherever its concept is judged
    return _mean_over(purity, halves[1].seed)


def _purity(entries: Entries, truth: Truth) -> tuple[Tensor, Tensor]:
    """Chance-corrected share of every unit's activity that is each concept's, and its firings on tokens judged for it.

    Both ``[units, concepts]``, float64.
    """
    columns = truth.columns.double()
    mass = _product(entries, entries.values.double().abs(), columns)
    fired = _product(entries, torch.ones(len(entries.values), dtype=torch.float64), columns[:, truth.concepts :])
    total = columns.sum(0)
    base = total[: truth.concepts] / total[truth.concepts :][truth.group]
    share = mass[:, : truth.concepts] / mass[:, truth.concepts :][:, truth.group]
    return (share - base) / (1 - base), fired[:, truth.group]


def _mean_over(values: Tensor, seed: int) -> Metric:
    """The mean of ``values [n]`` with a bootstrap over them; NaN for none, no interval for one."""
    n = len(values)
    means = [values.mean()]
    if n > 1:
        draw = generator("bootstrap of latents", seed)
        means += [values[torch.randint(n, (n,), generator=draw)].mean() for _ in range(RESAMPLES)]
    return estimate(torch.stack(means), n)
