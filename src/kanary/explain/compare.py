"""The explanations of several SAEs beside each other, on as many features of every density from each."""

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kanary.errors import KanaryError
from kanary.evaluation.inputs import open_saes
from kanary.explain.explained import Explained
from kanary.explain.job import explain_latents
from kanary.explain.options import ExplainConfig
from kanary.explain.page import page
from kanary.explain.statistics import Estimate, mean
from kanary.explain.strata import ALL, NAMES, Densities, matched, of
from kanary.explain.table import ITSELF, csv_text, told, write_table
from kanary.explain.types import Score
from kanary.features.index import FeatureIndex
from kanary.files import write_text

Run = str | os.PathLike[str]


@dataclass(frozen=True)
class Line:
    """The mean of one score over features of one SAE."""

    sae: str
    scorer: str
    judge: str
    stratum: str
    """Of density; ``ALL`` for all of them."""
    value: Estimate
    """With its 95 % interval, from resampling the features."""
    n: int
    """Features with a value."""


@dataclass(frozen=True)
class Compared:
    """One job per SAE, on matched features."""

    explained: Mapping[str, Explained]
    """By SAE, as ``RUN/NAME``."""
    strata: Mapping[str, int]
    """Features of every SAE in each stratum of density that has any."""
    densities: Mapping[str, Densities]
    """By SAE, ``[d_sae]``."""
    lines: Sequence[Line]
    folder: Path
    """Where report.html, strata.csv and a folder of tables for each SAE are."""

    @property
    def shown(self) -> str:
        rows = [("SAE", "score (judge)", "density", "mean and 95 % interval", "n")]
        rows += [(x.sae, f"{x.scorer} ({x.judge})", x.stratum, told(x.value), f"{x.n:,}") for x in self.lines]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)

    @property
    def summary(self) -> str:
        each = sum(self.strata.values())
        done = [f"{len(e.results):,} of {name}" for name, e in self.explained.items() if e.stopped]
        short = f" (stopped: {', '.join(done)})" if done else ""
        return (
            f"{len(self.explained)} SAEs compared on {each:,} features of each, matched by density{short}: "
            f"{self.folder / 'report.html'}"
        )


def compare_explanations(
    runs: Sequence[Run], folder: Run, config: ExplainConfig | None = None, *, quiet: bool = False
) -> Compared:
    """Explains and scores as many features of every density from each SAE of ``runs``; writes a page and tables.

    Args:
        folder: where they are written: report.html, strata.csv, and for each SAE its explanations and scores.
        config: ``features`` must be ``alive:N``: N features of each SAE, fewer where a stratum of one of them is small.
            ``budget_usd`` is for all SAEs together.

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
    densities = {name: index.columns()["density"] for name, (_, index) in opened.items()}
    drawn, strata = matched(densities, int(asked[1]), config.seed)
    out = Path(folder)
    explained: dict[str, Explained] = {}
    for name, (run, index) in opened.items():
        here = out / re.sub(r"[^\w.-]+", "-", name).strip("-")
        own = dataclasses.replace(config, out=str(here), budget_usd=_share(config, explained, len(opened)))
        explained[name] = explain_latents(run, index, drawn[name], own, quiet=quiet)
        write_table(here / "table.csv", explained[name].table, sae=name)
    found = Compared(explained, strata, densities, _lines(densities, explained, config.seed), out)
    write_text(out / "strata.csv", _csv(found.lines))
    write_text(out / "report.html", page(found, config))
    return found


def _share(config: ExplainConfig, done: Mapping[str, Explained], saes: int) -> float | None:
    """What the next SAE may cost: as much as each that is left."""
    if config.budget_usd is None:
        return None
    return max(0.0, config.budget_usd - sum(each.usd for each in done.values())) / (saes - len(done))


def _lines(densities: Mapping[str, Densities], explained: Mapping[str, Explained], seed: int) -> list[Line]:
    found = []
    for name, each in explained.items():
        for row in each.table:
            if row.what == ITSELF and row.value.value is not None:
                found.append(Line(name, row.scorer, row.judge, ALL, row.value, row.n))
                for stratum, scores in _by_stratum(densities[name], each, row.scorer).items():
                    values = [s.value for s in scores if s.value is not None]
                    value = mean(values, np.random.default_rng([seed, 42]))
                    if value.value is not None:
                        found.append(Line(name, row.scorer, row.judge, stratum, value, len(values)))
    return found


def _by_stratum(density: Densities, explained: Explained, scorer: str) -> dict[str, list[Score]]:
    found: dict[str, list[Score]] = {stratum: [] for stratum in NAMES}
    for latent, result in explained.results.items():
        found[of(density[latent])] += [score for score in result.scores if score.name == scorer]
    return found


def _csv(lines: Sequence[Line]) -> str:
    header = ["sae", "scorer", "judge", "density", "value", "low", "high", "n"]
    return csv_text([header, *([x.sae, x.scorer, x.judge, x.stratum, *x.value, x.n] for x in lines)])
