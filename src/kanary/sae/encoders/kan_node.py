"""A learned function for every latent, of its own pre-activation (KAN-SAE)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from kanary.config import option
from kanary.errors import KanaryError, nearest
from kanary.sae.curves import CurveOptions, LatentCurves
from kanary.sae.encoders.linear import LinearEncoder
from kanary.sae.parts import Active, Decoder, Sparsifier, part

STARTS = ("zero", "relu")


@dataclass(frozen=True)
class KANNodeOptions(CurveOptions):
    start: str = option("zero", "functions begin as zero, added to the line, or as the line itself (relu)")


@part("kan-node")
class KANNode(LinearEncoder):
    """``pre = z + s_i(relu(z))``, ``z = W_enc (x - b_dec) + b_enc``, for the latents that the sparsifier selects by ``z``.

    The activation function of every latent is a spline (KAN-SAE, Cheon 2026, arXiv 2605.17493), evaluated at the selected
    entries only; with linear decoders it can do no more than say how strong a latent is. Where ``z <= 0``, ``pre = z``.
    ``start``: "zero" begins with ``s = 0``; with "relu" the function is the spline alone, ``pre = s_i(relu(z)) -
    relu(-z)``, which begins as the identity. Both describe the same functions by numbers that differ by a constant, so
    that Adam, which does not see constants, takes both along the same path.

    d_model + G parameters per latent (G = ``knots``), 2 d_model FLOPs per latent and token, and 8 (cubic: 30) per
    selected one. State: ``W_enc [d_sae, d_model]``, ``b_enc [d_sae]``, ``curves.coefficients [d_sae, 1, G - 1]``, grids.
    """

    Options = KANNodeOptions
    options: KANNodeOptions

    def __init__(self, d_model: int, d_sae: int, options: KANNodeOptions | None = None) -> None:
        super().__init__(d_model, d_sae, options)
        if self.options.start not in STARTS:
            raise KanaryError(f"start={self.options.start!r} is unknown. {nearest(self.options.start, STARTS)}")
        self.curves = LatentCurves(d_sae, self.options)
        self._asleep = False
        self._begin()

    @property
    def asleep(self) -> bool:
        """Whether, in training, the functions change nothing and do not learn yet."""
        return self.training and self._asleep

    def select(
        self, x: Tensor, shift: Tensor, sparsifier: Sparsifier, precision: str = "fp32", latents: Tensor | None = None
    ) -> Active | None:
        active = super().select(x, shift, sparsifier, precision, latents)
        if active is None:
            return None
        assert active.pattern is not None
        if self.training and latents is None:
            self.curves.count(active.pre.detach(), active.pattern.latents)
        if self.asleep:
            return active
        return Active(self._bent(active.pre, active.pattern.latents), active.pattern, x)

    def everything(self, x: Tensor, shift: Tensor, sparsifier: Sparsifier) -> Tensor:
        z = super().everything(x, shift, sparsifier)
        mask = sparsifier.mask(z.detach())
        if self.training:
            self.curves.count(z.detach() * mask)
        if self.asleep:
            return z
        return z.masked_scatter(mask, self._bent(z.masked_select(mask), mask.nonzero()[:, 1]))

    def scores(self, x: Tensor, sparsifier: Sparsifier, decoder: Decoder, latents: Tensor) -> Tensor:
        z = super().scores(x, sparsifier, decoder, latents)
        return self._bent(z.reshape(-1), latents.repeat(len(z))).view_as(z)

    def _bent(self, z: Tensor, latents: Tensor) -> Tensor:
        """``z [entries]`` of ``latents [entries]`` through their functions."""
        strength = F.relu(z)
        bent: Tensor = self.curves(strength, latents)
        return bent + (z if self.options.start == "zero" else -F.relu(-z))

    def before_step(self, step: int, steps: int) -> None:
        self.curves.before_step(step, steps)
        joined = self.curves.schedule.joined(step, steps)
        self._asleep = not joined and torch.equal(self.curves.coefficients, self._start())

    def paces(self, step: int, steps: int) -> dict[str, float]:
        return {"curves.coefficients": self.curves.schedule.now(step, steps)}

    @torch.no_grad()
    def tie(self, directions: Tensor) -> None:
        super().tie(directions)
        self._begin()

    @torch.no_grad()
    def reset(self, latents: Tensor, directions: Tensor) -> None:
        super().reset(latents, directions)
        self.curves.coefficients[latents] = self._start()[latents]

    @torch.no_grad()
    def _begin(self) -> None:
        self.curves.coefficients.copy_(self._start())

    def _start(self) -> Tensor:
        """``[d_sae, 1, G - 1]``, the functions that leave every pre-activation as it is."""
        if self.options.start == "zero":
            return torch.zeros_like(self.curves.coefficients)
        return self.curves.line()[:, None]
