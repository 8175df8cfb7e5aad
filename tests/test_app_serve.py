"""The server behind a real socket on loopback: many clients, clients that hang up, what is typed at it, and how it starts."""

import json
import re
import signal
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import kanary as library
from kanary.app import reading
from kanary.app.api import WAITING
from kanary.app.guard import SHORTEST_TOKEN
from kanary.app.lanes import Lane, Stop
from kanary.app.server import Running, access_to
from kanary.errors import KanaryError
from runs import Child, kanary
from serving import indexed_run

LIVE = "/api/saes/demo/topk/live"
STORY = "Once upon a time, there was a little girl named Lily."


@pytest.fixture(scope="module")
def run(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return indexed_run(tiny_llama, tmp_path_factory)


@pytest.fixture
def server(run: Path) -> Iterator[Running]:
    with library.serve(run, port=0, browser=False, block=False) as found:
        yield found


def port(server: Running) -> int:
    found = re.search(r":(\d+)/", server.url)
    assert found
    return int(found[1])


def lane(server: Running) -> Lane:
    return server.service.reading


def test_an_answer_does_not_wait_until_its_head_is_acknowledged(server: Running) -> None:
    """Its parts would else lie 40 ms apart (Nagle's algorithm and delayed acknowledgements)."""
    assert server._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_the_terminal_is_told_once_that_a_webhook_is_dead(server: Running, capsys: pytest.CaptureFixture[str]) -> None:
    webhooks = server.service.desks.webhooks
    for _ in range(3):
        webhooks.send("http://127.0.0.1:1/dead", {"watch": "lying"})
    webhooks.close()
    said = [line for line in capsys.readouterr().err.splitlines() if "dead" in line]
    assert len(webhooks.problems) == 3
    assert len(said) == 1
    assert said[0].startswith("Webhook http://127.0.0.1:1/dead did not take an alarm: ")


def ask(server: Running, path: str, body: Any = None) -> Any:
    """The JSON that is answered."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port(server)}{path}", data, {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def connect(server: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port(server)), timeout=60)


def post(server: Running, path: str, body: Any) -> socket.socket:
    """A request whose answer nobody has read yet."""
    connection = connect(server)
    connection.sendall(written(path, body))
    return connection


def written(path: str, body: Any) -> bytes:
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    return head.encode() + data


def raw(server: Running, request: bytes) -> bytes:
    """What is answered to these very bytes."""
    with connect(server) as connection:
        connection.sendall(request)
        return answer_of(connection)


def answer_of(connection: socket.socket) -> bytes:
    with connection.makefile("rb") as stream:
        head = b"".join(iter(stream.readline, b"\r\n")) if (first := stream.peek(1)) else first
        length = re.search(rb"content-length: (\d+)", head.lower())
        return head + (stream.read(int(length[1])) if length else stream.read())


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


class Endless:
    """In the place of reading a text: goes on until it is told to stop, or the test lets it end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.stopped, self.end = 0, 0, threading.Event()
        monkeypatch.setattr(reading, "read", self)

    def __call__(self, lm: Any, sae: Any, text: str, stop: Stop) -> dict[str, Any]:
        self.begun += 1
        while not self.end.is_set():
            if stop.wait(0.005):
                self.stopped += 1
            stop.check()
        return {"text": text}


# --- clients ------------------------------------------------------------------------------------------------------


def test_fifty_clients_at_once_are_answered_as_one_alone(server: Running) -> None:
    texts = [f"{STORY} {number} {STORY}" for number in range(5)]
    alone = {text: ask(server, LIVE, {"text": text}) for text in texts}
    feature = ask(server, "/api/saes/demo/topk/features/3")

    def client(number: int) -> None:
        text = texts[number % len(texts)]
        found = ask(server, LIVE, {"text": text})
        assert {**found, "ms": 0} == {**alone[text], "ms": 0}
        assert ask(server, "/api/saes/demo/topk/features/3") == feature

    with ThreadPoolExecutor(50) as clients:
        list(clients.map(client, range(50)))
    until(lambda: lane(server).held == 0)


def test_who_hangs_up_is_not_served_any_more_and_frees_the_place(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = Endless(monkeypatch)
    served = post(server, LIVE, {"text": "a"})
    until(lambda: endless.begun == 1)
    waiting = [post(server, LIVE, {"text": "b"}) for _ in range(3)]
    until(lambda: lane(server).held == 4)
    for connection in waiting:
        connection.close()
    until(lambda: lane(server).held == 1)
    served.close()
    until(lambda: lane(server).held == 0)
    assert (endless.begun, endless.stopped) == (1, 1)
    endless.end.set()
    assert ask(server, LIVE, {"text": "c"}) == {"text": "c"}


def test_a_full_queue_refuses_further_texts_and_answers_everything_else(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = Endless(monkeypatch)
    connections = [post(server, LIVE, {"text": "a"}) for _ in range(WAITING)]
    until(lambda: lane(server).held == WAITING)
    answer = raw(server, written(LIVE, {"text": "one too many"}))
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nretry-after: 1\r\n" in answer.lower()
    assert ask(server, "/api/saes/demo/topk/features/3")["latent"] == 3
    assert len(ask(server, "/api/saes/demo/topk/columns")["x"]) == 64
    endless.end.set()
    for connection in connections:
        assert answer_of(connection).startswith(b"HTTP/1.1 200 ")
        connection.close()


def test_stopping_does_not_wait_for_what_never_ends(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    endless = Endless(monkeypatch)
    with library.serve(run, port=0, browser=False, block=False) as server:
        connection = post(server, LIVE, {"text": "a"})
        until(lambda: endless.begun == 1)
    assert endless.stopped == 1
    connection.close()
    with pytest.raises(OSError, match="refused"):
        connect(server)


# --- what is typed at it ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /api/state HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /api/state HTTP/1.0\r\n\r\n", b"421"),
        (b"GET /api/state HTTP/1.1\r\nhost: 127.0.0.1\r\nhost: evil.example\r\n\r\n", b"400"),
        (b"GET http://evil.example/api/state HTTP/1.1\r\nhost: evil.example\r\n\r\n", b"421"),
        (b"GET /../../../../etc/passwd HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", b"404"),
        (b"GET /..%2f..%2f..%2fetc/passwd HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", b"404"),
        (b"GET //etc/passwd HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", b"404"),
        (b"GET /api/saes/../../../etc/passwd HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", b"404"),
        (b"GET /api/saes/%ff%fe/%00/columns HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", b"404"),
        (b"\x16\x03\x01\x02\x00\x01\x00", b"400"),
        (b"POST " + LIVE.encode() + b" HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
         b"content-length: 99999999999\r\n\r\n{", b"413"),
        (b"POST " + LIVE.encode() + b" HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
         b"transfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n", b"4"),
    ],
    ids=range(12),
)  # fmt: skip
def test_strange_requests_are_refused_and_the_server_goes_on(server: Running, request_: bytes, status: bytes) -> None:
    answer = raw(server, request_)
    assert answer.startswith(b"HTTP/1.1 " + status), answer[:200]
    assert b"root:" not in answer
    assert b"Traceback" not in answer
    assert b"uvicorn" not in answer.lower()
    assert ask(server, "/api/state")["runs"] == 1


@pytest.mark.parametrize("begin", [b"GET /", b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nx: "])
def test_of_endless_lines_no_more_is_read_than_of_a_long_one(server: Running, begin: bytes) -> None:
    with connect(server) as connection, pytest.raises(OSError, match=r"reset|pipe"):
        connection.sendall(begin + b"x" * 100_000_000)
    assert ask(server, "/api/state")["runs"] == 1


def test_half_a_request_holds_nobody_up(server: Running) -> None:
    connections = [connect(server) for _ in range(30)]
    for connection in connections:
        connection.sendall(written(LIVE, {"text": "x" * 1000})[:-5])
    assert ask(server, LIVE, {"text": STORY})["tokens"]
    for connection in connections:
        connection.close()
    until(lambda: lane(server).held == 0)


# --- how it starts ------------------------------------------------------------------------------------------------


def test_it_listens_on_loopback_alone_and_needs_no_token_there(server: Running) -> None:
    assert server.url.startswith("http://127.0.0.1:")
    assert "token" not in server.url
    assert repr(server) == f"<Kanary at {server.url}, running>"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "workstation.example", "", "127.0.0.1.example"])
def test_any_other_address_demands_a_token(host: str) -> None:
    made = access_to(host, None).token
    assert made is not None
    assert len(made) >= SHORTEST_TOKEN
    assert access_to(host, None).token != made
    assert access_to(host, "x" * 16).token == "x" * 16


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.2"])
def test_loopback_demands_none_and_takes_one(host: str) -> None:
    assert access_to(host, None).token is None
    assert access_to(host, "x" * 16).token == "x" * 16


@pytest.mark.parametrize("token", ["", "short", "x" * 15, "has spaces in the middle", "é" * 20, "x" * 20 + "\n"])
def test_a_token_that_can_be_guessed_or_not_be_sent_is_refused(run: Path, token: str) -> None:
    with pytest.raises(KanaryError, match="--token must have"):
        library.serve(run, port=0, token=token, browser=False, block=False)


def test_the_token_is_in_the_address_that_is_opened_and_needed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    token = "a-token-of-my-own"
    with library.serve(run, port=0, token=token, block=False) as server:
        assert opened == [server.url] == [f"http://127.0.0.1:{port(server)}/#token={token}"]
        assert raw(server, b"GET /api/state HTTP/1.0\r\nhost: 127.0.0.1\r\n\r\n").startswith(b"HTTP/1.1 401")
        with_token = b"GET /api/state HTTP/1.0\r\nhost: 127.0.0.1\r\nauthorization: Bearer " + token.encode()
        assert raw(server, with_token + b"\r\n\r\n").startswith(b"HTTP/1.1 200")


def test_a_port_that_is_taken_is_said_and_without_one_the_next_is_found(run: Path, server: Running) -> None:
    with pytest.raises(KanaryError, match=f"port {port(server)}.*Choose another --port"):
        library.serve(run, port=port(server), browser=False, block=False)
    with pytest.raises(KanaryError, match="65535"):
        library.serve(run, port=70000, browser=False, block=False)
    with (
        library.serve(run, browser=False, block=False) as one,
        library.serve(run, browser=False, block=False) as two,
    ):
        assert port(one) != port(two)


def test_without_runs_it_is_said_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "kanary demo" in kanary("serve", "--no-browser").message
    assert "is not a folder" in kanary("serve", "nowhere", "--no-browser").message
    (tmp_path / "runs").mkdir()
    assert "There is no SAE in runs" in kanary("serve", "--no-browser").message
    (tmp_path / "runs" / "first" / "checkpoints").mkdir(parents=True)
    unfinished = kanary("serve", "runs/first", "--no-browser")
    assert unfinished.code == 2
    assert "finish it with: kanary train --resume runs/first" in unfinished.message


def test_without_its_packages_it_is_said_which_extra_has_them(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("kanary.app")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    from kanary.app.serve import serve

    with pytest.raises(KanaryError, match=r'pip install -e "\.\[app\]"'):
        serve(run)


def test_the_command_serves_until_ctrl_c(run: Path, tmp_path: Path) -> None:
    child = Child(["serve", run, "--port", "0", "--no-browser"], tmp_path)
    child.until(lambda: child.err.exists() and "Ctrl-C" in child.err.read_text())
    address = re.search(r"at (http://127\.0\.0\.1:\d+/)", child.err.read_text())
    assert address, child.err.read_text()
    with urllib.request.urlopen(address[1] + "api/runs", timeout=60) as answer:
        assert json.load(answer)[0]["id"] == "demo"
    child.send(signal.SIGINT)
    answer = child.wait()
    assert answer.code == 0
    assert "Traceback" not in answer.err
