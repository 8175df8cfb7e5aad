"""The pictures of an SAE show its data, as numpy would count them, and what is missing is said."""

import dataclasses
import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch

from evaluations import D_SAE, NAN, TOKENS, evaluation, numbers
from kanary.evaluation.pages.pictures import Figure, interval, pictures, short
from kanary.evaluation.pages.report import report
from kanary.evaluation.result import Evaluation, LatentTable, Metric


def figures(made: Evaluation, name: str) -> list[Figure]:
    return pictures(made, name)[0]


def left_out(made: Evaluation, name: str) -> list[str]:
    return pictures(made, name)[1]


def by_title(made: Evaluation, name: str = "topk") -> dict[str, Figure]:
    return {figure.title: figure for figure in figures(made, name)}


def test_every_picture_has_a_reading_and_a_table_of_at_most_25_rows() -> None:
    drawn = figures(evaluation(), "topk")
    assert len(drawn) == 10
    assert left_out(evaluation(), "topk") == []
    for figure in drawn:
        assert ET.fromstring(figure.svg).get("aria-label") == figure.title
        assert 0 < len(figure.table.rows) <= 25
        assert {len(row) for row in figure.table.rows} == {len(figure.table.headers)}
        assert re.search(r"\d", figure.reading)
        assert not re.search(r"\bnan\b|\binf\b", f"{figure.reading} {figure.table}")


def test_the_l0_picture_counts_every_token() -> None:
    made = evaluation()
    figure = by_title(made)["Active latents per token"]
    assert sum(int(row[1].replace(",", "")) for row in figure.table.rows) == int(made.details["topk"].l0_counts.sum())
    assert "On average 8 of 64 latents" in figure.reading
    assert "median is 8, the 5th percentile 3 and the 95th 17" in figure.reading


def test_the_density_picture_counts_dead_latents_apart() -> None:
    made = evaluation()
    figure = by_title(made)["How often the latents fire"]
    assert figure.table.rows[0] == ["never", "8"]
    assert sum(int(row[1]) for row in figure.table.rows) == D_SAE
    assert figure.reading.startswith("8 of 64 latents never fired on 20,000 tokens")
    firings = made.details["topk"].firings.numpy()
    assert figure.reading.endswith(f"tokens: {np.sum(firings / TOKENS > 0.1)}.")


def test_histograms_agree_with_numpy() -> None:
    made = evaluation()
    table, fires = made.latents["topk"], made.details["topk"].firings.numpy() > 0
    assert table.logit_skewness is not None
    assert table.logit_kurtosis is not None
    for title, values in (
        ("Skewness of the logit weights", table.logit_skewness.numpy()[fires]),
        ("Kurtosis of the logit weights", np.log10(table.logit_kurtosis.numpy()[fires])),
        ("Nearest neighbour of each decoder direction", table.max_decoder_cosine.numpy()),
    ):
        counts = [int(row[1]) for row in by_title(made)[title].table.rows]
        assert counts == np.histogram(values, bins=24)[0].tolist()


def test_the_error_by_position_is_weighted_by_tokens() -> None:
    made = evaluation()
    found = made.details["topk"]
    fvu, tokens = found.position_fvu.numpy(), found.position_tokens.numpy()
    quarters = [np.average(fvu[a:b], weights=tokens[a:b]) for a, b in ((1, 8), (24, 32))]
    first, last = re.findall(r"([\d.]+)\s%", by_title(made)["Error by position in the window"].reading)[:2]
    assert [float(first), float(last)] == pytest.approx([100 * q for q in quarters], abs=0.05)


def test_the_norms_are_read_over_all_sampled_tokens_and_drawn_for_a_thousand() -> None:
    made = evaluation()
    figure = by_title(made)["Error against the size of the activation"]
    pairs = made.details["topk"].norms.numpy()
    (median,) = re.findall(r"norm is ([\d.]+)", figure.reading)
    assert float(median) == pytest.approx(100 * np.median(pairs[:, 1] / pairs[:, 0]), rel=0.006)
    assert figure.svg.count("<circle") == 1000
    assert "a random 1,000 are drawn" in figure.reading
    assert figures(made, "topk") == figures(made, "topk")


