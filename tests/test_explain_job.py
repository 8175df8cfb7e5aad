"""The whole of ``kanary explain`` with a language model, which a server on loopback stands for.

It may be stopped, killed, or lose its disk: it goes on where it was, and pays for nothing twice.
"""

from __future__ import annotations

import csv
import json
import re
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from explain_world import indexed
from kanary import FeatureIndex
from kanary.explain.cache import Kept
from llm_server import Body, LLMServer, rule_answerer
from runs import Answer, Child, kanary

IN_FLIGHT = 4


@pytest.fixture(scope="module")
def run(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return indexed(tiny_llama, tmp_path_factory.mktemp("explain-llm"))


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")


def words(run: Path, url: str, out: Path, *more: object) -> list[object]:
    """Of the command, with ``m`` as explainer and judge."""
    return ["explain", run, "--tokens", "3K", "--explainer", "llm", "--llm", "m", "--llm-url", url, "--out", out, *more]


def explain(run: Path, url: str, out: Path, *more: object, features: str = "alive:4") -> Answer:
    scorers = ("--scorers", "detection,fuzzing,intruder,simulation,rubric")
    asked = ("--features", features, "--controls", "2", "--price", "1,2", *scorers)
    return kanary(*words(run, url, out, *asked, *more))


# --- what it finds and costs ----------------------------------------------------------------------------------------------


def test_an_llm_explains_and_judges_and_is_paid_once(run: Path, tmp_path: Path) -> None:
    with LLMServer(rule_answerer) as server:
        first = explain(run, server.url, tmp_path)
        assert first.code == 0, first.err
        line = first.out.strip().splitlines()[-1]
        assert "explained by llm:m" in line
        assert "(judge llm:m" in line
        assert "calls" in first.err
        paid = len(server.calls)
        assert paid > 20
        again = explain(run, server.url, tmp_path)
        assert again.out == first.out
        assert len(server.calls) == paid
    stored = [feature.explanation for feature in FeatureIndex.open(run) if feature.explanation]
    assert stored
    assert all(each["by"] == "llm:m" for each in stored)
    with (tmp_path / "explanations.csv").open(encoding="utf-8") as file:
        rubric = [row for row in csv.DictReader(file) if row["score"] == "rubric"]
    assert rubric
    assert all(row["said"].split(":")[0] in ("low-level", "high-level", "undiscernible") for row in rubric)
    assert not any(b"sk-secret" in path.read_bytes() for path in tmp_path.iterdir())


def steady(body: Body) -> str:
    """Answers by the rule, and never with nothing, as it does where spaces are marked."""
    return json.dumps({k: v if str(v).strip() else "a space" for k, v in json.loads(rule_answerer(body)).items()})


def frequent(run: Path, n: int) -> str:
    """Features that fire often, so that nothing about them fails."""
    return ",".join(map(str, np.argsort(-FeatureIndex.open(run).columns()["fired"])[:n].tolist()))


def found(out: Path) -> dict[int, set[str]]:
    """Of every feature in the table, what it is scored by."""
    scored: dict[int, set[str]] = {}
    with (out / "explanations.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            scored.setdefault(int(row["latent"]), set()).add(row["score"])
    return scored


def test_a_budget_is_spent_on_features_that_are_finished(run: Path, tmp_path: Path) -> None:
    features = frequent(run, 4)
    with LLMServer(steady) as server:
        explain(run, server.url, tmp_path / "all", "--controls", 0, features=features)
        whole = json.loads((tmp_path / "all/summary.json").read_text())
        each, paid = whole["usd"] / 4, len(server.calls)
        budget = 3.2 * each + 0.012  # the dearest call may cost a cent, and is only begun when that is there
        answer = explain(run, server.url, tmp_path / "some", "--controls", 0, "--budget-usd", budget, features=features)
        assert answer.code == 0, answer.err
        some = json.loads((tmp_path / "some/summary.json").read_text())
        done = found(tmp_path / "some")
        assert 1 <= len(done) < 4
        assert all(scores == found(tmp_path / "all")[latent] for latent, scores in done.items())
        assert len(server.calls) - paid == pytest.approx(paid * len(done) / 4, abs=1)  # nothing for the others
        assert some["usd"] <= budget
        assert some["asked"] == 4
        assert f"Stopped when {len(done)} of 4 features were done: the budget of $" in answer.err
        again = explain(
            run, server.url, tmp_path / "some", "--controls", 0, "--budget-usd", 10 * budget, features=features
        )
        assert "Stopped" not in again.err
        assert len(server.calls) == 2 * paid  # nothing twice
    assert found(tmp_path / "some") == found(tmp_path / "all")


def test_a_budget_that_is_too_small_for_one_feature_is_not_touched(run: Path, tmp_path: Path) -> None:
    with LLMServer(rule_answerer) as server:
        message = explain(run, server.url, tmp_path, "--budget-usd", "0.004").message
    assert "the budget of $0.004 has no room for more features: $0.0000 is spent, one more costs $0.0" in message
    assert not server.calls


def test_what_will_be_spent_is_said_with_the_controls(run: Path, tmp_path: Path) -> None:
    with LLMServer(steady) as server:
        answer = explain(run, server.url, tmp_path, features=frequent(run, 4))
        spent = json.loads((tmp_path / "summary.json").read_text())
    features, controls, both = (int(n) for n in re.findall(r"about (\d+) calls", answer.err)[:3])
    assert "Controls for 2 of them: about " in answer.err
    assert features + controls == both
    assert controls > features / 2
    assert both == pytest.approx(len(server.calls), rel=0.15)
    (told,) = re.findall(r"Together .*about \$(\d+\.\d+)", answer.err)
    assert float(told) == pytest.approx(spent["usd"], rel=0.5)  # the schema is in the estimate, and not in this bill


def test_an_endpoint_that_is_not_there_is_a_line(run: Path, tmp_path: Path) -> None:
    with LLMServer(rule_answerer) as server:
        url = server.url
    message = explain(run, url, tmp_path).message
    assert message.startswith("None of the 4 features could be explained: llm:m: ")
    assert "Connection error" in message


# --- when it is stopped ---------------------------------------------------------------------------------------------------


def six(run: Path, url: str, out: Path) -> list[object]:
    """Words of a job that is stopped half-way."""
    return words(run, url, out, "--features", "alive:6", "--controls", "0", "--in-flight", IN_FLIGHT)


@pytest.fixture(scope="module")
def whole(run: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a job prints that nothing stops."""
    with LLMServer(rule_answerer) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", "sk-secret")
        return kanary(*six(run, server.url, tmp_path_factory.mktemp("whole"))).out


def stopped(run: Path, server: LLMServer, out: Path, number: int) -> Answer | None:
    """A job that got a signal after some answers."""
    child = Child(six(run, server.url, out), out / "logs")
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
        again = kanary(*six(run, server.url, tmp_path / "a"))
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
        answer = Child(six(run, server.url, tmp_path), tmp_path / "logs", _full_disk).wait()
        assert "answers.sqlite cannot be used: database or disk is full. Answers so far are kept." in answer.err
        assert "Traceback" not in answer.err
        assert len(server.calls) < 60
        with Kept(tmp_path / "answers.sqlite") as kept:
            had = len(kept)
        assert had >= len(server.calls) - IN_FLIGHT
        assert kanary(*six(run, server.url, tmp_path)).code == 0
        assert asked_twice(server) <= IN_FLIGHT
