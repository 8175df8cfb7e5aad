"""Choosing a strength, texts side by side, and the effects that can be said beforehand."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import kanary
from feature_runs import build, make_run, stories
from kanary.errors import KanaryError
from kanary.interventions.ablation import ablation_study, as_frequent
from kanary.interventions.baselines import compare
from kanary.interventions.edits import Vector, ablate, add, scale
from kanary.interventions.effects import logit_effects, loss_effects, mean_difference
from kanary.interventions.generation import Request
from kanary.interventions.presence import ByFeature, ByJudge, by_concept
from kanary.interventions.requested import requested_edits
from kanary.interventions.samples import Sample, repetition, requests, reread, write
from kanary.interventions.side_by_side import named, side_by_side
from kanary.interventions.steerable import Steerable
from kanary.interventions.strength import scaled, sweep
from kanary.lm import LanguageModel
from runs import kanary as command
from steered import PROMPT, SITE, panel_for, sae_for, tokens_of

LAST = "resid_post.2"
PROMPTS = ["Once upon a time", "Tom said"]


@pytest.fixture(scope="module")
def panel(tiny_lm: LanguageModel) -> Steerable:
    return panel_for(tiny_lm, one=sae_for(tiny_lm, "jumprelu").float())


def towards(lm: LanguageModel, word: str) -> Vector:
    """What raises the logit of a token: its row of the unembedding."""
    (token,) = lm.tokenizer(word, add_special_tokens=False)["input_ids"]
    row = lm.model.get_output_embeddings().weight[token].detach()
    return Vector(LAST, row / row.norm() * 4, word)


def says(word: str) -> ByJudge:
    return ByJudge(lambda text: min(1.0, text.count(word) / 4), f"how often it says {word}")


def test_repetition_is_the_share_of_runs_that_were_there_before() -> None:
    assert repetition([1, 2, 3]) == repetition([]) == repetition(range(50)) == 0
    assert repetition([7] * 13) == pytest.approx(9 / 10)
    assert repetition([1, 2, 3, 4, 1, 2, 3, 4]) == pytest.approx(1 / 5)


def test_texts_read_back_have_the_losses_and_activations_of_each_alone(
    tiny_lm: LanguageModel, panel: Steerable
) -> None:
    texts = write(panel, requests(tiny_lm, [*PROMPTS, PROMPT], [0, 1], tokens=7))
    assert [(text.prompt, text.seed) for text in texts[:3]] == [(PROMPTS[0], 0), (PROMPTS[0], 1), (PROMPTS[1], 0)]
    for text, read in zip(texts, reread(tiny_lm, texts, [SITE]), strict=True):
        whole = torch.tensor([text.ids + text.written])
        start = len(text.ids)
        logits = tiny_lm.logits(whole)[0, start - 1 : -1]
        torch.testing.assert_close(read.losses, F.cross_entropy(logits, whole[0, start:], reduction="none"))
        torch.testing.assert_close(read.x[SITE], tiny_lm.capture(whole, [SITE])[SITE][0, start:])
        assert read.loss == pytest.approx(float(read.losses.mean()), rel=1e-6)
        codes = panel.saes["one"].encode(read.x[SITE], read.special).to_dense()
        share = float((codes[:, 3] > 0).sum() / (~read.special).sum())
        assert ByFeature(panel, 3, "one")(text, read) == pytest.approx(share)


def test_a_sweep_finds_the_strength_at_which_a_word_comes_and_the_text_stays(
    tiny_lm: LanguageModel, panel: Steerable
) -> None:
    word = towards(tiny_lm, "e")
    found = sweep(panel, add(word, 1.0), PROMPTS, presence=says("e"), seeds=(0, 1, 2, 3), tokens=12, temperature=0.05)
    strengths = [point.strength for point in found.points]
    assert strengths == sorted(set(strengths))
    assert {0.0, 0.25, 4.0} < set(strengths)
    zero, most = found.points[0], found.points[-1]
    assert zero.fluency.value == 1
    assert zero.score.value == 0
    assert most.presence.value > 0.9
    assert most.repetition.value > zero.repetition.value + 0.2
    assert found.best is not None
    assert found.best > 0
    assert found.between is not None
    assert found.between[0] <= found.best <= found.between[1]
    best = next(point for point in found.points if point.strength == found.best)
    assert best.presence.value > zero.presence.value + 0.2
    gains = {p.strength: p.presence.value - zero.presence.value for p in found.points}
    for p in found.points:  # the definitions, from the means
        quiet = math.exp(-max(0, p.loss.value - zero.loss.value)) * (
            1 - max(0, p.repetition.value - zero.repetition.value)
        )
        assert p.fluency.value == pytest.approx(quiet, rel=1e-6)
        share = max(0, gains[p.strength] / max(gains.values()))
        assert p.score.value == pytest.approx(2 * share * quiet / (share + quiet) if share + quiet else 0, abs=1e-6)
        assert p.score.value <= best.score.value
        assert p.presence.low <= p.presence.value <= p.presence.high
    assert f"use {found.best:+g} maxima" in found.says()
    assert found.svg().startswith("<svg")
    assert json.loads(json.dumps(found.to_json()))["best"] == found.best
    told: list[tuple[int, int]] = []
    options = {"seeds": (0, 1, 2, 3), "tokens": 12, "temperature": 0.05, "tell": lambda *step: told.append(step)}
    again = sweep(panel, add(word, 1.0), PROMPTS, presence=says("e"), **options)  # type: ignore[arg-type]
    assert again.to_json() == found.to_json()
    texts = 8 * len(strengths)
    assert told[0] == (0, 64)  # six strengths, and two that are likely to follow
    assert told[-1] == (texts, max(64, texts))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert all(done < of for done, of in told if done < texts), "never as good as done before it is"


def test_what_a_sweep_is_told_by_its_listener_ends_it(panel: Steerable) -> None:
    def tell(done: int, of: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(panel, {3: 1.0}, PROMPTS, seeds=[0], tokens=2, tell=tell)


def test_of_few_texts_there_is_no_interval_and_they_are_said_to_be_few(
    tiny_lm: LanguageModel, panel: Steerable
) -> None:
    word, options = towards(tiny_lm, "e"), {"strengths": [4.0], "tokens": 12, "temperature": 0.05}
    for prompts, seeds, texts in (([PROMPTS[0]], (0,), "1 text"), (PROMPTS, (0, 1), "4 texts")):
        few = sweep(panel, add(word, 1.0), prompts, presence=says("e"), seeds=seeds, **options)  # type: ignore[arg-type]
        assert few.best == 4
        assert few.between is None
        assert f"+4 maxima scores best, but {texts} cannot tell it from chance" in few.says()
        assert "resamples" not in few.says()
        assert all(math.isnan(point.presence.low) and math.isnan(point.presence.high) for point in few.points)
        plain = json.loads(json.dumps(few.to_json(), allow_nan=False))
        assert plain["between"] is plain["points"][1]["presence"]["low"] is None
        assert few.svg().startswith("<svg")
        assert "nan" not in few.svg()
    enough = sweep(panel, add(word, 1.0), [PROMPTS[0]], presence=says("e"), **options)  # type: ignore[arg-type]
    assert enough.points[0].presence.n == 5
    assert enough.between is not None


def test_where_nothing_comes_of_it_nothing_is_recommended(panel: Steerable) -> None:
    options = {"strengths": [1.0], "seeds": [0, 1, 2], "tokens": 5}
    found = sweep(panel, {3: 1.0}, PROMPTS, presence=ByJudge(lambda text: 0.5), **options)  # type: ignore[arg-type]
    assert found.best is None
    assert "nothing is recommended" in found.says()


def test_a_strength_at_which_the_model_falls_silent_is_not_the_best(
    panel: Steerable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes the concept away like nothing else, and there is no loss to tell how fluent it is."""

    def silenced(panel: Steerable, asked: list[Request], **more: Any) -> list[Sample]:
        texts = write(panel, asked, **more)
        loud = [not each.edits or abs(each.edits[0].amount) < 4 for each in asked]
        return [text if keep else text._replace(written=(), text="") for text, keep in zip(texts, loud, strict=True)]

    monkeypatch.setattr("kanary.interventions.strength.write", silenced)
    judge = ByJudge(lambda text: min(1.0, len(text) / 200))
    found = sweep(
        panel, add(3, 1), PROMPTS, presence=judge, strengths=[-1.0, -4.0], seeds=range(5), tokens=6, quiet=True
    )
    silent = found.points[0]
    assert (silent.strength, silent.presence.value, silent.fluency.value, silent.score.value) == (-4, 0, 0, 0)
    assert math.isnan(silent.loss.value)
    assert found.best != -4
    assert all(math.isfinite(number) for point in found.points for number in (point.fluency.low, point.score.high))
    json.dumps(found.to_json(), allow_nan=False)


