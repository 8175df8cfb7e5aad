"""Tokens counted by how many latents fire on them: as over all of them at once, in bars of equally many numbers."""

from itertools import pairwise

import numpy as np
import pytest

from kanary.features.sparsity import Sparsity
from kanary.features.spool import Chunk, Codes


def chunk(first: int, codes: np.ndarray, ids: np.ndarray) -> Chunk:
    """Windows of 8 tokens with the dense ``codes [tokens, d_sae]``."""
    at, latents = codes.nonzero()
    counts = np.bincount(at, minlength=len(codes)).astype(np.int32)
    none = np.zeros((len(codes) // 8, 8), np.int32)
    packed = Codes(counts, latents.astype(np.uint16), codes[at, latents])
    return Chunk(first, ids.reshape(-1, 8), none.astype(np.int64), none, packed)


@pytest.mark.parametrize("density", [0.001, 0.02, 0.6])
def test_tokens_are_counted_by_their_active_latents(density: float) -> None:
    draw = np.random.default_rng(3)
    shares = density * draw.random(960) ** 2
    codes = (draw.random((960, 700)) < shares[:, None]).astype(np.float32)
    ids = draw.integers(0, 6, 960).astype(np.int32)
    codes[ids < 2] = 0  # as everywhere: nothing is read at special tokens
    found = Sparsity(700, {0, 1})
    for first, end in ((0, 3), (3, 70), (70, 120)):
        found.add(chunk(first, codes[first * 8 : end * 8], ids[first * 8 : end * 8]))
    l0, active = found.result(), np.count_nonzero(codes, axis=1)[ids >= 2]
    assert l0.tokens == len(active)
    assert l0.mean == pytest.approx(active.mean(), rel=1e-12)
    assert [l0.p5, l0.median, l0.p95] == np.quantile(active, [0.05, 0.5, 0.95], method="inverted_cdf").tolist()
    assert [int(((active >= a) & (active < b)).sum()) for a, b in pairwise(l0.edges)] == list(l0.counts)
    assert sum(l0.counts) == l0.tokens
    assert len(l0.counts) <= 60
    assert len({b - a for a, b in pairwise(l0.edges)}) == 1
