"""Skills: questions of planted passages, and of the corpus, against the same questions asked one at a time in float64."""

from __future__ import annotations

import copy
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import kanary
import kanary.evaluation.skills as module
from conftest import small_tokenizer
from kanary.errors import KanaryError
from kanary.evaluation.capability import _wilson
from kanary.evaluation.result import Metric
from kanary.evaluation.skills import (
    FAR,
    SKILLS,
    Skill,
    _answer,
    _collect,
    _records,
    _share,
    skills,
    skills_table,
)
from kanary.evaluation.standin import Identity
from kanary.lm import LanguageModel, load_model
from kanary.text.labelled import Question, Record, record

NAN = float("nan")
SITE, LAYER = "resid_post.1", 1
TOOLS = Path(__file__).resolve().parent.parent / "tools"


class Asked(NamedTuple):
    """A passage with one question, for tests."""

    before: str
    answer: str
    wrong: tuple[str, ...] = ()
    after: str = ""
    skill: str = "recall"


def planted(monkeypatch: pytest.MonkeyPatch, passages: Sequence[Asked | Record]) -> None:
    """Makes ``passages`` the first held-out documents of a corpus that asks nothing else."""

    def instead(number: int, seed: int, families: Sequence[str]) -> Record:
        if number // 20 >= len(passages):
            return Record(number, "none", "nothing", (), ())
        each = passages[number // 20]
        if isinstance(each, Record):
            return Record(number, each.family, each.text, (), each.questions)
        question = Question(each.skill, len(each.before), each.answer, each.wrong)
        return Record(number, "none", each.before + each.answer + each.after, (), (question,))

    monkeypatch.setattr(module, "record", instead)


def tokenizer_of(text: str, size: int) -> Any:
    """A byte-level BPE with the merges that ``text`` suggests; with ``size`` 259 every byte is a token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<s>", "</s>", "<pad>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([text], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def with_tokenizer(lm: LanguageModel, tokenizer: Any, context: int = 2000) -> LanguageModel:
    """The same model reading other tokens, with room for ``context`` of them."""
    other = copy.copy(lm)
    other.tokenizer, other.context = tokenizer, context
    return other


@pytest.fixture(scope="module")
def lm(tiny_llama: Path) -> LanguageModel:
    """The tiny model with weights so large that its answers differ, and room for the corpus' passages."""
    lm = load_model(tiny_llama, device="cpu")
    draw = torch.Generator().manual_seed(5)
    for parameter in lm.model.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=draw)
    lm.context = 2000
    return lm


@dataclass
class Put:
    """A stand-in that changes every token on its own, and remembers what it was given."""

    site: str = SITE
    seen: list[Tensor] = field(default_factory=list)

    def __call__(self, x: Tensor) -> tuple[Tensor, None]:
        self.seen.append(x.clone())
        return 0.3 * x + 0.5, None


class Once(NamedTuple):
    """One question by hand."""

    log_p: list[float]
    predicted: list[int]
    choice: bool


def by_hand(lm: LanguageModel, text: str, q: Question, changed: bool = False) -> Once:
    """Every option read alone, without padding, in float64; ``changed``: with :class:`Put` in place."""
    model = copy.deepcopy(lm.model).double()
    options, starts = [], []
    for option in (q.answer, *q.wrong):
        coded = lm.tokenizer(text[: q.end] + option, add_special_tokens=False, return_offsets_mapping=True)
        options.append([0, *coded["input_ids"]])
        starts.append(1 + sum(end <= q.end for _, end in coded["offset_mapping"]))
    start = min(starts)

    def hook(block: Any, inputs: Any, output: Any) -> Any:
        return torch.cat([output[:, :1], 0.3 * output[:, 1:] + 0.5], 1)  # BOS stays as it is

    handle = model.model.layers[LAYER].register_forward_hook(hook) if changed else None
    log_p, predicted = [], []
    for ids in options:
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0].numpy()
        log_q = logits - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True))
        log_q -= logits.max(1, keepdims=True)
        log_p.append(sum(float(log_q[at - 1, ids[at]]) for at in range(start, len(ids))))
        predicted.append([int(log_q[at - 1].argmax()) for at in range(start, len(ids))])
    if handle is not None:
        handle.remove()
    return Once(log_p, predicted[0], all(log_p[0] > other for other in log_p[1:]))


