"""The first numbers are what DESIGN §6 defines, recomputed here another way, and the controls score what they must."""

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from kanary.errors import KanaryError
from kanary.evaluation.fidelity import Row, Target, fidelity, first_numbers, random_twin, window_losses
from kanary.lm import LanguageModel
from kanary.sae import SAE, SAEConfig, SparseCodes
from kanary.text import TokenBatch
from kanary.training.learner import begin
from planted import KINDS, config_for

SITE, LAYER = "resid_post.1", 1


def windows(n: int = 9, length: int = 24, *, special: bool = True, seed: int = 0) -> list[TokenBatch]:
    """Random windows in batches of 4; with BOS at the start of each, and an EOS and a BOS inside some."""
    draw = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, 300, (n, length), generator=draw)
    if special:
        tokens[:, 0] = 0
        tokens[::2, 10], tokens[::3, 17] = 1, 0
    is_special = tokens < 3
    ids = torch.arange(n)[:, None].expand(n, length)
    places = torch.arange(length, dtype=torch.int32).expand(n, length)
    return [TokenBatch(tokens[a : a + 4], ids[a : a + 4], places[a : a + 4], is_special[a : a + 4]) for a in (0, 4, 8)]


@pytest.fixture(scope="module")
def lm(tiny_lm: LanguageModel) -> LanguageModel:
    return tiny_lm


def sae_for(lm: LanguageModel, kind: str = "topk", seed: int = 0) -> SAE:
    """An untrained but well started SAE: what it scores is neither 0 nor 1."""
    x = torch.cat([lm.capture(b.tokens, [SITE])[SITE][~b.special] for b in windows(seed=seed)])
    k = {"k": 4} if kind in ("topk", "batchtopk") else {}
    sae = SAE(config_for(kind, width=40, **k).sae_config(lm.d_model))
    begin(sae, x, "mean", seed)
    return sae


def zero_sae(lm: LanguageModel) -> SAE:
    """Reconstructs everything as exactly zero."""
    sae = SAE(SAEConfig(lm.d_model, 8, sparsifier={"name": "relu"}))
    with torch.no_grad():
        sae.encoder.b_enc.fill_(-1e9)
    return sae


def rows(lm: LanguageModel, batches: list[TokenBatch], **targets: SAE | None) -> dict[str, Row]:
    return fidelity(lm, batches, {name: Target(SITE, sae) for name, sae in targets.items()})


def by_hand(lm: LanguageModel, batches: list[TokenBatch], sae: SAE | None) -> dict[str, float]:
    """Every number again: token by token, in float64, through a plain hook on the layer and dense codes."""
    losses: dict[str, list[float]] = {"clean": [], "sae": [], "zero": []}
    x_all: list[Tensor] = []
    error, l0s, fired = 0.0, [], set()
    for batch in batches:
        for tokens, special in zip(batch.tokens, batch.special, strict=True):
            x, losses_clean = forward(lm, tokens, special, None)
            new = x.clone()
            for t in (~special).nonzero().flatten().tolist():
                x_all.append(x[t].double())
                if sae is not None:
                    codes = sae.encode(x[t])
                    new[t] = (codes.to_dense() @ sae.W_dec + sae.decoder.b_dec) / sae.scale + sae.mean
                    l0s.append(len(codes.values))
                    fired |= set(codes.indices.tolist())
            error += (x.double() - new.double()).square().sum().item()
            losses["clean"] += losses_clean
            losses["sae"] += forward(lm, tokens, special, new)[1]
            losses["zero"] += forward(lm, tokens, special, torch.zeros_like(x))[1]
    x = torch.stack(x_all)
    variance = (x.square().sum(1).mean() - x.mean(0).square().sum()).item()
    ce = {name: sum(values) / len(values) for name, values in losses.items()}
    return {
        "l0": sum(l0s) / len(x) if sae else float("nan"),
        "explained_variance": 1 - error / len(x) / variance,
        "ce_score_zero": (ce["zero"] - ce["sae"]) / (ce["zero"] - ce["clean"]),
        "ce_clean": ce["clean"],
        "ce_sae": ce["sae"],
        "ce_zero": ce["zero"],
        "dead_share": 1 - len(fired) / sae.d_sae if sae else float("nan"),
        "tokens": len(x),
        "losses": len(losses["clean"]),
    }


def forward(lm: LanguageModel, tokens: Tensor, special: Tensor, instead: Tensor | None) -> tuple[Tensor, list[float]]:
    """What the layer puts out for one window, and the losses that count with ``instead`` in its place."""
    seen: list[Tensor] = []

    def hook(module: Any, inputs: Any, output: Any) -> Any:
        x = output[0] if isinstance(output, tuple) else output
        seen.append(x.clone())
        new = x if instead is None else instead[None]
        return (new, *output[1:]) if isinstance(output, tuple) else new

    handle = lm.model.model.layers[LAYER].register_forward_hook(hook)
    try:
        with torch.no_grad():
            logits = lm.model(tokens[None]).logits[0].double().log_softmax(1)
    finally:
        handle.remove()
    return seen[0][0], [-logits[t, tokens[t + 1]].item() for t in range(len(tokens) - 1) if not special[t]]


