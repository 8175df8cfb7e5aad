"""A new watch: from labelled texts, and a feature or several, or none, to a threshold and how often it is wrong."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from torch import Tensor

from kanary.errors import KanaryError
from kanary.interventions.edits import Edit
from kanary.interventions.generation import Batch, Request
from kanary.interventions.prompts import prompt_ids
from kanary.interventions.steer import Steering
from kanary.interventions.steerable import Steerable
from kanary.interventions.threshold import Scored, at_most, choose, codes_on, measure, split
from kanary.interventions.watch import Action, Watch
from kanary.interventions.writing import watched, write
from kanary.lm import LanguageModel
from kanary.sae import SAE

STEPS = 48
"""Tokens over which the latency is the median."""


@dataclass(frozen=True)
class Examples:
    """Labelled texts: a watch is to go off in the positive ones and be silent in the negative ones."""

    positive: Sequence[str]
    negative: Sequence[str]


def make_watch(
    panel: Steerable,
    sae: str,
    name: str,
    weights: Mapping[int, float] | None,
    examples: Examples,
    *,
    false_alarms: float = 0.01,
    on_alarm: Action = "log",
    steer: Sequence[Edit] = (),
    webhook: str | None = None,
    seed: int = 0,
    quiet: bool = False,
) -> Watch:
    """A watch whose threshold is chosen on half of the examples and measured on the other half.

    Args:
        sae: which of the panel's SAEs.
        weights: latent -> weight; None takes the one feature that prompt search finds best on the half to choose on.
        false_alarms: the share of negative texts that may raise an alarm.
        steer: what to do from an alarm on, where ``on_alarm`` is ``steer``.
        seed: of the halves.

    Raises:
        KanaryError: too few examples of either kind, no such feature, or something that :class:`Watch` refuses.
    """
    if not 0 <= false_alarms < 1:
        raise KanaryError(f"false_alarms={false_alarms} is a share of texts: at least 0 and below 1.")
    chosen, held = _halves(examples, seed)
    lm, which = panel.lm, panel.saes[sae]
    sought = weights is None
    if weights is None:
        weights = {best_feature(lm, which, chosen.positive, chosen.negative, quiet=quiet): 1.0}
    pairs = tuple((panel.latent(sae, latent), float(weight)) for latent, weight in weights.items())
    action: dict[str, Any] = {"on_alarm": on_alarm, "steer": tuple(steer), "webhook": webhook}
    draft = Watch(name, sae, which.digest(), pairs, 0.0, false_alarms, **action)
    Steering(panel, list(draft.edits(sae)))  # refuses what cannot be done now, not at the first alarm

    def scored(half: Examples) -> Scored:
        return Scored(*(values(lm, which, draft, texts, quiet=quiet) for texts in (half.positive, half.negative)))

    choosing = scored(chosen)
    threshold, sure = choose(choosing, false_alarms)
    measured = measure(scored(held), threshold, seed)
    if sought:  # it was sought where it is quiet on the texts that choose, so that these say too little of others
        sure = at_most(round(measured.false_alarms.value * measured.negatives), measured.negatives)
    return replace(
        draft,
        threshold=threshold,
        at_most=sure,
        chosen=measure(choosing, threshold, seed),
        measured=measured,
        latency_ms=latency(panel, draft, held.positive[0]),
    )


def _halves(examples: Examples, seed: int) -> tuple[Examples, Examples]:
    """To choose on, and to measure on."""
    positive = split(examples.positive, "positive", seed)
    negative = split(examples.negative, "negative", seed)
    if both := set(examples.positive) & set(examples.negative):
        raise KanaryError(f"{min(both)[:60]!r} is a positive and a negative text.")
    return Examples(positive[0], negative[0]), Examples(positive[1], negative[1])


def values(lm: LanguageModel, sae: SAE, watch: Watch, texts: Sequence[str], *, quiet: bool = True) -> list[Tensor]:
    """The watch's value on every token that counts, a ``[tokens]`` float64 tensor per text."""
    weights = torch.tensor([weight for _, weight in watch.weights], dtype=torch.float64)
    return [codes @ weights for codes in codes_on(lm, sae, watch.latents, texts, quiet=quiet)]


def best_feature(
    lm: LanguageModel, sae: SAE, positive: Sequence[str], negative: Sequence[str], *, quiet: bool = True
) -> int:
    """The feature that prompt search finds to stand out most in the positive texts, by all of them.

    Raises:
        KanaryError: none does, or there are too few texts to choose by.
    """
    from kanary.interventions.prompt_search import FEWEST, most_positive

    if (fewest := min(len(positive), len(negative))) < FEWEST // 2:
        raise KanaryError(
            f"{fewest} texts of one kind are too few to choose a feature by: name one with --feature, or give at least "
            f"{FEWEST} of each kind, of which half choose."
        )
    if (found := most_positive(lm, sae, positive, negative, quiet=quiet)) is None:
        raise KanaryError("No feature stands out in the positive texts: name one with --feature, or give more texts.")
    return found


def latency(panel: Steerable, watch: Watch, prompt: str) -> float:
    """Milliseconds from when a token is drawn until its value is known: the median over one stream."""
    batch = Batch(panel)
    ids = tuple(prompt_ids(panel.lm, prompt).tolist())[: max(2, panel.lm.context - STEPS)]
    request = Request(ids, tokens=STEPS, ends=False, watched=watched([watch]))
    times: list[float] = []
    for piece in write(batch, request, [watch]):
        if piece.written:
            times.append(time.perf_counter())
    return 1000 * median(b - a for a, b in pairwise(times)) if len(times) > 2 else 0.0
