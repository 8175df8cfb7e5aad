"""The values of a latent at every token of the windows in which it is shown, and how examples lie in their file."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kanary.features.arrays import Array, write_arrays
from kanary.features.selection import Chosen
from kanary.features.spool import Chunk


class Ragged(NamedTuple):
    """Numbers at some tokens of some windows, window after window."""

    offsets: NDArray[np.int64]
    """``[windows + 1]``"""
    at: Array
    """``[n]``: the place within its window."""
    values: NDArray[np.float32]

    def rows(self, which: NDArray[np.int64]) -> "Ragged":
        """Those of the windows ``which``."""
        sizes = np.diff(self.offsets)[which]
        offsets = np.concatenate([[0], sizes.cumsum()])
        source = np.repeat(self.offsets[which] - offsets[:-1], sizes) + np.arange(offsets[-1])
        return Ragged(offsets, self.at[source], self.values[source])

    @classmethod
    def placed(cls, size: int, parts: Sequence[tuple[NDArray[np.int64], "Ragged"]]) -> "Ragged":
        """Of ``size`` windows, those with numbers given by ``parts``, each with which windows they are."""
        which = np.concatenate([np.zeros(0, np.int64), *(numbers for numbers, _ in parts)])
        sizes = np.concatenate([np.zeros(0, np.int64), *(np.diff(part.offsets) for _, part in parts)])
        at = np.concatenate([np.zeros(0, np.uint16), *(part.at for _, part in parts)])
        values = np.concatenate([np.zeros(0, np.float32), *(part.values for _, part in parts)])
        row = np.full(size, len(which))  # the last one, which is empty
        row[which] = np.arange(len(which))
        return cls(np.concatenate([[0], sizes.cumsum(), [sizes.sum()]]), at, values).rows(row)


class Pairs(NamedTuple):
    """Latents in windows: every window in which a latent is shown, once."""

    latents: NDArray[np.int64]
    windows: NDArray[np.int64]
    of: NDArray[np.int64]
    """Of every example, its pair."""


def pairs_of(chosen: Chosen, window: int) -> Pairs:
    """In the order of latent, then of window."""
    windows = chosen.places // window
    new = np.ones(len(windows), bool)
    new[1:] = (chosen.latents[1:] != chosen.latents[:-1]) | (windows[1:] != windows[:-1])
    return Pairs(chosen.latents[new], windows[new], new.cumsum() - 1)


def traces(pairs: Pairs, chunks: Iterable[Chunk]) -> Ragged:
    """The values of each pair's latent in its window, where they are not zero."""
    sizes = np.zeros(len(pairs.latents), np.int64)
    found: list[tuple[Array, Array, Array]] = []
    for chunk in chunks:
        here = _within(pairs, chunk)
        firings, w = chunk.by_latent, chunk.window
        last = chunk.first + len(chunk.tokens)
        key = firings.latents * last + firings.places // w
        wanted = pairs.latents[here] * last + pairs.windows[here]
        low, high = np.searchsorted(key, wanted), np.searchsorted(key, wanted, side="right")
        sizes[here] = high - low
        shift = low - np.concatenate([[0], (high - low).cumsum()[:-1]]) if len(low) else low
        source = np.repeat(shift, high - low) + np.arange(int((high - low).sum()))
        at = (firings.places[source] % w).astype(_place_dtype(w))
        found.append((np.repeat(here, high - low).astype(np.int32), at, firings.values[source]))
    which, at, values = (np.concatenate(each) for each in zip(*found, strict=True))
    order = np.argsort(which, kind="stable")
    return Ragged(np.concatenate([[0], sizes.cumsum()]), at[order], values[order])


def write_examples(path: Path, chosen: Chosen, window: int, d_sae: int, traces: Ragged, effects: Ragged) -> None:
    """``traces`` and ``effects`` are those of the examples, one after another."""
    counts = np.bincount(chosen.latents, minlength=d_sae)
    write_arrays(
        path,
        {
            "offsets": np.concatenate([[0], counts.cumsum()]),
            "windows": (chosen.places // window).astype(np.int32),
            "focus": (chosen.places % window).astype(_place_dtype(window)),
            "values": chosen.values,
            "lists": chosen.lists,
            "activation_offsets": traces.offsets,
            "activation_at": traces.at.astype(_place_dtype(window)),
            "activation_values": traces.values,
            "effect_offsets": effects.offsets,
            "effect_at": effects.at.astype(_place_dtype(window)),
            "effect_values": effects.values,
        },
    )


def _within(pairs: Pairs, chunk: Chunk) -> NDArray[np.int64]:
    inside = (pairs.windows >= chunk.first) & (pairs.windows < chunk.first + len(chunk.tokens))
    found: NDArray[np.int64] = inside.nonzero()[0]
    return found


def _place_dtype(window: int) -> type[np.uint8] | type[np.uint16]:
    return np.uint8 if window <= 2**8 else np.uint16
