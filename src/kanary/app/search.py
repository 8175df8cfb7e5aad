"""Features found by their words, tokens, concepts, numbers or directions."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from kanary.app.places import fires_on, strongest_tokens
from kanary.features.index import FeatureIndex
from kanary.features.rounding import rounded

Sort = Literal["density", "maximum", "score", "cosine", "latent"]


SHOWN_TOKENS = 3
"""Tokens on which a feature is at its strongest, of each row."""
LATEST = 2**53
"""Numbers above this are no whole numbers in a browser."""


class Query(BaseModel):
    """What is looked for; all that is given must hold."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    q: Annotated[str, Field(max_length=1000)] = ""
    """Words of the label, the explanations or a person's own text."""
    token: Annotated[str, Field(max_length=1000)] = ""
    """A token on which the feature is at its strongest or whose logit it raises most, spaces and case apart."""
    concept: Annotated[str, Field(max_length=1000)] = ""
    """The concept it stands for best, or the beginning of its name: ``honesty`` finds ``honesty.lie``."""
    like: Annotated[int, Field(ge=0, le=LATEST)] | None = None
    """A latent: those come first whose decoder directions have the largest cosine with its own."""
    min_density: float | None = None
    max_density: float | None = None
    min_score: float | None = None
    sort: Sort | None = None
    """By default: by cosine to ``like``, by relevance to ``q``, else by number."""
    descending: bool = True
    offset: Annotated[int, Field(ge=0, le=LATEST)] = 0
    limit: Annotated[int, Field(ge=0, le=1000)] = 50


def search(index: FeatureIndex, query: Query, directions: Callable[[], Tensor]) -> dict[str, Any]:
    """``{"total": n, "rows": [...]}``, the rows from ``offset`` on; ``directions()`` gives ``W_dec`` if it is needed."""
    columns = with_scores(index)
    cosine = None if query.like is None else cosines(directions(), query.like)
    keep = np.ones(len(index), bool)
    for name, low, high in (("density", query.min_density, query.max_density), ("score", query.min_score, None)):
        values = columns[name]
        keep &= values >= low if low is not None else True
        keep &= values <= high if high is not None else True
    if query.concept:
        keep &= _has_concept(columns.get("concept"), query.concept, len(index))
    if query.token.strip():
        keep &= _has_token(index, query.token)
    found = np.flatnonzero(keep)
    if words := query.q.replace("\0", " ").strip():  # the database takes a zero for the end
        by_relevance = np.array(index.labels.search(words), np.int64)
        found = by_relevance[keep[by_relevance]]
    found = _sorted(found, query, {**columns, "cosine": cosine})
    page = found[query.offset : query.offset + query.limit]
    return {"total": len(found), "rows": _rows(index, page, columns, cosine)}


def with_scores(index: FeatureIndex) -> dict[str, NDArray[Any]]:
    """The columns of the index, and ``score``: the first score of each latent's newest explanation, else NaN."""
    score = np.full(len(index), np.nan)
    for latent, scores in index.labels.scores().items():
        if scores and scores[0]["value"] is not None:
            score[latent] = scores[0]["value"]
    return index.columns() | {"score": score}


def cosines(W_dec: Tensor, latent: int) -> NDArray[np.float32]:
    """``[d_sae]``: of every direction with that of ``latent``."""
    W_dec = W_dec.detach().float()
    found: NDArray[np.float32] = F.cosine_similarity(W_dec, W_dec[latent][None]).cpu().numpy()
    return found


def _sorted(found: NDArray[np.int64], query: Query, columns: Mapping[str, Any]) -> NDArray[np.int64]:
    """What has no number comes last, whichever way the others go; equal ones by their number."""
    sort = query.sort or ("cosine" if query.like is not None else None)
    if sort is None:
        return found
    if sort == "latent":
        found = np.sort(found)
        return found[::-1] if query.descending else found
    values = columns.get(sort)
    if values is None:
        return np.sort(found)
    keys = np.asarray(values, np.float64)[found]
    return found[np.lexsort((found, -keys if query.descending else keys))]


def _has_token(index: FeatureIndex, token: str) -> NDArray[np.bool_]:
    """Whether a latent is strongest on a token that reads like ``token``, or raises its logit most."""
    wanted = token.strip().casefold()
    latents, ids = strongest_tokens(index)
    if (raised := index.top_tokens().get("positive")) is not None:
        latents = np.concatenate([latents, np.repeat(np.arange(len(index)), raised.shape[1])])
        ids = np.concatenate([ids, raised.ravel()])
    alike = [id for id in np.unique(ids).tolist() if index.token(id).strip().casefold() == wanted]
    found = np.zeros(len(index), bool)
    found[latents[np.isin(ids, alike)]] = True
    return found


def _has_concept(concepts: NDArray[Any] | None, wanted: str, n: int) -> NDArray[np.bool_]:
    if concepts is None:
        return np.zeros(n, bool)
    return np.array([name is not None and (name == wanted or name.startswith(wanted + ".")) for name in concepts], bool)


def _rows(
    index: FeatureIndex, latents: NDArray[np.int64], columns: Mapping[str, Any], cosine: NDArray[np.float32] | None
) -> list[dict[str, Any]]:
    titles = index.labels.titles()
    numbers = {name: columns.get(name) for name in ("density", "maximum", "score", "f1")} | {"cosine": cosine}
    nothing = [None] * len(latents)
    shown = {name: nothing if values is None else rounded(values[latents]) for name, values in numbers.items()}
    concepts = columns.get("concept")
    strongest = fires_on(index, latents, SHOWN_TOKENS)
    return [
        {
            "latent": latent,
            "label": titles.get(latent),
            "concept": None if concepts is None else concepts[latent],
            "fires_on": strongest[i],
            **{name: values[i] for name, values in shown.items()},
        }
        for i, latent in enumerate(latents.tolist())
    ]
