"""The hunt: questions answered as by hand, pairs that differ in one thing, planted features found, and nothing found said."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import kanary as package
from conftest import small_tokenizer
from kanary import KanaryError
from kanary.cli.hunt import FEWEST as said_early
from kanary.evaluation.result import Metric
from kanary.interventions.choices import TAIL, Item, in_tokens, margins
from kanary.interventions.edits import Where, add
from kanary.interventions.hunt import FEWEST, hunt, random_features, read_tails
from kanary.interventions.hunted import Effect, Found, Hunt, share
from kanary.interventions.quarry import QUARRIES, control_pairs, hunting_pairs, unrelated
from kanary.interventions.steer import Steering
from kanary.interventions.steerable import Steerable
from kanary.lm import LanguageModel
from kanary.sae import SAE, SAEConfig
from runs import kanary

SITE = "resid_post.0"


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    """A random Llama of two layers that reads 2,048 tokens, for passages are long in its few tokens."""
    tokenizer = small_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=2048,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    for name, weight in model.named_parameters():
        if "norm" not in name:
            weight.normal_().mul_(weight.shape[-1] ** -0.5)
    return LanguageModel(model, tokenizer, "small")


@pytest.fixture(scope="module")
def panel(lm: LanguageModel) -> Steerable:
    sae = SAE(SAEConfig(16, 32, sparsifier={"name": "topk", "k": 4}, trained_on={"site": SITE, "model": "small"}))
    with torch.no_grad():
        sae.encoder.get_parameter("W_enc").normal_(generator=torch.Generator().manual_seed(0))
        sae.W_dec.copy_(torch.nn.functional.normalize(sae.encoder.get_parameter("W_enc"), dim=1))
    return Steerable(lm, sae)


ITEMS = [
    Item("Once upon a time, there was a little girl named", " Lily", " Tom"),
    Item("The dog", " ran", " was happy too"),
    Item('Tom said, "I don\'t want to go home!" ' * 3 + "His mom smiled and gave him a small", " cake", " red ball"),
]


def test_margins_are_those_of_one_text_at_a_time_steered_or_not(lm: LanguageModel, panel: Steerable) -> None:
    asked = [each for each in in_tokens(lm, ITEMS) if each is not None]
    assert len(asked) == 3

    def way(i: int) -> list[Any]:
        return [add(5, 20.0, unit="raw", where=Where(start=max(1, len(asked[i].prompt) - 3)))]

    found = margins(panel, asked, [None, way, None])

    def log_p(ids: list[int], start: int) -> float:
        chances = lm.logits(torch.tensor([ids]))[0].double().log_softmax(1)
        return sum(float(chances[at - 1, ids[at]]) for at in range(start, len(ids)))

    for i, (item, each) in enumerate(zip(ITEMS, asked, strict=True)):
        assert lm.tokenizer.decode(each.yes[1:]) == item.prompt + item.yes
        assert each.yes[: each.start] == each.no[: each.start]
        alone = log_p(each.yes, each.start) - log_p(each.no, each.start)
        with Steering(panel, way(i)):
            steered = log_p(each.yes, each.start) - log_p(each.no, each.start)
        assert float(found[0, i]) == pytest.approx(alone, abs=1e-4)
        assert float(found[1, i]) == pytest.approx(steered, abs=1e-4)
        assert abs(alone - steered) > 1e-3
    assert torch.allclose(found[0], found[2])
    assert torch.allclose(margins(panel, asked, [None, way], tail=10**6), found[:2], atol=1e-4)


def test_items_that_the_model_cannot_read_are_told(lm: LanguageModel) -> None:
    assert in_tokens(lm, [Item("dog " * 3000, " ran", " was"), ITEMS[0]])[0] is None


def test_without_BOS_a_prompt_of_one_token_is_told_too(lm: LanguageModel) -> None:
    one = lm.tokenizer.decode(lm.tokenizer("The", add_special_tokens=False).input_ids[0])
    bare = copy.copy(lm)
    bare.bos_id = None
    assert [each is None for each in in_tokens(lm, [Item(one, " dog", " cake")])] == [False]
    assert [each is None for each in in_tokens(bare, [Item(one, " dog", " cake")])] == [True]


def test_tails_are_the_codes_of_the_last_tokens_alone(lm: LanguageModel, panel: Steerable) -> None:
    asked = [each for each in in_tokens(lm, ITEMS) if each is not None]
    (sae,) = panel.saes.values()
    tails = read_tails(lm, sae, asked, [2, 1, 5])
    for i, (each, n) in enumerate(zip(asked, (2, 1, 5), strict=True)):
        x = lm.capture(torch.tensor([each.prompt]), [SITE])[SITE][0, -n:]
        assert torch.allclose(tails.codes[i], sae.encode(x).to_dense().amax(0), atol=1e-5)
        assert torch.allclose(tails.x[i], x.mean(0), atol=1e-5)


# --- the passages ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(QUARRIES))
def test_pairs_lead_up_to_one_question_in_the_same_words_and_differ_before(name: str) -> None:
    for turned, found in ((True, hunting_pairs(QUARRIES[name], 12, 3)), (False, control_pairs(QUARRIES[name], 12, 3))):
        assert len(found) == 12
        for with_it, without in found:
            assert with_it.prompt != without.prompt
            assert with_it.prompt[-24:] == without.prompt[-24:]
            assert {with_it.yes, with_it.no} == {without.yes, without.no}
            assert with_it.yes == without.yes  # yes is one and the same answer
        assert turned or found


def test_yes_is_the_lie_and_the_woman() -> None:
    from itertools import islice

    from kanary.text.labelled import pairs

    lies = {
        (record.text[: q.end], q.answer)
        for on, _ in islice(pairs("honesty.deceptive_speaker", 3), 200)
        for record, q in ((on, q) for q in on.questions if q.skill == "lie")
    }
    assert all((pair.with_it.prompt, pair.with_it.yes) in lies for pair in hunting_pairs(QUARRIES["honesty"], 10, 3))
    women = {" she", " her", " herself", "She", "Her", " sister", " daughter", " mother", " wife", " She", " Her"}
    assert {pair.with_it.yes for pair in hunting_pairs(QUARRIES["gender-bias"], 30, 3)} <= women


def test_unrelated_questions_are_of_several_skills() -> None:
    found = unrelated(24, 0)
    assert len(found) == len({item.prompt for item in found}) == 24
    assert all(item.yes != item.no for item in found)


# --- the hunt -------------------------------------------------------------------------------------------------------


class Counting:
    """A progress bar that remembers."""

    total, done = 0, 0

    @contextmanager
    def __call__(self, what: str, total: int, unit: str, quiet: bool) -> Iterator[Callable[[int], None]]:
        self.total += total
        yield self.show

    def show(self, n: int) -> None:
        assert n >= 0
        self.done += n


def test_in_a_random_model_nothing_is_found_and_that_is_said(panel: Steerable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kanary.interventions.hunt.unrelated", lambda n, seed: ITEMS * 6)
    monkeypatch.setattr("kanary.interventions.hunt.bar", counting := Counting())
    found = hunt("honesty", panel, pairs=16, quiet=True)
    assert counting.done == counting.total > 0  # said beforehand, whatever is found
    assert found.verdict()[0].startswith("Nothing to find")
    assert found.real == () or max(abs(each.held_out.value - 0.5) for each in found.real) < 0.5
    assert (found.chosen_on, found.held_out) == (8, 8)
    again = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert again["verdict"] == found.verdict()
    assert {effect.by for effect in found.effects} >= {"difference of means", "random features"}


def test_random_features_fire_and_are_none_of_those_found() -> None:
    largest = torch.tensor([3.0, 0.0, 2.0, 1.0, 4.0, 0.0, 5.0, 1.0])
    drawn = [random_features(largest, [0, 4], seed) for seed in range(30)]
    assert all(len({*each}) == 3 and {*each} <= {2, 3, 6, 7} for each in drawn)
    assert {latent for each in drawn for latent in each} == {2, 3, 6, 7}
    assert random_features(largest, [0, 2, 3, 4, 6], 0) == [7]
    assert float(largest[0]) == 3


def test_a_planted_lie_is_found_and_steering_it_turns_answers_both_ways(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a toy where the last tokens say which passage it is, as a model does that has understood it."""
    from kanary.interventions import hunt as module

    yes, no = " happy", " was"
    words = ["the park", "a girl", "big dog", "red ball", "to play", "time there"]
    ends = {True: " jumped and", False: " smiled and"}

    def made(turned: bool, n: int) -> list[Any]:
        from kanary.interventions.quarry import Pair

        some = [f"{words[i % 6]} {words[i // 6 % 6]} {words[i // 36 % 6]}" for i in range(n)]
        sides = (True, False) if turned else (True, True)
        return [Pair(*(Item(f"{text}{ends[side]} so", yes, no) for side in sides)) for text in some]

    monkeypatch.setattr(module, "hunting_pairs", lambda quarry, n, seed: made(True, n))
    monkeypatch.setattr(module, "control_pairs", lambda quarry, n, seed: made(False, n))
    monkeypatch.setattr(module, "unrelated", lambda n, seed: ITEMS * 6)
    monkeypatch.setattr(module, "_alike", lambda a, b: 1)
    monkeypatch.setattr(module, "bar", counting := Counting())
    asked = in_tokens(lm, [side for pair in made(True, 60) for side in pair])
    x = torch.stack([lm.capture(torch.tensor([each.prompt]), [SITE])[SITE][0, -1] for each in asked if each])
    which = torch.tensor([1.0, -1.0]).repeat(60)
    probe = torch.linalg.lstsq(torch.cat([x, torch.ones(120, 1)], 1), which[:, None]).solution[:, 0]
    head = lm.model.lm_head.weight
    towards = head[lm.tokenizer.encode(yes)[0]] - head[lm.tokenizer.encode(no)[0]]
    sae = SAE(SAEConfig(16, 8, sparsifier={"name": "relu"}, trained_on={"site": SITE, "model": "small"}))
    with torch.no_grad():
        W_enc, b_enc = sae.encoder.get_parameter("W_enc"), sae.encoder.get_parameter("b_enc")
        W_enc.normal_(generator=torch.Generator().manual_seed(0)).mul_(0.1)
        for latent, sign in ((3, 1), (6, -1)):
            W_enc[latent], b_enc[latent] = sign * 20 * probe[:-1], sign * 20 * probe[-1]
        sae.W_dec.normal_(generator=torch.Generator().manual_seed(1))
        sae.W_dec[3], sae.W_dec[6] = towards, -towards
        sae.decoder.normalise()
    found = hunt("honesty", Steerable(lm, sae), pairs=40, quiet=True)
    assert counting.done == counting.total > 0
    best = {each.side: each for each in reversed(found.real)}  # the first of each side
    assert best["with"].latent == 3
    assert best["without"].latent == 6
    assert best["with"].held_out.value > 0.95
    assert abs(best["with"].control.value - 0.5) < 0.01
    steered = {effect.direction: effect for effect in found.effects if effect.by in ("feature 3", "feature 6")}
    assert steered["yes"].after.value > 0.9
    assert steered["no"].after.value < 0.1
    assert hunt("honesty", Steerable(lm, sae), pairs=40, quiet=True).to_json() == found.to_json()


