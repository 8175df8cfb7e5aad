"""The table of latents says what the weights do: recomputed in float64, and seen in the logits themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from conftest import small_tokenizer
from kanary.evaluation import latents
from kanary.evaluation.latents import latent_table, writes_residual
from kanary.evaluation.result import LatentTable
from kanary.lm import LanguageModel
from kanary.lm.unembed import unembedding
from kanary.sae import SAE
from planted import random_sae

SIZES = {
    "vocab_size": 300,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 2,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "gpt2", "gpt_neox"]
CENTRING = ("gpt2", "gpt_neox", "phi")  # LayerNorm
LOGITS = [field for field in LatentTable.__dataclass_fields__ if field.startswith("logit_") or field.endswith("_token")]


def model_of(family: str, **changes: Any) -> LanguageModel:
    """A tiny random model: norms at one and biases at zero would hide a wrong norm."""
    import transformers as t

    sizes = SIZES | changes
    if family == "gpt2":
        sizes |= {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
        sizes = {key: value for key, value in sizes.items() if not key.startswith(("hidden", "max", "num"))}
    if family == "gemma2":
        sizes |= {"final_logit_softcapping": None}  # bends the logits, of which the table tells the linear part
    config = t.AutoConfig.for_model(family, **sizes)
    torch.manual_seed(0)
    model = t.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return LanguageModel(model, small_tokenizer(), family)


@pytest.fixture(scope="module", params=FAMILIES)
def lm(request: pytest.FixtureRequest) -> LanguageModel:
    return model_of(request.param)


def sae_for(lm: LanguageModel, d_sae: int = 40, site: str = "resid_post.0", seed: int = 0) -> SAE:
    """Random directions of unit norm, and a standardisation that must not matter."""
    sae = random_sae("topk", lm.d_model, d_sae, seed).float()
    sae.decoder.normalise()
    sae.scale.fill_(0.01)
    sae.mean.fill_(3.0)
    sae.remember(site=site)
    return sae


def by_hand(values: Tensor) -> dict[str, Tensor]:
    """Moments of every row of ``values [latents, vocab]`` float64, as a statistics book writes them."""
    mean = values.mean(1, keepdim=True)
    std = ((values - mean) ** 2).mean(1, keepdim=True).sqrt()
    z = (values - mean) / std
    return {
        "logit_mean": mean[:, 0],
        "logit_std": std[:, 0],
        "logit_skewness": (z**3).mean(1),
        "logit_kurtosis": (z**4).mean(1),
        "highest_token": values.argmax(1),
        "lowest_token": values.argmin(1),
    }


def largest_cosine(directions: Tensor) -> Tensor:
    unit = directions.double() / directions.double().norm(dim=1, keepdim=True)
    return (unit @ unit.T).fill_diagonal_(-2).amax(1)


def effect(lm: LanguageModel, direction: Tensor) -> Tensor:
    """``[vocab]``: what ``direction`` does to the logits once the final norm has divided by the scale, by running it.

    The final norm is given the direction and its opposite, large, and nothing else: biases cancel, epsilon vanishes.
    """
    decoder = lm.model.get_decoder()
    norm = next(name for name in ("norm", "ln_f", "final_layer_norm", "final_layernorm") if hasattr(decoder, name))
    path = next(path for path, module in lm.model.named_modules() if module is getattr(decoder, norm))
    tokens = torch.tensor([[5]])
    up, down = (
        lm.logits(tokens, replace={f"input:{path}": lambda x, s=sign: s * 1e4 * direction.expand_as(x)})[0, -1].double()
        for sign in (1, -1)
    )
    return (up - down) / 2 * direction.square().mean().sqrt()


def centred(direction: Tensor, lm: LanguageModel) -> Tensor:
    """A LayerNorm does not see the mean of a direction."""
    return direction - direction.mean() if lm.model.config.model_type in CENTRING else direction


def test_the_unembedding_is_what_the_model_does_with_a_direction(lm: LanguageModel) -> None:
    unembed = unembedding(lm)
    assert unembed is not None
    assert unembed.dtype == torch.float32
    assert unembed.shape == (16, 300)
    draw = torch.Generator().manual_seed(1)
    for _ in range(3):
        direction = centred(torch.randn(16, generator=draw), lm)
        torch.testing.assert_close(direction.double() @ unembed.double(), effect(lm, direction), rtol=1e-4, atol=1e-5)


def test_the_gain_is_the_weight_or_one_more(lm: LanguageModel) -> None:
    decoder, family = lm.model.get_decoder(), lm.model.config.model_type
    norm = {"gpt2": "ln_f", "gpt_neox": "final_layer_norm"}.get(family, "norm")
    gain = getattr(decoder, norm).weight.double() + family.startswith("gemma")
    literal = gain[:, None] * lm.model.get_output_embeddings().weight.double().T
    unembed = unembedding(lm)
    assert unembed is not None
    torch.testing.assert_close(unembed.double(), literal, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision_has_the_unembedding_of_its_weights(dtype: torch.dtype) -> None:
    for family in ("llama", "gemma2", "gpt2"):
        half = model_of(family)
        half.model.to(dtype)
        found = unembedding(half)
        half.model.float()
        wanted = unembedding(half)
        assert found is not None
        assert wanted is not None
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("family", ["phi", "olmo2", "gemma"])
def test_a_family_without_site_names_has_its_unembedding_too(family: str) -> None:
    lm = model_of(family)
    unembed, direction = unembedding(lm), centred(torch.randn(16, generator=torch.Generator().manual_seed(1)), lm)
    assert unembed is not None
    assert not lm.sites
    torch.testing.assert_close(direction.double() @ unembed.double(), effect(lm, direction), rtol=1e-4, atol=1e-5)


def test_without_a_norm_that_can_be_told_there_is_no_unembedding() -> None:
    lm = model_of("llama")
    lm.model.model.second_norm = torch.nn.LayerNorm(16)
    assert unembedding(lm) is None
    lm = model_of("llama")
    lm.model.model.norm = torch.nn.Identity()
    assert unembedding(lm) is None

    class Centring(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(16))

        def forward(self, x: Tensor) -> Tensor:
            return F.layer_norm(x, (16,), self.weight)

    lm.model.model.norm = Centring()
    assert unembedding(lm) is None


def test_moments_and_cosines_are_those_of_a_float64_recomputation(lm: LanguageModel) -> None:
    sae = sae_for(lm)
    table, unembed = latent_table(sae, lm), unembedding(lm)
    assert unembed is not None
    W_dec, W_enc = sae.W_dec.detach().double(), sae.encoder.W_enc.detach().double()
    compare(table, by_hand(W_dec @ unembed.double()))
    torch.testing.assert_close(table.max_decoder_cosine, largest_cosine(W_dec), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(table.max_encoder_cosine, largest_cosine(W_enc), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(table.encoder_norm, W_enc.norm(dim=1))
    torch.testing.assert_close(table.encoder_decoder_cosine, F.cosine_similarity(W_enc, W_dec))
    torch.testing.assert_close(table.encoder_bias, sae.encoder.b_enc.detach().double())


def compare(table: LatentTable, wanted: dict[str, Tensor]) -> None:
    for name, values in wanted.items():
        found = getattr(table, name)
        assert found.dtype == values.dtype, name
        torch.testing.assert_close(found, values, rtol=1e-5, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}")


def test_the_real_model_too(stories: LanguageModel) -> None:
    sae = sae_for(stories, 700)
    literal = sae.W_dec.detach().double() @ (
        stories.model.model.norm.weight.double()[:, None] * stories.model.lm_head.weight.double().T
    )
    compare(latent_table(sae, stories), by_hand(literal))


@pytest.mark.parametrize(("rows", "block"), [(7, 2**24), (1024, 500), (7, 100), (1, 1)])
def test_the_size_of_blocks_does_not_matter(tiny_lm: LanguageModel, rows: int, block: int) -> None:
    sae = sae_for(tiny_lm)
    whole = latent_table(sae, tiny_lm)
    with patch.object(latents, "ROWS", rows), patch.object(latents, "BLOCK", block):
        pieces = latent_table(sae, tiny_lm)
    for name, values in vars(whole).items():
        torch.testing.assert_close(getattr(pieces, name), values, rtol=1e-6, atol=1e-7)


def test_no_block_is_above_its_limit(tiny_lm: LanguageModel) -> None:
    """All sizes that pass through a product, watched."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = function(*args, **(kwargs or {}))
            if function is torch.ops.aten.mm.default:
                self.largest = max(self.largest, out.numel(), *(arg.numel() for arg in args))
            return out

    sae = sae_for(tiny_lm, 500)
    with patch.object(latents, "ROWS", 50), patch.object(latents, "BLOCK", 2000), Watch() as watch:
        latent_table(sae, tiny_lm)
    assert 1000 < watch.largest <= 2000


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox"])
def test_a_latent_that_writes_one_token_has_the_largest_skewness(family: str) -> None:
    lm = model_of(family, hidden_size=64)
    sae, unembed = sae_for(lm), unembedding(lm)
    assert unembed is not None
    token, latent = 77, 13
    direction = F.normalize(unembed[:, token] - unembed.mean(1), dim=0)
    for sign, column in ((1, "highest_token"), (-1, "lowest_token")):
        sae.W_dec.data[latent] = sign * direction
        table = latent_table(sae, lm)
        assert table.logit_skewness is not None
        assert table.logit_kurtosis is not None
        assert (sign * table.logit_skewness).argmax() == latent
        assert table.logit_kurtosis.argmax() == latent
        assert getattr(table, column)[latent] == token


