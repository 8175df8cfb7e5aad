"""What keeps learned functions plain. In units of the grid's range, so that rescaled inputs cost the same."""

import torch
from torch import Tensor

from kanary.splines.bases import BSpline
from kanary.splines.basis import Basis

WITHIN = 8  # samples per piece where a piece may be curved


def roughness(basis: Basis, coefficients: Tensor) -> Tensor:
    """Integral of the squared second derivative over the grid; for hats the squared differences of neighbouring slopes.

    ``sum_j (s'(v_j+1) - s'(v_j))^2 / (v_j+1 - v_j)`` over points v_j close together (hats: the middle of each piece).
    0 for straight lines only. ``coefficients [functions, G]`` -> ``[functions]``, differentiable.
    """
    breaks = _even(basis)
    pieces = _finer(breaks, _within(basis))
    # in the middle of pieces, because a hat's slope jumps at its knots; the ends belong to the integral
    points = torch.cat([pieces[:, :1], (pieces[:, 1:] + pieces[:, :-1]) / 2, pieces[:, -1:]], 1)
    slopes = _sample(basis, coefficients, points, 1)
    return (slopes.diff(dim=1) ** 2 / points.diff(dim=1)).sum(1)


def total_variation(basis: Basis, coefficients: Tensor) -> Tensor:
    """How far the function goes up and down over the grid, ``sum_j |s(v_j+1) - s(v_j)|``; exact for hats.

    ``coefficients [functions, G]`` -> ``[functions]``, differentiable.
    """
    points = _finer(_even(basis), _within(basis))
    return _sample(basis, coefficients, points, 0).diff(dim=1).abs().sum(1)


def _within(basis: Basis) -> int:
    return 1 if isinstance(basis, BSpline) and basis.degree == 1 else WITHIN


def _even(basis: Basis) -> Tensor:
    """The breaks in units of the range, ``[functions or 1, B]`` from 0 to 1; one row where all grids are alike in it."""
    breaks = basis.breaks()[:1] if basis.uniform else basis.breaks()
    return (breaks - breaks[:, :1]) / (breaks[:, -1:] - breaks[:, :1])


def _finer(points: Tensor, parts: int) -> Tensor:
    steps = torch.arange(parts, device=points.device) / parts
    inner = points[:, :-1, None] + points.diff(dim=1)[..., None] * steps
    return torch.cat([inner.flatten(1), points[:, -1:]], 1)


def _sample(basis: Basis, coefficients: Tensor, points: Tensor, order: int) -> Tensor:
    """The functions (``order`` 1: their slopes) at ``points [functions or 1, S]`` of the range -> ``[functions, S]``."""
    low, high = basis.grid[:, :1], basis.grid[:, -1:]
    if len(points) == 1:  # fast because evenly spaced grids differ in scale only: one basis serves all functions
        values = (low[:1] + (high - low)[:1] * points).flatten()
        design = basis.dense(
            values, None if basis.functions is None else torch.zeros_like(values, dtype=torch.int64), order
        )
        return coefficients.to(design.dtype) @ design.T * (high - low)[0] ** order
    values = low + (high - low) * points
    functions = torch.arange(len(points), device=points.device)[:, None].expand(values.shape)
    sampled = basis.gather(values.flatten(), functions.flatten(), coefficients, order)
    return sampled.view_as(values) * (high - low) ** order
