"""The numbers of several SAEs on one text: controls are fitted on one part of it, and all are measured on another."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kanary.activations.source import resolve_lm_batch
from kanary.config import to_mapping
from kanary.errors import KanaryError
from kanary.evaluation.measure import Measurement, measure
from kanary.evaluation.result import Evaluation, Metrics
from kanary.evaluation.standin import Calibration, Spliced, StandIn, controls
from kanary.lm import LanguageModel
from kanary.sae import SAE
from kanary.sae.cost import flops
from kanary.text import TextSource, TokenBatch, Windows
from kanary.text.windows import Part

CONTROL_TOKENS = 100_000
"""Controls and losses see so many tokens unless told otherwise: they cost several forward passes each."""
_FIT_TOKENS = 16_384  # from which means and principal components come; more where the activation is wider
_OTHER: dict[Part, Part] = {"heldout": "train", "train": "heldout"}


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Which tokens are counted, and how they are cut."""

    part: Part = "heldout"
    window: int = 256
    """Tokens per window."""
    lm_batch: int = 0
    """Windows per forward; 0 = chosen for the device."""
    tokens: int = 1_000_000
    loss_tokens: int = CONTROL_TOKENS
    """For the losses and the controls; 0 = no losses."""
    seed: int = 0
    shuffle: Callable[[Iterable[TokenBatch], int], Iterable[TokenBatch]] | None = None
    """Given the windows and the seed, the order in which they are read; default: that of the text."""

    @property
    def control_tokens(self) -> int:
        return min(self.tokens, self.loss_tokens or CONTROL_TOKENS)


def numbers(
    lm: LanguageModel,
    text: TextSource,
    saes: Mapping[str, SAE],
    sampling: Sampling,
    *,
    show: Callable[[int], None] | None = None,
) -> tuple[Evaluation, dict[str, StandIn]]:
    """Every number of ``saes`` beside its controls; and these controls, by name.

    Args:
        saes: by name, on the model's device, each with its site in ``config.trained_on``.
        show: called with the number of new tokens after every batch.

    Raises:
        KanaryError: text shorter than a window, or without a token that counts.
    """
    sites = {name: str(sae.config.trained_on["site"]) for name, sae in saes.items()}
    calibrations, fitted_on = _calibrate(lm, text, saes, sampling)
    rows, belong = controls(saes, calibrations, sampling.seed)
    measurement = Measurement(
        lm,
        {name: Spliced(sites[name], sae) for name, sae in saes.items()},
        rows,
        {site: calibration.mean for site, calibration in calibrations.items()},
        window=sampling.window,
        losses=sampling.loss_tokens > 0,
        seed=sampling.seed,
    )
    windows: Iterable[TokenBatch] = _windows(lm, text, sampling, sampling.part)
    if sampling.shuffle:
        windows = sampling.shuffle(windows, sampling.seed)
    found = measure(measurement, windows, tokens=sampling.tokens, control_tokens=sampling.control_tokens, show=show)
    evaluation = Evaluation(
        saes={name: found.rows[name] for name in saes},
        controls={name: found.rows[name] for name in rows if name in found.rows},
        about={name: about(sae) | belong[name] for name, sae in saes.items()},
        held_out={
            "model": lm.name,
            "fingerprint": lm.fingerprint,
            "dtype": str(lm.dtype).removeprefix("torch."),
            "text": text.name,
            "text_fingerprint": text.fingerprint,
            "part": sampling.part,
            "tokens": found.tokens,
            "loss_tokens": found.control_tokens if sampling.loss_tokens else 0,
            "control_tokens": found.control_tokens,
            "asked_tokens": sampling.tokens,
            "windows": found.windows,
            "documents": found.groups,
            "window": sampling.window,
            "seed": sampling.seed,
            "controls_fitted_on": fitted_on,
            "ln_vocab": math.log(lm.vocab_size),
            "ce_loss": _clean_loss(found.rows),
        },
        details=found.details,
    )
    return evaluation, rows


def about(sae: SAE) -> dict[str, Any]:
    """What ``sae`` is, for ``metrics.json``."""
    known = sae.config.trained_on
    options, fixed = sae.sparsifier.describe(), flops(sae, 0)
    return {
        **{key: known.get(key) for key in ("site", "model", "revision", "fingerprint", "text", "text_fingerprint")},
        "kind": options.pop("name"),
        "encoder": sae.config.encoder["name"],
        "decoder": sae.config.decoder["name"],
        "options": options,
        "encoder_options": to_mapping(sae.encoder.options),
        "decoder_options": to_mapping(sae.decoder.options),
        "recipe": known.get("recipe"),
        "d_model": sae.d_model,
        "d_sae": sae.d_sae,
        "parameters": sum(p.numel() for p in sae.parameters()),
        "train_flops": None if math.isnan(fixed) else {"per_token": fixed, "per_active_latent": flops(sae, 1) - fixed},
        "seed": known.get("seed"),
        "tokens_trained": known.get("tokens"),
        "weights": sae.digest(),
    }


def _calibrate(
    lm: LanguageModel, text: TextSource, saes: Mapping[str, SAE], sampling: Sampling
) -> tuple[dict[str, Calibration], str]:
    """Moments at every site, from the part of the text that is not measured on where that is long enough."""
    at: dict[str, dict[str, SAE]] = {}
    for name, sae in saes.items():
        at.setdefault(str(sae.config.trained_on["site"]), {})[name] = sae
    sites = list(at)
    wanted = max(_FIT_TOKENS, 4 * lm.d_model)
    least = 2 * lm.d_model  # fewer say little about the principal components
    for part in dict.fromkeys((_OTHER.get(sampling.part, sampling.part), sampling.part)):
        found: dict[str, Calibration] = {}
        try:
            for batch in _windows(lm, text, sampling, part):
                kept = ~batch.special.to(lm.device)
                for site, x in lm.capture(batch.tokens, sites).items():
                    if site not in found:
                        found[site] = Calibration(x.shape[-1], at[site])
                    found[site].add(x[kept])
                if found[sites[0]].n >= wanted:
                    break
        except KanaryError:
            if part == sampling.part:
                raise
            continue
        if found and found[sites[0]].n >= (2 if part == sampling.part else least):
            here = "the evaluated text itself" if part == sampling.part else f"part {part!r} of the text"
            return found, f"{found[sites[0]].n:,} tokens of {here}"
    raise KanaryError("There are no tokens to evaluate on: every one of them is special (BOS, EOS or padding).")


def _windows(lm: LanguageModel, text: TextSource, sampling: Sampling, part: Part) -> Windows:
    batch = resolve_lm_batch(sampling.lm_batch, sampling.window, lm.device.type)
    return Windows(text, lm, window=sampling.window, batch=batch, part=part)


def _clean_loss(rows: Mapping[str, Metrics]) -> float | None:
    """Nats per token of the untouched model."""
    losses = next(iter(rows.values())).get("model_performance_preservation")
    value = losses["ce_loss_without_sae"].value if losses else math.nan
    return value if math.isfinite(value) else None
