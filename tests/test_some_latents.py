"""A few latents read off a few tokens are those that encode finds, for every sparsifier, however it chooses."""

import pytest
import torch

from kanary.errors import KanaryError
from kanary.sae import SAE, SAEConfig
from kanary.sae.parts import Sparsifier
from kanary.sae.some import SomeLatents
from kanary.sae.sparsifiers.topk import FEW
from runs import KINDS

K = 3


def made(kind: str, encoder: str = "linear") -> SAE:
    options = {"k": K} if "topk" in kind else {}
    torch.manual_seed(0)
    sae = SAE(SAEConfig(16, 128, sparsifier={"name": kind, **options}, encoder={"name": encoder}))
    with torch.no_grad():
        for name, tensor in sae.state_dict().items():
            if tensor.is_floating_point() and tensor.ndim and "sparsifier" not in name:
                tensor.normal_()
        sae.scale.fill_(0.7)
        if kind == "batchtopk":
            sae.sparsifier.get_buffer("threshold").fill_(3.0)
    return sae


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 1), (8, 1), (2, 5), (3, FEW)])
def test_they_are_those_of_encode(kind: str, shape: tuple[int, int]) -> None:
    sae = made(kind)
    fired = 0
    for latents in (torch.arange(128).flip(0), torch.tensor([5]), torch.tensor([90, 3, 61, 47])):
        some = SomeLatents(sae, latents)
        for seed in range(20):
            x = torch.randn(*shape, 16, generator=torch.Generator().manual_seed(seed))
            special = torch.zeros(shape, dtype=torch.bool)
            special[0, 0] = shape != (1, 1)
            expected = sae.encode(x, special).to_dense()[..., latents]
            found = some(x, special)
            assert torch.equal(found != 0, expected != 0)
            assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6)
            assert not found[special].any()
            fired += int((found != 0).sum())
    assert fired


@pytest.mark.parametrize("kind", ["topk", "batchtopk", "jumprelu"])
def test_without_special_tokens_none_need_be_named(kind: str) -> None:
    some, x = SomeLatents(made(kind), torch.tensor([7, 8])), torch.randn(4, 1, 16)
    assert torch.equal(some(x), some(x, torch.zeros(4, 1, dtype=torch.bool)))


@pytest.mark.parametrize("encoder", ["kan-node", "kan-edge", "kan-hidden"])
def test_an_encoder_that_is_not_linear_is_asked_itself(encoder: str) -> None:
    sae, latents, x = made("topk", encoder), torch.arange(128), torch.randn(5, 2, 16)
    assert torch.equal(SomeLatents(sae, latents)(x), sae.encode(x).to_dense())


def test_a_sparsifier_of_ones_own_is_asked_itself() -> None:
    class Odd(Sparsifier):
        """Every second latent, whatever its pre-activation."""

        def mask(self, pre: torch.Tensor) -> torch.Tensor:
            return (torch.arange(pre.shape[1]) % 2 == 1).expand_as(pre)

    sae = made("relu")
    sae.sparsifier = Odd(16, 128)
    found = SomeLatents(sae, torch.arange(128))(torch.randn(3, 16))
    assert not found[:, ::2].any()
    assert found.any()


def test_what_encode_refuses_is_refused() -> None:
    some = SomeLatents(made("topk"), torch.tensor([3]))
    for value in (torch.nan, torch.inf, -torch.inf):
        x = torch.randn(2, 1, 16)
        x[1, 0, 4] = value
        with pytest.raises(KanaryError, match="Activation 1 holds NaN or infinity"):
            some(x)
    with pytest.raises(KanaryError, match="width 15"):
        some(torch.randn(1, 1, 15))
