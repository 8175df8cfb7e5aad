"""Every plot is well formed, shows every finite number and nothing else, and stays inside its frame."""

import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kanary.ink import file
from kanary.scales import Scale, number
from kanary.svg import Axis, Series, histogram, lines, scatter
from kanary.svg_rows import bars, intervals

wild = st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from([0.0, 1.0, -1.0, 1e-100, 1e100, 5e-324, 1e300])
tame = st.floats(-1e6, 1e6)
pairs = st.lists(st.tuples(wild, wild) | st.tuples(tame, tame), max_size=12)
logs = st.booleans()
hostile = st.text(max_size=60) | st.sampled_from(
    ["</svg><script>alert(1)</script>", "a\x00b", "]]>", "&amp;", '"onload="x']
)


def usable(value: float, log: bool) -> bool:
    return abs(value) <= 1e100 and (value >= 1e-100 or not log)


def checked(svg: str) -> ET.Element:
    """The parsed picture, after the promises that hold for every one."""
    root = ET.fromstring(svg)
    assert root.get("role") == "img"
    assert [child.tag for child in root][:2] == ["title", "desc"]
    assert root.get("aria-label") == root.findtext("title")
    assert "http" not in svg
    style = root.findtext("style") or ""
    assert "prefers-color-scheme:dark" in style
    _, _, width, height = map(float, (root.get("viewBox") or "").split())
    for element in root.iter():
        for name, value in element.items():
            if name in {"aria-label", "class"}:
                continue
            assert not re.search(r"nan|inf|e[+-]?\d", value, re.IGNORECASE), f"{element.tag} {name}={value}"
        inside(element, width, height)
    return root


def inside(element: ET.Element, width: float, height: float) -> None:
    slack = 5  # half a marker
    x, y, w, h = (float(element.get(key) or 0) for key in ("x", "y", "width", "height"))
    cx, cy = (float(element.get(key) or 0) for key in ("cx", "cy"))
    for a in (x, x + w, cx):
        assert -slack <= a <= width + slack
    for a in (y, y + h, cy):
        assert -slack <= a <= height + slack
    assert w >= 0
    assert h >= 0
    for x1, y1 in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", element.get("d") or ""):
        assert -slack <= float(x1) <= width + slack
        assert -slack <= float(y1) <= height + slack


def marks(root: ET.Element, tag: str, name: str) -> list[ET.Element]:
    return [e for e in root.iter(tag) if e.get("class") == name]


# --- scales -------------------------------------------------------------------------------------------------------


@given(st.lists(wild, max_size=8), logs, st.none() | tame, st.none() | tame)
def test_ticks_ascend_lie_inside_and_are_few(
    values: list[float], log: bool, low: float | None, high: float | None
) -> None:
    scale = Scale.of(values, (10, 90), log=log, low=low, high=high)
    ticks = scale.ticks()
    places = [scale.at(value) for value, _ in ticks]
    assert all(a < b for (a, _), (b, _) in pairwise(ticks))
    assert all(10 <= place <= 90 for place in places)
    assert len(ticks) <= 12
    assert len(ticks) >= 2


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
def test_linear_ticks_step_by_one_two_or_five(low: float, span: float) -> None:
    if span < 1e-6 * abs(low):
        return
    values = [v for v, _ in Scale.of([low, low + span], (0, 100)).ticks()]
    step = min(b - a for a, b in pairwise(values))
    mantissa = step / 10 ** math.floor(math.log10(step) + 1e-6)
    assert min(abs(mantissa - m) for m in (1, 2, 5, 10)) < 1e-3


def test_a_logarithmic_axis_marks_decades() -> None:
    ticks = Scale.of([1e-4, 1e2], (0, 100), log=True).ticks(most=10)
    assert ticks == [
        (10.0**e, label)
        for e, label in zip(range(-4, 3), ["10⁻⁴", "0.001", "0.01", "0.1", "1", "10", "100"], strict=True)
    ]


def test_an_axis_reaches_to_its_ends_and_never_cuts_data_off() -> None:
    scale = Scale.of([0.5], (0, 100), low=0, high=1)
    assert scale.at(0.5) == pytest.approx(50)
    wider = Scale.of([-3.0, 0.5], (0, 100), low=0, high=1)
    assert wider.at(-3.0) > 0
    assert wider.at(1) == pytest.approx(100)


@given(st.floats(-1e12, 1e12), st.integers(2, 6))
def test_a_number_reads_back_to_its_digits(value: float, digits: int) -> None:
    text = number(value, digits).replace("−", "-").replace(",", "")
    assert float(text) == pytest.approx(value, rel=0.51 * 10.0 ** (1 - digits), abs=1e-300)


def test_numbers_as_people_write_them() -> None:
    shown = [number(v) for v in (16.0, 0.96111, 0.99996, 1.0, -0.5, 1234567.0, 2.465e-5, math.nan, math.inf, 0.0)]
    assert shown == ["16", "0.961", "1.000", "1", "−0.5", "1,234,567", "2.46e−5", "–", "–", "0"]


# --- marks --------------------------------------------------------------------------------------------------------


