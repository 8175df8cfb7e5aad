"""Every number of an evaluation once more: token by token, in float64, through a plain hook and dense codes."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kanary.evaluation.measure import Measured, Measurement
from kanary.evaluation.result import Metric
from kanary.evaluation.standin import Spliced, StandIn
from kanary.lm import LanguageModel, load_model
from kanary.sae import SAE, SAEConfig
from kanary.text import TokenBatch
from kanary.training.learner import begin
from planted import config_for

SITE, LAYER = "resid_post.1", 1

FIDELITY = {
    "reconstruction_quality": {"explained_variance", "fvu", "explained_variance_legacy", "mse", "cossim"},
    "shrinkage": {"l2_norm_in", "l2_norm_out", "l2_ratio", "relative_reconstruction_bias"},
    "as_coded_elsewhere": {"explained_variance_saebench", "mse_saebench"},
}
SPARSITY = {
    "sparsity": {"l0", "l0_p5", "l0_p50", "l0_p95", "l1"},
    "misc_metrics": {"dead_share", "frac_alive"}
    | {f"{kind}freq_over_{percent}_percent" for kind in ("", "normalized_") for percent in (1, 10)},
}
LOSSES = {
    "model_behavior_preservation": {"kl_div_score", "kl_div_score_mean", "kl_div_with_sae", "kl_div_with_ablation"}
    | {"kl_div_with_mean_ablation", "top1_agreement"},
    "model_performance_preservation": {"ce_loss_score", "ce_loss_score_mean", "ce_loss_without_sae"}
    | {"ce_loss_with_sae", "ce_loss_with_ablation", "ce_loss_with_mean_ablation", "ce_loss_increase"},
}
COUNTS = {"token_stats": {"total_tokens_eval_reconstruction", "total_tokens_eval_sparsity_variance"}}


def windows(
    n: int = 9, length: int = 24, *, special: bool = True, seed: int = 0, size: int = 4, mark: int = 0
) -> list[TokenBatch]:
    """Random windows in batches of ``size``; with BOS in front of each, and an EOS and a BOS inside some."""
    draw = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, 300, (n, length), generator=draw)
    if special:
        tokens[:, 0] = mark
        tokens[::2, 10 % length], tokens[::3, 17 % length] = 1, 0
    ids = torch.arange(n)[:, None].expand(n, length)
    places = torch.arange(length, dtype=torch.int32).expand(n, length)
    fields = (tokens, ids, places, tokens < 3)
    return [TokenBatch(*(f[a : a + size] for f in fields)) for a in range(0, n, size)]


def strong_lm(folder: Path) -> LanguageModel:
    """The tiny model with weights so large that an ablation matters."""
    lm = load_model(folder, device="cpu")
    draw = torch.Generator().manual_seed(5)
    for parameter in lm.model.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=draw)
    return lm


def activations(lm: LanguageModel, batches: Sequence[TokenBatch], site: str = SITE) -> Tensor:
    """``[tokens, d_model]``, special tokens left out."""
    return torch.cat([lm.capture(b.tokens, [site])[site][~b.special] for b in batches])


def sae_for(lm: LanguageModel, kind: str = "topk", seed: int = 0, site: str = SITE, width: int = 40) -> SAE:
    """An untrained but well started SAE: what it scores is neither 0 nor 1."""
    k = {"k": 4} if kind in ("topk", "batchtopk") else {}
    sae = SAE(config_for(kind, width=width, **k).sae_config(lm.d_model, {"site": site}))
    begin(sae, activations(lm, windows(seed=seed), site), "mean", seed)
    return sae


def silent_sae(lm: LanguageModel, output: Tensor | None = None) -> SAE:
    """No latent ever fires; puts out exactly ``output [d_model]``, or zero."""
    sae = SAE(SAEConfig(lm.d_model, 8, sparsifier={"name": "relu"}, trained_on={"site": SITE}))
    with torch.no_grad():
        sae.encoder.b_enc.fill_(-1e9)
        if output is not None:
            sae.mean.copy_(output)
    return sae


def measured(
    lm: LanguageModel,
    batches: Sequence[TokenBatch],
    saes: Mapping[str, SAE] | None = None,
    controls: Mapping[str, StandIn] | None = None,
    *,
    mean: Tensor | None = None,
    first: int | None = None,
    seed: int = 0,
    losses: bool = True,
) -> Measured:
    """What the engine finds; controls and losses see the first ``first`` batches (default: all)."""
    spliced = {name: Spliced(str(sae.config.trained_on["site"]), sae) for name, sae in (saes or {}).items()}
    sites = {each.site for each in [*spliced.values(), *(controls or {}).values()]}
    means = {site: torch.zeros(lm.width(site)) if mean is None else mean for site in sites}
    length = batches[0].tokens.shape[1]
    it = Measurement(lm, spliced, controls or {}, means, window=length, losses=losses, seed=seed)
    for i, batch in enumerate(batches):
        it.add(batch, controls=first is None or i < first)
    return it.result()


def flat(row: Mapping[str, Mapping[str, Metric]]) -> dict[str, Metric]:
    return {name: metric for group in row.values() for name, metric in group.items()}


class ByHand(NamedTuple):
    """One window's activations and predictions."""

    x: Tensor  # [position, d_model] float64
    log_p: Tensor  # [position, vocab] float64


