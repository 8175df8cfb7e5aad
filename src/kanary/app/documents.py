"""One document of an index, and the values of a latent on its tokens."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from kanary.app.lanes import Stop
from kanary.app.places import Stretch, stretches
from kanary.errors import KanaryError
from kanary.features.index import FeatureIndex
from kanary.features.rounding import rounded
from kanary.lm import LanguageModel
from kanary.sae import SAE

TOKENS = 16_384
"""Of a longer document, only its beginning is read."""


def document(
    index: FeatureIndex, id: int, latent: int, reader: Callable[[], tuple[LanguageModel, SAE]], stop: Stop
) -> dict[str, Any]:
    """``{"id", "tokens", "of", "activations"}``: the first tokens of how many, and ``[token, value]`` where it fires.

    The windows that hold the document are read again as they were for the index, so that every value is what an example
    shows of it. Where the model cannot be loaded, ``activations`` is null and ``note`` says why.
    """
    found = index.document(id)
    answer = {"id": id, "tokens": found["tokens"][:TOKENS], "of": len(found["tokens"])}
    try:
        lm, sae = reader()
        return answer | {"activations": _activations(stretches(index, id), latent, lm, sae, stop)}
    except KanaryError as error:
        return answer | {"activations": None, "note": str(error)}


@torch.no_grad()
def _activations(parts: list[Stretch], latent: int, lm: LanguageModel, sae: SAE, stop: Stop) -> list[list[Any]]:
    site = str(sae.config.trained_on["site"])
    known = torch.tensor(sorted(lm.special_ids))
    found: list[list[Any]] = []
    at = 0
    for ids, start, end in parts:
        if at >= TOKENS:
            break
        stop.check()
        tokens = torch.tensor(ids.astype(np.int64))[None]
        x = lm.capture(tokens, [site])[site][0]
        values = sae.encode(x, torch.isin(tokens[0], known).to(x.device)).latent(latent)[start:end]
        places = values.nonzero()[:, 0]
        shown = rounded(values[places])
        found += [[at + place, value] for place, value in zip(places.tolist(), shown, strict=True)]
        at += end - start
    return [each for each in found if each[0] < TOKENS]
