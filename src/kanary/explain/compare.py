"""The explanations of several SAEs beside each other, on as many features of every density from each."""

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kanary.errors import KanaryError
from kanary.evaluation.inputs import open_saes
from kanary.explain.job import Explained, explain_latents
from kanary.explain.options import ExplainConfig
from kanary.explain.statistics import Estimate, mean
from kanary.explain.table import ITSELF, write_table
from kanary.explain.types import Score
from kanary.features.index import FeatureIndex
from kanary.files import write_text

EDGES = (0.0, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Of the strata of density."""


@dataclass(frozen=True)
class Compared:
    """One job per SAE, on matched features."""

    explained: Mapping[str, Explained]
    """By SAE, as ``RUN/NAME``."""
    strata: Mapping[str, int]
    """Features of every SAE in each stratum of density."""
    lines: Sequence[tuple[str, str, str, str]]
    """SAE, score, stratum, and mean with interval."""
    folder: Path

    @property
    def shown(self) -> str:
        head = ("SAE", "score (judge)", "density", "mean and 95 % interval")
        rows = [head, *self.lines]
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)

    @property
    def summary(self) -> str:
        each = sum(self.strata.values())
        return f"{len(self.explained)} SAEs compared on {each} features of each, matched by density: {self.folder}"


def compare_explanations(
    runs: Sequence[str | os.PathLike[str]],
    folder: str | os.PathLike[str],
    config: ExplainConfig | None = None,
    *,
    quiet: bool = False,
) -> Compared:
    """Explains and scores as many features of every density from each SAE of ``runs``; writes CSV tables into ``folder``.

    Args:
        config: ``features`` must be ``alive:N``: N features of each SAE, fewer where a stratum of one of them is small.

    Raises:
        KanaryError: fewer than two SAEs, no common stratum of density, or what :func:`explain_features` raises.
    """
    config = config or ExplainConfig()
    asked = re.fullmatch(r"alive:(\d{1,7})", config.features)
    if not asked or not int(asked[1]):
        raise KanaryError(f"features={config.features!r}: to compare, say how many of each SAE: --features alive:100.")
    opened = {f"{Path(run)}/{name}": (run, FeatureIndex.open(run, name)) for run in runs for name in open_saes(run)}
    if len(opened) < 2:
        raise KanaryError("Give two or more SAEs to compare; for one: kanary explain RUN, without --report.")
    drawn, strata = _matched({name: index for name, (_, index) in opened.items()}, int(asked[1]), config.seed)
    out = Path(folder)
    explained = {}
    for name, (run, index) in opened.items():
        own = dataclasses.replace(config, out=str(out / re.sub(r"[^\w.-]+", "-", name).strip("-")))
        explained[name] = explain_latents(run, index, drawn[name], own, quiet=quiet)
    found = Compared(explained, strata, _lines(_densities(opened), explained, config.seed), out)
    _write(found)
    return found


def _densities(
    opened: Mapping[str, tuple[str | os.PathLike[str], FeatureIndex]],
) -> dict[str, NDArray[np.float64]]:
    return {name: index.columns()["density"] for name, (_, index) in opened.items()}


def _matched(indices: Mapping[str, FeatureIndex], count: int, seed: int) -> tuple[dict[str, list[int]], dict[str, int]]:
    """For every SAE the latents, as many of each stratum; and how many."""
    draw = np.random.default_rng([seed, 41])
    found: dict[str, list[int]] = {name: [] for name in indices}
    strata = {}
    inside: dict[str, dict[str, NDArray[np.int64]]] = {}
    for stratum, low, high in zip(_names(), EDGES[:-1], EDGES[1:], strict=True):
        inside[stratum] = {
            name: np.flatnonzero((index.columns()["density"] > low) & (index.columns()["density"] <= high))
            for name, index in indices.items()
        }
    room = {stratum: min(map(len, each.values())) for stratum, each in inside.items()}
    total = sum(room.values())
    if not total:
        raise KanaryError(
            "No stratum of density has features of every SAE: they cannot be compared feature by feature."
        )
    for stratum, each in inside.items():
        strata[stratum] = min(room[stratum], round(count * room[stratum] / total))
        for name, latents in each.items():
            found[name] += np.sort(draw.choice(latents, strata[stratum], replace=False)).tolist()
    return found, {stratum: n for stratum, n in strata.items() if n}


def _names() -> list[str]:
    return [f"{low:g} to {high:g}" for low, high in pairwise(EDGES)]


def _lines(
    densities: Mapping[str, NDArray[np.float64]], explained: Mapping[str, Explained], seed: int
) -> list[tuple[str, str, str, str]]:
    found = []
    for name, each in explained.items():
        for row in each.table:
            if row.what == ITSELF and row.value.value is not None:
                found.append((name, f"{row.scorer} ({row.judge})", "all", _told(row.value)))
                for stratum, scores in _by_stratum(densities[name], each, row.scorer).items():
                    value = mean([s.value for s in scores if s.value is not None], np.random.default_rng([seed, 42]))
                    if value.value is not None:
                        found.append((name, row.scorer, stratum, _told(value)))
    return found


def _by_stratum(density: NDArray[np.float64], explained: Explained, scorer: str) -> dict[str, list[Score]]:
    found: dict[str, list[Score]] = {}
    for latent, result in explained.results.items():
        stratum = _names()[int(np.searchsorted(EDGES[1:-1], density[latent]))]
        found.setdefault(stratum, []).extend(score for score in result.scores if score.name == scorer)
    return dict(sorted(found.items(), key=lambda item: _names().index(item[0])))


def _told(value: Estimate) -> str:
    interval = "" if value.low is None or value.high is None else f" [{value.low:.3f}, {value.high:.3f}]"
    return f"{value.value:.3f}{interval}"


def _write(found: Compared) -> None:
    for name, each in found.explained.items():
        write_table(each.folder / "table.csv", each.table, sae=name)
    write_text(found.folder / "report.txt", f"{found.shown}\n\n{found.summary}\n")
