"""The families honesty, dialogue and story, and what is read off any text: labels recomputed from the text itself."""

import re
from collections import Counter
from collections.abc import Iterator
from difflib import SequenceMatcher
from itertools import pairwise

import pytest

from kanary.text.labelled import pairs
from kanary.text.labelled.concepts import known
from kanary.text.labelled.grammar import mark_grammar
from kanary.text.labelled.passage import WRITERS, Passage, Written
from kanary.text.labelled.words.honesty_facts import KINDS, NUMBER, SIDE, Kind
from kanary.text.labelled.world import MEN, WOMEN

FAMILIES = ("honesty", "dialogue", "story")
MANY = 400


def write(family: str, seed: int) -> Written:
    known()
    passage = Passage(seed)
    WRITERS[family](passage)
    return passage.written(family)


def passages(family: str) -> Iterator[Written]:
    return (write(family, seed) for seed in range(MANY))


def own(family: str) -> list[str]:
    """The concepts that a family marks, but for its domain."""
    found = Counter(span.concept for written in passages(family) for span in written.spans)
    return [name for name in found if name.split(".")[0] not in ("domain", "grammar")]


def spoken(written: Written, concept: str) -> list[str]:
    return [written.text[span.start : span.end] for span in written.spans if span.concept == concept]


@pytest.mark.parametrize("family", FAMILIES)
def test_spans_and_questions_are_inside_and_exact(family: str) -> None:
    for written in passages(family):
        text = written.text
        assert text == text.strip()
        assert "  " not in text
        assert "{" not in text
        for span in written.spans:
            assert 0 <= span.start < span.end <= len(text)
            assert not text[span.start].isspace()
            assert not text[span.end - 1].isspace()
        for question in written.questions:
            assert text.startswith(question.answer, question.end)
            assert question.wrong
            assert not any(text.startswith(wrong, question.end) for wrong in question.wrong)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_concept_holds_in_some_passages_and_not_in_most(family: str) -> None:
    found = Counter(name for written in passages(family) for name in {span.concept for span in written.spans})
    for name in own(family):
        assert 0.01 <= found[name] / MANY <= 0.63, name  # 0.60, and three standard errors' room


@pytest.mark.parametrize("family", FAMILIES)
def test_passages_are_deterministic_and_differ(family: str) -> None:
    assert write(family, 7) == write(family, 7)
    assert len({written.text for written in passages(family)}) == MANY


@pytest.mark.parametrize(
    "concept",
    [
        "honesty.lie",
        "honesty.true_claim",
        "honesty.deceptive_speaker",
        "honesty.honest_speaker",
        "dialogue.greeting",
        "dialogue.apology",
        "dialogue.thanks",
        "dialogue.farewell",
        "dialogue.sarcasm",
        "dialogue.polite_request",
        "dialogue.refusal",
        "dialogue.agreement",
        "induction.repeated_name",
        "story.animal",
        "feeling.fear",
        "feeling.sadness",
        "feeling.anger",
        "feeling.joy",
    ],
)
def test_pairs_differ_only_where_the_concept_is(concept: str) -> None:
    """Word for word, nothing else changes than the sentences that are marked, with who says them and what is replied."""
    made = pairs(concept)
    for _ in range(10):
        on, off = next(made)
        if on.family not in FAMILIES:
            continue
        first, second = on.text.split(), off.text.split()
        same = sum(block.size for block in SequenceMatcher(None, first, second, autojunk=False).get_matching_blocks())
        spans = [span for span in on.spans if span.concept == concept]
        marked = sum(len(on.text[span.start : span.end].split()) for span in spans)
        assert len(first) - same <= marked + 25 * len(spans), (on.text, off.text)
        assert second != first


def test_lies_and_true_claims_follow_from_the_fact() -> None:
    """A question's two answers are both in the text long before; the claim is a lie just if it is not what was told."""
    asked = Counter[str]()
    for seed in range(MANY):
        written = write("honesty", seed)
        right = {q.answer: q.wrong[0] for q in written.questions if q.skill == "recall"}
        for question in written.questions:
            if question.skill == "recall":
                continue
            before = written.text[: question.end]
            answer, other = question.answer.strip(), question.wrong[0].strip()
            for word in (answer, other):
                assert re.search(rf"\b{re.escape(word)}\b", before, re.IGNORECASE), (seed, word)
            # If the narrator says in the end how it is, a lie said the other thing.
            if question.skill == "lie":
                assert question.answer not in right
            else:
                assert question.answer not in right.values()
            asked[question.skill] += 1
            mark = "honesty.lie" if question.skill == "lie" else "honesty.true_claim"
            assert any(s.concept == mark and s.start <= question.end < s.end for s in written.spans)
    assert min(asked["lie"], asked["true_claim"]) > MANY / 10


def test_the_fact_is_thirty_tokens_back() -> None:
    """Neither answer is said in the 30 words and signs before the question, whatever comes between."""
    elsewhere = {*NUMBER.values, *SIDE.values}  # words that mean other things too: "two bills", "left the room"
    for seed in range(MANY):
        written = write("honesty", seed)
        for question in written.questions:
            answers = [word.strip() for word in (question.answer, *question.wrong)]
            if question.skill == "recall" or elsewhere & set(answers):
                continue
            last = " ".join(re.findall(r"\w+|[^\w\s]", written.text[: question.end])[-30:])
            for word in answers:
                assert not re.search(rf"\b{word}\b", last, re.IGNORECASE), (seed, word, last)


