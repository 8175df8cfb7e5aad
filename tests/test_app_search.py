"""Search finds what a reading of the whole index would, and what people write is kept."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient
from torch.nn import functional as F

import kanary
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


# --- search -------------------------------------------------------------------------------------------------------------


def latents(found: dict[str, Any]) -> list[int]:
    return [row["latent"] for row in found["rows"]]


def test_without_a_wish_all_features_come_page_by_page(local: TestClient) -> None:
    pages = [get(local, SAE_ + "/search", offset=offset, limit=10) for offset in range(0, 80, 10)]
    assert [page["total"] for page in pages] == [64] * 8
    assert [latent for page in pages for latent in latents(page)] == list(range(64))
    assert latents(get(local, SAE_ + "/search", limit=0)) == []


def test_a_row_names_the_different_tokens_on_which_its_feature_is_strongest(
    local: TestClient, index: kanary.FeatureIndex
) -> None:
    rows = get(local, SAE_ + "/search", limit=1000)["rows"]
    for row, feature in zip(rows, index, strict=True):
        strongest = [feature.examples[i] for i in feature.top]
        assert row["fires_on"] == [*dict.fromkeys(each.tokens[each.focus] for each in strongest)][:3]
    assert max(len(row["fires_on"]) for row in rows) == 3


def test_a_row_says_how_well_its_feature_marks_the_concept(
    local: TestClient, index: kanary.FeatureIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = index.columns()
    marks = np.array(["honesty.lie", None] * 32, object)
    with_concepts = {**known, "concept": marks, "f1": np.where(marks == None, np.nan, 0.36)}  # noqa: E711
    monkeypatch.setattr(kanary.FeatureIndex, "columns", lambda _: with_concepts)
    rows = get(local, SAE_ + "/search", limit=1000)["rows"]
    assert [(row["concept"], row["f1"]) for row in rows] == [("honesty.lie", 0.36), (None, None)] * 32


def test_numbers_filter_and_sort(local: TestClient, index: kanary.FeatureIndex) -> None:
    density = index.columns()["density"]
    low, high = np.quantile(density, [0.25, 0.75])
    found = get(local, SAE_ + "/search", min_density=low, max_density=high, sort="density", limit=1000)
    wanted = [i for i in range(64) if low <= density[i] <= high]
    assert latents(found) == sorted(wanted, key=lambda i: (-density[i], i))
    assert 10 < found["total"] == len(wanted) < 64
    up = get(local, SAE_ + "/search", sort="density", descending=0, limit=1000)
    assert latents(up) == sorted(range(64), key=lambda i: (density[i], i))
    assert latents(get(local, SAE_ + "/search", sort="latent", limit=3)) == [63, 62, 61]


def test_like_sorts_by_the_cosine_of_the_decoder_directions(local: TestClient, run: Path) -> None:
    W = F.normalize(SAE.from_pretrained(run / "sae" / "topk").W_dec.detach().double(), dim=1)
    cosine = W @ W[5]
    found = get(local, SAE_ + "/search", like=5, limit=1000)
    assert latents(found) == cosine.argsort(descending=True).tolist()
    assert found["rows"][0]["cosine"] == pytest.approx(1.0)
    shown = torch.tensor([row["cosine"] for row in found["rows"]]).double()
    assert torch.allclose(shown, cosine[latents(found)], atol=1e-3)


def test_a_token_finds_the_features_that_are_strongest_on_it_or_raise_it(
    local: TestClient, index: kanary.FeatureIndex
) -> None:
    fires: dict[int, set[str]] = {}
    raises: dict[int, set[str]] = {}
    for feature in index:
        fires[feature.latent] = {e.tokens[e.focus].strip().casefold() for e in feature.examples if "top" in e.lists}
        assert feature.logits is not None
        raises[feature.latent] = {each["token"].strip().casefold() for each in feature.logits["positive"]}
    words = sorted({token for tokens in fires.values() for token in tokens if len(token) > 1})
    words += sorted(set().union(*raises.values()) - {*words, ""})[:5]
    assert len(words) > 8
    for word in words[:5] + words[-5:]:
        found = get(local, SAE_ + "/search", token=f" {word.upper()}", limit=1000)
        assert latents(found) == [i for i in range(64) if word in fires[i] | raises[i]]
        assert found["total"] > 0
    assert get(local, SAE_ + "/search", token="zebra")["total"] == 0


def test_words_and_scores_find_what_people_and_explainers_wrote(own: TestClient, tmp_path: Path) -> None:
    labels = kanary.FeatureIndex.open(tmp_path / "demo", "topk").labels
    score = {"name": "detection", "value": 0.9, "low": 0.8, "high": 0.95, "n": 100}
    labels.add_explanation(3, "talk of the weather", "rule", [score], title="weather")
    labels.add_explanation(4, "rain and other weather", "rule", [score | {"value": 0.6}])
    own.put(f"{SAE_}/features/9/human", json={"text": "bad weather"})
    found = get(own, SAE_ + "/search", q="weather")
    assert sorted(latents(found)) == [3, 4, 9]
    rows = {row["latent"]: row for row in found["rows"]}
    assert [rows[i]["label"] for i in (3, 4, 9)] == ["weather", "rain and other weather", "bad weather"]
    assert [rows[i]["score"] for i in (3, 4, 9)] == [0.9, 0.6, None]
    assert latents(get(own, SAE_ + "/search", q="weather", sort="score")) == [3, 4, 9]  # no number comes last
    assert latents(get(own, SAE_ + "/search", q="weather", sort="score", descending=0)) == [4, 3, 9]
    assert latents(get(own, SAE_ + "/search", q="weather", min_score=0.8)) == [3]
    columns = get(own, SAE_ + "/columns")
    assert (columns["label"][3], columns["score"][4]) == ("weather", 0.6)


@pytest.mark.parametrize(
    "q", ['"', "'", 'a"b OR c', "NEAR(", "*", "^x", "a:b", "-", "(", "a\x00b", "%", "x" * 1000, "⟨e2⟩"]
)
def test_words_that_mean_something_to_the_database_are_only_words(own: TestClient, q: str) -> None:
    own.put(f"{SAE_}/features/1/human", json={"text": "something"})
    assert get(own, SAE_ + "/search", q=q)["total"] == 0


@pytest.mark.parametrize(
    "query",
    [
        "like=-1",
        "limit=-1",
        "limit=1001",
        "offset=-1",
        "sort=colour",
        "min_density=x",
        "like=x",
        "nothing=1",
        "q=" + "x" * 1001,
    ],
)
def test_a_search_for_what_cannot_be_is_refused(local: TestClient, query: str) -> None:
    refused(local.get(f"{SAE_}/search?{query}"), 422)


def test_a_search_like_a_feature_that_is_none_is_refused(local: TestClient) -> None:
    refused(local.get(f"{SAE_}/search?like=64"), 404)


# --- what people write --------------------------------------------------------------------------------------------------


def test_a_text_about_a_feature_is_kept_shown_and_deleted(own: TestClient, run: Path, tmp_path: Path) -> None:
    text = "<script>alert('fires on names')</script> ⟨e2⟩"
    saved = own.put(f"{SAE_}/features/7/human", json={"text": text}).json()
    assert saved["text"] == text
    feature = get(own, f"{SAE_}/features/7")
    assert (feature["human"], feature["label"]) == (saved, text)
    with client(tmp_path / "demo") as another:
        assert get(another, f"{SAE_}/features/7")["human"] == saved
    assert own.put(f"{SAE_}/features/7/human", json={"text": "  "}).json() == {"text": "", "edited": None}
    assert get(own, f"{SAE_}/features/7")["human"] is None
    refused(own.put(f"{SAE_}/features/64/human", json={"text": "x"}), 404)
    refused(own.put(f"{SAE_}/features/7/human", json={"text": "x" * 10_001}), 409)


def test_of_two_writers_each_is_heard_and_the_text_is_that_of_one(run: Path, tmp_path: Path) -> None:
    """Two servers of one run, as two people may start them, write at once."""
    folder = copied(run, tmp_path / "demo")
    answers: dict[str, list[int]] = {"ann": [], "bob": []}

    def write(name: str, own: TestClient) -> None:
        for number in range(15):
            answer = own.put(f"{SAE_}/features/{number % 3}/human", json={"text": f"{name} {number}"})
            answers[name].append(answer.status_code)
            own.put(f"{SAE_}/lists/{name}", json={"latents": [number]})

    with client(folder) as one, client(folder) as other:
        threads = [threading.Thread(target=write, args=each) for each in zip(answers, (one, other), strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == {"ann": [200] * 15, "bob": [200] * 15}
    with client(folder) as own:
        for latent in range(3):
            assert get(own, f"{SAE_}/features/{latent}")["human"]["text"] in (
                f"ann {12 + latent}",
                f"bob {12 + latent}",
            )
        assert get(own, SAE_ + "/lists") == {"ann": [14], "bob": [14]}
        assert sorted(latents(get(own, SAE_ + "/search", q="ann bob"))) == []
        assert get(own, SAE_ + "/search", q="1")["total"] == 3


def test_lists_are_kept_replaced_and_deleted(own: TestClient) -> None:
    assert get(own, SAE_ + "/lists") == {}
    assert own.put(f"{SAE_}/lists/my%20list%20ü", json={"latents": [5, 1, 5]}).json() == {"my list ü": [5, 1]}
    own.put(f"{SAE_}/lists/other", json={"latents": []})
    own.put(f"{SAE_}/lists/other", json={"latents": [63]})
    assert get(own, SAE_ + "/lists") == {"my list ü": [5, 1], "other": [63]}
    assert own.delete(f"{SAE_}/lists/other").json() == {}
    refused(own.delete(f"{SAE_}/lists/other"), 404)
    assert get(own, SAE_ + "/lists") == {"my list ü": [5, 1]}


@pytest.mark.parametrize("name", ["a%2fb", "..%2f..%2fx", "a%5Cb", "%00", "a%0ab", "x" * 81, "%20"])
def test_a_list_of_no_usable_name_is_refused(own: TestClient, name: str) -> None:
    assert own.put(f"{SAE_}/lists/{name}", json={"latents": [1]}).status_code in (404, 405, 409, 422)
    assert get(own, SAE_ + "/lists") == {}


@pytest.mark.parametrize("latents", [[64], [-1], [1.5], ["1"], [True], [None], "1", None, {}, [2**70], [[1]]])
def test_a_list_of_what_are_no_features_is_refused(own: TestClient, latents: Any) -> None:
    assert own.put(f"{SAE_}/lists/x", json={"latents": latents}).status_code in (404, 422)
    assert get(own, SAE_ + "/lists") == {}