@given(pairs, logs, logs, st.booleans())
def test_a_scatter_draws_every_finite_point(
    points: list[tuple[float, float]], x_log: bool, y_log: bool, colour: bool
) -> None:
    xs, ys = [a for a, _ in points], [b for _, b in points]
    colours = ys if colour else None
    root = checked(scatter(xs, ys, Axis("x", log=x_log), Axis("y", log=y_log), "points", colours, "shade"))
    assert len(marks(root, "circle", "dot")) == sum(usable(a, x_log) and usable(b, y_log) for a, b in points)


@given(st.lists(pairs, max_size=4), logs, logs)
def test_lines_draw_a_marker_for_every_finite_point(
    data: list[list[tuple[float, float]]], x_log: bool, y_log: bool
) -> None:
    series = [Series(f"s{i}", [a for a, _ in p], [b for _, b in p], dashed=i % 2 == 1) for i, p in enumerate(data)]
    root = checked(lines(series, Axis("x", log=x_log), Axis("y", log=y_log), "lines"))
    expected = sum(usable(a, x_log) and usable(b, y_log) for points in data for a, b in points)
    assert len(marks(root, "path", "mark")) == expected


@given(st.lists(wild, min_size=1, max_size=12), st.lists(wild, max_size=11), logs, logs)
def test_a_histogram_draws_every_filled_bin(edges: list[float], counts: list[float], x_log: bool, y_log: bool) -> None:
    edges, counts = sorted(edges, key=lambda v: (v != v, v)), [abs(c) for c in counts]
    counts = (counts + [1.0] * len(edges))[: len(edges) - 1]
    root = checked(histogram(edges, counts, Axis("x", log=x_log), Axis("y", log=y_log), "bins"))
    expected = sum(
        usable(a, x_log) and usable(b, x_log) and usable(c, y_log) and c > 0
        for (a, b), c in zip(pairwise(edges), counts, strict=True)
    )
    assert len(marks(root, "rect", "mark")) == expected


@given(st.lists(st.tuples(wild, wild, wild), max_size=9), logs, st.booleans())
def test_bars_draw_every_finite_value_and_keep_every_name(
    rows: list[tuple[float, float, float]], log: bool, grouped: bool
) -> None:
    names = [f"name {i}" for i in range(len(rows))]
    columns = [[row[i] for row in rows] for i in range(3)]
    groups = [f"g{i % 3}" if grouped else "" for i in range(len(rows))]
    root = checked(bars(names, columns[0], columns[1], columns[2], Axis("nats", log=log), "bars", groups))
    assert len(marks(root, "rect", "mark")) == sum(usable(v, log) for v in columns[0])
    texts = [e.text for e in root.iter("text")]
    assert set(names) <= set(texts)


@given(st.lists(st.tuples(wild, wild, wild), max_size=6), logs)
def test_intervals_draw_every_finite_value_and_keep_every_name(
    rows: list[tuple[float, float, float]], log: bool
) -> None:
    names = [(f"family {i // 2}", f"row {i}") for i in range(len(rows))]
    columns = [[row[i] for row in rows] for i in range(3)]
    series = [Series(name, range(len(rows)), *columns) for name in ("one", "other")]
    root = checked(intervals(names, series, Axis("ratio", log=log), "t", zero=1))
    shown = [(low, high) for value, low, high in rows if usable(value, log)]
    known = [(low, high) for low, high in shown if math.isfinite(low) and math.isfinite(high)]
    assert len(marks(root, "path", "mark")) == 2 * len(known)
    assert len(marks(root, "path", "line")) == 2 * (len(shown) - len(known))  # hollow
    assert len(marks(root, "path", "whisker")) == 2 * sum(low != high for low, high in known)
    texts = [e.text for e in root.iter("text")]
    assert {own for _, own in names} <= set(texts)
    assert sum(common in texts for common in {common for common, _ in names}) == len({common for common, _ in names})


def test_an_interval_lies_on_its_side_of_the_line_that_means_no_difference() -> None:
    series = Series("s", [0, 1], [0.5, 2.0], [0.4, 0.8], [0.7, 3.0])
    root = checked(intervals([("a", "8"), ("a", "16")], [series], Axis("ratio", log=True), "t", zero=1))
    zero = min(float(re.findall(r"M([\d.]+)", e.get("d") or "")[0]) for e in marks(root, "path", "axis")[1:])
    ends = [list(map(float, re.findall(r"[MH]([\d.]+)", e.get("d") or ""))) for e in marks(root, "path", "whisker")]
    assert ends[0][0] < ends[0][1] < zero
    assert ends[1][0] < zero < ends[1][1]
    assert [e.text for e in root.iter("title")][1:] == ["a 8, s: 0.5 (0.4 to 0.7)", "a 16, s: 2 (0.8 to 3)"]
    wide = Series("s", [0], [1.5], [-0.2], [3.2])  # on a logarithmic axis its lower end lies beyond any
    root = checked(intervals([("a", "8")], [wide], Axis("ratio", log=True), "over it", zero=1))
    (whisker,) = marks(root, "path", "whisker")
    assert (whisker.get("d") or "").startswith("M160 ")
    assert [e.text for e in root.iter("title")][1:] == ["a 8, s: 1.5 (−0.2 to 3.2)"]
    assert "over it" in [e.text for e in root.iter("text")]


