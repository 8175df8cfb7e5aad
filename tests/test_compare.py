"""Numbers at matched L0, intervals over seeds and verdicts, recomputed; ties, copies and unlike rows are called so."""

import csv
import io
import json
import math
import random
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from kanary.errors import KanaryError
from kanary.evaluation.comparison.compare import Comparison, compare
from kanary.evaluation.comparison.curves import COLUMNS
from kanary.evaluation.comparison.matched import Estimate, Reading, estimate, interpolate, t_quantile, verdicts, welch
from kanary.evaluation.result import Metric
from pages import Page

# Two-sided 95 % quantiles of Student's t, as printed in tables.
T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 10: 2.228, 30: 2.042, 1000: 1.962}
GROUPS = {
    "explained_variance": "reconstruction_quality",
    "ce_loss_score": "model_performance_preservation",
    "ce_loss_score_mean": "model_performance_preservation",
    "kl_div_score": "model_behavior_preservation",
    "l2_ratio": "shrinkage",
    "l0": "sparsity",
    "dead_share": "misc_metrics",
}
HELD_OUT = {
    "model": "models/tiny", "fingerprint": "f00d", "text": "texts/stories.txt", "text_fingerprint": "beef", "part": "heldout",
    "tokens": 1000, "loss_tokens": 500, "windows": 8, "window": 128, "seed": 0, "ln_vocab": 6.2, "ce_loss": 1.1,
}  # fmt: skip


def number(value: float | None, spread: float = 0.01) -> dict[str, float | None]:
    low, high = (None, None) if value is None else (value - spread, value + spread)
    return {"value": value, "low": low, "high": high, "n": 1000}


def sae(l0: float, ev: float | None, kind: str = "topk", seed: int | None = 0, **given: Any) -> dict[str, Any]:
    """What is known of one SAE; everything may be given."""
    numbers = {"explained_variance": ev, "l0": l0, "dead_share": 0.1, "l2_ratio": 0.98}
    for name in ("ce_loss_score", "ce_loss_score_mean", "kl_div_score"):
        numbers[name] = ev
    numbers |= given.pop("numbers", {})
    options = {"k": round(l0), "k_schedule": False} if kind.endswith("topk") else {"target_l0": None, "l1": l0}
    about = {
        "site": "resid_post.2", "model": "models/tiny", "revision": None, "fingerprint": "f00d", "text": "train.txt",
        "kind": kind, "encoder": "linear", "decoder": "linear", "options": options, "d_model": 64, "d_sae": 2048,
        "parameters": 264_256, "seed": seed, "tokens_trained": 2_000_000, "weights": f"{kind}-{l0}-{seed}-{ev}",
        "pca": "PCA with 32 components at resid_post.2",
        "train_flops": {"per_token": 65_536.0, "per_active_latent": 512.0},
    }  # fmt: skip
    return {"numbers": numbers, "about": about | given}


def rows(numbers: dict[str, float | None]) -> dict[str, Any]:
    groups: dict[str, Any] = {}
    for name, value in numbers.items():
        groups.setdefault(GROUPS[name], {})[name] = number(value)
    return groups


def write(
    folder: Path,
    saes: Iterable[dict[str, Any]],
    controls: dict[str, dict[str, float | None]] | None = None,
    **held: Any,
) -> Path:
    """A run folder with the metrics of ``saes``."""
    named = {f"{each['about']['kind']}-{i}": each for i, each in enumerate(saes)}
    for name, each in named.items():
        each["about"]["twins"] = [f"untrained twin of {name}", f"random twin of {name}"]
    data = {
        "format": "kanary-metrics-1",
        "saes": {name: rows(each["numbers"]) for name, each in named.items()},
        "controls": {name: rows(numbers) for name, numbers in (controls or {}).items()},
        "about": {name: each["about"] for name, each in named.items()},
        "held_out": HELD_OUT | held,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(data))
    return folder


