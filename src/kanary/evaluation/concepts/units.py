"""AUROC and best F1 of every unit for every concept, from counts in a few bins of each unit's values.

A unit is a latent of an SAE, or a column of a dense matrix: a neuron, a random direction, a principal component.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from kanary.sae import SparseCodes

SLOTS = 64
"""Bins per unit: two keep zeros apart from what is below and above."""
BINS = SLOTS - 2
ENTRIES = 2**20
"""Values sorted at a time."""
CELLS = 2**22
"""Counts (unit x bin x concept) held at a time."""


class Entries(NamedTuple):
    """Values of some units, one unit after another. Where a unit has no value, it is zero."""

    values: Tensor
    """``[n]`` float32."""
    tokens: Tensor
    """``[n]`` int64: the token of each."""
    counts: Tensor
    """``[units]`` int64: how many each unit has."""


@dataclass(frozen=True)
class DenseUnits:
    """Columns of a matrix. They have no sign of their own, so both are tried."""

    matrix: Tensor
    """``[tokens, units]`` float32, on the CPU."""
    signs: tuple[int, ...] = (1, -1)

    @property
    def tokens(self) -> int:
        return self.matrix.shape[0]

    @property
    def sizes(self) -> Tensor:
        """``[units]`` int64: entries of each unit."""
        return torch.full((self.matrix.shape[1],), self.tokens)

    def entries(self, first: int, last: int) -> Entries:
        """Of the units from ``first`` to before ``last``."""
        values = self.matrix[:, first:last].T.flatten()
        return Entries(values, torch.arange(self.tokens).repeat(last - first), self.sizes[first:last])

    def column(self, unit: int) -> Tensor:
        """``[tokens]`` float32: the value of one unit."""
        return self.matrix[:, unit]


@dataclass(frozen=True)
class SparseUnits:
    """Latents of an SAE, as they are: larger is more of the concept. They take 8 bytes per firing."""

    tokens: int
    values: Tensor
    """``[n]`` float32, latent after latent, on the CPU."""
    places: Tensor
    """``[n]`` int32: the token of each value."""
    offsets: Tensor
    """``[latents + 1]`` int64; latent i owns the values ``offsets[i]:offsets[i + 1]``."""
    signs: tuple[int, ...] = (1,)

    @classmethod
    def of(cls, pieces: Iterable[SparseCodes]) -> "SparseUnits":
        """From the codes of consecutive pieces of the tokens, of which there is at least one."""
        found, tokens = [], 0
        for codes in pieces:
            order, offsets, rows = codes.to("cpu").pattern.by_latent()
            found.append((codes.values.detach().cpu().float()[order], (rows + tokens).int(), offsets.diff()))
            tokens += codes.tokens
        counts = torch.stack([each for _, _, each in found])  # [pieces, latents]
        offsets = F.pad(counts.sum(0).cumsum(0), (1, 0))
        values, places = torch.empty(int(offsets[-1])), torch.empty(int(offsets[-1]), dtype=torch.int32)
        starts = offsets[:-1] + counts.cumsum(0) - counts  # where each piece's values of each latent go
        for start in starts:
            piece, rows, sizes = found.pop(0)  # and forgotten once it is copied
            shift = start - (sizes.cumsum(0) - sizes)
            to = torch.repeat_interleave(shift, sizes) + torch.arange(len(piece))
            values[to], places[to] = piece, rows
        return cls(tokens, values, places, offsets)

    @property
    def sizes(self) -> Tensor:
        """``[units]`` int64: entries of each unit."""
        return self.offsets.diff()

    def entries(self, first: int, last: int) -> Entries:
        """Of the units from ``first`` to before ``last``."""
        span = slice(int(self.offsets[first]), int(self.offsets[last]))
        return Entries(self.values[span], self.places[span].long(), self.sizes[first:last])

    def column(self, unit: int) -> Tensor:
        """``[tokens]`` float32: the value of one unit."""
        values, places, _ = self.entries(unit, unit + 1)
        return torch.zeros(self.tokens).index_copy_(0, places, values)


Units = DenseUnits | SparseUnits


@dataclass(frozen=True)
class Truth:
    """What holds at tokens, ready to be counted."""

    labels: Tensor
    """``[tokens, concepts]`` bool: judged, and the concept holds."""
    judged: Tensor
    """``[tokens, concepts]`` bool."""
    columns: Tensor
    """``[tokens, concepts + groups]`` float32: the labels, then every different column of ``judged``."""
    group: Tensor
    """``[concepts]`` int64: which of these columns is the concept's."""

    @classmethod
    def of(cls, labels: Tensor, judged: Tensor) -> "Truth":
        """``labels``, ``judged``: ``[tokens, concepts]`` bool."""
        different, group = judged.unique(dim=1, return_inverse=True)
        return cls(labels & judged, judged, torch.cat([labels & judged, different], 1).float(), group)

    @property
    def concepts(self) -> int:
        return self.labels.shape[1]


class Scores(NamedTuple):
    """How well some units tell every concept; NaN where a concept has no positive or no negative token."""

    first: int
    """The number of the first of them."""
    auroc: Tensor
    """``[signs, units, concepts]`` float32; the second sign takes smaller values for more of the concept."""
    f1: Tensor
    """``[signs, units, concepts]`` float32, at the best threshold."""