def test_sweeps_that_mean_nothing_are_refused(tiny_lm: LanguageModel, panel: Steerable) -> None:
    with pytest.raises(KanaryError, match="No prompt"):
        sweep(panel, {3: 1.0}, [])
    with pytest.raises(KanaryError, match="both sides of 0"):
        sweep(panel, {3: 1.0}, PROMPTS, strengths=[-1, 1])
    with pytest.raises(KanaryError, match="added or set"):
        sweep(panel, ablate(3), PROMPTS)
    with pytest.raises(KanaryError, match="presence="):
        sweep(panel, add(towards(tiny_lm, "e"), 1.0), PROMPTS)
    with pytest.raises(KanaryError, match="from 0 to 1"):
        sweep(panel, {3: 1.0}, PROMPTS, presence=ByJudge(lambda text: 2.0), strengths=[1], seeds=[0], tokens=2)
    with pytest.raises(KanaryError, match="is empty"):
        sweep(panel, {3: 1.0}, [""])


def test_several_features_keep_their_proportions_in_a_sweep() -> None:
    moved = scaled((add(1, 2.0), add(2, -0.5), scale(3, 0.0)), 6.0)
    assert [edit.amount for edit in moved] == [6.0, -1.5, 0.0]


def test_side_by_side_0_times_is_the_text_itself_and_30_times_is_not(panel: Steerable, tmp_path: Path) -> None:
    columns = {"0×": {3: 0.0}, "30×": {3: 30.0}, "several": {1: 3.0, 2: -3.0, 4: 5.0}}
    table = side_by_side(panel, ["I am a", *PROMPTS], columns, seeds=[0, 5], tokens=8)
    assert table.columns == ("unsteered", "0×", "30×", "several")
    assert [(row[0].prompt, row[0].seed) for row in table.rows] == [
        (prompt, seed) for prompt in ["I am a", *PROMPTS] for seed in (0, 5)
    ]
    assert all(row[0].text == row[1].text for row in table.rows)
    assert any(row[0].text != row[2].text for row in table.rows)
    lines = list(csv.reader(io.StringIO(table.to_csv())))
    assert lines[0] == ["prompt", "seed", "steering", "text"]
    assert [line[3].removeprefix("'") for line in lines[1:]] == [each.text for row in table.rows for each in row]
    assert table.to_markdown().count("\n") == 2 + 6
    for ending in ("html", "md", "csv", "json"):
        table.write(tmp_path / f"table.{ending}")
        assert (tmp_path / f"table.{ending}").stat().st_size
    with pytest.raises(KanaryError, match=r"must end in one of \.csv"):
        table.write(tmp_path / "table.txt")


