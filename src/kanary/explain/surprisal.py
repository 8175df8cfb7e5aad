"""Does the explanation make excerpts in which the latent fires less surprising to the language model than others?"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kanary.explain.scorers import separated, some
from kanary.explain.types import Evidence, Excerpt, Explanation, Judge, Score
from kanary.lm import LanguageModel
from kanary.text.windows import encode

JUDGE = "its own model"
LONGEST = 64
"""Tokens of an explanation that are read."""

Losses = NDArray[np.float64]


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
    _alone: dict[bytes, float] = field(default_factory=dict, compare=False)
    """Losses of excerpts without an explanation, by their ids: features share excerpts."""

    async def score(self, explanation: Explanation, evidence: Evidence, judge: Judge) -> Score:
        draw = np.random.default_rng([self.seed, evidence.latent, 6])
        positive, negative = (some(each, self.most, draw) for each in (evidence.test.firing, evidence.test.negatives))
        both = [*positive, *negative]
        prefix = encode(self.lm, [explanation.text + "\n"])[0][:LONGEST]
        drop = self._without(both) - self._losses(prefix, both)
        return separated(self.name, JUDGE, drop[: len(positive)], drop[len(positive) :], draw, at=0.0)

    def _without(self, excerpts: Sequence[Excerpt]) -> Losses:
        new = {key: each for each in excerpts if (key := each.ids.tobytes()) not in self._alone}
        self._alone.update(zip(new, self._losses([], list(new.values())).tolist(), strict=True))
        return np.array([self._alone[each.ids.tobytes()] for each in excerpts])

    @torch.no_grad()
    def _losses(self, prefix: Sequence[int], excerpts: Sequence[Excerpt]) -> Losses:
        """Mean loss in nats of the tokens of each excerpt but its first; NaN for one that does not fit the model."""
        first = [self.lm.bos_id] if self.lm.bos_id is not None else []
        before = [*first, *prefix]
        found = np.full(len(excerpts), np.nan)
        for length in sorted({len(each.ids) for each in excerpts}):
            which = [i for i, each in enumerate(excerpts) if len(each.ids) == length]
            if len(before) + length > self.lm.context or length < 2:
                continue
            ids = torch.from_numpy(np.stack([excerpts[i].ids for i in which])).to(self.lm.device)
            logits = self._logits(before, ids)[:, :-1].float()
            loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none").mean(1)
            found[which] = loss.double().cpu().numpy()
        return found

    def _logits(self, before: Sequence[int], ids: Tensor) -> Tensor:
        """``[n, length, vocab]`` of ``ids [n, length]``, each after the same tokens, which are read once."""
        if not before:
            return self.lm.logits(ids)
        with self.lm.alone():
            prompt = torch.tensor([list(before)], device=self.lm.device)
            cache: Any = self.lm.model(input_ids=prompt, use_cache=True, logits_to_keep=1).past_key_values
            cache.batch_repeat_interleave(len(ids))
            logits: Tensor = self.lm.model(input_ids=ids, past_key_values=cache, use_cache=True).logits
        return logits
