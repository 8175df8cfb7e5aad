"""How many latents fire on a token: over a whole text the distribution, of which L0 is the mean."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from kanary.features.spool import Chunk

BARS = 60
"""Of the histogram, at most."""


@dataclass(frozen=True)
class L0:
    """Active latents per token, over all tokens that are not special; exact."""

    tokens: int
    mean: float
    p5: int
    median: int
    p95: int
    """The smallest number that at least 5, 50 and 95 % of the tokens do not exceed."""
    edges: tuple[int, ...]
    """``[bars + 1]``: bar i counts the tokens with ``edges[i]`` to ``edges[i + 1] - 1`` active latents; all equally wide."""
    counts: tuple[int, ...]
    """``[bars]`` tokens."""


class Sparsity:
    """Counts tokens by how many latents fire on them; takes 8 bytes per latent, however long the text is."""

    def __init__(self, d_sae: int, special: Iterable[int]) -> None:
        """``special``: ids of tokens that are not counted."""
        self.special = sorted(special)
        self.counts = np.zeros(d_sae + 1, np.int64)

    def add(self, chunk: Chunk) -> None:
        counted = np.isin(chunk.tokens, self.special, invert=True).reshape(-1)
        self.counts += np.bincount(chunk.codes.counts[counted], minlength=len(self.counts))

    def result(self) -> L0:
        """Of at least one token."""
        numbers = np.arange(len(self.counts))
        tokens = int(self.counts.sum())
        below = self.counts.cumsum()
        p5, median, p95 = (int(np.searchsorted(below, q * tokens / 100)) for q in (5, 50, 95))
        low, high = (int(end) for end in self.counts.nonzero()[0][[0, -1]])
        width = -(-(high - low + 1) // BARS)
        edges = np.arange(low, high + 1 + width, width)
        padded = np.append(self.counts, np.zeros(width, np.int64))[low : edges[-1]]
        bars = padded.reshape(-1, width).sum(1)
        mean = float(numbers @ self.counts) / tokens
        return L0(tokens, mean, p5, median, p95, tuple(edges.tolist()), tuple(bars.tolist()))
