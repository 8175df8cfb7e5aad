"""Detection and fuzzing by delphi's published definitions (arXiv 2410.13928), in plain Python on an index, beside ours.

delphi shows a judge stretches of text and asks whether the feature is active (detection), or whether the marked tokens are
those on which it is (fuzzing: tokens above .3 of their stretch's largest activation, or as many others); it reports the mean of
the shares that are right among stretches with the feature and among those without.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from explain_world import indexed
from kanary.explain.evidence import TEST, Sizes, gather
from kanary.explain.judges import RuleJudge
from kanary.explain.pool import Pool, Subject, read_pools
from kanary.explain.rule import learn
from kanary.explain.scorers import Detection, Fuzzing
from kanary.explain.types import Excerpt, Explanation
from kanary.explain.vocabulary import Vocabulary
from kanary.features.index import FeatureIndex
from kanary.lm import LanguageModel
from kanary.sae import SAE

ALL = 10**6
NO_HARD_ONES = Sizes(top=ALL, spread=0, silent=ALL, same_token=0, neighbour=0)
"""Every stretch of the half that scores are taken from, as delphi would draw them."""


class World(NamedTuple):
    index: FeatureIndex
    pool: Pool
    stretches: list[Excerpt]
    """Of the whole text; whose activations are not filled in."""
    activations: dict[int, list[list[float]]]
    """Feature -> stretch -> token."""
    explanations: dict[int, Explanation]


@pytest.fixture(scope="module")
def world(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory, tiny_lm: LanguageModel) -> World:
    """Ten features of a trained and indexed SAE that fire often, but for the five that fire most."""
    run = indexed(tiny_llama, tmp_path_factory.mktemp("delphi"))
    index, sae = FeatureIndex.open(run), SAE.from_pretrained(run)
    alive = index.columns()["fired"] > 0
    latents = np.argsort(-index.columns()["fired"])[5:15].tolist()
    special = index.meta["special_ids"]
    (pool,) = read_pools(index.text, special, tiny_lm, [Subject(sae, latents, alive)], tokens=ALL)
    stretches = [_stretch(pool, i) for i in range(len(pool.pieces))]
    dense = {int(w): _codes(index, sae, tiny_lm, int(w)) for w in np.unique(pool.pieces.window)}
    activations = {
        latent: [[dense[s.window][s.start + i][latent] for i in range(len(s.ids))] for s in stretches]
        for latent in latents
    }
    vocabulary = Vocabulary.of(tuple(index.text.tokens(np.arange(tiny_lm.vocab_size))), frozenset(special))
    rules = {latent: learn(gather(pool, latent).train, vocabulary) for latent in latents}
    explanations = {latent: Explanation(latent, "", None, "rule", rule) for latent, rule in rules.items()}
    return World(index, pool, stretches, activations, explanations)


def _codes(index: FeatureIndex, sae: SAE, lm: LanguageModel, window: int) -> list[list[float]]:
    ids = torch.from_numpy(index.text.ids[window].astype(np.int64))[None]
    found: list[list[float]] = sae.encode(lm.capture(ids, ["resid_post.1"])["resid_post.1"]).to_dense()[0].tolist()
    return found


def _stretch(pool: Pool, number: int) -> Excerpt:
    pieces, n = pool.pieces, int(pool.pieces.length[number])
    ids = pieces.ids[number, :n].astype(np.int64)
    places = (pieces.window[number], pieces.start[number], pieces.document[number], pieces.position[number])
    nothing = np.zeros(n, np.float32)
    return Excerpt(*map(int, places), ids, tuple(pool.text.tokens(ids)), nothing)


# --- by hand --------------------------------------------------------------------------------------------------------------


def balanced(active: Sequence[bool], said: Sequence[bool]) -> float:
    """The mean of the shares of right answers among those with the feature and among those without."""
    right: dict[bool, int] = {True: 0, False: 0}
    total: dict[bool, int] = {True: 0, False: 0}
    for true, answer in zip(active, said, strict=True):
        total[true] += 1
        right[true] += true == answer
    return (right[True] / total[True] + right[False] / total[False]) / 2


def f1(active: Sequence[bool], said: Sequence[bool]) -> float:
    hits = sum(a and s for a, s in zip(active, said, strict=True))
    precision, recall = hits / max(1, sum(said)), hits / sum(active)
    return 2 * precision * recall / (precision + recall) if hits else 0.0


def auroc(active: Sequence[bool], sure: Sequence[float]) -> float:
    """How often a stretch with the feature gets the surer yes than one without; a tie counts half."""
    yes = [s for a, s in zip(active, sure, strict=True) if a]
    no = [s for a, s in zip(active, sure, strict=True) if not a]
    return sum((a > b) + 0.5 * (a == b) for a in yes for b in no) / (len(yes) * len(no))


def detected(world: World, latent: int, which: Sequence[int]) -> tuple[list[bool], list[float]]:
    """Of these stretches, whether the feature is active, and how sure the explanation's rule is."""
    rule: Any = world.explanations[latent].rule
    return [max(world.activations[latent][i]) > 0 for i in which], rule.holds([world.stretches[i] for i in which])


