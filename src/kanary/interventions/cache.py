"""Keys and values of several texts of different lengths in one batch: padded on the left, so that all end together."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Past(NamedTuple):
    """What a batch has read so far."""

    cache: Any
    """A transformers ``DynamicCache`` whose tensors are ``[rows, heads, position, width]``."""
    seen: Tensor
    """``[rows, position]`` int64: 1 at tokens, 0 at the padding before them."""

    @property
    def rows(self) -> int:
        return len(self.seen)


def nothing(rows: int, device: torch.device) -> Past:
    """Before the first token. The cache keeps every position in every layer, so that rows can be cut and joined."""
    from transformers import DynamicCache

    return Past(DynamicCache(), torch.zeros(rows, 0, dtype=torch.int64, device=device))


def joined(first: Past, second: Past) -> Past:
    """The rows of ``first``, then those of ``second``."""
    length = max(first.seen.shape[1], second.seen.shape[1])
    one, other = (_longer(past, length) for past in (first, second))
    return _of(
        [tuple(torch.cat(pair) for pair in zip(a, b, strict=True)) for a, b in zip(one[0], other[0], strict=True)],
        torch.cat([one[1], other[1]]),
    )


def kept(past: Past, rows: Sequence[int]) -> Past:
    """Only these ``rows``, without the positions at which all of them have padding."""
    index = torch.tensor(rows, dtype=torch.int64, device=past.seen.device)
    seen = past.seen[index]
    start = int((seen.sum(0) > 0).int().argmax()) if seen.numel() else 0
    layers = [tuple(tensor[index.to(tensor.device), :, start:] for tensor in pair) for pair in _layers(past)]
    return _of(layers, seen[:, start:])


def _layers(past: Past) -> list[tuple[Tensor, Tensor]]:
    return [(layer.keys, layer.values) for layer in past.cache.layers]


def _longer(past: Past, length: int) -> tuple[list[tuple[Tensor, ...]], Tensor]:
    more = length - past.seen.shape[1]
    layers = [tuple(F.pad(tensor, (0, 0, more, 0)) for tensor in pair) for pair in _layers(past)]
    return layers, F.pad(past.seen, (more, 0))


def _of(layers: Sequence[tuple[Tensor, ...]], seen: Tensor) -> Past:
    from transformers import DynamicCache

    return Past(DynamicCache(layers), seen)


def without_last(past: Past, length: int) -> Past:
    """As it was when ``length`` positions had been read: what a forward pass that failed half-way added is taken off."""
    layers = [tuple(tensor[:, :, :length] for tensor in pair) for pair in _layers(past)]
    return _of(layers, past.seen[:, :length])
