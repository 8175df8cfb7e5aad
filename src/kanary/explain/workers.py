"""Work that several processes share, each a copy of this one that has all that it holds, so that only results are sent."""

import asyncio
import gc
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import asynccontextmanager
from multiprocessing.connection import wait
from typing import Any, TypeVar

from kanary.errors import KanaryError

WORTH = 25
"""Things that a process must have to do to be worth its start."""
T = TypeVar("T")
R = TypeVar("R")
Work = Callable[[T], Coroutine[Any, Any, R]]


def how_many(things: int, asked: int = 0) -> int:
    """How many processes are to share so many things: ``asked``, or as many as this one may use cores and are worth it.

    One where a process cannot be copied safely: anywhere but on Linux.
    """
    if sys.platform != "linux":
        return 1
    return max(1, min(asked or min(len(os.sched_getaffinity(0)), things // WORTH), things))


@asynccontextmanager
async def shared(work: Work[T, R], workers: int) -> AsyncIterator[Work[T, R]]:
    """``work``, done in one of so many processes; in this one if there is to be one.

    Args:
        work: may read whatever this process holds, and change nothing of it. It must leave torch alone, whose threads the
            copies lack. What it is given, returns or raises is sent, and so had better be small.

    Raises:
        KanaryError: by the function that it yields: a process was killed.
    """
    if workers < 2:
        yield work
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), _begin, (work,))
    try:
        with warnings.catch_warnings():  # Python warns of locks that other threads hold; the work takes none of them
            warnings.simplefilter("ignore", DeprecationWarning)
            pool.submit(os.getpid).result()  # all processes start now, before anything that follows starts a thread

        async def elsewhere(thing: T) -> R:
            try:
                return await asyncio.get_running_loop().run_in_executor(pool, _do, thing)
            except BrokenProcessPool:
                raise KanaryError(
                    f"One of {workers} processes was killed; memory may have run out. Try --workers 1."
                ) from None

        yield elsewhere
    finally:
        pool.shutdown(cancel_futures=True)


# --- in the other processes -----------------------------------------------------------------------------------------

_work: Work[Any, Any]
_loop: asyncio.Runner


def _begin(work: Work[Any, Any]) -> None:
    global _work, _loop
    _work, _loop = work, asyncio.Runner()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the first one ends the others
    gc.freeze()  # so that collecting garbage does not copy, or free, what is shared
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """So that nothing goes on when the first process is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _do(thing: Any) -> Any:
    return _loop.run(_work(thing))
