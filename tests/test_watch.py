"""A watch keeps its promise about false alarms, does what it says on an alarm, and remembers what it saw."""

from __future__ import annotations

import contextlib
import io
import json
import math
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from feature_runs import make_run, stories
from kanary.errors import KanaryError
from kanary.interventions import alarms as alarms_module
from kanary.interventions.alarms import Alarm, Vigil, Webhooks
from kanary.interventions.edits import Condition, add
from kanary.interventions.generation import Batch, Request
from kanary.interventions.making import Examples, make_watch, values
from kanary.interventions.steerable import Steerable
from kanary.interventions.terminal import described, replay, sparkline
from kanary.interventions.threshold import Scored, allowed, at_most, choose, enough, measure, wilson
from kanary.interventions.traces import read_trace, recording, trace_names
from kanary.interventions.watch import Watch, open_watch, save, watch_names
from kanary.interventions.writing import Piece, watched, write
from kanary.lm import LanguageModel
from kanary.sae import SAE
from runs import kanary

THINGS = ["park", "ball", "cake", "dog", "friend", "home", "girl", "mom", "time", "name"]
POSITIVE = [f"Tom gave {a} red ball to the {b}." for a in ("a", "the", "his") for b in THINGS[:5]]
NEGATIVE = [f"Lily was {a} in the {b} and happy." for a in ("big", "little", "small") for b in THINGS[5:]]


