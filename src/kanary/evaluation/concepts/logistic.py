"""Logistic regressions, many at once, to their optimum."""

import torch
from torch import Tensor
from torch.nn import functional as F

from kanary.errors import KanaryError

TOLERANCE = 1e-6
"""Norm of the gradient at which a logistic regression is finished."""
_ITERATIONS = 200


def logistic(x: Tensor, y: Tensor, counted: Tensor) -> Tensor:
    """Logistic regressions, each to its optimum: ``sum_i loss_i + |w|^2 / 2``, the bias without a penalty.

    Newton's method with a line search. Losses and gradients are float64. The second derivatives are summed in float32,
    which costs half the time and changes only the way to the optimum.

    Args:
        x: ``[problems, n, k]`` float64.
        y: ``[problems, n]`` float64, 0 or 1, both of which occur.
        counted: ``[problems, n]`` float64, 0 or 1: whether the row is part of the problem.

    Returns:
        ``[problems, k + 1]`` float64, the bias last; the gradient there is shorter than ``TOLERANCE``.
    """
    x = torch.cat([x, torch.ones_like(x[:, :, :1])], 2)
    penalty = torch.ones_like(x[0, 0])
    penalty[-1] = 0
    found = torch.zeros_like(x[:, 0])
    active = torch.arange(len(x))
    for _ in range(_ITERATIONS):
        w = found[active]
        chance = _times(x, w).sigmoid()
        gradient = _times(x.mT, (chance - y) * counted) + penalty * w
        norms = gradient.norm(dim=1)
        if not bool(norms.isfinite().all()):
            break
        unfinished = norms >= TOLERANCE
        if not bool(unfinished.all()):
            active, gradient, chance, w = (t[unfinished] for t in (active, gradient, chance, w))
            x, y, counted = (t[unfinished] for t in (x, y, counted))
        if not len(active):
            return found
        step = _newton_step(x, counted * chance * (1 - chance), gradient, penalty)
        found[active] = _line_search(x, y, counted, penalty, w, step, gradient)
    raise KanaryError(
        f"A probe did not reach its optimum: its gradient has length {float(norms.max()):g}. Its values must be finite."
    )


def _newton_step(x: Tensor, curvature: Tensor, gradient: Tensor, penalty: Tensor) -> Tensor:
    rows = x.float()
    hessian = ((rows * curvature.float()[:, :, None]).mT @ rows).double()
    diagonal = hessian.diagonal(dim1=1, dim2=2)
    diagonal.mul_(1 + 1e-6).add_(penalty + 1e-12)  # float32 must not make it singular
    step: Tensor = torch.cholesky_solve(gradient[:, :, None], torch.linalg.cholesky(hessian))[:, :, 0]
    return step


def _line_search(
    x: Tensor, y: Tensor, counted: Tensor, penalty: Tensor, w: Tensor, step: Tensor, gradient: Tensor
) -> Tensor:
    """``w`` minus the step, halved until the objective falls enough (Armijo); all ``[problems, k + 1]``."""

    def objective(at: Tensor) -> Tensor:
        z = _times(x, at)
        return ((F.softplus(z) - y * z) * counted).sum(1) + (penalty * at.square()).sum(1) / 2

    before, slope, size = objective(w), (gradient * step).sum(1), torch.ones_like(w[:, 0])
    for _ in range(40):
        after = w - size[:, None] * step
        # close to the optimum the fall is below what float64 resolves
        short = objective(after) > before - 1e-4 * size * slope + 1e-12 * before
        if not bool(short.any()):
            break
        size = torch.where(short, size / 2, size)
    return after


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector[:, :, None])[:, :, 0]
