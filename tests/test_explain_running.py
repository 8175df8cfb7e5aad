"""Features are worked on together, none is begun that the budget could not finish, and a notebook can stop them."""

from __future__ import annotations

import asyncio
import threading

import pytest

from kanary.errors import KanaryError
from kanary.explain.allowance import Allowance, Need
from kanary.explain.asking import Message, Request
from kanary.explain.running import each, finished
from kanary.explain.schema import record, whole
from kanary.explain.spending import Ledger, Price

QUESTION = Request("test", (Message("user", "x" * 60),), record({"1": whole(0, 9)}), max_tokens=0)


def worked(
    n: int, *, at_once: int, fails: int | None = None, allowance: Allowance | None = None, calls: int = 1
) -> tuple[list[int], list[int], int, KanaryError | None]:
    """What was begun, what was finished, the most at once, and why it stopped; each thing makes ``calls`` of a dollar."""
    begun: list[int] = []
    done: list[int] = []
    most = 0

    async def work(number: int) -> None:
        nonlocal most
        begun.append(number)
        most = max(most, len(begun) - len(done))
        for _ in range(calls):
            if allowance:
                await (await allowance.ledger.reserve(QUESTION)).paid(1_000_000, 0)
            await asyncio.sleep(0.001)
        if number == fails:
            raise KanaryError("It is gone.")
        done.append(number)

    stop = asyncio.run(each(range(n), work, at_once=at_once, allowance=allowance))
    return begun, done, most, stop


def test_so_many_at_once_and_all_in_the_end() -> None:
    begun, done, most, stop = worked(20, at_once=6)
    assert begun == list(range(20))
    assert sorted(done) == begun
    assert most == 6
    assert stop is None


def test_an_error_begins_nothing_more_and_what_was_begun_is_finished() -> None:
    begun, done, _, stop = worked(20, at_once=4, fails=5)
    assert str(stop) == "It is gone."
    assert len(begun) < 12
    assert sorted(done) == sorted(set(begun) - {5})


@pytest.mark.parametrize("at_once", [1, 3, 64])
@pytest.mark.parametrize("foretold", [0.1, 3.0])
def test_what_a_budget_does_for_is_finished_and_nothing_else_is_paid(at_once: int, foretold: float) -> None:
    """Three calls of a dollar each, whatever was foretold."""
    ledger = Ledger(Price(1.0, 0.0), budget=20.0)
    allowance = Allowance(ledger, Need(3, foretold, QUESTION), "features")
    begun, done, _, stop = worked(50, at_once=at_once, allowance=allowance, calls=3)
    assert isinstance(stop, KanaryError)
    assert ledger.charged <= 20
    if foretold > 1 or at_once == 1:  # else all begin before any has shown what it costs
        assert begun == done
        assert 4 <= len(done) <= 6
        assert ledger.charged == 3 * len(done)


def test_a_feature_that_was_cheaper_than_foretold_makes_room() -> None:
    ledger = Ledger(Price(1.0, 0.0), budget=20.0)
    allowance = Allowance(ledger, Need(1, 10.0, QUESTION), "features")
    _, done, most, stop = worked(5, at_once=64, allowance=allowance)
    assert len(done) == 5
    assert most == 1  # two of them might have passed it
    assert stop is None


def test_a_notebook_that_is_interrupted_stops_the_job_too(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    join = threading.Thread.join

    async def job() -> None:
        while True:
            steps.append(1)
            await asyncio.sleep(0.005)

    def interrupted(self: threading.Thread, timeout: float | None = None) -> None:
        monkeypatch.setattr(threading.Thread, "join", join)
        while len(steps) < 3:
            pass
        raise KeyboardInterrupt

    async def notebook() -> None:
        monkeypatch.setattr(threading.Thread, "join", interrupted)
        with pytest.raises(KeyboardInterrupt):
            finished(job())

    asyncio.run(notebook())
    ended = len(steps)
    threading.Event().wait(0.05)
    assert len(steps) == ended


def test_a_notebook_gets_the_answer_and_the_error() -> None:
    async def right() -> int:
        return 7

    async def wrong() -> int:
        raise KanaryError("No.")

    async def notebook() -> None:
        assert finished(right()) == 7
        with pytest.raises(KanaryError, match="No"):
            finished(wrong())

    asyncio.run(notebook())


def test_what_a_job_found_is_not_written_out_on_the_way() -> None:
    """Python 3.11 does so with what a task returns, however large, when it gives Ctrl-C back: 9 s for 1,000 features."""
    written: list[int] = []

    class Large:
        def __repr__(self) -> str:
            written.append(1)
            return "large"

    async def job() -> Large:
        return Large()

    assert isinstance(finished(job()), Large)
    assert not written
