"""The feature index holds what a slow computation over the whole text finds, whatever order and pieces it was read in."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from feature_runs import WINDOW, Dense, build, make_run, stories
from kanary.errors import KanaryError
from kanary.evaluation.latents import latent_table
from kanary.features import correlation
from kanary.features.feature import Example, Feature
from kanary.features.index import FeatureIndex
from kanary.features.selection import Selection, Totals, bin_of, key_of
from kanary.features.spool import Chunk, Codes
from kanary.lm import LanguageModel
from kanary.lm.unembed import unembedding
from runs import kanary

TEN = [0, 3, 7, 11, 16, 21, 28, 33, 40, 46]
DEAD = 47


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    folder = tmp_path_factory.mktemp("index")
    return make_run(folder / "run", tiny_llama, stories(folder))


@pytest.fixture(scope="module")
def index(run: Path) -> FeatureIndex:
    return build(run)


@pytest.fixture(scope="module")
def dense(run: Path, tiny_lm: LanguageModel) -> Dense:
    return Dense(run, tiny_lm)


# --- equal to a slow computation ------------------------------------------------------------------------------------


@pytest.mark.parametrize("latent", TEN)
def test_the_numbers_of_a_latent_are_those_of_all_its_values(index: FeatureIndex, dense: Dense, latent: int) -> None:
    values, feature = dense.counted[:, latent], index[latent]
    active = values[values > 0]
    assert feature.tokens == len(values) == int((~dense.whole("special")).sum())
    assert feature.fired == len(active) > 20
    assert feature.density == len(active) / len(values)
    assert feature.maximum == active.max()
    assert feature.mean_active == pytest.approx(active.mean(), rel=1e-12)
    edges = np.array(feature.histogram["edges"])
    assert edges[0] == 0
    assert edges[-1] == active.max()
    expected = [int(((active > a) & (active <= b)).sum()) for a, b in pairwise(edges)]
    assert feature.histogram["counts"] == expected
    for interval in feature.intervals:
        assert interval.count == int(((active > interval.low) & (active <= interval.high)).sum())
        assert interval.share == interval.count / len(active)
    assert feature.intervals[0].low == 0
    assert feature.intervals[9].high == active.max()


@pytest.mark.parametrize("latent", TEN)
def test_the_top_examples_are_the_windows_in_which_it_is_strongest(
    index: FeatureIndex, dense: Dense, latent: int
) -> None:
    best = dense.codes[:, :, latent].max(1)
    windows = np.argsort(-best, kind="stable")[:20]
    windows = windows[best[windows] > 0]
    feature = index[latent]
    shown = [feature.examples[i] for i in feature.top]
    assert [example.window for example in shown] == windows.tolist()
    assert [example.value for example in shown] == best[windows].tolist()
    assert [example.focus for example in shown] == dense.codes[windows, :, latent].argmax(1).tolist()
    assert all("top" in example.lists for example in shown)


@pytest.mark.parametrize("latent", TEN)
def test_the_examples_of_an_interval_are_those_of_its_firings_with_the_smallest_keys(
    index: FeatureIndex, dense: Dense, latent: int
) -> None:
    feature, values = index[latent], dense.codes[:, :, latent].reshape(-1)
    for number, interval in enumerate(feature.intervals):
        places = ((values > interval.low) & (values <= interval.high)).nonzero()[0]
        keys = key_of(0, np.full(len(places), latent), places)
        expected = sorted(places[np.argsort(keys)[:5]].tolist())
        shown = [feature.examples[i] for i in interval.examples]
        assert sorted(e.window * WINDOW + e.focus for e in shown) == expected
        assert all(e.value == values[e.window * WINDOW + e.focus] for e in shown)
        assert all(number in e.lists for e in shown)


@pytest.mark.parametrize("latent", TEN)
def test_an_example_shows_the_values_and_the_place_of_its_window(
    index: FeatureIndex, dense: Dense, latent: int, tiny_lm: LanguageModel
) -> None:
    tokens, documents, positions = (dense.whole(name) for name in ("tokens", "documents", "positions"))
    special = dense.whole("special")
    feature = index[latent]
    assert len({(e.window, e.focus) for e in feature.examples}) == len(feature.examples)  # each only once
    for e in feature.examples:
        values = dense.codes[e.window, :, latent]
        assert dict(e.activations) == {int(i): values[i] for i in values.nonzero()[0]}
        assert e.document == documents[e.window, e.focus]
        assert e.position == positions[e.window, e.focus]
        assert list(e.special) == special[e.window].nonzero()[0].tolist()
        assert list(e.starts) == (np.diff(documents[e.window]).nonzero()[0] + 1).tolist()
        text = [t for i, t in enumerate(e.tokens) if i not in e.special]
        assert "".join(text) == tiny_lm.tokenizer.decode(tokens[e.window][~special[e.window]])


def test_a_repeat_is_an_example_with_the_same_tokens_around_its_focus(index: FeatureIndex) -> None:
    def around(e: Any) -> tuple[str, ...]:
        padded = ("|",) * 4 + e.tokens + ("|",) * 4
        return padded[e.focus : e.focus + 9]

    found = 0
    for latent in TEN:
        examples = index[latent].examples
        for i, e in enumerate(examples):
            expected = [j for j, other in enumerate(examples) if j != i and around(other) == around(e)]
            assert list(e.repeats) == expected
            found += len(expected)
    assert found


def test_correlated_latents_are_those_of_numpys_corrcoef(index: FeatureIndex, dense: Dense) -> None:
    with np.errstate(invalid="ignore"):
        r = np.corrcoef(dense.counted.T)
    np.fill_diagonal(r, -2)
    r = np.nan_to_num(r, nan=-2)
    for latent in TEN:
        found = index[latent].features["correlated"]
        assert [row["latent"] for row in found] == np.argsort(-r[latent])[:3].tolist()
        assert [row["correlation"] for row in found] == pytest.approx(np.sort(r[latent])[::-1][:3].tolist(), abs=1e-6)
        assert all(row["exact"] for row in found)


def test_similar_latents_are_those_with_the_largest_cosine(index: FeatureIndex, dense: Dense) -> None:
    W = dense.sae.W_dec.detach().double().numpy()
    W = W / np.linalg.norm(W, axis=1, keepdims=True)
    cosines = W @ W.T
    np.fill_diagonal(cosines, -2)
    for latent in TEN:
        found = index[latent].features["similar"]
        assert [row["latent"] for row in found] == np.argsort(-cosines[latent])[:3].tolist()
        assert [row["cosine"] for row in found] == pytest.approx(np.sort(cosines[latent])[::-1][:3].tolist(), abs=1e-6)


def test_neurons_are_those_of_the_mlp_of_the_sites_block(
    index: FeatureIndex, dense: Dense, tiny_lm: LanguageModel
) -> None:
    neurons = dense.at("input:model.layers.1.mlp.down_proj")[~dense.whole("special")].astype(np.float64)
    down = tiny_lm.model.model.layers[1].mlp.down_proj.weight.double().numpy()  # [d_model, neurons]
    W = dense.sae.W_dec.detach().double().numpy()
    cosines = W @ down / np.linalg.norm(W, axis=1)[:, None] / np.linalg.norm(down, axis=0)
    for latent in TEN:
        found = index[latent].neurons
        assert found is not None
        assert found["kind"] == "MLP neurons of block 2 of 3"
        r = [np.corrcoef(dense.counted[:, latent], neurons[:, i])[0, 1] for i in range(neurons.shape[1])]
        for name, number, expected in (
            ("aligned", "cosine", cosines[latent]),
            ("correlated", "correlation", np.array(r)),
        ):
            best = np.argsort(-np.abs(expected))[:3]
            assert [row["neuron"] for row in found[name]] == best.tolist()
            assert [row[number] for row in found[name]] == pytest.approx(expected[best].tolist(), abs=1e-5)


def test_logit_weights_are_centred_products_with_the_unembedding(
    index: FeatureIndex, dense: Dense, tiny_lm: LanguageModel
) -> None:
    U = unembedding(tiny_lm)
    assert U is not None
    weights = (dense.sae.W_dec.detach() @ U).double().numpy()
    table = latent_table(dense.sae, tiny_lm)
    for latent in TEN:
        logits = index[latent].logits
        assert logits is not None
        centred = weights[latent] - weights[latent].mean()
        order = np.argsort(-centred)
        assert [row["id"] for row in logits["positive"]] == order[:10].tolist()
        assert [row["id"] for row in logits["negative"]] == order[::-1][:10].tolist()
        assert [row["value"] for row in logits["positive"]] == pytest.approx(centred[order[:10]].tolist(), abs=1e-6)
        assert logits["positive"][0]["token"] == index.token(int(order[0]))
        assert table.logit_skewness is not None
        assert logits["skewness"] == pytest.approx(float(table.logit_skewness[latent]), rel=1e-6)
        assert sum(logits["histogram"]["counts"]) == tiny_lm.vocab_size
        ids = {int(id): index.token(int(id)) for each in index[latent].examples for id in around(index, each)}
        assert logits["near"].keys() == set(ids.values())
        for id, token in ids.items():
            if list(ids.values()).count(token) == 1:
                assert logits["near"][token] == pytest.approx(centred[id], rel=6e-3, abs=1e-6)


def around(index: FeatureIndex, example: Example) -> np.ndarray:
    """The ids of an example's token and of the four on either side of it."""
    found: np.ndarray = index.text.ids[example.window][max(0, example.focus - 4) : example.focus + 5]
    return found


