"""Several processes find what one finds, and none of them outlives the job, however it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from explain_world import indexed
from kanary import FeatureIndex, KanaryError, explain_features
from kanary.explain import job
from kanary.explain.evidence import gather
from kanary.explain.explained import Explained
from kanary.explain.patterns import PatternRule
from kanary.explain.types import Evidence, Failed
from kanary.explain.workers import WORTH, how_many, shared
from runs import Child

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is one process")
SCORERS = ("detection", "fuzzing", "intruder", "simulation", "examples", "rubric")


@pytest.fixture
def run(tiny_llama: Path, tmp_path: Path) -> Path:
    return indexed(tiny_llama, tmp_path)


# --- work that is shared --------------------------------------------------------------------------------------------------


def done(work: Callable[[int], Coroutine[Any, Any, Any]], things: Iterable[int], workers: int = 2) -> list[Any]:
    """What came of each, an error included; all are asked for at once."""

    async def all_of_them() -> list[Any]:
        async with shared(work, workers) as result:
            return await asyncio.gather(*map(result, things), return_exceptions=True)

    return asyncio.run(all_of_them())


def test_work_is_done_elsewhere_and_reads_what_was_there_before() -> None:
    held, here = object(), os.getpid()

    async def work(number: int) -> tuple[int, int, int]:
        await asyncio.sleep(0.02)
        if os.getpid() != here:
            os.kill(os.getpid(), signal.SIGINT)  # which is for the first process alone to obey
        return number, os.getpid(), id(held)

    found = done(work, range(12), workers=3)
    assert [number for number, _, _ in found] == list(range(12))
    assert len({pid for _, pid, _ in found} - {here}) == 3
    assert {place for _, _, place in found} == {id(held)}
    assert {pid for _, pid, _ in done(work, range(3), workers=1)} == {here}


def test_an_error_is_the_same_elsewhere() -> None:
    async def work(number: int) -> int:
        raise (KanaryError, Failed, ValueError)[number](f"error {number}")

    for here, there in zip(done(work, range(3), workers=1), done(work, range(3)), strict=True):
        assert type(here) is type(there)
        assert str(here) == str(there)


def test_a_process_that_is_killed_is_told_in_a_line() -> None:
    async def work(number: int) -> int:
        if number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    errors = [each for each in done(work, range(8)) if not isinstance(each, int)]
    assert errors
    assert {type(error) for error in errors} == {KanaryError}
    assert str(errors[0]) == "One of 2 processes was killed; memory may have run out. Try --workers 1."


def test_there_are_no_more_processes_than_cores_or_than_are_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert how_many(1000) == 8
    assert how_many(3 * WORTH) == 3
    assert how_many(WORTH - 1) == 1
    assert how_many(1000, asked=20) == 20
    assert how_many(5, asked=20) == 5
    monkeypatch.setattr(sys, "platform", "darwin")
    assert how_many(1000) == how_many(1000, asked=4) == 1


# --- features that are shared ---------------------------------------------------------------------------------------------


def explained(run: Path, workers: int, **more: Any) -> Explained:
    out = str(run.with_name(f"out-{workers}"))
    fields: dict[str, Any] = {"features": "alive:14", "tokens": 3000, "controls": 3, "scorers": SCORERS, "out": out}
    return explain_features(run, quiet=True, workers=workers, **fields | more)


def said(run: Path) -> list[Any]:
    """What the index holds of every feature but the time."""
    kept = [feature.explanation for feature in FeatureIndex.open(run)]
    return [each and {key: value for key, value in each.items() if key != "made"} for each in kept]


def watched(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Callable[[], set[int]]:
    """A function that tells which processes have gathered evidence."""

    def watching(*given: Any, **named: Any) -> Evidence:
        (folder / str(os.getpid())).touch()
        return gather(*given, **named)

    folder.mkdir()
    monkeypatch.setattr(job, "gather", watching)
    return lambda: {int(path.name) for path in folder.iterdir()}


def test_any_number_of_processes_finds_the_same(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = explained(run, 1)
    in_index = said(run)
    assert len(alone.results) >= 10
    processes = watched(monkeypatch, tmp_path / "processes")
    for workers in (2, 3):
        FeatureIndex.open(run).labels.path.unlink()
        together = explained(run, workers)
        assert list(together.results) == list(alone.results)
        for name in ("explanations.csv", "table.csv", "summary.json"):
            assert (together.folder / name).read_bytes() == (alone.folder / name).read_bytes()
        assert said(run) == in_index
        vocabularies = set()
        for latent, here in alone.results.items():
            there = together.results[latent]
            assert there.scores == here.scores
            assert isinstance(here.explanation.rule, PatternRule)
            assert isinstance(there.explanation.rule, PatternRule)
            assert there.explanation.rule.patterns == here.explanation.rule.patterns
            assert there.explanation.rule.vocabulary.names == here.explanation.rule.vocabulary.names
            vocabularies.add(id(there.explanation.rule.vocabulary))
        assert len(vocabularies) == 1  # it was not sent with each
    assert processes()
    assert os.getpid() not in processes()


def test_an_error_elsewhere_stops_the_job_as_it_does_here(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(pool: Any, latent: int, **named: Any) -> Evidence:
        raise KanaryError("It is gone.")

    monkeypatch.setattr(job, "gather", broken)
    for workers in (1, 2):
        with pytest.raises(KanaryError, match=r"^It is gone\.$"):
            explained(run, workers)


def test_what_was_found_before_a_process_was_killed_is_kept(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive = FeatureIndex.open(run).columns()["fired"] > 0
    latents = alive.nonzero()[0][:14].tolist()
    here = os.getpid()

    def deadly(pool: Any, latent: int, **named: Any) -> Evidence:
        if latent == latents[-1] and os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        return gather(pool, latent, **named)

    monkeypatch.setattr(job, "gather", deadly)
    found = explained(run, 2, features=",".join(map(str, latents)))
    assert found.stopped.startswith("One of 2 processes was killed")
    assert len(found.results) >= len(latents) - 6
    assert sum(each is not None for each in said(run)) == len(found.results)


# --- and none outlives the job --------------------------------------------------------------------------------------------


def _slow() -> None:
    """In the job's process: a process group of its own, features that take their time, and are kept two by two."""
    os.setsid()

    def slow(*given: Any, **named: Any) -> Evidence:
        time.sleep(0.2)
        return gather(*given, **named)

    job.gather = slow  # type: ignore[assignment]
    job._KEEP_EVERY = 2


