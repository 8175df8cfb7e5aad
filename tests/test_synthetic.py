"""Planted features fire, add up and turn as asked; what an SAE finds of them is what brute force finds."""

import json
import math
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from kanary.errors import KanaryError
from kanary.lab.recovery import Recovery, controls, recovery, true_sae
from kanary.lab.synthetic import BLOCK, CHILDREN, INTENSITY, SyntheticActivations, SyntheticConfig, spread
from kanary.sae import SAE, SAEConfig, SparseCodes
from kanary.training.config import TrainConfig
from kanary.training.fit import fit

LOW, HIGH = INTENSITY
EASY = {"features": 24, "d_model": 32, "active": 3.0, "directions": "spread", "noise": 0.02}


def made(**fields: Any) -> SyntheticActivations:
    return SyntheticActivations(SyntheticConfig(**fields))


def sample(source: SyntheticActivations, n: int, **options: Any) -> tuple[Tensor, SparseCodes]:
    return next(source.batches(n, **options))


def fired(source: SyntheticActivations, n: int) -> np.ndarray:
    """``[n, features]`` float64, 1 where a feature fires."""
    return (sample(source, n)[1].to_dense() > 0).double().numpy()


def correlations(on: np.ndarray) -> np.ndarray:
    found = np.corrcoef(on.T)
    np.fill_diagonal(found, 0)
    return found


def close(share: np.ndarray, expected: np.ndarray, n: int) -> bool:
    """Whether shares of n samples lie within 4.5 standard errors of what is expected (once in 150,000 they do not)."""
    return bool((np.abs(share - expected) <= 4.5 * np.sqrt(expected * (1 - expected) / n)).all())


# --- when features fire ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipf", [0.0, 0.5, 1.0])
def test_rates_follow_zipfs_law_and_add_up(zipf: float) -> None:
    source = made(features=60, d_model=4, active=4, zipf=zipf, seed=3)
    law = np.arange(1, 61) ** -zipf
    expected = 4 * law / law.sum()
    assert source.rates.numpy() == pytest.approx(expected)
    assert close(fired(source, 60_000).mean(0), expected, 60_000)


def test_features_fire_independently_unless_asked_otherwise() -> None:
    on = fired(made(features=40, d_model=4, active=6), 60_000)
    assert np.abs(correlations(on)).max() < 4.5 / 60_000**0.5
    assert on.sum(1).var() == pytest.approx((on.mean(0) * (1 - on.mean(0))).sum(), rel=0.05)


@pytest.mark.parametrize("exclusive", [True, False])
def test_a_child_fires_only_with_its_parent(exclusive: bool) -> None:
    source = made(features=50, d_model=4, active=6, hierarchy=0.5, exclusive=exclusive, seed=1)
    on, n = fired(source, 60_000), 60_000
    children = [i for i, parent in enumerate(source.parent.tolist()) if parent >= 0]
    assert children == list(range(source.roots, 50))
    assert len(children) == 24  # of 25 asked for: families of four
    assert (on[:, children] <= on[:, source.parent[children].numpy()]).all()
    assert on.sum(1).mean() == pytest.approx(6, abs=0.1)
    assert close(on.mean(0), source.rates.numpy(), n)
    law = np.arange(1, 5) ** -0.5
    for parent in source.parents.tolist():
        family = [i for i in children if source.parent[i] == parent]
        assert len(family) == CHILDREN
        there = on[on[:, parent] == 1][:, family]
        assert close(there.mean(0), 0.8 * law / law.sum(), len(there))
        if exclusive:
            assert there.sum(1).max() == 1
        else:
            assert np.abs(correlations(there)).max() < 4.5 / len(there) ** 0.5
    if not exclusive:
        assert max(on[:, source.roots + 4 * i : source.roots + 4 * i + 4].sum(1).max() for i in range(6)) > 1


