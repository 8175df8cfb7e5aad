"""The controls are what they say they are, nothing is fitted on what it is judged on, and strangers are refused."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from by_hand import FIDELITY, LOSSES, SITE, SPARSITY, activations, flat, sae_for, windows
from kanary.errors import KanaryError
from kanary.evaluation.numbers import Sampling, numbers
from kanary.evaluation.result import Evaluation
from kanary.evaluation.standin import PCA, Calibration, Identity, Spliced, controls, random_twin, untrained_twin
from kanary.lm import LanguageModel
from kanary.sae import SAE, SparseCodes
from kanary.text import TextSource, TokenBatch, Windows, open_text
from planted import KINDS, planted
from runs import write_stories

SAMPLING = Sampling(window=32, lm_batch=8, tokens=3_000, loss_tokens=1_500, seed=3)


@pytest.fixture(scope="module")
def text_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stories(tmp_path_factory.mktemp("text") / "stories.jsonl", 600)


@pytest.fixture(scope="module")
def text(text_path: Path) -> TextSource:
    return open_text(text_path)


@pytest.fixture(scope="module")
def found(tiny_lm: LanguageModel, text: TextSource) -> Evaluation:
    saes = {"a": sae_for(tiny_lm), "b": sae_for(tiny_lm, "relu", 1, "mlp_out.0"), "c": sae_for(tiny_lm, seed=2)}
    saes["a"].remember(model="m", revision="r", fingerprint="f", text="t", text_fingerprint="tf", seed=7, tokens=123)
    return judged(tiny_lm, text, saes, SAMPLING)


def judged(lm: LanguageModel, text: TextSource, saes: Mapping[str, SAE], sampling: Sampling) -> Evaluation:
    evaluation, rows = numbers(lm, text, saes, sampling)
    assert set(rows) == set(evaluation.controls)
    return evaluation


def fitted(x: Tensor, pieces: int = 3) -> Calibration:
    calibration = Calibration(x.shape[1])
    for piece in x.chunk(pieces):
        calibration.add(piece)
    return calibration


def explained(x: Tensor, x_hat: Tensor) -> float:
    x, x_hat = x.double(), x_hat.detach().double()
    return 1 - float((x - x_hat).square().sum() / (x - x.mean(0)).square().sum())


# moments and principal components


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 200), st.integers(1, 12), st.integers(1, 9), st.integers(0, 2**31))
def test_moments_are_those_of_float64_however_the_tokens_come(n: int, width: int, pieces: int, seed: int) -> None:
    x = 50 + torch.randn(n, width, generator=torch.Generator().manual_seed(seed))
    calibration = fitted(x, pieces)
    exact = x.double().numpy()
    assert calibration.n == n
    np.testing.assert_allclose(calibration.mean.numpy(), exact.mean(0), rtol=1e-12)
    covariance = np.atleast_2d(np.cov(exact.T, bias=True))
    values = np.linalg.eigvalsh(covariance)[::-1]
    for k in {1, width}:
        basis = calibration.components(k).numpy()
        np.testing.assert_allclose(basis.T @ basis, np.eye(k), atol=1e-10)
        caught = np.sort(np.diag(basis.T @ covariance @ basis))[::-1]
        np.testing.assert_allclose(caught, values[:k], rtol=1e-6, atol=1e-9)


def test_the_sample_is_of_the_first_tokens_and_bounded() -> None:
    x = planted(6000)
    assert torch.equal(fitted(x, 7).sample, x[: Calibration.SAMPLE])
    assert torch.equal(fitted(x[:100]).sample, x[:100])
    assert fitted(x[:100].bfloat16()).sample.dtype == torch.bfloat16


@pytest.mark.parametrize("k", [1, 3, 8, 15])
def test_pca_is_the_best_projection_of_its_size(k: int) -> None:
    x = planted(3000)
    pca = fitted(x).pca(SITE, k)
    mine = explained(x, pca(x)[0])
    values = np.linalg.eigvalsh(np.cov(x.double().numpy().T, bias=True))[::-1]
    assert mine == pytest.approx(values[:k].sum() / values.sum(), abs=1e-6)
    draw = torch.Generator().manual_seed(0)
    for _ in range(20):
        others = torch.linalg.qr(torch.randn(16, k, generator=draw)).Q
        near = torch.linalg.qr(pca.basis + 0.05 * torch.randn(16, k, generator=draw)).Q
        for basis in (others, near):
            assert explained(x, PCA(SITE, pca.mean, basis)(x)[0]) < mine
        assert explained(x, PCA(SITE, pca.mean + 0.3 * torch.randn(16, generator=draw), pca.basis)(x)[0]) < mine


def test_pca_with_every_component_is_the_identity() -> None:
    x = planted(500)
    for k in (16, 40):
        pca = fitted(x).pca(SITE, k)
        assert pca.k == 16
        torch.testing.assert_close(pca(x)[0], x, rtol=1e-5, atol=1e-5)


def test_stand_ins_return_what_came_in_type_and_shape(tiny_lm: LanguageModel) -> None:
    x = activations(tiny_lm, windows())
    for dtype in (torch.float32, torch.bfloat16):
        for standin in (Identity(SITE), fitted(x).pca(SITE, 3), Spliced(SITE, sae_for(tiny_lm))):
            made, codes = standin(x.to(dtype))
            assert made.dtype == dtype
            assert made.shape == x.shape
            assert (codes is not None) == isinstance(standin, Spliced)
    same, _ = Identity(SITE)(x)
    assert torch.equal(same, x)
    assert same.data_ptr() != x.data_ptr()


# twins


@pytest.mark.parametrize("kind", KINDS)
def test_an_untrained_twin_has_the_same_parts_and_fresh_weights(tiny_lm: LanguageModel, kind: str) -> None:
    sae, x = sae_for(tiny_lm, kind), activations(tiny_lm, windows())
    before = sae.digest()
    twin = untrained_twin(sae, x, seed=1)
    assert sae.digest() == before
    assert not twin.training
    for part in ("encoder", "sparsifier", "decoder"):
        assert getattr(twin, part).describe() == getattr(sae, part).describe()
    assert (twin.d_model, twin.d_sae) == (sae.d_model, sae.d_sae)
    assert sum(p.numel() for p in twin.parameters()) == sum(p.numel() for p in sae.parameters())
    assert (twin.W_dec * sae.W_dec).sum(1).abs().max() < 0.99
    torch.testing.assert_close(twin.W_dec.norm(dim=1), torch.ones(40))
    assert untrained_twin(sae, x, seed=1).digest() == twin.digest()
    assert untrained_twin(sae, x, seed=2).digest() != twin.digest()
    assert 0 < explained(x, twin(x)) < 0.99, "a fair start: neither broken nor trained"
    unseen = activations(tiny_lm, windows(seed=5))
    l0 = twin.encode(unseen).l0().double().mean().item()
    assert 2.5 < l0 <= (4 if kind == "topk" else 6 if kind == "batchtopk" else 40)


def test_a_random_twin_has_the_same_size_and_sparsity_but_directions_of_its_own(tiny_lm: LanguageModel) -> None:
    sae, x = sae_for(tiny_lm, "relu"), activations(tiny_lm, windows())
    twin = random_twin(sae, x, seed=1)
    k = round(sae.encode(x).l0().double().mean().item())
    assert (twin.encode(x).l0() <= k).all()
    assert twin.encode(x).l0().double().mean() > 0.7 * k
    assert twin.d_sae == sae.d_sae
    torch.testing.assert_close(twin.W_dec.norm(dim=1), torch.ones(40))
    assert torch.equal(twin.scale, sae.scale)
    assert torch.equal(twin.decoder.b_dec, sae.decoder.b_dec)
    assert (twin.W_dec * sae.W_dec).sum(1).abs().max() < 0.99
    assert torch.equal(random_twin(sae, x, seed=1).W_dec, twin.W_dec)
    assert not torch.equal(random_twin(sae, x, seed=2).W_dec, twin.W_dec)


def test_a_random_twin_puts_out_the_size_that_fits_best(tiny_lm: LanguageModel) -> None:
    sae, x = sae_for(tiny_lm), activations(tiny_lm, windows())
    twin = random_twin(sae, x, seed=1)

    def error(factor: float) -> float:
        codes = twin.encode(x)
        scaled = SparseCodes(codes.indices, codes.values * factor, codes.offsets, codes.d_sae, codes.shape)
        return (twin.decode(scaled) - x).square().sum().item()

    assert error(1.0) < min(error(0.9), error(1.1), error(0.0))


def test_every_sae_has_its_controls_and_equal_ones_are_shared(tiny_lm: LanguageModel) -> None:
    saes = {"a": sae_for(tiny_lm), "b": sae_for(tiny_lm, seed=1), "c": sae_for(tiny_lm, "topk", 2, "mlp_out.0")}
    calibrations = {site: fitted(activations(tiny_lm, windows(), site)) for site in (SITE, "mlp_out.0")}
    rows, belong = controls(saes, calibrations, seed=0)
    identities = {"identity at resid_post.1", "identity at mlp_out.0"}
    pcas = {"PCA with 4 components at resid_post.1", "PCA with 4 components at mlp_out.0"}
    twins = {f"{what} twin of {name}" for what in ("untrained", "random") for name in saes}
    assert set(rows) == identities | pcas | twins
    for name, sae in saes.items():
        site = sae.config.trained_on["site"]
        assert belong[name] == {
            "pca": f"PCA with 4 components at {site}",
            "twins": [f"untrained twin of {name}", f"random twin of {name}"],
        }
        assert all(rows[row].site == site for row in (belong[name]["pca"], *belong[name]["twins"]))  # type: ignore[misc]


def test_pca_has_as_many_components_as_the_sae_has_active_latents(tiny_lm: LanguageModel) -> None:
    sae = sae_for(tiny_lm, "relu")
    calibration = fitted(activations(tiny_lm, windows()))
    rows, belong = controls({"it": sae}, {SITE: calibration}, seed=0)
    l0 = sae.encode(calibration.sample).l0().double().mean().item()
    pca = rows[str(belong["it"]["pca"])]
    assert isinstance(pca, PCA)
    assert pca.k == min(16, round(l0))


# all of it


def test_everything_is_measured_beside_its_controls(found: Evaluation) -> None:
    assert set(found.saes) == set(found.details) == set(found.about) == {"a", "b", "c"}
    for name, row in found.saes.items():
        assert row.keys() >= {*FIDELITY, *SPARSITY, *LOSSES, "token_stats"}
        assert {found.about[name]["pca"], *found.about[name]["twins"]} <= set(found.controls)
    for name, row in found.controls.items():
        assert row.keys() >= {*FIDELITY, *LOSSES, "sparsity"}, name
    for site in (SITE, "mlp_out.0"):
        identity = flat(found.controls[f"identity at {site}"])
        assert identity["ce_loss_score"][:3] == identity["kl_div_score"][:3] == (1.0, 1.0, 1.0)
        assert identity["fvu"].value == 0
    assert flat(found.controls["random twin of a"])["fvu"].value > 0.05


def test_the_json_is_json_and_comes_back(found: Evaluation) -> None:
    written = found.to_json()
    assert json.loads(json.dumps(written, allow_nan=False)) == written
    assert written["format"] == "kanary-metrics-1"
    assert written["controls"][f"identity at {SITE}"]["sparsity"]["l0"]["value"] is None
    assert written["saes"]["a"]["sparsity"]["l0"] == found.saes["a"]["sparsity"]["l0"]._asdict()


def test_about_says_everything(tiny_lm: LanguageModel, found: Evaluation) -> None:
    sae = sae_for(tiny_lm)
    about = dict(found.about["a"])
    known = {"model": "m", "revision": "r", "fingerprint": "f", "text": "t", "text_fingerprint": "tf", "seed": 7}
    assert {key: about[key] for key in known} == known
    assert (about["site"], about["kind"], about["encoder"], about["decoder"]) == (SITE, "topk", "linear", "linear")
    assert about["options"]["k"] == 4
    assert "name" not in about["options"]
    assert (about["d_model"], about["d_sae"], about["tokens_trained"]) == (16, 40, 123)
    assert about["parameters"] == 2 * 16 * 40 + 40 + 16
    assert about["train_flops"] == {"per_token": 2 * 16 * 40, "per_active_latent": 2 * 16 + 6 * 16}
    assert (about["encoder_options"], about["decoder_options"]) == ({}, {})
    assert about["weights"] == sae.digest()
    assert found.about["b"]["seed"] is None
    assert found.about["b"]["weights"] != about["weights"]


def test_it_says_what_it_was_measured_on(tiny_lm: LanguageModel, text: TextSource, found: Evaluation) -> None:
    held = found.held_out
    batches = list(Windows(text, tiny_lm, window=32, batch=8, part="heldout"))
    used = next(n for n in range(1, 99) if sum(b.tokens.numel() for b in batches[:n]) >= SAMPLING.tokens)
    first = next(n for n in range(1, 99) if sum(b.tokens.numel() for b in batches[:n]) >= SAMPLING.loss_tokens)
    assert held["tokens"] == sum(b.n_tokens for b in batches[:used])
    assert held["loss_tokens"] == sum(b.n_tokens for b in batches[:first])
    assert held["windows"] == 8 * used
    assert (held["part"], held["window"], held["seed"]) == ("heldout", 32, 3)
    assert (held["model"], held["fingerprint"]) == (tiny_lm.name, tiny_lm.fingerprint)
    assert (held["text"], held["text_fingerprint"]) == (text.name, text.fingerprint)
    assert held["ln_vocab"] == math.log(tiny_lm.vocab_size)
    assert held["ce_loss"] == flat(found.saes["a"])["ce_loss_without_sae"].value
    assert "'train'" in held["controls_fitted_on"]
    assert flat(found.saes["a"])["total_tokens_eval_sparsity_variance"].value == held["tokens"]


def test_controls_are_fitted_on_documents_that_are_not_measured_on(tiny_lm: LanguageModel, text: TextSource) -> None:
    read: dict[str, set[int]] = {}

    class Spy(Windows):
        def __next__(self) -> TokenBatch:
            batch = super().__next__()
            read.setdefault(self.part, set()).update(batch.documents.flatten().tolist())
            return batch

    with patch("kanary.evaluation.numbers.Windows", Spy):
        judged(tiny_lm, text, {"it": sae_for(tiny_lm)}, SAMPLING)
    assert set(read) == {"train", "heldout"}
    assert len(read["heldout"]) >= 10
    assert len(read["train"]) > 100
    assert not read["train"] & read["heldout"]
    assert all(document % 20 == 19 for document in read["heldout"])


def test_a_measurement_can_be_repeated(tiny_lm: LanguageModel, text: TextSource, found: Evaluation) -> None:
    one, again, other = (
        judged(tiny_lm, text, {"c": sae_for(tiny_lm, seed=2)}, dataclasses.replace(SAMPLING, seed=seed))
        for seed in (3, 3, 4)
    )
    assert one.to_json() == again.to_json()
    assert one.saes["c"] == found.saes["c"]
    assert repr(one.controls["random twin of c"]) == repr(found.controls["random twin of c"])
    assert flat(other.saes["c"])["fvu"].value == flat(one.saes["c"])["fvu"].value
    assert flat(other.controls["random twin of c"])["fvu"].value != flat(one.controls["random twin of c"])["fvu"].value


def test_no_losses(tiny_lm: LanguageModel, text: TextSource) -> None:
    found = judged(tiny_lm, text, {"it": sae_for(tiny_lm)}, dataclasses.replace(SAMPLING, loss_tokens=0))
    assert found.held_out["loss_tokens"] == 0
    assert found.held_out["ce_loss"] is None
    assert found.held_out["control_tokens"] == found.held_out["tokens"]
    assert all(not row.keys() & LOSSES.keys() for row in [*found.saes.values(), *found.controls.values()])
    assert len(found.controls) == 4
    assert json.dumps(found.to_json(), allow_nan=False)


# texts that are short


def text_of(folder: Path, documents: list[str]) -> TextSource:
    path = folder / "text.jsonl"
    path.write_text("".join(json.dumps({"text": document}) + "\n" for document in documents))
    return open_text(path)


def test_a_text_of_one_document_can_be_judged_on_as_a_whole(tiny_lm: LanguageModel, tmp_path: Path) -> None:
    text = text_of(tmp_path, ["Once upon a time there was a little girl named Lily. " * 60])
    found = judged(tiny_lm, text, {"it": sae_for(tiny_lm)}, dataclasses.replace(SAMPLING, part="all"))
    assert found.held_out["part"] == "all"
    assert found.held_out["tokens"] > 300
    assert "the evaluated text itself" in found.held_out["controls_fitted_on"]
    with pytest.raises(KanaryError, match=r"shorter than a window: its part 'heldout' .* window has 32"):
        judged(tiny_lm, text, {"it": sae_for(tiny_lm)}, SAMPLING)


@pytest.mark.parametrize("other", ["", "a"])
def test_where_too_little_other_text_is_left_the_controls_are_fitted_on_the_same_and_that_is_said(
    tiny_lm: LanguageModel, tmp_path: Path, other: str
) -> None:
    """Nineteen documents of no or one token: principal components of 16 dimensions cannot be had from those."""
    text = text_of(tmp_path, [other] * 19 + ["Once upon a time there was a big dog and a red ball. " * 60])
    found = judged(tiny_lm, text, {"it": sae_for(tiny_lm)}, SAMPLING)
    assert found.held_out["part"] == "heldout"
    assert "the evaluated text itself" in found.held_out["controls_fitted_on"]


@pytest.mark.parametrize("part", ["all", "heldout"])
def test_a_text_shorter_than_a_window_is_refused(tiny_lm: LanguageModel, tmp_path: Path, part: Any) -> None:
    text = text_of(tmp_path, ["Tom said no."] * 2)
    with pytest.raises(KanaryError, match=r"shorter than a window.*text\.jsonl.*window has 60"):
        judged(tiny_lm, text, {"it": sae_for(tiny_lm)}, dataclasses.replace(SAMPLING, part=part, window=60))


def test_windows_in_which_no_loss_counts_are_written_as_null(tiny_lm: LanguageModel, text: TextSource) -> None:
    """Two tokens per window, the first of them BOS: there are activations, but no loss."""
    found = judged(
        tiny_lm, text, {"it": sae_for(tiny_lm)}, dataclasses.replace(SAMPLING, window=2, lm_batch=64, tokens=256)
    )
    assert flat(found.saes["it"])["ce_loss_without_sae"].n == 0
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["held_out"]["ce_loss"] is None


def test_the_sae_itself_is_not_changed_by_being_measured(tiny_lm: LanguageModel, text: TextSource) -> None:
    sae: SAE = sae_for(tiny_lm, "batchtopk")
    before, facts = sae.digest(), dict(sae.config.trained_on)
    judged(tiny_lm, text, {"it": sae}, SAMPLING)
    assert sae.digest() == before
    assert dict(sae.config.trained_on) == facts
    assert not sae.training
