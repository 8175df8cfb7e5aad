"""How much of a concept is in a text: by the feature itself, by a labelled concept, or as a judge says."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from kanary.errors import KanaryError
from kanary.evaluation.concepts.best import auroc
from kanary.evaluation.concepts.logistic import logistic
from kanary.evaluation.concepts.sample import sample
from kanary.interventions.samples import Reread, Sample
from kanary.interventions.steerable import Steerable
from kanary.lm import LanguageModel
from kanary.progress import bar
from kanary.text import open_text
from kanary.text.labelled.concepts import find_concept

TOKENS = 30_000
"""Of the labelled corpus, on which a concept's probe is trained and tested."""
MOST = 4_000
"""Tokens with the concept, and as many without, that a probe learns from."""


class Presence(Protocol):
    """A measure in [0, 1]; it reads a text as the unsteered model does."""

    @property
    def says(self) -> str:
        """What is measured, in words."""

    @property
    def sites(self) -> tuple[str, ...]:
        """Whose activations it needs."""

    def __call__(self, text: Sample, read: Reread) -> float: ...


@dataclass(frozen=True)
class ByFeature:
    """Share of the written tokens on which the feature fires when the unsteered model reads them."""

    panel: Steerable
    feature: int
    sae: str

    @property
    def says(self) -> str:
        return f"share of tokens on which feature {self.feature} fires when the unsteered model reads the text"

    @property
    def sites(self) -> tuple[str, ...]:
        return (self.panel.sites[self.sae],)

    def __call__(self, text: Sample, read: Reread) -> float:
        sae = self.panel.saes[self.sae]
        codes = sae.encode(read.x[self.sites[0]].to(sae.mean), read.special.to(sae.mean.device))
        counted = int((~read.special).sum())
        return float((codes.latent(self.feature) > 0).sum()) / counted if counted else 0.0


@dataclass(frozen=True)
class ByConcept:
    """Mean over the written tokens of the probability that a probe of the activations gives a labelled concept."""

    concept: str
    site: str
    weights: Tensor
    """``[width + 1]`` float64, for activations that are standardised; the bias last."""
    centre: Tensor
    spread: Tensor
    auroc: float
    """Of the probe, on documents that it has not learned from."""

    @property
    def says(self) -> str:
        return f"probability of the concept {self.concept} by a probe at {self.site} (AUROC {self.auroc:.3f})"

    @property
    def sites(self) -> tuple[str, ...]:
        return (self.site,)

    def odds(self, x: Tensor) -> Tensor:
        """Log odds of raw ``x [tokens, width]``."""
        return ((x.double() - self.centre) / self.spread) @ self.weights[:-1] + self.weights[-1]

    def __call__(self, text: Sample, read: Reread) -> float:
        kept = read.x[self.site][~read.special]
        return float(self.odds(kept).sigmoid().mean()) if len(kept) else 0.0


@dataclass(frozen=True)
class ByJudge:
    """What a function says of the written text."""

    judge: Callable[[str], float]
    says: str = "what the judge says"
    sites: tuple[str, ...] = ()

    def __call__(self, text: Sample, read: Reread) -> float:
        found = float(self.judge(text.text))
        if not 0 <= found <= 1:
            raise KanaryError(f"The judge gave {found} to a text; it must give a number from 0 to 1.")
        return found


def by_concept(
    lm: LanguageModel, concept: str, site: str, *, tokens: int = TOKENS, seed: int = 0, quiet: bool = False
) -> ByConcept:
    """A probe for a concept of the labelled corpus, learned on one half of its documents and tested on the other.

    Raises:
        KanaryError: no such concept (with the nearest), or too few tokens of it.
    """
    name, window = find_concept(concept).name, min(256, lm.context)
    with bar(f"learning {name}", tokens, "tok", quiet) as show:
        text = open_text("labelled")
        read = sample(lm, text, [site], tokens=tokens, window=window, seed=seed, concepts=[name], show=show)
    learn, test = read.half(False), read.half(True)
    rows = [_balanced(half.labels[:, 0], half.judged[:, 0], seed) for half in (learn, test)]
    if any(len(each) < 40 for each in rows):
        raise KanaryError(f"{tokens:,} tokens of the labelled corpus hold too few of {name}: read more of them.")
    x, y = learn.x[site][rows[0]].double(), learn.labels[rows[0], 0].double()
    centre, spread = x.mean(0), x.std(0).clamp_min(1e-6)
    weights = logistic(((x - centre) / spread)[None], y[None], torch.ones_like(y)[None])[0]
    probe = ByConcept(name, site, weights, centre, spread, 0.0)
    odds, holds = probe.odds(test.x[site][rows[1]]), test.labels[rows[1], 0]
    return ByConcept(name, site, weights, centre, spread, auroc(odds[holds], odds[~holds]))


def _balanced(holds: Tensor, judged: Tensor, seed: int) -> Tensor:
    """As many tokens with the concept as without, at most :data:`MOST` of each."""
    draw = torch.Generator().manual_seed(seed)
    sides = [(judged & (holds == side)).nonzero().squeeze(1) for side in (True, False)]
    count = min(MOST, *(len(side) for side in sides))
    return torch.cat([side[torch.randperm(len(side), generator=draw)[:count]] for side in sides])


def measured(presence: Presence, texts: Sequence[Sample], read: Sequence[Reread]) -> Tensor:
    """``[texts]`` float64; 0 of a text without a token."""
    values = [presence(a, b) if a.written else 0.0 for a, b in zip(texts, read, strict=True)]
    return torch.tensor(values, dtype=torch.float64)
