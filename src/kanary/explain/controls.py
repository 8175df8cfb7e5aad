"""What a score must be held against: the best and the least that it can be, explained and scored in the same way."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from kanary.evaluation.standin import random_twin
from kanary.explain.evidence import gather, gather_random
from kanary.explain.judges import Oracle
from kanary.explain.pool import Pool, Subject
from kanary.explain.rule import most_frequent_token, random_explanation
from kanary.explain.scorers import cannot
from kanary.explain.types import Evidence, Explainer, Explanation, Failed, Judge, Score, Scorer
from kanary.explain.vocabulary import Vocabulary
from kanary.lm import LanguageModel
from kanary.sae import SAE

CONTROLS = (
    "oracle",
    "shuffled explanation",
    "random explanation",
    "most frequent token",
    "random latent",
    "random SAE",
)
"""In the order of the table."""
WITHOUT_EXPLANATION = ("intruder", "examples")
"""Scores that no explanation enters: another explanation changes nothing about them."""
_OWN_JUDGE = ("examples", "surprisal", "rubric")  # which the oracle cannot stand in for
_SAMPLE = 4096  # tokens on which the densities of the random SAE's latents are looked at


@dataclass(frozen=True)
class Judging:
    """The scorers, and who answers each of them."""

    scorers: Sequence[tuple[Scorer, Judge]]

    async def scores(self, explanation: Explanation, evidence: Evidence) -> tuple[Score, ...]:
        found = []
        for scorer, judge in self.scorers:
            try:
                found.append(await scorer.score(explanation, evidence, judge))
            except NotImplementedError:
                found.append(cannot(scorer, judge))
        return tuple(found)

    def by(self, judge: Judge) -> "Judging":
        """The same scorers, all of them answered by ``judge``."""
        return Judging([(scorer, judge) for scorer, _ in self.scorers if scorer.name not in _OWN_JUDGE])

    def of_explanations(self) -> "Judging":
        """Only the scorers to which the explanation matters."""
        return Judging([pair for pair in self.scorers if pair[0].name not in WITHOUT_EXPLANATION])


@dataclass(frozen=True)
class RandomSAE:
    """A random twin of the SAE, and for latents of the SAE the twin's latents that fire about as often."""

    subject: Subject
    twins: Mapping[int, int]
    """Latent -> the twin's."""


@dataclass(frozen=True)
class Controls:
    """What the controls of a feature are made with."""

    pool: Pool
    random: tuple[RandomSAE, Pool] | None
    """The random SAE and its pool."""
    explainer: Explainer
    judging: Judging
    vocabulary: Vocabulary
    seed: int

    async def of(
        self, latent: int, explanation: Explanation, other: Explanation | None
    ) -> AsyncIterator[tuple[str, tuple[Score, ...]]]:
        """The name of a control and its scores, one after another.

        Args:
            other: another feature's explanation; None where there is only one feature.
        """
        for name in CONTROLS:
            scores = await self.scores(name, latent, explanation, other)
            if scores is not None:
                yield name, scores

    async def scores(
        self, name: str, latent: int, explanation: Explanation, other: Explanation | None
    ) -> tuple[Score, ...] | None:
        """Of one of the ``CONTROLS``; None where the feature has it not."""
        if name == "random latent":
            return await self._explained(gather_random(self.pool, latent, seed=self.seed))
        if name == "random SAE":
            if not self.random or latent not in self.random[0].twins:
                return None
            return await self._explained(gather(self.random[1], self.random[0].twins[latent], seed=self.seed))
        evidence = gather(self.pool, latent, seed=self.seed)
        if name == "oracle":
            return await self.judging.by(Oracle()).scores(explanation, evidence)
        said = self._said(name, evidence, other)
        return await self.judging.of_explanations().scores(said, evidence) if said else None

    def _said(self, name: str, evidence: Evidence, other: Explanation | None) -> Explanation | None:
        """What stands in the place of the explanation."""
        if name == "shuffled explanation":
            return other
        if name == "random explanation":
            draw = np.random.default_rng([self.seed, evidence.latent, 21])
            return random_explanation(evidence, self.vocabulary, draw)
        try:
            return most_frequent_token(evidence, self.vocabulary)
        except Failed:
            return None

    async def _explained(self, evidence: Evidence) -> tuple[Score, ...]:
        try:
            return await self.judging.scores(await self.explainer.explain(evidence), evidence)
        except Failed:
            return ()


def shuffled(latents: Sequence[int], seed: int) -> dict[int, int]:
    """Of every latent another one, each once; none where there is only one."""
    if len(latents) < 2:
        return {}
    order = np.random.default_rng([seed, 22]).permutation(latents).tolist()
    return dict(zip(order, [*order[1:], order[0]], strict=True))


@torch.no_grad()
def random_sae(
    sae: SAE,
    lm: LanguageModel,
    tokens: NDArray[np.int64],
    special: NDArray[np.bool_],
    densities: Mapping[int, float],
    seed: int,
) -> RandomSAE:
    """A twin of ``sae`` with random directions and as many active latents per token.

    Args:
        tokens, special: ``[windows, window]`` of the text, on which its size is fitted and its densities are counted.
        densities: of the latents that are to have a twin.
    """
    site = str(sae.config.trained_on["site"])
    x = lm.capture(torch.from_numpy(tokens), [site])[site][~torch.from_numpy(special).to(lm.device)][:_SAMPLE]
    twin = random_twin(sae, x, seed)
    twin.remember(site=site)
    fired = np.bincount(twin.encode(x).indices.cpu().numpy(), minlength=twin.d_sae)
    density = fired / len(x)
    free = fired > 0
    twins = {}
    for latent, wanted in densities.items():
        if free.any():
            distance = np.where(free, np.abs(np.log(np.maximum(density, 1e-9) / max(wanted, 1e-9))), np.inf)
            twins[latent] = int(distance.argmin())
            free[twins[latent]] = False
    return RandomSAE(Subject(twin, list(twins.values()), fired > 0), twins)
