"""One question to a language model, its answer, and who may be asked.

A back end (:class:`kanary.explain.client.Client`, :class:`kanary.explain.local.Local`) turns a :class:`Request` into an
:class:`Answer`; :func:`ask` reads the answer, and asks again, saying why, when it cannot be used.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol, TypeVar

from kanary.explain.schema import Schema, Unusable, check
from kanary.explain.types import Failed

TRIES = 3
_QUOTED = 1000  # characters of an unusable answer that are shown to its author again

T = TypeVar("T")


class Message(NamedTuple):
    role: str
    """system, user or assistant."""
    text: str


@dataclass(frozen=True)
class Request:
    """All that decides an answer, but for the model."""

    name: str
    """What is asked for, one word: explanation, detection …"""
    messages: tuple[Message, ...]
    schema: Schema
    """Of the answer (:mod:`kanary.explain.schema`)."""
    max_tokens: int
    """The answer is cut after so many tokens."""
    chances: bool = False
    """Whether probabilities of the digits in the answer are wanted."""

    @property
    def bytes(self) -> int:
        """Of all messages and the schema, in UTF-8: no tokenizer makes more tokens of them."""
        return sum(len(m.text.encode()) for m in self.messages) + len(
            json.dumps(self.schema, ensure_ascii=False).encode()
        )

    def key(self, identity: str) -> str:
        """A digest of the whole request to the back end of this identity."""
        whole = [identity, self.name, self.messages, self.schema, self.max_tokens, self.chances]
        return hashlib.sha256(json.dumps(whole, ensure_ascii=False).encode()).hexdigest()

    def again(self, answer: "Answer", reason: Unusable) -> "Request":
        """The next try: the same question, what was wrong with the answer, and more room if it was cut."""
        if answer.cut:
            return replace(self, max_tokens=2 * self.max_tokens)
        complaint = f"That cannot be used: {reason}. Answer again with nothing but the JSON object."
        dialogue = (Message("assistant", answer.text[:_QUOTED] or "(nothing)"), Message("user", complaint))
        return replace(self, messages=self.messages + dialogue)


@dataclass(frozen=True)
class Answer:
    text: str
    tokens_in: int
    tokens_out: int
    cut: bool = False
    """Whether it reached ``max_tokens``."""
    chances: Mapping[int, tuple[float, ...]] = field(default_factory=dict)
    """Place of a digit in ``text`` → probabilities of the digits 0 to 9 there, where the model gives them; they sum to 1."""


class Backend(Protocol):
    """Whoever answers."""

    @property
    def name(self) -> str:
        """As it is printed beside what comes of its answers."""
        ...

    @property
    def identity(self) -> str:
        """All that decides its answers but for the request; part of the cache's key."""
        ...

    async def answer(self, request: Request) -> Answer:
        """Raises :class:`Failed` when this answer cannot be had, :class:`KanaryError` when none can."""
        ...


async def ask(backend: Backend, request: Request, read: Callable[[dict[str, Any], Answer], T]) -> T:
    """What ``read`` makes of the first answer that has the shape asked for.

    Args:
        read: gets the answer as an object that satisfies the schema; may raise :class:`Unusable` too.

    Raises:
        Failed: none of the tries brought a usable answer.
    """
    for _ in range(TRIES):
        answer = await backend.answer(request)
        try:
            return read(_object(answer, request.schema), answer)
        except Unusable as error:
            reason, request = error, request.again(answer, error)
    raise Failed(f"{backend.name} gave no usable answer in {TRIES} tries: {reason}")


def expected_digit(answer: Answer, key: str, value: int) -> float:
    """The mean digit that the model would put at ``"key": ``, or the one it did put where it gives no probabilities."""
    found = _place(answer.text, key)
    chances = answer.chances.get(found) if found is not None else None
    return sum(digit * chance for digit, chance in enumerate(chances)) if chances else float(value)


def _place(text: str, key: str) -> int | None:
    """Where the value of ``key`` begins in a JSON text."""
    start = text.rfind(f"{json.dumps(key)}")
    if start < 0:
        return None
    colon = text.index(":", start) if ":" in text[start:] else len(text)
    rest = text[colon + 1 :]
    return colon + 1 + len(rest) - len(rest.lstrip())


def _object(answer: Answer, schema: Schema) -> dict[str, Any]:
    """The JSON object in an answer, with or without a fence, thoughts or a greeting around it, checked."""
    if answer.cut:
        raise Unusable("the answer was cut before its end")
    text = answer.text.rpartition("</think>")[2]
    start = text.find("{")
    if start < 0:
        raise Unusable("there is no JSON object in it")
    try:
        value, _ = json.JSONDecoder(object_pairs_hook=_once).raw_decode(text, start)
    except (ValueError, RecursionError) as error:
        raise Unusable(f"it is not JSON ({str(error)[:80]})") from error
    check(value, schema)
    return dict(value)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Unusable("a key is there twice")
    return found
