"""A stand-in for the Hugging Face Hub on loopback: enough of its HTTP to create, fill and download repositories."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest


@dataclass
class Repository:
    """Every commit, oldest first, with all of its files."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes]) -> str:
        listing = json.dumps([len(self.commits), sorted((path, _blob_id(data)) for path, data in files.items())])
        sha = hashlib.sha1(listing.encode()).hexdigest()
        self.commits[sha] = files
        return sha

    def sha(self, revision: str) -> str | None:
        return next(reversed(self.commits)) if revision == "main" else revision if revision in self.commits else None


@dataclass
class Hub:
    """A running stand-in.

    Attributes:
        url: what ``endpoint=`` and HF_ENDPOINT take.
        repositories: by id, ``owner/name``.
        requests: ``(method, path)`` of everything that was asked, in order.
        broken: while true, every request is answered with status 500.
    """

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    broken: bool = False

    def files(self, repository: str, revision: str = "main") -> dict[str, bytes]:
        found = self.repositories[repository]
        return found.commits[found.sha(revision) or revision]


@contextmanager
def running_hub(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[Hub]:
    """Serves a Hub on loopback; this process's Hub client talks to it alone and keeps its downloads in ``cache``."""
    from huggingface_hub import constants

    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    for name, value in {  # the client reads them from the environment only once, when it is imported
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": template,
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_OFFLINE": False,
    }.items():
        monkeypatch.setattr(constants, name, value)
    # the loader keeps a client of its own, which may have been made for another address
    monkeypatch.setattr("transformers.utils.hub._hf_api", None, raising=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed; tests read ``hub.requests``."""

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self._body()
        self.hub.requests.append((self.command, path))
        if self.hub.broken:
            return self._send(500, {"error": "Internal Error"})
        for pattern, method, handle in _ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in method:
                return handle(self, body, **match.groupdict())
        return self._missing("EntryNotFound")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            chunks = []
            while size := int(self.rfile.readline(), 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        url = {"url": f"{self.hub.url}/{name}"}
        if name in self.hub.repositories:
            return self._send(409, url | {"error": "You already created this model repo"})
        repository = self.hub.repositories[name] = Repository(private=asked.get("visibility") == "private")
        repository.commit({".gitattributes": b""})
        return self._send(200, url)

    def _validate(self, body: bytes) -> None:
        self._send(200, {"errors": [], "warnings": []})

    def _preupload(self, body: bytes, repo: str, revision: str) -> None:
        if not (found := self._find(repo, revision)):
            return
        have = found[1]
        self._send(
            200,
            {
                "files": [
                    {
                        "path": file["path"],
                        "uploadMode": "regular",
                        "shouldIgnore": False,
                        "oid": _blob_id(have[file["path"]]) if file["path"] in have else None,
                    }
                    for file in json.loads(body)["files"]
                ]
            },
        )

    def _commit(self, body: bytes, repo: str, revision: str) -> None:
        if not (found := self._find(repo, revision)):
            return
        files = dict(found[1])
        for line in body.splitlines():
            change = json.loads(line)
            if change["key"] == "file":
                files[change["value"]["path"]] = base64.b64decode(change["value"]["content"])
            elif change["key"] == "deletedFile":
                files.pop(change["value"]["path"])
        sha = self.hub.repositories[repo].commit(files)
        self._send(200, {"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/{repo}/commit/{sha}"})

    def _info(self, body: bytes, repo: str, revision: str | None = None) -> None:
        if not (found := self._find(repo, revision or "main")):
            return
        sha, files = found
        private = self.hub.repositories[repo].private
        self._send(200, {"id": repo, "sha": sha, "private": private, "siblings": [{"rfilename": f} for f in files]})

    def _tree(self, body: bytes, repo: str, revision: str) -> None:
        if not (found := self._find(repo, revision)):
            return
        files = sorted(found[1].items())
        self._send(200, [{"type": "file", "path": p, "size": len(d), "oid": _blob_id(d)} for p, d in files])

    def _resolve(self, body: bytes, repo: str, revision: str, path: str) -> None:
        if not (found := self._find(repo, revision)):
            return
        sha, files = found
        if path not in files:
            return self._missing("EntryNotFound")
        data = files[path]
        return self._send(200, data, {"ETag": f'"{_blob_id(data)}"', "X-Repo-Commit": sha})

    def _find(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Commit and files, or None after answering that there is no such thing."""
        if repo not in self.hub.repositories:
            return self._missing("RepoNotFound")
        repository = self.hub.repositories[repo]
        sha = repository.sha(revision)
        return (sha, repository.commits[sha]) if sha else self._missing("RevisionNotFound")

    def _missing(self, code: str) -> None:
        self._send(404, {"error": code}, {"X-Error-Code": code})

    def _send(self, status: int, answer: Any, headers: dict[str, str] | None = None) -> None:
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


_REPO, _REVISION = r"(?P<repo>[^/]+/[^/]+)", r"(?P<revision>[^/]+)"
_ROUTES = [
    (r"/api/repos/create", ("POST",), _Handler._create),
    (r"/api/validate-yaml", ("POST",), _Handler._validate),
    (rf"/api/models/{_REPO}/preupload/{_REVISION}", ("POST",), _Handler._preupload),
    (rf"/api/models/{_REPO}/commit/{_REVISION}", ("POST",), _Handler._commit),
    (rf"/api/models/{_REPO}/tree/{_REVISION}/?", ("GET",), _Handler._tree),
    (rf"/api/models/{_REPO}(/revision/{_REVISION})?", ("GET",), _Handler._info),
    (rf"/{_REPO}/resolve/{_REVISION}/(?P<path>.+)", ("GET", "HEAD"), _Handler._resolve),
]


def _blob_id(data: bytes) -> str:
    """What git calls a file with this content; the client compares it to skip what has not changed."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
