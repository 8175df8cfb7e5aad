"""The ground-truth evaluation: what is sampled from the labelled corpus, and what SAEs and controls score on it."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import SENTENCES
from kanary.errors import KanaryError
from kanary.evaluation.concepts.measure import Concepts, concept_scores, random_directions, shuffled_name
from kanary.evaluation.concepts.sample import Sample, _halves, check_sample, sample
from kanary.evaluation.standin import PCA, Identity, Spliced
from kanary.lm import LanguageModel
from kanary.sae import SAE, SAEConfig
from kanary.text import Windows, open_text
from kanary.text.labelled import Record, known, record
from kanary.text.labelled.reader import LabelledText
from kanary.text.labelled.record import chosen_families
from labelled_sample import FAMILIES, OTHER, SITE, TEXT, TOKENS, labelled_sample, made_up, reading

CONCEPTS = known()


@pytest.fixture(scope="module")
def read(tiny_lm: LanguageModel) -> Sample:
    return labelled_sample(tiny_lm)


def written(number: int) -> Record:
    return record(number, 3, FAMILIES)


@pytest.fixture(scope="module")
def batches(tiny_lm: LanguageModel) -> list[Any]:
    """The windows that were read."""
    return list(islice(Windows(open_text(TEXT), tiny_lm, window=64, batch=16, part="all"), TOKENS // (16 * 60)))


def laid(values: Tensor, batches: list[Any], read: Sample) -> Tensor:
    """``values``, one of every token of the windows that is not special, in the order of the sample."""
    documents = torch.cat([b.documents[~b.special] for b in batches])[: len(read.test)]
    test = torch.isin(documents, read.documents[read.test])
    return values[: len(documents)][test.long().argsort(stable=True)]


# --- the sample ---------------------------------------------------------------------------------------------------


def test_tokens_are_those_of_the_windows_without_special_ones(
    tiny_lm: LanguageModel, batches: list[Any], read: Sample
) -> None:
    n = len(read.documents)
    assert TOKENS <= n < TOKENS + 16 * 64
    assert sum(int(b.special.sum()) for b in batches) > 0
    assert torch.equal(read.documents, laid(torch.cat([b.documents[~b.special] for b in batches]), batches, read))
    for site in (SITE, OTHER):
        x = torch.cat([tiny_lm.capture(b.tokens, [site])[site][~b.special] for b in batches])
        torch.testing.assert_close(read.x[site], laid(x, batches, read))
        assert read.x[site].dtype == torch.float32
        assert read.x[site].device.type == "cpu"


def test_labels_and_values_are_those_of_the_records(tiny_lm: LanguageModel, batches: list[Any], read: Sample) -> None:
    places = laid(torch.cat([b.positions[~b.special] for b in batches]), batches, read)
    tokens = {number: written(number).tokens(tiny_lm.tokenizer) for number in read.documents.unique().tolist()}
    assert read.concepts == tuple(CONCEPTS)
    for at in range(0, len(read.documents), 7):
        number, place = int(read.documents[at]), int(places[at])
        held = {read.concepts[i] for i in read.labels[at].nonzero().flatten().tolist()}
        assert held == tokens[number].concepts[place]
        given = {name: float(v) for name, v in zip(read.graded, read.values[at], strict=True) if not v.isnan()}
        assert given == pytest.approx(tokens[number].values[place])


def test_halves_share_no_document_and_are_balanced(tiny_lm: LanguageModel, read: Sample) -> None:
    first, second = read.half(False), read.half(True)
    mine, other = (set(half.documents.tolist()) for half in (first, second))
    assert not mine & other
    assert mine | other == set(read.documents.tolist())
    families = [Counter(written(number).family for number in half) for half in (mine, other)]
    assert all(abs(families[0][name] - families[1][name]) <= 1 for name in FAMILIES)
    assert torch.equal(second.x[SITE], read.x[SITE][read.test])
    assert torch.equal(second.labels, read.labels[read.test])
    assert bool(second.test.all())
    assert not bool(first.test.any())
    family = {number: written(number).family for number in mine | other}
    again = [_halves(read.documents, [family[n] for n in read.documents.tolist()], seed) for seed in (0, 0, 1)]
    assert torch.equal(again[0], again[1])
    assert not torch.equal(again[0], again[2])


def test_halves_are_views_and_scattered_ones_the_same_tokens(read: Sample) -> None:
    for test in (False, True):
        half = read.half(test)
        for mine, whole in ((half.x[SITE], read.x[SITE]), (half.labels, read.labels), (half.judged, read.judged)):
            assert mine.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()
    order = torch.randperm(len(read.test), generator=torch.Generator().manual_seed(0))
    fields = ("labels", "judged", "values", "documents", "test")
    mixed = dataclasses.replace(
        read, x={SITE: read.x[SITE][order]}, **{name: getattr(read, name)[order] for name in fields}
    )
    for test in (False, True):
        rows = order[read.test[order] == test]
        assert torch.equal(mixed.half(test).x[SITE], read.x[SITE][rows])
        assert torch.equal(mixed.half(test).labels, read.labels[rows])
    assert len(dataclasses.replace(read, test=torch.zeros_like(read.test)).half(True).documents) == 0


def test_a_family_that_does_not_mark_a_shared_concept_is_not_asked(read: Sample) -> None:
    family = {number: written(number).family for number in read.documents.unique().tolist()}
    prefix = [name.partition(".")[0] for name in read.concepts]
    common = [CONCEPTS[name].common for name in read.concepts]
    everywhere = {"domain", "language", "script", *chosen_families()}
    partly = [p not in everywhere or c for p, c in zip(prefix, common, strict=True)]
    marked = {
        (family[number], prefix[i])
        for number, i in zip(
            read.documents[read.labels.nonzero()[:, 0]].tolist(), read.labels.nonzero()[:, 1].tolist(), strict=True
        )
        if partly[i]
    }
    expected = [
        [not part or (family[d], p) in marked for p, part in zip(prefix, partly, strict=True)]
        for d in read.documents.tolist()
    ]
    assert torch.equal(read.judged, torch.tensor(expected))
    rain = read.judged[
        :, read.concepts.index("weather.rain")
    ]  # it rains in other passages, too, and nobody marks it there
    assert {family[d] for d in read.documents[rain].tolist()} == {"weather"}
    tense, weather = read.concepts.index("tense.past"), read.concepts.index("domain.weather")
    code = torch.tensor([family[d] == "code" for d in read.documents.tolist()])
    assert not bool(read.judged[code, tense].any())
    assert bool(read.judged[~code, tense].any())
    assert bool(read.judged[:, weather].all())


def test_chosen_concepts_are_the_columns_of_all(tiny_lm: LanguageModel, read: Sample) -> None:
    names = ["tense.past", "code.indent", "tense.past", "weather.rain"]
    chosen = sample(tiny_lm, open_text(TEXT), [SITE], tokens=TOKENS, window=64, lm_batch=16, part="all", concepts=names)
    assert chosen.concepts == ("tense.past", "code.indent", "weather.rain")
    assert chosen.graded == ("code.indent",)
    columns = [read.concepts.index(name) for name in chosen.concepts]
    assert torch.equal(chosen.labels, read.labels[:, columns])
    assert torch.equal(chosen.judged, read.judged[:, columns])
    same = (
        torch.nan_to_num(chosen.values[:, 0], -1),
        torch.nan_to_num(read.values[:, read.graded.index("code.indent")], -1),
    )
    assert torch.equal(*same)


def test_what_cannot_be_sampled_is_refused(tiny_lm: LanguageModel, tmp_path: Any) -> None:
    labelled = open_text("labelled")
    with pytest.raises(KanaryError, match=r"'weather.rian'.*Did you mean 'weather.rain'\?"):
        sample(tiny_lm, labelled, [SITE], window=64, concepts=["weather.rian"])
    with pytest.raises(KanaryError, match="tokens=0 must be at least 1"):
        sample(tiny_lm, labelled, [SITE], window=64, tokens=0)
    with pytest.raises(KanaryError, match="No site"):
        sample(tiny_lm, labelled, [], window=64)
    with pytest.raises(KanaryError, match=r"Unknown site 'resid_post.9'"):
        sample(tiny_lm, labelled, ["resid_post.9"], window=64, tokens=10, lm_batch=1)
    (tmp_path / "text.txt").write_text("\n\n".join(SENTENCES))
    with pytest.raises(KanaryError, match="labelled corpus only"):
        sample(tiny_lm, open_text(tmp_path / "text.txt"), [SITE], window=64)


def test_labels_that_do_not_fit_the_tokens_are_found_with_one_window(
    tiny_lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, right = open_text(TEXT), LabelledText.record
    check_sample(tiny_lm, text, [SITE], TOKENS, "all")
    other = lambda self, number: dataclasses.replace(right(self, number + 1), id=number)  # noqa: E731
    monkeypatch.setattr(LabelledText, "record", other)
    with pytest.raises(KanaryError, match="the windows come from another text or another tokenizer"):
        check_sample(tiny_lm, text, [SITE], TOKENS, "all")


# --- the scores ---------------------------------------------------------------------------------------------------

WIDTH, LATENTS, PLANTED = 16, 24, 11


def planted(read: Sample, concept: str, strength: float = 8.0) -> tuple[Sample, SAE]:
    """A sample with one direction more wherever ``concept`` holds, and an SAE that has a latent for it among others."""
    draw = torch.Generator().manual_seed(4)
    directions = torch.nn.functional.normalize(torch.randn(LATENTS, WIDTH, generator=draw), dim=1)
    own = directions[PLANTED].clone()
    directions -= (directions @ own)[:, None] * own  # the others do not see it
    directions[PLANTED] = own
    x = (
        read.x[SITE] / read.x[SITE].std()
        + strength * read.labels[:, read.concepts.index(concept), None] * directions[PLANTED]
    )
    sae = SAE(SAEConfig(WIDTH, LATENTS, sparsifier={"name": "relu"}, trained_on={"site": SITE}))
    with torch.no_grad():
        sae.encoder.W_enc.copy_(directions)
        sae.decoder.W_dec.copy_(directions)
        sae.encoder.b_enc.fill_(-1.0)
        sae.encoder.b_enc[PLANTED] = -strength / 2
    return dataclasses.replace(read, x={SITE: x}), sae


@pytest.fixture(scope="module")
def scored(read: Sample) -> tuple[Sample, SAE, Concepts]:
    spiked, sae = planted(read, "domain.weather")
    shown: list[int] = []
    basis = torch.linalg.qr(torch.randn(WIDTH, 4, generator=torch.Generator().manual_seed(1))).Q
    twins = {"PCA": PCA(SITE, spiked.x[SITE].mean(0), basis), "twin": Spliced(SITE, sae)}
    found = concept_scores(spiked, {"relu": sae}, twins, show=shown.append)
    assert sum(shown) == len(found.rows)
    return spiked, sae, found


def test_a_planted_direction_is_the_best_latent(scored: tuple[Sample, SAE, Concepts]) -> None:
    found = scored[2].rows["relu"].found["domain.weather"]
    assert (found.unit, found.f1_unit) == (PLANTED, PLANTED)
    assert found.auroc.value > 0.999
    assert found.f1.value > 0.98
    assert found.precision.value > 0.98
    assert found.auroc.low <= found.auroc.value <= found.auroc.high
    others = [each.auroc.value for name, each in scored[2].rows["relu"].found.items() if name != "domain.weather"]
    assert sum(others) / len(others) < 0.9
    assert repr(scored[2].rows["twin"]) == repr(scored[2].rows["relu"])


def test_rows_and_summaries(scored: tuple[Sample, SAE, Concepts]) -> None:
    read, _, found = scored
    dense = [f"neurons at {SITE}", f"random directions at {SITE}", "PCA"]
    assert next(iter(found.rows)) == "relu"
    assert set(found.rows) == {"relu", shuffled_name("relu"), *dense, "twin"}
    for name, row in found.rows.items():
        assert row.site == SITE
        assert tuple(row.found) == found.measurable
        assert tuple(row.graded) == found.graded
        aurocs = [each.auroc.value for each in row.found.values()]
        expected = {
            "mean_auroc": sum(aurocs) / len(aurocs),
            "mean_f1": sum(each.f1.value for each in row.found.values()) / len(aurocs),
            "recall_at_0.9": sum(a >= 0.9 for a in aurocs) / len(aurocs),
            "mean_graded_r": sum(abs(each.r.value) for each in row.graded.values()) / len(row.graded),
        }
        for key, value in expected.items():
            assert row.summary[key].value == pytest.approx(value, abs=1e-9), key
        assert row.summary["mean_auroc"].low < expected["mean_auroc"] < row.summary["mean_auroc"].high
        assert math.isnan(row.summary["monosemanticity"].value) == (name in dense)
    assert found.rows["relu"].summary["recall_at_0.9"].value > 0
    assert 0 < found.rows["relu"].summary["monosemanticity"].n <= LATENTS
    assert found.tokens == len(read.test)
    assert found.documents == len(read.documents.unique())


def test_shuffled_labels_score_chance(scored: tuple[Sample, SAE, Concepts]) -> None:
    row = scored[2].rows[shuffled_name("relu")]
    assert row.summary["mean_auroc"].value == pytest.approx(0.5, abs=0.02)
    assert row.summary["recall_at_0.9"].value == 0
    assert row.summary["monosemanticity"].value == pytest.approx(0, abs=0.03)
    frequent = [each for each in row.found.values() if each.positives > 400]
    assert frequent
    assert all(abs(each.auroc.value - 0.5) < 0.1 for each in frequent)


def test_every_concept_is_measured_or_said_to_be_too_rare(scored: tuple[Sample, SAE, Concepts]) -> None:
    read, _, found = scored
    assert {*found.measurable, *found.too_rare} == {*read.concepts}
    assert {*found.graded, *found.graded_too_rare} == {*read.graded}
    assert not {*found.measurable} & {*found.too_rare}
    for i, name in enumerate(read.concepts):
        enough = True
        for half in (read.half(False), read.half(True)):
            positive = half.labels[:, i] & half.judged[:, i]
            negative = half.judged[:, i] & ~half.labels[:, i]
            enough &= int(positive.sum()) >= 50 and int(negative.sum()) >= 50
            enough &= len(half.documents[positive].unique()) >= 5
        assert (name in found.measurable) == enough, name
    assert all("needed" in why or "only one" in why for why in found.too_rare.values())


def test_the_same_seed_gives_the_same(read: Sample) -> None:
    spiked, sae = planted(read, "domain.weather")
    columns = [read.concepts.index("domain.weather"), read.concepts.index("language.foreign")]
    small = dataclasses.replace(
        spiked,
        labels=read.labels[:, columns],
        judged=read.judged[:, columns],
        concepts=("domain.weather", "language.foreign"),
        values=torch.zeros(len(read.test), 0),
        graded=(),
    )
    runs = [concept_scores(small, {"relu": sae}, {}, seed=seed).rows for seed in (0, 0, 1)]
    shuffled = [repr(rows[shuffled_name("relu")]) for rows in runs]  # a NaN is not equal to itself
    assert shuffled[0] == shuffled[1] != shuffled[2]
    assert runs[0]["relu"].found["domain.weather"].auroc.value == runs[2]["relu"].found["domain.weather"].auroc.value
    assert torch.equal(random_directions(5, 3), random_directions(5, 3))
    torch.testing.assert_close(random_directions(5, 3).norm(dim=0), torch.ones(5))
    assert math.isnan(runs[0]["relu"].summary["mean_graded_r"].value)


# --- made-up samples ----------------------------------------------------------------------------------------------


SCRIPTS = ("script.non_latin", "script.arabic", "script.hebrew")


def scripts(hebrew: int) -> tuple[Sample, SAE]:
    """Arabic at a tenth of the tokens, Hebrew at every ``hebrew``-th; latent 0 fires at both alike, 1 at Hebrew alone."""
    draw = torch.Generator().manual_seed(0)
    place = torch.arange(4000)
    labels = torch.zeros(4000, 3, dtype=torch.bool)
    labels[:, 1], labels[:, 2] = place % 10 == 3, place % hebrew == 0
    labels[:, 0] = labels[:, 1] | labels[:, 2]
    x = torch.zeros(4000, 2)
    x[:, 0] = labels[:, 0] * (1 + torch.rand(4000, generator=draw))
    x[:, 1] = labels[:, 2].float()
    return made_up(SCRIPTS, labels, x), reading(2)


def test_a_latent_of_the_parent_is_not_specific_to_its_child() -> None:
    read, sae = scripts(hebrew=20)
    found = concept_scores(read, {"relu": sae}, {}).rows["relu"].found
    arabic, hebrew = found["script.arabic"], found["script.hebrew"]
    assert (arabic.unit, hebrew.unit) == (0, 1)
    assert arabic.auroc.value > 0.9
    assert arabic.sibling_auroc.value == pytest.approx(0.5, abs=0.15)
    assert arabic.sibling_auroc.low < 0.5 < arabic.sibling_auroc.high
    assert arabic.sibling_auroc.n == 300, "200 Arabic tokens and 100 Hebrew ones"
    assert hebrew.sibling_auroc.value == 1
    assert math.isnan(found["script.non_latin"].sibling_auroc.value)


def test_with_few_siblings_there_is_no_number() -> None:
    read, sae = scripts(hebrew=100)
    found = concept_scores(read, {"relu": sae}, {})
    assert list(found.too_rare) == ["script.hebrew"]
    assert math.isnan(found.rows["relu"].found["script.arabic"].sibling_auroc.value)


@pytest.mark.parametrize(
    ("held", "judged", "why"),
    [
        (lambda i: i % 100 == 0, lambda i: i >= 0, "20 positive tokens in the selection half, 50 are needed"),
        (lambda i: i % 2 == 0, lambda i: i % 2 == 0, "0 negative tokens in the selection half, 50 are needed"),
        (lambda i: i < 160, lambda i: i >= 0, "positive tokens from 4 documents in the selection half, 5 are needed"),
        (
            lambda i: (i // 20 % 2 == 0) & (i % 2 == 0),
            lambda i: i >= 0,
            "0 positive tokens in the test half, 50 are needed",
        ),
    ],
)
def test_what_is_too_rare_is_listed_with_the_reason(held: Any, judged: Any, why: str) -> None:
    place = torch.arange(4000)
    labels = torch.stack([held(place), place % 3 == 0], 1)
    read = made_up(("weather.rain", "domain.code"), labels, torch.rand(4000, 2))
    read = dataclasses.replace(read, judged=torch.stack([judged(place), place >= 0], 1))
    found = concept_scores(read, {"relu": reading(2)}, {})
    assert found.too_rare == {"weather.rain": why}
    assert list(found.rows["relu"].found) == ["domain.code"]
    alone = dataclasses.replace(read, labels=labels[:, :1], judged=read.judged[:, :1], concepts=("weather.rain",))
    with pytest.raises(KanaryError, match=f"None of 1 concepts can be measured on 4,000 tokens .weather.rain: {why}"):
        concept_scores(alone, {"relu": reading(2)}, {})


def test_requests_that_cannot_work_are_refused() -> None:
    read, sae = scripts(hebrew=20)
    other = SAE(SAEConfig(2, 2, sparsifier={"name": "relu"}, trained_on={"site": OTHER}))
    with pytest.raises(KanaryError, match=f"wide reads {OTHER}, but the sample holds {SITE}"):
        concept_scores(read, {"wide": other}, {})
    with pytest.raises(KanaryError, match="'a' names both an SAE and a control"):
        concept_scores(read, {"a": sae}, {"a": Spliced(SITE, sae)})
    with pytest.raises(KanaryError, match="'same' has no sparse codes"):
        concept_scores(read, {"a": sae}, {"same": Identity(SITE)})
