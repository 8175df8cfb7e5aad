"""Long work in a thread of its own, for a bounded number of requests, until the client hangs up."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from starlette.requests import Request

from kanary.app.answers import ClientGone, Refused

T = TypeVar("T")


class Stop(threading.Event):
    """Set when nobody waits for the result any more."""

    def check(self) -> None:
        """Raises :class:`ClientGone` once it is set: to be called between the steps of long work."""
        if self.is_set():
            raise ClientGone


class Lane:
    """One thread; requests take turns, in the order in which they came.

    A lane is the only place where a model runs, so that a hundred clients need no more memory than one.
    """

    def __init__(self, name: str, most: int) -> None:
        """``most``: requests in the lane, the one being served included; further ones are refused with 503."""
        self.name, self.most = name, most
        self._places = threading.BoundedSemaphore(most)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"kanary-{name}")
        self._open: set[Stop] = set()

    @property
    def held(self) -> int:
        """Requests that are in the lane now."""
        return len(self._open)

    async def run(self, request: Request, work: Callable[[Stop], T]) -> T:
        """What ``work`` returns; it starts when those before it are done, or never, if the client hangs up first.

        Raises:
            Refused: the lane is full.
            ClientGone: the client hung up. Work that has begun is told through its :class:`Stop`.
        """
        return await _unless_gone(request, *self.begin(work))

    def begin(self, work: Callable[[Stop], T]) -> "tuple[Future[T], Stop]":
        """Puts ``work`` into the lane. Who does so sets its :class:`Stop` when nobody waits for it any more.

        Raises:
            Refused: the lane is full.
        """
        if not self._places.acquire(blocking=False):
            raise Refused(503, f"{self.most} requests are waiting already.", "Try again.", {"Retry-After": "1"})
        stop = Stop()
        self._open.add(stop)
        future = self._thread.submit(work, stop)
        future.add_done_callback(lambda _: self._leave(stop))
        return future, stop

    def close(self) -> None:
        """Waits for nothing: what runs is told to stop, what waits never starts."""
        for stop in list(self._open):
            stop.set()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _leave(self, stop: Stop) -> None:
        self._open.discard(stop)
        self._places.release()


async def _unless_gone(request: Request, future: "Future[T]", stop: Stop) -> T:
    answer, gone = asyncio.wrap_future(future), asyncio.create_task(hung_up(request))
    try:
        either: set[asyncio.Future[Any]] = {answer, gone}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if answer.cancelled():
            raise Refused(503, "The server is being stopped.")
        if answer.done():
            return answer.result()
        raise ClientGone
    finally:
        gone.cancel()
        if not answer.done():
            stop.set()
            answer.cancel()  # takes the work out of the queue if it has not begun


async def hung_up(request: Request) -> None:
    """Returns when the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