def test_partners_fire_together_as_often_as_asked() -> None:
    source = made(features=41, d_model=4, active=6, correlation=0.4, hierarchy=0.2, seed=2)
    on = fired(source, 60_000)
    found, partner = correlations(on), source.partner.tolist()
    assert close(on.mean(0), source.rates.numpy(), 60_000)  # rates are as without correlation
    assert (source.rates - made(features=41, d_model=4, active=6, hierarchy=0.2, seed=2).rates).abs().max() == 0
    paired = [i for i, other in enumerate(partner) if other >= 0]
    assert len(paired) == (source.roots - len(source.parents)) // 2 * 2
    assert all(partner[partner[i]] == i and source.parent[i] < 0 and i not in source.parents for i in paired)
    assert found[paired, [partner[i] for i in paired]] == pytest.approx(np.full(len(paired), 0.4), abs=0.035)
    roots = found[: source.roots, : source.roots].copy()
    roots[paired, [partner[i] for i in paired]] = 0
    assert np.abs(roots).max() < 4.5 / 60_000**0.5


def test_perfectly_correlated_features_fire_as_one() -> None:
    source = made(features=10, d_model=4, active=2, zipf=0, correlation=1.0)
    on = fired(source, 5000)
    assert (on == on[:, source.partner.numpy()]).all()


# --- what they add up to --------------------------------------------------------------------------------------------


def test_an_activation_is_the_sum_of_what_fires() -> None:
    source = made(features=30, d_model=7, active=4, hierarchy=0.4, seed=5)
    x, truth = sample(source, 3000)
    assert torch.allclose(x.double(), truth.to_dense().double() @ source.directions.double(), atol=1e-5)
    assert torch.allclose(source.directions.norm(dim=1), torch.ones(30), atol=1e-6)
    assert LOW <= float(truth.values.min()) < LOW + 0.01
    assert HIGH - 0.01 < float(truth.values.max()) <= HIGH
    assert float(truth.values.double().mean()) == pytest.approx((LOW + HIGH) / 2, abs=0.02)


def test_curved_features_add_the_direction_of_their_intensity() -> None:
    source = made(features=20, d_model=6, active=3, curved=0.5, turn=2.0, seed=4)
    x, truth = sample(source, 40)
    for n in range(40):
        fires = truth[n]
        pairs = zip(fires.indices.tolist(), fires.values.tolist(), strict=True)
        expected = sum((a * source.directions_at(a)[i].double() for i, a in pairs), torch.zeros(6).double())
        assert torch.allclose(x[n].double(), expected, atol=1e-5)


@pytest.mark.parametrize("turn", [0.3, math.pi / 2, 3.0])
def test_directions_turn_in_a_plane_by_the_angle_asked_for(turn: float) -> None:
    source = made(features=8, d_model=16, active=1.0, curved=0.5, turn=turn)
    at = {a: source.directions_at(a).double() for a in (LOW, 0.75, 1.0, 1.25, HIGH)}
    cosine = (at[LOW] * at[HIGH]).sum(1)
    curved = source.is_curved
    assert int(curved.sum()) == 4
    assert cosine[curved].tolist() == pytest.approx([math.cos(turn)] * 4, abs=1e-6)
    assert all(torch.equal(each[~curved], source.directions[~curved].double()) for each in at.values())
    assert torch.allclose(at[1.0], source.directions.double(), atol=1e-6)
    quarter = (at[LOW] * at[0.75]).sum(1)[curved]  # equal steps of intensity are equal angles
    assert quarter.tolist() == pytest.approx([math.cos(turn / 4)] * 4, abs=1e-6)
    arc = torch.stack(list(at.values()))[:, curved]  # [intensities, curved, d_model]
    assert all(torch.linalg.svdvals(arc[:, i])[2] < 1e-5 for i in range(4))  # two dimensions hold the whole arc
    assert all(torch.allclose(each.norm(dim=1), torch.ones(8).double(), atol=1e-6) for each in at.values())


