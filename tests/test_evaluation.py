"""Every number is what DESIGN §6 defines, recomputed another way, whatever the batches, and in constant memory."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from by_hand import (
    COUNTS,
    FIDELITY,
    LOSSES,
    SITE,
    SPARSITY,
    Reconstruct,
    activations,
    dense,
    every_number,
    flat,
    gather,
    measured,
    sae_for,
    silent_sae,
    strong_lm,
    windows,
)
from kanary.errors import KanaryError
from kanary.evaluation.losses import read, window_losses
from kanary.evaluation.measure import Measured, Measurement, measure
from kanary.evaluation.result import Metric, plain
from kanary.evaluation.standin import PCA, Identity, Spliced, StandIn
from kanary.lm import LanguageModel, load_model
from kanary.sae import SAE, SAEConfig
from kanary.text import TokenBatch
from planted import KINDS

BY_BATCH = {"explained_variance_legacy", "mse_saebench"}  # what depends on how windows are batched, by definition


@pytest.fixture(scope="module")
def lm(tiny_llama: Path) -> LanguageModel:
    return strong_lm(tiny_llama)


@pytest.fixture(scope="module")
def mean(lm: LanguageModel) -> Tensor:
    """Of other text than that which is measured."""
    return activations(lm, windows(seed=77)).double().mean(0)


def expect(row: Mapping[str, Mapping[str, Metric]], wanted: Mapping[str, float], n: int, n_ce: int) -> None:
    """Every metric of ``row`` is what is ``wanted``, and over as many tokens."""
    slack = {name: 2e-5 if "score" in name else 2e-6 for name in wanted}  # scores divide by differences between losses
    wrong = {
        name: (metric.value, wanted[name])
        for name, metric in flat(row).items()
        if metric.value != pytest.approx(wanted[name], rel=1e-5, abs=slack[name], nan_ok=True)
    }
    assert not wrong
    for group, metrics in row.items():
        counted = n_ce if group == "model_performance_preservation" else n
        assert {metric.n for metric in metrics.values()} == {counted}, group


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mark", [None, 0, 2])
def test_every_number_equals_one_computed_token_by_token(
    lm: LanguageModel, mean: Tensor, kind: str, mark: int | None
) -> None:
    batches, sae = windows(special=mark is not None, mark=mark or 0), sae_for(lm, kind)
    row = measured(lm, batches, {"it": sae}, mean=mean).rows["it"]
    tokens = gather(lm, batches, dense(sae), mean)
    unit = sae.W_dec.detach().double().norm(dim=1) / sae.scale.double()
    assert {group: set(metrics) for group, metrics in row.items()} == FIDELITY | SPARSITY | LOSSES | COUNTS
    expect(row, every_number(tokens, unit), len(tokens.x), len(tokens.ce["clean"]))
    if mark is not None:
        assert len(tokens.ce["clean"]) < len(tokens.x) < sum(b.tokens.numel() for b in batches)


@pytest.mark.parametrize("special", [True, False])
def test_every_number_of_the_controls_without_latents(lm: LanguageModel, mean: Tensor, special: bool) -> None:
    batches = windows(special=special)
    basis = torch.linalg.qr(torch.randn(16, 5, generator=torch.Generator().manual_seed(2))).Q
    makers: dict[str, tuple[StandIn, Reconstruct]] = {
        "identity": (Identity(SITE), lambda x: (x.double(), None)),
        "pca": (
            PCA(SITE, mean.float(), basis),
            lambda x: (mean + (x.double() - mean) @ basis.double() @ basis.double().T, None),
        ),
    }
    rows = measured(lm, batches, {}, {name: made[0] for name, made in makers.items()}, mean=mean).rows
    for name, (_, reconstruct) in makers.items():
        tokens = gather(lm, batches, reconstruct, mean)
        wanted = every_number(tokens, None) | {"l0": 5.0 if name == "pca" else float("nan")}
        expect(rows[name], wanted, len(tokens.x), len(tokens.ce["clean"]))
        assert all(rows[name].keys() >= groups.keys() for groups in (FIDELITY, LOSSES, COUNTS))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_identity_scores_exactly_one(tiny_llama: Path, dtype: str) -> None:
    lm = load_model(tiny_llama, dtype=dtype, device="cpu")
    for site in ("resid_pre.0", SITE, "mlp_out.2", "module:model.layers.1.self_attn"):
        row = flat(measured(lm, windows(), {}, {"identity": Identity(site)}).rows["identity"])
        ones = ("explained_variance", "explained_variance_legacy", "explained_variance_saebench", "top1_agreement")
        for name in (*ones, "ce_loss_score", "ce_loss_score_mean", "kl_div_score", "kl_div_score_mean"):
            assert row[name][:3] == (1.0, 1.0, 1.0), name
        for name in ("fvu", "mse", "mse_saebench", "kl_div_with_sae", "ce_loss_increase"):
            assert row[name][:3] == (0.0, 0.0, 0.0), name
        for name in ("cossim", "l2_ratio", "relative_reconstruction_bias"):
            assert row[name].value == pytest.approx(1, abs=1e-12), name
        assert row["ce_loss_with_sae"] == row["ce_loss_without_sae"]
        assert math.isnan(row["l0"].value)  # it has no latents


def test_an_sae_that_never_fires_scores_like_the_ablation_it_equals(lm: LanguageModel, mean: Tensor) -> None:
    saes = {"zero": silent_sae(lm), "mean": silent_sae(lm, mean)}
    found = measured(lm, windows(special=False), saes, mean=mean)
    zero, average = flat(found.rows["zero"]), flat(found.rows["mean"])
    for name in ("ce_loss_score", "kl_div_score"):
        assert zero[name][:3] == (0.0, 0.0, 0.0)
        assert average[name + "_mean"][:3] == (0.0, 0.0, 0.0)
    assert zero["ce_loss_with_sae"] == zero["ce_loss_with_ablation"] != zero["ce_loss_with_mean_ablation"]
    assert average["kl_div_with_sae"] == average["kl_div_with_mean_ablation"]
    assert zero["l2_norm_out"].value == zero["cossim"].value == zero["l2_ratio"].value == 0
    for row in (zero, average):
        assert {row[name].value for name in ("l0", "l0_p5", "l0_p50", "l0_p95", "l1", "frac_alive")} == {0.0}
        assert row["dead_share"][:3] == (1.0, 1.0, 1.0)
        assert math.isnan(row["normalized_freq_over_1_percent"].value)
    assert math.isnan(zero["relative_reconstruction_bias"].value)  # 0 / 0
    assert plain(found.rows["zero"])["shrinkage"]["relative_reconstruction_bias"]["value"] is None
    assert json.loads(json.dumps(plain(found.rows["zero"]), allow_nan=False))
    details = found.details["zero"]
    assert details.l0_values.tolist() == [0]
    assert details.l0_counts.tolist() == [found.tokens]
    for counts in (details.firings, details.windows_fired, details.strength):
        assert not counts.any()


def test_special_tokens_are_ablated_but_never_replaced(lm: LanguageModel) -> None:
    """So the zero SAE, which leaves BOS as it is, need not score 0 where there is a BOS."""
    row = flat(measured(lm, windows(), {"zero": silent_sae(lm)}).rows["zero"])
    assert row["ce_loss_with_sae"].value != row["ce_loss_with_ablation"].value
    assert abs(row["kl_div_score"].value) > 0.01


def test_an_sae_that_returns_the_mean_explains_nothing(lm: LanguageModel) -> None:
    sae = silent_sae(lm, activations(lm, windows()).double().mean(0))
    row = flat(measured(lm, windows(), {"mean": sae}).rows["mean"])
    assert row["explained_variance"].value == pytest.approx(0, abs=1e-6)
    assert row["fvu"].value == pytest.approx(1, abs=1e-6)


def singles(batches: list[TokenBatch]) -> list[TokenBatch]:
    return [TokenBatch(*(f[i : i + 1] for f in vars(b).values())) for b in batches for i in range(len(b.tokens))]


def close(row: Mapping[str, Any], other: Mapping[str, Any], rel: float = 1e-4, without: Collection[str] = ()) -> None:
    one, two = flat(row), flat(other)
    assert one.keys() == two.keys()
    wrong = {
        name: (metric, two[name])
        for name, metric in one.items()
        if name not in without and tuple(two[name]) != pytest.approx(tuple(metric), rel=rel, abs=2e-6, nan_ok=True)
    }
    assert not wrong


@pytest.mark.parametrize("kind", ["topk", "relu"])
def test_the_numbers_do_not_depend_on_how_windows_are_batched(lm: LanguageModel, mean: Tensor, kind: str) -> None:
    batches, saes, controls = windows(), {"it": sae_for(lm, kind)}, {"identity": Identity(SITE)}
    whole = measured(lm, batches, saes, controls, mean=mean)
    apart = measured(lm, singles(batches), saes, controls, mean=mean)
    for name in whole.rows:
        close(whole.rows[name], apart.rows[name], without=BY_BATCH)
    one, other = whole.details["it"], apart.details["it"]
    for field in ("l0_values", "l0_counts", "firings", "windows_fired", "position_tokens"):
        assert torch.equal(getattr(one, field), getattr(other, field)), field


def test_the_batch_is_the_one_given_however_few_windows_fit_into_a_forward(lm: LanguageModel, mean: Tensor) -> None:
    """Logits of a large vocabulary are made a few windows at a time; what is defined by batch must not notice."""
    saes = {"it": sae_for(lm)}
    whole = measured(lm, windows(), saes, mean=mean)
    with patch("kanary.evaluation.measure.CHUNK", 24 * lm.vocab_size):  # one window at a time
        split = measured(lm, windows(), saes, mean=mean)
    close(whole.rows["it"], split.rows["it"])


def test_codes_may_be_looked_at_a_few_tokens_at_a_time(lm: LanguageModel, mean: Tensor) -> None:
    """An untrained relu SAE is dense, so a piece of a batch at a time; windows are cut in the middle."""
    sae = SAE(SAEConfig(16, 48, sparsifier={"name": "relu"}, trained_on={"site": SITE}))
    with torch.no_grad():
        sae.encoder.W_enc.normal_(generator=torch.Generator().manual_seed(3))
        sae.decoder.W_dec.normal_(generator=torch.Generator().manual_seed(4))
    whole = measured(lm, windows(), {"it": sae}, mean=mean)
    with patch("kanary.evaluation.row.TILE", 48 * 7):
        pieces = measured(lm, windows(), {"it": sae}, mean=mean)
    close(whole.rows["it"], pieces.rows["it"], rel=1e-5)
    one, other = whole.details["it"], pieces.details["it"]
    assert torch.equal(one.windows_fired, other.windows_fired)
    torch.testing.assert_close(one.norms, other.norms, rtol=1e-5, atol=1e-6)
    tokens = gather(lm, windows(), dense(sae), mean)
    assert whole.rows["it"]["sparsity"]["l0"].value > 12
    wanted = every_number(tokens, sae.W_dec.detach().double().norm(dim=1))
    expect(pieces.rows["it"], wanted, len(tokens.x), len(tokens.ce["clean"]))


def test_rows_and_sites_do_not_influence_each_other(lm: LanguageModel) -> None:
    saes = {"a": sae_for(lm), "b": sae_for(lm, "relu", 1, "mlp_out.0"), "c": sae_for(lm, "batchtopk", 2)}
    controls = {"identity": Identity(SITE), "there": Identity("mlp_out.0")}
    together = measured(lm, windows(), saes, controls)
    for name, sae in saes.items():
        alone = measured(lm, windows(), {name: sae})
        assert together.rows[name] == alone.rows[name]
        for field, value in vars(alone.details[name]).items():
            same = together.details[name].__dict__[field]
            assert torch.allclose(same, value, equal_nan=True) if isinstance(value, Tensor) else same == value, field
    a, b = flat(together.rows["a"]), flat(together.rows["b"])
    assert a["ce_loss_without_sae"] == b["ce_loss_without_sae"]
    assert a["ce_loss_with_ablation"] != b["ce_loss_with_ablation"]
    assert a["l2_norm_in"] != b["l2_norm_in"]


def test_controls_and_losses_see_only_the_first_tokens(lm: LanguageModel, mean: Tensor) -> None:
    batches, sae, controls = windows(20), sae_for(lm), {"identity": Identity(SITE)}
    found = measured(lm, batches, {"it": sae}, controls, mean=mean, first=2)
    everything = measured(lm, batches, {"it": sae}, mean=mean)
    start = measured(lm, batches[:2], {"it": sae}, controls, mean=mean)
    assert found.tokens == everything.tokens > found.control_tokens == start.tokens
    assert repr(found.rows["identity"]) == repr(start.rows["identity"])  # NaN equals nothing
    for group in LOSSES:
        assert found.rows["it"][group] == start.rows["it"][group]
    for group in FIDELITY | SPARSITY:
        assert found.rows["it"][group] == everything.rows["it"][group]
    counts = found.rows["it"]["token_stats"]
    assert counts["total_tokens_eval_reconstruction"].value == start.tokens
    assert counts["total_tokens_eval_sparsity_variance"].value == found.tokens


def test_without_losses_the_rest_is_the_same(lm: LanguageModel) -> None:
    saes, controls = {"it": sae_for(lm)}, {"identity": Identity(SITE)}
    found, with_them = (measured(lm, windows(), saes, controls, losses=losses) for losses in (False, True))
    for name in ("it", "identity"):
        assert not found.rows[name].keys() & LOSSES.keys()
        for group in found.rows[name].keys() - COUNTS.keys():
            close({group: with_them.rows[name][group]}, {group: found.rows[name][group]}, rel=1e-9)
    assert found.rows["it"]["token_stats"]["total_tokens_eval_reconstruction"].value == 0


@pytest.mark.parametrize("kind", KINDS)
def test_intervals_hold_the_value_and_narrow_with_more_windows(lm: LanguageModel, kind: str) -> None:
    sae = sae_for(lm, kind)
    few = flat(measured(lm, windows(seed=1), {"it": sae}).rows["it"])
    many = flat(measured(lm, [b for seed in range(1, 13) for b in windows(seed=seed)], {"it": sae}).rows["it"])
    for name, metric in few.items():
        if not math.isnan(metric.value):
            assert metric.low <= metric.value <= metric.high, name
        if name in ("fvu", "mse", "ce_loss_without_sae", "ce_loss_with_sae", "kl_div_score", "ce_loss_score"):
            assert 0 < many[name].high - many[name].low < metric.high - metric.low, name


def test_the_bootstrap_is_the_same_every_time_and_its_seed_matters(lm: LanguageModel) -> None:
    saes = {"it": sae_for(lm)}
    first, again, other = (measured(lm, windows(), saes, seed=seed).rows["it"] for seed in (3, 3, 4))
    assert first == again
    assert flat(other)["fvu"].value == flat(first)["fvu"].value
    assert flat(other)["fvu"].low != flat(first)["fvu"].low


def test_an_interval_covers_the_truth_about_as_often_as_it_says(lm: LanguageModel) -> None:
    """95 % intervals over windows, checked on many small samples of one population."""
    saes = {"it": sae_for(lm)}
    population = [b for seed in range(32) for b in windows(12, 12, seed=seed)]
    names = ("ce_loss_with_sae", "mse", "kl_div_with_sae")
    truth = flat(measured(lm, population, saes).rows["it"])
    held = dict.fromkeys(names, 0)
    samples = [population[a : a + 6] for a in range(0, len(population), 6)]
    for sample in samples:
        row = flat(measured(lm, sample, saes).rows["it"])
        for name in names:
            held[name] += row[name].low <= truth[name].value <= row[name].high
    assert min(held.values()) >= 0.75 * len(samples), held


def test_more_windows_than_groups_give_the_same_values_and_like_intervals(lm: LanguageModel, mean: Tensor) -> None:
    batches = [b for seed in range(12) for b in windows(seed=seed)]
    each = measured(lm, batches, {"it": sae_for(lm)}, mean=mean)
    with patch("kanary.evaluation.sums.GROUPS", 20):
        grouped = measured(lm, batches, {"it": sae_for(lm)}, mean=mean)
    one, other = flat(each.rows["it"]), flat(grouped.rows["it"])
    for name, metric in one.items():
        assert other[name].value == pytest.approx(metric.value, rel=1e-12, abs=1e-12), name
        if name in ("fvu", "mse", "l1", "kl_div_with_sae", "ce_loss_with_sae", "ce_loss_score"):
            assert 0.4 < (other[name].high - other[name].low) / (metric.high - metric.low) < 2.5, name


def test_a_batch_of_special_tokens_alone_changes_nothing_but_the_number_of_windows(lm: LanguageModel) -> None:
    saes, controls = {"it": sae_for(lm)}, {"identity": Identity(SITE)}
    nothing = TokenBatch(*(f[:2].clone() for f in vars(windows()[0]).values()))
    nothing.tokens.fill_(1)
    nothing.special.fill_(True)
    plainly, mixed = (
        measured(lm, windows(), saes, controls),
        measured(lm, [nothing, *windows(), nothing], saes, controls),
    )
    assert mixed.windows == plainly.windows + 4
    for name, row in flat(plainly.rows["it"]).items():
        assert flat(mixed.rows["it"])[name].value == pytest.approx(row.value, rel=1e-12), name
    with pytest.raises(KanaryError, match="every one of them is special"):
        measured(lm, [nothing], saes, controls)


def test_reading_stops_when_there_are_enough_tokens(lm: LanguageModel) -> None:
    seen: list[int] = []
    it = Measurement(lm, {"it": Spliced(SITE, sae_for(lm))}, {}, {SITE: torch.zeros(16)}, window=24)
    stream = iter(windows(40))
    found: Measured = measure(it, stream, tokens=4 * 24 * 3 - 5, control_tokens=4 * 24, show=seen.append)
    assert seen == [96, 96, 96]
    assert len(list(stream)) == 7
    assert found.windows == 12
    assert found.control_tokens == windows(40)[0].n_tokens
    assert found.tokens == sum(b.n_tokens for b in windows(40)[:3])


# predictions


def reference(clean: Tensor, new: Tensor, tokens: Tensor, special: Tensor) -> dict[str, Tensor]:
    """Sums per window, from whole matrices of float64 log-probabilities."""
    p, q = clean.double().log_softmax(-1), new.double().log_softmax(-1)
    kl = (p.exp() * (p - q)).sum(-1).masked_fill(special, 0).sum(1)
    ce = torch.nn.functional.cross_entropy(
        new[:, :-1].double().flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
    ).reshape(len(tokens), -1)
    agree = ((clean.argmax(-1) == new.argmax(-1)) & ~special).sum(1).double()
    return {"ce": ce.masked_fill(special[:, :-1], 0).sum(1), "kl": kl, "agree": agree}


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(2, 8), st.integers(0, 2**31), st.integers(1, 200))
def test_losses_equal_those_of_float64_however_they_are_chunked(n: int, length: int, seed: int, chunk: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    clean, new = (3 * torch.randn(n, length, 7, generator=draw) for _ in "ab")
    tokens, special = torch.randint(0, 7, (n, length), generator=draw), torch.rand(n, length, generator=draw) < 0.4
    with patch.dict("kanary.evaluation.losses.PIECE", cpu=chunk):
        found = window_losses(read(clean), new, tokens, special)
    for name, wanted in reference(clean, new, tokens, special).items():
        value: Tensor = getattr(found, name)
        assert value.dtype == torch.float64
        torch.testing.assert_close(value, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("offset", [0.0, -100.0, 1e4])
@pytest.mark.parametrize("shift", [0.0, 100.0, -1e4])
def test_large_logits_lose_nothing(offset: float, shift: float) -> None:
    """A constant added to all logits says nothing; models are free to have any (GPT-2's lie near -100)."""
    draw = torch.Generator().manual_seed(0)
    clean = 3 * torch.randn(3, 8, 500, generator=draw) + offset
    new = clean + torch.randn(3, 8, 500, generator=draw) + shift
    tokens, special = torch.randint(0, 500, (3, 8), generator=draw), torch.rand(3, 8, generator=draw) < 0.3
    found = window_losses(read(clean), new, tokens, special)
    for name, wanted in reference(clean, new, tokens, special).items():
        torch.testing.assert_close(
            getattr(found, name), wanted, rtol=1e-3, atol=1e-3, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_logits_diverge_by_exactly_zero(scale: float, dtype: torch.dtype) -> None:
    logits = (scale * torch.randn(3, 8, 50, generator=torch.Generator().manual_seed(0))).to(dtype)
    special = torch.zeros(3, 8, dtype=torch.bool)
    found = window_losses(read(logits), logits.clone(), torch.zeros(3, 8, dtype=torch.long), special)
    assert found.kl.tolist() == [0.0] * 3
    assert found.agree.tolist() == [8.0] * 3
    assert found.ce.isfinite().all()
