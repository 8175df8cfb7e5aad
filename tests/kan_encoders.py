"""Every KAN encoder in all its forms, with the dense formulas it must equal."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kanary.sae import SAE, SAEConfig
from kanary.training.learner import Learner, begin
from planted import FORMULAS, config_for, planted

KINDS = sorted(FORMULAS)
# every way in which a part computes, by a name for the test's report
FORMS: dict[str, dict[str, Any]] = {
    "node": {"name": "kan-node"},
    "node-relu": {"name": "kan-node", "start": "relu", "basis": "bspline"},
    "mlp": {"name": "mlp", "hidden": 7},
    "hidden": {"name": "kan-hidden", "basis": "bspline"},
    "hidden-rbf": {"name": "kan-hidden", "basis": "rbf", "hidden": 9},
    "edge": {"name": "kan-edge"},
    "edge-hat": {"name": "kan-edge", "basis": "hat", "knots": 4},
    "edge-silu": {"name": "kan-edge", "base": "silu"},
    "edge-none": {"name": "kan-edge", "base": "none", "basis": "chebyshev", "knots": 5},
}
PARTS = ["node", "mlp", "hidden", "edge"]  # one form of each
CASES = [(form, kind) for form in PARTS for kind in KINDS] + [(form, "jumprelu") for form in FORMS if form not in PARTS]
K = dict.fromkeys(("topk", "batchtopk"), 3)


def kan_sae(form: str, kind: str, d_model: int = 6, d_sae: int = 16, seed: int = 0) -> SAE:
    """A float64 SAE as late in training: every parameter random, and grids outside of which some values lie."""
    sparsifier = {"name": kind, **({"k": 3} if kind in K else {})}
    sae = SAE(SAEConfig(d_model, d_sae, encoder=FORMS[form], sparsifier=sparsifier)).double()
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            noise = torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
            parameter.copy_(0.3 + noise.abs() / 2 if name.endswith("threshold") else noise / 3)
        for basis in (
            getattr(sae.encoder, "basis", None),
            getattr(getattr(sae.encoder, "curves", None), "basis", None),
        ):
            if basis is not None:
                ends = 0.5 + torch.rand(len(basis.grid), generator=draw)
                basis.set_range(0.0 if form.startswith("node") else -ends.flip(0), ends)
    return sae


def numbers(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def basis_of(basis: Any, values: Tensor) -> Tensor:
    """``values [n, m]``, column i on grid i -> ``[n, m, G]``."""
    columns = torch.arange(values.shape[1]).expand(values.shape)
    return basis.dense(values.reshape(-1), columns.reshape(-1)).view(*values.shape, -1)


def formula(sae: SAE, z: Tensor) -> tuple[Tensor, Tensor]:
    """(scores by which entries are selected, pre-activations), as the docstrings write them: both dense."""
    part, x = sae.encoder, z - sae.decoder.b_dec
    if part.name == "kan-edge":
        base = {"linear": lambda x: x, "silu": F.silu, "none": lambda x: x * 0}[part.options.base]
        weight = torch.zeros_like(part.V[:, :, 0]) if part.W_enc is None else part.W_enc
        pre = base(x) @ weight.T + torch.einsum("njg,ijg->ni", basis_of(part.basis, x), part.V) + part.b_enc
        return pre, pre
    score = x @ part.W_enc.T + part.b_enc
    if part.name in ("mlp", "kan-hidden"):
        u = x @ part.P.T + part.c
        psi = u.clamp_min(0)
        if part.name == "kan-hidden":
            psi = psi + torch.einsum("nhg,hg->nh", basis_of(part.basis, u), part.coefficients)
        return (pre := score + psi @ part.V.T), pre
    curves = part.curves
    strength = score.clamp_min(0)
    bent = torch.einsum("nig,ig->ni", basis_of(curves.basis, strength)[..., 1:], curves.coefficients[:, 0])
    bent = bent * sae.sparsifier.mask(score.detach())
    if part.options.start == "relu":
        bent = torch.where(sae.sparsifier.mask(score.detach()), bent - strength, 0.0)
    return score, score + bent


def dense_codes(sae: SAE, z: Tensor) -> tuple[Tensor, Tensor | float]:
    """(codes ``[tokens, d_sae]``, penalty), selected by scores and made of pre-activations."""
    kind = sae.sparsifier.name
    score, pre = formula(sae, z)
    if kind in K:
        selected = FORMULAS[kind](sae, z, score)[0] != 0
        return pre.clamp_min(0) * selected, 0.0
    return FORMULAS[kind](sae, z, pre)


def dense_gradients(sae: SAE, z: Tensor) -> tuple[float, dict[str, Tensor]]:
    sae.zero_grad(set_to_none=True)
    codes, penalty = dense_codes(sae, z)
    loss = ((z - codes @ sae.W_dec - sae.decoder.b_dec) ** 2).sum(1).mean() + penalty
    loss.backward()
    return float(loss.detach()), {
        n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in sae.named_parameters()
    }


def begun(form: str, kind: str, x: Tensor, **fields: Any) -> tuple[SAE, Any]:
    """An SAE at the first step of a training, and its configuration."""
    options = dict(FORMS[form])
    config = config_for(
        kind, **{"width": 32, "batch": 64, "tokens": 64 * 40, "lr": 3e-3, "k": K.get(kind), **fields},
        encoder=options.pop("name"), options=options,
    )  # fmt: skip
    sae = SAE(config.sae_config(x.shape[1]))
    begin(sae, x, config.bias_start, config.seed)
    return sae, config


def linear_twin(kind: str, x: Tensor) -> tuple[SAE, Any]:
    config = config_for(kind, width=32, batch=64, tokens=64 * 40, lr=3e-3, k=K.get(kind))
    sae = SAE(config.sae_config(x.shape[1]))
    begin(sae, x, config.bias_start, config.seed)
    return sae, config


def trained(form: str, kind: str, steps: int = 40, **fields: Any) -> Learner:
    x = planted(2000)
    learner = Learner(*begun(form, kind, x, **fields))
    draw = torch.Generator().manual_seed(0)
    for step in range(steps):
        learner.step(x[torch.randint(len(x), (64,), generator=draw)], step)
    return learner
