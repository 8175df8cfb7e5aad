"""The one result of encoding: which latents fired on which token, and how strongly."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from kanary.kernels import Pattern


@dataclass(frozen=True)
class SparseCodes:
    """The non-zero latents of a batch of activations, in compressed rows.

    Attributes:
        indices: ``[nnz]`` int64, latent of every non-zero value, ascending within a token.
        values: ``[nnz]``, the value (the units are those of the standardised activation, where E|x|^2 = d_model).
        offsets: ``[tokens + 1]`` int64; token n owns entries ``offsets[n]:offsets[n + 1]``.
        d_sae: number of latents.
        shape: the leading shape of the activations that were encoded, for example ``(batch, position)``.
    """

    indices: Tensor
    values: Tensor
    offsets: Tensor
    d_sae: int
    shape: tuple[int, ...]

    @classmethod
    def of(cls, values: Tensor, pattern: Pattern, shape: Sequence[int]) -> "SparseCodes":
        """Codes from ``values [nnz]`` at the entries of ``pattern``, in any order; zeros among them are left out."""
        nonzero = values != 0
        if not bool(nonzero.all()):
            values, pattern = values[nonzero], pattern.keep(nonzero)
        latents, keys = pattern.latents, pattern.rows() * pattern.d_sae + pattern.latents
        if bool((keys.diff() < 0).any()):  # a top-k comes in no order
            order = keys.argsort()
            latents, values = latents[order], values[order]
        return cls(latents, values, pattern.offsets, pattern.d_sae, tuple(shape))

    @classmethod
    def from_dense(cls, codes: Tensor) -> "SparseCodes":
        """``codes [..., d_sae]`` -> the same values without the zeros."""
        flat = codes.reshape(-1, codes.shape[-1])
        rows, latents = flat.nonzero(as_tuple=True)
        counts = torch.bincount(rows, minlength=len(flat))
        return cls(
            latents, flat[rows, latents], F.pad(counts.cumsum(0), (1, 0)), flat.shape[1], tuple(codes.shape[:-1])
        )

    @classmethod
    def cat(cls, codes: Sequence["SparseCodes"]) -> "SparseCodes":
        """The codes of some tokens after those of others, as one of shape ``(tokens,)``."""
        counts = torch.cat([each.offsets.diff() for each in codes])
        indices, values = torch.cat([each.indices for each in codes]), torch.cat([each.values for each in codes])
        return cls(indices, values, F.pad(counts.cumsum(0), (1, 0)), codes[0].d_sae, (len(counts),))

    def to_dense(self) -> Tensor:
        """``[..., d_sae]``; large: tokens x d_sae x 4 bytes."""
        dense = self.values.new_zeros(self.tokens, self.d_sae)
        dense[self.rows(), self.indices] = self.values
        return dense.reshape(*self.shape, self.d_sae)

    @property
    def tokens(self) -> int:
        return len(self.offsets) - 1

    @property
    def pattern(self) -> Pattern:
        return Pattern(self.indices, self.offsets, self.d_sae)

    def rows(self) -> Tensor:
        """``[nnz]`` int64, the (flat) token of every value."""
        return self.pattern.rows()

    def l0(self) -> Tensor:
        """``[...]`` int64, the number of non-zero latents of every token."""
        return self.offsets.diff().reshape(self.shape)

    def __getitem__(self, token: int | slice) -> "SparseCodes":
        """The codes of one (flat) token or of a slice of tokens; IndexError where there is no such token."""
        if isinstance(token, slice):
            span = range(self.tokens)[token]
        else:
            first = range(self.tokens)[token]
            span = range(first, first + 1)
        if span.step != 1:
            raise IndexError(f"codes[{token}] needs a step of 1")
        start, end = int(self.offsets[span.start]), int(self.offsets[max(span.stop, span.start)])
        offsets = self.offsets[span.start : max(span.stop, span.start) + 1] - start
        return SparseCodes(self.indices[start:end], self.values[start:end], offsets, self.d_sae, (len(span),))

    def latent(self, index: int) -> Tensor:
        """``[...]``, the value of latent ``index`` at every token."""
        at = self.indices == index
        found = self.values.new_zeros(self.tokens)
        found[self.rows()[at]] = self.values[at]
        return found.reshape(self.shape)

    def columns(self, latents: Tensor) -> Tensor:
        """``[..., m]``, the values of ``latents [m]``, no two alike, at every token."""
        place = torch.full((self.d_sae,), -1, dtype=torch.int64, device=latents.device)
        place[latents] = torch.arange(len(latents), device=latents.device)
        column = place[self.indices]
        kept = column >= 0
        found = self.values.new_zeros(self.tokens, len(latents))
        found[self.rows()[kept], column[kept]] = self.values[kept]
        return found.reshape(*self.shape, len(latents))

    def to(self, device: str | torch.device) -> "SparseCodes":
        indices, values, offsets = (t.to(device) for t in (self.indices, self.values, self.offsets))
        return SparseCodes(indices, values, offsets, self.d_sae, self.shape)
