"""The text of an index, stored once: windows of token ids, what each id stands for, and which documents lie where."""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kanary.errors import KanaryError
from kanary.features.arrays import Array, Arrays, Pieces, write_arrays
from kanary.features.spool import Chunk
from kanary.features.vocabulary import packed, shown

SEGMENTS = ("segment_starts", "segment_documents", "segment_positions")
CONTEXT = 4
"""Tokens to either side of an example's focus that are shown before anybody asks for more."""
KEPT = 2**19
"""Tokens of the windows that were looked at last, which others are likely to show, too: 9 bytes each."""


def write_text(
    path: Path, chunks: Callable[[], Iterator[Chunk]], windows: int, window: int, vocabulary: list[bytes]
) -> int:
    """Writes the text of ``chunks`` (called for a new iteration) and returns how many documents it has parts of.

    A segment is a stretch of a window in which the tokens of one document follow each other; a separator that was put in
    is one of its own, at position -1.
    """
    found = [_segments(chunk) for chunk in chunks()]
    starts, documents, positions = (np.concatenate([each[i] for each in found]) for i in range(3))
    counts = np.concatenate([each[3] for each in found])
    dtype = np.uint16 if len(vocabulary) <= 2**16 else np.int32
    write_arrays(
        path,
        {
            "tokens": Pieces(dtype, (windows, window), (chunk.tokens for chunk in chunks())),
            "segment_offsets": np.concatenate([[0], counts.cumsum()]).astype(np.int64),
            **dict(zip(SEGMENTS, (starts, documents, positions), strict=True)),
            **packed(vocabulary),
        },
    )
    return len(np.unique(documents))


def _segments(chunk: Chunk) -> tuple[Array, Array, Array, Array]:
    """Start, document and first position of every segment, and how many each window has."""
    documents, positions = chunk.documents, chunk.positions
    new = np.ones(documents.shape, bool)
    follows = (documents[:, 1:] == documents[:, :-1]) & (positions[:, 1:] == positions[:, :-1] + 1)
    new[:, 1:] = ~follows | (positions[:, :-1] < 0)
    rows, starts = new.nonzero()
    return starts.astype(np.uint16), documents[rows, starts], positions[rows, starts], new.sum(1)


class Window(NamedTuple):
    """Tokens that the model saw at once."""

    data: bytes
    """Their ids, as they are stored."""
    tokens: tuple[str, ...]
    special: tuple[int, ...]
    """Places of BOS, EOS and padding."""
    starts: tuple[int, ...]
    """Where another document begins, separators being part of what follows them."""
    segments: tuple[list[int], list[int], list[int]]
    """Of every segment where it begins, its document, and the position of its first token there."""

    def locate(self, at: int) -> tuple[int, int]:
        """Document of a token, and its position there."""
        begins, documents, positions = self.segments
        i = bisect_right(begins, at) - 1
        return documents[i], positions[i] + at - begins[i]

    def around(self, at: int) -> tuple[int, bytes]:
        """What is the same of two places with the same tokens within :data:`CONTEXT`."""
        size = len(self.data) // len(self.tokens)
        start = max(0, at - CONTEXT)
        return at - start, self.data[start * size : (at + CONTEXT + 1) * size]


class Text:
    """Reads what :func:`write_text` wrote."""

    def __init__(self, path: Path, special_ids: list[int]) -> None:
        self.arrays = Arrays(path)
        self.ids = self.arrays["tokens"]
        """``[windows, window]``"""
        self._offsets = self.arrays["segment_offsets"]
        self._starts, self._documents, self._positions = (self.arrays[name] for name in SEGMENTS)
        self._special_ids = special_ids
        self.read = lru_cache(max(1, KEPT // self.window))(self._read)
        """Window number -> :class:`Window`: the same object as long as it is kept; threads may ask at once."""
        self._bytes, self._ends = self.arrays["token_bytes"].tobytes(), self.arrays["token_offsets"]
        self._shown = np.full(len(self._ends) - 1, None, object)  # filled as tokens are met
        self._known = np.zeros(len(self._shown), bool)

    @property
    def window(self) -> int:
        return int(self.ids.shape[1])

    def tokens(self, ids: Array) -> Any:
        """``ids [...]`` as nested lists of texts; bytes that are no UTF-8 as ``⟨e2⟩``."""
        if not self._known[ids].all():
            wanted = np.zeros(len(self._known), bool)  # fast because nothing is sorted
            wanted[ids] = True
            numbers = (wanted & ~self._known).nonzero()[0]
            starts, ends = self._ends[numbers].tolist(), self._ends[numbers + 1].tolist()
            data = self._bytes
            self._shown[numbers] = [shown(data[a:b]) for a, b in zip(starts, ends, strict=True)]
            self._known[numbers] = True
        return self._shown[ids].tolist()

    def token(self, id: int) -> str:
        """Raises IndexError where there is no such token."""
        return str(self.tokens(np.array([id]))[0])

    def _read(self, window: int) -> Window:
        ids, span = self.ids[window], slice(*self._offsets[window : window + 2].tolist())
        begins, documents, positions = (
            column[span].tolist() for column in (self._starts, self._documents, self._positions)
        )
        starts = tuple(begins[i] for i in range(1, len(begins)) if documents[i] != documents[i - 1])
        special = tuple(np.isin(ids, self._special_ids).nonzero()[0].tolist())
        return Window(ids.tobytes(), tuple(self.tokens(ids)), special, starts, (begins, documents, positions))

    def near(self, windows: Array, focus: Array) -> Array:
        """The different tokens within :data:`CONTEXT` of places ``focus [n]`` of ``windows [n]``, in the order of their ids."""
        at = focus[:, None].astype(np.int64) + np.arange(-CONTEXT, CONTEXT + 1)
        # beyond the ends the focus once more; fast because numpy's unique takes longer than all of the rest
        at = np.where((at >= 0) & (at < self.window), at, focus[:, None])
        return np.array(sorted(set(self.ids[windows[:, None], at].ravel().tolist())), self.ids.dtype)

    def places(self, window: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Document of every token of a window, and its position there, ``[window]`` each; -1 of a separator put in."""
        span = self._span(window)
        starts = self._starts[span].astype(np.int64)
        sizes = np.diff(np.append(starts, self.window))
        positions = np.repeat(self._positions[span], sizes) + np.arange(self.window) - np.repeat(starts, sizes)
        separators = np.repeat(self._positions[span] < 0, sizes)
        return np.repeat(self._documents[span], sizes), np.where(separators, -1, positions)

    def document(self, id: int) -> NDArray[np.int64]:
        """The token ids of document ``id``, as far as they were read; raises :class:`KanaryError` if none was."""
        first, last = np.searchsorted(self._documents, [id, id + 1])
        parts = [self.ids[w, a:b] for w, a, b, p in self._stretches(int(first), int(last)) if p >= 0]
        if not parts:
            raise KanaryError(f"Document {id} is not in this index.")
        return np.concatenate(parts).astype(np.int64)

    def _stretches(self, first: int, last: int) -> Iterator[tuple[int, int, int, int]]:
        """Window, start, end and position of the segments from ``first`` to before ``last``."""
        for i in range(first, last):
            window = int(np.searchsorted(self._offsets, i, side="right")) - 1
            within = i + 1 < self._offsets[window + 1]
            end = int(self._starts[i + 1]) if within else self.window
            yield window, int(self._starts[i]), end, int(self._positions[i])

    def _span(self, window: int) -> slice:
        return slice(int(self._offsets[window]), int(self._offsets[window + 1]))
