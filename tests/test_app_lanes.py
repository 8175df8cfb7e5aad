"""Long work takes turns in one thread, for a bounded number of clients, and ends when nobody waits for it."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from starlette.requests import Request

from kanary.app.answers import ClientGone, Refused
from kanary.app.lanes import Lane, Stop


@pytest.fixture
def lane() -> Iterator[Lane]:
    found = Lane("test", 3)
    yield found
    found.close()


class Client:
    """A request whose client can hang up."""

    def __init__(self) -> None:
        self._gone = asyncio.Event()
        self.request = Request({"type": "http"}, self._receive)

    async def _receive(self) -> dict[str, Any]:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    def hang_up(self) -> None:
        self._gone.set()


def in_a_loop(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 20))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def test_work_takes_turns_in_one_thread_in_the_order_of_its_requests(lane: Lane) -> None:
    seen: list[tuple[int, int]] = []

    def work(number: int) -> Callable[[Stop], int]:
        def run(_: Stop) -> int:
            seen.append((number, threading.get_ident()))
            time.sleep(0.01)
            return number

        return run

    async def test() -> None:
        found = await asyncio.gather(*(lane.run(Client().request, work(n)) for n in range(3)))
        assert found == [0, 1, 2]

    in_a_loop(test)
    assert [number for number, _ in seen] == [0, 1, 2]
    assert {thread for _, thread in seen} != {threading.get_ident()}
    assert len({thread for _, thread in seen}) == 1


def test_a_full_lane_refuses_and_says_when_to_come_back_and_opens_again(lane: Lane) -> None:
    end = threading.Event()

    async def test() -> None:
        running = [asyncio.create_task(lane.run(Client().request, lambda _: end.wait(20))) for _ in range(3)]
        await until(lambda: lane.held == 3)
        with pytest.raises(Refused) as refused:
            await lane.run(Client().request, lambda _: None)
        assert (refused.value.status_code, refused.value.headers) == (503, {"Retry-After": "1"})
        end.set()
        await asyncio.gather(*running)
        await until(lambda: lane.held == 0)
        assert await lane.run(Client().request, lambda _: 7) == 7

    in_a_loop(test)


def test_who_hangs_up_while_waiting_frees_the_place_and_the_work_never_starts(lane: Lane) -> None:
    end, started = threading.Event(), threading.Event()

    async def test() -> None:
        first = asyncio.create_task(lane.run(Client().request, lambda _: end.wait(20)))
        client = Client()
        second = asyncio.create_task(lane.run(client.request, lambda _: started.set()))
        await until(lambda: lane.held == 2)
        client.hang_up()
        with pytest.raises(ClientGone):
            await second
        await until(lambda: lane.held == 1)
        end.set()
        await first
        await lane.run(Client().request, lambda _: None)  # after whatever was waiting
        assert not started.is_set()

    in_a_loop(test)


def test_who_hangs_up_while_served_stops_the_work_between_its_steps(lane: Lane) -> None:
    steps = 0

    def work(stop: Stop) -> None:
        nonlocal steps
        while True:
            stop.check()
            steps += 1
            time.sleep(0.001)

    async def test() -> None:
        client = Client()
        running = asyncio.create_task(lane.run(client.request, work))
        await until(lambda: steps > 3)
        client.hang_up()
        with pytest.raises(ClientGone):
            await running
        await until(lambda: lane.held == 0)
        assert await lane.run(Client().request, lambda _: "next") == "next"

    in_a_loop(test)


def test_work_that_fails_frees_its_place_and_tells_its_client_alone(lane: Lane) -> None:
    async def test() -> None:
        for _ in range(5):
            with pytest.raises(ZeroDivisionError):
                await lane.run(Client().request, lambda _: 1 / 0)
        await until(lambda: lane.held == 0)

    in_a_loop(test)


def test_closing_stops_what_runs_and_drops_what_waits() -> None:
    lane, stopped = Lane("test", 3), threading.Event()

    def work(stop: Stop) -> None:
        stop.wait(20)
        stopped.set()

    async def test() -> None:
        running = asyncio.create_task(lane.run(Client().request, work))
        waiting = asyncio.create_task(lane.run(Client().request, lambda _: None))
        await until(lambda: lane.held == 2)
        lane.close()
        await running
        with pytest.raises(Refused, match="stopped"):
            await waiting

    in_a_loop(test)
    assert stopped.is_set()
