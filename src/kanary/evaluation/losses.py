"""How the model's predictions change: next-token loss, KL divergence and top-1 agreement, summed per window."""

from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 2**24
"""Logits that are worked on at a time: 64 MB."""


class WindowLosses(NamedTuple):
    """Sums over the counted positions of every window, ``[windows]`` float64."""

    ce: Tensor
    """Next-token losses in nats, over positions whose source token is not special (the last has no target)."""
    kl: Tensor
    """KL(clean ‖ new) in nats, over all positions that are not special."""
    agree: Tensor
    """Positions that are not special at which both rank the same token first."""


def window_losses(clean: Tensor, new: Tensor, tokens: Tensor, special: Tensor) -> WindowLosses:
    """Compares the predictions ``new`` with ``clean``, both ``[windows, position, vocab]`` logits.

    Args:
        tokens: ``[windows, position]`` int64.
        special: ``[windows, position]`` bool.
    """
    step = max(1, CHUNK // clean[0].numel())
    parts = zip(clean.split(step), new.split(step), tokens.split(step), special.split(step), strict=True)
    found = [_chunk(*part) for part in parts]
    return WindowLosses(*(torch.cat(column) for column in zip(*found, strict=True)))


def _chunk(clean: Tensor, new: Tensor, tokens: Tensor, special: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    # logits may share any offset; without it nothing is lost in the differences below
    clean, new = (t.float() - t.float().amax(-1, keepdim=True) for t in (clean, new))
    clean_sum, new_sum = clean.logsumexp(-1), new.logsumexp(-1)  # [windows, position]
    p = (clean - clean_sum[..., None]).exp()
    # sum_v p (log p - log q), taken apart so that no further tensor of this size is made; equal logits give exactly 0
    kl = ((p * clean).sum(-1) - clean_sum) - ((p * new).sum(-1) - new_sum)
    ce = new_sum[:, :-1] - new[:, :-1].gather(2, tokens[:, 1:, None]).squeeze(2)
    agree = clean.argmax(-1) == new.argmax(-1)
    counts = ~special
    return (
        torch.where(counts[:, :-1], ce, 0).sum(1, dtype=torch.float64),
        torch.where(counts, kl, 0).sum(1, dtype=torch.float64),
        (agree & counts).sum(1).double(),
    )
