"""KAN decoders in training: directions stay as they should be, grids follow the codes, planted curves are found."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kan_decoders import (
    FORMS,
    KINDS,
    PARTS,
    K,
    batches,
    begun,
    kan_sae,
    numbers,
)
from kanary.lab.synthetic import SyntheticActivations, SyntheticConfig
from kanary.sae import SAE, SparseCodes
from kanary.training.config import TrainConfig
from kanary.training.learner import Learner, begin
from kanary.training.revival import REVIVALS
from planted import planted


def perpendicular(part: Any) -> None:
    """Checks that all directions of every latent have unit length and are perpendicular."""
    frames = torch.cat([part.W_dec[:, None], part.W_bend], 1).double()
    unit = torch.eye(frames.shape[1], dtype=torch.float64).expand(len(frames), -1, -1)
    torch.testing.assert_close(frames @ frames.mT, unit, rtol=0, atol=1e-6)


@pytest.mark.parametrize("form", ["bend", "bend-2"])
def test_directions_stay_perpendicular_and_of_unit_length(form: str) -> None:
    x = planted(2000)
    sae, config = begun(form, "topk", x, lr=0.1)
    learner = Learner(sae, config)
    perpendicular(sae.decoder)
    for step, batch in enumerate(batches(x, 40)):
        learner.step(batch, step)
        perpendicular(sae.decoder)
    part, start = sae.decoder, begun(form, "topk", x)[0].decoder
    assert (part.W_bend * start.W_bend).sum(2).abs().min() < 0.9  # they have turned
    for parameter in (part.W_dec, part.W_bend):
        parameter.grad = torch.randn(parameter.shape)
    part.project_gradient()
    for direction in (part.W_dec, *part.W_bend.unbind(1)):
        assert (part.W_bend.grad * direction[:, None]).sum(2).abs().max() < 1e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", PARTS)
def test_an_interrupted_training_ends_with_the_same_weights(form: str, kind: str) -> None:
    x = planted(2000)
    whole, steps = Learner(*begun(form, kind, x)), batches(x, 10)
    for step, batch in enumerate(steps):
        whole.step(batch, step)
    for stop in (3, 5, 9):  # before the functions join (4), between both moves of the grids (4, 5), and after
        first = Learner(*begun(form, kind, x))
        for step in range(stop):
            first.step(steps[step], step)
        state = {name: tensor.clone() for name, tensor in first.state().items()}
        again = Learner(*begun(form, kind, x[:500]))
        again.load(state)
        for step in range(stop, 10):
            again.step(steps[step], step)
        for name, tensor in whole.state().items():
            assert torch.equal(again.state()[name], tensor), f"{name} after a stop at {stop}"
    assert (whole.sae.decoder.curves.basis.grid[:, 1] != 1).all()


@pytest.mark.parametrize("form", PARTS)
@pytest.mark.parametrize("joins", [0.0, 0.1, 0.4])
def test_trainings_of_a_few_steps_work(form: str, joins: float) -> None:
    x = planted(500)
    for steps in range(1, 6):
        sae, config = begun(form, "topk", x, tokens=64 * steps)
        sae.decoder.curves.schedule.joins = joins
        learner = Learner(sae, config)
        for step, batch in enumerate(batches(x, steps)):
            assert learner.step(batch, step).loss < 1e3
        assert sae.eval()(x[:9]).isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
def test_a_saved_and_loaded_sae_is_the_same(form: str, kind: str, tmp_path: Path) -> None:
    x = planted(1000)
    learner = Learner(*begun(form, kind, x))
    for step, batch in enumerate(batches(x, 6)):
        learner.step(batch, step)
    sae = learner.sae.eval()
    assert sae.decoder.coefficients().any()
    sae.save_pretrained(tmp_path / "sae")
    loaded = SAE.from_pretrained(tmp_path / "sae")
    assert loaded.decoder.options == sae.decoder.options
    assert torch.equal(loaded(x), sae(x))
    assert torch.equal(loaded.encode(x).to_dense(), sae.encode(x).to_dense())


@pytest.mark.parametrize("form", PARTS)
def test_multiplying_the_activations_changes_nothing(form: str) -> None:
    x, found = planted(1000), []
    for factor in (1.0, 1000.0):
        sae, config = begun(form, "topk", x * factor)
        learner = Learner(sae, config)
        for step, batch in enumerate(batches(x * factor, 12)):
            learner.step(batch, step)
        found.append(sae.eval()(x[:50] * factor) / factor)
    torch.testing.assert_close(found[0], found[1], rtol=1e-2, atol=1e-2 * float(x.abs().max()))


@pytest.mark.parametrize("revive", sorted(REVIVALS))
@pytest.mark.parametrize("form", PARTS)
def test_dead_latents_may_be_brought_back_in_every_way(form: str, revive: str) -> None:
    x = planted(1000)
    learner = Learner(*begun(form, "topk", x, revive=revive, dead_after=64, width=64))
    dead = 0
    for step, batch in enumerate(batches(x, 12)):
        dead += learner.step(batch, step).dead
    assert dead > 0
    assert learner.sae.eval()(x).isfinite().all()


@pytest.mark.parametrize("form", FORMS)
def test_latents_that_start_anew_are_straight(form: str) -> None:
    sae = kan_sae(form)
    before = copy.deepcopy(sae.decoder)
    latents, directions = torch.tensor([2, 9]), F.normalize(numbers(2, 6), dim=1)
    sae.decoder.reset(latents, directions)
    others = torch.ones(16, dtype=torch.bool).index_fill_(0, latents, False)
    for name, parameter in sae.decoder.named_parameters():
        if name != "b_dec":
            assert torch.equal(parameter[others], before.get_parameter(name)[others]), name
    codes = torch.tensor([0.5, 30.0], dtype=torch.float64)
    torch.testing.assert_close(sae.decoder.contribution(latents, codes), codes[:, None] * directions)
    if hasattr(sae.decoder, "W_bend"):
        sae.decoder.W_dec.data /= sae.decoder.norms()[:, None]
        perpendicular(sae.decoder)


@pytest.mark.parametrize("kind", ["relu", "topk"])
def test_grids_learn_from_the_codes_of_every_batch(kind: str) -> None:
    x = planted(2000)
    learner = Learner(*begun("gain", kind, x))
    reach, seen = learner.sae.decoder.curves.reach, []
    for step, batch in enumerate(batches(x, 3)):
        z = learner.sae.standardise(batch)
        active = learner.sae.active(z) or learner.sae.all_active(z)
        codes = learner.sae.sparsifier.activate(active).detach()
        dense = codes if active.pattern is None else SparseCodes.of(codes, active.pattern, (64,)).to_dense()
        seen.append(dense)
        learner.step(batch, step)
    seen = torch.cat(seen)
    assert torch.equal(reach.counts, (seen > 0).sum(0).float())
    torch.testing.assert_close(reach.sums, seen.sum(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(reach.largest, seen.amax(0))


@pytest.fixture(scope="module")
def curved() -> tuple[list[Tensor], Tensor]:
    """Batches of features that turn by a right angle as they grow, and activations to test with."""
    config = SyntheticConfig(features=8, d_model=16, active=1.5, zipf=0.0, curved=1.0, directions="spread")
    source = SyntheticActivations(config)
    made = source.batches(128)
    return [next(made)[0] for _ in range(60)], next(source.batches(2000, stream="test"))[0]


def unexplained(form: str, kind: str, curved: tuple[list[Tensor], Tensor], steps: int = 300) -> float:
    """The share of the variance that an SAE of as many latents as there are features leaves unexplained."""
    made, test = curved
    given = {"width": 8, "batch": 128, "tokens": 128 * steps, "lr": 1e-2, "k": K.get(kind) and 2}
    learner = Learner(*begun(form, kind, torch.cat(made[:10]), **given))
    for step in range(steps):
        learner.step(made[step % len(made)], step)
    with torch.no_grad():
        return float((learner.sae.eval()(test) - test).square().sum() / (test - test.mean(0)).square().sum())


@pytest.mark.parametrize(("kind", "forms"), [("topk", ["bend", "curve"]), ("relu", ["bend"])])
def test_planted_curves_are_reconstructed_better_than_by_straight_latents(
    kind: str, forms: list[str], curved: tuple[list[Tensor], Tensor]
) -> None:
    linear = unexplained("linear", kind, curved)
    for form in forms:
        assert unexplained(form, kind, curved) < 0.7 * linear, form


def test_the_angle_of_planted_curves_is_read_back_after_training() -> None:
    planted_curves = SyntheticConfig(
        features=6, d_model=12, active=1.5, zipf=0.0, curved=0.5, turn=math.radians(60), directions="spread"
    )
    source, steps, size = SyntheticActivations(planted_curves), 1000, 128
    config = TrainConfig(sae="topk", k=2, width=6, batch=size, tokens=steps * size, decoder="kan-bend", lr=0.02)
    sae = SAE(config.sae_config(12, {"site": "synthetic", "model": "planted"}))
    begin(sae, next(source.batches(4096, stream="first"))[0], "median", config.seed)
    learner = Learner(sae, config)
    for step, (x, _) in zip(range(steps), source.batches(size), strict=False):
        learner.step(x, step)
    x, truth = next(source.batches(8192, stream="judge"))
    fires, fired = (codes.to_dense() > 0 for codes in (sae.eval().encode(x), truth))
    both = torch.corrcoef(torch.cat([fired, fires], 1).double().T)[:6, 6:].nan_to_num()
    own = both.max(1)
    found = [each.turning for each in sae.splines(own.indices, x)]
    curved, straight = (
        [found[i] for i in range(6) if own.values[i] > 0.8 and source.is_curved[i] == on] for on in (True, False)
    )
    # intensities are spread evenly, so that 80 % of the turn lies between a tenth and nine tenths of them
    assert len(curved) == 3
    assert curved == pytest.approx([48.0] * 3, abs=6)
    assert straight
    assert max(straight) < 10
