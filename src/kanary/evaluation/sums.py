"""Sums over tokens from which every number and its interval are computed, in memory that does not grow with the tokens."""

import torch
from torch import Tensor

from kanary.activations.pool import generator
from kanary.evaluation.result import Metric
from kanary.text import TokenBatch

GROUPS = 512
"""Stretches of documents are dealt into so many groups, and the bootstrap draws groups."""
STRETCH = 16_384
"""Tokens of one document that stay together: neighbours are alike, so they must not count as independent."""
FEWEST = 5
"""Groups below which there is no interval: it would be far too narrow."""
RESAMPLES = 1000


def groups_of(batch: TokenBatch) -> Tensor:
    """``[windows]`` int64: the group of every window, by the document that its first token is in and the place there."""
    keys = batch.documents[:, 0] * 1_000_003 + batch.positions[:, 1].clamp_min(0) // STRETCH
    return (keys * -7046029254386353131 >> 40) & (GROUPS - 1)  # Fibonacci hashing: neighbours fall far apart


class Sums:
    """Named sums over tokens, kept apart by group, in float64 on the CPU."""

    def __init__(self) -> None:
        self.columns: dict[str, Tensor] = {}
        self._resampled: tuple[Tensor, dict[str, Tensor]] | None = None

    def add(self, groups: Tensor, **sums: Tensor) -> None:
        """Adds one value or vector per window.

        Args:
            groups: ``[windows]``, see :func:`groups_of`.
            sums: name -> ``[windows]`` or ``[windows, size]``.
        """
        self._resampled = None
        for name, values in sums.items():
            values = values.to("cpu", torch.float64)
            if name not in self.columns:
                self.columns[name] = torch.zeros(GROUPS, *values.shape[1:], dtype=torch.float64)
            self.columns[name].index_add_(0, groups, values)

    def resampled(self, draws: Tensor) -> dict[str, Tensor]:
        """Sums under ``draws [1 + resamples, GROUPS]``: ``[1 + resamples]`` or ``[1 + resamples, size]`` per name."""
        if self._resampled is None or self._resampled[0] is not draws:
            self._resampled = draws, {name: draws @ values for name, values in self.columns.items()}
        return self._resampled[1]


def bootstrap(tokens: Tensor, seed: int) -> Tensor:
    """How often each group is drawn: ``[1 + resamples, GROUPS]``; row 0 is the sample itself.

    Args:
        tokens: ``[GROUPS]``, how many tokens are in each; where fewer than ``FEWEST`` have any, nothing is resampled.
    """
    used = tokens.nonzero().squeeze(1)
    resamples = RESAMPLES if len(used) >= FEWEST else 0
    counts = torch.zeros(1 + resamples, GROUPS, dtype=torch.float64)
    counts[0] = 1
    if resamples:
        draws = used[torch.randint(len(used), (resamples, len(used)), generator=generator("bootstrap", seed))]
        counts[1:].scatter_add_(1, draws, torch.ones(draws.shape, dtype=torch.float64))
    return counts


def estimate(values: Tensor, n: int) -> Metric:
    """A number with its 95 % interval from ``values [1 + resamples]``; resamples without one (0 / 0) are left out."""
    drawn = values[1:][values[1:].isfinite()].double()
    low, high = (float(torch.quantile(drawn, q)) if len(drawn) else float("nan") for q in (0.025, 0.975))
    return Metric(float(values[0]), low, high, n)


def by_window(values: Tensor, window: Tensor, windows: int) -> Tensor:
    """Sums of ``values [tokens, ...]`` over the tokens of each window: ``[windows, ...]`` float64.

    Args:
        window: ``[tokens]`` int64, the window that each token is in.
    """
    zeros = torch.zeros(windows, *values.shape[1:], dtype=torch.float64, device=values.device)
    return zeros.index_add_(0, window, values.double())
