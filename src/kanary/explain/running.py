"""How a job's work runs: many features at once, none begun that the budget could not finish, and from a notebook too."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from kanary.errors import KanaryError
from kanary.explain.allowance import Allowance

T = TypeVar("T")


async def each(
    things: Iterable[T], work: Callable[[T], Awaitable[None]], *, at_once: int, allowance: Allowance | None = None
) -> KanaryError | None:
    """Works on the ``things`` in their order, ``at_once`` together. None is begun that ``allowance`` has no room for.

    Returns:
        Why it ended before the last: an error of ``work``, or what the allowance says. What was begun is finished first.
    """
    waiting = iter(things)
    stop: list[KanaryError] = []

    async def worker() -> None:
        for thing in waiting:
            try:
                if stop or (allowance and not await allowance.begin()):
                    return
                try:
                    await work(thing)
                finally:
                    if allowance:
                        await allowance.end()
            except KanaryError as error:
                stop.append(error)

    await asyncio.gather(*(worker() for _ in range(at_once)))
    if stop:
        return stop[0]
    return allowance.refused if allowance else None


def finished(job: Coroutine[Any, Any, T]) -> T:
    """Runs ``job`` to its end, in a thread of its own where this one already has a loop, as a notebook's has."""
    found: list[T] = []
    begun: list[Callable[[], object]] = []

    async def work() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        begun.append(lambda: loop.call_soon_threadsafe(task.cancel))
        found.append(await job)  # not returned: Python 3.11 writes out a task's result when it takes back Ctrl-C

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work())
    else:
        _elsewhere(work, begun)
    return found[0]


def _elsewhere(work: Callable[[], Coroutine[Any, Any, None]], begun: Sequence[Callable[[], object]]) -> None:
    """Runs ``work`` in another thread; ``begun``, once it is under way, ends it."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        thread.join()
    except KeyboardInterrupt:  # which comes to this thread alone: the other would go on asking, and paying
        for cancel in begun:
            cancel()
        thread.join()
        raise
    if failed:
        raise failed[0]