def a_hunt(**fields: Any) -> Hunt:
    """One in which everything was found, unless ``fields`` say otherwise."""

    def near(value: float, n: int = 80) -> Metric:
        return Metric(value, value - 0.03, value + 0.03, n)

    effect = Effect("yes", "feature 7", 7, 2.0, near(0.05), near(0.9), near(0.85), near(0.9))
    values = {
        "what": "honesty",
        "says": "a deceptive speaker in the place of an honest one",
        "yes": "a speaker lies",
        "control_says": "something else",
        "site": "resid_post.3",
        "where": "after block 4 of 6",
        "chosen_on": 80,
        "held_out": 80,
        "rates": (near(0.95), near(0.04)),
        "control_shift": Metric(0.0, -0.04, 0.04, 80),
        "chance": Metric(0.5, 0.4, 0.6, 20),
        "found": (Found(7, "with", 0.97, near(0.95), near(0.5)), Found(9, "without", 0.1, near(0.1), near(0.5))),
        "effects": (effect, effect._replace(direction="no", by="feature 9", latent=9, change=near(-0.8))),
        "unrelated": near(0.95),
    }
    return Hunt(**(values | fields))


def test_the_verdict_says_what_was_found_and_what_was_not() -> None:
    everything = " ".join(a_hunt().verdict())
    assert "The model does it" in everything
    assert "2 of 2 features" in everything
    assert "yes goes from 5 %" in everything
    assert "as it should" in everything
    near = Metric(0.55, 0.45, 0.65, 80)
    (weak,) = a_hunt(found=(Found(7, "with", 0.97, near, near),)).verdict()[1:2]
    assert weak.startswith("No feature found")
    assert a_hunt(rates=(near, near)).verdict()[0].startswith("Nothing to find")
    still = replace(a_hunt(), effects=(a_hunt().effects[0]._replace(change=Metric(0.01, -0.05, 0.07, 80)),))
    assert "moves nothing" in still.verdict()[2]
    assert "other way" not in still.verdict()[2]
    assert "No feature to steer" in still.verdict()[3]
    assert "should not" in a_hunt(control_shift=near).verdict()[4]


