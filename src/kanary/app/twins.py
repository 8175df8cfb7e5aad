"""SAEs side by side: for every latent of one, the most similar of another, and what forbids a comparison."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kanary.activations.pool import generator
from kanary.app.lanes import Stop
from kanary.features.rounding import rounded

BLOCK = 2**24
"""Cosines held at a time: 64 MB."""
MOST = 5000
"""Twins that are sent: the most similar."""
ABOVE = (0.5, 0.7, 0.9)
RANDOM = 256
"""Random directions whose best cosine stands for what chance would give."""
UNLIKE = {
    "site": ("the site", None),
    "fingerprint": ("the model", "model"),
    "text_fingerprint": ("the training text", "text"),
    "tokens": ("the number of tokens trained on", None),
}
"""What should be equal: in words, and the entry with its name, where it is known by a fingerprint."""


@dataclass(frozen=True)
class Best:
    """The most similar row of b for every row of a, and the other way round, by the cosine."""

    in_b: Tensor
    """``[n]`` int64"""
    cosine: Tensor
    """``[n]`` float32"""
    in_a: Tensor
    """``[m]`` int64"""

    def mutual(self) -> Tensor:
        """``[n]`` bool: whether a row of a is also the most similar one to its twin."""
        return self.in_a[self.in_b] == torch.arange(len(self.in_b))


def best(a: Tensor, b: Tensor, stop: Stop) -> Best:
    """For ``a [n, d]`` and ``b [m, d]``, block by block; rows of zeros are similar to nothing (cosine 0)."""
    a, b = (F.normalize(each.detach().float(), dim=1) for each in (a, b))
    rows = max(1, BLOCK // len(b))
    in_b, cosine = torch.empty(len(a), dtype=torch.int64), torch.empty(len(a))
    in_a, highest = torch.zeros(len(b), dtype=torch.int64), torch.full((len(b),), -2.0)
    for start in range(0, len(a), rows):
        stop.check()
        block = a[start : start + rows] @ b.T
        cosine[start : start + rows], in_b[start : start + rows] = block.max(1)
        value, at = block.max(0)
        higher = value > highest
        in_a[higher], highest[higher] = at[higher] + start, value[higher]
    return Best(in_b, cosine, in_a)


def by_chance(b: Tensor, stop: Stop) -> float:
    """The mean best cosine in ``b [m, d]`` of directions that point everywhere alike."""
    drawn = torch.randn(RANDOM, b.shape[1], generator=generator("random directions", 0))
    return float(best(drawn, b, stop).cosine.mean())


def comparison(saes: Sequence[Mapping[str, Any]], directions: Sequence[Tensor], stop: Stop) -> dict[str, Any]:
    """Twins of the first two SAEs, and how far every two agree.

    Args:
        saes: their rows in ``/api/runs``.
        directions: their ``W_dec``, ``[d_sae, d_model]``.
    """
    twins: list[dict[str, Any]] = []
    matches, more = [], False
    for (n, a), (m, b) in combinations(enumerate(directions), 2):
        if a.shape[1] != b.shape[1]:
            continue
        found = best(a, b, stop)
        matches.append({"a": saes[n]["id"], "b": saes[m]["id"], **_agreement(found, by_chance(b, stop))})
        if (n, m) == (0, 1):
            twins, more = _listed(found), len(a) > MOST
    return {"twins": twins, "more": more, "matches": matches}


def _agreement(found: Best, chance: float) -> dict[str, Any]:
    mean, random = rounded(torch.tensor([float(found.cosine.mean()), chance]))
    above = {str(least): int((found.cosine >= least).sum()) for least in ABOVE}
    return {"mean": mean, "random": random, "above": above, "mutual": int(found.mutual().sum())}


def _listed(found: Best) -> list[dict[str, Any]]:
    """The most similar first."""
    order = found.cosine.argsort(descending=True, stable=True)[:MOST]
    columns = (order.tolist(), found.in_b[order].tolist(), rounded(found.cosine[order]), found.mutual()[order].tolist())
    return [{"a": a, "b": b, "cosine": value, "mutual": both} for a, b, value, both in zip(*columns, strict=True)]


def notes(known: Sequence[Mapping[str, Any]], directions: Sequence[Tensor]) -> list[str]:
    """What is not like for like, from what each SAE knows of its training."""
    found = []
    for key, (what, name) in UNLIKE.items():
        values = {each.get(key): each.get(name or key) for each in known}
        if len(values) > 1:
            shown = (f"{called} ({print_})" if name else str(called) for print_, called in values.items())
            found.append(f"Not like for like: they differ in {what}: {', '.join(shown)}.")
    if len({each.shape[1] for each in directions}) > 1:
        found.append("Directions of different lengths have no cosine: those SAEs read activations of different widths.")
    return found
