"""How strong is strong enough: the concept's presence against the text's fluency over a range of strengths."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kanary.errors import KanaryError
from kanary.evaluation.result import Metric
from kanary.evaluation.sums import FEWEST, estimate
from kanary.interventions.edits import Edit, Edits, Vector, as_edits
from kanary.interventions.presence import ByFeature, Presence, measured
from kanary.interventions.samples import Sample, refuse_empty, repetition, requests, reread, write
from kanary.interventions.steerable import Steerable
from kanary.progress import bar

STRENGTHS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
"""Tried first; then twice as much while the strongest is best, and the middles to both sides of the best."""
MOST = 64.0
RESAMPLES = 1000
SEEDS = (0, 1, 2, 3, 4)
"""Of the texts of each prompt, by default: as many as an interval takes."""


@dataclass(frozen=True)
class Point:
    """What one strength does; intervals are 95 %, by bootstrap over pairs of prompt and seed, NaN where these are under 5."""

    strength: float
    presence: Metric
    loss: Metric
    """Nats per written token under the unsteered model: the logarithm of the perplexity."""
    repetition: Metric
    """Share of the runs of four tokens that stood in the text before."""
    fluency: Metric
    """1 = as at strength 0: the perplexity there divided by the one here (at most 1), times 1 less the repetition added; 0
    where no text has a token."""
    score: Metric
    """Harmonic mean of fluency and of the presence gained, as a share of the largest gain that any strength brings."""

    @property
    def perplexity(self) -> float:
        """Under the unsteered model."""
        return math.exp(self.loss.value)


@dataclass(frozen=True)
class Sweep:
    """A range of strengths, weakest first; among them 0."""

    target: str
    unit: str
    measure: str
    """What presence is."""
    points: tuple[Point, ...]
    best: float | None
    """The strength with the best score; None where none brings the concept out."""
    between: tuple[float, float] | None
    """The best strengths of 95 % of the resamples lie here. None of fewer than 5 texts: they cannot tell."""
    texts: tuple[tuple[Sample, ...], ...]
    """By strength, what was written."""

    def says(self) -> str:
        """The recommendation, in a sentence."""
        n = self.points[0].presence.n
        if self.best is None:
            return (
                f"No strength of {self.target} raises its presence beyond chance while the text stays fluent ({n} texts): "
                "nothing is recommended."
            )
        point = next(point for point in self.points if point.strength == self.best)
        zero = next(point for point in self.points if point.strength == 0)
        texts = "1 text" if n == 1 else f"{n} texts"
        did = (
            f"Presence {zero.presence.value:.2f} → {point.presence.value:.2f}, perplexity {zero.perplexity:.1f} → "
            f"{point.perplexity:.1f}, repetition {zero.repetition.value:.2f} → {point.repetition.value:.2f}; {texts}."
        )
        if self.between is None:
            return (
                f"{self.target}: {self.best:+g} {self.unit} scores best, but {texts} cannot tell it from chance: give more "
                f"prompts or seeds, {FEWEST} texts in all at least. {did}"
            )
        low, high = self.between
        return f"{self.target}: use {self.best:+g} {self.unit} (95 % of resamples: {low:g} to {high:g}). {did}"

    def svg(self) -> str:
        """Presence, fluency and score over strength, with the recommended one in the title."""
        from kanary.svg import Axis, Series, lines

        xs = [point.strength for point in self.points]
        series = []
        for name in ("presence", "fluency", "score"):
            column = [getattr(point, name) for point in self.points]
            lows, highs = [m.low for m in column], [m.high for m in column]
            series.append(Series(name, xs, [m.value for m in column], lows, highs, dashed=name == "score"))
        title = f"{self.target}: " + (
            "no strength recommended" if self.best is None else f"best {self.best:+g} {self.unit}"
        )
        return lines(series, Axis(f"strength ({self.unit})"), Axis("share", low=0, high=1), title)

    def to_json(self) -> dict[str, Any]:
        """Plain values; a number as ``{"value", "low", "high", "n"}``."""
        names = ("presence", "loss", "repetition", "fluency", "score")
        return {
            "target": self.target,
            "unit": self.unit,
            "measure": self.measure,
            "best": self.best,
            "between": None if self.between is None else list(self.between),
            "says": self.says(),
            "points": [
                {"strength": point.strength} | {name: _plain(getattr(point, name)) for name in names}
                for point in self.points
            ],
        }


def sweep(
    panel: Steerable,
    edits: Edits,
    prompts: Sequence[str],
    *,
    presence: Presence | None = None,
    strengths: Sequence[float] | None = None,
    seeds: Sequence[int] = SEEDS,
    tokens: int = 40,
    temperature: float = 0.7,
    quiet: bool = False,
    tell: Callable[[int, int], None] | None = None,
) -> Sweep:
    """Writes texts at several strengths and recommends one.

    Args:
        edits: added or set features and vectors; the strength takes the place of the largest amount, and the others keep
            their proportion to it.
        presence: how much of the concept is in a text; by default whether the first feature fires on it.
        strengths: to try, all up or all down from 0; by default :data:`STRENGTHS` and what follows from them.
        seeds: a text is written for every prompt and seed, the same ones at every strength.
        tell: is called before and while texts are written at a strength, with how many there are and how many there will
            be, about; what it raises ends the sweep.

    Raises:
        KanaryError: no prompt, nothing whose strength could change, strengths of both signs.
    """
    refuse_empty(prompts)
    chosen = as_edits(edits)
    trial = _Trial(panel, chosen, presence or by_first(panel, chosen), prompts, seeds, tokens, temperature)
    planned = sorted({0.0, *(float(each) for each in strengths or STRENGTHS)})
    if planned[0] < 0 < planned[-1]:
        raise KanaryError("Strengths lie on both sides of 0: sweep up and down separately.")
    written, of = 0, trial.size * (len(planned) + (0 if strengths else 2))
    with bar("writing at each strength", of, "texts", quiet) as show:

        def told(n: int) -> None:
            nonlocal written, of
            written += n
            of = max(of, written if n else written + trial.size)
            show(n)
            if tell:
                tell(written, of)

        for strength in planned:
            trial.run(strength, told)
        if strengths is None:
            trial.refine(told)
    return trial.scored()


def by_first(panel: Steerable, edits: Sequence[Edit]) -> ByFeature:
    """Presence by the first feature among ``edits``."""
    for edit in edits:
        if not isinstance(edit.feature, Vector):
            return ByFeature(panel, panel.latent(edit.sae, edit.feature), panel.name(edit.sae))
    raise KanaryError("A vector alone has no feature to tell its presence by: give presence=.")


def scaled(edits: Sequence[Edit], strength: float) -> tuple[Edit, ...]:
    """The edits with ``strength`` as their largest amount."""
    moved = [edit for edit in edits if edit.kind in ("add", "set")]
    most = max((abs(edit.amount) for edit in moved), default=0.0)
    if not moved:
        raise KanaryError("Only features that are added or set have a strength to sweep.")
    return tuple(
        replace(edit, amount=strength * (edit.amount / most if most else 1.0)) if edit in moved else edit
        for edit in edits
    )


class _Trial:
    """Texts at the strengths tried so far, with what was measured of each."""

    def __init__(
        self,
        panel: Steerable,
        edits: Sequence[Edit],
        presence: Presence,
        prompts: Sequence[str],
        seeds: Sequence[int],
        tokens: int,
        temperature: float,
    ) -> None:
        self.panel, self.edits, self.presence = panel, edits, presence
        self.prompts, self.seeds, self.tokens, self.temperature = prompts, seeds, tokens, temperature
        self.texts: dict[float, list[Sample]] = {}
        self.numbers: dict[float, Tensor] = {}
        scaled(edits, 1.0)

    @property
    def size(self) -> int:
        return len(self.prompts) * len(self.seeds)

    def run(self, strength: float, show: Callable[[int], None]) -> None:
        show(0)
        edits = scaled(self.edits, strength) if strength else ()
        lm, options = self.panel.lm, {"tokens": self.tokens, "temperature": self.temperature}
        texts = write(self.panel, requests(lm, self.prompts, self.seeds, edits, **options), show=show)  # type: ignore[arg-type]
        read = reread(lm, texts, self.presence.sites)
        losses = torch.tensor([each.loss if len(each.losses) else math.nan for each in read], dtype=torch.float64)
        repeats = torch.tensor([repetition(each.written) for each in texts], dtype=torch.float64)
        self.texts[strength] = texts
        self.numbers[strength] = torch.stack([measured(self.presence, texts, read), losses, repeats])

    def refine(self, show: Callable[[int], None]) -> None:
        """Goes further up while that is better, then looks between the best and its neighbours."""
        while (strongest := max(self.numbers)) == self.scored().best and strongest < MOST:
            self.run(2 * strongest, show)
        known, best = sorted(self.numbers), self.scored().best
        if best is not None:
            i = known.index(best)
            for middle in [(best + known[j]) / 2 for j in (i - 1, i + 1) if 0 <= j < len(known)]:
                self.run(middle, show)

    def scored(self) -> Sweep:
        strengths = sorted(self.numbers)
        draw = torch.Generator().manual_seed(0)
        resamples = RESAMPLES if self.size >= FEWEST else 0
        draws = torch.randint(self.size, (resamples, self.size), generator=draw)
        draws = torch.cat([torch.arange(self.size)[None], draws])  # the texts themselves first
        means = torch.stack([self.numbers[s][:, draws].nanmean(2) for s in strengths])  # [strengths, 3, 1 + resamples]
        zero = strengths.index(0.0)
        presence, loss, repeats = means.unbind(1)
        up = strengths[-1] > 0
        gain = (presence - presence[zero]) * (1 if up else -1)
        fluency = (-(loss - loss[zero]).clamp_min(0)).exp() * (1 - (repeats - repeats[zero]).clamp_min(0))
        fluency = fluency.nan_to_num(0)  # of texts without a token, which have no loss
        share = (gain / gain.amax(0).clamp_min(1e-12)).clamp(0, 1)
        score = 2 * share * fluency / (share + fluency).clamp_min(1e-12)
        points = tuple(
            Point(
                strengths[i], *(estimate(column[i], self.size) for column in (presence, loss, repeats, fluency, score))
            )
            for i in range(len(strengths))
        )
        first = int(score[:, 0].argmax())
        bests = torch.tensor(strengths, dtype=torch.float64)[score.argmax(0)]
        between = (float(bests[1:].quantile(0.025)), float(bests[1:].quantile(0.975))) if resamples else None
        surely = gain[first, 1:].quantile(0.025) if resamples else gain[first, 0]
        found = float(surely) > 0 and float(score[first, 0]) > 0
        target = ", ".join(edit.target for edit in self.edits)
        unit = {"maximum": "maxima", "sigma": "sigmas", "raw": "raw"}[self.edits[0].unit]
        texts = tuple(tuple(self.texts[s]) for s in strengths)
        best = strengths[first] if found else None
        return Sweep(target, unit, self.presence.says, points, best, between, texts)


def _plain(metric: Metric) -> dict[str, Any]:
    return {name: value if math.isfinite(value) else None for name, value in metric._asdict().items()}
