"""Triton kernels for KAN parts; see :mod:`kanary.kernels.fused` for which there are and why, and what calls them.

Numbers are read in whatever precision they are stored in, summed in float32, and written in the precision of the weights.
No kernel adds to memory that another one adds to, so that every result is the same from run to run.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
# because Triton reads annotations of kernels as its own

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kanary.kernels.sparse import Pattern

_jit: Callable[[Callable[..., Any]], Any] = triton.jit

# numbers that a program holds of each tile: a choice made without a GPU; 4 warps then have 8 or 16 per thread
ROW, TILE = 1024, 2048


def decode(
    values: Tensor, pattern: Pattern, weight: Tensor, beside: Tensor, grid: Tensor, coefficients: Tensor | None
) -> Tensor:
    """``[tokens, d]``; arguments as those of :func:`~kanary.kernels.fused.curved_decode`."""
    out = weight.new_empty(pattern.tokens, weight.shape[1])
    knots, bends = _kind(beside, coefficients)
    block = _block(out.shape[1], ROW)
    with torch.cuda.device_of(out):
        _decode[pattern.tokens, triton.cdiv(out.shape[1], block)](
            out, values, pattern.latents, pattern.offsets, weight, beside, grid, coefficients,
            out.shape[1], KNOTS=knots, BENDS=bends, BLOCK=block,
        )  # fmt: skip
    return out


def decode_entries(
    grad: Tensor,
    values: Tensor,
    pattern: Pattern,
    weight: Tensor,
    beside: Tensor,
    grid: Tensor,
    coefficients: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Gradients of :func:`decode` by entry, from that of its result, ``grad [tokens, d]``.

    Returns (``[nnz]``, of ``values``; ``[nnz, bends * (G - 1)]``, of the coefficients of each entry's latent).
    """
    knots, bends = _kind(beside, coefficients)
    d_values = torch.empty_like(values)
    d_curves = grid.new_empty(len(values), bends * (knots - 1), dtype=torch.float32)  # terms of sums to come
    if len(values):
        with torch.cuda.device_of(grad):
            _decode_entries[len(values),](
                d_values, d_curves, grad, values, pattern.rows(), pattern.latents, weight, beside, grid, coefficients,
                grad.shape[1], KNOTS=knots, BENDS=bends,
                SPAN=triton.next_power_of_2(knots - 1), BLOCK=_block(grad.shape[1], ROW),
            )  # fmt: skip
    return d_values, d_curves


