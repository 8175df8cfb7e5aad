"""Gated SAE: one path decides whether a latent fires, another how strongly (Rajamanoharan et al. 2024, arXiv 2404.16014)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kanary.sae.parts import Active, Decoder, part
from kanary.sae.sparsifiers.relu import L1Options, Penalised, l1


@part("gated")
class Gated(Penalised):
    """``f = [pre > 0] * relu(exp(r_mag) * pre + b_mag)``, ``pre`` being the gate's pre-activation.

    The paper's magnitude path shares the gate's weights up to ``exp(r_mag)`` and has a bias of its own; its bias equals
    ``b_mag + exp(r_mag) * b_enc`` here, so that one matmul serves both paths. Loss: L1 on ``relu(pre)`` plus the squared
    error of decoding ``relu(pre)`` through the frozen decoder. State: ``r_mag [d_sae]``, ``b_mag [d_sae]``.
    """

    Options = L1Options
    options: L1Options

    def __init__(self, d_model: int, d_sae: int, options: L1Options | None = None) -> None:
        super().__init__(d_model, d_sae, options)
        self.r_mag = nn.Parameter(torch.zeros(d_sae))
        self.b_mag = nn.Parameter(torch.zeros(d_sae))

    def initial_strength(self) -> float:
        return self.options.l1

    def activate(self, active: Active) -> Tensor:
        magnitude = active.per_latent(self.r_mag.exp()) * active.pre + active.per_latent(self.b_mag)
        return F.relu(magnitude) * (active.pre > 0)

    def penalty(self, active: Active, values: Tensor, decoder: Decoder) -> Tensor:
        gate = F.relu(active.pre)
        error = active.decode_frozen(gate, decoder) - active.x
        return self.now() * l1(active, gate, decoder) + error.square().sum() / active.tokens

    @torch.no_grad()
    def reset(self, latents: Tensor) -> None:
        self.r_mag[latents] = 0
        self.b_mag[latents] = 0
