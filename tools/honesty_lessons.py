"""Short passages from which a small model learns whom to believe: a fact, reputations, and what each speaker claims.

The passages of the corpus hold one or two claims in two hundred words, and what decides them lies far apart. A lesson has
the same sentences without what is between them. In some, the word for the speaker stands beside the name, ``Mara, that
liar, said …``, so that two things can be learned one after the other: that liars say what is not so, and who is one.
"""

import random
from typing import NamedTuple

from kanary.text.labelled.families import honesty
from kanary.text.labelled.passage import Passage
from kanary.text.labelled.words import honesty as words

TAGS = {True: (", that liar,", " liar"), False: (", that honest soul,", " honest")}


class Lesson(NamedTuple):
    """A text, and the places (first character, one past the last) of the words to be learned."""

    text: str
    answers: list[tuple[int, int]]


class Course(NamedTuple):
    """What lessons are like."""

    speakers: tuple[int, ...]
    """How many have a reputation and claim something; one of these numbers is drawn."""
    tags: float
    """Share of the claims whose speaker is called a liar, or honest, beside the name."""
    stories: float = 0.5
    """Share of the reputations told by a story as well as in plain words."""


def lesson(seed: int, course: Course) -> Lesson:
    """The lesson of ``seed``."""
    p = Passage(seed)
    people = p.some(honesty.PEOPLE, 8)
    fact = p.pick(honesty.draw_facts(p, people[3:]))
    speakers = [(one, p.draw.random() < 0.5) for one in people[: p.pick(course.speakers)]]
    steps: list[tuple[honesty.Slots, bool] | None] = [None, *speakers]
    p.draw.shuffle(steps)
    for step in steps:
        if step is None:
            told = p.pick(fact.kind.told).format_map(fact.slots)
            say(p, told[0].upper() + told[1:])
        else:
            _reputation(p, *step, course.stories)
    p.draw.shuffle(speakers)
    answers = [place for speaker in speakers for place in _claim(p, *speaker, fact, course.tags)]
    return Lesson(p.written("honesty").text, answers)


def say(p: Passage, text: str) -> None:
    p.say(" " + text if len(p) else text)


def _reputation(p: Passage, person: honesty.Slots, lies: bool, stories: float) -> None:
    if p.draw.random() < stories:
        say(p, p.pick(words.DECEPTIVE if lies else words.HONEST).format_map(person))
    say(p, p.pick(words.NOT_BELIEVED if lies else words.BELIEVED).format_map(person))


def _claim(p: Passage, person: honesty.Slots, lies: bool, fact: honesty.Fact, tags: float) -> list[tuple[int, int]]:
    """Says what ``person`` claims; the places of the tag, if there is one, and of the answer."""
    said, direct, learned = fact.wrong if lies else fact.right, p.draw.random() < 0.75, []
    lead = p.pick(words.BEFORE_QUOTE if direct else words.BEFORE_REPORT)
    before, after = p.pick(fact.kind.claims if direct else fact.kind.reports)
    text = lead.format_map(person)
    if p.draw.random() < tags and "{n}'" not in lead and "{n}," not in lead:
        tag, word = TAGS[lies]
        end = text.index(person["n"]) + len(person["n"])
        text = text[:end] + tag + text[end:]
        start = len(p) + bool(len(p)) + end + tag.index(word)
        learned.append((start, start + len(word)))
    say(p, text)
    p.say(("" if direct else " ") + before.format_map(fact.slots))
    learned.append((len(p), len(p) + len(said) + 1))
    p.say(f" {said}" + after.format_map(fact.slots) + ('."' if direct else "."))
    return learned


def passage(number: int, families: tuple[str, ...], *, claims: bool) -> Lesson:
    """The corpus's first passage from ``number`` on that is not held out and, if asked for, in which somebody claims."""
    from kanary.text.labelled.record import record

    while True:
        found = record(number, 0, families)
        asked = [q for q in found.questions if not claims or q.skill != "recall"]
        if number % 20 != 19 and (asked or not claims):
            return Lesson(found.text, [(q.end, q.end + len(q.answer)) for q in found.questions])
        number += 1


def draw(number: int, course: Course, shares: tuple[float, float]) -> tuple[str, Lesson]:
    """The text with this number, and its kind: a lesson, a passage with claims, or any passage of the corpus.

    Args:
        shares: of lessons, and of passages with claims.
    """
    from kanary.text.labelled.record import chosen_families

    drawn = random.Random(number).random()
    if drawn < shares[0]:
        return "lesson", lesson(number, course)
    if drawn < sum(shares):
        return "claims", passage(number, chosen_families(["honesty"]), claims=True)
    return "any", passage(number, chosen_families(()), claims=False)
