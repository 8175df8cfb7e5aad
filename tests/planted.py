"""Activations whose sparse parts are known, SAEs with random weights, and the plain dense formulas of every loss."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F

from kanary.sae import SAE, Active, SAEConfig
from kanary.sae.parts import SPARSIFIERS, import_parts, option_names
from kanary.training.config import TrainConfig
from kanary.training.learner import Learner, begin

import_parts()
KINDS = sorted(SPARSIFIERS)  # whatever is registered when the tests are collected: a new kind is tested with the rest
ELEMENTWISE = [kind for kind in KINDS if SPARSIFIERS[kind].elementwise]


def planted(tokens: int, d_model: int = 16, features: int = 32, active: int = 3, seed: int = 0) -> Tensor:
    """``[tokens, d_model]``: each a sum of about ``active`` of ``features`` random directions, plus an offset."""
    draw = torch.Generator().manual_seed(seed)
    directions = F.normalize(torch.randn(features, d_model, generator=torch.Generator().manual_seed(999)), dim=1)
    on = torch.rand(tokens, features, generator=draw) < active / features
    strengths = on * (1 + torch.rand(tokens, features, generator=draw))
    return strengths @ directions * 7.0 + 3.0


def random_sae(kind: str, d_model: int = 6, d_sae: int = 16, seed: int = 0, **options: Any) -> SAE:
    """A float64 SAE whose every parameter is random, so that no gradient is zero for a reason that training would lose."""
    options = {"k": min(3, d_sae), **options} if "k" in option_names(SPARSIFIERS[kind]) else options
    sae = SAE(SAEConfig(d_model, d_sae, sparsifier={"name": kind, **options})).double()
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            noise = torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
            if name.endswith("threshold"):
                parameter.copy_(0.3 + noise.abs() / 2)
            else:
                parameter.copy_(noise / (2 if parameter.ndim > 1 else 4))
        sae.decoder.W_dec.mul_(1.5)  # the formulas hold for directions of any length
    return sae


def config_for(kind: str, **fields: Any) -> TrainConfig:
    return TrainConfig(**{"sae": kind, "tokens": 10_000, "batch": 100, "revive": "none", **fields})


@contextmanager
def layout(which: str, tile: int = 2**22) -> Iterator[None]:
    """Makes training use lists of entries ("sparse") or full matrices ("dense"; only elementwise kinds have a choice)."""
    with (
        patch("kanary.sae.encoders.linear.DENSE_ABOVE", 2.0 if which == "sparse" else -1.0),
        patch("kanary.sae.encoders.linear.TILE", tile),
        patch("kanary.training.learner.TILE", tile),
    ):
        yield


def loss_and_gradients(sae: SAE, z: Tensor, config: TrainConfig, which: str = "sparse", tile: int = 2**22) -> Any:
    """What one training step minimises for standardised ``z``, and its gradient by the name of every parameter."""
    sae.zero_grad(set_to_none=True)
    learner = Learner(sae, config)
    with layout(which, tile):
        batch = learner._backward(z, torch.zeros(0, dtype=torch.int64))
    return float(batch.loss), gradients(sae)


def gradients(sae: SAE) -> dict[str, Tensor]:
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.detach().clone() for name, p in sae.named_parameters()
    }


def dense_loss(sae: SAE, z: Tensor, shares: tuple[int, ...] = ()) -> Tensor:
    """The training loss as the papers write it, on full ``[tokens, d_sae]`` matrices and nothing of Kanary's kernels."""
    kind = sae.sparsifier.name
    W_dec, b_dec = sae.decoder.W_dec, sae.decoder.b_dec
    pre = (z - b_dec) @ sae.encoder.W_enc.T + sae.encoder.b_enc
    if kind not in FORMULAS:
        return _by_its_own_methods(sae, z, pre)
    codes, penalty = FORMULAS[kind](sae, z, pre)
    widths = [sae.d_sae, *(sae.d_sae // share for share in shares)]
    errors = [((z - codes[:, :w] @ W_dec[:w] - b_dec) ** 2).sum(1).mean() for w in widths]
    return torch.stack(errors).mean() + penalty


def _relu(sae: SAE, z: Tensor, pre: Tensor) -> tuple[Tensor, Tensor | float]:
    codes = pre.clamp_min(0)
    return codes, sae.sparsifier.options.l1 * (codes @ sae.decoder.W_dec.norm(dim=1)).mean()


def _gated(sae: SAE, z: Tensor, pre: Tensor) -> tuple[Tensor, Tensor | float]:
    part = sae.sparsifier
    gate = pre.clamp_min(0)
    codes = (pre > 0) * (part.r_mag.exp() * pre + part.b_mag).clamp_min(0)
    frozen = gate @ sae.decoder.W_dec.detach() + sae.decoder.b_dec.detach()
    l1 = (gate @ sae.decoder.W_dec.norm(dim=1)).mean()
    return codes, part.options.l1 * l1 + ((z - frozen) ** 2).sum(1).mean()


def _jumprelu(sae: SAE, z: Tensor, pre: Tensor) -> tuple[Tensor, Tensor | float]:
    part, width = sae.sparsifier, sae.sparsifier.options.bandwidth
    above = (pre > part.threshold).detach().double()
    kernel = (((pre - part.threshold) / width).abs() < 0.5).detach().double()  # rectangular, of area 1
    moved = part.threshold - part.threshold.detach()  # zero, with gradient one: carries the paper's pseudo-derivatives
    codes = pre * above - part.threshold.detach() / width * kernel * moved
    l0 = (above - kernel / width * moved).sum(1).mean()
    return codes, part.options.l0_penalty * l0


def _topk(sae: SAE, z: Tensor, pre: Tensor) -> tuple[Tensor, Tensor | float]:
    kept = torch.zeros_like(pre).scatter(1, pre.topk(sae.sparsifier.options.k, dim=1).indices, 1.0)
    return pre.clamp_min(0) * kept, 0.0


def _batchtopk(sae: SAE, z: Tensor, pre: Tensor) -> tuple[Tensor, Tensor | float]:
    wanted = sae.sparsifier.options.k * len(pre)
    return pre.clamp_min(0) * (pre >= pre.flatten().topk(wanted).values[-1]), 0.0


FORMULAS = {"relu": _relu, "gated": _gated, "jumprelu": _jumprelu, "topk": _topk, "batchtopk": _batchtopk}


def _by_its_own_methods(sae: SAE, z: Tensor, pre: Tensor) -> Tensor:
    """For kinds without a formula here: everything that the part itself selects from a dense matrix."""
    active = super(type(sae.encoder), sae.encoder).select(z, sae.decoder.b_dec, sae.sparsifier)
    assert active is not None
    values = sae.sparsifier.activate(active)
    codes = torch.zeros_like(pre).index_put((active.pattern.rows(), active.pattern.latents), values)
    loss = ((z - codes @ sae.decoder.W_dec - sae.decoder.b_dec) ** 2).sum(1).mean()
    penalty = sae.sparsifier.penalty(Active(active.pre, active.pattern, z), values, sae.decoder)
    return loss if penalty is None else loss + penalty


def train_on(
    x: Tensor, config: TrainConfig, *, width: int | None = None, spoil: Any = None, seed: int = 0
) -> tuple[Learner, list[Any]]:
    """Trains an SAE on raw ``x [n, d_model]`` for ``config.steps`` random batches; ``spoil(sae)`` may damage its start."""
    sae = SAE(config.sae_config(x.shape[1], {"site": "resid_post.1", "model": "planted"}))
    begin(sae, x, config.bias_start, config.seed)
    if spoil is not None:
        spoil(sae)
    learner = Learner(sae, config)
    draw = torch.Generator().manual_seed(seed)
    return learner, [
        learner.step(x[torch.randint(len(x), (config.batch,), generator=draw)], step) for step in range(config.steps)
    ]
