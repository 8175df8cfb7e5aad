"""What the weights alone say of every latent: the tokens it writes for, its nearest neighbours."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from kanary.evaluation.latents import latent_table, writes_residual
from kanary.features.arrays import Array
from kanary.lm import LanguageModel
from kanary.lm.unembed import unembedding
from kanary.sae import SAE

TOKENS = 10
"""Tokens that a latent raises most, and as many that it lowers most."""
BINS = 40
"""Of the histogram of a latent's logit weights."""
BLOCK = 2**20
"""Numbers of the largest block held at a time."""


@torch.no_grad()
def logit_columns(
    sae: SAE, lm: LanguageModel, near: Sequence[Array], *, show: Callable[[int], None] | None = None
) -> dict[str, Array]:
    """Logit weights, centred over the vocabulary: the largest and smallest, their moments and histogram, and those of the
    tokens ``near`` every latent, one after another.

    Empty where the site does not write into the residual stream.
    """
    unembed = unembedding(lm) if writes_residual(sae, lm) else None
    if unembed is None:
        return {}
    table = latent_table(sae, lm, show=show)
    columns = {name: getattr(table, f"logit_{name}").float() for name in ("mean", "std", "skewness", "kurtosis")}
    centred = unembed - unembed.mean(1, keepdim=True)
    found: dict[str, list[Tensor]] = {}
    rows = max(1, BLOCK // unembed.shape[1])
    for start in range(0, sae.d_sae, rows):
        weights = sae.W_dec[start : start + rows].to(lm.device) @ centred  # [rows, vocab]
        for name, new in _described(weights).items():
            found.setdefault(name, []).append(new.cpu())
        wanted = zip(weights, near[start : start + rows], strict=True)
        values = [row[torch.from_numpy(ids.astype(np.int64)).to(lm.device)] for row, ids in wanted]
        found.setdefault("near_values", []).append(torch.cat(values).half().cpu())
    columns |= {name: torch.cat(parts) for name, parts in found.items()}
    ends = np.cumsum([0, *map(len, near)])
    return {"logit_near_offsets": ends} | {f"logit_{name}": column.numpy() for name, column in columns.items()}


def _described(weights: Tensor) -> dict[str, Tensor]:
    """``weights [rows, vocab]``."""
    most = min(TOKENS, weights.shape[1])
    high, low = weights.topk(most, dim=1), weights.topk(most, dim=1, largest=False)
    ends = torch.stack([low.values[:, 0], high.values[:, 0]], 1)
    width = (ends[:, 1:] - ends[:, :1]).clamp_min(torch.finfo(torch.float32).tiny)
    bins = ((weights - ends[:, :1]) / width * BINS).long().clamp_(0, BINS - 1)
    counts = torch.zeros(len(weights), BINS, dtype=torch.int32, device=weights.device)
    counts.scatter_add_(1, bins, torch.ones_like(bins, dtype=torch.int32))
    return {
        "high_tokens": high.indices.int(),
        "high_values": high.values,
        "low_tokens": low.indices.int(),
        "low_values": low.values,
        "range": ends,
        "counts": counts,
    }


@torch.no_grad()
def nearest(directions: Tensor, others: Tensor, count: int, *, itself: bool = False) -> tuple[Array, Array]:
    """The ``count`` rows of ``others [m, d]`` with the largest cosine to each of ``directions [n, d]``: which, and cosine.

    -1 and NaN where there is none.

    Args:
        itself: the two are the same, and a row is no neighbour of its own.
    """
    units = F.normalize(others, dim=1)
    which = torch.full((len(directions), count), -1, dtype=torch.int32)
    cosines = torch.full((len(directions), count), torch.nan)
    kept = min(count, len(others) - itself)
    rows = max(1, BLOCK // len(others))
    for start in range(0, len(directions), rows):
        found = F.normalize(directions[start : start + rows], dim=1) @ units.T
        if itself:
            found.diagonal(start).fill_(-torch.inf)
        best = found.topk(kept, dim=1)
        which[start : start + rows, :kept] = best.indices.int().cpu()
        cosines[start : start + rows, :kept] = best.values.cpu()
    return which.numpy(), cosines.numpy()
