"""Excerpts as bags of words, weighted by how rare each word is: an embedding that needs no model."""

import functools
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kanary.explain.types import Excerpt

SIZE = 2048
"""Words share so many places, by a hash."""
AROUND = 4
"""Words of an excerpt's marked tokens are those of so many tokens to either side."""
_KEPT = 1 << 15  # texts whose vectors are remembered: features share their excerpts
_WORD = re.compile(r"\w+|[^\w\s]")

Vectors = NDArray[np.float32]


class Sparse(NamedTuple):
    """One vector of length 1; of length 0 for a text without a word."""

    places: NDArray[np.int64]
    values: NDArray[np.float32]


class Embedding:
    """TF-IDF vectors of length 1; a dot product is their cosine."""

    def __init__(self, texts: Iterable[str]) -> None:
        """``texts``: from which it is learned how rare words are."""
        count, seen = 0, np.zeros(SIZE)
        for text in texts:
            seen[list({_place(word) for word in _words(text)})] += 1
            count += 1
        self.weight = (np.log((1 + count) / (1 + seen)) + 1).astype(np.float32)
        self._sparse = functools.lru_cache(_KEPT)(self._embedded)

    def of(self, texts: Sequence[str]) -> Vectors:
        """``[n, SIZE]``"""
        found = np.zeros((len(texts), SIZE), np.float32)
        for row, text in zip(found, texts, strict=True):
            sparse = self._sparse(text)
            row[sparse.places] = sparse.values
        return found

    def mean(self, texts: Sequence[str]) -> Vectors:
        """``[SIZE]``: of the vectors of all texts."""
        places, values, _ = self._joined(texts)
        return (np.bincount(places, values, SIZE) / max(1, len(texts))).astype(np.float32)

    def along(self, texts: Sequence[str], direction: Vectors) -> NDArray[np.float64]:
        """``[n]``: the dot product of every text's vector with ``direction [SIZE]``."""
        places, values, rows = self._joined(texts)
        return np.asarray(np.bincount(rows, values * direction[places], len(texts)), np.float64)

    def of_marked(self, excerpts: Sequence[Excerpt], marks: Sequence[Sequence[int]]) -> Vectors:
        """``[n, SIZE]``: of what stands around the marked tokens, these counted three times."""
        return self.of([_around(excerpt, places) for excerpt, places in zip(excerpts, marks, strict=True)])

    def _joined(self, texts: Sequence[str]) -> tuple[NDArray[np.int64], Vectors, NDArray[np.int64]]:
        """Places and values of all texts, and the number of the text that each is of."""
        each = [self._sparse(text) for text in texts] or [Sparse(np.zeros(0, np.int64), np.zeros(0, np.float32))]
        places, values = (np.concatenate(column) for column in zip(*each, strict=True))
        return places, values, np.repeat(np.arange(len(each)), [len(sparse.places) for sparse in each])

    def _embedded(self, text: str) -> Sparse:
        found = Counter(map(_place, _words(text)))
        places = np.array(list(found), np.int64)
        values = np.array(list(found.values()), np.float32) * self.weight[places]
        return Sparse(places, (values / max(float(np.sqrt((values * values).sum())), 1e-12)).astype(np.float32))


def _around(excerpt: Excerpt, places: Sequence[int]) -> str:
    tokens = excerpt.tokens
    spans = ["".join(tokens[max(0, at - AROUND) : at + AROUND + 1]) for at in places]
    return " ".join([*spans, *(f"{tokens[at]} {tokens[at]}" for at in places)])


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


@functools.lru_cache(1 << 16)  # fast because texts use few words
def _place(word: str) -> int:
    return zlib.crc32(word.encode("utf-8", "surrogatepass")) % SIZE