def in_test_half(world: World) -> list[int]:
    return np.flatnonzero(world.pool.test).tolist()


# --- and ours -------------------------------------------------------------------------------------------------------------


def test_stretches_and_activations_are_those_of_the_index(world: World) -> None:
    found = 0
    for latent in world.explanations:
        for example in world.index[latent].examples:
            stored = dict(example.activations)
            for number, stretch in enumerate(world.stretches):
                if stretch.window == example.window:
                    span = range(stretch.start, stretch.start + len(stretch.ids))
                    assert stretch.tokens == example.tokens[span.start : span.stop]
                    mine = world.activations[latent][number]
                    assert mine == pytest.approx([stored.get(at, 0.0) for at in span], rel=1e-3, abs=1e-3)
                    found += 1
    assert found > 100


def test_detection_on_the_same_stretches_is_the_number_by_hand(world: World) -> None:
    for latent, explanation in world.explanations.items():
        evidence = gather(world.pool, latent, test=NO_HARD_ONES)
        ours = asyncio.run(Detection(ALL).score(explanation, evidence, RuleJudge()))
        active, sure = detected(world, latent, in_test_half(world))
        said = [each > 0.5 for each in sure]
        assert ours.n == len(active)
        assert ours.more["balanced_accuracy"] == pytest.approx(balanced(active, said))
        assert ours.more["f1"] == pytest.approx(f1(active, said))
        assert ours.value == pytest.approx(auroc(active, sure))


def test_fuzzing_is_the_number_by_hand_within_what_the_draw_of_marks_leaves_open(world: World) -> None:
    draw, by_hand, ours = np.random.default_rng(1), [], []
    for latent, explanation in world.explanations.items():
        excerpts, marks, true = [], [], []
        for number in in_test_half(world):
            values = world.activations[latent][number]
            firing = [i for i, v in enumerate(values) if v > 0 and v >= 0.3 * max(values)]
            silent = [i for i, v in enumerate(values) if v == 0]
            if firing and silent:
                wrong = draw.choice(silent, min(len(firing), len(silent)), replace=False).tolist()
                excerpts += [world.stretches[number]] * 2
                marks += [firing, wrong]
                true += [True, False]
        sure = asyncio.run(RuleJudge().marked(explanation, excerpts, marks))
        by_hand.append(auroc(true, sure))
        evidence = gather(world.pool, latent, test=NO_HARD_ONES)
        scores = [asyncio.run(Fuzzing(ALL, s).score(explanation, evidence, RuleJudge())).value for s in range(5)]
        ours.append(float(np.mean([score for score in scores if score is not None])))
    assert np.mean(by_hand) == pytest.approx(np.mean(ours), abs=0.03)
    assert np.corrcoef(by_hand, ours)[0, 1] > 0.9


def test_detection_over_delphi_s_own_draw_tells_the_same_of_these_features(world: World) -> None:
    """delphi's draw: all documents, those that were learned from too, and silent stretches at random; ours: neither."""
    theirs, ours = [], []
    for latent, explanation in world.explanations.items():
        active, sure = detected(world, latent, range(len(world.stretches)))
        theirs.append(auroc(active, sure))
        evidence = gather(world.pool, latent, test=TEST)
        ours.append(asyncio.run(Detection().score(explanation, evidence, RuleJudge())).value or 0.0)
    assert np.mean(theirs) == pytest.approx(np.mean(ours), abs=0.03)
    assert np.corrcoef(theirs, ours)[0, 1] > 0.6
    assert min(theirs) < 0.95 < max(theirs)  # so that there was something to agree on
