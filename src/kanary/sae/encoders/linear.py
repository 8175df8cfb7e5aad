"""The encoder of every classic SAE: one matrix."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kanary.kernels import Pattern, linear_at, score_at
from kanary.sae.parts import TILE, Active, Encoder, Sparsifier, narrowed, part

# share of active entries above which full matrices take over from lists: a choice; bench/train_step.py times both sides
DENSE_ABOVE = 1 / 16


@part("linear")
class LinearEncoder(Encoder):
    """``pre = W_enc (x - b_dec) + b_enc``; d_model + 1 parameters and 2 d_model FLOPs per latent and token.

    State: ``W_enc [d_sae, d_model]``, ``b_enc [d_sae]``.
    """

    def __init__(self, d_model: int, d_sae: int, options: object = None) -> None:
        super().__init__(d_model, d_sae, options)
        self.W_enc = nn.Parameter(torch.zeros(d_sae, d_model))
        self.b_enc = nn.Parameter(torch.zeros(d_sae))

    def forward(self, x: Tensor, latents: Tensor | None = None) -> Tensor:
        if latents is None:
            return F.linear(x, self.W_enc, self.b_enc)
        return F.linear(x, self.W_enc[latents], self.b_enc[latents])

    def everything(self, x: Tensor, shift: Tensor) -> Tensor:
        if x.requires_grad:
            return super().everything(x, shift)
        # fast because the shift gets its gradient through the bias, where it is a vector: one matmul less
        bias = self.b_enc - self.W_enc.detach() @ (shift - shift.detach())
        return F.linear(x - shift.detach(), self.W_enc, bias)

    def select(
        self, x: Tensor, shift: Tensor, sparsifier: Sparsifier, precision: str = "fp32", latents: Tensor | None = None
    ) -> Active | None:
        if x.requires_grad:
            return super().select(x, shift, sparsifier, precision, latents)
        shifted = x - shift.detach()
        found = narrowed(sparsifier, lambda: self._scan(shifted, sparsifier, precision, latents))
        if found is None:
            return None
        return Active(linear_at(self.W_enc, self.b_enc, shift, shifted, *found), found[1], x)

    @torch.no_grad()
    def _scan(
        self, x: Tensor, sparsifier: Sparsifier, precision: str, names: Tensor | None
    ) -> tuple[Tensor, Pattern] | None:
        weight, bias = (p if names is None else p[names] for p in (self.W_enc, self.b_enc))
        dtype = torch.bfloat16 if precision == "bf16" else x.dtype
        rough, rough_weight, rough_bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
        rows = max(1, TILE // len(weight))
        tile = torch.empty(min(rows, len(x)), len(weight), dtype=dtype, device=x.device)
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for piece in rough.split(rows):
            pre = torch.addmm(rough_bias, piece, rough_weight.T, out=tile[: len(piece)])
            # the first piece speaks for all
            may_be_dense = not found and sparsifier.elementwise and sparsifier.training
            if may_be_dense and int(sparsifier.mask(pre).count_nonzero()) > DENSE_ABOVE * pre.numel():
                return None
            latents, counts = sparsifier.select(pre)
            at = torch.repeat_interleave(torch.arange(len(pre), device=x.device), counts, output_size=len(latents))
            found.append((pre[at, latents], latents, counts))
        values, latents, counts = (torch.cat(list(column)) for column in zip(*found, strict=True))
        pattern = Pattern(latents, F.pad(counts.cumsum(0), (1, 0)), len(weight)).renamed(names, self.d_sae)
        if precision == "bf16":  # the screening was rough, the values are not
            values = score_at(x, self.W_enc, pattern) + self.b_enc[pattern.latents]
        return values, pattern

    @torch.no_grad()
    def tie(self, directions: Tensor) -> None:
        self.W_enc.copy_(directions)
        self.b_enc.zero_()

    @torch.no_grad()
    def raise_by(self, amount: Tensor) -> None:
        self.b_enc.add_(amount)

    @torch.no_grad()
    def reset(self, latents: Tensor, directions: Tensor) -> None:
        # Bricken et al. take a fifth of this norm; so quiet, a latent would never be among the k largest
        self.W_enc[latents] = self.W_enc.norm(dim=1).mean() * directions
        self.b_enc[latents] = 0
