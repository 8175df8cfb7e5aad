"""On a few tokens the codes are found by a shorter way: they are the same ones."""

import pytest
import torch

from kanary.interventions.few import MOST, codes_of_few
from kanary.sae import SAE, SAEConfig
from runs import KINDS


def made(kind: str, encoder: str = "linear") -> SAE:
    options = {"k": 5} if "topk" in kind else {}
    torch.manual_seed(0)
    sae = SAE(SAEConfig(16, 64, sparsifier={"name": kind, **options}, encoder={"name": encoder}))
    with torch.no_grad():
        for name, tensor in sae.state_dict().items():
            if tensor.is_floating_point() and tensor.ndim and "sparsifier" not in name:
                tensor.normal_()
        sae.scale.fill_(0.7)
        if kind == "batchtopk":
            sae.sparsifier.get_buffer("threshold").fill_(3.0)
    return sae


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 1), (8, 1), (2, 5)])
def test_they_are_those_of_encode_for_every_sparsifier(kind: str, shape: tuple[int, int]) -> None:
    sae = made(kind)
    x = torch.randn(*shape, 16)
    special = torch.zeros(shape, dtype=torch.bool)
    special[0, 0] = shape != (1, 1)
    latents = torch.arange(64).flip(0)
    with torch.no_grad():
        expected = sae.encode(x, special).to_dense()[..., latents]
    found = codes_of_few(sae, x, special, latents)
    assert found is not None
    assert torch.equal(found != 0, expected != 0)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert (found != 0).any() or shape == (1, 1)
    assert not found[special].any()


def test_the_long_way_is_left_to_what_needs_it() -> None:
    sae, latents = made("topk"), torch.tensor([3])
    one = torch.zeros(1, 1, dtype=torch.bool)
    x = torch.randn(1, 1, 16)
    assert codes_of_few(sae, x, one, latents) is not None
    assert codes_of_few(sae, torch.full_like(x, torch.nan), one, latents) is None
    assert codes_of_few(sae, torch.randn(1, MOST + 1, 16), torch.zeros(1, MOST + 1, dtype=torch.bool), latents) is None
    assert codes_of_few(made("topk", "kan-edge"), x, one, latents) is None
    assert codes_of_few(sae.train(), x, one, latents) is None
