"""Several texts written in one batch are those that each would be alone, whoever comes, goes or stops among them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import small_tokenizer
from feature_runs import make_run, stories
from kanary.errors import KanaryError
from kanary.interventions.edits import Edit, ablate, add, set_to
from kanary.interventions.generation import Batch, Request, Row, Token
from kanary.interventions.spelling import Speller
from kanary.interventions.steerable import Steerable
from kanary.lm import LanguageModel
from kanary.sae import SAE

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


@pytest.fixture(scope="module")
def plain(tiny_lm: LanguageModel) -> Steerable:
    return Steerable(tiny_lm, None)


@pytest.fixture(scope="module")
def panel(tiny_lm: LanguageModel, tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Steerable:
    folder = tmp_path_factory.mktemp("steered")
    text = stories(folder)
    saes = {
        name: SAE.from_pretrained(make_run(folder / name, tiny_llama, text, seed=i, site=f"resid_post.{i}"))
        for i, name in enumerate(("early", "late"))
    }
    return Steerable(tiny_lm, saes)


def alone(panel: Steerable, request: Request) -> list[int]:
    batch = Batch(panel)
    row = batch.add(request)
    write(batch, [row])
    return row.written


def test_greedy_text_is_what_generate_writes(plain: Steerable) -> None:
    ids = prompt(plain.lm, PROMPTS[1])
    expected = plain.lm.model.generate(torch.tensor([ids]), max_new_tokens=20, do_sample=False, pad_token_id=2)[0]
    found = alone(plain, Request(ids, tokens=20, temperature=0))
    assert found == [id for id in expected[len(ids) :].tolist() if id != 1]


def test_eight_texts_that_begin_one_after_another_are_those_written_alone(plain: Steerable) -> None:
    batch, rows = Batch(plain), []
    for request in requests(plain.lm):
        rows.append(batch.add(request))
        batch.step()
        batch.step()
    write(batch, rows)
    assert [row.written for row in rows] == [alone(plain, request) for request in requests(plain.lm)]
    assert len({tuple(row.written) for row in rows}) == 8


def test_a_row_that_is_ended_gives_its_place_free_and_the_others_do_not_notice(plain: Steerable) -> None:
    batch = Batch(plain)
    rows = [batch.add(request) for request in requests(plain.lm)]
    batch.step()
    rows[7].end()
    rows[2].end()
    batch.step()
    assert batch.rows == [row for row in rows if row not in (rows[2], rows[7])]
    assert len(rows[7].written) == 1
    late = batch.add(requests(plain.lm)[7])
    write(batch, [row for row in rows if row is not rows[2]])
    write(batch, [late])
    expected = [alone(plain, request) for request in requests(plain.lm)]
    assert [row.written for row in rows[:2] + rows[3:7]] == expected[:2] + expected[3:7]
    assert late.written == expected[7]
    batch.step()
    assert not batch.rows
    assert batch._past.seen.numel() == 0, "nothing of them stays in memory"


def test_one_that_is_ended_before_it_began_is_never_read(plain: Steerable) -> None:
    batch = Batch(plain)
    row = batch.add(requests(plain.lm)[0])
    row.end()
    assert batch.step() == []
    assert not row.written


def test_a_text_ends_with_the_context_and_at_eos_only_if_wanted(plain: Steerable) -> None:
    ids = prompt(plain.lm, "Lily")
    long = alone(plain, Request(ids, tokens=10_000, temperature=0, ends=False))
    assert len(ids) + len(long) == plain.lm.context
    batch = Batch(plain)
    batch._ends = frozenset([long[3]])
    rows = [batch.add(Request(ids, tokens=9, temperature=0, ends=ends)) for ends in (True, False)]
    write(batch, rows)
    assert [(row.ended, len(row.written)) for row in rows] == [("stop", long.index(long[3])), ("length", 9)]


def test_top_p_draws_from_the_likeliest_only(plain: Steerable) -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    for top_p, allowed in ((0.4, {0}), (0.6, {0, 1}), (0.9, {0, 1, 2}), (1.0, {0, 1, 2, 3})):
        row = Row(Request((0,), top_p=top_p))
        assert {row.choose(logits) for _ in range(300)} == allowed


@pytest.mark.parametrize("temperature", [1e-3, 1e-40, 5e-324])
def test_the_lower_the_temperature_the_likelier_the_likeliest(plain: Steerable, temperature: float) -> None:
    logits = torch.tensor([-1e4, 30.0, 29.0, -torch.inf])
    assert {Row(Request((0,), temperature=temperature, seed=seed)).choose(logits) for seed in range(5)} == {1}
    shares = torch.tensor([0.5, 0.3, 0.2])
    drawn = Row(Request((0,), temperature=2.0))
    counts = torch.bincount(torch.tensor([drawn.choose(2 * shares.log()) for _ in range(3000)])) / 3000
    torch.testing.assert_close(counts, shares, atol=0.03, rtol=0)


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
def test_a_request_that_cannot_be_served_is_refused(plain: Steerable, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(KanaryError, match=message):
        Batch(plain).add(Request(**({"prompt": (0, 5)} | fields)))


# --- steering and watching ----------------------------------------------------------------------------------------


EDITS: list[tuple[Edit, ...]] = [
    (),
    (add(3, 40.0, unit="raw", sae="early"),),
    (add(7, -30.0, unit="raw", sae="late"),),
    (set_to(5, 25.0, unit="raw", sae="early"), add(9, 20.0, unit="raw", sae="late")),
    (ablate(4, sae="late"),),
    (add(11, 60.0, unit="raw", sae="early"),),
    (),
    (add(3, -40.0, unit="raw", sae="early"),),
]


def steered(lm: LanguageModel) -> list[Request]:
    ids = prompt(lm, PROMPTS[0])
    watched = [{"early": [3, 5]}, {}, {"late": [9]}, {"early": [5, 3], "late": [1]}] * 2
    return [
        Request(ids, tokens=20, temperature=i % 2, seed=1, ends=False, edits=edits, watched=watched[i])
        for i, edits in enumerate(EDITS)
    ]


def test_eight_streams_with_different_steering_are_those_written_alone(panel: Steerable) -> None:
    batch = Batch(panel)
    rows = [batch.add(request) for request in steered(panel.lm)]
    write(batch, rows)
    found = [row.written for row in rows]
    assert found == [alone(panel, request) for request in steered(panel.lm)]
    assert len({tuple(ids) for ids in found}) >= 5, "the strengths are large enough to matter"
    assert found[0] == alone(Steerable(panel.lm, None), Request(steered(panel.lm)[0].prompt, 20, 0, ends=False))


def test_codes_are_those_of_the_whole_text_read_at_once_and_every_token_is_told_once(panel: Steerable) -> None:
    batch = Batch(panel)
    rows = [batch.add(request) for request in steered(panel.lm)]
    told: dict[Row, list[Token]] = {row: [] for row in rows}
    while any(row.ended is None for row in rows):
        for row, tokens in batch.step():
            told[row] += tokens
    for row in rows:
        whole = [*row.request.prompt, *row.written]
        tokens = told[row]
        if not row.request.watched:
            assert [token.id for token in tokens] == row.written
            continue
        assert [token.id for token in tokens] == whole
        assert [token.written for token in tokens] == [False] * len(row.request.prompt) + [True] * 20
        if row.edits:
            continue
        for sae, latents in row.request.watched.items():
            x = panel.lm.capture(torch.tensor([whole]), [panel.sites[sae]])[panel.sites[sae]][0]
            special = torch.tensor([id in panel.lm.special_ids for id in whole])
            dense = panel.saes[sae].encode(x, special).to_dense()[:, latents]
            got = torch.tensor([token.codes[sae] for token in tokens])
            assert torch.allclose(got, dense, atol=1e-4)
            assert (got != 0).any()


def test_an_absurd_strength_ends_its_own_row_and_no_other(panel: Steerable) -> None:
    batch, asked = Batch(panel), steered(panel.lm)
    rows = [batch.add(request) for request in asked[:3]]
    batch.step()
    absurd = batch.add(Request(asked[0].prompt, edits=(add(3, 1e30, unit="raw", sae="early"),)))
    batch.step()
    assert absurd.ended == "error"
    assert "smaller strength" in str(absurd.problem)
    rows[1].edits = (add(3, 1e30, unit="raw", sae="early"),)
    write(batch, rows)
    assert [row.ended for row in rows] == ["length", "error", "length"]
    assert [rows[i].written for i in (0, 2)] == [alone(panel, asked[i]) for i in (0, 2)]


def test_edits_may_change_while_a_text_is_written(panel: Steerable) -> None:
    batch = Batch(panel)
    asked = steered(panel.lm)[0]
    row = batch.add(asked)
    for _ in range(5):
        batch.step()
    row.edits = EDITS[1]
    write(batch, [row])
    unsteered, whole = alone(panel, asked), alone(panel, steered(panel.lm)[1])
    assert row.written[:5] == unsteered[:5]
    assert row.written != unsteered
    assert row.written != whole


def test_what_cannot_be_done_is_refused_before_the_others_are_harmed(panel: Steerable) -> None:
    batch = Batch(panel)
    ids = prompt(panel.lm, "Lily")
    for wrong in (
        Request(ids, edits=(add(48, 1.0, unit="raw", sae="early"),)),
        Request(ids, edits=(add(3, 1.0, sae="early"),)),  # nobody knows its maximum
        Request(ids, edits=(add(3, 1.0, unit="raw"),)),  # which SAE?
        Request(ids, watched={"early": [48]}),
        Request(ids, watched={"nowhere": [1]}),
    ):
        with pytest.raises(KanaryError):
            batch.add(wrong)
    assert batch.step() == []


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