def test_no_text_of_a_model_becomes_markup_or_a_formula() -> None:
    from kanary.interventions.side_by_side import Table

    text = '=1+1|<script>alert("x")</script>\n| --- |'
    table = Table(("unsteered",), ((Sample("<b>", 0, (), (), text),),))
    assert "<script>" not in table.to_html() + table.to_markdown()
    assert table.to_markdown().count("\n") == 3
    assert list(csv.reader(io.StringIO(table.to_csv())))[1][3] == "'" + text


def test_edits_have_short_names() -> None:
    assert named([add(12, 4), add(7, -1, unit="raw"), ablate(3)]) == "12 ×4, 7 raw -1, 3 ablate"


# --- effects ------------------------------------------------------------------------------------------------------------


def test_after_the_last_block_the_predicted_logit_effect_is_the_measured_one(tiny_lm: LanguageModel) -> None:
    """A small push there reaches the logits through the final norm alone."""
    panel = panel_for(tiny_lm, one=sae_for(tiny_lm, "relu", LAST).float())
    found = logit_effects(panel, add(3, 0.05), [PROMPT, *PROMPTS])
    assert found.correlation > 0.95
    assert found.agreement == 1
    assert found.positions == sum(tokens_of(tiny_lm, text)[0].shape[1] - 1 for text in (PROMPT, *PROMPTS))
    raised, lowered = found.top[:10], found.top[10:]
    assert all(each.predicted > 0 for each in raised)
    assert all(each.predicted < 0 for each in lowered)
    for each in found.top:
        assert each.measured == pytest.approx(each.predicted, rel=0.35, abs=0.02 * raised[0].predicted)


