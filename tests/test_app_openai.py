"""A public client of OpenAI's interface talks to the server; many at once do not disturb each other; who leaves gives room."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

import kanary as library
from kanary.app import streams
from kanary.app.guard import Access
from kanary.app.openai import chat_ids
from kanary.app.openai_forms import Chat
from kanary.app.server import Running
from kanary.errors import KanaryError
from kanary.interventions.edits import add
from kanary.interventions.generation import Batch, Request
from kanary.interventions.steerable import Steerable
from kanary.interventions.watch import Watch, save
from kanary.interventions.writing import write
from kanary.lm import LanguageModel
from kanary.sae import SAE
from serving import client, copied, indexed_run

openai = pytest.importorskip("openai", reason="the openai client is not installed")
MODEL, TOKEN = "tiny-llama", "a-token-of-twenty-letters"
LOUD = {"feature": 3, "amount": 60.0, "unit": "raw", "sae": "demo/topk"}


@pytest.fixture(scope="module")
def run(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the watch ``always``, which goes off at every token, on ``topk``, and ``never`` on ``batchtopk``."""
    folder = copied(indexed_run(tiny_llama, tmp_path_factory), tmp_path_factory.mktemp("openai") / "demo")
    for name, sae, threshold, action in (("always", "topk", -1.0, "stop"), ("never", "batchtopk", 1e9, "log")):
        digest = SAE.from_pretrained(folder / "sae" / sae).digest()
        save(Watch(name, sae, digest, ((3, 1.0), (5, -0.5)), threshold, 0.1, action), folder)  # type: ignore[arg-type]
    return folder


@pytest.fixture(scope="module")
def server(run: Path) -> Iterator[Running]:
    with library.serve(run, port=0, token=TOKEN, watch=["never"], browser=False, block=False) as found:
        yield found


@pytest.fixture(scope="module")
def people(server: Running) -> Iterator[Any]:
    with openai.OpenAI(base_url=server.base_url, api_key=TOKEN, max_retries=0, timeout=120) as found:
        yield found


@pytest.fixture(scope="module")
def panel(tiny_lm: LanguageModel, run: Path) -> Steerable:
    return Steerable(tiny_lm, {"demo/topk": SAE.from_pretrained(run / "sae" / "topk")})


def alone(panel: Steerable, prompt: str, **fields: Any) -> str:
    ids = (0, *panel.lm.tokenizer(prompt, add_special_tokens=False)["input_ids"])
    return "".join(piece.text for piece in write(Batch(panel), Request(ids, **fields)))


def desk(server: Running) -> streams.Desk:
    (found,) = server.service.desks._desks.values()
    return found


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


# --- what a client gets -------------------------------------------------------------------------------------------


