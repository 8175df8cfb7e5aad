"""JumpReLU: a learned threshold per latent and a penalty on L0 itself (Rajamanoharan et al. 2024, arXiv 2407.14435)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from kanary.config import option
from kanary.sae.parts import Active, Decoder, part
from kanary.sae.sparsifiers.relu import Penalised

PACE = 10.0
"""Thresholds learn so many times as fast as weights. At the weights' rate they cannot go as far as an L0 asks within a few
hundred steps, and the penalty that is to drive them grows without bound meanwhile, at the cost of all else."""


@dataclass(frozen=True)
class JumpReLUOptions:
    l0_penalty: float = option(0.5, "strength of the L0 penalty (where it starts, if target_l0 is given)")
    target_l0: float | None = option(None, "steer the penalty until this many latents fire per token")
    sparsity_warmup: float = option(0.05, "share of training during which the penalty grows from nothing")
    threshold_start: float = option(0.5, "every latent's threshold at the start (activations have E|x|^2 = d_model)")
    bandwidth: float = option(0.5, "width of the window around a threshold in which it gets a gradient")


@part("jumprelu")
class JumpReLU(Penalised):
    """``f = pre * [pre > threshold]``; penalty ``l0_penalty * L0``; both reach the threshold through a straight-through
    estimator with a rectangular kernel of the given bandwidth. State: ``threshold [d_sae]``, kept above zero.
    """

    Options = JumpReLUOptions
    options: JumpReLUOptions

    def __init__(self, d_model: int, d_sae: int, options: JumpReLUOptions | None = None) -> None:
        super().__init__(d_model, d_sae, options)
        self.threshold = nn.Parameter(torch.full((d_sae,), float(self.options.threshold_start)))

    def initial_strength(self) -> float:
        return self.options.l0_penalty

    def paces(self, step: int, steps: int) -> dict[str, float]:
        return {"threshold": PACE}

    def start(self) -> tuple[float, float]:
        return super().start()[0], self.options.threshold_start

    def mask(self, pre: Tensor) -> Tensor:
        # the window below the threshold matters too: there the value is 0 but its gradient is not, and what an encoder
        # makes of the selected (kan-node) may yet pass, at inference as in training
        return pre > self.threshold.detach() - self.options.bandwidth / 2

    def activate(self, active: Active) -> Tensor:
        value: Tensor = _Jump.apply(active.pre, active.per_latent(self.threshold), self.options.bandwidth)
        return value

    def penalty(self, active: Active, values: Tensor, decoder: Decoder) -> Tensor:
        fired = _Step.apply(active.pre, active.per_latent(self.threshold), self.options.bandwidth)
        return self.now() * active.mean_over_tokens(fired)

    @torch.no_grad()
    def after_step(self, l0: float, smallest: float) -> None:
        super().after_step(l0, smallest)
        self.threshold.clamp_min_(1e-3)

    @torch.no_grad()
    def reset(self, latents: Tensor) -> None:
        self.threshold[latents] = self.options.threshold_start


class _Jump(torch.autograd.Function):
    """Value ``pre [pre > threshold]``; d/d threshold = -(threshold / bandwidth) K((pre - threshold) / bandwidth), eq. 11."""

    @staticmethod
    def forward(ctx: FunctionCtx, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth  # type: ignore[attr-defined]
        return pre * (pre > threshold)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        pre, threshold = ctx.saved_tensors
        near = (pre - threshold).abs() < ctx.bandwidth / 2
        d_threshold = -(threshold / ctx.bandwidth) * near * grad
        return grad * (pre > threshold), d_threshold.sum_to_size(threshold.shape), None


class _Step(torch.autograd.Function):
    """Value ``[pre > threshold]``; d/d threshold = -(1 / bandwidth) K((pre - threshold) / bandwidth), eq. 12."""

    @staticmethod
    def forward(ctx: FunctionCtx, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth  # type: ignore[attr-defined]
        return (pre > threshold).to(pre.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:
        pre, threshold = ctx.saved_tensors
        near = (pre - threshold).abs() < ctx.bandwidth / 2
        return None, (near * grad / -ctx.bandwidth).sum_to_size(threshold.shape), None
