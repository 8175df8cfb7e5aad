"""What KAN parts compute in kernels of their own on a GPU, and the one place that chooses them.

A GPU needs such a kernel where torch's operations read or write rows of d_model numbers more often than the sum asks:

- the curved decoders ``kan-bend`` and ``kan-curve``: a bag of rows for the directions and another one for what bends them,
  and so again in both gradients. :func:`curved_decode` makes one pass of each, and evaluates the functions (hats) on the way.
- the gradients of ``kan-edge``: torch makes the basis of a block of coordinates, reads G numbers of it per entry and
  coordinate, and copies the block's weights to and from memory. :func:`edge_gradients` reads coordinates instead and
  evaluates the basis in registers.

It does not need one for

- linear decoders and encoders (:mod:`kanary.kernels.sparse`): ``embedding_bag`` and its gradient by entry read each active row
  once, sum in float32, and add to no memory twice (aten/src/ATen/native/cuda/EmbeddingBag.cu), so that results repeat.
  They take bfloat16, the gradient by entry only in a torch with pull request 185889 of June 2026;
- functions of single codes (``kan-node``, ``kan-gain``): a handful of numbers per entry beside its row of d_model;
- the product of ``kan-edge``: a tile of tokens' basis is made once for all latents, d G numbers against d G width products.
"""

import os

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from kanary.errors import KanaryError, nearest
from kanary.kernels.sparse import Pattern, weigh_rows

VARIABLE = "KANARY_KERNELS"
CHOICES = ("torch", "triton")
PRECISIONS = (torch.float32, torch.bfloat16, torch.float16)  # others would lose by sums in float32


def on_triton(weight: Tensor) -> bool:
    """Whether kernels written in Triton compute with ``weight``: if the environment variable ``KANARY_KERNELS`` says "triton".

    They are not the default as long as nobody has measured them on a GPU. On a CPU they work in Triton's interpreter only
    (``TRITON_INTERPRET=1``), for tests.
    """
    choice = os.environ.get(VARIABLE, CHOICES[0])
    if choice not in CHOICES:
        raise KanaryError(f"{VARIABLE}={choice!r} is unknown. {nearest(choice, CHOICES)}")
    return choice == "triton" and weight.dtype in PRECISIONS


def curved_decode(
    values: Tensor, pattern: Pattern, weight: Tensor, beside: Tensor, grid: Tensor, coefficients: Tensor | None = None
) -> Tensor:
    """What curved latents add to each token, differentiable: ``[tokens, d]``.

    ``sum_i (f_i weight[i] + sum_r s_ir(f_i) beside[i, r])`` with functions ``s`` of given coefficients; without them
    ``sum_i (f_i weight[i] + sum_g B_g(f_i) beside[i, g])``. Functions are piecewise linear, 0 at the first knot, and go on
    as straight lines beyond the grid.

    Args:
        values: ``[nnz]``, the codes f at ``pattern``.
        weight: ``[d_sae, d]``.
        beside: ``[d_sae, R, d]``, or, without coefficients, ``[d_sae, G - 1, d]``.
        grid: ``[d_sae, 2]``, the first and the last of G evenly spaced knots of every latent.
        coefficients: ``[d_sae, R, G - 1]``, values at the knots but the first.
    """
    decoded: Tensor = _CurvedDecode.apply(values, pattern, weight, beside, grid, coefficients)
    return decoded


class _CurvedDecode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        values: Tensor,
        pattern: Pattern,
        weight: Tensor,
        beside: Tensor,
        grid: Tensor,
        coefficients: Tensor | None,
    ) -> Tensor:
        from kanary.kernels import triton

        values, weight, beside, grid = (given.contiguous() for given in (values, weight, beside, grid))
        coefficients = None if coefficients is None else coefficients.contiguous()
        ctx.save_for_backward(values, weight, beside, grid, coefficients)  # type: ignore[arg-type]  # None is fine
        ctx.pattern = pattern  # type: ignore[attr-defined]
        return triton.decode(values, pattern, weight, beside, grid, coefficients)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        from kanary.kernels import triton

        values, *weights = ctx.saved_tensors  # type: ignore[attr-defined]
        pattern: Pattern = ctx.pattern  # type: ignore[attr-defined]
        needs_values, _, needs_weight, needs_beside, _, needs_curves = ctx.needs_input_grad  # type: ignore[attr-defined]
        grad = grad.contiguous()
        d_values = d_weight = d_beside = d_coefficients = None
        if needs_values or needs_curves:
            d_values, d_curves = triton.decode_entries(grad, values, pattern, *weights)
        if needs_curves:
            order, offsets, _ = pattern.by_latent()
            ones = torch.ones_like(d_curves[:, 0])
            summed = weigh_rows(ones, Pattern(order, offsets, len(order)), d_curves)
            d_coefficients = summed.view_as(weights[-1]).to(weights[-1].dtype)
        if needs_weight or needs_beside:
            d_weight, d_beside = triton.decode_latents(grad, values, pattern, *weights)
        return d_values, None, d_weight, d_beside, None, d_coefficients


def edge_gradients(
    grad: Tensor, pattern: Pattern, x: Tensor, V: Tensor, grid: Tensor, table: Tensor, needs: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of ``x`` and ``V`` in ``pre[n, i] = sum_jg V[i, j, g] B_g(x[n, j])`` from those of some entries.

    Args:
        grad: ``[nnz]`` at ``pattern``.
        x: ``[tokens, m]``, V: ``[d_sae, m, G]``.
        grid: ``[m, 2]``, the ends of every coordinate's evenly spaced knots.
        table: ``[degree + 1, degree + 1, pieces]``, the splines' polynomials, see :class:`~kanary.splines.bases.BSpline`.
        needs: which of the two are wanted; the others are None.
    """
    from kanary.kernels import triton

    given = [number.contiguous() for number in (x, V, grid, table)]
    d_x = triton.edge_inputs(grad.contiguous(), pattern, *given) if needs[0] else None
    d_V = triton.edge_weights(grad.contiguous(), pattern, *given) if needs[1] else None
    return d_x, d_V
