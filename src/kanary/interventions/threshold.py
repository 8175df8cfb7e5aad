"""Where the threshold of a watch lies, chosen on labelled texts, and how the watch does on others."""

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from kanary.activations.pool import generator
from kanary.errors import KanaryError
from kanary.evaluation.concepts.best import auroc
from kanary.interventions.prompts import prompt_ids, special_at
from kanary.interventions.watch import Measured, Rate
from kanary.lm import LanguageModel
from kanary.progress import bar
from kanary.sae import SAE

FEWEST = 4
"""Texts of either label: two to choose the threshold on, two to measure it on."""
CONFIDENCE = 0.95
RESAMPLES = 1000
BATCH = 16


class Scored(NamedTuple):
    """The values of labelled texts, token by token, special ones left out."""

    positive: list[Tensor]
    """One ``[tokens]`` float64 per text."""
    negative: list[Tensor]


@torch.no_grad()
def codes_on(
    lm: LanguageModel, sae: SAE, latents: Sequence[int], texts: Sequence[str], *, quiet: bool = True
) -> list[Tensor]:
    """The codes ``[tokens, latents]`` float64 on every text, BOS and other special tokens left out.

    Raises:
        KanaryError: a text that is empty, or longer than the model reads.
    """
    site = str(sae.config.trained_on["site"])
    found = []
    with bar("reading labelled texts", len(texts), "texts", quiet) as show:
        for start in range(0, len(texts), BATCH):
            ids = [prompt_ids(lm, text) for text in texts[start : start + BATCH]]
            tokens = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
            seen = torch.nn.utils.rnn.pad_sequence([torch.ones_like(each) for each in ids], batch_first=True)
            x = lm.capture(tokens, [site], attention_mask=seen)[site]
            counts = seen.bool() & ~special_at(lm, tokens)
            codes = sae.encode(x[counts.to(x.device)])
            columns = torch.stack([codes.latent(latent) for latent in latents], 1).double().cpu()
            found += columns.split(counts.sum(1).tolist())
            show(len(ids))
    return found


def split(examples: Sequence[str], label: str, seed: int) -> tuple[list[str], list[str]]:
    """Two halves in random order: to choose on, and to measure on.

    Raises:
        KanaryError: too few, or a text that is there twice.
    """
    if len(examples) < FEWEST:
        what = "none" if not examples else f"{len(examples)}"
        raise KanaryError(
            f"A watch needs at least {FEWEST} {label} texts, got {what}: half of them choose the threshold, the others say how "
            "often it is wrong."
        )
    if len(set(examples)) < len(examples):
        twice = next(text for text in examples if examples.count(text) > 1)
        raise KanaryError(f"The {label} text {twice[:60]!r} is there twice: it would be chosen on and measured on.")
    order = torch.randperm(len(examples), generator=generator(f"watch {label}", seed)).tolist()
    shuffled = [examples[i] for i in order]
    return shuffled[::2], shuffled[1::2]


class Cut(NamedTuple):
    """Where the threshold lies."""

    threshold: float
    at_most: float
    """The rate of false alarms is not above this, with a confidence of 95 %."""


def choose(scored: Scored, false_alarms: float) -> Cut:
    """The smallest threshold that keeps the rate of false alarms to ``false_alarms`` with a confidence of 95 %.

    That holds for texts that are drawn like the negative ones, whatever their scores look like (order statistics: Wilks
    1941). Where the negative texts are too few to be sure of that, it lies above all of them, and ``at_most`` is larger.
    It lies half-way between the highest negative text that must be silent and the next text above it.
    """
    negative = sorted((_score(values) for values in scored.negative), reverse=True)
    loud = allowed(len(negative), false_alarms)
    silent = negative[min(loud, len(negative) - 1)]
    above = [score for score in (*map(_score, scored.positive), *negative) if score > silent]
    return Cut((silent + min(above)) / 2 if above else math.nextafter(silent, math.inf), at_most(loud, len(negative)))


@cache
def allowed(n: int, rate: float) -> int:
    """How many of ``n`` negative texts may raise an alarm for the rate to be below ``rate`` with a confidence of 95 %.

    0 where it cannot be known from so few.
    """
    return max(0, next((k for k in range(n) if _no_more_than(k, n, rate) > 1 - CONFIDENCE), n) - 1)


@cache
def at_most(hits: int, n: int) -> float:
    """The rate below which the true one lies with a confidence of 95 %, given ``hits`` of ``n`` (Clopper, Pearson 1934)."""
    low, high = hits / n, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _no_more_than(hits, n, middle) > 1 - CONFIDENCE else (low, middle)
    return high


def enough(rate: float) -> int | None:
    """Negative texts from which on a rate can be kept to with a confidence of 95 %; None: no number of them is enough."""
    return math.ceil(math.log(1 - CONFIDENCE) / math.log1p(-rate)) if rate > 0 else None


def _no_more_than(hits: int, n: int, rate: float) -> float:
    """The probability of at most ``hits`` of ``n`` at this rate."""
    if not 0 < rate < 1:
        return float(rate <= 0 or hits >= n)
    whole, yes, no = math.lgamma(n + 1), math.log(rate), math.log1p(-rate)
    return sum(
        math.exp(whole - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * yes + (n - k) * no) for k in range(hits + 1)
    )


def measure(scored: Scored, threshold: float, seed: int = 0) -> Measured:
    """What :class:`Measured` holds, on these texts."""
    positive = torch.tensor([_score(values) for values in scored.positive], dtype=torch.float64)
    negative = torch.tensor([_score(values) for values in scored.negative], dtype=torch.float64)
    tokens = torch.cat(scored.negative)
    return Measured(
        len(positive),
        len(negative),
        _auroc(positive, negative, seed),
        wilson(int((positive >= threshold).sum()), len(positive)),
        wilson(int((negative >= threshold).sum()), len(negative)),
        float((tokens >= threshold).double().mean()),
    )


def wilson(hits: int, n: int) -> Rate:
    """``hits`` of ``n`` as a rate with its 95 % interval."""
    z = 1.959963984540054
    share, spread = hits / n, z * z / n
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    return Rate(share, 0.0 if hits == 0 else middle - half, 1.0 if hits == n else middle + half, n)


def _score(values: Tensor) -> float:
    return float(values.max())


def _auroc(positive: Tensor, negative: Tensor, seed: int) -> Rate:
    draws = generator("bootstrap of a watch", seed)
    # [positive, negative]: which of the two is above, ties half; a resample counts each pair as often as both were drawn
    above = torch.sign(positive[:, None] - negative).add_(1).div_(2)
    times = [_times(len(texts), draws) for texts in (positive, negative)]
    found = ((times[0] @ above) * times[1]).sum(1) / above.numel()
    low, high = found.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Rate(auroc(positive, negative), low, high, len(positive) + len(negative))


def _times(n: int, draws: torch.Generator) -> Tensor:
    """``[RESAMPLES, n]`` float64: how often each of ``n`` is drawn."""
    drawn = torch.randint(n, (RESAMPLES, n), generator=draws)
    return torch.zeros(RESAMPLES, n, dtype=torch.float64).scatter_add_(
        1, drawn, torch.ones_like(drawn, dtype=torch.float64)
    )
