"""The report says what the numbers say, loads nothing, and holds for broken SAEs and hostile names."""

import dataclasses
import re
from collections.abc import Mapping
from itertools import pairwise

import pytest
import torch

from evaluations import D_SAE, NAN, TOKENS, details, evaluation, numbers
from kanary.evaluation import metrics, sums
from kanary.evaluation.pages.glossary import GROUPS, METRICS
from kanary.evaluation.pages.page import shown
from kanary.evaluation.pages.report import report, warnings
from kanary.evaluation.result import Answer, Capability, Evaluation, Metric, Prompt, flat
from kanary.evaluation.sums import Sums, bootstrap
from pages import Page


def page(made: Evaluation) -> Page:
    return Page(report(made))


def words(text: str) -> str:
    return re.sub(r"\s+", " ", text)


# --- the page -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [["topk"], ["a", "b", "c"]])
def test_the_page_loads_nothing_and_runs_nothing(names: list[str]) -> None:
    html = report(evaluation(*names))
    for forbidden in ("http:", "https:", "//cdn", "src=", "<script", "@import", "url(", "<iframe", "<link"):
        assert forbidden not in html
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in html
    found = Page(html)
    assert not any(key.startswith("on") for _, attrs in found.tags for key in attrs)
    assert all(link.startswith("#") for link in found.links)
    assert {link[1:] for link in found.links} <= set(found.ids)
    assert len(found.ids) == len(set(found.ids))


@pytest.mark.parametrize("names", [["topk"], ["a", "b"]])
def test_the_page_can_be_used_without_seeing_it_or_pointing_at_it(names: list[str]) -> None:
    html = report(evaluation(*names))
    found = Page(html)
    assert found.tags[0] == ("html", {"lang": "en"})
    assert html.count("<h1>") == 1
    levels = [int(tag[1]) for tag, _ in found.tags if re.fullmatch(r"h[1-6]", tag)]
    assert all(b <= a + 1 for a, b in pairwise(levels))
    kinds = [tag for tag, _ in found.tags if tag in {"svg", "table", "figure"}]
    assert kinds.count("svg") == kinds.count("figure") == 10 * len(names)
    assert "".join(kind[0] for kind in kinds).count("fst") == kinds.count("svg")
    for tag, attrs in found.tags:
        if tag == "svg":
            assert attrs["aria-label"]
        if attrs.get("class") == "wide":
            assert attrs["tabindex"] == "0"
            assert attrs["aria-label"]


def test_the_five_numbers_stand_beside_their_controls() -> None:
    html = report(evaluation())
    cards = [words(re.sub(r"<[^>]+>", " ", card)) for card in html.split('<div class="numbers">')[1].split("<h3>")[1:6]]
    l0, ev, ce, dead, kept = (card.replace("\xa0", " ") for card in cards)
    assert "Active latents (L0) 8 " in l0
    assert "PCA with 8 components: 8" in l0
    assert "12.5 %" in l0
    assert "0.9 95 % interval 0.890 to 0.910, over 20,000 tokens" in ev
    assert "PCA with 8 components: 0.81; untrained twin: 0.5; random twin: 0.65" in ev
    assert "above the best control (PCA with 8 components)" in ev
    assert "0.95 95 % interval" in ce
    assert "stricter score: 0.9." in ce
    assert "random twin: 0.62" in ce
    assert "12.5 % over 20,000 tokens" in dead
    assert "8 of 64 latents fired on none of 20,000 tokens" in dead
    assert "80 % 95 % interval 54.8 to 93.0 %, over 15 prompts" in kept
    assert "identity: 100 %" in kept


def test_without_prompts_the_fifth_number_is_how_often_the_prediction_stays() -> None:
    text = words(page(evaluation(capability=None)).text)
    assert "Same prediction 83\xa0%".replace("\xa0", " ") in text.replace("\xa0", " ")
    assert "Answers kept" not in text


