"""Runs, features and documents: every address, against what the index and the run's files say."""

import base64
import gzip
import json
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient

import kanary
from kanary.app import api
from kanary.app.answers import Refused
from kanary.app.api import chosen
from kanary.app.export import FILLED, SLOT, html
from kanary.app.library import Kept, Library
from kanary.app.packing import packed
from kanary.errors import KanaryError
from kanary.features.formats import shared
from kanary.features.rounding import rounded
from kanary.sae import SAE
from serving import SAE_, client, copied, get, indexed_run
from test_app_guard import refused


@pytest.fixture(scope="module")
def run(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return indexed_run(tiny_llama, tmp_path_factory)


@pytest.fixture(scope="module")
def local(run: Path) -> Iterator[TestClient]:
    with client(run) as found:
        yield found


@pytest.fixture
def own(run: Path, tmp_path: Path) -> Iterator[TestClient]:
    """Of a copy of the run, to write into."""
    with client(copied(run, tmp_path / "demo")) as found:
        yield found


@pytest.fixture(scope="module")
def index(run: Path) -> kanary.FeatureIndex:
    return kanary.FeatureIndex.open(run, "topk")


# --- runs and SAEs ------------------------------------------------------------------------------------------------------


def test_runs_are_listed_with_their_saes_and_numbers(local: TestClient, run: Path) -> None:
    assert get(local, "/api/state") == {"version": kanary.__version__, "runs": 1, "live": True}
    (found,) = get(local, "/api/runs")
    assert (found["id"], found["folder"]) == ("demo", str(run.resolve()))
    saes = {sae["name"]: sae for sae in found["saes"]}
    assert saes.keys() == {"topk", "batchtopk"}
    metrics = json.loads((run / "metrics.json").read_text())["saes"]
    for name, sae in saes.items():
        assert sae["id"] == f"demo/{name}"
        assert (sae["kind"], sae["encoder"], sae["decoder"], sae["width"]) == (name, "linear", "linear", 64)
        assert (sae["site"], sae["where"], sae["indexed"]) == ("resid_post.1", "after block 2 of 3", True)
        flat = {key: metric for group in metrics[name].values() for key, metric in group.items()}
        assert (sae["l0"], sae["dead"]) == (flat["l0"]["value"], flat["dead_share"]["value"])
        assert (sae["ev"], sae["ce_score"]) == (flat["explained_variance"], flat["ce_loss_score"])
        assert sae["digest"] == SAE.from_pretrained(run / "sae" / name).digest()


def test_an_sae_is_its_index_and_its_numbers(local: TestClient, index: kanary.FeatureIndex) -> None:
    found = get(local, SAE_)
    assert found.pop("numbers")["id"] == "demo/topk"
    assert found == index.meta


def test_a_run_that_appears_is_seen_without_a_restart_and_names_are_made_safe(run: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    copied(run, runs / "demo")
    with client(runs) as found:
        assert len(get(found, "/api/runs")) == 1
        copied(run, runs / 'my <run> "ünd" #1?')
        ids = [each["id"] for each in get(found, "/api/runs")]
        assert len(set(ids)) == 2
        for id in ids:
            assert re.fullmatch(r"[A-Za-z0-9_.-]+", id)
            assert get(found, f"/api/saes/{id}/topk/features/1")["latent"] == 1


def test_two_runs_of_one_name_have_two_ids(run: Path, tmp_path: Path) -> None:
    library = Library([copied(run, tmp_path / "a" / "demo"), copied(run, tmp_path / "b" / "demo")])
    assert set(library.entries) == {"demo/topk", "demo/batchtopk", "demo-2/topk", "demo-2/batchtopk"}


def test_the_sae_of_a_run_with_one_is_called_as_elsewhere(run: Path, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    copied(run / "sae" / "topk", tmp_path / "one" / "sae")
    assert set(Library([tmp_path / "one"]).entries) == {"one/topk"}
    assert set(Library([run / "sae" / "batchtopk"]).entries) == {"batchtopk/batchtopk"}


def test_damaged_saes_are_left_out_and_no_sae_at_all_is_an_error(run: Path, tmp_path: Path) -> None:
    folder = copied(run, tmp_path / "demo")
    config = folder / "sae" / "topk" / "config.json"
    for damage in ("", "[]", "{}", '{"encoder": 5}', config.read_text().replace('"trained_on": {', '"other": {')):
        config.write_text(damage)
        assert set(Library([folder]).entries) == {"demo/batchtopk"}
    with pytest.raises(KanaryError, match="no SAE in"):
        Library([tmp_path / "demo" / "checkpoints"])
    with pytest.raises(KanaryError, match="is not a folder"):
        Library([tmp_path / "nowhere"])


def test_without_an_index_it_is_said_how_to_make_one(run: Path, tmp_path: Path) -> None:
    folder = copied(run, tmp_path / "demo")
    (folder / "index" / "topk" / "index.json").unlink()
    with client(folder) as found:
        assert [sae["indexed"] for sae in get(found, "/api/runs")[0]["saes"]].count(False) == 1
        for path in (
            "",
            "/columns",
            "/features/0",
            "/search",
            "/lists",
            "/documents/1?latent=0",
            "/export.html?features=0",
        ):
            answer = found.get(SAE_ + path)
            assert "no index" in refused(answer, 404)
            assert answer.json()["fix"] == f"Build it: kanary index {folder}"


def test_an_index_of_other_weights_and_a_damaged_one_are_refused_by_name(run: Path, tmp_path: Path) -> None:
    folder = copied(run, tmp_path / "demo")
    meta = folder / "index" / "topk" / "index.json"
    whole = meta.read_text()
    digest = json.loads(whole)["sae"]["digest"]
    with client(folder) as found:
        meta.write_text(whole.replace(digest, "0" * 16))
        os.utime(meta.parent, ns=(1, 1))
        assert "other weights" in refused(found.get(SAE_ + "/features/0"), 409)
        meta.write_text("{")
        os.utime(meta.parent, ns=(2, 2))
        assert "not JSON" in refused(found.get(SAE_ + "/features/0"), 409)
        meta.write_text(whole)
        os.utime(meta.parent, ns=(3, 3))
        assert found.get(SAE_ + "/features/0").status_code == 200
    arrays = folder / "index" / "topk" / "features.safetensors"
    arrays.write_bytes(arrays.read_bytes()[:-100])
    with client(folder) as found:
        assert "damaged" in refused(found.get(SAE_ + "/features/0"), 409)


# --- features -----------------------------------------------------------------------------------------------------------


def test_a_feature_is_what_the_index_says(local: TestClient, index: kanary.FeatureIndex) -> None:
    for latent in (0, 17, 63):
        assert get(local, f"{SAE_}/features/{latent}") == json.loads(json.dumps(index[latent].to_json()))


@pytest.mark.parametrize("latent", ["64", "99999999999", str(10**30), "-1", "1.5", "x", "0x1", "1e3", "", "%20", "١"])
def test_a_feature_that_is_none_is_refused(local: TestClient, latent: str) -> None:
    answer = local.get(f"{SAE_}/features/{latent}")
    refused(answer, answer.status_code)
    assert answer.status_code in (404, 422)


def test_columns_are_those_of_the_index_and_null_where_there_is_no_number(
    local: TestClient, index: kanary.FeatureIndex
) -> None:
    found = get(local, SAE_ + "/columns")
    own = index.columns()
    for name in ("density", "maximum"):
        assert np.allclose(np.array(found[name], float), own[name], rtol=1e-3)
    assert found["fired"] == own["fired"].tolist()
    assert {len(found[name]) for name in ("density", "label", "best_concept", "score", "x", "y")} == {64}
    assert found["score"] == [None] * 64
    assert found["map"]["method"].startswith("PCA")
    assert 0 < found["map"]["explained"] < 1


def test_moments_of_the_logit_weights_are_those_of_every_feature(local: TestClient, index: kanary.FeatureIndex) -> None:
    found = get(local, SAE_ + "/logit-moments")
    assert found.keys() == {"std", "skewness", "kurtosis"}
    for name, values in found.items():
        told = [logits[name] for feature in index if (logits := feature.logits)]
        assert len(told) == 64
        assert values == pytest.approx(told, rel=1e-3)


def test_a_document_has_the_values_that_examples_show_of_it(local: TestClient, index: kanary.FeatureIndex) -> None:
    compared = 0
    for latent in range(0, 64, 4):
        for example in index[latent].examples[:2]:
            found = get(local, f"{SAE_}/documents/{example.document}", latent=latent)
            assert found["tokens"] == index.document(example.document)["tokens"]
            assert found["of"] == len(found["tokens"])
            assert found["tokens"][example.position] == example.tokens[example.focus]
            values = dict(found["activations"])
            assert values[example.position] == pytest.approx(example.value, rel=1e-3)
            compared += 1
    assert compared > 10


def test_a_document_that_is_not_there_is_refused(local: TestClient) -> None:
    for id in ("100000", str(2**53), str(2**53 + 1), "-1", "x"):
        answer = local.get(f"{SAE_}/documents/{id}?latent=0")
        refused(answer, answer.status_code)
        assert answer.status_code in (404, 409, 422)
    refused(local.get(f"{SAE_}/documents/1?latent=64"), 404)
    refused(local.get(f"{SAE_}/documents/1"), 422)


# --- files --------------------------------------------------------------------------------------------------------------


def test_an_exported_file_holds_what_was_asked_for_and_no_token_can_end_its_data(
    index: kanary.FeatureIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "export.html").write_text(f"<html><body>{SLOT}<script>page</script></body>")
    evil = "</script><script>alert(1)</script><!--"
    monkeypatch.setattr(index, "meta", index.meta | {"evil": evil})
    file = html(index, [3, 1], tmp_path)
    assert evil not in file
    before, after = FILLED.split("{}")
    data = file.removeprefix(f"<html><body>{before}").removesuffix(f"{after}<script>page</script></body>")
    assert re.fullmatch(r"[A-Za-z0-9+/=]+", data)
    found = json.loads(gzip.decompress(base64.b64decode(data)))
    assert found["saes"][0]["evil"] == evil
    told = [index[i].to_json() for i in (3, 1)]
    assert found == json.loads("".join(packed(found["saes"], [each | {"sae": shared(each["sae"])} for each in told])))


def test_without_its_page_or_with_a_damaged_one_nothing_is_exported(index: kanary.FeatureIndex, tmp_path: Path) -> None:
    with pytest.raises(KanaryError, match="without its page"):
        html(index, [1], tmp_path)
    (tmp_path / "export.html").write_text("<html>")
    with pytest.raises(KanaryError, match="damaged"):
        html(index, [1], tmp_path)


def test_numbers_and_ranges_choose_features(index: kanary.FeatureIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(index, "1,5,10:13, 5") == [1, 5, 10, 11, 12]
    for text in (str(len(index)), f"0:{len(index) + 1}", "", ",", "x", "-1", "5:5", "1:2:3", "0:999999999"):
        with pytest.raises(Refused) as error:
            chosen(index, text)
        assert error.value.status_code == 422
        assert str(index.folder.parent) not in error.value.detail
    monkeypatch.setattr(api, "MOST_EXPORTED", 3)
    assert len(chosen(index, "0:3")) == 3
    with pytest.raises(Refused, match="4 are asked for"):
        chosen(index, "0:4")


def test_the_built_page_is_served_with_its_kinds_and_asked_for_anew(run: Path, tmp_path: Path) -> None:
    for name in ("index.html", "app.js", "app.css"):
        (tmp_path / name).write_text(name)
    with client(run, static=tmp_path) as found:
        kinds = {
            path: found.get(path).headers["content-type"].partition(";")[0] for path in ("/", "/app.js", "/app.css")
        }
        assert kinds == {"/": "text/html", "/app.js": "text/javascript", "/app.css": "text/css"}
        answer = found.get("/app.js")
        assert answer.headers["cache-control"] == "no-cache"
        again = found.get("/app.js", headers={"if-none-match": answer.headers["etag"]})
        assert again.status_code == 304
        refused(found.get("/nothing.js"), 404)


def test_without_a_built_page_the_first_page_says_how_to_build_it(run: Path, tmp_path: Path) -> None:
    with client(run, static=tmp_path) as found:
        assert "npm run build" in found.get("/").text


# --- small parts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exponent", range(-275, 301, 25))
def test_rounded_numbers_have_four_digits_and_differ_by_less_than_half_the_last(exponent: int) -> None:
    values = np.random.default_rng(0).uniform(-1, 1, 200) * 10.0**exponent
    found = rounded(values)
    for value, shown in zip(values.tolist(), found, strict=True):
        assert shown is not None
        assert abs(shown - value) <= 0.5001e-3 * abs(value)
        assert float(f"{shown:.4g}") == pytest.approx(shown, rel=1e-12)
    assert rounded(np.array([np.nan, np.inf, -np.inf, 0.0, -0.0])) == [None, None, None, 0, 0]
    assert rounded(torch.tensor([])) == []


def test_what_is_kept_is_made_once_whoever_asks_and_forgotten_when_others_were_asked_for() -> None:
    kept: Kept[int] = Kept(2)
    made: list[str] = []

    def make(key: str) -> int:
        return kept.get(key, lambda: made.append(key) or len(made))  # type: ignore[func-returns-value]

    threads = [threading.Thread(target=make, args=("a",)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == ["a"]
    for key in "babcb":
        make(key)
    assert made == ["a", "b", "c"]
    make("a")
    assert made == ["a", "b", "c", "a"]