def test_copies_and_opposites_show_in_the_cosines(tiny_lm: LanguageModel) -> None:
    sae = sae_for(tiny_lm)
    sae.W_dec.data[5] = sae.W_dec.data[9]
    sae.encoder.W_enc.data[3] = -2 * sae.W_dec.data[3]
    table = latent_table(sae, tiny_lm)
    assert table.max_decoder_cosine[[5, 9]].tolist() == pytest.approx([1, 1], abs=1e-6)
    assert table.max_decoder_cosine.max() <= 1 + 1e-6
    assert table.encoder_decoder_cosine is not None
    assert table.encoder_decoder_cosine[3].item() == pytest.approx(-1)


def test_a_latent_without_a_direction_has_no_numbers_and_disturbs_no_other(
    tiny_lm: LanguageModel, recwarn: pytest.WarningsRecorder
) -> None:
    sae = sae_for(tiny_lm, 4)
    sae.W_dec.data.copy_(-torch.eye(16)[[0, 0, 1, 1]])
    sae.W_dec.data[0] = 0
    sae.W_dec.data[1] *= -1  # its largest cosine is 0, with others that are not the zero one
    sae.W_dec.data[1, 1] = 1  # now -0.7
    sae.W_dec.data[1] /= 2**0.5
    table = latent_table(sae, tiny_lm)
    assert table.max_decoder_cosine.isnan().tolist() == [True, False, False, False]
    assert table.max_decoder_cosine[1].item() == pytest.approx(-(0.5**0.5))
    assert table.logit_std is not None
    assert table.logit_std[0] == 0
    for name in ("logit_skewness", "logit_kurtosis", "encoder_decoder_cosine"):
        assert getattr(table, name).isnan().tolist() == [True, False, False, False], name
    assert not recwarn.list


