"""Grids from percentiles, moving functions between grids, and penalties, against numpy and brute force."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

from kanary.errors import KanaryError
from kanary.splines import (
    BASES,
    Basis,
    fit,
    grid_of,
    make_basis,
    percentiles,
    refit,
    roughness,
    total_variation,
    update_grid,
)

KINDS = [(name, uniform) for name in BASES for uniform in ((True, False) if name in ("bspline", "hat") else (True,))]
every_kind = pytest.mark.parametrize(("name", "uniform"), KINDS)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def on(basis: Basis, coefficients: Tensor, points: Tensor) -> np.ndarray:
    """Every function at ``points [S]`` -> [functions, S]."""
    count = len(coefficients)
    functions = torch.arange(count).repeat_interleave(len(points))
    with torch.no_grad():
        return basis.gather(points.repeat(count), functions, coefficients).view(count, -1).double().numpy()


def curves(basis: Basis, count: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(count, basis.size, generator=seeded(seed), dtype=basis.grid.dtype)


# --- percentiles and grids ----------------------------------------------------------------------------------------


@given(counts=st.lists(st.integers(0, 6), min_size=1, max_size=5), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_percentiles_are_numpys(counts: list[int], seed: int) -> None:
    functions = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    functions = functions[torch.randperm(len(functions), generator=seeded(seed))]
    values = torch.randn(len(functions), generator=seeded(seed), dtype=torch.float64)
    shares = torch.tensor([0.0, 0.1, 0.5, 0.93, 1.0])
    found = percentiles(values, functions, len(counts), shares.double()).numpy()
    for i, count in enumerate(counts):
        if count == 0:
            assert np.isnan(found[i]).all()
        else:
            wanted = np.quantile(values[functions == i].numpy(), shares.double().numpy())
            np.testing.assert_allclose(found[i], wanted, rtol=1e-6, atol=1e-9)


@every_kind
def test_a_grid_leaves_outside_the_share_that_was_asked(name: str, uniform: bool) -> None:
    basis = make_basis(name, 8, functions=2, uniform=uniform)
    values = torch.randn(20_000, generator=seeded(1)) * 3 + 5
    functions = torch.arange(20_000) % 2
    grid, moved = grid_of(basis, values, functions, tail=0.02)
    assert moved.all()
    basis.set_grid(grid)
    assert basis.share_outside(values, functions) == pytest.approx(0.04, abs=0.001)
    for i in range(2):
        low, high = np.quantile(values[functions == i].numpy(), [0.02, 0.98])
        assert grid[i, 0] == pytest.approx(low, abs=1e-4)
        assert grid[i, -1] == pytest.approx(high, abs=1e-4)


def test_free_knots_are_close_where_values_are_many() -> None:
    basis = make_basis("hat", 9, uniform=False)
    values = torch.rand(5000, generator=seeded(2)) ** 4  # most of them near 0
    gaps = grid_of(basis, values)[0].diff(dim=1)[0]
    assert (gaps.diff() > 0).all()
    assert float(gaps[-1] / gaps[0]) > 5


@pytest.mark.parametrize("name", ["hat", "bspline"])
def test_percentiles_that_are_tied_still_make_knots_that_increase(name: str) -> None:
    basis = make_basis(name, 8, uniform=False)
    values = torch.cat([torch.zeros(950), torch.linspace(0.1, 2, 50)])
    grid, moved = grid_of(basis, values)
    assert moved.all()
    assert (grid.diff(dim=1) > 0.01).all()
    basis.set_grid(grid)


def test_constant_few_or_no_values_leave_their_own_grid_where_it_is() -> None:
    basis = make_basis("bspline", 6, functions=5)
    c = curves(basis, 5)
    before, others = c.clone(), basis.grid.clone()
    wide, few = torch.linspace(0, 4, 100), torch.linspace(0, 4, 5)
    nearly = 1e6 + torch.arange(100) % 2 * 0.0625  # differs by less than a knot needs
    values = torch.cat([torch.full((100,), 3.0), wide, few, nearly])
    functions = torch.tensor([0, 1, 2, 4]).repeat_interleave(torch.tensor([100, 100, 5, 100]))
    done = update_grid(basis, c, values, functions)
    assert done.moved.tolist() == [False, True, False, False, False]
    stay = ~done.moved
    assert torch.equal(c[stay], before[stay])
    assert torch.equal(basis.grid[stay], others[stay])
    assert not done.change[stay].any()
    assert basis.grid[1].tolist() == pytest.approx([0.02, 3.98], abs=1e-5)


def test_an_update_with_constant_data_alone_changes_nothing() -> None:
    basis = make_basis("hat", 5, uniform=False)
    c = curves(basis)
    before = c.clone()
    done = update_grid(basis, c, torch.full((1000,), 7.0))
    assert not done.moved.any()
    assert torch.equal(c, before)
    assert done.change.tolist() == [0, 0]
    assert done.outside_before == done.outside_after == 1  # and it says so


@pytest.mark.parametrize("uniform", [True, False])
def test_the_lower_end_can_be_fixed(uniform: bool) -> None:
    basis = make_basis("bspline", 8, functions=1, uniform=uniform)
    values = torch.rand(1000, generator=seeded(3)) + 0.5
    grid, _ = grid_of(basis, values, torch.zeros(1000, dtype=torch.int64), low=0.0)
    assert float(grid[0, 0]) == 0
    basis.set_grid(grid)
    c = curves(basis, 1)
    c[:, 0] = 0
    assert float(basis.gather(torch.zeros(1), torch.tensor([0]), c)) == 0  # s(0) = 0 is one coefficient


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_values_that_are_not_finite_are_refused_by_place(bad: float) -> None:
    basis = make_basis("hat", 5, functions=2)
    values = torch.linspace(0, 1, 200)
    values[17] = bad
    with pytest.raises(KanaryError, match=rf"Value 17 of 200 is {bad} \(function 1\)"):
        grid_of(basis, values, torch.arange(200) % 2)


def test_values_whose_function_is_not_said_are_refused() -> None:
    basis = make_basis("hat", 5, functions=2)
    with pytest.raises(KanaryError, match="2 grids: say for every value"):
        grid_of(basis, torch.linspace(0, 1, 200))
    with pytest.raises(KanaryError, match="numbered 0 to 1, not 2 to 2"):
        grid_of(basis, torch.linspace(0, 1, 200), torch.full((200,), 2))
    with pytest.raises(KanaryError, match=r"tail=0\.5"):
        grid_of(basis, torch.rand(200, 2), tail=0.5)
    assert torch.equal(
        grid_of(basis, (x := torch.rand(200, 2)))[0], grid_of(basis, x.T.reshape(-1), torch.arange(400) // 200)[0]
    )


# --- moving functions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("uniform", [True, False])
@pytest.mark.parametrize("name", ["bspline", "hat"])
def test_a_finer_spline_is_the_same_function_to_rounding(name: str, uniform: bool) -> None:
    extra = {"bspline": 2, "hat": 0}[name]
    coarse, fine = (make_basis(name, knots + extra, functions=2, uniform=uniform) for knots in (5, 9))
    if uniform:
        coarse.set_range(torch.tensor([-2.0, 1.0]), torch.tensor([3.0, 9.0]))
        fine.set_range(torch.tensor([-2.0, 1.0]), torch.tensor([3.0, 9.0]))
    else:
        grid = torch.tensor([[-2, -1.5, 0, 0.1, 3], [1, 2, 4, 8, 9]])
        coarse.set_grid(grid)
        fine.set_grid(torch.cat([grid, 0.7 * grid[:, 1:] + 0.3 * grid[:, :-1]], 1).sort(1)[0])
    c = curves(coarse)
    finer, change = refit(c, coarse, fine)
    assert float(change.max()) < 1e-6
    points = torch.linspace(-8, 15, 301)  # outside as well
    np.testing.assert_allclose(on(fine, finer, points), on(coarse, c, points), rtol=1e-4, atol=1e-4)


def test_a_chebyshev_series_of_higher_degree_is_the_same_function() -> None:
    low, high = make_basis("chebyshev", 5), make_basis("chebyshev", 9)
    c = curves(low)
    more, change = refit(c, low, high)
    assert float(change.max()) < 1e-6
    torch.testing.assert_close(more, torch.nn.functional.pad(c, (0, 4)), rtol=1e-5, atol=1e-5)


def test_a_spline_from_another_basis_is_as_near_as_it_can_be() -> None:
    rbf, spline = make_basis("rbf", 9).double(), make_basis("bspline", 6).double()
    c = curves(rbf, 3)
    moved, change = refit(c, rbf, spline)
    points = torch.linspace(-1, 1, 4001, dtype=torch.float64)
    target, design = on(rbf, c, points), spline.expand(points[:, None]).numpy()
    best = np.linalg.lstsq(design, target.T, rcond=None)[0].T
    for i in range(3):
        wrong = np.sqrt(np.mean((on(spline, moved, points) - target)[i] ** 2))
        least = np.sqrt(np.mean((best @ design.T - target)[i] ** 2))
        assert least <= wrong < 1.1 * least
        assert float(change[i]) == pytest.approx(wrong / np.sqrt(np.mean(target[i] ** 2)), rel=0.1)


def dip(x: Tensor) -> Tensor:
    return torch.sin(2 * x) + 0.3 * x**2


@every_kind
def test_an_update_to_where_the_values_are_keeps_the_function(name: str, uniform: bool) -> None:
    # a published update changed functions by 130 % where their inputs were
    basis = make_basis(name, 16, uniform=uniform)
    basis.set_range(-2.0, 2.0)
    c = torch.cat([fit(basis, dip), torch.zeros(1, 16)])
    values = torch.randn(4000, generator=seeded(4)) * 0.5 + 0.2
    inner = values[(values > values.quantile(0.005)) & (values < values.quantile(0.995))].sort()[0]
    old, kept = copy.deepcopy(basis), c.clone()
    done = update_grid(basis, c, values)
    was, now = on(old, kept, inner), on(basis, c, inner)
    assert not np.allclose(c[0], kept[0], atol=0.1)  # the grid did move
    # sixteen hats are no smooth function, and free knots lie wide apart in the tails
    bound = 0.04 if name == "hat" else 0.01
    assert np.sqrt(np.mean((now - was)[0] ** 2) / np.mean(was[0] ** 2)) < bound
    assert not c[1].any()  # what was zero is zero: a part that has not learned anything still has no effect
    assert done.change[1] == 0
    assert done.outside_after == pytest.approx(0.01, abs=0.001)


@every_kind
def test_the_change_that_an_update_reports_is_the_one_that_can_be_measured(name: str, uniform: bool) -> None:
    basis = make_basis(name, 6, functions=2, uniform=uniform).double()
    c = curves(basis)
    old, before = copy.deepcopy(basis), c.clone()
    values = torch.rand(2, 1000, generator=seeded(6), dtype=torch.float64) * torch.tensor([[3.0], [1.2]]) - 0.8
    done = update_grid(basis, c, values.flatten(), torch.arange(2).repeat_interleave(1000))
    assert done.moved.all()
    for i in range(2):
        both = torch.cat([basis.grid[i], old.grid[i]])
        points = torch.linspace(float(both.min()), float(both.max()), 2001, dtype=torch.float64)
        was, now = on(old, before, points)[i], on(basis, c, points)[i]
        measured = np.sqrt(np.mean((now - was) ** 2) / np.mean(was**2))
        assert measured > 0.01  # so coarse a grid cannot keep such a function
        assert float(done.change[i]) == pytest.approx(measured, rel=0.1)


@every_kind
def test_a_second_update_with_the_same_values_changes_nothing(name: str, uniform: bool) -> None:
    basis = make_basis(name, 8, uniform=uniform)
    c, values = curves(basis), torch.randn(3000, generator=seeded(7))
    update_grid(basis, c, values)
    once, grid = c.clone(), basis.grid.clone()
    done = update_grid(basis, c, values)
    torch.testing.assert_close(basis.grid, grid)
    torch.testing.assert_close(c, once, rtol=1e-4, atol=1e-4)
    assert float(done.change.max()) < 1e-4


def test_all_outputs_of_a_layer_move_with_the_grid_of_their_input() -> None:
    basis = make_basis("bspline", 7, functions=3)
    layer = torch.randn(4, 3, 7, generator=seeded(8), requires_grad=True)
    x = torch.randn(500, 3, generator=seeded(9)) * torch.tensor([1.0, 2.0, 0.5])
    old, before = copy.deepcopy(basis), layer.detach().clone()
    done = update_grid(basis, layer, x)
    assert done.change.shape == (3,)
    for output in range(4):
        wanted, _ = refit(before[output], old, basis)
        torch.testing.assert_close(layer[output].detach(), wanted)
    assert basis.share_outside(x) == done.outside_after == pytest.approx(0.01, abs=0.005)


def test_relu_on_a_knot_is_fitted_exactly_by_hats() -> None:
    basis = make_basis("hat", 9, functions=2)
    c = fit(basis, torch.relu)
    points = torch.linspace(-3, 3, 121)
    np.testing.assert_allclose(on(basis, c, points), np.maximum(points.numpy(), 0)[None].repeat(2, 0), atol=1e-6)


def test_functions_of_unequal_number_cannot_be_moved() -> None:
    with pytest.raises(KanaryError, match="from 2 grids of 5 coefficients to 3 of 5"):
        refit(torch.zeros(2, 5), make_basis("hat", 5, 2), make_basis("hat", 5, 3))


# --- penalties ----------------------------------------------------------------------------------------------------


@every_kind
def test_straight_lines_cost_no_roughness_and_vary_by_their_rise(name: str, uniform: bool) -> None:
    basis = make_basis(name, 9, functions=2, uniform=uniform).double()
    basis.set_range(torch.tensor([0.0, -3.0]), torch.tensor([4.0, 3.0]))
    line = fit(basis, lambda x: 2 * x + 1)
    if name in ("hat", "bspline", "chebyshev"):  # the others do not contain straight lines
        torch.testing.assert_close(roughness(basis, line), torch.zeros(2).double(), rtol=0, atol=1e-8)
    close = 0.06 if name == "rbf" else 0.001  # bells make small waves
    torch.testing.assert_close(total_variation(basis, line), torch.tensor([8.0, 12.0]).double(), rtol=close, atol=0)
    assert (roughness(basis, curves(basis)) > 1).all()


@every_kind
def test_penalties_are_the_integrals_that_they_name(name: str, uniform: bool) -> None:
    basis = make_basis(name, 8, functions=2, uniform=uniform).double()
    if not uniform:
        knots = basis.grid.shape[1]
        gaps = torch.rand(2, knots, generator=seeded(3), dtype=torch.float64) + 0.5
        basis.set_grid(gaps.cumsum(1))
    else:
        basis.set_range(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 7.0]))
    c = curves(basis)
    rough, varied = roughness(basis, c).detach(), total_variation(basis, c).detach()
    for i in range(2):
        points = torch.linspace(float(basis.grid[i, 0]), float(basis.grid[i, -1]), 8001, dtype=torch.float64)
        values = on(basis, c, points)[i]
        assert float(varied[i]) == pytest.approx(np.abs(np.diff(values)).sum(), rel=0.02)
        if name == "hat":
            breaks = basis.breaks()[i].numpy()
            unit = (breaks - breaks[0]) / (breaks[-1] - breaks[0])
            slopes = np.diff(c[i].numpy()) / np.diff(unit)
            apart = (unit[2:] - unit[:-2]) / 2
            wanted = (np.diff(slopes) ** 2 / apart).sum()
            assert float(rough[i]) == pytest.approx(wanted, rel=1e-9)
        else:
            step = 1 / 8000  # in units of the range
            second = (values[2:] - 2 * values[1:-1] + values[:-2]) / step**2
            assert float(rough[i]) == pytest.approx((second**2).sum() * step, rel=0.03)


@every_kind
def test_penalties_do_not_change_when_the_inputs_are_rescaled(name: str, uniform: bool) -> None:
    basis = make_basis(name, 8, uniform=uniform).double()
    basis.set_range(-1.0, 1.0)
    c = curves(basis)
    rough, varied = roughness(basis, c), total_variation(basis, c)
    basis.set_range(-300.0, 500.0)
    torch.testing.assert_close(roughness(basis, c), rough)
    torch.testing.assert_close(total_variation(basis, c), varied)


@every_kind
@pytest.mark.parametrize("penalty", [roughness, total_variation])
def test_gradients_of_penalties_are_those_of_finite_differences(name: str, uniform: bool, penalty) -> None:  # type: ignore[no-untyped-def]
    basis = make_basis(name, 6, functions=2, uniform=uniform).double()
    inputs = (curves(basis).requires_grad_(), *basis.parameters())
    size = penalty(basis, inputs[0]).detach().abs().max()  # up to 1e6, of which a finite difference keeps few digits
    assert gradcheck(lambda c, *_: penalty(basis, c) / size, inputs)
