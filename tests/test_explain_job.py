"""The whole of ``kanary explain`` with a language model, which a server on loopback stands for."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from explain_world import indexed
from kanary import FeatureIndex
from llm_server import LLMServer, rule_answerer
from runs import Answer, kanary


@pytest.fixture(scope="module")
def run(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return indexed(tiny_llama, tmp_path_factory.mktemp("explain-llm"))


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")


def explain(run: Path, url: str, out: Path, *more: object) -> Answer:
    asked = ("--features", "alive:4", "--tokens", "3K", "--controls", "2", "--llm", "m", "--llm-url", url, "--out", out)
    scorers = ("--scorers", "detection,fuzzing,intruder,simulation,rubric")
    return kanary("explain", run, *asked, "--explainer", "llm", "--price", "1,2", *scorers, *more)


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


def test_a_budget_ends_the_job_before_it_is_passed_and_keeps_what_is_there(run: Path, tmp_path: Path) -> None:
    with LLMServer(rule_answerer) as server:
        answer = explain(run, server.url, tmp_path, "--budget-usd", "0.004")
    if answer.code == 0:
        assert "Stopped: " in answer.err
        assert json.loads((tmp_path / "summary.json").read_text())["stopped"]
    else:
        assert "budget" in answer.message.lower()


def test_an_endpoint_that_is_not_there_is_a_line(run: Path, tmp_path: Path) -> None:
    with LLMServer(rule_answerer) as server:
        url = server.url
    message = explain(run, url, tmp_path).message
    assert message.startswith("None of the 4 features could be explained: llm:m: ")
    assert "Connection error" in message
