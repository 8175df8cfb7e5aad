"""A learned function on every edge from a coordinate of the activation to a latent: the KAN layer as an encoder."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F

from kanary.config import option
from kanary.errors import KanaryError, nearest
from kanary.kernels import Pattern, edge_gradients, on_triton, product_at, transposed_product, weigh_rows
from kanary.sae.curves import CurveOptions, Schedule
from kanary.sae.encoders.hidden import GRIDS, START
from kanary.sae.encoders.linear import LinearEncoder, Term
from kanary.sae.parts import TILE, Active, Encoder, Sparsifier, part
from kanary.sae.spread import Spread, outside
from kanary.splines import Basis, fit, make_basis
from kanary.splines.bases import BSpline

# features of a block on a CPU: with so few, the weights that entries pick among stay in its cache
COLUMNS = 128
BASES = ("linear", "silu", "none")


@dataclass(frozen=True)
class KANEdgeOptions(CurveOptions):
    basis: str = option("bspline", "of the functions: hat (piecewise linear), bspline (cubic), rbf or chebyshev")
    base: str = option("linear", "beside the functions: linear (begins as the linear encoder), silu, or none")


@part("kan-edge")
class KANEdge(LinearEncoder):
    """``pre_i = sum_j (W_ij base(x~_j) + sum_g V_ijg B_g(x~_j)) + b_i``, ``x~ = x - b_dec``: a spline on every edge.

    Every coordinate has its own grid, mean +- 3 deviations of the data within their extremes, learned until the functions
    join; outside, functions are straight lines. ``base="linear"`` with ``V = 0`` is the linear encoder at the start.
    KAN-LLaMA's ``KANLinear -> ReLU -> Linear`` (efficient-kan: cubic splines, grid 5, that is ``knots=8``) is
    ``base="silu"`` and the linear decoder, now with a sparsifier; it is *not* equal to a linear SAE at the start. With
    ``base="none"`` the splines begin as the straight lines of the linear encoder (``rbf`` only nearly), there is no
    ``W_enc``, and they learn from the first step on.

    d_model (G + 1) + 1 parameters and 2 d_model (G + 1) FLOPs per latent and token (G = ``knots``), and 30 (hats: 8) per
    coordinate for its basis, shared by all latents. Memory beside the weights: the basis of a tile of tokens.
    State: ``W_enc [d_sae, d_model]``, ``b_enc [d_sae]``, ``V [d_sae, d_model, G]``, grids, the spread of the coordinates.
    Sources: Liu et al. 2024, arXiv 2404.19756 (B-splines); Li 2024, arXiv 2405.06721 (rbf, here without its LayerNorm).
    """

    Options = KANEdgeOptions
    options: KANEdgeOptions

    def __init__(self, d_model: int, d_sae: int, options: KANEdgeOptions | None = None) -> None:
        super().__init__(d_model, d_sae, options)
        for name, choices in (("basis", GRIDS), ("base", BASES)):
            if (value := getattr(self.options, name)) not in choices:
                raise KanaryError(f"{name}={value!r} is unknown. {nearest(value, choices)}")
        self.schedule = Schedule(self.options.joins, self.options.pace)
        self.basis = make_basis(self.options.basis, self.options.knots, d_model)
        self.basis.set_range(-START, START)
        self.has_base = self.options.base != "none"
        if not self.has_base:
            self.register_parameter("W_enc", None)
        self.V = nn.Parameter(torch.zeros(d_sae, d_model, self.options.knots))
        self.spread = Spread(d_model)
        self.listening = self.learning = self._asleep = False

    @property
    def asleep(self) -> bool:
        """Whether, in training, V is zero and does not learn yet: then the functions need not be computed."""
        return self.training and self._asleep

    def base(self, x: Tensor) -> Tensor:
        """``x [tokens, d_model]``, shifted, as the base weights read it."""
        return F.silu(x) if self.options.base == "silu" else x

    def forward(self, x: Tensor, latents: Tensor | None = None) -> Tensor:
        V, b = (p if latents is None else p[latents] for p in (self.V, self.b_enc))
        if not self.has_base:
            pre = b.expand(len(x), -1)
        else:
            pre = F.linear(self.base(x), self.W_enc if latents is None else self.W_enc[latents], b)
        return pre if self.asleep else edges(x, V, pre, self.basis, None)

    def everything(self, x: Tensor, shift: Tensor, sparsifier: Sparsifier) -> Tensor:
        if self._is_linear():
            return super().everything(x, shift, sparsifier)
        return Encoder.everything(self, x, shift, sparsifier)

    def select(
        self, x: Tensor, shift: Tensor, sparsifier: Sparsifier, precision: str = "fp32", latents: Tensor | None = None
    ) -> Active | None:
        if self.listening and self.training and latents is None:
            self.spread.count(x.detach() - shift.detach())
        if self._is_linear():
            return super().select(x, shift, sparsifier, precision, latents)
        shifted = x - shift
        based = self.base(shifted)
        fold = self.training and self.learning and latents is None and precision != "bf16"
        terms, bias = self._terms(shifted.detach(), based.detach(), fold)
        found = self.found(len(x), terms, bias, sparsifier, precision, latents)
        if found is None:
            return None
        pre, pattern = found
        pre = pre + (self.b_enc - self.b_enc.detach()).index_select(0, pattern.latents)  # zero, with gradient one
        if self.has_base:
            pre = product_at(based, self.W_enc, pre, pattern)
        return Active(pre if self.asleep else edges(shifted, self.V, pre, self.basis, pattern), pattern, x)

    @torch.no_grad()
    def outside(self, x: Tensor, shift: Tensor) -> Tensor:
        """``[tokens, d_model]``: whether each coordinate lies outside its grid."""
        return outside(self.basis, x - shift)

    def before_step(self, step: int, steps: int) -> None:
        if self.schedule.moves(step, steps):
            with torch.no_grad():
                self.spread.place(self.basis, self.V)
        self.listening = self.schedule.listens(step, steps)
        self.learning = self.schedule.joined(step, steps)
        self._asleep = self.has_base and not self.learning and not bool(self.V.any())

    def paces(self, step: int, steps: int) -> dict[str, float]:
        return {"V": self.schedule.now(step, steps) if self.has_base else self.schedule.pace}

    @torch.no_grad()
    def tie(self, directions: Tensor) -> None:
        if self.has_base:
            super().tie(directions)
            self.V.zero_()
        else:
            self._straighten(slice(None), directions)
            self.b_enc.zero_()

    @torch.no_grad()
    def reset(self, latents: Tensor, directions: Tensor) -> None:
        if self.has_base:
            super().reset(latents, directions)
            self.V[latents] = 0
        else:
            self._straighten(latents, directions)
            self.b_enc[latents] = 0

    def _terms(self, x: Tensor, based: Tensor, fold: bool) -> tuple[list[Term], Tensor]:
        """What is to be summed for shifted ``x [tokens, d_model]`` and its ``base``, see :func:`scan`; and the bias.

        Fast because of what bases contain: as ``1 = sum_g one_g B_g``, the first function is what the others leave of 1, so
        that it goes into the bias; as ``x = sum_g line_g B_g``, a linear base goes into the functions. 2 of the G + 1
        products are saved. Only with ``fold``: it takes a pass over V, and rough numbers lose by differences.
        """
        base: list[Term] = [(based.__getitem__, self.W_enc)] if self.has_base else []
        if self.asleep:
            return base, self.b_enc
        if not fold or self.basis.name == "rbf":
            return [*base, (lambda tokens: self.basis.expand(x[tokens]), self.V.flatten(1))], self.b_enc
        with torch.no_grad():
            one, line = self._lines()
            V = torch.addcmul(self.V[..., 1:], self.V[..., :1], one[1:], value=-1)
            bias = self.b_enc + self.V[..., 0].sum(1)
            if self.options.base == "linear":
                base = []
                V.addcmul_(self.W_enc[..., None], line[:, 1:] - line[:, :1] * one[1:])
                bias += self.W_enc @ line[:, 0]
        size = self.basis.size
        rest: Term = (
            lambda tokens: self.basis.expand(x[tokens]).unflatten(1, (-1, size))[..., 1:].flatten(1),
            V.flatten(1),
        )
        return [*base, rest], bias

    def _lines(self) -> tuple[Tensor, Tensor]:
        """The coefficients of 1, ``[G]``, and those of x on every coordinate's grid, ``[d_model, G]``."""
        unit = make_basis(self.basis.name, self.basis.size).to(self.basis.grid)
        unit.set_range(0.0, 1.0)
        one, line = (fit(unit, function)[0] for function in (torch.ones_like, lambda x: x))
        low, high = (end[:, None] for end in self.basis.ends(None))
        return one, low * one + (high - low) * line

    def _is_linear(self) -> bool:
        return self.asleep and self.options.base == "linear"

    def _straighten(self, latents: Tensor | slice, directions: Tensor) -> None:
        """Makes the functions of ``latents`` the straight lines of a linear encoder with weights ``directions``."""
        for j, line in enumerate(self._lines()[1]):  # a coordinate at a time, because V may be large
            self.V[latents, j] = directions[:, j, None] * line


