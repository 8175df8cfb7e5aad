"""A learned curve is called what it is: planted functions come back by name, with their numbers and where they hold."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from kanary.errors import KanaryError
from kanary.splines import symbolic
from kanary.splines.search import Curves, _best_threshold, _on_nodes
from kanary.splines.symbolic import CENSUS, NEGLIGIBLE, PARSIMONY, SymbolicFit, census, fit

Array = NDArray[np.float64]
G: dict[str, Callable[[Array], Array]] = {
    "linear": lambda z: z,
    "square": lambda z: z**2,
    "cube": lambda z: z**3,
    "square root": np.sqrt,
    "power 3/2": lambda z: z * np.sqrt(z),
    "reciprocal": lambda z: 1 / z,
    "exponential": np.exp,
    "logarithm": np.log,
    "absolute value": np.abs,
    "relu": lambda z: np.where(z > 0, z, 0),
    "step": lambda z: np.where(z > 0, 1.0, 0.0),
    "tanh": np.tanh,
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "gaussian": lambda z: np.exp(-(z**2)),
    "rational": lambda z: 1 / (1 + np.abs(z)),
    "sine": np.sin,
}
# a, b, c, d, first x, last x: what makes the shape lies within the range
PLANTED = {
    "linear": (-2, 1, 0, 5, 1, 4),
    "square": (0.7, 1, -1.5, 3, 0, 4),
    "cube": (-0.2, 1, 0.5, 1, -3, 2),
    "square root": (2, -1, 4, -1, 0, 3.8),
    "power 3/2": (1.5, 1, 0, 2, 0, 6),
    "reciprocal": (-3, 1, 0.5, 0.2, 0, 5),
    "exponential": (0.3, -1.4, 0, 1, -1, 2),
    "logarithm": (1.2, 1, 0.1, -2, 0, 3),
    "absolute value": (-1.1, 1, -0.8, 2, -2, 2),
    "relu": (2.5, -1, 0.4, 0.3, -2, 3),
    "step": (4, 1, -1.234, -1, 0, 3),
    "tanh": (2.1, 0.8, -0.3, 0.1, -4, 5),
    "sigmoid": (3, 1.5, -2, 0.2, -2, 5),
    "gaussian": (-2, 1.3, 0.6, 0.5, -3, 2),
    "rational": (3, 4, -6, -1, 0, 4),
    "sine": (1.4, 2.2, 0.9, -0.6, -3, 3),
}
POINTS = 64


def curve(name: str, seed: int = 0) -> tuple[Array, Array]:
    """The planted function at places that are neither even nor in order."""
    a, b, c, d, low, high = PLANTED[name]
    x = np.random.default_rng(seed).uniform(low, high, POINTS)
    x[:2] = low, high
    return x, a * G[name](b * x + c) + d


def fit_one(x: Array | Tensor, y: Array | Tensor, weight: Array | Tensor | None = None) -> SymbolicFit:
    x, y, weight = (None if v is None else torch.as_tensor(v)[None] for v in (x, y, weight))
    assert x is not None
    assert y is not None
    return fit(x, y, weight)[0]


def same(name: str) -> str:
    return "tanh" if name == "sigmoid" else name


def noisy(n: int, seed: int, kinds: list[str]) -> tuple[list[str], Tensor, Tensor]:
    """Curves of random place, width, sign and size, with noise of 2 to 5 % of their range."""
    r = np.random.default_rng(seed)
    names, xs, ys = [], [], []
    for i in range(n):
        name = kinds[i % len(kinds)]
        u, s, m = np.linspace(-1, 1, POINTS), r.choice([-1, 1]), r.uniform(-0.6, 0.6)
        edge = np.clip(1 + s * u, 0, 2)
        z = {
            "square": lambda u=u, m=m: u - 2 * m,
            "cube": lambda u=u, m=m: u - m,
            "square root": lambda e=edge: e,
            "power 3/2": lambda e=edge: e,
            "reciprocal": lambda e=edge: e + r.uniform(0.05, 0.6),
            "exponential": lambda u=u, s=s: s * r.uniform(1, 4) * u,
            "logarithm": lambda e=edge: e + math.exp(r.uniform(math.log(0.005), math.log(0.2))),
            "relu": lambda u=u, m=m, s=s: s * (u - m),
            "tanh": lambda u=u, m=m: r.uniform(1.5, 8) * (u - m),
            "sigmoid": lambda u=u, m=m: r.uniform(2.5, 12) * (u - m),
            "gaussian": lambda u=u, m=m: r.uniform(1.2, 6) * (u - m),
            "rational": lambda u=u, m=m: r.uniform(1.5, 15) * (u - m),
            "sine": lambda u=u: r.uniform(0.8, 3) * math.pi * u + r.uniform(0, 2 * math.pi),
        }.get(name, lambda u=u, m=m: u - m)()
        y = r.choice([-1, 1]) * r.uniform(0.3, 5) * G[name](z) + 2 * r.normal()
        names.append(name)
        xs.append(r.uniform(-3, 3) + r.uniform(0.5, 3) * u)
        ys.append(y + np.ptp(y) * r.uniform(0.02, 0.05) * r.normal(size=POINTS))
    return names, torch.tensor(np.array(xs)), torch.tensor(np.array(ys))


@pytest.mark.parametrize("name", PLANTED)
def test_an_exact_curve_comes_back_with_its_numbers(name: str) -> None:
    x, y = curve(name)
    found = fit_one(x, y)
    assert found.name == name
    assert found.r2 > 1 - 1e-9
    a, b, c, d, low, high = PLANTED[name]
    assert found.ranges == ((low, high),)
    if name == "step":  # somewhere between the two points around the edge
        assert x[x < 1.234].max() < -found.c < x[x > 1.234].min()
        assert (found.a, found.b, found.d) == pytest.approx((a, b, d))
    elif name == "gaussian":  # (b, c) and (-b, -c) are one function
        s = math.copysign(1, found.b)
        assert (found.a, s * found.b, s * found.c, found.d) == pytest.approx((a, b, c, d), rel=1e-4)
    else:
        assert (found.a, found.b, found.c, found.d) == pytest.approx((a, b, c, d), rel=1e-4, abs=1e-6)
    np.testing.assert_allclose(found.at(torch.tensor(x)).numpy(), y, atol=1e-5 * np.ptp(y))


def test_noisy_curves_are_named() -> None:
    names, x, y = noisy(320, 0, list(G))
    fits = fit(x, y)
    named = [same(found.name) == same(name) for found, name in zip(fits, names, strict=True)]
    listed = [{same(n) for n in (found.name, *found.equivalents)} for found in fits]
    assert np.mean(named) > 0.88
    assert np.mean([same(name) in among for name, among in zip(names, listed, strict=True)]) > 0.97
    assert np.mean([len(among) for among in listed]) < 2.5  # or to be among them says nothing
    assert any("tanh" in found.equivalents for found in fits if found.name not in ("tanh", "sigmoid"))
    for found in fits:
        names = (found.name, *found.equivalents)
        assert ("tanh" in names) == ("sigmoid" in names)


@pytest.mark.parametrize("name", ["tanh", "gaussian", "sine", "logarithm", "relu", "step"])
def test_no_other_parameters_fit_better(name: str) -> None:
    """Against every pair of a dense grid, each with numpy's own weighted line through g."""
    r = np.random.default_rng(1)
    x, y = curve(name)
    y = y + 0.05 * np.ptp(y) * r.normal(size=POINTS)
    weight = r.uniform(0.1, 3, POINTS)
    found = fit_one(x, y, weight)
    assert found.name == name
    root = np.sqrt(weight)
    total = (weight * (y - np.average(y, weights=weight)) ** 2).sum()

    def explained(b: float, c: float) -> float:
        columns = np.stack([G[name](b * x + c), np.ones(POINTS)], 1) * root[:, None]
        ad = np.linalg.lstsq(columns, y * root, rcond=None)[0]
        return float(1 - ((columns @ ad - y * root) ** 2).sum() / total)

    assert found.r2 == pytest.approx(explained(found.b, found.c), abs=1e-9)
    bs = found.b * np.linspace(0.5, 1.5, 21) if name in ("tanh", "gaussian", "sine") else [found.b]
    low, high = (0.001 - x.min(), 3) if name == "logarithm" else (-3, 3)
    best = max(explained(b, c) for b in bs for c in np.linspace(low, high, 61))
    assert best > 0.9  # the grid is fine enough to be a rival
    assert found.r2 >= best - 1e-9