@pytest.fixture(scope="module")
def run(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("watched") / "run"
    folder.mkdir()
    return make_run(folder, tiny_llama, stories(folder))


@pytest.fixture(scope="module")
def panel(run: Path, tiny_lm: LanguageModel) -> Steerable:
    return Steerable(tiny_lm, {"topk": SAE.from_pretrained(run)})


@pytest.fixture(scope="module")
def watch(panel: Steerable) -> Watch:
    """On a feature that fires in positive texts, and in the text of :func:`asked`."""
    sae = panel.saes["topk"]
    ids = [piece.id for piece in write(Batch(panel), asked(panel, [])) if piece.id >= 0]
    tokens = torch.tensor([[*asked(panel, []).prompt, *ids]])
    fired = sae.encode(panel.lm.capture(tokens, ["resid_post.1"])["resid_post.1"][0, -40:]).to_dense().amax(0)
    draft = Watch("draft", "topk", sae.digest(), ((0, 1.0),), 0.5, 0.2)
    gaps = {
        latent: sum(
            sign * float(v.max())
            for sign, side in ((1, POSITIVE), (-1, NEGATIVE))
            for v in side_values(panel, draft, latent, side)
        )
        for latent in fired.nonzero().flatten().tolist()
    }
    best = max(gaps, key=lambda latent: gaps[latent])
    return make_watch(panel, "topk", "ball", {best: 1.0}, Examples(POSITIVE, NEGATIVE), false_alarms=0.2)


def side_values(panel: Steerable, draft: Watch, latent: int, texts: list[str]) -> list[torch.Tensor]:
    return values(panel.lm, panel.saes["topk"], replace(draft, weights=((latent, 1.0),)), texts[:5])


# --- the threshold --------------------------------------------------------------------------------------------------

SCORES = st.lists(st.floats(-3, 3).map(lambda x: round(x, 1)), min_size=1, max_size=12)


@settings(max_examples=100, deadline=None)
@given(positive=SCORES, negative=SCORES, rate=st.sampled_from([0.0, 0.01, 0.1, 0.25, 0.5, 0.9]))
def test_no_more_false_alarms_than_stated_and_no_threshold_that_keeps_to_it_detects_more(
    positive: list[float], negative: list[float], rate: float
) -> None:
    scored = Scored(*([torch.tensor([x - 1, x], dtype=torch.float64) for x in side] for side in (positive, negative)))
    threshold, sure = choose(scored, rate)
    false, loud = sum(x >= threshold for x in negative), allowed(len(negative), rate)
    assert false <= loud <= rate * len(negative)
    assert sure <= rate or loud == 0
    for other in {*positive, *negative}:
        if sum(x >= other for x in negative) <= loud:
            assert sum(x >= other for x in positive) <= sum(x >= threshold for x in positive)
    found = measure(scored, threshold)
    assert found.false_alarms.value == false / len(negative)
    assert found.detection.value == sum(x >= threshold for x in positive) / len(positive)
    pairs = [(p > n) + (p == n) / 2 for p in positive for n in negative]
    assert found.auroc.value == pytest.approx(sum(pairs) / len(pairs))
    assert found.auroc.low <= found.auroc.high


QUANTILES = {  # scores of negative texts: the value below which a share of them lies, and the share above a value
    "exponential": (lambda u: -math.log1p(-u), lambda x: math.exp(-x)),
    "with a heavy tail": (lambda u: (1 - u) ** -2.0, lambda x: max(x, 1.0) ** -0.5),
    "mostly silent": (lambda u: max(0.0, u - 0.8), lambda x: 1.0 if x <= 0 else max(0.0, 0.2 - x)),
    "of whole numbers": (lambda u: float(int(40 * u)), lambda x: 1 - min(40, max(0, math.ceil(x))) / 40),
}


@pytest.mark.parametrize("kind", QUANTILES)
@pytest.mark.parametrize(("n", "rate"), [(30, 0.1), (80, 0.3), (30, 0.01)])
def test_the_true_rate_of_false_alarms_lies_above_the_promised_one_once_in_twenty_times_at_most(
    kind: str, n: int, rate: float
) -> None:
    quantile, above = QUANTILES[kind]
    draw, times, exceeded, promises = random.Random(f"{kind} {n} {rate}"), 500, 0, set()
    for _ in range(times):
        negative = list(torch.tensor([quantile(draw.random()) for _ in range(n)], dtype=torch.float64).split(1))
        threshold, sure = choose(Scored([torch.tensor([1e9], dtype=torch.float64)], negative), rate)
        exceeded += above(threshold) > sure
        promises.add(sure)
    assert exceeded <= 0.05 * times + 3 * math.sqrt(0.05 * 0.95 * times)
    (promised,) = promises  # by the number of texts alone
    assert promised <= rate if n >= (enough(rate) or math.inf) else promised > rate


def test_the_texts_that_a_feature_was_sought_on_do_not_vouch_for_it_but_others_do() -> None:
    """256 features that mean nothing: the one that tells the choosing texts apart best is by chance quiet in them."""
    draw, n, times = torch.Generator().manual_seed(0), 30, 200
    broken = {"choosing": 0, "others": 0}
    for _ in range(times):
        positive, negative, other = torch.randn(3, n, 256, generator=draw, dtype=torch.float64)
        best = int((positive[:, None] > negative).double().mean((0, 1)).argmax())
        threshold, sure = choose(Scored(list(positive[:, [best]]), list(negative[:, [best]])), 0.1)
        true = 0.5 * math.erfc(threshold / math.sqrt(2))
        broken["choosing"] += true > sure
        broken["others"] += true > at_most(int((other[:, best] >= threshold).sum()), n)
    assert broken["choosing"] > 0.1 * times
    assert broken["others"] <= 0.05 * times + 3 * math.sqrt(0.05 * 0.95 * times)


def test_what_texts_can_vouch_for_is_what_the_tables_say() -> None:
    assert at_most(0, 30) == pytest.approx(0.0950, abs=1e-4)  # Clopper and Pearson's, one-sided
    assert at_most(2, 100) == pytest.approx(0.0616, abs=1e-4)
    assert at_most(7, 7) == 1
    assert [enough(rate) for rate in (0.1, 0.05, 0.01, 0.0)] == [29, 59, 299, None]
    assert [allowed(n, 0.1) for n in (28, 29, 46, 61, 1000)] == [0, 0, 1, 2, 84]


@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 500), share=st.floats(0, 1))
def test_the_ends_of_the_interval_are_the_rates_that_are_just_not_refuted(n: int, share: float) -> None:
    hits = round(share * n)
    found = wilson(hits, n)
    assert 0 <= found.low <= found.value <= found.high <= 1
    for end in (found.low, found.high):
        if 0 < end < 1:
            assert abs(found.value - end) / math.sqrt(end * (1 - end) / n) == pytest.approx(1.96, abs=1e-3)


