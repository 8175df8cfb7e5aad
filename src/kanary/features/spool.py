"""The codes of the text on disk while an index is built: chunks of windows, read again as often as memory asks for it.

A firing takes 6 bytes, 8 with more than 65,536 latents. The chunks are what a stopped build goes on from.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kanary.features.arrays import Array, Arrays, write_arrays
from kanary.sae import SparseCodes

TOKENS = 2**16
"""Tokens of a chunk, about; special ones included."""


class Codes(NamedTuple):
    """The codes of one SAE for the tokens of a chunk."""

    counts: NDArray[np.int32]
    """``[tokens]``: firings of every token; none at special tokens."""
    latents: Array
    """``[firings]`` uint16 or int32, token after token, ascending within a token."""
    values: NDArray[np.float32]
    """``[firings]``"""

    @classmethod
    def of(cls, parts: Sequence[SparseCodes]) -> "Codes":
        """The codes of consecutive batches, as one."""
        dtype = np.uint16 if parts[0].d_sae <= 2**16 else np.int32
        return cls(
            np.concatenate([part.offsets.diff().cpu().numpy().astype(np.int32) for part in parts]),
            np.concatenate([part.indices.cpu().numpy().astype(dtype) for part in parts]),
            np.concatenate([part.values.detach().cpu().float().numpy() for part in parts]),
        )


class Firings(NamedTuple):
    """Firings in the order of latent, then of the text."""

    latents: NDArray[np.int64]
    places: NDArray[np.int64]
    """The place of each firing's token in the text, special tokens counted."""
    values: NDArray[np.float32]


@dataclass(frozen=True)
class Chunk:
    """Some consecutive windows and the codes of their tokens."""

    first: int
    """The number of the first window."""
    tokens: NDArray[np.int32]
    """``[windows, window]``"""
    documents: NDArray[np.int64]
    """``[windows, window]``"""
    positions: NDArray[np.int32]
    """``[windows, window]``; -1 where a separator was put in."""
    codes: Codes
    twins: tuple[Codes, ...] = ()
    """Of other SAEs."""

    @property
    def window(self) -> int:
        """Tokens per window."""
        return int(self.tokens.shape[1])

    @property
    def all_codes(self) -> tuple[Codes, ...]:
        """Its own, then those of the other SAEs."""
        return (self.codes, *self.twins)

    @cached_property
    def by_latent(self) -> Firings:
        """The firings, latent after latent."""
        places = np.arange(self.tokens.size, dtype=np.int64) + self.first * self.window
        order = np.argsort(self.codes.latents, kind="stable")  # fast because 16-bit keys are sorted by their digits
        latents = self.codes.latents[order].astype(np.int64)
        return Firings(latents, np.repeat(places, self.codes.counts)[order], self.codes.values[order])


Chunks = Callable[[], Iterator[Chunk]]
"""Gives all chunks in the order of the text, as often as it is called."""


class Spool:
    """A folder of chunks."""

    def __init__(self, folder: Path, twins: int = 0) -> None:
        self.folder, self.twins = folder, twins

    def write(self, number: int, chunk: Chunk) -> None:
        arrays: dict[str, Array] = {"first": np.array([chunk.first], np.int64)}
        arrays |= {name: getattr(chunk, name) for name in _TEXT}
        for prefix, codes in zip(self._prefixes(), chunk.all_codes, strict=True):
            arrays |= {prefix + name: array for name, array in codes._asdict().items()}
        write_arrays(self._path(number), arrays)

    def read(self, number: int) -> Chunk:
        arrays = Arrays(self._path(number))
        codes, *twins = (Codes(*(arrays[prefix + name] for name in Codes._fields)) for prefix in self._prefixes())
        tokens, documents, positions = (arrays[name] for name in _TEXT)
        return Chunk(int(arrays["first"][0]), tokens, documents, positions, codes, tuple(twins))

    def chunks(self, count: int) -> Iterator[Chunk]:
        """The first ``count`` chunks."""
        return (self.read(number) for number in range(count))

    def _prefixes(self) -> list[str]:
        return ["", *(f"twin{i}." for i in range(self.twins))]

    def _path(self, number: int) -> Path:
        return self.folder / f"chunk-{number:05}.safetensors"


_TEXT = ("tokens", "documents", "positions")