def group(number: int) -> list[int]:
    """The living processes of a process group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgrp = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(pgrp) == number and state != "Z":
            found.append(int(path.parent.name))
    return found


@pytest.fixture
def kept(run: Path) -> Callable[[], int]:
    """A function that tells of how many features the index holds an explanation."""
    labels = FeatureIndex.open(run).labels
    labels.save_list("some", [0])
    return lambda: len(labels.scores())


def job_of_two(run: Path, out: Path, kept: Callable[[], int]) -> Child:
    """Under way in two processes, some features being kept."""
    given: Sequence[object] = ("explain", run, "--features", "alive:40", "--tokens", "3K", "--controls", 0)
    child = Child([*given, "--workers", 2, "--out", out], out / "logs", _slow)
    child.until(lambda: kept() >= 4)
    assert child.process.pid is not None
    assert len(group(child.process.pid)) == 3
    return child


def test_ctrl_c_ends_every_process_and_keeps_what_there_is(run: Path, tmp_path: Path, kept: Callable[[], int]) -> None:
    child = job_of_two(run, tmp_path / "out", kept)
    number = child.process.pid or 0
    os.killpg(number, signal.SIGINT)  # as a terminal does
    answer = child.wait()
    assert answer.code == 130
    assert answer.err.strip().splitlines() == ["kanary: stopped. What was explained is kept."]
    assert not group(number)
    assert 4 <= kept() < 40


def test_a_job_that_is_killed_leaves_no_process_behind(run: Path, tmp_path: Path, kept: Callable[[], int]) -> None:
    child = job_of_two(run, tmp_path / "out", kept)
    number = child.process.pid or 0
    child.send(signal.SIGKILL)
    child.process.join(60)
    ended = time.monotonic() + 20
    while group(number):
        assert time.monotonic() < ended, "still there"
        time.sleep(0.02)
    assert 4 <= kept() < 40
