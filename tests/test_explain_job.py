"""The whole of ``kanary explain`` with a language model, which a server on loopback stands for."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from explain_world import indexed
from kanary import FeatureIndex
from llm_server import Body, LLMServer, rule_answerer
from runs import Answer, kanary


@pytest.fixture(scope="module")
def run(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return indexed(tiny_llama, tmp_path_factory.mktemp("explain-llm"))


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")


def explain(run: Path, url: str, out: Path, *more: object, features: str = "alive:4") -> Answer:
    asked = ("--features", features, "--tokens", "3K", "--controls", "2", "--llm", "m", "--llm-url", url, "--out", out)
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