def test_values_are_those_of_each_text_read_alone(panel: Steerable, watch: Watch) -> None:
    texts = [POSITIVE[0], NEGATIVE[0], "Tom", "Once upon a time, there was a little girl named Lily."]
    (latent, _), sae = watch.weights[0], panel.saes["topk"]
    two = replace(watch, weights=((latent, 2.0), (5, -1.0)))
    for text, found in zip(texts, values(panel.lm, sae, two, texts), strict=True):
        ids = torch.tensor([panel.lm.tokenizer(text, add_special_tokens=False)["input_ids"]])
        x = panel.lm.capture(torch.cat([torch.zeros(1, 1, dtype=torch.int64), ids], 1), ["resid_post.1"])[
            "resid_post.1"
        ]
        dense = sae.encode(x[0, 1:]).to_dense().double()
        assert torch.allclose(found, 2 * dense[:, latent] - dense[:, 5], atol=1e-4)


def test_a_watch_is_measured_on_texts_that_it_was_not_chosen_on(watch: Watch) -> None:
    assert watch.chosen is not None
    assert watch.measured is not None
    assert (watch.chosen.positives, watch.measured.positives) == (8, 7)
    assert (watch.chosen.negatives, watch.measured.negatives) == (8, 7)
    assert watch.chosen.false_alarms.value <= 0.2
    assert watch.chosen.detection.value > 0
    assert watch.latency_ms is not None
    assert watch.latency_ms > 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"examples": Examples(POSITIVE, [])}, "4 negative texts, got none"),
        ({"examples": Examples(POSITIVE[:3], NEGATIVE)}, "4 positive texts, got 3"),
        ({"examples": Examples(POSITIVE, [*NEGATIVE, NEGATIVE[0]])}, "is there twice"),
        ({"examples": Examples(POSITIVE, [*NEGATIVE, POSITIVE[0]])}, "a positive and a negative text"),
        ({"weights": {48: 1.0}}, "Feature 48"),
        ({"weights": {3: 0.0}}, "not 0"),
        ({"weights": {3: math.nan}}, "finite"),
        ({"false_alarms": 1.0}, "false_alarms=1.0"),
        ({"false_alarms": math.nan}, "false_alarms=nan"),
        ({"name": "../x"}, "cannot name a watch"),
        ({"name": ""}, "cannot name a watch"),
        ({"on_alarm": "explode"}, "'explode'"),
        ({"on_alarm": "steer"}, "0 edits"),
        ({"steer": [add(3, 1.0, unit="raw")]}, "1 edits"),
        ({"on_alarm": "steer", "steer": [add(48, 1.0, unit="raw")]}, "Feature 48"),
        ({"webhook": "file:///etc/passwd"}, "is no address"),
    ],
)
def test_what_is_no_watch_is_refused(panel: Steerable, fields: dict[str, Any], message: str) -> None:
    given = {"name": "x", "weights": {3: 1.0}, "examples": Examples(POSITIVE, NEGATIVE)} | fields
    name, weights, examples = (given.pop(key) for key in ("name", "weights", "examples"))
    with pytest.raises(KanaryError, match=message):
        make_watch(panel, "topk", name, weights, examples, **given)


# --- its file -----------------------------------------------------------------------------------------------------


def test_a_watch_that_was_kept_is_opened_as_it_was(watch: Watch, tmp_path: Path) -> None:
    steering = replace(
        watch,
        name="a.b-c",
        on_alarm="steer",
        steer=(add(3, -2.0, sae="topk", when=Condition(5, above=0.5, sae="topk")),),
    )
    for each in (watch, steering):
        save(each, tmp_path)
        assert open_watch(tmp_path, each.name) == each
    assert watch_names(tmp_path) == ["a.b-c", "ball"]
    assert [edit.when.sae for edit in steering.edits("run/x") if edit.when] == ["run/x"]


def test_a_watch_that_is_not_there_or_damaged_or_of_another_sae_is_named(
    watch: Watch, panel: Steerable, tmp_path: Path
) -> None:
    with pytest.raises(KanaryError, match="It has none"):
        open_watch(tmp_path, "ball")
    path = save(watch, tmp_path)
    with pytest.raises(KanaryError, match="Did you mean 'ball'"):
        open_watch(tmp_path, "bell")
    whole = json.loads(path.read_text())
    for wrong in ({"threshold": "x"}, {"weights": [[1]]}, {"weights": [[-1, 1.0]]}, {"format": 9}, {"steer": [{}]}):
        path.write_text(json.dumps(whole | wrong))
        with pytest.raises(KanaryError):
            open_watch(tmp_path, "ball")
    del whole["digest"]
    path.write_text(json.dumps(whole))
    with pytest.raises(KanaryError, match=r"ball\.json is damaged: KeyError: 'digest'"):
        open_watch(tmp_path, "ball")
    with pytest.raises(KanaryError, match="other weights"):
        replace(watch, digest="0" * 16).refuse_other(panel.saes["topk"])


