"""A stand-in for `kanary serve`: the built page and made-up data, so that tests of the page need no model and no index."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import page_data as data
import page_running as running

STATIC = Path(__file__).resolve().parent.parent / "src" / "kanary" / "app" / "static"
TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css", ".json": "application/json"}
# The strictest policy that the page must live with.
POLICY = "default-src 'self'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:"


class Page(ThreadingHTTPServer):
    """The server, what it remembers, and what a test tells it to do."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.columns = data.columns()
        self.runs = data.runs()
        self.human: dict[int, dict[str, str]] = {}
        self.lists: dict[str, list[int]] = {"weather": [3, 9, 15]}
        self.hostile: set[int] = {13}
        self.failing: set[str] = set()  # ends of paths that answer 500
        self.slow: dict[str, float] = {}  # seconds that an end of a path takes
        self.asked: list[str] = []
        self.written: list[dict[str, Any]] = []  # what each text was asked for with
        self.watches: list[dict[str, Any]] = [running.watch("lying")]
        self.pause = 0.0  # seconds between the pieces of a text that is written
        self.left: list[int] = []  # pieces that readers took of texts which they did not wait for

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"

    def feature(self, latent: int, name: str) -> dict[str, Any]:
        made = data.feature(latent, name=name, hostile=latent in self.hostile)
        return made | {"human": self.human.get(latent, made["human"])}

    def live(self, text: str) -> dict[str, Any]:
        pieces = ["<s>", *[p if i == 0 else " " + p for i, p in enumerate(text.split(" "))]]
        places = range(1, len(pieces))
        codes = [[t, (7 * t + 31 * k) % data.WIDTH, round(1 + (t * k) % 9 * 0.7, 3)] for t in places for k in range(6)]
        codes += [[t, 3, 4.0 + t % 3] for t in places[::2]]
        losses = [None, *[round(2 + (t % 5) / 3, 3) for t in places]]
        return {"tokens": pieces, "ids": [0, *places], "special": [0], "codes": codes, "loss": losses, "ms": 4.2}


