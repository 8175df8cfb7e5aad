"""What a run will take, said before it starts: time, memory, disk."""

import time
from collections.abc import Mapping
from typing import NamedTuple

import torch

from kanary.activations.source import ActivationSource
from kanary.lm import LanguageModel
from kanary.sae.parts import TILE
from kanary.training.config import TrainConfig

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
    for each in configs.values():
        d = source.widths[each.site or source.sites[0]]
        parameters += 2 * d * each.width + each.width + d
        seconds_per_step += STEP_OVER_MATMUL * _matmul(config.batch, d, each.width, source.device)
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
