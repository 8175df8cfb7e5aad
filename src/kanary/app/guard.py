"""Who may ask, and how much: what stands between the network and the application.

A page on the internet can make a browser send requests to this machine. It cannot set the Host header to one of ours while
its own name is in the address bar (DNS rebinding), nor Origin (request forgery), nor read the token.
"""

import asyncio
import hmac
import ipaddress
import re
import time
from collections import OrderedDict
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kanary.app.answers import Refused, refusal

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
API = ("/api/", "/v1/")
"""What only those may ask who carry the token; /v1/ is OpenAI's interface."""
SHORTEST_TOKEN = 16
POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
_AUTHORITY = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9_.-]{1,253})(:\d{1,5})?", re.ASCII)


@dataclass(frozen=True)
class Access:
    """Who may ask."""

    hosts: frozenset[str] = LOOPBACK
    """Names under which the server may be addressed, in lower case."""
    any_address: bool = False
    """Whether it may also be addressed by any IP address: no name, so nothing to rebind."""
    token: str | None = None
    """What requests to the API must carry as ``Authorization: Bearer …``; None where none is needed."""

    def knows(self, host: str) -> bool:
        """Whether ``host``, a Host header without its port, means this server."""
        return host in self.hosts or (self.any_address and _is_address(host))


@dataclass(frozen=True)
class Limits:
    """How much a client may ask."""

    body: int = 2 * 2**20
    """Bytes of a request's body."""
    seconds: float = 20.0
    """For a body to arrive."""
    rate: float = 100.0
    """Requests per second and address, in the long run."""
    burst: int = 600
    """Requests at once from one address that has been quiet."""


def guarded(app: ASGIApp, access: Access, limits: Limits | None = None) -> ASGIApp:
    """``app`` behind all of this."""
    limits = limits or Limits()
    return SafeHeaders(Rate(Door(Body(app, limits), access), limits))


@dataclass
class SafeHeaders:
    """Every answer says what a browser may do with it; nothing of the API is kept by caches."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if scope["path"].startswith(API):
                    headers["cache-control"] = "no-store"
            await send(message)

        await self.app(scope, receive, sending)


@dataclass
class Rate:
    """A bucket of ``burst`` requests per address that fills up again at ``rate`` a second."""

    app: ASGIApp
    limits: Limits
    _buckets: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)
    """Address -> (requests left, when that was counted); the 4,096 that asked last."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if wait := self._wait(str((scope.get("client") or ("",))[0])):
            answer = refusal(429, "Too many requests.", "Ask more slowly.", {"retry-after": str(int(wait) + 1)})
            return await answer(scope, receive, send)
        await self.app(scope, receive, send)

    def _wait(self, address: str) -> float:
        """Seconds until ``address`` may ask again; 0 if it may now."""
        now = time.monotonic()
        left, since = self._buckets.pop(address, (float(self.limits.burst), now))
        left = min(left + (now - since) * self.limits.rate, self.limits.burst)
        allowed = left >= 1
        self._buckets[address] = (left - allowed, now)
        if len(self._buckets) > 4096:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1 - left) / self.limits.rate


@dataclass
class Door:
    """Lets in what names this server, comes from its own page or from no page, and carries the token."""

    app: ASGIApp
    access: Access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        try:
            self._check(scope, Headers(scope=scope))
        except Refused as no:
            return await refusal(no.status_code, no.detail, no.fix, no.headers)(scope, receive, send)
        await self.app(scope, receive, send)

    def _check(self, scope: Scope, headers: Headers) -> None:
        authority = _one(headers, "host")
        if not _AUTHORITY.fullmatch(authority) or not self.access.knows(_host(authority)):
            raise Refused(
                421, "This server is not known under that name.", "Use the address that kanary serve printed."
            )
        if not scope["path"].startswith(API):
            return
        origin = _one(headers, "origin")
        if origin and origin not in (f"http://{authority}", f"https://{authority}"):
            raise Refused(403, "Requests of other pages are refused.", "Use the page of this server.")
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            raise Refused(403, "Requests of other pages are refused.", "Use the page of this server.")
        if self.access.token is not None:
            kind, _, given = headers.get("authorization", "").partition(" ")
            if kind.lower() != "bearer" or not hmac.compare_digest(given.encode(), self.access.token.encode()):
                say = {"www-authenticate": "Bearer"}
                raise Refused(401, "The token is missing or wrong.", "Open the address that kanary serve printed.", say)
        if scope["method"] in ("POST", "PUT", "PATCH"):
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                raise Refused(415, "Only JSON is taken.", "Send Content-Type: application/json.")


@dataclass
class Body:
    """Reads the whole body before the application starts, so that size and time are bounded in one place."""

    app: ASGIApp
    limits: Limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        try:
            announced = Headers(scope=scope).get("content-length", "0")
            self._check_size(int(announced) if re.fullmatch(r"[0-9]{1,15}", announced) else self.limits.body + 1)
            async with asyncio.timeout(self.limits.seconds):
                body = await self._read(receive)
        except Refused as no:
            return await refusal(no.status_code, no.detail, no.fix, {"connection": "close"})(scope, receive, send)
        except TimeoutError:
            answer = refusal(408, "The request took too long to arrive.", "Send it again.", {"connection": "close"})
            return await answer(scope, receive, send)
        if body is None:
            return None  # the client hung up
        whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return whole.pop() if whole else await receive()

        await self.app(scope, replay, send)

    async def _read(self, receive: Receive) -> bytes | None:
        body, more = bytearray(), True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            self._check_size(len(body))
            more = message.get("more_body", False)
        return bytes(body)

    def _check_size(self, size: int) -> None:
        if size > self.limits.body:
            most = f"{self.limits.body / 2**20:.3g} MiB"
            raise Refused(413, f"A request may have a body of {most}.", "Send a shorter text.")


def _one(headers: Headers, name: str) -> str:
    """The header in lower case; "" where it is missing, and what nothing equals where it was given several times."""
    found = headers.getlist(name)
    return found[0].lower() if len(found) == 1 else " ".join(found)


def _host(authority: str) -> str:
    """``[::1]:8000`` -> ``::1``."""
    return authority[1:].partition("]")[0] if authority.startswith("[") else authority.partition(":")[0]


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
