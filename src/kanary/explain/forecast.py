"""What a job will cost, before its first call: a few features and their controls are rehearsed, and scaled up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from kanary.explain.allowance import Need
from kanary.explain.backing import Parts
from kanary.explain.controls import Controls, Judging, shuffled
from kanary.explain.evidence import gather
from kanary.explain.llm import LLMExplainer
from kanary.explain.llm_judge import LLMJudge
from kanary.explain.rehearsal import Estimate, Rehearsal
from kanary.explain.spending import Price
from kanary.explain.types import Explainer, Explanation, Failed, Judge

_REHEARSED = 5
"""Features; each is drawn and its prompts are written, which takes a moment."""
_WITH_CONTROLS = 2
"""Of these; as few as can be shuffled."""


@dataclass(frozen=True)
class Forecast:
    """Of the questions to one back end."""

    backend: str
    features: Estimate
    """Of all features, without controls."""
    controls: Estimate
    feature: Need
    """Of one feature."""
    controlled: Need
    """Of the controls of one feature."""

    def told(self, features: int, controlled: int, budget: float | None = None) -> str:
        """For people, in a few lines."""
        whole = self.features + self.controls
        lines = [f"{features:,} features by {self.backend}: {self.features}."]
        if self.controls.calls:
            lines.append(f"Controls for {controlled:,} of them: {self.controls}. Together {whole}.")
        if budget is not None and whole.usd is not None and whole.usd > budget:
            lines.append(
                f"The budget of ${budget:g} is less: as far as it goes, features are finished one by one, then controls."
            )
        return "\n".join(lines)


async def forecast(
    parts: Parts, controls: Controls, latents: Sequence[int], controlled: Sequence[int], price: Price | None
) -> list[Forecast]:
    """For every back end that is asked; none where nothing can be rehearsed.

    Args:
        controls: the job's own.
        controlled: the features that controls are computed for.
    """
    spread = latents[:: max(1, len(latents) // _REHEARSED)]
    few = list(dict.fromkeys([*controlled[:_WITH_CONTROLS], *spread]))[:_REHEARSED]
    stage = _Stage(parts)
    explained: dict[int, Explanation] = {}
    for latent in few:
        evidence = gather(controls.pool, latent, seed=controls.seed)
        try:
            explained[latent] = await stage.explainer.explain(evidence)
        except Failed:
            continue
        await stage.judging.scores(explained[latent], evidence)
    if not explained:
        return []
    behind = _Stage(parts)
    pairs = {latent: explained[latent] for latent in controlled[:_WITH_CONTROLS] if latent in explained}
    own = replace(controls, explainer=behind.explainer, judging=behind.judging)
    others = shuffled(list(pairs), controls.seed)
    for latent, explanation in pairs.items():
        async for _ in own.of(latent, explanation, explained[others[latent]] if others else None):
            pass
    return [
        Forecast(
            name,
            stage.cast[name].estimate(len(explained), len(latents), price),
            behind.cast[name].estimate(len(pairs), len(controlled), price),
            stage.cast[name].need(len(explained), price),
            behind.cast[name].need(len(pairs), price),
        )
        for name in stage.cast
    ]


class _Stage:
    """The job's explainer and judges, asking somebody who counts and answers nothing."""

    def __init__(self, parts: Parts) -> None:
        self.cast: Mapping[str, Rehearsal] = {backend.name: Rehearsal() for backend in parts.backends}
        self.explainer: Explainer = self._played(parts.explainer)
        self.judging = Judging([(scorer, self._played_judge(judge)) for scorer, judge in parts.judging.scorers])

    def _played(self, explainer: Explainer) -> Explainer:
        if isinstance(explainer, LLMExplainer):
            return replace(explainer, backend=self.cast[explainer.name])
        return explainer

    def _played_judge(self, judge: Judge) -> Judge:
        return replace(judge, backend=self.cast[judge.name]) if isinstance(judge, LLMJudge) else judge
