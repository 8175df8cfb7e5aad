"""An encoder that corrects its scores by what the reconstruction missed equals its formula, written out densely."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kan_encoders import KINDS, K, linear_twin, numbers
from kanary.errors import KanaryError
from kanary.sae import SAE, SAEConfig
from kanary.sae.cost import flops
from kanary.sae.store import described
from kanary.training.learner import Learner, begin
from planted import ELEMENTWISE, FORMULAS, config_for, layout, loss_and_gradients, planted, train_on


def refined(kind: str, **options: int) -> SAE:
    """A float64 SAE of 16 latents of 6 dimensions with random parameters."""
    sparsifier = {"name": kind, **({"k": 3} if kind in K else {})}
    sae = SAE(SAEConfig(6, 16, encoder={"name": "refine", "candidates": 2, **options}, sparsifier=sparsifier)).double()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            noise = torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
            parameter.copy_(0.3 + noise.abs() / 2 if name.endswith("threshold") else noise / 3)
    return sae


def begun(kind: str, x: Tensor, **options: Any) -> tuple[SAE, Any]:
    config = config_for(kind, width=32, batch=64, tokens=64 * 40, lr=3e-3, k=K.get(kind),
                        encoder="refine", options={"joins": 0.1, **options})  # fmt: skip
    sae = SAE(config.sae_config(x.shape[1]))
    begin(sae, x, config.bias_start, config.seed)
    return sae, config


def dense(sae: SAE, z: Tensor) -> tuple[Tensor, Tensor | float]:
    """(codes, penalty) of every latent, in training."""
    kind, part = sae.sparsifier.name, sae.encoder
    pre = (z - sae.decoder.b_dec) @ part.W_enc.T + part.b_enc
    if kind in ELEMENTWISE:
        candidates = sae.sparsifier.mask(pre.detach())
    else:
        candidates = largest(pre, 2 * 3, kind)
    for gain in part.gain.unbind(1):
        codes = codes_of(sae, z, pre, candidates)[0]
        pre = pre + candidates * gain * torch.einsum("nd,nid->ni", z - decoded(sae, codes), tangents(sae, codes))
    return codes_of(sae, z, pre, candidates)


def bends(sae: SAE, codes: Tensor, order: int) -> Tensor:
    """``[tokens, d_sae, R]``: the functions of the decoder, or their slopes, at every code."""
    curves, (n, m) = sae.decoder.curves, codes.shape
    basis = curves.basis.dense(codes.reshape(-1), torch.arange(m).expand(n, m).reshape(-1), order)  # [n m, G]
    return torch.einsum("nig,irg->nir", basis.view(n, m, -1)[..., 1:], curves.coefficients)


def decoded(sae: SAE, codes: Tensor) -> Tensor:
    x_hat = codes @ sae.W_dec + sae.decoder.b_dec
    if sae.decoder.name == "linear":
        return x_hat
    return x_hat + torch.einsum("nir,ird->nd", bends(sae, codes, 0), sae.decoder.W_bend)


def tangents(sae: SAE, codes: Tensor) -> Tensor:
    """``[tokens, d_sae, d_model]``"""
    if sae.decoder.name == "linear":
        return sae.W_dec.expand(len(codes), -1, -1)
    slopes = bends(sae, codes.detach(), 1)
    raw = sae.W_dec + torch.einsum("nir,ird->nid", slopes, sae.decoder.W_bend)
    return raw / (1 + slopes.square().sum(2, keepdim=True)).sqrt()


def bent(kind: str, rank: int) -> SAE:
    """The same with curves for latents, on grids that some codes lie beyond."""
    sparsifier = {"name": kind, **({"k": 3} if kind in K else {})}
    decoder = {"name": "kan-bend", "rank": rank, "knots": 4}
    encoder = {"name": "refine", "candidates": 2}
    sae = SAE(SAEConfig(6, 16, encoder=encoder, decoder=decoder, sparsifier=sparsifier)).double()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            noise = torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
            parameter.copy_(0.3 + noise.abs() / 2 if name.endswith("threshold") else noise / 3)
        sae.decoder.curves.basis.set_range(0.0, 0.5 + torch.rand(16, generator=draw).double())
    return sae


def codes_of(sae: SAE, z: Tensor, pre: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor | float]:
    kind = sae.sparsifier.name
    if kind in ELEMENTWISE:
        return FORMULAS[kind](sae, z, pre)
    return pre.clamp_min(0) * largest(pre.masked_fill(~candidates, -1e9), 3, kind), 0.0


def largest(pre: Tensor, k: int, kind: str) -> Tensor:
    if kind == "topk":
        return torch.zeros_like(pre, dtype=torch.bool).scatter(1, pre.topk(k, dim=1).indices, True)
    return pre >= pre.flatten().topk(k * len(pre)).values[-1]


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_are_those_of_the_formula(kind: str) -> None:
    sae, z = refined(kind), numbers(50, 6)
    sae.train()
    codes, penalty = dense(sae, z)
    loss = ((z - codes @ sae.W_dec - sae.decoder.b_dec) ** 2).sum(1).mean() + penalty
    loss.backward()
    wanted = {name: p.grad.clone() for name, p in sae.named_parameters() if p.grad is not None}
    assert (wanted["encoder.gain"] != 0).any(0).all()
    for which in ("sparse", *(("dense",) if kind in ELEMENTWISE else ())):
        found_loss, found = loss_and_gradients(sae, z, config_for(kind), which, 2**22)
        assert found_loss == pytest.approx(loss.item(), rel=1e-9)
        for name, grad in wanted.items():
            torch.testing.assert_close(found[name], grad, msg=lambda m, n=name, w=which: f"{w} {n}: {m}")


@pytest.mark.parametrize(("kind", "rank"), [("topk", 1), ("jumprelu", 1), ("jumprelu", 2), ("batchtopk", 2)])
def test_with_curves_the_step_is_along_their_tangents(kind: str, rank: int) -> None:
    sae, z = bent(kind, rank), numbers(50, 6)
    sae.train()
    codes, penalty = dense(sae, z)
    loss = ((z - decoded(sae, codes)) ** 2).sum(1).mean() + penalty
    loss.backward()
    wanted = {name: p.grad.clone() for name, p in sae.named_parameters() if p.grad is not None}
    assert all((wanted[name] != 0).any() for name in ("encoder.gain", "decoder.W_bend", "decoder.curves.coefficients"))
    for which in ("sparse", *(("dense",) if kind in ELEMENTWISE else ())):
        found_loss, found = loss_and_gradients(sae, z, config_for(kind), which, 2**22)
        assert found_loss == pytest.approx(loss.item(), rel=1e-9)
        for name, grad in wanted.items():
            torch.testing.assert_close(found[name], grad, msg=lambda m, n=name, w=which: f"{w} {n}: {m}")


CERTAIN = [kind for kind in KINDS if kind != "batchtopk"]  # whose codes depend on its thresholds


@pytest.mark.parametrize("kind", CERTAIN)
def test_codes_and_gradients_reach_the_activations_themselves(kind: str) -> None:
    sae = refined(kind).requires_grad_(False)
    x = numbers(7, 6, seed=3).requires_grad_()
    codes = sae.encode(x)
    wanted = dense(sae, sae.standardise(x))[0]
    torch.testing.assert_close(codes.to_dense(), wanted)
    upstream = numbers(7, 6, seed=9)
    (ours,) = torch.autograd.grad(sae.decode(codes), x, upstream)
    (theirs,) = torch.autograd.grad(wanted @ sae.W_dec, x, upstream)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("kind", ELEMENTWISE)
def test_lists_and_full_matrices_give_the_same_codes(kind: str) -> None:
    sae, x = refined(kind), numbers(40, 6)
    wanted = sae.encode(x).to_dense()
    with layout("dense"):
        torch.testing.assert_close(sae.train().encode(x).to_dense(), wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_it_begins_and_trains_as_the_linear_encoder_until_it_joins(kind: str) -> None:
    x = planted(300)
    sae, twin = begun(kind, x)[0], linear_twin(kind, x)[0]
    assert torch.equal(sae.encode(x).to_dense(), twin.encode(x).to_dense())
    ours, theirs = Learner(*begun(kind, x)), Learner(*linear_twin(kind, x))
    for step in range(4):  # it joins at step 4 of 40
        assert ours.step(x[step * 64 :][:64], step) == theirs.step(x[step * 64 :][:64], step)
    assert torch.equal(ours.sae.encoder.W_enc, theirs.sae.encoder.W_enc)
    assert not ours.sae.encoder.gain.any()
    ours.step(x[:64], 4)
    assert ours.sae.encoder.gain.any(0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_it_joins_late_where_penalties_or_thresholds_must_settle_unless_told_otherwise(kind: str) -> None:
    steps = range(100)

    def learns(**options: float) -> list[int]:
        return [step for step in steps if refined(kind, **options).encoder.paces(step, 100)["gain"]]

    assert learns() == list(steps[2 if kind == "topk" else 25 :])
    assert learns(joins=0.1) == list(steps[10:])
    assert described(refined(kind)).encoder["joins"] == (0.02 if kind == "topk" else 0.25)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_interrupted_saved_or_loaded_is_the_same(kind: str, tmp_path: Path) -> None:
    batches = planted(64 * 9).split(64)
    whole, again = (Learner(*begun(kind, torch.cat(batches[:3]))) for _ in range(2))
    for step, batch in enumerate(batches):
        if step == 6:
            again.load({name: tensor.clone() for name, tensor in whole.state().items()})
        if step >= 6:
            again.step(batch, step)
        whole.step(batch, step)
    for name, tensor in whole.state().items():
        assert torch.equal(again.state()[name], tensor), name
    sae, x = whole.sae.eval(), planted(50)
    sae.save_pretrained(tmp_path / "sae")
    assert torch.equal(SAE.from_pretrained(tmp_path / "sae").encode(x).to_dense(), sae.encode(x).to_dense())
    alone = torch.cat([sae.encode(row).to_dense() for row in x.split(1)])  # no token sees those beside it
    torch.testing.assert_close(alone, sae.encode(x).to_dense(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["topk", "batchtopk"])
def test_as_many_latents_explain_more(kind: str) -> None:
    x, held = (planted(n, features=64, active=5, seed=seed) for n, seed in ((4000, 0), (1000, 5)))
    missed = {}
    for encoder in ("linear", "refine"):
        config = config_for(kind, width=64, batch=128, tokens=128 * 200, lr=5e-3, k=6, encoder=encoder)
        sae = train_on(x, config)[0].sae.eval()
        codes = sae.encode(held)
        assert float(codes.l0().double().mean()) == pytest.approx(6, rel=0.06)  # BatchTopK's thresholds are learned
        missed[encoder] = (held - sae.decode(codes)).square().sum().item()
    assert missed["refine"] < 0.93 * missed["linear"]


def test_a_latent_that_is_reset_is_linear_again_and_the_others_stay() -> None:
    sae = refined("topk")
    before = sae.encoder.gain.detach().clone()
    sae.encoder.reset(torch.tensor([2, 9]), numbers(2, 6))
    assert not sae.encoder.gain[[2, 9]].any()
    rest = [i for i in range(16) if i not in (2, 9)]
    assert torch.equal(sae.encoder.gain[rest], before[rest])
    sae.encoder.tie(numbers(16, 6))
    assert not sae.encoder.gain.any()


def test_its_cost_grows_with_rounds_and_candidates_alone() -> None:
    linear = flops(SAE(SAEConfig(64, 512, sparsifier={"name": "topk", "k": 8})), 8)
    for rounds, candidates in ((1, 1), (2, 4)):
        encoder = {"name": "refine", "rounds": rounds, "candidates": candidates}
        sae = SAE(SAEConfig(64, 512, encoder=encoder, sparsifier={"name": "topk", "k": 8}))
        assert flops(sae, 8) == linear + rounds * 6 * 64 * 8 * (1 + candidates)
        assert sum(p.numel() for p in sae.parameters()) == 2 * 64 * 512 + 512 + 64 + rounds * 512


def test_the_cost_of_a_decoding_is_that_of_the_decoder_at_hand() -> None:
    made = {}
    for encoder in ({"name": "linear"}, {"name": "refine", "rounds": 3, "candidates": 2}):
        decoder = {"name": "kan-bend", "rank": 2}
        made[encoder["name"]] = SAE(
            SAEConfig(64, 512, encoder=encoder, decoder=decoder, sparsifier={"name": "topk", "k": 8})
        )
    decoding = 3 * 6 * 64 * 8 + 2 * 16 * 8
    along = 2 * 8 * (6 * 64 * 3 + 16 * 2)
    assert flops(made["refine"], 8) == pytest.approx(flops(made["linear"], 8) + 3 * (decoding + along))


@pytest.mark.parametrize("option", ["rounds", "candidates"])
def test_options_that_cannot_be_are_refused_with_a_way_out(option: str) -> None:
    with pytest.raises(KanaryError, match=f"{option}=0: give 1 or more, or --encoder linear"):
        refined("topk", **{option: 0})
