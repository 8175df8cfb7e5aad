"""Concepts that several families mark: tense, sentiment and number; and sentences with the marks written into them.

A family that marks one of these marks it everywhere in its passages, or not at all: in a family that never marks tense,
a missing label says nothing.
"""

from collections.abc import Mapping
from itertools import accumulate
from typing import NamedTuple

from kanary.text.labelled.concepts import concept
from kanary.text.labelled.passage import Passage

TENSE = concept("tense.any", "a finite verb with its auxiliaries, in the indicative", switch=False)
PAST = concept("tense.past", "a finite verb, with its auxiliaries, in a past tense", parent=TENSE)
PRESENT = concept("tense.present", "a finite verb, with its auxiliaries, in a present tense", parent=TENSE)
FUTURE = concept("tense.future", "a verb with the auxiliary of the future, such as will or is going to", parent=TENSE)
SENTIMENT = concept("sentiment.any", "words that value something, well or badly", switch=False)
POSITIVE = concept("sentiment.positive", "words that praise, like or welcome something", parent=SENTIMENT)
NEGATIVE = concept("sentiment.negative", "words that blame, dislike or regret something", parent=SENTIMENT)
PLURAL = concept("number.plural", "the subject of a finite verb, a noun phrase in the plural", switch=False)
SINGULAR = concept("number.singular", "the subject of a finite verb, a noun phrase in the singular", switch=False)

ALIASES: Mapping[str, str] = {
    "past": PAST,
    "now": PRESENT,
    "will": FUTURE,
    "pos": POSITIVE,
    "neg": NEGATIVE,
    "pl": PLURAL,
    "sg": SINGULAR,
}
"""Short names that stand for shared concepts in :func:`line`."""


class Line(NamedTuple):
    """A sentence with its marks; see :func:`line`."""

    parts: tuple[str, ...]
    """Literal pieces and, where ``slots`` says so, what stands for one."""
    slots: tuple[tuple[int, str, bool], ...]
    """Number of the part, what fills it, and whether its first letter is raised."""
    marks: tuple[tuple[str, int, int, str], ...]
    """Concept, first part, one past the last part, and the slot with its value or ``""``."""


def line(text: str, **aliases: str) -> Line:
    """Reads a sentence with marks: ``"[pl {n} boats] [past left] at [w.cold=t {t} degrees]."``.

    ``[name words]`` marks the words with the concept ``name`` (or ``a+b`` with two), which may be short for another
    (``aliases``, :data:`ALIASES`); ``[name=slot words]`` gives it the slot's number as its value. ``{slot}`` is filled in
    when the line is said, ``{^slot}`` with its first letter raised. Marks can be nested.
    """
    parts: list[str] = []
    slots: list[tuple[int, str, bool]] = []
    marks: list[tuple[str, int, int, str]] = []
    opened: list[tuple[str, int]] = []
    short = {**ALIASES, **aliases}
    at, literal = 0, ""
    while at < len(text):
        here = text[at]
        if here not in "[]{":
            literal += here
            at += 1
            continue
        if literal:
            parts.append(literal)
            literal = ""
        if here == "[":
            end = text.index(" ", at)
            opened.append((text[at + 1 : end], len(parts)))
        elif here == "]":
            end = at
            head, first = opened.pop()
            names, _, value = head.partition("=")
            marks += [(short.get(name, name), first, len(parts), value) for name in names.split("+")]
        else:
            end = text.index("}", at)
            name = text[at + 1 : end]
            slots.append((len(parts), name.lstrip("^"), name.startswith("^")))
            parts.append("")
        at = end + 1
    if opened:
        raise ValueError(f"a mark is left open in {text!r}")
    return Line((*parts, literal) if literal else tuple(parts), tuple(slots), tuple(marks))


def lines(*texts: str, **aliases: str) -> tuple[Line, ...]:
    """Several sentences, as :func:`line` reads them."""
    return tuple(line(text, **aliases) for text in texts)


def tell(p: Passage, said: Line, fill: Mapping[str, str | float] | None = None, space: str = " ") -> None:
    """Says a line, after ``space`` (none at the very beginning), its slots filled from ``fill``."""
    start = len(p) + len(space)
    parts = said.parts
    if said.slots:
        assert fill is not None
        new = list(parts)
        for at, name, raised in said.slots:
            word = str(fill[name])
            new[at] = word[:1].upper() + word[1:] if raised else word
        parts = tuple(new)
    p.say(space + "".join(parts))
    if said.marks:
        ends = list(accumulate(map(len, parts), initial=start))
        for name, first, last, value in said.marks:
            p.mark(ends[first], ends[last], name, value=float(fill[value]) if value and fill else None)
