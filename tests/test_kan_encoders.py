"""Every KAN encoder begins as the linear one, has the gradients of its formula, and resumes, saves and resets like it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from kanary.errors import KanaryError
from kanary.sae import SAE, SAEConfig
from kanary.sae.encoders import kan_edge
from kanary.sae.parts import ENCODERS
from kanary.sae.sparsifiers.topk import TopK, TopKOptions
from kanary.sae.spread import Spread
from kanary.splines import make_basis
from kanary.training.learner import Learner, begin
from planted import ELEMENTWISE, FORMULAS, config_for, layout, loss_and_gradients, planted

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


# ---- the start ----


@pytest.mark.parametrize(("form", "kind"), [case for case in CASES if case[0] != "edge-silu"])
def test_before_the_first_step_every_kan_sae_is_its_linear_twin(form: str, kind: str) -> None:
    x = planted(300)
    sae, twin = begun(form, kind, x)[0], linear_twin(kind, x)[0]
    ours, theirs = sae.encode(x).to_dense(), twin.encode(x).to_dense()
    if form in ("node-relu", "edge-none"):  # the line is a sum of basis functions there
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(sae(x), twin(x), rtol=1e-4, atol=1e-3)
    else:
        assert torch.equal(ours, theirs)
        assert torch.equal(sae(x), twin(x))
    assert (ours != 0).any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", PARTS)
def test_until_it_joins_a_kan_sae_trains_as_its_linear_twin_to_the_last_bit(form: str, kind: str) -> None:
    x = planted(300)
    ours, theirs = Learner(*begun(form, kind, x)), Learner(*linear_twin(kind, x))
    for step in range(4):  # it joins at step 4 of 40
        assert ours.step(x[step * 64 :][:64], step) == theirs.step(x[step * 64 :][:64], step)
    assert torch.equal(ours.sae.encoder.W_enc, theirs.sae.encoder.W_enc)


def test_with_a_silu_base_the_encoder_is_another_from_the_start() -> None:
    x = planted(600)
    sae, twin = begun("edge-silu", "topk", x)[0], linear_twin("topk", x)[0]
    assert not torch.allclose(sae(x), twin(x), rtol=0.05, atol=0.05)


# ---- gradients ----


@pytest.mark.parametrize(("form", "kind"), CASES)
def test_loss_and_gradients_are_those_of_the_dense_formula(form: str, kind: str) -> None:
    sae, z = kan_sae(form, kind), numbers(50, 6)
    sae.train()
    wanted_loss, wanted = dense_gradients(sae, z)
    assert all((grad != 0).any() for grad in wanted.values())
    for which, tile in (("sparse", 2**22), ("sparse", 320), *((("dense", 320),) if kind in ELEMENTWISE else ())):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kan_edge, "TILE", tile)
            sae.encoder.learning = tile == 320  # edges' products are fewer then
            loss, found = loss_and_gradients(sae, z, config_for(kind), which, tile)
        assert loss == pytest.approx(wanted_loss, rel=1e-9)
        for name, grad in wanted.items():
            torch.testing.assert_close(found[name], grad, msg=lambda m, n=name, w=which: f"{w} {n}: {m}")


@pytest.mark.parametrize(("form", "kind"), CASES)
def test_codes_and_gradients_reach_the_activations_themselves(form: str, kind: str) -> None:
    sae = kan_sae(form, kind).requires_grad_(False)
    x = numbers(7, 6, seed=3).requires_grad_()
    z = sae.standardise(x)
    codes = sae.encode(x)
    if kind != "batchtopk":  # which at inference has a threshold of its own
        torch.testing.assert_close(codes.to_dense(), dense_codes(sae, z)[0].detach())
    on = codes.to_dense() != 0
    pre = formula(sae, z)[1]
    pre = sae.sparsifier.r_mag.exp() * pre if kind == "gated" else pre
    upstream = numbers(7, 6, seed=9)
    (wanted,) = torch.autograd.grad((on * pre) @ sae.W_dec, x, upstream)
    (ours,) = torch.autograd.grad(sae.decode(codes), x, upstream)
    assert wanted.abs().max() > 0
    torch.testing.assert_close(ours, wanted)


# ---- both ways of computing ----


@pytest.mark.parametrize("kind", ELEMENTWISE)
@pytest.mark.parametrize("form", PARTS)
def test_lists_and_full_matrices_give_the_same_codes(form: str, kind: str) -> None:
    sae, x = kan_sae(form, kind), numbers(40, 6)
    wanted = sae.encode(x).to_dense()
    with layout("dense"):
        assert sae.train().active(sae.standardise(x)) is None
        torch.testing.assert_close(sae.encode(x).to_dense(), wanted)


@pytest.mark.parametrize("form", FORMS)
def test_rough_screening_leaves_values_exact(form: str) -> None:
    sae, z = kan_sae(form, "topk").float(), numbers(60, 6).float()
    active = sae.active(z, "bf16")
    assert active is not None
    _, pre = formula(sae, z)
    torch.testing.assert_close(active.pre, pre[active.pattern.rows(), active.pattern.latents], rtol=1e-4, atol=1e-5)
    exact = sae.active(z)
    same = {*zip(*pair(active), strict=True)} & {*zip(*pair(exact), strict=True)}
    assert len(same) > 0.9 * len(exact.pre)


def pair(active: Any) -> tuple[list[int], list[int]]:
    return active.pattern.rows().tolist(), active.pattern.latents.tolist()


@pytest.mark.parametrize("form", FORMS)
def test_some_latents_alone_have_the_values_they_have_among_all(form: str) -> None:
    sae, z = kan_sae(form, "topk"), numbers(30, 6)
    some = torch.tensor([3, 11, 4, 8])
    active = sae.encoder.select(z, sae.decoder.b_dec, TopK(6, 4, TopKOptions(k=2)), latents=some)
    assert set(active.pattern.latents.tolist()) <= set(some.tolist())
    score, pre = formula(sae, z)
    if form.startswith("node"):  # TopK selects what it is asked for, positive or not
        pre = torch.where(score > 0, pre, score)
        assert torch.equal(active.pre > 0, pre[active.pattern.rows(), active.pattern.latents] > 0)
    kept = active.pre > 0
    torch.testing.assert_close(active.pre[kept], pre[active.pattern.rows(), active.pattern.latents][kept])
    torch.testing.assert_close(
        sae.encoder(z - sae.decoder.b_dec, some), formula(sae, z)[0][:, some]
    )  # what screening sees


class Largest(TorchDispatchMode):
    """The most numbers that any tensor held that was made meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(each, Tensor) and each.layout == torch.strided:
                self.numbers = max(self.numbers, each.untyped_storage().nbytes() // each.element_size())
        return made


@pytest.mark.parametrize("kind", ["relu", "topk"])
def test_edges_never_hold_the_basis_of_all_tokens_and_coordinates(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, d_model, d_sae, tile = 512, 24, 16, 4096
    sae, z = kan_sae("edge", kind, d_model, d_sae), numbers(tokens, d_model)
    monkeypatch.setattr(kan_edge, "TILE", tile)
    with Largest() as largest:
        loss_and_gradients(sae, z, config_for(kind), "sparse", tile)
    table = 16 * (sae.encoder.basis.knots - 1) * d_model  # of all grids' polynomials
    assert largest.numbers <= max(tokens * d_model, 2 * tile, table, d_sae * d_model * 8)
    assert largest.numbers < tokens * d_model * 8 / 4


# ---- training ----


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
    inside, far = part.outside(z, shift), part.outside(z * 100, shift)
    assert inside.shape == far.shape == (len(part.basis.grid),)
    assert inside.mean() < 0.05
    assert far.mean() > 0.8
    values = z - shift if form != "hidden" else F.linear(z - shift, part.P, part.c)
    wanted = [part.basis.share_outside(values[:, j], torch.full((1000,), j)) for j in range(values.shape[1])]
    torch.testing.assert_close(inside, torch.tensor(wanted))


def test_the_share_of_strengths_beyond_the_grids_is_known() -> None:
    sae = trained("node", "topk", steps=12).sae.eval()
    z = sae.standardise(planted(1000))
    assert sae.encoder.outside(z, sae.decoder.b_dec, sae.sparsifier) < 0.05
    assert sae.encoder.outside(100 * z, sae.decoder.b_dec, sae.sparsifier) > 0.8


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


# ---- options ----


@pytest.mark.parametrize(
    ("encoder", "words"),
    [
        ({"name": "kan-edge", "knots": 1}, "grid of 1 is too small.*'bspline'.*4 or more"),
        ({"name": "kan-edge", "knots": 3}, "grid of 3 is too small.*4 or more"),
        ({"name": "kan-hidden", "knots": 1}, "grid of 1 is too small.*'hat'.*2 or more"),
        ({"name": "kan-node", "knots": 1}, "knots=1 are too few.*2 or more"),
        ({"name": "kan-edge", "basis": "bsplin"}, "basis='bsplin'.*Did you mean 'bspline'"),
        ({"name": "kan-hidden", "basis": "rational"}, "basis='rational'"),
        ({"name": "kan-node", "basis": "rbf"}, "basis='rbf'.*hat or bspline"),
        ({"name": "kan-node", "start": "rely"}, "start='rely'.*'relu'"),
        ({"name": "kan-edge", "base": "sigmoid"}, "base='sigmoid'"),
        ({"name": "kan-hidden", "hidden": -1}, "hidden=-1.*0 for as many as d_model"),
        ({"name": "mlp", "hidden": -3}, "hidden=-3"),
        ({"name": "mlp", "joins": 0.7}, r"joins=0\.7"),
        ({"name": "mlp", "knots": 5}, "Unknown option 'knots'"),
        ({"name": "kan-edge", "pace": -1}, "pace=-1"),
    ],
)
def test_options_that_cannot_be_are_refused_with_the_value_and_a_way_out(encoder: dict[str, Any], words: str) -> None:
    with pytest.raises(KanaryError, match=words) as caught:
        SAE(SAEConfig(4, 8, encoder=encoder))
    assert "\n" not in str(caught.value)


def test_without_a_number_there_are_as_many_hidden_units_as_dimensions() -> None:
    assert ENCODERS["kan-hidden"](5, 8).P.shape == (5, 5)