def test_a_step_is_where_it_explains_most() -> None:
    """On curves without a step, against every place between two neighbours, some of which have no weight."""
    r = np.random.default_rng(7)
    x, y = np.sort(r.uniform(-2, 2, (12, 20))), r.normal(size=(12, 20)).cumsum(1)
    weight = r.uniform(0.1, 2, x.shape) * (r.uniform(size=x.shape) > 0.3)
    weight[:, [0, -1]] = 1
    w = weight / weight.sum(1, keepdims=True)
    centred = np.where(weight > 0, y - (w * y).sum(1, keepdims=True), 0)
    found = _best_threshold(Curves(*(torch.tensor(v) for v in (x, w, centred)))).numpy()

    def left(i: int, at: float) -> float:
        halves = [x[i] > at, x[i] <= at]
        return float(sum(np.cov(y[i, h], aweights=w[i, h], ddof=0) * w[i, h].sum() for h in halves))

    for i in range(12):
        known = x[i, weight[i] > 0]
        assert left(i, found[i]) == pytest.approx(min(left(i, at) for at in (known[1:] + known[:-1]) / 2))


def test_sharing_points_out_to_nodes_keeps_the_sums() -> None:
    """Of every straight function exactly, of a smooth one nearly."""
    r = np.random.default_rng(8)
    u, values = r.uniform(-1, 1, (3, 40)), r.normal(size=(3, 40))
    u[0, :2] = -1, 1
    shared = _on_nodes(torch.tensor(u), torch.tensor(values)).numpy()
    nodes = np.linspace(-1, 1, shared.shape[1])
    np.testing.assert_allclose(shared @ (2 - 3 * nodes), (values * (2 - 3 * u)).sum(1), atol=1e-12)
    np.testing.assert_allclose(shared @ np.sin(5 * nodes), (values * np.sin(5 * u)).sum(1), atol=0.02)


