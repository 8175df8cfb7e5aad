"""Edits of the rows of a batch, turned into tensors: all changes of all rows at one site are made in a few operations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from kanary.errors import KanaryError
from kanary.interventions.passing import Passing
from kanary.sae import SAE
from kanary.sae.decoders.linear import LinearDecoder
from kanary.sae.some import SomeLatents

BLOCK = 2**22
"""Numbers of the largest block of contributions held at a time."""
NEVER = 2**62


class Held(NamedTuple):
    """A condition: some of a site's changes act only where a code lies between two values."""

    changes: Tensor
    """``[k]`` int64, which."""
    sae: str
    column: int
    above: float
    below: float
    says: str


@dataclass(frozen=True)
class Gates:
    """At which tokens each of E changes acts."""

    rows: Tensor
    """``[E]`` int64, of the batch."""
    start: Tensor
    stop: Tensor
    generated: Tensor
    """``[E]`` int64 each: positions from start to before stop, and from generated - 2 tokens after the prompt's length on."""
    anywhere: bool
    """All of them act at every position."""
    patterns: tuple[tuple[Tensor, Tensor], ...]
    """``[k]`` int64 changes that act only at some tokens of the vocabulary, and ``[vocab]`` bool which."""
    conditions: tuple[Held, ...]

    def open(self, passing: Passing, codes: Mapping[str, Tensor]) -> Tensor:
        """``[E, position]`` bool. ``codes``: by SAE, ``[batch, position, columns]``."""
        rows = self.rows
        found = ~passing.special[rows]
        if not self.anywhere:  # fast because most edits act at every position, and a step of a small model is short
            positions = passing.positions[rows]
            found &= (positions >= self.start[:, None]) & (positions < self.stop[:, None])
            found &= positions >= (passing.prompts[rows] + self.generated - 2)[:, None]
        for changes, words in self.patterns:
            if passing.ids is None:
                raise KanaryError("Edits at tokens of a pattern need input_ids: this pass was given embeddings.")
            found[changes] &= words[passing.ids.to(words.device)[rows[changes]]]
        for held in self.conditions:
            if held.sae not in codes:
                raise KanaryError(
                    f"{held.says} cannot be known yet where it is asked for: its SAE {held.sae} lies later in the model."
                )
            value = codes[held.sae][rows[held.changes], :, held.column]
            found[held.changes] &= (value > held.above) & (value < held.below)
        return found


class Change(NamedTuple):
    """Codes f of E pairs of row and latent become ``clamp(f * factor + shift, low, high)``; no pair comes twice."""

    gates: Gates
    columns: Tensor
    """``[E]`` int64, of the codes that are read."""
    factor: Tensor
    shift: Tensor
    low: Tensor
    high: Tensor
    """``[E]`` each, in the SAE's dtype."""
    drawn: Tensor | None
    """``[E, context]``: what is added besides at every position; only of resampled ones not 0."""

    def apply(self, codes: Tensor, passing: Passing, known: Mapping[str, Tensor]) -> None:
        """Changes ``codes [batch, position, columns]`` in place."""
        rows, columns = self.gates.rows, self.columns
        f = codes[rows, :, columns]  # [E, position]
        wanted = f * self.factor[:, None] + self.shift[:, None]
        if self.drawn is not None:
            wanted = wanted + self.drawn.gather(1, passing.positions[rows] % self.drawn.shape[1])
        wanted = torch.clamp(wanted, self.low[:, None], self.high[:, None])
        codes[rows, :, columns] = torch.where(self.gates.open(passing, known), wanted, f)


@dataclass(frozen=True)
class Latents:
    """What is read and changed of one SAE."""

    name: str
    sae: SAE
    columns: Tensor
    """``[m]`` int64, the latents that are looked at."""
    lookup: Tensor
    """``[d_sae]`` int64: column of each latent, or -1."""
    changes: tuple[Change, ...]
    """One after the other."""
    some: SomeLatents
    """Those in ``columns``, ready to be read."""
    blind: bool
    """What is added does not depend on the codes, and nobody asks for them: they need not be known."""

    def read(self, x: Tensor, special: Tensor) -> Tensor:
        """The codes of ``x [batch, position, d_model]``: ``[batch, position, m]``, 0 at special tokens."""
        if self.blind:
            return self.sae.mean.new_zeros(*special.shape, len(self.columns))
        return self.some(x, special)

    def added(self, passing: Passing, known: Mapping[str, Tensor]) -> tuple[Tensor, Tensor] | None:
        """(``[batch, position]`` bool where anything changes, ``[batch, position, d_model]`` raw), or None."""
        codes = known[self.name]
        wanted = codes.clone()
        for change in self.changes:
            change.apply(wanted, passing, known)
        moved = wanted != codes
        touched = moved.any(-1)
        if not touched.any():
            return None
        if type(self.sae.decoder) is LinearDecoder:
            return touched, ((wanted - codes) @ self.sae.W_dec[self.columns]) / self.sae.scale
        return touched, self._along(codes, wanted, moved)

    def _along(self, codes: Tensor, wanted: Tensor, moved: Tensor) -> Tensor:
        """From the curves' points at ``codes`` to those at ``wanted``."""
        out = codes.new_zeros(codes.shape[0] * codes.shape[1], self.sae.d_model)
        rows, columns = moved.flatten(0, 1).nonzero(as_tuple=True)
        old, new = codes.flatten(0, 1)[rows, columns], wanted.flatten(0, 1)[rows, columns]
        latents = self.columns[columns]
        for part in torch.arange(len(rows), device=rows.device).split(max(1, BLOCK // self.sae.d_model)):
            at = latents[part]
            out.index_add_(0, rows[part], self.sae.contribution(at, new[part]) - self.sae.contribution(at, old[part]))
        return out.view(*codes.shape[:2], -1)


class Directions(NamedTuple):
    """Vectors that are added to the activation of E rows, or taken out of it."""

    gates: Gates
    vectors: Tensor
    """``[E, d_model]`` float32 or wider, raw."""
    amounts: Tensor
    """``[E]``: how often a vector is added, or which share of what points along it is removed."""

    def pushed(self, passing: Passing, known: Mapping[str, Tensor]) -> tuple[Tensor, Tensor] | None:
        """As :meth:`Latents.added`."""
        weights = self.gates.open(passing, known) * self.amounts[:, None]  # [E, position]
        times = torch.zeros(passing.special.shape, dtype=torch.int64, device=weights.device)
        touched = times.index_add_(0, self.gates.rows, (weights != 0).long()) > 0
        if not touched.any():
            return None
        out = self.vectors.new_zeros(*touched.shape, self.vectors.shape[1])
        return touched, out.index_add_(0, self.gates.rows, weights[..., None] * self.vectors[:, None])

    def remove(self, x: Tensor, passing: Passing, known: Mapping[str, Tensor]) -> tuple[Tensor, Tensor] | None:
        """What projecting out adds to ``x [batch, position, d_model]``, one vector after the other; as :meth:`pushed`."""
        weights = self.gates.open(passing, known) * self.amounts[:, None]
        touched = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        new = x.to(self.vectors.dtype, copy=True)
        for row, vector, weight in zip(self.gates.rows.tolist(), self.vectors, weights, strict=True):
            along = (new[row] @ vector) / vector.square().sum() * weight  # [position]
            new[row] -= along[:, None] * vector
            touched[row] |= weight != 0
        return (touched, new - x) if touched.any() else None


class AtSite(NamedTuple):
    """All that happens at one site, in this order."""

    latents: Sequence[Latents]
    added: Directions | None
    removed: Directions | None
