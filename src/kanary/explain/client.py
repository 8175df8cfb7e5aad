"""Any endpoint that speaks OpenAI's protocol: a hosted API, vLLM, Ollama, llama.cpp.

The retry rule is ours, not the library's, so that what is sent again is counted, waited for by all, and bounded by the budget.
"""

import asyncio
import email.utils
import json
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit, urlunsplit

from kanary.errors import KanaryError
from kanary.explain.asking import Answer, Request
from kanary.explain.pacing import Pace
from kanary.explain.spending import Ledger, Price, Reservation, Spent
from kanary.explain.types import Failed
from kanary.explain.wire import Malformed, answer, body, joined, refused_part

if TYPE_CHECKING:
    from openai import APIError, APIStatusError

OPENAI = "https://api.openai.com/v1"
_NO_KEY = "none"  # what is sent to an endpoint that wants none
_PATIENCE = 600.0  # seconds that an endpoint may ask us to wait
_GONE = 8  # requests given up in a row: it is not the requests
_LONGEST = 10  # timeouts that one call may take, however much comes
_BYTES_PER_TOKEN, _BYTES = 4096, 1 << 22  # of a reply, at most: ten alternatives a token, and room to ramble


@dataclass(frozen=True)
class Endpoint:
    """Where questions go. The key is read from OPENAI_API_KEY and is in no field, file or message."""

    model: str
    """As the endpoint calls it."""
    base_url: str | None = None
    """Such as http://localhost:11434/v1; default: OPENAI_BASE_URL, or else OpenAI's own."""
    in_flight: int = 32
    """Calls at once."""
    per_minute: float | None = None
    """Calls a minute, at most; without it the endpoint's own refusals set the pace."""
    price: Price | None = None
    budget_usd: float | None = None
    """The job stops before it costs more; needs a price."""
    stream: bool = False
    """Whether answers are asked for in pieces, for an endpoint or a proxy that cuts silent connections."""
    timeout: float = 120.0
    """Seconds without a sign of an answer."""
    tries: int = 6
    """Calls for one answer, refusals for the moment (429) not counted."""
    first_wait: float = 0.5
    """Seconds before the second try; doubled for each further one."""

    def __post_init__(self) -> None:
        if self.in_flight < 1 or self.tries < 1 or not (self.per_minute is None or self.per_minute > 0):
            raise KanaryError(
                f"Calls in flight ({self.in_flight}), tries ({self.tries}) and calls a minute ({self.per_minute}) need to be "
                "1 or more."
            )


