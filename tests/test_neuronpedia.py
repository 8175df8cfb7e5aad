"""Explanations looked up, at a server on loopback that answers as the site does."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from kanary.errors import KanaryError
from kanary.explain.neuronpedia import Neuronpedia
from kanary.explain.types import Explanation, Failed
from planted_evidence import planted


class Site(ThreadingHTTPServer):
    """Says ``replies[path]`` in turn: (status, headers, content), the last again and again; 404 for the rest."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.replies: dict[str, list[tuple[int, dict[str, str], bytes]]] = {}
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def says(self, latent: int, *replies: tuple[int, dict[str, str], bytes]) -> None:
        self.replies[f"/api/feature/gpt2-small/6-res-jb/{latent}"] = list(replies)


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Site)
        self.server.asked.append(self.path)
        replies = self.server.replies.get(self.path, [(404, {}, b"")])
        status, headers, content = replies.pop(0) if len(replies) > 1 else replies[0]
        self.send_response(status)
        for name, value in {"content-length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


def feature(index: int, *explanations: tuple[str, str]) -> bytes:
    told = [{"description": text, "createdAt": made, "explanationModelName": "gpt-4o"} for text, made in explanations]
    return json.dumps(
        {"modelId": "gpt2-small", "layer": "6-res-jb", "index": str(index), "explanations": told}
    ).encode()


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()


def look_up(url: str, folder: Path, *latents: int) -> list[Explanation | BaseException]:
    async def work() -> list[Explanation | BaseException]:
        explainer = Neuronpedia(model="gpt2-small", source="6-res-jb", cache=folder / "np.sqlite", url=url)
        asked = (explainer.explain(replace(planted("dog", n=1), latent=latent)) for latent in latents)
        return await asyncio.gather(*asked, return_exceptions=True)

    return asyncio.run(work())


def test_the_newest_explanation_is_found_once_and_kept(site: Site, tmp_path: Path) -> None:
    site.says(3, (200, {}, feature(3, ("old", "2024-01-01"), ("words\n about dogs", "2025-02-02"), ("older", "2023"))))
    for _ in range(2):
        (found,) = look_up(site.url, tmp_path, 3)
        assert isinstance(found, Explanation)
        assert (found.latent, found.text, found.by) == (3, "words about dogs", "neuronpedia (gpt-4o)")
    assert site.asked == ["/api/feature/gpt2-small/6-res-jb/3"]


@pytest.mark.parametrize("content", [feature(3), b"null", None])
def test_what_is_not_there_is_kept_too(site: Site, tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        site.says(3, (200, {}, content))
    for _ in range(2):
        (found,) = look_up(site.url, tmp_path, 3)
        assert "no explanation of feature 3" in str(found)
    assert len(site.asked) == 1


@pytest.mark.parametrize(
    "content", [feature(4, ("other", "2025")), b"<html>", b"[]", b'{"index": 3, "explanations": 5}']
)
def test_an_answer_for_another_feature_or_none_at_all_is_rejected_and_not_kept(
    site: Site, tmp_path: Path, content: bytes
) -> None:
    site.says(3, (200, {}, content), (200, {}, feature(3, ("right", "2025"))))
    (found,) = look_up(site.url, tmp_path, 3)
    assert isinstance(found, Failed)
    (found,) = look_up(site.url, tmp_path, 3)
    assert isinstance(found, Explanation)


def test_too_many_requests_are_waited_for(site: Site, tmp_path: Path) -> None:
    busy = (429, {"retry-after": "0.01"}, b"")
    site.says(3, busy, busy, (200, {}, feature(3, ("right", "2025"))))
    (found,) = look_up(site.url, tmp_path, 3)
    assert isinstance(found, Explanation)


def test_offline_it_says_so_once_and_goes_on_with_what_it_has(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site.says(3, (200, {}, feature(3, ("kept", "2025"))))
    look_up(site.url, tmp_path, 3)
    site.shutdown()
    site.server_close()
    found = look_up(site.url, tmp_path, 1, 2, 3, 4, 5, 6, 7, 8)
    assert [isinstance(each, Explanation) for each in found] == [False, False, True, False, False, False, False, False]
    assert all("cannot be reached" in str(each) for each in found if isinstance(each, Failed))
    assert capsys.readouterr().err.count("cannot be reached") == 1


def test_a_file_is_not_a_site(tmp_path: Path) -> None:
    with pytest.raises(KanaryError, match="address"):
        Neuronpedia(model="m", source="s", cache=tmp_path / "a", url="file:///etc/passwd")