def test_the_verdict_says_where_steering_moves_the_other_way() -> None:
    plain, up, down = a_hunt().effects[0], Metric(0.05, 0.01, 0.1, 80), Metric(-0.05, -0.1, -0.01, 80)
    still = Metric(0.01, -0.03, 0.04, 80)

    def said(direction: str, **changes: Metric) -> str:
        effects = [
            plain._replace(direction=direction, by=by.replace("_", " "), latent=4, change=change)
            for by, change in changes.items()
        ]
        return " ".join(a_hunt(effects=tuple(effects)).verdict()[2:4])

    assert (
        "towards no moves the other way: even the best, feature 467, changes the share of yes by 5 % (1 to 10)."
        in said("no", feature_467=up)
    )
    assert "towards yes moves the other way: even the best, feature 467" in said("yes", feature_467=down)
    assert (
        "towards no moves nothing that way: the best, feature 5, changes the share of yes by 1 % (-3 to 4); "
        "feature 467 moves the other way: it changes the share of yes by 5 % (1 to 10)."
    ) in said("no", feature_467=up, feature_5=still)


def test_the_verdict_says_what_random_features_do_at_the_same_strength() -> None:
    found = a_hunt()
    small, large = Metric(0.02, -0.03, 0.07, 80), Metric(0.3, 0.2, 0.4, 80)
    for change, says in ((small, "as they should"), (large, "steering of any kind does some of it")):
        random = found.effects[0]._replace(by="random features", latent=None, change=change)
        *_, line, last = replace(found, effects=(*found.effects, random)).verdict()
        assert line.startswith("Control, random features at the same strengths")
        assert f"{100 * change.value:.0f} %" in line
        assert says in line
        assert last.startswith("Control, something else")
    assert not any("random" in line for line in found.verdict())
    assert share(Metric(-0.001, -0.2, 0.004, 8)) == "0 % (-20 to 0)"


def test_what_cannot_be_hunted_is_refused_in_one_line(panel: Steerable, tiny_llama: Path) -> None:
    with pytest.raises(KanaryError, match="Did you mean 'honesty'"):
        hunt("honest", panel)
    with pytest.raises(KanaryError, match="pairs=3 is too few"):
        hunt("honesty", panel, pairs=3)
    small = SAE(SAEConfig(16, 8, sparsifier={"name": "relu"}, trained_on={"site": SITE}))
    with pytest.raises(KanaryError, match="reads no more"):
        hunt("honesty", Steerable(package.load_model(tiny_llama, device="cpu"), small), pairs=16)
    assert "Did you mean" in kanary("hunt", "genderbias", "nowhere").message
    assert "does not exist" in kanary("hunt", "honesty", "nowhere", "--pairs", 16).message
    few = kanary("hunt", "honesty", "nowhere", "--pairs", 15)  # a mistake that is told before anything is looked for
    assert "--pairs 15 is too few" in few.message
    assert said_early == FEWEST  # the command says it before it imports the other
    assert "Give at least 16" in few.message
    assert TAIL == 16
    assert package.hunt is hunt
