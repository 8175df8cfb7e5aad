"""The concepts of the labelled corpus for many SAEs of one site: what does not depend on the SAE is computed once."""

from collections.abc import Iterator

import torch
from torch import Tensor

from kanary.evaluation.concepts.absorption import absorption
from kanary.evaluation.concepts.best import Half, judge
from kanary.evaluation.concepts.probing import balanced_draws, probe_all, probe_top
from kanary.evaluation.concepts.sample import sample
from kanary.evaluation.concepts.units import SparseUnits
from kanary.lm import LanguageModel
from kanary.sae import SAE, SparseCodes
from kanary.sae.parts import TILE
from kanary.text import TextSource

KS = (1, 5)
"""Latents that sparse probes read."""


class Judge:
    """Knows the concepts that hold at every token of a sample, half of which chooses what the other half judges."""

    @torch.no_grad()
    def __init__(self, lm: LanguageModel, text: TextSource, site: str, tokens: int, window: int) -> None:
        found = sample(lm, text, [site], tokens=tokens, window=window)
        self.x = found.x[site]
        held = found.concepts, found.labels, found.judged
        self.draws = balanced_draws(*held, found.test, found.documents)
        self.neurons = probe_all(self.x, self.draws)
        concepts = [name for name in found.concepts if name not in self.draws.left_out]
        self.halves = Half.of(found.half(False), concepts, (), 0), Half.of(found.half(True), concepts, (), 0)

    @torch.no_grad()
    def numbers(self, sae: SAE) -> dict[str, float]:
        """Means over concepts: of the best latent for each, of sparse probes, and of absorption."""
        codes = SparseCodes.cat(list(_encoded(sae, self.x)))
        selected = len(self.halves[0].documents)  # these tokens come first
        judged = judge(SparseUnits.of([codes[:selected]]), SparseUnits.of([codes[selected:]]), self.halves)
        probes = probe_top(codes, self.draws, KS)
        absorbed = absorption(sae, self.x, codes, self.draws, self.neurons.probes)
        return {
            "concept_auroc": float(judged.auroc[0].nanmean()),
            "concept_f1": float(judged.f1[0].nanmean()),
            **{f"probing_accuracy_{k}": probed.mean.accuracy.value for k, probed in probes.items()},
            "absorption_full": absorbed.rates.full.value,
            "absorption_fraction": absorbed.rates.fraction.value,
            "parent_recall": absorbed.recall.value,
        }


def _encoded(sae: SAE, x: Tensor) -> Iterator[SparseCodes]:
    return (sae.encode(piece.to(sae.mean.device)).to("cpu") for piece in x.split(max(1, TILE // sae.d_sae)))
