"""Decoders with learned functions: the linear SAE at the start, the plain formulas after it, and curves that are found."""

from typing import Any

import pytest
import torch
from torch import Tensor

from kan_decoders import FORMS, KINDS, LAYOUTS, PARTS, added, batches, begun, decoded, dense_loss, kan_sae, numbers
from kanary.errors import KanaryError
from kanary.kernels import Pattern
from kanary.sae import SAE, Active, SAEConfig, SparseCodes
from kanary.training.learner import Learner
from planted import config_for, loss_and_gradients, planted


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
