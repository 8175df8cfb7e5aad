"""What breaks when a feature is removed: its ablation on many texts, beside that of a random feature as frequent as it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kanary.errors import KanaryError
from kanary.evaluation.result import Metric
from kanary.evaluation.sums import estimate
from kanary.interventions.edits import Replacement, ablate
from kanary.interventions.effects import next_losses
from kanary.interventions.prompts import prompt_ids, special_at, token_texts
from kanary.interventions.steer import Steering
from kanary.interventions.steerable import Steerable
from kanary.progress import bar

PROMPTS = 100
"""Fewer say little: a study of fewer is refused."""
ROWS = 16
WORST = 10
"""Tokens that are shown of those predicted worse."""
RESAMPLES = 1000


@dataclass(frozen=True)
class Ablated:
    """One feature, removed. Losses in nats per token; intervals are 95 %, by bootstrap over prompts."""

    feature: int
    role: str
    """``feature``, or ``random``: another one that fires about as often."""
    fires: Metric
    """Share of the tokens on which it fires."""
    change: Metric
    """Loss added, over all tokens."""
    at: Metric
    """Loss added to the prediction that is made at a token on which it fires."""
    elsewhere: Metric
    """Loss added at all other tokens."""
    worst: tuple[tuple[str, float, int], ...]
    """Next tokens that lose most in total: the token, nats added on average where it follows, and how often it does."""

    def to_json(self) -> dict[str, Any]:
        numbers = {name: getattr(self, name)._asdict() for name in ("fires", "change", "at", "elsewhere")}
        return {"feature": self.feature, "role": self.role, **numbers, "worst": [list(each) for each in self.worst]}


@torch.no_grad()
def ablation_study(
    panel: Steerable,
    features: Sequence[int],
    prompts: Sequence[str],
    *,
    sae: str | None = None,
    to: Replacement = "zero",
    controls: int = 1,
    seed: int = 0,
    quiet: bool = False,
) -> list[Ablated]:
    """Removes each feature, and beside each ``controls`` random ones, on all the prompts.

    Args:
        prompts: at least :data:`PROMPTS`.
        controls: random features per feature, drawn from the twenty whose density on the index is nearest to its own.

    Raises:
        KanaryError: too few prompts, no such feature.
    """
    if len(prompts) < PROMPTS:
        raise KanaryError(f"{len(prompts)} prompts are too few to say what a feature is for: give {PROMPTS} or more.")
    name = panel.name(sae)
    chosen = [(panel.latent(name, feature), "feature") for feature in features]
    draw = torch.Generator().manual_seed(seed)
    for feature, _ in tuple(chosen):
        chosen += [(each, "random") for each in as_frequent(panel, name, feature, controls, draw)]
    batches = _batches(panel, prompts)
    with bar("ablating", (1 + len(chosen)) * len(prompts), "prompts", quiet) as show:
        clean = _losses(panel, batches, show)
        return [_study(panel, name, each, role, to, batches, clean, show) for each, role in chosen]


def as_frequent(panel: Steerable, sae: str, feature: int, count: int, draw: torch.Generator) -> list[int]:
    """Random ones of the twenty other features that fire most nearly as often; fewer where fewer fire at all."""
    density = panel.ranges(sae).density
    others = (density > 0).nonzero()[:, 0]
    others = others[others != feature]
    gap = (density[others].log() - density[feature].clamp_min(1e-9).log()).abs()
    near = others[gap.argsort(stable=True)[:20]]
    return [int(near[i]) for i in torch.randperm(len(near), generator=draw)[:count]]


def _batches(panel: Steerable, prompts: Sequence[str]) -> list[tuple[Tensor, Tensor]]:
    """(ids ``[rows, position]`` padded on the right, bool where a next token is counted ``[rows, position - 1]``)."""
    ids = [prompt_ids(panel.lm, prompt) for prompt in prompts]
    found = []
    for start in range(0, len(ids), ROWS):
        some = ids[start : start + ROWS]
        tokens = torch.zeros(len(some), max(map(len, some)), dtype=torch.int64)
        real = torch.zeros_like(tokens, dtype=torch.bool)
        for row, mask, each in zip(tokens, real, some, strict=True):
            row[: len(each)], mask[: len(each)] = each, True
        found.append((tokens, real[:, 1:] & ~special_at(panel.lm, tokens)[:, :-1]))
    return found


def _losses(panel: Steerable, batches: Sequence[tuple[Tensor, Tensor]], show: Callable[[int], None]) -> list[Tensor]:
    """``[rows, position - 1]`` float64 of each batch."""
    found = []
    for tokens, _ in batches:
        found.append(next_losses(panel.lm.logits(tokens), tokens.to(panel.lm.device)).double().cpu())
        show(len(tokens))
    return found


def _study(
    panel: Steerable,
    sae: str,
    feature: int,
    role: str,
    to: Replacement,
    batches: Sequence[tuple[Tensor, Tensor]],
    clean: Sequence[Tensor],
    show: Callable[[int], None],
) -> Ablated:
    rows: list[Tensor] = []
    per_token = torch.zeros(2, panel.lm.vocab_size, dtype=torch.float64)
    steering = Steering(panel, ablate(feature, to, sae=sae), observe={sae: [feature]})
    for (tokens, counted), before in zip(batches, clean, strict=True):
        with steering:
            after = next_losses(panel.lm.logits(tokens), tokens.to(panel.lm.device)).double().cpu()
        fires = steering.observed[sae][:, :-1, 0].cpu() > 0
        added = torch.where(counted, after - before, 0.0)
        at = counted & fires
        rows.append(torch.stack([counted.sum(1), at.sum(1), added.sum(1), torch.where(at, added, 0.0).sum(1)], 1))
        per_token[0].index_add_(0, tokens[:, 1:][counted], added[counted])
        per_token[1].index_add_(0, tokens[:, 1:][counted], torch.ones(int(counted.sum()), dtype=torch.float64))
        show(len(tokens))
    n, at_n, total, at_total = _resampled(torch.cat(rows).double()).unbind(1)  # [1 + resamples] each
    worst = per_token[0].topk(WORST)
    names = token_texts(panel.lm, worst.indices.tolist())
    return Ablated(
        feature,
        role,
        estimate(at_n / n, int(n[0])),
        estimate(total / n, int(n[0])),
        estimate(at_total / at_n, int(at_n[0])),
        estimate((total - at_total) / (n - at_n), int((n - at_n)[0])),
        tuple(
            (token, float(per_token[0, i] / per_token[1, i]), int(per_token[1, i]))
            for token, i in zip(names, worst.indices.tolist(), strict=True)
            if per_token[0, i] > 0
        ),
    )


def _resampled(sums: Tensor) -> Tensor:
    """``sums [prompts, 4]`` over all prompts, then over resamples of them: ``[1 + resamples, 4]``."""
    draw = torch.Generator().manual_seed(0)
    draws = torch.randint(len(sums), (RESAMPLES, len(sums)), generator=draw)
    return torch.cat([sums.sum(0)[None], sums[draws].sum(1)])
