"""Answers on disk, so that no question is paid for twice.

One sqlite file, which several processes may share. An answer is in it as soon as it has arrived, whole or not at all; one that
is damaged is dropped and asked for again.
"""

import asyncio
import hashlib
import json
import sqlite3
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Protocol, TypeVar

from kanary.errors import KanaryError
from kanary.explain.asking import Answer, Backend, Request
from kanary.explain.spending import Spent

_WAIT = 60.0  # seconds, for another process that is writing
_SCHEMA = "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, value TEXT NOT NULL, check_sum TEXT NOT NULL)"

T = TypeVar("T")


class Kept:
    """Texts by key in a file; a context manager.

    Raises:
        KanaryError: the file cannot be opened or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._open()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise KanaryError(f"{path} cannot be opened: {error}.") from error
            self._put_aside(error)
        except OSError as error:
            raise KanaryError(f"{path} cannot be written: {error.strerror}.") from error

    def __enter__(self) -> "Kept":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def get(self, key: str) -> str | None:
        """The text kept under ``key``; None if there is none, or it is not as it was written."""
        row = self._do(
            lambda file: file.execute("SELECT value, check_sum FROM answers WHERE key = ?", (key,)).fetchone()
        )
        if row is None or _sum(key, row[0]) == row[1]:
            return row and str(row[0])
        self.drop(key)
        return None

    def put(self, key: str, value: str) -> None:
        """On the disk when this returns, even if the process is killed right after."""
        self._do(
            lambda file: file.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", (key, value, _sum(key, value)))
        )

    def drop(self, key: str) -> None:
        warnings.warn(f"An answer in {self.path} was damaged; it is dropped and asked for again.", stacklevel=2)
        self._do(lambda file: file.execute("DELETE FROM answers WHERE key = ?", (key,)))

    def __len__(self) -> int:
        return int(self._do(lambda file: file.execute("SELECT count(*) FROM answers").fetchone())[0])

    def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """One transaction; a file that turns out to be damaged is put aside and begun anew."""
        try:
            return work(self._file)
        except sqlite3.OperationalError as error:
            raise KanaryError(f"{self.path} cannot be used: {error}. Answers so far are kept.") from error
        except sqlite3.DatabaseError as error:
            self._put_aside(error)
            return work(self._file)

    def _put_aside(self, error: Exception) -> None:
        damaged = self.path.with_name(f"{self.path.name}.damaged")
        warnings.warn(
            f"{self.path} was damaged ({error}); it is now {damaged.name}, and a new one begins.", stacklevel=2
        )
        if hasattr(self, "_file"):
            self._file.close()
        self.path.replace(damaged)
        for ending in ("-wal", "-shm"):
            self.path.with_name(self.path.name + ending).unlink(missing_ok=True)
        self._file = self._open()

    def _open(self) -> sqlite3.Connection:
        file = sqlite3.connect(self.path, timeout=_WAIT, isolation_level=None, check_same_thread=False)
        try:
            file.execute("PRAGMA journal_mode = WAL")  # fast because a commit appends; readers do not wait for writers
            file.execute("PRAGMA synchronous = NORMAL")  # a killed process loses nothing, a power cut the last answers
            file.execute(_SCHEMA)
        except sqlite3.Error:
            file.close()
            raise
        return file


class Counting(Backend, Protocol):
    """A back end that knows what its answers cost."""

    @property
    def spent(self) -> Spent: ...


class Cached:
    """A back end that asks another one only what is not kept, and the same question once at a time."""

    def __init__(self, backend: Counting, kept: Kept) -> None:
        self.backend, self.kept = backend, kept
        self.hits = 0
        self._asking: dict[str, asyncio.Future[Answer]] = {}
        self._unkept: KanaryError | None = None

    @property
    def name(self) -> str:
        return self.backend.name

    @property
    def identity(self) -> str:
        return self.backend.identity

    @property
    def spent(self) -> Spent:
        return replace(self.backend.spent, cached=self.hits)

    async def answer(self, request: Request) -> Answer:
        """Raises :class:`KanaryError` once an answer could not be kept: none that could not be is asked for."""
        key = request.key(self.identity)
        while (asking := self._asking.get(key)) is not None:
            await asyncio.wait([asking])  # if it failed, this one tries itself
            if not asking.cancelled() and asking.exception() is None:
                self.hits += 1
                return asking.result()
        if (found := self._read(key)) is not None:
            self.hits += 1
            return found
        if self._unkept:
            raise self._unkept
        task = self._asking[key] = asyncio.ensure_future(self._ask(key, request))
        try:
            return await task
        except asyncio.CancelledError:
            if self._unkept and task.cancelled():
                raise self._unkept from None
            raise
        finally:
            del self._asking[key]

    async def _ask(self, key: str, request: Request) -> Answer:
        found = await self.backend.answer(request)
        chances = {str(place): digits for place, digits in found.chances.items()}
        try:
            self.kept.put(key, json.dumps([found.text, found.tokens_in, found.tokens_out, found.cut, chances]))
        except KanaryError as error:
            self._unkept = error
            for other in self._asking.values():  # those that wait for their turn have cost nothing yet
                other.cancel()
            raise
        return found

    def _read(self, key: str) -> Answer | None:
        if (value := self.kept.get(key)) is None:
            return None
        try:
            text, tokens_in, tokens_out, cut, chances = json.loads(value)
            found = {int(place): tuple(digits) for place, digits in chances.items()}
            return Answer(str(text), int(tokens_in), int(tokens_out), bool(cut), found)
        except (AttributeError, TypeError, ValueError):
            self.kept.drop(key)
            return None


def _sum(key: str, value: str) -> str:
    return hashlib.sha256(f"{key} {value}".encode()).hexdigest()[:16]