class Handler(BaseHTTPRequestHandler):
    server: Page
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Silence."""

    def answer(
        self, body: bytes | dict[str, Any] | list[Any], status: int = 200, kind: str = "application/json"
    ) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(raw)))
        self.send_header("Content-Security-Policy", POLICY)
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # the reader may have gone on
            self.wfile.write(raw)

    def stream(self, events: list[dict[str, Any]]) -> None:
        """Server-sent events, one after the other, until the reader leaves."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        for sent, event in enumerate(events):
            try:
                self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
                self.wfile.flush()
            except ConnectionError:
                self.server.left.append(sent)
                return
            time.sleep(self.server.pause)

    def body(self) -> dict[str, Any]:
        length = int(self.headers.get("Content-Length") or 0)
        return dict(json.loads(self.rfile.read(length))) if length else {}

    def do_GET(self) -> None:
        self.route("GET")

    def do_PUT(self) -> None:
        self.route("PUT")

    def do_POST(self) -> None:
        self.route("POST")

    def do_DELETE(self) -> None:
        self.route("DELETE")

    def route(self, method: str) -> None:
        url = urlsplit(self.path)
        body = self.body()
        self.server.asked.append(f"{method} {self.path}")
        if not url.path.startswith("/api/"):
            file = STATIC / (url.path.lstrip("/") or "index.html")
            known = file.is_file() and file.parent == STATIC
            self.answer(
                file.read_bytes() if known else b"not found",
                200 if known else 404,
                TYPES.get(file.suffix, "text/plain"),
            )
            return
        for end, seconds in self.server.slow.items():
            if url.path.endswith(end):
                time.sleep(seconds)
        if any(url.path.endswith(end) for end in self.server.failing):
            self.answer(
                {"error": "the index of demo/topk is damaged", "fix": "Build it again: `kanary index runs/demo`"}, 500
            )
            return
        if url.path.endswith("/write"):
            self.server.written.append(body)
            self.stream(running.events(body))
            return
        if url.path.endswith("/sweep") and "text/event-stream" in self.headers.get("Accept", ""):
            self.stream(running.swept())
            return
        found = self.api(
            method, [unquote(part) for part in url.path.removeprefix("/api/").split("/")], parse_qs(url.query), body
        )
        self.answer({"error": "no such thing", "fix": ""} if found is None else found, 404 if found is None else 200)

    def api(self, method: str, path: list[str], query: dict[str, list[str]], body: dict[str, Any]) -> Any:
        match path:
            case ["state"]:
                return {"version": "0.1.0", "runs": len(self.server.runs), "live": True}
            case ["runs"]:
                return self.server.runs
            case ["compare"]:
                saes = [s for run in self.server.runs for s in run["saes"] if s["id"] in query["sae"]]
                twins = [{"a": i, "b": (i * 7) % data.WIDTH, "cosine": round(0.99 - i / 400, 3)} for i in range(40)]
                return {"saes": saes, "twins": twins, "notes": ["L0 differs: 16 and 32."] if len(saes) > 1 else []}
            case ["saes", _, name, *rest]:
                return self.sae(method, name, rest, query, body)
        return None

    def sae(self, method: str, name: str, path: list[str], query: dict[str, list[str]], body: dict[str, Any]) -> Any:
        server = self.server
        match path:
            case []:
                return data.meta(name)
            case ["columns"]:
                return server.columns
            case ["logit-moments"]:
                return data.moments()
            case ["features", latent]:
                return server.feature(int(latent), name) if int(latent) < data.WIDTH else None
            case ["features", latent, "human"]:
                server.human[int(latent)] = body | {"edited": "2026-11-28T13:00:00Z"}
                return server.human[int(latent)]
            case ["documents", number]:
                feature = server.feature(int(query["latent"][0]), name)
                example = next((e for e in feature["examples"] if e["document"] == int(number)), None)
                if example is None:
                    return None
                before = max(0, example["position"] - example["focus"])
                tokens = [" so"] * before + example["tokens"] + [" end"] * 30
                shifted = [[i + before, v] for i, v in example["activations"]]
                return {"id": int(number), "tokens": tokens, "activations": shifted}
            case ["export.html"]:
                return f"<!doctype html>features {query['features'][0]}".encode()
            case ["search"]:
                words, low = query.get("q", [""])[0].lower(), float(query.get("min_density", ["0"])[0])
                hits = [
                    i
                    for i in range(data.WIDTH)
                    if words in (server.columns["label"][i] or "") and server.columns["density"][i] >= low
                ]
                start = int(query.get("offset", ["0"])[0])
                rows = [data.row(i, server.columns) for i in hits[start : start + int(query.get("limit", ["50"])[0])]]
                if "like" in query:
                    rows = [r | {"cosine": 0.9 - 0.01 * i} for i, r in enumerate(rows)]
                return {"total": len(hits), "rows": rows}
            case ["lists"]:
                return server.lists
            case ["lists", title] if method == "PUT":
                server.lists[title] = body["latents"]
                return {}
            case ["lists", title] if method == "DELETE":
                return {} if server.lists.pop(title, None) is not None else None
            case ["live"]:
                return server.live(body["text"])
            case ["watches"]:
                return server.watches
            case ["watches", title] if method == "PUT":
                server.watches.append(running.watch(title) | {"on_alarm": body["on_alarm"]})
                return server.watches[-1]
            case ["watches", title] if method == "DELETE":
                server.watches = [watch for watch in server.watches if watch["name"] != title]
                return {}
            case ["traces", *which]:
                return running.trace() if which else [running.trace_row()]
            case ["attribute"]:
                return running.attribution(body["prompt"])
            case ["search-prompts"]:
                return running.prompt_search()
        return None


@contextmanager
def serving() -> Iterator[Page]:
    server = Page()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
