"""Whether the budget has room for one more feature: half-done features would be paid for and tell nothing."""

import asyncio
from dataclasses import dataclass

from kanary.explain.asking import Request
from kanary.explain.spending import BudgetSpent, Ledger

_MARGIN = 1.25
"""On what a feature costs: answers that cannot be used are asked for again."""


@dataclass(frozen=True)
class Need:
    """What one feature takes of a budget."""

    calls: float
    usd: float
    """By its questions, and answers of the usual length."""
    dearest: Request | None
    """Of its questions: no call leaves unless the most that it may cost is there. None where it asks nothing."""


class Allowance:
    """Lets features begin as long as they, and those under way, can be expected to be finished within the budget.

    What a feature costs is foretold from its questions, and learned from what was charged, where that is more.
    """

    def __init__(self, ledger: Ledger, need: Need, what: str) -> None:
        """``what``: the plural of what is begun, for people."""
        self.ledger, self.need, self.what = ledger, need, what
        self.refused: BudgetSpent | None = None
        """Why nothing may begin any more."""
        self._under_way = 0
        self._ended = asyncio.Condition()

    async def begin(self) -> bool:
        """Whether one more may begin; waits for those under way, which may turn out cheaper than expected."""
        async with self._ended:
            while not self._room():
                if not self._under_way:
                    self.refused = self.refused or BudgetSpent(self._why())
                if self.refused:
                    return False
                await self._ended.wait()
            self._under_way += 1
            return True

    async def end(self) -> None:
        """One that was begun is finished, or given up."""
        async with self._ended:
            self._under_way -= 1
            self._ended.notify_all()

    def _room(self) -> bool:
        more = (self._under_way + 1) * self._each() + self._dearest()
        return self.ledger.budget is None or self.ledger.charged + more <= self.ledger.budget

    def _dearest(self) -> float:
        return self.ledger.most(self.need.dearest) if self.need.dearest else 0.0

    def _each(self) -> float:
        by_calls = self.ledger.charged / self.ledger.calls if self.ledger.calls else 0.0
        return _MARGIN * max(self.need.usd, self.need.calls * by_calls)

    def _why(self) -> str:
        return (
            f"the budget of ${self.ledger.budget:g} has no room for more {self.what}: ${self.ledger.charged:.4f} is spent, one "
            f"more costs ${self._each():.4f} or less, and ${self._dearest():.4f} must be there for its "
            "dearest call. Answers so far are kept; raise --budget-usd and run again to go on."
        )
