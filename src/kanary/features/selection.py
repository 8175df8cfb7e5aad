"""Which firings of every latent are shown: the strongest, and a uniform sample of each of ten even intervals.

Both are exact, and depend on the text alone, not on the batches it was read in: every firing has a key, a hash of seed,
latent and place in the text, and the sample of an interval is the firings with the smallest keys.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kanary.features.spool import Chunk, Firings

BINS = 50
"""Even bins of the histogram over (0, maximum]."""
INTERVALS = 10
"""Even intervals, of ``BINS / INTERVALS`` bins each."""
TOP = 20
"""Windows in which a latent is strongest: shown at their strongest token."""
KEY_BITS = 40
"""Of a key."""
PIECE = 2**18
"""Firings that are looked at together."""


class Totals:
    """What one look at all firings tells of every latent."""

    def __init__(self, d_sae: int) -> None:
        self.fired = np.zeros(d_sae, np.int64)
        self.maximum = np.zeros(d_sae, np.float32)
        self.total = np.zeros(d_sae)
        self.squares = np.zeros(d_sae)

    def add(self, chunk: Chunk) -> None:
        latents, values = chunk.codes.latents, chunk.codes.values.astype(np.float64)
        d_sae = len(self.fired)
        self.fired += np.bincount(latents, minlength=d_sae)
        self.total += np.bincount(latents, values, d_sae)
        self.squares += np.bincount(latents, values * values, d_sae)
        ordered = chunk.by_latent
        starts = _starts(ordered.latents)
        if len(starts):
            here = ordered.latents[starts]
            self.maximum[here] = np.maximum(self.maximum[here], np.maximum.reduceat(ordered.values, starts))


class Chosen(NamedTuple):
    """The firings that are shown; one that several lists show is here once. In the order of latent, then of the text."""

    latents: NDArray[np.int64]
    places: NDArray[np.int64]
    values: NDArray[np.float32]
    lists: NDArray[np.uint16]
    """Bit i for interval i, bit ``INTERVALS`` for the strongest."""


class Selection:
    """Goes over all firings, whose largest values are known, and keeps those that are shown."""

    def __init__(self, maximum: NDArray[np.float32], per_interval: int, seed: int) -> None:
        d_sae = len(maximum)
        self.maximum, self.seed = maximum, seed
        self.histogram = np.zeros(d_sae * BINS, np.int64)
        self.top = _Best(d_sae, TOP)
        self.sample = _Best(d_sae * INTERVALS, per_interval)

    def add(self, chunk: Chunk) -> None:
        for firings in _pieces(chunk.by_latent):
            bins = bin_of(firings.values, self.maximum[firings.latents], BINS)
            np.add.at(self.histogram, firings.latents * BINS + bins, 1)
            groups = firings.latents * INTERVALS + bins // (BINS // INTERVALS)
            keys = key_of(self.seed, firings.latents, firings.places)
            self.sample.add(groups, keys, firings.places, firings.values)
            best = _strongest_of_windows(firings, chunk.window)
            # of equally strong ones the first in the text: they come in its order, and a later one replaces none
            self.top.add(best.latents, _descending(best.values), best.places, best.values)

    def result(self) -> Chosen:
        groups, places, values = self.sample.entries()
        latents, lists = groups // INTERVALS, (1 << (groups % INTERVALS)).astype(np.uint16)
        tops, top_places, top_values = self.top.entries()
        latents, places = np.concatenate([latents, tops]), np.concatenate([places, top_places])
        values = np.concatenate([values, top_values])
        lists = np.concatenate([lists, np.full(len(tops), 1 << INTERVALS, np.uint16)])
        order = np.lexsort((places, latents))
        latents, places, values, lists = latents[order], places[order], values[order], lists[order]
        new = np.ones(len(latents), bool)
        new[1:] = (latents[1:] != latents[:-1]) | (places[1:] != places[:-1])
        merged = np.bitwise_or.reduceat(lists, new.nonzero()[0]) if len(lists) else lists
        return Chosen(latents[new], places[new], values[new], merged)


class _Best:
    """The entries with the smallest keys of every group; of equal keys those that came first."""

    def __init__(self, groups: int, most: int) -> None:
        assert groups < 2 ** (64 - KEY_BITS), "group and key share 64 bits"
        self.most = most
        self.keys = np.full((groups, most), 2**KEY_BITS, np.uint64)
        self.places = np.full((groups, most), -1, np.int64)
        self.values = np.zeros((groups, most), np.float32)

    def add(
        self,
        groups: NDArray[np.int64],
        keys: NDArray[np.uint64],
        places: NDArray[np.int64],
        values: NDArray[np.float32],
    ) -> None:
        hopeful = keys < self.keys[groups, -1]  # fast because after a few chunks it lets hardly anything through
        groups, keys, places, values = groups[hopeful], keys[hopeful], places[hopeful], values[hopeful]
        touched = np.unique(groups)
        old = self.places[touched] >= 0
        groups = np.concatenate([np.repeat(touched, old.sum(1)), groups])
        keys = np.concatenate([self.keys[touched][old], keys])
        places = np.concatenate([self.places[touched][old], places])
        values = np.concatenate([self.values[touched][old], values])
        # fast because one number holds group and key: a tenth of the time of a sort by both
        order = np.argsort((groups.astype(np.uint64) << np.uint64(KEY_BITS)) | keys, kind="stable")
        groups = groups[order]
        starts = _starts(groups)
        rank = np.arange(len(groups)) - np.repeat(starts, np.diff(np.append(starts, len(groups))))
        kept = rank < self.most
        order, at = order[kept], (groups[kept], rank[kept])
        self.keys[at], self.places[at], self.values[at] = keys[order], places[order], values[order]

    def entries(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """Group, place and value of all that is kept."""
        groups, which = (self.places >= 0).nonzero()
        return groups, self.places[groups, which], self.values[groups, which]


def bin_of(values: NDArray[np.float32], maximum: NDArray[np.float32], bins: int) -> NDArray[np.int64]:
    """The bin (a, b] of (0, maximum] in which each value lies, whose ends are ``maximum * i / bins`` in float64."""
    value, most = values.astype(np.float64), maximum.astype(np.float64)
    found = np.clip(np.ceil(value / most * bins).astype(np.int64) - 1, 0, bins - 1)
    found -= value <= most * (found / bins)  # what rounding did
    found += value > most * ((found + 1) / bins)
    return np.clip(found, 0, bins - 1)


def key_of(seed: int, latents: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.uint64]:
    """``KEY_BITS`` of a hash of seed, latent and place, as good as random (splitmix64, twice)."""
    with np.errstate(over="ignore"):
        mixed = _mix(np.uint64(seed % 2**63) * np.uint64(0xD1342543DE82EF95) + latents.astype(np.uint64))
        return _mix(mixed ^ _mix(places.astype(np.uint64))) >> np.uint64(64 - KEY_BITS)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    found: NDArray[np.uint64] = x ^ (x >> np.uint64(31))
    return found


def _descending(values: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Keys that are smaller where positive ``values`` are larger: the bits of a positive float are ordered as it is."""
    return np.uint64(2**32) - values.view(np.uint32).astype(np.uint64)


def _pieces(firings: Firings) -> Iterator[Firings]:
    """About ``PIECE`` at a time, those of a latent together."""
    start, n = 0, len(firings.latents)
    while start < n:
        last = firings.latents[min(start + PIECE, n) - 1]
        end = int(np.searchsorted(firings.latents, last, side="right"))
        yield Firings(firings.latents[start:end], firings.places[start:end], firings.values[start:end])
        start = end


def _strongest_of_windows(firings: Firings, window: int) -> Firings:
    """The strongest firing of every latent in every window, the first of equal ones."""
    starts = _starts(firings.latents * (1 << 40) + firings.places // window)
    if not len(starts):
        return firings
    most = np.maximum.reduceat(firings.values, starts)
    group = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(firings.values))))
    equal = (firings.values == most[group]).nonzero()[0]
    at = equal[_starts(group[equal])]
    return Firings(firings.latents[at], firings.places[at], firings.values[at])


def _starts(ordered: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where a new number begins."""
    new = np.ones(len(ordered), bool)
    new[1:] = ordered[1:] != ordered[:-1]
    found: NDArray[np.int64] = new.nonzero()[0]
    return found
