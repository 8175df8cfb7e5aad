"""What a run will take, said before it starts: time, memory, disk."""

import dataclasses
import time
from collections.abc import Mapping
from typing import NamedTuple

import torch

from kanary.activations.source import ActivationSource
from kanary.lm import LanguageModel
from kanary.sae import SAE
from kanary.sae.parts import SPARSIFIERS, TILE, option_names
from kanary.training.config import TrainConfig
from kanary.training.learner import Learner, begin

TRIAL = 2048  # latents and, a quarter of it, tokens of the steps by which other parts are held against linear ones
STEP_OVER_MATMUL = 2.2  # a training step over its encode matmul, between TopK and the dense kinds (bench/train_step.py)


class Estimate(NamedTuple):
    """Predicted cost of a run."""

    steps: int
    parameters: int  # of all SAEs together
    seconds: float
    ram: int  # bytes, on top of the language model
    gpu: int  # bytes, 0 without a GPU
    disk: int  # bytes in the run folder when it is finished


def estimate(configs: Mapping[str, TrainConfig], source: ActivationSource, lm: LanguageModel) -> Estimate:
    """Times one forward of the model and one encode matmul per width; the rest is arithmetic."""
    config = next(iter(configs.values()))
    parameters, seconds_per_step, working = 0, 0.0, 0
    ratios: dict[
        object, float
    ] = {}  # SAEs of one run differ in the seed or the sparsity more often than in their parts
    for each in configs.values():
        d = source.widths[each.site or source.sites[0]]
        parameters += _parameters(each, d)
        parts = d, each.encoder, each.decoder, each.sae, each.width, repr(each.options)
        if parts not in ratios:
            ratios[parts] = _over_linear(each, d, source.device)
        matmuls = STEP_OVER_MATMUL * ratios[parts]
        seconds_per_step += matmuls * _matmul(config.batch, d, each.width, source.device)
        working = max(working, 4 * (2 * TILE + 6 * config.batch * d + 3 * 32 * config.batch + 2 * d * each.width))
    if config.store is None:
        seconds_per_step += config.batch / _harvest_rate(source, lm)
    itemsize = 4 if lm.dtype == torch.float32 else 2
    pools = 2 * source.pool_rows * (sum(source.widths.values()) * itemsize + 20)
    memory = 16 * parameters + working + pools  # weights, gradient, two moments
    on_gpu = source.device.type == "cuda"
    checkpoints = 2 * 12 * parameters
    return Estimate(
        config.steps,
        parameters,
        config.steps * seconds_per_step,
        0 if on_gpu else memory,
        memory if on_gpu else 0,
        checkpoints + 4 * parameters,
    )


def _parameters(config: TrainConfig, d_model: int) -> int:
    """Of the real modules. They grow in proportion to the width, so that two small ones tell, whatever the size."""
    small = max(64, _active(config))
    if config.width <= 2 * small:
        return _count(config, config.width, d_model)
    few, twice = (_count(config, width, d_model) for width in (small, 2 * small))
    return few + (twice - few) * (config.width - small) // small


def _count(config: TrainConfig, width: int, d_model: int) -> int:
    sae = SAE(dataclasses.replace(config, width=width, matryoshka=()).sae_config(d_model))
    return sum(each.numel() for each in sae.parameters())


def _over_linear(config: TrainConfig, d_model: int, device: torch.device) -> float:
    """How many times as long a step takes as with a linear encoder and decoder, from a few of at most ``TRIAL`` latents."""
    if config.encoder == config.decoder == "linear":
        return 1.0
    width = min(config.width, max(TRIAL, _active(config)))
    small = dataclasses.replace(config, width=width, matryoshka=(), lr=None)
    own = option_names(SPARSIFIERS[config.sae])  # options of the other parts have no place in it
    options = {name: value for name, value in config.options.items() if name in own}
    plain = dataclasses.replace(small, encoder="linear", decoder="linear", options=options)
    return _step(small, d_model, device) / _step(plain, d_model, device)


def _active(config: TrainConfig) -> int:
    """Latents that a width must have at least, where k was given."""
    return int(config.options.get("k", config.k or 0))


def _step(config: TrainConfig, d_model: int, device: torch.device) -> float:
    """Seconds of a step in the middle of training, when all parts have joined, on noise; the best of three."""
    x = torch.randn(min(config.batch, TRIAL // 4), d_model, device=device)
    sae = SAE(config.sae_config(d_model)).to(device)
    begin(sae, x, "mean", 0)
    learner, best = Learner(sae, config), float("inf")
    for step in range(4):
        began = time.perf_counter()
        learner.step(x, config.steps // 2 + step)  # its numbers are read, so that a GPU has finished
        best = min(best, time.perf_counter() - began) if step else best
    return best


def _matmul(n: int, d: int, width: int, device: torch.device) -> float:
    """Seconds for ``[n, d] @ [d, width]``, from a slice of it."""
    rows = min(n, 512)
    x, w = torch.randn(rows, d, device=device), torch.randn(d, width, device=device)
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        (x @ w).sum().item()
        best = min(best, time.perf_counter() - began)
    return best * n / rows


def _harvest_rate(source: ActivationSource, lm: LanguageModel) -> float:
    """Tokens per second of one truncated forward."""
    tokens = torch.zeros(8, min(256, lm.context), dtype=torch.int64, device=lm.device)
    lm.capture(tokens, source.sites)
    began = time.perf_counter()
    captured = lm.capture(tokens, source.sites)
    next(iter(captured.values())).sum().item()
    return tokens.numel() / (time.perf_counter() - began)
