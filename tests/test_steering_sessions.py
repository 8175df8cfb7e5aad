"""Many clients, one model: what is asked for one row, thread or block reaches no other."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

import kanary
from feature_runs import build, make_run, stories
from kanary.errors import KanaryError
from kanary.interventions.edits import Condition, Where, ablate, add, project_out, scale, set_to
from kanary.interventions.observing import Observing
from kanary.interventions.ranges import find_ranges, measure_ranges
from kanary.interventions.steer import Steering
from kanary.interventions.steerable import Steerable
from kanary.lm import LanguageModel
from kanary.sae import SAE
from steered import D_SAE, PROMPT, SITE, double, generated, panel_for, sae_for, tokens_of


@pytest.fixture(scope="module")
def lm(tiny_llama: Path) -> LanguageModel:
    return double(tiny_llama)


@pytest.fixture(scope="module")
def panel(lm: LanguageModel) -> Steerable:
    """Two SAEs at one site and one at another."""
    return panel_for(
        lm,
        early=sae_for(lm, "relu", "resid_post.0", seed=4),
        late=sae_for(lm, "bend/topk"),
        twin=sae_for(lm, "jumprelu", seed=2),
    )


ROWS = [
    {("late", 1): 2.0},
    None,
    [add(3, 4.0, sae="early"), scale(5, 0.0, sae="twin")],
    [set_to(2, 1.0, sae="twin", where=Where(generated=2))],
    [ablate(latent, sae="early") for latent in range(D_SAE)],
    [add(1, 6.0, sae="late", when=Condition(4, above=0.0, sae="early"))],
    [project_out(7, sae="late"), add(8, 3.0, sae="twin", where=Where(pattern="e"))],
    {("early", 0): 1.0, ("late", 1): -1.0, ("twin", 2): 5.0},
]


def test_eight_rows_with_different_steering_are_as_each_of_them_alone(lm: LanguageModel, panel: Steerable) -> None:
    ids, _ = tokens_of(lm, PROMPT)
    options = {"output_logits": True, "return_dict_in_generate": True}
    with Steering(panel, rows=ROWS):
        together = generated(lm, ids.repeat(len(ROWS), 1), **options)
    logits = torch.stack(together.logits, 1)
    assert len(logits.argmax(-1).unique(dim=0)) > 3
    for row, edits in enumerate(ROWS):
        with Steering(panel, edits or []):
            alone = generated(lm, ids, **options)
        assert torch.equal(together.sequences[row], alone.sequences[0])
        torch.testing.assert_close(logits[row], torch.stack(alone.logits, 1)[0], rtol=1e-5, atol=1e-5)
    clean = generated(
        lm, ids.repeat(len(ROWS), 1), **options
    )  # of as many rows: sums are made in another order for one
    assert torch.equal(torch.stack(clean.logits, 1)[1], logits[1])


def test_generating_with_the_cache_equals_one_pass_over_the_whole_text(lm: LanguageModel, panel: Steerable) -> None:
    ids, _ = tokens_of(lm, PROMPT)
    prompt = ids.shape[1]
    for edits in ROWS:
        with Steering(panel, edits or []):
            found = generated(lm, ids, output_logits=True, return_dict_in_generate=True)
        with Steering(panel, edits or [], prompts=[prompt]):
            whole = lm.logits(found.sequences)[:, prompt - 1 : -1]
        torch.testing.assert_close(torch.stack(found.logits, 1), whole.float(), rtol=1e-5, atol=1e-5)


def test_rows_of_different_lengths_are_padded_on_the_left_without_a_difference(
    lm: LanguageModel, panel: Steerable
) -> None:
    texts = [PROMPT, "Tom said", "The big dog ran and"]
    rows = [ROWS[2], ROWS[3], ROWS[5]]
    ids, mask = tokens_of(lm, *texts)
    for row in range(len(texts)):
        pads = int((mask[row] == 0).sum())
        ids[row], mask[row] = ids[row].roll(pads), mask[row].roll(pads)
    with Steering(panel, rows=rows):
        together = generated(lm, ids, mask)
    for row, text in enumerate(texts):
        with Steering(panel, rows=rows[row : row + 1]):
            alone = generated(lm, tokens_of(lm, text)[0])
        assert torch.equal(together[row, -8:], alone[0, -8:])


def test_what_is_observed_are_the_codes_before_the_edits_of_their_site(lm: LanguageModel, panel: Steerable) -> None:
    ids, mask = tokens_of(lm, PROMPT, "Tom said, he was big.")
    special = torch.isin(ids, torch.tensor(sorted(lm.special_ids))) | (mask == 0)
    watched = {"late": [5, 1], "twin": [0]}
    with Steering(panel, {("early", 3): 4.0, ("late", 1): 9.0}, observe=watched) as session:
        lm.logits(ids, mask)
        seen = dict(session.observed)
    with Steering(panel, {("early", 3): 4.0}):
        x = lm.capture(ids, [SITE], mask)[SITE]
    for name, latents in watched.items():
        codes = panel.saes[name].encode(x, special).to_dense()[..., latents]
        assert seen[name].shape == (2, ids.shape[1], len(latents))
        torch.testing.assert_close(seen[name], codes, rtol=1e-9, atol=1e-12)


def test_two_threads_that_steer_one_model_do_not_leak_into_each_other(lm: LanguageModel, panel: Steerable) -> None:
    ids, _ = tokens_of(lm, PROMPT)
    alone = {}
    for number, edits in enumerate(ROWS):
        with Steering(panel, edits or []):
            alone[number] = generated(lm, ids, tokens=3)
    found: dict[int, torch.Tensor] = {}
    gate = threading.Barrier(len(ROWS))

    def client(number: int) -> None:
        gate.wait()
        with Steering(panel, ROWS[number] or []):
            found[number] = generated(lm, ids, tokens=3)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(len(ROWS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[number], alone[number]) for number in alone)


def test_a_pass_of_another_thread_inside_a_block_is_refused_not_steered(lm: LanguageModel, panel: Steerable) -> None:
    ids, _ = tokens_of(lm, PROMPT)
    plain, caught = lm.logits(ids), []
    waiting: list[torch.Tensor] = []

    def outside() -> None:
        try:
            lm.model(input_ids=ids)
        except KanaryError as error:
            caught.append(str(error))

    through = threading.Thread(target=lambda: waiting.append(lm.logits(ids)))
    with Steering(panel, {("late", 1): 5.0}):
        thread = threading.Thread(target=outside)
        thread.start()
        thread.join()
        through.start()
        steered = lm.logits(ids)
    through.join()
    assert len(caught) == 1
    assert "Another thread is steering" in caught[0]
    assert torch.equal(waiting[0], plain)
    assert not torch.equal(steered, plain)


def test_an_error_inside_the_block_leaves_the_model_as_it_was(lm: LanguageModel, panel: Steerable) -> None:
    ids, _ = tokens_of(lm, PROMPT)
    plain = lm.logits(ids)
    session = Steering(panel, {("late", 1): 5.0})
    with pytest.raises(RuntimeError), session:
        raise RuntimeError
    assert torch.equal(lm.logits(ids), plain)
    with session, pytest.raises(KanaryError, match="in use already"), session:
        pass
    assert torch.equal(lm.logits(ids), plain)
    with Steering(panel, rows=[None, None]), pytest.raises(KanaryError, match="for 2 rows, but the batch has 1"):
        lm.logits(ids)
    assert torch.equal(lm.logits(ids), plain)


def test_maxima_come_from_the_runs_index_and_equal_those_measured(tiny_llama: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", tiny_llama, stories(tmp_path))
    index = build(run)
    sae = SAE.from_pretrained(run)
    found = find_ranges(sae)
    assert found is not None
    lm = kanary.load_model(tiny_llama, device="cpu")
    measured = measure_ranges(lm, sae, str(tmp_path / "stories.jsonl"), tokens=index.meta["tokens"], quiet=True)
    assert measured.tokens == found.tokens == index.meta["tokens"]
    torch.testing.assert_close(found.maximum, measured.maximum, rtol=1e-6, atol=0.0)
    torch.testing.assert_close(found.mean, measured.mean, rtol=1e-5, atol=1e-9)
    assert ((found.sigma - measured.sigma).abs() <= 0.01 * measured.maximum).all()
    assert (found.counts - measured.counts).abs().sum() <= 4  # values that lie on a bin's edge
    ids = lm.tokenizer(PROMPT, return_tensors="pt").input_ids
    latent = int(found.maximum.argmax())
    with kanary.steer(lm, run, {latent: 2.0}):
        by_index = lm.logits(ids)
    with kanary.steer(lm, sae, add(latent, 2 * float(index[latent].maximum), unit="raw")):
        assert torch.allclose(lm.logits(ids), by_index, atol=1e-6)
    other = make_run(tmp_path / "other", tiny_llama, tmp_path / "stories.jsonl", seed=1)
    with pytest.raises(KanaryError, match="no feature index of this SAE"):
        kanary.steer(lm, other, {latent: 2.0}, index=run)


def test_a_pass_that_somebody_else_makes_is_not_taken_for_the_watched_one(lm: LanguageModel, panel: Steerable) -> None:
    ids, _ = tokens_of(lm, PROMPT)
    with Observing(panel, {"early": [0, 1, 2]}) as mine:
        lm.model(input_ids=ids)
        seen = mine.observed["early"].clone()
        other = threading.Thread(target=lambda: lm.model(input_ids=ids[:, :2]))
        other.start()
        other.join()
        assert torch.equal(mine.observed["early"], seen)
        assert seen.shape == (*ids.shape, 3)


def test_watching_alone_sees_what_steering_sees(lm: LanguageModel, panel: Steerable) -> None:
    ids, _ = tokens_of(lm, PROMPT)
    watched = {"early": list(range(D_SAE)), "late": [3, 1], "twin": [2]}
    with Observing(panel, watched) as mine, torch.no_grad():
        mine.special = torch.isin(ids, torch.tensor(sorted(lm.special_ids)))
        lm.model(input_ids=ids)
    with Steering(panel, {}, observe=watched) as steering, torch.no_grad():
        lm.model(input_ids=ids)
    assert mine.observed.keys() == steering.observed.keys()
    for sae, codes in steering.observed.items():
        assert torch.equal(mine.observed[sae], codes)
        assert codes.any()
