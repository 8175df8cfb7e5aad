"""Trains the SAE of one cell, and says what that took."""

import ctypes
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from kanary.activations.source import ActivationSource
from kanary.sae import SAE
from kanary.training.config import TrainConfig
from kanary.training.fit import fit

NAME = "sae"
_STATUS, _FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Trained(NamedTuple):
    """An SAE and its training."""

    sae: SAE
    seconds: float
    """By the clock: other work on the machine counts too."""
    cpu_seconds: float
    """Of this process."""
    peak_mb: float | None
    """Memory at most above what was held before; None where the system does not say."""


def train(config: TrainConfig, source: ActivationSource, scratch: Path) -> Trained:
    """Trains from the beginning; ``scratch`` is a folder of this cell alone, and is removed.

    Raises:
        KanaryError: training broke down (NaN; then its cause is a FloatingPointError).
        KeyboardInterrupt: asked to stop.
    """
    shutil.rmtree(scratch, ignore_errors=True)  # of a process that was killed
    try:
        with _peak(source.device) as peak:
            began, worked = time.perf_counter(), time.process_time()
            found = fit({NAME: config}, source, scratch)
            took = time.perf_counter() - began, time.process_time() - worked
        if found.ending == "interrupted":
            raise KeyboardInterrupt
        return Trained(found.learners[NAME].sae.eval(), *took, peak[0] if peak else None)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _peak(device: torch.device) -> Iterator[list[float]]:
    """Afterwards the list holds the MB that were held at most, less those held at the start."""
    found: list[float] = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield found
        found.append((torch.cuda.max_memory_allocated(device) - before) / 2**20)
        return
    try:
        ctypes.CDLL(None).malloc_trim(0)  # or what earlier cells left would be used again, and not be seen
        _FORGET.write_text("5")  # Linux: the high-water mark starts anew at what is held now
        held = _most()
    except (OSError, AttributeError):
        yield found
        return
    yield found
    found.append(_most() - held)


def _most() -> float:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024