class Client:
    """A back end that asks an endpoint; an asynchronous context manager.

    Raises:
        KanaryError: the library ``openai`` or the key is missing, the address is none.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.url, self._key = _address(endpoint.base_url)
        self.ledger = Ledger(endpoint.price, endpoint.budget_usd)
        self._pace = Pace(endpoint.in_flight, endpoint.per_minute, endpoint.first_wait)
        self._refused: frozenset[str] = frozenset()
        self._given_up = 0  # in a row
        self._openai = _library().AsyncOpenAI(
            api_key=self._key, base_url=self.url, timeout=endpoint.timeout, max_retries=0
        )

    @property
    def name(self) -> str:
        return f"llm:{self.endpoint.model}"

    @property
    def identity(self) -> str:
        return f"{_public(self.url)} {self.endpoint.model}"

    @property
    def spent(self) -> Spent:
        return self.ledger.spent

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._openai.close()

    async def answer(self, request: Request) -> Answer:
        """Asks until there is an answer or ``endpoint.tries`` calls have failed.

        Raises:
            Failed: no answer to this request.
            BudgetSpent: the call might pass the budget.
            KanaryError: the endpoint refuses the key or the model, asks for too long a pause, or is not there.
        """
        tries, start = 0, time.monotonic()
        while True:
            async with self._pace.turn():
                found = await self._once(request)
            if isinstance(found, Answer):
                self._given_up = 0
                self._pace.answered()
                return found
            if found is not None:
                tries += 1
                if tries == self.endpoint.tries:
                    self._give_up(f"no answer in {tries} tries: {found}")
                await self._pace.before_retry(tries)
            elif time.monotonic() - start > _PATIENCE:
                self._stop(f"refused a call for {_PATIENCE:.0f} s", "too many requests")
            self.ledger.retries += 1

    async def _once(self, request: Request) -> Answer | str | None:
        """One call: the answer, or what failed, or None if it is to be sent again at once."""
        openai = _library()
        sent = body(request, self.endpoint.model, self.endpoint.stream, self._refused)
        reservation = await self.ledger.reserve(request)
        settle = reservation.lost  # also if this task is cancelled
        try:
            async with asyncio.timeout(_LONGEST * self.endpoint.timeout):
                reply = await self._send(sent, _BYTES + _BYTES_PER_TOKEN * request.max_tokens)
            found = answer(reply, self.ledger.worst_tokens(request) // 3)
            settle = _paid(reservation, found)
            return found
        except openai.APIStatusError as error:
            settle = reservation.refused
            return self._status(error, sent)
        except TimeoutError:
            return f"the answer did not end within {_LONGEST * self.endpoint.timeout:.0f} s"
        except (openai.APIError, Malformed, ValueError, RecursionError) as error:  # no connection, a cut body, not JSON
            if _never_left(error):
                settle = reservation.refused
            return self._told(error)
        finally:
            await settle()

    async def _send(self, sent: dict[str, Any], most: int) -> Any:
        """The reply as an object; one of more than ``most`` bytes is malformed."""
        async with self._openai.chat.completions.with_streaming_response.create(**sent) as response:
            if self.endpoint.stream:
                return await joined(_lines(response, most))
            # fast because no object is built for every alternative of every token
            return json.loads(b"".join([piece async for piece in _pieces(response, most)]))

    def _status(self, error: "APIStatusError", sent: dict[str, Any]) -> str | None:
        """What to do about an HTTP status: what failed, or None to send it again."""
        status, told = error.status_code, self._told(error)
        if status == 429 and "insufficient_quota" in (error.code or "", error.type or ""):
            self._stop("refuses to work", f"the account has no credit left ({told})")
        if status == 429:
            self._pause(_asked_to_wait(error.response.headers), told)
            return None
        if status in (401, 403):
            self._stop("refuses the key", f"set OPENAI_API_KEY to one that may use {self.endpoint.model!r} ({told})")
        if status == 404:
            self._stop("knows no such address or model", f"{self.endpoint.model!r} ({told})")
        if status in (400, 422):
            part = refused_part(error.param, told)
            if part is None or part not in sent:
                self._give_up(f"it refuses the request: {told}")
            self._refused |= {part}
            return None
        return f"status {status}, {told}" if status >= 500 or status in (408, 409) else self._give_up(told)

    def _pause(self, seconds: float | None, told: str) -> None:
        if seconds is not None and seconds > _PATIENCE:
            self._stop("asks for a pause", f"{seconds:.0f} s ({told})")
        self._pace.pause(seconds)

    def _give_up(self, reason: str) -> NoReturn:
        self._given_up += 1
        self.ledger.failures += 1
        self.ledger.reason = reason
        if self._given_up >= _GONE:
            self._stop(f"answered none of the last {_GONE} requests", reason)
        raise Failed(f"{self.name}: {reason}")

    def _stop(self, what: str, why: str) -> NoReturn:
        raise KanaryError(
            f"The endpoint {_public(self.url)} {what}: {why}. Answers so far are kept; run again to go on."
        )

    def _told(self, error: Exception) -> str:
        """What an error says, on one line, without the key."""
        said = getattr(error, "body", None)
        text = said.get("message") if isinstance(said, dict) else None
        cause = f" ({type(error.__cause__).__name__})" if error.__cause__ is not None else ""
        line = " ".join(f"{text or str(error) + cause}".split())
        line = line if self._key == _NO_KEY else line.replace(self._key, "…")
        return line if len(line) <= 200 else f"{line[:200]}…"


async def _lines(response: Any, most: int) -> AsyncIterator[str]:
    rest = b""
    async for piece in _pieces(response, most):
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line.decode("utf-8", "replace")
    yield rest.decode("utf-8", "replace")


async def _pieces(response: Any, most: int) -> AsyncIterator[bytes]:
    """The body as it comes."""
    size = 0
    try:
        async for piece in response.iter_bytes():
            if (size := size + len(piece)) > most:
                raise Malformed(f"the reply has more than {most:,} bytes")
            yield piece
    except Malformed:
        raise
    except Exception as error:  # of the HTTP library beneath openai, which is another one from version to version
        raise Malformed(f"the reply broke off ({type(error).__name__})") from error


def _paid(reservation: Reservation, found: Answer) -> Any:
    return lambda: reservation.paid(found.tokens_in, found.tokens_out)


def _never_left(error: "APIError | Exception") -> bool:
    """Whether the connection was never made, so that nothing can have been charged."""
    return type(error.__cause__).__name__ in {"ConnectError", "ConnectTimeout", "PoolTimeout"}


def _asked_to_wait(headers: Any) -> float | None:
    """Seconds, from ``retry-after-ms`` or ``Retry-After`` (seconds or a date); None if there is neither."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) / unit
        except ValueError:
            continue
        if seconds >= 0:
            return seconds
    date = email.utils.parsedate_tz(headers.get("retry-after", ""))
    return max(0.0, email.utils.mktime_tz(date) - time.time()) if date else None


def _address(base_url: str | None) -> tuple[str, str]:
    """The endpoint's address and the key for it."""
    url = (base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI).strip().rstrip("/")
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise KanaryError(
            f"{_public(url)!r} is not the address of an endpoint; one looks like http://localhost:11434/v1."
        )
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not key and url == OPENAI:
        raise KanaryError(
            "There is no key for OpenAI: set OPENAI_API_KEY, or OPENAI_BASE_URL to the address of another endpoint, such as "
            "http://localhost:11434/v1 (Ollama)."
        )
    if not key.isascii() or not key.isprintable():
        raise KanaryError("OPENAI_API_KEY holds signs that no key has; set it again.")
    return url, key or _NO_KEY


def _public(url: str) -> str:
    """An address without a name, a password or a query, which may be secrets."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _library() -> Any:
    try:
        import openai
    except ImportError as error:
        raise KanaryError(
            'An LLM behind an endpoint is asked with the library openai, which is not installed: pip install -e ".[explain]"'
        ) from error
    return openai
