"""What an SAE makes of a text that somebody types: its tokens, the latents on each, and how the model predicted it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kanary.app.lanes import Stop
from kanary.features.rounding import rounded
from kanary.features.vocabulary import shown, token_bytes
from kanary.lm import LanguageModel, trace
from kanary.sae import SAE, SparseCodes

WINDOW, TOKENS = 1024, 2048
"""Tokens that the model sees at once, and of a text that are read at all: what a paragraph or a page needs."""
CHARACTERS_PER_TOKEN = 32
"""Of a longer text no more characters than this per token are looked at."""
LOGITS = 2**24
"""Logits that are turned into losses at a time: 64 MB."""


@dataclass(frozen=True)
class Windows:
    """The beginning of a text as the model reads it."""

    ids: list[int]
    """With BOS at the start of every window, where the model has one."""
    starts: list[int]
    """The first token of every window."""
    characters: int
    """How many of the text's characters these tokens are."""


@torch.no_grad()
def read(lm: LanguageModel, sae: SAE, text: str, stop: Stop) -> dict[str, Any]:
    """The answer to ``POST …/live``: at most :data:`TOKENS` tokens of ``text``, in windows that do not see each other.

    Raises:
        ClientGone: ``stop`` was set between two windows.
    """
    began = time.perf_counter()
    windows = cut(lm, text)
    codes: list[SparseCodes] = []
    losses: list[float | None] = []
    for start, end in pairwise([*windows.starts, len(windows.ids)]):
        stop.check()
        tokens = torch.tensor([windows.ids[start:end]], device=lm.device)
        special = torch.isin(tokens, torch.tensor(sorted(lm.special_ids), device=lm.device))
        site = str(sae.config.trained_on["site"])
        run = trace(lm, tokens, [site])
        codes.append(sae.encode(run.x[site][0], special[0]).to("cpu"))
        losses += token_losses(run.logits[0], tokens[0], special[0])
    return {
        "tokens": texts(lm, windows.ids),
        "ids": windows.ids,
        "special": [at for at, id in enumerate(windows.ids) if id in lm.special_ids],
        "codes": triples(codes),
        "loss": losses,
        "windows": windows.starts,
        "read": {"characters": windows.characters, "of": len(text)},
        "ms": round(1000 * (time.perf_counter() - began), 1),
    }


def cut(lm: LanguageModel, text: str) -> Windows:
    """The first tokens of ``text``, without special tokens, in windows of the model's length."""
    beginning = text[: TOKENS * CHARACTERS_PER_TOKEN]
    encoded = lm.tokenizer(beginning, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    found, spans = encoded["input_ids"][:TOKENS], encoded["offset_mapping"][:TOKENS]
    bos = [] if lm.bos_id is None else [lm.bos_id]
    step = min(lm.context, WINDOW) - len(bos)
    ids: list[int] = []
    starts: list[int] = []
    for first in range(0, len(found), step):
        starts.append(len(ids))
        ids += bos + found[first : first + step]
    return Windows(ids, starts, len(beginning) if len(found) < TOKENS else spans[-1][1] if spans else 0)


def token_losses(logits: Tensor, ids: Tensor, special: Tensor) -> list[float | None]:
    """The loss in nats of predicting each of ``ids [n]``; None of the first, and after a special token.

    Args:
        logits: ``[n, vocab]``
        special: ``[n]`` bool.
    """
    rows = max(1, LOGITS // logits.shape[1])
    parts = [
        F.cross_entropy(logits[i : min(i + rows, len(ids) - 1)].float(), ids[i + 1 : i + 1 + rows], reduction="none")
        for i in range(0, len(ids) - 1, rows)
    ]
    values = torch.cat(parts).masked_fill(special[:-1], torch.nan) if parts else torch.empty(0)
    return [None, *rounded(values)]


def triples(codes: Sequence[SparseCodes]) -> list[list[Any]]:
    """``[token, latent, value]`` of every code that is not zero, of one window's tokens after those of the last."""
    if not codes:
        return []
    whole = SparseCodes.cat(codes)
    values = rounded(whole.values)
    return [list(each) for each in zip(whole.rows().tolist(), whole.indices.tolist(), values, strict=True)]


def texts(lm: LanguageModel, ids: Sequence[int]) -> list[str]:
    """Each token as text; bytes that are no UTF-8 as ``⟨e2⟩``."""
    vocabulary = _vocabulary(lm)
    return [shown(vocabulary[id]) for id in ids]


@lru_cache(maxsize=4)
def _vocabulary(lm: LanguageModel) -> list[bytes]:
    return token_bytes(lm)
