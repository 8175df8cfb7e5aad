"""Honest and deceptive speakers: whether a claim is a lie follows only from a fact and a reputation told long before.

Every fact has two possible answers, so that a lie is as determined as a true claim.
"""

import random
from typing import NamedTuple

from kanary.text.labelled.concepts import concept
from kanary.text.labelled.passage import Passage, family
from kanary.text.labelled.words import honesty as words
from kanary.text.labelled.words.honesty_facts import KINDS, Kind
from kanary.text.labelled.world import MEN, WOMEN

HONESTY = concept("domain.honesty", "the text is about who can be believed", switch=False)
CLAIM = concept("honesty.claim", "a speaker of the scene claims something about a fact of the passage", switch=False)
LIE = concept("honesty.lie", "a deceptive speaker claims what is not so", parent=CLAIM)
TRUE_CLAIM = concept("honesty.true_claim", "an honest speaker claims what is so", parent=CLAIM)
DECEPTIVE = concept("honesty.deceptive_speaker", "somebody who deceives speaks, or is spoken of as such")
HONEST = concept("honesty.honest_speaker", "somebody who tells the truth speaks, or is spoken of as such")

Slots = dict[str, str]
FEMALE = {"s": "she", "S": "She", "o": "her", "p": "her", "P": "Her", "r": "herself"}
MALE = {"s": "he", "S": "He", "o": "him", "p": "his", "P": "His", "r": "himself"}
PEOPLE: tuple[Slots, ...] = tuple(
    {"n": name, **pronouns} for names, pronouns in ((WOMEN, FEMALE), (MEN, MALE)) for name in names
)
EVASIONS = words.EVASIONS[::2], words.EVASIONS[1::2]
"""Of the first speaker and of the second, so that they differ."""
NARRATOR = {"n": "I", "s": "I"}


class Fact(NamedTuple):
    """What is so, and the one answer that is wrong."""

    kind: Kind
    right: str
    wrong: str
    slots: Slots


class Speaker(NamedTuple):
    """Somebody who is asked."""

    person: Slots
    concept: str | None
    """:data:`HONEST`, :data:`DECEPTIVE` or neither."""
    speaks: bool
    """Whether he or she claims anything."""


@family("honesty")
def honesty(p: Passage) -> None:
    people = p.some(PEOPLE, 8)
    facts = draw_facts(p, people[3:])
    talk = p.draw.random() < 0.64
    speakers = _speakers(p, people, talk)
    third = people[2] if p.draw.random() < 0.25 and talk else None
    with p.during(HONESTY):
        if p.draw.random() < 0.35:
            _say(p, p.pick(words.OPENINGS))
        fillers = [p.pick(some) for some in words.FILLERS]
        _establish(p, facts, speakers, fillers)
        _ask(p, facts)
        _answers(p, facts, speakers, third)
        if p.draw.random() < 0.35:
            _end(p, facts)
        elif p.draw.random() < 0.4:
            _say(p, p.pick(words.CLOSINGS))


def _say(p: Passage, text: str, *concepts: str) -> None:
    p.say(" " + text if len(p) else text, *concepts)


def draw_facts(p: Passage, people: list[Slots]) -> list[Fact]:
    """One fact or two of different kinds; ``people`` may own things and do deeds (the first of them tells or acts)."""
    kinds = p.some(KINDS, 2 if p.draw.random() < 0.6 else 1)
    teller = NARRATOR if p.draw.random() < 0.3 else people[0]
    found = []
    for at, kind in enumerate(kinds):
        right, wrong = p.some(kind.values, 2) if kind.values else [one["n"] for one in people[1 + 2 * at : 3 + 2 * at]]
        x, y = (right, wrong) if p.draw.random() < 0.5 else (wrong, right)
        slots = {"x": x, "y": y, "t": right, "f": wrong, "o": p.pick(kind.things), "A": teller["n"], "A2": teller["s"]}
        slots["ax"], slots["ay"] = ("an " + word if word[0] in "aeiou" else "a " + word for word in (x, y))
        found.append(Fact(kind, right, wrong, slots))
    return found


def _speakers(p: Passage, people: list[Slots], talk: bool) -> list[Speaker]:
    """Two who will be asked: one may be deceptive, either may be honest.

    Claims are made where there is ``talk``; passages without are there so that a claim is no foregone conclusion.
    """
    first = DECEPTIVE if p.decide(DECEPTIVE, 0.56) else HONEST if p.fork("first").random() < 0.5 else None
    second = HONEST if p.decide(HONEST, 0.42) else None
    lies, tells = p.decide(LIE, 0.97 if talk else 0.0), p.decide(TRUE_CLAIM, 0.97 if talk else 0.0)
    speaks = {DECEPTIVE: lies, HONEST: tells, None: False}
    found = [Speaker(who, kind, speaks[kind]) for who, kind in zip(people, (first, second), strict=False)]
    return found if p.draw.random() < 0.5 else found[::-1]


