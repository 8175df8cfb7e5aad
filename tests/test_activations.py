"""Live activations: what the model computes at every ordinary token, once, in pools that come again bit for bit."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kanary.activations.ahead import ahead
from kanary.activations.live import LiveActivations
from kanary.activations.pool import Pool
from kanary.activations.source import resolve_lm_batch, resolve_pool, resolve_window
from kanary.errors import KanaryError
from kanary.lm import LanguageModel, load_model
from kanary.text import TextSource, Windows, open_text

SITE = "resid_post.1"
WORDS = [
    "Once",
    "upon",
    "a",
    "time",
    "there",
    "was",
    "a",
    "little",
    "girl",
    "named",
    "Lily",
    "who",
    "loved",
    "to",
    "play",
    "in",
    "the",
    "park",
    "with",
    "her",
    "big",
    "red",
    "ball",
]


@pytest.fixture(scope="session")
def stories_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 documents of 5 to 44 words."""
    path = tmp_path_factory.mktemp("text") / "stories.jsonl"
    documents = [" ".join(WORDS[(i * j) % len(WORDS)] for j in range(5 + i * 7 % 40)) for i in range(60)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    return path


@pytest.fixture(scope="session")
def text(stories_file: Path) -> TextSource:
    return open_text(stories_file)


def live(lm: LanguageModel, text: TextSource, **options: object) -> LiveActivations:
    given = {"sites": [SITE], "window": 16, "lm_batch": 3, "pool": 40, "overlap": False}
    return LiveActivations(lm, text, **(given | options))  # type: ignore[arg-type]


def first(source: LiveActivations, n: int) -> list[Pool]:
    pools = source.pools()
    taken = [pool for pool, _ in zip(pools, range(n), strict=False)]
    pools.close()
    return taken


def assert_same(a: Pool, b: Pool) -> None:
    assert (a.index, a.state, a.after) == (b.index, b.state, b.after)
    assert all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("tokens", "documents", "positions"))
    assert list(a.x) == list(b.x)
    assert all(torch.equal(a.x[site], b.x[site]) for site in a.x)


def test_pools_hold_what_the_model_computes_at_every_ordinary_token(tiny_lm: LanguageModel, text: TextSource) -> None:
    pools = list(live(tiny_lm, text, repeat=False).pools())
    tokens, documents, positions, x = [], [], [], []
    for batch in Windows(text, tiny_lm, window=16, batch=3):
        ordinary = ~batch.special
        tokens.append(batch.tokens[ordinary])
        documents.append(batch.documents[ordinary])
        positions.append(batch.positions[ordinary])
        x.append(tiny_lm.capture(batch.tokens, [SITE])[SITE][ordinary])
    assert torch.equal(torch.cat([pool.tokens for pool in pools]), torch.cat(tokens))
    assert torch.equal(torch.cat([pool.documents for pool in pools]), torch.cat(documents))
    assert torch.equal(torch.cat([pool.positions for pool in pools]), torch.cat(positions))
    assert torch.equal(torch.cat([pool.x[SITE] for pool in pools]), torch.cat(x))
    assert {len(pool) for pool in pools[:-1]} == {40}
    assert not tiny_lm.special_ids & set(torch.cat(tokens).tolist())


def test_document_and_position_lead_back_to_the_token(tiny_lm: LanguageModel, text: TextSource) -> None:
    documents = {d.id: tiny_lm.tokenizer(d.text, add_special_tokens=False)["input_ids"] for d in text.documents()}
    for pool in live(tiny_lm, text, repeat=False).pools():
        for token, document, position in zip(
            *(t.tolist() for t in (pool.tokens, pool.documents, pool.positions)), strict=True
        ):
            assert documents[document][position] == token


@settings(deadline=None, max_examples=25)
@given(pool=st.integers(1, 150), lm_batch=st.integers(1, 5), window=st.integers(4, 33), which=st.integers(0, 9))
def test_any_pool_comes_again_from_its_state(
    tiny_lm: LanguageModel, text: TextSource, pool: int, lm_batch: int, window: int, which: int
) -> None:
    source = live(tiny_lm, text, pool=pool, lm_batch=lm_batch, window=window)
    pools = first(source, which + 2)
    start = json.loads(json.dumps(pools[which].state))
    assert_same(next(source.pools(start)), pools[which])
    assert_same(next(source.pools(json.loads(json.dumps(pools[which].after)))), pools[which + 1])


def test_the_size_of_pools_changes_no_row(tiny_lm: LanguageModel, text: TextSource) -> None:
    streams = []
    for size in (7, 64, 1000):
        pools = list(live(tiny_lm, text, pool=size, repeat=False).pools())
        streams.append(torch.cat([pool.x[SITE] for pool in pools]))
    assert torch.equal(streams[0], streams[1])
    assert torch.equal(streams[0], streams[2])


def test_several_sites_share_a_forward_and_equal_each_alone(tiny_lm: LanguageModel, text: TextSource) -> None:
    sites = ["mlp_out.0", "resid_post.2", "resid_pre.1"]
    together = first(live(tiny_lm, text, sites=sites), 3)
    for site in sites:
        for a, b in zip(first(live(tiny_lm, text, sites=[site]), 3), together, strict=True):
            assert torch.equal(a.x[site], b.x[site])


def test_the_background_thread_changes_nothing(tiny_lm: LanguageModel, text: TextSource) -> None:
    for a, b in zip(
        first(live(tiny_lm, text, overlap=True), 9), first(live(tiny_lm, text, overlap=False), 9), strict=True
    ):
        assert_same(a, b)