@settings(max_examples=16, deadline=None, derandomize=True)
@given(
    st.sampled_from(list(PLANTED)),
    st.floats(0.01, 100),
    st.sampled_from([-1, 1]),
    st.floats(-50, 50),
    st.floats(1e-3, 1e3),
    st.sampled_from([-1, 1]),
    st.floats(-10, 10),
)
def test_units_do_not_change_the_name(
    name: str, size: float, turn: int, at: float, height: float, side: int, offset: float
) -> None:
    x, y = curve(name)
    y = y + 0.02 * np.ptp(y) * np.random.default_rng(3).normal(size=POINTS)
    before, after = fit(
        torch.tensor(np.stack([x, turn * size * x + at])),
        torch.tensor(np.stack([y, side * height * (y + offset)])),
    )
    assert same(after.name) == same(before.name) == same(name)
    assert after.r2 == pytest.approx(before.r2, abs=1e-6)
    assert {*after.equivalents, after.name} == {*before.equivalents, before.name}
    assert after.runner_up == before.runner_up


def read(formula: str, x: Array) -> Array:
    """The value of a formula's text."""
    code = re.sub(r"\|(.*)\|", r"abs(\1)", re.sub(r"(\d) x", r"\1 * x", formula)).replace("^", "**")
    known = {"exp": np.exp, "log": np.log, "tanh": np.tanh, "sin": np.sin, "abs": np.abs, "sqrt": np.sqrt}
    known |= {name: G[name] for name in ("relu", "step", "sigmoid")}
    signs = {ast.Add: np.add, ast.Sub: np.subtract, ast.Mult: np.multiply, ast.Div: np.divide, ast.Pow: np.power}

    def value(node: ast.expr) -> Array:
        match node:
            case ast.Constant():
                return np.full_like(x, node.value)
            case ast.Name():
                assert node.id == "x"
                return x
            case ast.UnaryOp(op=ast.USub()):
                return -value(node.operand)
            case ast.BinOp():
                return np.asarray(signs[type(node.op)](value(node.left), value(node.right)))
            case ast.Call(func=ast.Name()):
                return known[node.func.id](value(node.args[0]))
        raise AssertionError(f"{formula} is no formula")

    return value(ast.parse(code, mode="eval").body)


