"""A job without its cost: the same questions, answered by placeholders, counted and scaled up."""

import json
from dataclasses import dataclass

from kanary.explain.allowance import Need
from kanary.explain.asking import Answer, Request
from kanary.explain.schema import placeholder, usual_tokens
from kanary.explain.spending import Price

_BYTES_PER_TOKEN = 4.0  # of English with JSON around it; the count after the job is the endpoint's own


@dataclass(frozen=True)
class Estimate:
    """What a job will cost, by the questions of a part of it."""

    calls: int
    tokens_in: int
    tokens_out: int
    usd: float | None
    """None where no price is known."""

    def __str__(self) -> str:
        cost = "" if self.usd is None else f", about ${self.usd:.{2 if self.usd >= 1 else 4}f}"
        return f"about {self.calls:,} calls, {self.tokens_in:,} tokens in and {self.tokens_out:,} out{cost}"

    def __add__(self, other: "Estimate") -> "Estimate":
        usd = None if self.usd is None or other.usd is None else self.usd + other.usd
        return Estimate(
            self.calls + other.calls, self.tokens_in + other.tokens_in, self.tokens_out + other.tokens_out, usd
        )


class Rehearsal:
    """A back end that sends nothing. Its answers have the right shape and mean nothing: what is made of them is thrown away."""

    name = identity = "rehearsal"

    def __init__(self) -> None:
        self.asked: list[Request] = []

    async def answer(self, request: Request) -> Answer:
        self.asked.append(request)
        return Answer(json.dumps(placeholder(request.schema)), 0, 0)

    def estimate(self, features_done: int, features: int, price: Price | None = None) -> Estimate:
        """For a job of ``features``, of which ``features_done`` were rehearsed."""
        more = features / max(features_done, 1)
        tokens_in, tokens_out = (round(more * tokens) for tokens in self._tokens())
        usd = price.of(tokens_in, tokens_out) if price else None
        return Estimate(round(more * len(self.asked)), tokens_in, tokens_out, usd)

    def need(self, features_done: int, price: Price | None = None) -> Need:
        """Of one feature."""
        known, each = price or Price(0.0, 0.0), max(features_done, 1)
        dearest = max(self.asked, key=lambda request: known.of(request.bytes, request.max_tokens), default=None)
        return Need(len(self.asked) / each, known.of(*self._tokens()) / each, dearest)

    def _tokens(self) -> tuple[float, int]:
        """Of all questions, and of the usual answers to them."""
        asked = sum(request.bytes for request in self.asked) / _BYTES_PER_TOKEN
        return asked, sum(usual_tokens(request.schema) for request in self.asked)