def test_every_metric_is_shown_with_its_explanation_and_beside_its_controls() -> None:
    made = evaluation()
    html = report(made).replace("<wbr>", "")
    for name, metric in flat(made.saes["topk"]).items():
        row = html.split(f"<code>{name}</code>")[1].split("</tr>")[0]
        assert row.count('<td class="n">') == 6  # the SAE, four controls, n
        assert f'<td class="n">{metric.value:.4g}' in row
    text = words(page(made).text)
    for name in flat(made.saes["topk"]):
        assert METRICS[name] in text


def test_ten_prompts_are_shown_with_both_continuations() -> None:
    text = page(evaluation()).text
    for i in range(10):
        assert f"Once upon {i}" in text
        assert f"␣word{i}" in text
        assert f"alone {i}" in text
        assert f"with-0 {i}" in text
    assert "Once upon 10" not in text


def test_several_saes_get_a_summary_with_links() -> None:
    found = page(evaluation("a", "b", "c"))
    assert found.links.count("#sae-2") == 2
    assert "Evaluation of 3 SAEs" in found.text
    assert "SAE Active latents (L0) Explained variance" in words(
        re.sub(r"(?<=\S)(?=Active|Explained)", " ", found.text)
    )


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a&b", "{{ 7*7 }}", "</svg>"]
)
def test_hostile_names_and_texts_stay_text(name: str) -> None:
    made = evaluation(name)
    about = {name: {**made.about[name], "model": name, "options": {name: name}}}
    prompt = Prompt(name, name, 0, 0, torch.arange(2))
    said = Capability([prompt], [Answer(1, 0.5, name)], {name: [Answer(2, 0.5, name)]})
    html = report(dataclasses.replace(made, about=about, capability=said, held_out={"text": name, "tokens": TOKENS}))
    found = Page(html)
    assert not {tag for tag, _ in found.tags} & {"script", "img"}
    assert not any(key.startswith("on") for _, attrs in found.tags for key in attrs)
    assert found.text.count(name) > 5


def test_a_number_that_does_not_exist_is_a_dash_and_never_nan() -> None:
    gone = {group: {key: Metric(NAN, NAN, NAN, 0) for key in row} for group, row in numbers().items()}
    made = evaluation()
    broken = dataclasses.replace(made, saes={"topk": gone}, controls=dict.fromkeys(made.controls, gone))
    text = page(broken).text
    assert not re.search(r"\b(nan|NaN|inf|None)\b", text)
    assert text.count("–") > 20


def test_an_sae_that_never_fires_is_reported_with_a_warning() -> None:
    draw = torch.Generator().manual_seed(0)
    silent = dataclasses.replace(
        details(draw, dead=D_SAE), l0_values=torch.tensor([0]), l0_counts=torch.tensor([TOKENS])
    )
    made = evaluation(saes={"topk": numbers(0.0, 0.1, 0.0, 1.0)}, details={"topk": silent})
    text = words(page(made).text)
    assert "never fires" in text
    assert "64 of 64 latents never fired on 20,000 tokens." in text


def test_what_could_not_be_measured_at_all_is_said() -> None:
    found = page(Evaluation({}, {}, {}, {"missing": "The text has ended.", "tokens": 0}))
    assert "Nothing was measured. The text has ended." in words(found.text)


