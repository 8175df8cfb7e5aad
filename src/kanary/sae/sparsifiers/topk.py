"""TopK: the k largest pre-activations of every token (Gao et al. 2024, arXiv 2406.04093)."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kanary.config import option
from kanary.errors import KanaryError
from kanary.kernels import Pattern
from kanary.sae.parts import Others, Sparsifier, part

SIZES = (16, 8, 4)
"""Entries per group in the search for the largest: the first that leaves four groups for each one that is wanted."""

FEW, FIRST = 32, 16
"""Tokens at most of which some latents are ranked, and latents per k that they must stand up to before the rest."""


def k_at(step: int, steps: int, k: int, start: int, share: float) -> int:
    """``int(k0 + (k1 - k0) t / w)`` for ``t < w``, then ``k1``: a dense start keeps latents alive."""
    anneal = int(share * steps)
    return int(start + (k - start) * step / anneal) if step < anneal else k


@dataclass(frozen=True)
class TopKOptions:
    k: int = option(32, "active latents per token")
    k_schedule: bool = option(False, "begin with k_start active latents and come down to k linearly")
    k_start: int = option(512, "active latents at the first step of the k-schedule (at most the width)")
    k_share: float = option(0.25, "share of training that the k-schedule takes")


class ScheduledK(Sparsifier):
    """What TopK and BatchTopK share: how many latents, now."""

    Options = TopKOptions
    options: TopKOptions
    k_now: Tensor

    def __init__(self, d_model: int, d_sae: int, options: TopKOptions | None = None) -> None:
        super().__init__(d_model, d_sae, options)
        k = self.options.k
        if not 1 <= k <= d_sae:
            raise KanaryError(f"k={k} does not fit a width of {d_sae}: choose 1 <= k <= width.")
        self.register_buffer("k_now", torch.tensor(k))  # saved, so that a checkpoint encodes as its training did
        self._k = k

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: object) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._k = int(self.k_now)

    def before_step(self, step: int, steps: int) -> None:
        if self.options.k_schedule:
            start = min(self.options.k_start, self.d_sae)
            self._k = k_at(step, steps, self.options.k, start, self.options.k_share)
            self.k_now.fill_(self._k)

    def like(self, factor: int) -> "ScheduledK":
        more = {name: min(self.d_sae, factor * getattr(self.options, name)) for name in ("k", "k_start")}
        return type(self)(self.d_model, self.d_sae, replace(self.options, **more))


@part("topk")
class TopK(ScheduledK):
    """``f = pre`` where it is positive and among the token's k largest, else 0. No penalty is needed."""

    def select(self, pre: Tensor) -> tuple[Tensor, Tensor]:
        # rough pre-activations may put a wrong latent among the last of the k: take more, then see
        k = self._k if pre.dtype != torch.bfloat16 else min(pre.shape[1], self._k + 8 + self._k // 4)
        latents = row_topk(pre, k)
        return latents.reshape(-1), torch.full((len(pre),), k, device=pre.device)

    def fires(self, pre: Tensor, others: Others) -> Tensor | None:
        if len(pre) > FEW:
            return None
        # fast because where k of the first latents are above the best of those in question, the rest is not multiplied
        best, size = pre.amax(1, keepdim=True), FIRST * self._k
        first = others(slice(size), slice(None))
        left = ((best[:, 0] > 0) & ((first > best).sum(1) < self._k)).nonzero()[:, 0]
        found = torch.zeros_like(pre, dtype=torch.bool)
        if len(left):
            mine = pre[left]
            every = torch.cat([mine, first[left], others(slice(size, None), left)], 1)
            least = every.topk(self._k, dim=1, sorted=False).values.amin(1, keepdim=True)
            found[left] = (mine >= least) & (mine > 0)
        return found

    def narrow(self, pre: Tensor, pattern: Pattern) -> Tensor | None:
        if len(pre) == self._k * pattern.tokens:
            return None
        rows = pre.view(pattern.tokens, -1)
        best = rows.topk(self._k, dim=1, sorted=False).indices
        return torch.zeros_like(rows, dtype=torch.bool).scatter_(1, best, True).view(-1)

    def keep(self, pre: Tensor, pattern: Pattern) -> Tensor | None:
        return self.narrow(pre, pattern)


def row_topk(pre: Tensor, k: int) -> Tensor:
    """``pre [n, width]`` -> ``[n, k]`` indices of the k largest of every row, in no order.

    The k largest entries of a row lie in the k groups with the largest maxima, so most of the row is looked at once.
    """
    n, width = pre.shape
    # fast because a strided maximum vectorises, and then only k * size entries per row are ranked
    size = next((size for size in SIZES if width % size == 0 and width // size >= 4 * k), 0)
    if not size:
        return pre.topk(k, dim=1, sorted=False).indices
    groups = width // size
    grouped = pre.view(n, size, groups)
    best = grouped.amax(1).topk(k, dim=1, sorted=False).indices  # [n, k]
    members = grouped.gather(2, best[:, None, :].expand(n, size, k)).view(n, size * k)
    chosen = members.topk(k, dim=1, sorted=False).indices  # [n, k] into [size, k]
    return (chosen // k) * groups + best.gather(1, chosen % k)
