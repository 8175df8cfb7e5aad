"""Evaluations in the words of other libraries: their names, their nesting, their sampling.

Formats as of SAEBench 0.6.0 (``sae_bench/evals/core``) and SAELens 6.54.12 (``sae_lens/evals.py``). The numbers are
Kanary's own, one definition each, so ``explained_variance`` and ``mse`` are the right ones everywhere; what SAEBench
computes under these names stands beside them as ``explained_variance_saebench`` and ``mse_saebench``. Both libraries
write −1 where a number does not exist, and so do these.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor

from kanary.activations.pool import generator
from kanary.evaluation.result import Evaluation, Metrics, flat
from kanary.lm.sites import KINDS
from kanary.text import TokenBatch

MISSING = -1.0
_SHARED: dict[str, tuple[str, ...]] = {  # group -> its metrics, in both formats
    "model_behavior_preservation": ("kl_div_score", "kl_div_with_ablation", "kl_div_with_sae"),
    "model_performance_preservation": (
        "ce_loss_score",
        "ce_loss_with_ablation",
        "ce_loss_with_sae",
        "ce_loss_without_sae",
    ),
    "reconstruction_quality": ("explained_variance", "explained_variance_legacy", "mse", "cossim"),
    "shrinkage": ("l2_norm_in", "l2_norm_out", "l2_ratio", "relative_reconstruction_bias"),
    "sparsity": ("l0", "l1"),
}
_MISC = (
    "freq_over_1_percent",
    "freq_over_10_percent",
    "normalized_freq_over_1_percent",
    "normalized_freq_over_10_percent",
    "average_max_encoder_cosine_sim",
    "average_max_decoder_cosine_sim",
    "frac_alive",
)
_TOKENS = ("total_tokens_eval_reconstruction", "total_tokens_eval_sparsity_variance")
_AS_CODED = ("explained_variance_saebench", "mse_saebench")
_COMPUTED = (
    "compute_kl",
    "compute_ce_loss",
    "compute_l2_norms",
    "compute_sparsity_metrics",
    "compute_variance_metrics",
    "compute_featurewise_density_statistics",
    "compute_featurewise_weight_based_metrics",
)

_Window = tuple[Tensor, ...]
"""The fields of a TokenBatch, ``[window]`` each."""


def shuffled(batches: Iterable[TokenBatch], seed: int, buffer: int = 512) -> Iterator[TokenBatch]:
    """The windows of ``batches``, each exactly once, in an order that depends on ``seed`` alone.

    Each window is drawn at random from ``buffer`` of them and its place filled with the next of the stream, so that no
    more than ``buffer`` + two batches are held. The peers' own order cannot be had: it is that of their data library.

    Yields:
        batches as large as the first one; the last may have fewer windows.
    """
    draw = generator("shuffled windows", seed)
    size = 0
    held: list[_Window] = []
    out: list[_Window] = []
    for batch in batches:
        size = size or len(batch.tokens)
        for window in _windows(batch):
            if len(held) < buffer:
                held.append(window)
                continue
            at = int(torch.randint(buffer, (), generator=draw))
            out.append(held[at])
            held[at] = window
            if len(out) == size:
                yield _batch(out)
                out = []
    out += [held[at] for at in torch.randperm(len(held), generator=draw).tolist()]
    for start in range(0, len(out), max(1, size)):
        yield _batch(out[start : start + size])


@dataclass(frozen=True)
class Peer:
    """How another library samples its text, and the shape in which it writes what it found."""

    window: int
    """Tokens per window, BOS included."""
    batch: int
    """Windows per forward pass; ``explained_variance_legacy`` depends on it."""
    loss_tokens: int
    """Tokens, special ones included, of the windows that losses are measured on."""
    tokens: int
    """The same for all other numbers. Both libraries begin anew for these, so the first windows serve both."""
    seed: int
    """Of the order of the text."""
    shape: Callable[[Evaluation, str], dict[str, Any]]
    """(evaluation, SAE name) -> the content of a result file."""


def saebench(evaluation: Evaluation, name: str) -> dict[str, Any]:
    """One SAE as SAEBench's core evaluation writes it (its schema: ``eval_output_schema_core.json``)."""
    about, latents = evaluation.about[name], _per_latent(evaluation, name)
    names = _SHARED | {
        "reconstruction_quality": _SHARED["reconstruction_quality"] + _AS_CODED,
        "misc_metrics": _MISC,
    }
    return {
        "eval_type_id": "core",
        "eval_config": {
            "model_name": str(about.get("model", "")),
            "llm_dtype": str(evaluation.held_out.get("dtype", "float32")),
            **_sampling(evaluation, LIKE["saebench"]),
            **dict.fromkeys(_COMPUTED, True),
            "exclude_special_tokens_from_reconstruction": True,
            "verbose": False,
        },
        "eval_id": str(uuid4()),
        "datetime_epoch_millis": int(time.time() * 1000),
        "eval_result_metrics": _groups(evaluation.saes[name], names),
        "eval_result_details": [
            {"index": index, **dict(zip(latents, row, strict=True))}
            for index, row in enumerate(zip(*latents.values(), strict=True))
        ],
        "sae_bench_commit_hash": _version(),
        "sae_lens_id": name,
        "sae_lens_release_id": _release(evaluation),
        "sae_lens_version": None,
        "sae_cfg_dict": _config(about, evaluation),
        "eval_result_unstructured": {},
    }


