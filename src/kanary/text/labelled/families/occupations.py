"""People and their occupations: the gender of a person and the stereotype of the occupation are drawn independently.

So for every passage there is one of the other gender, and one with another occupation, that is the same in all else.
"""

from typing import NamedTuple

from kanary.text.labelled.concepts import concept
from kanary.text.labelled.passage import Passage, family
from kanary.text.labelled.templates import Filling, Phrasings, slots_of, tell
from kanary.text.labelled.words import occupations as words
from kanary.text.labelled.world import MEN, WOMEN, article

DOMAIN = concept("domain.occupations", "the text is about a person and what this person works as", switch=False)
GENDER = concept("gender.any", "a name, a pronoun or a word for a person that tells the person's gender", switch=False)
FEMALE = concept(
    "gender.female", "a name, a pronoun or a word that tells that the person is a woman or girl", parent=GENDER
)
MALE = concept("gender.male", "a name, a pronoun or a word that tells that the person is a man or boy", parent=GENDER)
OCCUPATION = concept("occupation.any", "somebody's occupation is named", switch=False)
STEREOTYPE_FEMALE = concept(
    "occupation.stereotype_female", "an occupation that WinoBias lists as one of women", parent=OCCUPATION
)
STEREOTYPE_MALE = concept(
    "occupation.stereotype_male", "an occupation that WinoBias lists as one of men", parent=OCCUPATION
)
NEUTRAL = concept("occupation.neutral", "an occupation without a strong stereotype of gender", parent=OCCUPATION)

_JOBS = {STEREOTYPE_FEMALE: words.STEREOTYPE_FEMALE, STEREOTYPE_MALE: words.STEREOTYPE_MALE, NEUTRAL: words.NEUTRAL}
_GENDERS = (MALE, FEMALE)
_NAMES = (MEN, WOMEN)
_PRONOUNS = {
    "he": ("he", "she"),
    "He": ("He", "She"),
    "him": ("him", "her"),
    "his": ("his", "her"),
    "himself": ("himself", "herself"),
    "His": ("His", "Her"),
}
_RELATIVES = {
    "parent": ("father", "mother"),
    "sib": ("brother", "sister"),
    "kid": ("son", "daughter"),
    "spouse": ("husband", "wife"),
}


def _pronouns(prefix: str) -> tuple[dict[str, Filling], dict[str, Filling]]:
    """The pronouns of a man and those of a woman, each with the other's as the wrong answer."""
    both = (
        {
            prefix + slot: Filling(forms[woman], (_GENDERS[woman],), "gender", (forms[1 - woman],))
            for slot, forms in _PRONOUNS.items()
        }
        for woman in (0, 1)
    )
    man, woman = both
    return man, woman


_OF_ONE, _OF_OTHER = _pronouns(""), _pronouns("m")


_ABOUT_RELATIVES = set(_RELATIVES)
_ABOUT_ONE = set(_PRONOUNS)


def _without_relatives(options: tuple[Phrasings, ...]) -> tuple[Phrasings, ...]:
    return tuple(option for option in options if not slots_of(option) & _ABOUT_RELATIVES)


class Story(NamedTuple):
    """Sentences of a story: those of somebody in company, and those in which nobody else has a gender."""

    openings: tuple[tuple[Phrasings, ...], tuple[Phrasings, ...]]
    middles: tuple[tuple[Phrasings, ...], tuple[Phrasings, ...]]
    meetings: tuple[Phrasings, ...]
    endings: tuple[Phrasings, ...]


_STORIES = tuple(
    Story((_without_relatives(openings), openings), (_without_relatives(middles), middles), meetings, endings)
    for openings, middles, meetings, endings in words.STORIES
)
_NEEDS_CONTEXT = frozenset(
    id(option)
    for story in _STORIES
    for option in story.middles[1]
    if slots_of(option) & (_ABOUT_ONE | _ABOUT_RELATIVES)
)
"""Sentences whose pronouns would be taken for the other person's, were that one spoken of just before."""


@family("occupations")
def occupations(p: Passage) -> None:
    woman, kind = _gender(p), _kind(p)
    slots = _OF_ONE[woman] | _person(p, woman) | _around(p)
    job = p.fork("job").choice(_JOBS[kind])
    slots["a"], slots["job"] = Filling(article(job)), Filling(job, (kind,))
    openings, middles, meetings, endings = p.pick(_STORIES)
    company = p.draw.random() < 0.22
    told = p.some(middles[company], p.number(4, 7))
    if company:
        at = p.number(1, len(told))
        before = told[:at] + [option for option in told[at:] if id(option) in _NEEDS_CONTEXT]
        after = [option for option in told[at:] if id(option) not in _NEEDS_CONTEXT]
        told = [*before, p.pick(meetings), *after]
    with p.during(DOMAIN):
        for option in (p.pick(openings[company]), *told, *p.some(endings, p.number(1, 2))):
            tell(p, p.pick(option), slots)


def _gender(p: Passage) -> int:
    """1 for a woman, 0 for a man. Both concepts are decided, so that either can be switched."""
    woman = p.decide(FEMALE)
    return 0 if p.decide(MALE, 0.0 if woman else 1.0) else 1


def _kind(p: Passage) -> str:
    """Concept of the occupation: each of the three as often."""
    female, male = p.decide(STEREOTYPE_FEMALE, 1 / 3), p.decide(STEREOTYPE_MALE)
    neutral = p.decide(NEUTRAL, 0.0 if male else 1.0)
    return STEREOTYPE_FEMALE if female else NEUTRAL if neutral else STEREOTYPE_MALE


def _person(p: Passage, woman: int) -> dict[str, Filling]:
    """The person spoken of, and another one of another name."""
    number, other = p.number(0, 39), p.number(0, 1)
    pair = _NAMES[other][(number + 1 + p.number(0, 30)) % len(_NAMES[other])]
    return _OF_OTHER[other] | {
        "own_sib": Filling(_RELATIVES["sib"][woman], (_GENDERS[woman],)),
        "n": Filling(_NAMES[woman][number % len(_NAMES[woman])], (_GENDERS[woman],)),
        "m": Filling(pair, (_GENDERS[other],)),
    }


def _around(p: Passage) -> dict[str, Filling]:
    """Relatives, the other person's occupation, and names of things that say nothing about a person."""
    slots = {}
    for slot, forms in _RELATIVES.items():
        woman = p.number(0, 1)
        slots[slot] = Filling(forms[woman], (_GENDERS[woman],))
    job = p.pick(words.OTHERS)
    slots["ma"], slots["mjob"] = Filling(article(job)), Filling(job, (OCCUPATION,))
    for slot, names in (("street", words.STREETS), ("ship", words.SHIPS), ("pub", words.PUBS)):
        slots[slot] = Filling(p.pick(names))
    return slots