def test_a_formula_says_the_function() -> None:
    """Its text, read by the rules of arithmetic, gives the function to 1 % of its span; and it is short."""
    _, x, y = noisy(160, 4, list(G))
    for found, points in zip(fit(x, y), x, strict=True):
        if found.name in ("power 3/2", "square root"):
            points = points[2:-2]  # rounded, the root may begin beyond the first point
        exact = found.at(points).numpy()
        np.testing.assert_allclose(read(found.formula, points.numpy()), exact, rtol=0, atol=0.011 * np.ptp(exact))
        assert len(found.formula) < 50


@pytest.mark.parametrize(
    ("formula", "y"),
    [
        ("x", lambda x: x),
        ("-x + 3", lambda x: 3 - x),
        ("x^2", np.square),
        ("2 * (x - 1)^3 + 5", lambda x: 2 * (x - 1) ** 3 + 5),
        ("relu(2.5 - x)", lambda x: np.maximum(2.5 - x, 0)),
        ("-3 / (1 + |2 x - 5|)", lambda x: -3 / (1 + np.abs(2 * x - 5))),
        ("2.1 * tanh(0.8 x - 0.3) + 0.1", lambda x: 2.1 * np.tanh(0.8 * x - 0.3) + 0.1),
        ("exp(-(x - 2)^2)", lambda x: np.exp(-((x - 2) ** 2))),
    ],
)
def test_a_formula_reads_well(formula: str, y: Callable[[Array], Array]) -> None:
    x = np.linspace(-1, 4, POINTS) if "tanh" not in formula else np.linspace(-4, 5, POINTS)
    assert fit_one(x, y(x)).formula == formula


def test_far_from_zero_and_of_any_size() -> None:
    x = np.linspace(-1, 1, POINTS)
    for scale in (1e-200, 1e200):
        assert fit_one(x, scale * np.tanh(3 * x)).formula == f"{scale:g} * tanh(3 x)"
    assert fit_one(x + 1e6, np.exp(x)).formula == "exp(x - 1000000)"
    assert fit_one(1e-12 * x, x**2).formula == "1e+24 * x^2"


def test_a_bend_that_explains_next_to_nothing_has_no_name() -> None:
    """A line with a little of the second Legendre polynomial, whose share of the variance is known exactly."""
    x = np.linspace(-1, 1, 4001)
    for share, name in ((0.1 * NEGLIGIBLE, "linear"), (10 * NEGLIGIBLE, "square")):
        bend = math.sqrt(share / (1 - share) * 5 / 3)  # the variances of the two are 1/3 and 1/5
        found = fit_one(x, x + bend * (1.5 * x**2 - 0.5))
        assert name in (found.name, *found.equivalents)
        assert (found.name == "linear") == (name == "linear")
        assert found.r2 >= 1 - share - 1e-6


def test_noise_does_not_make_a_line_a_curve() -> None:
    _, x, y = noisy(128, 5, ["linear"])
    fits = fit(x, y)
    assert sum(found.name == "linear" for found in fits) >= 123
    bent = [(1 - f.r2, 1 - f.runner_up_r2) for f in fits if f.name == "linear"]
    assert any(other < own for own, other in bent)  # some shape was nearer, and lost
    assert all(own + NEGLIGIBLE <= (other + NEGLIGIBLE) * math.exp(2 * PARSIMONY) for own, other in bent)
    assert all(f.equivalents == () for f in fits if f.name == "linear")


