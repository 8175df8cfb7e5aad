"""A prompt's activations taken apart: what every latent adds at every token, the SAE's bias, and what the SAE misses."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kanary.evaluation.inputs import refuse_other_model
from kanary.interventions.prompts import special_at
from kanary.lm import LanguageModel
from kanary.sae import SAE, SparseCodes


@dataclass(frozen=True)
class Decomposed:
    """``x = bias + sum of contributions + error`` at every token that is not special; everything is raw, in float32 or wider,
    whatever the model computes in."""

    lm: LanguageModel
    sae: SAE
    site: str
    tokens: Tensor
    """``[position]`` int64."""
    special: Tensor
    """``[position]`` bool."""
    x: Tensor
    """``[position, d_model]``: the activations."""
    bias: Tensor
    """``[d_model]``: what the SAE reconstructs without any latent."""
    codes: SparseCodes
    """Of the positions; special ones have none."""
    contributions: Tensor
    """``[nnz, d_model]``: what every code adds."""
    error: Tensor
    """``[position, d_model]``: the activation minus its reconstruction; 0 at special tokens."""

    @property
    def changing(self) -> Tensor:
        """``[position, d_model]``: ``x - bias``, which is contributions and error; 0 at special tokens."""
        return (self.x - self.bias).masked_fill(self.special[:, None], 0)

    def without(self, entries: Tensor) -> Tensor:
        """``[position, d_model]``: the activations without what the codes numbered ``entries [n]`` add."""
        left = self.x.clone()
        return left.index_add_(0, self.codes.rows()[entries], -self.contributions[entries])


@torch.no_grad()
def decompose(lm: LanguageModel, sae: SAE, tokens: Tensor) -> Decomposed:
    """Reads ``tokens [position]`` once and takes the activations at the SAE's site apart.

    Raises:
        KanaryError: an SAE of another model (both are named).
    """
    refuse_other_model(sae.config.sparsifier["name"], sae, lm)
    site = str(sae.config.trained_on["site"])
    sae, tokens = sae.to(lm.device), tokens.to(lm.device)
    special = special_at(lm, tokens)
    x = lm.capture(tokens[None], [site])[site][0]
    x = x.to(torch.promote_types(x.dtype, torch.float32))  # in bfloat16 the parts would not add up
    codes = sae.encode(x, special)
    contributions = sae.contribution(codes.indices, codes.values).to(x)
    nothing = torch.zeros(0, dtype=torch.long, device=x.device)
    none = SparseCodes(nothing, codes.values[:0], torch.zeros(2, dtype=torch.long, device=x.device), sae.d_sae, (1,))
    bias = sae.decode(none)[0].to(x)
    error = (x - bias).index_add_(0, codes.rows(), -contributions).masked_fill(special[:, None], 0)
    return Decomposed(lm, sae, site, tokens, special, x, bias, codes, contributions, error)
