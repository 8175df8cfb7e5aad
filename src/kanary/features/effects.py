"""What a latent does to the model's predictions: every token's loss without it minus the loss with it.

Removed is what the latent adds to the activation, at every token of the window on which it fires; the SAE's error and all
other latents stay. Blocks before the site are not run again.
"""

import dataclasses
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kanary.evaluation.losses import CHUNK, PIECE
from kanary.features.examples import Pairs, Ragged
from kanary.features.selection import INTERVALS, Chosen
from kanary.features.spool import Chunk
from kanary.lm import LanguageModel, Trace, trace
from kanary.sae import SAE

LEAST = 0.01
"""Nats, below which an effect is left out."""


def strongest(chosen: Chosen, pairs: Pairs, most: int) -> NDArray[np.int64]:
    """The pairs with the ``most`` strongest examples of every latent."""
    top = (chosen.lists >> INTERVALS & 1).nonzero()[0]
    order = top[np.lexsort((chosen.places[top], -chosen.values[top], chosen.latents[top]))]
    latents = chosen.latents[order]
    starts = np.concatenate([[True], latents[1:] != latents[:-1]]).nonzero()[0] if len(latents) else latents
    rank = np.arange(len(latents)) - np.repeat(starts, np.diff(np.append(starts, len(latents))))
    return np.unique(pairs.of[order[rank < most]])


class Effects:
    """Runs the model without single latents."""

    def __init__(self, lm: LanguageModel, sae: SAE, pairs: Pairs, traces: Ragged) -> None:
        """
        Args:
            pairs: latents in windows.
            traces: the values of each pair's latent in its window.
        """
        self.lm, self.sae, self.pairs, self.traces = lm, sae, pairs, traces
        self.site = str(sae.config.trained_on["site"])

    @torch.no_grad()
    def of(self, chunk: Chunk, wanted: NDArray[np.int64], show: Callable[[int], None]) -> Ragged:
        """The effects of the pairs ``wanted``, all in windows of ``chunk``, in their order.

        Args:
            show: called with the number of pairs done since the last call.
        """
        windows = self.pairs.windows[wanted] - chunk.first
        order = np.argsort(windows, kind="stable")
        rows: list[tuple[NDArray[np.int64], Tensor]] = []
        for here in self._together(windows[order], chunk.window):
            at = order[here]
            numbers, row = np.unique(windows[at], return_inverse=True)
            clean = trace(
                self.lm, torch.from_numpy(chunk.tokens[numbers].astype(np.int64)).to(self.lm.device), [self.site]
            )
            before = _losses(clean.logits, clean.tokens)
            for some in np.array_split(np.arange(len(at)), -(-len(at) // self._room(chunk.window))):
                which = torch.from_numpy(row[some]).to(self.lm.device)
                after = _losses(self._without(clean, which, wanted[at[some]]), clean.tokens[which])
                rows.append((at[some], (after - before[which]).cpu()))
                show(len(some))
        return _ragged(rows, len(wanted), chunk, windows, self.lm.special_ids)

    def _room(self, window: int) -> int:
        """Windows of a forward: as many as there is room for their logits."""
        room = CHUNK * (16 if self.lm.device.type == "cuda" else 1)
        return max(1, room // (window * self.lm.vocab_size))

    def _together(self, windows: NDArray[np.int64], window: int) -> Iterator[slice]:
        """Stretches of ascending ``windows`` that need one clean forward of as many windows as there is room for."""
        if not len(windows):
            return iter(())
        different = np.cumsum(np.concatenate([[0], windows[1:] != windows[:-1]])) // self._room(window)
        ends = np.concatenate([[0], np.diff(different).nonzero()[0] + 1, [len(windows)]])
        return (slice(a, b) for a, b in pairwise(ends) if a < b)

    def _without(self, clean: Trace, which: Tensor, pairs: NDArray[np.int64]) -> Tensor:
        """Logits of the windows ``which`` of ``clean``, each without the latent of its pair."""
        rows = self.traces.rows(pairs)
        counts = np.diff(rows.offsets)
        device = self.lm.device
        latents = torch.from_numpy(np.repeat(self.pairs.latents[pairs], counts)).to(device)
        owner = torch.from_numpy(np.repeat(np.arange(len(pairs)), counts)).to(device)
        at, values = torch.from_numpy(rows.at.astype(np.int64)).to(device), torch.from_numpy(rows.values).to(device)
        x = clean.x[self.site][which].clone()
        x[owner, at] -= self.sae.contribution(latents, values.to(self.sae.mean)).to(x)
        part = dataclasses.replace(
            clean,
            tokens=clean.tokens[which],
            x={self.site: x},
            block_inputs={block: inputs[which] for block, inputs in clean.block_inputs.items()},
        )
        return part.replay(self.site, x)


def _losses(logits: Tensor, tokens: Tensor) -> Tensor:
    """``[windows, position]`` float32: nats of predicting the token at each position; 0 at the first."""
    found = logits.new_zeros(tokens.shape, dtype=torch.float32)
    step = max(1, PIECE.get(logits.device.type, CHUNK) // logits[:, 0].numel())
    for a in range(0, tokens.shape[1] - 1, step):
        b = min(a + step, tokens.shape[1] - 1)
        piece = logits[:, a:b].float()
        of_next = piece.gather(2, tokens[:, a + 1 : b + 1, None])[..., 0]
        found[:, a + 1 : b + 1] = piece.logsumexp(2) - of_next
    return found


def _ragged(
    rows: list[tuple[NDArray[np.int64], Tensor]],
    size: int,
    chunk: Chunk,
    windows: NDArray[np.int64],
    special: frozenset[int],
) -> Ragged:
    """The effects that count: large enough, and not predicted from a special token."""
    effects = np.zeros((size, chunk.window), np.float32)
    for at, values in rows:
        effects[at] = values.numpy()
    source = np.isin(chunk.tokens[windows], [*special])
    effects[:, 1:][source[:, :-1]] = 0
    kept, at = (np.abs(effects) >= LEAST).nonzero()
    counts = np.bincount(kept, minlength=size)
    return Ragged(np.concatenate([[0], counts.cumsum()]), at, effects[kept, at])
