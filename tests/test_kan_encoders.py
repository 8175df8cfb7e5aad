"""Every KAN encoder begins as the linear one, has the gradients of its formula, and resumes, saves and resets like it."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kan_encoders import (
    CASES,
    FORMS,
    KINDS,
    PARTS,
    begun,
    dense_codes,
    dense_gradients,
    formula,
    kan_sae,
    linear_twin,
    numbers,
)
from kanary.errors import KanaryError
from kanary.sae import SAE, SAEConfig
from kanary.sae.encoders import kan_edge
from kanary.sae.parts import ENCODERS
from kanary.sae.sparsifiers.topk import TopK, TopKOptions
from kanary.training.learner import Learner
from planted import ELEMENTWISE, config_for, layout, loss_and_gradients, planted

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
