"""Text that does not belong to the model is noticed: token ids by name and content, texts by the model's own loss."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from kanary.errors import KanaryError
from kanary.lm import LanguageModel
from kanary.text import TextSource, TokenBatch, Windows, check_text, open_text


@pytest.fixture(scope="module")
def texts(corpora: Path) -> list[str]:
    return [
        str(d.text) for d, _ in zip(open_text(corpora / "stories-train.parquet").documents(), range(60), strict=False)
    ]


@pytest.fixture(scope="module")
def ids(stories: LanguageModel, texts: list[str]) -> list[list[int]]:
    found: list[list[int]] = stories.tokenizer(texts, add_special_tokens=False).input_ids
    return found


def _write(path: Path, ids: list[list[int]], **metadata: str) -> Path:
    pq.write_table(pa.table({"input_ids": ids}).replace_schema_metadata(metadata), path)
    return path


def _source(path: Path, ids: list[list[int]], **metadata: str) -> TextSource:
    return open_text(_write(path / "a.parquet", ids, **metadata))


def test_the_models_own_tokens_are_taken(stories: LanguageModel, ids: list[list[int]], tmp_path: Path) -> None:
    first = next(Windows(_source(tmp_path, ids), stories, window=128, batch=8))
    assert check_text(stories, first).warning is None
    next(Windows(_source(tmp_path, [[1, *d, 2] for d in ids]), stories, window=128))
    next(Windows(_source(tmp_path, [d[9:73] for d in ids]), stories, window=128))
    next(Windows(_source(tmp_path, ids, tokenizer="someone/Stories-260k"), stories, window=128))


def test_tokens_of_another_tokenizer_are_refused_by_name(
    stories: LanguageModel, ids: list[list[int]], tmp_path: Path
) -> None:
    with pytest.raises(KanaryError, match=r"was tokenised with 'gpt2', but the model's tokenizer is '.*stories260K'"):
        Windows(_source(tmp_path, ids, tokenizer="gpt2"), stories, window=128)
    same = open_text(_write(tmp_path / "b.parquet", ids, tokenizer="gpt2"), same_tokenizer=True)
    next(Windows(same, stories, window=128))


def _other_bpe(texts: list[str]) -> list[list[int]]:
    """GPT-2's kind of tokenizer with as many tokens as the stories model has."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=512, initial_alphabet=alphabet, show_progress=False)
    )
    return [e.ids for e in tokenizer.encode_batch(texts)]


@pytest.mark.parametrize("kind", ["another BPE of the same size", "bytes", "permuted", "off by one"])
def test_tokens_of_another_tokenizer_are_refused_by_content(
    stories: LanguageModel, texts: list[str], ids: list[list[int]], tmp_path: Path, kind: str
) -> None:
    order = list(range(512))
    random.Random(0).shuffle(order)
    other = {
        "another BPE of the same size": lambda: _other_bpe(texts),
        "bytes": lambda: [list(t.encode()) for t in texts],
        "permuted": lambda: [[order[i] for i in d] for d in ids],
        "off by one": lambda: [[(i + 1) % 512 for i in d] for d in ids],
    }[kind]()
    with pytest.raises(
        KanaryError, match=r"not those of '.*stories260K': turned into text and back, only \d+% of them"
    ):
        Windows(_source(tmp_path, other), stories, window=128)


def test_tokens_beyond_the_vocabulary_are_refused(stories: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(KanaryError, match=r"token id 50,256, but '.*stories260K' has 512 tokens"):
        Windows(_source(tmp_path, [[464, 3290, 50256]] * 50), stories, window=128)


def _batch(tokens: torch.Tensor) -> TokenBatch:
    nothing = torch.zeros_like(tokens)
    return TokenBatch(tokens, nothing, nothing.int(), nothing.bool())


def test_the_model_predicts_its_own_text_and_not_noise(stories: LanguageModel, corpora: Path) -> None:
    source = open_text(corpora / "stories-validation.parquet")
    known = check_text(stories, next(Windows(source, stories, window=512, batch=16, part="all")))
    assert 0.85 < known.loss_nats < 1.1
    assert known.ln_vocab == pytest.approx(6.238, abs=1e-3)
    assert known.warning is None
    noise = check_text(stories, _batch(torch.randint(3, 512, (4, 256), generator=torch.Generator().manual_seed(0))))
    assert noise.loss_nats > known.ln_vocab
    assert noise.warning is not None
    assert "do not belong together" in noise.warning


def test_special_tokens_do_not_count_in_the_loss(stories: LanguageModel, corpora: Path) -> None:
    window: Any = next(Windows(open_text(corpora / "stories-validation.parquet"), stories, window=128, batch=1))
    before = check_text(stories, window).loss_nats
    longer = torch.cat([window.tokens, torch.zeros(1, 40, dtype=torch.long)], 1)  # padding at the end
    special = torch.cat([window.special, torch.ones(1, 40, dtype=torch.bool)], 1)
    padded = TokenBatch(longer, longer, longer.int(), special)
    assert check_text(stories, padded).loss_nats == pytest.approx(before, abs=1e-5)
