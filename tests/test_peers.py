"""Results in other libraries' words: their keys, their types, our numbers; and the order in which text is read."""

from __future__ import annotations

import json
import math
import weakref
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kanary.evaluation.peers import LIKE, shuffled
from kanary.evaluation.result import Evaluation, Metric
from kanary.text import TokenBatch
from test_tables import D_SAE, some_details, some_latents

NAN = float("nan")
GROUPS = {  # SAEBench 0.6.0, evals/core/eval_output.py
    "model_behavior_preservation": {"kl_div_score", "kl_div_with_ablation", "kl_div_with_sae"},
    "model_performance_preservation": {
        "ce_loss_score",
        "ce_loss_with_ablation",
        "ce_loss_with_sae",
        "ce_loss_without_sae",
    },
    "reconstruction_quality": {"explained_variance", "explained_variance_legacy", "mse", "cossim"},
    "shrinkage": {"l2_norm_in", "l2_norm_out", "l2_ratio", "relative_reconstruction_bias"},
    "sparsity": {"l0", "l1"},
    "token_stats": {"total_tokens_eval_reconstruction", "total_tokens_eval_sparsity_variance"},
}
MISC = {
    "freq_over_1_percent",
    "freq_over_10_percent",
    "normalized_freq_over_1_percent",
    "normalized_freq_over_10_percent",
    "average_max_encoder_cosine_sim",
    "average_max_decoder_cosine_sim",
    "frac_alive",
}
AS_CODED = {"explained_variance_saebench", "mse_saebench"}
LATENT = {
    "feature_density",
    "consistent_activation_heuristic",
    "encoder_bias",
    "encoder_norm",
    "encoder_decoder_cosine_sim",
    "max_decoder_cosine_sim",
    "max_encoder_cosine_sim",
}


def an_evaluation(**fields: Any) -> Evaluation:
    """One SAE, ``a``, each of whose metrics has a value of its own; ``cossim`` does not exist."""
    groups = {**GROUPS, "misc_metrics": MISC, "as_coded_elsewhere": AS_CODED, "extra": {"top1_agreement"}}
    counter = iter(range(1, 1000))
    metrics = {
        group: {name: Metric(float(next(counter)), 0.0, 0.0, 5) for name in sorted(names)}
        for group, names in groups.items()
    }
    metrics["reconstruction_quality"]["cossim"] = Metric(NAN, NAN, NAN, 5)
    about = {
        "site": "resid_post.2",
        "model": "m",
        "kind": "topk",
        "d_model": 4,
        "d_sae": D_SAE,
        "text": "t",
        "tokens_trained": 9,
    }
    values: dict[str, Any] = {
        "saes": {"a": metrics},
        "controls": {},
        "about": {"a": about},
        "held_out": {"text": "held", "tokens": 32000 * 127, "loss_tokens": 3200 * 127, "windows": 32000, "window": 128},
        "details": {"a": some_details()},
        "latents": {"a": some_latents()},
        **fields,
    }
    return Evaluation(**values)


def values_of(evaluation: Evaluation) -> dict[str, float]:
    found = {name: m.value for group in evaluation.saes["a"].values() for name, m in group.items()}
    return {name: -1 if math.isnan(value) else value for name, value in found.items()}


@pytest.mark.parametrize("peer", sorted(LIKE))
@pytest.mark.parametrize("encoder", [True, False])
def test_json_has_no_nan(peer: str, encoder: bool) -> None:
    evaluation = an_evaluation(latents={"a": some_latents(encoder=encoder)})
    shape = LIKE[peer].shape(evaluation, "a")
    assert json.loads(json.dumps(shape, allow_nan=False)) == shape


def test_saebench_keys_types_and_values() -> None:
    evaluation = an_evaluation()
    found = LIKE["saebench"].shape(evaluation, "a")
    strings = {"eval_type_id", "eval_id", "sae_bench_commit_hash", "sae_lens_id", "sae_lens_release_id"}
    assert set(found) == strings | {
        "eval_config",
        "datetime_epoch_millis",
        "eval_result_metrics",
        "eval_result_details",
        "sae_lens_version",
        "sae_cfg_dict",
        "eval_result_unstructured",
    }
    assert all(isinstance(found[key], str) for key in strings)
    assert found["eval_type_id"] == "core"
    assert UUID(found["eval_id"]).version == 4
    assert found["eval_id"] != LIKE["saebench"].shape(evaluation, "a")["eval_id"]
    assert 1.7e12 < found["datetime_epoch_millis"] < 1e13
    metrics = found["eval_result_metrics"]
    expected = {**GROUPS, "misc_metrics": MISC}
    expected["reconstruction_quality"] = GROUPS["reconstruction_quality"] | AS_CODED
    assert {group: set(names) for group, names in metrics.items()} == expected
    values = values_of(evaluation)
    for group, names in metrics.items():
        assert names == {name: values[name] for name in names}
        kind = int if group == "token_stats" else float
        assert all(type(value) is kind for value in names.values())