# --- how many fire on a token ----------------------------------------------------------------------------------------


def test_l0_is_that_of_all_tokens_that_are_not_special(index: FeatureIndex, dense: Dense) -> None:
    active, l0 = np.count_nonzero(dense.counted, axis=1), index.l0
    assert l0 is not None
    assert (l0.tokens, l0.mean) == (len(active) == index.meta["tokens"] and len(active), active.mean())
    assert [l0.p5, l0.median, l0.p95] == np.quantile(active, [0.05, 0.5, 0.95], method="inverted_cdf").tolist()
    assert "L0" in index._repr_html_()


def test_an_index_of_before_l0_was_kept_opens_and_a_damaged_one_is_named(index: FeatureIndex, tmp_path: Path) -> None:
    copy = tmp_path / "old"
    shutil.copytree(index.folder, copy)
    meta = json.loads((copy / "index.json").read_text())
    del meta["l0"]
    (copy / "index.json").write_text(json.dumps(meta))
    old = FeatureIndex.open(copy)
    assert old.l0 is None
    assert old[3] == index[3]
    assert "L0" not in old._repr_html_()
    (copy / "index.json").write_text(json.dumps(meta | {"l0": {"mean": 3}}))
    with pytest.raises(KanaryError, match="damaged: l0 is"):
        _ = FeatureIndex.open(copy).l0