@pytest.mark.parametrize("kind", [*KINDS, "identity"])
@pytest.mark.parametrize("special", [True, False])
def test_every_number_equals_one_computed_token_by_token(lm: LanguageModel, kind: str, special: bool) -> None:
    batches = windows(special=special)
    sae = None if kind == "identity" else sae_for(lm, kind)
    row, wanted = rows(lm, batches, it=sae)["it"], by_hand(lm, batches, sae)
    for name, metric in row._asdict().items():
        # scores divide by the small difference between two losses of a random model
        slack = 2e-3 if name == "ce_score_zero" else 2e-6
        assert metric.value == pytest.approx(wanted[name], rel=1e-5, abs=slack, nan_ok=True), name
        assert metric.n == wanted["losses" if name.startswith("ce_") else "tokens"], name
    if special:
        assert wanted["losses"] != wanted["tokens"] != sum(b.tokens.numel() for b in batches)


def test_the_identity_scores_exactly_one(lm: LanguageModel) -> None:
    row = rows(lm, windows(), identity=None)["identity"]
    assert row.explained_variance[:3] == (1.0, 1.0, 1.0)
    assert row.ce_score_zero[:3] == (1.0, 1.0, 1.0)
    assert row.ce_sae == row.ce_clean
    assert math.isnan(row.l0.value)  # it has no latents
    assert math.isnan(row.dead_share.value)


def test_an_sae_that_returns_zero_scores_zero_where_no_token_is_special(lm: LanguageModel) -> None:
    row = rows(lm, windows(special=False), zero=zero_sae(lm))["zero"]
    assert row.ce_score_zero[:3] == (0.0, 0.0, 0.0)
    assert row.ce_sae == row.ce_zero
    assert row.l0.value == 0
    assert row.dead_share.value == 1


def test_special_tokens_are_ablated_but_never_replaced(lm: LanguageModel) -> None:
    """So the zero SAE, which leaves BOS as it is, need not score 0 where there is a BOS."""
    row = rows(lm, windows(), zero=zero_sae(lm))["zero"]
    assert row.ce_sae.value != row.ce_zero.value
    assert row.ce_score_zero.value == pytest.approx(by_hand(lm, windows(), zero_sae(lm))["ce_score_zero"], abs=2e-3)


def test_an_sae_that_returns_the_mean_explains_nothing(lm: LanguageModel) -> None:
    batches, sae = windows(), zero_sae(lm)
    x = torch.cat([lm.capture(b.tokens, [SITE])[SITE][~b.special] for b in batches])
    sae.mean.copy_(x.double().mean(0))
    assert rows(lm, batches, mean=sae)["mean"].explained_variance.value == pytest.approx(0, abs=1e-6)


def test_the_numbers_do_not_depend_on_how_windows_are_batched(lm: LanguageModel) -> None:
    batches, sae = windows(), sae_for(lm)
    single = [
        TokenBatch(*(getattr(b, f)[i : i + 1] for f in ("tokens", "documents", "positions", "special")))
        for b in batches
        for i in range(len(b.tokens))
    ]
    for one, other in zip(rows(lm, batches, it=sae)["it"], rows(lm, single, it=sae)["it"], strict=True):
        assert other == pytest.approx(one, rel=1e-3, abs=1e-4)


def test_rows_do_not_influence_each_other(lm: LanguageModel) -> None:
    first, second = sae_for(lm, seed=0), sae_for(lm, "relu", seed=1)
    both = fidelity(
        lm, windows(), {"a": Target(SITE, first), "b": Target("mlp_out.0", second), "identity": Target(SITE, None)}
    )
    assert both["a"] == fidelity(lm, windows(), {"a": Target(SITE, first)})["a"]
    assert both["b"] == fidelity(lm, windows(), {"b": Target("mlp_out.0", second)})["b"]
    assert both["a"].ce_clean == both["b"].ce_clean
    assert both["a"].ce_zero != both["b"].ce_zero


@pytest.mark.parametrize("kind", KINDS)
def test_intervals_hold_the_value_and_narrow_with_more_windows(lm: LanguageModel, kind: str) -> None:
    sae = sae_for(lm, kind)
    few = rows(lm, windows(seed=1), it=sae)["it"]
    many = rows(lm, [batch for seed in range(1, 13) for batch in windows(seed=seed)], it=sae)["it"]
    for name, metric in few._asdict().items():
        assert metric.low <= metric.value <= metric.high, name
        other = getattr(many, name)
        if name in ("explained_variance", "ce_score_zero", "ce_clean", "ce_sae"):
            assert 0 < other.high - other.low < metric.high - metric.low, name


