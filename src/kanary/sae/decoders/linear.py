"""The decoder of every classic SAE: each latent adds its own direction."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kanary.kernels import Pattern, sparse_decode
from kanary.sae.parts import Decoder, part


@part("linear")
class LinearDecoder(Decoder):
    """``x^ = sum_i f_i W_dec[i] + b_dec`` with unit rows; d_model parameters per latent, 2 d_model FLOPs per active one.

    State: ``W_dec [d_sae, d_model]``, ``b_dec [d_model]``.
    """

    def __init__(self, d_model: int, d_sae: int, options: object = None) -> None:
        super().__init__(d_model, d_sae, options)
        self.W_dec = nn.Parameter(F.normalize(torch.ones(d_sae, d_model), dim=1))
        self.b_dec = nn.Parameter(torch.zeros(d_model))

    def forward(self, values: Tensor, pattern: Pattern | None) -> Tensor:
        summed = values @ self.W_dec if pattern is None else sparse_decode(values, self.W_dec, pattern)
        return summed + self.b_dec
