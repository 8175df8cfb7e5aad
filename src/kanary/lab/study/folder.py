"""The results of a study on disk: one file per cell, whole or not there, and never the same cell twice at once."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from kanary.errors import KanaryError
from kanary.files import disk_errors, read_json, write_json

T = TypeVar("T")
WAIT = 600.0  # seconds; then one looks whether the other process is still there


class Results:
    """Numbers by id, such as ``c/linear-w1024-k16-s0``, in ``FOLDER/cells/<id>.json``.

    A number's file also holds the recipe it was made by; a folder with numbers of another recipe is refused. Several
    processes may share a folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, id: str) -> Path:
        return self.folder / "cells" / f"{id}.json"

    def read(self, id: str, recipe: Mapping[str, Any]) -> dict[str, Any] | None:
        """The numbers of ``id``, or None where it is not finished.

        Raises:
            KanaryError: they were made by another recipe, or the file is damaged.
        """
        path = self.path(id)
        if not path.is_file():
            return None
        found = read_json(path)
        made = found.pop("recipe", {})
        if made != (wanted := json.loads(json.dumps(recipe))):
            name = next(key for key in {**made, **wanted} if made.get(key) != wanted.get(key))
            raise KanaryError(
                f"{path} was made by another recipe: {name} was {made.get(name)!r}, now {wanted.get(name)!r}. "
                "Go on with the design as it was, or choose another --out."
            )
        return found

    def write(self, id: str, recipe: Mapping[str, Any], numbers: Mapping[str, Any]) -> None:
        write_json(self.path(id), {**numbers, "recipe": recipe})

    @contextmanager
    def claim(self, id: str, wait: float = 0) -> Iterator[bool]:
        """Holds ``id`` for this process; yields False where another one has it for longer than ``wait`` seconds.

        The operating system lets go when a process ends, however it ends.
        """
        path = self.folder / ".locks" / hashlib.sha256(id.encode()).hexdigest()[:16]
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path)
            try:
                lock.acquire(timeout=wait)
            except Timeout:
                yield False
                return
        try:
            yield True
        finally:
            lock.release()


def finish(
    results: Results,
    todo: Sequence[T],
    id: Callable[[T], str],
    done: Callable[[T], bool],
    run: Callable[[T], bool],
) -> bool:
    """Runs everything in ``todo`` that is not ``done``, each in one process only, and waits for what others have claimed.

    Args:
        run: does one; False to stop here.

    Returns whether all is done.
    """
    while left := [each for each in todo if not done(each)]:
        ran = False
        for each in left:
            with results.claim(id(each)) as ours:
                if ours and not done(each):  # another process may just have finished it
                    if not run(each):
                        return False
                    ran = True
        if not ran:  # what is left is with others
            with results.claim(id(left[0]), WAIT):
                pass
    return True
