"""What a rule can say of a token: the word that it is, and what kind of token."""

import re
import unicodedata
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

KINDS = (
    "line breaks",
    "spaces",
    "numbers",
    "punctuation",
    "capitalised words",
    "words",
    "pieces of words",
    "Hebrew",
    "Arabic",
    "Cyrillic",
    "Greek",
    "Chinese, Japanese or Korean",
    "accented letters",
    "parts of characters",
    "special tokens",
)
"""In words that follow "on"."""
_SCRIPTS = {
    "HEBREW": "Hebrew",
    "ARABIC": "Arabic",
    "CYRILLIC": "Cyrillic",
    "GREEK": "Greek",
    "CJK": "Chinese, Japanese or Korean",
    "HIRAGANA": "Chinese, Japanese or Korean",
    "KATAKANA": "Chinese, Japanese or Korean",
    "HANGUL": "Chinese, Japanese or Korean",
}
_FIRST_BYTES = {"d7": "Hebrew", "d8": "Arabic", "d9": "Arabic", "d0": "Cyrillic", "d1": "Cyrillic"}
"""Of characters whose bytes are tokens of their own."""


@dataclass(frozen=True)
class Vocabulary:
    """Every token as text, and what it has in common with others."""

    texts: tuple[str, ...]
    word: NDArray[np.int32]
    """``[vocab]``: the same number for tokens that differ in case and outer spaces alone."""
    names: tuple[str, ...]
    """Of the words, by number; as they are written where that is always the same, in lower case otherwise."""
    kind: NDArray[np.int32]
    """``[vocab]``: a number of ``KINDS``."""

    @classmethod
    def of(cls, texts: tuple[str, ...], special_ids: frozenset[int] = frozenset()) -> "Vocabulary":
        numbers: dict[str, int] = {}
        words = [numbers.setdefault(_word(text), len(numbers)) for text in texts]
        written: dict[int, set[str]] = {}
        for text, word in zip(texts, words, strict=True):
            written.setdefault(word, set()).add(text.strip() or text)
        kinds = ["special tokens" if id in special_ids else kind_of(text) for id, text in enumerate(texts)]
        return cls(
            texts,
            np.array(words, np.int32),
            tuple(min(written[i]) if len(written[i]) == 1 else word for word, i in numbers.items()),
            np.array([KINDS.index(kind) for kind in kinds], np.int32),
        )

    def is_piece(self, word: int) -> bool:
        """Whether all tokens of this word continue one."""
        return bool(self._pieces[word])

    @cached_property
    def _pieces(self) -> NDArray[np.bool_]:
        """``[words]``"""
        other = self.kind != KINDS.index("pieces of words")
        found: NDArray[np.bool_] = np.bincount(self.word, other, len(self.names)) == 0
        return found


def kind_of(text: str) -> str:
    """One of ``KINDS``, for the token ``text`` as :class:`kanary.FeatureIndex` shows it."""
    bare = text.strip()
    if not bare:
        return "line breaks" if "\n" in text else "spaces"
    if byte := re.match(r"⟨([0-9a-f]{2})⟩", bare):
        return _FIRST_BYTES.get(byte[1], "parts of characters")
    first = next((c for c in bare if c.isalnum()), "")
    if not first:
        return "punctuation"
    if first.isdigit():
        return "numbers"
    script = unicodedata.name(first, "").split(" ")[0]
    if script in _SCRIPTS:
        return _SCRIPTS[script]
    if first.isupper():
        return "capitalised words"
    if text[0].isspace():
        return "words"
    return "accented letters" if not first.isascii() else "pieces of words"


def _word(text: str) -> str:
    return text.strip().lower() or text
