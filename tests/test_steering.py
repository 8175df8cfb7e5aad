"""Steering: nothing at strength 0, and otherwise what the formulas say, where and while they say it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import kanary
from kanary.errors import KanaryError
from kanary.interventions.edits import (
    Condition,
    Edit,
    Vector,
    Where,
    ablate,
    add,
    clamp,
    project_out,
    scale,
    set_to,
)  # fmt: skip
from kanary.interventions.steer import Steering
from kanary.interventions.steerable import Steerable
from kanary.lm import LanguageModel
from kanary.sae import SAE
from steered import D_SAE, FAMILIES, PROMPT, SITE, by_hand, double, generated, panel_for, sae_for, steered_x, tokens_of


@pytest.fixture(scope="module")
def lm(tiny_llama: Path) -> LanguageModel:
    return double(tiny_llama)


@pytest.fixture(scope="module")
def panel(lm: LanguageModel) -> Steerable:
    return panel_for(lm, jumprelu=sae_for(lm, "jumprelu"))


def firing(panel: Steerable, name: str | None = None) -> list[int]:
    """Latents, those first that fire most on the prompt."""
    lm, sae = panel.lm, panel.saes[panel.name(name)]
    site = panel.sites[panel.name(name)]
    codes = sae.encode(lm.capture(tokens_of(lm, PROMPT)[0], [site])[site][0, 1:]).to_dense()
    counts = (codes > 0).sum(0) * (
        (codes > 0).sum(0) < len(codes)
    )  # not on all of them: conditions must be able to fail
    return counts.argsort(descending=True).tolist()


def silent(panel: Steerable) -> int:
    return firing(panel)[-1]


# --- nothing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_at_strength_0_every_logit_is_equal_bit_for_bit_with_the_cache_too(tiny_lm: LanguageModel, family: str) -> None:
    sae = sae_for(tiny_lm, family).float()
    panel = panel_for(tiny_lm, one=sae)
    ids, _ = tokens_of(tiny_lm, PROMPT)
    plain = tiny_lm.logits(ids)
    options = {"output_logits": True, "return_dict_in_generate": True, "tokens": 5}
    clean = generated(tiny_lm, ids, **options)
    for edits in (dict.fromkeys(range(D_SAE), 0.0), [scale(latent, 1) for latent in range(D_SAE)]):
        with Steering(panel, edits):
            assert torch.equal(tiny_lm.logits(ids), plain)
            steered = generated(tiny_lm, ids, **options)
        assert torch.equal(steered.sequences, clean.sequences)
        assert all(torch.equal(a, b) for a, b in zip(steered.logits, clean.logits, strict=True))
    with Steering(panel, dict.fromkeys(range(D_SAE), 1.0)):
        assert not torch.equal(tiny_lm.logits(ids), plain)
    assert torch.equal(tiny_lm.logits(ids), plain)


# --- every edit, against the formulas --------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_every_edit_moves_the_logits_as_the_formulas_say(lm: LanguageModel, family: str) -> None:
    panel = panel_for(lm, one=sae_for(lm, family))
    a, b, c, *_ = firing(panel)
    d = silent(panel)
    ids, mask = tokens_of(lm, PROMPT, "Tom said, he was big.")
    everywhere = lambda row, position: True  # noqa: E731
    for edits in (
        [add(a, 1.5), add(d, 2.0, unit="sigma")],
        [add(a, -0.7), add(b, 0.3, unit="raw")],
        [set_to(b, 0.9), set_to(d, 1.1)],
        [clamp(a, 0.2, 0.4), clamp(b, low=0.3), clamp(c, high=0.1)],
        [scale(a, -2.0), scale(b, 3.0), scale(d, 30.0)],
        [ablate(a), ablate(b, "mean")],
        [add(a, 1.0), scale(a, 0.5), clamp(a, high=0.6), add(b, 2.0)],
    ):
        found = steered_x(panel, edits, ids, mask)
        torch.testing.assert_close(found, by_hand(panel, ids, mask, edits, everywhere), rtol=1e-9, atol=1e-10)
        assert (found - lm.capture(ids, [SITE], mask)[SITE]).abs().max() > 1e-3


def test_a_direction_is_projected_out_and_a_vector_added(lm: LanguageModel, panel: Steerable) -> None:
    ids, _ = tokens_of(lm, PROMPT)
    sae, latent = panel.saes["jumprelu"], firing(panel)[0]
    draw = torch.Generator().manual_seed(3)
    vector = Vector(SITE, torch.randn(lm.d_model, generator=draw, dtype=torch.float64), "difference")
    d = sae.W_dec[latent]
    keep = (ids != lm.bos_id)[..., None]
    edits = [project_out(latent), project_out(vector, 0.25), add(vector, 1.5, where=Where(start=3))]
    x = lm.capture(ids, [SITE])[SITE]
    v, late = vector.values, torch.arange(x.shape[1])[:, None] >= 3
    y = x + 1.5 * v * late * keep
    y = y - keep * (y @ d)[..., None] * d / (d @ d)
    y = y - keep * 0.25 * (y @ v)[..., None] * v / (v @ v)
    torch.testing.assert_close(steered_x(panel, edits, ids), y, rtol=1e-9, atol=1e-10)


def test_a_curved_feature_is_moved_along_its_curve_to_the_target(lm: LanguageModel) -> None:
    """Its own contribution is then that of the target intensity, not of the direction at the code it had."""
    sae = sae_for(lm, "curve/topk")
    panel = panel_for(lm, one=sae)
    latent, target = firing(panel)[0], 0.7
    ids, _ = tokens_of(lm, PROMPT)
    x = lm.capture(ids, [SITE])[SITE]
    special = ids == lm.bos_id
    code = sae.encode(x, special).latent(latent)[0]
    y = steered_x(panel, set_to(latent, target, unit="raw"), ids)
    at = int(code.argmax())
    everyone = torch.tensor([latent])
    moved = (y - x)[0, at]
    on_curve = sae.contribution(everyone, torch.tensor([target], dtype=torch.float64))[0]
    before = sae.contribution(everyone, code[at : at + 1])[0]
    torch.testing.assert_close(moved, on_curve - before, rtol=1e-9, atol=1e-12)
    straight = (target - code[at]) * sae.W_dec[latent] / sae.scale
    assert (moved - straight).norm() > 0.05 * moved.norm()
    assert torch.equal(y[0, 0], x[0, 0])


def test_a_resampled_feature_has_values_of_the_text_the_same_with_every_cache(
    lm: LanguageModel, panel: Steerable
) -> None:
    latent, ids = firing(panel)[0], tokens_of(lm, PROMPT)[0]
    sae, ranges = panel.saes["jumprelu"], panel.ranges()
    x = lm.capture(ids, [SITE])[SITE]

    def codes(seed: int) -> torch.Tensor:
        """What the feature was set to, from where the activation went."""
        y = steered_x(panel, ablate(latent, "resample", seed=seed), ids)
        d = sae.W_dec[latent]
        moved = (y - x)[0, 1:] @ d / (d @ d) * sae.scale
        return moved + sae.encode(x[0, 1:]).latent(latent)

    many = torch.cat([codes(seed) for seed in range(60)])
    assert many.min() > -1e-9
    assert many.max() <= float(ranges.maximum[latent]) * (1 + 1e-9)
    share = float((many > 1e-9).double().mean())
    assert share == pytest.approx(float(ranges.density[latent]), abs=0.1)
    assert float(many.mean()) == pytest.approx(float(ranges.mean[latent]), rel=0.2, abs=0.02)
    assert torch.equal(codes(1), codes(1))
    assert not torch.equal(codes(1), codes(2))
    with Steering(panel, ablate(latent, "resample")):
        assert torch.equal(generated(lm, ids), generated(lm, ids, use_cache=False))


# --- where and while ---------------------------------------------------------------------------------------------------


def test_edits_act_at_their_positions_only_whatever_the_padding(lm: LanguageModel, panel: Steerable) -> None:
    edit = add(firing(panel)[0], 2.0, where=Where(start=2, stop=5))
    ids, mask = tokens_of(lm, PROMPT, "Tom said, he was big.")
    pads = int((mask[1] == 0).sum())
    left_ids, left_mask = torch.stack([ids[0], ids[1].roll(pads)]), torch.stack([mask[0], mask[1].roll(pads)])
    for tokens, seen, first in ((ids, mask, (0, 0)), (left_ids, left_mask, (0, pads))):
        found = steered_x(panel, edit, tokens, seen)
        expected = by_hand(panel, tokens, seen, [edit], lambda row, at, first=first: 2 <= at - first[row] < 5)  # type: ignore[misc]
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
        assert int((found != lm.capture(tokens, [SITE], seen)[SITE]).any(-1).sum()) == 6


def test_edits_act_at_the_tokens_of_a_pattern_only(lm: LanguageModel, panel: Steerable) -> None:
    ids, mask = tokens_of(lm, PROMPT)
    words = [panel.words[i] for i in ids[0]]
    assert 0 < sum("a" in word for word in words) < len(words)
    edit = add(firing(panel)[0], 2.0, where=Where(pattern="a"))
    expected = by_hand(panel, ids, mask, [edit], lambda row, position: "a" in words[position])
    torch.testing.assert_close(steered_x(panel, edit, ids), expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("first", [1, 2, 4])
def test_edits_act_from_the_nth_generated_token_on_with_the_cache_and_without(
    lm: LanguageModel, panel: Steerable, first: int
) -> None:
    ids, _ = tokens_of(lm, PROMPT)
    steering = Steering(panel, add(firing(panel)[0], 30.0, where=Where(generated=first)))
    options = {"output_logits": True, "return_dict_in_generate": True, "tokens": 6}
    clean = generated(lm, ids, **options)
    found = []
    for cache in (True, False, True):  # one session after the other: a new prompt is noticed
        with steering:
            found.append(generated(lm, ids, use_cache=cache, **options))
    for each in found:
        same = [torch.equal(a, b) for a, b in zip(each.logits, clean.logits, strict=True)]
        assert all(same[: first - 1])
        assert not same[first - 1]
        torch.testing.assert_close(torch.stack(each.logits), torch.stack(found[0].logits), rtol=1e-5, atol=1e-5)


def test_an_edit_acts_only_while_its_condition_holds(lm: LanguageModel) -> None:
    panel = panel_for(lm, early=sae_for(lm, "relu", "resid_post.0", seed=4), late=sae_for(lm, "bend/topk"))
    other = firing(panel, "early")[0]
    latent = firing(panel, "late")[0]
    ids, mask = tokens_of(lm, PROMPT)
    early = panel.saes["early"]
    x = lm.capture(ids, ["resid_post.0"])["resid_post.0"]
    code = early.encode(x, ids == lm.bos_id).latent(other)[0]
    limit = float(code[code > 0].median())
    bound = limit / float(panel.ranges("early").maximum[other])
    assert 0 < int((code > limit).sum()) < int((code > 0).sum()) < len(code) - 1
    for condition, holds in (
        (Condition(other, above=limit, unit="raw", sae="early"), lambda row, at: bool(code[at] > limit)),
        (Condition(other, below=bound, sae="early"), lambda row, at: bool(code[at] < limit)),
        (Condition(other, above=0.0, below=bound, sae="early"), lambda row, at: bool(0 < code[at] < limit)),
    ):
        edit = add(latent, 2.0, sae="late", when=condition)
        expected = by_hand(panel, ids, mask, [edit], holds, "late")
        torch.testing.assert_close(steered_x(panel, edit, ids), expected, rtol=1e-9, atol=1e-10)
    with (
        Steering(panel, add(other, 1, sae="early", when=Condition(latent, above=0.1, sae="late"))),
        pytest.raises(KanaryError, match="lies later in the model"),
    ):
        lm.logits(ids)


# --- wrong requests ----------------------------------------------------------------------------------------------------


def test_a_feature_that_is_not_there_is_refused(lm: LanguageModel, panel: Steerable) -> None:
    for feature in (D_SAE, -1, 1.5, True, "12"):
        with pytest.raises(KanaryError, match=f"Feature {feature!r} is not there: SAE jumprelu has features 0 to 23"):
            Steering(panel, {feature: 1.0})
    with pytest.raises(KanaryError, match="features 0 to 23"):
        Steering(panel, add(1, 1, when=Condition(99, above=1)))


def test_an_sae_of_another_model_or_site_is_refused_and_both_are_named(lm: LanguageModel) -> None:
    sae = sae_for(lm, "topk")
    sae.remember(fingerprint="0123456789ab", model="somewhere/other-llama")
    with pytest.raises(KanaryError, match=f"somewhere/other-llama.*0123456789ab.*{lm.fingerprint}"):
        kanary.steer(lm, sae, {1: 1.0})
    sae = sae_for(lm, "topk")
    sae.remember(site="resid_post.7")
    with pytest.raises(KanaryError, match=r"resid_post\.7.*Did you mean 'resid_post\.2'"):
        kanary.steer(lm, sae, {1: 1.0})


def test_a_strength_in_maxima_that_nobody_knows_says_how_to_get_it(lm: LanguageModel, panel: Steerable) -> None:
    sae = sae_for(lm, "topk")
    with pytest.raises(KanaryError, match=r"kanary index RUN.*text=.*unit='raw'"):
        kanary.steer(lm, sae, {1: 1.0})
    assert kanary.steer(lm, sae, add(1, 1.0, unit="raw")) is not None
    dead = panel.ranges()
    dead.maximum[3] = 0.0
    with pytest.raises(KanaryError, match="Feature 3 never fired on a test"):
        Steering(panel, {3: 1.0})
    dead.maximum[3] = 1.0


@pytest.mark.parametrize("amount", [1e6, 1e12, 1e30, 1e300, -1e300])
def test_absurd_strengths_give_finite_logits_or_a_clear_error(
    lm: LanguageModel, tiny_lm: LanguageModel, amount: float
) -> None:
    for model, convert in ((tiny_lm, SAE.float), (lm, SAE.double)):
        panel = panel_for(model, one=convert(sae_for(model, "topk")))
        for edit in (add(1, amount), set_to(2, amount, unit="raw"), scale(firing(panel)[0], amount)):
            try:
                with Steering(panel, edit):
                    says, finite = "", bool(model.logits(tokens_of(model, PROMPT)[0]).isfinite().all())
            except KanaryError as error:
                says, finite = str(error), False
            refused = says.startswith(f"{edit.kind} {amount:g} on feature") and "use a smaller strength" in says
            assert finite != refused
            assert finite or abs(amount) > 1e10


@pytest.mark.parametrize("amount", [float("nan"), float("inf"), "2", None, True])
def test_a_strength_that_is_no_number_is_refused(amount: object) -> None:
    with pytest.raises(KanaryError, match=r"amount of add on feature 7 is .*: it must be a finite number"):
        add(7, amount)  # type: ignore[arg-type]


def test_edits_survive_json() -> None:
    for edit in (
        add(3, 2.5, sae="a"),
        clamp(1, 0.1, 0.9, unit="raw", where=Where(1, 5, 2, "^ the")),
        ablate(0, "resample", seed=5, when=Condition(2, above=0.5, unit="sigma", sae="b")),
    ):
        assert Edit.from_json(edit.to_json()) == edit


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "names no feature"),
        ({"feature": "x"}, "feature='x'"),
        ({"feature": 1, "amuont": 2}, "Did you mean 'amount'"),
        ({"feature": 1, "kind": "ad"}, "Did you mean 'add'"),
        ({"feature": 1, "unit": "max"}, "Unknown unit"),
        ({"feature": 1, "where": {"start": -1}}, "the first is 0"),
        ({"feature": 1, "where": [1]}, "must be an object"),
        ({"feature": 1, "where": {"pattern": "("}}, "not a regular expression"),
        ({"feature": 1, "where": {"generated": 0}}, "number 1"),
        ({"feature": 1, "when": {"feature": 2}}, "neither above nor below"),
        ({"feature": 1, "kind": "clamp", "low": 2, "high": 1}, "is above high"),
        ({"feature": 1, "kind": "ablate", "to": "nothing"}, "cannot be ablated"),
        ({"feature": 1, "amount": True}, "amount=True"),
    ],
)
def test_malformed_edits_are_refused_in_one_line(values: dict[str, object], says: str) -> None:
    with pytest.raises(KanaryError, match=says) as error:
        Edit.from_json(values)
    assert "\n" not in str(error.value)
