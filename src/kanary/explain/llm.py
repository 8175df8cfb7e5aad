"""An explainer that shows a language model examples and asks what they share."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from kanary.explain import prompts
from kanary.explain.asking import Answer, Backend, ask
from kanary.explain.schema import Unusable
from kanary.explain.types import Evidence, Excerpt, Explanation, Failed

TITLE_WORDS = 3


@dataclass(frozen=True)
class LLMExplainer:
    """Five fields from examples of the training half: the strongest, and others evenly spaced over their strengths."""

    backend: Backend
    top: int = 10
    """Strongest excerpts shown."""
    spaced: int = 10
    """Others."""

    @property
    def name(self) -> str:
        return self.backend.name

    async def explain(self, evidence: Evidence) -> Explanation:
        """One question. A title that stays too long after a complaint is left out; the rest counts.

        Raises:
            Failed: the latent fires in no excerpt, or no answer was usable.
        """
        examples = self.examples(evidence)
        if not examples:
            raise Failed(f"feature {evidence.latent} has no example to explain it by")
        too_long: list[Explanation] = []

        def read(found: dict[str, Any], answer: Answer) -> Explanation:
            fields = {name: " ".join(str(found[name]).split()) for name in prompts.FIELDS}
            said = Explanation(
                evidence.latent, fields["summary"], fields["title"].strip(" .\"'"), self.name, fields=fields
            )
            if len(fields["title"].split()) > TITLE_WORDS:
                too_long.append(replace(said, title=None))
                raise Unusable(f"the title {fields['title'][:40]!r} has more than {TITLE_WORDS} words")
            return said

        try:
            return await ask(self.backend, prompts.explanation(evidence, examples), read)
        except Failed:
            if too_long:
                return too_long[-1]
            raise

    def examples(self, evidence: Evidence) -> Sequence[Excerpt]:
        """Those shown, strongest first."""
        by_strength = sorted(evidence.train.spread, key=lambda excerpt: -excerpt.maximum)
        n = min(self.spaced, len(by_strength))
        spaced = [by_strength[i * len(by_strength) // n] for i in range(n)]
        return sorted([*evidence.train.top[: self.top], *spaced], key=lambda excerpt: -excerpt.maximum)