def test_the_bootstrap_is_the_same_every_time_and_its_seed_matters(lm: LanguageModel) -> None:
    target = {"it": Target(SITE, sae_for(lm))}
    first, again = (fidelity(lm, windows(), target, seed=3) for _ in range(2))
    other = fidelity(lm, windows(), target, seed=4)["it"]
    assert first == again
    assert other.explained_variance.value == first["it"].explained_variance.value
    assert other.explained_variance.low != first["it"].explained_variance.low


def test_an_interval_covers_the_truth_about_as_often_as_it_says(lm: LanguageModel) -> None:
    """95 % intervals over windows, checked on many small samples of one population."""
    sae = sae_for(lm)
    population = [b for seed in range(40) for b in windows(12, seed=seed)]
    truth = rows(lm, population, it=sae)["it"].ce_clean.value
    held = 0
    for a in range(0, len(population), 6):
        metric = rows(lm, population[a : a + 6], it=sae)["it"].ce_clean
        held += metric.low <= truth <= metric.high
    assert held >= 0.75 * len(population) / 6


def test_nothing_to_evaluate_on_is_said_plainly(lm: LanguageModel) -> None:
    with pytest.raises(KanaryError, match="no held-out tokens"):
        rows(lm, [], it=None)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(2, 8), st.integers(0, 2**31))
def test_a_positions_loss_counts_unless_its_source_token_is_special(n: int, length: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    logits, tokens = torch.randn(n, length, 7, generator=draw), torch.randint(0, 7, (n, length), generator=draw)
    special = torch.rand(n, length, generator=draw) < 0.4
    found = window_losses(logits, tokens, special)
    for row in range(n):
        wanted = sum(
            F.cross_entropy(logits[row, t].double(), tokens[row, t + 1]).item()
            for t in range(length - 1)
            if not special[row, t]
        )
        assert found[row].item() == pytest.approx(wanted, abs=1e-5)


def test_a_random_twin_has_the_same_size_and_sparsity_but_directions_of_its_own(lm: LanguageModel) -> None:
    sae, x = sae_for(lm, "relu"), lm.capture(windows()[0].tokens, [SITE])[SITE].flatten(0, 1)
    twin = random_twin(sae, x, seed=1)
    k = round(sae.encode(x).l0().double().mean().item())
    assert (twin.encode(x).l0() <= k).all()
    assert twin.encode(x).l0().double().mean() > 0.7 * k
    assert twin.d_sae == sae.d_sae
    torch.testing.assert_close(twin.W_dec.norm(dim=1), torch.ones(40))
    assert torch.equal(twin.scale, sae.scale)
    assert torch.equal(twin.decoder.b_dec, sae.decoder.b_dec)
    assert (twin.W_dec * sae.W_dec).sum(1).abs().max() < 0.99
    assert torch.equal(random_twin(sae, x, seed=1).W_dec, twin.W_dec)
    assert not torch.equal(random_twin(sae, x, seed=2).W_dec, twin.W_dec)


def test_a_random_twin_puts_out_the_size_that_fits_best(lm: LanguageModel) -> None:
    sae, x = sae_for(lm), lm.capture(windows()[0].tokens, [SITE])[SITE].flatten(0, 1)
    twin = random_twin(sae, x, seed=1)

    def error(factor: float) -> float:
        codes = twin.encode(x)
        scaled = SparseCodes(codes.indices, codes.values * factor, codes.offsets, codes.d_sae, codes.shape)
        return (twin.decode(scaled) - x).square().sum().item()

    assert error(1.0) < min(error(0.9), error(1.1), error(0.0))


def test_the_first_numbers_stand_beside_their_controls_and_are_json(lm: LanguageModel) -> None:
    saes = {"a": sae_for(lm), "b": sae_for(lm, "relu", seed=1)}
    for sae in saes.values():
        sae.remember(site=SITE)
    numbers = first_numbers(lm, iter(windows()), saes, tokens=100, seed=0)
    assert json.loads(json.dumps(numbers, allow_nan=False)) == numbers
    assert set(numbers["saes"]) == {"a", "b"}
    assert set(numbers["controls"]) == {f"identity at {SITE}", "random twin of a", "random twin of b"}
    used, enough = windows()[:2], windows()[0].n_tokens >= 100
    used = used[:1] if enough else used
    assert numbers["held_out"] == {"tokens": sum(b.n_tokens for b in used), "windows": 4 * len(used), "seed": 0}
    row = rows(lm, used, it=saes["a"])["it"]
    assert numbers["saes"]["a"] == {name: metric._asdict() for name, metric in row._asdict().items()}
    assert saes["a"].config.trained_on["metrics"]["l0"] == row.l0._asdict()
    identity = numbers["controls"][f"identity at {SITE}"]
    assert identity["l0"]["value"] is None
    assert identity["ce_score_zero"]["value"] == 1.0
    with pytest.raises(KanaryError, match="no held-out tokens"):
        first_numbers(lm, iter([]), saes, tokens=100, seed=0)