def forward(lm: LanguageModel, tokens: Tensor, instead: Tensor | None = None) -> ByHand:
    """The layer's output for ``tokens [position]``, and the predictions with ``instead`` in its place."""
    seen: list[Tensor] = []

    def hook(module: Any, inputs: Any, output: Any) -> Any:
        x = output[0] if isinstance(output, tuple) else output
        seen.append(x.clone())
        new = x if instead is None else instead[None].to(x)
        return (new, *output[1:]) if isinstance(output, tuple) else new

    handle = lm.model.model.layers[LAYER].register_forward_hook(hook)
    try:
        with torch.no_grad():
            logits = lm.model(tokens[None]).logits[0]
    finally:
        handle.remove()
    return ByHand(seen[0][0].double(), logits.double().log_softmax(1))


Reconstruct = Callable[[Tensor], tuple[Tensor, Tensor | None]]
"""``x [d_model]`` -> what stands in for it ``[d_model]`` float64, and every latent's value ``[d_sae]`` float64."""


def dense(sae: SAE) -> Reconstruct:
    """The SAE from its codes and weights alone."""

    def reconstruct(x: Tensor) -> tuple[Tensor, Tensor]:
        codes = sae.encode(x).to_dense().double()
        made = (codes @ sae.W_dec.double() + sae.decoder.b_dec.double()) / sae.scale.double() + sae.mean.double()
        return made, codes

    return torch.no_grad()(reconstruct)


class Tokens(NamedTuple):
    """Everything that counts, gathered token by token."""

    x: Tensor  # [tokens, d_model] float64
    x_hat: Tensor
    codes: Tensor | None  # [tokens, d_sae] float64
    batch: Tensor  # [tokens] which batch
    window: Tensor  # [tokens] which window
    position: Tensor  # [tokens]
    ce: dict[str, Tensor]  # clean, sae, zero, mean -> [losses] float64
    kl: dict[str, Tensor]  # sae, zero, mean -> [tokens]
    agree: Tensor  # [tokens]


def gather(lm: LanguageModel, batches: Sequence[TokenBatch], reconstruct: Reconstruct, mean: Tensor) -> Tokens:
    x, x_hat, codes, places, agree = [], [], [], [], []
    ce: dict[str, list[Tensor]] = {name: [] for name in ("clean", "sae", "zero", "mean")}
    kl: dict[str, list[Tensor]] = {name: [] for name in ("sae", "zero", "mean")}
    window = -1
    for number, batch in enumerate(batches):
        for tokens, special in zip(batch.tokens, batch.special, strict=True):
            window += 1
            clean = forward(lm, tokens)
            new = clean.x.clone()
            kept = [t for t in range(len(tokens)) if not special[t]]
            for t in kept:
                new[t], f = reconstruct(clean.x[t].float())
                x.append(clean.x[t])
                x_hat.append(new[t])
                places.append((number, window, t))
                codes.append(f)
            variants = {"sae": new, "zero": torch.zeros_like(new), "mean": mean.double().expand_as(new)}
            log_q = {name: forward(lm, tokens, value).log_p for name, value in variants.items()}
            for t in kept:
                p = clean.log_p[t]
                agree.append(p.argmax() == log_q["sae"][t].argmax())
                for name, q in log_q.items():
                    kl[name].append((p.exp() * (p - q[t])).sum())
                if t + 1 < len(tokens):
                    for name, q in {**log_q, "clean": clean.log_p}.items():
                        ce[name].append(-q[t, tokens[t + 1]])
    found = [f for f in codes if f is not None]
    return Tokens(
        torch.stack(x),
        torch.stack(x_hat),
        torch.stack(found) if found else None,
        *torch.tensor(places).unbind(1),
        ce={name: torch.stack(values) for name, values in ce.items()},
        kl={name: torch.stack(values) for name, values in kl.items()},
        agree=torch.stack(agree),
    )