def test_effects_without_a_direct_path_are_refused(panel: Steerable, tiny_lm: LanguageModel) -> None:
    with pytest.raises(KanaryError, match="change nothing"):
        logit_effects(panel, {3: 0.0}, PROMPTS)
    with pytest.raises(KanaryError, match=r"one site, but the edits are at resid_post\.1, resid_post\.2"):
        logit_effects(panel, [add(3, 1.0), add(towards(tiny_lm, "e"), 1.0)], PROMPTS)


def test_the_loss_of_every_token_changes_by_what_the_steered_model_loses_more(
    panel: Steerable, tiny_lm: LanguageModel
) -> None:
    found = loss_effects(panel, {3: 5.0}, PROMPT)
    ids = tokens_of(tiny_lm, PROMPT)[0]
    losses = []
    for edits in ({3: 0.0}, {3: 5.0}):
        with kanary.interventions.steer.Steering(panel, edits):  # type: ignore[attr-defined]
            losses.append(F.cross_entropy(tiny_lm.logits(ids)[0, :-1], ids[0, 1:], reduction="none"))
    assert [each.id for each in found] == ids[0].tolist()
    assert found[0].loss is found[1].loss is found[1].change is None  # nothing is said after BOS
    for at in range(2, len(found)):
        assert found[at].loss == pytest.approx(float(losses[0][at - 1]), abs=1e-5)
        assert found[at].change == pytest.approx(float((losses[1] - losses[0])[at - 1]), abs=1e-5)


def test_a_difference_of_means_is_that(tiny_lm: LanguageModel) -> None:
    means = []
    for texts in (PROMPTS, [PROMPT]):
        x = [tiny_lm.capture(tokens_of(tiny_lm, text)[0], [SITE])[SITE][0, 1:] for text in texts]
        means.append(torch.cat(x).mean(0))
    found = mean_difference(tiny_lm, SITE, PROMPTS, [PROMPT])
    torch.testing.assert_close(found.values, means[0] - means[1], rtol=1e-5, atol=1e-6)
    assert float(mean_difference(tiny_lm, SITE, PROMPTS, [PROMPT], length=2.5).values.norm()) == pytest.approx(2.5)
    with pytest.raises(KanaryError, match="no negative prompt"):
        mean_difference(tiny_lm, SITE, PROMPTS, [])
    with pytest.raises(KanaryError, match="same mean"):
        mean_difference(tiny_lm, SITE, [PROMPT], [PROMPT])