def test_models_completions_and_chat_in_one_piece_and_in_many(people: Any, panel: Steerable) -> None:
    assert [model.id for model in people.models.list().data] == [MODEL]
    expected = alone(panel, "Once upon a", tokens=12, temperature=0.7, seed=5)
    asked = {"model": MODEL, "max_tokens": 12, "temperature": 0.7, "seed": 5}
    whole = people.completions.create(prompt="Once upon a", **asked)
    assert whole.choices[0].text == expected
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    parts = list(people.completions.create(prompt="Once upon a", stream=True, **asked))
    assert "".join(part.choices[0].text for part in parts) == expected
    assert parts[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    messages = [{"role": "user", "content": "Once upon"}, {"role": "user", "content": [{"type": "text", "text": "a"}]}]
    expected = alone(panel, "Once upon\na", tokens=12, temperature=0.7, seed=5)
    said = people.chat.completions.create(messages=messages, **asked)
    assert said.choices[0].message.content == expected
    parts = list(
        people.chat.completions.create(messages=messages, stream=True, stream_options={"include_usage": True}, **asked)
    )
    assert "".join(part.choices[0].delta.content or "" for part in parts if part.choices) == expected
    assert parts[0].choices[0].delta.role == "assistant"
    assert parts[-1].usage == said.usage


def test_answers_carry_the_values_of_watches_on_every_token(people: Any) -> None:
    asked = {"model": MODEL, "prompt": "Lily", "max_tokens": 6, "seed": 1}
    found = people.completions.create(**asked).choices[0].model_extra["kanary"]
    assert found["watches"] == {"never": 1e9}, "of the command line"
    assert [list(token["values"]) for token in found["tokens"]] == [["never"]] * len(found["tokens"])
    assert found["alarms"] == []
    stopped = people.completions.create(**asked, extra_body={"kanary": {"watch": ["always"]}}).choices[0]
    assert stopped.finish_reason == "content_filter"
    assert stopped.model_extra["kanary"]["alarms"][0]["watch"] == "always"
    assert len(stopped.model_extra["kanary"]["tokens"]) == 1
    off = people.completions.create(**asked, extra_body={"kanary": {"watch": []}}).choices[0]
    assert off.model_extra["kanary"]["tokens"] == []
    parts = list(people.completions.create(**asked, stream=True))
    values = [part.choices[0].model_extra["kanary"]["values"] for part in parts[1:-1]]
    assert values == [token["values"] for token in found["tokens"]]


def test_several_texts_of_one_request_differ_by_their_seeds(people: Any, panel: Steerable) -> None:
    found = people.completions.create(model=MODEL, prompt=["Tom", "Lily"], n=2, seed=7, max_tokens=8)
    expected = [
        alone(panel, prompt, tokens=8, seed=seed)
        for prompt, seed in zip(["Tom"] * 2 + ["Lily"] * 2, range(7, 11), strict=True)
    ]
    assert [choice.text for choice in found.choices] == expected
    assert [choice.index for choice in found.choices] == [0, 1, 2, 3]


def test_eight_clients_that_steer_differently_get_what_each_would_get_alone(people: Any, panel: Steerable) -> None:
    amounts = [0.0, 30.0, -30.0, 60.0, 90.0, -90.0, 120.0, 0.0]

    def ask(i: int) -> str:
        steer = [{**LOUD, "amount": amounts[i], "feature": 3 + i}] if amounts[i] else []
        extra = {"kanary": {"watch": [["never"], []][i % 2], "steer": steer}}
        asked = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 24, "temperature": 0, "extra_body": extra}
        return "".join(part.choices[0].text for part in people.completions.create(**asked, stream=True))

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(8)))
    edits = [(add(3 + i, a, unit="raw", sae="demo/topk"),) if a else () for i, a in enumerate(amounts)]
    assert found == [alone(panel, "Once upon a time", tokens=24, temperature=0, edits=each) for each in edits]
    assert len(set(found)) > 3
    assert found[0] == found[7]


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({"model": "gpt-5"}, 404, "Known: tiny-llama"),
        ({"prompt": "word " * 200}, 409, "reads 64"),
        ({"prompt": [300]}, 422, "no token 300"),
        ({"prompt": []}, 422, "prompt"),
        ({"prompt": ["a"] * 5, "n": 2}, 422, "8 texts at most"),
        ({"temperature": 3}, 422, "temperature"),
        ({"max_tokens": 0}, 422, "max_tokens"),
        ({"presence_penalty": 1.0}, 422, "steer a feature"),
        ({"logprobs": 3}, 422, "logprobs"),
        ({"extra_body": {"kanary": {"watch": ["nothing"]}}}, 404, "'nothing'"),
        ({"extra_body": {"kanary": {"steer": [{"feature": 3}]}}}, 422, "of which SAE"),
        ({"extra_body": {"kanary": {"steer": [LOUD | {"feature": 64}]}}}, 409, "Feature 64"),
        ({"extra_body": {"kanary": {"steer": [LOUD | {"sae": "demo/none"}]}}}, 404, "demo/none"),
        ({"extra_body": {"kanary": {"steer": [LOUD | {"amount": "x"}]}}}, 422, "amount='x'"),
        ({"extra_body": {"kanary": {"steer": [LOUD | {"amount": 1e30}]}}}, 409, "smaller strength"),
    ],
)
def test_a_request_that_cannot_be_served_is_told_why(
    people: Any, fields: dict[str, Any], status: int, message: str
) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        people.completions.create(**({"model": MODEL, "prompt": "Lily", "max_tokens": 4} | fields))
    assert refused.value.status_code == status
    assert message in refused.value.body["message"]


def test_an_error_within_a_stream_reaches_the_client(people: Any) -> None:
    extra = {"kanary": {"steer": [LOUD | {"amount": 1e30}]}}
    with pytest.raises(openai.APIError, match="smaller strength"):
        list(people.completions.create(model=MODEL, prompt="Lily", stream=True, extra_body=extra))


