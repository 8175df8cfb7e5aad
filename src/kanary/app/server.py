"""The application behind a socket, in a thread of its own."""

import ipaddress
import logging
import secrets
import socket
import threading
import time
from collections.abc import Sequence
from types import TracebackType

import uvicorn

from kanary.app.api import Service, create_app
from kanary.app.guard import LOOPBACK, SHORTEST_TOKEN, Access
from kanary.app.library import Library
from kanary.app.openai import watched_by_default
from kanary.errors import KanaryError

PORTS = range(7350, 7370)
"""Tried in turn where none is named."""
CONNECTIONS = 512


class Running:
    """A server that has started: ``with kanary.serve(run, block=False) as server: print(server.url)``."""

    url: str
    """What to open in a browser, the token included."""
    base_url: str
    """What clients of OpenAI's interface are given; their key is the token."""

    def __init__(self, service: Service, access: Access, listening: socket.socket) -> None:
        self.service, self._socket = service, listening
        host, port = listening.getsockname()[:2]
        self.url = _url(host, port, access.token)
        self.base_url = _url(host, port, None) + "v1"
        config = uvicorn.Config(
            create_app(service, access),
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level=logging.WARNING,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # what they say of a client's address could be made up
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=2,
        )
        self._uvicorn = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._uvicorn.run, args=([listening],), name="kanary-serve", daemon=True)

    def start(self) -> "Running":
        self._thread.start()
        while not self._uvicorn.started and self._thread.is_alive():
            time.sleep(0.005)
        return self

    def wait(self) -> None:
        """Until it is stopped, or Ctrl-C."""
        while self._thread.is_alive():
            self._thread.join(0.5)  # so that Ctrl-C is heard on every system

    def stop(self) -> None:
        """What runs is told to stop; open connections have two seconds to end."""
        self._uvicorn.should_exit = True
        self.service.close()
        self._thread.join()
        self._socket.close()

    def __repr__(self) -> str:
        return f"<Kanary at {self.url}, {'running' if self._thread.is_alive() else 'stopped'}>"

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *_: "type[BaseException] | BaseException | TracebackType | None") -> None:
        self.stop()


def start(library: Library, host: str, port: int | None, token: str | None, watching: Sequence[str] = ()) -> Running:
    """Listens at ``host`` and answers from a thread of its own; see :func:`kanary.serve`."""
    access = access_to(host, token)
    watched_by_default(library, watching)
    return Running(Service(library, watching), access, _listen(host, port)).start()


def access_to(host: str, token: str | None) -> Access:
    """Who may ask a server at ``host``; raises :class:`KanaryError` at a token that can be guessed."""
    if token is not None and (
        len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token
    ):
        raise KanaryError(
            f"--token must have at least {SHORTEST_TOKEN} letters, digits and signs, without spaces. Leave it out to get one."
        )
    if _is_loopback(host):
        return Access(token=token)
    names = {host.lower(), socket.gethostname().lower(), socket.getfqdn().lower()}
    return Access(LOOPBACK | names, any_address=True, token=token or secrets.token_urlsafe(24))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _listen(host: str, port: int | None) -> socket.socket:
    if port is not None and not 0 <= port < 2**16:
        raise KanaryError(f"--port {port} must lie between 0 (any that is free) and 65535.")
    problem: OSError | None = None
    for each in PORTS if port is None else [port]:
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            found = socket.create_server((host, each), family=family)
            # fast because the end of an answer need not wait until its head is acknowledged: 40 ms on loopback
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return found
        except OSError as error:
            problem = error
    where = f"ports {PORTS.start} to {PORTS.stop - 1}" if port is None else f"port {port}"
    raise KanaryError(
        f"Nothing can listen at {host}, {where} ({problem}). Choose another --port or --host."
    ) from problem


def _url(host: str, port: int, token: str | None) -> str:
    host = socket.gethostname() if host in ("0.0.0.0", "::") else host
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}/" + (f"#token={token}" if token else "")
