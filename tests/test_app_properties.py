"""Whatever is asked of any address, the answer is the right kind of JSON and never a failure of the server.

Requests are drawn from the OpenAPI description that the server gives of itself, so that a new address is tested as it stands.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from serving import JSON, client, copied, indexed_run

ALLOWED = {200, 400, 404, 405, 409, 413, 415, 422}
FITTING: dict[str, st.SearchStrategy[Any]] = {
    "run": st.just("demo"),
    "sae": st.sampled_from(["topk", "batchtopk"]),
    "name": st.text("abc ü<&", min_size=1, max_size=5),
    "features": st.sampled_from(["0", "1,5", "0:3", "63"]),
    "q": st.text(max_size=10),
    "token": st.sampled_from(["the", " a", "park", "⟨e2⟩", ""]),
    "concept": st.sampled_from(["honesty", "x.y", ""]),
    "sort": st.sampled_from(["density", "maximum", "score", "cosine", "latent"]),
    "descending": st.sampled_from(["0", "1", "true"]),
    "min_density": st.floats(0, 1),
    "max_density": st.floats(0, 1),
    "min_score": st.floats(0, 1),
}
COUNTS = st.integers(0, 63)
STRANGE = st.one_of(
    st.sampled_from(["", "..", ".", "%2e%2e", "a/b", "0x1", "1e400", "nan", "inf", "-0", "-1", "64", "١", "9" * 5000]),
    st.integers().map(str),
    st.floats().map(str),
    st.text(max_size=30),
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda each: st.lists(each, max_size=3),
)


@pytest.fixture(scope="module")
def local(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    run = copied(indexed_run(tiny_llama, tmp_path_factory), tmp_path_factory.mktemp("properties") / "demo")
    with client(run) as found:
        yield found


@pytest.fixture(scope="module")
def operations(local: TestClient) -> list[tuple[str, str, dict[str, Any]]]:
    """(method, path, description) of everything that can be asked."""
    description = local.get("/api/openapi.json").json()
    paths = description["paths"]
    for name, schema in description["components"]["schemas"].items():
        BODIES[name], REQUIRED[name] = list(schema.get("properties", {})), schema.get("required", [])
    return [(method, path, about) for path, methods in paths.items() for method, about in methods.items()]


def test_every_address_of_the_interface_is_described(operations: list[tuple[str, str, dict[str, Any]]]) -> None:
    sae = "/api/saes/{run}/{sae}"
    assert {(method, path) for method, path, _ in operations} == {
        ("get", "/api/state"),
        ("get", "/api/runs"),
        ("get", sae),
        ("get", sae + "/columns"),
        ("get", sae + "/logit-moments"),
        ("get", sae + "/features/{latent}"),
        ("put", sae + "/features/{latent}/human"),
        ("get", sae + "/documents/{id}"),
        ("get", sae + "/search"),
        ("get", sae + "/lists"),
        ("put", sae + "/lists/{name}"),
        ("delete", sae + "/lists/{name}"),
        ("post", sae + "/live"),
        ("get", sae + "/export.html"),
        ("get", "/api/compare"),
        ("post", sae + "/write"),
        ("post", sae + "/sweep"),
        ("post", sae + "/attribute"),
        ("post", sae + "/search-prompts"),
        ("get", sae + "/watches"),
        ("put", sae + "/watches/{name}"),
        ("delete", sae + "/watches/{name}"),
        ("get", sae + "/traces"),
        ("get", sae + "/traces/{name}"),
        ("get", "/v1/models"),
        ("post", "/v1/completions"),
        ("post", "/v1/chat/completions"),
    }


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_request_is_answered_with_what_was_asked_for_or_one_line_of_why_not(
    local: TestClient, operations: list[tuple[str, str, dict[str, Any]]], data: st.DataObject
) -> None:
    method, path, about = data.draw(st.sampled_from(operations))
    query: list[tuple[str, str]] = []
    for parameter in about.get("parameters", []):
        name, several = parameter["name"], parameter["schema"].get("type") == "array"
        fitting = FITTING.get(name, COUNTS).map(str)
        drawn = [data.draw(fitting if data.draw(st.integers(0, 9)) else STRANGE) for _ in range(1 + several)]
        if parameter["in"] == "path":
            path = path.replace(f"{{{name}}}", quote(drawn[0], safe=""))
        elif parameter["required"] or data.draw(st.booleans()):
            query += [(name, f"demo/{value}" if several else value) for value in drawn]
    body = data.draw(bodies(about)) if "requestBody" in about else None
    answer = local.request(method, path, params=query, content=body, headers=JSON if body is not None else None)
    assert answer.status_code in ALLOWED, (method, path, query, body, answer.text)
    if answer.status_code != 200 and path.startswith("/v1/"):
        assert answer.json()["error"].keys() == {"message", "type", "param", "code"}
        assert "\n" not in answer.json()["error"]["message"]
    elif answer.status_code != 200:
        assert answer.json().keys() == {"error", "fix"}
        assert "\n" not in answer.json()["error"]
    elif answer.headers["content-type"].startswith("text/event-stream"):
        lines = [line.removeprefix("data: ") for line in answer.text.split("\n") if line and line != "data: [DONE]"]
        assert all(isinstance(json.loads(line), dict) for line in lines)
    elif "export" not in path:
        json.loads(answer.content, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


TEXTS = st.text(max_size=20)
EDITS = st.lists(
    st.fixed_dictionaries(
        {"feature": COUNTS},
        optional={"kind": st.sampled_from(["add", "set", "x"]), "amount": st.floats(-3, 3), "unit": st.just("raw")}
        | {"sae": st.sampled_from(["demo/topk", "demo/none", "x"])},
    ),
    max_size=2,
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "text": TEXTS,
    "latents": st.lists(COUNTS, max_size=3),
    "prompt": TEXTS | st.lists(COUNTS, max_size=3) | st.lists(TEXTS, max_size=2),
    "tokens": st.integers(1, 4),
    "seed": st.integers(0, 9),
    "stop": st.lists(TEXTS, max_size=2),
    "edits": EDITS,
    "watch": st.lists(st.sampled_from(["a", ""]), max_size=1),
    "features": st.lists(COUNTS, max_size=3),
    "record": st.booleans(),
    "weights": st.lists(st.tuples(COUNTS, st.floats(-2, 2)), max_size=2),
    "positive": st.lists(TEXTS, max_size=5),
    "negative": st.lists(TEXTS, max_size=5),
    "false_alarms": st.floats(0, 1),
    "on_alarm": st.sampled_from(["log", "stop", "steer"]),
    "steer": EDITS,
    "model": st.sampled_from(["tiny-llama", "tiny-llama", "tiny-llama", "gpt"]),
    "prompts": st.lists(TEXTS, max_size=2),
    "strengths": st.lists(st.floats(0, 4), max_size=2),
    "token": TEXTS | st.none(),
    "against": TEXTS | st.none(),
    "position": st.integers(-3, 3),
    "max_tokens": st.integers(1, 3),
    "temperature": st.floats(0, 2) | st.none(),
    "top_p": st.floats(0.1, 1),
    "n": st.integers(1, 2),
    "stream": st.booleans(),
    "messages": st.lists(
        st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant", "x"]), "content": TEXTS}),
        max_size=3,
    ),
    "kanary": st.fixed_dictionaries({}, optional={"watch": st.lists(st.just("a"), max_size=1), "steer": EDITS}),
    "presence_penalty": st.sampled_from([0, 0.5]),
}


def bodies(about: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """Mostly what the address takes, by its description; sometimes with a strange value, or anything at all."""
    reference = about["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    fields = {name: FIELDS[name] for name in BODIES[reference] if name in FIELDS}
    needed = {name: fields[name] for name in REQUIRED.get(reference, ()) if name in fields}
    fitting = st.fixed_dictionaries(needed, optional={name: fields[name] for name in fields if name not in needed})
    other = st.dictionaries(st.sampled_from([*fields, "x"]), VALUES, max_size=2)
    strange = st.tuples(fitting, other).map(lambda pair: pair[0] | pair[1])
    return st.one_of(fitting.map(encoded), fitting.map(encoded), strange.map(encoded), st.binary(max_size=20))


BODIES: dict[str, list[str]] = {}
REQUIRED: dict[str, list[str]] = {}


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()
