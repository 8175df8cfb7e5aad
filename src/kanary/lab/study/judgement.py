"""The study's numbers, and what its rule says of them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from kanary.lab.study.cells import Cell, Grid, Role
from kanary.lab.study.design import Design
from kanary.lab.study.verdict import Difference, Outcome, at_level, difference, in_setting, outcome, over_settings

DECIDES = "fvu"
"""What verdicts are about: the share of variance that is not explained, on activations that no choice has seen."""
VETO = "ce_loss_score"
"""What may not get worse for a win to count."""
CORRELATION, ABOVE_CHANCE = 0.3, 0.1
"""Of curvatures, and of where curves turn to, between seeds: from here on they are said to replicate."""
HIGHER: dict[str, bool] = {
    "fvu": False,
    "ce_loss_score": True,
    "ce_loss_score_mean": True,
    "kl_div_score": True,
    "dead_share": False,
    "alive": True,
    "redundancy": False,
    "decoder_cosine": False,
    "mcc": True,
    "mmcs": True,
    "feature_f1": True,
    "feature_auroc": True,
    "uniqueness": True,
    "concept_auroc": True,
    "concept_f1": True,
    "probing_accuracy_1": True,
    "probing_accuracy_5": True,
    "absorption_full": False,
    "absorption_fraction": False,
    "seconds": False,
    "cpu_seconds": False,
    "peak_mb": False,
}
"""Metrics that are compared -> whether higher is better."""


class Numbers:
    """What the reported cells say, by setting, SAE, L0 and seed."""

    def __init__(self, cells: Mapping[Cell, Mapping[str, Any]]) -> None:
        self.cells = cells
        self._found: dict[tuple[str, Role], dict[int, Mapping[str, Any]]] = {}
        for cell, numbers in cells.items():
            self._found.setdefault((cell.setting, Role(cell.variant, cell.l0)), {})[cell.seed] = numbers

    def of(self, setting: str, role: Role, metric: str, seeds: Sequence[int]) -> dict[int, float]:
        """Seed -> number, where there is one."""
        found = self._found.get((setting, role), {})
        values = {seed: found[seed].get(metric) for seed in seeds if seed in found}
        return {seed: float(value) for seed, value in values.items() if value is not None}

    def broke_down(self, setting: str, role: Role, seeds: Sequence[int]) -> bool:
        """Whether the training of any of ``seeds`` did."""
        found = self._found.get((setting, role), {})
        return any(found[seed].get("failed") is not None for seed in seeds if seed in found)


class Comparison(NamedTuple):
    """A family against one of its controls at one L0 in one metric."""

    setting: str
    family: str
    l0: int
    control: str
    role: Role
    """The SAE that the control is."""
    metric: str
    difference: Difference
    outcome: Outcome


class Verdict(NamedTuple):
    """What the rule says of a family."""

    family: str
    settings: dict[str, Outcome]
    """Every setting, also those that do not decide."""
    outcome: Outcome
    """Over the real settings, which decide."""
    confirmed: Outcome | None
    """The same with seeds that no verdict has seen; None where nothing was to be confirmed."""
    gain: float
    """Mean of FVU / that of the better of the controls that decide, less 1, over the real settings; negative is better."""


def comparisons(
    numbers: Numbers, design: Design, grids: Mapping[str, Grid], seeds: Sequence[int]
) -> Iterator[Comparison]:
    """Every family against each of its controls, wherever both have numbers."""
    for setting, grid in grids.items():
        for (family, l0), roles in grid.roles.items():
            ours = Role(grid.base(family), l0)
            for control, theirs in roles.items():
                for metric, higher in HIGHER.items():
                    pair = [numbers.of(setting, role, metric, seeds) for role in (ours, theirs)]
                    found = difference(*pair)
                    if found.n:
                        verdict = outcome(found, higher_is_better=higher)
                        yield Comparison(setting, family, l0, control, theirs, metric, found, verdict)


def verdicts(numbers: Numbers, design: Design, grids: Mapping[str, Grid]) -> list[Verdict]:
    """The rule, for every family that is judged."""
    first = list(comparisons(numbers, design, grids, design.seeds))
    again = list(comparisons(numbers, design, grids, design.confirm))
    found = []
    for family in (name for name, of in design.families.items() if of.kan):
        settings = {
            name: _in_setting(numbers, first, design, grid, family, design.seeds)
            for name, grid in grids.items()
            if family in grid.families
        }
        real = [outcome for name, outcome in settings.items() if design.settings[name].real]
        overall = over_settings(real)
        confirmed = None
        if overall == "win":
            won = [name for name in settings if settings[name] == "win" and design.settings[name].real]
            confirmed = over_settings(
                [_in_setting(numbers, again, design, grids[name], family, design.confirm) for name in won]
            )
        if settings:
            found.append(Verdict(family, settings, overall, confirmed, _gain(first, design, family)))
    return found


def curves_are_real(shared: Mapping[str, float | None]) -> str:
    """Rule 6, from what pairs of seeds have in common (:class:`~kanary.lab.study.across.Across`)."""
    known = [shared.get(name) for name in ("curvature_correlation", "bend_cosine", "bend_cosine_chance")]
    if any(value is None for value in known):
        return "nothing to compare"
    correlation, cosine, chance = (float(value) for value in known if value is not None)
    return "replicate" if correlation > CORRELATION and cosine - chance >= ABOVE_CHANCE else "do not replicate"


def winners(numbers: Numbers, design: Design, grids: Mapping[str, Grid]) -> list[tuple[str, str]]:
    """(setting, family) of the wins that are to be confirmed."""
    return [
        (setting, verdict.family)
        for verdict in verdicts(numbers, design, grids)
        for setting, outcome in verdict.settings.items()
        if outcome == "win" and design.settings[setting].real
    ]


def best_family(numbers: Numbers, design: Design, grids: Mapping[str, Grid]) -> str | None:
    """The KAN family for the stage of all sparsifiers: the one with the least mean FVU relative to the first of the
    controls that decide, on the *tuning* split of the real settings (of all, where none is real).

    None as long as a number is missing for that.
    """
    if not design.decides:
        return None
    real = [grid for name, grid in grids.items() if design.settings[name].real] or list(grids.values())
    scores: dict[str, list[float]] = {}
    for grid in real:
        for family in (name for name in grid.families if design.families[name].kan):
            for k in grid.levels:
                if (theirs := grid.roles[family, k].get(design.decides[0])) is None:
                    continue
                pair = Role(grid.base(family), k), theirs
                both = [numbers.of(grid.name, role, "tuning_fvu", design.seeds) for role in pair]
                if any(len(found) < len(design.seeds) for found in both):
                    return None
                scores.setdefault(family, []).extend(math.log(both[0][seed] / both[1][seed]) for seed in design.seeds)
    return min(scores, key=lambda family: fmean(scores[family])) if scores else None


def _in_setting(
    numbers: Numbers, found: Sequence[Comparison], design: Design, grid: Grid, family: str, seeds: Sequence[int]
) -> Outcome:
    def against(metric: str, l0: int) -> list[Outcome]:
        known = {
            each.control: each.outcome
            for each in found
            if (each.setting, each.family, each.l0, each.metric) == (grid.name, family, l0, metric)
        }
        return [known.get(control, "no verdict") for control in design.decides]

    def level(l0: int) -> Outcome:
        if numbers.broke_down(grid.name, Role(grid.base(family), l0), seeds):
            return "loss"
        return at_level(against(DECIDES, l0), against(VETO, l0))

    return in_setting([level(k) for k in grid.levels])


def _gain(found: Sequence[Comparison], design: Design, family: str) -> float:
    worst: dict[tuple[str, int], float] = {}
    for each in found:
        decides = each.control in design.decides and each.metric == DECIDES and design.settings[each.setting].real
        if each.family == family and decides:
            place = each.setting, each.l0
            worst[place] = max(worst.get(place, -math.inf), each.difference.percent / 100)
    return fmean(worst.values()) if worst else math.nan