# --- while a text is written --------------------------------------------------------------------------------------


def asked(panel: Steerable, watches: list[Watch], **fields: Any) -> Request:
    ids = (0, *panel.lm.tokenizer("Tom gave a red", add_special_tokens=False)["input_ids"])
    return Request(ids, **({"tokens": 40, "seed": 3, "ends": False} | fields), watched=watched(watches))


def loud(panel: Steerable, watch: Watch) -> tuple[Watch, int, int]:
    """The watch with a threshold that the text of :func:`asked` reaches; at which written token first, and of how many."""
    pieces = [piece for piece in write(Batch(panel), asked(panel, [watch]), [watch]) if piece.written and piece.values]
    found = [piece.values["ball"] for piece in pieces]
    threshold = max(found)
    assert threshold > 0, "choose another seed: the feature never fires"
    return replace(watch, threshold=threshold), found.index(threshold), len(found)


def test_a_text_is_written_to_its_end_or_stopped_at_the_alarm_as_the_watch_says(panel: Steerable, watch: Watch) -> None:
    logs, first, count = loud(panel, watch)
    assert count == 40
    for action, length in (("log", 40), ("stop", first + 1)):
        acting = replace(logs, on_alarm=action)  # type: ignore[arg-type]
        pieces = list(write(Batch(panel), asked(panel, [acting]), [acting]))
        said = [piece for piece in pieces if piece.written and piece.values]
        assert len(said) == length
        raised = [alarm for piece in said for alarm in piece.alarms]
        assert raised[0].at == first
        assert raised[0].token == said[first].token
        assert not any(piece.alarms for piece in said[:first])


def test_steering_back_begins_after_the_alarm(panel: Steerable, watch: Watch) -> None:
    logs, first, _ = loud(panel, watch)
    steers = replace(logs, on_alarm="steer", steer=(add(logs.latents[0], -90.0, unit="raw", sae="topk"),))
    plain, steered = (
        [piece.id for piece in write(Batch(panel), asked(panel, [each]), [each]) if piece.written and piece.values]
        for each in (logs, steers)
    )
    assert plain[: first + 2] == steered[: first + 2], "the token after the alarm was drawn already"
    assert plain != steered


def test_an_alarm_is_raised_where_the_threshold_is_crossed_and_not_again_before_it_was_left(watch: Watch) -> None:
    vigil = Vigil([replace(watch, threshold=1.0)])
    raised = [i for i, value in enumerate([0, 1, 2, 0.5, 1, 1, 0]) if vigil.read(i, "x", {"ball": value})]
    assert raised == [1, 4]