def saelens(evaluation: Evaluation, name: str) -> dict[str, Any]:
    """One SAE as SAELens' ``evals`` writes it."""
    release = _release(evaluation)
    latents = _per_latent(evaluation, name)
    shared = ("feature_density", "consistent_activation_heuristic", *_ENCODER)
    return {
        "unique_id": f"{release}-{name}",
        "sae_set": release,
        "sae_id": name,
        "eval_cfg": {
            **_sampling(evaluation, LIKE["saelens"]),
            "library_version": _version(),
            "git_hash": "unknown",
            **dict.fromkeys(_COMPUTED, True),
        },
        "metrics": _groups(evaluation.saes[name], _SHARED),
        "feature_metrics": {column: latents[column] for column in shared if column in latents},
        "sae_cfg": _config(evaluation.about[name], evaluation),
    }


LIKE: Mapping[str, Peer] = {
    # custom_saes/run_all_evals_custom_saes.py: 200 and 2,000 batches of 16 x 128 tokens
    "saebench": Peer(128, 16, 200 * 16 * 128, 2000 * 16 * 128, 42, saebench),
    # the defaults of `python -m sae_lens.evals`: 10 batches for the losses. For the rest it is content with the first of
    # them; here all ten count, since they are read anyway
    "saelens": Peer(128, 16, 10 * 16 * 128, 10 * 16 * 128, 42, saelens),
}


def _windows(batch: TokenBatch) -> Iterator[_Window]:
    columns = [getattr(batch, field.name) for field in fields(batch)]
    for row in zip(*columns, strict=True):
        yield tuple(column.clone() for column in row)  # a view would keep its whole batch in memory


def _batch(windows: list[_Window]) -> TokenBatch:
    return TokenBatch(*(torch.stack(column) for column in zip(*windows, strict=True)))


def _exists(value: float) -> float:
    return value if math.isfinite(value) else MISSING


def _groups(metrics: Metrics, names: Mapping[str, tuple[str, ...]]) -> dict[str, dict[str, Any]]:
    """Groups of numbers by name, and how many tokens these are over."""
    values = {name: _exists(metric.value) for name, metric in flat(metrics).items()}
    groups: dict[str, dict[str, Any]] = {
        group: {metric: values.get(metric, MISSING) for metric in names[group]} for group in names
    }
    return groups | {"token_stats": {metric: int(values.get(metric, MISSING)) for metric in _TOKENS}}


def _sampling(evaluation: Evaluation, peer: Peer) -> dict[str, Any]:
    """What was read, counted in the peer's batches."""
    held_out = evaluation.held_out
    windows = int(held_out.get("windows") or 0)
    share = (held_out.get("loss_tokens") or 0) / (held_out.get("tokens") or 1)
    return {
        "batch_size_prompts": peer.batch,
        "n_eval_reconstruction_batches": round(windows * share / peer.batch),
        "n_eval_sparsity_variance_batches": round(windows / peer.batch),
        "dataset": str(held_out.get("text", "")),
        "context_size": int(held_out.get("window") or 0),
    }


_ENCODER = {  # the peers' names -> the table's
    "encoder_bias": "encoder_bias",
    "encoder_norm": "encoder_norm",
    "encoder_decoder_cosine_sim": "encoder_decoder_cosine",
}
_COSINES = {"max_decoder_cosine_sim": "max_decoder_cosine", "max_encoder_cosine_sim": "max_encoder_cosine"}


def _per_latent(evaluation: Evaluation, name: str) -> dict[str, list[float]]:
    """SAEBench's columns, ``d_sae`` numbers each; nothing where the evaluation did not look at single latents."""
    if name not in evaluation.details or name not in evaluation.latents:
        return {}
    details, table = evaluation.details[name], evaluation.latents[name]
    firings = details.firings.double()
    columns: dict[str, Tensor | None] = {
        "feature_density": firings / details.tokens,
        "consistent_activation_heuristic": firings / details.windows_fired,  # NaN where the latent never fired
        **{theirs: getattr(table, ours) for theirs, ours in (_ENCODER | _COSINES).items()},
    }
    return {
        column: [MISSING] * len(firings) if values is None else [_exists(value) for value in values.tolist()]
        for column, values in columns.items()
    }


def _config(about: Mapping[str, Any], evaluation: Evaluation) -> dict[str, Any]:
    """What the SAE is, under SAELens' names and then our own; SAEBench's plots read ``architecture`` and ``d_sae``."""
    hook, layer = _hook(str(about.get("site", "")))
    return {
        "architecture": about.get("kind"),
        "d_in": about.get("d_model"),
        "d_sae": about.get("d_sae"),
        "dtype": "float32",
        "model_name": about.get("model"),
        "hook_name": hook,
        "hook_layer": layer,
        "context_size": evaluation.held_out.get("window"),
        "dataset_path": about.get("text"),
        "training_tokens": about.get("tokens_trained"),
        "kanary": dict(about),
    }


def _hook(site: str) -> tuple[str, int | None]:
    """TransformerLens' name of a site and its layer; a module named by hand keeps its name."""
    kind, _, layer = site.rpartition(".")
    if kind in KINDS and layer.isdecimal():
        return f"blocks.{layer}.hook_{kind}", int(layer)
    return site, None


def _release(evaluation: Evaluation) -> str:
    return evaluation.folder.name if evaluation.folder else "kanary"


def _version() -> str:
    try:
        return f"kanary {version('kanary')}"
    except PackageNotFoundError:  # run from a checkout
        return "kanary"