# --- sampled fairly, and the same however it is read ----------------------------------------------------------------


def chunk(first: int, codes: np.ndarray, window: int = 8) -> Chunk:
    """Windows with the dense ``codes [tokens, d_sae]``."""
    tokens, latents = codes.nonzero()
    counts = np.bincount(tokens, minlength=len(codes)).astype(np.int32)
    shape = (len(codes) // window, window)
    none = np.zeros(shape, np.int32)
    packed = Codes(counts, latents.astype(np.uint16), codes[tokens, latents].astype(np.float32))
    return Chunk(first, none, none.astype(np.int64), none, packed)


def selected(chunks: list[Chunk], d_sae: int, seed: int = 0) -> Any:
    totals = Totals(d_sae)
    for each in chunks:
        totals.add(each)
    selection = Selection(totals.maximum, 5, seed)
    for each in chunks:
        selection.add(each)
    return selection


def test_every_firing_of_an_interval_is_as_likely_to_be_shown() -> None:
    latents, places = 3000, 40
    codes = np.ones((places, latents))
    chosen = selected([chunk(0, codes)], latents).result()
    sampled = (chosen.lists >> 9 & 1).astype(bool)
    assert sampled.sum() == 5 * latents
    counts = np.bincount(chosen.places[sampled], minlength=places)
    expected = 5 * latents / places
    # of the sum of squares: mean 39 · (1 - 5/40), and a chance of 1e-6 to be above twice that
    assert ((counts - expected) ** 2 / expected).sum() < 80
    pairs = np.bincount(chosen.places[sampled].reshape(latents, 5).min(1), minlength=places)
    assert pairs[0] == pytest.approx(expected, rel=0.2)


def test_another_seed_draws_other_examples_but_the_same_strongest() -> None:
    draw = np.random.default_rng(0)
    codes = draw.random((400, 6))
    one, other = (selected([chunk(0, codes)], 6, seed).result() for seed in (0, 1))
    top = [{*zip(c.latents[c.lists >> 10 & 1 > 0], c.places[c.lists >> 10 & 1 > 0], strict=True)} for c in (one, other)]
    assert top[0] == top[1]
    assert {*zip(one.latents, one.places, strict=True)} != {*zip(other.latents, other.places, strict=True)}


def test_what_is_shown_does_not_depend_on_order_or_pieces() -> None:
    draw = np.random.default_rng(1)
    codes = draw.exponential(size=(960, 12)) * (draw.random((960, 12)) < 0.3)
    codes = np.round(codes, 1)  # many equal values
    whole = selected([chunk(0, codes)], 12)
    parts = [chunk(w, codes[w * 8 : (w + n) * 8]) for w, n in ((0, 1), (1, 50), (51, 9), (60, 60))]
    pieces = selected(parts, 12)
    for a, b in zip(whole.result(), pieces.result(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (whole.histogram == pieces.histogram).all()
    sampled = [
        {*zip(c.latents[c.lists & 1023 > 0], c.places[c.lists & 1023 > 0], strict=True)}
        for c in (whole.result(), selected(parts[::-1], 12).result())
    ]
    assert sampled[0] == sampled[1]


@pytest.mark.parametrize("scale", [1.0, 0.37, 1e-20, 3e30])
def test_a_value_at_the_end_of_a_bin_is_in_it(scale: float) -> None:
    most = np.float32(50 * scale)
    for bins in (10, 50):
        edges = np.float64(most) * (np.arange(bins + 1) / bins)
        exact = edges[edges.astype(np.float32) == edges][1:].astype(np.float32)
        where = [edges.tolist().index(float(value)) - 1 for value in exact]
        assert bin_of(exact, np.full_like(exact, most), bins).tolist() == where
        assert where[-1] == bins - 1
        above = np.nextafter(exact[:-1], np.float32(np.inf))
        assert bin_of(above, np.full_like(above, most), bins).tolist() == [i + 1 for i in where[:-1]]


def test_of_equal_values_the_first_is_shown() -> None:
    draw = np.random.default_rng(2)
    codes = np.round(draw.random((800, 9)), 1)  # windows of eight tokens
    chosen = selected([chunk(w, codes[w * 8 : (w + 20) * 8]) for w in range(0, 100, 20)], 9).result()
    for latent in range(9):
        windows = codes[:, latent].reshape(100, 8)
        best = np.argsort(-windows.max(1), kind="stable")[:20]
        shown = chosen.places[(chosen.latents == latent) & (chosen.lists >> 10 & 1 > 0)]
        assert shown.tolist() == sorted((best * 8 + windows[best].argmax(1)).tolist())


def test_correlations_of_a_part_of_the_text_are_estimates_and_say_so(
    run: Path, dense: Dense, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    products = int((np.count_nonzero(dense.counted, axis=1) ** 2).sum())
    monkeypatch.setattr(correlation, "PRODUCTS", products // 2)
    monkeypatch.setattr(correlation, "BLOCK", 8 * 48 * 7)  # seven latents at a time
    copy = tmp_path / "run"
    shutil.copytree(run / "sae", copy / "sae")
    index = build(copy)
    some = ~dense.whole("special")
    some[1::2] = False
    with np.errstate(invalid="ignore"):
        r = np.nan_to_num(np.corrcoef(dense.codes[some].T), nan=-2)
    np.fill_diagonal(r, -2)
    assert index.meta["correlated"] == {"exact": False, "tokens": int(some.sum())}
    for latent in TEN:
        found = index[latent].features["correlated"]
        assert [row["latent"] for row in found] == np.argsort(-r[latent])[:3].tolist()
        assert not any(row["exact"] for row in found)


def test_an_index_is_the_same_in_smaller_pieces_and_where_torch_cannot_multiply_sparse_matrices(
    run: Path, index: FeatureIndex, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    monkeypatch.setattr(correlation, "BLOCK", 8 * 48 * 20)
    monkeypatch.setattr(correlation, "DENSE", 100)
    monkeypatch.setattr("kanary.features.neurons.ROWS", 7)
    monkeypatch.setattr("kanary.features.text.KEPT", 0)
    shutil.copytree(run / "sae", tmp_path / "run" / "sae")
    other = build(tmp_path / "run")
    for latent in TEN:
        a, b = (each[latent].features["correlated"] for each in (index, other))
        assert [row["latent"] for row in a] == [row["latent"] for row in b]
        assert [row["correlation"] for row in a] == pytest.approx([row["correlation"] for row in b], abs=1e-6)
        assert other[latent].neurons == index[latent].neurons, "however few latents are compared with them at a time"
        assert other[latent].examples == index[latent].examples, "however few windows are kept"


# --- as data ----------------------------------------------------------------------------------------------------------


def test_a_latent_that_never_fires_has_no_examples_and_no_numbers_that_do_not_exist(index: FeatureIndex) -> None:
    feature = index[DEAD]
    assert (feature.fired, feature.density, feature.maximum, feature.mean_active) == (0, 0, 0, None)
    assert feature.examples == feature.top == ()
    assert [interval.count for interval in feature.intervals] == [0] * 10
    assert feature.features["correlated"] == []
    assert feature.features["similar"]
    assert "fires nowhere" in feature._repr_html_()
    json.dumps(feature.to_json(), allow_nan=False)


def test_every_feature_is_json_with_the_promised_fields(index: FeatureIndex) -> None:
    fields = "latent d_sae label sae tokens fired density maximum mean_active histogram examples top intervals logits"
    fields += " neurons features twins functions concepts explanation human"
    example = "window document position focus value tokens special starts activations effects repeats in"
    for feature in index:
        found = json.loads(json.dumps(feature.to_json(), allow_nan=False))
        assert list(found) == fields.split()
        assert all(list(e) == example.split() for e in found["examples"])
        assert {i for interval in found["intervals"] for i in interval["examples"]} | {*found["top"]} == {
            *range(len(found["examples"]))
        }


def test_an_index_is_a_sequence_with_columns(index: FeatureIndex, dense: Dense) -> None:
    assert len(index) == 48
    assert isinstance(index[-1], Feature)
    assert index[-1].latent == DEAD
    with pytest.raises(IndexError):
        index[48]
    columns = index.columns()
    assert columns["fired"].tolist() == np.count_nonzero(dense.counted, axis=0).tolist()
    assert set(columns) >= {"density", "maximum", "fired", "mean_active", "skewness", "kurtosis"}
    assert all(len(column) == 48 for column in columns.values())
    assert index.meta["dead"] == int((columns["fired"] == 0).sum()) >= 1


def test_a_document_is_whole_as_far_as_it_was_read(index: FeatureIndex, dense: Dense, tiny_lm: LanguageModel) -> None:
    text = open_lines(dense)
    for number in (0, 7, 30):
        found = index.document(number)
        assert found["id"] == number
        assert "".join(found["tokens"]) == text[number]
        assert found["ids"] == tiny_lm.tokenizer(text[number], add_special_tokens=False)["input_ids"]


def open_lines(dense: Dense) -> list[str]:
    path = Path(str(dense.sae.config.trained_on["text"]))
    return [json.loads(line)["text"] for line in path.read_text().splitlines()]


def test_notebooks_show_features(index: FeatureIndex) -> None:
    shown = index[3]._repr_html_()
    assert "Feature 3" in shown
    assert shown.count("<tr>") == 10
    assert "latents" in index._repr_html_()


def test_a_feature_prints_as_one_short_line(index: FeatureIndex) -> None:
    assert repr(index[3]).startswith("Feature 3 of 48 (fires on ")
    assert len(repr(index[3])) < 200
    assert "\n" not in repr(index[3])


def test_a_run_that_was_moved_is_named_where_it_is(run: Path, index: FeatureIndex, tmp_path: Path) -> None:
    assert index.meta["sae"]["run"] == str(run)
    moved = shutil.copytree(run, tmp_path / "moved")
    assert FeatureIndex.open(moved)[3].sae["run"] == str(moved)


def test_an_index_of_less_text_than_was_asked_for_says_so(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run / "sae", copy / "sae")
    common = ("--part", "all", "--effects", "none", "--device", "cpu")
    assert "tokens (the text has no more): " in kanary("index", str(copy), "--tokens", "1M", *common).out
    assert "no more" not in kanary("index", str(copy), "--tokens", "300", *common).out


def test_the_batches_that_the_model_read_make_no_difference(run: Path, index: FeatureIndex, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run / "sae", copy / "sae")
    other = build(copy, lm_batch=1)
    assert other.meta["windows"] == index.meta["windows"]
    for latent in TEN:
        assert other[latent].fired == index[latent].fired
        assert [e.window for e in other[latent].examples] == [e.window for e in index[latent].examples]
        assert other[latent].maximum == pytest.approx(index[latent].maximum, rel=1e-5)
