"""The labelled corpus as a text, ``--text labelled``, to be trained on, harvested and judged like any other."""

import functools
import hashlib
import itertools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from kanary.errors import KanaryError
from kanary.text.labelled.record import Record, chosen_families, record, write

NAME = "labelled"
_HOW = f"Write {NAME}, {NAME}:weather,code for some families, {NAME}@7 or {NAME}:weather@7 for another seed."
_KEPT = 1024
"""Records remembered, for the labels of what was just read: windows are cut from 256 documents at a time."""


@dataclass(frozen=True)
class LabelledText:
    """An endless text: document n is the record n. A document is written when its text is asked for, and only then."""

    families: tuple[str, ...] = ()
    """Only these; empty: all."""
    seed: int = 0
    tokenizer_name: None = None

    @property
    def name(self) -> str:
        families = f":{','.join(self.families)}" if self.families else ""
        return f"{NAME}{families}" + (f"@{self.seed}" if self.seed else "")

    def columns(self) -> None:
        return None

    def count(self) -> int:
        """More than anybody reads."""
        return sys.maxsize

    def values(self, column: str, start: int = 0) -> Iterator[Callable[[], str]]:
        """For every record from ``start`` on, a function that gives its text."""
        for number in itertools.count(start):
            yield functools.partial(self._text, number)

    def record(self, number: int) -> Record:
        """The record whose text is document ``number``."""
        return self._remembered(number)

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hex digits that change with the families, the seed, and the way in which passages are written."""
        chosen = chosen_families(self.families)
        texts = [write(family, passage).text for family in chosen for passage in range(8)]
        texts += [record(number, self.seed, chosen).text for number in range(16)]
        return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]

    def describe(self) -> str:
        """Plain words: what is read."""
        families = chosen_families(self.families)
        which = "the family" if len(families) == 1 else f"{len(families)} families"
        return f"the labelled corpus, without end: {which} {', '.join(families)}; seed {self.seed}"

    def _text(self, number: int) -> str:
        return self._remembered(number).text

    @cached_property
    def _remembered(self) -> Callable[[int], Record]:
        chosen = chosen_families(self.families)
        return functools.lru_cache(_KEPT)(lambda number: record(number, self.seed, chosen))


def labelled_text(source: str) -> LabelledText | None:
    """What ``labelled``, ``labelled:FAMILY,FAMILY`` or ``labelled:FAMILY@SEED`` names; None for any other text.

    Raises:
        KanaryError: an unknown family, or a seed that is no whole number.
    """
    if not source.startswith((NAME + ":", NAME + "@")) and source != NAME:
        return None
    which, at, seed = source.removeprefix(NAME).partition("@")
    names = [name.strip() for name in which.removeprefix(":").split(",")] if which else []
    if "" in names:
        raise KanaryError(f"Text {source!r} names an empty family. {_HOW}")
    if at and not seed.strip().isdecimal():
        raise KanaryError(f"The seed {seed!r} of text {source!r} is not a whole number. {_HOW}")
    chosen = chosen_families(names)
    return LabelledText(() if chosen == chosen_families() else chosen, int(seed or 0))
