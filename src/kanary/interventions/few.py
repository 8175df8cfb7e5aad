"""The codes of some latents on a few tokens, as when a text is written: by fewer, smaller operations than for many."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from kanary.kernels import Pattern
from kanary.sae import SAE
from kanary.sae.encoders.linear import LinearEncoder
from kanary.sae.parts import Active

MOST = 32
"""Tokens; of more, :meth:`kanary.sae.SAE.encode` takes less time for each."""


@torch.no_grad()
def codes_of_few(sae: SAE, x: Tensor, special: Tensor, latents: Tensor) -> Tensor | None:
    """What ``sae.encode`` finds for ``latents [m]`` in raw ``x [..., d_model]``: ``[..., m]``, 0 at special tokens.

    None where that needs the whole of it: many tokens, an encoder that is not linear, numbers that are not finite.
    """
    tokens = special.numel()
    if tokens > MOST or sae.training or type(sae.encoder) is not LinearEncoder:
        return None
    z = sae.standardise(x.reshape(tokens, -1))
    pre = F.linear(z - sae.decoder.b_dec, sae.encoder.W_enc, sae.encoder.b_enc)  # [tokens, d_sae]
    columns, counts = sae.sparsifier.select(pre)
    pattern = Pattern(columns, F.pad(counts.cumsum(0), (1, 0)), sae.d_sae)
    rows = torch.arange(tokens, device=pre.device).repeat_interleave(counts, output_size=len(columns))
    chosen = pre[rows, columns]
    if sae.sparsifier.narrow(chosen, pattern) is not None:
        return None
    dense = torch.zeros_like(pre)
    dense[rows, columns] = sae.sparsifier.activate(Active(chosen, pattern, z))
    found = dense[:, latents].masked_fill_(special.reshape(-1, 1), 0)
    # what is not finite makes the sum so; encode says which token it is
    return found.view(*special.shape, -1) if math.isfinite(float(pre.sum())) else None
