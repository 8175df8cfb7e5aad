"""Chat completions as they travel: what is sent, and what of the reply is kept."""

import json
import math
from collections.abc import AsyncIterable, Mapping, Sequence
from typing import Any

from kanary.explain.asking import Answer, Request

_OPTIONS = 10  # alternatives a token: one for every digit
# What an endpoint may refuse, and is then asked without; reasoning models refuse the last two.
OPTIONAL = ("response_format", "logprobs", "stream_options", "temperature", "max_tokens")
_REFUSING = ("support", "recogni", "unknown", "permitted", "allowed", "invalid")
_ALSO_CALLED = {"json_schema": "response_format", "top_logprobs": "logprobs"}


class Malformed(Exception):
    """A reply that is not a whole chat completion."""


def body(request: Request, model: str, stream: bool, refused: frozenset[str]) -> dict[str, Any]:
    """The request in the protocol's words, without what the endpoint ``refused`` before."""
    sent: dict[str, Any] = {
        "model": model,
        "messages": [{"role": message.role, "content": message.text} for message in request.messages],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": request.name, "strict": True, "schema": request.schema},
        },
        "temperature": 0.0,
        "max_tokens": request.max_tokens,
    }
    if request.chances:
        sent |= {"logprobs": True, "top_logprobs": _OPTIONS}
    if stream:
        sent |= {"stream": True, "stream_options": {"include_usage": True}}
    if "max_tokens" in refused:
        sent["max_completion_tokens"] = sent["max_tokens"]
    if "logprobs" in refused:
        sent.pop("top_logprobs", None)
    return {name: value for name, value in sent.items() if name not in refused}


def refused_part(param: str | None, told: str) -> str | None:
    """Which part of a request an endpoint means when it says (in words, or by name) what it does not take."""
    about = param or (told if any(word in told.lower() for word in _REFUSING) else "")
    names = {name: name for name in OPTIONAL} | _ALSO_CALLED
    return next((part for name, part in names.items() if name in about), None)


def answer(reply: Any, tokens_in: int) -> Answer:
    """
    Args:
        reply: a chat completion as an object.
        tokens_in: of the question, for an endpoint that does not count them.

    Raises:
        Malformed: it is something else.
    """
    try:
        choice = reply["choices"][0]
        text = choice["message"]["content"] or ""
        tokens = (choice.get("logprobs") or {}).get("content") or []
        usage = reply.get("usage") or {}
        if not isinstance(text, str):
            raise TypeError("its content is not a text")
        return Answer(
            text,
            _count(usage.get("prompt_tokens"), tokens_in),
            _count(usage.get("completion_tokens"), math.ceil(len(text) / 4)),
            cut=choice.get("finish_reason") == "length",
            chances=_chances(text, tokens),
        )
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise Malformed(f"the reply is not a chat completion ({type(error).__name__}: {error})") from error


async def joined(lines: AsyncIterable[str]) -> dict[str, Any]:
    """The reply that a stream of server-sent events brought in pieces.

    Raises:
        Malformed: it ended before the answer did, or is no such stream.
    """
    text: list[str] = []
    tokens: list[Any] = []
    usage: Any = None
    reason: str | None = None
    async for line in lines:
        data = line.removeprefix("data:").strip()
        if data == line.strip() or data == "[DONE]":  # other fields, comments and empty lines
            continue
        try:
            piece = json.loads(data)
            usage = piece.get("usage") or usage
            for choice in piece.get("choices") or []:
                text.append((choice.get("delta") or {}).get("content") or "")
                tokens += (choice.get("logprobs") or {}).get("content") or []
                reason = choice.get("finish_reason") or reason
        except (AttributeError, RecursionError, TypeError, ValueError) as error:
            raise Malformed(f"the stream holds what is not part of a chat completion ({data[:40]})") from error
    if reason is None:
        raise Malformed("the stream ended before the answer did")
    choice = {"message": {"content": "".join(text)}, "finish_reason": reason, "logprobs": {"content": tokens}}
    return {"choices": [choice], "usage": usage}


def _count(told: Any, estimate: int) -> int:
    return told if isinstance(told, int) and told >= 0 else estimate


def _chances(text: str, tokens: Sequence[Mapping[str, Any]]) -> dict[int, tuple[float, ...]]:
    """Where the answer has a digit that is a token of its own, the probabilities of all digits there."""
    start = "".join(token["token"] for token in tokens).find(text)
    if start < 0 or not tokens:  # tokens that are parts of characters: none of them a digit
        return {}
    found = {}
    place = -start
    for token in tokens:
        written: str = token["token"]
        if (digit := written.strip()) in set("0123456789"):
            options = {o["token"].strip(): math.exp(min(o["logprob"], 0.0)) for o in token.get("top_logprobs") or []}
            weights = [float(options.get(str(n), 0.0)) for n in range(10)]
            if total := sum(weights):
                found[place + written.index(digit)] = tuple(round(weight / total, 5) for weight in weights)
        place += len(written)
    return found
