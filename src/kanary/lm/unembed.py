"""How the residual stream, after the last block, becomes logits."""

import copy

import torch
from torch import Tensor, nn

from kanary.lm.model import LanguageModel


def unembedding(lm: LanguageModel) -> Tensor | None:
    """``diag(final-norm weight) · W_U``, ``[d_model, vocab]`` float32 on the model's device.

    A direction ``v`` added to the residual stream raises the logits by ``v @ unembedding(lm)``, divided by the final
    norm's scale. Left out: that scale, the mean that a LayerNorm subtracts (GPT-2, GPT-NeoX), and what some families do
    to the logits afterwards (the soft cap of Gemma 2).

    The final norm is the one norm that stands beside the list of blocks: true of every family with site names. None
    where there is none or more than one, and where the logits are no linear map of what it returns.
    """
    get_decoder = getattr(lm.model, "get_decoder", None)
    head = getattr(lm.model.get_output_embeddings(), "weight", None)
    decoder = get_decoder() if get_decoder else None
    if decoder is None or head is None or not head.is_floating_point() or head.shape != (lm.vocab_size, lm.d_model):
        return None
    norms = [module for module in decoder.children() if _is_norm(module, lm.d_model)]
    gain = _gain(norms[0]) if len(norms) == 1 else None
    if gain is None:
        return None
    weights: Tensor = head.detach().to(lm.device).float() * gain.to(lm.device)
    return weights.T


def _is_norm(module: nn.Module, d_model: int) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, nn.Parameter) and weight.shape == (d_model,)


@torch.no_grad()
def _gain(norm: nn.Module) -> Tensor | None:
    """``[d_model]`` float32: what the norm multiplies by once it has divided by the scale."""
    if isinstance(norm, nn.LayerNorm):
        return norm.weight.detach().float()
    # An RMSNorm is asked, not read: Gemma multiplies by 1 + weight, others by weight. Ones have a root mean square of
    # one, so the answer is the gain; they are large, so that epsilon does not show.
    norm, weight = copy.deepcopy(norm).float(), norm.get_parameter("weight")
    ones = torch.ones_like(weight, dtype=torch.float32)
    signs = ones.clone()
    signs[::2] = -1
    gain: Tensor = norm(1024 * ones)
    return gain if torch.allclose(norm(1024 * signs), signs * gain) else None  # it centres or adds: no RMSNorm