def first_questions(per_skill: int) -> Iterator[tuple[Record, Question]]:
    """The first questions of every skill in the held-out corpus."""
    left = Counter(dict.fromkeys(SKILLS, per_skill))
    number = 19
    while left.total():
        each = record(number)
        number += 20
        for question in each.questions:
            if left[question.skill]:
                left[question.skill] -= 1
                yield each, question


@pytest.mark.parametrize("changed", [False, True])
def test_the_corpus_by_hand(lm: LanguageModel, changed: bool) -> None:
    put = Put() if changed else None
    asked = _collect(lm, _records(0, "heldout", ()), 3).asked
    read = _answer(lm, asked, put, None)
    chosen = list(first_questions(3))
    assert [(a.document, a.skill) for a in asked] == [(each.id, question.skill) for each, question in chosen]
    mine: dict[str, list[Once]] = {}
    for number, (each, question) in enumerate(chosen):
        once = by_hand(lm, each.text, question, changed)
        found = [read[number, option].log_p for option in range(1 + len(question.wrong))]
        assert found == pytest.approx(once.log_p, abs=2e-3, rel=1e-4)
        assert read[number, 0].predicted == once.predicted
        mine.setdefault(question.skill, []).append(once)
    rows = {row.name: row for row in skills(lm, per_skill=3, standin=put)}
    assert [name for name in rows if name in SKILLS] == list(SKILLS)
    for name, answers in mine.items():
        of_skill = [(each, question) for each, question in chosen if question.skill == name]
        assert (rows[name].n, rows[name].documents) == (3, len({each.id for each, _ in of_skill}))
        assert rows[name].choice.value == pytest.approx(np.mean([once.choice for once in answers]))
        assert rows[name].chance == pytest.approx(np.mean([1 / (1 + len(q.wrong)) for _, q in of_skill]))
    if put is not None:  # neither BOS nor padding was put through it
        assert not any(bool((x == lm.capture(torch.tensor([[0]]), [SITE])[SITE][0]).all(1).any()) for x in put.seen)


@pytest.mark.parametrize("bos", [True, False])
def test_a_stand_in_sees_each_ordinary_token_once(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch, bos: bool
) -> None:
    passages = [Asked("x" * n, " a", (" b",)) for n in (1, 9, 30)]
    planted(monkeypatch, passages)
    put = Put()
    byte = with_tokenizer(lm, tokenizer_of("", 259))
    if not bos:  # then the token that pads is an ordinary one
        byte.bos_id, byte.special_ids = None, frozenset()
    skills(byte, per_skill=9, standin=put)
    # the last byte is predicted, not read; " a" and " b" share all before it, so every passage is read once
    assert sum(len(x) for x in put.seen) == sum(n + 1 for n in (1, 9, 30))


def test_the_identity_changes_nothing(lm: LanguageModel) -> None:
    alone = skills(lm, per_skill=4)
    assert repr(skills(lm, per_skill=4, standin=Identity(SITE))) == repr(alone)
    assert repr(skills(lm, per_skill=4, standin=Put())) != repr(alone)


