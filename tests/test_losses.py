"""What training minimises is the formula of the paper, whichever way it is computed, and dead latents come back."""

import functools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from kanary.errors import KanaryError
from kanary.kernels import Pattern
from kanary.sae import SAE, Active
from kanary.sae.parts import SPARSIFIERS, option_names
from kanary.sae.sparsifiers.relu import l1
from kanary.training.config import TrainConfig
from kanary.training.learner import Learner, begin, geometric_median
from kanary.training.revival import REVIVALS
from planted import (
    ELEMENTWISE,
    FORMULAS,
    KINDS,
    config_for,
    dense_loss,
    gradients,
    layout,
    loss_and_gradients,
    planted,
    random_sae,
    train_on,
)

quick = settings(max_examples=15, deadline=None)
NESTED = [(), (2,), (8, 4, 2)]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_same(ours: tuple[float, dict[str, Tensor]], wanted: tuple[float, dict[str, Tensor]]) -> None:
    assert ours[0] == pytest.approx(wanted[0], rel=1e-10)
    assert ours[1].keys() == wanted[1].keys()
    for name in wanted[1]:
        torch.testing.assert_close(ours[1][name], wanted[1][name], msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("shares", NESTED)
@pytest.mark.parametrize("kind", KINDS)
@quick
@given(st.integers(1, 30), st.integers(1, 9), st.integers(0, 2**31), st.sampled_from([2**22, 100, 16]))
def test_the_loss_and_every_gradient_are_those_of_the_dense_formula(
    kind: str, shares: tuple[int, ...], tokens: int, d_model: int, seed: int, tile: int
) -> None:
    if shares and kind not in FORMULAS:
        pytest.skip("prefixes of this kind have no formula here")
    sae, z = random_sae(kind, d_model, seed=seed), numbers(tokens, d_model, seed=seed + 1)
    config = config_for(kind, width=16, matryoshka=shares)
    ours = loss_and_gradients(sae, z, config, "sparse", tile)
    dense = loss_and_gradients(sae, z, config, "dense", tile)
    sae.zero_grad(set_to_none=True)
    loss = dense_loss(sae, z, shares)
    loss.backward()
    wanted = float(loss.detach()), gradients(sae)
    assert_same(ours, wanted)
    assert_same(dense, wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_the_test_above_leaves_no_parameter_without_gradient(kind: str) -> None:
    """Were a parameter unused there, its gradients would agree for nothing."""
    _, found = loss_and_gradients(random_sae(kind), numbers(60, 6), config_for(kind, width=16))
    for name, gradient in found.items():
        assert gradient.abs().max() > 1e-6, name


@pytest.mark.parametrize("kind", ELEMENTWISE)
@pytest.mark.parametrize("which", ["sparse", "dense"])
def test_the_two_layouts_are_really_taken(kind: str, which: str) -> None:
    with layout(which):
        assert (random_sae(kind).train().active(numbers(9, 6)) is None) == (which == "dense")


@pytest.mark.parametrize("revive", [name for name in REVIVALS if name != "none"])
@pytest.mark.parametrize("shares", [(), (4,)])
@pytest.mark.parametrize("kind", KINDS)
def test_repeating_the_batch_changes_neither_loss_nor_gradient(kind: str, shares: tuple[int, ...], revive: str) -> None:
    z, dead = numbers(12, 6), torch.tensor([1, 5, 6, 11])
    found = []
    for batch in (z, torch.cat([z, z])):
        sae = random_sae(kind)
        learner = Learner(sae, config_for(kind, width=16, matryoshka=shares, revive=revive))
        loss = float(learner._backward(batch, dead).loss)
        found.append((loss, gradients(sae)))
    assert_same(found[1], found[0])


@pytest.mark.parametrize("which", ["sparse", "dense"])
@pytest.mark.parametrize("kind", KINDS)
def test_renaming_the_latents_permutes_the_gradients_and_leaves_the_loss(kind: str, which: str) -> None:
    z, order = numbers(20, 6), torch.randperm(16)
    config = config_for(kind, width=16)
    loss, wanted = loss_and_gradients(random_sae(kind), z, config, which)
    renamed = random_sae(kind)
    with torch.no_grad():
        for parameter in renamed.parameters():
            if len(parameter) == 16:
                parameter.copy_(parameter[order])
    permuted = {name: g[order] if len(g) == 16 else g for name, g in wanted.items()}
    assert_same(loss_and_gradients(renamed, z, config, which), (loss, permuted))


@quick
@given(st.floats(0.01, 100), st.integers(0, 2**31))
def test_the_l1_term_does_not_care_how_long_the_directions_are(c: float, seed: int) -> None:
    sae = random_sae("relu", seed=seed)
    codes = numbers(10, 16, seed=seed).clamp_min(0)
    factors = torch.linspace(0.5, 2, 16, dtype=torch.float64) * c
    mask = codes > 0
    pattern = Pattern(mask.nonzero()[:, 1], F.pad(mask.sum(1).cumsum(0), (1, 0)), 16)
    x = numbers(10, 6)
    before = l1(Active(codes, None, x), codes, sae.decoder).item()
    with torch.no_grad():
        sae.decoder.W_dec.mul_(factors[:, None])
    scaled = codes / factors
    dense = l1(Active(scaled, None, x), scaled, sae.decoder).item()
    sparse = l1(Active(scaled[mask], pattern, x), scaled[mask], sae.decoder).item()
    norms = torch.linalg.vector_norm(sae.W_dec.detach(), dim=1)
    assert before == pytest.approx(dense) == pytest.approx(sparse)
    assert sum((row * norms).sum().item() for row in scaled) / 10 == pytest.approx(before)


def test_gated_is_the_papers_gated_sae() -> None:
    """Rajamanoharan et al. 2024 (arXiv 2404.16014), equations 5-9, in the paper's own parameters.

    There the magnitude path's bias stands alone; here it is ``b_mag + exp(r_mag) * b_gate``. The gradients of one
    parametrisation follow from the other's by the chain rule.
    """
    sae, x = random_sae("gated", l1=0.4), numbers(40, 6)
    loss, ours = loss_and_gradients(sae, x, config_for("gated", width=16, l1=0.4))
    part = sae.sparsifier
    W_gate, b_gate, r_mag, W_dec, b_dec = (
        p.detach().clone().requires_grad_()
        for p in (sae.encoder.W_enc, sae.encoder.b_enc, part.r_mag, sae.W_dec, sae.decoder.b_dec)
    )
    b_mag = (part.b_mag + part.r_mag.exp() * sae.encoder.b_enc).detach().clone().requires_grad_()
    pi_gate = (x - b_dec) @ W_gate.T + b_gate
    pi_mag = (x - b_dec) @ (r_mag.exp()[:, None] * W_gate).T + b_mag
    codes = (pi_gate > 0) * F.relu(pi_mag)
    reconstruction = ((x - codes @ W_dec - b_dec) ** 2).sum(1).mean()
    sparsity = 0.4 * (F.relu(pi_gate) * W_dec.norm(dim=1)).sum(1).mean()
    auxiliary = ((x - F.relu(pi_gate) @ W_dec.detach() - b_dec.detach()) ** 2).sum(1).mean()
    total = reconstruction + sparsity + auxiliary
    names = ("W_gate", "b_gate", "r_mag", "W_dec", "b_dec", "b_mag")
    g = dict(zip(names, torch.autograd.grad(total, (W_gate, b_gate, r_mag, W_dec, b_dec, b_mag)), strict=True))
    assert loss == pytest.approx(total.item())
    wanted = {
        "encoder.W_enc": g["W_gate"],
        "encoder.b_enc": g["b_gate"] + r_mag.exp() * g["b_mag"],
        "sparsifier.r_mag": g["r_mag"] + r_mag.exp() * b_gate * g["b_mag"],
        "sparsifier.b_mag": g["b_mag"],
        "decoder.W_dec": g["W_dec"],
        "decoder.b_dec": g["b_dec"],
    }
    assert ours.keys() == wanted.keys()
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, wanted[name].detach(), msg=lambda text, name=name: f"{name}: {text}")
    torch.testing.assert_close(sae.eval().encode(x).to_dense(), codes.detach())


def test_prefixes_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(KanaryError, match="width=48 is not divisible by 5"):
        config_for("topk", width=48, matryoshka=(2, 5)).sae_config(8)


def test_the_first_latents_of_a_matryoshka_sae_reconstruct_better_alone() -> None:
    x = planted(10_000)
    errors = {}
    for shares in ((), (8,)):
        config = config_for("topk", width=64, k=4, batch=128, tokens=128 * 400, lr=3e-3, matryoshka=shares)
        sae = train_on(x, config)[0].sae.eval()
        codes = sae.encode(x).to_dense()[:, :8]
        z = codes @ sae.W_dec[:8] + sae.decoder.b_dec
        errors[shares] = (z - sae.standardise(x)).square().sum(1).mean().item()
    assert errors[(8,)] < 0.9 * errors[()]


# ---- precision ----


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_exact_when_screening_is_rough(kind: str) -> None:
    sae = random_sae(kind, d_model=32, d_sae=256).float().train()
    z = numbers(200, 32).float()
    with layout("sparse"):
        active = sae.active(z, "bf16")
    assert active is not None
    pre = (z.double() - sae.decoder.b_dec.double()) @ sae.encoder.W_enc.double().T + sae.encoder.b_enc.double()
    exact = pre[active.pattern.rows(), active.pattern.latents]
    assert len(exact) > 200
    torch.testing.assert_close(active.pre.double(), exact, rtol=1e-5, atol=1e-5)
    assert (exact.float() - exact.bfloat16().float()).abs().max() > 1e-3  # bf16 would be seen


@pytest.mark.parametrize("kind", KINDS)
def test_rough_screening_trains_to_the_same_explained_variance(kind: str) -> None:
    x = planted(10_000)
    reached = []
    for precision in ("fp32", "bf16"):
        config = config_for(kind, width=64, batch=64, tokens=64 * 150, lr=3e-3, precision=precision)
        sae = train_on(x, config)[0].sae.eval()
        reached.append(1 - ((sae(x) - x).square().sum() / (x - x.mean(0)).square().sum()).item())
    assert reached[0] > 0.5
    assert reached[1] == pytest.approx(reached[0], abs=0.002)


# ---- dead latents ----


def silence(sae: SAE) -> None:
    """Every second latent looks the wrong way, weakly: it reads every activation as negative and never fires."""
    with torch.no_grad():
        sae.encoder.W_enc[::2] *= 0.05
        sae.encoder.b_enc[::2] = -1.0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("revive", ["auxk", "ghost"])
def test_the_revival_loss_reaches_the_encoder_of_dead_latents_and_only_of_those(revive: str, kind: str) -> None:
    sae = random_sae(kind, d_model=8, d_sae=24)
    silence(sae)
    dead, z = torch.arange(0, 24, 2), numbers(50, 8)
    alive = torch.ones(24, dtype=torch.bool).index_fill(0, dead, False)
    error = numbers(50, 8, seed=5).requires_grad_()
    REVIVALS[revive]().loss(sae, z, error, dead).backward()
    found = gradients(sae)
    for name in ("encoder.W_enc", "encoder.b_enc", "decoder.W_dec"):
        assert (found[name][alive] == 0).all(), name
        if "encoder" in name:  # AuxK has no use for the direction of a latent before it is positive somewhere
            assert (found[name].reshape(24, -1).abs().amax(1)[dead] > 1e-9).all(), name
    assert (found["decoder.b_dec"] == 0).all()
    assert error.grad is None  # the reconstruction is not made worse to be easier to model


def test_auxk_is_the_papers_formula() -> None:
    """Gao et al. 2024 (arXiv 2406.04093), A.2: |e - e^|^2 / 32, e^ from the top d_model / 2 dead latents."""
    sae, z, error = random_sae("topk", d_model=8, d_sae=24), numbers(50, 8), numbers(50, 8, seed=5)
    for dead in (torch.arange(0, 24, 2), torch.tensor([4, 7])):
        sae.zero_grad()
        loss = REVIVALS["auxk"]().loss(sae, z, error, dead)
        loss.backward()
        ours = gradients(sae)
        sae.zero_grad()
        k = min(4, len(dead))
        pre = (z - sae.decoder.b_dec.detach()) @ sae.encoder.W_enc[dead].T + sae.encoder.b_enc[dead]
        kept = torch.zeros_like(pre).scatter(1, pre.topk(k, dim=1).indices, 1.0)
        wanted = ((error - (pre.clamp_min(0) * kept) @ sae.W_dec[dead]) ** 2).sum(1).mean() / 32 * (k / 4)
        wanted.backward()
        assert_same((loss.item(), ours), (wanted.item(), gradients(sae)))


def test_ghosts_reconstruct_half_of_the_error_and_weigh_as_much_as_it() -> None:
    sae, z, error = random_sae("topk", d_model=8, d_sae=24), numbers(50, 8), numbers(50, 8, seed=5)
    dead = torch.arange(0, 24, 2)
    loss = REVIVALS["ghost"]().loss(sae, z, error, dead)
    assert loss.item() == pytest.approx((error**2).sum(1).mean().item())
    loss.backward()
    ours = gradients(sae)["encoder.W_enc"]
    sae.zero_grad()
    pre = (z - sae.decoder.b_dec.detach()) @ sae.encoder.W_enc[dead].T + sae.encoder.b_enc[dead]
    ghost = pre.exp() @ sae.W_dec[dead]
    ghost = ghost * (error.norm(dim=1) / ghost.norm(dim=1) / 2).detach()[:, None]
    plain = ((error - ghost) ** 2).sum(1).mean()
    (plain * ((error**2).sum(1).mean() / plain).detach()).backward()
    torch.testing.assert_close(ours, gradients(sae)["encoder.W_enc"])


@functools.cache
def dead_at_the_end(kind: str, revive: str) -> int:
    """Of 96 latents, 48 of them silenced at the start, how many are dead after 120 steps."""
    x = planted(10_000, d_model=32, features=64, active=4)
    k = 4 if "k" in option_names(SPARSIFIERS[kind]) else None
    config = config_for(kind, width=96, k=k, batch=64, tokens=64 * 120, lr=3e-3, revive=revive, dead_after=64 * 20)
    _, stats = train_on(x, config, spoil=silence)
    assert stats[25].dead >= 40  # the plant took
    return int(stats[-1].dead)


@pytest.mark.parametrize("revive", [name for name in REVIVALS if name != "none"])
@pytest.mark.parametrize("kind", KINDS)
def test_dead_latents_come_back(kind: str, revive: str) -> None:
    assert dead_at_the_end(kind, revive) < 0.75 * dead_at_the_end(kind, "none")


def test_resampled_latents_start_as_the_worst_reconstructed_inputs() -> None:
    x = planted(2000)
    config = config_for("topk", width=64, k=4, batch=200, tokens=200 * 80, revive="resample", dead_after=400)
    learner, _ = train_on(x, TrainConfig(**{**vars(config), "revive": "none"}), spoil=silence)
    sae, z = learner.sae, learner.sae.standardise(x[:200])
    dead = (learner.since_fired >= 400).nonzero().squeeze(1)
    assert len(dead) > 10
    before = {name: p.detach().clone() for name, p in sae.named_parameters()}
    error = (sae.eval()(x[:200]) - x[:200]).norm(dim=1)
    sae.train()
    for moments in learner.optimizer.state.values():
        for key in ("exp_avg", "exp_avg_sq"):
            moments[key].fill_(1.0)
    learner.revival = REVIVALS["resample"]()
    fresh = learner.revival.after_step(sae, z, dead, 10, 80, 0, learner._reset_moments)
    assert fresh is not None
    assert torch.equal(fresh, dead)
    inputs = F.normalize(z - before["decoder.b_dec"], dim=1)
    near = sae.W_dec[dead].detach() @ inputs.T
    assert near.max(1).values.min() > 0.9999  # each is one of the inputs …
    assert error[near.argmax(1)].mean() > error.mean()  # … and of the badly reconstructed ones
    torch.testing.assert_close(F.normalize(sae.encoder.W_enc[dead], dim=1), sae.W_dec[dead])
    alive = torch.ones(64, dtype=torch.bool).index_fill(0, dead, False)
    for name, parameter in sae.named_parameters():
        if len(parameter) == 64:
            assert torch.equal(parameter[alive], before[name][alive])
            moments = learner.optimizer.state[parameter]
            for key in ("exp_avg", "exp_avg_sq"):
                assert (moments[key][dead] == 0).all()
                assert (moments[key][alive] == 1).all()
    assert learner.revival.after_step(sae, z, dead, 11, 80, 0, learner._reset_moments) is None


@pytest.mark.parametrize("kind", ELEMENTWISE)
def test_resampling_works_while_most_latents_fire(kind: str) -> None:
    x = planted(1000)
    config = config_for(kind, width=32, batch=100, tokens=8000, revive="resample", dead_after=300)
    with layout("dense"):
        _, stats = train_on(x, config, spoil=silence)
    assert stats[9].dead > 0
    assert stats[-1].dead < stats[9].dead


# ---- one step ----


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_keeps_directions_at_unit_length_and_counts_what_fired(kind: str) -> None:
    x = planted(1000)
    learner, _ = train_on(x, config_for(kind, width=32, batch=100, tokens=500))
    learner.since_fired.fill_(1000)
    z = learner.sae.standardise(x[:100])
    codes = learner.sae.train().encode(x[:100]).to_dense()
    stats = learner.step(x[:100], 3)
    torch.testing.assert_close(learner.sae.W_dec.norm(dim=1), torch.ones(32))
    assert torch.equal(learner.since_fired == 0, (codes != 0).any(0))
    assert set(learner.since_fired.tolist()) <= {0, 1100}
    assert stats.l0 == pytest.approx(float((codes != 0).sum(1).float().mean()))
    assert stats.dead == 32
    assert stats.explained_variance == pytest.approx(1 - stats.mse / float((z - z.mean(0)).square().sum(1).mean()))


@pytest.mark.parametrize("which", ["sparse", "dense"])
@pytest.mark.parametrize("kind", ELEMENTWISE)
def test_the_smallest_code_of_a_batch_is_not_zero_while_anything_fires(kind: str, which: str) -> None:
    sae, z = random_sae(kind), numbers(40, 6)
    z[::2] = sae.decoder.b_dec.detach()  # these fire nothing, or little
    with torch.no_grad():
        sae.encoder.b_enc.sub_(1.0)
    codes = sae.encode(z)
    assert 0 in codes.l0()
    with layout(which, tile=16):  # a token at a time
        batch = Learner(sae, config_for(kind, width=16))._backward(z, torch.zeros(0, dtype=torch.int64))
    assert batch.smallest == pytest.approx(codes.values.min().item())
    assert batch.l0 == pytest.approx(codes.l0().double().mean().item())
    assert set(batch.fired.tolist()) == set(codes.indices.tolist())


def test_the_gradient_of_a_direction_has_no_part_along_it() -> None:
    sae = random_sae("relu")
    sae.decoder.normalise()
    loss_and_gradients(sae, numbers(20, 6), config_for("relu", width=16))
    before = sae.W_dec.grad.clone()
    sae.decoder.project_gradient()
    along = (before * sae.W_dec).sum(1, keepdim=True)
    assert along.abs().max() > 1e-3
    torch.testing.assert_close(sae.W_dec.grad, before - along * sae.W_dec)


def test_nan_stops_the_step_and_leaves_the_weights_as_they_were() -> None:
    x = planted(500)
    learner, _ = train_on(x, config_for("topk", width=32, k=4, batch=100, tokens=500))
    before = {k: v.clone() for k, v in learner.sae.state_dict().items()}
    broken = x[:100].clone()
    broken[3, 4] = float("nan")
    with pytest.raises(FloatingPointError):
        learner.step(broken, 4)
    for name, tensor in learner.sae.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_the_learning_rate_rises_stays_and_falls() -> None:
    config = config_for("topk", width=32, k=4, batch=100, tokens=10_000, lr=1.0, lr_warmup=0.1, lr_decay=0.2)
    _, stats = train_on(planted(500), config)
    wanted = [(s + 1) / 10 for s in range(10)] + [1.0] * 71 + [(100 - s) / 20 for s in range(81, 100)]
    assert [s.lr for s in stats] == pytest.approx(wanted)


@pytest.mark.parametrize("start", ["median", "mean", "zero"])
def test_the_first_bias_is_what_its_name_says(start: str) -> None:
    x = planted(400)
    x[:20] += 500  # outliers, which a median does not follow
    sae = SAE(config_for("relu", width=8).sae_config(16))
    begin(sae, x, start, seed=0)
    z = sae.standardise(x)
    wanted = {"mean": z.mean(0), "zero": torch.zeros(16), "median": geometric_median(z)}[start]
    torch.testing.assert_close(sae.decoder.b_dec.detach(), wanted)
    torch.testing.assert_close(sae.mean, x.mean(0))
    assert float(z.square().sum(1).mean()) == pytest.approx(16, rel=1e-4)


@quick
@given(st.integers(3, 40), st.integers(1, 5), st.integers(0, 2**31))
def test_no_point_is_nearer_to_all_others_than_the_geometric_median(n: int, d: int, seed: int) -> None:
    z = numbers(n, d, seed=seed)
    best = (z - geometric_median(z)).norm(dim=1).sum()
    for other in (z.mean(0), z.median(0).values, *z, *(geometric_median(z) + 0.05 * numbers(10, d, seed=seed))):
        assert best <= (z - other).norm(dim=1).sum() + 1e-3


def test_activations_that_are_all_equal_are_refused() -> None:
    with pytest.raises(KanaryError, match="All activations are equal"):
        begin(SAE(config_for("relu", width=8).sae_config(4)), torch.ones(10, 4), "mean", 0)


def test_mistyped_choices_are_refused_with_the_nearest() -> None:
    for fields, words in (
        ({"revive": "aux"}, "'auxk'"),
        ({"bias_start": "medain"}, "'median'"),
        ({"precision": "fp16"}, "bf16"),
        ({"tokens": 10}, "less than one batch"),
        ({"lr_warmup": 2.0}, "between 0 and 1"),
    ):
        with pytest.raises(KanaryError, match=words):
            config_for("topk", **fields)
    with pytest.raises(KanaryError, match=r"l0_penalty=1\.0 is not an option of linear, topk"):
        config_for("topk", l0_penalty=1.0).sae_config(8)


def started(kind: str, **fields: Any) -> tuple[SAE, Tensor]:
    x = planted(4096)
    sae = SAE(config_for(kind, width=256, **fields).sae_config(16))
    begin(sae, x, "median", 0)
    return sae, x


@pytest.mark.parametrize("kind", ELEMENTWISE)
def test_a_penalised_sae_starts_with_about_as_many_active_latents_as_it_asks_for(kind: str) -> None:
    sae, x = started(kind)
    wanted = sae.sparsifier.start()
    l0 = sae.encode(x).l0().double().mean()
    if wanted is None:
        pytest.skip(f"{kind} takes them as they come")
    assert float(l0) == pytest.approx(wanted[0], rel=0.05)