def test_the_same_claim_is_now_a_lie_and_now_true() -> None:
    lies, truths = set(), set()
    for seed in range(10 * MANY):
        written = write("honesty", seed)
        lies.update(spoken(written, "honesty.lie"))
        truths.update(spoken(written, "honesty.true_claim"))
    assert len(lies & truths) > 20


def test_speakers_are_one_or_the_other() -> None:
    """What an honest speaker claims is never marked as a lie, and a claim lies within its speaker's scope."""
    for written in passages("honesty"):
        scope = {"honesty.lie": "honesty.deceptive_speaker", "honesty.true_claim": "honesty.honest_speaker"}
        for span in written.spans:
            if span.concept in scope:
                assert any(
                    s.concept == scope[span.concept] and s.start <= span.start and span.end <= s.end
                    for s in written.spans
                )


@pytest.mark.parametrize("kind", KINDS)
def test_facts_name_both_answers(kind: Kind) -> None:
    for told in kind.told:
        named = {slot for slot in ("x", "y", "t", "f") if "{" + slot + "}" in told or "{a" + slot + "}" in told}
        assert "t" in named, told
        assert "f" in named or {"x", "y"} <= named, told


def test_pronouns_agree_with_names() -> None:
    """In stories the hero is told of with pronouns of one gender only, and in dialogues they agree with the name."""
    for written in passages("story"):
        found = {word.lower() for word in re.findall(r"\b(?:he|she|his|her|him|herself|himself)\b", written.text, re.I)}
        assert not (found & {"she", "her", "herself"} and found & {"he", "his", "himself"}), written.text
    gender = dict.fromkeys(WOMEN, "her") | dict.fromkeys(MEN, "his")
    for written in passages("dialogue"):
        for name, pronoun in re.findall(r"(\w+) (?:put down|shook|raised|took off|turned up) (her|his)", written.text):
            assert gender[name] == pronoun


def test_speakers_take_turns() -> None:
    for written in passages("dialogue"):
        speakers = re.findall(r"^(\w+)(?: [(\[][\w ]+[)\]])?: ", written.text, re.MULTILINE)
        assert all(a != b for a, b in pairwise(speakers))


def test_repeated_names_were_said_before() -> None:
    for written in passages("story"):
        for span in written.spans:
            if span.concept == "induction.repeated_name":
                name, before = written.text[span.start : span.end], written.text[: span.start]
                lead = before.split()[-1].strip('"')
                assert f"{lead} {name}" in before


def test_the_kind_of_animal_is_marked_wherever_it_is_said() -> None:
    for written in passages("story"):
        kinds = set(spoken(written, "story.animal"))
        for kind in kinds:
            marked = sum(written.text[s.start : s.end] == kind for s in written.spans if s.concept == "story.animal")
            assert marked == len(re.findall(rf"\b{kind}\b", written.text))


GRAMMAR: tuple[tuple[str, dict[str, list[str]]], ...] = (
    (
        'Dr. Ray (the old one [not me]) said, "No, it isn\'t." He left at 3.5 km. "Why?" asked Ann.',
        {
            "grammar.sentence_start": ["Dr", "No", "He", "Why"],
            "grammar.bracketed": ["the old one [not me]"],
            "grammar.bracket_close": ["]", ")"],
            "grammar.quoted": ["No, it isn't.", "Why?"],
            "grammar.quote_close": ['"', '"'],
            "grammar.negation": ["not", "No", "isn't"],
        },
    ),
    (
        "1. Knot the rope. 2. Nothing else.\nNobody knows (yet",
        {"grammar.sentence_start": ["Knot", "Nothing", "Nobody"], "grammar.negation": ["Nothing", "Nobody"]},
    ),
    ("def f(a):\n    return [not a]\n", {"grammar.bracket_close": [")", "]"], "grammar.bracketed": ["a", "not a"]}),
    (
        "Ann: Yes.\nBen (with a nod): She did.\nأحيانًا نعم",
        {"grammar.sentence_start": ["Yes", "She", "أحيانًا"], "grammar.bracketed": ["with a nod"]},
    ),
    ("Notice.\n§ 1 For each season.\n§ 12 The hirer.", {"grammar.sentence_start": ["Notice", "For", "The"]}),
    ("", {}),
)


@pytest.mark.parametrize(("text", "expected"), GRAMMAR)
def test_grammar(text: str, expected: dict[str, list[str]]) -> None:
    found: dict[str, list[str]] = {}
    for span in sorted(mark_grammar(text), key=lambda s: s.start):
        found.setdefault(span.concept, []).append(text[span.start : span.end])
    for name, words in expected.items():
        assert found.get(name) == words, name


@pytest.mark.parametrize("family", FAMILIES)
def test_quotes_in_passages_are_paired(family: str) -> None:
    for written in passages(family):
        assert written.text.count('"') % 2 == 0
        closes = sum(span.concept == "grammar.quote_close" for span in mark_grammar(written.text))
        assert closes == written.text.count('"') // 2
