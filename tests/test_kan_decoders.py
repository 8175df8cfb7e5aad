"""Decoders with learned functions: the linear SAE at the start, the plain formulas after it, and curves that are found."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kanary.errors import KanaryError
from kanary.kernels import Pattern
from kanary.lab.synthetic import SyntheticActivations, SyntheticConfig
from kanary.sae import SAE, Active, SAEConfig, SparseCodes
from kanary.training.config import TrainConfig
from kanary.training.learner import Learner, begin
from kanary.training.revival import REVIVALS
from planted import FORMULAS, config_for, loss_and_gradients, planted

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


@pytest.mark.parametrize(("kind", "which"), LAYOUTS)
@pytest.mark.parametrize("form", FORMS)
def test_loss_and_every_gradient_are_those_of_the_dense_formula(form: str, kind: str, which: str) -> None:
    sae, z, shares = kan_sae(form, kind), numbers(40, 6), (2,) if form in PARTS else ()
    loss, ours = loss_and_gradients(sae, z, config_for(kind, width=16, matryoshka=shares), which)
    sae.zero_grad(set_to_none=True)
    wanted = dense_loss(sae, z, shares)
    wanted.backward()
    assert loss == pytest.approx(wanted.item(), rel=1e-9)
    for name, parameter in sae.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 1e-3, name
        torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-6, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("form", FORMS)
def test_gradients_of_codes_and_of_every_parameter_are_finite_differences(form: str) -> None:
    sae = kan_sae(form, d_model=4, d_sae=5)
    names, parameters = zip(*sae.decoder.named_parameters(), strict=True)
    pattern = Pattern(torch.tensor([3, 0, 3, 1, 4, 2, 0]), torch.tensor([0, 2, 5, 5, 7]), 5)
    codes = (numbers(7).abs() * 0.7 + 0.05).requires_grad_()

    def run(values: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        weights = dict(zip(names, weights, strict=True))
        out = torch.func.functional_call(sae.decoder, weights, (values, pattern))
        added_lengths = torch.func.functional_call(_Lengths(sae), {f"part.{n}": w for n, w in weights.items()}, values)
        return out, added_lengths

    class _Lengths(torch.nn.Module):
        def __init__(self, sae: SAE) -> None:
            super().__init__()
            self.part = sae.decoder

        def forward(self, values: Tensor) -> Tensor:
            return self.part.lengths(Active(values, pattern, torch.zeros(4, 4)), values)

    given = tuple(p.detach().clone().requires_grad_() for p in parameters)
    assert torch.autograd.gradcheck(run, (codes, *given), eps=1e-7, atol=1e-5, fast_mode=True)


@pytest.mark.parametrize("form", FORMS)
def test_dense_codes_and_lists_of_codes_decode_alike_and_only_the_active_get_gradients(form: str) -> None:
    sae = kan_sae(form)
    dense = numbers(30, 16).clamp_min(0.7) - 0.7
    dense[:, 5] = 0
    codes = SparseCodes.from_dense(dense)
    torch.testing.assert_close(sae.decoder(codes.values, codes.pattern), decoded(sae, dense))
    torch.testing.assert_close(sae.decoder(dense, None), decoded(sae, dense))
    active = Active(codes.values, codes.pattern, dense), Active(dense, None, dense)
    rows, latents = dense.nonzero(as_tuple=True)
    torch.testing.assert_close(
        sae.decoder.lengths(active[0], codes.values), sae.decoder.lengths(active[1], dense)[rows, latents]
    )
    sae.decoder(codes.values, codes.pattern).square().sum().backward()
    for name, parameter in sae.decoder.named_parameters():
        if name != "b_dec":
            assert not parameter.grad[5].any(), name
            assert parameter.grad[4].any(), name
    nothing = Pattern(torch.zeros(0, dtype=torch.int64), torch.zeros(4, dtype=torch.int64), 16)
    assert torch.equal(sae.decoder(dense[:0, 0], nothing), sae.decoder.b_dec.expand(3, -1))


# ---- lengths and contributions ----


@pytest.mark.parametrize("form", FORMS)
def test_lengths_are_those_of_what_is_added_or_for_free_curves_no_less(form: str) -> None:
    sae = kan_sae(form)
    codes = torch.linspace(0, 3, 200, dtype=torch.float64)[:, None].expand(-1, 16).contiguous()
    exact = added(sae, codes).norm(dim=2)
    ours = sae.decoder.lengths(Active(codes, None, codes), codes)
    if sae.decoder.name == "kan-curve":
        assert (ours >= exact - 1e-12).all()
        assert (ours[1:] > 1.001 * exact[1:]).any()
        with torch.no_grad():  # straight curves, at another speed
            line = sae.decoder.curves.line()[..., None]
            sae.decoder.knots_dec.copy_(0.7 * line * sae.decoder.W_dec[:, None])
        exact = added(sae, codes).norm(dim=2)
        torch.testing.assert_close(exact[-1], torch.full((16,), 3 * 1.5 * 1.7, dtype=torch.float64))
        ours = sae.decoder.lengths(Active(codes, None, codes), codes)
    torch.testing.assert_close(ours, exact)
    assert not ours[0].any()


@pytest.mark.parametrize("form", FORMS)
def test_the_gradient_of_a_length_is_finite_everywhere(form: str) -> None:
    sae = kan_sae(form)
    with torch.no_grad():
        sae.decoder.coefficients()[:8] = 0
    codes = torch.tensor([0.0, 1e-30, 1e-3, 1.0, 50.0], dtype=torch.float64)[:, None].repeat(1, 16).requires_grad_()
    for pattern in (None, Pattern(torch.arange(16).repeat(5), torch.arange(0, 81, 16), 16)):
        given = codes if pattern is None else codes.reshape(-1)
        sae.decoder.lengths(Active(given, pattern, torch.zeros(5, 6)), given).sum().backward()
    for tensor in (codes, *sae.decoder.parameters()):
        assert tensor.grad is None or tensor.grad.isfinite().all()
    assert codes.grad[3].all()


@pytest.mark.parametrize("form", FORMS)
def test_a_contribution_is_what_a_code_adds_to_the_reconstruction(form: str) -> None:
    sae = kan_sae(form)
    sae.scale.fill_(3.0)
    sae.mean.copy_(numbers(6))
    latents = torch.tensor([0, 7, 7, 15, 3])
    codes = torch.tensor([0.0, 0.2, 0.9, 40.0, 1.3], dtype=torch.float64)
    found = sae.contribution(latents, codes)
    assert not found[0].any()
    dense = torch.zeros(5, 16, dtype=torch.float64).index_put((torch.arange(5), latents), codes)
    torch.testing.assert_close(found, added(sae, dense)[torch.arange(5), latents] / 3.0)
    nothing = sae.decode(SparseCodes.from_dense(torch.zeros(1, 16, dtype=torch.float64)))
    torch.testing.assert_close(sae.decode(SparseCodes.from_dense(dense)), nothing + found)
    together = dense.sum(0, keepdim=True) - dense[1]  # one token with all of them, latent 7 once
    torch.testing.assert_close(sae.decode(SparseCodes.from_dense(together)), nothing + found.sum(0) - found[1])


# ---- the start ----


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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
def test_it_is_the_linear_sae_bit_for_bit_until_its_functions_join(form: str, kind: str) -> None:
    x = planted(2000)
    ours, twin = (Learner(*begun(each, kind, x)) for each in (form, "linear"))
    shared = [name for name in ours.state() if name in twin.state()]
    for step, batch in enumerate(batches(x, 5)):  # functions join in step 4 of 40
        for each in (ours, twin):
            each.sae.eval()
        assert torch.equal(ours.sae(x[:50]), twin.sae(x[:50]))
        for each in (ours, twin):
            each.sae.train()
        stats = [each.step(batch, step) for each in (ours, twin)]
        assert stats[0] == pytest.approx(stats[1], rel=1e-6)
        if step < 4:
            assert stats[0] == stats[1]
            assert all(torch.equal(ours.state()[name], twin.state()[name]) for name in shared)
        assert bool(ours.sae.decoder.coefficients().any()) == (step == 4)
    added_names = {name.removeprefix("sae.decoder.") for name in set(ours.state()) - set(twin.state())}
    assert set(ours.sae.decoder.paces(0, 40)) <= added_names


@pytest.mark.parametrize("form", PARTS)
def test_functions_learn_at_their_pace(form: str) -> None:
    part = begun(form, "topk", planted(200))[0].decoder
    for step, joined in ((0, 0.0), (9, 0.0), (10, 1.0), (99, 1.0)):
        for name, pace in part.paces(step, 100).items():
            assert pace == joined * (1.0 if name == "W_bend" else 0.1)


def test_bends_begin_at_random_but_depend_on_the_sae_alone() -> None:
    x, found = planted(500), []
    for seed, world in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(world)
        found.append(begun("bend-2", "topk", x, seed=seed)[0].decoder.W_bend.detach())
    assert torch.equal(found[0], found[1])
    assert (found[0] * found[2]).sum(2).abs().max() < 0.95
    assert torch.equal(kan_sae("bend").decoder.W_bend, kan_sae("bend").decoder.W_bend)


# ---- training ----


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


# ---- what is refused ----


def test_options_that_cannot_be_are_refused_by_value() -> None:
    def decoder(**options: Any) -> SAE:
        return SAE(SAEConfig(6, 16, sparsifier={"name": "relu"}, decoder=options))

    for rank in (0, -1, 6, 7):
        with pytest.raises(KanaryError, match=rf"rank={rank}.*1 to 5"):
            decoder(name="kan-bend", rank=rank)
    decoder(name="kan-bend", rank=5)
    for name in ("kan-gain", "kan-bend", "kan-curve"):
        for options, words in (
            ({"knots": 1}, "knots=1 .*2 or more"),
            ({"basis": "rbf"}, "'rbf'.*hat or bspline"),
            ({"joins": 0.7}, "joins=0.7"),
            ({"knot": 8}, "'knot'.*'knots'"),
        ):
            with pytest.raises(KanaryError, match=words):
                decoder(name=name, **options)