def test_an_ablation_study_adds_up_what_removing_does_to_every_token(panel: Steerable, tiny_lm: LanguageModel) -> None:
    words = PROMPT.split()
    prompts = [" ".join(words[i % 5 : i % 5 + 2 + i % 4]) for i in range(100)]
    feature, control = ablation_study(panel, [3], prompts, quiet=True)
    assert (feature.role, control.role) == ("feature", "random")
    assert control.feature != 3
    added, fired, count = 0.0, 0, 0
    at = 0.0
    sae = panel.saes["one"]
    changed = {prompt: [each.change for each in loss_effects(panel, ablate(3), prompt)] for prompt in set(prompts)}
    for prompt in prompts:
        ids = tokens_of(tiny_lm, prompt)[0]
        code = sae.encode(tiny_lm.capture(ids, [SITE])[SITE], ids == tiny_lm.bos_id).latent(3)[0]
        changes = changed[prompt]
        for position in range(1, ids.shape[1] - 1):
            change = changes[position + 1]
            assert change is not None
            added, count = added + change, count + 1
            if code[position] > 0:
                fired, at = fired + 1, at + change
    assert feature.change.n == count
    assert feature.change.value == pytest.approx(added / count, abs=1e-6)
    assert feature.fires.value == pytest.approx(fired / count)
    assert feature.at.value == pytest.approx(at / fired, abs=1e-6)
    assert feature.change.low <= feature.change.value <= feature.change.high
    with pytest.raises(KanaryError, match="99 prompts are too few"):
        ablation_study(panel, [3], prompts[:99])


def test_a_feature_is_compared_with_pushes_of_the_same_length(panel: Steerable) -> None:
    judge = ByJudge(lambda text: min(1.0, len(text) / 100))
    found = compare(
        panel, 3, PROMPTS, presence=judge, positive=PROMPTS, negative=[PROMPT],
        strengths=[1.0], seeds=[0], tokens=4, quiet=True,
    )  # fmt: skip
    assert len(found.says()) == len(found.sweeps) == 4
    zeros = {each.texts[0][0].text for each in found.sweeps.values()}
    assert len(zeros) == 1
    with pytest.raises(KanaryError, match="both positive and negative"):
        compare(panel, 3, PROMPTS, positive=PROMPTS)


def test_controls_are_other_features_and_ones_that_fire(tiny_lm: LanguageModel, panel: Steerable) -> None:
    known = panel.ranges()
    counts = torch.zeros_like(known.counts)
    counts[[1, 3, 7], 0] = torch.tensor([4, 5, 900])
    ranges = dataclasses.replace(known, tokens=1000, counts=counts)
    few = Steerable(tiny_lm, panel.saes, ranges={"one": ranges})
    draw = torch.Generator().manual_seed(0)
    assert {(*sorted(as_frequent(few, "one", 3, 5, draw)),) for _ in range(9)} == {(1, 7)}
    assert as_frequent(few, "one", 3, 0, draw) == []
    assert {*as_frequent(few, "one", 0, 1, draw)} <= {1, 3, 7}  # of a feature that never fires itself
    counts[[1, 7]] = 0
    with pytest.raises(KanaryError, match="No feature of SAE one but 3 ever fires"):
        compare(few, 3, PROMPTS, strengths=[1.0], quiet=True)


def test_a_comparison_tells_what_raises_presence_from_what_does_not(panel: Steerable) -> None:
    found = compare(
        panel, 3, PROMPTS, presence=says("e"), strengths=[1.0, 4.0], seeds=[0, 1], tokens=8, quiet=True,
    )  # fmt: skip
    for line, swept in zip(found.says(), found.sweeps.values(), strict=True):
        zero = swept.points[0].presence.value
        rises = any(point.presence.value > zero and point.fluency.value > 0 for point in swept.points)
        assert ("does not rise" not in line) == rises
        assert "strength 0 (n" not in line


def test_a_concepts_presence_is_told_by_a_probe_of_the_labelled_corpus(tiny_lm: LanguageModel) -> None:
    probe = by_concept(tiny_lm, "domain.arabic", SITE, tokens=3000, quiet=True)
    assert probe.auroc > 0.65  # the letters alone tell, of a random model
    (arabic, english) = (
        Sample("", 0, (0,), tuple(tiny_lm.tokenizer(text, add_special_tokens=False)["input_ids"]), text)
        for text in ("مرحبا بكم في المدينة", PROMPT)
    )
    high, low = (probe(text, reread(tiny_lm, [text], [SITE])[0]) for text in (arabic, english))
    assert 0 <= low < high <= 1


