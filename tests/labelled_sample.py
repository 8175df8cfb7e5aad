"""A sample of the labelled corpus with the activations of the tiny model, read once for all tests, and made-up ones."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from kanary.evaluation.concepts.sample import Sample, sample
from kanary.lm import LanguageModel
from kanary.sae import SAE, SAEConfig
from kanary.text import open_text

SITE, OTHER = "resid_post.1", "mlp_out.0"
FAMILIES = ("code", "hebrew", "weather")
TEXT, TOKENS = f"labelled:{','.join(FAMILIES)}@3", 20_000


@functools.cache
def labelled_sample(lm: LanguageModel) -> Sample:
    """Not to be changed."""
    return sample(lm, open_text(TEXT), [SITE, OTHER], tokens=TOKENS, window=64, lm_batch=16, part="all")


def made_up(names: tuple[str, ...], labels: Tensor, x: Tensor) -> Sample:
    """Documents of 20 tokens, by turns in one half and the other."""
    documents = torch.arange(len(x)) // 20
    none = torch.zeros(len(x), 0)
    return Sample({SITE: x}, labels, torch.ones_like(labels), none, documents, documents % 2 == 1, names, ())


def reading(width: int) -> SAE:
    """One latent per coordinate: what is above zero there."""
    sae = SAE(SAEConfig(width, width, sparsifier={"name": "relu"}, trained_on={"site": SITE}))
    with torch.no_grad():
        sae.encoder.W_enc.copy_(torch.eye(width))
        sae.encoder.b_enc.zero_()
    return sae
