"""What an SAE costs: parameters counted in the real modules, FLOPs of training, bits of index; and equal costs.

What happens once per step, Adam's update of every parameter, is divided by the tokens of a batch.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from kanary.errors import KanaryError
from kanary.lab import blocks
from kanary.sae import SAE
from kanary.sae.cost import flops

OPTIMISER = 14
"""FLOPs per parameter and step: 12 of Adam, 2 of the gradient's norm."""
TOLERANCE = 0.01
"""Costs closer than this, as a share, count as equal."""
MULTIPLE = 16
"""Widths are multiples of this where that keeps costs equal: the search for the largest is quicker then."""


class Cost(NamedTuple):
    """What one SAE costs."""

    parameters: int
    flops: float
    """Per token of training, forward and backward; NaN where a part has no formula."""
    bits: float
    """log2 of the number of sets of active latents: what it takes to say which of them fire on a token."""


def cost(sae: SAE, k: float, batch: int) -> Cost:
    """What ``sae`` costs with ``k`` active latents, trained on batches of ``batch`` tokens."""
    parameters = sum(parameter.numel() for parameter in sae.parameters())
    pairs = 2 if sae.sparsifier.name == blocks.NAME else 1
    return Cost(parameters, flops(sae, k) + OPTIMISER * parameters / batch, bits(sae.d_sae // pairs, k / pairs))


def bits(n: int, k: float) -> float:
    """log2 C(n, k), for any k from 0 to n."""
    return (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)) / math.log(2)


def solve(value: Callable[[int], float], target: float, start: int, multiple: int = 1) -> int:
    """The size at which ``value``, which grows in proportion to size and a constant, is ``target``; at least ``multiple``.

    A multiple of ``multiple``, and of ``MULTIPLE`` where that keeps the value within ``TOLERANCE``.

    Args:
        start: a size, at which and at twice which the value is looked up.
    """
    at_start = value(start)
    slope = (value(2 * start) - at_start) / start
    exact = start + (target - at_start) / slope
    if not math.isfinite(exact):
        raise KanaryError(
            f"No size has a cost of {target}: it is {at_start} at {start} and {at_start + slope * start} at twice."
        )
    coarse, fine = (max(step, round(exact / step) * step) for step in (math.lcm(MULTIPLE, multiple), multiple))
    return coarse if abs(value(coarse) / target - 1) <= TOLERANCE else fine


def solve_bits(n: int, target: float) -> int:
    """The number of active ones of ``n`` latents at which the bits of index are nearest to ``target``."""
    return min(range(1, n // 2 + 1), key=lambda k: abs(bits(n, k) - target))
