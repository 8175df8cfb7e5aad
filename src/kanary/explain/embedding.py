"""Excerpts as bags of words, weighted by how rare each word is: an embedding that needs no model."""

import functools
import re
import zlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from kanary.explain.types import Excerpt

SIZE = 2048
"""Words share so many places, by a hash."""
AROUND = 4
"""Words of an excerpt's marked tokens are those of so many tokens to either side."""
_WORD = re.compile(r"\w+|[^\w\s]")

Vectors = NDArray[np.float32]


class Embedding:
    """TF-IDF vectors of length 1; a dot product is their cosine."""

    def __init__(self, texts: Iterable[str]) -> None:
        """``texts``: from which it is learned how rare words are."""
        count, seen = 0, np.zeros(SIZE)
        for text in texts:
            seen[list({_place(word) for word in _words(text)})] += 1
            count += 1
        self.weight = (np.log((1 + count) / (1 + seen)) + 1).astype(np.float32)

    def of(self, texts: Sequence[str]) -> Vectors:
        """``[n, SIZE]``; 0 for a text without a word."""
        places = [[_place(word) for word in _words(text)] for text in texts]
        rows = np.repeat(np.arange(len(texts)), [len(each) for each in places])
        which = np.array([place for each in places for place in each], np.int64)
        counts = np.bincount(rows * SIZE + which, minlength=len(texts) * SIZE).reshape(len(texts), SIZE)
        found = (counts * self.weight).astype(np.float32)
        size = np.sqrt((found * found).sum(1, keepdims=True))
        found /= np.where(size > 0, size, 1)
        return found

    def of_marked(self, excerpts: Sequence[Excerpt], marks: Sequence[Sequence[int]]) -> Vectors:
        """``[n, SIZE]``: of what stands around the marked tokens, these counted three times."""
        return self.of([_around(excerpt, places) for excerpt, places in zip(excerpts, marks, strict=True)])


def _around(excerpt: Excerpt, places: Sequence[int]) -> str:
    tokens = excerpt.tokens
    spans = ["".join(tokens[max(0, at - AROUND) : at + AROUND + 1]) for at in places]
    return " ".join([*spans, *(f"{tokens[at]} {tokens[at]}" for at in places)])


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


@functools.lru_cache(1 << 16)  # fast because texts use few words
def _place(word: str) -> int:
    return zlib.crc32(word.encode("utf-8", "surrogatepass")) % SIZE
