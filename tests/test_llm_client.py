"""Questions to an endpoint: every one is answered, or its failure is counted, whatever the endpoint does in between."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from kanary.errors import KanaryError
from kanary.explain.asking import Answer, Message, Request, ask, expected_digit
from kanary.explain.client import Client, Endpoint
from kanary.explain.pacing import Pace
from kanary.explain.schema import record, whole
from kanary.explain.spending import BudgetSpent, Price, Spent
from kanary.explain.types import Failed
from llm_server import Body, Limit, LLMServer, tokens_of

KEY = "sk-secret-123456"
DIGITS = record({"1": whole(0, 9), "2": whole(0, 9)})
RIGHT = '{"1": 7, "2": 0}'


def question(number: int = 0, room: int = 20) -> Request:
    messages = (Message("system", "Judge."), Message("user", f"Question {number}."))
    return Request("detection", messages, DIGITS, max_tokens=room, chances=True)


def digits(found: dict[str, Any], answer: Answer) -> list[float]:
    return [expected_digit(answer, key, found[key]) for key in ("1", "2")]


def asked(server: LLMServer, n: int = 1, **options: Any) -> tuple[list[Any], Spent]:
    """The answers to ``n`` different questions (or the :class:`Failed`), and what they cost."""

    async def all_of_them() -> tuple[list[Any], Spent]:
        endpoint = Endpoint("m", **{"base_url": server.url, "first_wait": 0.01, "timeout": 5.0} | options)
        async with Client(endpoint) as client:
            tasks = (ask(client, question(i), digits) for i in range(n))
            found = await asyncio.gather(*tasks, return_exceptions=True)
            for error in found:
                if isinstance(error, BaseException) and not isinstance(error, Failed):
                    raise error
            return list(found), client.ledger.spent

    return asyncio.run(all_of_them())


def on(*calls: int, does: str) -> Callable[[int, Body], str | None]:
    return lambda number, body: does if number in calls else None


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


# --- what comes back ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_a_digit_is_the_mean_over_what_the_model_might_have_said(stream: bool) -> None:
    with LLMServer(lambda body: RIGHT) as server:
        found, spent = asked(server, 3, stream=stream)
    assert found == [pytest.approx([0.8 * 7 + 0.2 * 6, 0.2])] * 3  # as the server spreads it
    assert (spent.calls, spent.retries, spent.failures) == (3, 0, 0)
    assert spent.tokens_in == sum(tokens_of(body["messages"]) for body in server.calls)
    assert server.keys == {f"Bearer {KEY}"}
    assert server.paths == ["/v1/chat/completions"] * 3


def test_without_probabilities_a_digit_is_what_was_said() -> None:
    with LLMServer(lambda body: RIGHT, logprobs=False) as server:
        assert asked(server)[0] == [[7.0, 0.0]]


@pytest.mark.parametrize("text", ["```json\n" + RIGHT + "\n```", "<think>{1}</think> Here: " + RIGHT + " Enjoy!"])
def test_an_object_is_found_in_its_wrapping(text: str) -> None:
    with LLMServer(lambda body: text) as server:
        assert asked(server)[0] == [pytest.approx([6.8, 0.2])]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"1": 7}', "lacks '2'"),
        ('{"1": 7, "2": 0, "3": 1}', "'3', which was not asked for"),
        ('{"1": 7, "2": 10}', "from 0 to 9"),
        ('{"1": 7, "2": true}', "whole number"),
        ('{"1": 7, "2": 0, "1": 3}', "twice"),
        ("[7, 0]", "no JSON object"),
        ('{"1": 7, "2": ', "not JSON"),
        ('{"1":' * 5000, "not JSON"),
    ],
)
def test_an_unusable_answer_is_sent_back_with_the_reason(text: str, complaint: str) -> None:
    with LLMServer(lambda body: RIGHT, fault=on(1, does=f"says:{text}")) as server:
        assert asked(server)[0] == [pytest.approx([6.8, 0.2])]
    first, second = server.calls
    assert second["messages"][:2] == first["messages"]
    assert complaint in second["messages"][-1]["content"]


def test_unusable_answers_are_a_failure_in_the_end() -> None:
    with LLMServer(lambda body: '{"1": 7}') as server:
        found, spent = asked(server)
    assert isinstance(found[0], Failed)
    assert "lacks '2'" in str(found[0])
    assert (len(server.calls), spent.calls) == (3, 3)


def test_a_cut_answer_gets_more_room() -> None:
    with LLMServer(lambda body: RIGHT, fault=on(1, does="cut")) as server:
        asked(server)
    assert [body["max_tokens"] for body in server.calls] == [20, 40]


# --- what goes wrong on the way -------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["500", "503", "408", "not JSON", "no completion", "truncated", "429:0.02"])
def test_passing_troubles_are_tried_again(fault: str) -> None:
    with LLMServer(lambda body: RIGHT, fault=on(1, 2, does=fault)) as server:
        found, spent = asked(server)
    assert found == [pytest.approx([6.8, 0.2])]
    assert (len(server.calls), spent.calls, spent.retries, spent.failures) == (3, 1, 2, 0)


@pytest.mark.parametrize("fault", ["cut stream", "broken stream", "not JSON", "500"])
def test_a_stream_that_ends_early_is_tried_again(fault: str) -> None:
    with LLMServer(lambda body: RIGHT, fault=on(1, does=fault)) as server:
        found, spent = asked(server, stream=True)
    assert found == [pytest.approx([6.8, 0.2])]
    assert spent.retries == 1


def test_a_silent_endpoint_is_tried_again() -> None:
    with LLMServer(lambda body: RIGHT, fault=on(1, does="hang")) as server:
        assert asked(server, timeout=0.5)[0] == [pytest.approx([6.8, 0.2])]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", ["huge", "endless", "dribbling"])
def test_a_reply_without_end_is_cut_off_and_tried_again(fault: str, stream: bool) -> None:
    with LLMServer(lambda body: RIGHT, fault=on(1, does=fault)) as server:
        found, spent = asked(server, stream=stream, timeout=0.1)  # a second in all for one call
    assert found == [pytest.approx([6.8, 0.2])]
    assert spent.calls == 1
    assert spent.retries >= 1  # a slow machine may need another


@pytest.mark.parametrize(
    "reply",
    [
        "[]",
        "null",
        '"text"',
        '{"choices": {}}',
        '{"choices": [7]}',
        '{"choices": [{"message": []}]}',
        '{"choices": [{"message": {"content": 7}}]}',
        '{"choices": [{"message": {"content": {"1": 7}}}]}',
        '{"choices": [{"message": {"content": "{}"}, "logprobs": {"content": 5}}]}',
        '{"choices": [{"message": {"content": "7"}, "logprobs": {"content": [{"token": null}]}}]}',
        '{"choices": [{"message": {"content": "7"}, "logprobs": {"content": [{"token": "7", "top_logprobs": 3}]}}]}',
    ],
)
def test_a_reply_of_wrong_types_is_tried_again(reply: str) -> None:
    with LLMServer(lambda body: RIGHT, fault=on(1, does=f"sends:{reply}")) as server:
        found, spent = asked(server)
    assert found == [pytest.approx([6.8, 0.2])]
    assert (spent.calls, spent.retries) == (1, 1)


def test_what_never_works_is_given_up_and_the_rest_goes_on() -> None:
    with LLMServer(
        lambda body: RIGHT, fault=lambda number, body: "500" if "Question 3." in str(body["messages"]) else None
    ) as server:
        found, spent = asked(server, 6, tries=3)
    assert [isinstance(each, Failed) for each in found] == [False, False, False, True, False, False]
    assert (spent.calls, spent.failures, spent.retries) == (5, 1, 2)


def test_retry_after_holds_back_every_call() -> None:
    with LLMServer(lambda body: RIGHT, fault=on(1, does="429:0.4")) as server:
        start = time.monotonic()
        asked(server, 8, in_flight=1)
    assert min(server.times) - start >= 0.4


def test_an_endpoint_that_wants_a_day_is_not_waited_for() -> None:
    with LLMServer(lambda body: RIGHT, fault=on(1, does="429:86400")) as server, pytest.raises(KanaryError) as error:
        asked(server)
    assert "86400 s" in str(error.value)


@pytest.mark.parametrize(
    ("fault", "advice"), [("401", "OPENAI_API_KEY"), ("404", "'m'"), ("no credit", "no credit left")]
)
def test_what_no_retry_can_mend_stops_the_job(fault: str, advice: str) -> None:
    with LLMServer(lambda body: RIGHT, fault=lambda *_: fault) as server, pytest.raises(KanaryError) as error:
        asked(server)
    assert advice in str(error.value)
    assert len(server.calls) == 1


@pytest.mark.parametrize("fault", ["401", "400", "500"])
def test_the_key_is_in_no_message_even_if_the_endpoint_repeats_it(fault: str) -> None:
    with LLMServer(lambda body: RIGHT, fault=lambda *_: fault) as server:
        try:
            told = str(asked(server, tries=1)[0][0])
        except KanaryError as error:
            told = str(error)
    assert f"told to say {fault}" in told
    assert KEY not in told


def test_an_endpoint_that_is_gone_stops_the_job() -> None:
    with LLMServer(lambda body: RIGHT) as server:
        pass
    with pytest.raises(KanaryError, match="answered none of the last 8 requests"):
        asked(server, 40, tries=2)


@pytest.mark.parametrize(
    ("refuses", "instead"), [("response_format", None), ("logprobs", None), ("max_tokens", "max_completion_tokens")]
)
def test_what_an_endpoint_does_not_take_is_left_out_from_then_on(refuses: str, instead: str | None) -> None:
    with LLMServer(lambda body: RIGHT, refuses=(refuses,)) as server:
        found, spent = asked(server, 4, in_flight=1)
    assert spent.failures == 0
    assert len(found) == 4
    assert [refuses in body for body in server.calls] == [True, False, False, False, False]
    assert instead is None or server.calls[-1][instead] == 20


# --- pace -----------------------------------------------------------------------------------------------------------


def test_so_many_calls_are_in_flight_and_no_more() -> None:
    with LLMServer(lambda body: RIGHT, delay=1.0) as server:
        asked(server, 60, in_flight=40)
    assert server.most_in_flight == 40


def test_calls_a_minute_are_kept_to() -> None:
    async def leave(pace: Pace) -> None:
        async with pace.turn():
            pass

    async def work() -> float:
        pace, start = Pace(500, 6000, 0.01), time.monotonic()
        await asyncio.gather(*(leave(pace) for _ in range(150)))
        return time.monotonic() - start

    assert asyncio.run(work()) >= 0.48  # one second's worth, 100, at once, then one every hundredth of a second


def test_an_endpoint_s_own_limit_costs_retries_but_no_answer() -> None:
    with LLMServer(lambda body: RIGHT, limit=Limit(rate=60, burst=10)) as server:
        found, spent = asked(server, 40)
    assert all(isinstance(each, list) for each in found)
    assert (spent.calls, spent.failures) == (40, 0)
    assert spent.retries > 0


def test_a_refusal_means_fewer_calls_in_flight_until_answers_come_again() -> None:
    async def at_once(pace: Pace, refused: int = 0) -> int:
        """How many of 20 calls are under way together; so many of them are then refused."""
        inside, end = 0, asyncio.Event()

        async def call() -> None:
            nonlocal inside
            async with pace.turn():
                inside += 1
                await end.wait()

        tasks = [asyncio.ensure_future(call()) for _ in range(20)]
        for _ in range(50):
            await asyncio.sleep(0)
        found = inside
        for _ in range(refused):
            pace.pause(0.05)
        end.set()
        await asyncio.gather(*tasks)
        return found

    async def work() -> list[int]:
        pace = Pace(10, None, 0.01)
        found = [await at_once(pace), await at_once(pace, refused=10), await at_once(pace)]
        for _ in range(100):
            pace.answered()
        return [*found, await at_once(pace)]

    assert asyncio.run(work()) == [10, 10, 8, 10]


# --- money ----------------------------------------------------------------------------------------------------------


def test_the_count_after_is_the_endpoints_own() -> None:
    with LLMServer(lambda body: RIGHT) as server:
        _, spent = asked(server, 5, price=Price(2.0, 10.0))
    told = sum(tokens_of(body["messages"]) for body in server.calls)
    assert spent.usd == pytest.approx((2.0 * told + 10.0 * spent.tokens_out) / 1e6)
    assert "5 calls" in str(spent)


@pytest.mark.parametrize("in_flight", [1, 32])
def test_a_budget_stops_the_job_before_it_is_passed(in_flight: int) -> None:
    budget, price = 0.004, Price(5.0, 20.0)
    with LLMServer(lambda body: RIGHT, delay=0.02) as server, pytest.raises(BudgetSpent, match="nearly spent"):
        asked(server, 200, in_flight=in_flight, price=price, budget_usd=budget)
    pieces = 11  # of RIGHT, as the server counts
    cost = sum(price.of(tokens_of(body["messages"]), pieces) for body in server.calls)
    assert 0.3 * budget < cost <= budget


def test_an_answer_that_was_lost_may_have_been_charged() -> None:
    with LLMServer(lambda body: RIGHT, fault=on(1, does="truncated")) as server:
        _, spent = asked(server, price=Price(2.0, 10.0))
    assert spent.usd is not None
    assert spent.unsure_usd >= (2.0 * tokens_of(server.calls[0]["messages"]) + 10.0 * 11) / 1e6


def test_a_budget_needs_a_price() -> None:
    with pytest.raises(KanaryError, match="--price"):
        Client(Endpoint("m", base_url="http://localhost:1/v1", budget_usd=1.0))


@pytest.mark.parametrize("text", ["", "1", "1,2,3", "a,b", "-1,2", "nan,1", "inf,1"])
def test_a_price_is_two_numbers(text: str) -> None:
    with pytest.raises(KanaryError, match="IN,OUT"):
        Price.parse(text)


# --- where to -------------------------------------------------------------------------------------------------------


def test_openai_needs_a_key_and_another_endpoint_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(KanaryError, match="OPENAI_API_KEY"):
        Client(Endpoint("m"))
    with LLMServer(lambda body: RIGHT) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        assert asked(server, base_url=None)[0] == [pytest.approx([6.8, 0.2])]


@pytest.mark.parametrize("url", ["localhost:11434", "ftp://host/v1", "http://", "https://user:hidden@"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(KanaryError, match="address") as error:
        Client(Endpoint("m", base_url=url))
    assert "hidden" not in str(error.value)


def test_a_password_in_an_address_is_not_shown() -> None:
    client = Client(Endpoint("m", base_url="http://me:hidden@localhost:1/v1?token=hidden"))
    assert client.identity == "http://localhost:1/v1 m"
    assert json.dumps(question().key(client.identity))
