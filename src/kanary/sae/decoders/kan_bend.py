"""A decoder whose latents are curves in a plane: what a latent adds turns as its code grows."""

from dataclasses import dataclass
from zlib import crc32

import torch
from torch import Tensor, nn

from kanary.activations.pool import generator
from kanary.config import option
from kanary.errors import KanaryError
from kanary.kernels import Pattern, curved_decode, project_at, sparse_decode
from kanary.sae.curves import CurveOptions, LatentCurves, spread
from kanary.sae.decoders.kan_gain import CurvedDecoder
from kanary.sae.parts import ROWS, Active, part


@dataclass(frozen=True)
class KANBendOptions(CurveOptions):
    rank: int = option(1, "directions into which a latent may bend")


@part("kan-bend")
class KANBend(CurvedDecoder):
    """``x^ = sum_i (f_i W_dec[i] + sum_r s_ir(f_i) W_bend[i, r]) + b_dec``: a curve for every latent, 0 at a code of 0.

    All directions of a latent have unit length and are perpendicular to each other, so that what bends cannot be had by a
    larger code. ``s = 0`` at the start; the directions to bend into are random, and until the functions join they move
    only as far as staying perpendicular asks.

    With R = ``rank`` and G = ``knots``: (1 + R) d_model + R (G - 1) parameters per latent, (1 + R) 2 d_model + 8 R FLOPs per
    active one (cubic: 30 R). Source: ours; a KAN layer from latents to activations (Liu et al. 2024, arXiv 2404.19756) whose
    functions are one function times one direction. State: ``W_dec [d_sae, d_model]``, ``W_bend [d_sae, R, d_model]``,
    ``b_dec [d_model]``, ``curves.coefficients [d_sae, R, G - 1]``, grids.
    """

    Options = KANBendOptions
    options: KANBendOptions

    def __init__(self, d_model: int, d_sae: int, options: KANBendOptions | None = None) -> None:
        super().__init__(d_model, d_sae, options)
        rank = self.options.rank
        if not 1 <= rank < d_model:
            raise KanaryError(
                f"rank={rank}: a latent of {d_model} dimensions can bend into 1 to {d_model - 1} directions."
            )
        self.curves = LatentCurves(d_sae, self.options, outputs=rank)
        self.W_bend = nn.Parameter(torch.empty(d_sae, rank, d_model))
        self._draw(0)

    def forward(self, values: Tensor, pattern: Pattern | None) -> Tensor:
        if pattern is not None and self.curves.fused and not self.curves.idle:
            curves = self.curves.basis.grid, self.curves.coefficients
            return curved_decode(values, pattern, self.W_dec, self.W_bend, *curves) + self.b_dec
        x_hat = super().forward(values, pattern)
        if self.curves.idle:
            return x_hat
        bends = self._bends(values, pattern)
        if pattern is None:
            return x_hat + sum(s @ self.W_bend[:, r] for r, s in enumerate(bends))
        rank = len(bends)
        if rank > 1:  # with one bend per latent the order of the entries by latent serves both directions
            pattern = spread(pattern, torch.arange(rank, device=values.device)[None], rank)
        return x_hat.add_(sparse_decode(torch.stack(bends, 1).reshape(-1), self.W_bend.flatten(0, 1), pattern))

    def lengths(self, active: Active, values: Tensor) -> Tensor:
        """``sqrt(f^2 + sum_r s_r(f)^2)``, where directions are as long as they should be."""
        straight = super().lengths(active, values)
        if self.curves.idle:
            return straight
        # fit for training because the gradient of this norm is 0 at 0
        parts = torch.stack([straight, *self._bends(values, active.pattern)], -1)
        lengths: Tensor = torch.linalg.vector_norm(parts, dim=-1)
        return lengths

    def along(self, missed: Tensor, values: Tensor, pattern: Pattern | None) -> Tensor:
        """Along the unit tangent ``(W_dec + sum_r s_r'(f) W_bend[:, r]) / sqrt(1 + sum_r s_r'(f)^2)``."""
        found, square = super().along(missed, values, pattern), torch.ones_like(values)
        if self.curves.idle:
            return found
        latents = (
            torch.arange(self.d_sae, device=values.device).expand_as(values) if pattern is None else pattern.latents
        )
        for r, bend in enumerate(self.W_bend.unbind(1)):
            slopes = self.curves(values.detach().reshape(-1), latents.reshape(-1), r, order=1).view_as(values)
            turned = missed @ bend.T if pattern is None else project_at(missed, bend.contiguous(), pattern)
            found, square = found + slopes * turned, square + slopes.square()
        return found / square.sqrt()

    def _bends(self, values: Tensor, pattern: Pattern | None) -> list[Tensor]:
        return [self.curves.at(values, pattern, coefficients) for coefficients in self.curves.coefficients.unbind(1)]

    def paces(self, step: int, steps: int) -> dict[str, float]:
        return {**super().paces(step, steps), "W_bend": float(self.curves.schedule.joined(step, steps))}

    @torch.no_grad()
    def begin(self, directions: Tensor) -> None:
        super().begin(directions)
        self._draw(crc32(directions.cpu().contiguous().numpy().tobytes()))  # other directions, other bends

    @torch.no_grad()
    def reset(self, latents: Tensor, directions: Tensor) -> None:
        super().reset(latents, directions)
        rows = self.W_bend[latents]
        _square(self.W_dec[latents], rows)
        _square(self.W_dec[latents], rows)
        self.W_bend[latents] = rows

    @torch.no_grad()
    def normalise(self) -> None:
        super().normalise()
        _square(self.W_dec, self.W_bend)

    @torch.no_grad()
    def project_gradient(self) -> None:
        """Removes what would only change lengths, or turn a latent's directions into each other."""
        super().project_gradient()
        if self.W_bend.grad is None:
            return
        for grads, directions, bends in zip(
            self.W_bend.grad.split(ROWS), self.W_dec.split(ROWS), self.W_bend.split(ROWS), strict=True
        ):
            for grad in grads.unbind(1):
                for direction in (directions, *bends.unbind(1)):
                    _take(grad, direction)

    @torch.no_grad()
    def _draw(self, seed: int) -> None:
        self.W_bend.copy_(torch.randn(self.W_bend.shape, generator=generator("W_bend", seed)))
        _square(self.W_dec, self.W_bend)
        _square(self.W_dec, self.W_bend)  # once is not exact where a direction happens to lie near the latent's own


def _square(W_dec: Tensor, W_bend: Tensor) -> None:
    """Makes ``W_bend [n, R, d]`` perpendicular to unit ``W_dec [n, d]`` and to each other, and of unit length."""
    for directions, bends in zip(W_dec.split(ROWS), W_bend.split(ROWS), strict=True):
        known = [directions]
        for bend in bends.unbind(1):
            for other in known:
                _take(bend, other)
            bend.div_(bend.norm(dim=1, keepdim=True).clamp_min_(torch.finfo(bend.dtype).tiny))
            known.append(bend)


def _take(rows: Tensor, away: Tensor) -> None:
    """Removes from ``rows [n, d]`` what points along unit ``away [n, d]``."""
    rows.addcmul_((rows * away).sum(1, keepdim=True), away, value=-1)
