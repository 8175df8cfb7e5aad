"""Answers on disk: what was paid for once is not paid for again, whatever happens to the process or the file."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from kanary.errors import KanaryError
from kanary.explain.asking import Answer, Request
from kanary.explain.cache import Cached, Kept
from kanary.explain.schema import record, whole
from kanary.explain.spending import Spent
from kanary.explain.types import Failed
from llm_job import question
from llm_server import LLMServer

ANSWER = Answer('{"1": 7} “ü”', 10, 5, cut=False, chances={6: (0.0, 0.25, 0.0, 0.0, 0.0, 0.0, 0.0, 0.75, 0.0, 0.0)})
JOB = Path(__file__).with_name("llm_job.py")


class Oracle:
    """A back end that answers slowly, or fails at first."""

    name, identity = "oracle", "oracle 1"

    def __init__(self, fails: int = 0) -> None:
        self.asked, self.fails = 0, fails

    @property
    def spent(self) -> Spent:
        return Spent(self.asked, 0, 0, 0, None, 0.0, 0, 0)

    async def answer(self, request: Request) -> Answer:
        self.asked += 1
        await asyncio.sleep(0.01)
        if self.asked <= self.fails:
            raise Failed("not now")
        return ANSWER


def answers(path: Path, oracle: Oracle, *requests: Request) -> list[Answer | BaseException]:
    async def ask() -> list[Answer | BaseException]:
        with Kept(path) as kept:
            backend = Cached(oracle, kept)
            return await asyncio.gather(*(backend.answer(r) for r in requests), return_exceptions=True)

    return asyncio.run(ask())


def start(server: LLMServer, cache: Path, n: int, first: int = 0) -> subprocess.Popen[str]:
    command = [sys.executable, str(JOB), server.url, str(cache), str(n), str(first)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)


def finished(job: subprocess.Popen[str]) -> str:
    out, error = job.communicate(timeout=200)
    assert job.returncode == 0, error
    return out


def counted(server: LLMServer) -> Counter[str]:
    """How often each question came."""
    return Counter(body["messages"][0]["content"] for body in server.calls)


def test_an_answer_comes_back_as_it_was(tmp_path: Path) -> None:
    oracle = Oracle()
    for _ in range(2):
        assert answers(tmp_path / "a", oracle, question(1)) == [ANSWER]
    assert oracle.asked == 1


@pytest.mark.parametrize(
    "change",
    [
        {"name": "fuzzing"},
        {"max_tokens": 21},
        {"chances": True},
        {"messages": question(2).messages},
        {"schema": record({"2": whole(0, 9)})},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_part_of_a_request_is_in_its_key(tmp_path: Path, change: dict[str, object]) -> None:
    oracle = Oracle()
    answers(tmp_path / "a", oracle, question(1), replace(question(1), **change))  # type: ignore[arg-type]
    assert oracle.asked == 2


def test_another_back_end_has_answers_of_its_own(tmp_path: Path) -> None:
    other = Oracle()
    other.identity = "oracle 2"
    answers(tmp_path / "a", Oracle(), question(1))
    answers(tmp_path / "a", other, question(1))
    assert other.asked == 1


def test_the_same_question_twice_at_once_is_asked_once(tmp_path: Path) -> None:
    oracle = Oracle()
    assert answers(tmp_path / "a", oracle, *[question(1)] * 5) == [ANSWER] * 5
    assert oracle.asked == 1


def test_a_failure_is_not_kept(tmp_path: Path) -> None:
    oracle = Oracle(fails=1)
    first, second = answers(tmp_path / "a", oracle, question(1), question(1))
    assert isinstance(first, Failed)
    assert second == ANSWER
    assert oracle.asked == 2


@pytest.mark.parametrize("damage", ["value = substr(value, 3)", "check_sum = 'x'", "value = '[1, 2]'"])
def test_a_damaged_answer_is_dropped_with_a_word(tmp_path: Path, damage: str) -> None:
    path, oracle = tmp_path / "a", Oracle()
    answers(path, oracle, question(1), question(2))
    with sqlite3.connect(path) as file:
        file.execute(f"UPDATE answers SET {damage} WHERE key = ?", (question(1).key("oracle 1"),))
    file.close()
    with pytest.warns(UserWarning, match="damaged"):
        assert answers(path, oracle, question(1), question(2)) == [ANSWER, ANSWER]
    assert oracle.asked == 3
    assert answers(path, oracle, question(1)) == [ANSWER]
    assert oracle.asked == 3


@pytest.mark.parametrize("damage", ["another file", "overwritten", "cut"])
def test_a_damaged_file_is_put_aside_with_a_word(tmp_path: Path, damage: str) -> None:
    path, oracle = tmp_path / "a", Oracle()
    answers(path, oracle, *map(question, range(200)))
    whole_file = path.read_bytes()
    if damage == "another file":
        path.write_bytes(b"This is a letter.\n" * 100)
    elif damage == "overwritten":
        path.write_bytes(whole_file[:200] + bytes(len(whole_file) - 200))
    else:
        path.write_bytes(whole_file[: len(whole_file) // 2])
    with pytest.warns(UserWarning, match="damaged"):
        assert answers(path, oracle, *map(question, range(200))) == [ANSWER] * 200
    assert (tmp_path / "a.damaged").exists()
    asked = oracle.asked
    assert answers(path, oracle, *map(question, range(200))) == [ANSWER] * 200
    assert oracle.asked == asked


def test_a_folder_in_its_place_is_a_mistake_of_the_user(tmp_path: Path) -> None:
    with pytest.raises(KanaryError, match="cannot be opened"):
        Kept(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(KanaryError, match="file"):
        Kept(tmp_path / "file" / "a")


def test_a_killed_job_repeats_no_call_whose_answer_it_had(tmp_path: Path) -> None:
    n, cache = 150, tmp_path / "answers.sqlite"
    with LLMServer(lambda body: '{"1": 7}', delay=0.05) as server:
        job = start(server, cache, n)
        while len(server.answered) < n // 3:
            time.sleep(0.002)
            assert job.poll() is None
        job.kill()
        job.communicate()
        with Kept(cache) as kept:
            had = len(kept)
        assert n // 3 - 32 <= had < n  # it was killed in the middle
        before = len(server.calls)
        assert f"{had} from the cache" in finished(start(server, cache, n))
        assert len(server.calls) - before == n - had
        assert max(counted(server).values()) <= 2


def test_two_processes_share_a_cache(tmp_path: Path) -> None:
    n, cache = 60, tmp_path / "answers.sqlite"
    with LLMServer(lambda body: '{"1": 7}') as server:
        jobs = [start(server, cache, n, first) for first in (0, n // 2)]  # the half in the middle is common
        for job in jobs:
            finished(job)
    assert set(counted(server)) == {f"Question {number}." for number in range(n + n // 2)}
    with Kept(cache) as kept:
        assert len(kept) == n + n // 2