def edges(x: Tensor, V: Tensor, pre: Tensor, basis: Basis, pattern: Pattern | None) -> Tensor:
    """``pre[n, i] + sum_jg V[i, j, g] B_g(x[n, j])``, differentiable in ``x``, ``V`` and ``pre``.

    Args:
        x: ``[tokens, m]``, V: ``[d_sae, m, G]``.
        pre: ``[tokens, d_sae]``; or, with a pattern, ``[nnz]`` values that hold the sum already and get its gradients.

    Memory: the basis of a block of coordinates, tokens x block x G numbers.
    """
    found: Tensor = _Edges.apply(x, V, pre, basis, pattern)
    return found


class _Edges(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, V: Tensor, pre: Tensor, basis: Basis, pattern: Pattern | None) -> Tensor:
        ctx.save_for_backward(x, V)
        ctx.basis, ctx.pattern = basis, pattern  # type: ignore[attr-defined]
        if pattern is not None:
            return pre.view_as(pre)
        total = pre.clone()
        for block in _blocks(x, basis):
            total.addmm_(_expand(basis, x[:, block], block), V[:, block].flatten(1).T)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, V = ctx.saved_tensors  # type: ignore[attr-defined]
        basis: Basis = ctx.basis  # type: ignore[attr-defined]
        pattern: Pattern | None = ctx.pattern  # type: ignore[attr-defined]
        needs_x, needs_V, needs_pre, *_ = ctx.needs_input_grad  # type: ignore[attr-defined]
        if pattern is not None and (splines := _for_kernels(basis, V)) is not None:
            found = edge_gradients(grad, pattern, x, V, splines.grid, splines.table, (needs_x, needs_V))
            return *found, grad if needs_pre else None, None, None
        d_x = torch.empty_like(x) if needs_x else None
        d_V = torch.empty_like(V) if needs_V else None
        for block in _blocks(x, basis):
            with torch.enable_grad():
                some = x[:, block].detach().requires_grad_(needs_x)
                features = _expand(basis, some, block)
            if d_V is not None:
                known = features.detach()
                made = grad.T @ known if pattern is None else transposed_product(grad, pattern, known)
                d_V[:, block] = made.unflatten(1, (-1, basis.size))
            if d_x is not None:
                weights = V[:, block].flatten(1).contiguous()  # fast because entries then read whole lines of the cache
                along = grad @ weights if pattern is None else weigh_rows(grad, pattern, weights)
                (d_x[:, block],) = torch.autograd.grad(features, some, along)
        return d_x, d_V, grad if needs_pre else None, None, None


def _for_kernels(basis: Basis, V: Tensor) -> BSpline | None:
    """The basis, if kernels that evaluate it themselves make the gradients: on a GPU, splines as this encoder has them."""
    if isinstance(basis, BSpline) and basis.uniform and basis.outside == "linear" and len(basis.grid) == V.shape[1]:
        return basis if on_triton(V) else None
    return None


def _blocks(x: Tensor, basis: Basis) -> Iterator[slice]:
    """Coordinates of ``x [tokens, m]`` whose basis is held at a time."""
    most = TILE // max(1, len(x))
    size = max(1, (most if x.is_cuda else min(COLUMNS, most)) // basis.size)
    return (slice(start, min(start + size, x.shape[1])) for start in range(0, x.shape[1], size))


def _expand(basis: Basis, x: Tensor, block: slice) -> Tensor:
    """The basis of the coordinates ``block``, ``x [tokens, block]``: ``[tokens, block * G]``."""
    return basis.dense(x, torch.arange(block.start, block.stop, device=x.device)).flatten(1)
