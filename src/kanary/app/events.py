"""Server-sent events: what a text that is being written brings, line by line, and how far long work has come."""

import asyncio
import json
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from kanary.app.answers import FAILED, SEE, ClientGone, Refused
from kanary.app.lanes import Lane, Stop
from kanary.app.streams import Client, End
from kanary.errors import KanaryError

DONE = "data: [DONE]\n\n"
"""What ends a stream of OpenAI's interface."""


class Events(StreamingResponse):
    """Sends each string as it comes."""

    media_type = "text/event-stream"

    def __init__(self, lines: AsyncIterable[str], leave: Callable[[], None]) -> None:
        """``leave``: called when all is sent, or the client hangs up, or was never there."""
        super().__init__(lines, headers={"x-accel-buffering": "no"})  # a proxy must not collect them
        self._leave = leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._leave()


def event(value: Any) -> str:
    data = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return f"data: {data}\n\n".encode("utf-8", "replace").decode()


async def page_events(client: Client, sae: str, features: Sequence[int]) -> AsyncIterator[str]:
    """For the page, which reads one text: a piece per token, with codes of ``features`` of ``sae``; then the end."""
    watched = list(client.texts[0].order.request.watched.get(sae, ()))
    columns = [watched.index(latent) for latent in features]
    async for _, each in client.events():
        if isinstance(each, End):
            yield event({"end": each.why, "rest": each.rest, "problem": each.problem, "record": each.record})
            return
        found: dict[str, Any] = {"text": each.text, "token": each.token, "id": each.id, "written": each.written}
        if each.values:
            found["values"] = {name: digits(value) for name, value in each.values.items()}
        if columns:
            found["codes"] = [digits(each.codes[sae][at]) for at in columns]
        if each.alarms:
            found["alarms"] = [alarm._asdict() for alarm in each.alarms]
        yield event(found)


def told(lane: Lane, work: Callable[[Stop, Callable[[int, int], None]], Any]) -> Events:
    """Events while ``work`` runs: ``{"done": …, "of": …}`` as it tells, then ``{"found": …}``, or what an error says.

    Raises:
        Refused: the lane is full.
    """
    loop = asyncio.get_running_loop()
    steps: asyncio.Queue[tuple[int, int] | None] = asyncio.Queue()

    def put(step: tuple[int, int] | None) -> None:
        with suppress(RuntimeError):  # the loop has gone, and the server with it
            loop.call_soon_threadsafe(steps.put_nowait, step)

    future, stop = lane.begin(lambda stop: work(stop, lambda done, of: put((done, of))))
    future.add_done_callback(lambda _: put(None))

    async def lines() -> AsyncIterator[str]:
        while (step := await steps.get()) is not None:
            yield event({"done": step[0], "of": step[1]})
        if future.cancelled():
            yield event({"error": "The server is being stopped.", "fix": ""})
            return
        try:
            yield event({"found": future.result()})
        except Refused as error:
            yield event({"error": error.detail, "fix": error.fix})
        except KanaryError as error:
            yield event({"error": str(error), "fix": ""})
        except ClientGone:
            pass
        except Exception:  # uvicorn writes the traceback to the terminal, and the connection ends
            yield event({"error": FAILED, "fix": SEE})
            raise

    def leave() -> None:
        stop.set()
        future.cancel()  # takes the work out of the queue if it has not begun

    return Events(lines(), leave)


def digits(value: float) -> float:
    """With four significant digits."""
    return float(f"{value:.4g}")
