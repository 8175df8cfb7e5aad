"""The little that self-checks look at: a few windows of text, the activations at the sites, what SAEs make of them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kanary.evaluation.inputs import Inputs
from kanary.evaluation.losses import read, window_losses
from kanary.lm import LanguageModel, Trace, trace
from kanary.sae import SAE, SparseCodes
from kanary.text import TokenBatch, Windows

SIGMAS = 4
"""Standard errors by which a number may be off."""
_FLOPS = {"cpu": 1e12, "cuda": 1e15}
"""What a forward may cost: about five seconds of a laptop."""
_TOKENS = 4096
_LOGITS = 2**26  # of one copy, which is kept: 256 MB
_EVERYWHERE = 512  # tokens whose activations at all sites are kept
_PROBE = (2, 32)  # windows and positions of the checks for exactness, which need no statistics


class Verdict(NamedTuple):
    """What a check found."""

    passed: bool | None
    """None: it could not be done."""
    says: str


def judged(passed: bool, says: str, otherwise: str) -> Verdict:
    """``says`` is a sentence without its end; what failed goes on with ``otherwise``."""
    return Verdict(passed, says + ("." if passed else otherwise))


class Moments(NamedTuple):
    """Of the activations at a site, over the tokens of the sample that are not special."""

    mean: Tensor
    """``[width]`` float64."""
    variance: float
    """Mean squared distance from the mean."""


class Ratio(NamedTuple):
    """A ratio of two sums over tokens, with its standard error."""

    value: float
    error: float

    def agrees(self, recorded: Mapping[str, Any], slack: float) -> bool:
        """Whether it is what was recorded, but for the intervals of both and ``slack``."""
        spread = 0.0 if recorded.get("low") is None else (recorded["high"] - recorded["low"]) / 3.92
        return abs(self.value - float(recorded["value"])) <= slack + SIGMAS * math.hypot(self.error, spread)


@dataclass(frozen=True)
class Sample:
    """Windows of the text, and the activations there."""

    inputs: Inputs
    batch: TokenBatch
    """The windows, on the CPU."""
    x: Mapping[str, Tensor]
    """Site -> ``[windows, position, width]``, raw."""
    everywhere: Mapping[str, Tensor]
    """Site -> ``[tokens, width]``, raw: every named site, over the first tokens that are not special."""
    moments: Mapping[str, Moments]
    """Of every named site, and those of the SAEs."""
    clean: Trace
    """The untouched model on the first of these windows; losses are measured on them."""
    zeroed: Mapping[str, Tensor]
    """Site -> summed loss of each window of ``clean`` with the site zeroed at every position, ``[windows]`` float64."""

    @property
    def lm(self) -> LanguageModel:
        return self.inputs.lm

    @property
    def same_text(self) -> bool:
        """Whether this is the held-out part of the text that the SAEs were trained on."""
        return self.inputs.part == "heldout"

    @property
    def known(self) -> Mapping[str, Any]:
        """What the first SAE remembers of its training; model, tokenizer and text are those of all."""
        return next(iter(self.inputs.saes.values())).config.trained_on

    @property
    def probe(self) -> Tensor:
        """``[2, 32]`` token ids, or fewer."""
        return self.batch.tokens[: _PROBE[0], : _PROBE[1]]

    @cached_property
    def special(self) -> Tensor:
        """``[windows, position]`` bool, on the model's device."""
        return self.batch.special.to(self.lm.device)

    @cached_property
    def clean_losses(self) -> Tensor:
        """Summed next-token loss of each window of ``clean``, ``[windows]`` float64, in nats."""
        return self.losses(self.clean.logits)

    @cached_property
    def loss(self) -> Ratio:
        """Of the untouched model, in nats per token."""
        found = ratio(self.clean_losses, (~self.special[: len(self.clean.tokens), :-1]).sum(1).double())
        windows = len(self.clean.tokens)  # few do not show how they differ
        return Ratio(found.value, math.inf if windows < 4 else (3 if windows < 8 else 1) * found.error)

    def losses(self, logits: Tensor) -> Tensor:
        """Summed loss of each window, ``[windows]`` float64, for new ``logits`` of the windows of ``clean``."""
        return _losses(self.clean, logits, self.batch)


