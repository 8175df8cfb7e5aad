"""What an SAE's training costs in FLOPs, by formula.

Per token of training, forward and backward, as this code computes them: the encoder's scores are full matrix products,
everything after the sparsifier touches the k active entries alone. A multiplication and an addition count as two. Of what is
done to every number only products with weights and the evaluation of functions count; selecting the largest, dead latents'
revival and controls of the range are left out, and so is the optimiser, which depends on the batch.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from kanary.sae.model import SAE
from kanary.sae.parts import Part

FUNCTION = {"hat": 16.0, "bspline": 60.0}
"""FLOPs of one evaluation of a spline and its gradients; of other bases 8 per coefficient."""
TERMS = {"hat": 2, "bspline": 4}
"""Coefficients that matter at one value; all of those of other bases."""


def flops(sae: SAE, k: float) -> float:
    """With ``k`` active latents per token, in which it is linear; NaN where a part has no formula."""
    parts = ((ENCODERS, sae.encoder), (DECODERS, sae.decoder))
    if any(part.name not in formulas for formulas, part in parts):
        return math.nan
    decoding = DECODERS[sae.decoder.name](_sizes(sae, sae.decoder, k))
    return ENCODERS[sae.encoder.name](_sizes(sae, sae.encoder, k, decoding)) + decoding


class Sizes(NamedTuple):
    """What the formulas are about."""

    d: int  # d_model
    n: int  # latents
    k: float  # active ones per token
    knots: int  # coefficients of a function
    terms: int  # of them, those that matter at one value
    function: float  # FLOPs of one function at one value, gradients included
    units: int  # hidden ones
    rank: int  # directions into which a latent bends
    rounds: int  # of corrections
    candidates: float  # latents that are looked at again, per token
    decoding: float  # FLOPs of the decoder
    directions: int  # of a latent's tangent
    base: int  # 1 where there are plain weights beside the functions of edges, else 0


def _encode(d: int, n: int, k: float) -> float:
    """Scores of all latents, and the gradient of the weights of the active ones."""
    return 2 * d * n + 2 * d * k


def _hidden(a: Sizes, function: float) -> float:
    """Projections and their gradient; functions; the units' part of all scores, and gradients both ways from active ones."""
    return 4 * a.d * a.units + function * a.units + 2 * a.units * a.n + 4 * a.units * a.k


def _edges(a: Sizes) -> float:
    """Knots times as many features as coordinates, which get a gradient, too; a function for every coordinate."""
    return (a.base + a.knots) * (2 * a.d * a.n + 4 * a.d * a.k) + a.function * a.d


def _refine(a: Sizes) -> float:
    """In every round a decoding, and what it missed along the directions of all candidates, with gradients both ways."""
    return a.rounds * (a.decoding + a.candidates * (6 * a.d * a.directions + a.function * (a.directions - 1)))


def _decode(rows: int, d: int, k: float) -> float:
    """So many rows for every active latent: forward, and the gradients of rows and codes."""
    return rows * 6 * d * k


Formula = Callable[[Sizes], float]
ENCODERS: dict[str, Formula] = {
    "linear": lambda a: _encode(a.d, a.n, a.k),
    "kan-node": lambda a: _encode(a.d, a.n, a.k) + a.function * a.k,
    "kan-edge": _edges,
    "kan-hidden": lambda a: _encode(a.d, a.n, a.k) + _hidden(a, a.function),
    "refine": lambda a: _encode(a.d, a.n, a.k) + _refine(a),
    "mlp": lambda a: _encode(a.d, a.n, a.k) + _hidden(a, 0),
}
DECODERS: dict[str, Formula] = {
    "linear": lambda a: _decode(1, a.d, a.k),
    "kan-gain": lambda a: _decode(1, a.d, a.k) + a.function * a.k,
    "kan-bend": lambda a: _decode(1 + a.rank, a.d, a.k) + a.rank * a.function * a.k,
    "kan-curve": lambda a: _decode(1 + a.terms, a.d, a.k) + a.function * a.k,
}


def _sizes(sae: SAE, part: Part, k: float, decoding: float = 0) -> Sizes:
    options = vars(part.options)
    knots, basis = int(options.get("knots", 0)), str(options.get("basis", "hat"))
    bends = int(getattr(sae.decoder.options, "rank", 0))
    return Sizes(
        d=sae.d_model,
        n=sae.d_sae,
        k=k,
        knots=knots,
        terms=TERMS.get(basis, knots),
        function=FUNCTION.get(basis, 8.0 * knots),
        units=int(options.get("hidden") or sae.d_model),
        rank=int(options.get("rank", 1)),
        rounds=int(options.get("rounds", 0)),
        candidates=k * (1 if sae.sparsifier.like(1) is None else int(options.get("candidates", 0))),
        decoding=decoding,
        directions=1 + bends,
        base=int(options.get("base") != "none"),
    )
