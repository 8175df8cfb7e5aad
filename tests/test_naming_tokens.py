"""A token is the one that is shown as it was typed, whatever the tokenizer puts before a text."""

from __future__ import annotations

from typing import Any, cast

import pytest

from kanary.errors import KanaryError
from kanary.interventions.prompts import one_token, token_texts
from kanary.lm import LanguageModel

MERGES = [("▁", "b"), ("h", "e"), ("▁", "he"), ("s", "he"), ("▁", "she")]
PIECES = [
    "<unk>",
    "<s>",
    "</s>",
    "<0x0A>",
    "<0x62>",
    "▁",
    "b",
    "▁b",
    "h",
    "e",
    "he",
    "▁he",
    "s",
    "she",
    "▁she",
    "▁x",
    "<0x78>",
]


class Pieces:
    """What names tokens of a language model whose tokenizer puts a space before every text, as SentencePiece does."""

    name = "pieces"

    def __init__(self) -> None:
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        vocabulary = {piece: id for id, piece in enumerate(PIECES)}
        made = Tokenizer(models.BPE(vocabulary, MERGES, unk_token="<unk>", byte_fallback=True))
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
        self.tokenizer: Any = PreTrainedTokenizerFast(
            tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
        )
        self.vocab_size = len(PIECES)


@pytest.fixture(scope="module")
def pieces() -> LanguageModel:
    return cast(LanguageModel, Pieces())


@pytest.mark.parametrize("piece", ["▁b", "b", "▁she", "she", "▁he", "he", "▁", "▁x", "</s>"])
def test_a_token_is_named_as_it_is_shown_though_the_tokenizer_puts_a_space_before(
    pieces: LanguageModel, piece: str
) -> None:
    id = PIECES.index(piece)
    (shown,) = token_texts(pieces, [id])
    assert shown == piece.replace("▁", " ")
    assert one_token(pieces, shown) == id


def test_a_single_byte_is_named_where_no_piece_is_shown_so(pieces: LanguageModel) -> None:
    assert one_token(pieces, "\n") == PIECES.index("<0x0A>")
    assert one_token(pieces, "x") == PIECES.index("<0x78>")


def test_what_is_several_tokens_is_refused_by_names_that_work(pieces: LanguageModel) -> None:
    with pytest.raises(KanaryError, match=r"' b', 'she'. Name one of them, as written here") as refusal:
        one_token(pieces, "bshe")
    assert "\n" not in str(refusal.value)
    assert (one_token(pieces, " b"), one_token(pieces, "she")) == (PIECES.index("▁b"), PIECES.index("she"))
    with pytest.raises(KanaryError, match="empty"):
        one_token(pieces, "")


def test_of_tokens_that_are_shown_alike_none_is_guessed(pieces: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    from kanary.interventions import prompts

    twice = [piece.replace("▁", " ").encode() for piece in PIECES]
    twice[PIECES.index("▁she")] = twice[PIECES.index("▁b")] = b"q"
    monkeypatch.setattr(prompts, "_vocabulary", lambda lm: twice)
    with pytest.raises(KanaryError, match=r"'q' is shown for 2 tokens of pieces \(ids 7, 14\)"):
        one_token(pieces, "q")


def test_every_token_of_a_byte_level_tokenizer_is_named_as_it_is_shown(tiny_lm: LanguageModel) -> None:
    for id, shown in enumerate(token_texts(tiny_lm, range(tiny_lm.vocab_size))):
        assert one_token(tiny_lm, shown) == id
    with pytest.raises(KanaryError, match="not one"):
        one_token(tiny_lm, " zebra")


def test_real_tokens_of_a_sentencepiece_model_have_names_with_and_without_a_space(stories: LanguageModel) -> None:
    for text in (" b", "b", " she", "he"):
        assert token_texts(stories, [one_token(stories, text)]) == [text]