def test_ticks_are_close_enough_to_read_where_an_axis_is_shorter_than_a_decade() -> None:
    assert [tick for _, tick in Scale(math.log10(0.68), math.log10(1.75), True, 0, 1).ticks()] == ["0.7", "1", "1.5"]


def test_a_file_is_the_plot_on_paper_of_its_own() -> None:
    plot = histogram([0, 1], [1], Axis("x"), Axis("y"), "t")
    root = ET.fromstring(file(plot))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert (root.findtext("{*}style") or "").count(".plot{background:") == 2
    assert "xmlns" not in plot


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=30, unique=True))
def test_positions_keep_the_order_of_the_values(values: list[float]) -> None:
    dots = marks(checked(scatter(values, values, Axis("x", log=True), Axis("y"), "t")), "circle", "dot")
    order = sorted(range(len(values)), key=values.__getitem__)
    xs, ys = ([float(dots[i].get(key) or "") for i in order] for key in ("cx", "cy"))
    assert xs == sorted(xs)
    assert ys == sorted(ys, reverse=True)


def test_a_bar_is_as_long_as_its_value() -> None:
    root = checked(bars(["a", "b"], [1.0, 3.0], [1.0, 2.5], [1.0, 3.5], Axis("nats"), "t", ["", ""]))
    a, b = (float(e.get("width") or "") for e in marks(root, "rect", "mark"))
    assert b == pytest.approx(3 * a, rel=0.01)
    assert len(marks(root, "path", "whisker")) == 1


def test_a_gap_breaks_the_line_and_error_bars_span_their_interval() -> None:
    nan = math.nan
    series = Series("s", [1, 2, 3, 4, 5], [1, 2, nan, 2, 1], [0.5, 1, nan, nan, 1], [1.5, 3, nan, 3, 1])
    root = checked(lines([series], Axis("x"), Axis("y"), "t"))
    (line,) = marks(root, "path", "line")
    assert re.sub(r"[^ML]", "", line.get("d") or "") == "MLML"
    (errors,) = marks(root, "path", "whisker")
    assert (errors.get("d") or "").count("M") == 2


def test_series_differ_in_shape_as_well_as_in_colour() -> None:
    series = [Series(f"s{i}", [0.0], [0.0]) for i in range(14)]
    root = checked(lines(series, Axis("x"), Axis("y"), "t"))
    looks = set()
    for group in (g for g in root.iter("g") if marks(g, "path", "mark")):
        outline = re.sub(r"^M\S+ [\d.]+", "", marks(group, "path", "mark")[0].get("d") or "")
        looks.add((group.get("class"), outline))
    assert len(looks) == 14


def test_a_colour_grows_with_its_value() -> None:
    root = checked(scatter([0, 1, 2], [0, 0, 0], Axis("x"), Axis("y"), "t", [5.0, math.nan, 9.0], "shade"))
    classes = {g.get("class"): len(marks(g, "circle", "dot")) for g in root.iter("g") if marks(g, "circle", "dot")}
    assert classes["r0"] == classes["r7"] == classes["soft"] == 1


@pytest.mark.parametrize(
    "draw",
    [
        lambda t: histogram([0, 1], [1], Axis(t), Axis(t), t),
        lambda t: scatter([1], [1], Axis(t), Axis(t), t, [1], t),
        lambda t: lines([Series(t, [1], [1]), Series(t, [2], [2])], Axis(t), Axis(t), t),
        lambda t: bars([t, "b"], [1, 2], [1, 2], [1, 2], Axis(t), t, [t, "other"]),
        lambda t: intervals([(t, t)], [Series(t, [0], [2], [1], [3])], Axis(t), t, zero=1),
    ],
)
def test_hostile_text_stays_text(draw: Callable[[str], str]) -> None:
    @given(hostile)
    def check(text: str) -> None:
        root = ET.fromstring(draw(text))
        assert not list(root.iter("script"))
        plain = re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)
        assert root.findtext("title") == plain.replace("\r\n", "\n").replace("\r", "\n")
        assert {name for e in root.iter() for name in e.keys()} <= ALLOWED  # noqa: SIM118

    check()


ALLOWED = {
    "class", "role", "aria-label", "viewBox", "x", "y", "width", "height", "cx", "cy", "r", "d", "text-anchor", "transform",
    "stroke-dasharray",
}  # fmt: skip


def test_a_plot_is_drawn_the_same_each_time_and_small() -> None:
    xs = [math.sin(i) for i in range(1000)]
    picture = scatter(xs, xs, Axis("x"), Axis("y"), "t", xs, "c")
    assert picture == scatter(xs, xs, Axis("x"), Axis("y"), "t", xs, "c")
    assert len(picture) < 60 * len(xs)
    assert not re.search(r"\d\.\d\d", re.sub("<style>.*</style>", "", picture))
