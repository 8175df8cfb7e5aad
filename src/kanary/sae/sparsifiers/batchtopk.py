"""BatchTopK: the k * tokens largest pre-activations of the batch (Bussmann et al. 2024, arXiv 2412.06410)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kanary.config import option
from kanary.kernels import Pattern
from kanary.sae.parts import Others, SelectAgain, part
from kanary.sae.sparsifiers.topk import ScheduledK, TopKOptions

SLACK = 1.5  # candidates per wanted entry: enough that the floor of the last batch nearly always serves this one


@dataclass(frozen=True)
class BatchTopKOptions(TopKOptions):
    threshold_rate: float = option(
        0.05, "how fast the threshold used for inference follows the batches' smallest value"
    )


@part("batchtopk")
class BatchTopK(ScheduledK):
    """Training: ``f = pre`` where positive and among the batch's k * tokens largest. Inference: where above ``threshold``.

    The threshold is a running mean of the smallest value that a batch kept, so that a token's codes do not depend on
    the tokens beside it.
    """

    Options = BatchTopKOptions
    options: BatchTopKOptions
    threshold: Tensor
    floor: Tensor

    def __init__(self, d_model: int, d_sae: int, options: BatchTopKOptions | None = None) -> None:
        super().__init__(d_model, d_sae, options)
        self.register_buffer("threshold", torch.tensor(-1.0))  # -1: nothing learned yet
        self.register_buffer("floor", torch.tensor(-1.0))  # of the entries that are looked at in training; -1: none yet
        self._cut = 0.0  # the smallest positive pre-activation that the last batch kept

    def mask(self, pre: Tensor) -> Tensor:
        if not self.training:
            return pre > self.threshold.clamp_min(0)
        if self.floor < 0:
            self.floor.fill_(self._guess(pre))
        return pre > self.floor

    def fires(self, pre: Tensor, others: Others) -> Tensor | None:
        return None if self.training else self.mask(pre)

    def narrow(self, pre: Tensor, pattern: Pattern) -> Tensor | None:
        # fast because only the entries above last batch's floor are ranked, not the whole [tokens, d_sae] matrix;
        # the result is exact: a floor that let too few through is lowered and the batch scanned again
        if not self.training:
            return None
        wanted = self._k * pattern.tokens
        if len(pre) < wanted and self.floor > 0:
            self.floor.mul_(0.8 if self.floor > 1e-3 else 0.0)
            raise SelectAgain
        keep = self.keep(pre, pattern)
        if keep is not None:
            spare = int(wanted * SLACK)
            self.floor.copy_(pre.kthvalue(len(pre) - spare + 1).values if spare <= len(pre) else pre.min() * 0.98)
            self.floor.clamp_min_(0)
        return keep

    def keep(self, pre: Tensor, pattern: Pattern) -> Tensor | None:
        if not self.training:
            return pre > self.threshold.clamp_min(0)
        wanted = self._k * pattern.tokens
        positive = pre[pre > 0]
        self._cut = float(positive.min()) if len(positive) else 0.0
        if len(pre) <= wanted:
            return None
        cut = pre.kthvalue(len(pre) - wanted + 1).values
        self._cut = max(self._cut, float(cut))
        return pre >= cut

    def after_step(self, l0: float, smallest: float) -> None:
        # the smallest score that was let in, not the smallest code, which an encoder may have made of it (kan-node)
        if self._cut > 0:
            rate = self.options.threshold_rate if self.threshold >= 0 else 1.0
            self.threshold.lerp_(torch.full_like(self.threshold, self._cut), rate)

    def _guess(self, pre: Tensor) -> float:
        """A floor for the very first batch from a sixteenth of its first tile."""
        sample = pre.flatten()[::16].float()
        rank = min(len(sample), max(1, int(2 * SLACK * self._k * len(pre) / 16)))
        return max(0.0, float(sample.topk(rank).values[-1])) if rank else 0.0
