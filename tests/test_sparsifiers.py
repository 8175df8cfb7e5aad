"""What each sparsifier keeps, in training and at inference, and how its k, its threshold or its strength moves."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kanary.kernels import Pattern
from kanary.sae import SAE, Active, SAEConfig
from kanary.sae.parts import SPARSIFIERS, narrowed
from kanary.sae.sparsifiers.batchtopk import BatchTopK, BatchTopKOptions
from kanary.sae.sparsifiers.jumprelu import JumpReLU
from kanary.sae.sparsifiers.topk import TopK, TopKOptions, k_at, row_topk
from kanary.training.config import TrainConfig
from planted import KINDS, config_for, planted, random_sae, train_on

quick = settings(max_examples=60, deadline=None)


def selected(sparsifier: Any, pre: Tensor, tile: int = 10**9) -> Tensor:
    """The dense codes that ``sparsifier`` makes of ``pre [tokens, d_sae]``, selected ``tile`` rows at a time."""

    def scan() -> tuple[Tensor, Pattern]:
        found = [sparsifier.select(piece) for piece in pre.split(tile)]
        latents, counts = (torch.cat(list(column)) for column in zip(*found, strict=True))
        pattern = Pattern(latents, torch.nn.functional.pad(counts.cumsum(0), (1, 0)), pre.shape[1])
        return pre[pattern.rows(), latents], pattern

    values, pattern = narrowed(sparsifier, scan) or pytest.fail("nothing selected")
    codes = sparsifier.activate(Active(values, pattern, pre))
    return torch.zeros_like(pre).index_put((pattern.rows(), pattern.latents), codes)


# ---- TopK ----


@quick
@given(st.integers(1, 5), st.integers(1, 300), st.integers(1, 40), st.booleans(), st.integers(0, 2**31))
def test_the_k_largest_of_a_row_are_those_of_torch_topk(n: int, width: int, k: int, ties: bool, seed: int) -> None:
    pre = torch.randn(n, width, generator=torch.Generator().manual_seed(seed))
    pre = (pre * 2).round() if ties else pre
    k = min(k, width)
    chosen = row_topk(pre, k)
    assert all(len(set(row)) == k for row in chosen.tolist())
    assert torch.equal(pre.gather(1, chosen).sort(1).values, pre.topk(k, dim=1).values.sort(1).values)


@pytest.mark.parametrize(
    ("width", "k"),
    [(1024, 1), (1024, 16), (1024, 17), (4096, 32), (1040, 3), (2049, 8), (800, 16), (512, 16), (512, 33)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_grouped_rows_give_the_same_k_largest(width: int, k: int, dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(width + k)
    for pre in (
        torch.randn(20, width, generator=draw),
        torch.zeros(20, width),
        torch.arange(width).float().expand(20, width).contiguous(),  # the largest all lie side by side
        (torch.arange(width) % (width // 16)).float().expand(20, width).contiguous(),  # … or in the same groups
    ):
        pre = pre.to(dtype)
        found = pre.gather(1, row_topk(pre, k)).sort(1).values
        assert torch.equal(found, pre.topk(k, dim=1).values.sort(1).values)


@quick
@given(st.integers(1, 5), st.integers(1, 80), st.data())
def test_topk_keeps_a_tokens_k_largest_and_nothing_negative(n: int, width: int, data: Any) -> None:
    k = data.draw(st.integers(1, width))
    pre = torch.randn(n, width, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))) + 0.3
    values, indices = pre.topk(k, dim=1)
    wanted = torch.zeros_like(pre).scatter(1, indices, values.clamp_min(0))
    assert torch.equal(selected(TopK(4, width, TopKOptions(k=k)), pre), wanted)


# ---- BatchTopK ----


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 12),
    st.integers(1, 60),
    st.data(),
    st.sampled_from([None, 0.0, 1e-4, 0.1, 1.0, 5.0, 1e6]),
    st.sampled_from([0.01, 1.0, 30.0]),
    st.sampled_from([-2.0, 0.0, 2.0]),
)
def test_batchtopk_keeps_the_k_times_n_largest_of_the_batch_whatever_its_floor_was(
    n: int, width: int, data: Any, floor: float | None, size: float, offset: float
) -> None:
    k = data.draw(st.integers(1, width))
    seed = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    pre = (torch.randn(n, width, generator=seed, dtype=torch.float64) + offset) * size
    part = BatchTopK(4, width, BatchTopKOptions(k=k)).train()
    part.floor.fill_(-1.0 if floor is None else floor)
    values, at = pre.flatten().topk(k * n)
    wanted = torch.zeros(n * width, dtype=torch.float64).scatter(0, at, values.clamp_min(0)).view(n, width)
    tile = data.draw(st.integers(1, 12))
    for _ in range(3):  # the floor that one batch leaves behind must not harm the next
        assert torch.equal(selected(part, pre, tile), wanted)


def test_batchtopk_with_equal_values_at_the_cut_keeps_at_least_k_times_n() -> None:
    part = BatchTopK(4, 10, BatchTopKOptions(k=2)).train()
    codes = selected(part, torch.ones(3, 10))
    assert (codes != 0).sum() >= 6


def test_batchtopk_learns_its_threshold_in_training_and_uses_it_at_inference() -> None:
    part = BatchTopK(4, 50, BatchTopKOptions(k=5, threshold_rate=0.1)).train()
    smallest = []
    for seed in range(40):
        codes = selected(part, torch.randn(64, 50, generator=torch.Generator().manual_seed(seed)))
        smallest.append(float(codes[codes > 0].min()))
        part.after_step(5.0, 3 * smallest[-1])  # an encoder may have made larger codes of the scores that were let in
    expected = smallest[0]
    for value in smallest[1:]:
        expected += 0.1 * (value - expected)
    assert float(part.threshold) == pytest.approx(expected, rel=1e-5)
    pre = torch.randn(1000, 50)
    codes = selected(part.eval(), pre)
    assert torch.equal(codes, pre * (pre > part.threshold))
    assert (codes != 0).sum(1).float().mean() == pytest.approx(5, abs=0.5)
    assert (codes != 0).sum(1).unique().numel() > 3  # tokens may differ


def test_batchtopk_that_has_learned_no_threshold_keeps_what_is_positive() -> None:
    pre = torch.randn(5, 20)
    assert torch.equal(selected(BatchTopK(4, 20, BatchTopKOptions(k=2)).eval(), pre), pre.clamp_min(0))


# ---- k-schedule ----


@quick
@given(st.integers(0, 999), st.integers(1, 1000), st.integers(1, 64), st.integers(1, 512), st.floats(0, 1))
def test_k_falls_linearly_and_is_rounded_down(step: int, steps: int, k: int, start: int, share: float) -> None:
    w = int(share * steps)
    wanted = int(start + (k - start) * step / w) if step < w else k
    assert k_at(step, steps, k, start, share) == wanted


def test_the_schedule_by_default_starts_at_512_and_takes_a_quarter() -> None:
    part = TopK(4, 2048, TopKOptions(k=16, k_schedule=True))
    seen = []
    for step in range(100):
        part.before_step(step, 100)
        seen.append(int(part.k_now))
    assert seen == [int(512 + (16 - 512) * t / 25) for t in range(25)] + [16] * 75


@pytest.mark.parametrize("kind", ["topk", "batchtopk"])
def test_k_starts_no_higher_than_the_width_and_the_current_k_is_saved(kind: str) -> None:
    sae = SAE(SAEConfig(4, 40, sparsifier={"name": kind, "k": 4, "k_schedule": True}))
    sae.sparsifier.before_step(0, 100)
    assert int(sae.sparsifier.k_now) == 40
    sae.sparsifier.before_step(12, 100)
    assert int(sae.sparsifier.k_now) == int(40 + (4 - 40) * 12 / 25)
    twin = SAE(sae.config)
    twin.load_state_dict(sae.state_dict())
    x = torch.randn(30, 4)
    with torch.no_grad():
        for each in (sae, twin):
            each.encoder.tie(torch.randn(40, 4, generator=torch.Generator().manual_seed(0)))
            each.encoder.raise_by(torch.full((40,), 9.0))  # everything is positive
    counts = [(each.train().active(x).pattern.offsets.diff().float().mean()) for each in (sae, twin)]
    assert counts == [int(sae.sparsifier.k_now)] * 2


def test_without_a_schedule_k_stays() -> None:
    part = TopK(4, 64, TopKOptions(k=7))
    part.before_step(0, 100)
    assert int(part.k_now) == 7


# ---- JumpReLU ----


@quick
@given(st.integers(0, 2**31), st.sampled_from([0.05, 0.5, 2.0]))
def test_jumprelu_has_the_papers_straight_through_gradients(seed: int, bandwidth: float) -> None:
    """Rajamanoharan et al. 2024 (arXiv 2407.14435), equations 11 and 12, entry by entry."""
    draw = torch.Generator().manual_seed(seed)
    part = SPARSIFIERS["jumprelu"]
    sae = random_sae("jumprelu", d_sae=9, seed=seed, bandwidth=bandwidth, l0_penalty=0.7)
    assert isinstance(sae.sparsifier, part)
    pre = torch.randn(20, 9, generator=draw, dtype=torch.float64, requires_grad=True)
    theta = sae.sparsifier.threshold
    active = Active(pre, None, torch.zeros(20, 6, dtype=torch.float64))
    upstream = torch.randn(20, 9, generator=draw, dtype=torch.float64)
    values = sae.sparsifier.activate(active)
    assert torch.equal(values, torch.where(pre > theta, pre, 0.0))
    d_pre, d_theta = torch.autograd.grad(values, (pre, theta), upstream)
    wanted = [0.0] * 9
    l0_wanted = [0.0] * 9
    for t in range(20):
        for i in range(9):
            u = (pre[t, i].item() - theta[i].item()) / bandwidth
            kernel = 1.0 if abs(u) < 0.5 else 0.0
            wanted[i] += upstream[t, i].item() * -theta[i].item() / bandwidth * kernel
            l0_wanted[i] += 0.7 / 20 * -1 / bandwidth * kernel
    torch.testing.assert_close(d_theta, torch.tensor(wanted, dtype=torch.float64))
    torch.testing.assert_close(d_pre, upstream * (pre > theta))
    penalty = sae.sparsifier.penalty(active, values, sae.decoder)
    assert penalty.item() == pytest.approx(0.7 * (values != 0).sum(1).double().mean().item())
    (d_theta,) = torch.autograd.grad(penalty, theta)
    torch.testing.assert_close(d_theta, torch.tensor(l0_wanted, dtype=torch.float64))


def test_thresholds_never_reach_zero() -> None:
    part = JumpReLU(4, 3)
    with torch.no_grad():
        part.threshold.copy_(torch.tensor([-1.0, 0.0, 0.5]))
    part.after_step(3.0, 0.1)
    assert part.threshold.tolist() == pytest.approx([1e-3, 1e-3, 0.5])


# ---- strength ----


@pytest.mark.parametrize("kind", ["relu", "gated", "jumprelu"])
def test_the_penalty_grows_from_nothing_during_the_warm_up(kind: str) -> None:
    part = SAE(SAEConfig(4, 8, sparsifier={"name": kind, "sparsity_warmup": 0.1})).sparsifier
    strengths = []
    for step in range(200):
        part.before_step(step, 200)
        strengths.append(float(part.now()))
        part.after_step(50.0, 0.1)
    full = part.initial_strength()
    assert strengths[:20] == pytest.approx([full * (step + 1) / 20 for step in range(20)])
    assert strengths[20:] == pytest.approx([full] * 180)


@pytest.mark.parametrize("kind", ["relu", "gated", "jumprelu"])
def test_the_penalty_grows_while_too_many_fire_and_falls_while_too_few_do(kind: str) -> None:
    part = SAE(SAEConfig(4, 8, sparsifier={"name": kind, "target_l0": 10.0})).sparsifier
    part.before_step(99, 100)
    for l0, sign in ((20.0, 1), (5.0, -1)):
        before = float(part.strength)
        for _ in range(5):
            part.after_step(l0, 0.1)
        assert sign * (float(part.strength) - before) > 0
    part.after_step(10.0, 0.1)
    settled = float(part.strength)
    part.after_step(10.0, 0.1)
    assert float(part.strength) == pytest.approx(settled)
    part.after_step(0.0, 0.0)  # nothing fires at all: still a number
    assert math.isfinite(float(part.strength))


@pytest.mark.parametrize(("kind", "target"), [("relu", 4.0), ("gated", 8.0), ("jumprelu", 4.0), ("jumprelu", 8.0)])
def test_a_target_l0_is_reached(kind: str, target: float) -> None:
    config = config_for(kind, width=128, batch=64, tokens=64 * 500, target_l0=target, lr=3e-3)
    _, stats = train_on(planted(20_000, d_model=32, features=128, active=16), config)  # more fire, if they may
    reached = sum(s.l0 for s in stats[-50:]) / 50
    assert reached == pytest.approx(target, rel=0.1)


def test_thresholds_reach_a_target_l0_in_a_short_training_without_the_penalty_running_away() -> None:
    config = config_for("jumprelu", width=128, batch=64, tokens=64 * 250, target_l0=6.0, lr=5e-4)
    learner, stats = train_on(planted(20_000, d_model=32, features=128, active=16), config)
    assert sum(s.l0 for s in stats[-30:]) / 30 == pytest.approx(6.0, rel=0.15)
    assert float(learner.sae.sparsifier.strength) < 100 * learner.sae.sparsifier.initial_strength()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_learns_something_in_a_few_hundred_steps(kind: str) -> None:
    config = TrainConfig(sae=kind, width=64, batch=128, tokens=128 * 200, lr=3e-3, revive="none")
    x = planted(10_000)
    learner, stats = train_on(x, config)
    codes = learner.sae.eval().encode(x)
    error = (learner.sae.decode(codes) - x).square().sum(1).mean()
    assert 1 - error / (x - x.mean(0)).square().sum(1).mean() > 0.5
    assert stats[-1].mse < stats[0].mse
    torch.testing.assert_close(learner.sae.W_dec.norm(dim=1), torch.ones(64))
