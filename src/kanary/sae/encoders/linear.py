"""The encoder of every classic SAE: one matrix."""

from collections.abc import Callable, Sequence

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

    def everything(self, x: Tensor, shift: Tensor, sparsifier: Sparsifier) -> Tensor:
        if x.requires_grad:
            return super().everything(x, shift, sparsifier)
        # fast because the shift gets its gradient through the bias, where it is a vector: one matmul less
        bias = self.b_enc - self.W_enc.detach() @ (shift - shift.detach())
        return F.linear(x - shift.detach(), self.W_enc, bias)

    def select(
        self, x: Tensor, shift: Tensor, sparsifier: Sparsifier, precision: str = "fp32", latents: Tensor | None = None
    ) -> Active | None:
        if x.requires_grad:
            return super().select(x, shift, sparsifier, precision, latents)
        shifted = x - shift.detach()
        found = self.found(len(x), [(shifted.__getitem__, self.W_enc)], self.b_enc, sparsifier, precision, latents)
        if found is None:
            return None
        return Active(linear_at(self.W_enc, self.b_enc, shift, shifted, *found), found[1], x)

    def found(
        self,
        tokens: int,
        terms: Sequence["Term"],
        bias: Tensor,
        sparsifier: Sparsifier,
        precision: str,
        latents: Tensor | None,
    ) -> tuple[Tensor, Pattern] | None:
        """What :func:`scan` finds after the sparsifier has seen the whole batch; the pattern has all ``d_sae`` columns."""
        found = narrowed(sparsifier, lambda: scan(tokens, terms, bias, sparsifier, precision, latents))
        return None if found is None else (found[0], found[1].renamed(latents, self.d_sae))

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


Term = tuple[Callable[[slice], Tensor], Tensor]
"""Features of some tokens, ``[tokens, m]``, and their weights ``[d_sae, m]``."""


@torch.no_grad()
def scan(
    tokens: int,
    terms: Sequence[Term],
    bias: Tensor,
    sparsifier: Sparsifier,
    precision: str,
    latents: Tensor | None = None,
) -> tuple[Tensor, Pattern] | None:
    """The entries of ``sum of features @ weights.T + bias`` that the sparsifier selects, a tile of tokens at a time.

    Args:
        tokens: how many there are.
        bias: ``[d_sae]``.
        precision: "bf16" selects by rough values; those returned are exact.
        latents: ``[m]``, look only at these; the pattern then numbers them from 0 to m - 1.

    Returns (``[nnz]``, their pattern), or None where they are too many to be worth a list.
    """
    weights = [weight if latents is None else weight[latents] for _, weight in terms]
    bias = bias if latents is None else bias[latents]
    dtype = torch.bfloat16 if precision == "bf16" else bias.dtype
    rough, rough_bias = [weight.to(dtype) for weight in weights], bias.to(dtype)
    rows = max(1, TILE // max(len(bias), *(weight.shape[1] for weight in weights)))
    tile = torch.empty(min(rows, tokens), len(bias), dtype=dtype, device=bias.device)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for start in range(0, max(tokens, 1), rows):
        at = slice(start, min(start + rows, tokens))
        features = [make(at) for make, _ in terms]
        pre = torch.addmm(rough_bias, features[0].to(dtype), rough[0].T, out=tile[: at.stop - at.start])
        for feature, weight in zip(features[1:], rough[1:], strict=True):
            pre.addmm_(feature.to(dtype), weight.T)
        # the first piece speaks for all
        may_be_dense = not found and sparsifier.elementwise and sparsifier.training
        if may_be_dense and int(sparsifier.mask(pre).count_nonzero()) > DENSE_ABOVE * pre.numel():
            return None
        columns, counts = sparsifier.select(pre)
        pattern = Pattern(columns, F.pad(counts.cumsum(0), (1, 0)), len(bias))
        if precision == "bf16":  # the screening was rough, the values are not
            values = sum((score_at(f, w, pattern) for f, w in zip(features, weights, strict=True)), bias[columns])
        else:
            values = pre[pattern.rows(), columns]
        found.append((values, columns, counts))
    values, columns, counts = (torch.cat(list(part)) for part in zip(*found, strict=True))
    return values, Pattern(columns, F.pad(counts.cumsum(0), (1, 0)), len(bias))
