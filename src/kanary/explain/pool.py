"""The text of an index cut into pieces, and where some latents fire in them: what all evidence is drawn from.

One pass of the model and the SAEs over the windows of the index. A piece is a stretch of one document, ``LENGTH`` tokens long,
none of them special; the pieces do not depend on any latent. Memory: 9 bytes per firing of the latents asked for,
about 420 bytes per piece, and on the labelled corpus 1 bit per token and concept.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
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
"""Tokens of a piece (delphi's default); half of it, or a quarter, where documents are too short."""
SHORTEST = 4
"""Shorter stretches are left out: nobody can judge them."""
MOST_FIRINGS = 50_000_000
"""Reading stops there, 450 MB, and what was not read of the text is left out."""
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

    def before(self, window: int) -> "Pieces":
        """Those of the windows before ``window``."""
        kept = self.window < window
        return Pieces(*(getattr(self, each.name)[kept] for each in fields(self)))


class Firings(NamedTuple):
    """Where one latent fires, in the order of the text."""

    piece: NDArray[np.int32]
    at: NDArray[np.uint8]
    """Place in the piece."""
    values: NDArray[np.float32]


class Pool:
    """Pieces of text, halved by document, and the firings of some latents in them."""

    def __init__(
        self,
        text: Text,
        pieces: Pieces,
        latents: Ints,
        found: "Found",
        neighbours: dict[int, list[int]],
        concepts: "ConceptMarks | None",
        seed: int,
    ) -> None:
        """Use :func:`read_pools`."""
        self.text, self.pieces = text, pieces
        self.tokens = int(pieces.length.sum())
        self.test = _second_half(pieces.document, seed)
        self._row = {int(latent): row for row, latent in enumerate(latents)}
        self._offsets = np.searchsorted(found.rows, np.arange(len(latents) + 1))
        self._found, self._neighbours = found, neighbours
        self._by_token = np.argsort(pieces.ids, axis=None, kind="stable").astype(np.int32)
        self._sorted_ids = pieces.ids.reshape(-1)[self._by_token]
        self.concepts = concepts
        self._tokens: dict[int, tuple[str, ...]] = {}

    def texts(self, pieces: Sequence[int]) -> list[tuple[str, ...]]:
        """The tokens of each piece; remembered, because features share pieces."""
        new = [piece for piece in pieces if piece not in self._tokens]
        if new:
            ids, lengths = np.maximum(self.pieces.ids[new], 0), self.pieces.length[new].tolist()
            rows = zip(new, self.text.tokens(ids), lengths, strict=True)
            self._tokens.update((piece, tuple(row[:n])) for piece, row, n in rows)
        return [self._tokens[piece] for piece in pieces]

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

    def at(self, windows: Sequence[int], starts: Sequence[int], length: int) -> NDArray[np.uint8]:
        """``[n, length, concepts / 8]``, a bit each; nothing holds after a window's end, or in one that was not read."""
        rows = np.array([self.row.get(window, -1) for window in windows], np.int64)[:, None]
        places = np.asarray(starts, np.int64)[:, None] + np.arange(length)
        inside = (places < self.window) & (rows >= 0)
        found: NDArray[np.uint8] = self.packed[rows, np.where(inside, places, 0)] * inside[..., None]
        return found

    def unpacked(self, bits: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """``[..., concepts]`` of ``bits [..., concepts / 8]``."""
        found: NDArray[np.bool_] = np.unpackbits(bits, axis=-1, count=len(self.names)).astype(bool)
        return found


@dataclass(frozen=True)
class Subject:
    """Latents of one SAE that are to be explained."""

    sae: SAE
    latents: Sequence[int]
    alive: NDArray[np.bool_]
    """``[d_sae]``: which latents fire at all; neighbours are looked for among them."""


@torch.no_grad()
def read_pools(
    text: Text,
    special_ids: Sequence[int],
    lm: LanguageModel,
    subjects: Sequence[Subject],
    *,
    labels: str | None = None,
    tokens: int = 200_000,
    batch: int = 16,
    seed: int = 0,
    show: Callable[[int], None] = lambda tokens: None,
) -> list[Pool]:
    """Reads windows, evenly over ``text``, once, and keeps for every subject where its latents and their neighbours fire.

    Args:
        labels: name of the labelled corpus, where that is the text and its concepts are wanted.
        tokens: how many to read, about.
        batch: windows per forward pass.
        seed: of the halves, which are the same for all subjects.
        show: told of the tokens of every batch.

    Raises:
        KanaryError: the text has fewer than two documents, which cannot be halved.
    """
    count = min(len(text.ids), max(1, -(-tokens // text.window)))
    windows = np.linspace(0, len(text.ids) - 1, count).round().astype(np.int64)
    pieces = _cut(text, windows, special_ids)
    _refuse_one_document(pieces)
    places = _places(text, windows, pieces)
    readers = [_Reader(subject, places, text.window) for subject in subjects]
    marker = _Marker(text, windows, labels, lm) if labels else None
    for first, part in _batches(text, windows, special_ids, batch):
        sites = list(dict.fromkeys(reader.site for reader in readers))
        found = lm.capture(part.tokens, sites)
        for reader in readers:
            reader.add(first, found[reader.site], part.special)
        if marker:
            marker.add(first, part)
        show(part.n_tokens)
        if sum(reader.held for reader in readers) > MOST_FIRINGS and first + batch < len(windows):
            pieces = pieces.before(int(windows[first + batch]))
            _refuse_one_document(pieces)
            break
    concepts = marker.result() if marker else None
    return [Pool(text, pieces, reader.wanted, reader.found(), reader.neighbours, concepts, seed) for reader in readers]


def _refuse_one_document(pieces: Pieces) -> None:
    if len(np.unique(pieces.document)) < 2:
        raise KanaryError(
            "The text read has one document only: explanations need two, one to learn from, one to test on. "
            "Read more of it (--tokens), or index a text of more documents."
        )


class Found(NamedTuple):
    """Firings in the order of row (the latent's number among those wanted), then of the text."""

    rows: NDArray[np.int32]
    piece: NDArray[np.int32]
    at: NDArray[np.uint8]
    values: NDArray[np.float32]


class _Reader:
    """Collects where the latents of one subject fire."""

    def __init__(self, subject: Subject, places: Ints, window: int) -> None:
        """``places``: of every token that is read, its place among the pieces' padded tokens."""
        self.sae, self._places, self._window = subject.sae, places, window
        self.site = str(subject.sae.config.trained_on["site"])
        self.neighbours = _neighbours(subject)
        others = [other for each in self.neighbours.values() for other in each]
        self.wanted = np.unique(np.array([*subject.latents, *others], np.int64))
        self._row_of = np.full(subject.sae.d_sae, -1, np.int32)
        self._row_of[self.wanted] = np.arange(len(self.wanted))
        self._parts: list[tuple[NDArray[np.int32], Ints, NDArray[np.float32]]] = []
        self.held = 0

    def add(self, first: int, x: torch.Tensor, special: torch.Tensor) -> None:
        """``x [windows, window, d_model]``, the first of which is number ``first``."""
        codes = self.sae.encode(x, special.to(x.device))
        values = codes.values.detach().float().cpu().numpy()
        rows = self._row_of[codes.indices.cpu().numpy()]
        places = self._places[first * self._window + codes.rows().cpu().numpy()]
        kept = (rows >= 0) & (places >= 0) & (values > 0)
        self._parts.append((rows[kept], places[kept], values[kept]))
        self.held += int(kept.sum())

    def found(self) -> Found:
        rows, places, values = (np.concatenate(each) for each in zip(*self._parts, strict=True))
        order = np.argsort(rows, kind="stable")
        places = places[order]
        at = (places % LENGTH).astype(np.uint8)
        return Found(rows[order], (places // LENGTH).astype(np.int32), at, values[order])


def _neighbours(subject: Subject) -> dict[int, list[int]]:
    """Of every latent those with the most similar directions, itself left out, nearest first."""
    others = np.flatnonzero(subject.alive)
    if not len(others):
        return {latent: [] for latent in subject.latents}
    directions = subject.sae.W_dec
    of, among = (torch.as_tensor(each, device=directions.device) for each in (list(subject.latents), others))
    which, _ = nearest(directions[of], directions[among], _CANDIDATES)
    rows = zip(subject.latents, which, strict=True)
    return {latent: [int(others[i]) for i in row if i >= 0 and others[i] != latent] for latent, row in rows}


def _cut(text: Text, windows: Ints, special_ids: Sequence[int]) -> Pieces:
    """Stretches of one document without special tokens, cut into pieces that are all of one length.

    Of one length because a longer piece holds more firings of any latent, whatever it means. What is left over is left out:
    at the end of every second stretch, at the start of the others.
    """
    stretches = list(_stretches(text, windows, special_ids))
    lengths = np.array([end - first for _, first, end, _, _ in stretches], np.int64)
    whole = [LENGTH >> i for i in range(LENGTH.bit_length()) if LENGTH >> i >= SHORTEST]
    kept = [int((lengths // each * each).sum()) for each in whole]
    size = next((each for each, n in zip(whole, kept, strict=True) if 2 * n >= max(kept)), LENGTH)
    found = []
    for number, (window, first, end, documents, positions) in enumerate(stretches):
        offset = first + (end - first) % size * (number % 2)
        starts = range(offset, end - size + 1, size)
        found += [(window, at, size, documents[at], positions[at]) for at in starts]
    columns: Ints = np.array(found, np.int64).reshape(-1, 5).T
    windows, start, length, document, position = columns
    places = start[:, None] + np.arange(LENGTH)
    inside = np.arange(LENGTH) < length[:, None]
    ids = text.ids[windows[:, None], np.where(inside, places, 0)].astype(np.int32)
    return Pieces(
        windows.astype(np.int32),
        start.astype(np.int32),
        length.astype(np.int32),
        document,
        position.astype(np.int32),
        np.where(inside, ids, np.int32(-1)),
    )


def _stretches(text: Text, windows: Ints, special_ids: Sequence[int]) -> Iterator[tuple[int, int, int, Ints, Ints]]:
    """Window, start and end of every stretch of a document without special tokens; document and position of all tokens."""
    for window in windows.tolist():
        documents, positions = text.places(window)
        kept = (positions >= 0) & ~np.isin(text.ids[window], special_ids)
        same = kept[1:] & kept[:-1] & (documents[1:] == documents[:-1])
        edges = np.flatnonzero(np.concatenate([[True], ~same, [True]]))
        for first, end in pairwise(edges.tolist()):
            if kept[first]:
                yield window, first, end, documents, positions


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
