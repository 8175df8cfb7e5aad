"""A learned function for every latent in the decoder, of its code; here of how strongly its direction is added."""

import torch
from torch import Tensor

from kanary.kernels import Pattern
from kanary.sae.curves import CurveOptions, LatentCurves
from kanary.sae.decoders.linear import LinearDecoder
from kanary.sae.parts import Active, part


class CurvedDecoder(LinearDecoder):
    """A linear decoder beside learned functions of its latents, which are zero until they join.

    Until then it is the linear decoder in all it does, gradients included.
    """

    Options = CurveOptions
    options: CurveOptions
    curves: LatentCurves

    def coefficients(self) -> Tensor:
        """``[d_sae, outputs, G - 1]``, of all functions; may be a view."""
        return self.curves.coefficients

    def before_step(self, step: int, steps: int) -> None:
        self.curves.before_step(step, steps, self.coefficients())

    def paces(self, step: int, steps: int) -> dict[str, float]:
        return {"curves.coefficients": self.curves.pace(step, steps)}

    def observe(self, active: Active, values: Tensor) -> None:
        self.curves.count(values, None if active.pattern is None else active.pattern.latents)

    @torch.no_grad()
    def reset(self, latents: Tensor, directions: Tensor) -> None:
        super().reset(latents, directions)
        self.coefficients()[latents] = 0


@part("kan-gain")
class KANGain(CurvedDecoder):
    """``x^ = sum_i (f_i + s_i(f_i)) W_dec[i] + b_dec``: a latent's direction is fixed, its strength a learned function.

    ``s_i(0) = 0``, piecewise linear or cubic, on a grid that follows the codes; 0 at the start. It can undo the shrinking
    of an L1 penalty latent by latent, but no more than the magnitudes: the control for decoders that turn.

    d_model + G - 1 parameters per latent (G = ``knots``), 2 d_model + 8 FLOPs per active one (cubic: 30).
    Source: ours; KAN-SAE's function per latent (``kan-node``), moved behind the sparsifier.
    State: ``W_dec [d_sae, d_model]``, ``b_dec [d_model]``, ``curves.coefficients [d_sae, 1, G - 1]``, grids.
    """

    def __init__(self, d_model: int, d_sae: int, options: CurveOptions | None = None) -> None:
        super().__init__(d_model, d_sae, options)
        self.curves = LatentCurves(d_sae, self.options)

    def forward(self, values: Tensor, pattern: Pattern | None) -> Tensor:
        return super().forward(self._gained(values, pattern), pattern)

    def lengths(self, active: Active, values: Tensor) -> Tensor:
        """``|f + s(f)|``."""
        return super().lengths(active, self._gained(values, active.pattern))

    def _gained(self, values: Tensor, pattern: Pattern | None) -> Tensor:
        if self.curves.idle:
            return values
        return values + self.curves.at(values, pattern, self.curves.coefficients[:, 0])
