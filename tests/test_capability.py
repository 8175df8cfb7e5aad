"""Prompts are honest passages, and answers are those of the model with the stand-in at every ordinary position."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from conftest import SENTENCES, small_tokenizer
from kanary.evaluation.capability import (
    SHORTEST,
    answers,
    capability,
    kept,
    make_prompts,
    rank_and_probability,
)
from kanary.evaluation.result import Answer, Capability, Prompt
from kanary.lm import LanguageModel
from kanary.text import TokenBatch, Windows, open_text
from test_latents import model_of
from test_text_windows import source_of

quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def batches_of(texts: list[str], lm: LanguageModel, window: int = 64) -> list[TokenBatch]:
    return list(Windows(source_of(texts), lm, window=window, batch=3, part="all"))


@dataclass
class Put:
    """A stand-in that is a function of what it is given, and remembers it."""

    function: Callable[[Tensor], Tensor] = lambda x: x
    site: str = "resid_post.1"
    seen: list[Tensor] = field(default_factory=list)

    def __call__(self, x: Tensor) -> tuple[Tensor, None]:
        self.seen.append(x.clone())
        return self.function(x.clone()), None


def shrunk(x: Tensor) -> Tensor:
    """Far enough from the identity to change continuations; every token on its own."""
    return 0.3 * x + 0.5


@pytest.fixture(scope="session")
def validation(stories: LanguageModel, corpora: Path) -> list[TokenBatch]:
    windows = Windows(open_text(str(corpora / "stories-validation.parquet")), stories, window=128, batch=8, part="all")
    return [next(windows) for _ in range(24)]


@pytest.fixture(scope="session")
def prompts(stories: LanguageModel, validation: list[TokenBatch]) -> list[Prompt]:
    return make_prompts(stories, validation, 50)


@pytest.fixture(scope="session")
def alone(stories: LanguageModel, prompts: list[Prompt]) -> list[Answer]:
    return answers(stories, prompts, None)


# Prompts


TEXTS = st.lists(st.sampled_from([s * n for s in SENTENCES for n in (1, 2)]), min_size=6, max_size=30)


@quick
@given(texts=TEXTS, window=st.integers(12, 64), n=st.integers(1, 60), bos=st.booleans(), seed=st.integers(0, 5))
def test_a_prompt_and_its_answer_lie_in_one_document(
    texts: list[str], window: int, n: int, bos: bool, seed: int, tiny_lm: LanguageModel
) -> None:
    lm = tiny_lm if bos else LanguageModel(tiny_lm.model, small_tokenizer(bos=False), "tiny without BOS")
    prompts = make_prompts(lm, batches_of(texts, lm, window), n, length=20, seed=seed)
    assert len(prompts) <= n
    assert len({tuple(p.tokens.tolist()) for p in prompts}) == len(prompts)
    assert len({len(p.tokens) for p in prompts}) <= 1
    for prompt in prompts:
        ids = prompt.tokens.tolist()
        if bos:
            assert ids.pop(0) == lm.bos_id
        assert SHORTEST <= len(ids) <= 20
        assert not {*ids, prompt.answer_id} & lm.special_ids
        whole = lm.tokenizer(texts[prompt.document], add_special_tokens=False)["input_ids"]
        passage = [*ids, prompt.answer_id]
        assert any(whole[i : i + len(passage)] == passage for i in range(len(whole)))
        assert prompt.text + prompt.answer in texts[prompt.document]


def test_prompts_are_the_same_every_time_and_the_seed_matters(
    stories: LanguageModel, validation: list[TokenBatch], prompts: list[Prompt]
) -> None:
    def ids(found: list[Prompt]) -> list[list[int]]:
        return [p.tokens.tolist() for p in found]

    assert ids(make_prompts(stories, iter(validation), 50)) == ids(prompts)
    assert ids(make_prompts(stories, validation, 50, seed=1)) != ids(prompts)


def test_prompts_are_spread_over_the_documents(stories: LanguageModel, validation: list[TokenBatch]) -> None:
    documents = len(torch.cat([b.documents.flatten() for b in validation]).unique())
    few = make_prompts(stories, validation, documents // 2)
    assert len({p.document for p in few}) == len(few) == documents // 2
    counts = torch.tensor([p.document for p in make_prompts(stories, validation, 2 * documents)]).bincount()
    assert counts.max() <= 4
    assert (counts > 0).sum() > 0.9 * documents


def test_one_long_document_is_enough_for_a_hundred_prompts(tiny_lm: LanguageModel) -> None:
    many = [" ".join(f"{SENTENCES[i % 3]} {i}" for i in range(400))]
    assert len(make_prompts(tiny_lm, batches_of(many, tiny_lm, 64), 100)) == 100


def test_long_documents_give_prompts_of_the_length_asked_for(prompts: list[Prompt]) -> None:
    assert len(prompts) == 50
    assert {len(p.tokens) for p in prompts} == {33}  # BOS and 32


def test_passages_do_not_overlap(tiny_lm: LanguageModel) -> None:
    """A document whose tokens are all different: none is in two prompts."""
    ids = torch.arange(10, 74)[None]
    batch = TokenBatch(ids, torch.zeros_like(ids), torch.arange(64)[None], torch.zeros_like(ids, dtype=torch.bool))
    prompts = make_prompts(tiny_lm, [batch], 4, length=15)
    used = [i for p in prompts for i in (*p.tokens.tolist()[1:], p.answer_id)]
    assert len(prompts) == 4
    assert len(set(used)) == len(used) == 64


def test_a_passage_ends_where_the_document_or_its_numbering_does(tiny_lm: LanguageModel) -> None:
    """Three documents of 10 tokens, of which the second lacks a token in the middle."""
    ids = torch.arange(10, 40)[None]
    positions = torch.arange(30)[None] + (torch.arange(30) >= 15)
    batch = TokenBatch(ids, ids // 10, positions, torch.zeros_like(ids, dtype=torch.bool))
    prompts = make_prompts(tiny_lm, [batch], 9, length=9)
    assert sorted(p.tokens.tolist()[1:] for p in prompts) == [[*range(10, 19)], [*range(30, 39)]]


def test_short_documents_give_shorter_prompts_and_too_little_text_fewer(tiny_lm: LanguageModel) -> None:
    short = [f"{i} {SENTENCES[i % 3]}"[:40] for i in range(40)]
    lengths = [len(tiny_lm.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in short]
    prompts = make_prompts(tiny_lm, batches_of(short, tiny_lm), 10)
    assert len(prompts) == 10
    assert SHORTEST <= len(prompts[0].tokens) - 1 < max(lengths)
    assert 0 < len(make_prompts(tiny_lm, batches_of(short, tiny_lm), 1000)) < 1000
    assert make_prompts(tiny_lm, batches_of(["ab"] * 40, tiny_lm), 10) == []
    assert make_prompts(tiny_lm, [], 10) == []


def test_a_text_without_end_is_not_read_to_its_end(stories: LanguageModel, validation: list[TokenBatch]) -> None:
    read: list[TokenBatch] = []
    endless = (read.append(batch) or batch for batch in cycle(validation))
    prompts = make_prompts(stories, islice(endless, 10_000), 5)
    assert len({p.document for p in prompts}) == 5
    assert 50 * 5 * 33 <= sum(b.n_tokens for b in read) < 2 * 50 * 5 * 33


def test_the_longest_length_that_gives_enough_is_taken(tiny_lm: LanguageModel) -> None:
    """30 tokens: one passage of 19 + 1, two of 14 + 1, three of 9 + 1."""
    ids = torch.arange(10, 40)[None]
    batch = TokenBatch(ids, torch.zeros_like(ids), torch.arange(30)[None], torch.zeros_like(ids, dtype=torch.bool))
    found = {n: make_prompts(tiny_lm, [batch], n, length=19) for n in (1, 2, 3, 9)}
    assert {n: (len(p), len(p[0].tokens) - 1) for n, p in found.items()} == {
        1: (1, 19),
        2: (2, 14),
        3: (3, 9),
        9: (3, 9),
    }


def test_text_and_answer_read_on_as_the_document_does(stories: LanguageModel, prompts: list[Prompt]) -> None:
    for prompt in prompts:
        ids = prompt.tokens.tolist()[1:]
        assert prompt.text + prompt.answer == stories.tokenizer.decode([*ids, prompt.answer_id])
    assert any(p.answer.startswith(" ") for p in prompts)


# Answers


@given(st.integers(1, 5), st.integers(2, 9), st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_rank_counts_strictly_larger_logits_and_probability_is_a_softmax(batch: int, vocab: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randint(-2, 3, (batch, vocab), generator=draw).float()  # with many ties
    tokens = torch.randint(0, vocab, (batch,), generator=draw)
    ranks, probabilities = rank_and_probability(logits, tokens)
    for row, token, rank, probability in zip(logits.tolist(), tokens.tolist(), ranks, probabilities, strict=True):
        assert rank == 1 + sum(each > row[token] for each in row)
        e = [2.718281828459045**each for each in row]
        assert probability == pytest.approx(e[token] / sum(e), rel=1e-12)


def test_a_model_that_returns_nan_ranks_nothing_first() -> None:
    assert rank_and_probability(torch.full((1, 7), torch.nan), torch.tensor([2]))[0] == [7]


def test_the_model_alone_answers_as_its_logits_say(
    stories: LanguageModel, prompts: list[Prompt], alone: list[Answer]
) -> None:
    for prompt, answer in zip(prompts, alone, strict=True):
        logits = stories.logits(prompt.tokens[None])[0, -1].double()
        close = (logits - logits[prompt.answer_id]).abs() < 1e-4
        rank = int((logits > logits[prompt.answer_id]).sum()) + 1
        assert abs(answer.rank - rank) < close.sum()
        assert answer.probability == pytest.approx(logits.softmax(0)[prompt.answer_id].item(), rel=1e-4)
    assert sum(a.rank == 1 for a in alone) > 10  # a model that can read: shifted answers would hardly ever be first


def test_the_continuation_is_that_of_generate(
    stories: LanguageModel, prompts: list[Prompt], alone: list[Answer]
) -> None:
    for prompt, answer in zip(prompts[:10], alone, strict=False):
        ids = stories.model.generate(prompt.tokens[None], max_new_tokens=16, do_sample=False)[0].tolist()
        assert prompt.text + answer.continuation == stories.tokenizer.decode(ids, skip_special_tokens=True)


def uncached(lm: LanguageModel, prompt: Prompt, standin: Put | None, new: int) -> str:
    """The greedy continuation by whole forward passes, one prompt at a time."""
    ids = prompt.tokens.tolist()
    for _ in range(new):
        tokens = torch.tensor([ids])
        ordinary = torch.tensor([[i not in lm.special_ids for i in ids]])

        def put(x: Tensor, ordinary: Tensor = ordinary) -> Tensor:
            assert standin is not None
            x = x.clone()
            x[ordinary] = standin.function(x[ordinary])
            return x

        token = int(lm.logits(tokens, replace={} if standin is None else {standin.site: put})[0, -1].argmax())
        if token == lm.eos_id:
            break
        ids.append(token)
    text: str = lm.tokenizer.decode(ids[1:])
    return text


@pytest.mark.parametrize("site", ["resid_post.1", "resid_pre.0", "attn_out.2", "mlp_out.4", "module:model.layers.3"])
def test_with_a_stand_in_it_is_that_of_uncached_greedy_decoding(
    stories: LanguageModel, prompts: list[Prompt], alone: list[Answer], site: str
) -> None:
    standin = Put(shrunk, site)
    found = answers(stories, prompts[:6], standin, batch=4)
    for prompt, answer in zip(prompts, found, strict=False):
        assert prompt.text + answer.continuation == uncached(stories, prompt, standin, 16)
    assert [a.rank for a in found] != [a.rank for a in alone[:6]]


@pytest.mark.parametrize("family", ["mistral", "qwen3", "gemma2", "gemma3_text", "phi3", "gpt2", "gpt_neox"])
def test_in_every_family_too(family: str) -> None:
    """Windows of 8 slide past within the continuation."""
    sliding = {"sliding_window": 8} if family in ("mistral", "gemma2", "gemma3_text") else {}
    lm = model_of(family, **sliding)
    prompts = make_prompts(lm, batches_of([s * 2 for s in SENTENCES], lm), 4, length=12)
    assert len(prompts) == 4
    for standin in (None, Put(shrunk, "resid_post.0")):
        for prompt, answer in zip(prompts, answers(lm, prompts, standin), strict=True):
            assert prompt.text + answer.continuation == uncached(lm, prompt, standin, 16)


def test_the_identity_changes_nothing_at_all(
    stories: LanguageModel, prompts: list[Prompt], alone: list[Answer]
) -> None:
    for site in ("resid_pre.0", "resid_post.2", "attn_out.1", "mlp_out.4"):
        assert answers(stories, prompts, Put(site=site)) == alone


def test_a_stand_in_that_is_one_position_late_is_noticed(
    stories: LanguageModel, prompts: list[Prompt], alone: list[Answer]
) -> None:
    late = answers(stories, prompts, Put(lambda x: x.roll(1, 0)))
    assert sum(a.rank == 1 for a in late) < sum(a.rank == 1 for a in alone) / 2


def test_a_stand_in_never_sees_a_special_token_and_every_other_once(
    stories: LanguageModel, prompts: list[Prompt]
) -> None:
    standin = Put()
    answers(stories, prompts[:3], standin, new_tokens=4)
    prompt, *new = standin.seen
    assert [len(x) for x in new] == [3, 3, 3]  # one position of each; the fourth token needs no forward of its own
    x = stories.capture(torch.stack([p.tokens for p in prompts[:3]]), ["resid_post.1"])["resid_post.1"]
    torch.testing.assert_close(prompt, x[:, 1:].flatten(0, 1))
    bos = x[0, 0]
    assert min(float((seen - bos).norm(dim=1).min()) for seen in standin.seen) > 1e-3


def test_special_positions_are_left_as_they_are(stories: LanguageModel, prompts: list[Prompt]) -> None:
    """A stand-in that wipes all it is given leaves BOS, from which the later layers can still read."""
    found = answers(stories, prompts[:4], Put(torch.zeros_like))
    for prompt, answer in zip(prompts, found, strict=False):
        assert prompt.text + answer.continuation == uncached(stories, prompt, Put(torch.zeros_like), 16)

        def wipe_all_but_bos(x: Tensor) -> Tensor:
            return torch.cat([x[:, :1], torch.zeros_like(x[:, 1:])], 1)

        logits = stories.logits(prompt.tokens[None], replace={"resid_post.1": wipe_all_but_bos})[0, -1].double()
        assert answer.probability == pytest.approx(logits.softmax(0)[prompt.answer_id].item(), rel=1e-4)


def test_generated_special_tokens_are_left_alone_too(tiny_lm: LanguageModel) -> None:
    """A model that writes BOS for ever: the stand-in is asked about the prompt only."""
    lm = model_of("llama")
    lm.model.lm_head.weight.data[:] = 0
    lm.model.config.eos_token_id = lm.model.generation_config.eos_token_id = 1
    prompts = make_prompts(lm, batches_of(SENTENCES * 2, lm), 2, length=8)
    standin = Put(site="resid_post.0")
    found = answers(lm, prompts, standin)
    assert [len(x) for x in standin.seen] == [16]
    assert [a.rank for a in found] == [1, 1]  # all logits are equal: none is strictly larger


def test_a_continuation_ends_before_eos_and_the_others_go_on(
    stories: LanguageModel, prompts: list[Prompt], alone: list[Answer]
) -> None:
    """The full stop is made EOS: some continuations reach it, some do not."""
    lm = copy(stories)
    lm.eos_id = stories.tokenizer.encode(".", add_special_tokens=False)[-1]
    lm.special_ids = stories.special_ids | {lm.eos_id}
    found = answers(lm, prompts, None)
    stopped = 0
    for answer, whole in zip(found, alone, strict=True):
        assert answer.continuation == whole.continuation.partition(".")[0]
        stopped += answer.continuation != whole.continuation
    assert 0 < stopped < len(found)


def test_batches_and_lengths_do_not_matter(stories: LanguageModel, prompts: list[Prompt], alone: list[Answer]) -> None:
    mixed = [p if i % 3 else p._replace(tokens=p.tokens[: 10 + i]) for i, p in enumerate(prompts[:20])]
    some = answers(stories, mixed, Put(shrunk), batch=7)
    for prompt, answer in zip(mixed, some, strict=True):
        (single,) = answers(stories, [prompt], Put(shrunk))
        assert answer.continuation == single.continuation
        assert answer.probability == pytest.approx(single.probability, rel=1e-3)
    assert answers(stories, [], None) == []


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_continuation_ends_at_the_longest_context(family: str) -> None:
    lm = model_of(family)
    lm.model.generation_config.eos_token_id = None
    (prompt,) = make_prompts(lm, batches_of([SENTENCES[0] * 4], lm), 1, length=58)
    standin = Put(site="resid_post.0")
    (answer,) = answers(lm, [prompt], standin)
    assert len(standin.seen) == 64 - len(prompt.tokens) + 1
    assert answer.continuation


def test_no_new_tokens_means_no_continuation(
    stories: LanguageModel, prompts: list[Prompt], alone: list[Answer]
) -> None:
    for answer, whole in zip(answers(stories, prompts, None, new_tokens=0), alone, strict=True):
        assert answer == whole._replace(continuation="")


# The whole


def test_the_whole_test_puts_all_rows_beside_the_model_alone(
    stories: LanguageModel, validation: list[TokenBatch], prompts: list[Prompt], alone: list[Answer]
) -> None:
    shown: list[int] = []
    standins = {"identity": Put(), "bad": Put(shrunk, "resid_post.3")}
    found = capability(stories, iter(validation), standins, 50, 0, show=shown.append)
    assert sum(shown) == 3 * 50
    assert [p.answer_id for p in found.prompts] == [p.answer_id for p in prompts]
    assert found.without == alone
    assert list(found.rows) == ["identity", "bad"]
    assert found.rows["identity"] == alone
    same, bad = kept(found, "identity"), kept(found, "bad")
    first = sum(a.rank == 1 for a in alone)
    assert (same.share.value, same.share.n) == (1.0, first)
    assert same.share.low < same.share.high == pytest.approx(1)
    assert same.rank_with == same.rank_without == bad.rank_without
    assert bad.share.value < 1
    assert bad.rank_with > bad.rank_without


def test_the_share_kept_counts_only_what_the_model_alone_had_right() -> None:
    def row(*ranks: int) -> list[Answer]:
        return [Answer(rank, 0.5, "") for rank in ranks]

    found = Capability([], row(1, 1, 1, 2, 9), {"sae": row(1, 1, 4, 1, 1)})
    share, without, new = kept(found, "sae")
    assert (share.value, share.n) == (pytest.approx(2 / 3), 3)
    # roots of (p - 2/3)^2 = z^2 p (1 - p) / 3, which define Wilson's interval
    for p in (share.low, share.high):
        assert (p - 2 / 3) ** 2 == pytest.approx(1.959964**2 * p * (1 - p) / 3, rel=1e-5)
    assert 0 < share.low < 2 / 3 < share.high < 1
    assert (without, new) == (1, 1)


def test_without_prompts_there_are_no_numbers(tiny_lm: LanguageModel) -> None:
    found = capability(tiny_lm, [], {"identity": Put()})
    assert (found.prompts, found.without, found.rows) == ([], [], {"identity": []})
    share, without, new = kept(found, "identity")
    assert share.n == 0
    assert [share.value != share.value, without != without, new != new] == [True] * 3
