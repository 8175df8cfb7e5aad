"""Lessons for the bundled model: what is to be learned in them is what the corpus's own labels would say."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

from kanary.text.labelled.families.honesty import PEOPLE
from kanary.text.labelled.words import honesty as words

TOOLS = Path(__file__).parent.parent / "tools"


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    if not TOOLS.is_dir():
        pytest.skip("tools are not part of this distribution")
    monkeypatch.syspath_prepend(TOOLS)
    import honesty_lessons  # type: ignore[import-not-found]

    found: ModuleType = honesty_lessons
    return found


def reputation(text: str, name: str) -> bool | None:
    """Whether the plain words about ``name`` say that nobody should believe it."""
    for rows, lies in ((words.NOT_BELIEVED, True), (words.BELIEVED, False)):
        if any(row.format(n=name) in text for row in rows):
            return lies
    return None


def last_speaker_lies(text: str) -> bool:
    """Whether he or she who was named last in ``text``, of those with a reputation, is not to be believed."""
    names = re.findall(rf"\b({'|'.join(person['n'] for person in PEOPLE)})\b", text)
    return next(lies for name in reversed(names) if (lies := reputation(text, name)) is not None)


def test_tags_agree_with_reputations_and_answers_with_each_other(tool: ModuleType) -> None:
    tagged = answers = 0
    for seed in range(200):
        text, places = tool.lesson(seed, tool.Course((2, 3), tags=0.5))
        said: dict[bool, set[str]] = {True: set(), False: set()}
        for start, end in places:
            word, lies = text[start:end], last_speaker_lies(text[:start])
            assert word.startswith(" ")
            assert not text[end : end + 1].isalnum()
            if word in (" liar", " honest"):
                assert lies is (word == " liar")
                tagged += 1
            else:
                said[lies].add(word)
                answers += 1
        assert not said[True] & said[False]  # liars and honest people never claim the same
        assert max(map(len, said.values())) == 1  # there is one lie and one truth
    assert tagged > 100
    assert answers > 400


def test_texts_with_a_number_are_the_same_every_time_and_never_held_out(tool: ModuleType) -> None:
    course = tool.Course((1, 2), tags=0.2)
    drawn = [tool.draw(number, course, (0.5, 0.3)) for number in range(60)]
    assert drawn == [tool.draw(number, course, (0.5, 0.3)) for number in range(60)]
    assert {kind for kind, _ in drawn} == {"lesson", "claims", "any"}
    from kanary.text.labelled import labelled

    held_out = {
        r.text for r, _ in zip(labelled(families=("honesty",), start=0), range(200), strict=False) if r.id % 20 == 19
    }
    assert not held_out & {tool.passage(n, ("honesty",), claims=True).text for n in range(200)}


def test_passages_with_claims_hold_a_claim(tool: ModuleType) -> None:
    for number in range(20):
        text, answers = tool.passage(number, ("honesty",), claims=True)
        assert answers
        assert all(text[start] == " " for start, _ in answers)