def decode_latents(
    grad: Tensor,
    values: Tensor,
    pattern: Pattern,
    weight: Tensor,
    beside: Tensor,
    grid: Tensor,
    coefficients: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Gradients of :func:`decode` by latent: of ``weight`` and of ``beside``, both from one reading of ``grad``'s rows."""
    order, offsets, tokens = pattern.by_latent()
    d_weight, d_beside = torch.empty_like(weight), torch.empty_like(beside)
    knots, bends = _kind(beside, coefficients)
    span = triton.next_power_of_2(1 + beside.shape[1])
    block = _block(grad.shape[1], max(32, TILE // span))
    with torch.cuda.device_of(grad):
        _decode_latents[len(weight), triton.cdiv(grad.shape[1], block)](
            d_weight, d_beside, grad, values[order], tokens, offsets, grid, coefficients,
            grad.shape[1], KNOTS=knots, BENDS=bends, TERMS=beside.shape[1], SPAN=span, BLOCK=block,
        )  # fmt: skip
    return d_weight, d_beside


def edge_weights(grad: Tensor, pattern: Pattern, x: Tensor, V: Tensor, grid: Tensor, table: Tensor) -> Tensor:
    """The gradient of ``V [d_sae, m, G]``; arguments as those of :func:`~kanary.kernels.fused.edge_gradients`."""
    order, offsets, tokens = pattern.by_latent()
    d_V = torch.empty_like(V)
    (_, m, size), degree = V.shape, table.shape[0] - 1
    block = _block(m * size, ROW)
    with torch.cuda.device_of(grad):
        _edge_weights[len(V), triton.cdiv(m * size, block)](
            d_V, grad[order], tokens, offsets, x, grid, table, m, SIZE=size, DEGREE=degree, BLOCK=block,
        )  # fmt: skip
    return d_V


def edge_inputs(grad: Tensor, pattern: Pattern, x: Tensor, V: Tensor, grid: Tensor, table: Tensor) -> Tensor:
    """The gradient of ``x [tokens, m]``; arguments as those of :func:`~kanary.kernels.fused.edge_gradients`."""
    d_x = torch.empty_like(x)
    (_, m, size), degree = V.shape, table.shape[0] - 1
    span = triton.next_power_of_2(size)
    block = _block(m, max(16, ROW // span))
    with torch.cuda.device_of(grad):
        _edge_inputs[pattern.tokens, triton.cdiv(m, block)](
            d_x, grad, pattern.latents, pattern.offsets, x, V, grid, table,
            m, SIZE=size, DEGREE=degree, SPAN=span, BLOCK=block,
        )  # fmt: skip
    return d_x


def _kind(beside: Tensor, coefficients: Tensor | None) -> tuple[int, int]:
    """(G, bends of a latent, or 0 where ``beside`` holds knots)."""
    return (1 + beside.shape[1], 0) if coefficients is None else (1 + coefficients.shape[2], beside.shape[1])


def _block(columns: int, most: int) -> int:
    return int(min(most, max(16, triton.next_power_of_2(columns))))


# --- curved decoders: an entry of latent i with code f adds f * weight[i] and, with its curves, rows of ``beside`` ---


@_jit
def _decode(
    out, values, latents, offsets, weight, beside, grid, coefficients,
    d, KNOTS: tl.constexpr, BENDS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program makes some columns of one token."""
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < d
    total = tl.zeros((BLOCK,), tl.float32)
    for entry in range(tl.load(offsets + token), tl.load(offsets + token + 1)):
        latent = tl.load(latents + entry)
        value = tl.load(values + entry).to(tl.float32)
        piece, share, _ = _place(value, grid, latent, KNOTS)
        total += value * _row(weight, latent, columns, inside, d)
        if BENDS > 0:
            for bend in tl.static_range(BENDS):
                curve = latent * BENDS + bend
                bent, _ = _bent(coefficients, curve, piece, share, KNOTS)
                total += bent * _row(beside, curve, columns, inside, d)
        else:
            right = latent * (KNOTS - 1) + piece
            total += (1 - share) * _row(beside, right - 1, columns, columns < tl.where(piece > 0, d, 0), d)
            total += share * _row(beside, right, columns, inside, d)
    tl.store(out + token * d + columns, total.to(out.dtype.element_ty), mask=inside)


@_jit
def _decode_entries(
    d_values, d_curves, grad, values, rows, latents, weight, beside, grid,
    coefficients, d, KNOTS: tl.constexpr, BENDS: tl.constexpr, SPAN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program makes the gradients of one entry."""
    entry = tl.program_id(0).to(tl.int64)
    token, latent = tl.load(rows + entry), tl.load(latents + entry)
    value = tl.load(values + entry).to(tl.float32)
    piece, share, slope = _place(value, grid, latent, KNOTS)
    total = _dot(grad, token, weight, latent, d, d, BLOCK)
    if BENDS > 0:
        knot = tl.arange(0, SPAN) + 1
        hats = _hats(knot, piece, share)
        for bend in tl.static_range(BENDS):
            curve = latent * BENDS + bend
            _, rise = _bent(coefficients, curve, piece, share, KNOTS)
            dot = _dot(grad, token, beside, curve, d, d, BLOCK)
            total += slope * rise * dot
            at = d_curves + (entry * BENDS + bend) * (KNOTS - 1) + knot - 1
            tl.store(at, dot * hats, mask=knot < KNOTS)
    else:
        right = latent * (KNOTS - 1) + piece
        total += slope * _dot(grad, token, beside, right, d, d, BLOCK)
        total -= slope * _dot(grad, token, beside, right - 1, tl.where(piece > 0, d, 0), d, BLOCK)
    tl.store(d_values + entry, total.to(d_values.dtype.element_ty))


@_jit
def _decode_latents(
    d_weight, d_beside, grad, values, tokens, offsets, grid, coefficients,
    d, KNOTS: tl.constexpr, BENDS: tl.constexpr, TERMS: tl.constexpr, SPAN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program makes some columns of all gradients of one latent; entries come in the order of their latents."""
    latent = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = columns < d
    term = tl.arange(0, SPAN)[:, None]  # 0 is the row of weight, the others are those of beside
    curved = (term > 0) & (term <= TERMS)
    total = tl.zeros((SPAN, BLOCK), tl.float32)
    for entry in range(tl.load(offsets + latent), tl.load(offsets + latent + 1)):
        value = tl.load(values + entry).to(tl.float32)
        piece, share, _ = _place(value, grid, latent, KNOTS)
        if BENDS > 0:
            curve = latent * BENDS + tl.minimum(tl.maximum(term - 1, 0), BENDS - 1)
            strengths, _ = _bent(coefficients, curve, piece, share, KNOTS)
        else:
            strengths = _hats(term, piece, share)
        strengths = tl.where(term == 0, value, strengths)
        total += strengths * _row(grad, tl.load(tokens + entry), columns, inside, d)
    total = total.to(d_weight.dtype.element_ty)
    tl.store(d_weight + latent * d + columns + 0 * term, total, mask=(term == 0) & inside)
    tl.store(d_beside + (latent * TERMS + term - 1) * d + columns, total, mask=curved & inside)


# --- edges: pre[n, i] = sum_jg V[i, j, g] B_g(x[n, j]), each coordinate j with its own evenly spaced grid ---


@_jit
def _edge_weights(
    d_V, grad, tokens, offsets, x, grid, table,
    m, SIZE: tl.constexpr, DEGREE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program makes the gradients of some functions of one latent, which lie in one row of ``m * SIZE`` numbers."""
    latent = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < m * SIZE
    column, number = at // SIZE, at % SIZE
    low, scale = _line(grid, column, inside, SIZE - DEGREE)
    total = tl.zeros((BLOCK,), tl.float32)
    for entry in range(tl.load(offsets + latent), tl.load(offsets + latent + 1)):
        seen = _row(x, tl.load(tokens + entry), column, inside, m)
        member, _ = _spline((seen - low) * scale, number, table, inside, SIZE - DEGREE, DEGREE)
        total += tl.load(grad + entry).to(tl.float32) * member
    tl.store(d_V + latent * m * SIZE + at, total.to(d_V.dtype.element_ty), mask=inside)


@_jit
def _edge_inputs(
    d_x, grad, latents, offsets, x, V, grid, table,
    m, SIZE: tl.constexpr, DEGREE: tl.constexpr, SPAN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program makes the gradients of some coordinates of one token."""
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    number = tl.arange(0, SPAN)[None, :]
    inside = column < m
    there = inside[:, None] & (number < SIZE)
    total = tl.zeros((BLOCK, SPAN), tl.float32)  # what each basis function of each coordinate is weighed by
    for entry in range(tl.load(offsets + token), tl.load(offsets + token + 1)):
        row = V + tl.load(latents + entry) * m * SIZE
        functions = tl.load(row + column[:, None] * SIZE + number, mask=there, other=0.0).to(tl.float32)
        total += tl.load(grad + entry).to(tl.float32) * functions
    low, scale = _line(grid, column, inside, SIZE - DEGREE)
    u = (_row(x, token, column, inside, m) - low) * scale
    _, slope = _spline(u[:, None], number, table, there, SIZE - DEGREE, DEGREE)
    found = scale * tl.sum(total * slope, 1)
    tl.store(d_x + token * m + column, found.to(d_x.dtype.element_ty), mask=inside)


# --- what kernels are made of ---


@_jit
def _row(matrix, row, columns, there, d):
    return tl.load(matrix + row * d + columns, mask=there, other=0.0).to(tl.float32)


@_jit
def _dot(a, row, b, other, width, d, BLOCK: tl.constexpr):
    """The first ``width`` numbers of row ``row`` of ``a`` times those of row ``other`` of ``b``."""
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, width, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < width
        total += _row(a, row, columns, inside, d) * _row(b, other, columns, inside, d)
    return tl.sum(total, 0)


@_jit
def _place(value, grid, latent, KNOTS: tl.constexpr):
    """(the piece of a latent's grid, the share of its right knot, by how much the share grows with the value).

    Beyond the grid the share leaves 0 to 1, by which functions go on as straight lines.
    """
    low, high = tl.load(grid + 2 * latent).to(tl.float32), tl.load(grid + 2 * latent + 1).to(tl.float32)
    slope = (KNOTS - 1) / (high - low)
    u = (value - low) * slope
    piece = tl.minimum(tl.maximum(u, 0.0), KNOTS - 2.0).to(tl.int32)
    return piece, u - piece, slope


@_jit
def _hats(knot, piece, share):
    """The hat functions of the knots ``knot``."""
    return tl.where(knot == piece, 1 - share, 0.0) + tl.where(knot == piece + 1, share, 0.0)


@_jit
def _bent(coefficients, curve, piece, share, KNOTS: tl.constexpr):
    """(the value of the function ``curve``, by how much it grows over the piece); its first coefficient, 0, is not stored."""
    right = coefficients + curve * (KNOTS - 1) + piece
    start = tl.load(right - 1, mask=piece + 0 * curve > 0, other=0.0).to(tl.float32)
    rise = tl.load(right).to(tl.float32) - start
    return start + share * rise, rise


@_jit
def _line(grid, column, inside, PIECES: tl.constexpr):
    """(where each coordinate's grid begins, pieces per unit)."""
    low = tl.load(grid + 2 * column, mask=inside, other=0.0).to(tl.float32)
    high = tl.load(grid + 2 * column + 1, mask=inside, other=1.0).to(tl.float32)
    return low, PIECES / (high - low)


@_jit
def _spline(u, number, table, there, PIECES: tl.constexpr, DEGREE: tl.constexpr):
    """(the basis function ``number``, its derivative) at ``u`` pieces from the grid's beginning, by the polynomials of
    ``table [powers, DEGREE + 1, PIECES]``; straight lines beyond the grid."""
    piece = tl.minimum(tl.maximum(u, 0.0), PIECES - 1.0).to(tl.int32)
    local = u - piece
    at = tl.minimum(tl.maximum(local, 0.0), 1.0)
    member = number - piece  # which of those that are not zero on this piece
    on = there & (member >= 0) & (member <= DEGREE)
    value, slope = at * 0, at * 0
    for step in tl.static_range(DEGREE + 1):
        power = DEGREE - step
        factor = tl.load(table + (power * (DEGREE + 1) + member) * PIECES + piece, mask=on, other=0.0).to(tl.float32)
        slope = slope * at + value
        value = value * at + factor
    return tl.where(on, value + (local - at) * slope, 0.0), tl.where(on, slope, 0.0)
