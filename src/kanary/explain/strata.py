"""Strata of density: features of several SAEs are compared where they fire about as often, because scores depend on it."""

import math
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from kanary.errors import KanaryError

EDGES = (0.0, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Shares of tokens on which a feature fires."""
NAMES = tuple(f"{low:g} to {high:g}" for low, high in pairwise(EDGES))
"""From rare to frequent."""
ALL = "all"
MIDDLES = dict(zip(NAMES, (math.sqrt(max(low, EDGES[1] / 10) * high) for low, high in pairwise(EDGES)), strict=True))

Densities = NDArray[np.float64]


def of(density: float) -> str:
    """The name of the stratum."""
    return NAMES[int(np.searchsorted(EDGES[1:-1], density))]


def matched(densities: Mapping[str, Densities], count: int, seed: int) -> tuple[dict[str, list[int]], dict[str, int]]:
    """For every SAE the latents, as many of each stratum and ``count`` in all (fewer where there are not so many); and how
    many of each.

    Args:
        densities: by SAE, ``[d_sae]``.

    Raises:
        KanaryError: no stratum has features of every SAE.
    """
    draw = np.random.default_rng([seed, 41])
    inside = {
        name: {sae: np.flatnonzero((density > low) & (density <= high)) for sae, density in densities.items()}
        for name, (low, high) in zip(NAMES, pairwise(EDGES), strict=True)
    }
    room = {name: min(map(len, each.values())) for name, each in inside.items()}
    total = sum(room.values())
    if not total:
        raise KanaryError(
            "No stratum of density has features of every SAE: they cannot be compared feature by feature."
        )
    sizes = _shares(room, min(count, total))
    found: dict[str, list[int]] = {sae: [] for sae in densities}
    for name, each in inside.items():
        for sae, latents in each.items():
            found[sae] += np.sort(draw.choice(latents, sizes[name], replace=False)).tolist()
    return found, {name: n for name, n in sizes.items() if n}


def _shares(room: Mapping[str, int], count: int) -> dict[str, int]:
    """``count`` in proportion to ``room``; what rounding down leaves goes to those that it took most from."""
    exact = {name: count * n / sum(room.values()) for name, n in room.items()}
    found = {name: int(share) for name, share in exact.items()}
    by_loss = sorted(exact, key=lambda name: found[name] - exact[name])
    return found | {name: found[name] + 1 for name in by_loss[: count - sum(found.values())]}
