"""A map of an SAE: every decoder direction as a point in two dimensions."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from kanary.activations.pool import generator

SWEEPS = 12


class Layout(NamedTuple):
    """Where the directions lie."""

    xy: Tensor
    """``[d_sae, 2]`` float32, centred."""
    explained: float
    """Share of the directions' variance that two dimensions hold; of directions that point everywhere alike, 2 / d_model."""


@torch.no_grad()
def layout(W_dec: Tensor) -> Layout:
    """The first two principal components of the unit directions of ``W_dec [d_sae, d_model]``.

    Subspace iteration (Halko et al. 2011, arXiv 0909.4061, algorithm 4.4) instead of all components, which takes minutes at
    d_model 4,096. A component points to where its largest coordinate is positive, so that the map never flips.
    """
    x = F.normalize(W_dec.detach().float().cpu(), dim=1)
    x = x - x.mean(0)
    total = float(x.square().sum())
    width = min(10, *x.shape)
    found = torch.linalg.qr(x.T @ (x @ torch.randn(x.shape[1], width, generator=generator("map", 0)))).Q
    for _ in range(SWEEPS):
        found = torch.linalg.qr(x.T @ (x @ found)).Q
    _, sizes, components = torch.linalg.svd(x @ found, full_matrices=False)
    axes = (found @ components.T)[:, :2]  # [d_model, 2]
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    xy = F.pad(x @ axes, (0, 2 - axes.shape[1]))
    return Layout(xy, float(sizes[:2].square().sum()) / total if total else 0.0)
