"""What the model would predict after every block, if the blocks that follow were left out (logit lens, nostalgebraist 2020)."""

import dataclasses
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kanary.interventions.prompts import token_texts
from kanary.lm import LanguageModel, trace

TOP = 5


class Prediction(NamedTuple):
    """A next token and how likely it is."""

    token: str
    id: int
    probability: float
    logit: float


class LensRow(NamedTuple):
    """The next-token prediction read off one place of the residual stream."""

    site: str
    where: str
    """In plain words."""
    probability: float
    """Of the token that was asked for."""
    rank: int
    """Of that token, from 1."""
    top: tuple[Prediction, ...]

    def to_json(self) -> dict[str, Any]:
        return self._asdict() | {"top": [each._asdict() for each in self.top]}


def logit_lens(lm: LanguageModel, tokens: Tensor, token: int, *, top: int = TOP) -> tuple[LensRow, ...]:
    """The prediction after ``tokens [position]``, from the embedding on and after every block.

    The residual stream is handed to the final norm and the unembedding as if it came from the last block. Empty for a family
    whose blocks have no names.
    """
    if not lm.sites:
        return ()
    last = f"resid_post.{lm.n_layers - 1}"
    sites = ["resid_pre.0", *(f"resid_post.{layer}" for layer in range(lm.n_layers))]
    clean = trace(lm, tokens[None].to(lm.device), sites)
    ends = torch.cat([clean.x[site][:, -1:] for site in sites])
    # one position, and so no block, is computed: only what follows the last block
    short = dataclasses.replace(clean, tokens=clean.tokens[:, -1:].expand(len(sites), -1), x={last: ends})
    logits = short.replay(last, ends)[:, -1].double()
    rows = []
    for site, mine in zip(sites, logits, strict=True):
        rank = int((mine > mine[token]).sum()) + 1
        words = "the embedding" if site == "resid_pre.0" else lm.site(site).describe()
        rows.append(LensRow(site, words, float(mine.softmax(0)[token]), rank, predictions(lm, mine, top)))
    return tuple(rows)


def predictions(lm: LanguageModel, logits: Tensor, top: int) -> tuple[Prediction, ...]:
    """The likeliest tokens of ``logits [vocab]``, likeliest first."""
    values, ids = logits.double().topk(min(top, len(logits)))
    chances = (values - logits.double().logsumexp(0)).exp()
    rows = zip(token_texts(lm, ids.tolist()), ids.tolist(), chances.tolist(), values.tolist(), strict=True)
    return tuple(Prediction(*row) for row in rows)
