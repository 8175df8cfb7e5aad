"""bench/kan_layers.py: its lines at tiny sizes, and its arithmetic beside the real modules and the documentation."""

import argparse
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from kanary.sae.cost import flops as counted

ROOT = Path(__file__).parent.parent
SMALL = ["--d=16", "--width=64", "--batch=24", "--k=3", "--rounds=2", "--threads=1"]


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / "bench"))
    yield importlib.import_module("kan_layers")
    sys.path.remove(str(ROOT / "bench"))


@pytest.fixture(scope="module")
def lines(bench: ModuleType) -> list[dict[str, Any]]:
    """What a run at tiny sizes prints; memory in this process, because a new one for every part takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        written: list[str] = []
        threads = torch.get_num_threads()
        patch.setattr(bench, "peak_of_its_own", bench.peak)
        patch.setattr(bench, "print", lambda text, **_: written.append(text), raising=False)
        patch.setattr(sys, "argv", ["kan_layers.py", "--json", *SMALL])
        bench.main()
        torch.set_num_threads(threads)
    return [json.loads(line) for line in written]


def test_every_part_has_its_line_with_ratios_and_memory(bench: ModuleType, lines: list[dict[str, Any]]) -> None:
    assert [line["part"] for line in lines] == bench.part_names()
    assert {*bench.TARGETS, *bench.FLOP_TARGETS, "linear", "mlp"} <= {line["part"] for line in lines}
    for line in lines:
        assert line["ratio"] > 0
        assert line["ratio_sae"] > 0
        assert line["peak_mb"] >= 0


def test_targets_are_judged_by_medians_of_paired_ratios(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "peak_of_its_own", lambda *_: 1.0)
    a = argparse.Namespace(d=16, width=64, batch=24, k=3, rounds=3, threads=1)
    # a machine that slows down: the medians of the times say nothing, the quotients within a round are 0.9 and 1.8
    slower = {"plain": [2.0, 4.0, 40.0], "linear": [1.0, 2.0, 20.0], "part": [1.8, 3.6, 360.0]}
    taken = {run: (seconds, seconds) for run, seconds in slower.items()}
    line = bench.a_line("kan-node", bench.with_part("kan-node", 16, 64, 3), taken, a)
    assert (line["ratio"], line["ratio_sae"]) == (0.9, 1.8)
    assert (line["target"], line["met"], line["met_sae"]) == (1.15, True, False)


def test_the_target_of_a_hidden_layer_follows_from_its_flops(lines: list[dict[str, Any]]) -> None:
    hidden = next(line for line in lines if line["part"] == "kan-hidden")
    assert hidden["flop_ratio"] > 1
    assert hidden["target"] == pytest.approx(1.2 * hidden["flop_ratio"], abs=1e-3)


def test_what_is_timed_computes_every_function_and_every_gradient(bench: ModuleType) -> None:
    sizes = argparse.Namespace(d=16, width=64, batch=200, k=3)
    x = torch.randn(sizes.batch, sizes.d, generator=torch.Generator().manual_seed(0))
    for name in bench.part_names():
        sae = bench.in_training(name, x, sizes)
        bench.forward_backward(sae, sae.standardise(x))
        for key, weight in sae.named_parameters():
            assert weight.any() or key.endswith(("b_enc", "b_dec")), key
            assert weight.grad is not None, key
            assert weight.grad.any(), key


def test_the_plain_rival_computes_what_the_linear_sae_does(bench: ModuleType) -> None:
    sizes = argparse.Namespace(d=16, width=64, batch=24, k=3)
    x = torch.randn(sizes.batch, sizes.d)
    sae = bench.in_training("linear", x, sizes)
    z = sae.standardise(x)
    plain = bench.Plain(sizes.d, sizes.width, sizes.k)
    with torch.no_grad():
        plain.encoder.weight.copy_(sae.encoder.W_enc)
        plain.encoder.bias.copy_(sae.encoder.b_enc - sae.encoder.W_enc @ sae.decoder.b_dec)
        plain.W_dec.copy_(sae.decoder.W_dec)
        plain.b_dec.copy_(sae.decoder.b_dec)
    for run in (plain.forward_backward, lambda z: bench.forward_backward(sae, z)):
        run(z)
    shifted = sae.encoder.b_enc.grad[:, None] * sae.decoder.b_dec  # the linear SAE subtracts b_dec from its input
    torch.testing.assert_close(plain.encoder.weight.grad, sae.encoder.W_enc.grad + shifted)
    torch.testing.assert_close(plain.W_dec.grad, sae.decoder.W_dec.grad)


def test_a_process_of_its_own_measures_memory_that_grows_with_the_width(bench: ModuleType) -> None:
    arguments = argparse.Namespace(d=64, width=2**15, batch=32, k=2, threads=1)
    weights = 4 * 2 * 64 * 2**15 / 2**20
    assert bench.peak_of_its_own("linear", arguments) > 2 * weights  # and their gradients


@pytest.mark.parametrize("sizes", [(12, 40, 3), (20, 56, 5)])
def test_the_arithmetic_is_that_of_the_modules(bench: ModuleType, sizes: tuple[int, int, int]) -> None:
    for name in bench.COSTS:
        sae = bench.with_part(name, *sizes)
        known = bench.sizes_of(sae, sizes[2])
        assert bench.parameters(name, known) == sum(weight.numel() for weight in sae.parameters()), name
        assert bench.flops(name, known) == counted(sae, sizes[2]), name


def test_the_tables_in_the_documentation_are_those_of_the_code(bench: ModuleType) -> None:
    assert bench.arithmetic() in (ROOT / "docs" / "kan-cost.md").read_text()
    sae = bench.with_part("kan-hidden", bench.LLAMA["h"], 64, 2)
    assert bench.sizes_of(sae, 2) == {**bench.LLAMA, "n": 64, "k": 2}  # the parts' defaults
