"""Judges that need no LLM: a rule that is run, an embedding that is compared, and the oracle, which looks at the answer."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kanary.explain.embedding import Embedding
from kanary.explain.patterns import PatternRule
from kanary.explain.statistics import correlation
from kanary.explain.types import Excerpt, Explanation, Failed, Rubric, Rule, Values

Marks = Sequence[Sequence[int]]


@dataclass(frozen=True)
class RuleJudge:
    """Runs the explanation's rule on the excerpts."""

    name: str = "rule"

    async def holds(self, explanation: Explanation, excerpts: Sequence[Excerpt]) -> list[float]:
        return _rule(explanation).holds(excerpts)

    async def marked(self, explanation: Explanation, excerpts: Sequence[Excerpt], marks: Marks) -> list[float]:
        """Whether it is the marked tokens, rather than the others, at which the rule expects the latent to fire."""
        found = []
        for expected, places in zip(_rule(explanation).values(excerpts), marks, strict=True):
            values = expected.astype(np.float64)
            inside, whole = float(values[list(places)].sum()), float(values.sum())
            here = inside / max(1, len(places))
            other = max(0.0, whole - inside) / max(1, len(values) - len(places))
            found.append(round(here / (here + other), 9) if here + other > 0 else 0.5)  # so that equal ones are a tie
        return found

    async def values(self, explanation: Explanation, excerpts: Sequence[Excerpt]) -> list[Values]:
        return _rule(explanation).values(excerpts)

    async def odd(self, excerpts: Sequence[Excerpt], marks: Marks) -> int:
        raise NotImplementedError

    async def rubric(self, explanation: Explanation, excerpts: Sequence[Excerpt]) -> Rubric:
        """By what the rule explains: its correlation with the activations, and whether it looks beyond the token."""
        rule = _rule(explanation)
        predicted = [each.astype(np.float64) for each in rule.values(excerpts)]
        true = [each.activations.astype(np.float64) for each in excerpts]
        r = correlation(predicted, true) or 0.0
        grade = 1 + int(np.searchsorted([0.2, 0.4, 0.6, 0.8], r, side="right"))
        reason = f"the rule's values correlate with the activations, r = {r:.2f}"
        if grade <= 2 or not isinstance(rule, PatternRule) or not rule.patterns:
            return Rubric("undiscernible", grade, reason)
        near = sum(p.covers for p in rule.patterns if all(c.where == 0 and c.what != "concept" for c in p.conditions))
        alike = near >= sum(p.covers for p in rule.patterns) / 2
        return Rubric("low-level" if alike else "high-level", grade, reason)


@dataclass(frozen=True)
class EmbeddingJudge:
    """Compares words: those of the explanation with those of the excerpts, or those of excerpts with each other."""

    embedding: Embedding
    name: str = "tf-idf"

    async def holds(self, explanation: Explanation, excerpts: Sequence[Excerpt]) -> list[float]:
        """Each excerpt's rank by its cosine to the explanation, from 0 to 1: half of them are called a yes."""
        cosines = self.embedding.of([e.text for e in excerpts]) @ self.embedding.of([explanation.text])[0]
        return _ranks(cosines)

    async def marked(self, explanation: Explanation, excerpts: Sequence[Excerpt], marks: Marks) -> list[float]:
        cosines = self.embedding.of_marked(excerpts, marks) @ self.embedding.of([explanation.text])[0]
        return _ranks(cosines)

    async def values(self, explanation: Explanation, excerpts: Sequence[Excerpt]) -> list[Values]:
        raise NotImplementedError

    async def odd(self, excerpts: Sequence[Excerpt], marks: Marks) -> int:
        """The one that shares the fewest words around its marked tokens with the others."""
        if len(excerpts) < 3:
            raise Failed(f"of {len(excerpts)} excerpts none is odd")
        vectors = self.embedding.of_marked(excerpts, marks)
        alike = vectors @ vectors.T
        return int((alike.sum(1) - alike.diagonal()).argmin())

    async def rubric(self, explanation: Explanation, excerpts: Sequence[Excerpt]) -> Rubric:
        raise NotImplementedError


@dataclass(frozen=True)
class Oracle:
    """Control: knows the activations. A scorer that gives it less than full marks is at fault, or the task is."""

    name: str = "oracle"

    async def holds(self, explanation: Explanation, excerpts: Sequence[Excerpt]) -> list[float]:
        return [float(excerpt.maximum > 0) for excerpt in excerpts]

    async def marked(self, explanation: Explanation, excerpts: Sequence[Excerpt], marks: Marks) -> list[float]:
        return [
            float((e.activations[list(places)] > 0).mean()) if len(places) else 0.0
            for e, places in zip(excerpts, marks, strict=True)
        ]

    async def values(self, explanation: Explanation, excerpts: Sequence[Excerpt]) -> list[Values]:
        most = max([excerpt.maximum for excerpt in excerpts], default=0.0) or 1.0
        return [10 * excerpt.activations / np.float32(most) for excerpt in excerpts]

    async def odd(self, excerpts: Sequence[Excerpt], marks: Marks) -> int:
        return int(np.argmin([excerpt.maximum for excerpt in excerpts]))

    async def rubric(self, explanation: Explanation, excerpts: Sequence[Excerpt]) -> Rubric:
        raise NotImplementedError


def _rule(explanation: Explanation) -> Rule:
    if explanation.rule is None:
        raise NotImplementedError
    return explanation.rule


def _ranks(cosines: Values) -> list[float]:
    """The share of the others that are smaller, equal ones counted half."""
    others = max(1, len(cosines) - 1)
    smaller = (cosines[:, None] > cosines).sum(1) + 0.5 * ((cosines[:, None] == cosines).sum(1) - 1)
    return (smaller / others).tolist()  # type: ignore[no-any-return]
