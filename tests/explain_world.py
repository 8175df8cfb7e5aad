"""A small world for explanations: random documents of made-up words, and latents of which it is known what they mean."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kanary.explain.pool import LENGTH, Found, Pieces, Pool
from kanary.explain.vocabulary import Vocabulary
from runs import small, write_stories

WORDS = [f" word{i}" for i in range(120)] + [" piece", " of", " cake", " 7", " 8", " 9", ".", "\n"]
PIECE, OF, CAKE, SEVEN, DOT = (WORDS.index(word) for word in (" piece", " of", " cake", " 7", "."))
VOCABULARY = Vocabulary.of(tuple(WORDS))
Fires = Callable[[NDArray[np.int64], np.random.Generator], NDArray[np.bool_]]


class Words:
    """Stands for the text of an index."""

    def tokens(self, ids: Any) -> Any:
        return np.array(WORDS, object)[ids].tolist()


def on(*ids: int) -> Fires:
    """On any of these tokens."""
    return lambda tokens, draw: np.isin(tokens, ids)


def after(first: int, then: int) -> Fires:
    """On ``then`` where it follows ``first``."""

    def fires(tokens: NDArray[np.int64], draw: np.random.Generator) -> NDArray[np.bool_]:
        found = tokens == then
        found[:, 1:] &= tokens[:, :-1] == first
        found[:, 0] = False
        return found

    return fires


def mixed(share: float, *ids: int) -> Fires:
    """On ``share`` of these tokens, without any rule, and as often on anything else."""

    def fires(tokens: NDArray[np.int64], draw: np.random.Generator) -> NDArray[np.bool_]:
        meant = np.isin(tokens, ids)
        other = draw.random(tokens.shape) < meant.mean() * share
        return (meant & (draw.random(tokens.shape) < share)) | other

    return fires


def pool(latents: Sequence[Fires], documents: int = 120, per_document: int = 5, seed: int = 0) -> Pool:
    """Documents of random words, in a tenth of whose places "piece of" stands; each latent's neighbour is the next one."""
    draw = np.random.default_rng(seed)
    n = documents * per_document
    ids = draw.integers(0, len(WORDS), (n, LENGTH))
    at = draw.integers(0, LENGTH - 1, n)
    some = draw.random(n) < 0.5
    ids[some, at[some]], ids[some, at[some] + 1] = PIECE, OF
    zeros, numbers = np.zeros(n, np.int32), np.arange(n)
    pieces = Pieces(
        numbers.astype(np.int32),
        zeros,
        zeros + LENGTH,
        numbers // per_document,
        (numbers % per_document * LENGTH).astype(np.int32),
        ids.astype(np.int32),
    )
    rows, piece, places, values = [], [], [], []
    for row, fires in enumerate(latents):
        where, place = fires(ids, draw).nonzero()
        rows.append(np.full(len(where), row, np.int32))
        piece.append(where.astype(np.int32))
        places.append(place.astype(np.uint8))
        values.append((1 + draw.random(len(where))).astype(np.float32))
    found = Found(*(np.concatenate(each) for each in (rows, piece, places, values)))
    neighbours = {latent: [(latent + 1) % len(latents)] for latent in range(len(latents))}
    text: Any = Words()
    return Pool(text, pieces, np.arange(len(latents)), found, neighbours, None, seed)


_MADE: dict[Path, Path] = {}


def indexed(model: Path, folder: Path) -> Path:
    """A trained and indexed run of a tiny SAE, made once and copied into ``folder``."""
    if model not in _MADE:
        from kanary import index, train

        made = model.with_name("explain-run")
        text = write_stories(model.with_name("explain-stories.jsonl"), 400)
        train(**small(model, text, out=str(made)), quiet=True)
        index(made, tokens=4000, effects="none", quiet=True)
        _MADE[model] = made
    return Path(shutil.copytree(_MADE[model], folder / "run"))