def unit_scores(units: Units, truth: Truth) -> Iterator[Scores]:
    """The scores of all units, some at a time, so that memory does not grow with their number.

    The values of a unit are cut into at most 64 bins by rank, ties together; the bins are finer at both ends, where the
    thresholds of rare concepts lie. Within a bin, values count as equal: with up to 62 different values other than zero
    the scores are exact. Ties count half in the AUROC.
    """
    for first, last in pieces(units.sizes, ENTRIES, max(1, CELLS // (SLOTS * truth.columns.shape[1]))):
        counts = _counts(units.entries(first, last), truth)
        yield Scores(first, *_scores(counts, truth, len(units.signs)))


def pieces(sizes: Tensor, entries: int, most: int) -> Iterator[tuple[int, int]]:
    """Ranges of units with at most so many ``entries`` and ``most`` units each, but at least one unit."""
    total = F.pad(sizes.cumsum(0), (1, 0))
    first = 0
    while first < len(sizes):
        fit = int(torch.searchsorted(total, total[first] + entries, right=True)) - 1
        last = max(first + 1, min(fit, first + most, len(sizes)))
        yield first, last
        first = last


class Cut(NamedTuple):
    """Entries in the order of unit and value, and the bins they fall in."""

    order: Tensor
    """``[n]`` int64."""
    bins: Tensor
    """``[n]`` int64, in that order: ``unit * SLOTS + slot``; larger values have larger slots."""
    zeros: Tensor
    """``[units]`` int64: the slot of tokens without an entry, whose value is zero."""


def cut(entries: Entries) -> Cut:
    """Cuts the values of every unit by rank into at most ``BINS`` bins below, at and above zero together."""
    counts, n = entries.counts, len(entries.values)
    units = torch.repeat_interleave(torch.arange(len(counts)), counts, output_size=n)
    # fast because one integer holds unit and value, in an order that is theirs, and is sorted once
    bits = (entries.values + 0.0).view(torch.int32).long()  # + 0.0: there is one zero
    keys, order = ((units << 33) + torch.where(bits < 0, -(bits & 0x7FFFFFFF), bits)).sort()
    starts = F.pad(keys.diff() != 0, (1, 0), value=True).nonzero().squeeze(1) if n else order  # of equal values
    unit, value = units[starts], entries.values[order[starts]]
    rank = starts - (counts.cumsum(0) - counts)[unit]
    different = torch.bincount(unit, minlength=len(counts))
    number = torch.arange(len(starts)) - (different.cumsum(0) - different)[unit]
    bins = torch.where(different[unit] <= BINS, number, _bin(rank, counts[unit]))
    zeros = torch.zeros_like(counts).scatter_reduce_(0, unit[value < 0], bins[value < 0] + 1, "amax")
    bins = unit * SLOTS + bins + (value == 0) + 2 * (value > 0)
    return Cut(order, torch.repeat_interleave(bins, F.pad(starts, (0, 1), value=n).diff(), output_size=n), zeros)


def _bin(rank: Tensor, count: Tensor) -> Tensor:
    """The bin of a ``rank`` among ``count``: halfway between steps that are equal in rank and in its log-odds."""
    share = (rank + 0.5) / count
    odds = 0.5 + torch.logit(share.double()) / (2 * math.log(2) + 2 * count.double().log())
    return ((share + odds) / 2 * BINS).long().clamp(0, BINS - 1)


def _counts(entries: Entries, truth: Truth) -> Tensor:
    """``[units, SLOTS, concepts + groups]`` float32: tokens in every bin at which a column of the truth holds."""
    order, bins, zeros = cut(entries)
    units = len(entries.counts)
    ends = F.pad(torch.bincount(bins, minlength=units * SLOTS).cumsum(0), (1, 0))
    tokens = entries.tokens[order]
    if len(tokens):
        # fast because the entries lie in the order of the bins: each count is a sum of consecutive rows
        counts = F.embedding_bag(tokens, truth.columns, ends, mode="sum", include_last_offset=True)
    else:
        counts = truth.columns.new_zeros(units * SLOTS, truth.columns.shape[1])
    counts = counts.view(units, SLOTS, -1)
    counts[torch.arange(units), zeros] += truth.columns.sum(0) - counts.sum(1)
    return counts


def _scores(counts: Tensor, truth: Truth, signs: int) -> tuple[Tensor, Tensor]:
    """AUROC and F1, ``[signs, units, concepts]``, from the counts in ascending bins."""
    positive, judged = counts[..., : truth.concepts], counts[..., truth.concepts :]
    up_to, predicted = positive.cumsum(1), judged.cumsum(1)
    p, n = up_to[:, -1:], predicted[:, -1:][..., truth.group] - up_to[:, -1:]
    below = (predicted - judged / 2)[..., truth.group] - up_to + positive / 2  # negatives below; of the bin, half
    auroc = (positive / p * (below / n)).sum(1)
    found = [(auroc, _best_f1(p - up_to + positive, predicted[:, -1:] - predicted + judged, p, truth.group))]
    if signs == 2:
        found.append((1 - auroc, _best_f1(up_to, predicted, p, truth.group)))
    return torch.stack([a for a, _ in found]), torch.stack([f for _, f in found])


def _best_f1(hits: Tensor, predicted: Tensor, positive: Tensor, group: Tensor) -> Tensor:
    """``[units, concepts]`` from ``hits``, ``predicted [units, SLOTS, concepts or groups]`` at every threshold."""
    f1: Tensor = (2 * hits / (predicted[..., group] + positive)).amax(1)
    return f1