def rigged(lm: LanguageModel, follow: Sequence[tuple[str, str]], monkeypatch: pytest.MonkeyPatch) -> LanguageModel:
    """``lm``, but after each prompt of ``follow`` it expects the text beside it, and elsewhere anything."""
    knows: dict[tuple[int, ...], int] = {}
    for prompt, text in follow:
        coded = lm.tokenizer(prompt + text, add_special_tokens=False, return_offsets_mapping=True)
        ids = [0, *coded["input_ids"]]
        ends = [0, *(end for _, end in coded["offset_mapping"])]
        knows |= {tuple(ids[:at]): ids[at] for at in range(1, len(ids)) if ends[at] > len(prompt)}
    other = copy.copy(lm)

    def logits(tokens: Tensor, attention_mask: Tensor | None = None, *, replace: Any = None) -> Tensor:
        found = torch.zeros(*tokens.shape, lm.vocab_size)
        for row, ids in enumerate(tokens.tolist()):
            for at in range(len(ids)):
                if (right := knows.get(tuple(ids[: at + 1]))) is not None:
                    found[row, at, right] = 10
        return found

    monkeypatch.setattr(other, "logits", logits, raising=False)
    return other


def test_a_model_that_knows_and_one_that_errs(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = list(first_questions(5))
    right = [(each.text[: q.end], q.answer) for each, q in chosen]
    wrong = [(each.text[: q.end], q.wrong[0]) for each, q in chosen]
    for follow, value in ((right, 1.0), (wrong, 0.0)):
        rows = skills(rigged(lm, follow, monkeypatch), per_skill=5)
        assert {row.name for row in rows} >= set(SKILLS)
        assert {(row.greedy.value, row.choice.value) for row in rows} == {(value, value)}


CODE = "f() f() x), x), x( her here hers " * 50


def straddling(lm: LanguageModel) -> LanguageModel:
    return with_tokenizer(lm, tokenizer_of(CODE, 300))


@pytest.mark.parametrize("options", [")]}", "])}", "]})"])
def test_a_token_on_both_sides_of_the_prompt_is_asked_for_whole(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    lm, answer, wrong = straddling(lm), options[0], tuple(options[1:])
    planted(monkeypatch, [Asked("a f(", answer, wrong, " x", "brackets")])
    (asked,) = _collect(lm, _records(0, "heldout", ()), 5).asked
    tokens = [lm.tokenizer.convert_ids_to_tokens(ids[asked.start :]) for ids in asked.options]
    assert tokens == [["()"] if option == ")" else ["(", option] for option in options]
    read = _answer(lm, [asked], None, None)
    once = by_hand(lm, f"a f({answer} x", Question("brackets", 4, answer, wrong))
    assert [read[0, option].log_p for option in range(3)] == pytest.approx(once.log_p, abs=1e-4)


@pytest.mark.parametrize(
    ("before", "answer", "said", "right"),
    [
        ("a (x", ")", ")", 1.0),
        ("a (x", ")", "),", 1.0),  # one token, which closes the bracket and says more
        ("a (x", ")", "(", 0.0),
        ("of", " her", " her", 1.0),
        ("of", " her", " here", 0.0),  # one token, another word
    ],
)
def test_the_last_token_may_say_more_but_not_another_word(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch, before: str, answer: str, said: str, right: float
) -> None:
    lm = straddling(lm)
    sizes = [
        len(lm.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in (before + answer, before + said)
    ]
    assert sizes[0] == sizes[1]
    planted(monkeypatch, [Asked(before, answer, skill="brackets")])
    (row,) = skills(rigged(lm, [(before, said)], monkeypatch), per_skill=5)
    assert row.greedy.value == right
    assert row.choice.n == 0
    assert row.choice.value != row.choice.value
    assert "| brackets | 1 | 1 |" in skills_table([row])
    assert "| – | – | – | 0 |" in skills_table([row])


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 60), min_size=1, max_size=6), st.sampled_from(["lie", "true_claim", "recall"]))
def test_the_distance_to_the_fact(lm: LanguageModel, gaps: list[int], skill: str) -> None:
    """With a token per byte, it is the number of characters from the mention to the answer's space."""
    truth = "BOX" if skill == "lie" else "JAR"  # the answer is the jar
    # what does not count: the words within others and, where the truth is asked for, the wrong answer
    nearer = ", boxes" if skill == "lie" else ", box"
    filler = [" jars" + "-" * gap for gap in gaps]
    passages = [Asked(f"The {truth}{nearer}{each}", " jar", (" box",), ".", skill) for each in filler]
    expected = [len(nearer + each) for each in filler]
    with pytest.MonkeyPatch.context() as patch:
        planted(patch, passages)
        rows = skills(with_tokenizer(lm, tokenizer_of("", 259)), per_skill=10)
    assert rows[0].distance == np.median(expected)
    far = [distance for distance in expected if distance >= FAR]
    assert [row.name for row in rows] == [skill, f"{skill}, fact ≥ 30 tokens back"][: 1 + bool(far)]
    if far:
        assert (rows[1].n, rows[1].distance) == (len(far), np.median(far))


