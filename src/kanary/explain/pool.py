"""The text of an index cut into pieces, and where some latents fire in them: what all evidence is drawn from.

One pass of the model and the SAE over the windows of the index. A piece is a stretch of one document of at most ``LENGTH``
tokens, none of them special; the pieces do not depend on any latent. Memory: 9 bytes per firing of the latents asked for,
about 220 bytes per piece, and on the labelled corpus 1 bit per token and concept.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from kanary.errors import KanaryError
from kanary.features.text import Text
from kanary.features.weights import nearest
from kanary.lm import LanguageModel
from kanary.sae import SAE
from kanary.text import TokenBatch
from kanary.text.labelled.labels import Labels

LENGTH = 32
"""Tokens of a piece at most (delphi's default)."""
SHORTEST = 4
"""Shorter stretches are left out: nobody can judge them."""
MOST_FIRINGS = 50_000_000
"""Reading stops there: 450 MB."""
_CANDIDATES = 4  # the nearest directions among which one that fires is looked for

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Pieces:
    """Stretches of text; a row each, ``[pieces]``, in the order of the text."""

    window: NDArray[np.int32]
    start: NDArray[np.int32]
    """Place of the first token in the window."""
    length: NDArray[np.int32]
    document: Ints
    position: NDArray[np.int32]
    """Place of the first token in the document."""
    ids: NDArray[np.int32]
    """``[pieces, LENGTH]``, -1 after the end."""

    def __len__(self) -> int:
        return len(self.window)


class Firings(NamedTuple):
    """Where one latent fires, in the order of the text."""

    piece: NDArray[np.int32]
    at: NDArray[np.uint8]
    """Place in the piece."""
    values: NDArray[np.float32]


class Pool:
    """Pieces of text, halved by document, and the firings of some latents in them."""

    def __init__(
        self, text: Text, pieces: Pieces, latents: Ints, found: "_Found", neighbours: dict[int, list[int]], seed: int
    ) -> None:
        """Use :func:`read_pool`."""
        self.text, self.pieces = text, pieces
        self.tokens = int(pieces.length.sum())
        self.test = _second_half(pieces.document, seed)
        self._row = {int(latent): row for row, latent in enumerate(latents)}
        self._offsets = np.searchsorted(found.rows, np.arange(len(latents) + 1))
        self._found, self._neighbours = found, neighbours
        self._by_token = np.argsort(pieces.ids, axis=None, kind="stable").astype(np.int32)
        self._sorted_ids = pieces.ids.reshape(-1)[self._by_token]
        self.concepts = found.concepts

    def firings(self, latent: int) -> Firings:
        """Raises KeyError for a latent that was not read."""
        row = self._row[latent]
        span = slice(int(self._offsets[row]), int(self._offsets[row + 1]))
        return Firings(self._found.piece[span], self._found.at[span], self._found.values[span])

    def neighbour(self, latent: int) -> int | None:
        """The latent that fires here and whose direction is the most similar; None where none of the nearest does."""
        return next((other for other in self._neighbours[latent] if len(self.firings(other).piece)), None)

    def with_tokens(self, ids: Sequence[int]) -> Ints:
        """The pieces, ascending, in which one of the tokens ``ids`` stands."""
        low, high = (np.searchsorted(self._sorted_ids, ids, side=side) for side in ("left", "right"))
        places = np.concatenate([self._by_token[a:b] for a, b in zip(low, high, strict=True)] or [self._by_token[:0]])
        return np.unique(places // LENGTH).astype(np.int64)


@dataclass(frozen=True)
class ConceptMarks:
    """Which concepts of the labelled corpus hold at every token that was read."""

    names: tuple[str, ...]
    window: int
    """Tokens per window."""
    row: dict[int, int]
    """Window -> its row."""
    packed: NDArray[np.uint8]
    """``[windows, window, concepts / 8]``, a bit each."""

    def at(self, windows: Sequence[int], starts: Sequence[int], length: int) -> NDArray[np.bool_]:
        """``[n, length, concepts]``; nothing holds after a window's end."""
        rows = np.array([self.row[window] for window in windows], np.int64)[:, None]
        places = np.asarray(starts)[:, None] + np.arange(length)
        inside = places < self.window
        bits = self.packed[rows, np.where(inside, places, 0)]
        held = np.unpackbits(bits, axis=-1, count=len(self.names)).astype(bool)
        found: NDArray[np.bool_] = held & inside[..., None]
        return found


@torch.no_grad()
def read_pool(
    text: Text,
    special_ids: Sequence[int],
    lm: LanguageModel,
    sae: SAE,
    latents: Sequence[int],
    *,
    alive: NDArray[np.bool_],
    labels: str | None = None,
    tokens: int = 300_000,
    batch: int = 16,
    seed: int = 0,
    show: Callable[[int], None] = lambda tokens: None,
) -> Pool:
    """Reads windows, evenly over ``text``, and keeps where ``latents`` and their neighbours fire.

    Args:
        alive: ``[d_sae]``: which latents fire in the index; neighbours are looked for among them.
        labels: name of the labelled corpus, where that is the text and its concepts are wanted.
        tokens: how many to read, about.
        batch: windows per forward pass.
        seed: of the halves.
        show: told of the tokens of every batch.

    Raises:
        KanaryError: the text has fewer than two documents, which cannot be halved.
    """
    count = min(len(text.ids), max(1, -(-tokens // text.window)))
    windows = np.linspace(0, len(text.ids) - 1, count).round().astype(np.int64)
    neighbours = _neighbours(sae, latents, alive)
    wanted = np.unique(np.array([*latents, *(other for each in neighbours.values() for other in each)], np.int64))
    pieces = _cut(text, windows, special_ids)
    if len(np.unique(pieces.document)) < 2:
        raise KanaryError(
            "The index has text of one document only: explanations need two, one to learn from, one to test."
        )
    found = _read(text, windows, special_ids, lm, sae, wanted, pieces, labels, batch, show)
    return Pool(text, pieces, wanted, found, neighbours, seed)


class _Found(NamedTuple):
    """Firings in the order of row (the latent's number among those wanted), then of the text."""

    rows: NDArray[np.int32]
    piece: NDArray[np.int32]
    at: NDArray[np.uint8]
    values: NDArray[np.float32]
    concepts: ConceptMarks | None


def _neighbours(sae: SAE, latents: Sequence[int], alive: NDArray[np.bool_]) -> dict[int, list[int]]:
    """Of every latent those with the most similar directions, itself left out, nearest first."""
    others = np.flatnonzero(alive)
    if not len(others):
        return {latent: [] for latent in latents}
    which, _ = nearest(sae.W_dec[torch.as_tensor(list(latents))], sae.W_dec[torch.as_tensor(others)], _CANDIDATES)
    rows = zip(latents, which, strict=True)
    return {latent: [int(others[i]) for i in row if i >= 0 and others[i] != latent] for latent, row in rows}


def _cut(text: Text, windows: Ints, special_ids: Sequence[int]) -> Pieces:
    """Every stretch of a document without special tokens, cut into even parts of at most ``LENGTH`` tokens."""
    found = []
    for window in windows.tolist():
        documents, positions = text.places(window)
        kept = (positions >= 0) & ~np.isin(text.ids[window], special_ids)
        same = kept[1:] & kept[:-1] & (documents[1:] == documents[:-1])
        edges = np.flatnonzero(np.concatenate([[True], ~same, [True]]))
        for first, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            if kept[first] and end - first >= SHORTEST:
                ends = np.linspace(first, end, -(-(end - first) // LENGTH) + 1).astype(int).tolist()
                found += [(window, a, b - a, documents[a], positions[a]) for a, b in pairwise(ends)]
    columns = np.array(found, np.int64).reshape(-1, 5).T
    window, start, length, document, position = columns
    places = start[:, None] + np.arange(LENGTH)
    inside = np.arange(LENGTH) < length[:, None]
    ids = text.ids[window[:, None], np.where(inside, places, 0)].astype(np.int32)
    return Pieces(
        window.astype(np.int32),
        start.astype(np.int32),
        length.astype(np.int32),
        document,
        position.astype(np.int32),
        np.where(inside, ids, np.int32(-1)),
    )


def _read(
    text: Text,
    windows: Ints,
    special_ids: Sequence[int],
    lm: LanguageModel,
    sae: SAE,
    wanted: Ints,
    pieces: Pieces,
    labels: str | None,
    batch: int,
    show: Callable[[int], None],
) -> _Found:
    site = str(sae.config.trained_on["site"])
    row_of = np.full(sae.d_sae, -1, np.int32)
    row_of[wanted] = np.arange(len(wanted))
    place_of = _places(text, windows, pieces)
    marks = _Marker(text, windows, labels, lm) if labels else None
    parts: list[tuple[NDArray[np.int32], Ints, NDArray[np.float32]]] = []
    held = 0
    for first, part in _batches(text, windows, special_ids, batch):
        x = lm.capture(part.tokens, [site])[site]
        codes = sae.encode(x, part.special.to(x.device))
        rows = row_of[codes.indices.cpu().numpy()]
        places = place_of[first * text.window + codes.rows().cpu().numpy()]
        kept = (rows >= 0) & (places >= 0) & (codes.values.cpu().numpy() > 0)
        parts.append((rows[kept], places[kept], codes.values.detach().float().cpu().numpy()[kept]))
        if marks:
            marks.add(first, part)
        show(part.n_tokens)
        held += int(kept.sum())
        if held > MOST_FIRINGS:
            break
    rows, places, values = (np.concatenate(each) for each in zip(*parts, strict=True))
    order = np.argsort(rows, kind="stable")
    places = places[order]
    at = (places % LENGTH).astype(np.uint8)
    return _Found(
        rows[order], (places // LENGTH).astype(np.int32), at, values[order], marks.result() if marks else None
    )


def _places(text: Text, windows: Ints, pieces: Pieces) -> Ints:
    """Of every token of ``windows``, one after another, its place among the pieces' padded tokens; -1 outside of them."""
    found = np.full(len(windows) * text.window, -1, np.int64)
    row = np.searchsorted(windows, pieces.window)
    inside = np.arange(LENGTH) < pieces.length[:, None]
    tokens = (row * text.window + pieces.start)[:, None] + np.arange(LENGTH)
    places = np.arange(len(pieces))[:, None] * LENGTH + np.arange(LENGTH)
    found[tokens[inside]] = places[inside]
    return found


def _batches(text: Text, windows: Ints, special_ids: Sequence[int], batch: int) -> Iterator[tuple[int, TokenBatch]]:
    """Batches of windows with the number of their first."""
    for first in range(0, len(windows), batch):
        here = windows[first : first + batch]
        tokens = text.ids[here].astype(np.int64)
        places = [text.places(int(window)) for window in here]
        documents, positions = (np.stack([each[i] for each in places]) for i in range(2))
        special = np.isin(tokens, special_ids)
        arrays = (tokens, documents.astype(np.int64), positions.astype(np.int32), special)
        yield first, TokenBatch(*(torch.from_numpy(each) for each in arrays))


class _Marker:
    """Collects which concepts hold."""

    def __init__(self, text: Text, windows: Ints, labels: str, lm: LanguageModel) -> None:
        self.labels, self.windows, self.window = Labels(labels, lm), windows, text.window
        self.packed = np.zeros((len(windows), text.window, -(-len(self.labels.concepts) // 8)), np.uint8)

    def add(self, first: int, batch: TokenBatch) -> None:
        self.packed[first : first + len(batch.tokens)] = np.packbits(self.labels.of(batch).numpy(), axis=-1)

    def result(self) -> ConceptMarks:
        rows = {int(window): row for row, window in enumerate(self.windows)}
        return ConceptMarks(self.labels.concepts, self.window, rows, self.packed)


def _second_half(documents: Ints, seed: int) -> NDArray[np.bool_]:
    """Of every piece whether its document is in the half that scores are tested on."""
    known, which = np.unique(documents, return_inverse=True)
    drawn = np.random.default_rng([seed, 7]).permutation(len(known)) < len(known) // 2
    found: NDArray[np.bool_] = drawn[which]
    return found
