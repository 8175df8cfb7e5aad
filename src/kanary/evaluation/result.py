"""What an evaluation finds, as plain data: numbers with their intervals, and what the pictures are drawn from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

if TYPE_CHECKING:
    from kanary.evaluation.concepts.ground_truth import GroundTruth
    from kanary.evaluation.densities import Density, Strays
    from kanary.evaluation.splines import Functions


class Metric(NamedTuple):
    """A number with its 95 % bootstrap interval over documents, and how many tokens it is over.

    NaN where there is no such number: the identity has no latents.
    """

    value: float
    low: float
    high: float
    n: int


Metrics = Mapping[str, Mapping[str, Metric]]
"""Group (SAEBench's names) -> metric -> number; see :mod:`kanary.evaluation.metrics` for the definitions."""


@dataclass(frozen=True)
class Details:
    """What one SAE did on the evaluated tokens, beyond its numbers."""

    tokens: int
    """How many tokens these are counts over."""
    l0_values: Tensor
    """``[bins]`` int64: numbers of active latents, ascending (exact up to 2,047; above, the least of a bin 1 % wide)."""
    l0_counts: Tensor
    """``[bins]`` int64: tokens with so many active latents."""
    firings: Tensor
    """``[d_sae]`` int64: tokens on which each latent fired."""
    windows_fired: Tensor
    """``[d_sae]`` int64: windows in which each latent fired at least once."""
    strength: Tensor
    """``[d_sae]`` float64: sum of each latent's value over the tokens, in units of the raw activation."""
    position_fvu: Tensor
    """``[window]`` float64: squared error at each position of the window as a share of the variance of all tokens;
    NaN where every token was special."""
    position_tokens: Tensor
    """``[window]`` int64: tokens at each position."""
    norms: Tensor
    """``[points, 2]`` float64: norm of the activation and of the error, for a random sample of tokens (raw units)."""
    densities: Mapping[str, "Density"] = field(default_factory=dict)
    """"encoder" and "decoder", as far as they have functions of single latents: where the values lie that these read."""
    strays: "Strays | None" = None
    """What functions that latents share read outside their grids."""


@dataclass(frozen=True)
class LatentTable:
    """What the weights alone say of every latent. The logit columns are None where the decoder writes into no residual
    stream; the encoder's where the encoder has no single direction per latent."""

    max_decoder_cosine: Tensor
    """``[d_sae]`` float64: largest cosine with another latent's decoder direction."""
    max_encoder_cosine: Tensor | None
    encoder_decoder_cosine: Tensor | None
    """``[d_sae]`` float64: cosine between a latent's own two directions."""
    encoder_norm: Tensor | None
    encoder_bias: Tensor | None
    logit_mean: Tensor | None
    """``[d_sae]`` float64: moments over the vocabulary of what one unit of the latent adds to the logits."""
    logit_std: Tensor | None
    logit_skewness: Tensor | None
    logit_kurtosis: Tensor | None
    """Pearson's: 3 for a normal distribution."""
    highest_token: Tensor | None
    """``[d_sae]`` int64: the token whose logit rises most."""
    lowest_token: Tensor | None


class Prompt(NamedTuple):
    """The start of a held-out document, and the token that follows there."""

    text: str
    answer: str
    answer_id: int
    document: int
    tokens: Tensor  # [length] int64, BOS included


class Answer(NamedTuple):
    """What a model makes of a prompt."""

    rank: int  # of the answer, from 1
    probability: float
    continuation: str  # greedy


@dataclass(frozen=True)
class Capability:
    """The same prompts answered by the model alone and with each SAE (or control) in its place."""

    prompts: list[Prompt]
    without: list[Answer]
    """The model alone, one per prompt."""
    rows: Mapping[str, list[Answer]]
    """Name of the SAE or control -> one answer per prompt."""


@dataclass(frozen=True)
class Evaluation:
    """Everything about the SAEs of one run (or folder), ready to be written, drawn and compared."""

    saes: Mapping[str, Metrics]
    controls: Mapping[str, Metrics]
    about: Mapping[str, Mapping[str, Any]]
    """Name of an SAE -> what it is: site, model, kind, encoder, decoder, d_model, d_sae, parameters, seed, options …"""
    held_out: Mapping[str, Any]
    """What it was measured on: text, part, tokens, loss_tokens, windows, window, seed …"""
    details: Mapping[str, Details] = field(default_factory=dict)
    latents: Mapping[str, LatentTable] = field(default_factory=dict)
    capability: Capability | None = None
    functions: "Mapping[str, list[Functions]]" = field(default_factory=dict)
    """Name of an SAE with learned functions -> what those of each of its parts do."""
    concepts: "GroundTruth | None" = None
    """On the labelled corpus: which latents stand for its concepts."""
    folder: Path | None = None
    """Where it was written."""

    def to_json(self) -> dict[str, Any]:
        """The content of ``metrics.json``; a number that does not exist (or is not finite) is null."""
        found = {"concepts": self.concepts.to_json()} if self.concepts else {}
        return {
            "format": "kanary-metrics-1",
            "saes": {name: plain(metrics) for name, metrics in self.saes.items()},
            "controls": {name: plain(metrics) for name, metrics in self.controls.items()},
            "about": {name: dict(about) for name, about in self.about.items()},
            "held_out": dict(self.held_out),
            **found,
        }


def plain(metrics: Metrics) -> dict[str, dict[str, dict[str, float | None]]]:
    """For JSON, which has neither NaN nor infinity."""
    return {group: {name: _plain(metric) for name, metric in row.items()} for group, row in metrics.items()}


def flat(metrics: Metrics) -> dict[str, Metric]:
    """Every metric by its name alone; no two groups share one."""
    return {name: metric for row in metrics.values() for name, metric in row.items()}


def _plain(metric: Metric) -> dict[str, float | None]:
    inf = float("inf")
    return {key: value if -inf < value < inf else None for key, value in metric._asdict().items()}
