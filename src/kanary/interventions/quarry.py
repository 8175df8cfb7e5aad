"""What can be hunted: pairs of passages that are the same but for one thing, with a question at which it matters."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from kanary.errors import KanaryError, nearest
from kanary.interventions.choices import Item
from kanary.text.labelled import Question, Record, pairs, record
from kanary.text.windows import HELD_OUT_EVERY

TAIL = 24
"""Characters before the question that must be the same in both passages of a pair."""
PATIENCE = 3000
"""Pairs in a row without a question, after which there are taken to be no more."""
UNRELATED = ("turn", "brackets", "repeated_name", "arithmetic", "translation", "recall")
"""Skills of the control questions, on which steering should have no effect."""


class Pair(NamedTuple):
    """The same passage twice, up to the same question. Yes is what fits the thing that is hunted."""

    with_it: Item
    without: Item


@dataclass(frozen=True)
class Quarry:
    """Something that is looked for in a model."""

    name: str
    says: str
    """What is switched between the passages of a pair, in words that follow "with and without"."""
    yes: str
    """What the answer yes is, in words that follow "how often"."""
    concept: str
    """Of the labelled corpus: what is switched in the pairs."""
    control: str
    """What is switched in the control pairs instead."""
    control_says: str
    skills: tuple[str, ...]
    """Of the questions that are asked."""
    fits: Callable[[Question], bool]
    """Whether the answer that the passage gives is yes."""
    words: bool
    """Whether it is in the words themselves: then features are read and steered at all tokens, not only at the last ones, which
    are the same in both passages."""


_FEMALE = ("she", "her", "herself", "sister", "mother", "daughter", "wife")
QUARRIES = {
    "honesty": Quarry(
        "honesty",
        "a deceptive speaker in the place of an honest one",
        "a speaker claims what the passage has said not to be so",
        "honesty.deceptive_speaker",
        "honesty.honest_speaker",
        "an honest second speaker in the place of one without a reputation, where the first one deceives",
        ("lie", "true_claim"),
        lambda question: question.skill == "lie",
        words=False,
    ),
    "gender-bias": Quarry(
        "gender-bias",
        "a woman in the place of a man",
        "a person is spoken of as a woman",
        "gender.female",
        "occupation.stereotype_female",
        "an occupation that is thought to be women's in the place of another one, where the person stays the same",
        ("gender",),
        lambda question: question.answer.strip().lower() in _FEMALE,
        words=True,
    ),
}


def find_quarry(name: str) -> Quarry:
    """Raises :class:`KanaryError` with the nearest name where there is none of that name."""
    if name not in QUARRIES:
        raise KanaryError(f"{name!r} cannot be hunted. {nearest(name, QUARRIES)}")
    return QUARRIES[name]


def hunting_pairs(quarry: Quarry, n: int, seed: int) -> list[Pair]:
    """``n`` pairs in which the concept is switched, and with it the right answer; written anew: no model has read them."""
    return _first(n, quarry.concept, quarry, seed, turned=True)


def control_pairs(quarry: Quarry, n: int, seed: int) -> list[Pair]:
    """``n`` pairs in which something else is switched, and the right answer is the same."""
    return _first(n, quarry.control, quarry, seed, turned=False)


def unrelated(n: int, seed: int) -> list[Item]:
    """``n`` questions of other skills, as many of each, from held-out passages; yes is the right answer."""
    found: dict[str, list[Item]] = {skill: [] for skill in UNRELATED}
    most = -(-n // len(UNRELATED))
    for number in itertools.count(HELD_OUT_EVERY - 1, HELD_OUT_EVERY):
        each = record(number, seed)
        for question in each.questions:
            if question.wrong and len(found.get(question.skill, [None] * most)) < most:
                found[question.skill].append(Item(each.text[: question.end], question.answer, question.wrong[0]))
                break  # one of a passage
        if all(len(items) == most for items in found.values()):
            break
    return [item for items in zip(*found.values(), strict=True) for item in items][:n]


def _first(n: int, concept: str, quarry: Quarry, seed: int, *, turned: bool) -> list[Pair]:
    found: list[Pair] = []
    vain = 0
    for both in pairs(concept, seed):
        if len(found) == n:
            break
        pair = next(_same_question(both, quarry, turned), None)  # one of a passage
        vain = vain + 1 if pair is None else 0
        if vain > PATIENCE:
            raise KanaryError(
                f"Only {len(found)} pairs of {concept} ask a question; {n} were asked for. Ask for fewer."
            )
        found += [] if pair is None else [pair]
    return found


def _same_question(both: tuple[Record, Record], quarry: Quarry, turned: bool) -> Iterator[Pair]:
    """Questions in both passages that follow the same words, after others that differ, and have the same two answers: the
    right one is not the same if ``turned``."""
    asked = [[q for q in each.questions if q.skill in quarry.skills and q.wrong] for each in both]
    for one, other in itertools.product(*asked):
        before = both[0].text[: one.end], both[1].text[: other.end]
        told = before[0] != before[1] and before[0][-TAIL:] == before[1][-TAIL:]
        if told and {one.answer, *one.wrong} == {other.answer, *other.wrong} and (one.answer != other.answer) == turned:
            yield Pair(_item(both[0], one, quarry), _item(both[1], other, quarry))


def _item(each: Record, question: Question, quarry: Quarry) -> Item:
    answers = question.answer, question.wrong[0]
    return Item(each.text[: question.end], *(answers if quarry.fits(question) else answers[::-1]))