class Hook(BaseHTTPRequestHandler):
    told: list[dict[str, Any]] = []  # noqa: RUF012

    def do_POST(self) -> None:
        self.told.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self.send_response(302 if self.path == "/moved" else 200)
        self.send_header("location", "/elsewhere")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Silence."""


@contextmanager
def listening() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def test_a_webhook_is_told_and_one_that_is_dead_stops_nothing(panel: Steerable, watch: Watch) -> None:
    logs, first, _ = loud(panel, watch)
    with listening() as address:
        for hook, problems in ((address, 0), (f"{address}/moved", 1), ("http://127.0.0.1:1/dead", 1)):
            Hook.told.clear()
            webhooks = Webhooks()
            told = replace(logs, webhook=hook)
            pieces = list(write(Batch(panel), asked(panel, [told]), [told], send=webhooks.send))
            webhooks.close()
            assert sum(piece.written and bool(piece.values) for piece in pieces) == 40
            assert (len(webhooks.problems) > 0) == (problems > 0)
            if not problems:
                assert Hook.told[0]["at"] == first
                assert Hook.told[0]["watch"] == "ball"


def test_alarms_beyond_the_queue_are_dropped_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alarms_module, "SECONDS", 0.05)
    monkeypatch.setattr(Webhooks, "_work", lambda self: threading.Event().wait(0.2))
    webhooks = Webhooks()
    for _ in range(alarms_module.WAITING + 3):
        webhooks.send("http://127.0.0.1:1", {})
    assert len(webhooks.problems) == 3
    assert "dropped" in webhooks.problems[0]


# --- traces ---------------------------------------------------------------------------------------------------------


def recorded(panel: Steerable, watch: Watch, run: Path) -> tuple[str, list[Piece]]:
    with recording(run, [watch], {"prompt": "Tom gave a red", "model": "tiny"}) as recorder:
        return recorder.name, list(write(Batch(panel), asked(panel, [watch]), [watch], record=recorder))


def test_a_trace_holds_every_value_and_can_be_shown_again(panel: Steerable, watch: Watch, tmp_path: Path) -> None:
    logs, first, _ = loud(panel, watch)
    name, pieces = recorded(panel, logs, tmp_path)
    trace = read_trace(tmp_path, name)
    told = [piece for piece in pieces if piece.values]
    assert [token["values"] for token in trace.tokens] == [dict(piece.values) for piece in told]
    assert [token["token"] for token in trace.tokens] == [piece.token for piece in told]
    assert trace.alarms == tuple(alarm for piece in pieces for alarm in piece.alarms)
    assert trace.ended == "length"
    assert trace.about["watches"]["ball"]["threshold"] == logs.threshold
    console = Console(file=io.StringIO(), width=200)
    shown = replay(trace, console)
    assert shown.alarms[0].at == first
    assert "threshold" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_trace_of_a_killed_process_is_read_as_far_as_it_goes_and_damage_is_named(
    panel: Steerable, watch: Watch, tmp_path: Path
) -> None:
    name, _ = recorded(panel, watch, tmp_path)
    path = tmp_path / "traces" / f"{name}.jsonl"
    whole = path.read_text()
    lines = whole.split("\n")
    path.write_text("\n".join(lines[:10]) + "\n" + lines[10][:7])
    cut = read_trace(tmp_path, name)
    assert cut.ended is None
    assert len(cut.tokens) == 9
    draw = random.Random(0)
    for _ in range(40):
        place = draw.randrange(len(whole))
        path.write_text(whole[:place] + draw.choice('{}[]",:x0\n') + whole[place + 1 :])
        with contextlib.suppress(KanaryError):
            read_trace(tmp_path, name)
    path.write_text("{}")
    with pytest.raises(KanaryError, match=rf"{name}\.jsonl is damaged"):
        read_trace(tmp_path, name)
    with pytest.raises(KanaryError, match="has no trace"):
        read_trace(tmp_path, "../../etc/passwd")
    assert trace_names(tmp_path) == [name]


def test_a_sparkline_has_a_bar_per_value() -> None:
    assert sparkline([0, 1, 2, 4], 2.0) == " ▃▅█"
    assert sparkline([], 1.0) == ""
    assert len(sparkline([-1, 0, 5], -2.0)) == 3


def test_the_feature_is_chosen_by_all_of_the_choosing_half(panel: Steerable, monkeypatch: pytest.MonkeyPatch) -> None:
    from kanary.interventions import making, prompt_search

    chosen, _ = making._halves(Examples(POSITIVE, NEGATIVE), 0)
    read: list[tuple[int, int]] = []
    plain = prompt_search.plain_scores

    def scored(values: Any, positive: torch.Tensor) -> Any:
        read.append((int(positive.sum()), int((~positive).sum())))
        return plain(values, positive)

    monkeypatch.setattr(prompt_search, "plain_scores", scored)
    sae = panel.saes["topk"]
    best = making.best_feature(panel.lm, sae, chosen.positive, chosen.negative)
    assert read == [(len(chosen.positive), len(chosen.negative))]
    made = make_watch(panel, "topk", "found", None, Examples(POSITIVE, NEGATIVE), false_alarms=0.2, quiet=True)
    assert made.latents == (best,)
    assert made.measured is not None
    loud, n = made.measured.false_alarms.value * made.measured.negatives, made.measured.negatives
    assert made.at_most == at_most(round(loud), n)  # no text vouches for a feature that was sought on it
    named = make_watch(panel, "topk", "named", {best: 1.0}, Examples(POSITIVE, NEGATIVE), false_alarms=0.2, quiet=True)
    assert named.threshold == made.threshold
    assert named.at_most == at_most(allowed(len(chosen.negative), 0.2), len(chosen.negative)) != made.at_most
    with pytest.raises(KanaryError, match=r"3 texts of one kind are too few to choose a feature by.*--feature"):
        make_watch(panel, "topk", "found", None, Examples(POSITIVE[:6], NEGATIVE[:6]))


def test_a_watch_that_may_be_chance_says_so(watch: Watch) -> None:
    assert watch.measured is not None

    def said(low: float, high: float) -> str:
        auroc = watch.measured.auroc._replace(value=(low + high) / 2, low=low, high=high)  # type: ignore[union-attr]
        return "\n".join(described(replace(watch, measured=replace(watch.measured, auroc=auroc))))  # type: ignore[type-var]

    assert "may be chance: on texts that it was not chosen on, the interval of its AUROC (0.433 to 0.821)" in said(
        0.433, 0.821
    )
    assert "higher in the negative texts" in said(0.1, 0.4)
    assert "Warning" not in said(0.824, 0.995)


# --- the command --------------------------------------------------------------------------------------------------


def test_the_command_makes_lists_follows_measures_and_replays(run: Path, watch: Watch, tmp_path: Path) -> None:
    (tmp_path / "yes.txt").write_text("\n".join(POSITIVE) + "\n")
    (tmp_path / "no.txt").write_text("\n".join(NEGATIVE) + "\n")
    texts = ("--positive", tmp_path / "yes.txt", "--negative", tmp_path / "no.txt")
    latent = watch.latents[0]
    refused = kanary("watch", run, "--make", "ball", "--feature", latent, "--positive", tmp_path / "yes.txt")
    assert "4 negative texts, got none" in refused.message
    assert "12 or 12:0.5" in kanary("watch", run, "--make", "x", "--feature", "twelve", *texts).message
    made = kanary("watch", run, "--make", "ball", "--feature", f"{latent}:1", "--false-alarms", 0.2, *texts)
    assert made.code == 0, made.err
    (tmp_path / "yes.txt").write_text("\n".join([*POSITIVE, POSITIVE[2]]) + "\n")
    again = kanary("watch", run, "--make", "ball", "--feature", f"{latent}:1", "--false-alarms", 0.2, *texts)
    assert "yes.txt: 1 line that stands there again is left out." in again.err
    assert "AUROC" in made.out
    assert "replaces the watch 'ball'" not in made.out
    assert "It replaces the watch 'ball' that was there." in again.out
    assert replace(open_watch(run, "ball"), latency_ms=None) == replace(watch, latency_ms=None)
    assert "ball: feature" in kanary("watch", run).out
    written = kanary("watch", run, "--watch", "ball", "--prompt", "Tom gave", "--tokens", 12)
    assert written.code == 0, written.err
    assert written.out.startswith("Tom gave")
    name = trace_names(run)[0]
    assert name in written.err
    assert "Tom gave" in kanary("watch", run, "--replay", name).out
    assert "Warning" not in written.err
    assert "false alarms" in kanary("watch", run, "--watch", "ball", *texts).out
    wrong = ("--positive", tmp_path / "no.txt", "--negative", tmp_path / "yes.txt")
    assert "Warning: it is higher in the negative" in kanary("watch", run, "--watch", "ball", *wrong).out
    assert "Did you mean 'ball'" in kanary("watch", run, "--watch", "bal", "--prompt", "x").message


def test_a_doubtful_watch_is_doubted_again_wherever_it_is_followed(run: Path, watch: Watch) -> None:
    assert watch.measured is not None
    auroc = watch.measured.auroc._replace(low=0.4, high=0.9)
    save(replace(watch, name="perhaps", measured=replace(watch.measured, auroc=auroc)), run)
    for options in ((), ("--no-record",)):
        followed = kanary("watch", run, "--watch", "perhaps", "--prompt", "Tom gave", "--tokens", 2, *options)
        assert "Warning: perhaps: this may be chance" in followed.err, followed


def test_an_alarm_is_plain_data(watch: Watch) -> None:
    alarm = Alarm("ball", 3, " x", 1.5, 1.0, "log")
    assert Alarm(**json.loads(json.dumps(alarm._asdict()))) == alarm