def test_noise_has_the_length_asked_for_in_every_dimension() -> None:
    fields = {"features": 16, "d_model": 16, "active": 3.0, "directions": "spread", "zipf": 0.0}
    source = made(**fields, noise=0.5)
    x, truth = sample(source, 40_000)
    signal = truth.to_dense() @ source.directions
    noise = (x - signal).double().numpy()
    assert (noise**2).sum(1).mean() / float(signal.double().square().sum(1).mean()) == pytest.approx(0.25, rel=0.02)
    assert (noise**2).mean(0) == pytest.approx(np.full(16, source.noise_std**2), rel=0.05)
    assert np.abs(correlations(noise)).max() < 0.03


def test_spread_directions_are_orthogonal_if_they_fit_and_else_further_apart_than_random_ones() -> None:
    few = made(features=10, d_model=10, active=1.0, directions="spread").directions
    assert torch.allclose(few @ few.T, torch.eye(10), atol=1e-5)
    random = made(features=80, d_model=20).directions
    apart = spread(random)
    worst = [float((each @ each.T).fill_diagonal_(0).abs().max()) for each in (random, apart)]
    assert torch.allclose(apart.norm(dim=1), torch.ones(80), atol=1e-5)
    assert worst[1] >= math.sqrt((80 - 20) / (20 * 79)) - 1e-4  # Welch: no 80 directions are further apart
    assert worst[1] < 0.65 * worst[0]


# --- the stream -----------------------------------------------------------------------------------------------------

FULL: dict[str, Any] = {
    "features": 40, "d_model": 5, "active": 4.0, "hierarchy": 0.4, "correlation": 0.3, "noise": 0.1, "curved": 0.3,
}  # fmt: skip


def test_the_same_seed_gives_the_same_data_and_another_seed_or_stream_others() -> None:
    x, truth = sample(made(**FULL), 500)
    again, same = sample(made(**FULL), 500)
    assert torch.equal(x, again)
    assert torch.equal(truth.indices, same.indices)
    assert torch.equal(truth.values, same.values)
    assert not torch.equal(made(**FULL).directions, made(**FULL, seed=1).directions)
    plain = {"features": 40, "d_model": 5, "active": 4.0}  # rates that do not depend on the seed
    one, two = (sample(made(**plain, seed=seed), 500)[1] for seed in (0, 1))
    assert not torch.equal(one.offsets, two.offsets)
    other, _ = sample(made(**FULL), 500, stream="other")
    assert not torch.isclose(x, other).all(1).any()
    later, _ = sample(made(**FULL), 500, start=BLOCK)
    assert not torch.isclose(x, later).all(1).any()


@settings(max_examples=8, deadline=None)
@given(batch=st.integers(1, 3 * BLOCK), start=st.integers(0, 2 * BLOCK))
def test_samples_do_not_depend_on_the_size_of_batches(batch: int, start: int) -> None:
    source = made(**FULL)
    batches = list(islice(source.batches(batch, start=start), 2))
    whole_x, whole = sample(source, start + 2 * batch)
    assert [len(x) for x, _ in batches] == [truth.tokens for _, truth in batches] == [batch, batch]
    assert torch.equal(torch.cat([x for x, _ in batches]), whole_x[start:])
    for number, (_, truth) in enumerate(batches):
        expected = whole[start + number * batch : start + (number + 1) * batch]
        assert torch.equal(truth.indices, expected.indices)
        assert torch.equal(truth.values, expected.values)
        assert torch.equal(truth.offsets, expected.offsets)


