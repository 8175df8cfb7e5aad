"""Attribution: every credit against brute force in float64, completeness, the logit lens, and what is refused."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import kanary as package
from feature_runs import make_run
from kanary import KanaryError
from kanary.interventions.attribution import attribute
from kanary.interventions.decomposed import decompose
from kanary.interventions.prompt_search import search_prompts
from kanary.interventions.prompts import prompt_ids
from kanary.interventions.targets import LatentTarget
from kanary.lm import LanguageModel, load_model
from kanary.sae import SAE, SAEConfig
from runs import kanary, write_stories

PROMPT = "Once upon a time, there was a big dog"


@pytest.fixture(scope="module")
def lm(tiny_llama: Path) -> LanguageModel:
    """The tiny model in float64, with weights large enough that it is far from linear."""
    lm = load_model(tiny_llama, device="cpu")
    lm.model.double()
    draw = torch.Generator().manual_seed(1)
    for name, weight in lm.model.named_parameters():
        if "norm" not in name:
            weight.copy_(torch.randn(weight.shape, generator=draw, dtype=torch.float64) / weight.shape[-1] ** 0.5)
    for module in lm.model.modules():
        if type(module).__name__ == "LlamaRMSNorm":
            module.forward = partial(rms_norm, module)  # its own computes in float32
    return lm


def rms_norm(norm: Any, x: Tensor) -> Tensor:
    scaled: Tensor = norm.weight * x * (x.square().mean(-1, keepdim=True) + norm.variance_epsilon).rsqrt()
    return scaled


def make_sae(lm: LanguageModel, site: str, seed: int = 0, **parts: Any) -> SAE:
    """An SAE of random weights in float64: width 48, 5 latents per token."""
    options = {"sparsifier": {"name": "topk", "k": 5}} | parts
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sae = SAE(SAEConfig(lm.d_model, 48, trained_on={"site": site, "fingerprint": lm.fingerprint}, **options))
        with torch.no_grad():
            for name, parameter in sae.named_parameters():
                if parameter.ndim and "threshold" not in name:
                    parameter.normal_()
        sae.decoder.normalise()
    sae.mean.normal_(generator=torch.Generator().manual_seed(seed)).mul_(0.1)
    return sae.double()


def logits_with(lm: LanguageModel, tokens: Tensor, site: str, x: Tensor) -> Tensor:
    """``[vocab]`` after the last token, with ``x [position, d_model]`` at ``site``: the slow way, one forward."""
    return lm.logits(tokens[None], replace={site: lambda _: x[None]})[0, -1]


@pytest.mark.parametrize("decoder", ["linear", "kan-gain", "kan-bend", "kan-curve"])
def test_bias_contributions_and_error_add_up_to_the_activation(lm: LanguageModel, decoder: str) -> None:
    sae = make_sae(lm, "resid_post.1", decoder={"name": decoder})
    tokens = prompt_ids(lm, PROMPT)
    read = decompose(lm, sae, tokens)
    whole = read.error + torch.zeros_like(read.x).index_add_(0, read.codes.rows(), read.contributions)
    assert torch.allclose(whole[1:] + read.bias, read.x[1:], atol=1e-10)
    assert torch.allclose(read.x[1:] - read.error[1:], sae(read.x)[1:], atol=1e-10)
    assert not whole[0].any()  # BOS has neither features nor error
    assert read.special.tolist() == [True] + [False] * (len(tokens) - 1)


@pytest.mark.parametrize("site", ["resid_pre.1", "resid_post.1", "mlp_out.0", "attn_out.2"])
@pytest.mark.parametrize("decoder", ["linear", "kan-curve"])
def test_ablations_are_what_taking_each_contribution_out_by_hand_gives(
    lm: LanguageModel, site: str, decoder: str
) -> None:
    sae = make_sae(lm, site, decoder={"name": decoder})
    found = attribute(lm, sae, PROMPT, token=" to", against="a", exact=1000, top=1000)
    tokens, (to, a) = prompt_ids(lm, PROMPT), (lm.tokenizer.encode(t)[0] for t in (" to", "a"))
    x = lm.capture(tokens[None], [site])[site][0]
    codes = sae.encode(x).to_dense()

    def target(changed: Tensor) -> float:
        logits = logits_with(lm, tokens, site, changed)
        return float(logits[to] - logits[a])

    def added(position: int, latent: int) -> Tensor:
        only = torch.zeros(48, dtype=torch.float64)
        only[latent] = codes[position, latent]
        return (sae.decoder(only[None], None)[0] - sae.decoder.b_dec) / sae.scale

    assert found.value == pytest.approx(target(x), abs=1e-9)
    assert len(found.rows) == int((codes[1:] != 0).sum())
    for row in found.rows[::7]:
        without = x.clone()
        without[row.position] -= added(row.position, row.latent)
        assert row.credit.ablated == pytest.approx(target(x) - target(without), abs=1e-9)
    for feature in found.features[::7]:
        without = x.clone()
        for position in codes[:, feature.latent].nonzero()[:, 0].tolist():
            if position:
                without[position] -= added(position, feature.latent)
        assert feature.credit.ablated == pytest.approx(target(x) - target(without), abs=1e-9)
    spliced = torch.cat([x[:1], sae(x)[1:]])
    assert found.error.credit.ablated == pytest.approx(target(x) - target(spliced), abs=1e-9)


def test_gradient_credits_are_the_slope_of_taking_a_contribution_out(lm: LanguageModel) -> None:
    sae = make_sae(lm, "resid_post.0")
    found = attribute(lm, sae, PROMPT, token=" to", exact=0, top=1000)
    read = decompose(lm, sae, prompt_ids(lm, PROMPT))

    def target(changed: Tensor) -> float:
        logits = logits_with(lm, read.tokens, read.site, changed)
        return float(logits[lm.tokenizer.encode(" to")[0]] - logits.mean())

    entry = {key: i for i, key in enumerate(zip(read.codes.rows().tolist(), read.codes.indices.tolist(), strict=True))}
    for row in found.rows[::9]:
        part = torch.zeros_like(read.x)
        part[row.position] = read.contributions[entry[row.position, row.latent]]
        slope = (target(read.x + 1e-5 * part) - target(read.x - 1e-5 * part)) / 2e-5
        assert row.credit.gradient == pytest.approx(slope, abs=1e-6)


def test_integrated_credits_add_up_and_the_error_that_is_left_shrinks_with_the_steps(lm: LanguageModel) -> None:
    sae = make_sae(lm, "resid_post.1")
    rough, fine = (attribute(lm, sae, PROMPT, token=" to", exact=0, steps=steps).completeness for steps in (2, 64))
    read = decompose(lm, sae, prompt_ids(lm, PROMPT))
    to = lm.tokenizer.encode(" to")[0]
    ends = [
        logits_with(lm, read.tokens, read.site, x)
        for x in (read.x, torch.cat([read.x[:1], read.bias.expand(len(read.x) - 1, -1)]))
    ]
    total = float(ends[0][to] - ends[0].mean() - ends[1][to] + ends[1].mean())
    assert fine.total == pytest.approx(total, abs=1e-9)
    assert abs(fine.error) < 1e-6 * abs(total)
    assert abs(rough.error) > 1000 * abs(fine.error)


def test_what_is_not_listed_is_in_the_sums(lm: LanguageModel) -> None:
    sae = make_sae(lm, "resid_post.1")
    found = attribute(lm, sae, PROMPT, exact=3, top=10)
    rows, everything = sum(row.credit.integrated for row in found.rows), found.completeness.sum
    assert len(found.rows) == 10
    assert [row.credit.ablated is None for row in found.rows] == [False] * 3 + [True] * 7
    assert rows + found.rest.integrated + found.error.credit.integrated == pytest.approx(everything)
    assert sum(each.credit.integrated for each in found.features) + found.error.credit.integrated == pytest.approx(
        everything
    )
    assert sum(pair[1] for pair in found.positions) == pytest.approx(everything)
    assert sum(each.tokens for each in found.features) == found.pairs
    strengths = [abs(row.credit.gradient) for row in found.rows]
    assert strengths == sorted(strengths, reverse=True)


def test_a_prediction_within_the_prompt_is_that_of_the_prompt_cut_there(lm: LanguageModel) -> None:
    sae = make_sae(lm, "resid_post.1")
    ids = lm.tokenizer.encode(PROMPT)
    inside = attribute(lm, sae, PROMPT, position=4)
    assert inside.ids == (0, *ids[:4])
    assert inside.to_json() == attribute(lm, sae, PROMPT, position=4 - len(ids) - 1).to_json()


def test_the_parts_of_a_model_in_bfloat16_add_up_to_more_digits_than_it_has(tiny_llama: Path) -> None:
    lm = load_model(tiny_llama, device="cpu", dtype="bfloat16")
    sae = make_sae(lm, "resid_post.1").float()
    read = decompose(lm, sae, prompt_ids(lm, PROMPT))
    assert lm.capture(read.tokens[None], ["resid_post.1"])["resid_post.1"].dtype == torch.bfloat16
    found = (read.bias + read.error).double().index_add_(0, read.codes.rows(), read.contributions.double())
    assert float((found - read.x.double())[~read.special].abs().max()) < 1e-5 * float(read.contributions.abs().max())
    missed = (read.x - sae.decode(read.codes).detach())[~read.special]
    assert float((read.error[~read.special] - missed).norm()) < 1e-5 * float(missed.norm())
    assert attribute(lm, sae, PROMPT, exact=2).pairs == len(read.codes.values)


@pytest.mark.parametrize("sparsifier", ["topk", "jumprelu", "gated"])
def test_a_latent_of_a_later_site_is_explained_by_features_of_an_earlier_one(
    lm: LanguageModel, sparsifier: str
) -> None:
    early, late = make_sae(lm, "resid_post.0"), make_sae(lm, "resid_post.1", 1, sparsifier={"name": sparsifier})
    read = decompose(lm, early, prompt_ids(lm, PROMPT))

    def called_for(x: Tensor) -> Tensor:
        kept: list[Tensor] = []
        lm.logits(
            read.tokens[None],
            replace={"resid_post.0": lambda _: x[None], "resid_post.1": lambda y: kept.append(y) or y},
        )
        return late.encoder(late.standardise(kept[0][0, -1:]) - late.decoder.b_dec)[0]  # fmt: skip

    latent = int(called_for(read.x).argmax())
    found = attribute(lm, early, PROMPT, target=LatentTarget(late, latent), exact=1000, top=1000)
    assert found.value == pytest.approx(called_for(read.x)[latent].item(), abs=1e-9)
    assert found.target["value"] > 0
    assert abs(found.completeness.error) < 1e-5
    for row in found.rows[::9]:
        out = read.x.clone()
        entry = ((read.codes.rows() == row.position) & (read.codes.indices == row.latent)).nonzero()[0, 0]
        out[row.position] -= read.contributions[entry]
        assert row.credit.ablated == pytest.approx(
            (called_for(read.x)[latent] - called_for(out)[latent]).item(), abs=1e-9
        )


@pytest.mark.parametrize("decoder", ["linear", "kan-bend"])
@pytest.mark.parametrize("sparsifier", ["topk", "batchtopk", "relu"])
@pytest.mark.parametrize("encoder", ["refine", "kan-node", "kan-hidden", "kan-edge"])
def test_a_latent_is_called_for_by_what_its_encoder_makes_in_the_end(
    lm: LanguageModel, encoder: str, sparsifier: str, decoder: str
) -> None:
    """Where it fires this is its code, in value and in slope; where it does not, it is not above 0 (or the cutoff)."""
    k = {} if sparsifier == "relu" else {"k": 5}
    parts = {"encoder": {"name": encoder}, "sparsifier": {"name": sparsifier, **k}, "decoder": {"name": decoder}}
    late = make_sae(lm, "resid_post.1", 1, **parts)
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, number in (("gain", 0.2), ("V", 0.1), ("coefficients", 0.3)):
            for own, parameter in late.named_parameters():
                if own.endswith(name):
                    parameter.mul_(number)
        late.encoder.b_enc.add_(1.0)  # type: ignore[operator, union-attr]
    z = torch.randn(1, lm.d_model, generator=draw, dtype=torch.float64)
    x = z / late.scale + late.mean
    codes = late.encode(x)
    assert 3 < len(codes.values) < 45
    latents = codes.indices[:6]
    z.requires_grad_()
    scores = late.encoder.scores(z, late.sparsifier, late.decoder, latents)[0]
    torch.testing.assert_close(scores, codes.values[:6], atol=1e-12, rtol=0)
    along = torch.randn(lm.d_model, generator=draw, dtype=torch.float64)
    step = 1e-6
    ahead, behind = (late.encode(x + sign * step * along / late.scale).columns(latents)[0] for sign in (1, -1))
    for i, slope in enumerate(((ahead - behind) / (2 * step)).tolist()):
        (gradient,) = torch.autograd.grad(scores[i], z, retain_graph=True)
        assert float(gradient[0] @ along) == pytest.approx(slope, abs=1e-5)
    every = late.encoder.scores(z, late.sparsifier, late.decoder, torch.arange(late.d_sae))[0]
    torch.testing.assert_close(every[latents], scores)


def test_the_logit_lens_ends_in_the_models_prediction_and_begins_with_the_embedding(lm: LanguageModel) -> None:
    found = attribute(lm, make_sae(lm, "resid_post.1"), PROMPT, token=" to")
    tokens, to = prompt_ids(lm, PROMPT), lm.tokenizer.encode(" to")[0]
    inner = lm.model.model
    blocks = [lm.capture(tokens[None], [site])[site] for site in ("resid_post.0", "resid_post.1", "resid_post.2")]
    after = [inner.embed_tokens(tokens[None]), *blocks]
    assert [row.where for row in found.lens] == ["the embedding", *(f"after block {i} of 3" for i in (1, 2, 3))]
    for row, x in zip(found.lens, after, strict=True):
        chances = lm.model.lm_head(inner.norm(x))[0, -1].softmax(0)
        assert row.probability == pytest.approx(float(chances[to]), abs=1e-9)
        assert row.rank == int((chances > chances[to]).sum()) + 1
        assert [each.id for each in row.top] == chances.topk(5).indices.tolist()
    assert found.lens[-1].probability == pytest.approx(found.target["probability"], abs=1e-12)
    assert [each.id for each in found.predictions[:5]] == [each.id for each in found.lens[-1].top]


def test_without_a_token_it_is_the_likeliest_and_the_result_is_plain_json(lm: LanguageModel) -> None:
    found = attribute(lm, make_sae(lm, "resid_post.1"), PROMPT)
    assert found.target["rank"] == 1
    again = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert again["position"] == len(again["tokens"]) - 1
    assert again["special"] == [0]
    assert {"latent", "position", "value", "gradient", "integrated", "ablated"} == set(again["rows"][0])


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"prompt": ""}, "empty"),
        ({"prompt": "dog " * 200}, "reads 64"),
        ({"token": "zebra"}, "tokens of"),
        ({"token": ""}, "The token is empty"),
        ({"position": 99}, "no position 99"),
        ({"position": 0}, "only special tokens"),
        ({"steps": 0}, "steps=0"),
    ],
)
def test_what_cannot_be_explained_is_refused_in_one_line(lm: LanguageModel, fields: dict[str, Any], says: str) -> None:
    prompt = fields.pop("prompt", PROMPT)
    with pytest.raises(KanaryError, match=says) as refusal:
        attribute(lm, make_sae(lm, "resid_post.1"), prompt, **fields)
    assert "\n" not in str(refusal.value)


def test_saes_of_other_models_and_latents_that_are_not_there_or_come_first_are_refused(lm: LanguageModel) -> None:
    sae, late = make_sae(lm, "resid_post.1"), make_sae(lm, "resid_post.2")
    with pytest.raises(KanaryError, match="later site"):
        attribute(lm, late, PROMPT, target=LatentTarget(sae, 3))
    with pytest.raises(KanaryError, match="later site"):
        attribute(lm, sae, PROMPT, target=LatentTarget(make_sae(lm, "resid_post.1"), 3))
    with pytest.raises(KanaryError, match="from 0 to 47"):
        LatentTarget(late, 48)
    sae.remember(fingerprint="0123456789ab", model="another")
    with pytest.raises(KanaryError, match=r"another \(0123456789ab\).*" + lm.fingerprint):
        attribute(lm, sae, PROMPT)


def test_saes_are_taken_to_where_the_model_is(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[tuple[SAE, Any]] = []
    monkeypatch.setattr(SAE, "to", lambda self, device: moved.append((self, device)) or self)
    sae, later = make_sae(lm, "resid_post.0"), make_sae(lm, "resid_post.1", seed=1)
    moved.clear()
    attribute(lm, sae, "Once upon a time", target=LatentTarget(later, 3), exact=0)
    assert {id(each) for each, device in moved if device == lm.device} == {id(sae), id(later)}
    moved.clear()
    search_prompts(lm, sae, [f"a {i}" for i in range(8)], [f"b {i}" for i in range(8)])
    assert (sae, lm.device) in moved


def test_the_command_prints_and_writes_what_the_function_finds(tiny_llama: Path, tmp_path: Path) -> None:
    text = write_stories(tmp_path / "stories.jsonl", 20)
    run = make_run(tmp_path / "run", tiny_llama, text)
    words = ("attribute", run, "--prompt", PROMPT, "--token", " to", "--device", "cpu")
    said = kanary(*words, "--out", tmp_path / "found.json")
    assert said.code == 0, said.err
    lm = load_model(tiny_llama, device="cpu")
    found = package.attribute(lm, SAE.from_pretrained(run), PROMPT, token=" to")
    assert [row["latent"] for row in json.loads((tmp_path / "found.json").read_text())["rows"]][:20] == [
        row.latent for row in found.rows[:20]
    ]
    assert f"{found.rows[0].latent}" in said.out
    assert "what the SAE misses" in said.out
    assert "after block 3 of 3" in said.out
    assert "together" in kanary(*words[:4], "--latent", 3).message
    assert "zebra" in kanary(*words[:4], "--token", "zebra").message