def test_what_a_short_range_cannot_tell_apart_is_named_together() -> None:
    x = np.linspace(-1, 1, POINTS)
    short, long = fit_one(x, np.exp(0.25 * x)), fit_one(x, np.exp(2.5 * x))
    assert "square" in {short.name, *short.equivalents}
    assert long.name == "exponential"
    assert long.equivalents == ()
    assert long.runner_up_r2 < 1 - NEGLIGIBLE


def test_tanh_and_sigmoid_are_one_function() -> None:
    x = np.linspace(-3, 5, POINTS)
    for scale, offset, name in ((2, 0, "tanh"), (2, 2, "sigmoid"), (2, -2, "sigmoid"), (-2, 2, "sigmoid")):
        y = scale * np.tanh(0.9 * x - 1) + offset
        found = fit_one(x, y)
        assert found.name == name
        assert found.equivalents == ({"tanh": "sigmoid", "sigmoid": "tanh"}[name],)
        assert found.d == pytest.approx(0, abs=1e-6)
        np.testing.assert_allclose(found.at(torch.tensor(x)), y, atol=1e-6)


def test_nothing_is_claimed_where_there_is_no_data() -> None:
    x = torch.linspace(-2, 2, POINTS)
    y = torch.tanh(2 * x)
    weight = ((x.abs() > 0.5) & (x < 1.5)).float()
    weight[-1] = 1e-9  # too little to be judged, hence to be claimed
    other = torch.where(weight > 0, y, torch.nan)
    other[-1] = 100.0
    found = fit_one(x, other, weight)
    assert found.name == "tanh"
    assert found.b == pytest.approx(2, rel=1e-4)
    left, right = x[(weight > 0.5) & (x < 0)], x[(weight > 0.5) & (x > 0)]
    assert found.ranges == ((left[0].item(), left[-1].item()), (right[0].item(), right[-1].item()))
    at = found.at(x)
    assert torch.equal(at.isnan(), weight < 0.5)
    assert torch.allclose(at[weight > 0.5].float(), y[weight > 0.5], atol=1e-4)


def test_a_curve_is_called_what_it_is_where_its_inputs_are() -> None:
    x = torch.linspace(-2, 2, POINTS)
    assert fit_one(x, x.relu()).name == "relu"
    assert fit_one(x, x.relu(), (x > 0.1).float()).name == "linear"
    assert fit_one(x, x.relu(), (x < -0.1).float()).name == "constant"


@pytest.mark.parametrize("name", ["gaussian", "step", "relu"])
def test_a_weight_counts_points(name: str) -> None:
    """A point with weight 3 is three points."""
    x, y = curve(name)
    r = np.random.default_rng(2)
    y = y + 0.05 * np.ptp(y) * r.normal(size=POINTS)
    times = r.integers(0, 4, POINTS)
    found, repeated = fit_one(x, y, times * 0.01), fit_one(np.repeat(x, times), np.repeat(y, times))
    assert found.name == repeated.name
    assert (found.r2, found.a, found.b, found.c, found.d) == pytest.approx(
        (repeated.r2, repeated.a, repeated.b, repeated.c, repeated.d), rel=1e-5
    )
    assert fit_one(x, y).r2 != pytest.approx(found.r2, rel=1e-4)  # the weights matter


def test_curves_do_not_meddle() -> None:
    """Many at once, in any order of points and in blocks, as each alone; float32 as float64."""
    _, x, y = noisy(16, 6, list(G))
    alone = [fit_one(*pair) for pair in zip(x, y, strict=True)]
    turn = torch.randperm(POINTS, generator=torch.Generator().manual_seed(0))
    with patch.object(symbolic, "_ROWS", 5):
        together = fit(x[:, turn], y[:, turn])
    for one, other, single in zip(alone, together, fit(x.float(), y.float()), strict=True):
        assert (one.name, one.equivalents, one.formula) == (other.name, other.equivalents, other.formula)
        assert one.r2 == pytest.approx(other.r2, abs=1e-9)
        assert one.r2 == pytest.approx(single.r2, abs=1e-4)


