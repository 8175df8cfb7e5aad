"""KAN encoders in training: functions join and learn at their pace, grids follow the data, what is saved or reset is whole."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from kan_encoders import (
    CASES,
    FORMS,
    KINDS,
    PARTS,
    basis_of,
    begun,
    formula,
    kan_sae,
    numbers,
    trained,
)
from kanary.errors import KanaryError
from kanary.sae import SAE
from kanary.sae.parts import ENCODERS
from kanary.sae.spread import Spread
from kanary.splines import make_basis
from kanary.training.learner import Learner, begin
from planted import config_for, planted


@pytest.mark.parametrize(
    ("form", "kind"), [(form, kind) for form, kind in CASES if form in (*PARTS, "edge-silu", "edge-none")]
)
def test_training_lowers_the_loss_and_moves_functions_only_once_they_join(form: str, kind: str) -> None:
    x = planted(2000)
    learner = Learner(*begun(form, kind, x, lr=1e-2))
    part, draw, losses = learner.sae.encoder, torch.Generator().manual_seed(0), []
    names = set(part.paces(0, 40))
    start = {name: p.detach().clone() for name, p in part.named_parameters() if name in names}
    assert start
    for step in range(24):
        losses.append(learner.step(x[torch.randint(len(x), (64,), generator=draw)], step).mse)
        for name, p in part.named_parameters():
            if name in names and form != "edge-none":
                # P has no gradient in the very first step of V
                assert torch.equal(p, start[name]) == (step < 4 or (step == 4 and name in ("P", "c", "coefficients")))
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    assert all(not torch.equal(p, start[name]) for name, p in part.named_parameters() if name in names)


@pytest.mark.parametrize("form", PARTS)
def test_functions_learn_at_their_pace(form: str) -> None:
    part = begun(form, "topk", planted(200))[0].encoder
    functions = {"node": "curves.coefficients", "hidden": "coefficients", "edge": "V", "mlp": None}[form]
    for step, joined in ((0, 0.0), (9, 0.0), (10, 1.0), (99, 1.0)):
        for name, pace in part.paces(step, 100).items():
            assert pace == joined * (0.1 if name == functions else 1.0)


@pytest.mark.parametrize("form", PARTS)
def test_multiplying_the_activations_changes_nothing(form: str) -> None:
    x, found = planted(1024), []
    for factor in (1.0, 1024.0):  # a power of two, so that rounding is the same
        learner = Learner(*begun(form, "topk", x * factor))
        for step, batch in enumerate(x.split(64)):
            learner.step(batch * factor, step)
        found.append(learner.sae.eval().encode(x[:50] * factor).to_dense())
        assert any(
            p.any() for name, p in learner.sae.encoder.named_parameters() if name in ("V", "curves.coefficients")
        )
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", PARTS)
def test_a_training_that_was_interrupted_ends_with_the_same_weights(form: str, kind: str) -> None:
    batches = planted(64 * 10).split(64)
    whole, again = (Learner(*begun(form, kind, torch.cat(batches[:3]))) for _ in range(2))
    for step, batch in enumerate(batches):
        if step == 6:  # functions have joined (4), grids have moved (4) and will again (8)
            again.load({name: tensor.clone() for name, tensor in whole.state().items()})
        if step >= 6:
            again.step(batch, step)
        whole.step(batch, step)
    for name, tensor in whole.state().items():
        assert torch.equal(again.state()[name], tensor), name


def test_both_starts_of_a_latents_function_lead_to_the_same_codes() -> None:
    """They describe the same functions by numbers that differ by a constant, which Adam does not see."""
    x = planted(500)
    found = []
    for start in ("zero", "relu"):
        config = config_for("topk", width=32, batch=64, tokens=64 * 40, lr=3e-3, k=3, encoder="kan-node",
                            options={"start": start, "pace": 1.0})  # fmt: skip
        sae = SAE(config.sae_config(16)).double()
        begin(sae, x.double(), "median", 0)
        learner, draw = Learner(sae, config), torch.Generator().manual_seed(0)
        for step in range(40):
            learner.step(x[torch.randint(len(x), (64,), generator=draw)].double(), step)
        found.append(sae.eval().encode(x.double()).to_dense())
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("form", "kind"), CASES)
def test_a_saved_and_loaded_sae_gives_the_same_codes(form: str, kind: str, tmp_path: Path) -> None:
    sae, x = kan_sae(form, kind).float(), numbers(30, 6).float()
    sae.save_pretrained(tmp_path / "sae")
    loaded = SAE.from_pretrained(tmp_path / "sae")
    assert loaded.encoder.options == sae.encoder.options
    assert torch.equal(loaded.encode(x).to_dense(), sae.encode(x).to_dense())
    assert (sae.encode(x).values != 0).any()
    assert torch.equal(loaded(x), sae(x))


@pytest.mark.parametrize("revive", ["auxk", "ghost", "resample"])
@pytest.mark.parametrize("form", PARTS)
def test_dead_latents_are_brought_back_as_with_a_linear_encoder(form: str, revive: str) -> None:
    x = planted(64 * 24)
    sae, config = begun(form, "topk", x[:200], revive=revive, dead_after=64, tokens=64 * 24)
    with torch.no_grad():
        sae.encoder.raise_by(F.pad(torch.full((6,), -1e3), (0, 26)))
    learner = Learner(sae, config)
    stats = [learner.step(batch, step) for step, batch in enumerate(x.split(64))]
    assert stats[2].dead >= 6
    assert all(torch.isfinite(p).all() for p in sae.parameters())
    if revive == "resample":
        assert stats[-1].dead < stats[2].dead


# ---- tie, raise, reset ----


@pytest.mark.parametrize("form", FORMS)
def test_a_reset_latent_is_linear_again_and_the_others_stay(form: str) -> None:
    sae, x = kan_sae(form, "topk"), numbers(40, 6)
    before = {name: p.detach().clone() for name, p in sae.encoder.named_parameters()}
    some, rest = torch.tensor([2, 9]), torch.tensor([i for i in range(16) if i not in (2, 9)])
    directions = F.normalize(numbers(2, 6, seed=8), dim=1)
    sae.encoder.reset(some, directions)
    _, pre = formula(sae, x)
    shifted = x - sae.decoder.b_dec
    if form != "edge-silu":
        line = shifted @ directions.T
        size = (pre[:, some] * line).sum() / line.square().sum()
        assert size > 0
        on = pre[:, some] > 0 if form.startswith("node") else torch.ones_like(line, dtype=torch.bool)
        torch.testing.assert_close(pre[:, some][on], (size * line)[on])
    for name, p in sae.encoder.named_parameters():
        if len(p) == 16:
            assert torch.equal(p[rest], before[name][rest])
        else:
            assert torch.equal(p, before[name])


@pytest.mark.parametrize("form", FORMS)
def test_tying_forgets_the_functions_and_raising_moves_scores(form: str) -> None:
    sae, x = kan_sae(form, "topk"), numbers(40, 6)
    directions = F.normalize(numbers(16, 6, seed=8), dim=1) * 0.7
    sae.encoder.tie(directions)
    amount = numbers(16, seed=2)
    sae.encoder.raise_by(amount)
    shifted = x - sae.decoder.b_dec
    based = F.silu(shifted) if form == "edge-silu" else shifted
    wanted = based @ directions.T + amount
    torch.testing.assert_close(sae.encoder(shifted), wanted)
    torch.testing.assert_close(formula(sae, x)[1], wanted)


def test_hidden_units_begin_as_different_directions_however_many_they_are() -> None:
    encoder = ENCODERS["mlp"](5, 8, ENCODERS["mlp"].Options(hidden=40))
    encoder.tie(F.normalize(numbers(8, 5).float(), dim=1) * 3)
    torch.testing.assert_close(encoder.P.norm(dim=1), torch.ones(40))
    assert (encoder.P @ encoder.P.T - torch.eye(40)).max() < 0.999


# ---- grids ----


def test_grids_follow_the_data_within_its_extremes_and_constant_columns_have_one_too() -> None:
    draw = torch.Generator().manual_seed(0)
    data = torch.randn(3000, 4, generator=draw) * torch.tensor([1.0, 5.0, 0.0, 1e-6]) + torch.tensor([2.0, 0, 7, 0])
    data[:, 1].clamp_(-3, 20)
    spread = Spread(4)
    assert spread.range() is None
    for batch in data.split(500):
        spread.count(batch)
    low, high = spread.range()
    mean, deviation = data.mean(0), data.std(0, correction=0)
    torch.testing.assert_close(
        low[:2], torch.stack([mean[0] - 3 * deviation[0], torch.tensor(-3.0)]), rtol=1e-3, atol=0
    )
    torch.testing.assert_close(high[:2], torch.stack([mean[0] + 3 * deviation[0], mean[1] + 3 * deviation[1]]))
    assert (low <= data.amin(0))[2:].all()
    assert (high >= data.amax(0))[2:].all()
    assert (high - low > 0.05).all()
    spread.forget()
    spread.count(torch.full((100, 4), 3.0))  # nothing to learn from
    assert spread.range() is None


@pytest.mark.parametrize("name", ["hat", "bspline", "chebyshev"])
def test_functions_that_change_grids_stay_as_they_were(name: str) -> None:
    basis = make_basis(name, 6, 3).double()
    coefficients = torch.zeros(5, 3, 6, dtype=torch.float64)
    x = numbers(200, 3)
    lines = torch.stack([torch.linalg.lstsq(basis_of(basis, x)[:, j], 2 * x[:, j]).solution for j in range(3)])
    coefficients[:] = lines
    spread = Spread(3).double()
    spread.count(x)
    spread.place(basis, coefficients)
    low, high = (x.mean(0) + sign * 3 * x.std(0, correction=0) for sign in (-1, 1))
    torch.testing.assert_close(basis.grid[:, 0], torch.maximum(low, x.amin(0)))
    torch.testing.assert_close(basis.grid[:, -1], torch.minimum(high, x.amax(0)))
    for each in coefficients:
        torch.testing.assert_close(torch.einsum("njg,jg->nj", basis_of(basis, x), each), 2 * x)
    assert spread.rows == 0


@pytest.mark.parametrize("form", ["hidden", "edge", "edge-none"])
def test_the_share_of_tokens_outside_the_grids_is_known(form: str) -> None:
    learner = trained(form, "topk", steps=12)
    part, shift = learner.sae.encoder, learner.sae.decoder.b_dec
    z = learner.sae.standardise(planted(1000))
    inside, far = (part.outside(values, shift).float().mean(0) for values in (z, z * 100))
    assert inside.shape == far.shape == (len(part.basis.grid),)
    assert inside.mean() < 0.05
    assert far.mean() > 0.8
    values = z - shift if form != "hidden" else F.linear(z - shift, part.P, part.c)
    wanted = [part.basis.share_outside(values[:, j], torch.full((1000,), j)) for j in range(values.shape[1])]
    torch.testing.assert_close(inside, torch.tensor(wanted))


@pytest.mark.parametrize("form", FORMS)
def test_dimensions_that_never_change_do_no_harm(form: str) -> None:
    x = planted(2000)
    x[:, 3], x[:, 5] = 4.0, 0.0
    learner = Learner(*begun(form, "topk", x))
    stats = [learner.step(x[64 * step :][:64], step) for step in range(30)]
    assert stats[-1].mse < stats[0].mse
    assert all(torch.isfinite(p).all() for p in learner.sae.parameters())
    moved = x[:50].clone()
    moved[:, 3] += 1.0  # a dimension that begins to change is no catastrophe
    assert (learner.sae.eval()(moved) - learner.sae(x[:50])).abs().max() < 50


@pytest.mark.parametrize("form", PARTS)
def test_nan_is_refused_at_inference_and_leaves_the_weights_in_training(form: str) -> None:
    learner = trained(form, "topk", steps=6)
    before = {name: p.detach().clone() for name, p in learner.sae.named_parameters()}
    x = planted(64)
    x[5, 3] = float("nan")
    with pytest.raises(KanaryError, match=r"Activation 5 .*NaN"):
        learner.sae.encode(x)
    with pytest.raises(FloatingPointError):
        learner.step(x, 30)
    assert all(torch.equal(p, before[name]) for name, p in learner.sae.named_parameters())
