"""A small run with two SAEs and their indexes, and clients of the server that shows it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from starlette.types import ASGIApp

import kanary
from kanary.app.api import Service, create_app
from kanary.app.guard import Access, Limits
from kanary.app.library import Library
from runs import small, write_stories

HOME = "http://127.0.0.1:7350"
JSON = {"content-type": "application/json"}
SAE_ = "/api/saes/demo/topk"
_made: dict[Path, Path] = {}


def indexed_run(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run ``demo`` with the SAEs ``topk`` and ``batchtopk``, both indexed; made once. Not to be changed."""
    if model not in _made:
        folder = tmp_path_factory.mktemp("served")
        text = write_stories(folder / "stories.jsonl", 120)
        run = kanary.train(**small(model, text, out=str(folder / "demo"), sae=["topk", "batchtopk"]), quiet=True)
        kanary.index(run, tokens=2000, part="all", quiet=True)
        _made[model] = run.folder
    return _made[model]


def copied(run: Path, to: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(run, to))


@contextmanager
def client(
    *runs: Path,
    access: Access | None = None,
    limits: Limits | None = None,
    static: Path | None = None,
    headers: dict[str, str] | None = None,
) -> Iterator[TestClient]:
    """Speaks to the application in this process; what fails in there is a 500, as over a network."""
    service = Service(Library(runs))
    options: dict[str, Any] = {} if static is None else {"static": static}
    app: ASGIApp = create_app(service, access, limits or Limits(burst=10**6), **options)
    with TestClient(app, base_url=HOME, raise_server_exceptions=False, headers=headers) as found:
        yield found
    service.close()


def get(local: TestClient, path: str, **query: Any) -> Any:
    answer = local.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()