def test_counts(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    byte = with_tokenizer(lm, tokenizer_of("", 259), context=20)
    text = "one two one two"
    two = Record(0, "none", text, (), (Question("gender", 3, " two", (" one",)), Question("gender", 7, " one")))
    long = Asked("x" * 17, " abc", (), "", "gender")  # BOS, 17 and 3 of the answer are read: 21 tokens
    fits = Asked("x" * 16, " abc", (" a", " b", " c"), "", "gender")
    planted(monkeypatch, [two, long, fits, two, Asked("x", " y", skill="unheard of")])
    (row,) = skills(byte, per_skill=5)
    assert (row.name, row.n, row.documents, row.skipped) == ("gender", 5, 3, 1)
    assert row.choice.n == 3
    assert row.chance == pytest.approx((1 / 2 + 1 / 4 + 1 / 2) / 3)
    assert row.distance != row.distance
    (row,) = skills(byte, per_skill=3)
    assert (row.n, row.documents, row.skipped) == (3, 2, 1)
    shown: list[int] = []
    skills(byte, per_skill=4, show=shown.append)
    assert sum(shown) == 4


def test_without_bos_a_question_needs_a_prompt(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = with_tokenizer(lm, small_tokenizer(bos=False))
    plain.bos_id = None
    planted(monkeypatch, [Asked("", "Tom", skill="turn"), Asked("a", " b", skill="turn")])
    (row,) = skills(plain, per_skill=5)
    assert (row.n, row.skipped) == (1, 1)


def test_parts_and_seeds(lm: LanguageModel) -> None:
    def documents(seed: int, part: Any) -> list[int]:
        return [each.id for each, _ in zip(_records(seed, part, ()), range(40), strict=False)]

    assert documents(0, "heldout") == list(range(19, 819, 20))
    assert documents(0, "train") == [i for i in range(60) if i % 20 != 19][:40]
    assert documents(0, "all") == list(range(40))
    assert next(_records(3, "heldout", ["honesty"])) == record(19, 3, ("honesty",))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"part": "test"}, "Unknown part 'test'"),
        ({"families": ["wether"]}, "weather"),
        ({"families": ["weather"], "per_skill": 2}, "families: weather"),
        ({"per_skill": 0}, "per_skill is 0"),
    ],
)
def test_refusals(lm: LanguageModel, options: dict[str, Any], says: str) -> None:
    with pytest.raises(KanaryError, match=re.escape(says)):
        skills(lm, **options)


def test_a_model_too_short_for_the_corpus(lm: LanguageModel) -> None:
    with pytest.raises(KanaryError, match=r"[1-9]\d* are longer than the 4 tokens"):
        skills(with_tokenizer(lm, lm.tokenizer, context=4), per_skill=2, families=["sports"])


def test_intervals_over_documents() -> None:
    draw = np.random.default_rng(0)
    answers = [(document, bool(draw.random() < document % 3 / 2)) for document in range(150) for _ in range(4)]
    found = _share(answers, seed=1)
    right = np.array([right for _, right in answers], dtype=float).reshape(150, 4).sum(1)
    resamples = [right[draw.integers(150, size=150)].sum() / 600 for _ in range(4000)]
    assert found.value == pytest.approx(right.sum() / 600)
    assert (found.low, found.high) == pytest.approx(np.quantile(resamples, [0.025, 0.975]), abs=0.02)
    alone = _wilson(int(right.sum()), 600)
    assert found.high - found.low > 1.3 * (alone.high - alone.low)  # questions of one document are alike
    for all_right in (True, False):
        bare = _share([(document, all_right) for document in range(40) for _ in range(3)], seed=0)
        assert bare[:3] == pytest.approx(_wilson(40 * all_right, 40)[:3])
        assert bare.n == 120
    few = _share([(0, True), (1, False)], seed=0)
    assert few.value == 0.5
    assert few.low != few.low