def test_a_stream_closed_early_leaves_no_thread(tiny_lm: LanguageModel, text: TextSource) -> None:
    first(live(tiny_lm, text, overlap=True), 2)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("kanary")]


def test_the_text_begins_again_when_it_ends(tiny_lm: LanguageModel, text: TextSource) -> None:
    once = sum(len(pool) for pool in live(tiny_lm, text, repeat=False).pools())
    source = live(tiny_lm, text, pool=once)
    assert [len(pool) for pool in first(source, 3)] == [once] * 3
    assert [len(pool) for pool in live(tiny_lm, text, tokens=100).pools()] == [40, 40, 20]


def test_held_out_documents_are_never_trained_on(tiny_lm: LanguageModel, text: TextSource) -> None:
    parts = {
        part: {int(d) for pool in live(tiny_lm, text, part=part, repeat=False).pools() for d in pool.documents}
        for part in ("train", "heldout")
    }
    assert not parts["train"] & parts["heldout"]
    assert all(d % 20 == 19 for d in parts["heldout"])


def test_activations_keep_the_numbers_of_the_model_unless_told(tiny_llama: Path, text: TextSource) -> None:
    lm = load_model(tiny_llama, dtype="bfloat16", device="cpu")
    pool = next(live(lm, text).pools())
    assert pool.x[SITE].dtype == torch.bfloat16
    wide = next(live(lm, text, dtype=torch.float32).pools())
    assert wide.x[SITE].dtype == torch.float32
    assert torch.equal(wide.x[SITE], pool.x[SITE].float())


def test_pools_can_be_trained_on(tiny_lm: LanguageModel, text: TextSource) -> None:
    """They are ordinary tensors: those made under inference_mode could not be saved for a backward pass."""
    weight = torch.ones(16, 1, requires_grad=True)
    for batch in next(live(tiny_lm, text).pools()).batches(8, seed=0):
        (batch.x[SITE] @ weight).sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize("overlap", [True, False])
def test_nan_is_named_by_site_document_and_token(tiny_llama: Path, text: TextSource, overlap: bool) -> None:
    lm = load_model(tiny_llama, device="cpu")
    lm.model.model.embed_tokens.weight.data[lm.tokenizer(" little", add_special_tokens=False)["input_ids"][0]] = (
        torch.nan
    )
    with pytest.raises(KanaryError, match=r"NaN activations at site resid_post.1: document \d+, token \d+"):
        list(live(lm, text, repeat=False, overlap=overlap).pools())


def test_numbers_too_large_for_float16_are_refused_with_the_remedy(tiny_llama: Path, text: TextSource) -> None:
    lm = load_model(tiny_llama, device="cpu")
    lm.model.model.embed_tokens.weight.data.mul_(1e8)
    with pytest.raises(KanaryError, match=r"infinite activations .* float32 or bfloat16"):
        next(live(lm, text, dtype=torch.float16).pools())


def test_an_unknown_site_is_refused_before_anything_runs(tiny_lm: LanguageModel, text: TextSource) -> None:
    with pytest.raises(KanaryError, match="resid_pots"):
        live(tiny_lm, text, sites=["resid_pots.1"])


def test_sizes_are_resolved_or_refused_with_the_reason() -> None:
    assert [resolve_window(0, context) for context in (64, 2048)] == [64, 256]
    assert resolve_lm_batch(0, 256, "cpu") == 16
    assert resolve_pool(100, 32) == 128
    for wrong in (lambda: resolve_window(100, 64), lambda: resolve_lm_batch(-1, 8, "cpu"), lambda: resolve_pool(0, 8)):
        with pytest.raises(KanaryError, match=r"=(100|-1|0)"):
            wrong()


def test_ahead_keeps_order_stays_close_and_raises_where_the_error_was() -> None:
    begun: list[int] = []

    def items() -> Iterator[int]:
        for number in range(5):
            begun.append(number)
            yield number
        raise KanaryError("five")

    stream = ahead(items(), depth=2)
    for expected in range(5):
        assert next(stream) == expected
        time.sleep(0.02)
        assert len(begun) <= expected + 3  # the one in use and two more
    with pytest.raises(KanaryError, match="five"):
        next(stream)


def test_ahead_closes_what_it_reads() -> None:
    closed = threading.Event()

    def items() -> Iterator[int]:
        try:
            yield from range(1000)
        finally:
            closed.set()

    stream = ahead(items())
    assert next(stream) == 0
    stream.close()
    assert closed.is_set()


def test_a_run_goes_on_with_the_forwards_it_began_with(tiny_lm: LanguageModel, text: TextSource) -> None:
    """The automatic size of a forward differs between devices, and a state counts rows inside a forward."""
    began = LiveActivations(tiny_lm, text, ["resid_post.1"], window=16, lm_batch=7, pool=50, batch=10)
    with closing(began.pools()) as pools:
        first, second = next(pools), next(pools)
    elsewhere = LiveActivations(tiny_lm, text, ["resid_post.1"], window=16, lm_batch=2, pool=50, batch=10)
    with closing(elsewhere.pools(first.after)) as pools:
        again = next(pools)
    assert torch.equal(again.tokens, second.tokens)
    assert torch.equal(again.x["resid_post.1"], second.x["resid_post.1"])
    other = LiveActivations(tiny_lm, text, ["resid_post.1"], window=32, lm_batch=7, pool=50, batch=10)
    with pytest.raises(KanaryError, match="windows of 16 tokens"):
        other.pools(first.after)
