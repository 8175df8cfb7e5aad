"""What explainers and scorers are told of a latent, drawn from a pool: excerpts of two halves that share no document."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from kanary.explain.pool import LENGTH, Firings, Ints, Pool
from kanary.explain.types import Evidence, Excerpt, Half

_TRIGGERS = 5
"""So many of the tokens at which a latent fires most are looked for where it is silent."""


@dataclass(frozen=True)
class Sizes:
    """How many excerpts of each kind a half has at most."""

    top: int
    spread: int
    silent: int
    same_token: int
    neighbour: int


TRAIN = Sizes(top=20, spread=60, silent=30, same_token=40, neighbour=20)
TEST = Sizes(top=10, spread=40, silent=20, same_token=20, neighbour=10)
"""As many negatives as positives; the 50 that delphi has."""

Logits = tuple[Sequence[str], Sequence[str]]


def gather(
    pool: Pool, latent: int, *, logits: Mapping[int, Logits] | None = None, seed: int = 0, test: Sizes = TEST
) -> Evidence:
    """The evidence of one latent; the same for the same pool and seed, whatever else is asked for.

    Args:
        logits: latent -> the tokens that it makes likelier and less likely.
    """
    firings = pool.firings(latent)
    positive, negative = (logits or {}).get(latent, ((), ()))
    draw = np.random.default_rng([seed, latent])
    half = _Halves(pool, latent, firings, draw)
    return Evidence(
        latent,
        float(firings.values.max(initial=0.0)),
        len(firings.piece) / pool.tokens,
        tuple(positive),
        tuple(negative),
        half.draw(False, TRAIN),
        half.draw(True, test),
    )


def random_firings(pool: Pool, like: Firings, seed: int) -> Firings:
    """Control: the values of ``like`` at places drawn at random from the whole pool. There is nothing to explain."""
    inside = np.flatnonzero(pool.pieces.ids.reshape(-1) >= 0)
    draw = np.random.default_rng([seed, len(like.piece)])
    places = np.sort(draw.choice(inside, min(len(like.piece), len(inside)), replace=False))
    at = (places % LENGTH).astype(np.uint8)
    return Firings((places // LENGTH).astype(np.int32), at, draw.permutation(like.values)[: len(places)])


def gather_random(pool: Pool, latent: int, *, seed: int = 0) -> Evidence:
    """Control: the evidence of a latent that fires as often and as strongly as ``latent``, but anywhere."""
    firings = random_firings(pool, pool.firings(latent), seed)
    half = _Halves(pool, latent, firings, np.random.default_rng([seed, latent, 1]))
    maximum, density = float(firings.values.max(initial=0.0)), len(firings.piece) / pool.tokens
    return Evidence(latent, maximum, density, (), (), half.draw(False, TRAIN), half.draw(True, TEST))


class _Halves:
    """Draws the excerpts of one latent."""

    def __init__(self, pool: Pool, latent: int, firings: Firings, draw: np.random.Generator) -> None:
        self.pool, self.firings, self.random = pool, firings, draw
        self.fires = np.zeros(len(pool.pieces), bool)
        self.fires[firings.piece] = True
        starts = np.flatnonzero(np.diff(firings.piece, prepend=-1))
        self.with_it = firings.piece[starts].astype(np.int64)
        self.most = np.maximum.reduceat(firings.values, starts) if len(starts) else firings.values
        other = pool.neighbour(latent)
        near = pool.firings(other).piece if other is not None else firings.piece[:0]
        self.near = np.unique(near).astype(np.int64)
        self.tokens = pool.with_tokens(_triggers(pool, firings))

    def draw(self, test: bool, sizes: Sizes) -> Half:
        here = self.pool.test[self.with_it] == test
        pieces, most = self.with_it[here], self.most[here]
        order = pieces[np.argsort(-most, kind="stable")]
        top, rest = order[: sizes.top], order[sizes.top :]
        taken = self.fires | (self.pool.test != test)
        same_token = self._some(self.tokens, taken, sizes.same_token)
        near = self._some(self.near, taken, sizes.neighbour)
        silent = self._some(np.arange(len(taken)), taken, sizes.silent)
        lists = [top, _spread(rest, sizes.spread, self.random), silent, same_token, near]
        return Half(*self._excerpts(lists))

    def _some(self, candidates: Ints, taken: NDArray[np.bool_], count: int) -> Ints:
        """At most ``count`` of the ``candidates`` that are not ``taken``, which then are."""
        free = candidates[~taken[candidates]]
        chosen = self.random.choice(free, min(count, len(free)), replace=False, shuffle=True)
        taken[chosen] = True
        return chosen

    def _excerpts(self, lists: Sequence[Ints]) -> list[tuple[Excerpt, ...]]:
        which = np.concatenate(lists)
        pieces = self.pool.pieces
        ids = pieces.ids[which].astype(np.int64)
        texts = self.pool.texts(which.tolist())
        values = self._values(which)
        columns = (pieces.window, pieces.start, pieces.document, pieces.position, pieces.length)
        rows = zip(*(each[which].tolist() for each in columns), strict=True)
        found = [
            Excerpt(window, start, document, position, ids[i, :n], texts[i], values[i, :n])
            for i, (window, start, document, position, n) in enumerate(rows)
        ]
        ends = np.cumsum([0, *map(len, lists)]).tolist()
        return [tuple(found[a:b]) for a, b in pairwise(ends)]

    def _values(self, which: Ints) -> NDArray[np.float32]:
        """``[n, LENGTH]``: what the latent does in these pieces."""
        low, high = (np.searchsorted(self.firings.piece, which, side=side) for side in ("left", "right"))
        sizes = high - low
        row = np.repeat(np.arange(len(which)), sizes)
        source = np.repeat(low - np.concatenate([[0], sizes.cumsum()[:-1]]), sizes) + np.arange(sizes.sum())
        found = np.zeros((len(which), LENGTH), np.float32)
        found[row, self.firings.at[source]] = self.firings.values[source]
        return found


def _triggers(pool: Pool, firings: Firings) -> list[int]:
    """The tokens at which the latent fires most often, in the half that explanations come from."""
    train = ~pool.test[firings.piece]
    ids, counts = np.unique(pool.pieces.ids[firings.piece[train], firings.at[train]], return_counts=True)
    return ids[np.argsort(-counts, kind="stable")[:_TRIGGERS]].tolist()  # type: ignore[no-any-return]


def _spread(ordered: Ints, count: int, draw: np.random.Generator) -> Ints:
    """``count`` of the pieces, one at random from each of so many even runs of their order."""
    if len(ordered) <= count:
        return ordered
    ends = np.linspace(0, len(ordered), count + 1).astype(np.int64)  # whole numbers, so that no piece is in two runs
    at: Ints = ends[:-1] + (draw.random(count) * np.diff(ends)).astype(np.int64)
    return ordered.take(at)
