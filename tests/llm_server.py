"""A server on loopback that speaks OpenAI's protocol for chat completions, well or badly, as a test wants it.

The answers come from a function, so that what a job finds can be told beforehand; :func:`rule_answerer` is one that explains,
and judges, by the words it is shown.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Body = dict[str, Any]
Fault = Callable[[int, Body], "str | None"]
"""(number of the call, request) → what goes wrong: a name out of ``LLMServer._reply``, or None."""


@dataclass
class Limit:
    """A bucket of calls: ``rate`` a second flow in, ``burst`` fit; a call that finds it empty is told when to come again."""

    rate: float
    burst: float
    _level: float = field(default=math.nan)
    _at: float = 0.0

    def wait(self) -> float:
        """Takes one call and returns 0, or returns the seconds until there is one."""
        now = time.monotonic()
        level = self.burst if math.isnan(self._level) else min(self.burst, self._level + (now - self._at) * self.rate)
        self._at, enough = now, level >= 1
        self._level = level - 1 if enough else level
        return 0.0 if enough else (1 - level) / self.rate


class LLMServer:
    """Answers in a thread of its own while the ``with`` block runs.

    Args:
        answer: request → content of the answer.
        fault: what goes wrong, call by call.
        delay: seconds that an answer takes.
        spread: share of the delay by which it varies, up and down, by chance.
        limit: of calls; what is above is refused with 429.
        refuses: parts of a request to which the server says 400.
        logprobs: whether it tells probabilities when asked.
    """

    def __init__(
        self,
        answer: Callable[[Body], str],
        *,
        fault: Fault = lambda number, body: None,
        delay: float = 0.0,
        spread: float = 0.0,
        limit: Limit | None = None,
        refuses: tuple[str, ...] = (),
        logprobs: bool = True,
    ) -> None:
        self.answer, self.fault, self.delay, self.limit = answer, fault, delay, limit
        self.refuses, self.logprobs = refuses, logprobs
        self.spread, self._chance = spread, random.Random(0)
        self.calls: list[Body] = []
        """Every request that came."""
        self.answered: list[Body] = []
        """Those that were answered whole."""
        self.times: list[float] = []
        """When they were."""
        self.keys: set[str] = set()
        """What the Authorization headers said."""
        self.paths: list[str] = []
        self.in_flight = self.most_in_flight = 0
        self.url = ""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ready = threading.Event()

    def __enter__(self) -> LLMServer:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its reply; whether the connection stays open."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        headers = {k.lower(): v for k, v in re.findall(r"([\w-]+): *(.*?)\r\n", head)}
        sent = await reader.readexactly(int(headers.get("content-length", 0)))
        self.keys.add(headers.get("authorization", ""))
        self.paths.append(head.split(" ", 2)[1])
        body = json.loads(sent or b"{}")
        self.calls.append(body)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self._reply(writer, body, self.fault(len(self.calls), body))
        finally:
            self.in_flight -= 1

    async def _reply(self, writer: asyncio.StreamWriter, body: Body, fault: str | None) -> bool:
        wait = self.limit.wait() if self.limit else 0.0
        if wait:
            return await _send(writer, _error("too many"), 429, {"retry-after": f"{wait:.3f}"})
        for part in self.refuses:
            if part in body:
                return await _send(writer, _error(f"Unsupported parameter: '{part}'", part), 400)
        if fault and fault.isdigit() and fault != "200":
            return await _send(writer, _error(f"told to say {fault}; your key is {max(self.keys)}"), int(fault))
        if fault and fault.startswith("429:"):  # with the Retry-After that follows
            return await _send(writer, _error("slow down"), 429, {"retry-after": fault[4:]})
        if fault == "no credit":
            return await _send(writer, _error("no money", code="insufficient_quota"), 429)
        if fault == "hang":
            await asyncio.sleep(60)
        await asyncio.sleep(self.delay * self._chance.uniform(1 - self.spread, 1 + self.spread))
        if fault == "not JSON":
            return await _send(writer, b'{"choices": [', 200)
        if fault and fault.startswith("sends:"):
            return await _send(writer, fault[6:].encode(), 200)
        if fault == "huge":
            return await _send(writer, json.dumps({"choices": [], "more": "x" * 10_000_000}).encode(), 200)
        if fault in ("endless", "dribbling"):
            return await _endless(writer, 1 << 18 if fault == "endless" else 1)
        if fault == "no completion":
            return await _send(writer, b'{"object": "surprise", "choices": null}', 200)
        completion = self._completion(body, fault)
        if fault == "truncated":  # promises more than comes
            return await _send(writer, json.dumps(completion).encode(), 200, promised=10_000)
        if body.get("stream"):
            whole = await _stream(writer, completion, fault)
        else:
            whole = await _send(writer, json.dumps(completion).encode(), 200)
        self.answered.append(body)
        self.times.append(time.monotonic())
        return whole

    def _completion(self, body: Body, fault: str | None) -> Body:
        text = "Sorry, no." if fault == "no object" else self.answer(body)
        if fault and fault.startswith("says:"):
            text = fault[5:]
        pieces = re.findall(r"\d|\s+|[^\d\s]+", text)
        usage = {"prompt_tokens": tokens_of(body["messages"]), "completion_tokens": len(pieces)}
        choice: Body = {
            "index": 0,
            "message": {"role": "assistant", "content": text},
            "finish_reason": "length" if fault == "cut" else "stop",
            "logprobs": {"content": [_told(piece) for piece in pieces]} if self._tells(body) else None,
        }
        head = {"id": "c", "object": "chat.completion", "created": 0, "model": body["model"]}
        return head | {"choices": [choice], "usage": usage}

    def _tells(self, body: Body) -> bool:
        return self.logprobs and bool(body.get("logprobs"))


def tokens_of(messages: list[Mapping[str, str]]) -> int:
    """What this server counts for a question: a token is four bytes."""
    return sum(len(m["content"].encode()) for m in messages) // 4


def _told(piece: str) -> Body:
    """A token and its alternatives: a digit d has 0.8, and the next lower one (or 1, for 0) the rest."""
    options = [(piece, 0.8)]
    if piece.isdigit():
        options.append((str(abs(int(piece) - 1)), 0.2))
    top = [{"token": token, "logprob": math.log(p), "bytes": None} for token, p in options]
    return {"token": piece, "logprob": math.log(0.8), "bytes": None, "top_logprobs": top}


def _error(message: str, param: str | None = None, code: str | None = None) -> bytes:
    return json.dumps({"error": {"message": message, "param": param, "code": code, "type": None}}).encode()


async def _send(
    writer: asyncio.StreamWriter,
    content: bytes,
    status: int,
    headers: Mapping[str, str] | None = None,
    promised: int | None = None,
) -> bool:
    lines = {"content-type": "application/json", "content-length": str(promised or len(content)), **(headers or {})}
    head = f"HTTP/1.1 {status} .\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items()) + "\r\n"
    writer.write(head.encode() + content)
    await writer.drain()
    return promised is None


async def _stream(writer: asyncio.StreamWriter, completion: Body, fault: str | None) -> bool:
    """Server-sent events, a few characters each, then the usage; cut in the middle, or broken off, if that is the fault."""
    cut = fault in ("cut stream", "broken stream")
    writer.write(b"HTTP/1.1 200 .\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
    head = {name: completion[name] for name in ("id", "created", "model")} | {"object": "chat.completion.chunk"}
    choice = completion["choices"][0]
    told = (choice["logprobs"] or {}).get("content") or []
    pieces = [t["token"] for t in told] or re.findall(r"(?s).{1,7}", choice["message"]["content"])
    for number, piece in enumerate(pieces[: len(pieces) // 2] if cut else pieces):
        part: Body = {"index": 0, "delta": {"content": piece}, "finish_reason": None}
        if told:
            part["logprobs"] = {"content": [told[number]]}
        _event(writer, json.dumps(head | {"choices": [part]}))
    if not cut:
        end = {"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}
        _event(writer, json.dumps(head | {"choices": [end]}))
        _event(writer, json.dumps(head | {"choices": [], "usage": completion["usage"]}))
        _event(writer, "[DONE]")
    writer.write(b"0\r\n\r\n" if fault != "broken stream" else b"9999\r\ndata: {")
    await writer.drain()
    return fault != "broken stream"


async def _endless(writer: asyncio.StreamWriter, size: int) -> bool:
    """A body that never ends, of pieces of ``size`` bytes, until the other side hangs up."""
    writer.write(b"HTTP/1.1 200 .\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        writer.write(f"{size:x}\r\n".encode() + b" " * size + b"\r\n")
        await writer.drain()
        await asyncio.sleep(0.01)


def _event(writer: asyncio.StreamWriter, data: str) -> None:
    content = f"data: {data}\n\n".encode()
    writer.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")


# --- an answerer whose judgement can be told beforehand -------------------------------------------------------------


def rule_answerer(body: Body) -> str:
    """Explains a feature by the word most often marked; judges by whether the quoted word of the explanation is there."""
    kind = body["response_format"]["json_schema"]["name"]
    return json.dumps(_ANSWERS[kind](body["messages"][-1]["content"] if len(body["messages"]) == 2 else _first(body)))


def _first(body: Body) -> str:
    return str(next(m["content"] for m in body["messages"] if m["role"] == "user"))


def _texts(question: str) -> dict[str, str]:
    """The numbered examples of a question."""
    return {key: json.loads(text) for key, text in re.findall(r'^(\d+): ("(?:[^"\\]|\\.)*")', question, re.MULTILINE)}


def _word(question: str) -> str:
    """The word that the explanation quotes; without quotes, its last one."""
    said = json.loads(re.findall(r'^Explanation: ("(?:[^"\\]|\\.)*")', question, re.MULTILINE)[0])
    quoted = re.findall(r"“(.+?)”", said)
    return str(quoted[0] if quoted else said.split()[-1]).strip().lower()


def _explained(question: str) -> Body:
    marked = [word.strip().lower() for text in _texts(question).values() for word in re.findall(r"<<(.+?)>>", text)]
    word = max(sorted(set(marked)), key=marked.count) if marked else "nothing"
    latent = int(re.findall(r"^Feature (\d+)", question, re.MULTILINE)[0])
    summary = f"The word “{word}”."
    told = {"dominant_tokens": word, "patterns": "one word", "summary": summary, "context": "any", "title": word[:20]}
    return {"latent": latent} | told


def _detected(question: str) -> Body:
    word = _word(question)
    return {key: 9 if word in text.lower() else 0 for key, text in _texts(question).items()}


def _fuzzed(question: str) -> Body:
    word, answers = _word(question), {}
    for key, text in _texts(question).items():
        marked = [part.strip().lower() for part in re.findall(r"<<(.+?)>>", text)]
        answers[key] = 9 if marked and all(word in part for part in marked) else 0
    return answers


def _simulated(question: str) -> Body:
    word = _word(question)
    return {key: 9 if word in text.lower() else 0 for key, text in _texts(question).items()}


def _odd(question: str) -> Body:
    """The example whose marked words are in none of the others."""
    texts = {key: set(re.findall(r"<<(.+?)>>", text.lower())) for key, text in _texts(question).items()}
    shared = {k: sum(bool(own & o) for other, o in texts.items() if other != k) for k, own in texts.items()}
    return {"odd": int(min(shared, key=lambda key: shared[key]))}


def _graded(question: str) -> Body:
    word = _word(question)
    marked = [part.strip().lower() for text in _texts(question).values() for part in re.findall(r"<<(.+?)>>", text)]
    share = sum(word in part for part in marked) / max(len(marked), 1)
    return {
        "reason": "by counting",
        "category": "low-level" if share > 0.5 else "undiscernible",
        "grade": 1 + round(4 * share),
    }


_ANSWERS: dict[str, Callable[[str], Body]] = {
    "explanation": _explained,
    "detection": _detected,
    "fuzzing": _fuzzed,
    "simulation": _simulated,
    "intruder": _odd,
    "rubric": _graded,
}


if __name__ == "__main__":  # for a benchmark: a server in a process of its own; DELAY RATE BURST, ends with its input
    delay, rate, burst = (float(value) for value in sys.argv[1:4])
    with LLMServer(rule_answerer, delay=delay, spread=0.5, limit=Limit(rate, burst) if rate else None) as server:
        print(server.url, flush=True)
        sys.stdin.read()
        print(json.dumps({"calls": len(server.calls), "answered": len(server.answered), "most": server.most_in_flight}))