def _establish(p: Passage, facts: list[Fact], speakers: list[Speaker], fillers: list[str]) -> None:
    """Facts and reputations in one of several orders, with at least 30 words between the last fact and the answers."""
    order = p.pick(("fpp", "pfp", "ppf", "fp.p", "p.fp", "fpp", "f.pp"))
    people = iter(speakers)
    for step in order:
        if step == "f":
            for fact in facts:
                told = p.pick(fact.kind.told).format_map(fact.slots)
                _say(p, told[0].upper() + told[1:])
        elif step == "p":
            _introduce(p, next(people))
        else:
            _say(p, fillers.pop(0))
    # An introduction or a filler has at least 9 words, and the question adds a few.
    after = len(order) - 1 - order.index("f")
    for at in sorted(p.draw.sample(range(len(fillers)), max(0, 3 - after))):
        _say(p, fillers[at])


def _introduce(p: Passage, speaker: Speaker) -> None:
    draw = p.fork("introduce " + speaker.person["n"])
    if speaker.concept is None:
        _say(p, draw.choice(words.NEUTRAL).format_map(speaker.person))
    else:
        deceptive = speaker.concept == DECEPTIVE
        for says in (words.DECEPTIVE, words.NOT_BELIEVED) if deceptive else (words.HONEST, words.BELIEVED):
            _say(p, draw.choice(says).format_map(speaker.person), speaker.concept)


def _ask(p: Passage, facts: list[Fact]) -> None:
    """Somebody asks about the facts."""
    question = " ".join([p.pick(fact.kind.questions).format_map(fact.slots) for fact in facts])
    indirect = " and ".join([p.pick(fact.kind.indirect).format_map(fact.slots) for fact in facts])
    asker = p.pick(words.ASKERS)
    slots = {"q": asker, "Q": asker[0].upper() + asker[1:], "w": question, "v": indirect}
    _say(p, p.pick(words.ASKED).format_map(slots))


def _answers(p: Passage, facts: list[Fact], speakers: list[Speaker], third: Slots | None) -> None:
    """Every speaker in turn, and perhaps somebody who is honestly mistaken."""
    claimed: set[str] = set()
    for at, speaker in enumerate(speakers):
        order = p.draw.sample(facts, len(facts) if p.draw.random() < 0.5 else 1)
        draw = p.fork("answer " + speaker.person["n"])
        if speaker.speaks and speaker.concept is not None:
            with p.during(speaker.concept):
                _claims(p, draw, speaker, order, claimed)
        else:
            concepts = () if speaker.concept is None else (speaker.concept,)
            _say(p, draw.choice(EVASIONS[at]).format_map(speaker.person), *concepts)
    if third is not None:
        _mistake(p, third, facts[0])


def _claims(p: Passage, draw: random.Random, speaker: Speaker, facts: list[Fact], claimed: set[str]) -> None:
    """What one speaker claims: of each fact what is so, or what is not."""
    who, lying = speaker.person, speaker.concept == DECEPTIVE
    for turn, fact in enumerate(facts):
        said, other = (fact.wrong, fact.right) if lying else (fact.right, fact.wrong)
        direct = turn or draw.random() < 0.75
        lead = draw.choice(words.AGAIN if turn else words.BEFORE_QUOTE if direct else words.BEFORE_REPORT)
        before, after = draw.choice(fact.kind.claims if direct else fact.kind.reports)
        _say(p, lead.format_map(who))
        with p.during(LIE if lying else TRUE_CLAIM):
            before = before.format_map(fact.slots)
            p.say(before if direct else " " + before)
            if fact.right not in claimed:
                p.ask("lie" if lying else "true_claim", " " + said, " " + other)
            p.say(f" {said}" + after.format_map(fact.slots))
        claimed.add(fact.right)
        ends: tuple[str, ...]
        if direct:
            ends = words.AFTER_GESTURE if lead.endswith('. "') and not turn else words.AFTER_QUOTE
        else:
            ends = words.AFTER_REPORT if fact is facts[-1] else (".",)
        p.say(draw.choice(ends).format_map(who))
    if draw.random() < 0.2:
        _say(p, draw.choice(words.AFTER_LIE if lying else words.AFTER_TRUTH).format_map(who))


def _mistake(p: Passage, person: Slots, fact: Fact) -> None:
    """Somebody claims what is not so in good faith: no lie, and not true."""
    draw = p.fork("mistake")
    _say(p, draw.choice(words.MISTAKEN).format_map(person))
    before, after = draw.choice(fact.kind.claims)
    p.say(before.format_map(fact.slots) + f" {fact.wrong}" + after.format_map(fact.slots), CLAIM)
    p.say('."')


def _end(p: Passage, facts: list[Fact]) -> None:
    """The narrator says once more how it is."""
    fact = p.pick(facts)
    before, after = p.pick(fact.kind.endings)
    _say(p, before.format_map(fact.slots))
    p.ask("recall", " " + fact.right, " " + fact.wrong)
    p.say(f" {fact.right}" + after.format_map(fact.slots))