def test_the_losses_stand_beside_every_control() -> None:
    rows = by_title(evaluation())["What the model loses"].table.rows
    assert [row[:2] for row in rows] == [
        ["model alone", "1.1"],
        ["with topk", "1.35"],
        ["with identity", "1.1"],
        ["with PCA with 8 components", "2.6"],
        ["with untrained twin", "3.1"],
        ["with random twin", "3"],
        ["mean ablation", "5.2"],
        ["zero ablation", "6.1"],
    ]


def test_the_answers_kept_are_counted_among_the_models_own_first_answers() -> None:
    figure = by_title(evaluation())["Answers that stay first"]
    assert figure.table.rows[0][1] == "15 of 15"
    assert figure.table.rows[1][1] == "12 of 15"
    assert "first on 15" in figure.reading


def test_a_group_has_one_colour_in_both_bar_charts() -> None:
    drawn = by_title(evaluation())
    charts = [drawn[title].svg for title in ("What the model loses", "Answers that stay first")]
    legends = [
        dict(re.findall(r'<g class="(s\d)"><path class="swatch"[^>]*/></g><text[^>]*>([^<]*)<', c)) for c in charts
    ]
    assert set(legends[1].values()) == {"model", "this SAE", "controls"}
    assert legends[1].items() <= legends[0].items()


def test_twins_at_another_l0_and_one_component_are_named_so() -> None:
    made = evaluation()
    made = dataclasses.replace(made, controls={**made.controls, "untrained twin of topk": numbers(0.5, 0.6, 32.5)})
    assert short(made, "untrained twin of topk", "topk") == "untrained twin (L0 32.5)"
    assert short(made, "random twin of topk", "topk") == "random twin"
    one = dataclasses.replace(made, controls={"PCA with 1 components at x": numbers()})
    assert short(one, "PCA with 1 components at x", "topk") == "PCA with 1 component"


def test_what_was_not_measured_is_said_in_a_line_each() -> None:
    bare = evaluation(details={}, latents={}, capability=None)
    assert list(by_title(bare)) == ["What the model loses"]
    assert len(left_out(bare, "topk")) == 3
    unspliced = {"topk": {group: row for group, row in numbers().items() if not group.startswith("model_")}}
    bare = dataclasses.replace(bare, saes=unspliced)
    assert figures(bare, "topk") == []
    assert len(left_out(bare, "topk")) == 4
    assert report(bare).count("not run with the SAE in place") == 3
    assert all("\n" not in line and line.endswith(".") for line in left_out(bare, "topk"))
    whole = evaluation()
    blind = dataclasses.replace(whole.latents["topk"], logit_skewness=None, logit_kurtosis=None, logit_std=None)
    assert "Nearest neighbour of each decoder direction" in by_title(evaluation(latents={"topk": blind}))
    (line,) = left_out(evaluation(latents={"topk": blind}), "topk")
    assert "logit weights" in line


@pytest.mark.parametrize("value", [0.0, 3.0, NAN, math.inf])
def test_latents_that_are_all_alike_are_drawn(value: float) -> None:
    columns = {f.name: torch.full((D_SAE,), value, dtype=torch.float64) for f in dataclasses.fields(LatentTable)}
    made = evaluation(latents={"topk": LatentTable(**columns)})
    for figure in figures(made, "topk"):
        ET.fromstring(figure.svg)
        assert "nan" not in figure.reading
    counted = sum(int(row[1]) for row in by_title(made)["Skewness of the logit weights"].table.rows)
    assert counted == (D_SAE - 8 if math.isfinite(value) else 0)


def test_an_interval_has_as_many_decimals_at_both_ends() -> None:
    assert interval(Metric(0.961, 0.96, 0.9618, 5)) == "0.960 to\xa00.962"
    assert interval(Metric(1.0, 1.0, 1.0, 5)) == ""
    assert interval(Metric(1.0, NAN, 1.0, 5)) == ""
    assert interval(Metric(0.0, -0.5, 0.25, 5)) == "−0.500 to\xa00.250"
