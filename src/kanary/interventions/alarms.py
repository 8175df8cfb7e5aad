"""What happens when a watch goes off while a text is written."""

import json
import queue
import threading
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from kanary.interventions.watch import Action, Watch

WAITING = 256
"""Alarms that may wait for webhooks that are slow; further ones are dropped, and counted."""
SECONDS = 5.0
"""For a webhook to answer."""


class Alarm(NamedTuple):
    """A token whose value reached a threshold, after one whose value did not."""

    watch: str
    at: int
    """Which written token, from 0."""
    token: str
    value: float
    threshold: float
    action: Action


class Vigil:
    """The watches of one text that is being written."""

    def __init__(self, watches: Sequence[Watch], send: Callable[[str, Mapping[str, Any]], None] | None = None) -> None:
        """``send``: told of the webhook's address and the alarm, where a watch has a webhook."""
        self.watches = tuple(watches)
        self._send = send
        self._above = dict.fromkeys((watch.name for watch in self.watches), False)

    def values(self, codes: Mapping[str, Sequence[float]]) -> dict[str, float]:
        """Of one token, by watch, from the codes of every watch's latents, by watch."""
        return {watch.name: watch.value(codes[watch.name]) for watch in self.watches}

    def read(self, at: int, token: str, values: Mapping[str, float]) -> list[Alarm]:
        """The alarms that the written token number ``at`` raises; webhooks are told, without waiting for them."""
        alarms = []
        for watch in self.watches:
            before, now = self._above[watch.name], values[watch.name] >= watch.threshold
            self._above[watch.name] = now
            if now and not before:
                alarms.append(Alarm(watch.name, at, token, values[watch.name], watch.threshold, watch.on_alarm))
                if watch.webhook is not None and self._send is not None:
                    self._send(watch.webhook, alarms[-1]._asdict())
        return alarms


class Webhooks:
    """Sends alarms from a thread of its own: an address that is slow or dead holds nothing up.

    Only failures are kept, in :attr:`problems`; a text is written to its end whatever becomes of them.
    """

    def __init__(self, tell: Callable[[str], None] | None = None) -> None:
        """``tell``: told of a problem of an address when it begins, or becomes another; not of every alarm that it costs."""
        self.problems: list[str] = []
        self._tell, self._told = tell, dict[str, str]()
        self._queue: queue.Queue[tuple[str, bytes] | None] = queue.Queue(WAITING)
        self._thread: threading.Thread | None = None

    def send(self, address: str, alarm: Mapping[str, Any]) -> None:
        """Puts the alarm, as JSON, into the queue and returns at once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="kanary-webhooks", daemon=True)
            self._thread.start()
        try:
            self._queue.put_nowait((address, json.dumps(alarm).encode()))
        except queue.Full:
            self._problem(address, f"is too slow: an alarm was dropped, because {WAITING} are waiting already")

    def close(self, seconds: float = 2 * SECONDS) -> None:
        """Waits until what is in the queue has been sent, no longer than ``seconds``."""
        if self._thread is not None:
            try:
                self._queue.put(None, timeout=seconds)
                self._thread.join(seconds)
            except queue.Full:
                pass

    def _work(self) -> None:
        opener = urllib.request.build_opener(_NoRedirects, urllib.request.ProxyHandler({}))
        while (sent := self._queue.get()) is not None:
            address, body = sent
            try:
                request = urllib.request.Request(address, body, {"content-type": "application/json"})
                opener.open(request, timeout=SECONDS).close()
                self._told.pop(address, None)
            except Exception as error:  # whatever an address does, the next alarm must still be sent
                self._problem(address, f"did not take an alarm: {error}")

    def _problem(self, address: str, text: str) -> None:
        self.problems = [*self.problems[-99:], f"{address} {text}"]
        if self._tell is not None and self._told.get(address) != text:
            self._told[address] = text
            self._tell(f"{address} {text}")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """An alarm goes to the address that was named and to no other."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None
