"""A passage in the making: text is added piece by piece, together with the concepts that hold there."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

from kanary.text.labelled.concepts import ancestors

T = TypeVar("T")


class Span(NamedTuple):
    """A concept holds from one character to another."""

    concept: str
    start: int
    """First character."""
    end: int
    """One past the last character."""
    value: float | None = None
    """How much, for graded concepts."""


class Question(NamedTuple):
    """A place in a passage where only one next word is right."""

    skill: str
    """What must be understood to know it, for example ``lie`` or ``brackets``."""
    end: int
    """The passage up to this character is the prompt."""
    answer: str
    """What follows there, with its leading space."""
    wrong: tuple[str, ...] = ()
    """Plausible words that are not right."""


class Written(NamedTuple):
    """A finished passage."""

    family: str
    text: str
    spans: tuple[Span, ...]
    questions: tuple[Question, ...]


class Passage:
    """Collects text, spans and questions. Everything random in it comes from its seed.

    ``decide`` draws a yes or no that decides a concept; a contrastive pair is the same seed with one of them forced. So
    that the rest stays the same, what depends on such a decision draws from :meth:`fork`.
    """

    def __init__(self, seed: int, forced: Mapping[str, bool] | None = None) -> None:
        self.seed = seed
        self.draw = random.Random(seed)
        self.forced = dict(forced or {})
        self.decided: set[str] = set()
        """Concepts that were decided, so that a pair can be made of them."""
        self._parts: list[str] = []
        self._length = 0
        self._spans: list[Span] = []
        self._questions: list[Question] = []

    def __len__(self) -> int:
        return self._length

    def say(self, text: str, *concepts: str, value: float | None = None) -> None:
        """Adds ``text``; ``concepts`` hold over it (their parents are added by themselves).

        Spaces are written at the front of a piece, ``" dog"``: a concept holds from the first character that is no space.
        """
        if concepts:
            start = self._length + len(text) - len(text.lstrip())
            end = self._length + len(text.rstrip())
            self._spans += [Span(name, start, end, value) for name in concepts if end > start]
        self._parts.append(text)
        self._length += len(text)

    @contextmanager
    def during(self, *concepts: str, value: float | None = None) -> Iterator[None]:
        """``concepts`` hold over everything said in the block."""
        start, first = self._length, len(self._parts)
        yield
        if self._length > start:
            start += len(self._parts[first]) - len(self._parts[first].lstrip())
            self._spans += [Span(name, start, self._length, value) for name in concepts]

    def mark(self, start: int, end: int, *concepts: str, value: float | None = None) -> None:
        """``concepts`` hold from character ``start`` to ``end`` of what was said."""
        self._spans += [Span(name, start, end, value) for name in concepts if end > start]

    def ask(self, skill: str, answer: str, *wrong: str) -> None:
        """What is said next is ``answer``, and only ``answer`` would be right: a question for the capability set."""
        self._questions.append(Question(skill, self._length, answer, wrong))

    def decide(self, concept: str, probability: float = 0.5) -> bool:
        """Yes or no for ``concept``: drawn, unless it is forced for a contrastive pair."""
        drawn = self.draw.random() < probability
        self.decided.add(concept)
        return self.forced.get(concept, drawn)

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self.draw.random() * len(options))]

    def some(self, options: Sequence[T], n: int) -> list[T]:
        """``n`` different ones."""
        return self.draw.sample(options, n)

    def number(self, low: int, high: int) -> int:
        """A whole number from ``low`` to ``high``, both included."""
        return low + int(self.draw.random() * (high - low + 1))

    def fork(self, name: str) -> random.Random:
        """A source of its own for what depends on a decision: the draws that follow stay what they would have been."""
        return random.Random(f"{self.seed}/{name}")

    def written(self, family: str) -> Written:
        """The passage, with the spans of parents added wherever a child holds and they are not marked already."""
        spans = dict.fromkeys(self._spans)
        marked = {span[:3] for span in spans}
        for span in self._spans:
            for parent in ancestors(span.concept):
                if (parent, span.start, span.end) not in marked:
                    spans[Span(parent, span.start, span.end)] = None
        return Written(family, "".join(self._parts), tuple(sorted(spans, key=place)), tuple(self._questions))


def place(span: Span) -> tuple[int, int, str]:
    """The order in which spans stand."""
    return span.start, span.end, span.concept


Writer = Callable[[Passage], None]
WRITERS: dict[str, Writer] = {}
"""Family -> what writes one passage of it."""


def family(name: str) -> Callable[[Writer], Writer]:
    """Decorator: registers a function that writes one passage of the family ``name``."""

    def register(writer: Writer) -> Writer:
        if name in WRITERS:
            raise ValueError(f"family {name!r} is registered twice")
        WRITERS[name] = writer
        return writer

    return register
