"""A few latents of an SAE, read off a few tokens at a time, as while a text is written: the codes of ``encode``, sooner."""

import math
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from kanary.kernels import Pattern
from kanary.sae.encoders.linear import LinearEncoder
from kanary.sae.parts import Active

if TYPE_CHECKING:
    from kanary.sae.model import SAE


class SomeLatents:
    """Made once, and called for every step: ``SomeLatents(sae, latents)(x)``. Weights are those of when it was made."""

    def __init__(self, sae: "SAE", latents: Tensor) -> None:
        """``latents [m]`` int64, no two alike."""
        self.sae, self.latents = sae, latents
        self._encoder = sae.encoder if type(sae.encoder) is LinearEncoder and not sae.training else None
        if self._encoder is not None:
            self._rows, self._bias = self._encoder.W_enc.detach()[latents], self._encoder.b_enc.detach()[latents]
            self._others = self._encoder.b_enc.detach().index_fill(0, latents, -torch.inf)
        self._pattern = self._pattern_of(1)

    @torch.no_grad()
    def __call__(self, x: Tensor, special: Tensor | None = None) -> Tensor:
        """The codes that ``sae.encode`` finds: ``[..., m]`` with zeros, without gradients.

        Args:
            x: ``[..., d_model]``, raw.
            special: ``[...]`` bool, true where there are to be none; None: nowhere.

        Raises:
            KanaryError: as :meth:`kanary.sae.SAE.encode`.
        """
        codes = self._at_once(x.reshape(-1, x.shape[-1]))
        if codes is None:  # another encoder, many tokens, or x that encode refuses
            return self.sae.encode(x, special).columns(self.latents)
        codes = codes.view(*x.shape[:-1], -1)
        return codes if special is None else codes.masked_fill(special[..., None], 0)

    def _at_once(self, x: Tensor) -> Tensor | None:
        """Of ``x [tokens, d_model]``."""
        if self._encoder is None or x.shape[1] != self.sae.d_model:
            return None
        z = self.sae.standardise(x)
        shifted = z - self.sae.decoder.b_dec
        pre = F.linear(shifted, self._rows, self._bias)  # [tokens, m]
        if not all(map(math.isfinite, chain.from_iterable(pre.tolist()))):
            return None
        fires = self.sae.sparsifier.fires(pre, partial(self._beside, shifted))
        if fires is None:
            return None
        if self._pattern.tokens != len(pre):
            self._pattern = self._pattern_of(len(pre))
        return self.sae.sparsifier.activate(Active(pre.flatten(), self._pattern, z)).view_as(pre) * fires

    def _beside(self, x: Tensor, latents: slice, tokens: slice | Tensor) -> Tensor:
        """The pre-activations of other latents on ``x [tokens, d_model]``; -inf at those that are read."""
        assert self._encoder is not None
        return F.linear(x[tokens], self._encoder.W_enc[latents], self._others[latents])

    def _pattern_of(self, tokens: int) -> Pattern:
        offsets = torch.arange(tokens + 1, device=self.latents.device) * len(self.latents)
        return Pattern(self.latents.repeat(tokens), offsets, self.sae.d_sae)