# --- warnings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sae", "held_out", "says"),
    [
        ({"ev": 0.78}, {}, ["control PCA with 8 components, 0.81: the linear code explains more"]),
        ({"ev": 0.8, "ce": 0.61}, {}, []),  # the intervals overlap
        ({"ce": 0.59}, {}, ["below that of random directions, 0.62"]),
        ({"ev": 0.6}, {}, ["linear code", "random twin, 0.65: training is not what explains"]),
        ({"dead": 1.0}, {}, []),  # it says already that the SAE never fires
        ({}, {"documents": 4}, ["Fewer than 5 documents: numbers have no interval"]),
        ({}, {"documents": 29}, ["Only 29 documents"]),
        ({}, {"documents": 30}, []),
        ({"dead": 0.51}, {}, ["51\xa0% of the latents never fired"]),
        ({"l0": 16.1}, {}, ["Not sparse"]),
        ({"l0": 0.0}, {}, ["never fires"]),
        ({}, {"tokens": 9_999}, ["Only 9,999 tokens"]),
        ({"ev": 0.4, "dead": 0.9}, {}, ["PCA", "untrained twin", "random twin", "never fired"]),
        ({"ev": 0.82, "ce": 0.63, "dead": 0.5, "l0": 16.0}, {"tokens": 10_000}, []),
    ],
)
def test_warnings_come_when_they_should(sae: Mapping[str, float], held_out: Mapping[str, int], says: list[str]) -> None:
    made = evaluation(saes={"topk": numbers(**sae)})
    made = dataclasses.replace(made, held_out={**made.held_out, **held_out})
    found = list(warnings(made, "topk"))
    assert len(found) == len(says)
    for said, line in zip(says, found, strict=True):
        assert said in line
    html = report(made)
    assert ("Read this first" in html) == bool(says)
    assert html.find("Read this first") < html.find('<div class="numbers">')


@pytest.mark.parametrize(("ev", "verdict"), [(0.84, "above"), (0.815, "not told apart from"), (0.78, "below")])
def test_a_difference_inside_the_intervals_is_no_difference(ev: float, verdict: str) -> None:
    text = words(page(evaluation(saes={"topk": numbers(ev=ev)})).text)
    assert f"{verdict} the best control (PCA with 8 components)" in text


def test_the_straight_twin_is_left_out_of_the_best_control_by_name() -> None:
    made = evaluation()
    made.about["topk"]["twins"].append("straight twin of topk")
    made = dataclasses.replace(made, controls={**made.controls, "straight twin of topk": numbers(0.95, 0.97)})
    text = words(page(made).text)
    assert text.count("above the best control (PCA with 8 components; the straight twin apart)") == 2
    assert "straight twin: 0.95" in text


def test_the_first_line_names_the_parts() -> None:
    made = evaluation()
    assert "topk, 64 latents" in words(page(made).text)
    made.about["topk"] |= {"encoder": "refine", "decoder": "kan-bend"}
    assert "topk, encoder refine, decoder kan-bend, 64 latents" in words(page(made).text)


def test_a_twin_with_more_active_latents_proves_nothing_of_training() -> None:
    made = evaluation(saes={"topk": numbers(ev=0.6, l0=4.0)})
    (line,) = [w for w in warnings(made, "topk") if "random twin" in w]
    assert line.endswith("the control random twin (L0 8), 0.65: but it has more active latents.")


@pytest.mark.parametrize(("l0", "d_model", "dense"), [(10.1, 20, True), (10.0, 20, False), (10.1, None, False)])
def test_as_many_active_latents_as_half_the_dimensions_are_not_sparse(
    l0: float, d_model: int | None, dense: bool
) -> None:
    made = evaluation(saes={"topk": numbers(l0=l0)})
    made = dataclasses.replace(made, about={"topk": {**made.about["topk"], "d_model": d_model}})
    assert [w for w in warnings(made, "topk") if "20 dimensions" in w] == list(warnings(made, "topk"))
    assert len(list(warnings(made, "topk"))) == dense
    assert (": not sparse." in page(made).text) == dense


def test_without_intervals_the_numbers_stand_alone() -> None:
    bare = {g: {k: m._replace(low=NAN, high=NAN) for k, m in row.items()} for g, row in numbers(ev=0.1).items()}
    made = evaluation(saes={"topk": bare})
    text = words(page(made).text)
    assert "no interval: fewer than 5 documents, over 20,000 tokens" in text
    assert "best control" not in text
    assert list(warnings(made, "topk")) == []


def test_the_words_follow_the_numbers() -> None:
    milder = numbers(dead=0.0, ev=-4.79)
    milder["model_performance_preservation"]["ce_loss_score_mean"] = Metric(0.96, 0.95, 0.97, TOKENS)
    text = words(page(evaluation(saes={"topk": milder})).text).replace("\xa0", " ")
    assert "Against mean ablation: 0.96." in text
    assert "fired on none of 20,000 tokens: all are used." in text
    assert "further from the activations than their mean is: below the best control" in text
    assert "fired on none of 20,000 tokens: all are unused." in words(
        page(evaluation(saes={"topk": numbers(dead=1.0)})).text
    )