def test_curves_without_a_shape() -> None:
    x = torch.linspace(0, 1, 20)
    flat = fit_one(x, torch.full((20,), 5.0) + 1e-7 * torch.randn(20, generator=torch.Generator().manual_seed(0)))
    assert (flat.name, flat.formula, flat.a, flat.runner_up) == ("constant", "5", 0, "")
    assert math.isnan(flat.r2)
    assert flat.at(torch.tensor([0.5, 2.0])).nan_to_num(-1).tolist() == pytest.approx([5, -1])
    assert fit_one(x, 0 * x).formula == "0"

    seven, eight = torch.zeros(20), torch.zeros(20)
    seven[:7], eight[:8] = 1, 1
    assert fit_one(x, x, eight).name == "linear"
    for found in (fit_one(x, x, seven), fit_one(torch.full((20,), 3.0), x), fit_one(x, x, 0 * x)):
        assert (found.name, found.formula, found.equivalents) == ("too little data", "", ())
        assert found.at(x).isnan().all()
    assert fit_one(torch.full((20,), 3.0), x).ranges == ((3, 3),)
    assert fit_one(x, x, 0 * x).ranges == ()
    doubled = torch.linspace(0, 1, 7).repeat_interleave(3)  # 21 points at 7 places
    assert fit_one(doubled, doubled).name == "too little data"
    assert fit(torch.zeros(0, 20), torch.zeros(0, 20)) == []


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        ({"y": math.nan}, r"latent 2 has y = nan at point 5"),
        ({"y": math.inf}, r"latent 2 has y = inf at point 5.*weight 0"),
        ({"x": math.nan}, r"latent 2 has x = nan at point 5"),
        ({"weight": -1.0}, r"latent 2 has weight = -1 at point 5.*not negative"),
        ({"weight": math.nan}, r"latent 2 has weight = nan at point 5"),
    ],
)
def test_numbers_that_are_none_are_refused_by_name(spoil: dict[str, float], says: str) -> None:
    curves = {"x": torch.rand(4, 20), "y": torch.rand(4, 20), "weight": torch.ones(4, 20)}
    for name, value in spoil.items():
        curves[name][2, 5] = value
    with pytest.raises(KanaryError, match=says):
        fit(**curves)


@pytest.mark.parametrize("shape", [(20,), (3, 19), (3, 0)])
def test_shapes_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    x = torch.zeros(3, 20) if shape[-1] else torch.zeros(shape)
    with pytest.raises(KanaryError, match=re.escape(str(list(shape)))):
        fit(x, torch.zeros(shape))


def test_the_census_counts_kinds() -> None:
    curves = [curve(name) for name in PLANTED]
    x, y = (torch.tensor(np.array(column)) for column in zip(*curves, strict=True))
    draw = torch.Generator().manual_seed(0)
    extra = torch.stack([torch.randn(POINTS, generator=draw).double(), torch.ones(POINTS).double(), x[0]])
    weight = torch.ones(len(x) + 3, POINTS)
    weight[-1, 3:] = 0
    fits = fit(torch.cat([x, x[:3]]), torch.cat([y, extra]), weight)
    counts = census(fits)
    assert tuple(counts) == CENSUS
    assert counts == {
        "linear": 1, "saturating": 2, "thresholded": 3, "bump": 2, "periodic": 1, "power-like": 7,
        "other": 1, "constant": 1, "too little data": 1,
    }  # fmt: skip
    assert census(fits, simple=0.0)["other"] == 0
    assert census(fits, simple=1.1)["other"] == 17
    assert sum(census([]).values()) == 0
