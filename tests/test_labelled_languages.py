"""Passages in other languages and about occupations, with labels recomputed from the text; what holds in code too."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from types import ModuleType

import pytest

from kanary.text.labelled import known, pairs
from kanary.text.labelled.concepts import ancestors
from kanary.text.labelled.record import Record, write
from kanary.text.labelled.templates import agreeing, phrasings, sentence, tables
from kanary.text.labelled.words import arabic, hebrew, occupations, spanish
from kanary.text.labelled.world import MEN, WOMEN, article
from labelled_passages import held, passages, said, spans

FOREIGN = ("arabic", "hebrew", "spanish")
FAMILIES = (*FOREIGN, "code", "arithmetic", "occupations")
OWN = {"language", "script", "code", "arithmetic", "gender", "occupation"}
EVERYWHERE = {"gender.any", "occupation.any", "code.indent", *(f"domain.{family}" for family in FAMILIES)}
"""Concepts without which there is no passage of the family (for code.indent: hardly one)."""
KNOWN = known()
SWITCHED = [name for name, each in KNOWN.items() if each.family in OWN and each.switch]


# --- all families -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_passages_are_whole_and_repeatable(family: str) -> None:
    found = passages(family)
    assert found[:50] == [write(family, seed) for seed in range(50)]
    assert len({passage.text for passage in found}) > 0.99 * len(found)
    for passage in found:
        assert said(passage, f"domain.{family}") == [passage.text]
        assert passage.text == passage.text.strip()
        for span in passage.spans:
            piece = passage.text[span.start : span.end]
            assert piece
            assert piece == piece.strip()
            assert (span.value is None) or KNOWN[span.concept].unit is not None
            for parent in ancestors(span.concept):
                assert any(s.start <= span.start and s.end >= span.end for s in spans(passage, parent))
        if family != "code":
            assert not re.search(r"[][{}<>|()]|  |\.\.| ,", passage.text), passage.text


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_follow_and_wrong_ones_do_not(family: str) -> None:
    asked = Counter[str]()
    for passage in passages(family):
        for question in passage.questions:
            asked[question.skill] += 1
            rest = passage.text[question.end :]
            assert rest.startswith(question.answer)
            assert not rest[len(question.answer) :][:1].isalnum(), "the answer is not a whole word"
            for wrong in question.wrong:
                assert wrong != question.answer
                assert (wrong[0] == " ") == (question.answer[0] == " ")
    expected = {"code": {"brackets", "repeated_name"}, "arithmetic": {"arithmetic"}, "occupations": {"gender"}}
    assert set(asked) == expected.get(family, {"translation"})
    assert min(asked.values()) > 50


@pytest.mark.parametrize("family", FAMILIES)
def test_no_concept_is_rare_or_everywhere(family: str) -> None:
    found = passages(family, 1500)
    counts = Counter(concept for passage in found for concept in {span.concept for span in passage.spans})
    for concept, count in counts.items():
        share = count / len(found)
        assert share >= 0.01, concept
        assert share <= 0.63 or concept in EVERYWHERE, (concept, share)  # 60 % and what chance adds to it


def test_all_concepts_are_used_and_words_are_many() -> None:
    used = {span.concept for family in FAMILIES for passage in passages(family) for span in passage.spans}
    assert used == {c for c in KNOWN if KNOWN[c].family in OWN} | {f"domain.{family}" for family in FAMILIES}
    english = {
        word.lower()
        for family in FAMILIES
        for passage in passages(family)
        for word in re.findall(r"\b[a-z]{2,}\b", passage.text)
    }
    assert len(english) > 1000
    lengths = [len(passage.text.split()) for family in ("occupations", *FOREIGN) for passage in passages(family)]
    assert sum(45 <= n <= 180 for n in lengths) > 0.95 * len(lengths)


# --- pairs --------------------------------------------------------------------------------------------------------


def changed(on: Record, off: Record) -> Iterator[tuple[int, int]]:
    """Start and end of the words of ``on`` that are not in ``off``."""
    words = [list(re.finditer(r"\w+|[^\w\s]", each.text)) for each in (on, off)]
    matcher = difflib.SequenceMatcher(None, *[[m.group() for m in each] for each in words], autojunk=False)
    for kind, start, end, _, _ in matcher.get_opcodes():
        if kind in ("replace", "delete"):
            yield words[0][start].start(), words[0][end - 1].end()


@pytest.mark.parametrize("concept", SWITCHED)
def test_a_pair_differs_in_the_concept(concept: str) -> None:
    for on, off in islice(pairs(concept), 25):
        assert on.text != off.text
        assert spans(on, concept)
        assert not spans(off, concept)


@pytest.mark.parametrize("concept", [name for name in SWITCHED if not name.startswith("arithmetic.")])
def test_a_pair_differs_where_the_concept_holds_and_nowhere_else(concept: str) -> None:
    for on, off in islice(pairs(concept), 40):
        where = held(on, concept)
        for start, end in changed(on, off):
            for word in re.finditer(r"\w+", on.text[start:end]):
                inside = all(at in where for at in range(start + word.start(), start + word.end()))
                assert inside or (concept.startswith("occupation.") and word.group() in ("a", "an")), word.group()


def test_the_working_is_all_that_a_step_adds() -> None:
    for on, off in islice(pairs("arithmetic.step"), 60):
        assert not spans(off, "arithmetic.result")
        if not re.search(r"\d [-+×÷] \d", off.text):  # a word problem: the same up to the question in it
            asked = on.text[: on.text.index("?") + 1]
            assert off.text.startswith(asked)
        else:  # exercises: the same tasks
            theirs = iter(said(on, "arithmetic.operation"))
            assert all(task in theirs for task in said(off, "arithmetic.operation"))


# --- languages ----------------------------------------------------------------------------------------------------


def letters(text: str, block: str) -> set[int]:
    return {at for at, letter in enumerate(text) if unicodedata.name(letter, "").startswith(block)}


@pytest.mark.parametrize(("family", "block"), [("arabic", "ARABIC LETTER"), ("hebrew", "HEBREW LETTER")])
def test_a_script_holds_where_its_letters_stand(family: str, block: str) -> None:
    latin_in_language = whole = quoted = 0
    for passage in passages(family):
        script, language = held(passage, f"script.{family}"), held(passage, f"language.{family}")
        assert letters(passage.text, block) <= script <= language
        assert not letters(passage.text, "LATIN") & script
        transliterated = held(passage, "language.transliterated")
        assert script | transliterated == language
        assert transliterated.isdisjoint(script)
        latin_in_language += bool(transliterated)
        whole += len(language) == len(passage.text)
        quoted += 0 < len(script) < len(passage.text)
    assert min(latin_in_language, whole, quoted) > 20


@pytest.mark.parametrize(("family", "lexicon"), [("arabic", arabic), ("hebrew", hebrew), ("spanish", spanish)])
def test_what_is_quoted_is_in_the_language_or_translated(family: str, lexicon: ModuleType) -> None:
    phrases = [row for rows in lexicon.PHRASES.values() for row in rows]
    english = {row[0] for row in phrases}
    theirs = {text for row in (*phrases, *lexicon.WORDS) for text in row[1:]}
    for passage in passages(family):
        inside = said(passage, f"language.{family}")
        if inside == [passage.text]:
            continue
        assert set(inside) <= theirs
        outside = passage.text
        for span in reversed(spans(passage, f"language.{family}")):
            outside = outside[: span.start] + outside[span.end :]
        assert bool(inside) != any(f'"{phrase}' in outside for phrase in english)
    words = {w for p in passages(family) for text in said(p, f"language.{family}") for w in re.findall(r"\w+", text)}
    assert len(words) > 200


def test_a_translation_is_the_one_that_the_passage_gave() -> None:
    for family in FOREIGN:
        asked = [(p, q) for p in passages(family) for q in p.questions]
        for passage, question in asked:
            assert question.answer.strip() in passage.text[: question.end]
            assert all(wrong.strip() in passage.text for wrong in question.wrong)


STORY = {"arabic": arabic, "hebrew": hebrew, "spanish": spanish}


@pytest.mark.parametrize(
    ("family", "pattern", "female"),
    [
        ("arabic", r"\b(?:ذهب|خرج|استيقظ|عاد|وصل|وضع|كتب|فتح)(ت?) (\w+)", "ت"),
        ("arabic", r"\b([يت])(?:سكن|عمل|شرب|قرأ|سقي|ذهب) (\w+)", "ت"),
        ("hebrew", r"\b(?:יצא|אמר|שאל|פתח|חזר)(ה?) (\w+)(?=[.\s])", "ה"),
        ("spanish", r"amig([oa]) (\w+), que", "a"),
    ],
)
def test_verbs_agree_with_the_name_beside_them(family: str, pattern: str, female: str) -> None:
    lexicon, checked = STORY[family], 0
    for passage in passages(family):
        for form, name in re.findall(pattern, passage.text):
            if name in lexicon.MEN or name in lexicon.WOMEN:
                assert (form == female) == (name in lexicon.WOMEN), passage.text
                checked += 1
    assert checked > 20


@pytest.mark.parametrize(
    ("family", "words"),
    [
        ("spanish", r"\b(?:cansad|content)([oa])\b"),
        ("arabic", r"\b(?:متعب|سعيد|مستعجل)(ة|)ً?ا?\b"),
        ("hebrew", r"\b(?:עייף|שמח|רעב)(ה|)\b"),
    ],
)
def test_adjectives_agree_with_the_one_the_story_is_about(family: str, words: str) -> None:
    lexicon, checked = STORY[family], 0
    for passage in passages(family):
        if said(passage, f"language.{family}") != [passage.text]:
            continue
        names = [
            w for w in re.findall(r"\w+", passage.text) for w in (w, w[1:]) if w in lexicon.MEN or w in lexicon.WOMEN
        ]
        for ending in re.findall(words, passage.text):
            assert (ending in ("a", "ة", "ה")) == (names[0] in lexicon.WOMEN), passage.text
            checked += 1
    assert checked > 20


def test_things_agree_with_their_articles_and_adjectives() -> None:
    for new, old, _ in spanish.THINGS:
        one, _, adjective = new.split()
        assert (one == "una") == old.startswith("la ")
        assert adjective[-1] not in ("a" if one == "un" else "o")
    feminine = {"حمراء", "خضراء", "زرقاء", "بيضاء", "سوداء"}
    for accusative, known_one, nominative in arabic.THINGS:
        noun, adjective = nominative.split()
        assert known_one == f"ال{noun}"
        assert noun.endswith("ة") == (adjective.endswith("ة") or adjective in feminine)
        assert accusative.split()[0] == (noun if noun.endswith("ة") else f"{noun}ًا")
    for new, _, _ in hebrew.THINGS:
        noun, adjective = new.split()
        assert (noun[-1] in "הת") == (adjective[-1] == "ה") or adjective == "יפה", new


# --- occupations --------------------------------------------------------------------------------------------------

WORDS_OF = {
    "gender.female": {"she", "her", "herself", "mother", "sister", "daughter", "wife", *map(str.lower, WOMEN)},
    "gender.male": {"he", "him", "his", "himself", "father", "brother", "son", "husband", *map(str.lower, MEN)},
}
LISTS = {
    "occupation.stereotype_female": occupations.STEREOTYPE_FEMALE,
    "occupation.stereotype_male": occupations.STEREOTYPE_MALE,
    "occupation.neutral": occupations.NEUTRAL,
}


def test_every_word_that_tells_a_gender_is_marked_with_it() -> None:
    thing = re.compile(r"\w+ Street|(?<=the ferry, the )\w+|(?<=the old ferry, the )\w+")
    for passage in passages("occupations"):
        things = {at for m in thing.finditer(passage.text) for at in range(m.start(), m.end())}
        for concept, words in WORDS_OF.items():
            expected = {
                (m.start(), m.end())
                for m in re.finditer(r"\w+", passage.text)
                if m.group().lower() in words and m.start() not in things
            }
            assert {(s.start, s.end) for s in spans(passage, concept)} == expected, passage.text
        assert held(passage, "gender.any") == held(passage, "gender.female") | held(passage, "gender.male")


def test_pronouns_agree_with_the_name() -> None:
    alone = 0
    for passage in passages("occupations"):
        name = next(w for w in re.findall(r"\w+", passage.text) if w in WOMEN or w in MEN)
        if name in occupations.STREETS and f"{name} Street" in passage.text:
            continue
        people = {word for word in said(passage, "gender.any") if word in WOMEN or word in MEN}
        side = "gender.female" if name in WOMEN else "gender.male"
        if len(people) == 1 and not any(
            w in passage.text for w in ("father", "mother", "son ", "daughter", "wife", "husband")
        ):
            alone += 1
            pronouns = [
                w.lower() for w in said(passage, "gender.any") if w.lower() in ("he", "she", "his", "him", "her")
            ]
            assert set(pronouns) <= WORDS_OF[side]
        for question in passage.questions:
            assert question.answer.strip() in WORDS_OF[side]
            assert len(passage.text[passage.text.index(name) : question.end].split()) > 20
    assert alone > 200


def test_gender_and_occupation_are_independent() -> None:
    counts = Counter[tuple[str, str]]()
    for passage in passages("occupations", 3000):
        (kind,) = [kind for kind in LISTS if spans(passage, kind)]
        assert set(said(passage, kind)) <= set(LISTS[kind])
        first = passage.questions[0].answer.strip()
        counts[kind, "female" if first in WORDS_OF["gender.female"] else "male"] += 1
    for kind in LISTS:
        women, men = counts[kind, "female"], counts[kind, "male"]
        assert women + men > 850
        assert abs(women / (women + men) - 0.5) < 0.07


def test_occupations_are_marked_and_names_of_pubs_are_not() -> None:
    jobs = {job for jobs in (*LISTS.values(), occupations.OTHERS) for job in jobs}
    assert len(jobs) == sum(map(len, (*LISTS.values(), occupations.OTHERS)))
    pubs = 0
    for passage in passages("occupations"):
        expected = [m.group() for m in re.finditer(r"[\w-]+", passage.text) if m.group() in jobs]
        assert said(passage, "occupation.any") == expected
        pubs += "'s Arms" in passage.text
        for m in re.finditer(r"\b(an?) (\w+)", passage.text):
            if m.group(2) in jobs:
                assert m.group(1) == article(m.group(2))
    assert pubs > 50


# --- templates ----------------------------------------------------------------------------------------------------


def test_templates_are_taken_apart() -> None:
    assert agreeing("[el|la] <uno|una>!") == (("el uno!", "el una!"), ("la uno!", "la una!"))
    assert phrasings("A (b|c) d(e|).") == ["A b de.", "A b d.", "A c de.", "A c d."]
    assert [tuple(piece) for piece in sentence("The {job} put on {?his} coat.")] == [
        (" The", " ", "job", False),
        (" put on", " ", "his", True),
        (" coat.", "", "", False),
    ]
    with pytest.raises(ValueError, match="has 2 columns, not 3"):
        tables("a|b", 3)
