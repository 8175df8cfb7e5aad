"""What is measured of every SAE of a study, whatever it was trained on."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from kanary.evaluation.densities import Densities, Density
from kanary.evaluation.splines import measure_functions, spline_metrics, straighten
from kanary.lab.study.settings import Setting
from kanary.sae import SAE, SparseCodes
from kanary.sae.decoders.kan_gain import CurvedDecoder
from kanary.sae.parts import TILE
from kanary.sae.readable import blocks, learned, values

MOVED = 0.01
"""A latent's function counts as alive if a coefficient of it is larger than this share of its grid."""


class Fidelity(NamedTuple):
    """How well an SAE reconstructs some activations."""

    fvu: float
    l0: float
    firings: Tensor
    """``[d_sae]`` int64."""


class Latents(NamedTuple):
    """What is compared between seeds."""

    direction: Tensor
    """``[d_sae, d_model]``, unit: the mean of what each latent adds; where it never fires, its decoder direction."""
    bend: Tensor
    """``[d_sae, d_model]``, unit: where it turns to; 0 where it does not."""
    curvature: Tensor
    """``[d_sae]``: share of its energy off the straight line; 0 for straight decoders."""
    firings: Tensor
    """``[d_sae]`` int64."""


@torch.no_grad()
def fidelity(sae: SAE, x: Tensor) -> Fidelity:
    """Of ``sae`` on ``x [tokens, d_model]``; the variance is about the mean of ``x``."""
    error, entries = 0.0, 0
    firings = torch.zeros(sae.d_sae, dtype=torch.int64, device=x.device)
    for piece, codes in _encoded(sae, x):
        error += float((piece - sae.decode(codes)).double().square().sum())
        firings += torch.bincount(codes.indices, minlength=sae.d_sae)
        entries += len(codes.indices)
    spread = float((x.double() - x.double().mean(0)).square().sum())
    return Fidelity(error / spread, entries / len(x), firings.cpu())


@torch.no_grad()
def measured(sae: SAE, setting: Setting) -> tuple[dict[str, float], Latents]:
    """Every number of ``sae`` in ``setting``, and its latents."""
    sae.eval()
    x = setting.report.to(sae.mean.device)
    found = fidelity(sae, x)
    counts = Densities(sae)
    for piece, codes in _encoded(sae, x):
        counts.add(piece, codes)
    densities = counts.result()
    latents = latents_of(sae, densities.get("decoder"), found.firings)
    alive = found.firings > 0
    numbers = {
        "fvu": found.fvu,
        "explained_variance": 1 - found.fvu,
        "tuning_fvu": fidelity(sae, setting.tuning.to(sae.mean.device)).fvu,
        "l0": found.l0,
        "dead_share": float((~alive).double().mean()),
        "alive": float(alive.sum()),
        "tokens": float(len(x)),
        "redundancy": redundancy(sae, x, alive),
        "decoder_cosine": decoder_cosine(latents.direction[alive]),
    }
    turning = None
    if densities:
        functions = measure_functions(sae, densities, shown=0)
        turning = next((each.turning for each in functions if each.part == "decoder"), None)
        numbers |= {name: metric.value for name, metric in spline_metrics(functions).get("splines", {}).items()}
        numbers["straightened_fvu_lost"] = fidelity(straighten(sae, densities), x).fvu - found.fvu
        if (moved := moved_functions(sae)) is not None:
            numbers["alive_by_coefficients"] = float(moved.sum())
    numbers |= setting.numbers(sae, turning)
    return {name: float(value) for name, value in numbers.items()}, latents


def moved_functions(sae: SAE) -> Tensor | None:
    """``[d_sae]`` bool: latents with a function that has left zero, or None where there are none to tell by.

    KAN-SAE (Cheon 2026, arXiv 2605.17493) counts a latent as alive by the size of its spline's control points, not by its
    firing. What size the paper asks for is not known to us: here the largest must be ``MOVED`` of the length of its grid.
    """
    found = None
    for part, curves in learned(sae).items():
        decoder = sae.decoder.coefficients if isinstance(sae.decoder, CurvedDecoder) else None
        size = decoder() if part == "decoder" and decoder else curves.coefficients  # [d_sae, outputs, G - 1]
        moved = size.norm(dim=1).amax(1) > MOVED * curves.basis.grid[:, -1]
        found = moved if found is None else found | moved
    return found


@torch.no_grad()
def latents_of(sae: SAE, density: Density | None, firings: Tensor) -> Latents:
    """Directions of what latents add over their values, and where they turn to; straight without a ``density``."""
    direction = F.normalize(sae.W_dec.detach(), dim=1).cpu()
    bend, curvature = torch.zeros_like(direction), torch.zeros(sae.d_sae)
    if density is not None:
        points, weights = density.points()
        for rows in blocks(sae, points.shape[1], sae.d_sae):
            latents, x = torch.arange(sae.d_sae)[rows], points[rows]
            made = values(sae, "decoder", latents.to(sae.mean.device), x.to(sae.mean.device)).cpu().double()
            p = weights[rows] / weights[rows].sum(1, keepdim=True).clamp_min(1)
            psi = p.sqrt()[..., None] * made  # [m, points, d_model]: its Gram matrix holds the energies
            sizes, axes = torch.linalg.eigh((psi @ psi.mT).nan_to_num(0, 0, 0))
            sizes = sizes.clamp_min(0)
            direction[rows] = F.normalize((p[..., None] * made).sum(1), dim=1).float()
            curvature[rows] = (1 - sizes[:, -1] / sizes.sum(1).clamp_min(1e-30)).float()
            turned = (axes[..., -2:-1] * psi).sum(1)
            bend[rows] = F.normalize(turned, dim=1).float() * (curvature[rows, None] > 1e-6)
    return Latents(direction, bend, curvature, firings)


def redundancy(sae: SAE, x: Tensor, alive: Tensor, tokens: int = 4096, latents: int = 512) -> float:
    """Median over latents that fire (at most ``latents``) of the largest |correlation| of their codes with another's."""
    codes = sae.encode(x[:tokens]).to("cpu")
    kept = (torch.bincount(codes.indices, minlength=sae.d_sae) > 1) & alive
    dense = torch.zeros(codes.tokens, int(kept.sum()))
    column = kept.cumsum(0) - 1
    on = kept[codes.indices]
    dense[codes.rows()[on], column[codes.indices[on]]] = codes.values[on]
    dense = F.normalize(dense - dense.mean(0), dim=0)
    return float(best_cosines(dense.T[:latents], dense.T, same=True).median()) if dense.shape[1] > 1 else float("nan")


def decoder_cosine(directions: Tensor) -> float:
    """Mean over unit ``directions [n, d_model]`` of the largest cosine with another."""
    return float(best_cosines(directions, directions, same=True).mean()) if len(directions) > 1 else float("nan")


def best_cosines(a: Tensor, b: Tensor, *, same: bool = False) -> Tensor:
    """Of each of the unit rows ``a [n, d]`` the largest |cosine| with one of ``b [m, d]``: ``[n]``.

    With ``same`` the rows of a are the first of b, and are not held against themselves.
    """
    found = []
    for rows in torch.arange(len(a)).split(max(1, TILE // len(b))):
        cosines = (a[rows] @ b.T).abs_()
        if same:
            cosines[torch.arange(len(rows)), rows] = 0
        found.append(cosines.amax(1))
    return torch.cat(found)


def _encoded(sae: SAE, x: Tensor) -> Iterator[tuple[Tensor, SparseCodes]]:
    return ((piece, sae.encode(piece)) for piece in x.split(max(1, TILE // sae.d_sae)))
