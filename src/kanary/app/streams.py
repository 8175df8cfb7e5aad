"""Texts that a model writes while somebody reads them: several at once in one batch, each told piece by piece to its client."""

import asyncio
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from starlette.requests import Request as HttpRequest

from kanary.app.answers import ClientGone, Refused
from kanary.app.lanes import hung_up
from kanary.app.library import Entry
from kanary.errors import KanaryError
from kanary.interventions.alarms import Webhooks
from kanary.interventions.generation import Batch, Request
from kanary.interventions.ranges import Ranges
from kanary.interventions.steerable import Steerable
from kanary.interventions.traces import recording
from kanary.interventions.watch import Watch
from kanary.interventions.writing import Piece, Writing
from kanary.lm import LanguageModel
from kanary.sae import SAE

ROWS, WAITING = 8, 64
"""Texts that a model writes at once, and that may wait for a place besides."""


@dataclass(frozen=True)
class Order:
    """A text that a client wants."""

    lm: LanguageModel
    request: Request
    saes: Mapping[str, SAE] = field(default_factory=dict)
    """By the ids under which the request names them."""
    ranges: Mapping[str, Ranges] = field(default_factory=dict)
    """How large codes get, as far as it is known, by the same ids."""
    watches: tuple[tuple[Entry, Watch], ...] = ()
    stops: tuple[str, ...] = ()
    record: Path | None = None
    """The run folder that keeps what was watched."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """What is recorded besides."""


@dataclass(frozen=True)
class End:
    """No piece follows."""

    why: str
    """As :attr:`kanary.interventions.writing.Writing.ended`."""
    rest: str = ""
    """What had been held back of the text."""
    problem: str = ""
    """Of an ``error``."""
    record: str | None = None
    """The name of the trace, if one was kept."""


class Text:
    """One order on its way."""

    def __init__(self, order: Order, tell: Callable[[Piece | End], None]) -> None:
        """``tell``: called with every piece, and with the end, by the thread that writes."""
        self.order, self.tell = order, tell
        self.gone = False
        """Whether nobody reads it any more: its row is given free at the next step."""


class Client:
    """Who reads some texts, on the event loop that it lives on."""

    def __init__(self, orders: Sequence[Order]) -> None:
        self.texts = [Text(order, partial(self._tell, at)) for at, order in enumerate(orders)]
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[tuple[int, Piece | End]] = asyncio.Queue()

    async def events(self) -> AsyncIterator[tuple[int, Piece | End]]:
        """Which text, and its next piece or its end, until all have ended."""
        left = len(self.texts)
        while left:
            at, event = await self._events.get()
            left -= isinstance(event, End)
            yield at, event

    async def collected(self, request: HttpRequest) -> list[tuple[list[Piece], End]]:
        """Every text, once all are written.

        Raises:
            ClientGone: the client hung up before that.
        """
        gone, read = asyncio.create_task(hung_up(request)), asyncio.create_task(self._read())
        try:
            await asyncio.wait({gone, read}, return_when=asyncio.FIRST_COMPLETED)
            if not read.done():
                raise ClientGone
            return read.result()
        finally:
            gone.cancel()
            read.cancel()
            self.leave()

    def leave(self) -> None:
        """Nothing more is read."""
        for text in self.texts:
            text.gone = True

    async def _read(self) -> list[tuple[list[Piece], End]]:
        pieces: list[list[Piece]] = [[] for _ in self.texts]
        ends: dict[int, End] = {}
        async for at, event in self.events():
            if isinstance(event, End):
                ends[at] = event
            else:
                pieces[at].append(event)
        return [(each, ends[at]) for at, each in enumerate(pieces)]

    def _tell(self, at: int, event: Piece | End) -> None:
        with suppress(RuntimeError):  # the loop has gone, and the server with it
            self._loop.call_soon_threadsafe(self._events.put_nowait, (at, event))


class Desk:
    """One model's batch, and the thread that writes it."""

    def __init__(self, lm: LanguageModel, webhooks: Webhooks) -> None:
        self.lm, self._webhooks = lm, webhooks
        self._batch = Batch(Steerable(lm, None))
        self._waiting: deque[Text] = deque()
        self._active: dict[Text, tuple[Writing, ExitStack]] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="kanary-writing", daemon=True)
        self._thread.start()

    @property
    def held(self) -> int:
        """Texts that are written or wait."""
        return len(self._waiting) + len(self._active)

    def put(self, texts: Sequence[Text]) -> None:
        """Raises :class:`Refused` if too many wait already."""
        with self._changed:
            if self._closed:
                raise Refused(503, "The server is being stopped.")
            if len(self._waiting) + len(texts) > WAITING:
                raise Refused(
                    503, f"{len(self._waiting)} texts are waiting already.", "Try again.", {"Retry-After": "1"}
                )
            self._waiting.extend(texts)
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _work(self) -> None:
        while self._wait():
            try:
                self._admit()
                self._step()
            except Exception as error:  # a fault of ours must not leave every later client without an answer
                self._drop(error)
                if not isinstance(error, KanaryError):
                    threading.excepthook(
                        threading.ExceptHookArgs((type(error), error, error.__traceback__, self._thread))
                    )
        self._drop(KanaryError("The server is being stopped."))

    def _wait(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting or self._active)
            return not self._closed

    def _admit(self) -> None:
        while len(self._active) < ROWS:
            with self._changed:
                if not self._waiting:
                    return
                text = self._waiting.popleft()
            if text.gone:
                continue
            held = ExitStack()
            try:
                self._active[text] = (self._begin(text, held), held)
            except KanaryError as error:
                held.close()
                text.tell(End("error", problem=str(error)))

    def _begin(self, text: Text, held: ExitStack) -> Writing:
        order = text.order
        self._open(order)
        row = self._batch.add(order.request)
        watches = [watch for _, watch in order.watches]
        names = {watch.name: entry.id for entry, watch in order.watches}
        record = None
        if order.record is not None:
            record = held.enter_context(recording(order.record, watches, order.about))
        send = self._webhooks.send
        return Writing(
            self.lm, row, watches, name=lambda watch: names[watch.name], stops=order.stops, send=send, record=record
        )

    def _open(self, order: Order) -> None:
        """Takes in SAEs that the batch does not have, and lets go of those that no text uses."""
        old = self._batch.panel.saes
        if all(old.get(name) is sae for name, sae in order.saes.items()):
            return
        orders = [text.order for text in self._active] + [order]
        saes = {name: sae for each in orders for name, sae in each.saes.items()}
        ranges = {name: found for each in orders for name, found in each.ranges.items()}
        self._batch.panel = Steerable(self.lm, saes, ranges=ranges)

    def _step(self) -> None:
        for text, (writing, _) in self._active.items():
            if text.gone:
                writing.cancel()
        said = dict(self._batch.step())
        for text, (writing, held) in list(self._active.items()):
            for piece in writing.take(said.get(writing.row, [])):
                text.tell(piece)
            if writing.ended is None:
                continue
            problem = "" if writing.row.problem is None else str(writing.row.problem)
            record = None if writing.record is None else writing.record.name
            text.tell(End(writing.ended, writing.rest(), problem, record))
            held.close()
            del self._active[text]
        if not self._active:
            self._batch.step()  # the rows leave, and their memory with them

    def _drop(self, error: Exception) -> None:
        """Ends every text, those that wait too once the desk is closed."""
        known = isinstance(error, KanaryError)
        problem = str(error) if known else "The server failed. The reason is in the terminal that runs kanary serve."
        for text, (writing, held) in self._active.items():
            writing.fail()
            held.close()
            text.tell(End("error", problem=problem))
        self._active.clear()
        self._batch = Batch(self._batch.panel)
        while self._closed and self._waiting:
            self._waiting.popleft().tell(End("error", problem=problem))


class Desks:
    """A desk for each model that is at hand."""

    def __init__(self) -> None:
        self.webhooks = Webhooks(_warn)
        self._desks: dict[LanguageModel, Desk] = {}

    def of(self, lm: LanguageModel) -> Desk:
        if lm not in self._desks:
            self._close([old for old, desk in self._desks.items() if not desk.held])  # their models may be let go of
            self._desks[lm] = Desk(lm, self.webhooks)
        return self._desks[lm]

    def close(self) -> None:
        self._close(list(self._desks))

    def _close(self, models: Sequence[LanguageModel]) -> None:
        for lm in models:
            self._desks.pop(lm).close()


def _warn(problem: str) -> None:
    """Who runs the server is told in its terminal; ``problem`` may hold a line of what an address answered."""
    print(f"Webhook {' '.join(problem.split())[:500]}", file=sys.stderr, flush=True)
