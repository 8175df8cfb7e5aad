"""The contrastive benchmark does not grow with the width, and surprisal is the drop of a loss."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import torch

from kanary.explain.contrastive import Stories, contrast, read_stories
from kanary.explain.judges import RuleJudge
from kanary.explain.surprisal import Surprisal
from kanary.explain.table import contrastive_row
from kanary.explain.types import Evidence, Excerpt, Explanation, Half
from kanary.lm import LanguageModel
from kanary.sae import SAE, SAEConfig


def stories(width: int, planted: bool, concepts: int = 30) -> Stories:
    """Of every concept 8 pairs; if ``planted``, its own latent fires in the first story of a pair alone."""
    draw = np.random.default_rng(width)
    means = draw.random((concepts, 8, 2, width)) * (draw.random((concepts, 8, 2, width)) < 0.1)
    if planted:
        for concept in range(concepts):
            means[concept, :, 0, concept] += 3
    return Stories(tuple(map(str, range(concepts))), means)


def test_a_latent_for_every_concept_scores_one_and_noise_scores_chance() -> None:
    found = contrast(stories(400, planted=True)).contrastive
    assert found.value == pytest.approx(1.0)
    noise = contrast(stories(400, planted=False)).contrastive
    assert noise.low is not None
    assert noise.high is not None
    assert noise.low - 0.05 <= 0.5 <= noise.high + 0.05


def test_widths_compare_unlike_in_what_was_published() -> None:
    small, large = (contrast(stories(width, planted=True)) for width in (100, 1600))
    assert small.contrastive.value == large.contrastive.value == pytest.approx(1.0)
    assert large.ce_bench > 1.5 * small.ce_bench


def test_what_was_published_is_computed_as_its_code_does() -> None:
    told = stories(50, planted=False, concepts=3)
    found = []
    for pairs in told.means:
        for one, other in pairs:
            size = np.abs(one - other) + np.abs((one + other) / 2)  # the mean of the data set stays zero
            found.append(((size - size.mean()) / size.std()).max())
    assert contrast(told).ce_bench == pytest.approx(np.mean(found))


def test_of_an_sae_in_which_nothing_fires_there_is_no_number() -> None:
    silent = contrast(Stories(("a", "b"), np.zeros((2, 8, 2, 10))))
    assert {silent.contrastive.value, silent.independence.value, silent.interpretability.value} == {None}
    assert contrastive_row("explanation", silent).more == {"ce_bench_as_published": 0.0}


def test_stories_are_read_without_special_tokens(tiny_lm: LanguageModel) -> None:
    torch.manual_seed(0)
    sae = SAE(SAEConfig(16, 24, sparsifier={"name": "topk", "k": 3}, trained_on={"site": "resid_post.1"}))
    with torch.no_grad():
        sae.encoder.tie(torch.randn(24, 16))
    (found,) = read_stories(tiny_lm, [sae], concepts=4, per_concept=2)
    assert found.means.shape == (len(found.concepts), 2, 2, 24)
    assert 0 < (found.means > 0).mean() < 1
    assert all(not np.array_equal(*pair) for concept in found.means for pair in concept)


def excerpt(document: int, fires: bool) -> Excerpt:
    ids = np.random.default_rng(document).integers(3, 200, 12)
    return Excerpt(0, 0, document, 0, ids, ("x",) * 12, np.full(12, float(fires), np.float32))


def test_surprisal_is_the_drop_of_the_loss_behind_the_explanation(tiny_lm: LanguageModel) -> None:
    scorer, both = Surprisal(tiny_lm), [excerpt(i, i < 3) for i in range(6)]
    prefix = tiny_lm.tokenizer("little girl\n", add_special_tokens=False)["input_ids"]
    drop = scorer._losses([], both) - scorer._losses(prefix, both)
    for each, found in zip(both, drop, strict=True):
        losses = []
        for before in ([0], [0, *prefix]):
            ids = torch.tensor([[*before, *each.ids.tolist()]])
            log = tiny_lm.logits(ids)[0].log_softmax(-1)
            places = range(len(before), ids.shape[1] - 1)
            losses.append(-np.mean([float(log[i, ids[0, i + 1]]) for i in places]))
        assert found == pytest.approx(losses[0] - losses[1], abs=1e-4)
    empty = Half((), (), (), (), ())
    evidence = Evidence(0, 1.0, 0.1, (), (), empty, Half(tuple(both[:3]), (), tuple(both[3:]), (), ()))
    score = asyncio.run(scorer.score(Explanation(0, "little girl", None, "x"), evidence, RuleJudge()))
    assert score.judge == "its own model"
    assert score.n == 6


def test_excerpts_that_do_not_fit_the_model_are_counted_as_failures(tiny_lm: LanguageModel) -> None:
    long = excerpt(0, True)
    long = Excerpt(0, 0, 0, 0, np.resize(long.ids, 64), ("x",) * 64, np.ones(64, np.float32))
    empty = Half((), (), (), (), ())
    evidence = Evidence(0, 1.0, 0.1, (), (), empty, Half((long, excerpt(1, True)), (), (excerpt(2, False),), (), ()))
    score = asyncio.run(Surprisal(tiny_lm).score(Explanation(0, "girl", None, "x"), evidence, RuleJudge()))
    assert score.failures == 1
    assert score.n == 2
