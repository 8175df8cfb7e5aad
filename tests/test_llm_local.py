"""A model on this machine fills in forms: whatever it is, its answers have the shape that was asked for."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kanary.errors import KanaryError
from kanary.explain import prompts
from kanary.explain.asking import Answer, Message, Request
from kanary.explain.backends import open_backend
from kanary.explain.llm import LLMExplainer
from kanary.explain.llm_judge import LLMJudge
from kanary.explain.local import Local, prompt_ids
from kanary.explain.schema import check, record, whole, words
from kanary.explain.types import Explanation, Failed
from kanary.lm import LanguageModel, load_model
from planted_evidence import planted

DOG = Explanation(7, "The word “dog”.", "Dog", "me")


@pytest.fixture(scope="module")
def lm(tiny_llama: Path) -> LanguageModel:
    """The tiny model, allowed to read long questions: its positions are rotations, which have no end."""
    model = load_model(tiny_llama, device="cpu")
    model.context = 20_000
    return model


def request(schema: object) -> Request:
    return Request("test", (Message("system", "Judge."), Message("user", "A dog.")), schema, 40, chances=True)  # type: ignore[arg-type]


def answer(lm: LanguageModel, schema: object) -> Answer:
    return asyncio.run(Local(lm).answer(request(schema)))


def test_an_answer_always_has_the_shape_asked_for(lm: LanguageModel) -> None:
    schema = record({"latent": whole(7, 7), "why": words(), "kind": words(["low", "high"]), "grade": whole(1, 5)})
    found = answer(lm, schema)
    value = json.loads(found.text)
    check(value, schema)
    assert list(value) == ["latent", "why", "kind", "grade"]
    place = max(found.chances)
    assert found.text[place] == str(value["grade"])
    assert sum(found.chances[place][1:6]) == pytest.approx(1.0)


def test_probabilities_are_those_of_the_model_reading_everything_anew(lm: LanguageModel) -> None:
    schema = record({"1": whole(0, 9), "2": whole(0, 9)})
    found = answer(lm, schema)
    tokenizer, ids = lm.tokenizer, prompt_ids(lm, request(schema))
    options = [tokenizer(f" {digit}", add_special_tokens=False)["input_ids"] for digit in range(10)]
    assert all(len(each) == 2 for each in options)  # a space, then the digit
    values = json.loads(found.text)
    for key, before in (("1", '{"1":'), ("2", ', "2":')):
        for piece in ("{", before[1:]) if key == "1" else (before,):
            ids += tokenizer(piece, add_special_tokens=False)["input_ids"]
        logits = lm.model.double()(torch.tensor([ids + options[0][:1]])).logits[0, -1]
        expected = logits[[each[1] for each in options]].softmax(0).tolist()
        lm.model.float()
        place = found.text.index(f'"{key}": ') + 5
        assert found.chances[place] == pytest.approx(expected, abs=1e-5)
        assert values[key] == expected.index(max(expected))
        ids += options[values[key]]


def test_every_question_of_an_explainer_and_a_judge_is_answered(lm: LanguageModel) -> None:
    evidence = planted("dog", n=2)

    async def work() -> None:
        said = await LLMExplainer(Local(lm)).explain(evidence)
        assert said.text.strip()
        assert set(said.fields) == set(prompts.FIELDS)
        judge = LLMJudge(Local(lm))
        assert judge.name == f"local:{lm.name}"
        grades = await judge.holds(DOG, evidence.test.top)
        assert all(0 <= grade <= 1 for grade in grades)
        values = await judge.values(DOG, evidence.test.top)
        assert [len(v) for v in values] == [len(e.tokens) for e in evidence.test.top]
        assert await judge.odd(evidence.test.top, [[0]] * 2) in (0, 1)
        assert (await judge.rubric(DOG, evidence.test.top)).category in prompts.CATEGORIES

    asyncio.run(work())


def test_a_question_beyond_the_window_fails_and_says_so(tiny_lm: LanguageModel) -> None:
    long = replace(request(record({"1": whole(0, 9)})), messages=(Message("user", "A dog. " * 30),))
    with pytest.raises(Failed, match="reads 64 tokens, and the question alone has"):
        asyncio.run(Local(tiny_lm).answer(long))
    local = Local(tiny_lm)
    with pytest.raises(Failed):
        asyncio.run(local.answer(long))
    assert "0 calls, 1 given up (the last: reads 64 tokens, and the question alone has " in str(local.spent)
    many = request(record({str(number): whole(0, 9) for number in range(60)}))
    with pytest.raises(Failed, match="the answer goes beyond"):
        asyncio.run(Local(tiny_lm).answer(many))


def test_a_chat_model_is_asked_in_its_own_words(tiny_llama: Path) -> None:
    model = load_model(tiny_llama, device="cpu")
    model.tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[me]"
    asked = model.tokenizer.decode(prompt_ids(model, request(record({}))))
    assert asked == "[system]Judge.[user]A dog.[me]"
    refusal = "{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    model.tokenizer.chat_template = "{% for m in messages %}" + refusal + "[{{ m.content }}]{% endfor %}"
    assert model.tokenizer.decode(prompt_ids(model, request(record({})))) == "[Judge.\n\nA dog.]"


def test_back_ends_have_names(tmp_path: Path, tiny_llama: Path) -> None:
    async def name(given: str) -> str:
        async with open_backend(given, cache=tmp_path / "a") as backend:
            return backend.name

    assert asyncio.run(name(f"local:{tiny_llama}")) == f"local:{tiny_llama}"
    for wrong in ("llm", "local:", "gpt"):
        with pytest.raises(KanaryError, match="no back end"):
            asyncio.run(name(wrong))
    with pytest.raises(KanaryError, match="nowhere"):
        asyncio.run(name(f"local:{tmp_path / 'nowhere'}"))