def edit(run: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    data = json.loads((run / "metrics.json").read_text())
    change(data)
    (run / "metrics.json").write_text(json.dumps(data))
    return run


def level(kind: str, seed: int, ev: float, noise: float = 0.0, **given: Any) -> list[dict[str, Any]]:
    """A curve of four SAEs around ``ev``, shifted by ``noise``."""
    return [sae(l0, ev + 0.02 * math.log2(l0 / 16) + noise, kind, seed, **given) for l0 in (12, 24, 48, 96)]


def matched(found: Comparison, l0: float, metric: str = "explained_variance") -> dict[str, Estimate]:
    return {found.labels[m.family]: m.estimate for m in found.matched if (m.l0, m.metric) == (l0, metric)}


def statuses(found: Comparison, l0: float, metric: str = "explained_variance") -> dict[str, str]:
    return {
        found.labels[m.family]: m.verdict.status
        for m in found.matched
        if (m.l0, m.metric) == (l0, metric) and m.verdict
    }


def printed(found: Comparison, width: int = 100) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(found.table())
    return console.export_text()


# --- statistics ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("df", "quantile"), T.items())
def test_the_t_quantile_is_that_of_the_tables(df: int, quantile: float) -> None:
    assert t_quantile(df) == pytest.approx(quantile, abs=6e-4)


def test_the_t_quantile_falls_between_whole_degrees_of_freedom() -> None:
    assert t_quantile(1) > t_quantile(1.5) > t_quantile(2) > t_quantile(2.7) > t_quantile(3)


def test_the_interval_over_seeds_is_the_t_interval() -> None:
    values = [0.91, 0.93, 0.98]
    found = estimate({seed: Metric(v, v - 1, v + 1, 10) for seed, v in enumerate(values)})
    assert found is not None
    half = 4.302653 * stdev(values) / math.sqrt(3)
    assert (found.mean, found.low, found.high) == pytest.approx(
        (fmean(values), fmean(values) - half, fmean(values) + half)
    )
    assert found.label == "3 seeds"


def test_one_seed_has_the_interval_over_documents_and_says_so() -> None:
    found = estimate({4: Metric(0.9, 0.88, 0.93, 10)})
    assert found == Estimate((0.9,), 0.9, 0.88, 0.93)
    assert found.label == "1 seed: interval over documents only"


def test_the_welch_interval_has_welchs_degrees_of_freedom() -> None:
    a, b = [1.0, 2.0, 3.0], [2.0, 4.0, 6.0]
    squares = 1 / 3, 4 / 3  # s²/n
    df = sum(squares) ** 2 / (squares[0] ** 2 / 2 + squares[1] ** 2 / 2)  # 2.941
    assert df == pytest.approx(2.9412, abs=1e-4)
    difference, low, high = welch(a, b)
    assert difference == pytest.approx(-2.0)
    quantile = (high - low) / 2 / math.sqrt(sum(squares))
    assert T[3] < quantile < T[2]
    assert within(quantile, df) == pytest.approx(0.95, abs=1e-6)


def within(t: float, df: float) -> float:
    """P(|T| < t), by Simpson's rule on the density itself."""
    scale = math.gamma((df + 1) / 2) / math.gamma(df / 2) / math.sqrt(df * math.pi)
    steps = 20_000
    weights = [1, *[4, 2] * (steps // 2 - 1), 4, 1]
    heights = [scale * (1 + (t * i / steps) ** 2 / df) ** (-(df + 1) / 2) for i in range(steps + 1)]
    return 2 * t / steps / 3 * sum(w * h for w, h in zip(weights, heights, strict=True))


def test_with_equal_variances_and_sizes_welch_is_the_t_test() -> None:
    _, low, high = welch([1.0, 2.0, 3.0], [2.0, 3.0, 4.0])
    assert (high - low) / 2 == pytest.approx(T[4] * math.sqrt(2 / 3), rel=1e-3)


@given(st.lists(st.tuples(st.floats(1, 1e4), st.floats(-10, 10)), min_size=2, max_size=8, unique_by=lambda p: p[0]))
def test_interpolation_reproduces_what_was_measured_and_stays_between_neighbours(
    points: list[tuple[float, float]],
) -> None:
    curve = [(l0, Metric(value, value - 1, value + 2, 10)) for l0, value in points]
    for l0, metric in curve:
        assert interpolate(curve, l0) == Reading(metric)
    ordered = sorted(points)
    for (a, at_a), (b, at_b) in pairwise(ordered):
        read = interpolate(curve, math.sqrt(a * b))
        assert read is not None
        assert read.wide == (b / a > 2 and not read.near) == bool(read.note)
        between = read.metric
        assert min(at_a, at_b) - 1e-9 <= between.value <= max(at_a, at_b) + 1e-9
        if b > 1.001 * a:
            assert between.value == pytest.approx((at_a + at_b) / 2, abs=1e-6)
            assert (between.low, between.high) == pytest.approx((between.value - 1, between.value + 2), abs=1e-6)


def test_nothing_is_made_up_beyond_the_ends() -> None:
    curve = [(20.0, Metric(0.5, 0.4, 0.6, 1)), (40.0, Metric(0.6, 0.5, 0.7, 1))]
    assert interpolate(curve, 18.9) is None
    assert interpolate(curve, 42.1) is None
    below = interpolate(curve, 19.5)
    assert below is not None
    assert (below.near, below.note, below.wide) == (True, "extrapolated from L0 20", False)
    value, low, high, _ = below.metric
    assert value == pytest.approx(0.5 - 0.1 * math.log(20 / 19.5) / math.log(2))
    assert low < value < high
    assert interpolate(curve[:1], 20.19) == interpolate(curve, 20) == Reading(curve[0][1])
    nearer = interpolate(curve, 19.9)
    assert nearer is not None
    assert nearer.note == ""  # as good as measured
    assert interpolate(curve[:1], 20.21) is None
    assert interpolate([], 20) is None


def test_two_points_side_by_side_are_not_followed_further_than_they_are_apart() -> None:
    curve = [(20.0, Metric(0.5, 0.4, 0.6, 1)), (20.01, Metric(0.6, 0.5, 0.7, 1))]
    assert interpolate(curve, 20.9) is None


def test_points_at_one_l0_are_averaged_and_missing_numbers_left_out() -> None:
    missing = Metric(math.nan, math.nan, math.nan, 1)
    curve = [
        (32.0, Metric(0.5, 0.4, 0.6, 1)),
        (32.0, Metric(0.7, 0.6, 0.8, 1)),
        (16.0, missing),
        (0.0, Metric(9, 9, 9, 1)),
    ]
    found = interpolate(curve, 32.0)
    assert found is not None
    assert found.metric[:3] == pytest.approx((0.6, 0.5, 0.7))
    assert interpolate(curve, 16.0) is None


def of(*values: float) -> Estimate:
    return Estimate(values, fmean(values), 0, 0)


def test_a_winner_needs_every_other_outside_the_interval() -> None:
    clear, near, far = of(0.90, 0.91, 0.92), of(0.89, 0.91, 0.90), of(0.10, 0.11, 0.12)
    assert [v.status for v in verdicts([far, clear], higher_is_better=True)] == ["worse", "best"]
    assert [v.status for v in verdicts([far, clear], higher_is_better=False)] == ["best", "worse"]
    assert [v.status for v in verdicts([far, clear, near], higher_is_better=True)] == ["worse", "tie", "tie"]
    assert [v.status for v in verdicts([clear, of(0.1)], higher_is_better=True)] == ["no verdict", "no verdict"]
    assert [v.status for v in verdicts([clear], higher_is_better=True)] == ["alone"]


def test_a_line_over_a_wide_gap_gets_no_verdict() -> None:
    gap, near, far = (
        replace(of(v, v + 0.01, v + 0.02), note="gap" * (v == 0.5), wide=v == 0.5) for v in (0.5, 0.6, 0.1)
    )
    found = verdicts([gap, near, far], higher_is_better=True)
    assert [v.status for v in found] == ["no verdict", "no verdict", "worse"]
    assert [v.text for v in found[:2]] == ["no verdict (gap)", "no verdict (a rival: gap)"]
    found = verdicts([gap, far], higher_is_better=True)
    assert [v.text for v in found] == ["no verdict (gap)", "no verdict (the best: gap)"]


def test_few_seeds_are_marked() -> None:
    two, three = of(0.1, 0.1001), of(0.9, 0.91, 0.92)
    assert [v.few for v in verdicts([two, three, three], higher_is_better=True)] == [True, False, False]
    assert "few seeds" in verdicts([two, three], higher_is_better=True)[0].text
    assert "no verdict (1 seed)" in verdicts([of(0.1), three], higher_is_better=True)[0].text


def test_seeds_that_agree_in_every_digit_tie_when_equal() -> None:
    same, worse = of(*[0.1] * 3), of(*[0.2] * 3)
    assert [v.status for v in verdicts([same, of(*[0.1] * 2)], higher_is_better=True)] == ["tie", "tie"]
    assert [v.status for v in verdicts([same, worse], higher_is_better=False)] == ["best", "worse"]


# --- comparisons --------------------------------------------------------------------------------------------------


def test_every_number_at_matched_l0_is_the_mean_of_the_seeds_own_curves(tmp_path: Path) -> None:
    runs, by_seed = [], []
    for seed, (low, high) in enumerate([(0.80, 0.90), (0.82, 0.95), (0.79, 0.91)]):
        l0s = 20.0 + seed, 50.0 - seed
        saes = [sae(l0s[0], low, "relu", seed), sae(l0s[1], high, "relu", seed)]
        for each, l1 in zip(saes, (2.0, 1.0), strict=True):
            each["about"]["options"]["l1"] = l1
        runs.append(write(tmp_path / f"r{seed}", saes))
        by_seed.append(low + (high - low) * math.log(32 / l0s[0]) / math.log(l0s[1] / l0s[0]))
    found = matched(compare(runs), 32)["relu"]
    half = T[2] * stdev(by_seed) / math.sqrt(3)
    assert found.values == pytest.approx(by_seed)
    assert (found.low, found.high) == pytest.approx((fmean(by_seed) - half, fmean(by_seed) + half), rel=1e-4)


def test_only_seeds_that_are_read_alike_are_averaged(tmp_path: Path) -> None:
    saes = [sae(l0, 0.9 + seed / 100, seed=seed) for seed in range(3) for l0 in (8, 16, 32) if l0 != 16 or seed < 2]
    others = [sae(l0, 0.5 + seed / 100, "relu", seed) for seed in range(3) for l0 in (8, 30.55)]
    found = compare([write(tmp_path / "a", saes), write(tmp_path / "b", others)], tmp_path / "page.html")
    assert matched(found, 16)["topk"].values == pytest.approx((0.9, 0.91))
    assert [matched(found, l0)["topk"].seeds for l0 in (16, 32)] == [2, 3]
    assert set(statuses(found, 16).values()) == {"no verdict"}
    assert statuses(found, 32) == {"topk": "best", "relu": "worse"}
    text = Page((tmp_path / "page.html").read_text()).text
    assert "no verdict (nothing measured between L0 8 and 30.6)" in text
    assert "extrapolated from L0 30.55" in text
    assert re.search(r"relu +16↔ +3", printed(found))
    assert re.search(r"relu +32→ +3", printed(found))
    assert re.search(r"topk +32 +3", printed(found))


def test_numbers_without_an_interval_are_shown_and_drawn_alone(tmp_path: Path) -> None:
    run = write(tmp_path / "a", [sae(16, 0.91), sae(32, 0.95)])
    for group in (data := json.loads((run / "metrics.json").read_text()))["saes"].values():
        for metric in (metric for row in group.values() for metric in row.values()):
            metric |= {"low": None, "high": None}
    (run / "metrics.json").write_text(json.dumps(data))
    found = compare([run], tmp_path / "page.html")
    assert re.search(r"topk +16 +1 +0\.910 ", printed(found))
    assert 'class="whisker"' not in (tmp_path / "page.html").read_text()


def test_two_families_from_one_distribution_are_mostly_ties(tmp_path: Path) -> None:
    draw = random.Random(0)
    ties = 0
    for trial in range(40):
        runs = []
        for kind in ("topk", "batchtopk"):
            saes = [s for seed in range(3) for s in level(kind, seed, 0.9, draw.gauss(0, 0.01))]
            runs.append(write(tmp_path / f"{kind}{trial}", saes))
        found = statuses(compare(runs), 32)
        assert set(found.values()) in ({"tie"}, {"best", "worse"})
        ties += set(found.values()) == {"tie"}
    assert ties >= 34  # 38 are expected


def test_a_clearly_better_family_wins(tmp_path: Path) -> None:
    runs = []
    for kind, ev in (("topk", 0.85), ("batchtopk", 0.95)):
        saes = [s for seed in range(3) for s in level(kind, seed, ev, 0.001 * seed)]
        runs.append(write(tmp_path / kind, saes))
    found = compare(runs)
    for l0 in (16, 32, 64):
        for metric in ("explained_variance", "ce_loss_score", "kl_div_score"):
            assert statuses(found, l0, metric) == {"topk": "worse", "batchtopk": "best"}
        assert statuses(found, l0, "dead_share") == {"topk": "tie", "batchtopk": "tie"}
    assert statuses(found, 128) == {}
    assert found.comparisons == 3 * len(COLUMNS)
    assert f"{found.comparisons} differences" in printed(found)
    worst = next(m.verdict for m in found.matched if found.labels[m.family] == "topk" and m.l0 == 32)
    assert worst is not None
    assert worst.low < 0.1 < worst.high
    assert worst.text.startswith("worse by 0.1 (")


def test_fewer_dead_latents_are_better(tmp_path: Path) -> None:
    saes = [
        sae(32, 0.9, kind, seed, numbers={"dead_share": dead + seed / 1000})
        for kind, dead in (("topk", 0.3), ("batchtopk", 0.1))
        for seed in range(3)
    ]
    assert statuses(compare([write(tmp_path / "a", saes)]), 32, "dead_share") == {"topk": "worse", "batchtopk": "best"}


def test_one_seed_gets_no_verdict_however_large_the_difference(tmp_path: Path) -> None:
    runs = [write(tmp_path / kind, level(kind, 0, ev)) for kind, ev in (("topk", 0.1), ("relu", 0.9))]
    found = compare(runs)
    assert statuses(found, 32) == {"topk": "no verdict", "relu": "no verdict"}
    assert found.comparisons == 0
    assert "No difference was judged" in printed(found)
    assert matched(found, 32)["topk"].label == "1 seed: interval over documents only"
    low, high = matched(found, 32)["topk"].low, matched(found, 32)["topk"].high
    assert high - low == pytest.approx(0.02)


def test_copies_and_equal_seeds_are_counted_once_and_named(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", level("topk", 0, 0.9)), write(tmp_path / "b", level("topk", 0, 0.8))
    found = compare([a, b])
    assert matched(found, 32)["topk"].seeds == 1
    assert matched(found, 32)["topk"].mean == pytest.approx(0.85 + 0.02)
    assert any(str(a) in w and str(b) in w and "are all seed 0: counted once" in w for w in found.warnings)
    copy = write(tmp_path / "copy", level("topk", 0, 0.9))
    found = compare([a, copy])
    assert len(found.entries) == 4
    assert any(str(a) in w and str(copy) in w and "counted once" in w for w in found.warnings)


def test_the_same_weights_under_two_seeds_are_one_sae(tmp_path: Path) -> None:
    runs = [write(tmp_path / str(seed), [sae(32, 0.9, seed=seed, weights="same")]) for seed in (0, 1)]
    found = compare(runs)
    assert matched(found, 32)["topk"].seeds == 1
    assert any("one SAE (weights same): counted once" in w for w in found.warnings)


def test_saes_without_a_seed_are_never_several(tmp_path: Path) -> None:
    runs = [write(tmp_path / str(i), [sae(32, 0.9 + i / 100, seed=None)]) for i in range(3)]
    found = compare(runs)
    assert matched(found, 32)["topk"].seeds == 1
    assert any("have no seed: counted once" in w for w in found.warnings)


def test_equal_seeds_of_other_training_lengths_are_kept_apart(tmp_path: Path) -> None:
    short = write(tmp_path / "short", [sae(32, 0.8, tokens_trained=1_000_000)])
    long = write(tmp_path / "long", [sae(32, 0.9)])
    found = compare([short, long])
    assert {label: e.mean for label, e in matched(found, 32).items()} == {
        "topk · 1M tokens": 0.8,
        "topk · 2M tokens": 0.9,
    }
    assert any("tokens trained 1M" in flag.text for flag in found.flags)


def test_the_same_run_twice_counts_once(tmp_path: Path) -> None:
    run = write(tmp_path / "a", level("topk", 0, 0.9))
    once, twice = compare([run]), compare([run, run / "metrics.json", tmp_path / "." / "a"])
    assert matched(once, 32) == matched(twice, 32)
    assert any("given 3 times" in w for w in twice.warnings)


SHAPES = st.lists(
    st.tuples(
        st.sampled_from(["topk", "batchtopk", "relu"]),
        st.sampled_from([0, 1, 2, None]),
        st.floats(8, 200),
        st.floats(0, 1),
    ),
    min_size=1,
    max_size=6,
)


@settings(deadline=None, max_examples=40)
@given(SHAPES, st.randoms())
def test_neither_the_order_of_the_runs_nor_copies_change_a_number(
    tmp_path_factory: pytest.TempPathFactory, shapes: list[tuple[str, int | None, float, float]], shuffle: random.Random
) -> None:
    folder = tmp_path_factory.mktemp("runs")
    runs = [write(folder / str(i), [sae(l0, ev, kind, seed)]) for i, (kind, seed, l0, ev) in enumerate(shapes)]
    copies = [write(folder / f"z{i}", [sae(l0, ev, kind, seed)]) for i, (kind, seed, l0, ev) in enumerate(shapes)]
    mixed = shuffle.sample(runs, len(runs))
    first, other = compare(runs), compare(mixed)
    assert first.to_json() == other.to_json()
    doubled = compare([*copies, *runs])
    assert first.matched == doubled.matched
    assert first.labels == doubled.labels


def test_labels_say_only_what_differs(tmp_path: Path) -> None:
    saes = [
        sae(16, 0.9),
        sae(16, 0.9, encoder="kan-node", d_sae=4096),
        sae(16, 0.9, "jumprelu"),
        sae(16, 0.9, decoder="kan-gain"),
        sae(16, 0.9, options={"k": 16, "k_schedule": True}),
    ]
    assert set(compare([write(tmp_path / "a", saes)]).labels.values()) == {
        "topk · encoder linear · decoder linear · k_schedule=false · 2,048 latents",
        "topk · encoder kan-node · decoder linear · k_schedule=false · 4,096 latents",
        "jumprelu · encoder linear · decoder linear · 2,048 latents",
        "topk · encoder linear · decoder kan-gain · k_schedule=false · 2,048 latents",
        "topk · encoder linear · decoder linear · k_schedule=true · 2,048 latents",
    }
    assert set(
        compare([write(tmp_path / "b", [sae(16, 0.9), sae(32, 0.9), sae(16, 0.9, "relu")])]).labels.values()
    ) == {
        "topk",
        "relu",
    }


@pytest.mark.parametrize(
    ("about", "held", "words"),
    [
        (
            {"site": "resid_post.3"},
            {},
            "site resid_post.2 (topk · resid_post.2) and resid_post.3 (topk · resid_post.3)",
        ),
        (
            {"fingerprint": "dead", "model": "x/other"},
            {},
            "model other (dead) (topk · other) and tiny (f00d) (topk · tiny)",
        ),
        ({"text": "elsewhere/other.txt"}, {}, "training text"),
        ({"tokens_trained": 5000}, {}, "tokens trained"),
        ({"d_sae": 4096}, {}, "d_sae 2,048"),
        ({"parameters": 5}, {}, "parameters"),
        (
            {"train_flops": {"per_token": 80_000.0, "per_active_latent": 512.0}},
            {},
            "training FLOPs per token (L0 32) 81,920 (topk) and 96,384 (topk)",
        ),
        ({"train_flops": None}, {}, "training FLOPs per token (L0 32) 81,920 (topk) and unknown (topk)"),
        ({}, {"text": "b.txt", "text_fingerprint": "cafe"}, "evaluation text"),
        ({}, {"part": "all"}, "part of the text"),
        ({}, {"tokens": 2000}, "tokens evaluated 1K (relu and topk) and 2K (relu)"),
        ({}, {"loss_tokens": 200}, "tokens for the losses"),
        ({}, {"windows": 9}, "windows 8"),
        ({}, {"window": 64}, "tokens per window"),
        ({}, {"seed": 1}, "seed of the evaluation"),
    ],
)
def test_rows_that_are_not_like_for_like_are_flagged(
    tmp_path: Path, about: dict[str, Any], held: dict[str, Any], words: str
) -> None:
    kind = "relu" if held.get("tokens") else "topk"
    usual = write(tmp_path / "usual", [sae(32, 0.9), *([sae(32, 0.9, "relu", 1)] if kind == "relu" else [])])
    odd = write(tmp_path / "odd", [sae(32, 0.8, kind, 5, **about)], **held)
    found = compare([usual, odd])
    (flag,) = [f for f in found.flags if words in f.text]
    assert flag.text.startswith(words.split()[0])
    assert all(found.marks(family) for family in flag.families)
    assert flag.families
    assert flag.text.replace(" ", "") in printed(found).replace("\n", "").replace(" ", "")


def test_runs_that_are_like_for_like_carry_no_flag(tmp_path: Path) -> None:
    found = compare([write(tmp_path / kind, level(kind, 0, 0.9)) for kind in ("topk", "relu")])
    assert found.flags == []


def test_a_threshold_per_latent_is_no_other_size(tmp_path: Path) -> None:
    def sizes(many: int) -> list[str]:
        runs = [sae(32, 0.9, parameters=100_000), sae(32, 0.9, "jumprelu", parameters=many)]
        return [flag.text for flag in compare([write(tmp_path / str(many), runs)]).flags]

    assert sizes(101_500) == []
    assert "parameters" in sizes(103_000)[0]


def test_nearly_as_many_flops_count_as_many(tmp_path: Path) -> None:
    def runs(fixed: float) -> list[dict[str, Any]]:
        given = {"train_flops": {"per_token": fixed, "per_active_latent": 512.0}}
        return [sae(16, 0.9), sae(64, 0.9), sae(16, 0.9, "relu", **given)]

    assert compare([write(tmp_path / "alike", runs(66_000.0))]).flags == []  # whatever the L0 of each
    (flag,) = compare([write(tmp_path / "unlike", runs(70_000.0))]).flags
    assert "training FLOPs" in flag.text


@pytest.mark.parametrize(
    ("usual", "other", "words"),
    [
        ({"recipe": {"lr": None}}, {"recipe": {"lr": 0.001}}, ("topk · lr=default", "topk · lr=0.001")),
        ({"recipe": {"matryoshka": []}}, {"recipe": {"matryoshka": [4]}}, ("matryoshka=[]", "matryoshka=[4]")),
        ({"decoder_options": {"knots": 8}}, {"decoder_options": {"knots": 3}}, ("linear knots=8", "linear knots=3")),
        (
            {"encoder_options": {"hidden": 9}},
            {"encoder_options": {"hidden": 8}},
            ("linear hidden=9", "linear hidden=8"),
        ),
    ],
)
def test_seeds_of_another_recipe_or_part_are_no_seeds_of_this_one(
    tmp_path: Path, usual: dict[str, Any], other: dict[str, Any], words: tuple[str, str]
) -> None:
    run = write(tmp_path / "run", [sae(32, 0.8 + i / 10, seed=i, **given) for i, given in enumerate((usual, other))])
    found = compare([run])
    assert {estimate.seeds for match in found.matched for estimate in [match.estimate]} == {1}
    for word, label in zip(words, sorted(found.labels.values(), key=lambda label: words[0] not in label), strict=True):
        assert word in label


def test_the_odd_one_out_is_marked_and_not_the_many(tmp_path: Path) -> None:
    kinds = ("topk", "relu", "gated")
    runs = [write(tmp_path / kind, [sae(32, 0.9, kind, parameters=9 if kind == "gated" else 8)]) for kind in kinds]
    found = compare(runs)
    assert {found.labels[f] for f in found.flags[0].families} == {"gated"}


def test_controls_are_families_of_their_own_and_never_win(tmp_path: Path) -> None:
    numbers = {"explained_variance": 0.99, "ce_loss_score": 0.9, "l0": 32.0}
    controls: dict[str, dict[str, float | None]] = {
        "identity at resid_post.2": {"explained_variance": 1.0, "l0": None},
        "PCA with 32 components at resid_post.2": numbers,
        "untrained twin of topk-0": {"explained_variance": 0.1, "l0": 900.0, "dead_share": 0.0},
        "random twin of topk-0": {"explained_variance": 0.2, "l0": 32.0, "dead_share": 0.0},
    }
    found = compare([write(tmp_path / "a", [sae(32, 0.95), sae(32, 0.9, "relu")], controls)])
    names = {"topk", "relu", "identity", "PCA", "untrained twin of topk", "random twin of topk"}
    assert set(found.labels.values()) == names
    assert set(matched(found, 32)) == {"topk", "relu", "PCA", "random twin of topk"}
    assert set(statuses(found, 32)) == {"topk", "relu"}
    assert found.warnings[-1] == "PCA does at least as well as every SAE at L0 32 in EV."


def test_twins_have_the_seed_of_their_sae(tmp_path: Path) -> None:
    runs = []
    for seed in range(3):
        twin: dict[str, float | None] = {"explained_variance": 0.3 + seed / 100, "l0": 32.0}
        runs.append(
            write(tmp_path / str(seed), [sae(32, 0.9 + seed / 100, seed=seed)], {"random twin of topk-0": twin})
        )
    found = matched(compare(runs), 32)
    assert (found["topk"].seeds, found["random twin of topk"].seeds) == (3, 3)
    assert found["random twin of topk"].mean == pytest.approx(0.31)


def test_a_share_never_leaves_0_to_1(tmp_path: Path) -> None:
    saes = [sae(l0, 0.9, numbers={"dead_share": dead}) for l0, dead in ((8, 0.9), (16, 0.4), (31, 0.001))]
    found = compare([write(tmp_path / "a", saes)])
    assert matched(found, 32, "dead_share")["topk"].mean == 0
    assert re.search(r"32→ +1 .* 0\.0% ", printed(found))  # one seed: a count has no interval


def test_the_interval_of_a_share_never_leaves_0_to_1(tmp_path: Path) -> None:
    saes = [sae(32, 0.9, seed=seed, numbers={"dead_share": dead}) for seed, dead in enumerate((0.002, 0.012))]
    found = compare([write(tmp_path / "a", saes)])
    dead = matched(found, 32, "dead_share")["topk"]
    assert dead.mean == pytest.approx(0.007)
    assert dead.low == 0
    assert "0.7(≤7.1)%" in printed(found)


def test_what_lies_far_off_the_plot_is_named_beneath_it(tmp_path: Path) -> None:
    twin: dict[str, float | None] = {"explained_variance": -9.0, "l0": 32.0}
    run = write(tmp_path / "a", [sae(16, 0.9), sae(32, 0.95)], {"random twin of topk-0": twin})
    compare([run], tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "Far off, so only in the table: random twin of topk." in text
    assert "−9.000" in text
    assert "Controls are dashed" not in text
    twins = {"random twin of topk-0": twin | {"explained_variance": 0.9, "l0": 16.0}, "random twin of topk-1": twin}
    compare([write(tmp_path / "b", [sae(16, 0.9), sae(32, 0.95)], twins)], tmp_path / "page.html")
    assert "Far off, so only in the table: random twin of topk (1 of 2 points)." in (tmp_path / "page.html").read_text()
    assert "Controls are dashed" in (tmp_path / "page.html").read_text()


def test_numbers_that_do_not_exist_are_left_out(tmp_path: Path) -> None:
    saes = [sae(16, 0.9), sae(32, None), sae(64, 0.94), sae(0, 0.0, "relu"), sae(32, 0.9, "gated")]
    found = compare([write(tmp_path / "a", saes)], tmp_path / "out.html")
    assert matched(found, 32)["topk"].mean == pytest.approx(0.92)
    assert matched(found, 32, "dead_share")["topk"].mean == pytest.approx(0.1)
    assert any("no latent ever fires (L0 0)" in w for w in found.warnings)


def test_families_without_a_common_l0_say_what_they_cover(tmp_path: Path) -> None:
    found = compare(
        [write(tmp_path / "a", [sae(8, 0.5), sae(12, 0.7), sae(40, 0.6, "relu"), sae(60, 0.7, "relu")])], at=[16]
    )
    assert "No two families cover L0 16: relu covers 40–60 and topk covers 8–12." in found.warnings
    assert found.matched == []
    assert "relu l1=60" in printed(found)


def test_one_sae_alone_is_a_table_of_one(tmp_path: Path) -> None:
    run = write(tmp_path / "a", [sae(30, 0.9)])
    found = compare(run, tmp_path / "page.html")
    assert found.warnings == [f"There is nothing to compare: {run} holds one SAE."]
    assert "topk k=30" in printed(found)


# --- bad input ----------------------------------------------------------------------------------------------------


def damaged(tmp_path: Path, change: Callable[[dict[str, Any]], Any]) -> str:
    run = edit(write(tmp_path / "bad", [sae(16, 0.9), sae(32, 0.9)]), change)
    with pytest.raises(KanaryError) as caught:
        compare([run])
    assert str(run / "metrics.json") in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.pop("format"), "another version"),
        (lambda d: d.update(format="kanary-metrics-9"), "kanary-metrics-9"),
        (lambda d: d.pop("held_out"), "damaged (KeyError: 'held_out')"),
        (lambda d: d["about"].pop("topk-1"), "damaged (KeyError: 'topk-1')"),
        (lambda d: d["about"]["topk-0"].pop("site"), "damaged (KeyError: 'site')"),
        (lambda d: d["saes"].update({"topk-0": [1]}), "damaged"),
        (lambda d: d["saes"]["topk-0"]["shrinkage"].update(l2_ratio=0.3), "damaged"),
        (lambda d: d["saes"]["topk-0"]["shrinkage"].update(l2_ratio=number(1) | {"low": "a"}), "damaged"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, change: Callable[[dict[str, Any]], Any], words: str) -> None:
    assert words in damaged(tmp_path, change)


def test_a_cut_file_is_named(tmp_path: Path) -> None:
    run = write(tmp_path / "a", [sae(16, 0.9)])
    (run / "metrics.json").write_text((run / "metrics.json").read_text()[:100])
    with pytest.raises(KanaryError, match=r"a/metrics\.json is damaged"):
        compare([run])


def test_a_run_that_was_not_measured_says_how_to(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(KanaryError, match=rf"kanary evaluate {tmp_path / 'a'}"):
        compare([tmp_path / "a"])
    with pytest.raises(KanaryError, match="does not exist"):
        compare([tmp_path / "none"])
    with pytest.raises(KanaryError, match="at least one run"):
        compare([])
    write(tmp_path / "b", [sae(16, 0.9)])
    with pytest.raises(KanaryError, match=r"folder of runs: give .*/\*"):
        compare([tmp_path])


def test_a_run_whose_numbers_are_missing_is_left_out_aloud(tmp_path: Path) -> None:
    def empty(data: dict[str, Any]) -> None:
        data.update(saes={}, controls={}, about={})
        data["held_out"]["missing"] = "The text has no held-out part."

    run, bad = write(tmp_path / "a", [sae(16, 0.9)]), edit(write(tmp_path / "bad", [sae(16, 0.9)]), empty)
    found = compare([run, bad])
    assert any(str(bad) in w and "no held-out part" in w for w in found.warnings)
    with pytest.raises(KanaryError, match="no held-out part"):
        compare([bad])


def test_only_known_files_and_l0s_are_accepted(tmp_path: Path) -> None:
    run = write(tmp_path / "a", [sae(16, 0.9)])
    for name in ("page.pdf", "page", "page.htm"):
        with pytest.raises(KanaryError, match=r"\.html, \.csv or \.json"):
            compare([run], tmp_path / name)
    for at in ([], [0], [16, math.nan], [-1]):
        with pytest.raises(KanaryError, match="above 0"):
            compare([run], at=at)


# --- output -------------------------------------------------------------------------------------------------------


HOSTILE = "<script>alert(1)</script>\"' onload=x {{ 7*7 }} [red]"


@pytest.fixture
def several(tmp_path: Path) -> list[Path]:
    controls: dict[str, dict[str, float | None]] = {
        "PCA with 32 components at resid_post.2": {"explained_variance": 0.5, "l0": 32.0}
    }
    runs = []
    for kind, ev in (("topk", 0.85), ("relu", 0.95)):
        saes = [s for seed in range(3) for s in level(kind, seed, ev, 0.001 * seed)]
        runs.append(write(tmp_path / kind, saes, controls))
    return runs


def test_the_page_is_whole_and_loads_nothing(several: list[Path], tmp_path: Path) -> None:
    compare(several, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    page = Page(text)
    assert page.text.count("Controls are dashed;") == (text.count('stroke-dasharray="5 4"') > 0)
    tags = [tag for tag, _ in page.tags]
    assert tags.count("svg") == tags.count("figure") == tags.count("details") == 3
    assert not {"script", "link", "img", "iframe"} & set(tags)
    assert not re.search(r"https?://|//[a-z]|url\(|@import", text)
    for name, value in (item for _, attributes in page.tags for item in attributes.items()):
        assert name != "src"
        assert not name.startswith("on")
        assert name != "href" or str(value).startswith("#")
    assert "worse by 0.1" in page.text
    assert "prefers-color-scheme" in text
    assert "@media print" in text


def test_hostile_names_are_only_text(tmp_path: Path) -> None:
    run = write(
        tmp_path / "<b>run",
        [sae(16, 0.9), sae(16, 0.8, HOSTILE, site=HOSTILE), sae(16, 0.7, model=HOSTILE)],
        text=HOSTILE,
    )
    edit(
        run,
        lambda d: (
            d["saes"].update({HOSTILE: d["saes"]["topk-0"]}) or d["about"].update({HOSTILE: d["about"]["topk-0"]})
        ),
    )
    found = compare([run], tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    page = Page(text)
    assert "script" not in {tag for tag, _ in page.tags}
    assert "b" not in {tag for tag, attributes in page.tags if "run" in attributes}
    assert HOSTILE in page.text
    assert "[red]" in printed(found).replace("\n", "")


def test_the_csv_has_a_row_per_sae_and_one_per_family_l0_and_metric(several: list[Path], tmp_path: Path) -> None:
    found = compare(several, tmp_path / "out.csv")
    with (tmp_path / "out.csv").open() as file:
        table = list(csv.DictReader(file))
    assert {row["row"] for row in table} == {"sae", "control", "matched"}
    saes = [row for row in table if row["row"] == "sae"]
    assert len(saes) == 24
    assert {float(row["explained_variance"]) for row in saes} == {
        e.metrics["explained_variance"].value for e in found.entries if not e.family.control
    }
    (row,) = [
        r for r in table if (r["row"], r["family"], r["l0"], r["metric"]) == ("matched", "topk", "32.0", "l2_ratio")
    ]
    assert (row["value"], row["seeds"], row["verdict"]) == ("0.98", "3", "")
    (row,) = [r for r in table if (r["family"], r["l0"], r["metric"]) == ("topk", "32.0", "explained_variance")]
    assert row["verdict"] == "worse"
    assert float(row["behind_low"]) < 0.1 < float(row["behind_high"])


def test_the_json_holds_the_same_and_no_nan(several: list[Path], tmp_path: Path) -> None:
    found = compare(several, tmp_path / "out.json")
    data = json.loads((tmp_path / "out.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert data["format"] == "kanary-comparison-1"
    assert len(data["saes"]) == 24
    assert len(data["controls"]) == 2
    assert len(data["matched"]) == len(found.matched)
    assert data["comparisons"] == found.comparisons


@pytest.mark.parametrize("width", [100, 160])
def test_the_table_fits_a_hundred_columns_and_keeps_every_number(several: list[Path], width: int) -> None:
    text = printed(compare(several), width)
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text
    assert "1.0000" not in text
    assert re.search(r"topk +32 +3 +0\.871±\.002▼", text)
    assert re.search(r"relu +32 +3 +0\.971±\.002▲", text)
