"""Sentences with slots, taken apart once so that filling them is fast, and words that agree with a person's gender."""

from collections.abc import Mapping
from typing import NamedTuple

from kanary.text.labelled.passage import Passage


class Piece(NamedTuple):
    """Fixed text and the slot behind it."""

    before: str
    lead: str
    """The space in front of the slot's word, if there is one."""
    slot: str
    """Empty at the end of a sentence."""
    asked: bool
    """Whether a question is put before the slot."""


class Filling(NamedTuple):
    """What stands in a slot."""

    text: str
    concepts: tuple[str, ...] = ()
    skill: str = ""
    """Of the question, where the template asks one."""
    wrong: tuple[str, ...] = ()


Sentence = tuple[Piece, ...]


def sentence(text: str) -> Sentence:
    """Takes ``"The {job} put on {?her} coat."`` apart; a ``?`` asks for what stands in the slot."""
    pieces = []
    rest = " " + text
    while rest:
        before, brace, after = rest.partition("{")
        if not brace:
            pieces.append(Piece(before, "", "", False))
            break
        slot, _, rest = after.partition("}")
        lead = " " if before.endswith(" ") else ""
        pieces.append(Piece(before[: len(before) - len(lead)], lead, slot.removeprefix("?"), slot.startswith("?")))
    return tuple(pieces)


Phrasings = tuple[Sentence, ...]
"""Sentences that say the same kind of thing in other words."""


def phrased(text: str) -> tuple[Phrasings, ...]:
    """The phrasings of every line that is not empty."""
    return tuple(tuple(map(sentence, phrasings(" ".join(line.split())))) for line in text.splitlines() if line.strip())


def phrasings(text: str) -> list[str]:
    """``"The (lift|door) (stuck|broke)."`` with every choice of what stands in round brackets."""
    before, bracket, rest = text.partition("(")
    if not bracket:
        return [text]
    inside, _, after = rest.partition(")")
    return [before + choice + end for choice in inside.split("|") for end in phrasings(after)]


def slots_of(options: Phrasings) -> set[str]:
    """Slots that occur in one of the sentences."""
    return {piece.slot for pieces in options for piece in pieces}


def tell(p: Passage, pieces: Sentence, slots: Mapping[str, Filling]) -> None:
    """Says a sentence, with a space before it unless it is the first."""
    for before, lead, slot, asked in pieces:
        if before:
            p.say(before if len(p) else before[1:])
        if slot:
            text, concepts, skill, wrong = slots[slot]
            text = lead + text if len(p) else text
            if asked:
                p.ask(skill, text, *[lead + other for other in wrong])
            p.say(text, *concepts)


Agreeing = tuple[tuple[str, str], tuple[str, str]]
"""A text by the gender of one person and of another, each 0 for male and 1 for female."""


def agreeing(text: str) -> Agreeing:
    """``"lleg[ó|ó] cansad[o|a] con <él|ella>"`` in its four forms: ``[]`` agrees with one person, ``<>`` with the other."""

    def form(one: int, other: int) -> str:
        return _choose(_choose(text, "[]", one), "<>", other)

    return (form(0, 0), form(0, 1)), (form(1, 0), form(1, 1))


def agreeing_lines(text: str) -> tuple[Agreeing, ...]:
    return tuple(agreeing(line.strip()) for line in text.splitlines() if line.strip())


def tables(text: str, columns: int) -> tuple[tuple[str, ...], ...]:
    """Rows of ``a | b | c``, one for each line.

    Raises:
        ValueError: a row with another number of columns.
    """
    rows = tuple(tuple(cell.strip() for cell in line.split("|")) for line in text.splitlines() if line.strip())
    for row in rows:
        if len(row) != columns:
            raise ValueError(f"{row} has {len(row)} columns, not {columns}")
    return rows


def _choose(text: str, brackets: str, index: int) -> str:
    found: list[str] = []
    rest = text
    while brackets[0] in rest:
        before, _, after = rest.partition(brackets[0])
        inside, _, rest = after.partition(brackets[1])
        found += [before, inside.split("|")[index]]
    return "".join([*found, rest])


def split(text: str) -> tuple[str, ...]:
    """The words of a text."""
    return tuple(text.split())
