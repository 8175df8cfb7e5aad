"""How well SAEs stand in for the activations they read: EV, CE score, L0, dead share, beside controls.

Definitions (all over tokens that are not special, accumulated in float64, in raw activation space):

- ``l0``: mean number of non-zero latents per token.
- ``explained_variance``: ``1 - E|x - x^|^2 / (E|x|^2 - |E x|^2)``, one global mean.
- ``ce_score_zero``: ``(CE_abl - CE_sae) / (CE_abl - CE_clean)``; the ablation zeroes the site at every position, the SAE
  replaces only non-special ones; a position's loss is left out when its source token is special.
- ``dead_share``: share of latents that fired on none of these ``n`` tokens (a census, so its interval is a point).
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from kanary.activations.pool import generator
from kanary.errors import KanaryError
from kanary.lm import LanguageModel
from kanary.sae import SAE, SAEConfig
from kanary.text import TokenBatch

RESAMPLES = 1000


class Metric(NamedTuple):
    """A number with its 95 % bootstrap interval over windows, and how many tokens it is over."""

    value: float
    low: float
    high: float
    n: int


class Row(NamedTuple):
    """The first numbers of one SAE, or of a control."""

    l0: Metric
    explained_variance: Metric
    ce_score_zero: Metric
    ce_clean: Metric  # nats per token
    ce_sae: Metric
    ce_zero: Metric
    dead_share: Metric


class _Sums:
    """Per-window sums; every number is a ratio of them, so that windows can be resampled."""

    def __init__(self) -> None:
        self.columns: dict[str, list[Tensor]] = {}

    def add(self, **sums: Tensor) -> None:
        for name, value in sums.items():
            self.columns.setdefault(name, []).append(value.double().cpu())

    def total(self, weights: Tensor) -> dict[str, Tensor]:
        """Sums over windows under ``weights [resamples, windows]`` -> ``[resamples]`` or ``[resamples, d]``."""
        return {name: weights @ torch.cat(values) for name, values in self.columns.items()}


class Target(NamedTuple):
    """Something that stands in for the activations at a site."""

    site: str
    sae: SAE | None  # None: the identity


def fidelity(
    lm: LanguageModel, batches: Iterable[TokenBatch], targets: Mapping[str, Target], seed: int = 0
) -> dict[str, Row]:
    """The numbers of every target over the same windows.

    Args:
        batches: held-out windows.
        targets: row name -> what to splice in.
        seed: of the bootstrap.

    Raises:
        KanaryError: no tokens to evaluate on.
    """
    clean = {site: _Sums() for site in {t.site for t in targets.values()}}
    sums = {name: _Sums() for name in targets}
    fired = {name: torch.zeros(t.sae.d_sae, dtype=torch.bool) for name, t in targets.items() if t.sae}
    with torch.no_grad():
        for batch in batches:
            _add_batch(lm, batch, targets, clean, sums, fired)
    if not any(s.columns for s in sums.values()):
        raise KanaryError("There are no held-out tokens to evaluate on.")
    return {name: _row(clean[t.site], sums[name], fired.get(name), seed) for name, t in targets.items()}


def _add_batch(
    lm: LanguageModel,
    batch: TokenBatch,
    targets: Mapping[str, Target],
    clean: Mapping[str, _Sums],
    sums: Mapping[str, _Sums],
    fired: Mapping[str, Tensor],
) -> None:
    special = batch.special.to(lm.device)
    tokens = batch.tokens.to(lm.device)
    kept: dict[str, Tensor] = {}

    def keep(site: str) -> Callable[[Tensor], Tensor]:
        return lambda x: kept.setdefault(site, x)

    clean_loss = window_losses(lm.logits(tokens, replace={site: keep(site) for site in clean}), tokens, special)
    for site, site_sums in clean.items():
        x = kept[site].double() * ~special[..., None]
        zero_loss = window_losses(lm.logits(tokens, replace={site: torch.zeros_like}), tokens, special)
        site_sums.add(
            n=(~special).sum(1),
            n_loss=(~special[:, :-1]).sum(1),
            x=x.sum(1),
            square=x.square().sum((1, 2)),
            clean=clean_loss,
            zero=zero_loss,
        )
    for name, target in targets.items():
        x = kept[target.site]
        if target.sae is None:  # spliced in like an SAE, so that a splice that harms shows
            made, l0 = x.clone(), torch.full((len(x),), float("nan"))
        else:
            codes = target.sae.encode(x, special)
            made, l0 = target.sae.decode(codes).to(x.dtype), codes.l0().sum(1)
            fired[name][codes.indices.cpu()] = True
        x_hat = torch.where(special[..., None], x, made)
        loss = window_losses(lm.logits(tokens, replace={target.site: _constant(x_hat)}), tokens, special)
        sums[name].add(error=(x.double() - x_hat.double()).square().sum((1, 2)), l0=l0, loss=loss)


def _constant(x: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda _: x


def window_losses(logits: Tensor, tokens: Tensor, special: Tensor) -> Tensor:
    """Summed next-token loss (nats) of every window, ``[batch]``, over positions whose source token is not special.

    Args:
        logits: ``[batch, position, vocab]``.
        tokens, special: ``[batch, position]``.
    """
    sums = []
    for window, ids, skip in zip(logits, tokens, special, strict=True):  # one at a time: a large vocabulary is large
        losses = F.cross_entropy(window[:-1].float(), ids[1:], reduction="none")
        sums.append((losses.double() * ~skip[:-1]).sum())
    return torch.stack(sums)


def _row(clean: _Sums, sums: _Sums, fired: Tensor | None, seed: int) -> Row:
    windows = len(torch.cat(sums.columns["error"]))
    draws = torch.randint(windows, (RESAMPLES, windows), generator=generator("bootstrap", seed))
    weights = torch.zeros(RESAMPLES, windows, dtype=torch.float64).scatter_add_(
        1, draws, torch.ones(RESAMPLES, windows, dtype=torch.float64)
    )
    weights = torch.cat([torch.ones(1, windows, dtype=torch.float64), weights])  # row 0: the sample itself
    totals = clean.total(weights) | sums.total(weights)
    n, n_loss = totals["n"], totals["n_loss"]
    tokens = int(n[0])

    def metric(values: Tensor, count: int = tokens) -> Metric:
        low, high = (float(torch.quantile(values[1:], q)) for q in (0.025, 0.975))
        return Metric(float(values[0]), low, high, count)

    variance = totals["square"] / n - (totals["x"] / n[:, None]).square().sum(1)
    ce = {key: totals[key] / n_loss for key in ("clean", "zero", "loss")}
    dead = float("nan") if fired is None else 1 - float(fired.double().mean())
    count = int(n_loss[0])
    return Row(
        l0=metric(totals["l0"] / n),
        explained_variance=metric(1 - totals["error"] / n / variance),
        ce_score_zero=metric((ce["zero"] - ce["loss"]) / (ce["zero"] - ce["clean"]), count),
        ce_clean=metric(ce["clean"], count),
        ce_sae=metric(ce["loss"], count),
        ce_zero=metric(ce["zero"], count),
        dead_share=Metric(dead, dead, dead, tokens),
    )


def first_numbers(
    lm: LanguageModel, windows: Iterable[TokenBatch], saes: Mapping[str, SAE], tokens: int, seed: int
) -> dict[str, Any]:
    """The content of ``metrics.json``: every SAE beside the identity and a random twin, over about ``tokens`` tokens."""
    batches: list[TokenBatch] = []
    for batch in windows:
        batches.append(batch)
        if sum(b.n_tokens for b in batches) >= tokens:
            break
    if not batches:
        raise KanaryError("There are no held-out tokens to evaluate on.")
    targets, controls = {}, {}
    special = batches[0].special.to(lm.device)
    for name, sae in saes.items():
        site = str(sae.config.trained_on["site"])
        targets[name] = Target(site, sae)
        x = lm.capture(batches[0].tokens, [site])[site][~special]
        controls[f"identity at {site}"] = Target(site, None)
        controls[f"random twin of {name}"] = Target(site, random_twin(sae, x, seed))
    rows = fidelity(lm, batches, {**targets, **controls}, seed)
    for name, sae in saes.items():
        row = plain(rows[name])
        sae.remember(metrics={key: row[key] for key in ("l0", "explained_variance", "ce_score_zero", "dead_share")})
    return {
        "saes": {name: plain(rows[name]) for name in targets},
        "controls": {name: plain(rows[name]) for name in controls},
        "held_out": {
            "tokens": sum(b.n_tokens for b in batches),
            "windows": sum(len(b.tokens) for b in batches),
            "seed": seed,
        },
    }


def plain(row: Row) -> dict[str, dict[str, float | None]]:
    """For JSON, which has no NaN: a number that does not exist (the identity has no latents) is null."""
    return {
        name: {key: None if value != value else value for key, value in metric._asdict().items()}
        for name, metric in row._asdict().items()
    }


def random_twin(sae: SAE, x: Tensor, seed: int) -> SAE:
    """A control: random unit directions read and written alike, as many active per token as ``sae`` has on ``x``.

    It shares the width, the standardisation and ``b_dec``, and its size of output is the best for ``x [tokens, d_model]``:
    whatever it scores, training is not the reason.
    """
    k = min(sae.d_sae, max(1, round(float(sae.encode(x).l0().double().mean()))))
    twin = SAE(SAEConfig(sae.d_model, sae.d_sae, sparsifier={"name": "topk", "k": k}))
    directions = torch.randn(sae.d_sae, sae.d_model, generator=generator("random twin", seed))
    with torch.no_grad():
        twin.mean.copy_(sae.mean)
        twin.scale.copy_(sae.scale)
        twin.decoder.b_dec.copy_(sae.decoder.b_dec)
        twin.decoder.begin(F.normalize(directions, dim=1))
        twin.encoder.tie(twin.decoder.W_dec)
        twin.to(sae.mean.device)
        z, z_hat = (sae.standardise(each).double() - twin.decoder.b_dec for each in (x, twin(x)))
        twin.encoder.tie(twin.decoder.W_dec * ((z * z_hat).sum() / z_hat.square().sum()))
    return twin
