"""The built page: files of ``static/``, which ``web/`` is built into; without them, a page that says so."""

import mimetypes
import os
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

STATIC = Path(__file__).with_name("static")
MISSING = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Kanary</title>
<h1>The page has not been built</h1>
<p>This copy of Kanary comes without its web page. In a clone of the repository, with Node 20 or newer:</p>
<pre>cd web
npm ci
npm run build</pre>
<p>The interface for programs works without it: <a href="api/runs">api/runs</a>.</p>
</html>
"""


class Page(StaticFiles):
    """Asks the browser to look for a new version every time: an upgraded Kanary must not run an old page."""

    def file_response(
        self, full_path: "str | os.PathLike[str]", stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers["cache-control"] = "no-cache"  # kept, but checked by its ETag
        return response


def serve_page(app: FastAPI, static: Path = STATIC) -> None:
    """Adds ``static`` to ``app``, after everything else that it answers."""
    if (static / "index.html").is_file():
        mimetypes.add_type("text/javascript", ".js")  # some systems have it as plain text, which browsers refuse to run
        app.mount("/", Page(directory=static, html=True))
        return

    @app.get("/", include_in_schema=False)
    def missing() -> HTMLResponse:
        return HTMLResponse(MISSING)
