"""Several texts written in one batch are those that each would be alone, whoever comes, goes or stops among them."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import small_tokenizer
from kanary.errors import KanaryError
from kanary.interventions.generation import Batch, Request, Row
from kanary.interventions.spelling import Speller
from kanary.lm import LanguageModel

PROMPTS = ["Once upon a time", "The big dog ran to the red ball and", "Lily", "Tom said, \"I don't want to"]
KINDS: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 1.0, "top_p": 0.9},
    {"temperature": 0.7, "ends": False},
]


def prompt(lm: LanguageModel, text: str) -> tuple[int, ...]:
    return (0, *lm.tokenizer(text, add_special_tokens=False)["input_ids"])


def requests(lm: LanguageModel) -> list[Request]:
    return [Request(prompt(lm, PROMPTS[i % 4]), tokens=6 + 4 * i, seed=i, **KINDS[i % 3]) for i in range(8)]


def write(batch: Batch, rows: Sequence[Row]) -> None:
    for _ in range(200):
        if all(row.ended is not None for row in rows):
            return
        batch.step()
    raise AssertionError("the rows never end")


def alone(lm: LanguageModel, request: Request) -> list[int]:
    batch = Batch(lm)
    row = batch.add(request)
    write(batch, [row])
    return row.written


def test_greedy_text_is_what_generate_writes(tiny_lm: LanguageModel) -> None:
    ids = prompt(tiny_lm, PROMPTS[1])
    expected = tiny_lm.model.generate(torch.tensor([ids]), max_new_tokens=20, do_sample=False, pad_token_id=2)[0]
    found = alone(tiny_lm, Request(ids, tokens=20, temperature=0))
    assert found == [id for id in expected[len(ids) :].tolist() if id != 1]


def test_eight_texts_that_begin_one_after_another_are_those_written_alone(tiny_lm: LanguageModel) -> None:
    batch, rows = Batch(tiny_lm), []
    for request in requests(tiny_lm):
        rows.append(batch.add(request))
        batch.step()
        batch.step()
    write(batch, rows)
    assert [row.written for row in rows] == [alone(tiny_lm, request) for request in requests(tiny_lm)]
    assert len({tuple(row.written) for row in rows}) == 8


def test_a_row_that_is_ended_gives_its_place_free_and_the_others_do_not_notice(tiny_lm: LanguageModel) -> None:
    batch = Batch(tiny_lm)
    rows = [batch.add(request) for request in requests(tiny_lm)]
    batch.step()
    rows[7].end()
    rows[2].end()
    batch.step()
    assert batch.rows == [row for row in rows if row not in (rows[2], rows[7])]
    assert len(rows[7].written) == 1
    late = batch.add(requests(tiny_lm)[7])
    write(batch, [row for row in rows if row is not rows[2]])
    write(batch, [late])
    expected = [alone(tiny_lm, request) for request in requests(tiny_lm)]
    assert [row.written for row in rows[:2] + rows[3:7]] == expected[:2] + expected[3:7]
    assert late.written == expected[7]
    batch.step()
    assert not batch.rows
    assert batch._past.seen.numel() == 0, "nothing of them stays in memory"


def test_one_that_is_ended_before_it_began_is_never_read(tiny_lm: LanguageModel) -> None:
    batch = Batch(tiny_lm)
    row = batch.add(requests(tiny_lm)[0])
    row.end()
    assert batch.step() == []
    assert not row.written


def test_a_text_ends_with_the_context_and_at_eos_only_if_wanted(tiny_lm: LanguageModel, monkeypatch: Any) -> None:
    ids = prompt(tiny_lm, "Lily")
    long = alone(tiny_lm, Request(ids, tokens=10_000, temperature=0, ends=False))
    assert len(ids) + len(long) == tiny_lm.context
    batch = Batch(tiny_lm)
    batch._ends = frozenset([long[3]])
    rows = [batch.add(Request(ids, tokens=9, temperature=0, ends=ends)) for ends in (True, False)]
    write(batch, rows)
    assert [(row.ended, len(row.written)) for row in rows] == [("stop", long.index(long[3])), ("length", 9)]


def test_top_p_draws_from_the_likeliest_only(tiny_lm: LanguageModel) -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    for top_p, allowed in ((0.4, {0}), (0.6, {0, 1}), (0.9, {0, 1, 2}), (1.0, {0, 1, 2, 3})):
        row = Row(Request((0,), top_p=top_p))
        assert {row.choose(logits) for _ in range(300)} == allowed


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": ()}, "no token"),
        ({"prompt": (0,) * 64}, "64 tokens"),
        ({"tokens": 0}, "tokens=0"),
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"top_p": 0.0}, "top_p=0.0"),
    ],
)
def test_a_request_that_cannot_be_served_is_refused(
    tiny_lm: LanguageModel, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(KanaryError, match=message):
        Batch(tiny_lm).add(Request(**({"prompt": (0, 5)} | fields)))


# --- text ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return small_tokenizer()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=40), stray=st.lists(st.integers(3, 298), max_size=5))
def test_pieces_joined_are_the_whole_text(tokenizer: Any, text: str, stray: list[int]) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"] + stray
    speller = Speller(tokenizer)
    pieces = [speller.push(id) for id in ids]
    assert "".join(pieces) + speller.finish() == tokenizer.decode(ids, skip_special_tokens=True)
    if not stray:
        assert not any("�" in piece for piece in pieces if "�" not in text)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text("ab\n", max_size=30), stops=st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3))
def test_nothing_of_a_stop_text_or_after_it_is_said(tokenizer: Any, text: str, stops: list[str]) -> None:
    speller = Speller(tokenizer, stops=stops)
    said = "".join(speller.push(id) for id in tokenizer(text, add_special_tokens=False)["input_ids"])
    said += speller.finish()
    assert speller.stopped == any(stop in text for stop in stops)
    assert not any(stop in said for stop in stops)
    assert text.startswith(said)
    assert text[len(said) :].startswith(tuple(stops)) if speller.stopped else said == text


def test_sentencepiece_spaces_are_kept(stories: LanguageModel) -> None:
    ids = stories.tokenizer("Once upon a time, Lily", add_special_tokens=False)["input_ids"]
    speller = Speller(stories.tokenizer, before=ids[:4])
    said = "".join(speller.push(id) for id in ids[4:]) + speller.finish()
    assert said == stories.tokenizer.decode(ids)[len(stories.tokenizer.decode(ids[:4])) :]
