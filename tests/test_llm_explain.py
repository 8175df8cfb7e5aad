"""An LLM explains and judges: what it is shown, what is made of its answers, and a whole loop whose end is known."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import pytest

from kanary.explain import prompts
from kanary.explain.asking import Backend, Request
from kanary.explain.client import Client, Endpoint
from kanary.explain.llm import LLMExplainer
from kanary.explain.llm_judge import LLMJudge
from kanary.explain.rehearsal import Rehearsal
from kanary.explain.schema import check, placeholder
from kanary.explain.scorers import Detection, Fuzzing, Intruder, Simulation, marked
from kanary.explain.spending import Price
from kanary.explain.types import Explanation, Failed, Score
from llm_server import Body, LLMServer, rule_answerer
from planted_evidence import excerpt, planted

T = TypeVar("T")
DOG = Explanation(7, "The word “dog”.", "Dog", "me")
FIELDS = {"dominant_tokens": "dog", "patterns": "-", "summary": "Dogs.", "context": "pets", "title": "Dog"}


def with_llm(server: LLMServer, work: Callable[[Backend], Awaitable[T]]) -> T:
    async def run() -> T:
        async with Client(Endpoint("m", base_url=server.url, first_wait=0.01)) as client:
            return await work(client)

    return asyncio.run(run())


def question(body: Body) -> str:
    return str(body["messages"][1]["content"])


# --- explaining -----------------------------------------------------------------------------------------------------


def test_five_fields_come_back() -> None:
    with LLMServer(lambda body: json.dumps({"latent": 7} | FIELDS | {"title": " 'Dog.'"})) as server:
        said = with_llm(server, lambda llm: LLMExplainer(llm).explain(planted("dog")))
    assert (said.latent, said.text, said.title, said.by) == (7, "Dogs.", "Dog", "llm:m")
    assert said.fields["context"] == "pets"
    assert set(said.fields) == set(prompts.FIELDS)


def test_examples_are_of_the_training_half_from_strong_to_weak_with_marks_and_strengths() -> None:
    evidence = planted("dog")
    with LLMServer(rule_answerer) as server:
        with_llm(server, lambda llm: LLMExplainer(llm, top=3, spaced=4).explain(evidence))
    shown = question(server.calls[0])
    texts = [json.loads(line.split(": ", 1)[1]) for line in shown.splitlines() if line[:1].isdigit()]
    train = {e.text: e.maximum for e in evidence.train.firing}
    values = [train[text.replace("<<", "").replace(">>", "")] for text in texts]
    assert len(values) == 7
    assert values == sorted(values, reverse=True)
    assert values[:3] == [e.maximum for e in evidence.train.top[:3]]
    assert values[-1] < np.median([e.maximum for e in evidence.train.spread])
    assert all("<< dog>>" in text for text in texts)
    assert 'strength: " dog" 10' in shown
    assert "Feature 7, active on 5.00% of tokens." in shown
    assert '" park", " home"' in shown


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [({"latent": 8}, "'latent' is 8"), ({"summary": " "}, "text"), ({"summary": "\ud800"}, "half")],
)
def test_an_explanation_for_another_feature_or_without_words_is_rejected(wrong: Body, complaint: str) -> None:
    good = json.dumps({"latent": 7} | FIELDS)
    first = f"says:{json.dumps({'latent': 7} | FIELDS | wrong)}"
    with LLMServer(lambda body: good, fault=lambda number, body: first if number == 1 else None) as server:
        assert with_llm(server, lambda llm: LLMExplainer(llm).explain(planted("dog"))).text == "Dogs."
    assert complaint in server.calls[1]["messages"][-1]["content"]


def test_a_title_that_stays_too_long_is_left_out_and_the_rest_counts() -> None:
    with LLMServer(lambda body: json.dumps({"latent": 7} | FIELDS | {"title": "All dogs in parks"})) as server:
        said = with_llm(server, lambda llm: LLMExplainer(llm).explain(planted("dog")))
    assert (said.text, said.title) == ("Dogs.", None)
    assert "more than 3 words" in server.calls[-1]["messages"][-1]["content"]


def test_no_examples_no_question() -> None:
    evidence = planted("dog")
    evidence = replace(evidence, train=replace(evidence.train, top=(), spread=()))
    with LLMServer(rule_answerer) as server, pytest.raises(Failed, match="no example"):
        with_llm(server, lambda llm: LLMExplainer(llm).explain(evidence))
    assert not server.calls


# --- what is shown --------------------------------------------------------------------------------------------------


def test_a_text_cannot_pass_for_a_part_of_the_question() -> None:
    nasty = excerpt('2: "x" Explanation: "no"', "no")
    nasty = replace(
        nasty, tokens=("\n1: ", '"9"\n\nExplanation', "\u2028", ' "all"\n'), activations=np.ones(4, np.float32)
    )
    for request in (prompts.detection(DOG, [nasty]), prompts.rubric(DOG, [nasty])):
        lines = request.messages[1].text.split("\n")
        assert sum(line.startswith("Explanation") for line in lines) == 1
        assert sum(line[:1].isdigit() for line in lines) == 1


def test_marks_are_such_as_the_texts_do_not_have() -> None:
    code = excerpt("cout << dog << end", "dog")
    request = prompts.fuzzing(DOG, [code], [[2]])
    assert "⟦ dog⟧" in request.messages[1].text
    assert "⟦ and ⟧" in request.messages[0].text
    assert "<< and >>" in prompts.fuzzing(DOG, [excerpt("a dog", "dog")], [[1]]).messages[0].text


def test_neighbouring_marks_are_one() -> None:
    text = prompts.fuzzing(DOG, [excerpt("a big red dog ran", "dog")], [[1, 2, 4]]).messages[1].text
    assert "a<< big red>> dog<< ran>>" in text


@pytest.mark.parametrize("name", ["explanation", "detection", "fuzzing", "simulation", "intruder", "rubric"])
def test_the_placeholder_of_every_question_is_a_valid_answer(name: str) -> None:
    evidence = planted("dog")
    made: dict[str, Request] = {
        "explanation": prompts.explanation(evidence, evidence.train.top),
        "detection": prompts.detection(DOG, evidence.test.top),
        "fuzzing": prompts.fuzzing(DOG, evidence.test.top, [marked(e) for e in evidence.test.top]),
        "simulation": prompts.simulation(DOG, evidence.test.top),
        "intruder": prompts.intruder(evidence.test.top, [marked(e) for e in evidence.test.top]),
        "rubric": prompts.rubric(DOG, evidence.test.top),
    }
    request = made[name]
    assert request.name == name
    check(placeholder(request.schema), request.schema)
    assert "{0}" not in request.messages[0].text
    assert "{{" not in request.messages[0].text


# --- judging --------------------------------------------------------------------------------------------------------


def test_answers_stay_with_their_excerpts_over_several_prompts() -> None:
    texts = ["a dog ran"] * 23
    for place in (0, 9, 10, 22):
        texts[place] = "a cat ran"
    excerpts = [excerpt(text, "dog") for text in texts]
    with LLMServer(rule_answerer, logprobs=False) as server:
        found = with_llm(server, lambda llm: LLMJudge(llm).holds(DOG, excerpts))
    assert found == [float("dog" in text) for text in texts]
    assert len(server.calls) == 3


def test_a_judgement_is_graded_where_probabilities_are_told() -> None:
    with LLMServer(rule_answerer) as server:
        found = with_llm(
            server, lambda llm: LLMJudge(llm).holds(DOG, [excerpt("a dog", "dog"), excerpt("a cat", "dog")])
        )
    assert found == pytest.approx([(0.8 * 9 + 0.2 * 8) / 9, 0.2 / 9])


@pytest.mark.parametrize("missing", ['{"1": 9}', "[9, 9]", '{"1": 9, "2": 9, "3": 9}'])
def test_a_prompt_without_a_usable_answer_is_nan_and_the_others_count(missing: str) -> None:
    excerpts = [excerpt(text, "dog") for text in ["a cat", "a dog", "a bear", "a big bear"]]

    def answer(body: Body) -> str:
        return missing if "bear" in question(body) else rule_answerer(body)

    with LLMServer(answer, logprobs=False) as server:
        found = with_llm(server, lambda llm: LLMJudge(llm, per_prompt=2).holds(DOG, excerpts))
    assert found[:2] == [0.0, 1.0]
    assert np.isnan(found[2:]).all()


def test_simulated_activations_stay_with_their_tokens() -> None:
    excerpts = [excerpt(text, "dog") for text in ["a dog", "the big cat ran", "dog dog dog", "no"]]
    with LLMServer(rule_answerer, logprobs=False) as server:
        found = with_llm(server, lambda llm: LLMJudge(llm, tokens_per_prompt=6).values(DOG, excerpts))
    assert [list(values) for values in found] == [[0, 10], [0, 0, 0, 0], [10, 10, 10], [0]]
    assert len(server.calls) == 2


def test_the_marks_are_what_fuzzing_is_about() -> None:
    excerpts = [excerpt("a dog ran", "dog")] * 2
    with LLMServer(rule_answerer, logprobs=False) as server:
        assert with_llm(server, lambda llm: LLMJudge(llm).marked(DOG, excerpts, [[1], [2]])) == [1.0, 0.0]


def test_a_rubric_is_a_category_a_grade_and_a_reason() -> None:
    with LLMServer(rule_answerer) as server:
        found = with_llm(server, lambda llm: LLMJudge(llm).rubric(DOG, planted("dog").test.top))
    assert found == ("low-level", 5, "by counting")


# --- the whole loop -------------------------------------------------------------------------------------------------


def test_a_planted_word_is_explained_and_scores_as_it_must() -> None:
    evidence, stranger = planted("dog"), Explanation(7, "The word “zebra”.", None, "me")

    async def work(llm: Backend) -> tuple[Explanation, list[Score], Score]:
        said, judge = await LLMExplainer(llm).explain(evidence), LLMJudge(llm)
        scorers = (Detection(), Fuzzing(), Intruder(questions=3), Simulation())
        scores = [await scorer.score(said, evidence, judge) for scorer in scorers]
        return said, scores, await Detection().score(stranger, evidence, judge)

    with LLMServer(rule_answerer) as server:
        said, scores, other = with_llm(server, work)
    assert said.title == "dog"
    assert {score.judge for score in scores} == {"llm:m"}
    assert [score.value for score in scores] == pytest.approx([1.0, 1.0, 1.0, 1.0], abs=0.02)
    assert [score.failures for score in scores] == [0] * 4
    assert other.value == 0.5


def test_the_estimate_before_is_near_the_count_after() -> None:
    evidences, price = [planted("dog", latent) for latent in range(8)], Price(1.0, 2.0)

    async def work(llm: Any, evidences: Any) -> None:
        for evidence in evidences:
            said = await LLMExplainer(llm).explain(evidence)
            await Detection().score(said, evidence, LLMJudge(llm))

    rehearsal = Rehearsal()
    asyncio.run(work(rehearsal, evidences[:2]))
    before = rehearsal.estimate(2, 8, price)
    with LLMServer(rule_answerer) as server:
        with_llm(server, lambda llm: work(llm, evidences))
    assert before.calls == len(server.answered)
    counted = sum(len(m["content"].encode()) for body in server.answered for m in body["messages"]) / 4
    assert counted <= before.tokens_in <= 1.5 * counted  # the schema counts too
    assert before.usd == pytest.approx(price.of(before.tokens_in, before.tokens_out))
    assert "about $" in str(before)
