"""Passages in other languages than English, and English ones that quote them: what the three languages share."""

from collections.abc import Mapping
from dataclasses import dataclass

from kanary.text.labelled.concepts import concept
from kanary.text.labelled.passage import Passage
from kanary.text.labelled.templates import Agreeing, Filling, tell
from kanary.text.labelled.words.foreign import BEATS, LESSON_ENDS, LESSON_OPENS, LESSON_PAIRS, LESSON_REVIEWS, MEETINGS
from kanary.text.labelled.world import MEN, WOMEN, article

FOREIGN = concept("language.foreign", "the words are in another language than English", switch=False)
ARABIC = concept("language.arabic", "the words are Arabic, in whatever letters", parent=FOREIGN)
HEBREW = concept("language.hebrew", "the words are Hebrew, in whatever letters", parent=FOREIGN)
SPANISH = concept("language.spanish", "the words are Spanish", parent=FOREIGN)
NON_LATIN = concept("script.non_latin", "the letters are not Latin ones", switch=False)
ARABIC_SCRIPT = concept("script.arabic", "the letters are Arabic", parent=NON_LATIN)
HEBREW_SCRIPT = concept("script.hebrew", "the letters are Hebrew", parent=NON_LATIN)
TRANSLITERATED = concept(
    "language.transliterated",
    "words of a language with letters of its own, in Latin letters",
    parent=FOREIGN,
    switch=False,
)


@dataclass(frozen=True)
class Language:
    """What a writer must know of a language."""

    name: str
    concept: str
    script: str | None
    """Concept of its letters, if they are not Latin."""
    towns: tuple[str, ...]
    """In English, as the names of people below."""
    hosts: tuple[tuple[str, ...], tuple[str, ...]]
    """Men's and women's names."""
    phrases: Mapping[str, tuple[tuple[str, ...], ...]]
    """Kind of phrase (a slot) -> rows of English, the language, and Latin letters."""
    words: tuple[tuple[str, ...], ...]
    """Rows of an English noun, the word, and the word in Latin letters."""
    names: tuple[tuple[str, ...], tuple[str, ...]]
    """Men's and women's names in the language's own letters."""
    lists: Mapping[str, tuple[str, ...]]
    """Slot of the language's own stories -> what may stand there."""
    things: tuple[tuple[str, ...], ...]
    """Rows that fill the slots ``thing`` (new, object of a verb), ``the_thing`` (known) and ``a_thing`` (new, subject)."""
    stories: tuple[tuple[tuple[tuple[Agreeing, ...], int], ...], ...]
    """For every kind of story its parts in order: the sentences to choose from, and the chance in percent of having one."""


def foreign(p: Passage, language: Language) -> None:
    """A story in the language (36 %), a lesson about its words (12 %), or English people who may speak it.

    The language itself holds in 57 % of the passages: of the English meetings, most are in English throughout.
    """
    kind = p.draw.random()
    if kind < 0.36:
        with p.during(language.concept, *([language.script] if language.script else [])):
            p.say(story(p, language))
    elif kind < 0.48:
        lesson(p, language)
    else:
        meeting(p, language)


def story(p: Passage, language: Language) -> str:
    """A story in the language."""
    one, other = int(p.draw.random() < 0.5), int(p.draw.random() < 0.5)
    slots = {slot: p.pick(options) for slot, options in language.lists.items()}
    slots["thing"], slots["the_thing"], slots["a_thing"] = p.pick(language.things)
    slots["n"] = p.pick(language.names[one])
    slots["m"] = p.pick(language.names[other])
    while slots["m"] == slots["n"]:
        slots["m"] = p.pick(language.names[other])
    said = []
    for options, percent in p.pick(language.stories):
        if percent == 100 or p.draw.random() * 100 < percent:
            said.append(p.pick(options)[one][other].format_map(slots))
    return " ".join(said)


def lesson(p: Passage, language: Language) -> None:
    """English about single words of the language, each said at least once, one of them asked for again."""
    rows = p.some(language.words, p.number(3, 5))
    latin = language.script is not None and p.draw.random() < 0.3
    slots = {"lang": Filling(language.name), "town": Filling(p.pick(language.towns))}
    tell(p, p.pick(p.pick(LESSON_OPENS)), slots)
    for frame, row in zip(p.some(LESSON_PAIRS, len(rows)), rows, strict=True):
        tell(p, p.pick(frame), slots | _word(language, row, rows, latin))
    for frame, row in zip(p.some(LESSON_REVIEWS, 2), p.some(rows, 2), strict=True):
        tell(p, p.pick(frame), slots | _word(language, row, rows, latin))
    tell(p, p.pick(p.pick(LESSON_ENDS)), slots)


def _word(language: Language, row: tuple[str, ...], rows: list[tuple[str, ...]], latin: bool) -> dict[str, Filling]:
    column = 2 if latin else 1
    wrong = [other for other in rows if other is not row]
    return {
        "word": Filling(row[0], (), "translation", tuple(other[0] for other in wrong)),
        "a_word": Filling(_with_article(row[0])),
        "foreign": Filling(
            row[column], concepts_of(language, latin), "translation", tuple(other[column] for other in wrong)
        ),
    }


_MASS = ("bread", "water", "milk")
_UNIQUE = ("sun", "moon", "sea")


def _with_article(noun: str) -> str:
    if noun in _MASS:
        return noun
    return f"the {noun}" if noun in _UNIQUE else f"{article(noun)} {noun}"


def concepts_of(language: Language, latin: bool) -> tuple[str, ...]:
    """Of a phrase in the language; ``latin``: in Latin letters."""
    if language.script is None:
        return (language.concept,)
    return (language.concept, TRANSLITERATED) if latin else (language.concept, language.script)


def meeting(p: Passage, language: Language) -> None:
    """English people meet somebody who speaks the language; what is said or read there may be in it or in English."""
    speaks = p.decide(language.concept, 0.18)
    latin = language.script is not None and not p.decide(language.script, 0.7)
    column = 0 if not speaks else 2 if latin else 1
    here = concepts_of(language, latin) if speaks else ()
    guest_is_woman, host_is_woman = p.draw.random() < 0.5, p.draw.random() < 0.5
    slots = {kind: Filling(p.pick(rows)[column], here) for kind, rows in language.phrases.items()}
    slots |= _person("", p.pick(WOMEN if guest_is_woman else MEN), guest_is_woman)
    slots |= _person("host", p.pick(language.hosts[host_is_woman]), host_is_woman)
    slots["lang"], slots["town"] = Filling(language.name), Filling(p.pick(language.towns))
    beats, least, most = p.pick(MEETINGS)
    tell(p, p.pick(p.pick(BEATS[beats[0]])), slots)
    chosen = sorted(p.some(range(1, len(beats) - 1), p.number(least, most)))
    for index in chosen:
        tell(p, p.pick(p.pick(BEATS[beats[index]])), slots)
    tell(p, p.pick(p.pick(BEATS[beats[-1]])), slots)


_PRONOUNS = (("he", "him", "his"), ("she", "her", "her"))


def _person(prefix: str, name: str, woman: bool) -> dict[str, Filling]:
    subject, object_, possessive = _PRONOUNS[woman]
    return {
        prefix or "n": Filling(name),
        f"{prefix}he": Filling(subject),
        f"{prefix}He": Filling(subject.capitalize()),
        f"{prefix}him": Filling(object_),
        f"{prefix}his": Filling(possessive),
        f"{prefix}His": Filling(possessive.capitalize()),
    }
