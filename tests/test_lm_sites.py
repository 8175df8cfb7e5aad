"""Reading and writing activations is exact in every family, and stops where it should."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from conftest import small_tokenizer
from kanary.errors import KanaryError
from kanary.lm import LanguageModel
from kanary.lm.sites import KINDS, module_tree

SIZES = {
    "vocab_size": 300,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "sliding_window": 8,
    "pad_token_id": 2,
    "bos_token_id": 0,
    "eos_token_id": 1,
}


def _config(family: str) -> Any:
    import transformers as t

    if family == "gpt2":
        return t.GPT2Config(
            vocab_size=300, n_embd=16, n_layer=3, n_head=2, n_positions=64, bos_token_id=0, eos_token_id=1
        )
    if family == "gemma3_multimodal":
        vision = {
            "hidden_size": 8,
            "intermediate_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "image_size": 28,
        }
        return t.Gemma3Config(
            text_config=SIZES | {"vocab_size": 300}, vision_config=vision, image_token_id=299, mm_tokens_per_image=4
        )
    if family.startswith("gpt_neox"):
        sizes = {k: v for k, v in SIZES.items() if k not in ("num_key_value_heads", "head_dim", "sliding_window")}
        return t.GPTNeoXConfig(**sizes, use_parallel_residual=family == "gpt_neox")
    classes = {
        "llama": t.LlamaConfig,
        "mistral": t.MistralConfig,
        "qwen2": t.Qwen2Config,
        "qwen3": t.Qwen3Config,
        "gemma2": t.Gemma2Config,
        "gemma3": t.Gemma3TextConfig,
        "phi3": t.Phi3Config,
    }
    return classes[family](**SIZES)


FAMILIES = [
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3",
    "gemma3_multimodal",
    "phi3",
    "gpt2",
    "gpt_neox",
    "gpt_neox_sequential",
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return small_tokenizer()


@pytest.fixture(scope="module", params=FAMILIES)
def lm(request: pytest.FixtureRequest, tokenizer: Any) -> LanguageModel:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(_config(request.param)).eval().requires_grad_(False)
    for parameter in model.parameters():  # norms at one and biases at zero would hide which side of a norm was read
        parameter.data += 0.3 * torch.randn_like(parameter)
    return LanguageModel(model, tokenizer, request.param)


@pytest.fixture(scope="module")
def tokens() -> Tensor:
    return torch.randint(3, 290, (2, 12), generator=torch.Generator().manual_seed(1))


def test_every_kind_has_a_site_in_every_block(lm: LanguageModel) -> None:
    assert sorted(lm.sites) == sorted(f"{kind}.{layer}" for kind in KINDS for layer in range(3))


def test_writing_back_an_unread_activation_leaves_logits_bit_equal(lm: LanguageModel, tokens: Tensor) -> None:
    clean = lm.logits(tokens)
    for site in lm.sites:
        assert torch.equal(lm.logits(tokens, replace={site: lambda x: x}), clean), site


def test_writing_back_a_captured_activation_leaves_logits_bit_equal(lm: LanguageModel, tokens: Tensor) -> None:
    clean = lm.logits(tokens)
    for site, x in lm.capture(tokens, lm.sites).items():
        assert torch.equal(lm.logits(tokens, replace={site: lambda _, x=x: x}), clean), site


def test_resid_sites_equal_the_hidden_states_of_transformers(lm: LanguageModel, tokens: Tensor) -> None:
    with torch.no_grad():
        states = lm.model(input_ids=tokens, output_hidden_states=True, use_cache=False).hidden_states
    for layer in range(3):
        assert torch.equal(lm.capture(tokens, [f"resid_pre.{layer}"])[f"resid_pre.{layer}"], states[layer])
    for layer in range(2):  # the last entry of hidden_states is after the final norm
        assert torch.equal(lm.capture(tokens, [f"resid_post.{layer}"])[f"resid_post.{layer}"], states[layer + 1])


def test_a_block_adds_attn_out_and_mlp_out_to_the_residual_stream(lm: LanguageModel, tokens: Tensor) -> None:
    x = lm.capture(tokens, lm.sites)
    for layer in range(3):
        total = x[f"resid_pre.{layer}"] + x[f"attn_out.{layer}"] + x[f"mlp_out.{layer}"]
        torch.testing.assert_close(total, x[f"resid_post.{layer}"])


def test_a_changed_activation_changes_the_logits_and_nothing_before_it(lm: LanguageModel, tokens: Tensor) -> None:
    clean, before = lm.logits(tokens), lm.capture(tokens, lm.sites)
    for site in lm.sites:
        with lm.replacing({site: lambda x: x + torch.linspace(-1, 1, x.shape[-1])}):
            after = lm.capture(tokens, lm.sites)
            assert not torch.equal(lm.logits(tokens), clean), site
        kind, layer = site.split(".")
        for earlier in range(int(layer)):
            assert torch.equal(after[f"resid_pre.{earlier}"], before[f"resid_pre.{earlier}"])
        if kind != "resid_pre":
            assert torch.equal(after[f"resid_pre.{layer}"], before[f"resid_pre.{layer}"])
    assert torch.equal(lm.logits(tokens), clean), "a hook was left behind"


def test_the_forward_stops_after_the_last_captured_site(lm: LanguageModel, tokens: Tensor) -> None:
    called: list[str] = []
    watched = {lm.site(f"resid_post.{layer}").path for layer in range(3)} | {"lm_head", "embed_out"}
    handles = [
        module.register_forward_pre_hook(lambda *_, path=path: called.append(path))
        for path, module in lm.model.named_modules()
        if path in watched
    ]
    lm.capture(tokens, ["resid_post.1", "resid_pre.0"])
    for handle in handles:
        handle.remove()
    assert called == [lm.site("resid_post.0").path, lm.site("resid_post.1").path]


def test_padding_on_the_right_leaves_activations_as_they_are_alone(lm: LanguageModel, tokens: Tensor) -> None:
    padded = tokens.clone()
    padded[1, 7:] = 2
    mask = (torch.arange(12)[None] < torch.tensor([[12], [7]])).long()
    together = lm.capture(padded, lm.sites, mask)
    alone = lm.capture(tokens[1:, :7], lm.sites)
    for site in lm.sites:
        torch.testing.assert_close(together[site][1:, :7], alone[site], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(lm.logits(padded, mask)[1:, :7], lm.logits(tokens[1:, :7]), rtol=1e-4, atol=1e-5)


def test_everything_works_under_inference_mode(lm: LanguageModel, tokens: Tensor) -> None:
    clean, x = lm.logits(tokens), lm.capture(tokens, ["resid_post.1"])["resid_post.1"]
    with torch.inference_mode():
        assert torch.equal(lm.capture(tokens, ["resid_post.1"])["resid_post.1"], x)
        assert torch.equal(lm.logits(tokens, replace={"resid_post.1": lambda x: x}), clean)


def test_a_module_named_by_hand_is_the_same_place(lm: LanguageModel, tokens: Tensor) -> None:
    for site in ("resid_post.1", "attn_out.1", "mlp_out.1", "resid_pre.1"):
        by_hand = ("input:" if site == "resid_pre.1" else "module:") + lm.site(site).path
        assert torch.equal(lm.capture(tokens, [by_hand])[by_hand], lm.capture(tokens, [site])[site])
        assert torch.equal(lm.logits(tokens, replace={by_hand: lambda x: x}), lm.logits(tokens))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_capturing_several_sites_equals_capturing_each(
    data: st.DataObject, tiny_lm: LanguageModel, tokens: Tensor
) -> None:
    sites = data.draw(st.lists(st.sampled_from(tiny_lm.sites), min_size=1, unique=True))
    together = tiny_lm.capture(tokens, sites)
    assert list(together) == sites
    for site in sites:
        assert torch.equal(together[site], tiny_lm.capture(tokens, [site])[site])


def test_replacing_composes_with_generate(tiny_lm: LanguageModel, tokens: Tensor) -> None:
    def generated() -> Tensor:
        out: Tensor = tiny_lm.model.generate(tokens[:1, :4], max_new_tokens=6, do_sample=False, eos_token_id=None)
        return out

    clean = generated()
    shapes: list[int] = []

    def watch(x: Tensor) -> Tensor:
        shapes.append(x.shape[1])
        return x

    with tiny_lm.replacing({"resid_post.1": watch}):
        assert torch.equal(generated(), clean)
    assert sum(shapes) == 4 + 5, "every position passes the site once"
    with tiny_lm.replacing(
        {"resid_post.2": lambda x: torch.randn(x.shape, generator=torch.Generator().manual_seed(3))}
    ):
        assert not torch.equal(generated(), clean)


def test_a_replacement_of_another_shape_is_refused(tiny_lm: LanguageModel, tokens: Tensor) -> None:
    def hooks() -> int:  # transformers leaves its own behind when hidden states are asked for
        return sum(len(module._forward_hooks) for module in tiny_lm.model.modules())

    before = hooks()
    with pytest.raises(KanaryError, match=r"'mlp_out.0' returned shape \[2, 12, 8\], expected \[2, 12, 16\]"):
        tiny_lm.logits(tokens, replace={"mlp_out.0": lambda x: x[..., :8]})
    assert hooks() == before


def test_width_is_that_of_the_activations(tiny_lm: LanguageModel) -> None:
    assert tiny_lm.width("resid_post.0") == 16
    assert tiny_lm.width("input:model.layers.0.mlp.down_proj") == 32


def test_sites_are_described_in_plain_words(tiny_lm: LanguageModel) -> None:
    assert tiny_lm.site("resid_post.1").describe() == "after block 2 of 3"
    assert tiny_lm.site("resid_pre.1").describe() == "before block 2 of 3"
    assert tiny_lm.site("mlp_out.2").describe() == "what the MLP adds in block 3 of 3"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("resid_pots.1", "Did you mean 'resid_post.1'"),
        ("resid_post.9", "3 blocks, counted from 0. Did you mean 'resid_post.2'"),
        ("mlp.1", "Did you mean 'mlp_out.1'"),
        ("blocks", "Known: resid_pre.L"),
        ("module:model.layers.1.mpl", "Did you mean 'module:model.layers.1.mlp'"),
    ],
)
def test_an_unknown_site_is_refused_with_the_nearest(tiny_lm: LanguageModel, given: str, expected: str) -> None:
    with pytest.raises(KanaryError) as error:
        tiny_lm.site(given)
    assert repr(given) in str(error.value)
    assert expected in str(error.value)


def test_a_module_that_the_forward_skips_is_refused(tiny_lm: LanguageModel, tokens: Tensor) -> None:
    tiny_lm.model.unused = torch.nn.Linear(2, 2)
    try:
        with pytest.raises(KanaryError, match="never reaches the site 'module:unused'"):
            tiny_lm.capture(tokens, ["module:unused"])
    finally:
        del tiny_lm.model.unused


def test_an_unknown_family_shows_its_modules_and_can_be_read_by_hand(tokenizer: Any, tokens: Tensor) -> None:
    from transformers import OPTConfig, OPTForCausalLM

    config = OPTConfig(
        vocab_size=300, hidden_size=16, ffn_dim=32, num_hidden_layers=3, num_attention_heads=2, word_embed_proj_dim=16
    )
    lm = LanguageModel(OPTForCausalLM(config).eval(), tokenizer, "opt")
    assert lm.sites == []
    with pytest.raises(KanaryError, match="Name a module by hand") as error:
        lm.site("resid_post.0")
    assert "0…2: OPTDecoderLayer" in str(error.value)
    assert lm.capture(tokens, ["module:model.decoder.layers.1"])["module:model.decoder.layers.1"].shape == (2, 12, 16)


def test_the_module_tree_shows_a_list_of_alike_blocks_once(tiny_lm: LanguageModel) -> None:
    tree = module_tree(tiny_lm.model)
    assert tree.count("LlamaDecoderLayer") == 1
    assert len(tree.splitlines()) < 30


def test_threads_take_turns(tiny_lm: LanguageModel, tokens: Tensor) -> None:
    from concurrent.futures import ThreadPoolExecutor

    clean, x = tiny_lm.logits(tokens), tiny_lm.capture(tokens, ["resid_post.0"])["resid_post.0"]
    jobs: list[Callable[[], bool]] = [
        lambda: torch.equal(tiny_lm.logits(tokens), clean),
        lambda: torch.equal(tiny_lm.capture(tokens, ["resid_post.0"])["resid_post.0"], x),
    ]
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda i: jobs[i % 2](), range(60)))