def test_the_rules_of_the_server_hold_here_too(run: Path, server: Running) -> None:
    with client(run, access=Access(token=TOKEN)) as local:
        assert local.get("/v1/models").status_code == 401
        key = {"authorization": f"Bearer {TOKEN}"}
        assert local.get("/v1/models", headers=key).status_code == 200
        assert local.get("/v1/models", headers={**key, "origin": "http://evil.example"}).status_code == 403
        assert local.get("/v1/models", headers={**key, "host": "evil.example"}).status_code == 421
        assert local.post("/v1/completions", headers=key, content="{}").status_code == 415
    with pytest.raises(KanaryError, match="Did you mean 'never'"):
        library.serve(run, watch=["nevr"], browser=False, block=False)


def test_a_watch_that_cannot_be_followed_stops_the_server(run: Path, tmp_path: Path) -> None:
    digest = SAE.from_pretrained(run / "sae" / "topk").digest()
    for sae, made_for, says in (
        ("gone", digest, "in none of these runs"),
        ("topk", "0123456789abcdef", "other weights"),
    ):
        folder = copied(run, tmp_path / sae)
        save(Watch("lost", sae, made_for, ((3, 1.0),), 1.0, 0.1, "log"), folder)
        with pytest.raises(KanaryError, match=says):
            library.serve(folder, port=0, watch=["lost"], browser=False, block=False)


def test_what_a_watch_reads_is_loaded_before_the_first_request(run: Path) -> None:
    for watches in ((), ("never",)):
        with library.serve(run, port=0, watch=watches, browser=False, block=False) as found:
            kept = found.service.library
            assert (len(kept._models._values), len(kept._saes._values)) == (len(watches), len(watches))


