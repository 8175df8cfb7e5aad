"""What answers cost: prices, a budget that is never passed, and the sum in the end."""

import asyncio
import math
from dataclasses import dataclass
from typing import NamedTuple

from kanary.errors import KanaryError
from kanary.explain.asking import Request

_MARGIN = 1.5  # on the densest text seen so far, so that a denser one does not pass the budget
_OVERHEAD = 16  # tokens that an endpoint adds to each message for its role


class BudgetSpent(KanaryError):
    """The next call might pass the budget; what was answered so far is kept."""


class Price(NamedTuple):
    """US dollars per million tokens."""

    given: float
    """Of the question."""
    taken: float
    """Of the answer."""

    @classmethod
    def parse(cls, text: str) -> "Price":
        """From ``IN,OUT``."""
        try:
            given, taken = (float(part) for part in text.split(","))
        except ValueError:
            given = taken = math.nan
        if not (0 <= given < math.inf and 0 <= taken < math.inf):
            raise KanaryError(
                f"A price is two numbers, IN,OUT in US dollars per million tokens, such as 0.15,0.60; this is {text!r}."
            )
        return cls(given, taken)

    def of(self, tokens_in: float, tokens_out: float) -> float:
        return (self.given * tokens_in + self.taken * tokens_out) / 1e6


@dataclass(frozen=True)
class Spent:
    """What a job has cost so far."""

    calls: int
    """Answers that came whole."""
    cached: int
    """Answers that were kept from before, and cost nothing."""
    tokens_in: int
    tokens_out: int
    usd: float | None
    """None where no price is known."""
    unsure_usd: float
    """What the endpoint may charge on top for answers that did not arrive whole, at most."""
    retries: int
    """Calls that were sent again: refused for now, failed, or cut off."""
    failures: int
    """Calls that were given up."""
    reason: str = ""
    """Of the last of them."""

    def __str__(self) -> str:
        unsure = f" (at most ${self.unsure_usd:.4f} more for answers that were lost)" if self.unsure_usd else ""
        cost = "" if self.usd is None else f", ${self.usd:.4f}{unsure}"
        kept = f", {self.cached:,} from the cache" if self.cached else ""
        trouble = f", {self.retries:,} sent again" if self.retries else ""
        because = f" (the last: {self.reason})" if self.reason else ""
        lost = f", {self.failures:,} given up{because}" if self.failures else ""
        tokens = f"{self.tokens_in:,} tokens in and {self.tokens_out:,} out"
        return f"{self.calls:,} calls{kept}{trouble}{lost}: {tokens}{cost}"


class Ledger:
    """Counts what is paid, and holds back calls that might pass the budget until those in flight are settled.

    Args:
        price: without one, costs are unknown and there can be no budget.
        budget: US dollars.
    """

    def __init__(self, price: Price | None = None, budget: float | None = None) -> None:
        if budget is not None and (price is None or not 0 <= budget < math.inf):
            raise KanaryError(
                f"A budget of ${budget} needs to be zero or more, and a price to count with: give --price IN,OUT, "
                "in US dollars per million tokens."
            )
        self.price, self.budget = price, budget
        self.calls = self.tokens_in = self.tokens_out = self.retries = self.failures = 0
        self.reason = ""
        """Why the last call was given up."""
        self._unsure = self._reserved = 0.0  # US dollars
        self._densest: float | None = None  # tokens per byte
        self._settled = asyncio.Condition()

    @property
    def usd(self) -> float | None:
        return self.price.of(self.tokens_in, self.tokens_out) if self.price else None

    @property
    def spent(self) -> Spent:
        return Spent(
            calls=self.calls,
            cached=0,
            tokens_in=self.tokens_in,
            tokens_out=self.tokens_out,
            usd=self.usd,
            unsure_usd=self._unsure,
            retries=self.retries,
            failures=self.failures,
            reason=self.reason,
        )

    async def reserve(self, request: Request) -> "Reservation":
        """Sets aside the most that ``request`` can cost.

        Raises:
            BudgetSpent: even with nothing in flight, it might pass the budget.
        """
        async with self._settled:
            while self._committed + (most := self.most(request)) > (math.inf if self.budget is None else self.budget):
                if not self._reserved:
                    raise BudgetSpent(
                        f"The budget of ${self.budget:g} is nearly spent: ${self._committed:.4f} so far, and the next call "
                        f"may cost ${most:.4f}. Answers so far are kept; raise --budget-usd and run again to go on."
                    )
                await self._settled.wait()
            self._reserved += most
            return Reservation(self, request, most)

    @property
    def charged(self) -> float:
        """US dollars that were, or may have been, charged."""
        return (self.usd or 0.0) + self._unsure

    @property
    def _committed(self) -> float:
        """The same, with what those in flight may cost."""
        return self.charged + self._reserved

    def worst_tokens(self, request: Request) -> int:
        """More tokens than a question has: one a byte until the endpoint has counted some, then by what it counted."""
        rate = 1.0 if self._densest is None else min(1.0, _MARGIN * self._densest)
        return math.ceil(rate * request.bytes) + _OVERHEAD * len(request.messages)

    def most(self, request: Request) -> float:
        """US dollars that ``request`` costs at most."""
        return self.price.of(self.worst_tokens(request), request.max_tokens) if self.price else 0.0

    async def _settle(self, reserved: float) -> None:
        self._reserved -= reserved
        if self._reserved < 1e-12:  # what rounding leaves
            self._reserved = 0.0
        async with self._settled:
            self._settled.notify_all()


class Reservation:
    """Money set aside for one call; it is settled exactly once."""

    def __init__(self, ledger: Ledger, request: Request, usd: float) -> None:
        self.ledger, self.request, self.usd = ledger, request, usd

    async def paid(self, tokens_in: int, tokens_out: int) -> None:
        """The call was answered, and used so many tokens."""
        ledger = self.ledger
        ledger.calls += 1
        ledger.tokens_in += tokens_in
        ledger.tokens_out += tokens_out
        ledger._densest = max(ledger._densest or 0.0, tokens_in / max(self.request.bytes, 1))
        await ledger._settle(self.usd)

    async def refused(self) -> None:
        """The endpoint did not answer the question; it cost nothing."""
        await self.ledger._settle(self.usd)

    async def lost(self) -> None:
        """The answer did not arrive whole; the endpoint may charge for it, so the most it can cost stays set aside."""
        self.ledger._unsure += self.usd
        await self.ledger._settle(self.usd)
