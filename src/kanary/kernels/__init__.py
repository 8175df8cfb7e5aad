"""The few operations that decide the speed of an SAE; callers never ask which device runs them."""

from kanary.kernels.fused import curved_decode, edge_gradients, on_triton
from kanary.kernels.sparse import (
    Pattern,
    linear_at,
    product_at,
    project_at,
    score_at,
    sparse_decode,
    transposed_product,
    weigh_rows,
)

__all__ = [
    "Pattern",
    "curved_decode",
    "edge_gradients",
    "linear_at",
    "on_triton",
    "product_at",
    "project_at",
    "score_at",
    "sparse_decode",
    "transposed_product",
    "weigh_rows",
]
