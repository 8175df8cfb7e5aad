"""Making the next item in the background while this one is used."""

import contextlib
import queue
import threading
from collections.abc import Generator, Iterator
from typing import Any, TypeVar

import torch

T = TypeVar("T")
_END = object()


def ahead(items: Iterator[T], depth: int = 1, *, stop: threading.Event | None = None) -> Generator[T, None, None]:
    """The same items, made by a thread that stays at most ``depth`` items ahead of the one in use.

    An item is begun only when there is room for it: with ``depth=1`` two items are in memory, one in use and one in the
    making. An error in ``items`` is raised here, in its place. The thread ends, and ``items`` is closed, when the
    generator ends or is closed early; ``stop`` is then set, so that an ``items`` that looks at it need not finish a
    long item first.
    """
    halt = stop or threading.Event()
    room = threading.Semaphore(depth)
    done: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
    threads = torch.get_num_threads()

    def work() -> None:
        torch.set_num_threads(threads)  # a new thread starts with the default; sums must not depend on that
        failure: BaseException | None = None
        try:
            while room.acquire() and not halt.is_set():
                item = next(items, _END)
                if item is _END:
                    break
                done.put((item, None))
                del item  # else this thread would hold a third item
        except BaseException as error:
            failure = error
        finally:
            with contextlib.suppress(Exception):
                getattr(items, "close", lambda: None)()
            done.put((_END, failure))

    thread = threading.Thread(target=work, name="kanary-ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, failure = done.get()
            if failure is not None:
                raise failure
            if item is _END:
                return
            room.release()
            yield item
            del item
    finally:
        halt.set()
        room.release()
        thread.join()
