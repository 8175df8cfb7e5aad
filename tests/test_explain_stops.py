"""A job that asks an LLM may be stopped, killed, or lose its disk: it goes on where it was, and pays for nothing twice."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path

import pytest

from explain_world import indexed
from kanary.explain.cache import Kept
from llm_server import LLMServer, rule_answerer
from runs import Answer, Child, kanary

IN_FLIGHT = 4


@pytest.fixture(scope="module")
def run(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return indexed(tiny_llama, tmp_path_factory.mktemp("explain-stops"))


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")


def words(run: Path, url: str, out: Path) -> list[object]:
    given = ["explain", run, "--features", "alive:6", "--tokens", "3K", "--controls", "0", "--out", out]
    return [*given, "--explainer", "llm", "--llm", "m", "--llm-url", url, "--in-flight", IN_FLIGHT]


@pytest.fixture(scope="module")
def whole(run: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a job prints that nothing stops."""
    with LLMServer(rule_answerer) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", "sk-secret")
        return kanary(*words(run, server.url, tmp_path_factory.mktemp("whole"))).out


def stopped(run: Path, server: LLMServer, out: Path, number: int) -> Answer | None:
    """A job that got a signal after some answers."""
    child = Child(words(run, server.url, out), out / "logs")
    child.until(lambda: len(server.answered) >= 15)
    child.send(number)
    if number == signal.SIGKILL:
        child.process.join(60)
        return None
    return child.wait()


def asked_twice(server: LLMServer) -> int:
    """Questions that came a second time."""
    return sum(n - 1 for n in Counter(str(body["messages"]) for body in server.calls).values())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_job_goes_on_where_it_was_stopped(run: Path, whole: str, tmp_path: Path, number: signal.Signals) -> None:
    with LLMServer(rule_answerer, delay=0.03) as server:
        answer = stopped(run, server, tmp_path / "a", number)
        with Kept(tmp_path / "a/answers.sqlite") as kept:
            had = len(kept)
        assert had >= 15 - IN_FLIGHT
        before = len(server.calls)
        again = kanary(*words(run, server.url, tmp_path / "a"))
        assert again.code == 0, again.err
        assert f", {had:,} from the cache" in again.err
        assert asked_twice(server) <= IN_FLIGHT
        assert before <= had + IN_FLIGHT
    assert again.out == whole
    if answer:
        assert answer.code == 130
        assert answer.err.strip().splitlines()[-1] == (
            "kanary: stopped. What was explained is kept; answers paid for are not asked again."
        )
        assert "Traceback" not in answer.err


def _full_disk() -> None:
    """The file of answers cannot grow beyond what a few of them take."""
    open_ = Kept._open

    def small(self: Kept) -> object:
        file = open_(self)
        file.execute("PRAGMA max_page_count = 9")
        return file

    Kept._open = small  # type: ignore[assignment,method-assign]


def test_a_full_disk_ends_the_job_in_a_line_and_costs_the_answers_in_flight_alone(run: Path, tmp_path: Path) -> None:
    with LLMServer(rule_answerer) as server:
        answer = Child(words(run, server.url, tmp_path), tmp_path / "logs", _full_disk).wait()
        assert "answers.sqlite cannot be used: database or disk is full. Answers so far are kept." in answer.err
        assert "Traceback" not in answer.err
        assert len(server.calls) < 60
        with Kept(tmp_path / "answers.sqlite") as kept:
            had = len(kept)
        assert had >= len(server.calls) - IN_FLIGHT
        assert kanary(*words(run, server.url, tmp_path)).code == 0
        assert asked_twice(server) <= IN_FLIGHT
