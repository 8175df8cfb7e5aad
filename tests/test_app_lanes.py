"""Long work takes turns in one thread, for a bounded number of clients, and ends when nobody waits for it."""

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from starlette.requests import Request

from kanary.app.answers import ClientGone, Refused
from kanary.app.events import Events, told
from kanary.app.lanes import Lane, Stop
from kanary.errors import KanaryError


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


class Read:
    """Who reads server-sent events until they end, or until ``most`` of them have come."""

    def __init__(self, most: int = 1000) -> None:
        self.events: list[Any] = []
        self._most, self._left = most, asyncio.Event()

    def leave(self) -> None:
        self._left.set()

    async def receive(self) -> dict[str, Any]:
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        lines = message.get("body", b"").decode().splitlines()
        self.events += [json.loads(line.removeprefix("data: ")) for line in lines if line]
        if len(self.events) >= self._most:
            self.leave()

    async def of(self, answer: Events) -> list[Any]:
        await answer({"type": "http", "asgi": {"spec_version": "2.3"}}, self.receive, self.send)
        return self.events


def test_events_say_how_far_work_has_come_and_what_it_found_or_why_it_failed(lane: Lane) -> None:
    def work(_: Stop, tell: Callable[[int, int], None]) -> str:
        tell(1, 2)
        tell(2, 2)
        return "found it"

    def mistaken(_: Stop, tell: Callable[[int, int], None]) -> str:
        tell(1, 2)
        raise KanaryError("a strength is too much")

    def refused(_: Stop, tell: Callable[[int, int], None]) -> str:
        raise Refused(409, "of other weights", "Build it again.")

    def faulty(_: Stop, tell: Callable[[int, int], None]) -> str:
        raise ZeroDivisionError("secret")

    async def test() -> None:
        assert await Read().of(told(lane, work)) == [{"done": 1, "of": 2}, {"done": 2, "of": 2}, {"found": "found it"}]
        assert await Read().of(told(lane, mistaken)) == [
            {"done": 1, "of": 2},
            {"error": "a strength is too much", "fix": ""},
        ]
        assert await Read().of(told(lane, refused)) == [{"error": "of other weights", "fix": "Build it again."}]
        reader = Read()
        with pytest.raises(ZeroDivisionError):
            await reader.of(told(lane, faulty))
        assert len(reader.events) == 1
        assert "The server failed" in reader.events[0]["error"]
        assert "secret" not in str(reader.events)
        await until(lambda: lane.held == 0)

    in_a_loop(test)


def test_who_leaves_its_events_stops_the_work(lane: Lane) -> None:
    steps, started = 0, threading.Event()

    def work(stop: Stop, tell: Callable[[int, int], None]) -> None:
        nonlocal steps
        while True:
            stop.check()
            steps += 1
            tell(steps, 10**6)
            time.sleep(0.001)

    async def test() -> None:
        running = asyncio.create_task(Read(most=3).of(told(lane, work)))
        gone = Read()
        gone.leave()
        await gone.of(told(lane, lambda *_: started.set()))
        assert len(await running) >= 3
        await until(lambda: lane.held == 0)
        assert steps > 2
        assert await lane.run(Client().request, lambda _: "next") == "next"
        assert not started.is_set()

    in_a_loop(test)