def every_number(t: Tokens, unit: Tensor | None) -> dict[str, float]:
    """Metric -> value; ``unit [d_sae]``: length in raw space of one unit of each latent."""
    error = (t.x - t.x_hat).square().sum(1)
    size, size_hat = t.x.norm(dim=1), t.x_hat.norm(dim=1)
    variance = (t.x - t.x.mean(0)).square().sum(1).mean()
    legacy, per_batch = torch.zeros_like(error), torch.zeros_like(error)
    for number in t.batch.unique():
        mine = t.batch == number
        legacy[mine] = 1 - error[mine] / (t.x[mine] - t.x[mine].mean(0)).square().sum(1)
        per_batch[mine] = error[mine] / mine.sum()
    # SAEBench 0.6.0, core/main.py: squared where a mean was meant, over tokens and dimensions alike
    wrong_variance = t.x.square().sum(1).mean() - t.x.square().mean() ** 2
    found = {
        "explained_variance": 1 - error.mean() / variance,
        "fvu": error.mean() / variance,
        "explained_variance_legacy": legacy.mean(),
        "mse": error.mean(),
        "cossim": torch.nn.functional.cosine_similarity(t.x, t.x_hat, eps=1e-300).mean(),
        "l2_norm_in": size.mean(),
        "l2_norm_out": size_hat.mean(),
        "l2_ratio": (size_hat / size).mean(),
        "relative_reconstruction_bias": t.x_hat.square().sum(1).mean() / (t.x * t.x_hat).sum(1).mean(),
        "explained_variance_saebench": 1 - error.mean() / wrong_variance,
        "mse_saebench": per_batch.mean(),
    }
    return {name: float(value) for name, value in found.items()} | _predictions(t) | _latents(t, unit)


def _predictions(t: Tokens) -> dict[str, float]:
    ce = {name: float(values.mean()) for name, values in t.ce.items()}
    kl = {name: float(values.mean()) for name, values in t.kl.items()}
    return {
        "ce_loss_without_sae": ce["clean"],
        "ce_loss_with_sae": ce["sae"],
        "ce_loss_with_ablation": ce["zero"],
        "ce_loss_with_mean_ablation": ce["mean"],
        "ce_loss_increase": ce["sae"] - ce["clean"],
        "ce_loss_score": (ce["zero"] - ce["sae"]) / (ce["zero"] - ce["clean"]),
        "ce_loss_score_mean": (ce["mean"] - ce["sae"]) / (ce["mean"] - ce["clean"]),
        "kl_div_with_sae": kl["sae"],
        "kl_div_with_ablation": kl["zero"],
        "kl_div_with_mean_ablation": kl["mean"],
        "kl_div_score": 1 - kl["sae"] / kl["zero"],
        "kl_div_score_mean": 1 - kl["sae"] / kl["mean"],
        "top1_agreement": float(t.agree.double().mean()),
        "total_tokens_eval_reconstruction": len(t.x),
        "total_tokens_eval_sparsity_variance": len(t.x),
    }


def _latents(t: Tokens, unit: Tensor | None) -> dict[str, float]:
    if t.codes is None or unit is None:
        return {}
    l0 = (t.codes != 0).sum(1).numpy()
    density = (t.codes != 0).double().mean(0)
    mass = float(density.sum()) or float("nan")
    found = {
        "l0": float(l0.mean()),
        "l1": float((t.codes.abs() * unit).sum(1).mean()),
        "dead_share": float((density == 0).double().mean()),
        "frac_alive": float((density > 0).double().mean()),
    }
    for percent in (5, 50, 95):
        found[f"l0_p{percent}"] = float(np.quantile(l0, percent / 100, method="inverted_cdf"))
    for percent in (1, 10):
        often = density > percent / 100
        found[f"freq_over_{percent}_percent"] = float(often.double().mean())
        found[f"normalized_freq_over_{percent}_percent"] = float(density[often].sum()) / mass
    return found
