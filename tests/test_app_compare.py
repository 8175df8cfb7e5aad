"""Twins and the map of directions, against a brute-force computation."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from starlette.testclient import TestClient
from torch import Tensor
from torch.nn import functional as F

import kanary
from kanary.app import twins
from kanary.app.lanes import Stop
from kanary.app.layout import layout
from kanary.sae import SAE
from serving import client, copied, get, indexed_run
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


# --- comparing ----------------------------------------------------------------------------------------------------------


def brute_force(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    cosines = F.normalize(a.double(), dim=1) @ F.normalize(b.double(), dim=1).T
    return cosines, cosines.argmax(1)


def test_twins_are_the_most_similar_directions(local: TestClient, run: Path) -> None:
    a, b = (SAE.from_pretrained(run / "sae" / name).W_dec.detach() for name in ("topk", "batchtopk"))
    cosines, nearest = brute_force(a, b)
    found = get(local, "/api/compare", sae=["demo/topk", "demo/batchtopk"])
    assert [sae["id"] for sae in found["saes"]] == ["demo/topk", "demo/batchtopk"]
    assert {twin["a"]: twin["b"] for twin in found["twins"]} == dict(enumerate(nearest.tolist()))
    for twin in found["twins"]:
        assert twin["cosine"] == pytest.approx(float(cosines[twin["a"], twin["b"]]), abs=1e-3)
        assert twin["mutual"] == (int(cosines[:, twin["b"]].argmax()) == twin["a"])
    shown = [twin["cosine"] for twin in found["twins"]]
    assert shown == sorted(shown, reverse=True)
    (match,) = found["matches"]
    assert (match["a"], match["b"]) == ("demo/topk", "demo/batchtopk")
    assert match["mean"] == pytest.approx(float(cosines.amax(1).mean()), abs=1e-3)
    assert match["above"] == {str(least): int((cosines.amax(1) >= least).sum()) for least in (0.5, 0.7, 0.9)}
    assert match["mutual"] == sum(twin["mutual"] for twin in found["twins"])
    assert found["more"] is False
    assert found["notes"] == []


def test_an_sae_is_its_own_twin_and_a_shuffled_copy_is_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twins, "BLOCK", 1000)  # many blocks
    draw = torch.Generator().manual_seed(0)
    a = torch.randn(300, 24, generator=draw)
    order = torch.randperm(300, generator=draw)
    found = twins.best(a, a[order] * 3, Stop())
    assert torch.equal(order[found.in_b], torch.arange(300))
    assert bool(found.mutual().all())
    assert torch.allclose(found.cosine, torch.ones(300), atol=1e-5)
    assert twins.by_chance(a, Stop()) < 0.75


def test_directions_of_zero_are_similar_to_nothing() -> None:
    a, b = torch.zeros(3, 4), torch.randn(5, 4)
    assert twins.best(a, b, Stop()).cosine.tolist() == [0, 0, 0]
    found = twins.comparison([{"id": "x"}, {"id": "y"}], [b, a], Stop())
    assert [twin["cosine"] for twin in found["twins"]] == [0.0] * 5


def test_what_is_not_like_for_like_is_said() -> None:
    known = [
        {"site": "resid_post.1", "model": "m", "fingerprint": "a", "tokens": 5},
        {"site": "resid_post.2", "model": "n", "fingerprint": "b", "tokens": 5},
    ]
    said = twins.notes(known, [torch.zeros(2, 3), torch.zeros(2, 4)])
    assert len(said) == 3
    assert "the site: resid_post.1, resid_post.2." in said[0]
    assert "the model: m (a), n (b)." in said[1]
    assert "no cosine" in said[2]
    assert twins.comparison([{"id": "x"}, {"id": "y"}], [torch.randn(2, 3), torch.randn(2, 4)], Stop())["matches"] == []


@pytest.mark.parametrize(
    "query",
    [
        "",
        "?sae=demo/topk",
        "?sae=demo/topk&sae=demo/topk",
        "?sae=demo/topk&sae=nothing",
        "?sae=demo/topk&sae=" + "x" * 3000,
    ],
)
def test_a_comparison_needs_two_saes_that_are_there(local: TestClient, query: str) -> None:
    answer = local.get("/api/compare" + query)
    refused(answer, answer.status_code)
    assert answer.status_code in (404, 422)
    refused(local.get("/api/compare?" + "&".join(["sae=demo/topk"] * 7)), 422)


# --- the map ------------------------------------------------------------------------------------------------------------


def test_the_map_is_the_two_largest_principal_components() -> None:
    W = torch.randn(200, 30, generator=torch.Generator().manual_seed(1))
    W[:, 3] += 4 * torch.randn(200, generator=torch.Generator().manual_seed(2))
    W[:, 7] += 3 * torch.randn(200, generator=torch.Generator().manual_seed(3))
    x = F.normalize(W.double(), dim=1)
    x = x - x.mean(0)
    _, sizes, components = torch.linalg.svd(x, full_matrices=False)
    found = layout(W)
    expected = x @ components[:2].T
    assert torch.allclose(found.xy.double().abs(), expected.abs(), atol=1e-3)
    assert found.explained == pytest.approx(float((sizes[:2] ** 2).sum() / (sizes**2).sum()), rel=1e-4)
    assert torch.equal(layout(W).xy, found.xy)
    assert torch.allclose(layout(5 * W).xy, found.xy, atol=1e-5)  # only directions count


@pytest.mark.parametrize("shape", [(1, 5), (2, 5), (5, 1), (3, 2)])
def test_the_map_of_very_few_directions_is_finite(shape: tuple[int, int]) -> None:
    found = layout(torch.randn(shape))
    assert found.xy.shape == (shape[0], 2)
    assert bool(found.xy.isfinite().all())
