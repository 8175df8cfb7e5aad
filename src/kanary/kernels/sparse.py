"""Products with a sparse [tokens, d_sae] matrix of which only the active entries are ever touched.

One encode matmul is the floor of a training step. Everything after it costs tokens x active x d_model here, and no
tensor of that size is made: the forward is a weighted bag of rows, and so are the weight gradients, by latent.
"""

import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F

with (
    warnings.catch_warnings()
):  # said once per process, and nothing a user could act on: "CSR support is in beta state"
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor(torch.tensor([0, 0]), torch.tensor([], dtype=torch.int64), torch.tensor([]), (1, 1))


@dataclass(frozen=True)
class Pattern:
    """Which entries of a [tokens, d_sae] matrix exist, in row order (compressed sparse rows).

    Attributes:
        latents: ``[nnz]`` int64, the column of every entry.
        offsets: ``[tokens + 1]`` int64; token n owns entries ``offsets[n]:offsets[n + 1]``.
        d_sae: number of columns.
    """

    latents: Tensor
    offsets: Tensor
    d_sae: int
    _known: dict[str, Any] = field(
        default_factory=dict, repr=False, compare=False
    )  # computed once, when first asked for

    @property
    def tokens(self) -> int:
        return len(self.offsets) - 1

    def rows(self) -> Tensor:
        """``[nnz]`` int64, the token of every entry."""
        if "rows" not in self._known:
            counts, device = self.offsets.diff(), self.offsets.device
            tokens = torch.arange(self.tokens, device=device)
            self._known["rows"] = torch.repeat_interleave(tokens, counts, output_size=len(self.latents))
        rows: Tensor = self._known["rows"]
        return rows

    def by_latent(self) -> tuple[Tensor, Tensor, Tensor]:
        """The transpose: (order of the entries, ``[d_sae + 1]`` offsets, token of every entry in that order).

        The encoder's and the decoder's gradients share it.
        """
        if "by_latent" not in self._known:
            # fast because 16-bit keys sort many times as fast as 64-bit ones
            keys = self.latents.to(torch.int16) if self.d_sae <= 2**15 else self.latents.to(torch.int32)
            order = torch.argsort(keys, stable=True)
            counts = torch.bincount(self.latents, minlength=self.d_sae)
            self._known["by_latent"] = (order, F.pad(counts.cumsum(0), (1, 0)), self.rows()[order])
        known: tuple[Tensor, Tensor, Tensor] = self._known["by_latent"]
        return known

    def keep(self, entries: Tensor) -> "Pattern":
        """The pattern of the entries where the boolean ``entries: [nnz]`` is true."""
        kept = F.pad(entries.to(torch.int64).cumsum(0), (1, 0))
        return Pattern(self.latents[entries], kept[self.offsets], self.d_sae)

    def renamed(self, names: Tensor | None, d_sae: int) -> "Pattern":
        """The same entries in a matrix of ``d_sae`` columns, where column i is called ``names[i]``; None: as they are."""
        return self if names is None else Pattern(names[self.latents], self.offsets, d_sae)


def weigh_rows(values: Tensor, pattern: Pattern, weight: Tensor) -> Tensor:
    """``codes @ weight``: ``values [nnz]``, ``weight [d_sae, d]`` -> ``[tokens, d]``; not differentiable."""
    if not len(values):
        return weight.new_zeros(pattern.tokens, weight.shape[1])
    return F.embedding_bag(
        pattern.latents, weight, pattern.offsets, mode="sum", per_sample_weights=values, include_last_offset=True
    )


def transposed_product(values: Tensor, pattern: Pattern, x: Tensor) -> Tensor:
    """``codes.T @ x``: ``values [nnz]``, ``x [tokens, d]`` -> ``[d_sae, d]``; not differentiable."""
    order, offsets, rows = pattern.by_latent()
    # half the time of a sparse matrix product (2 cores), which fills its result twice before it adds to it
    return weigh_rows(values[order], Pattern(rows, offsets, pattern.tokens), x)


