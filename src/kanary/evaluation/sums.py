"""Sums over tokens from which every number and its interval are computed, in memory that does not grow with the tokens."""

import torch
from torch import Tensor

from kanary.activations.pool import generator

GROUPS = 512
"""Windows are dealt in turn into so many groups; the bootstrap draws groups. Fewer windows are a group each."""
RESAMPLES = 1000


class Sums:
    """Named sums over tokens, kept apart by group of windows, in float64 on the CPU."""

    def __init__(self) -> None:
        self.columns: dict[str, Tensor] = {}

    def add(self, first_window: int, **sums: Tensor) -> None:
        """Adds one value or vector per window.

        Args:
            first_window: number of the first of these windows in the evaluation.
            sums: name -> ``[windows]`` or ``[windows, size]``.
        """
        for name, values in sums.items():
            values = values.to("cpu", torch.float64)
            groups = torch.arange(first_window, first_window + len(values)) % GROUPS
            if name not in self.columns:
                self.columns[name] = torch.zeros(GROUPS, *values.shape[1:], dtype=torch.float64)
            self.columns[name].index_add_(0, groups, values)

    def resampled(self, draws: Tensor) -> dict[str, Tensor]:
        """Sums under ``draws [resamples, GROUPS]``: ``[resamples]`` or ``[resamples, size]`` per name."""
        return {name: draws @ values for name, values in self.columns.items()}


def bootstrap(windows: int, seed: int) -> Tensor:
    """How often each group of ``windows`` windows is drawn: ``[1 + RESAMPLES, GROUPS]``; row 0 is the sample itself."""
    groups = min(windows, GROUPS)
    draws = torch.randint(groups, (RESAMPLES, groups), generator=generator("bootstrap", seed))
    counts = torch.zeros(1 + RESAMPLES, GROUPS, dtype=torch.float64)
    counts[0, :groups] = 1
    counts[1:].scatter_add_(1, draws, torch.ones(draws.shape, dtype=torch.float64))
    return counts


def by_window(values: Tensor, window: Tensor, windows: int) -> Tensor:
    """Sums of ``values [tokens, ...]`` over the tokens of each window: ``[windows, ...]`` float64.

    Args:
        window: ``[tokens]`` int64, the window that each token is in.
    """
    zeros = torch.zeros(windows, *values.shape[1:], dtype=torch.float64, device=values.device)
    return zeros.index_add_(0, window, values.double())
