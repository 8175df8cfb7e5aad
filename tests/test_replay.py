"""Going on from a site gives what a whole forward would, bit for bit, and computes nothing that lies before it."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conftest import small_tokenizer
from kanary.errors import KanaryError
from kanary.lm import LanguageModel, trace
from kanary.lm.sites import FAMILIES as KNOWN
from kanary.lm.sites import KINDS, find_blocks
from test_lm_sites import FAMILIES, _config

LAYERS = range(3)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return small_tokenizer()


@pytest.fixture(scope="module", params=FAMILIES)
def lm(request: pytest.FixtureRequest, tokenizer: Any) -> LanguageModel:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(_config(request.param)).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return LanguageModel(model, tokenizer, request.param)


@pytest.fixture(scope="module")
def tokens() -> Tensor:
    return torch.randint(3, 290, (2, 12), generator=torch.Generator().manual_seed(1))


def sites_by_hand(lm: LanguageModel) -> list[str]:
    inside = [lm.site(f"{kind}.{layer}").path for kind in ("attn_out", "mlp_out") for layer in LAYERS]
    return [f"module:{path}" for path in inside] + [f"input:{lm.site('resid_pre.1').path}"]


def blocks_of(lm: LanguageModel) -> list[nn.Module]:
    found = find_blocks(lm.model)
    assert found is not None
    return list(found[1])


def noise(x: Tensor, seed: int = 0) -> Tensor:
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))


def test_every_family_is_here() -> None:
    tried = {getattr(_config(family), "text_config", _config(family)).model_type for family in FAMILIES}
    assert tried >= set(KNOWN)


def test_the_trace_is_the_clean_forward(lm: LanguageModel, tokens: Tensor) -> None:
    sites = [*lm.sites, *sites_by_hand(lm)]
    assert len(sites) == len(KINDS) * 3 + 7
    clean = trace(lm, tokens, sites)
    assert torch.equal(clean.logits, lm.logits(tokens))
    assert set(clean.x) == set(sites)
    for site, x in lm.capture(tokens, sites).items():
        assert torch.equal(clean.x[site], x), site


def test_replaying_what_was_there_gives_the_clean_logits(lm: LanguageModel, tokens: Tensor) -> None:
    clean = trace(lm, tokens, [*lm.sites, *sites_by_hand(lm)])
    for site, x in clean.x.items():
        assert torch.equal(clean.replay(site, x), clean.logits), site
        assert torch.equal(clean.replay(site, x.clone()), clean.logits), site


def test_replaying_anything_else_gives_what_a_whole_forward_gives(lm: LanguageModel, tokens: Tensor) -> None:
    sites = [*lm.sites, *sites_by_hand(lm)]
    clean = trace(lm, tokens, sites)
    before = {site: x.clone() for site, x in clean.x.items()}
    for site in sites:
        new = noise(clean.x[site])
        wanted = lm.logits(tokens, replace={site: lambda _, new=new: new})
        assert torch.equal(clean.replay(site, new), wanted), site
        assert torch.equal(clean.replay(site, new.double()), wanted), site
        assert not torch.equal(wanted, clean.logits), site
    assert torch.equal(lm.logits(tokens), clean.logits), "something was left behind"
    assert all(torch.equal(clean.x[site], x) for site, x in before.items()), "a replay changed the trace"


def test_a_site_traced_alone_replays_as_well(lm: LanguageModel, tokens: Tensor) -> None:
    for site in lm.sites:
        clean = trace(lm, tokens, [site])
        new = noise(clean.x[site])
        assert torch.equal(clean.replay(site, new), lm.logits(tokens, replace={site: lambda _, new=new: new})), site


def test_blocks_before_the_site_are_not_run_again(lm: LanguageModel, tokens: Tensor) -> None:
    clean = trace(lm, tokens, lm.sites)
    ran: list[int] = []
    inside = [lm.model.get_submodule(lm.site(f"mlp_out.{layer}").path) for layer in LAYERS]
    handles = [
        module.register_forward_hook(lambda *_, layer=layer: ran.append(layer)) for layer, module in enumerate(inside)
    ]
    try:
        for site in lm.sites:
            ran.clear()
            clean.replay(site, clean.x[site])
            kind, layer = site.split(".")
            assert ran == [i for i in LAYERS if i > int(layer) or (i == int(layer) and kind != "resid_post")], site
        ran.clear()
        trace(lm, tokens, lm.sites)
        assert ran == [*LAYERS], "the clean forward runs once"
    finally:
        for handle in handles:
            handle.remove()


def test_the_model_is_whole_again_also_after_a_failure(lm: LanguageModel, tokens: Tensor) -> None:
    clean = trace(lm, tokens, ["resid_post.1"])
    blocks = blocks_of(lm)

    def fail(*_: Any) -> None:
        assert "forward" in vars(blocks[0]), "nothing was skipped, so nothing can be left behind"
        raise RuntimeError("out of memory")

    handle = blocks[2].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        clean.replay("resid_post.1", noise(clean.x["resid_post.1"]))
    handle.remove()
    assert not any("forward" in vars(block) for block in blocks)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in lm.model.modules())
    assert torch.equal(lm.logits(tokens), clean.logits)


def test_a_forward_of_the_users_own_is_put_back(tiny_lm: LanguageModel, tokens: Tensor) -> None:
    """Libraries that spread a model over devices replace the forward of its blocks."""
    block = blocks_of(tiny_lm)[0]
    before, calls = block.forward, []

    def own(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return before(*args, **kwargs)

    block.forward = own
    try:
        clean = trace(tiny_lm, tokens, ["resid_post.0"])
        assert calls == [1]
        clean.replay("resid_post.0", clean.x["resid_post.0"])
        assert calls == [1]
        assert vars(block)["forward"] is own
    finally:
        del block.forward


def test_another_shape_is_refused(tiny_lm: LanguageModel, tokens: Tensor) -> None:
    clean = trace(tiny_lm, tokens, ["mlp_out.1"])
    for new in (torch.zeros(2, 12, 8), torch.zeros(1, 12, 16), torch.zeros(24, 16)):
        with pytest.raises(KanaryError) as error:
            clean.replay("mlp_out.1", new)
        assert str([*new.shape]) in str(error.value)
        assert "'mlp_out.1'" in str(error.value)
        assert "expected [2, 12, 16]" in str(error.value)


def test_a_site_that_is_not_there_is_refused(tiny_lm: LanguageModel, tokens: Tensor) -> None:
    with pytest.raises(KanaryError, match=r"Did you mean 'resid_post\.1'"):
        trace(tiny_lm, tokens, ["resid_pots.1"])
    tiny_lm.model.unused = nn.Linear(2, 2)
    try:
        with pytest.raises(KanaryError, match="never reaches the site 'module:unused'"):
            trace(tiny_lm, tokens, ["module:unused"])
    finally:
        del tiny_lm.model.unused


def test_another_thread_never_meets_a_model_with_skipped_blocks(tiny_lm: LanguageModel, tokens: Tensor) -> None:
    clean = trace(tiny_lm, tokens, ["resid_post.1"])
    found: list[Tensor] = []
    other = threading.Thread(target=lambda: found.append(tiny_lm.logits(tokens)))
    waited: list[bool] = []

    def meanwhile(*_: Any) -> None:
        if not waited:
            other.start()
            other.join(0.3)
            waited.append(other.is_alive() and not found)

    handle = blocks_of(tiny_lm)[2].register_forward_pre_hook(meanwhile)
    new = noise(clean.x["resid_post.1"])
    made = clean.replay("resid_post.1", new)
    other.join(30)
    handle.remove()
    assert waited == [True]
    assert torch.equal(found[0], clean.logits)
    assert torch.equal(made, tiny_lm.logits(tokens, replace={"resid_post.1": lambda _: new}))


def test_a_replay_waits_for_a_forward_under_way(tiny_lm: LanguageModel, tokens: Tensor) -> None:
    clean = trace(tiny_lm, tokens, ["resid_post.1"])
    begun, go_on = threading.Event(), threading.Event()
    found: dict[str, Tensor] = {}

    def pause(*_: Any) -> None:
        if not begun.is_set():
            begun.set()
            go_on.wait(30)

    handle = blocks_of(tiny_lm)[0].register_forward_pre_hook(pause)
    first = threading.Thread(target=lambda: found.update(first=tiny_lm.logits(tokens)))
    new = noise(clean.x["resid_post.1"])
    second = threading.Thread(target=lambda: found.update(second=clean.replay("resid_post.1", new)))
    first.start()
    begun.wait(30)
    second.start()
    second.join(0.3)
    untouched = not any("forward" in vars(block) for block in blocks_of(tiny_lm))
    go_on.set()
    first.join(30)
    second.join(30)
    handle.remove()
    assert untouched, "blocks were skipped while another thread ran through them"
    assert torch.equal(found["first"], clean.logits)
    assert torch.equal(found["second"], tiny_lm.logits(tokens, replace={"resid_post.1": lambda _: new}))


def test_gradients_are_not_kept(tiny_lm: LanguageModel, tokens: Tensor) -> None:
    x = trace(tiny_lm, tokens, ["resid_pre.1"])
    assert not x.replay("resid_pre.1", x.x["resid_pre.1"].clone().requires_grad_()).requires_grad
    assert not x.logits.requires_grad
