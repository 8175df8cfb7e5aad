"""A decoder whose latents are free curves in the space of activations: a KAN layer with sparse inputs."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kanary.kernels import Pattern, curved_decode, sparse_decode
from kanary.sae.codes import SparseCodes
from kanary.sae.curves import CurveOptions, LatentCurves, spread
from kanary.sae.decoders.kan_gain import CurvedDecoder
from kanary.sae.parts import Active, part


@part("kan-curve")
class KANCurve(CurvedDecoder):
    """``x^ = sum_i (f_i W_dec[i] + sum_g B_g(f_i) knots_dec[i, g]) + b_dec``: a function from every latent to every
    dimension of the activations, 0 at a code of 0.

    A KAN layer whose inputs are sparse, so that an active latent costs one direction and those of its knots that matter at
    its code (2, cubic: 4), however many there are. Knots are free vectors, 0 at the start; a code beyond the grid goes on
    along a straight line. With ``basis=bspline, knots=8`` (cubic, grid of 5) it is the decoder of the dense "only_kan" and
    "Linear, ReLU, KANLinear" autoencoders of KAN-LLaMA (efficient-kan's KANLinear), with a line in place of their SiLU, a
    grid that follows the codes, and a sparsifier.

    With G = ``knots``: G d_model parameters per latent, (1 + 2) 2 d_model + 8 FLOPs per active one (cubic:
    (1 + 4) 2 d_model + 30). Source: Liu et al. 2024, arXiv 2404.19756, with inputs that are sparse.
    State: ``W_dec [d_sae, d_model]``, ``knots_dec [d_sae, G - 1, d_model]``, ``b_dec [d_model]``, grids.
    """

    def __init__(self, d_model: int, d_sae: int, options: CurveOptions | None = None) -> None:
        super().__init__(d_model, d_sae, options)
        self.curves = LatentCurves(d_sae, self.options, learned=False)
        self.knots_dec = nn.Parameter(torch.zeros(d_sae, self.options.knots - 1, d_model))

    def coefficients(self) -> Tensor:
        return self.knots_dec.transpose(1, 2)

    def forward(self, values: Tensor, pattern: Pattern | None) -> Tensor:
        if pattern is not None and self.curves.fused and not self.curves.idle:
            return curved_decode(values, pattern, self.W_dec, self.knots_dec, self.curves.basis.grid) + self.b_dec
        x_hat = super().forward(values, pattern)
        if self.curves.idle:
            return x_hat
        if pattern is not None:
            return x_hat.add_(self._bent(values, pattern))
        codes = SparseCodes.from_dense(values)
        x_hat = x_hat + self._bent(codes.values, codes.pattern)
        if not values.requires_grad:
            return x_hat
        # where a code is 0 its curve is too, but not its slope, by which a threshold learns
        return x_hat + values.masked_fill(values.detach() != 0, 0) @ self._starts().detach()

    def _bent(self, values: Tensor, pattern: Pattern) -> Tensor:
        numbers, weights = self.curves.terms(values, pattern.latents)
        entries = spread(pattern, numbers, self.knots_dec.shape[1])
        return sparse_decode(weights.reshape(-1), self.knots_dec.flatten(0, 1), entries)

    def _starts(self) -> Tensor:
        """``[d_sae, d_model]``: in which direction, and how fast, the knots' part of each curve leaves the origin."""
        numbers, slopes = self.curves.slopes_at_zero()
        latents = torch.arange(self.d_sae, device=slopes.device)
        columns = zip(numbers.unbind(1), slopes.unbind(1), strict=True)
        return torch.stack([slope[:, None] * self.knots_dec[latents, number] for number, slope in columns]).sum(0)

    def lengths(self, active: Active, values: Tensor) -> Tensor:
        """An upper bound: the lengths at the knots, and straight lines between them, because the exact ones would read the
        knots of every entry once more. Equal to it for straight curves; for cubic splines it is the control points' lengths
        that the basis functions weigh. Beyond the grid the last length plus the way from there.
        """
        straight = super().lengths(active, values)
        if self.curves.idle:
            return straight
        line, ends = self.curves.line(), self.curves.basis.grid[:, 1]
        own = self.W_dec.square().sum(1, keepdim=True)
        across = torch.einsum("igd,id->ig", self.knots_dec, self.W_dec)
        squares = torch.einsum("igd,igd->ig", self.knots_dec, self.knots_dec)
        # of line * W_dec + knots_dec, which is never made: it would be as large as the knots
        knots = (line.square() * own + 2 * line * across + squares).clamp_min(torch.finfo(line.dtype).tiny).sqrt()
        last = self.knots_dec[:, -1]
        before = self.knots_dec[:, -2] if self.knots_dec.shape[1] > 1 else torch.zeros_like(last)
        step = line[:, -1:] - (line[:, -2:-1] if line.shape[1] > 1 else 0)
        speeds = (self.W_dec + (last - before) / step).norm(dim=1)
        ends, speeds = (
            (ends, speeds) if active.pattern is None else (active.per_latent(ends), active.per_latent(speeds))
        )
        within = torch.minimum(values, ends)
        return self.curves.at(within, active.pattern, knots) + F.relu(values - ends) * speeds

    def paces(self, step: int, steps: int) -> dict[str, float]:
        return {"knots_dec": self.curves.pace(step, steps)}
