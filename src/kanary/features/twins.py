"""SAEs of other runs (another seed, width, kind or layer) beside the indexed one: the like of every latent."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from kanary.errors import KanaryError, nearest
from kanary.evaluation.inputs import open_saes, refuse_other_model
from kanary.features.arrays import Array
from kanary.features.correlation import Text, correlated
from kanary.features.spool import Chunks
from kanary.features.weights import nearest as nearest_directions
from kanary.lm import LanguageModel
from kanary.sae import SAE


class Twin(NamedTuple):
    """Another SAE of the same model."""

    run: str
    name: str
    sae: SAE


def open_twins(given: Sequence[str], sae: SAE, lm: LanguageModel) -> list[Twin]:
    """The SAEs of runs, or single ones by ``RUN/NAME``, without ``sae`` itself.

    Raises:
        KanaryError: there is none, or it reads another model.
    """
    found = []
    for name in given:
        path = Path(name)
        run, saes = str(path), {}
        if not path.exists() and path.parent.exists():
            run, saes = str(path.parent), open_saes(path.parent)
            if path.name not in saes:
                raise KanaryError(f"{path.parent} has no SAE {path.name!r}. {nearest(path.name, saes)}")
            saes = {path.name: saes[path.name]}
        else:
            saes = open_saes(path)
        for key, twin in saes.items():
            if twin.config.trained_on.get("site") is None:
                raise KanaryError(f"SAE {key} of {run} does not say which site it reads, so it cannot be a twin.")
            refuse_other_model(f"{run}/{key}", twin, lm)
            found.append(Twin(run, key, twin.to(lm.device)))
    digest = sae.digest()
    return [twin for twin in found if twin.sae.digest() != digest]


def twin_columns(sae: SAE, twins: Sequence[Twin], chunks: Chunks, special_ids: list[int]) -> dict[str, Array]:
    """For every latent and twin the latent with the largest correlation, then that with the largest cosine.

    Columns: ``twins``, ``twin_correlations``, ``twin_cosines``, each ``[d_sae, twins, 2]``.
    """
    found: dict[str, list[Array]] = {"twins": [], "twin_correlations": [], "twin_cosines": []}
    for number, (_, _, twin) in enumerate(twins):
        alike = twin.d_model == sae.d_model
        by_cosine = np.full(sae.d_sae, -1, np.int32)
        if alike:
            by_cosine = nearest_directions(sae.W_dec, twin.W_dec, 1)[0][:, 0]
        text = Text(chunks, 0, number + 1, special_ids)
        r = correlated(text, (sae.d_sae, twin.d_sae), 1, asked=by_cosine.clip(0))
        which = np.stack([r.latents[:, 0], by_cosine], 1)
        found["twins"].append(which)
        found["twin_correlations"].append(np.stack([r.values[:, 0], np.where(by_cosine < 0, np.nan, r.asked)], 1))
        found["twin_cosines"].append(_cosines(sae, twin, which) if alike else np.full(which.shape, np.nan, np.float32))
    return {name: np.stack(columns, 1) for name, columns in found.items()} if twins else {}


@torch.no_grad()
def _cosines(sae: SAE, twin: SAE, which: Array) -> Array:
    """``[d_sae, n]``: cosines of every latent's direction with those of ``which [d_sae, n]`` of the twin; NaN for -1."""
    others = twin.W_dec[torch.from_numpy(which.clip(0).astype(np.int64)).to(twin.W_dec.device)]
    cosines: Array = torch.cosine_similarity(sae.W_dec[:, None], others, dim=2).cpu().numpy()
    return np.where(which < 0, np.nan, cosines)