def test_a_direction_that_raises_all_tokens_alike_has_no_skewness() -> None:
    """Every token has the same unembedding but in one dimension, which two latents do not write to."""
    lm = model_of("llama")
    lm.model.lm_head.weight.data[:, :-1] = lm.model.lm_head.weight.data[0, :-1]
    sae = sae_for(lm, 4)
    sae.W_dec.data[2:, -1] = 0
    table, unembed = latent_table(sae, lm), unembedding(lm)
    assert unembed is not None
    for name in ("logit_skewness", "logit_kurtosis"):
        assert getattr(table, name).isnan().tolist() == [False, False, True, True], name
    assert table.logit_mean is not None
    torch.testing.assert_close(table.logit_mean[2:], sae.W_dec[2:].detach().double() @ unembed[:, 0].double())


def test_one_latent_has_no_other(tiny_lm: LanguageModel) -> None:
    assert latent_table(sae_for(tiny_lm, 1), tiny_lm).max_decoder_cosine.isnan().all()


def test_an_encoder_without_directions_has_no_columns(tiny_lm: LanguageModel) -> None:
    sae = sae_for(tiny_lm)
    del sae.encoder.W_enc
    table = latent_table(sae, tiny_lm)
    assert {name for name, values in vars(table).items() if values is None} == {
        "max_encoder_cosine",
        "encoder_decoder_cosine",
        "encoder_norm",
        "encoder_bias",
    }


@pytest.mark.parametrize(
    ("site", "writes"),
    [
        ("resid_pre.1", True),
        ("attn_out.0", True),
        ("mlp_out.2", True),
        ("module:model.layers.1", True),
        ("input:model.layers.1", True),
        ("module:model.layers.1.mlp", True),
        ("input:model.layers.1.mlp", False),  # normed: another space than the stream
        ("module:model.layers.1.self_attn.q_proj", False),  # as wide as the stream, but not in it
        ("module:model.layers.1.mlp.up_proj", False),
        (None, False),
    ],
)
def test_logit_weights_exist_where_the_site_writes_into_the_residual_stream(
    tiny_lm: LanguageModel, site: str | None, writes: bool
) -> None:
    wide = site is not None and site.endswith("up_proj")
    sae = random_sae("topk", 32 if wide else 16).float()
    sae.remember(site=site)
    assert writes_residual(sae, tiny_lm) is writes
    table = latent_table(sae, tiny_lm)
    assert all((getattr(table, name) is not None) is writes for name in LOGITS)
    assert table.encoder_norm is not None


def test_in_a_family_without_site_names_the_width_decides() -> None:
    lm = model_of("olmo2")
    for d_model, writes in ((16, True), (32, False)):
        sae = random_sae("topk", d_model)
        sae.remember(site="module:model.layers.0.mlp")
        assert writes_residual(sae, lm) is writes


def test_what_is_done_is_shown(tiny_lm: LanguageModel) -> None:
    shown: list[int] = []
    with patch.object(latents, "ROWS", 16):
        latent_table(sae_for(tiny_lm), tiny_lm, show=shown.append)
    assert shown == [16, 16, 8]


def test_the_table_of_a_trained_sae_survives_saving(tiny_lm: LanguageModel, tmp_path: Path) -> None:
    sae = sae_for(tiny_lm)
    sae.save_pretrained(tmp_path)
    again = latent_table(SAE.from_pretrained(tmp_path), tiny_lm)
    for name, values in vars(latent_table(sae, tiny_lm)).items():
        assert torch.equal(getattr(again, name), values), name