def test_pools_are_the_stream_and_go_on_where_they_stopped() -> None:
    source = SyntheticActivations(SyntheticConfig(**FULL), pool=1000, batch=64, site="toy")
    first, second, third = islice(source.pools(), 3)
    assert source.pool_rows == 1024 == len(first)
    assert source.widths == {"toy": 5}
    x, _ = sample(source, 3 * 1024)
    assert torch.equal(torch.cat([p.x["toy"] for p in (first, second, third)]), x)
    assert torch.equal(next(source.pools(second.state)).x["toy"], second.x["toy"])
    saved = json.loads(json.dumps(second.after))
    assert torch.equal(next(source.pools(saved)).x["toy"], third.x["toy"])
    assert third.index == next(source.pools(second.after)).index == 2
    assert third.documents.tolist() == list(range(2048, 3072))
    with pytest.raises(KanaryError, match="Start a new run"):
        next(made(**FULL, seed=1).pools(second.state))
    with pytest.raises(KanaryError, match="Start a new run"):
        next(SyntheticActivations(SyntheticConfig(**FULL), pool=2048).pools(second.state))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"features": 0}, "features=0 must be 1 or more"),
        ({"d_model": 1, "curved": 0.5}, "d_model=1 must be 2 or more"),
        ({"hierarchy": 0.9}, "hierarchy=0.9 must be between 0 and 0.8"),
        ({"correlation": 1.5}, "correlation=1.5"),
        ({"noise": math.nan}, "noise=nan"),
        ({"turn": -1.0}, "turn=-1"),
        ({"active": 0.0}, "active=0.0 must be above 0"),
        ({"directions": "rndom"}, "Did you mean 'random'"),
        ({"features": 10, "active": 9.0, "zipf": 1.0}, "active must be below 2.929"),
        ({"features": 10, "active": 1.0, "zipf": 1.0, "correlation": 0.9}, "at most 0.6"),
    ],
)
def test_features_that_cannot_be_are_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(KanaryError, match=says):
        made(**fields)


def test_the_limits_that_errors_name_are_possible() -> None:
    source = made(features=10, d_model=3, active=2.92, zipf=1.0)
    assert 0.99 < float(source.rates.max()) < 1
    assert close(fired(source, 5000).mean(0), source.rates.numpy(), 5000)
    with pytest.raises(KanaryError, match="batch=0"):
        next(source.batches(0))


# --- what an SAE finds ----------------------------------------------------------------------------------------------


def by_hand(sae: SAE, source: SyntheticActivations, tokens: int, seed: int) -> dict[str, Any]:
    """What recovery should find, from dense matrices and plain loops."""
    x, truth = sample(source, tokens, stream=f"recovery {seed}")
    values = sae.encode(x).to_dense().double().numpy()
    on, codes = truth.to_dense().numpy() > 0, values != 0
    half = tokens // 2

    def f1(a: np.ndarray, b: np.ndarray) -> float:
        return float(2 * (a & b).sum() / max(1, a.sum() + b.sum()))

    first = np.array([[f1(on[:half, f], codes[:half, j]) for j in range(sae.d_sae)] for f in range(source.features)])
    best_feature = [int(first[:, j].argmax()) if first[:, j].max() > 0 else -1 for j in range(sae.d_sae)]
    rows = []
    for f in range(source.features):
        own = [
            j
            for j in range(sae.d_sae)
            if best_feature[j] == f and (on[:half, f] & codes[:half, j]).sum() >= 0.5 * codes[:half, j].sum()
        ]
        there = on[half:, f]
        latent = int(first[f].argmax()) if first[f].max() > 0 else -1
        said = codes[half:, latent] if latent >= 0 else np.zeros_like(there)
        value = values[half:, latent] if latent >= 0 else np.zeros(len(there))
        wins = (value[there][:, None] > value[~there]) + 0.5 * (value[there][:, None] == value[~there])
        rows.append(
            {
                "latent": latent,
                "precision": (said & there).sum() / max(1, said.sum()),
                "recall": (said & there).sum() / there.sum(),
                "f1": f1(said, there),
                "auroc": wins.mean(),
                "latents": len(own),
                "covered": (codes[half:][:, own].any(1) & there).sum() / there.sum(),
            }
        )
    x_hat, exact = sae(x).double().numpy(), x.double().numpy()
    return {
        "rows": rows,
        "uniqueness": len(set(best_feature) - {-1}) / sae.d_sae,
        "l0": codes.sum(1).mean(),
        "true_l0": on.sum(1).mean(),
        "explained_variance": 1 - ((exact - x_hat) ** 2).sum() / ((exact - exact.mean(0)) ** 2).sum(),
    }


