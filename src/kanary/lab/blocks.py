"""Two-dimensional latents: pairs of latents that fire together, the control for decoders whose latents are curves.

A curved decoder turns a latent's direction with its intensity, along one curve in a plane. A pair of straight latents that
fire together can reach every point of a plane, at the price of a second number per feature: what a curve does no better
than a pair is no evidence for curves (Engels et al. 2024, arXiv 2405.14860, on features of several dimensions).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kanary.config import option
from kanary.errors import KanaryError
from kanary.kernels import Pattern
from kanary.sae.parts import Active, Sparsifier, part

NAME = "blocks"


@dataclass(frozen=True)
class BlockOptions:
    k: int = option(32, "active latents per token, an even number: k / 2 pairs")


class Blocks(Sparsifier):
    """``f = pre``, both signs kept, in the k / 2 pairs (latents 2j and 2j + 1) whose two pre-activations are longest.

    Half as many choices as TopK makes of as many latents, so fewer bits of index, for as many numbers.
    """

    Options = BlockOptions
    options: BlockOptions

    def __init__(self, d_model: int, d_sae: int, options: BlockOptions | None = None) -> None:
        super().__init__(d_model, d_sae, options)
        if d_sae % 2 or self.options.k % 2 or not 2 <= self.options.k <= d_sae:
            raise KanaryError(
                f"k={self.options.k} of a width of {d_sae}: latents come in pairs, so both must be even, and 2 <= k <= width."
            )

    def mask(self, pre: Tensor) -> Tensor:
        latents, _ = self.select(pre)
        return torch.zeros_like(pre, dtype=torch.bool).scatter_(1, latents.view(len(pre), -1), True)

    def select(self, pre: Tensor) -> tuple[Tensor, Tensor]:
        pairs = pre.unflatten(1, (-1, 2)).square().sum(2).topk(self.options.k // 2, dim=1, sorted=False).indices
        latents = torch.stack([2 * pairs, 2 * pairs + 1], dim=2)  # [tokens, k / 2, 2]
        return latents.reshape(-1), torch.full((len(pre),), self.options.k, device=pre.device)

    def narrow(self, pre: Tensor, pattern: Pattern) -> None:
        """Nothing is left to choose."""

    def activate(self, active: Active) -> Tensor:
        return active.pre


def register() -> None:
    """Makes the sparsifier known as ``blocks``. Studies call this; nobody else's list of sparsifiers should have it."""
    part(NAME)(Blocks)
