"""Is it the feature? The same sweep with a random feature, a random direction, and a difference of means."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kanary.errors import KanaryError
from kanary.evaluation.result import Metric
from kanary.interventions.ablation import as_frequent
from kanary.interventions.edits import Edit, Vector, add
from kanary.interventions.effects import mean_difference
from kanary.interventions.presence import ByFeature, Presence
from kanary.interventions.steerable import Steerable
from kanary.interventions.strength import Point, Sweep, sweep


@dataclass(frozen=True)
class Comparison:
    """Sweeps of a feature and of what it must beat, all judged by the same measure, over pushes of the same length."""

    sweeps: Mapping[str, Sweep]
    """Name -> sweep; the feature first."""

    def says(self) -> list[str]:
        """A line each, at the strength that is best by the harmonic mean of the presence gained and of fluency."""
        return [f"{name}: {_said(each)}" for name, each in self.sweeps.items()]

    def to_json(self) -> dict[str, Any]:
        return {name: each.to_json() for name, each in self.sweeps.items()}


def _said(swept: Sweep) -> str:
    zero = next(point for point in swept.points if point.strength == 0).presence.value

    def worth(point: Point) -> float:
        """One scale for all sweeps; a sweep's own score is a share of its own largest gain."""
        gain, fluency = point.presence.value - zero, point.fluency.value
        return 2 * gain * fluency / (gain + fluency) if gain > 0 and fluency > 0 else 0.0

    best = max(swept.points, key=worth)
    if not worth(best):
        return f"presence does not rise above the {zero:.2f} of strength 0 at any strength (n {best.presence.n})"
    return (
        f"presence {zero:.2f} → {_number(best.presence)} at fluency {_number(best.fluency)}, strength {best.strength:g} "
        f"(n {best.presence.n})"
    )


def _number(metric: Metric) -> str:
    """With its interval, where it has one."""
    interval = f" ({metric.low:.2f}–{metric.high:.2f})" if math.isfinite(metric.low) else ""
    return f"{metric.value:.2f}{interval}"


def compare(
    panel: Steerable,
    feature: int,
    prompts: Sequence[str],
    *,
    sae: str | None = None,
    positive: Sequence[str] = (),
    negative: Sequence[str] = (),
    presence: Presence | None = None,
    seed: int = 0,
    **options: Any,
) -> Comparison:
    """Sweeps the feature, a random feature that fires as often, a random direction and, from ``positive`` and ``negative``
    prompts, their difference of means.

    A vector is as long as what one maximum of the feature adds, so that strengths can be compared.

    Args:
        presence: the measure for all of them; by default whether ``feature`` fires on the text, which favours it: better a
            concept or a judge.
        options: as of :func:`kanary.interventions.strength.sweep`.

    Raises:
        KanaryError: only one of the two lists of prompts, or no other feature fires.
    """
    if bool(positive) != bool(negative):
        raise KanaryError("A difference of means needs both positive and negative prompts.")
    name = panel.name(sae)
    latent, site = panel.latent(name, feature), panel.sites[name]
    measure = presence or ByFeature(panel, latent, name)
    draw = torch.Generator().manual_seed(seed)
    length = float(_at_maximum(panel, name, latent).norm())
    if not (others := as_frequent(panel, name, latent, 1, draw)):
        raise KanaryError(f"No feature of SAE {name} but {latent} ever fires: there is none to compare it with.")
    (other,) = others
    vectors = {
        f"random feature {other}": _at_maximum(panel, name, other),
        "random direction": torch.randn(panel.lm.width(site), generator=draw),
    }
    ways: dict[str, Edit] = {f"feature {latent}": add(latent, 1.0, sae=name)}
    ways |= {way: add(Vector(site, v / v.norm() * length, way), 1.0) for way, v in vectors.items()}
    if positive:
        ways["mean difference"] = add(mean_difference(panel.lm, site, positive, negative, length=length), 1.0)
    return Comparison({way: sweep(panel, edit, prompts, presence=measure, **options) for way, edit in ways.items()})


def _at_maximum(panel: Steerable, sae: str, latent: int) -> Tensor:
    """``[d_model]`` raw: what the latent adds at its maximum."""
    like = panel.saes[sae].mean
    at = torch.tensor([panel.ranges(sae).unit(latent, "maximum")]).to(like)
    with torch.no_grad():
        return panel.saes[sae].contribution(torch.tensor([latent], device=like.device), at)[0]
