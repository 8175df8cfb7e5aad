"""Every KAN decoder in all its forms, with the dense formulas it must equal."""

import copy
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kanary.sae import SAE, SAEConfig
from kanary.training.config import TrainConfig
from kanary.training.learner import begin
from planted import FORMULAS, config_for

KINDS = ["relu", "gated", "jumprelu", "topk", "batchtopk"]
ELEMENTWISE = KINDS[:3]
FORMS: dict[str, dict[str, Any]] = {
    "gain": {"name": "kan-gain"},
    "bend": {"name": "kan-bend"},
    "bend-2": {"name": "kan-bend", "rank": 2, "basis": "bspline", "knots": 6},
    "curve": {"name": "kan-curve"},
    "curve-cubic": {"name": "kan-curve", "basis": "bspline"},
}
PARTS = ["gain", "bend", "curve"]  # one form of each
K = dict.fromkeys(("topk", "batchtopk"), 3)


def kan_sae(form: str, kind: str = "topk", d_model: int = 6, d_sae: int = 16, seed: int = 0) -> SAE:
    """A float64 SAE as late in training: every parameter random, and grids beyond which some codes lie."""
    sparsifier = {"name": kind, **({"k": 3} if kind in K else {})}
    sae = SAE(SAEConfig(d_model, d_sae, sparsifier=sparsifier, decoder=FORMS[form])).double()
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            noise = torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
            parameter.copy_(0.3 + noise.abs() / 2 if name.endswith("threshold") else noise / 2)
        sae.decoder.normalise()
        sae.decoder.W_dec.mul_(1.5)  # the formulas hold for directions of any length
        sae.decoder.curves.basis.set_range(0.0, 0.4 + torch.rand(d_sae, generator=draw, dtype=torch.float64))
    return sae


def numbers(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- the formulas, dense ----


def functions(sae: SAE, codes: Tensor, coefficients: Tensor) -> Tensor:
    """``codes [tokens, d_sae]`` through functions of ``coefficients [d_sae, G - 1]``: ``[tokens, d_sae]``."""
    curves = sae.decoder.curves
    full = F.pad(coefficients, (1, 0))
    latents = torch.arange(sae.d_sae).expand(codes.shape)
    if curves.basis.name == "bspline":
        design = curves.basis.dense(codes.reshape(-1), latents.reshape(-1)).view(*codes.shape, -1)
        return torch.einsum("nig,ig->ni", design, full)
    u = codes / curves.basis.grid[:, 1] * (full.shape[1] - 1)
    piece = u.detach().floor().long().clamp(0, full.shape[1] - 2)
    left, right = full[latents, piece], full[latents, piece + 1]
    return left + (right - left) * (u - piece)


def added(sae: SAE, codes: Tensor) -> Tensor:
    """What the docstrings say each latent adds at dense ``codes``: ``[tokens, d_sae, d_model]``."""
    part = sae.decoder
    straight = codes[..., None] * part.W_dec
    if part.name == "kan-gain":
        return straight + functions(sae, codes, part.curves.coefficients[:, 0])[..., None] * part.W_dec
    if part.name == "kan-bend":
        bends = [functions(sae, codes, c)[..., None] for c in part.curves.coefficients.unbind(1)]
        return straight + sum(s * part.W_bend[:, r] for r, s in enumerate(bends))
    return straight + torch.stack([functions(sae, codes, c) for c in part.knots_dec.unbind(2)], -1)


def decoded(sae: SAE, codes: Tensor, width: int | None = None) -> Tensor:
    return added(sae, codes)[:, :width].sum(1) + sae.decoder.b_dec


def lengths(sae: SAE, codes: Tensor) -> Tensor:
    part = sae.decoder
    if part.name == "kan-gain":
        return norms(added(sae, codes))
    if part.name == "kan-bend":  # of directions that stay perpendicular: where one turns, the others give way
        bends = [functions(sae, codes, c) for c in part.curves.coefficients.unbind(1)]
        return norms(torch.stack([codes * part.W_dec.norm(dim=1), *bends], -1))
    line = part.curves.line()
    knots = line[..., None] * part.W_dec[:, None] + part.knots_dec
    ends = part.curves.basis.grid[:, 1]
    speed = norms(knots[:, -1] - knots[:, -2]) / (line[:, -1] - line[:, -2])
    return functions(sae, torch.minimum(codes, ends), norms(knots)) + (codes - ends).clamp_min(0) * speed


def norms(x: Tensor) -> Tensor:
    """Lengths, whose gradient at 0 is 0."""
    return torch.where((x == 0).all(-1), 0.0, x.square().sum(-1).clamp_min(1e-300).sqrt())


def dense_loss(sae: SAE, z: Tensor, shares: tuple[int, ...] = ()) -> Tensor:
    """The training loss, with nothing of the decoders' own."""
    kind = sae.sparsifier.name
    pre = (z - sae.decoder.b_dec) @ sae.encoder.W_enc.T + sae.encoder.b_enc
    codes, penalty = FORMULAS[kind](sae, z, pre)
    if kind == "relu":
        penalty = sae.sparsifier.options.l1 * lengths(sae, codes).sum(1).mean()
    if kind == "gated":
        gate, frozen = pre.clamp_min(0), copy.deepcopy(sae).requires_grad_(False)
        penalty = sae.sparsifier.options.l1 * lengths(sae, gate).sum(1).mean()
        penalty = penalty + ((z - decoded(frozen, gate)) ** 2).sum(1).mean()
    widths = [sae.d_sae, *(sae.d_sae // share for share in shares)]
    return torch.stack([((z - decoded(sae, codes, w)) ** 2).sum(1).mean() for w in widths]).mean() + penalty


LAYOUTS = [(kind, which) for kind in KINDS for which in ("sparse", "dense") if which == "sparse" or kind in ELEMENTWISE]


def begun(form: str, kind: str, x: Tensor, **fields: Any) -> tuple[SAE, TrainConfig]:
    given = {"width": 24, "batch": 64, "tokens": 64 * 40, "k": K.get(kind), "lr": 3e-3, **fields}
    options = dict(FORMS.get(form, {"name": "linear"}))
    config = config_for(kind, decoder=options.pop("name"), options=options, **given)
    sae = SAE(config.sae_config(x.shape[1], {"site": "resid_post.1", "model": "planted"}))
    begin(sae, x[:1000], "median", config.seed)
    return sae, config


def batches(x: Tensor, steps: int, size: int = 64) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [x[torch.randint(len(x), (size,), generator=draw)] for _ in range(steps)]
