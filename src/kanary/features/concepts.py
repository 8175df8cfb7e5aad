"""Which concepts of the labelled corpus each latent tells best: the scores of ``kanary evaluate``, seen from the latent."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kanary.evaluation.concepts.best import FEWEST_TOKENS
from kanary.evaluation.concepts.measure import encoded
from kanary.evaluation.concepts.sample import Sample, sample
from kanary.evaluation.concepts.units import SparseUnits, Truth, unit_scores
from kanary.features.arrays import Array
from kanary.lm import LanguageModel
from kanary.sae import SAE
from kanary.text import TextSource

SHOWN = 5
LEAST = 0.05
"""By how much a latent's F1 must be above that of always saying yes, which is large for a frequent concept."""


def concept_columns(
    sae: SAE, lm: LanguageModel, text: TextSource, *, tokens: int, show: Callable[[int], None], **how: Any
) -> tuple[list[str], dict[str, Array]]:
    """Names of the concepts that can be measured, and for every latent the best of them.

    Columns: ``concepts [d_sae, 5]`` (numbers of names, -1 for none), and for each ``concept_f1``, ``concept_auroc`` and
    ``concept_n``, the tokens at which it holds. A latent's concepts are those with the largest F1 (at its best threshold)
    on the selection half of the sample's documents, as far as it is above that of always saying yes; the numbers are
    those of the test half.

    Args:
        text: the labelled corpus.
        tokens: how many to read.
        how: window, lm_batch, part, seed of :func:`kanary.evaluation.concepts.sample.sample`.
    """
    site = str(sae.config.trained_on["site"])
    read = sample(lm, text, [site], tokens=tokens, show=show, **how)
    halves = read.half(False), read.half(True)
    enough = _counts(halves[0]).ge(FEWEST_TOKENS).all(0) & _counts(halves[1]).ge(FEWEST_TOKENS).all(0)
    measured = enough.nonzero()[:, 0]
    if not len(measured):
        return [], {}
    names = [read.concepts[i] for i in measured.tolist()]
    scores = [_scores(sae, half, site, measured) for half in halves]
    shown = min(SHOWN, len(names))
    f1 = scores[0][1].where(scores[0][1] > _always(halves[0])[measured] + LEAST, -1)
    chosen = f1.topk(shown, dim=1)
    auroc, f1 = (each.gather(1, chosen.indices) for each in scores[1])
    some = (chosen.values > 0) & f1.isfinite()
    columns = {
        "concepts": chosen.indices.masked_fill(~some, -1).int().numpy(),
        "concept_f1": f1.numpy(),
        "concept_auroc": auroc.numpy(),
        "concept_n": _counts(halves[1])[0][measured][chosen.indices].numpy(),
    }
    order = np.argsort(np.where(some.numpy(), -f1.numpy(), 1.0), axis=1, kind="stable")
    return names, {name: np.take_along_axis(column, order, 1) for name, column in columns.items()}


def _counts(half: Sample) -> Tensor:
    """``[2, concepts]`` int64: judged tokens at which each concept holds, and does not."""
    holds = half.labels & half.judged
    return torch.stack([holds.sum(0), (half.judged & ~holds).sum(0)])


def _always(half: Sample) -> Tensor:
    """``[concepts]``: the F1 of saying at every token that the concept holds."""
    holds, not_ = _counts(half).double()
    found: Tensor = 2 * holds / (2 * holds + not_)
    return found.float()


def _scores(sae: SAE, half: Sample, site: str, concepts: Tensor) -> tuple[Tensor, Tensor]:
    """AUROC and F1, ``[d_sae, concepts]`` float32."""
    units = SparseUnits.of(encoded(sae, half.x[site]))
    truth = Truth.of(half.labels[:, concepts], half.judged[:, concepts])
    found = list(unit_scores(units, truth))
    return torch.cat([each.auroc[0] for each in found]), torch.cat([each.f1[0] for each in found])
