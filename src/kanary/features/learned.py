"""The learned functions of KAN parts, latent by latent: curve, where its values lie, its formula, and where it turns to."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kanary.evaluation.densities import INSIDE, Densities, Density
from kanary.evaluation.latents import writes_residual
from kanary.evaluation.splines import SHARES, TOKENS, Functions, measure_functions, over_values
from kanary.features.arrays import Array
from kanary.features.vocabulary import packed
from kanary.lm import LanguageModel
from kanary.lm.unembed import unembedding
from kanary.sae import SAE, SparseCodes
from kanary.sae.readable import POINTS, learned, values

_COUNTS = ("counts", "sums", "outside")


class Read:
    """Counts the values that the functions read, while the text is."""

    site: str | None = None

    def __init__(self, sae: SAE) -> None:
        self.densities = Densities(sae)

    def add(self, x: Tensor, other: Tensor | None, codes: SparseCodes) -> None:
        self.densities.add(x, codes)

    def state(self) -> Mapping[str, Tensor]:
        parts = self.densities.parts
        counted = {f"{part}.{name}": getattr(parts[part], name) for part in parts for name in _COUNTS}
        tokens = [self.densities.tokens, *(part.tokens_outside for part in parts.values())]
        return counted | {"tokens": torch.tensor(tokens)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.densities.tokens, *outside = state["tokens"].tolist()
        for (part, histogram), tokens in zip(self.densities.parts.items(), outside, strict=True):
            histogram.tokens_outside = tokens
            for name in _COUNTS:
                getattr(histogram, name).copy_(state[f"{part}.{name}"])

    def result(self) -> dict[str, Density]:
        return self.densities.result()


def function_arrays(
    sae: SAE, lm: LanguageModel, densities: Mapping[str, Density], show: Callable[[int], None]
) -> tuple[list[dict[str, Any]], dict[str, Array]]:
    """What each part with functions is, and for every one of them arrays under ``PART_NAME``; nothing without such parts."""
    if not learned(sae):
        return [], {}
    parts: list[dict[str, Any]] = []
    arrays: dict[str, Array] = {}
    for found in measure_functions(sae, densities, shown=0, show=show):
        curves = list(over_values(sae, found, torch.arange(sae.d_sae), _places(found.density)))
        parts.append({"part": found.part, "name": found.name, "says": curves[0].says, "turns": found.turns})
        columns = _arrays(found)
        for name in ("x", "y", "straight"):
            columns[name] = torch.stack([getattr(curve, name) for curve in curves]).float().numpy()
        if found.part == "decoder":
            columns |= _tokens_along(sae, lm, found.quantiles)
        arrays |= {f"{found.part}_{name}": column for name, column in columns.items()}
    return parts, arrays


def _places(density: Density) -> Tensor:
    """``[d_sae, POINTS + 1]``: evenly from 0 to where a latent's values end; beyond its grid one more is enough, because
    functions go on there as straight lines."""
    reach = density.reach()[:, None]
    inner = torch.minimum(reach, density.edges[:, INSIDE, None])
    return torch.cat([inner * torch.linspace(0, 1, POINTS, dtype=torch.float64), reach], 1)


def _arrays(of: Functions) -> dict[str, Array]:
    ends = [(fit.ranges[0][0], fit.ranges[-1][1]) if fit.ranges else (np.nan, np.nan) for fit in of.fits]
    named = [fit.formula if fit.name != "too little data" else "" for fit in of.fits]
    text = packed([formula.encode() for formula in named])
    return {
        "edges": of.density.edges.float().numpy(),
        "counts": of.density.counts.numpy(),
        "turning": of.turning.float().numpy(),
        "r2": np.array([fit.r2 for fit in of.fits], np.float32),
        "fitted": np.array(ends, np.float32).reshape(-1, 2),
        "formula_bytes": text["token_bytes"],
        "formula_offsets": text["token_offsets"],
    }


@torch.no_grad()
def _tokens_along(sae: SAE, lm: LanguageModel, codes: Tensor) -> dict[str, Array]:
    """The tokens whose logits each latent raises most at each of its ``codes [d_sae, intensities]``."""
    unembed = unembedding(lm) if writes_residual(sae, lm) else None
    if unembed is None:
        return {}
    most = min(TOKENS, unembed.shape[1])
    found = torch.full((sae.d_sae, len(SHARES), most), -1, dtype=torch.int32)
    rows = max(1, 2**24 // (len(SHARES) * unembed.shape[1]))
    for latents in torch.arange(sae.d_sae, device=sae.mean.device).split(rows):
        psi = values(sae, "decoder", latents, codes[latents.cpu()].nan_to_num().to(sae.mean))
        found[latents.cpu()] = (psi.to(unembed) @ unembed).topk(most, dim=2).indices.int().cpu()
    return {"along_at": codes.float().numpy(), "along_tokens": found.numpy()}


def functions_of(
    latent: int, parts: list[dict[str, Any]], arrays: Mapping[str, Array], texts: Any
) -> list[dict[str, Any]]:
    """What a feature says of its functions. ``texts`` makes texts of token ids."""
    return [_function(latent, part, arrays, texts) for part in parts]


def _function(latent: int, part: dict[str, Any], arrays: Mapping[str, Array], texts: Any) -> dict[str, Any]:
    def column(name: str) -> Array:
        return arrays[f"{part['part']}_{name}"]

    turning = float(column("turning")[latent])
    a, b = column("formula_offsets")[latent : latent + 2].tolist()
    text = bytes(column("formula_bytes")[a:b]).decode()
    low, high = column("fitted")[latent].tolist()
    r2 = float(column("r2")[latent])
    formula = {"text": text, "r2": _finite(r2), "low": _finite(low), "high": _finite(high)} if text else None
    edges, counts = column("edges")[latent], column("counts")[latent]
    x, y, straight = (column(name)[latent].tolist() for name in ("x", "y", "straight"))
    along = []
    if f"{part['part']}_along_at" in arrays:
        for at, tokens in zip(column("along_at")[latent].tolist(), column("along_tokens")[latent], strict=True):
            if _finite(at) is not None:
                along.append({"at": at, "tokens": texts(tokens)})
    return {
        **{key: part[key] for key in ("part", "name", "says")},
        "x": x,
        "y": y,
        "straight": straight,
        "range": [x[0], x[-1]],
        # the last bin has no end but that of its values, up to which the curve is drawn
        "density": {"edges": [*edges.tolist(), max(float(edges[-1]), x[-1])], "counts": counts.tolist()},
        "formula": formula,
        "turns": _finite(turning) if part["turns"] else None,
        "tokens_along": along,
    }


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