def test_a_text_shorter_than_asked_is_said() -> None:
    made, sampled = evaluation(), {"windows": 625, "window": 32}  # 20,000 tokens
    for asked, said in ((20_001, True), (20_000, False)):
        short = dataclasses.replace(made, held_out={**made.held_out, **sampled, "asked_tokens": asked})
        assert ("20,001 were asked for, but the text has no more" in words(page(short).text)) == said


# --- words and colours --------------------------------------------------------------------------------------------


def test_every_metric_that_is_measured_is_explained() -> None:
    site, row, draws = Sums(), Sums(), bootstrap(torch.ones(sums.GROUPS), 0)
    keys = ("n", "n_ce", "square", "norm", "ce_clean", "ce_zero", "ce_mean", "kl_zero", "kl_mean")
    site.add(torch.arange(3), x=torch.ones(3, 2), **dict.fromkeys(keys, torch.ones(3)))
    row_keys = [
        "error",
        "error_by_batch",
        "legacy",
        "cosine",
        "norm",
        "ratio",
        "square",
        "dot",
        "ce",
        "kl",
        "agree",
        "l0",
        "l1",
    ]
    row.add(torch.arange(3), l0_histogram=torch.ones(3, 4), **dict.fromkeys(row_keys, torch.ones(3)))
    measured = metrics.merged(
        metrics.fidelity_metrics(site, row, draws, 2),
        metrics.loss_metrics(site, row, draws),
        metrics.straight_metrics(site, row, row, draws, (site, row, row, draws)),
        metrics.sparsity_metrics(site, row, draws, torch.arange(4)),
        metrics.health_metrics(torch.arange(5), 10),
        metrics.token_stats(5, 10),
    )
    weights = {"average_max_decoder_cosine_sim", "average_max_encoder_cosine_sim"}
    assert set(METRICS) == set(flat(measured)) | weights
    assert set(GROUPS) == set(measured)


def test_values_of_a_config_are_shown_for_people() -> None:
    assert [shown(v) for v in (None, "", True, 12345, 0.25, NAN, {"k": 8, "b": None}, ["x", 1], {}, "word")] == [
        "–", "–", "yes", "12,345", "0.25", "–", "k 8, b –", "x, 1", "–", "word",
    ]  # fmt: skip


def test_text_has_enough_contrast_in_light_and_dark() -> None:
    style = report(evaluation()).split("<style>")[1].split("</style>")[0]
    blocks = [dict(re.findall(r"--([\w-]+): (#\w{6})", block)) for block in re.findall(r":root \{([^}]*)\}", style)[:2]]
    assert len(blocks) == 2
    for colours in blocks:
        for ink in ("ink", "soft", "link"):
            for ground in ("ground", "card"):
                assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
        assert contrast(colours["warn-ink"], colours["warn-ground"]) >= 4.5


def test_series_stand_out_from_the_page_in_light_and_dark() -> None:
    html = report(evaluation())
    grounds = re.findall(r"--card: (#\w{6})", html)[:2]
    light, dark = re.findall(r"<svg.*?<style>(.*?)</style>", html)[0].split("@media")
    for ground, rules in zip(grounds, (light, dark), strict=True):
        series = re.findall(r"--series-\d,(#\w{6})", rules)
        assert len(series) == 7
        assert min(contrast(colour, ground) for colour in series) >= 3


def contrast(a: str, b: str) -> float:
    """WCAG 2.2's contrast ratio."""
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_controls_over_fewer_tokens_say_so() -> None:
    made = evaluation()
    assert "The controls are over" not in report(made)
    fewer = {
        control: {group: {name: m._replace(n=777) for name, m in row.items()} for group, row in metrics.items()}
        for control, metrics in made.controls.items()
    }
    assert "The controls are over 777 tokens." in report(dataclasses.replace(made, controls=fewer))
