"""A pool: a large piece of the stream of activations, from which shuffled batches are drawn."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class ActivationBatch:
    """Activations of ``n`` tokens in random order, and where each token came from."""

    x: dict[str, Tensor]  # site → [n, width], the numbers as harvested (raw, dtype of the source)
    tokens: Tensor  # [n] int64: vocabulary id
    documents: Tensor  # [n] int64: which document of the text
    positions: Tensor  # [n] int32: index of the token in its document, from 0

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class Pool:
    """``n`` consecutive rows of a source. Special tokens are not among them.

    ``state`` and ``after`` are plain JSON values: ``source.pools(pool.state)`` gives this pool once more, bit for bit,
    ``source.pools(pool.after)`` the next one. A checkpoint needs ``state`` and a batch number, no activations.
    """

    index: int
    x: dict[str, Tensor]  # site → [n, width]
    tokens: Tensor  # [n] int64, on the CPU like documents and positions
    documents: Tensor  # [n] int64
    positions: Tensor  # [n] int32
    state: dict[str, Any] = field(repr=False)
    after: dict[str, Any] = field(repr=False)

    def __len__(self) -> int:
        return len(self.tokens)

    def batches(self, size: int, seed: int, *, start: int = 0, partial: bool = False) -> Iterator[ActivationBatch]:
        """Batches of ``size`` rows in an order that depends on ``seed`` and ``index`` alone; every row at most once.

        Args:
            start: batches to leave out at the front (they are not read), to go on after a stop.
            partial: also give the rows left over when ``size`` does not divide the pool, as a smaller last batch.
        """
        order = torch.randperm(len(self), generator=generator("pool", seed, self.index))
        orders = {x.device: order.to(x.device) for x in self.x.values()}
        end = len(self) if partial else len(self) - len(self) % size
        for a in range(start * size, end, size):
            rows = order[a : a + size]
            yield ActivationBatch(
                {site: x.index_select(0, orders[x.device][a : a + size]) for site, x in self.x.items()},
                self.tokens[rows],
                self.documents[rows],
                self.positions[rows],
            )


def generator(name: str, *numbers: int) -> torch.Generator:
    """A random generator that depends on ``name`` and ``numbers`` alone, so that nothing random needs saving."""
    digest = hashlib.blake2b("/".join([name, *map(str, numbers)]).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
