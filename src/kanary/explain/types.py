"""What explainers, judges and scorers hand to each other.

An explainer sees the training half of a latent's evidence and says what the latent means; a scorer asks a judge about the
test half, which shares no document with it, and compares the answers with what the latent did.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float32]


class Failed(Exception):
    """An explainer or a judge has no usable answer, for the reason given: it is counted and shown, the job goes on."""


@dataclass(frozen=True)
class Excerpt:
    """A stretch of one document, and what one latent did there."""

    window: int
    """Of the index."""
    start: int
    """Place of its first token in the window."""
    document: int
    position: int
    """Place of its first token in the document."""
    ids: NDArray[np.int64]
    """``[length]``"""
    tokens: tuple[str, ...]
    """``[length]``, as :class:`kanary.FeatureIndex` shows them."""
    activations: Values
    """``[length]``, 0 where the latent is silent. For judges other than the oracle this is the answer: they do not look."""

    @cached_property
    def maximum(self) -> float:
        return float(self.activations.max(initial=0.0))

    @cached_property
    def text(self) -> str:
        return "".join(self.tokens)


@dataclass(frozen=True)
class Half:
    """Excerpts from one half of the documents. None is in two of the lists of its latent."""

    top: tuple[Excerpt, ...]
    """Those with the largest activations, largest first."""
    spread: tuple[Excerpt, ...]
    """A uniform sample of those in which the latent fires."""
    silent: tuple[Excerpt, ...]
    """A uniform sample of those in which it does not."""
    same_token: tuple[Excerpt, ...]
    """Hard negatives: a token at which it often fires is there, and it is silent."""
    neighbour: tuple[Excerpt, ...]
    """Hard negatives: the latent with the most similar direction fires, and it is silent."""

    @property
    def firing(self) -> tuple[Excerpt, ...]:
        return self.top + self.spread

    @property
    def negatives(self) -> tuple[Excerpt, ...]:
        return self.silent + self.same_token + self.neighbour


@dataclass(frozen=True)
class Evidence:
    """All that explainers and scorers are told of one latent."""

    latent: int
    maximum: float
    """Largest activation in the whole index."""
    density: float
    """Share of tokens on which it fires."""
    positive_logits: tuple[str, ...]
    """Tokens that it makes likelier, most first; empty where its site does not write into the residual stream."""
    negative_logits: tuple[str, ...]
    train: Half
    test: Half


class Rule(Protocol):
    """An explanation that can be run on new text."""

    def values(self, excerpts: Sequence[Excerpt]) -> list[Values]:
        """For every excerpt ``[length]``: the activation that the rule predicts, from 0 to 10."""
        ...

    def holds(self, excerpts: Sequence[Excerpt]) -> list[float]:
        """For every excerpt, how likely the latent fires in it, 0 to 1; above 0.5 is yes."""
        ...


@dataclass(frozen=True)
class Explanation:
    """What an explainer says that a latent means."""

    latent: int
    text: str
    title: str | None
    """Three words at most."""
    by: str
    """The explainer, with its model where it has one."""
    rule: Rule | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    """An LLM's five: dominant_tokens, patterns, summary, context, title."""


class Rubric(NamedTuple):
    """A grade in words (RouteSAE, arXiv 2503.08200)."""

    category: str
    """low-level, high-level or undiscernible."""
    grade: int
    """1 (no pattern) to 5 (one clear pattern)."""
    reason: str


class Explainer(Protocol):
    """From examples to an explanation."""

    @property
    def name(self) -> str: ...

    async def explain(self, evidence: Evidence) -> Explanation:
        """From ``evidence.train`` alone. Raises :class:`Failed`."""
        ...


class Judge(Protocol):
    """Answers the questions of scorers; none by looking at ``Excerpt.activations``, but for the oracle.

    NaN stands where there is no usable answer: it is counted. A question that the judge cannot answer at all raises
    NotImplementedError.
    """

    @property
    def name(self) -> str:
        """What is printed beside every score: rule, embedding, an LLM's name."""
        ...

    async def holds(self, explanation: Explanation, excerpts: Sequence[Excerpt]) -> list[float]:
        """For every excerpt, how likely it is that the latent so explained fires in it, 0 to 1; above 0.5 is yes."""
        ...

    async def marked(
        self, explanation: Explanation, excerpts: Sequence[Excerpt], marks: Sequence[Sequence[int]]
    ) -> list[float]:
        """For every excerpt, how likely it is that the places ``marks`` in it are those meant, 0 to 1."""
        ...

    async def values(self, explanation: Explanation, excerpts: Sequence[Excerpt]) -> list[Values]:
        """For every excerpt ``[length]``: a simulated activation per token, 0 to 10."""
        ...

    async def odd(self, excerpts: Sequence[Excerpt], marks: Sequence[Sequence[int]]) -> int:
        """Which excerpt does not belong with the others; no explanation is given. Raises :class:`Failed`."""
        ...

    async def rubric(self, explanation: Explanation, excerpts: Sequence[Excerpt]) -> Rubric:
        """Here the activations are part of the question: the grade is of what they have in common. Raises :class:`Failed`."""
        ...


@dataclass(frozen=True)
class Score:
    """What one scorer found for one explanation."""

    name: str
    judge: str
    value: float | None
    """None where nothing could be scored."""
    low: float | None
    """95 % interval, from resampling excerpts; None where there are too few."""
    high: float | None
    n: int
    """Answers that count."""
    failures: int
    """Answers that were asked for and are missing."""
    more: Mapping[str, float] = field(default_factory=dict)
    """Further numbers of the same answers under their names: balanced_accuracy, auroc, f1, top, random …"""
    said: str = ""
    """What a judge said beside the number: the category and the reason of a rubric."""


class Scorer(Protocol):
    """From an explanation and the test half of the evidence to a number."""

    @property
    def name(self) -> str: ...

    async def score(self, explanation: Explanation, evidence: Evidence, judge: Judge) -> Score: ...
