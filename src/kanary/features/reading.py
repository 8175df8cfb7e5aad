"""The one pass over the text: the model up to the SAE's site, the SAE's codes, and what needs the activations themselves."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from kanary.activations.ahead import ahead
from kanary.errors import KanaryError
from kanary.features.spool import TOKENS, Chunk, Chunks, Codes, Spool
from kanary.files import read_json, read_tensors, write_json, write_tensors
from kanary.lm import LanguageModel
from kanary.sae import SAE, SparseCodes
from kanary.text import TextSource, TokenBatch, Windows
from kanary.text.windows import Part

PROGRESS, SUMS = "progress.json", "sums.safetensors"
SAVE_EVERY = 20.0
"""Seconds of work that a stop may lose, about; besides that of the chunk at hand."""


class Watcher(Protocol):
    """Adds something up while the text is read, and can go on where another one stopped."""

    site: str | None
    """A further site whose activations it needs."""

    def add(self, x: Tensor, other: Tensor | None, codes: SparseCodes) -> None:
        """``x [tokens, d_model]`` of tokens that are not special, ``other`` those at ``site``, and the codes of ``x``."""

    def state(self) -> Mapping[str, Tensor]: ...

    def restore(self, state: Mapping[str, Tensor]) -> None: ...


@dataclass(frozen=True)
class Reading:
    """What is read, how, and how far; what changes any of it makes another index."""

    part: Part
    window: int
    lm_batch: int
    tokens: int
    """How many to read; special tokens are not counted."""


@dataclass
class Progress:
    """How far a reading has come."""

    chunks: int = 0
    windows: int = 0
    tokens: int = 0
    text: dict[str, int] = field(default_factory=dict)
    """State of the windows."""
    sums: int = 0
    """Which of two files has the sums up to here."""
    complete: bool = False


class Pass:
    """Reads the text into the spool of ``folder``, from where an earlier one stopped."""

    def __init__(
        self,
        lm: LanguageModel,
        text: TextSource,
        saes: Sequence[SAE],
        reading: Reading,
        folder: Path,
        watchers: Mapping[str, Watcher],
    ) -> None:
        """``saes``: the one that is indexed, then its twins."""
        self.lm, self.text, self.sae, self.saes, self.reading = lm, text, saes[0], saes, reading
        self.folder, self.watchers = folder, watchers
        self.sites = [str(sae.config.trained_on["site"]) for sae in saes]
        self.spool = Spool(folder, len(saes) - 1)
        self.progress = self._continued()
        self.saved = time.monotonic()

    @property
    def site(self) -> str:
        return self.sites[0]

    @property
    def chunks(self) -> Chunks:
        return lambda: self.spool.chunks(self.progress.chunks)

    @torch.no_grad()
    def run(self, show: Callable[[int], None]) -> None:
        """Reads to the end; ``show`` is told of the tokens of every batch.

        Raises:
            KanaryError: the text holds not one token that counts; the disk is full.
        """
        if self.progress.complete:
            return
        reading, done = self.reading, self.progress
        windows = Windows(
            self.text,
            self.lm,
            window=reading.window,
            batch=reading.lm_batch,
            part=reading.part,
            state=done.text or None,
        )
        held: list[tuple[TokenBatch, list[SparseCodes]]] = []
        for batch, state in _closing(ahead(_with_state(windows), 2)):
            held.append((batch, self._codes(batch)))
            done.tokens += batch.n_tokens
            done.text = state
            show(batch.n_tokens)
            if len(held) * held[0][0].tokens.numel() >= TOKENS:
                self._write(held)
                held = []
            if done.tokens >= reading.tokens:
                break
        done.complete = True
        self._write(held)
        if not done.tokens:
            raise KanaryError("There are no tokens to index: every one of them is special (BOS, EOS or padding).")

    def _codes(self, batch: TokenBatch) -> list[SparseCodes]:
        """Of the SAE, then of its twins: for every token of ``batch``, none at special ones."""
        watchers = self.watchers.values()
        others = [watcher.site for watcher in watchers if watcher.site is not None]
        found = self.lm.capture(batch.tokens, list(dict.fromkeys([*self.sites, *others])))
        kept = ~batch.special.to(found[self.site].device)
        codes = [sae.encode(found[site][kept]) for sae, site in zip(self.saes, self.sites, strict=True)]
        for watcher in watchers:
            other = None if watcher.site is None else found[watcher.site][kept]
            watcher.add(found[self.site][kept], other, codes[0])
        return [_spread(each, kept) for each in codes]

    def _write(self, held: list[tuple[TokenBatch, list[SparseCodes]]]) -> None:
        """One more chunk, and with it all that a build needs to go on from here."""
        done = self.progress
        if held:
            batches = [batch for batch, _ in held]
            codes = [Codes.of(parts) for parts in zip(*(codes for _, codes in held), strict=True)]
            chunk = Chunk(
                done.windows,
                np.concatenate([batch.tokens.numpy().astype(np.int32) for batch in batches]),
                np.concatenate([batch.documents.numpy() for batch in batches]),
                np.concatenate([batch.positions.numpy() for batch in batches]),
                codes[0],
                tuple(codes[1:]),
            )
            self.spool.write(done.chunks, chunk)
            done.chunks += 1
            done.windows += len(chunk.tokens)
        if not done.complete and time.monotonic() - self.saved < SAVE_EVERY:
            return
        sums = {f"{name}.{key}": tensor for name, w in self.watchers.items() for key, tensor in w.state().items()}
        number = 1 - done.sums  # the earlier sums stay until the new ones count
        write_tensors(self.folder / f"{number}-{SUMS}", sums or {"none": torch.zeros(1)})
        done.sums = number
        write_json(self.folder / PROGRESS, asdict(done))
        self.saved = time.monotonic()

    def _continued(self) -> Progress:
        if not (self.folder / PROGRESS).exists():
            return Progress()
        found = Progress(**read_json(self.folder / PROGRESS))
        sums = read_tensors(self.folder / f"{found.sums}-{SUMS}")
        for name, watcher in self.watchers.items():
            prefix = f"{name}."
            watcher.restore({key.removeprefix(prefix): t for key, t in sums.items() if key.startswith(prefix)})
        return found


def _spread(codes: SparseCodes, kept: Tensor) -> SparseCodes:
    """The codes of the tokens where ``kept [windows, window]``, as codes of all tokens."""
    counts = torch.zeros(kept.numel(), dtype=torch.int64, device=kept.device)
    counts[kept.reshape(-1)] = codes.offsets.diff()
    return SparseCodes(codes.indices, codes.values, F.pad(counts.cumsum(0), (1, 0)), codes.d_sae, tuple(kept.shape))


def _with_state(windows: Windows) -> Iterator[tuple[TokenBatch, dict[str, int]]]:
    """Every batch, and where the next one starts."""
    for batch in windows:
        yield batch, windows.state()


def _closing(items: Any) -> Iterator[Any]:
    """The items of a generator that is closed when the loop over them is left."""
    try:
        yield from items
    finally:
        items.close()
