"""A text that somebody types: the same codes and losses as computed by hand, of as much of it as is read, and no other."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient
from torch.nn import functional as F

from kanary.app.reading import TOKENS, cut
from kanary.lm import LanguageModel
from kanary.sae import SAE
from serving import JSON, client, copied, indexed_run

LIVE = "/api/saes/demo/topk/live"
STORY = "Once upon a time, there was a little girl named Lily. She loved to play in the park. "


@pytest.fixture(scope="module")
def run(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return indexed_run(tiny_llama, tmp_path_factory)


@pytest.fixture(scope="module")
def local(run: Path) -> Iterator[TestClient]:
    with client(run) as found:
        yield found


@pytest.fixture(scope="module")
def sae(run: Path) -> SAE:
    return SAE.from_pretrained(run / "sae" / "topk")


def live(local: TestClient, text: str) -> dict[str, Any]:
    answer = local.post(LIVE, content=json.dumps({"text": text}), headers=JSON)  # as a browser writes half a pair
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_codes_and_losses_are_those_computed_by_hand(local: TestClient, tiny_lm: LanguageModel, sae: SAE) -> None:
    found = live(local, STORY)
    ids = [0, *tiny_lm.tokenizer(STORY, add_special_tokens=False)["input_ids"]]
    assert len(ids) < tiny_lm.context
    assert found["ids"] == ids
    assert found["tokens"] == ["<s>", *map(tiny_lm.tokenizer.decode, ids[1:])]
    assert (found["special"], found["windows"]) == ([0], [0])
    assert found["read"] == {"characters": len(STORY), "of": len(STORY)}

    with torch.no_grad():
        out = tiny_lm.model(input_ids=torch.tensor([ids]), output_hidden_states=True)
        dense = sae.encode(out.hidden_states[2][0]).to_dense()  # after block 1
    dense[0] = 0  # BOS
    shown = torch.zeros_like(dense)
    for token, latent, value in found["codes"]:
        shown[token, latent] = value
    assert torch.equal(shown != 0, dense != 0)
    assert torch.allclose(shown, dense, rtol=1e-3)
    expected = F.cross_entropy(out.logits[0, :-1].double(), torch.tensor(ids[1:]), reduction="none")
    assert found["loss"][:2] == [None, None]  # nothing predicts BOS, and what follows it is not counted
    assert torch.allclose(torch.tensor(found["loss"][2:]).double(), expected[1:], rtol=1e-3)


def test_a_text_longer_than_the_model_reads_at_once_goes_on_in_windows_that_begin_afresh(
    local: TestClient, tiny_lm: LanguageModel
) -> None:
    text = STORY * 10
    found = live(local, text)
    windows = found["windows"]
    assert len(windows) > 2
    assert set(map(int.__sub__, windows[1:], windows[:-1])) == {tiny_lm.context}
    assert found["special"] == windows
    ids = [id for at, id in enumerate(found["ids"]) if at not in windows]
    assert ids == tiny_lm.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert [at for at, loss in enumerate(found["loss"]) if loss is None] == sorted(
        {*windows, *(at + 1 for at in windows)} & set(range(len(found["ids"])))
    )
    again = live(local, tiny_lm.tokenizer.decode(found["ids"][windows[1] + 1 : windows[2]]))
    assert again["ids"] == found["ids"][windows[1] : windows[2]]  # the second window as a text of its own
    shifted = [[t - windows[1], n, v] for t, n, v in found["codes"] if windows[1] <= t < windows[2]]
    assert again["codes"] == shifted
    assert again["loss"] == found["loss"][windows[1] : windows[2]]


def test_of_a_megabyte_the_beginning_is_read_and_how_much_is_said(local: TestClient, tiny_lm: LanguageModel) -> None:
    text = (STORY * 13_000)[:1_000_000]
    found = live(local, text)
    ids = [id for at, id in enumerate(found["ids"]) if at not in found["windows"]]
    assert len(ids) == TOKENS
    assert found["read"]["of"] == len(text)
    beginning = text[: found["read"]["characters"]]
    assert tiny_lm.tokenizer(beginning, add_special_tokens=False)["input_ids"] == ids
    assert len(found["codes"]) == 4 * TOKENS  # k


@pytest.mark.parametrize("text", [" " * 500_000, "\n" * 10_000, "x" * 1_000_000, "é" * 300_000, "\x00\x1b\u202e" * 999])
def test_long_texts_of_strange_kinds_are_read_as_far_as_goes(local: TestClient, text: str) -> None:
    found = live(local, text)
    assert 0 < found["read"]["characters"] <= len(text)
    assert len(found["tokens"]) == len(found["ids"]) == len(found["loss"])


def test_an_empty_text_loads_the_model_and_has_no_tokens(local: TestClient) -> None:
    found = live(local, "")
    assert (found["tokens"], found["codes"], found["loss"], found["windows"]) == ([], [], [], [])
    assert found["read"] == {"characters": 0, "of": 0}


def test_half_a_character_and_markup_are_shown_as_what_they_are(local: TestClient) -> None:
    found = live(local, "<b>é</b>\ud800")
    assert "".join(found["tokens"][1:]).startswith("<b>")
    assert "⟨c3⟩" in found["tokens"]  # this vocabulary has no é
    assert "⟨a9⟩" in found["tokens"]


def test_names_of_special_tokens_in_a_text_count_as_special(local: TestClient) -> None:
    found = live(local, "a</s>b")
    ids = found["ids"]
    assert found["special"] == [at for at, id in enumerate(ids) if id in (0, 1, 2)]
    assert not [code for code in found["codes"] if code[0] in found["special"]]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=200))
def test_any_text_is_answered_and_all_of_it_read(local: TestClient, text: str) -> None:
    found = live(local, text)
    assert found["read"]["characters"] == found["read"]["of"] == len(text)
    assert all(0 <= t < len(found["ids"]) and 0 <= n < 64 and v != 0 for t, n, v in found["codes"])
    keys = [(t, n) for t, n, _ in found["codes"]]
    assert keys == sorted(set(keys))


def test_windows_hold_every_token_once_with_and_without_bos(tiny_lm: LanguageModel, monkeypatch: Any) -> None:
    for bos in (0, None):
        monkeypatch.setattr(tiny_lm, "bos_id", bos)
        found = cut(tiny_lm, STORY * 10)
        spans = zip(found.starts, [*found.starts[1:], len(found.ids)], strict=True)
        inside = [id for a, b in spans for id in found.ids[a + (bos is not None) : b]]
        assert inside == tiny_lm.tokenizer(STORY * 10, add_special_tokens=False)["input_ids"]


def test_a_model_that_is_not_there_any_more_is_said_and_everything_else_goes_on(run: Path, tmp_path: Path) -> None:
    moved = copied(run, tmp_path / "demo")
    for name in ("topk", "batchtopk"):
        config = moved / "sae" / name / "config.json"
        config.write_text(config.read_text().replace("tiny-llama", "nowhere"))
    with client(moved) as found:
        answer = found.post(LIVE, json={"text": "Once"})
        assert answer.status_code == 409
        assert "nowhere" in answer.json()["error"]
        assert found.get("/api/state").json()["live"] is False
        assert found.get("/api/saes/demo/topk/features/0").status_code == 200


def test_an_sae_of_another_model_is_refused_by_name(run: Path, tmp_path: Path) -> None:
    other = copied(run, tmp_path / "demo")
    config = other / "sae" / "topk" / "config.json"
    config.write_text(re.sub(r'"fingerprint": "\w+"', '"fingerprint": "000000000000"', config.read_text()))
    with client(other) as found:
        answer = found.post(LIVE, json={"text": "Once"})
        assert answer.status_code == 409
        assert "another model" in answer.json()["error"]
