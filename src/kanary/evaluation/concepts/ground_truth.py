"""Everything that the labelled corpus can say of SAEs: best latents, probes, absorption, each beside its controls."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kanary.evaluation.concepts.absorption import Absorption, absorption
from kanary.evaluation.concepts.measure import Concepts, concept_scores, shuffled_name
from kanary.evaluation.concepts.probing import Probed, balanced_draws, probe_all, probe_top
from kanary.evaluation.concepts.sample import Sample
from kanary.evaluation.result import Metric, plain
from kanary.evaluation.standin import Spliced, StandIn
from kanary.sae import SAE, SparseCodes
from kanary.sae.parts import TILE

KS = (1, 2, 5)
"""Units of the sparse probes."""
ALL = "all"
"""The probe on all units."""


@dataclass(frozen=True)
class GroundTruth:
    """What is known of the concepts of the labelled corpus in SAEs and controls, by the names of the rows."""

    concepts: Concepts
    probes: Mapping[str, Mapping[str, Probed]]
    """Row -> "1", "2", "5" or "all" units -> the probes. Of SAEs, of their random twins, of neurons, of shuffled labels."""
    absorptions: Mapping[str, Absorption]
    """Of SAEs and their random twins."""
    about: Mapping[str, Any]
    """What it was measured on: text, seed …"""

    def summary(self, row: str) -> dict[str, Metric]:
        """The numbers of one row over all concepts."""
        found = dict(self.concepts.rows[row].summary) if row in self.concepts.rows else {}
        for k, probed in self.probes.get(row, {}).items():
            found[f"probing_accuracy_{k}"] = probed.mean.accuracy
        if row in self.absorptions:
            found |= _absorbed(self.absorptions[row])
        return found

    @property
    def rows(self) -> list[str]:
        """The SAEs, then the controls."""
        return list(dict.fromkeys([*self.concepts.rows, *self.probes]))

    def to_json(self) -> dict[str, Any]:
        """For ``metrics.json``: every row's summary, what was measured, and what could not be."""
        return {
            **self.about,
            "tokens": self.concepts.tokens,
            "documents": self.concepts.documents,
            "measurable": list(self.concepts.measurable),
            "too_rare": dict(self.concepts.too_rare),
            "graded": list(self.concepts.graded),
            "graded_too_rare": dict(self.concepts.graded_too_rare),
            "rows": {row: plain({"": self.summary(row)})[""] for row in self.rows},
        }


def ground_truth(
    sample: Sample,
    saes: Mapping[str, SAE],
    controls: Mapping[str, StandIn],
    *,
    seed: int = 0,
    about: Mapping[str, Any] | None = None,
    show: Callable[[int], None] | None = None,
) -> GroundTruth:
    """Measures ``saes`` and ``controls`` on ``sample``, one half of which chooses what the other judges.

    Args:
        controls: by name; PCA, untrained and random twins (an identity has no units and is left out beforehand).
        show: called with 1 after every row of :func:`steps`.

    Raises:
        KanaryError: no concept is measurable, or a site is not in the sample.
    """
    concepts = concept_scores(sample, saes, controls, seed=seed, show=show)
    taken = (sample.concepts, sample.labels, sample.judged, sample.test, sample.documents)
    draws, mixed = balanced_draws(*taken, seed=seed), balanced_draws(*taken, seed=seed, shuffle=True)
    probes: dict[str, dict[str, Probed]] = {}
    absorptions: dict[str, Absorption] = {}
    neurons: dict[str, Probed] = {}
    for site, x in sample.x.items():
        neurons[site] = probe_all(x, draws)
        probes[f"neurons at {site}"] = {**_by_k(probe_top(x, draws, KS)), ALL: neurons[site]}
        if show:
            show(1)
    twins = {name: each for name, each in controls.items() if isinstance(each, Spliced) and name.startswith("random")}
    for name, spliced in {**{n: Spliced(_site(s), s) for n, s in saes.items()}, **twins}.items():
        x = sample.x[spliced.site]
        codes = encoded(spliced.sae, x)
        probes[name] = _by_k(probe_top(codes, draws, KS))
        absorptions[name] = absorption(spliced.sae, x, codes, draws, neurons[spliced.site].probes)
        if name in saes:
            probes[shuffled_name(name)] = _by_k(probe_top(codes, mixed, KS))
        if show:
            show(1)
    return GroundTruth(concepts, probes, absorptions, {**(about or {}), "seed": seed})


def steps(saes: Mapping[str, SAE], controls: Mapping[str, StandIn]) -> int:
    """How often :func:`ground_truth` calls ``show``."""
    sites = {_site(sae) for sae in saes.values()}
    twins = sum(isinstance(each, Spliced) and name.startswith("random") for name, each in controls.items())
    return 3 * len(saes) + 3 * len(sites) + len(controls) + twins


@torch.no_grad()
def encoded(sae: SAE, x: Tensor) -> SparseCodes:
    """The codes of ``x [tokens, width]``, encoded a piece at a time."""
    return SparseCodes.cat([sae.encode(piece) for piece in x.split(max(1, TILE // sae.d_sae))])


def _site(sae: SAE) -> str:
    return str(sae.config.trained_on["site"])


def _by_k(probed: Mapping[int, Probed]) -> dict[str, Probed]:
    return {str(k): each for k, each in probed.items()}


def _absorbed(found: Absorption) -> dict[str, Metric]:
    parents = len(found.parents)
    return {
        "absorption_full": found.rates.full,
        "absorption_fraction": found.rates.fraction,
        "parent_recall": found.recall,
        "parent_false_alarms": found.false_alarms,
        "latents_per_parent": Metric(found.splits, float("nan"), float("nan"), parents),
    }
