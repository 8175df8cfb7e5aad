"""The search for b and c: for every curve and every shape g, those that leave least of y unexplained.

One bank of candidates (b, c) per shape serves all curves: three matrix products give the weighted sums of g, g² and g·y,
hence R² with the best a and d of every curve and candidate. The best candidate is refined on the curve's own points.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from kanary.splines.shapes import SHAPES, Shape

_NODES = 129  # the bank's places on [−1, 1]: 9 or more in the narrowest bump, 32 in the shortest wave
_STEPS = 12  # of the refinement
_TINY = 1e-30


class Curves(NamedTuple):
    """Curves in their own scale, every field ``[curves, points]``."""

    u: Tensor
    """x, with the range of data mapped to [−1, 1]; 0 where there is no weight."""
    w: Tensor
    """Weights, with sum 1."""
    y: Tensor
    """Centred, with weighted variance 1; 0 where there is no weight."""

    def centred(self, g: Tensor) -> Tensor:
        return g - (self.w * g).sum(1, keepdim=True)


def search(curves: Curves) -> tuple[Tensor, Tensor, Tensor]:
    """b, c (in u) and what is left unexplained, each ``[shapes, curves]``."""
    found = []
    for shape, (b, c) in zip(SHAPES, _best_of_bank(curves), strict=True):
        if shape.name == "step":
            c = -_best_threshold(curves)
        found.append(_refine(shape, b, c, curves))
    b, c, left = (torch.stack(column) for column in zip(*found, strict=True))
    return b, c, left


def _best_of_bank(curves: Curves) -> Iterator[tuple[Tensor, Tensor]]:
    """For each shape, b and c of the candidate with the greatest R², ``[curves]``."""
    nodes = torch.linspace(-1, 1, _NODES, dtype=torch.float64)
    w, wy = _on_nodes(curves.u, curves.w), _on_nodes(curves.u, curves.w * curves.y)
    for shape in SHAPES:
        b, c = torch.tensor(shape.bank, dtype=torch.float64).unbind(1)
        g = shape.g(b * nodes[:, None] + c)  # [nodes, candidates]
        # standardised first: sums of large powers would cancel
        g = g - g.mean(0)
        g = g / g.square().mean(0).sqrt().clamp_min(_TINY)
        variance = w @ g.square() - (w @ g).square()
        r2 = (wy @ g).square() / variance.clamp_min(1e-12)
        best = r2.argmax(1)
        yield b[best], c[best]


def _on_nodes(u: Tensor, values: Tensor) -> Tensor:
    """``values [curves, points]`` shared out between the two nodes around each u, so that any places of points will do."""
    place = (u + 1) * ((_NODES - 1) / 2)
    left = place.floor().clamp(0, _NODES - 2)
    share = place - left
    at = left.long()
    sums = values.new_zeros(len(u), _NODES)
    return sums.scatter_add_(1, at, values * (1 - share)).scatter_add_(1, at + 1, values * share)


def _best_threshold(curves: Curves) -> Tensor:
    """The place ``[curves]`` between two points that splits a curve, sorted in x, into the two flattest halves."""
    w = curves.w.cumsum(1)[:, :-1]
    wy = (curves.w * curves.y).cumsum(1)[:, :-1]
    gain = wy.square() / (w * (1 - w)).clamp_min(_TINY)  # y has mean 0
    has = curves.w > 0
    below = curves.u.where(has, -torch.inf).cummax(1).values[:, :-1]
    above = curves.u.where(has, torch.inf).flip(1).cummin(1).values.flip(1)[:, 1:]
    gain = gain.where(below.isfinite() & above.isfinite() & (below < above), -1)
    at = gain.argmax(1, keepdim=True)
    return ((below.gather(1, at) + above.gather(1, at)) / 2).squeeze(1)


class _State(NamedTuple):
    g: Tensor
    """Centred, ``[curves, points]``."""
    a: Tensor
    residual: Tensor
    left: Tensor
    """``[curves]``, the unexplained share of variance."""


def _state(shape: Shape, b: Tensor, c: Tensor, curves: Curves) -> _State:
    """The best a and d for given b and c."""
    g = curves.centred(shape.g(b[:, None] * curves.u + c[:, None]))
    wg = curves.w * g
    a = (wg * curves.y).sum(1, keepdim=True) / (wg * g).sum(1, keepdim=True).clamp_min(_TINY)
    residual = curves.y - a * g
    return _State(g, a, residual, (curves.w * residual.square()).sum(1))


def _refine(shape: Shape, b: Tensor, c: Tensor, curves: Curves) -> tuple[Tensor, Tensor, Tensor]:
    """b, c and what is left unexplained, after damped Gauss–Newton steps on the free ones of b and c.

    Variable projection (Golub & Pereyra 1973, with Kaufman's 1975 Jacobian): a and d are solved for at every step, so
    that only b and c are searched.
    """
    now = _state(shape, b, c, curves)
    free = [i for i in (0, 1) if shape.free[i]]
    if not free:
        return b, c, now.left
    sign = b.sign()
    damping = torch.full_like(b, 1e-3)
    for _ in range(_STEPS):
        jacobian = _jacobian(shape, b, c, now, curves)[free]  # [free, curves, points]
        weighted = curves.w * jacobian
        normal = torch.einsum("icp,jcp->cij", weighted, jacobian)
        towards = torch.einsum("icp,cp->ci", weighted, now.residual)
        diagonal = normal.diagonal(dim1=1, dim2=2)
        normal = normal + torch.diag_embed(damping[:, None] * diagonal + _TINY)
        step = torch.zeros(2, len(b), dtype=b.dtype)
        step[free] = torch.linalg.solve_ex(normal, towards)[0].nan_to_num(0, 0, 0).T
        b_new, c_new = shape.clip(b + step[0], c + step[1], sign)
        then = _state(shape, b_new, c_new, curves)
        better = then.left < now.left
        b, c = b_new.where(better, b), c_new.where(better, c)
        kept = better[:, None]
        now = _State(
            then.g.where(kept, now.g),
            then.a.where(kept, now.a),
            then.residual.where(kept, now.residual),
            then.left.where(better, now.left),
        )
        damping = (damping * torch.where(better, 0.2, 10)).clamp(1e-9, 1e9)
    return b, c, now.left


def _jacobian(shape: Shape, b: Tensor, c: Tensor, now: _State, curves: Curves) -> Tensor:
    """Of a·g(b·u + c) by b and by c, without what a and d would take up: ``[2, curves, points]``."""
    z = b[:, None] * curves.u + c[:, None]
    h = 1e-6
    slope = now.a * (shape.g(z + h) - shape.g(z - h)) / (2 * h)
    wg = curves.w * now.g
    size = (wg * now.g).sum(1, keepdim=True).clamp_min(_TINY)
    columns = [curves.centred(slope * curves.u), curves.centred(slope)]
    return torch.stack([column - now.g * (wg * column).sum(1, keepdim=True) / size for column in columns])