def a_row(name: str, value: float, distance: float = NAN) -> Skill:
    return Skill(name, 1234, 99, Metric(value, value - 0.05, value + 0.05, 1234), _wilson(3, 4), 0.5, distance, 2)


def test_the_table() -> None:
    lines = skills_table([a_row("lie", 0.9, 121.5), a_row("turn", 0.25)]).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| lie | 1,234 | 99 | 90.0 % (85.0–95.0) | 75.0 % (")
    assert lines[2].endswith("| 50.0 % | 121.5 | 2 |")
    assert lines[3].endswith("| 50.0 % | – | 2 |")


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    if not TOOLS.is_dir():
        pytest.skip("tools are not part of this distribution")
    monkeypatch.syspath_prepend(TOOLS)
    import bundled_model_card  # type: ignore[import-not-found]

    found: ModuleType = bundled_model_card
    return found


def a_log(folder: Path, tokens: int, loss: float, every: int = 1000) -> Path:
    folder.mkdir()
    lines = [{"step": n // 10, "tokens": n, "loss": 9.0, "seconds": n} for n in range(every, tokens + 1, every)]
    for line in lines[1::2]:
        line["held_out_loss"] = loss * tokens / line["tokens"]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_the_model_card(
    tool: ModuleType, tiny_llama: Path, tiny_lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tool.read_log(a_log(tmp_path / "whole", 20_000, 0.6))
    half = tool.read_log(a_log(tmp_path / "half", 10_000, 0.75))
    rows = [a_row("lie", 0.9), a_row("turn", 0.25)]
    text = tool.card(tiny_lm, tiny_llama, log, half, rows, 7)
    _, head, body = text.split("---\n", 2)
    assert yaml.safe_load(head)["license"] == "apache-2.0"
    assert yaml.safe_load(head)["pipeline_tag"] == "text-generation"
    weights = sum(weight.numel() for weight in tiny_lm.model.parameters())
    assert f"| parameters | {weights:,}, of which 4,800 are the embedding |" in body
    assert "| attention heads | 2 of width 8; 1 for keys and values |" in body
    assert "20,000 tokens in 2,000 steps" in " ".join(body.split())
    assert "5.6 hours" in " ".join(body.split())
    assert re.findall(r"^\| ([\d,]+) \| ([\d.]+) \|$", body, re.MULTILINE) == [
        ("2,000", "6.0000"),
        ("4,000", "3.0000"),
        ("10,000", "1.2000"),
        ("20,000", "0.6000"),
    ]
    assert "ended at 0.7500. With 2.00 times the tokens the loss is 20.0 % lower." in " ".join(body.split())
    assert skills_table(rows) in body
    assert "seed 7" in body
    assert "64 tokens" in body
    assert "ended at" not in tool.card(tiny_lm, tiny_llama, log, [], rows, 7)
    example = re.findall(r"```python\n(.*?)```", body, re.DOTALL)
    assert len(example) == 1
    asked: list[str] = []
    monkeypatch.setattr(kanary, "load_model", lambda name, device: asked.append(name) or tiny_lm)
    exec(example[0], {})
    assert asked == ["bundled"]


def test_a_training_that_is_not_finished_has_no_card(tool: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(KanaryError, match=r"log\.jsonl is not the log of a finished training"):
        tool.read_log(tmp_path)
    with pytest.raises(KanaryError, match=r"log\.jsonl is not the log of a finished training"):
        tool.read_log(a_log(tmp_path / "stopped", 19_000, 0.6))
