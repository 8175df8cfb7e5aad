"""When the next call may leave: so many at once, so many a minute, and slower when the endpoint refuses for the moment."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

_CATCH_UP = 1.0  # seconds of its rate that a job may make up for after waiting for something else
_LONGEST = 30.0  # seconds between two tries, unless the endpoint names a longer time
_FEWER = 0.8  # of the calls in flight stay so when the endpoint refuses one


class Pace:
    """Calls in flight are fewer after a refusal and grow again with every answer, as TCP does with packets.

    Args:
        in_flight: calls at once, at most.
        per_minute: calls a minute; None is no limit of our own.
        first_wait: seconds before a failed call is tried again; doubled every time.
    """

    def __init__(self, in_flight: int, per_minute: float | None, first_wait: float) -> None:
        self._most = in_flight
        self._window = float(in_flight)
        self._active = 0
        self._free = asyncio.Condition()
        self._interval = 60.0 / per_minute if per_minute else 0.0
        self._next = self._until = 0.0
        self._first_wait, self._pauses = first_wait, 0
        self._chance = random.Random(0)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits for a free place and for the time at which a call may leave; keeps the place until the block ends."""
        async with self._free:
            await self._free.wait_for(lambda: self._active < int(self._window))
            self._active += 1
        try:
            await self._its_time()
            yield
        finally:
            self._active -= 1
            async with self._free:
                self._free.notify(2)  # the window may have grown by one

    def pause(self, seconds: float | None) -> None:
        """No call leaves for so long: the endpoint said so to one, and would say it to all. None: longer each time in a row."""
        now = monotonic()
        if now >= self._until:  # the first of those that were refused together
            self._pauses += 1
            self._window = max(1.0, _FEWER * min(self._active, self._window))
        elif seconds is None:
            return
        if seconds is None:
            seconds = min(self._first_wait * 2 ** (self._pauses - 1), _LONGEST)
        self._until = max(self._until, now + seconds)

    def answered(self) -> None:
        """Pauses begin short again, and one more call may be in flight once all those that are have been answered."""
        self._pauses = 0
        self._window = min(float(self._most), self._window + 1 / self._window)

    async def before_retry(self, tries: int) -> None:
        """Waits longer after every failed try, by chance, so that calls that failed together do not return together."""
        longest = min(self._first_wait * 2 ** (tries - 1), _LONGEST)
        await asyncio.sleep(longest * self._chance.uniform(0.5, 1.0))

    async def _its_time(self) -> None:
        while (paused := self._until - monotonic()) > 0:
            await asyncio.sleep(paused)
        if not self._interval:
            return
        now = monotonic()
        leave = max(self._next, now - _CATCH_UP)
        self._next = leave + self._interval
        if leave > now:
            await asyncio.sleep(leave - now)
