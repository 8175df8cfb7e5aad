"""Everything that the labelled corpus can say of SAEs: best latents, probes, absorption, each beside its controls."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kanary.evaluation.concepts.absorption import Absorption, absorption
from kanary.evaluation.concepts.measure import Concepts, concept_scores, encoded, projected, shuffled_name
from kanary.evaluation.concepts.probing import Draws, Probed, Values, balanced_draws, probe_all, probe_top
from kanary.evaluation.concepts.sample import Sample
from kanary.evaluation.result import Metric, plain
from kanary.evaluation.standin import PCA, Spliced, StandIn
from kanary.sae import SAE, SparseCodes

KS = (1, 2, 5)
"""Units of the sparse probes."""
ALL = "all"
"""The probe on all units."""


@dataclass(frozen=True)
class GroundTruth:
    """What is known of the concepts of the labelled corpus in SAEs and controls, by the names of the rows.

    Everything is about the same concepts, ``concepts.measurable``.
    """

    concepts: Concepts
    probes: Mapping[str, Mapping[str, Probed]]
    """Row -> "1", "2" or "5" units, for neurons also "all" -> the probes. Of every row but random directions."""
    absorptions: Mapping[str, Absorption]
    """Of SAEs and their twins: what has latents that fire or not."""
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
            "left_out": dict(self.concepts.left_out),
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
    draws, mixed = (_draws(sample, concepts.measurable, seed, shuffle) for shuffle in (False, True))
    probes: dict[str, dict[str, Probed]] = {}
    absorptions: dict[str, Absorption] = {}
    neurons: dict[str, Probed] = {}
    for site, x in sample.x.items():
        neurons[site] = probe_all(x, draws)
        probes[f"neurons at {site}"] = {**_sparse(x, draws), ALL: neurons[site]}
        if show:
            show(1)
    for name, each in {**{name: Spliced(_site(sae), sae) for name, sae in saes.items()}, **controls}.items():
        if name not in concepts.left_out:
            x = sample.x[each.site]
            if isinstance(each, PCA):
                probes[name] = _sparse(projected(x, each.basis, each.mean), draws)
            elif isinstance(each, Spliced):
                codes = SparseCodes.cat(list(encoded(each.sae, x)))
                probes[name] = _sparse(codes, draws)
                absorptions[name] = absorption(each.sae, x, codes, draws, neurons[each.site].probes)
                if name in saes:
                    probes[shuffled_name(name)] = _sparse(codes, mixed)
                del codes  # before the next are made
        if show:
            show(1)
    return GroundTruth(concepts, probes, absorptions, {**(about or {}), "seed": seed})


def steps(saes: Mapping[str, SAE], controls: Mapping[str, StandIn]) -> int:
    """How often :func:`ground_truth` calls ``show``."""
    sites = {_site(sae) for sae in saes.values()} | {each.site for each in controls.values()}
    return 3 * len(saes) + 3 * len(sites) + 2 * len(controls)


def _draws(sample: Sample, concepts: Sequence[str], seed: int, shuffle: bool) -> Draws:
    columns = [sample.concepts.index(name) for name in concepts]
    held = sample.labels[:, columns], sample.judged[:, columns]
    return balanced_draws(concepts, *held, sample.test, sample.documents, seed=seed, shuffle=shuffle)


def _sparse(values: Values, draws: Draws) -> dict[str, Probed]:
    """The probes on few units."""
    return {str(k): each for k, each in probe_top(values, draws, KS).items()}


def _site(sae: SAE) -> str:
    return str(sae.config.trained_on["site"])


def _absorbed(found: Absorption) -> dict[str, Metric]:
    parents = len(found.parents)
    return {
        "absorption_full": found.rates.full,
        "absorption_fraction": found.rates.fraction,
        "parent_recall": found.recall,
        "parent_false_alarms": found.false_alarms,
        "latents_per_parent": Metric(found.splits, float("nan"), float("nan"), parents),
    }
