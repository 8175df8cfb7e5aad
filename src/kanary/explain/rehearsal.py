"""A job without its cost: the same questions, answered by placeholders, counted and scaled up."""

import json
from dataclasses import dataclass

from kanary.explain.asking import Answer, Request
from kanary.explain.schema import placeholder, usual_tokens
from kanary.explain.spending import Price, Spent

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
        return f"about {self.calls:,} calls: {self.tokens_in:,} tokens in and {self.tokens_out:,} out{cost}"


class Rehearsal:
    """A back end that sends nothing. Its answers have the right shape and mean nothing: what is made of them is thrown away."""

    name = identity = "rehearsal"

    def __init__(self) -> None:
        self.calls, self.tokens_in, self.tokens_out = 0, 0.0, 0

    @property
    def spent(self) -> Spent:
        return Spent(self.calls, 0, round(self.tokens_in), self.tokens_out, None, 0.0, 0, 0)

    async def answer(self, request: Request) -> Answer:
        self.calls += 1
        self.tokens_in += request.bytes / _BYTES_PER_TOKEN
        self.tokens_out += usual_tokens(request.schema)
        return Answer(json.dumps(placeholder(request.schema)), 0, 0)

    def estimate(self, features_done: int, features: int, price: Price | None = None) -> Estimate:
        """For a job of ``features``, of which ``features_done`` were rehearsed."""
        more = features / max(features_done, 1)
        tokens_in, tokens_out = round(more * self.tokens_in), round(more * self.tokens_out)
        return Estimate(
            round(more * self.calls), tokens_in, tokens_out, price.of(tokens_in, tokens_out) if price else None
        )