def rough_sae(source: SyntheticActivations, seed: int = 0) -> SAE:
    """Planted directions and random ones mixed, with latents that always, sometimes and never fire."""
    sae = SAE(SAEConfig(source.d_model, 18, sparsifier={"name": "jumprelu"}))
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        directions = torch.cat([source.directions[:8], source.directions_at(LOW)[4:8]])
        random = torch.randn(18 - len(directions), source.d_model, generator=draw)
        sae.decoder.begin(F.normalize(torch.cat([directions, random]), dim=1))
        sae.encoder.tie(sae.decoder.W_dec)
        sae.encoder.raise_by(torch.cat([torch.zeros(15), torch.tensor([-99.0, 99.0, 0.3])]))
    return sae


@pytest.mark.parametrize("seed", range(5))
def test_scores_are_those_of_brute_force(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    source = made(features=12, d_model=6, active=3, curved=0.5, noise=0.1, seed=seed)
    sae = rough_sae(source, seed)
    monkeypatch.setattr("kanary.lab.recovery._ROWS", 100)  # several pieces, the last one smaller
    with torch.no_grad():
        found, expected = recovery(sae, source, 701, seed=4), by_hand(sae, source, 701, 4)
    for name in ("uniqueness", "l0", "true_l0", "explained_variance"):
        assert getattr(found, name) == pytest.approx(expected[name], abs=1e-5), name
    for name in expected["rows"][0]:
        column = [row[name] for row in expected["rows"]]
        assert getattr(found.scores, name).tolist() == pytest.approx(column, abs=1e-9), name
    for which, kind in ((source.is_curved, found.curved), (~source.is_curved, found.linear)):
        rows = [row for row, chosen in zip(expected["rows"], which.tolist(), strict=True) if chosen]
        assert kind.features == len(rows) == 6
        for name in ("precision", "recall", "f1", "auroc", "latents", "covered"):
            assert getattr(kind, name) == pytest.approx(np.mean([row[name] for row in rows]), abs=1e-9), name
    assert found.all.recall == pytest.approx((found.curved.recall + found.linear.recall) / 2)


def perfect(found: Recovery) -> bool:
    means = found.all
    least = min(means.precision, means.recall, means.auroc, means.covered, found.directions.mcc.value)
    return least > 0.99 and found.uniqueness == 1 and found.explained_variance > 0.98


def test_the_true_dictionary_scores_one() -> None:
    source = made(**EASY)
    found = recovery(true_sae(source), source, 20_000)
    assert perfect(found), found
    assert found.scores.latent.tolist() == list(range(24))
    assert found.l0 == pytest.approx(found.true_l0, rel=0.01)
    assert found.true_l0 == pytest.approx(3, rel=0.03)
    assert found.directions.mcc.chance.high < 0.7


def test_the_order_and_the_signs_of_latents_do_not_matter() -> None:
    source = made(**EASY)
    sae = true_sae(source)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    other = true_sae(source)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if len(parameter) == 24:
                parameter.copy_(sae.get_parameter(name)[order])
    found = recovery(other, source, 20_000)
    assert perfect(found), found
    assert torch.equal(order[found.scores.latent], torch.arange(24))
    with torch.no_grad():
        other.decoder.W_dec.neg_()
    flipped = recovery(other, source, 20_000)
    assert flipped.directions.mcc.value == pytest.approx(1, abs=1e-6)
    assert flipped.all.recall == found.all.recall  # what fires is the same
    assert flipped.explained_variance < 0  # what is written back is not


def test_controls_that_know_nothing_score_chance() -> None:
    source = made(**EASY | {"d_model": 16, "features": 48})
    rows = controls(true_sae(source), source)
    assert list(rows) == ["true dictionary", "untrained twin", "random twin"]
    for name in ("untrained twin", "random twin"):
        found = recovery(rows[name], source, 4000)
        for each in (found.directions.mcc, found.directions.a_in_b):
            assert abs(each.value - each.chance.value) < 2 * (each.chance.high - each.chance.low), name
            assert each.value < 0.75
        assert found.all.f1 < 0.6
    assert recovery(rows["true dictionary"], source, 4000).directions.mcc.value == pytest.approx(1, abs=1e-6)


def test_a_curved_feature_is_split_into_the_latents_that_share_its_arc() -> None:
    """A feature that turns by half a circle, and two latents that look for its two ends."""
    source = made(features=5, d_model=6, active=1.0, zipf=0, curved=0.2, turn=math.pi, directions="spread")
    bend = int(source.is_curved.nonzero())
    sae = SAE(SAEConfig(6, 6, sparsifier={"name": "relu"}))
    with torch.no_grad():
        ends = source.directions_at(LOW), source.directions_at(HIGH)
        sae.decoder.begin(torch.cat([ends[0], ends[1][bend : bend + 1]]))
        sae.encoder.tie(sae.decoder.W_dec)
        sae.encoder.b_enc.fill_(-1e-3)
    found = recovery(sae, source, 8000).scores
    assert found.latents[bend] == 2
    assert found.precision[bend] > 0.99
    assert found.recall[bend] == pytest.approx(0.5, abs=0.08)
    assert found.covered[bend] > 0.99
    assert found.latents.sum() == 6


def test_features_and_latents_that_never_fire_are_left_out() -> None:
    source = made(features=400, d_model=8, active=1.0, zipf=2.0)
    sae = SAE(SAEConfig(8, 5, sparsifier={"name": "relu"}))
    with torch.no_grad():
        sae.encoder.b_enc.fill_(-99.0)
    found = recovery(sae, source, 1000)
    half = sample(source, 1000, stream="recovery 0")[1][500:]
    assert found.all.features == len(half.indices.unique()) < 400
    assert found.all[1:] == (0, 0, 0, 0.5, 0, 0)
    assert (found.uniqueness, found.l0) == (0, 0)
    assert set(found.scores.latent.tolist()) == {-1}
    assert found.curved.features == 0
    assert math.isnan(found.curved.recall)


def test_recovery_leaves_the_sae_as_it_was_and_refuses_what_it_cannot_judge() -> None:
    source = made(**EASY)
    sae = SAE(
        SAEConfig(32, 24, sparsifier={"name": "batchtopk", "k": 1})
    ).train()  # in training it keeps one per sample
    with torch.no_grad():
        sae.decoder.begin(source.directions)
        sae.encoder.tie(source.directions)
        sae.sparsifier.threshold.fill_(LOW / 2)
    assert recovery(sae, source, 2000).l0 == pytest.approx(3, rel=0.1)
    assert sae.training
    with pytest.raises(KanaryError, match="tokens=1"):
        recovery(sae, source, 1)
    with pytest.raises(KanaryError, match="width 32, this SAE reads 16"):
        recovery(SAE(SAEConfig(16, 8, sparsifier={"name": "relu"})), source, 100)


def test_training_finds_the_features(tmp_path: Path) -> None:
    source = SyntheticActivations(SyntheticConfig(**EASY | {"zipf": 0.0}), pool=8192, batch=256)
    config = TrainConfig(sae="topk", k=3, width=32, tokens=300 * 256, batch=256, lr=1e-2)
    fitted = fit({"sae": config}, source, tmp_path)
    sae = fitted.learners["sae"].sae.eval()
    found = recovery(sae, source, 10_000)
    assert sae.config.trained_on["site"] == "synthetic"
    assert found.directions.mcc.value > 0.8 > found.directions.mcc.chance.high
    assert found.all.f1 > 0.7
    twin = recovery(controls(sae, source)["random twin"], source, 10_000)
    assert twin.all.f1 < found.all.f1 - 0.2
    assert twin.explained_variance < found.explained_variance