def test_saebench_says_what_was_read_in_its_own_batches() -> None:
    config = LIKE["saebench"].shape(an_evaluation(), "a")["eval_config"]
    flags = {key for key, value in config.items() if isinstance(value, bool)}
    assert {key: value for key, value in config.items() if key not in flags} == {
        "model_name": "m",
        "llm_dtype": "float32",
        "batch_size_prompts": 16,
        "n_eval_reconstruction_batches": 200,
        "n_eval_sparsity_variance_batches": 2000,
        "dataset": "held",
        "context_size": 128,
    }
    computed = ("kl", "ce_loss", "l2_norms", "sparsity_metrics", "variance_metrics")
    computed += ("featurewise_density_statistics", "featurewise_weight_based_metrics")
    assert flags == {f"compute_{name}" for name in computed} | {"exclude_special_tokens_from_reconstruction", "verbose"}
    assert {key for key in flags if not config[key]} == {"verbose"}


def test_saebench_has_one_detail_per_latent() -> None:
    evaluation = an_evaluation()
    rows = LIKE["saebench"].shape(evaluation, "a")["eval_result_details"]
    details, table = evaluation.details["a"], evaluation.latents["a"]
    assert [row["index"] for row in rows] == list(range(D_SAE))
    for i, row in enumerate(rows):
        assert set(row) == LATENT | {"index"}
        assert all(type(row[name]) is float for name in LATENT)
        fired, windows = int(details.firings[i]), int(details.windows_fired[i])
        assert row["feature_density"] == fired / details.tokens
        assert row["consistent_activation_heuristic"] == (fired / windows if windows else -1)
        assert row["encoder_decoder_cosine_sim"] == float(table.encoder_decoder_cosine[i])  # type: ignore[index]
        assert row["max_decoder_cosine_sim"] == float(table.max_decoder_cosine[i])
        assert row["max_encoder_cosine_sim"] == float(table.max_encoder_cosine[i])  # type: ignore[index]
        assert row["encoder_norm"] == float(table.encoder_norm[i])  # type: ignore[index]
        assert row["encoder_bias"] == float(table.encoder_bias[i])  # type: ignore[index]


def test_saelens_keys_and_values() -> None:
    evaluation = an_evaluation()
    found = LIKE["saelens"].shape(evaluation, "a")
    assert set(found) == {"unique_id", "sae_set", "sae_id", "eval_cfg", "metrics", "feature_metrics", "sae_cfg"}
    assert {group: set(names) for group, names in found["metrics"].items()} == GROUPS
    values = values_of(evaluation)
    assert all(value == values[name] for names in found["metrics"].values() for name, value in names.items())
    assert set(found["feature_metrics"]) == LATENT - {"max_decoder_cosine_sim", "max_encoder_cosine_sim"}
    assert all(len(column) == D_SAE for column in found["feature_metrics"].values())
    assert {"context_size", "dataset", "library_version", "git_hash", "batch_size_prompts"} < set(found["eval_cfg"])


@pytest.mark.parametrize(("peer", "key"), [("saebench", "sae_cfg_dict"), ("saelens", "sae_cfg")])
@pytest.mark.parametrize(
    ("site", "hook", "layer"),
    [
        ("resid_post.12", "blocks.12.hook_resid_post", 12),
        ("mlp_out.0", "blocks.0.hook_mlp_out", 0),
        ("module:model.layers.3", "module:model.layers.3", None),
    ],
)
def test_the_sae_is_described_in_saelens_words(peer: str, key: str, site: str, hook: str, layer: int | None) -> None:
    about = {**an_evaluation().about["a"], "site": site}
    config = LIKE[peer].shape(an_evaluation(about={"a": about}), "a")[key]
    found = {name: config[name] for name in ("architecture", "d_in", "d_sae", "hook_name", "hook_layer", "kanary")}
    assert found == {
        "architecture": "topk",
        "d_in": 4,
        "d_sae": D_SAE,
        "hook_name": hook,
        "hook_layer": layer,
        "kanary": about,
    }


