"""What a client is told when a request cannot be served: one line of JSON, never a traceback."""

import json
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from kanary.errors import KanaryError

GONE = 499  # nginx's status for a client that hung up; nobody reads it
FAILED, SEE = "The server failed at this request.", "The reason is in the terminal that runs kanary serve."
_FIXES = {404: "Look at /api/runs for what is there.", 405: "Look at docs/app.md for the methods of every address."}


class Problem(BaseModel):
    """Every answer with a status of 400 or more."""

    error: str
    """One line."""
    fix: str
    """What to do about it; may be empty."""


class Refused(HTTPException):
    """A request that is answered with ``status`` and ``{"error": …, "fix": …}``."""

    def __init__(self, status: int, error: str, fix: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, error, dict(headers or {}))
        self.fix = fix


class ClientGone(Exception):
    """The client hung up before its answer was ready."""


class Json(Response):
    """JSON that is as small as it can be; raises ValueError at NaN and infinity, which JSON does not have."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(
            "utf-8", "replace"
        )


def refusal(status: int, error: str, fix: str = "", headers: Mapping[str, str] | None = None) -> Json:
    return Json({"error": " ".join(error.split()), "fix": fix}, status, dict(headers or {}))


def answer_errors(app: FastAPI) -> None:
    """Makes ``app`` answer every error in this form, or in OpenAI's where OpenAI's interface was asked."""

    @app.exception_handler(HTTPException)
    def _http(request: Request, error: HTTPException) -> Json:
        fix = error.fix if isinstance(error, Refused) else _FIXES.get(error.status_code, "")
        return _said(request, error.status_code, str(error.detail), fix, error.headers)

    @app.exception_handler(RequestValidationError)
    def _invalid(request: Request, error: RequestValidationError) -> Json:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"][1:])) or "the request"  # after "path", "query" or "body"
        return _said(request, 422, f"{where}: {first['msg']}", "Look at docs/app.md for what this address takes.")

    @app.exception_handler(KanaryError)
    def _user(request: Request, error: KanaryError) -> Json:
        return _said(request, 409, str(error))

    @app.exception_handler(ClientGone)
    def _gone(_: Request, __: ClientGone) -> Response:
        return Response(status_code=GONE)

    @app.exception_handler(Exception)
    def _unexpected(request: Request, __: Exception) -> Json:  # uvicorn writes the traceback to the terminal
        return _said(request, 500, FAILED, SEE)


def openai_error(message: str, status: int) -> dict[str, Any]:
    """What clients of OpenAI's interface expect in place of an answer."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return {"error": {"message": " ".join(message.split()), "type": kind, "param": None, "code": None}}


def _said(request: Request, status: int, error: str, fix: str = "", headers: Mapping[str, str] | None = None) -> Json:
    if request.url.path.startswith("/v1/"):
        return Json(openai_error(f"{error} {fix}", status), status, dict(headers or {}))
    return refusal(status, error, fix, headers)
