"""Bases of one-dimensional functions: values and slopes against formulas of their own, gradients, the outside, bad input.

Several tests are named after faults of published KAN layers that these must not have.
"""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from kanary.errors import KanaryError
from kanary.splines import BASES, Basis, fit, make_basis
from kanary.splines import basis as machinery

SPLINES = ("bspline", "hat")
KINDS = [(name, uniform) for name in BASES for uniform in ((True, False) if name in SPLINES else (True,))]
every_kind = pytest.mark.parametrize(("name", "uniform"), KINDS)
FUNCTIONS = 3


def made(name: str, uniform: bool = True, size: int = 7, functions: int | None = FUNCTIONS, **options: Any) -> Basis:
    """In float64, on grids that differ in place, width and (where they may) spacing."""
    basis = make_basis(name, size, functions, uniform=uniform, **options).double()
    knots = basis.grid.shape[1]
    gaps = torch.rand(len(basis.grid), knots - 1, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    start = -1.5 + torch.arange(len(basis.grid), dtype=torch.float64)[:, None]
    basis.set_grid(torch.cat([start, start + (gaps + 0.3).cumsum(1)], 1))
    return basis


def spread(basis: Basis, per_function: int = 12, beyond: float = 0.4) -> tuple[Tensor, Tensor]:
    """Values in mixed order on and around each function's grid, and the functions they belong to."""
    generator = torch.Generator().manual_seed(5)
    functions = torch.arange(basis.functions or FUNCTIONS).repeat(per_function)
    low, high = basis.ends(functions)
    share = torch.rand(len(functions), generator=generator, dtype=torch.float64) * (1 + 2 * beyond) - beyond
    return low + (high - low) * share, functions


def coefficients(basis: Basis) -> Tensor:
    generator = torch.Generator().manual_seed(11)
    return torch.randn(basis.functions or FUNCTIONS, basis.size, generator=generator, dtype=torch.float64)


def recursive_spline(knots: np.ndarray, degree: int, g: int, v: float) -> float:
    """The g-th B-spline by the textbook's recursion over the whole knot list, 0/0 = 0."""
    if degree == 0:
        last = knots[g + 1] == knots[-1]
        return float(knots[g] <= v < knots[g + 1] or (last and knots[g] < v == knots[-1]))
    total = 0.0
    if knots[g + degree] > knots[g]:
        total += (v - knots[g]) / (knots[g + degree] - knots[g]) * recursive_spline(knots, degree - 1, g, v)
    if knots[g + degree + 1] > knots[g + 1]:
        share = (knots[g + degree + 1] - v) / (knots[g + degree + 1] - knots[g + 1])
        total += share * recursive_spline(knots, degree - 1, g + 1, v)
    return total


def by_formula(basis: Basis, v: float, grid: np.ndarray, c: np.ndarray) -> float:
    """s(v) inside the grid, in numpy."""
    low, high, size = grid[0], grid[-1], basis.size
    if basis.name in SPLINES:
        degree = 3 if basis.name == "bspline" else 1
        breaks = grid if not basis.uniform else np.linspace(low, high, size - degree + 1)
        knots = np.concatenate([[low] * degree, breaks, [high] * degree])
        return sum(c[g] * recursive_spline(knots, degree, g, v) for g in range(size))
    if basis.name == "rbf":
        centres = np.linspace(low, high, size)
        return float(c @ np.exp(-(((v - centres) / (centres[1] - centres[0])) ** 2)))
    u = (2 * v - low - high) / (high - low)
    polynomial = float(np.cos(np.arange(size) * np.arccos(u)) @ c)
    if basis.name == "chebyshev":
        return polynomial
    q = basis.denominator.detach().numpy()  # type: ignore[operator,union-attr]
    return polynomial / (1 + float(q @ u ** np.arange(1, len(q) + 1)) ** 2)


def trained(basis: Basis) -> Basis:
    """With a denominator away from its start."""
    if basis.name == "rational":
        basis.denominator = nn.Parameter(torch.tensor([0.8, -0.5], dtype=torch.float64))
    return basis


# --- values and slopes --------------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("size", [4, 7])
def test_values_are_those_of_the_formula(name: str, uniform: bool, size: int) -> None:
    basis = trained(made(name, uniform, size))
    values, functions = spread(basis, beyond=0)
    values = torch.cat([values, basis.grid[:, -1], basis.grid[:, 0]])
    functions = torch.cat([functions, torch.arange(FUNCTIONS), torch.arange(FUNCTIONS)])
    c = coefficients(basis)
    cases = zip(values.tolist(), basis.grid[functions].numpy(), c[functions].numpy(), strict=True)
    wanted = [by_formula(basis, v, grid, ci) for v, grid, ci in cases]
    np.testing.assert_allclose(basis.gather(values, functions, c).detach(), wanted, rtol=1e-9, atol=1e-12)


@every_kind
def test_slopes_are_the_differences_of_the_formula(name: str, uniform: bool) -> None:
    # a published layer's slope was off by the factor 1 / h; here the grids have widths of their own
    basis = trained(made(name, uniform))
    values, functions = spread(basis, beyond=-0.02)
    c, h = coefficients(basis), 1e-6
    wanted = [
        (by_formula(basis, v + h, grid, ci) - by_formula(basis, v - h, grid, ci)) / (2 * h)
        for v, grid, ci in zip(values.tolist(), basis.grid[functions].numpy(), c[functions].numpy(), strict=True)
    ]
    np.testing.assert_allclose(basis.gather(values, functions, c, order=1).detach(), wanted, rtol=1e-6, atol=1e-6)


@every_kind
@pytest.mark.parametrize("outside", ["linear", "constant"])
@pytest.mark.parametrize("order", [0, 1])
def test_expand_terms_and_gather_say_the_same_everywhere(name: str, uniform: bool, outside: str, order: int) -> None:
    basis = trained(made(name, uniform, outside=outside))
    values, functions = spread(basis)
    c = coefficients(basis)
    gathered = basis.gather(values, functions, c, order)
    columns, weights = basis.terms(values, functions, order)
    assert weights.shape[1] == {"bspline": 4, "hat": 2}.get(name, basis.size)
    torch.testing.assert_close((weights * c[functions].gather(1, columns)).sum(1), gathered)
    x = values.view(-1, FUNCTIONS)  # spread() deals the functions out in turn
    expanded = basis.expand(x, order)
    assert expanded.shape == (len(x), FUNCTIONS * basis.size)
    torch.testing.assert_close((expanded.unflatten(1, c.shape) * c).sum(-1).flatten(), gathered)


@every_kind
def test_a_shared_grid_equals_the_same_grid_for_every_function(name: str, uniform: bool) -> None:
    own, shared = made(name, uniform), made(name, uniform, functions=None)
    own.set_grid(shared.grid.repeat(FUNCTIONS, 1))
    values, functions = spread(own)
    c = coefficients(own)
    torch.testing.assert_close(shared.gather(values, functions, c), own.gather(values, functions, c))
    x = values.view(-1, FUNCTIONS)
    torch.testing.assert_close(shared.expand(x), own.expand(x))


@pytest.mark.parametrize("name", SPLINES)
@given(knots=st.lists(st.floats(0.01, 100), min_size=1, max_size=9), v=st.floats(-1e4, 1e4))
@settings(max_examples=30, deadline=None)
def test_splines_add_up_to_one_and_hold_every_straight_line(name: str, knots: list[float], v: float) -> None:
    grid = torch.tensor([0.0, *knots], dtype=torch.float64).cumsum(0)[None]
    basis = make_basis(name, grid.shape[1] + {"hat": 0, "bspline": 2}[name], uniform=False).double()
    basis.set_grid(grid)
    at, first = torch.tensor([v], dtype=torch.float64), torch.tensor([0])
    ones = torch.ones(1, basis.size, dtype=torch.float64)
    assert float(basis.gather(at, first, ones)) == pytest.approx(1, abs=1e-6)
    line = fit(basis, lambda x: 3 * x - 2)
    assert float(basis.gather(at, first, line)) == pytest.approx(3 * v - 2, rel=1e-6, abs=1e-6)
    assert float(basis.gather(at, first, line, order=1)) == pytest.approx(3, rel=1e-6)


@pytest.mark.parametrize("name", SPLINES)
def test_a_spline_begins_and_ends_at_its_outer_coefficients(name: str) -> None:
    basis = made(name, uniform=False)
    c, functions = coefficients(basis), torch.arange(FUNCTIONS)
    torch.testing.assert_close(basis.gather(basis.grid[:, 0], functions, c), c[:, 0])
    torch.testing.assert_close(basis.gather(basis.grid[:, -1], functions, c), c[:, -1])


# --- gradients ----------------------------------------------------------------------------------------------------

# Mostly along a random direction (gradcheck's fast mode), in which any wrong entry shows; the smallest grids entry by entry.


@every_kind
@pytest.mark.parametrize(("outside", "order"), [("linear", 0), ("constant", 0), ("linear", 1)])
def test_gradients_of_gather_are_those_of_finite_differences(
    name: str, uniform: bool, outside: str, order: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machinery, "TILE", 5)  # several tiles, in which functions repeat
    basis = trained(made(name, uniform, outside=outside))
    values, functions = spread(basis, 5)
    inputs = (values.requires_grad_(), coefficients(basis).requires_grad_(), *basis.parameters())
    assert len(inputs) == (3 if name == "rational" else 2)
    assert gradcheck(lambda v, c, *_: basis.gather(v, functions, c, order), inputs, fast_mode=True, rtol=1e-5)


@pytest.mark.parametrize(("name", "size"), [("hat", 2), ("bspline", 4), ("rbf", 2), ("chebyshev", 2), ("rational", 2)])
def test_the_smallest_grid_has_gradients_too(name: str, size: int) -> None:
    basis = trained(made(name, size=size))
    values, functions = spread(basis, 4)
    inputs = (values.requires_grad_(), coefficients(basis).requires_grad_())
    assert gradcheck(lambda v, c: basis.gather(v, functions, c), inputs)
    assert gradcheck(lambda v: basis.expand(v.view(-1, FUNCTIONS)), inputs[:1])


@every_kind
@pytest.mark.parametrize("order", [0, 1])
def test_gradients_of_expand_and_terms_are_those_of_finite_differences(
    name: str, uniform: bool, order: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machinery, "TILE", 5)
    basis = trained(made(name, uniform))
    values, functions = spread(basis, 3)
    inputs = (values.requires_grad_(), *basis.parameters())
    assert gradcheck(lambda v, *_: basis.expand(v.view(-1, FUNCTIONS), order), inputs, fast_mode=True, rtol=1e-5)
    assert gradcheck(lambda v, *_: basis.terms(v, functions, order)[1], inputs, fast_mode=True, rtol=1e-5)


@every_kind
def test_the_gradient_of_a_batch_is_the_sum_of_the_gradients_of_its_entries(name: str, uniform: bool) -> None:
    # a published kernel kept one of the contributions to each coefficient and dropped the others
    basis = made(name, uniform)
    functions = torch.zeros(40, dtype=torch.int64)
    values = basis.grid[0, 0] + torch.linspace(0, 0.1, 40, dtype=torch.float64)  # all on one piece
    c = coefficients(basis).requires_grad_()
    basis.gather(values, functions, c).sum().backward()
    assert c.grad is not None
    together, c.grad = c.grad, None
    for entry in range(40):
        basis.gather(values[entry : entry + 1], functions[:1], c).sum().backward()
    torch.testing.assert_close(together, c.grad)
    assert float(together[0].abs().max()) > 10  # 40 contributions, not one


@every_kind
def test_gradients_are_finite_and_alive_far_outside_the_grid(name: str, uniform: bool) -> None:
    # arccos gave NaN from 10 on; bases that fade away fell silent
    basis = make_basis(name, 8, uniform=uniform)
    values = torch.tensor([-1e6, -100.0, -10.0, 10.0, 100.0, 1e6], requires_grad=True)
    c = torch.randn(1, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
    out = basis.gather(values, torch.zeros(6, dtype=torch.int64), c)
    out.sum().backward()
    assert out.isfinite().all()
    for grad in (values.grad, c.grad):
        assert grad is not None
        assert grad.isfinite().all()
        assert (grad != 0).any()
    assert (values.grad != 0).all()  # type: ignore[union-attr]


def test_values_without_gradient_leave_that_of_the_coefficients_as_it_is() -> None:
    basis = made("bspline")
    values, functions = spread(basis)
    grads = []
    for leaf in (values, values.clone().requires_grad_()):
        c = coefficients(basis).requires_grad_()
        basis.gather(leaf, functions, c).square().sum().backward()
        grads.append(c.grad)
    torch.testing.assert_close(grads[0], grads[1])


# --- the outside, scale, cost -------------------------------------------------------------------------------------


@every_kind
def test_outside_the_grid_a_function_goes_on_straight(name: str, uniform: bool) -> None:
    basis = trained(made(name, uniform))
    c, functions = coefficients(basis), torch.arange(FUNCTIONS)
    for end, way in ((basis.grid[:, 0], -1), (basis.grid[:, -1], 1)):
        value, slope = basis.gather(end, functions, c), basis.gather(end, functions, c, order=1)
        for far in (0.3, 7.0):
            torch.testing.assert_close(basis.gather(end + way * far, functions, c), value + slope * way * far)
            torch.testing.assert_close(basis.gather(end + way * far, functions, c, order=1), slope)
        near = basis.gather(end - way * 1e-7, functions, c, order=1)  # C1: the same slope just inside
        torch.testing.assert_close(near, slope, rtol=1e-4, atol=1e-4)


@every_kind
def test_the_constant_rule_keeps_the_value_at_the_end(name: str, uniform: bool) -> None:
    basis = trained(made(name, uniform, outside="constant"))
    c, functions = coefficients(basis), torch.arange(FUNCTIONS)
    beyond = basis.grid[:, -1] + 5
    torch.testing.assert_close(basis.gather(beyond, functions, c), basis.gather(basis.grid[:, -1], functions, c))
    assert not basis.gather(beyond, functions, c, order=1).any()


def test_the_share_outside_is_counted_per_grid() -> None:
    basis = make_basis("hat", 4, functions=2)
    basis.set_range(torch.tensor([0.0, 10.0]), torch.tensor([1.0, 20.0]))
    values, functions = torch.tensor([0.0, 0.5, 1.5, 0.5, 10.0, 30.0, torch.nan, 20.0]), torch.tensor([0] * 3 + [1] * 5)
    assert basis.share_outside(values, functions) == 4 / 8
    assert basis.share_outside(torch.tensor([[0.5, 15.0], [0.5, 25.0]])) == 1 / 4
    assert basis.share_outside(values[:0], functions[:0]) == 0


@every_kind
def test_scale_survives_and_neighbours_do_not_matter(name: str, uniform: bool) -> None:
    # a LayerNorm inside would make a token and its double the same, and a coordinate depend on the others
    basis = make_basis(name, 6, uniform=uniform).double()
    x = torch.rand(4, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64) / 2 + 0.1
    alone = basis.expand(x[1:2, 2:3])
    torch.testing.assert_close(basis.expand(x).view(4, 5, -1)[1, 2], alone[0])
    assert float((basis.expand(2 * x) - basis.expand(x)).detach().abs().amax(1).min()) > 0.05


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


@pytest.mark.parametrize(("name", "uniform"), KINDS)
def test_gather_makes_no_tensor_larger_than_its_entries_or_coefficients(name: str, uniform: bool) -> None:
    basis = make_basis(name, 64, functions=10, uniform=uniform)
    values = torch.randn(30_000, generator=torch.Generator().manual_seed(0)).requires_grad_()
    c = torch.zeros(10, 64, requires_grad=True)
    functions = torch.arange(30_000) % 10
    with Largest() as seen:
        basis.gather(values, functions, c).sum().backward()
    assert seen.elements == 30_000


def test_a_basis_in_single_precision_is_as_exact_as_that_allows() -> None:
    for name, uniform in KINDS:
        basis = trained(made(name, uniform, size=12))
        values, functions = spread(basis)
        single = copy.deepcopy(basis).float()
        found = single.gather(values.float(), functions, coefficients(basis).float())
        wanted = basis.gather(values, functions, coefficients(basis))
        torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-4)


# --- state and bad input ------------------------------------------------------------------------------------------


@every_kind
def test_a_saved_basis_computes_the_same(name: str, uniform: bool) -> None:
    basis = trained(made(name, uniform))
    values, functions = spread(basis)
    other = make_basis(name, basis.size, FUNCTIONS, uniform=uniform).double()
    state = basis.state_dict()
    assert set(state) == ({"grid", "denominator"} if name == "rational" else {"grid"})
    other.load_state_dict(state)
    c = coefficients(basis)
    torch.testing.assert_close(other.gather(values, functions, c), basis.gather(values, functions, c), rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="grid"):
        make_basis(name, basis.size, FUNCTIONS + 1, uniform=uniform).load_state_dict(state)


@every_kind
def test_nan_stays_with_its_own_entry(name: str, uniform: bool) -> None:
    basis = made(name, uniform)
    values, functions = spread(basis)
    c = coefficients(basis)
    whole = basis.gather(values, functions, c)
    values[4] = torch.nan
    found = basis.gather(values, functions, c)
    assert found.isnan().nonzero().flatten().tolist() == [4]
    keep = torch.arange(len(values)) != 4
    torch.testing.assert_close(found[keep], whole[keep], rtol=0, atol=0)


def test_no_entries_are_no_mistake() -> None:
    basis, none = make_basis("bspline", 6), torch.zeros(0, requires_grad=True)
    c = torch.ones(2, 6, requires_grad=True)
    out = basis.gather(none, torch.zeros(0, dtype=torch.int64), c)
    out.sum().backward()
    assert out.shape == (0,)
    assert c.grad is not None
    assert not c.grad.any()
    assert basis.expand(torch.zeros(0, 3)).shape == (0, 18)


@pytest.mark.parametrize(
    ("name", "size", "options", "message"),
    [
        ("bspline", 1, {}, r"grid of 1 .* 'bspline': give it 4"),
        ("hat", 1, {}, r"grid of 1 .* 2 or more"),
        ("rbf", 1, {}, "grid of 1"),
        ("chebyshev", 1, {}, "grid of 1"),
        ("rational", 0, {}, "grid of 0"),
        ("bsplin", 8, {}, "Did you mean 'bspline'"),
        ("hat", 8, {"outside": "linar"}, "Did you mean 'linear'"),
        ("hat", 8, {"functions": 0}, "for 0 functions"),
        ("rbf", 8, {"uniform": False}, "'rbf' has a range, not knots"),
    ],
)
def test_a_basis_that_cannot_be_is_refused(name: str, size: int, options: dict[str, Any], message: str) -> None:
    with pytest.raises(KanaryError, match=message):
        make_basis(name, size, **options)


def test_grids_that_cannot_be_are_refused_by_row() -> None:
    make_basis("hat", 3).set_range(1e9, 2e9)  # far from zero is no mistake
    basis = make_basis("hat", 3, functions=2, uniform=False)
    with pytest.raises(KanaryError, match=r"Grid 1: its knots \[2.0, 2.0, 3.0\]"):
        basis.set_grid(torch.tensor([[0.0, 1, 2], [2, 2, 3]]))
    with pytest.raises(KanaryError, match="Grid 0"):
        basis.set_grid(torch.tensor([[0.0, torch.nan, 2], [1, 2, 3]]))
    with pytest.raises(KanaryError, match=r"shape \[1, 3\] .* \[2, 3\]"):
        basis.set_grid(torch.tensor([[0.0, 1, 2]]))
    with pytest.raises(KanaryError, match="Grid 0"):
        basis.set_range(1.0, 1.0)
    assert basis.grid.tolist() == [[-1, 0, 1]] * 2  # none of them left a trace


def test_arguments_that_do_not_fit_are_refused() -> None:
    basis = make_basis("hat", 5, functions=2)
    v, ids = torch.zeros(3), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(KanaryError, match="equal length"):
        basis.gather(v, ids[:2], torch.zeros(2, 5))
    with pytest.raises(KanaryError, match=r"\[2, 4\], this basis needs \[2, 5\]"):
        basis.gather(v, ids, torch.zeros(2, 4))
    with pytest.raises(KanaryError, match="3 functions, but the basis has 2"):
        basis.gather(v, ids, torch.zeros(3, 5))
    with pytest.raises(KanaryError, match="has 2 grids"):
        basis.terms(v, None)
    with pytest.raises(KanaryError, match=r"expands \[n, 2\]"):
        basis.expand(torch.zeros(4, 3))
    for name in BASES:
        with pytest.raises(KanaryError, match="order=2"):
            make_basis(name, 5).gather(v, ids, torch.zeros(2, 5), order=2)
        with pytest.raises(KanaryError, match="order=2"):
            make_basis(name, 5).expand(torch.zeros(4, 3), order=2)