def score_at(x: Tensor, weight: Tensor, pattern: Pattern) -> Tensor:
    """``(x @ weight.T)`` at the entries of ``pattern`` only: ``x [tokens, d]``, ``weight [d_sae, d]`` -> ``[nnz]``.

    Not differentiable.
    """
    if not len(pattern.latents):
        return x.new_zeros(0)
    # the gradient of a weighted bag with respect to its weights is exactly this product, done without temporaries
    scores: Tensor = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        x, weight, pattern.latents, pattern.offsets[:-1], pattern.rows(), 0, -1
    )
    return scores


class _ProductAt(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, pre: Tensor, pattern: Pattern) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.pattern = pattern  # type: ignore[attr-defined]
        return pre.view_as(pre)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        pattern: Pattern = ctx.pattern  # type: ignore[attr-defined]
        needs_x, needs_weight, needs_pre, _ = ctx.needs_input_grad  # type: ignore[attr-defined]
        d_x = weigh_rows(grad, pattern, weight) if needs_x else None
        d_weight = transposed_product(grad, pattern, x) if needs_weight else None
        return d_x, d_weight, grad if needs_pre else None, None


def product_at(x: Tensor, weight: Tensor, pre: Tensor, pattern: Pattern) -> Tensor:
    """Attaches the gradients of ``x @ weight.T`` to entries that hold it already, maybe with other terms that have theirs.

    Args:
        x: ``[tokens, d]``, weight: ``[d_sae, d]``: to differentiate.
        pre: ``[nnz]``, the values at ``pattern``, computed by the caller; its own gradients are kept.
    """
    attached: Tensor = _ProductAt.apply(x, weight, pre, pattern)
    return attached


def project_at(x: Tensor, weight: Tensor, pattern: Pattern) -> Tensor:
    """:func:`score_at` with gradients for ``x [tokens, d]`` and ``weight [d_sae, d]``: ``[nnz]``."""
    return product_at(x, weight, score_at(x.detach(), weight.detach(), pattern), pattern)


class _LinearAt(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, weight: Tensor, bias: Tensor, shift: Tensor, x: Tensor, pre: Tensor, pattern: Pattern
    ) -> Tensor:
        ctx.save_for_backward(weight, x)
        ctx.pattern = pattern  # type: ignore[attr-defined]
        return pre.view_as(pre)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, x = ctx.saved_tensors  # type: ignore[attr-defined]
        pattern: Pattern = ctx.pattern  # type: ignore[attr-defined]
        d_weight = transposed_product(grad, pattern, x)
        d_bias = torch.zeros_like(weight[:, 0]).index_add_(0, pattern.latents, grad)
        return d_weight, d_bias, -(d_bias @ weight), None, None, None


def linear_at(weight: Tensor, bias: Tensor, shift: Tensor, x: Tensor, pre: Tensor, pattern: Pattern) -> Tensor:
    """Attaches gradients to pre-activations ``(x - shift) @ weight.T + bias`` known at the entries of ``pattern``.

    Args:
        weight: ``[d_sae, d_model]``, bias: ``[d_sae]``, shift: ``[d_model]``: the parameters to differentiate.
        x: ``[tokens, d_model]``, already shifted; gets no gradient (it is data).
        pre: ``[nnz]``, the values, computed by the caller.
    """
    attached: Tensor = _LinearAt.apply(weight, bias, shift, x, pre, pattern)
    return attached


class _SparseDecode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, values: Tensor, weight: Tensor, pattern: Pattern) -> Tensor:
        ctx.save_for_backward(values, weight)
        ctx.pattern = pattern  # type: ignore[attr-defined]
        return weigh_rows(values, pattern, weight)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        values, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        pattern: Pattern = ctx.pattern  # type: ignore[attr-defined]
        needs_values, needs_weight, _ = ctx.needs_input_grad  # type: ignore[attr-defined]
        grad = grad.contiguous()
        d_values = score_at(grad, weight, pattern) if needs_values else None
        d_weight = transposed_product(values, pattern, grad) if needs_weight else None
        return d_values, d_weight, None


def sparse_decode(values: Tensor, weight: Tensor, pattern: Pattern) -> Tensor:
    """``codes @ weight`` with gradients: ``values [nnz]``, ``weight [d_sae, d_model]`` -> ``[tokens, d_model]``."""
    decoded: Tensor = _SparseDecode.apply(values, weight, pattern)
    return decoded
