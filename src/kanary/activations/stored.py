"""Pools read from a store: random blocks of rows, each read once per epoch, several at a time."""

import contextlib
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kanary.activations.ahead import ahead
from kanary.activations.live import refuse_non_finite
from kanary.activations.pool import Pool, generator
from kanary.activations.source import resolve_pool
from kanary.activations.store import ActivationStore
from kanary.errors import KanaryError

_READERS = 4  # reads in flight; a disk answers several random reads faster than one after another
_BLOCK_BYTES = 2 << 20  # a block is long enough that seeking to it costs little
_BLOCKS_PER_POOL = 64  # a pool mixes rows from at least so many places, when the store has them


class StoredActivations:
    """Pools of a store's rows. Every row comes once per epoch; each epoch has its own order of blocks.

    The stream is the epochs one after another, cut into pools of ``pool_rows`` rows, so that no row is lost at the end
    of an epoch. Which rows a pool holds depends on ``seed`` and the pool's number alone.
    """

    def __init__(
        self,
        store: ActivationStore,
        sites: Sequence[str] | None = None,
        *,
        pool: int = 131_072,
        batch: int = 1,
        seed: int = 0,
        repeat: bool = True,
        overlap: bool = True,
        device: str | torch.device = "cpu",
        block: int = 0,
    ) -> None:
        """
        Args:
            sites: default: all sites of the store.
            pool: rows of a pool, rounded up to a multiple of ``batch`` (the training batch).
            repeat: go on with another epoch at the end, for ever; else the last pool is shorter.
            overlap: read the next pool in the background while one is in use. The pools are the same either way.
            device: where a pool is put once read.
            block: rows read at once; 0 = about 2 MB, 512 to 4,096 rows.

        Raises:
            KanaryError: the store lacks a site, or is empty.
        """
        self.store, self.seed, self.repeat, self.overlap = store, seed, repeat, overlap
        self.sites = store.sites if sites is None else list(sites)
        store.require(self.sites)
        if not store.n_tokens:
            raise KanaryError(f"{store.folder} holds no activations yet. Continue its harvest: kanary harvest.")
        self.widths = {site: store.widths[site] for site in self.sites}
        self.pool_rows = resolve_pool(pool, batch)
        self.device = torch.device(device)
        row = max(self.widths.values()) * store.dtype.itemsize
        self.block = block or min(max(_BLOCK_BYTES // row, 512), 4096, max(self.pool_rows // _BLOCKS_PER_POOL, 1))
        self._starts, self._lengths = _blocks(store, self.block)

    @property
    def d_model(self) -> int:
        return self.widths[self.sites[0]]

    def pools(self, start: Mapping[str, Any] | None = None) -> Generator[Pool, None, None]:
        """See :class:`ActivationSource`. Closing the generator stops its threads.

        Raises:
            KanaryError: a shard cannot be read or holds NaN (named); ``start`` comes from another store.
        """
        if start and start["store_rows"] != self.store.n_tokens:
            raise KanaryError(
                f"{self.store.folder} has {self.store.n_tokens} rows; the run to be resumed began when it had "
                f"{start['store_rows']}. Start a new run."
            )
        stop = threading.Event()
        made = self._pools(int(start["pool"]) if start else 0, stop)
        return ahead(made, stop=stop) if self.overlap else made

    def _pools(self, index: int, stop: threading.Event) -> Generator[Pool, None, None]:
        total = self.store.n_tokens
        with ThreadPoolExecutor(_READERS, thread_name_prefix="kanary-read") as readers:
            while not stop.is_set():
                first, last = index * self.pool_rows, (index + 1) * self.pool_rows
                if not self.repeat:
                    last = min(last, total)
                if first >= last:
                    return
                yield self._pool(index, first, last, readers)
                index += 1

    def _pool(self, index: int, first: int, last: int, readers: ThreadPoolExecutor) -> Pool:
        """Rows ``first`` to ``last`` of the stream."""
        rows = self.store.empty(last - first, self.sites)
        reads: list[Future[None]] = []
        for epoch in range(first // self.store.n_tokens, (last - 1) // self.store.n_tokens + 1):
            shift = epoch * self.store.n_tokens
            low, high = max(first, shift) - shift, min(last, shift + self.store.n_tokens) - shift
            for start, stop, at in self._order(epoch).between(low, high):
                for shard, a, b, offset in self.store.pieces(start, stop):
                    reads.append(readers.submit(self.store.read_piece, rows, shard, a, b, shift + at + offset - first))
        with contextlib.ExitStack() as stack:
            stack.callback(lambda: [read.cancel() for read in reads])  # after an error the others are not begun
            for read in reads:
                read.result()
        state = {"pool": index, "store_rows": self.store.n_tokens}
        x = {site: x.to(self.device) for site, x in rows.x.items()}
        pool = Pool(index, x, rows.tokens, rows.documents, rows.positions, state, state | {"pool": index + 1})
        for site, values in pool.x.items():
            if not torch.stack(values.aminmax()).isfinite().all():  # fast because no copy is made
                refuse_non_finite(pool, f" It was read from {self.store.folder / self.store.manifest['sites'][site]}.")
        return pool

    def _order(self, epoch: int) -> "_Order":
        permutation = torch.randperm(len(self._starts), generator=generator("blocks", self.seed, epoch))
        lengths = self._lengths[permutation]
        ends = lengths.cumsum(0)
        return _Order(self._starts[permutation], ends - lengths, ends)


@dataclass(frozen=True)
class _Order:
    """The blocks of a store in the order of one epoch."""

    starts: Tensor  # [blocks] first row in the store
    at: Tensor  # [blocks] first row in the epoch
    ends: Tensor  # [blocks] last row in the epoch, + 1

    def between(self, low: int, high: int) -> Iterator[tuple[int, int, int]]:
        """Rows ``low`` to ``high`` of the epoch as runs of rows of the store: (first, last + 1, place in the epoch)."""
        a = int(torch.searchsorted(self.ends, low, right=True))
        b = int(torch.searchsorted(self.at, high))
        for start, at, end in zip(*(t[a:b].tolist() for t in (self.starts, self.at, self.ends)), strict=True):
            first, last = max(at, low), min(end, high)
            yield start + first - at, start + last - at, first


def _blocks(store: ActivationStore, block: int) -> tuple[Tensor, Tensor]:
    """First row and length of every block; a shard's last one may be short, so that none spans two files."""
    starts = [torch.arange(a, a + rows, block) for a, rows in zip(store.shard_starts, store.shard_rows, strict=False)]
    lengths = [(rows - (s - s[0])).clamp(max=block) for rows, s in zip(store.shard_rows, starts, strict=True)]
    return torch.cat(starts), torch.cat(lengths)
