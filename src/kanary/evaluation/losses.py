"""How the model's predictions change: next-token loss, KL divergence and top-1 agreement, summed per window."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 2**24
"""Logits that a forward may make: 64 MB."""
PIECE = {"cpu": 2**18}
"""Logits that are compared at a time. Fast because on a CPU all that a piece needs (some MB) stays in the cache."""

LEAST = -1e30  # for logits of minus infinity, with which some models rule tokens out: 0 times it must be 0


class WindowLosses(NamedTuple):
    """Sums over the counted positions of every window, ``[windows]`` float64."""

    ce: Tensor
    """Next-token losses in nats, over positions whose source token is not special (the last has no target)."""
    kl: Tensor
    """KL(clean ‖ new) in nats, over all positions that are not special."""
    agree: Tensor
    """Positions that are not special at which both rank the same token first."""


class Clean(NamedTuple):
    """The untouched predictions, and what every comparison with them needs of them, ``[windows, position]`` each."""

    logits: Tensor
    """``[windows, position, vocab]``"""
    peak: Tensor
    """Largest logit. Logits may share any offset; without it nothing is lost in differences."""
    log_sum: Tensor
    """log sum_v exp(logit_v - peak)"""
    expected: Tensor
    """sum_v p_v log p_v"""
    first: Tensor
    """Token ranked first."""

    def ce(self, tokens: Tensor, special: Tensor) -> Tensor:
        """Its own next-token losses, see :class:`WindowLosses`."""
        return _next_token(self.logits, self.peak, self.log_sum, tokens, special)


def read(logits: Tensor) -> Clean:
    """``logits [windows, position, vocab]`` of the untouched model."""
    found = []
    for (piece,) in _pieces(logits):
        peak = piece.amax(-1)
        piece = (piece - peak[..., None]).clamp_min_(LEAST)
        log_sum = piece.logsumexp(-1)
        p = (piece - log_sum[..., None]).exp_()
        found.append((peak, log_sum, p.mul_(piece).sum(-1) - log_sum, piece.argmax(-1)))
    return Clean(logits, *(torch.cat(column, 1) for column in zip(*found, strict=True)))


def window_losses(clean: Clean, new: Tensor, tokens: Tensor, special: Tensor) -> WindowLosses:
    """Compares the predictions ``new [windows or 1, position, vocab]`` with ``clean``.

    Args:
        new: logits; one window stands for all.
        tokens: ``[windows, position]`` int64.
        special: ``[windows, position]`` bool.
    """
    found = []
    for clean_piece, new_piece, clean_peak, log_sum in _pieces(clean.logits, new, clean.peak, clean.log_sum):
        peak = new_piece.amax(-1)
        new_piece = (new_piece - peak[..., None]).clamp_min_(LEAST)
        new_sum = new_piece.logsumexp(-1)
        p = (clean_piece - clean_peak[..., None]).clamp_min_(LEAST).sub_(log_sum[..., None]).exp_()
        found.append((peak, new_sum, p.mul_(new_piece).sum(-1) - new_sum, new_piece.argmax(-1)))
    peak, new_sum, expected, first = (torch.cat(column, 1) for column in zip(*found, strict=True))
    counts = ~special
    # sum_v p (log p - log q), taken apart so that no further tensor is made; equal logits give exactly 0
    return WindowLosses(
        _next_token(new, peak, new_sum, tokens, special),
        torch.where(counts, clean.expected - expected, 0).sum(1, dtype=torch.float64),
        ((first == clean.first) & counts).sum(1).double(),
    )


def _pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """A few positions of all windows at a time, in float32."""
    logits = tensors[0]
    step = max(1, PIECE.get(logits.device.type, CHUNK) // logits[:, 0].numel())
    for piece in zip(*(tensor.split(step, 1) for tensor in tensors), strict=True):
        yield tuple(tensor.float() for tensor in piece)


def _next_token(logits: Tensor, peak: Tensor, log_sum: Tensor, tokens: Tensor, special: Tensor) -> Tensor:
    next_tokens = tokens[:, 1:, None]
    of_next = logits[:, :-1].expand(len(tokens), -1, -1).gather(2, next_tokens).squeeze(2).float()
    return torch.where(special[:, :-1], 0, log_sum[:, :-1] - (of_next - peak[:, :-1])).sum(1, dtype=torch.float64)
