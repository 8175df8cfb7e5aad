"""Prompts in a model's tokens, and tokens as people read them."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from kanary.errors import KanaryError
from kanary.features.vocabulary import byte_of, shown, token_bytes
from kanary.lm import LanguageModel


def prompt_ids(lm: LanguageModel, text: str) -> Tensor:
    """``[position]`` int64 on the CPU: BOS, if the tokenizer has one, and the tokens of ``text``, as in running text.

    Raises:
        KanaryError: no token but BOS, or more than the model reads.
    """
    ids = lm.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    if not ids:
        raise KanaryError(f"The prompt {text!r} is empty: give at least one word.")
    found = [*([] if lm.bos_id is None else [lm.bos_id]), *ids]
    if len(found) > lm.context:
        raise KanaryError(
            f"The prompt has {len(found):,} tokens, but {lm.name} reads {lm.context:,}. Cut it: its end counts most."
        )
    return torch.tensor(found)


def special_at(lm: LanguageModel, tokens: Tensor) -> Tensor:
    """``[...]`` bool: where ``tokens [...]`` are BOS, EOS or padding."""
    return torch.isin(tokens, torch.tensor(sorted(lm.special_ids), dtype=tokens.dtype, device=tokens.device))


def one_token(lm: LanguageModel, text: str) -> int:
    """The id of the token that ``text`` is: the one that is shown so, else what the tokenizer makes of it.

    Shown comes first because many tokenizers put a space before a text: of ``she`` they make `` she``, and of `` she`` two.

    Raises:
        KanaryError: it is none; several, which are named; or several tokens are shown so.
    """
    alike = _shown_as(lm, text)
    ids = [int(id) for id in lm.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]]
    if len(alike) == 1:
        return alike[0]
    if len(ids) == 1 and (not alike or ids[0] in alike):
        return ids[0]
    if alike:
        numbers = ", ".join(map(str, alike))
        raise KanaryError(
            f"{text!r} is shown for {len(alike)} tokens of {lm.name} (ids {numbers}), and the tokenizer makes none of them of "
            "it: name another token."
        )
    if not ids:
        raise KanaryError("The token is empty: write for example ' he', with the space that stands before it.")
    parts = ", ".join(map(repr, token_texts(lm, ids)))
    raise KanaryError(
        f"{text!r} is {len(ids)} tokens of {lm.name}, not one: {parts}. Name one of them, as written here."
    )


def _shown_as(lm: LanguageModel, text: str) -> list[int]:
    """Every token that is shown as ``text``; where a piece and a single byte are shown alike, the piece."""
    found = [id for id, data in enumerate(_vocabulary(lm)) if shown(data) == text]
    if len(found) < 2:
        return found
    names = lm.tokenizer.convert_ids_to_tokens(found)
    return [id for id, name in zip(found, names, strict=True) if byte_of(name) is None] or found


def token_texts(lm: LanguageModel, ids: Sequence[int]) -> list[str]:
    """Each token as text; bytes that are no UTF-8 as ``⟨e2⟩``."""
    vocabulary = _vocabulary(lm)
    return [shown(vocabulary[id]) for id in ids]


@lru_cache(maxsize=4)
def _vocabulary(lm: LanguageModel) -> list[bytes]:
    return token_bytes(lm)