# --- the command --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("steer")
    made = make_run(folder / "run", tiny_llama, stories(folder))
    build(made)
    return made


def test_the_command_writes_side_by_side_and_leaves_the_table(run: Path, tmp_path: Path) -> None:
    words = ["steer", run, "--prompt", "I am a", "--prompt", "Tom", "--feature", 3, "--feature", "topk:5"]
    found = command(
        *words, "--strength", 0, "--strength", 30, "--seeds", "0,1", "--tokens", 5, "--out", tmp_path / "t.csv"
    )
    assert found.code == 0, found.err
    assert found.out.count("unsteered:") == found.out.count("3 ×0, topk:5 ×30:") == 4
    assert len(list(csv.reader((tmp_path / "t.csv").open()))) == 1 + 2 * 2 * 2


def test_the_command_sweeps(run: Path, tmp_path: Path) -> None:
    words = ["steer", run, "--prompt", "Tom", "--feature", 3, "--sweep", "--seeds", "0,1", "--tokens", 4]
    found = command(*words, "--out", tmp_path / "sweep")
    assert found.code == 0, found.err
    assert "strength  presence" in found.out
    assert "recommended" not in found.out.replace("nothing is recommended", "")
    assert {path.name for path in (tmp_path / "sweep").iterdir()} == {"sweep.json", "sweep.svg", "texts.html"}
    strengths = [f"{p['strength']:g}" for p in json.loads((tmp_path / "sweep" / "sweep.json").read_text())["points"]]
    page = (tmp_path / "sweep" / "texts.html").read_text()
    assert all(f">3 ×{strength}<" in page for strength in strengths if strength != "0")
    found = command(*words, "--out", tmp_path / "beside", "--controls")
    assert found.code == 0, found.err
    assert "random feature" in found.out
    assert "random direction" in found.out
    assert "nan" not in found.out
    assert len(json.loads((tmp_path / "beside" / "controls.json").read_text())) == 3


def test_the_command_holds_a_feature_from_one_side() -> None:
    for kind, low, high, said in (("at_least", 1.5, None, "3 ≥ ×1.5"), ("at_most", None, 1.5, "3 ≤ ×1.5")):
        (edit,) = found = requested_edits(["3"], [1.5], kind, "maximum")
        assert (edit.kind, edit.low, edit.high) == ("clamp", low, high)
        assert named(found) == said


def test_without_a_strength_two_maxima_are_added_and_the_whole_is_projected_out() -> None:
    def amounts(kind: str, *strengths: float) -> list[float]:
        return [edit.amount for edit in requested_edits(["3", "one:4"], strengths, kind, "maximum")]

    assert amounts("add") == amounts("scale") == [2, 2]
    assert amounts("project_out") == [1, 1]
    assert amounts("project_out", 2.0) == [2, 2]  # what is asked for is done
    assert amounts("add", 1.5, -1) == [1.5, -1]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--feature", "48"], "Feature 48 is not there: SAE topk has features 0 to 47"),
        (["--feature", "x"], "--feature x: give its number"),
        (["--feature", "other:3"], "no SAE 'other'"),
        (["--feature", "3", "--strength", "nan"], "must be a finite number"),
        (["--feature", "3", "--strength", "1", "--strength", "2"], "2 times for 1 features"),
        (["--feature", "3", "--unit", "max"], "Unknown unit 'max'"),
        (["--feature", "3", "--kind", "ad"], "Did you mean 'add'"),
        (["--feature", "3", "--seeds", "a"], "--seeds='a'"),
        (["--feature", "3", "--concept", "x"], "add --sweep"),
        (["--feature", "3", "--controls"], "add --sweep"),
        (["--feature", "3", "--feature", "4", "--sweep", "--controls"], "give one --feature"),
        (["--feature", "3", "--tokens", "0"], "tokens=0 must be at least 1"),
        (["--feature", "47"], "Feature 47 never fired"),
    ],
)
def test_the_command_says_in_one_line_what_is_wrong(run: Path, words: list[str], says: str) -> None:
    assert says in command("steer", run, "--prompt", "Tom", *words).message