def read_sample(inputs: Inputs) -> Sample:
    """Reads a few windows and runs the model on them; fewer where the model is large.

    Raises:
        KanaryError: text shorter than a window, or that does not belong to the tokenizer.
    """
    lm = inputs.lm
    sites = list(dict.fromkeys(str(sae.config.trained_on["site"]) for sae in inputs.saes.values()))
    rows = _windows(lm, inputs.window, 1024, _TOKENS)
    batch = next(Windows(inputs.text, lm, window=inputs.window, batch=rows, part=inputs.part))
    few = _windows(lm, inputs.window, 256, min(_TOKENS, max(256, _LOGITS // lm.vocab_size)))
    clean = trace(lm, batch.tokens[:few].to(lm.device), sites)
    zeroed = {s: _losses(clean, lm.logits(clean.tokens, replace={s: torch.zeros_like}), batch) for s in sites}
    return Sample(inputs, batch, *_activations(lm, batch, sites), clean, zeroed)


def _activations(
    lm: LanguageModel, batch: TokenBatch, sites: list[str]
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Moments]]:
    """``x``, ``everywhere`` and ``moments`` of a :class:`Sample`; a few windows at a time, because sites are many."""
    kept: dict[str, list[Tensor]] = {site: [] for site in sites}
    first: dict[str, Tensor] = {}
    total: dict[str, Tensor] = {}
    square: dict[str, float] = {}
    rows = max(1, _EVERYWHERE // batch.tokens.shape[1])
    for tokens, special in zip(batch.tokens.split(rows), batch.special.split(rows), strict=True):
        for site, x in lm.capture(tokens, list(dict.fromkeys([*lm.sites, *sites]))).items():
            if site in kept:
                kept[site].append(x)
            flat = x[~special.to(x.device)]
            first.setdefault(site, flat)
            total[site] = total.get(site, 0.0) + flat.double().sum(0)
            square[site] = square.get(site, 0.0) + float(flat.double().square().sum())
    n = max(1, batch.n_tokens)
    means = {site: summed / n for site, summed in total.items()}
    moments = {site: Moments(mean, square[site] / n - float(mean.square().sum())) for site, mean in means.items()}
    return {site: torch.cat(parts) for site, parts in kept.items()}, first, moments


def _losses(clean: Trace, logits: Tensor, batch: TokenBatch) -> Tensor:
    return window_losses(read(clean.logits), logits, clean.tokens, batch.special[: len(logits)].to(logits.device)).ce


def _windows(lm: LanguageModel, window: int, least: int, most: int) -> int:
    """So many windows as a forward over them stays affordable: about 2 FLOPs per parameter and token."""
    parameters = sum(int(p.numel()) for p in lm.model.parameters())
    tokens = _FLOPS.get(lm.device.type, _FLOPS["cpu"]) / (2 * parameters)
    return max(1, int(min(most, max(least, tokens)) / window))


@dataclass(frozen=True)
class Coded:
    """What one SAE makes of the sample, over the tokens that are not special."""

    name: str
    sae: SAE
    site: str
    x: Tensor
    """``[tokens, d_model]`` float64, raw."""
    x_hat: Tensor
    """``[tokens, d_model]`` float64, raw."""
    codes: SparseCodes
    window: Tensor
    """``[tokens]`` int64, the window that each token is from."""

    @property
    def known(self) -> Mapping[str, Any]:
        """What the SAE remembers of its training."""
        return self.sae.config.trained_on

    @cached_property
    def deviation(self) -> Tensor:
        """``[tokens]`` squared distance of each activation from the mean of all."""
        return (self.x - self.x.mean(0)).square().sum(1)

    @cached_property
    def explained_variance(self) -> Ratio:
        unexplained = self.ratio((self.x - self.x_hat).square().sum(1), self.deviation)
        return Ratio(1 - unexplained.value, unexplained.error)

    @cached_property
    def l0(self) -> Ratio:
        counts = self.codes.l0().double()
        return self.ratio(counts, torch.ones_like(counts))

    def ratio(self, above: Tensor, below: Tensor) -> Ratio:
        """``sum(above) / sum(below)`` over tokens; its error allows for windows that differ as wholes."""
        windows = int(self.window[-1]) + 1
        sums = [torch.zeros(windows, dtype=t.dtype, device=t.device) for t in (above, below)]
        whole = ratio(*(s.index_add(0, self.window, t) for s, t in zip(sums, (above, below), strict=True)))
        token = ratio(above, below)
        few = 3.0 if windows < 8 else 1.0  # then they do not show how they differ
        return Ratio(token.value, max(few * token.error, whole.error))


def code(sample: Sample, name: str, sae: SAE) -> Coded:
    """Runs ``sae`` on the sample."""
    site = str(sae.config.trained_on["site"])
    kept = ~sample.special
    return coded_at(name, sae, site, sample.x[site][kept], kept.nonzero()[:, 0])


def coded_at(name: str, sae: SAE, site: str, x: Tensor, window: Tensor) -> Coded:
    """What ``sae`` makes of raw ``x [tokens, d_model]``, which are from ``window [tokens]``."""
    codes = sae.encode(x)
    return Coded(name, sae, site, x.double(), sae.decode(codes).double(), codes, window)


def ratio(above: Tensor, below: Tensor) -> Ratio:
    """``sum(above) / sum(below)``, both ``[n]``, with its standard error over the n units (delta method)."""
    n, total = len(above), float(below.sum())
    value = float(above.sum()) / total if total else math.nan
    residuals = above - value * below
    return Ratio(
        value, float(residuals.square().sum().sqrt()) / abs(total) * (n / max(1, n - 1)) ** 0.5 if total else math.nan
    )
