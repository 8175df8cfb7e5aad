"""Does the explanation make excerpts in which the latent fires less surprising to the language model than others?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from kanary.explain.scorers import separated, some
from kanary.explain.types import Evidence, Excerpt, Explanation, Judge, Score
from kanary.lm import LanguageModel
from kanary.text.windows import encode

JUDGE = "its own model"
LONGEST = 64
"""Tokens of an explanation that are read."""


@dataclass(frozen=True)
class Surprisal:
    """delphi's definition: the drop of an excerpt's mean loss when the explanation stands before it. Value: AUROC of the drop.

    The judge is the language model that the SAE reads, whoever else judges: of little use where it cannot follow a text.
    """

    lm: LanguageModel
    most: int = 20
    """Positives, and negatives, at most."""
    seed: int = 0
    name: str = "surprisal"

    async def score(self, explanation: Explanation, evidence: Evidence, judge: Judge) -> Score:
        draw = np.random.default_rng([self.seed, evidence.latent, 6])
        positive, negative = (some(each, self.most, draw) for each in (evidence.test.firing, evidence.test.negatives))
        both = [*positive, *negative]
        prefix = encode(self.lm, [explanation.text + "\n"])[0][:LONGEST]
        drop = self._losses([], both) - self._losses(prefix, both)
        return separated(self.name, JUDGE, drop[: len(positive)], drop[len(positive) :], draw, at=0.0)

    @torch.no_grad()
    def _losses(self, prefix: Sequence[int], excerpts: Sequence[Excerpt]) -> NDArray[np.float64]:
        """Mean loss in nats of the tokens of each excerpt but its first; NaN for one that does not fit the model."""
        first = [self.lm.bos_id] if self.lm.bos_id is not None else []
        before = [*first, *prefix]
        found = np.full(len(excerpts), np.nan)
        lengths = sorted({len(each.ids) for each in excerpts})
        for length in lengths:
            which = [i for i, each in enumerate(excerpts) if len(each.ids) == length]
            if len(before) + length > self.lm.context or length < 2:
                continue
            ids = np.array([[*before, *excerpts[i].ids.tolist()] for i in which], np.int64)
            tokens = torch.from_numpy(ids).to(self.lm.device)
            logits = self.lm.logits(tokens)[:, len(before) : -1].float()
            after = tokens[:, len(before) + 1 :]
            loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), after, reduction="none").mean(1)
            found[which] = loss.double().cpu().numpy()
        return found
