"""Where tokens lie in the files of an index: its documents among the windows, and the tokens that examples show."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kanary.features.arrays import Arrays
from kanary.features.index import EXAMPLES, TEXT, FeatureIndex
from kanary.features.selection import INTERVALS


class Stretch(NamedTuple):
    """Tokens of a document that follow each other in a window."""

    ids: NDArray[Any]
    """``[window]``: of the whole window."""
    start: int
    end: int


def stretches(index: FeatureIndex, document: int) -> list[Stretch]:
    """All of the document's tokens, in order, without the separators that were put in."""
    text = Arrays(index.folder / TEXT)
    documents, starts, offsets = text["segment_documents"], text["segment_starts"], text["segment_offsets"]
    tokens = text["tokens"]
    found = []
    for segment in range(*np.searchsorted(documents, [document, document + 1]).tolist()):
        window = int(np.searchsorted(offsets, segment, side="right")) - 1
        last = segment + 1 == offsets[window + 1]
        end = tokens.shape[1] if last else int(starts[segment + 1])
        if text["segment_positions"][segment] >= 0:
            found.append(Stretch(tokens[window], int(starts[segment]), end))
    return found


def fires_on(index: FeatureIndex, latents: NDArray[np.int64], most: int) -> list[list[str]]:
    """Of each of ``latents``, at most so many different tokens of its strongest examples, the strongest first."""
    examples, tokens = Arrays(index.folder / EXAMPLES), Arrays(index.folder / TEXT)["tokens"]
    found = []
    for latent in latents.tolist():
        here = slice(*examples["offsets"][latent : latent + 2].tolist())
        top = np.flatnonzero(examples["lists"][here] >> INTERVALS & 1) + here.start
        top = top[np.argsort(-examples["values"][top], kind="stable")]
        ids = dict.fromkeys(tokens[examples["windows"][top], examples["focus"][top]].tolist())
        found.append([index.token(id) for id in list(ids)[:most]])
    return found


def strongest_tokens(index: FeatureIndex) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Latent ``[n]`` and token id ``[n]`` of all examples at which a latent is strongest."""
    examples, tokens = Arrays(index.folder / EXAMPLES), Arrays(index.folder / TEXT)["tokens"]
    top = (examples["lists"] >> INTERVALS & 1).astype(bool)
    latents = np.repeat(np.arange(len(index)), np.diff(examples["offsets"]))
    return latents[top], tokens[examples["windows"][top], examples["focus"][top]]
