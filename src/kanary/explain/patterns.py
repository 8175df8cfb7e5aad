"""What a rule is made of: conditions on a token, on those before it, on what was said earlier, and on where it stands."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kanary.explain.pool import LENGTH, ConceptMarks
from kanary.explain.types import Excerpt
from kanary.explain.vocabulary import Vocabulary
from kanary.lm import LanguageModel
from kanary.text.windows import encode

What = Literal["token", "word", "kind", "first", "concept"]
EARLIER = 99
"""For a condition's ``where``: somewhere before, in the same excerpt."""
Mask = NDArray[np.bool_]


class Condition(NamedTuple):
    """Something that holds at a token or does not."""

    what: What
    """``first``: the token is the first of its document; the value is 1."""
    where: int
    """0 = the token itself, 1 = the one before it, -1 = the one after it, ``EARLIER`` = any before it in the excerpt."""
    value: int
    """Number of the token, word, kind or concept."""


class Pattern(NamedTuple):
    """Conditions that must all hold."""

    conditions: tuple[Condition, ...]
    chance: float
    """How likely the latent fires where they do."""
    value: float
    """The mean activation there, 0 to 10, where 10 is the latent's largest."""
    covers: float
    """Share of the examples' firing that this pattern is the first to explain."""


class Grid:
    """Excerpts as matrices, ``[n, LENGTH]``, -1 after their end."""

    def __init__(self, excerpts: Sequence[Excerpt], vocabulary: Vocabulary, marks: ConceptMarks | None) -> None:
        self.excerpts, self.vocabulary, self.marks = excerpts, vocabulary, marks
        self.lengths = np.array([len(each.ids) for each in excerpts], np.int64)
        self.width = max(LENGTH, int(self.lengths.max(initial=0)))
        self.inside: Mask = np.arange(self.width) < self.lengths[:, None]
        self.ids = np.full(self.inside.shape, -1, np.int64)
        if len(excerpts):
            self.ids[self.inside] = np.concatenate([each.ids for each in excerpts])
        self._columns: dict[tuple[What, int], NDArray[np.int64]] = {}

    @cached_property
    def activations(self) -> NDArray[np.float32]:
        found = np.zeros(self.inside.shape, np.float32)
        if len(self.excerpts):
            found[self.inside] = np.concatenate([each.activations for each in self.excerpts])
        return found

    @cached_property
    def concepts(self) -> NDArray[np.uint8]:
        """``[n, LENGTH, concepts / 8]``, a bit each."""
        assert self.marks is not None
        windows, starts = [e.window for e in self.excerpts], [e.start for e in self.excerpts]
        return self.marks.at(windows, starts, self.width)

    def holds_concept(self, number: int) -> Mask:
        """``[n, LENGTH]``"""
        found: Mask = (self.concepts[..., number // 8] & (128 >> number % 8) > 0) & self.inside
        return found

    def column(self, what: What, where: int = 0) -> NDArray[np.int64]:
        """``[n, LENGTH]``: the number of the token, word or kind that stands ``where`` steps before each; -1 for none."""
        if (what, where) not in self._columns:
            self._columns[what, where] = _shifted(self._here(what), where) if where else self._here(what)
        return self._columns[what, where]

    def _here(self, what: What) -> NDArray[np.int64]:
        if what == "token":
            return self.ids
        if what == "first":
            first = np.array([each.position == 0 for each in self.excerpts], np.int64)
            return np.where(np.arange(self.width) == 0, first[:, None], 0)
        table = self.vocabulary.word if what == "word" else self.vocabulary.kind
        return np.where(self.inside, table[np.maximum(self.ids, 0)], -1)

    def first_place(self, word: int) -> NDArray[np.int64]:
        """``[n]``: where ``word`` stands first in each excerpt; beyond the end where it does not."""
        is_there = self.column("word") == word
        return np.where(is_there.any(1), is_there.argmax(1), self.width)

    def holds(self, condition: Condition) -> Mask:
        """``[n, LENGTH]``; never after the end of an excerpt."""
        what, where, value = condition
        if what == "concept":
            return self.holds_concept(value)
        if where == EARLIER:
            return self.inside & (np.arange(self.width) > self.first_place(value)[:, None])
        equal: Mask = self.column(what, where) == value
        return self.inside & equal

    def matches(self, pattern: Pattern) -> Mask:
        found = self.inside.copy()
        for condition in pattern.conditions:
            found &= self.holds(condition)
        return found


@dataclass(frozen=True)
class PatternRule:
    """A list of patterns that can be run on new text: at a token, the first that matches says what is to be expected."""

    patterns: tuple[Pattern, ...]
    elsewhere: float
    """How likely the latent fires where no pattern matches."""
    threshold: float
    """What a whole excerpt must reach to be called one in which the latent fires: the best on the examples."""
    vocabulary: Vocabulary
    marks: ConceptMarks | None = None
    """Needed where a pattern speaks of a concept."""

    def read(self, lm: LanguageModel, text: str) -> list[tuple[str, float]]:
        """Every token of any text, read as the start of a document, and the activation that is expected there, 0 to 10.

        Patterns that speak of a concept match nothing: nobody has labelled the text.

        Args:
            lm: the model that the SAE reads; only its tokenizer is used.
        """
        ids = np.array(encode(lm, [text])[0], np.int64)
        tokens = tuple(self.vocabulary.texts[id] for id in ids.tolist())
        (values,) = self.values([Excerpt(-1, 0, -1, 0, ids, tokens, np.zeros(len(ids), np.float32))])
        return list(zip(tokens, values.tolist(), strict=True))

    def values(self, excerpts: Sequence[Excerpt]) -> list[NDArray[np.float32]]:
        """For every excerpt ``[length]``: the expected activation, 0 to 10."""
        grid = Grid(excerpts, self.vocabulary, self.marks)
        chance, value = self.expected(grid)
        found = (chance * value).astype(np.float32)
        return [row[:n] for row, n in zip(found, grid.lengths, strict=True)]

    def chances(self, excerpts: Sequence[Excerpt]) -> list[NDArray[np.float32]]:
        """For every excerpt ``[length]``: how likely the latent fires at each token."""
        grid = Grid(excerpts, self.vocabulary, self.marks)
        chance, _ = self.expected(grid)
        return [row[:n].astype(np.float32) for row, n in zip(chance, grid.lengths, strict=True)]

    def holds(self, excerpts: Sequence[Excerpt]) -> list[float]:
        """For every excerpt, how likely the latent fires in it; 0.5 at the threshold."""
        grid = Grid(excerpts, self.vocabulary, self.marks)
        score = excerpt_score(grid, self.expected(grid)[0])
        low, high = self.threshold, max(1 - self.threshold, 1e-9)
        return np.where(score < low, score / low / 2, 0.5 + (score - low) / high / 2).clip(0, 1).tolist()  # type: ignore[no-any-return]

    def expected(self, grid: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Chance of firing and activation if it does, ``[n, LENGTH]`` each; 0 outside of the excerpts."""
        chance = np.where(grid.inside, self.elsewhere, 0.0)
        value = np.ones(grid.inside.shape)
        for pattern in reversed(self.patterns):  # so that the first of them has the last word
            here = grid.matches(pattern)
            chance[here], value[here] = pattern.chance, pattern.value
        return chance, value


def excerpt_score(grid: Grid, chance: NDArray[np.float64]) -> NDArray[np.float64]:
    """``[n]``: how likely the latent fires at one of the tokens at least, if it fired at each by itself."""
    found: NDArray[np.float64] = 1 - np.prod(1 - np.where(grid.inside, chance, 0.0), axis=1)
    return found


def _shifted(values: NDArray[np.int64], by: int) -> NDArray[np.int64]:
    found = np.full_like(values, -1)
    if by > 0:
        found[:, by:] = values[:, :-by]
    else:
        found[:, :by] = values[:, -by:]
    return found