def test_a_template_of_the_model_makes_the_prompt(tiny_lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    template = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    template += "[{{ m.role }}] {{ m.content }}{% endfor %}{% if add_generation_prompt %}>{% endif %}"
    monkeypatch.setattr(tiny_lm.tokenizer, "chat_template", template)
    found = chat_ids(tiny_lm, Chat(model=MODEL, messages=[{"role": "user", "content": "Lily"}]))
    assert tiny_lm.tokenizer.decode(found) == "[user] Lily>"
    with pytest.raises(Exception, match="no system"):
        chat_ids(tiny_lm, Chat(model=MODEL, messages=[{"role": "system", "content": "x"}]))


# --- who leaves, and who waits ------------------------------------------------------------------------------------


def post(server: Running, path: str, body: dict[str, Any]) -> socket.socket:
    """A request on a connection of its own, whose answer nobody has read yet."""
    port = int(server.url.split(":")[2].split("/")[0])
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {TOKEN}\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.sendall(head.encode() + data)
    return connection


@pytest.fixture
def endless(server: Running, people: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts take long: the model rests at every step, and never ends one."""
    people.completions.create(model=MODEL, prompt="Lily", max_tokens=1)  # so that the desk is there
    batch = desk(server)._batch
    step = type(batch).step

    def slowly(self: Batch) -> Any:
        time.sleep(0.05)
        return step(self)

    monkeypatch.setattr(Batch, "step", slowly)
    monkeypatch.setattr(batch, "_ends", frozenset())


@pytest.mark.usefixtures("endless")
@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_gives_its_place_free(server: Running, stream: bool) -> None:
    body = {"model": MODEL, "prompt": "Lily", "max_tokens": 60, "stream": stream}
    connections = [post(server, "/v1/completions", body) for _ in range(streams.ROWS + 2)]
    until(lambda: desk(server).held == streams.ROWS + 2)
    until(lambda: len(desk(server)._batch.rows) == streams.ROWS)
    for connection in connections:
        connection.close()
    until(lambda: desk(server).held == 0)
    until(lambda: desk(server)._batch._past.seen.numel() == 0)


@pytest.mark.usefixtures("endless")
def test_too_many_texts_are_refused_and_those_that_wait_are_served(
    server: Running, people: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"model": MODEL, "prompt": "Lily", "max_tokens": 60, "stream": True}
    connections = [post(server, "/v1/completions", body) for _ in range(streams.ROWS)]
    until(lambda: len(desk(server)._active) == streams.ROWS)
    monkeypatch.setattr(streams, "WAITING", 2)
    body["max_tokens"] = 2
    connections += [post(server, "/v1/completions", body) for _ in range(2)]
    until(lambda: len(desk(server)._waiting) == 2)
    with pytest.raises(openai.APIStatusError) as refused:
        people.completions.create(model=MODEL, prompt="Lily")
    assert refused.value.status_code == 503
    for connection in connections[: streams.ROWS]:
        connection.close()
    for connection in connections[streams.ROWS :]:
        with connection, connection.makefile("rb") as answer:
            assert any(line == b"data: [DONE]\n" for line in answer)
    until(lambda: desk(server).held == 0)


# --- what the page uses ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def local(run: Path) -> Iterator[TestClient]:
    with client(run) as found:
        yield found


def events(local: TestClient, body: dict[str, Any]) -> list[dict[str, Any]]:
    answer = local.post("/api/saes/demo/topk/write", json=body)
    assert answer.status_code == 200, answer.text
    return [json.loads(line.removeprefix("data: ")) for line in answer.text.split("\n") if line]


def test_the_page_reads_pieces_with_values_codes_and_alarms_and_finds_the_record(local: TestClient) -> None:
    body = {"prompt": "Lily", "tokens": 5, "watch": ["always"], "features": [5, 3], "record": True}
    *pieces, end = events(local, body)
    assert end["end"] == "alarm"
    written = [piece for piece in pieces if piece["written"]]
    assert len(written) == 1
    assert written[0]["alarms"][0]["action"] == "stop"
    for piece in pieces:
        value = piece["codes"][1] - 0.5 * piece["codes"][0]
        assert piece["values"]["always"] == pytest.approx(value, rel=1e-2, abs=1e-3)
    trace = local.get(f"/api/saes/demo/topk/traces/{end['record']}").json()
    assert [token["token"] for token in trace["tokens"]] == [piece["token"] for piece in pieces]
    assert local.get("/api/saes/demo/topk/traces").json()[0]["name"] == end["record"]
    assert [watch["name"] for watch in local.get("/api/saes/demo/topk/watches").json()] == ["always"]
    assert local.post("/api/saes/demo/topk/write", json=body | {"watch": ["never"]}).status_code == 409
    assert local.post("/api/saes/demo/topk/write", json=body | {"watch": ["x"]}).status_code == 404


def test_a_page_makes_a_watch_and_may_not_name_addresses(local: TestClient) -> None:
    positive = [f"Tom has {i} red balls." for i in range(8)]
    negative = [f"Lily is {i} in the park." for i in range(8)]
    body = {"weights": [[3, 1.0]], "positive": positive, "negative": negative, "false_alarms": 0.2}
    made = local.put("/api/saes/demo/topk/watches/balls", json=body)
    assert made.status_code == 200, made.text
    assert made.json()["measured"]["negatives"] == 4
    assert "balls" in [watch["name"] for watch in local.get("/api/saes/demo/topk/watches").json()]
    assert local.delete("/api/saes/demo/topk/watches/balls").status_code == 200
    assert local.delete("/api/saes/demo/topk/watches/balls").status_code == 404
    refused = local.put("/api/saes/demo/topk/watches/balls", json=body | {"webhook": "http://127.0.0.1:1"})
    assert refused.status_code == 422
    refused = local.put("/api/saes/demo/topk/watches/balls", json=body | {"negative": []})
    assert "4 negative texts, got none" in refused.json()["error"]


def streamed(local: TestClient, address: str, body: dict[str, Any]) -> list[Any]:
    """The server-sent events of an answer."""
    with local.stream("POST", address, json=body, headers={"Accept": "text/event-stream"}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        return [json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line]


def test_strengths_attribution_and_prompt_search_are_answered(local: TestClient) -> None:
    sae = "/api/saes/demo/topk"
    body = {
        "edits": [{"feature": 3, "amount": 2.0}],
        "prompts": ["Lily"],
        "seeds": [0],
        "tokens": 4,
        "strengths": [1.0],
    }
    found = local.post(f"{sae}/sweep", json=body)
    assert found.status_code == 200, found.text
    assert [point["strength"] for point in found.json()["points"]] == [0.0, 1.0]
    said = streamed(local, f"{sae}/sweep", body)
    assert said == [*({"done": done, "of": 2} for done in (0, 1, 1, 2)), {"found": found.json()}]
    said = streamed(local, f"{sae}/sweep", body | {"strengths": [-1.0, 1.0]})
    assert said == [{"error": "Strengths lie on both sides of 0: sweep up and down separately.", "fix": ""}]
    found = local.post(f"{sae}/attribute", json={"prompt": "Lily loved to"})
    assert found.json()["tokens"][0] == "<s>"
    assert "error" in local.post(f"{sae}/attribute", json={"prompt": ""}).json()
    texts = {name: [f"{name} text {i}" for i in range(10)] for name in ("positive", "negative")}
    found = local.post(f"{sae}/search-prompts", json=texts)
    assert found.status_code == 200, found.text
    assert "found" in found.json()
