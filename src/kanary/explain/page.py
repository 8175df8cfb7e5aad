"""Explanations of several SAEs as one page that loads nothing: scores beside controls, by density, and samples to read."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kanary.evaluation.pages.page import render
from kanary.explain.explained import Explained
from kanary.explain.options import ExplainConfig
from kanary.explain.scorers import CHANCE
from kanary.explain.statistics import Estimate
from kanary.explain.strata import ALL, MIDDLES
from kanary.explain.table import ITSELF, Row, told
from kanary.svg import Axis, Series, lines
from kanary.svg_rows import bars

if TYPE_CHECKING:
    from kanary.explain.compare import Compared

SAMPLES = 8
"""Features of each SAE whose explanations are shown."""
_UNDRAWN = ("oracle",)  # full marks in every picture tell nothing; the table has them
_MEANS = {
    "detection": "AUROC: does the feature, so explained, fire in this excerpt?",
    "fuzzing": "AUROC: are the marked tokens those that are meant?",
    "intruder": "Share found: which of five excerpts does not belong? No explanation is given.",
    "simulation": "Pearson r of what the explanation foretells at every token with what the feature does.",
    "examples": "AUROC: are held-out excerpts in which it fires like others in which it does? No explanation is given.",
    "rubric": "Grade from 1 to 5: how clear is what the strongest excerpts have in common?",
    "surprisal": "AUROC: does the explanation make excerpts in which it fires easier to predict?",
    "contrastive": "Percentile: does one latent tell stories apart that differ in one concept? Of the SAE as a whole.",
}
NOTES = (
    "Explanations are made from one half of the documents and scored on the other. Half of the negatives are hard: the same "
    "token where the feature is silent, or an excerpt of the feature with the most similar direction.",
    "Intervals are 95 %, from resampling the features. Two SAEs whose intervals overlap much are not told apart by this score.",
    "Features are drawn at random within strata of density, as many of every SAE, because scores depend on how often a feature "
    "fires.",
    "A score means something as far as it is above its controls: another feature's explanation, random tokens, the feature's "
    "most frequent token, a latent that fires at random, a random SAE. The oracle knows the activations.",
)


def page(compared: "Compared", config: ExplainConfig) -> str:
    """The whole page as HTML; names of SAEs and texts of features are escaped."""
    scorers = list(dict.fromkeys(row.scorer for each in compared.explained.values() for row in each.table))
    each, by = sum(compared.strata.values()), {explained.by for explained in compared.explained.values()}
    return render(
        "explain.html.jinja",
        title=f"{len(compared.explained)} SAEs explained",
        lead=f"{each:,} features of each SAE, matched by how often they fire; explained by {_and(by)} from "
        f"{config.tokens:,} tokens of the index's text, seed {config.seed}.",
        strata=[{"name": name, "n": n} for name, n in compared.strata.items()],
        warnings=list(_warnings(compared)),
        figures=[figure for name in scorers for figure in _figures(compared, name)],
        rows=[_cells(sae, row) for name in scorers for sae, row in _rows(compared, name)],
        samples=[{"sae": sae, "features": _samples(each)} for sae, each in compared.explained.items()],
        notes=NOTES,
    )


def _warnings(compared: "Compared") -> Iterator[str]:
    for name, each in compared.explained.items():
        if each.stopped:
            yield f"{name}: stopped when {len(each.results):,} of {each.asked:,} features were done: {each.stopped}"
        elif each.failed:
            yield f"{name}: {len(each.failed):,} of {each.asked:,} features have no explanation."
        for row in each.table:
            if row.what == ITSELF and row.failures:
                yield f"{name}: {row.failures:,} answers to {row.scorer} are missing."
        if not any(row.what != ITSELF for row in each.table):
            yield f"{name}: no controls were computed; a score by itself says little."


def _figures(compared: "Compared", scorer: str) -> Iterator[dict[str, Any]]:
    rows = [(sae, row) for sae, row in _rows(compared, scorer) if row.what not in _UNDRAWN]
    rows = [(sae, row) for sae, row in rows if row.value.value is not None]
    if not rows:
        return
    chance = CHANCE.get(scorer)
    note = _MEANS.get(scorer, "") + (f" Guessing scores {chance:g}." if chance is not None else "")
    title = scorer.capitalize()
    labels = [sae if row.what == ITSELF else f"{row.what}, {sae}" for sae, row in rows]
    groups = ["explanations" if row.what == ITSELF else "controls" for _, row in rows]
    values, lows, highs = ([_or_nan(row.value[i]) for _, row in rows] for i in range(3))
    judges = _and({row.judge for _, row in rows if row.what == ITSELF})
    svg = bars(labels, values, lows, highs, Axis(f"{scorer}, judged by {judges}"), title, groups)
    yield {"title": title, "note": note, "svg": svg}
    if by_density := _by_density(compared, scorer):
        yield {"title": f"{title} by density", "note": "A point is the mean of one stratum.", "svg": by_density}


def _by_density(compared: "Compared", scorer: str) -> str:
    """A plot; nothing where there is one stratum only, or the score is one of SAEs as wholes."""
    series = []
    for sae in compared.explained:
        own = [x for x in compared.lines if (x.sae, x.scorer) == (sae, scorer) and x.stratum != ALL]
        if own:
            ys, lows, highs = ([_or_nan(x.value[i]) for x in own] for i in range(3))
            series.append(Series(sae, [MIDDLES[x.stratum] for x in own], ys, lows, highs))
    if max((len(each.xs) for each in series), default=0) < 2:
        return ""
    return lines(
        series, Axis("density, share of tokens on which it fires", log=True), Axis(scorer), f"{scorer} by density"
    )


def _rows(compared: "Compared", scorer: str) -> list[tuple[str, Row]]:
    """The explanations of all SAEs, then the controls, kind by kind."""
    found = [(sae, row) for sae, each in compared.explained.items() for row in each.table if row.scorer == scorer]
    kinds = list(dict.fromkeys([ITSELF, *(row.what for _, row in found)]))
    return sorted(found, key=lambda pair: kinds.index(pair[1].what))


def _cells(sae: str, row: Row) -> dict[str, Any]:
    low, high = row.value.low, row.value.high
    return {
        "scorer": row.scorer,
        "judge": row.judge,
        "sae": sae,
        "what": row.what,
        "control": row.what != ITSELF,
        "value": told(Estimate(row.value.value, None, None)) or "–",
        "interval": "–" if low is None or high is None else f"{low:.3f} to {high:.3f}",
        "n": f"{row.n:,}",
        "missing": f"{row.failures + row.unscored:,}",
    }


def _samples(explained: Explained) -> list[dict[str, Any]]:
    """Some features, evenly over those explained and not chosen by their scores."""
    latents = list(explained.results)
    which: Sequence[int] = np.linspace(0, len(latents) - 1, min(SAMPLES, len(latents))).round().astype(int).tolist()
    found = []
    for latent in (latents[i] for i in which):
        result = explained.results[latent]
        scores: Mapping[str, float] = {s.name: s.value for s in result.scores if s.value is not None}
        found.append(
            {
                "latent": latent,
                "title": result.explanation.title or "–",
                "text": result.explanation.text,
                "scores": ", ".join(f"{name} {value:.2f}" for name, value in scores.items()) or "–",
            }
        )
    return found


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _and(words: set[str]) -> str:
    return " and ".join(sorted(words)) or "nobody"
