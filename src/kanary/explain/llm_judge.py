"""A judge that is a language model."""

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from kanary.explain import prompts
from kanary.explain.asking import Answer, Backend, Request, ask, expected_digit
from kanary.explain.types import Excerpt, Explanation, Failed, Rubric, Values

T = TypeVar("T")


@dataclass(frozen=True)
class LLMJudge:
    """Several excerpts share a prompt, and all prompts of a call are under way at once.

    Answers are graded from 0 to 9. Where the model tells probabilities, the grade is the mean over the digits that it might
    have said, so that a binary judgement becomes a graded one.
    """

    backend: Backend
    per_prompt: int = 10
    """Excerpts in a question of detection or fuzzing."""
    tokens_per_prompt: int = 64
    """Tokens in a question of simulation; an excerpt stays whole."""

    @property
    def name(self) -> str:
        return self.backend.name

    async def holds(self, explanation: Explanation, excerpts: Sequence[Excerpt]) -> list[float]:
        batches = _batches(excerpts, self.per_prompt)
        asked = (self._digits(prompts.detection(explanation, part), len(part)) for part in batches)
        return [grade / prompts.SURE for part in await _all(asked) for grade in part]

    async def marked(
        self, explanation: Explanation, excerpts: Sequence[Excerpt], marks: Sequence[Sequence[int]]
    ) -> list[float]:
        both = zip(_batches(excerpts, self.per_prompt), _batches(marks, self.per_prompt), strict=True)
        asked = (self._digits(prompts.fuzzing(explanation, part, own), len(part)) for part, own in both)
        return [grade / prompts.SURE for part in await _all(asked) for grade in part]

    async def values(self, explanation: Explanation, excerpts: Sequence[Excerpt]) -> list[Values]:
        batches = _whole_batches(excerpts, self.tokens_per_prompt)
        counts = [sum(len(excerpt.tokens) for excerpt in part) for part in batches]
        asked = (
            self._digits(prompts.simulation(explanation, part), n) for part, n in zip(batches, counts, strict=True)
        )
        digits = np.array([digit for part in await _all(asked) for digit in part], np.float32) * (10 / prompts.SURE)
        ends = np.cumsum([len(excerpt.tokens) for excerpt in excerpts])[:-1]
        return list(np.split(digits, ends)) if excerpts else []

    async def odd(self, excerpts: Sequence[Excerpt], marks: Sequence[Sequence[int]]) -> int:
        return await ask(self.backend, prompts.intruder(excerpts, marks), lambda found, _: int(found["odd"]) - 1)

    async def rubric(self, explanation: Explanation, excerpts: Sequence[Excerpt]) -> Rubric:
        def read(found: dict[str, Any], answer: Answer) -> Rubric:
            return Rubric(found["category"], found["grade"], " ".join(found["reason"].split()))

        return await ask(self.backend, prompts.rubric(explanation, excerpts), read)

    async def _digits(self, request: Request, n: int) -> list[float]:
        """The grades of ``n`` things; NaN for all of them if there is no usable answer."""

        def read(found: dict[str, Any], answer: Answer) -> list[float]:
            return [expected_digit(answer, str(number), found[str(number)]) for number in range(1, n + 1)]

        try:
            return await ask(self.backend, request, read)
        except Failed:
            return [float("nan")] * n


async def _all(asked: Iterable[Awaitable[T]]) -> list[T]:
    """All results, in order. What is under way is finished before an error goes on: it has been paid for."""
    found = await asyncio.gather(*asked, return_exceptions=True)
    for each in found:
        if isinstance(each, BaseException):
            raise each
    return [each for each in found if not isinstance(each, BaseException)]


def _batches(things: Sequence[T], size: int) -> list[Sequence[T]]:
    """In parts of nearly equal size, so that no question is about a few left over."""
    n = -(-len(things) // size)
    return [things[i * len(things) // n : (i + 1) * len(things) // n] for i in range(n)]


def _whole_batches(excerpts: Sequence[Excerpt], tokens: int) -> list[list[Excerpt]]:
    """Neighbours together as long as they have at most so many tokens."""
    found: list[list[Excerpt]] = []
    room = 0
    for excerpt in excerpts:
        if not found or room < len(excerpt.tokens):
            found.append([])
            room = tokens
        found[-1].append(excerpt)
        room -= len(excerpt.tokens)
    return found
