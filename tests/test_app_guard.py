"""What stands between the network and the application: names, origins, the token, sizes, rates, and headers on everything."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from starlette.types import Message

from kanary.app.guard import HEADERS, Access, Body, Limits, Rate
from serving import HOME, JSON, client, indexed_run

TOKEN = "a-token-that-nobody-guesses"
LIVE = "/api/saes/demo/topk/live"
HUMAN = "/api/saes/demo/topk/features/1/human"


@pytest.fixture(scope="module")
def run(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return indexed_run(tiny_llama, tmp_path_factory)


@pytest.fixture(scope="module")
def local(run: Path) -> Iterator[TestClient]:
    with client(run) as found:
        yield found


@pytest.fixture(scope="module")
def open_to_all(run: Path) -> Iterator[TestClient]:
    """As with ``--host 0.0.0.0``."""
    access = Access(Access().hosts | {"workstation.example"}, any_address=True, token=TOKEN)
    with client(run, access=access) as found:
        yield found


def refused(answer: Any, status: int) -> str:
    """The error of a request that was refused: one line of JSON, no trace of the code behind it."""
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error", "fix"}
    for word in ("Traceback", ".py", "site-packages", "\n"):
        assert word not in answer.text
    return str(answer.json()["error"])


# --- names and origins --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:7350", "localhost:9000", "LOCALHOST", "[::1]", "[::1]:7350"])
def test_loopback_is_known_by_its_names_at_any_port(local: TestClient, host: str) -> None:
    assert local.get("/api/state", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example:7350",
        "127.0.0.1@evil.example",
        "evil.example@127.0.0.1",
        "127.0.0.2",
        "192.168.1.5",
        "0.0.0.0",
        "",
        "[::1",
        "127.0.0.1:7350:80",
        "127.0.0.1/x",
        "127.0.0.1 evil.example",
        "localhost.",
    ],
)
@pytest.mark.parametrize("path", ["/", "/api/state", "/app.js"])
def test_a_name_that_was_rebound_to_this_machine_is_refused_for_pages_and_api(
    local: TestClient, host: str, path: str
) -> None:
    refused(local.get(path, headers={"host": host}), 421)


def test_two_host_headers_are_refused(local: TestClient) -> None:
    refused(local.get("/api/state", headers=[("host", "127.0.0.1"), ("host", "127.0.0.1")]), 421)


@pytest.mark.parametrize("host", ["workstation.example:7350", "10.0.0.7:7350", "[fe80::1]:7350", "localhost"])
def test_on_all_networks_own_names_and_any_address_are_known(open_to_all: TestClient, host: str) -> None:
    headers = {"host": host, "authorization": f"Bearer {TOKEN}"}
    assert open_to_all.get("/api/state", headers=headers).status_code == 200


def test_on_all_networks_other_names_are_still_refused(open_to_all: TestClient) -> None:
    headers = {"host": "evil.example", "authorization": f"Bearer {TOKEN}"}
    refused(open_to_all.get("/api/state", headers=headers), 421)


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "http://127.0.0.1:1234"},
        {"origin": "http://127.0.0.1:73500"},
        {"origin": "null"},
        {"origin": "file://"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_requests_of_other_pages_are_refused(local: TestClient, headers: dict[str, str]) -> None:
    refused(local.get("/api/state", headers=headers), 403)
    refused(local.put(HUMAN, json={"text": "forged"}, headers=headers), 403)
    assert local.get("/api/saes/demo/topk/features/1").json()["human"] is None


@pytest.mark.parametrize("headers", [{"origin": HOME}, {"sec-fetch-site": "same-origin"}, {"sec-fetch-site": "none"}])
def test_requests_of_the_own_page_and_typed_addresses_are_answered(local: TestClient, headers: dict[str, str]) -> None:
    assert local.get("/api/state", headers=headers).status_code == 200


def test_a_link_from_elsewhere_opens_the_page(local: TestClient) -> None:
    assert local.get("/", headers={"sec-fetch-site": "cross-site"}).status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_what_a_form_of_another_page_could_send_is_no_json_and_changes_nothing(local: TestClient, kind: str) -> None:
    content = b'{"text": "forged"}'
    refused(local.put(HUMAN, content=content, headers={"content-type": kind}), 415)
    refused(local.post(LIVE, content=content, headers={"content-type": kind}), 415)
    assert local.get("/api/saes/demo/topk/features/1").json()["human"] is None


# --- the token ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Basic {TOKEN}",
        f"Bearer  {TOKEN}",
        TOKEN,
        "Bearer é",
    ],
)
def test_without_the_token_the_api_says_nothing(open_to_all: TestClient, value: str | None) -> None:
    headers = {} if value is None else {"authorization": value.encode("latin-1")}
    for path in ("/api/state", "/api/runs", "/api/saes/demo/topk/features/1", "/api/openapi.json", "/api/nothing"):
        answer = open_to_all.get(path, headers=headers)
        refused(answer, 401)
        assert answer.headers["www-authenticate"] == "Bearer"
    refused(open_to_all.put(HUMAN, json={"text": "x"}, headers=headers), 401)
    refused(open_to_all.delete("/api/saes/demo/topk/lists/x", headers=headers), 401)


def test_with_the_token_it_answers_and_the_page_itself_needs_none(open_to_all: TestClient) -> None:
    assert open_to_all.get("/api/runs", headers={"authorization": f"bearer {TOKEN}"}).status_code == 200
    assert open_to_all.get("/").status_code == 200
    assert open_to_all.get(f"/api/runs?token={TOKEN}").status_code == 401  # addresses end up in logs and histories


# --- sizes, rates, times ------------------------------------------------------------------------------------------


def test_a_body_above_the_limit_is_refused_whether_it_says_its_size_or_not(run: Path) -> None:
    with client(run, limits=Limits(body=1000, burst=10**6)) as small:
        assert "1000" not in refused(small.post(LIVE, json={"text": "x" * 2000}), 413)
        pieces = (b" " * 100 for _ in range(20))
        refused(small.post(LIVE, content=pieces, headers=JSON), 413)
        refused(small.put("/api/nothing", content=b" " * 1001, headers=JSON), 413)
        refused(small.request("GET", "/api/state", content=b" " * 1001), 413)
        assert small.post(LIVE, json={"text": "x" * 900}).status_code == 200


@pytest.mark.parametrize("length", ["-1", "1e9", "+5", "0x10", " 7", "9" * 5000, "²"])
def test_a_length_that_is_no_number_is_refused(local: TestClient, length: str) -> None:
    headers = {**JSON, "content-length": length.encode("latin-1")}
    refused(local.post(LIVE, content=b"{}", headers=headers), 413)


def test_a_body_that_arrives_too_slowly_is_given_up() -> None:
    async def slow() -> Message:
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": b" ", "more_body": True}

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def never(*_: Any) -> None:
        raise AssertionError("the application was called")

    scope = {"type": "http", "headers": [], "path": "/api/x", "method": "POST"}
    asyncio.run(Body(never, Limits(seconds=0.05))(scope, slow, send))
    assert sent[0]["status"] == 408


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"nothing", b"[]", b"null", b'"x"', b"{}", b'{"text": 5}', b'{"text": null}', b'{"text": "x", "more": 1}',
     b'{"text": "\xff"}', b"[" * 100_000, b"1e999", b'{"text": ["x"]}'],
    ids=range(14),
)  # fmt: skip
def test_a_body_that_is_no_text_in_json_is_refused_in_one_line(local: TestClient, content: bytes) -> None:
    assert local.post(LIVE, content=content, headers=JSON).status_code in (400, 422)
    refused(answer := local.put(HUMAN, content=content, headers=JSON), answer.status_code)


def test_an_address_that_asks_without_end_must_wait_and_others_need_not() -> None:
    served: list[str] = []

    async def app(scope: Any, *_: Any) -> None:
        served.append(scope["client"][0])

    rate = Rate(app, Limits(rate=5, burst=20))

    async def ask(address: str, times: int) -> list[Message]:
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        for _ in range(times):
            await rate({"type": "http", "client": (address, 1), "path": "/"}, None, send)  # type: ignore[arg-type]
        return sent

    sent = asyncio.run(ask("10.0.0.1", 50))
    assert 20 <= served.count("10.0.0.1") < 40
    assert {m["status"] for m in sent if "status" in m} == {429}
    assert any((b"retry-after", b"1") in m.get("headers", []) for m in sent)
    asyncio.run(ask("10.0.0.2", 20))
    assert served.count("10.0.0.2") == 20


def test_addresses_that_asked_long_ago_are_forgotten() -> None:
    async def app(*_: Any) -> None: ...

    rate = Rate(app, Limits())

    async def many() -> None:
        for number in range(10_000):
            await rate({"type": "http", "client": (str(number), 1), "path": "/"}, None, None)  # type: ignore[arg-type]

    asyncio.run(many())
    assert len(rate._buckets) <= 4096


# --- paths and headers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/../../../../etc/passwd",
        "/..%2f..%2f..%2fetc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/....//....//etc/passwd",
        "//etc/passwd",
        "/static/../api.py",
        "/..\\..\\etc\\passwd",
        "/%00",
        "/app.js%00.html",
        "/" + "x" * 5000,
        "/api/saes/../demo",
        "/api/saes/..%2f..%2fetc/passwd/features/0",
        "/api/saes/%2e%2e/%2e%2e/features/0",
        "/api/saes/demo/..%2ftopk/features/0",
        "/api/saes/demo%2ftopk/topk/features/0",
        "/api/saes/.hidden/x/columns",
        "/api/compare?sae=../../etc/passwd&sae=demo/topk",
        "/api/compare?sae=demo/topk/../topk&sae=demo/topk",
    ],
)
def test_no_path_leads_out_of_what_was_opened(run: Path, tmp_path: Path, path: str) -> None:
    static = tmp_path / "static"
    static.mkdir()
    (static / "index.html").write_text("the page")
    (tmp_path / "api.py").write_text("secret")
    (static / "link").symlink_to(tmp_path / "api.py")
    with client(run, static=static) as found:
        for address in (path, "/link"):
            answer = found.get(address)
            assert answer.status_code in (404, 400), (address, answer.text)
            assert "secret" not in answer.text
            assert "root:" not in answer.text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("GET", "/api/state", 200),
        ("GET", "/api/nothing", 404),
        ("GET", "/api/saes/demo/topk/features/99999", 404),
        ("DELETE", "/api/state", 405),
        ("GET", "/api/saes/demo/topk/features/x", 422),
        ("GET", "/nothing", 404),
    ],
)
def test_every_answer_says_what_a_browser_may_do_with_it(
    local: TestClient, method: str, path: str, status: int
) -> None:
    answer = local.request(method, path)
    assert answer.status_code == status
    for name, value in HEADERS.items():
        assert answer.headers[name] == value
    assert "access-control-allow-origin" not in answer.headers
    assert (answer.headers.get("cache-control") == "no-store") == path.startswith("/api/")


def test_even_a_failure_of_the_server_has_the_headers_and_no_traceback(
    local: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("/secret/path.py")

    monkeypatch.setattr("kanary.app.library.Library.refresh", fails)
    answer = local.get("/api/runs")
    assert "secret" not in refused(answer, 500)
    assert answer.headers["content-security-policy"] == HEADERS["content-security-policy"]


def test_the_policy_allows_nothing_but_this_server_and_no_inline_script() -> None:
    policy = dict(part.strip().split(" ", 1) for part in HEADERS["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["script-src"] == policy["connect-src"] == policy["style-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["object-src"] == policy["base-uri"] == "'none'"
    assert "unsafe" not in HEADERS["content-security-policy"]
