"""ReLU with an L1 penalty, the first SAE; and the strength of a penalty, which others share."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kanary.config import option
from kanary.sae.parts import Active, Decoder, Others, Sparsifier, part

START_L0 = 32.0


@dataclass(frozen=True)
class L1Options:
    l1: float = option(1.0, "strength of the L1 penalty (where it starts, if target_l0 is given)")
    target_l0: float | None = option(None, "steer the penalty until this many latents fire per token")
    sparsity_warmup: float = option(0.05, "share of training during which the penalty grows from nothing")


class Penalised(Sparsifier):
    """A sparsifier whose sparsity comes from a penalty of adjustable strength.

    With ``target_l0`` the strength follows ``log(L0 / target)`` (a proportional-integral rule): it grows while too many
    latents fire and shrinks while too few do.
    """

    elementwise = True
    strength: Tensor
    error: Tensor

    def __init__(self, d_model: int, d_sae: int, options: object = None) -> None:
        super().__init__(d_model, d_sae, options)
        self.register_buffer("strength", torch.tensor(float(self.initial_strength())))
        self.register_buffer("error", torch.tensor(0.0))
        self._warm = 1.0
        self._gain = 0.0

    def initial_strength(self) -> float:
        raise NotImplementedError

    def fires(self, pre: Tensor, others: Others) -> Tensor | None:
        return torch.ones_like(pre, dtype=torch.bool)  # activate tells, as for all latents

    def before_step(self, step: int, steps: int) -> None:
        self._warm = min(1.0, (step + 1) / max(1.0, self.options.sparsity_warmup * steps))
        self._gain = 30.0 / steps  # the integral answers an L0 off by a factor e within a thirtieth of training

    def after_step(self, l0: float, smallest: float) -> None:
        target = self.options.target_l0
        if target is None or self._warm < 1:
            return
        error = max(-1.0, min(1.0, math.log(max(l0, 1e-3) / target)))
        change = self._gain * error + 2.0 * (error - float(self.error))
        self.error.fill_(error)
        self.strength.mul_(math.exp(change))

    def start(self) -> tuple[float, float]:
        # half of all latents would fire, reconstruct d_sae / d_model times too much, and cost full matrices
        return max(START_L0, self.d_model / 4), 0.0

    def now(self) -> Tensor:
        """The strength at this step, warm-up included."""
        return self.strength * self._warm


@part("relu")
class ReLU(Penalised):
    """``f = relu(pre)``; penalty ``l1 * sum_i f_i |W_dec,i|`` (Bricken et al. 2023; decoder norm: Conerly et al. 2024)."""

    Options = L1Options
    options: L1Options

    def initial_strength(self) -> float:
        return self.options.l1

    def penalty(self, active: Active, values: Tensor, decoder: Decoder) -> Tensor:
        return self.now() * l1(active, values, decoder)


def l1(active: Active, values: Tensor, decoder: Decoder) -> Tensor:
    """Mean over tokens of the summed lengths of what the latents add (linear decoders: ``sum_i |f_i| |W_dec,i|``): the same
    for every batch size, however directions are scaled."""
    return active.mean_over_tokens(decoder.lengths(active, values))
