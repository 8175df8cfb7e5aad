"""Server-sent events: what a text that is being written brings, line by line."""

import json
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from kanary.app.streams import Client, End

DONE = "data: [DONE]\n\n"
"""What ends a stream of OpenAI's interface."""


class Events(StreamingResponse):
    """Sends each string as it comes; when the client hangs up, or was never there, nobody writes the texts any more."""

    media_type = "text/event-stream"

    def __init__(self, lines: AsyncIterable[str], client: Client) -> None:
        super().__init__(lines, headers={"x-accel-buffering": "no"})  # a proxy must not collect them
        self._client = client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._client.leave()


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


def digits(value: float) -> float:
    """With four significant digits."""
    return float(f"{value:.4g}")
