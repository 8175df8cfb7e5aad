"""Packing loses nothing, and a stopped stream continues with exactly the next batch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import SENTENCES, small_tokenizer
from kanary.errors import KanaryError
from kanary.lm import LanguageModel
from kanary.text import TextSource, TokenBatch, Windows, open_text
from kanary.text.windows import HELD_OUT_EVERY

TEXTS = st.lists(st.one_of(st.sampled_from(SENTENCES), st.text(max_size=40)), min_size=1, max_size=30)
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Listed:
    """Documents from a list."""

    name = "listed"
    tokenizer_name = None

    def __init__(self, values: list[Any]) -> None:
        self.items = values

    def columns(self) -> None:
        return None

    def count(self) -> int:
        return len(self.items)

    def values(self, column: str, start: int = 0) -> Iterator[Any]:
        return iter(self.items[start:])


def source_of(values: list[Any]) -> TextSource:
    return TextSource("listed", [Listed(values)], "text", None)


@pytest.fixture(scope="session")
def without_bos(tiny_lm: LanguageModel) -> LanguageModel:
    return LanguageModel(tiny_lm.model, small_tokenizer(bos=False), "tiny without BOS")


def rows(batches: list[TokenBatch]) -> list[tuple[int, int, int, bool]]:
    """(token, document, position, special) of every token, in order."""
    parts = [torch.stack([b.tokens, b.documents, b.positions.long(), b.special.long()], -1) for b in batches]
    return [(a, b, c, bool(d)) for a, b, c, d in torch.cat([p.reshape(-1, 4) for p in parts]).tolist()]


def all_batches(windows: Windows) -> list[TokenBatch]:
    """The batches; a text shorter than a window has none."""
    try:
        return list(windows)
    except KanaryError:
        return []


@quick
@given(texts=TEXTS, window=st.integers(2, 40), bos=st.booleans())
def test_every_token_of_every_document_appears_once_and_in_order(
    texts: list[str], window: int, bos: bool, tiny_lm: LanguageModel, without_bos: LanguageModel
) -> None:
    lm = tiny_lm if bos else without_bos
    batches = all_batches(Windows(source_of(texts), lm, window=window, batch=3, part="all"))
    if not batches:
        return
    found = [(token, document, position) for token, document, position, _ in rows(batches) if position >= 0]
    expected = [
        (token, document, position)
        for document, text in enumerate(texts)
        for position, token in enumerate(lm.tokenizer(text, add_special_tokens=False).input_ids)
    ]
    assert found == expected[: len(found)]
    lost = len(expected) - len(found)
    separators = 1 + len([t for t in texts if t])
    assert lost < window + separators, "no more than the last incomplete window is dropped"
    assert all(batch.tokens.shape[1] == window for batch in batches)
    assert all(batch.tokens.shape[0] == 3 for batch in batches[:-1])


@quick
@given(texts=TEXTS, window=st.integers(2, 40))
def test_bos_starts_every_window_and_every_document(texts: list[str], window: int, tiny_lm: LanguageModel) -> None:
    for batch in all_batches(Windows(source_of(texts), tiny_lm, window=window, batch=2, part="all")):
        assert (batch.tokens[:, 0] == tiny_lm.bos_id).all()
        starts = (batch.positions == 0).nonzero()
        assert (batch.tokens[starts[:, 0], starts[:, 1] - 1] == tiny_lm.bos_id).all()
        assert batch.special[batch.positions == -1].all()


@quick
@given(texts=TEXTS, window=st.integers(2, 40))
def test_without_bos_documents_are_parted_by_eos(texts: list[str], window: int, without_bos: LanguageModel) -> None:
    for batch in all_batches(Windows(source_of(texts), without_bos, window=window, batch=2, part="all")):
        changed = batch.documents[:, 1:] != batch.documents[:, :-1]
        assert (batch.tokens[:, 1:][changed] == without_bos.eos_id).all()
        assert (batch.tokens[batch.positions == -1] == without_bos.eos_id).all()


@quick
@given(texts=TEXTS, window=st.integers(2, 30), batch=st.integers(1, 4), repeat=st.booleans(), data=st.data())
def test_resuming_at_any_batch_equals_going_on(
    texts: list[str], window: int, batch: int, repeat: bool, data: st.DataObject, tiny_lm: LanguageModel
) -> None:
    def stream(state: dict[str, int] | None = None) -> Windows:
        return Windows(source_of(texts), tiny_lm, window=window, batch=batch, part="all", repeat=repeat, state=state)

    try:
        whole = list(islice(stream(), 12))
    except KanaryError:
        return
    stop = data.draw(st.integers(0, len(whole)))
    first = stream()
    before = list(islice(first, stop))
    state = json.loads(json.dumps(first.state()))
    after = list(islice(stream(state), 12 - stop))
    assert rows(before + after) == rows(whole)


def test_resuming_does_not_tokenise_what_came_before(tiny_lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [SENTENCES[i % 3] for i in range(600)]
    windows = Windows(source_of(texts), tiny_lm, window=32, batch=64, part="all")
    for _ in range(4):
        next(windows)
    state = windows.state()
    asked: list[int] = []
    read = TextSource.documents

    def watched(self: TextSource, start: int = 0) -> Iterator[Any]:
        for document in read(self, start):
            asked.append(document.id)
            yield document

    resumed = Windows(source_of(texts), tiny_lm, window=32, batch=64, part="all", state=state)
    monkeypatch.setattr(TextSource, "documents", watched)
    next(resumed)
    assert min(asked) == state["document"] > 100


def test_one_document_in_twenty_is_held_out(tiny_lm: LanguageModel) -> None:
    texts = [SENTENCES[i % 3] for i in range(100)]

    def seen(part: Any) -> set[int]:
        return {
            d for b in Windows(source_of(texts), tiny_lm, window=16, part=part) for d in b.documents.unique().tolist()
        }

    assert seen("heldout") == {19, 39, 59, 79, 99}
    assert seen("train") == {i for i in range(100) if i % HELD_OUT_EVERY != HELD_OUT_EVERY - 1}
    assert seen("all") == set(range(100))


def test_repeating_starts_again_at_the_first_document(tiny_lm: LanguageModel) -> None:
    once = rows(list(Windows(source_of(SENTENCES), tiny_lm, window=16, part="all")))
    windows = Windows(source_of(SENTENCES), tiny_lm, window=16, part="all", repeat=True)
    n = len(once) // 16
    assert rows(list(islice(windows, 3 * n))) == once * 3
    assert windows.state()["epoch"] == 2


def test_specials_of_pre_tokenised_data_are_kept_marked_and_not_doubled(tiny_lm: LanguageModel) -> None:
    ids = [[0, *tiny_lm.tokenizer(text).input_ids, 1] for text in SENTENCES]
    batches = list(Windows(source_of(ids), tiny_lm, window=20, part="all"))
    for batch in batches:
        assert torch.equal(batch.special, (batch.tokens == 0) | (batch.tokens == 1))
        assert not ((batch.tokens[:, 1:] == 0) & (batch.tokens[:, :-1] == 0)).any()
    found = [(token, document) for token, document, position, _ in rows(batches) if position >= 0]
    assert found == [(token, d) for d, document in enumerate(ids) for token in document][: len(found)]


def test_only_tokens_that_are_not_special_count(tiny_lm: LanguageModel) -> None:
    batch = next(Windows(source_of(SENTENCES), tiny_lm, window=30, part="all"))
    assert batch.n_tokens == 30 - int((batch.tokens <= 2).sum())


def test_empty_documents_keep_their_number(tiny_lm: LanguageModel) -> None:
    batch = next(Windows(source_of(["", None, SENTENCES[0]]), tiny_lm, window=20, part="all"))
    assert set(batch.documents.flatten().tolist()) == {2}


def test_a_text_shorter_than_a_window_is_refused_with_the_counts(tiny_lm: LanguageModel) -> None:
    with pytest.raises(KanaryError, match=r"shorter than a window: 'listed' gives \d+ tokens and a window has 64"):
        list(Windows(source_of(["Once upon a time"]), tiny_lm, window=64, part="all"))
    with pytest.raises(KanaryError, match="part 'heldout'"):
        list(Windows(source_of(SENTENCES), tiny_lm, window=8, part="heldout", repeat=True))


@pytest.mark.parametrize("window", [1, 65])
def test_a_window_that_the_model_cannot_read_is_refused(tiny_lm: LanguageModel, window: int) -> None:
    with pytest.raises(KanaryError, match=f"window={window} must lie between 2 and 64"):
        Windows(source_of(SENTENCES), tiny_lm, window=window)


def test_a_token_beyond_the_vocabulary_is_refused_wherever_it_is(tiny_lm: LanguageModel) -> None:
    ids = [tiny_lm.tokenizer(SENTENCES[i % 3]).input_ids for i in range(50)] + [[5, 4000]]
    with pytest.raises(KanaryError, match="Document 50 of 'listed' has the token id 4000"):
        list(Windows(source_of(ids), tiny_lm, window=8, part="all"))


def test_real_text_is_packed_fully(stories: LanguageModel, corpora: Path) -> None:
    source = open_text(corpora / "stories-validation.parquet")
    batches = list(Windows(source, stories, window=256, batch=32, part="all"))
    kept = sum(int((b.positions >= 0).sum()) for b in batches)
    ids = stories.tokenizer([d.text for d in source.documents()], add_special_tokens=False).input_ids
    assert 0 <= sum(map(len, ids)) - kept < 256
    assert np.mean([b.special.float().mean() for b in batches]) < 0.01
