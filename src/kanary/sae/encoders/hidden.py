"""Encoders with a hidden layer beside the straight way: one of ReLUs, and one whose units learn their own function.

Encoders with no hidden layer cannot find the best sparse code (O'Neill et al. 2024, arXiv 2411.13117); what either of these
gains is shown by the other.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kanary.config import option
from kanary.errors import KanaryError, nearest
from kanary.kernels import linear_at, product_at
from kanary.sae.curves import CurveOptions, Schedule
from kanary.sae.encoders.linear import LinearEncoder
from kanary.sae.parts import Active, Sparsifier, part
from kanary.sae.spread import Spread, outside
from kanary.splines import make_basis

GRIDS = ("hat", "bspline", "rbf", "chebyshev")
START = 3.0  # grids reach from -3 to 3 until it is known where values lie: about three standard deviations


class HiddenEncoder(LinearEncoder):
    """``pre = W_enc x~ + V psi(P x~ + c) + b_enc``, ``x~ = x - b_dec``; ``V = 0`` at the start and until the layer joins.

    State: that of the linear encoder, ``V [d_sae, h]``, ``P [h, d_model]``, ``c [h]``.
    """

    schedule: Schedule

    def __init__(self, d_model: int, d_sae: int, options: "MLPOptions | KANHiddenOptions | None" = None) -> None:
        super().__init__(d_model, d_sae, options)
        if self.options.hidden < 0:
            raise KanaryError(
                f"hidden={self.options.hidden}: give the number of hidden units, or 0 for as many as d_model."
            )
        self.units = self.options.hidden or d_model
        self.schedule = Schedule(self.options.joins, getattr(self.options, "pace", 1.0))
        self.P = nn.Parameter(torch.zeros(self.units, d_model))
        self.c = nn.Parameter(torch.zeros(self.units))
        self.V = nn.Parameter(torch.zeros(d_sae, self.units))
        self._asleep = False

    @property
    def asleep(self) -> bool:
        """Whether, in training, V is zero and does not learn yet: then there is nothing to compute."""
        return self.training and self._asleep

    def psi(self, u: Tensor) -> Tensor:
        """``u [tokens, h]``, the inputs of the hidden units, to their outputs."""
        return F.relu(u)

    def hidden(self, x: Tensor, shift: Tensor) -> Tensor:
        """What the hidden units say of ``x [tokens, d_model]``, not shifted: ``[tokens, h]``, with gradients."""
        return self.psi(self._inputs(x, shift))

    def _inputs(self, x: Tensor, shift: Tensor) -> Tensor:
        if x.requires_grad:
            return F.linear(x - shift, self.P, self.c)
        # fast because the shift gets its gradient through the bias, see LinearEncoder.everything
        bias = self.c - self.P.detach() @ (shift - shift.detach())
        return F.linear(x - shift.detach(), self.P, bias)

    def forward(self, x: Tensor, latents: Tensor | None = None) -> Tensor:
        pre = super().forward(x, latents)
        if self.asleep:
            return pre
        return pre + F.linear(self.hidden(x, x.new_zeros(self.d_model)), self.V if latents is None else self.V[latents])

    def everything(self, x: Tensor, shift: Tensor, sparsifier: Sparsifier) -> Tensor:
        pre = super().everything(x, shift, sparsifier)
        if self.asleep or x.requires_grad:  # then it is forward's, which has it all
            return pre
        return pre + F.linear(self.hidden(x, shift), self.V)

    def select(
        self, x: Tensor, shift: Tensor, sparsifier: Sparsifier, precision: str = "fp32", latents: Tensor | None = None
    ) -> Active | None:
        if self.asleep or x.requires_grad:
            return super().select(x, shift, sparsifier, precision, latents)
        shifted, hidden = x - shift.detach(), self.hidden(x, shift)
        terms = [(shifted.__getitem__, self.W_enc), (hidden.detach().__getitem__, self.V)]
        found = self.found(len(x), terms, self.b_enc, sparsifier, precision, latents)
        if found is None:
            return None
        pre = linear_at(self.W_enc, self.b_enc, shift, shifted, *found)
        return Active(product_at(hidden, self.V, pre, found[1]), found[1], x)

    def before_step(self, step: int, steps: int) -> None:
        self._asleep = not self.schedule.joined(step, steps) and not bool(self.V.any())

    def paces(self, step: int, steps: int) -> dict[str, float]:
        return dict.fromkeys(("V", "P", "c"), float(self.schedule.joined(step, steps)))

    @torch.no_grad()
    def tie(self, directions: Tensor) -> None:
        super().tie(directions)
        self.V.zero_()
        self.c.zero_()
        # the units look for the first directions, which are random; if they are more, for differences of two
        turns = range(-(-self.units // self.d_sae))
        rows = torch.cat([directions - directions.roll(turn, 0) if turn else directions for turn in turns])
        self.P.copy_(F.normalize(rows[: self.units], dim=1))

    @torch.no_grad()
    def reset(self, latents: Tensor, directions: Tensor) -> None:
        super().reset(latents, directions)
        self.V[latents] = 0


@dataclass(frozen=True)
class MLPOptions:
    hidden: int = option(0, "hidden units; 0 = as many as d_model")
    joins: float = option(0.1, "share of training after which the functions begin to learn")


@part("mlp")
class MLPEncoder(HiddenEncoder):
    """``pre = W_enc x~ + V relu(P x~ + c) + b_enc``, ``x~ = x - b_dec``: the control of ``kan-hidden``.

    With h hidden units d_model + h + 1 parameters and 2 (d_model + h) FLOPs per latent and token, and h (d_model + 1)
    parameters and 2 h d_model FLOPs per token once for all latents. ``V = 0`` until a tenth of training (``joins``): until
    then it is the linear encoder. State: see :class:`HiddenEncoder`. Source: O'Neill et al. 2024, arXiv 2411.13117, but
    with the straight way beside the hidden layer.
    """

    Options = MLPOptions
    options: MLPOptions


@dataclass(frozen=True)
class KANHiddenOptions(CurveOptions):
    basis: str = option("hat", "of the functions: hat (piecewise linear), bspline (cubic), rbf or chebyshev")
    hidden: int = option(0, "hidden units; 0 = as many as d_model")


@part("kan-hidden")
class KANHidden(HiddenEncoder):
    """``pre = W_enc x~ + V psi(P x~ + c) + b_enc``, ``psi_h(u) = relu(u) + sum_g C_hg B_g(u)``, ``x~ = x - b_dec``.

    A layer of learned functions, but on learned projections, because the residual stream's coordinates mean nothing by
    themselves; a KAN layer as an MLP with spline activations (Yu et al. 2024, arXiv 2407.16674). Grids follow the mean
    and the deviation of each unit's input when the layer joins and twice more; outside, functions are straight lines.

    Parameters and FLOPs as those of ``mlp``, and G = ``knots`` parameters and 8 FLOPs (cubic: 30) more per hidden unit.
    ``V`` and ``C`` are zero at the start, which is the linear encoder. State: see :class:`HiddenEncoder`, and
    ``coefficients [h, G]``, the grids, and the spread of the units' inputs while grids still move.
    """

    Options = KANHiddenOptions
    options: KANHiddenOptions

    def __init__(self, d_model: int, d_sae: int, options: KANHiddenOptions | None = None) -> None:
        super().__init__(d_model, d_sae, options)
        if self.options.basis not in GRIDS:
            raise KanaryError(f"basis={self.options.basis!r} is unknown. {nearest(self.options.basis, GRIDS)}")
        self.basis = make_basis(self.options.basis, self.options.knots, self.units)
        self.basis.set_range(-START, START)
        self.coefficients = nn.Parameter(torch.zeros(self.units, self.options.knots))
        self.spread = Spread(self.units)
        self.listening = False

    def psi(self, u: Tensor) -> Tensor:
        units = torch.arange(self.units, device=u.device).expand(u.shape)
        bent = self.basis.gather(u.reshape(-1), units.reshape(-1), self.coefficients)
        return F.relu(u) + bent.view_as(u)

    def select(
        self, x: Tensor, shift: Tensor, sparsifier: Sparsifier, precision: str = "fp32", latents: Tensor | None = None
    ) -> Active | None:
        if self.listening and self.training and latents is None:
            with torch.no_grad():
                self.spread.count(self._inputs(x, shift))
        return super().select(x, shift, sparsifier, precision, latents)

    @torch.no_grad()
    def outside(self, x: Tensor, shift: Tensor) -> Tensor:
        """``[tokens, h]``: whether each unit's input lies outside its grid."""
        return outside(self.basis, self._inputs(x, shift))

    def before_step(self, step: int, steps: int) -> None:
        super().before_step(step, steps)
        if self.schedule.moves(step, steps):
            self.spread.place(self.basis, self.coefficients)
        self.listening = self.schedule.listens(step, steps)

    def paces(self, step: int, steps: int) -> dict[str, float]:
        return {**super().paces(step, steps), "coefficients": self.schedule.now(step, steps)}

    @torch.no_grad()
    def tie(self, directions: Tensor) -> None:
        super().tie(directions)
        self.coefficients.zero_()
