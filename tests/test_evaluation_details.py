"""What the pictures are drawn from, counted again from the codes; and that none of it grows with the tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from by_hand import (
    SITE,
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
from kanary.evaluation.measure import Measurement
from kanary.evaluation.row import DetailedRow, View, l0_bins
from kanary.evaluation.standin import Identity, Spliced
from kanary.evaluation.sums import GROUPS
from kanary.lm import LanguageModel
from kanary.sae import SAE, SAEConfig


@pytest.fixture(scope="module")
def lm(tiny_llama: Path) -> LanguageModel:
    return strong_lm(tiny_llama)


@pytest.fixture(scope="module")
def mean(lm: LanguageModel) -> Tensor:
    """Of other text than that which is measured."""
    return activations(lm, windows(seed=77)).double().mean(0)


@pytest.mark.parametrize("kind", ["topk", "relu", "jumprelu"])
def test_details_are_counts_over_the_codes(lm: LanguageModel, mean: Tensor, kind: str) -> None:
    batches, sae = windows(), sae_for(lm, kind)
    found = measured(lm, batches, {"it": sae}, mean=mean, first=1)
    details, t = found.details["it"], gather(lm, batches, dense(sae), mean)
    assert t.codes is not None
    on = t.codes != 0
    values, counts = on.sum(1).unique(return_counts=True)
    assert torch.equal(details.l0_values, values)
    assert torch.equal(details.l0_counts, counts)
    assert int(details.l0_counts.sum()) == details.tokens == found.tokens == len(t.x)
    l0 = flat(found.rows["it"])["l0"].value
    assert float((details.l0_values * details.l0_counts).sum()) / details.tokens == pytest.approx(l0, rel=1e-12)
    assert torch.equal(details.firings, on.sum(0))
    together = torch.stack([on[t.window == w].any(0) for w in t.window.unique()])
    assert torch.equal(details.windows_fired, together.sum(0))
    unit = sae.W_dec.detach().double().norm(dim=1) / sae.scale.double()
    torch.testing.assert_close(details.strength, (t.codes * unit).sum(0), rtol=1e-5, atol=1e-6)


def test_the_error_by_position_is_a_share_of_the_variance_of_all_tokens(lm: LanguageModel, mean: Tensor) -> None:
    sae = sae_for(lm)
    found = measured(lm, windows(), {"it": sae}, mean=mean)
    details, t = found.details["it"], gather(lm, windows(), dense(sae), mean)
    variance = (t.x - t.x.mean(0)).square().sum(1).mean()
    error = (t.x - t.x_hat).square().sum(1)
    assert details.position_fvu.shape == details.position_tokens.shape == (24,)
    assert math.isnan(details.position_fvu[0])  # BOS
    for place in range(1, 24):
        mine = t.position == place
        assert int(details.position_tokens[place]) == int(mine.sum())
        assert float(details.position_fvu[place]) == pytest.approx(float(error[mine].mean() / variance), rel=1e-5)
    total = (details.position_fvu * details.position_tokens).nansum() / details.tokens
    assert float(total) == pytest.approx(flat(found.rows["it"])["fvu"].value, rel=1e-9)


def test_the_norms_are_those_of_real_tokens(lm: LanguageModel, mean: Tensor) -> None:
    batches = windows(seed=1)
    t = gather(lm, batches, dense(sae_for(lm)), mean)
    pairs = torch.stack([t.x.norm(dim=1), (t.x - t.x_hat).norm(dim=1)], 1)
    all_of_them = measured(lm, batches, {"it": sae_for(lm)}).details["it"].norms
    assert len(all_of_them) == len(pairs)
    torch.testing.assert_close(
        all_of_them[all_of_them[:, 0].argsort()], pairs[pairs[:, 0].argsort()], rtol=1e-5, atol=1e-5
    )
    with patch("kanary.evaluation.row.POINTS", 30):
        some = measured(lm, batches, {"it": sae_for(lm)}).details["it"].norms
    nearest = (some[:, None] - pairs).norm(dim=2).min(1)
    assert len(nearest.indices.unique()) == 30
    assert nearest.values.max() < 1e-4


def test_every_token_is_equally_likely_to_be_in_the_sample_of_norms(lm: LanguageModel) -> None:
    batches = [torch.rand(n, 5, 16, generator=torch.Generator().manual_seed(n)) for n in (1, 7, 4)]
    views = [View(x, torch.zeros(x.shape[:2], dtype=torch.bool)) for x in batches]
    sizes = torch.cat([view.size for view in views])
    spliced, rounds = Spliced(SITE, silent_sae(lm)), 1500
    drawn = torch.zeros(60)
    with patch("kanary.evaluation.row.POINTS", 20):
        for seed in range(rounds):
            row = DetailedRow(spliced, "it", seed, window=5)
            row.fired = torch.zeros(1, 8, dtype=torch.bool)
            for view in views:
                row.look(view, view.size.square())
            drawn[torch.isin(sizes, row.points[:, 0])] += 1
    assert drawn.sum() == 20 * rounds
    chi_square = ((drawn - rounds / 3).square() / (rounds / 3 * 2 / 3)).sum()
    assert chi_square < 110  # 59 degrees of freedom: exceeded by chance once in 10,000 times
    assert (drawn - rounds / 3).abs().max() < 5 * (rounds / 3 * 2 / 3) ** 0.5


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 2**21))
def test_l0_is_counted_one_by_one_up_to_2047_and_then_to_one_percent(d_sae: int) -> None:
    bins = l0_bins(d_sae)
    exact = min(2047, d_sae)
    assert torch.equal(bins[: exact + 1], torch.arange(exact + 1))
    assert (bins.diff() > 0).all()
    assert exact <= int(bins[-1]) <= d_sae
    ends = torch.cat([bins[1:] - 1, torch.tensor([d_sae])])  # the largest number that falls into each bin
    assert float((ends[1:] / bins[1:]).max()) <= 1.011 if d_sae else True


def test_more_latents_than_are_counted_one_by_one(lm: LanguageModel, mean: Tensor) -> None:
    sae = SAE(SAEConfig(16, 3000, sparsifier={"name": "relu"}, trained_on={"site": SITE}))
    with torch.no_grad():
        sae.encoder.W_enc.normal_(generator=torch.Generator().manual_seed(3)).mul_(0.1)
        sae.decoder.W_dec.normal_(generator=torch.Generator().manual_seed(4)).mul_(0.1)
        sae.encoder.b_enc.fill_(0.4)
    found = measured(lm, windows(), {"it": sae}, mean=mean, losses=False)
    row, t = flat(found.rows["it"]), gather(lm, windows(), dense(sae), mean)
    wanted = every_number(t, sae.W_dec.detach().double().norm(dim=1))
    assert wanted["l0_p95"] > 2100
    assert row["l0"].value == pytest.approx(wanted["l0"], rel=2e-4)  # a pre-activation near 0 may round to either side
    for name in ("l0_p5", "l0_p50", "l0_p95"):
        assert wanted[name] / 1.011 - 1 <= row[name].value <= wanted[name] + 1, name
    assert int(found.details["it"].l0_counts.sum()) == found.tokens


def sizes(thing: Any, path: str = "", seen: set[int] | None = None) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor that ``thing`` holds, models apart, and the length of every list."""
    seen = set() if seen is None else seen
    if id(thing) in seen or isinstance(thing, (nn.Module, LanguageModel, torch.Generator, str)):
        return {}
    seen.add(id(thing))
    if isinstance(thing, Tensor):
        return {path: tuple(thing.shape)}
    found: dict[str, tuple[int, ...]] = {path: (len(thing),)} if isinstance(thing, list) else {}
    inside = (
        thing.items() if isinstance(thing, Mapping) else enumerate(thing) if isinstance(thing, (list, tuple)) else ()
    )
    for key, value in [*inside, *getattr(thing, "__dict__", {}).items()]:
        found |= sizes(value, f"{path}/{key}", seen)
    return found


def test_memory_does_not_grow_with_the_tokens(lm: LanguageModel) -> None:
    it = Measurement(
        lm, {"it": Spliced(SITE, sae_for(lm))}, {"identity": Identity(SITE)}, {SITE: torch.zeros(16)}, window=6
    )
    batches = windows(GROUPS + 10 + 990, 6, size=GROUPS + 10)
    it.add(batches[0], controls=True)
    before = sizes(it)
    assert len(before) > 25
    for batch in batches[1:]:
        it.add(batch, controls=True)
    after = {name: shape for name, shape in sizes(it).items() if "/fired" not in name}
    assert after == {name: shape for name, shape in before.items() if "/fired" not in name}
