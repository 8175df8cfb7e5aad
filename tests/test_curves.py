"""Functions of single latents: where their grids come from, and that they stay the same functions when grids move."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kanary.errors import KanaryError
from kanary.kernels import Pattern
from kanary.sae.curves import BEYOND, LEAST, CurveOptions, LatentCurves, Reach, Schedule, spread

BASES = ["hat", "bspline"]
quick = settings(max_examples=40, deadline=None)


def curves(basis: str = "hat", d_sae: int = 5, knots: int = 8, outputs: int = 1, seed: int = 0) -> LatentCurves:
    """Random float64 functions on random grids."""
    made = LatentCurves(d_sae, CurveOptions(knots=knots, basis=basis), outputs).double()
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        made.coefficients.copy_(torch.randn(made.coefficients.shape, generator=draw, dtype=torch.float64))
        made.basis.set_range(0.0, 0.5 + torch.rand(d_sae, generator=draw, dtype=torch.float64))
    return made


def moved_to(made: LatentCurves, upper: Tensor) -> None:
    """Shows every latent so many values at ``upper [d_sae]`` that its grid has to end there, and moves the grids."""
    latents = torch.arange(len(upper)).repeat_interleave(LEAST)
    made.reach.count(upper.repeat_interleave(LEAST), latents)
    made.move(made.coefficients)
    torch.testing.assert_close(made.basis.grid[:, 1], upper)


def sampled(made: LatentCurves, at: Tensor, output: int = 0) -> Tensor:
    """All functions at ``at [d_sae, points]`` -> ``[d_sae, points]``."""
    latents = torch.arange(len(at))[:, None].expand(at.shape)
    return made(at.reshape(-1), latents.reshape(-1), output).detach().view(at.shape)


def change(made: LatentCurves, upper: Tensor, over: Tensor) -> Tensor:
    """``[d_sae]``: root mean square by which moving to ``upper`` changes functions on ``[0, over]``, by that of themselves."""
    at = over[:, None] * torch.linspace(0, 1, 400, dtype=torch.float64)
    was = sampled(made, at)
    moved_to(made, upper)
    return (sampled(made, at) - was).norm(dim=1) / was.norm(dim=1)


# ---- the reach of values ----


@quick
@given(st.integers(0, 2**31), st.booleans())
def test_grids_end_three_deviations_above_the_mean_or_at_the_largest_value(seed: int, dense: bool) -> None:
    draw = torch.Generator().manual_seed(seed)
    d_sae, tokens = 7, 300
    reach, shares = Reach(d_sae), torch.tensor([0.0, 0.02, 0.2, 0.5, 0.9, 1.0, 1.0])
    seen: list[list[float]] = [[] for _ in range(d_sae)]
    for _ in range(3):
        codes = torch.randn(tokens, d_sae, generator=draw).exp() * torch.arange(1, d_sae + 1)
        codes[:, 5] = 4.0  # always the same
        codes *= torch.rand(tokens, d_sae, generator=draw) < shares
        codes[torch.rand(tokens, d_sae, generator=draw) < 0.05] *= -1
        codes[0] = float("inf")
        codes[1] = float("nan")
        for i in range(d_sae):
            seen[i] += [v for v in codes[:, i].tolist() if 0 < v < float("inf")]
        if dense:
            reach.count(codes)
        else:
            rows, latents = codes.nonzero(as_tuple=True)
            reach.count(codes[rows, latents], latents)
    wanted = [min(np.mean(s) + BEYOND * np.std(s), max(s)) if len(s) >= LEAST else np.nan for s in map(np.array, seen)]
    usual = np.sort(wanted)[(np.isfinite(wanted).sum() - 1) // 2]  # the lower of the two in the middle, as torch has it
    np.testing.assert_allclose(reach.upper(), np.nan_to_num(wanted, nan=usual), rtol=1e-4)
    assert reach.counts.tolist() == [len(s) for s in seen]
    assert reach.largest.tolist() == pytest.approx([max(s, default=0.0) for s in seen])
    reach.forget()
    assert reach.upper() is None


def test_values_are_not_lost_in_a_long_training() -> None:
    reach = Reach(2)
    reach.counts.fill_(2.0**24)  # where single precision no longer knows the next whole number
    reach.sums.fill_(2.0**25)
    reach.squares.fill_(2.0**26)
    reach.count(torch.full((2000,), 2.0), torch.zeros(2000, dtype=torch.int64))
    assert reach.counts.tolist() == [2**24 + 2000, 2**24]
    assert reach.sums.tolist() == [2**25 + 4000, 2**25]


def test_a_few_values_say_more_than_none_and_no_grid_shrinks_to_a_point() -> None:
    reach = Reach(3)
    assert reach.upper() is None
    reach.count(torch.tensor([2.0, 4.0, 6.0]), torch.tensor([0, 0, 2]))
    np.testing.assert_allclose(reach.upper(), [4.0, 4.0, 4.0])  # latent 2 has fewer than latent 0
    reach.count(torch.full((LEAST,), 1e-9), torch.full((LEAST,), 1))
    reach.count(torch.full((LEAST,), 5.0), torch.full((LEAST,), 2))
    assert reach.upper()[1] > 0
    LatentCurves(3, CurveOptions()).basis.set_range(0.0, reach.upper())


# ---- the schedule ----


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 20, 1000])
@pytest.mark.parametrize("joins", [0.0, 0.01, 0.1, 0.3, 0.49])
def test_functions_join_once_grids_have_seen_values_and_grids_follow_until_half_of_training(
    joins: float, steps: int
) -> None:
    schedule = Schedule(joins, 0.1)
    every = range(steps)
    joined = [schedule.joined(step, steps) for step in every]
    moves = [step for step in every if schedule.moves(step, steps)]
    assert joined == sorted(joined)
    assert not joined[0]
    assert len(moves) <= 3
    if any(joined):
        assert moves[0] == joined.index(True) == max(1, round(joins * steps))
    assert all(schedule.listens(step, steps) for step in every if step < max(moves, default=0))
    if steps >= 20 and joins < 0.45:
        assert moves[1:] == [again for again in (round(steps / 3), round(steps / 2)) if again > moves[0]]
        assert moves[-1] == steps / 2
        assert not schedule.listens(moves[-1], steps)
    assert [schedule.now(step, steps) for step in every] == [0.1 * on for on in joined]


def test_a_schedule_that_makes_no_sense_is_refused() -> None:
    for joins, pace in ((-0.1, 0.1), (0.5, 0.1), (float("nan"), 0.1), (0.1, -1), (0.1, 2)):
        with pytest.raises(KanaryError, match=rf"joins={joins} .*pace={pace} "):
            Schedule(joins, pace)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("joins", [0.0, 0.1, 0.49])
def test_trainings_of_any_length_leave_grids_that_work(basis: str, joins: float) -> None:
    for steps in (1, 2, 3, 4, 5, 30):
        made = LatentCurves(4, CurveOptions(basis=basis, joins=joins))
        for step in range(steps):
            made.before_step(step, steps)
            made.count(torch.rand(6) * 3, torch.randint(4, (6,)))  # a few values per step
        made.before_step(steps, steps)  # one more, as somebody may ask for
        grid = made.basis.grid
        assert grid.isfinite().all()
        assert (grid[:, 0] == 0).all()
        assert (grid[:, 1] > 0).all()
        if steps > 1:
            assert (grid[:, 1] != 1).all()
            assert (grid[:, 1] <= 3).all()


def test_values_are_counted_only_while_a_grid_will_still_move() -> None:
    made = LatentCurves(2, CurveOptions(joins=0.1))
    for step in range(40):
        made.before_step(step, 40)
        before = made.reach.counts.sum()
        made.count(torch.ones(3), torch.tensor([0, 1, 1]))
        made.count(torch.ones(3, 2))
        assert made.reach.counts.sum() - before == (9 if step < 20 else 0)
        assert (before == 0) == (step in (0, 4, 13) or step >= 20)  # forgotten whenever grids move


def test_functions_are_idle_in_training_until_they_join_but_only_if_they_are_zero() -> None:
    made = LatentCurves(2, CurveOptions(joins=0.1))
    assert not made.idle
    for step in range(10):
        made.before_step(step, 20)
        assert made.idle == (step < 2)
        assert not made.eval().idle
        made.train()
    with torch.no_grad():
        made.coefficients[1, 0, 3] = 1e-3
    made.before_step(0, 20)  # a second training of an SAE that has functions
    assert not made.idle


# ---- the functions ----


@pytest.mark.parametrize("basis", BASES)
def test_functions_start_at_zero_and_are_zero_at_zero_always(basis: str) -> None:
    fresh = LatentCurves(5, CurveOptions(basis=basis))
    assert not sampled(fresh, torch.linspace(0, 9, 20).expand(5, -1)).any()
    made = curves(basis, outputs=2)
    for output in (0, 1):
        assert not sampled(made, torch.zeros(5, 1, dtype=torch.float64), output).any()
        assert sampled(made, torch.ones(5, 1, dtype=torch.float64), output).all()
    moved_to(made, torch.linspace(0.3, 3, 5, dtype=torch.float64))
    assert sampled(made, torch.zeros(5, 1, dtype=torch.float64)).abs().max() < 1e-15


@pytest.mark.parametrize("basis", BASES)
def test_beyond_the_grid_functions_go_on_straight_and_the_share_of_such_values_is_known(basis: str) -> None:
    made = curves(basis)
    end = made.basis.grid[:, 1:]
    value, near, far = (sampled(made, end * x) for x in (1.0, 1.01, 4.0))
    torch.testing.assert_close(far - value, (near - value) * 300)
    latents = torch.arange(5).repeat(4)
    values = torch.cat([made.basis.grid[:, 1] * x for x in (0.1, 0.9, 1.1, 7.0)])
    assert made.basis.share_outside(values, latents) == pytest.approx(0.5)


@pytest.mark.parametrize("basis", BASES)
def test_the_terms_weighed_with_the_coefficients_are_the_function(basis: str) -> None:
    made = curves(basis)
    values = torch.rand(200, dtype=torch.float64) * 2.5
    latents = torch.randint(5, (200,))
    values[:9] = 0
    numbers, weights = made.terms(values, latents)
    rows = made.coefficients[latents, 0].gather(1, numbers)
    torch.testing.assert_close((rows * weights).sum(1), made(values, latents))
    numbers, slopes = made.slopes_at_zero()
    every = torch.arange(5)
    start = made(torch.zeros(5, dtype=torch.float64), every, order=1)
    torch.testing.assert_close((made.coefficients[:, 0].gather(1, numbers) * slopes).sum(1), start)
    assert start.abs().min() > 1e-3


@pytest.mark.parametrize("knots", [4, 8])
@pytest.mark.parametrize("basis", BASES)
def test_the_line_is_the_identity_on_every_grid(basis: str, knots: int) -> None:
    made = curves(basis, knots=knots)
    with torch.no_grad():
        made.coefficients[:, 0] = made.line()
    at = torch.linspace(0, 5, 40, dtype=torch.float64).expand(5, -1)
    torch.testing.assert_close(sampled(made, at), at.contiguous())


@pytest.mark.parametrize("basis", BASES)
def test_dense_codes_give_what_the_list_of_all_codes_gives_gradients_of_zeros_included(basis: str) -> None:
    made = curves(basis)
    draw = torch.Generator().manual_seed(1)
    codes = torch.randn(9, 5, generator=draw, dtype=torch.float64).clamp_min(0).requires_grad_()
    assert (codes == 0).any()
    every = Pattern(torch.arange(5).repeat(9), torch.arange(0, 46, 5), 5)
    upstream = torch.randn(9, 5, generator=draw, dtype=torch.float64)
    found = []
    for given_codes, pattern in ((codes, None), (codes.reshape(-1), every)):
        out = made.at(given_codes, pattern, made.coefficients[:, 0]).view(9, 5)
        found.append((out, *torch.autograd.grad(out, (codes, made.coefficients), upstream)))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert (found[0][1][codes == 0] != 0).all()


def test_spread_entries_are_columns_of_a_wider_matrix() -> None:
    pattern = Pattern(torch.tensor([2, 0, 1]), torch.tensor([0, 1, 3]), 3)
    wide = spread(pattern, torch.tensor([[0, 3], [1, 2], [2, 0]]), 4)
    assert wide.latents.tolist() == [8, 11, 1, 2, 6, 4]
    assert wide.offsets.tolist() == [0, 2, 6]
    assert wide.d_sae == 12


# ---- grids that move ----


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("part", [1, 2, 3])
def test_functions_that_the_new_knots_can_hold_are_kept_exactly(basis: str, part: int) -> None:
    made = curves(basis)
    upper = made.basis.grid[:, 1] / part  # then every old knot within the new grid is a new knot
    assert change(made, upper, upper).max() < 1e-12


@pytest.mark.parametrize("basis", BASES)
def test_straight_lines_stay_whatever_the_new_grid_is(basis: str) -> None:
    made = curves(basis)
    with torch.no_grad():
        made.coefficients[:, 0] = made.line() * torch.linspace(-2, 3, 5)[:, None]
    upper = torch.tensor([0.01, 0.4, 1.0, 7.0, 300.0], dtype=torch.float64)
    assert change(made, upper, 2 * upper).max() < 1e-10


SMOOTH = {"root": lambda v: (v + 0.04).sqrt() - 0.2, "square": lambda v: v**2, "wave": lambda v: (3 * v).sin()}


@pytest.mark.parametrize(("basis", "bound"), [("hat", 0.015), ("bspline", 0.002)])
def test_smooth_functions_change_little_when_grids_follow_the_data(basis: str, bound: float) -> None:
    """The second move is a small one: to between 0.8 and 1.25 of the length here. The bounds are measured; what changes is
    what the old knots could say and the new ones cannot, which of functions without any order would be a third."""
    worst = 0.0
    for function, ratio in itertools.product(SMOOTH.values(), (0.8, 0.9, 1.1, 1.25)):
        made = curves(basis)
        end = made.basis.grid[:, 1].clone()
        at = end[:, None] * torch.linspace(0, 1, 60, dtype=torch.float64)
        with torch.no_grad():
            for i in range(5):
                design = torch.zeros(60, 7, dtype=torch.float64)
                numbers, weights = made.terms(at[i], torch.full((60,), i))
                design.scatter_add_(1, numbers, weights)
                made.coefficients[i, 0] = torch.linalg.lstsq(design, function(at[i] / end[i])[:, None]).solution[:, 0]
        worst = max(worst, float(change(made, end * ratio, end * min(ratio, 1)).max()))
    assert 0 < worst < bound


@pytest.mark.parametrize("basis", BASES)
def test_moved_functions_are_the_nearest_that_are_zero_at_zero(basis: str) -> None:
    made, ratios = curves(basis), torch.tensor([0.3, 0.7, 0.95, 1.4, 3.0], dtype=torch.float64)
    upper = made.basis.grid[:, 1] * ratios
    at = upper[:, None] * torch.linspace(0, 1, 3000, dtype=torch.float64)
    was = sampled(made, at)
    moved_to(made, upper)
    for i in range(5):
        design = np.zeros((3000, 7))
        numbers, weights = made.terms(at[i], torch.full((3000,), i))
        np.add.at(design, (np.arange(3000)[:, None], numbers.numpy()), weights.numpy())
        best = np.linalg.lstsq(design, was[i].numpy(), rcond=None)[0]
        residual = np.linalg.norm(design @ best - was[i].numpy())
        ours = np.linalg.norm(sampled(made, at)[i] - was[i])
        assert ours <= 1.02 * residual + 1e-9  # sums over other points, no more


def test_moving_without_any_value_leaves_all_as_it_was_and_zero_functions_stay_zero() -> None:
    made = curves()
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    made.move(made.coefficients)
    assert all(torch.equal(tensor, before[name]) for name, tensor in made.state_dict().items())
    fresh = LatentCurves(5, CurveOptions()).double()
    moved_to(fresh, torch.arange(1.0, 6.0, dtype=torch.float64))
    assert not fresh.coefficients.any()
    assert not fresh.reach.counts.any()


@pytest.mark.parametrize("basis", BASES)
def test_coefficients_of_a_caller_move_as_this_modules_own_do_wherever_they_lie(basis: str) -> None:
    made, other = (curves(basis, outputs=3) for _ in range(2))
    knots = other.coefficients.detach().transpose(1, 2).contiguous()  # [d_sae, G - 1, outputs]
    upper = made.basis.grid[:, 1] * 0.8
    moved_to(made, upper)
    latents = torch.arange(5).repeat_interleave(LEAST)
    other.reach.count(upper.repeat_interleave(LEAST), latents)
    other.move(knots.transpose(1, 2))
    torch.testing.assert_close(knots.transpose(1, 2), made.coefficients.detach())


@pytest.mark.parametrize("basis", BASES)
def test_functions_grids_and_reach_come_back_from_a_state(basis: str) -> None:
    made, twin = curves(basis, outputs=2), LatentCurves(5, CurveOptions(basis=basis), 2).double()
    made.reach.count(torch.rand(50, dtype=torch.float64), torch.randint(5, (50,)))
    twin.load_state_dict({name: tensor.clone() for name, tensor in made.state_dict().items()})
    at = torch.linspace(0, 3, 30, dtype=torch.float64).expand(5, -1)
    assert torch.equal(sampled(twin, at, 1), sampled(made, at, 1))
    assert torch.equal(twin.reach.upper(), made.reach.upper())
    for each in (made, twin):
        each.move(each.coefficients)
    assert torch.equal(sampled(twin, at), sampled(made, at))


# ---- what is refused ----


def test_bases_and_grids_that_cannot_be_are_refused_by_value() -> None:
    for basis in ("rbf", "chebyshev", "bsplin", ""):
        with pytest.raises(KanaryError, match=rf"basis='{basis}'.*hat or bspline"):
            LatentCurves(3, CurveOptions(basis=basis))
    for basis, least in (("hat", 2), ("bspline", 4)):
        for knots in (least - 1, 1, 0, -3):
            with pytest.raises(KanaryError, match=rf"knots={knots} .*{basis}: give {least} or more"):
                LatentCurves(3, CurveOptions(basis=basis, knots=knots))
        LatentCurves(3, CurveOptions(basis=basis, knots=least))