@pytest.mark.parametrize("peer", sorted(LIKE))
def test_without_a_look_at_single_latents_there_are_none(peer: str) -> None:
    found = LIKE[peer].shape(an_evaluation(details={}, latents={}), "a")
    assert found["eval_result_details" if peer == "saebench" else "feature_metrics"] in ([], {})


def stream(windows: int, batch: int, log: list[int] | None = None) -> Iterator[TokenBatch]:
    """Windows of 3 tokens; every field of window ``w`` says ``w``."""
    for start in range(0, windows, batch):
        numbers = torch.arange(start, min(start + batch, windows))
        if log is not None:
            log.append(len(numbers))
        rows = numbers[:, None].expand(-1, 3).contiguous()
        yield TokenBatch(rows, rows + 1000, rows.int(), rows % 2 == 0)


def order(batches: Iterator[TokenBatch]) -> list[int]:
    return [int(row[0]) for batch in batches for row in batch.tokens]


@given(windows=st.integers(0, 60), batch=st.integers(1, 9), buffer=st.integers(1, 30), seed=st.integers(0, 9))
def test_shuffling_keeps_every_window_once_and_whole(windows: int, batch: int, buffer: int, seed: int) -> None:
    found = list(shuffled(stream(windows, batch), seed, buffer))
    assert sorted(order(iter(found))) == list(range(windows))
    assert [len(b.tokens) for b in found[:-1]] == [batch] * (len(found) - 1)
    for each in found:
        assert len(each.tokens) <= batch
        assert each.positions.dtype == torch.int32
        assert torch.equal(each.documents, each.tokens + 1000)
        assert torch.equal(each.positions, each.tokens.int())
        assert torch.equal(each.special, each.tokens % 2 == 0)


def test_the_order_depends_on_the_seed_alone() -> None:
    one, again, other = (order(shuffled(stream(200, 8), seed, 64)) for seed in (42, 42, 43))
    assert one == again
    assert one != other
    assert one != list(range(200))


def test_the_order_is_close_to_random_when_the_buffer_holds_all() -> None:
    firsts = [order(shuffled(stream(20, 4), seed, 20))[0] for seed in range(400)]
    counts = torch.bincount(torch.tensor(firsts), minlength=20)
    assert counts.min() > 5  # 20 expected of each, standard deviation 4.4
    assert counts.max() < 40


def test_windows_move_about_as_far_as_the_buffer_is_large() -> None:
    found = torch.tensor(order(shuffled(stream(2000, 8), 0, 50)))
    moved = (found - torch.arange(2000)).double()  # 50 - the wait, which is geometric with mean 50
    low, middle, high = moved.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).tolist()
    assert 5 < middle < 25  # expected 50 + 50 ln 0.5 = 15
    assert 40 < high - low < 70  # expected 50 ln 3 = 55


def test_no_more_windows_are_held_than_the_buffer_and_two_batches() -> None:
    read: list[int] = []
    given_out = 0
    for batch in shuffled(stream(1000, 8, read), 0, 64):
        assert sum(read) - given_out <= 64 + 2 * 8
        given_out += len(batch.tokens)
    assert given_out == 1000


def test_a_held_window_does_not_hold_its_batch_in_memory() -> None:
    alive: list[weakref.ref[Any]] = []

    def batches() -> Iterator[TokenBatch]:
        for _ in range(50):
            memory = np.zeros((8, 3), dtype=np.int64)  # lives as long as a tensor, or a view of it, uses it
            alive.append(weakref.ref(memory))
            tokens = torch.from_numpy(memory)
            del memory
            yield TokenBatch(tokens, tokens, tokens.int(), tokens == 0)

    for _ in shuffled(batches(), 0, 64):
        assert sum(each() is not None for each in alive) <= 2


@pytest.mark.parametrize(("peer", "loss_batches", "batches"), [("saebench", 200, 2000), ("saelens", 10, 10)])
def test_peers_sample_in_whole_batches(peer: str, loss_batches: int, batches: int) -> None:
    found = LIKE[peer]
    assert (found.window, found.batch, found.seed) == (128, 16, 42)
    assert (found.loss_tokens, found.tokens) == (loss_batches * 2048, batches * 2048)
    assert found.loss_tokens <= found.tokens
