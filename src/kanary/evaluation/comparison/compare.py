"""Runs side by side: numbers at matched L0 with intervals over seeds, ties called ties, and what is not like for like.

Reads the runs' ``metrics.json`` alone. Two SAEs are compared at the same L0 because every score rises with L0: a curve of
(L0, score) per family and seed is read off at L0 16, 32, 64 and 128. A difference whose interval holds 0 is a tie.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kanary.errors import KanaryError
from kanary.evaluation.comparison.curves import COLUMNS, Match, Point, matches, measured
from kanary.evaluation.comparison.families import Entry, Family, count, grouped, independent, listed, read_runs
from kanary.evaluation.comparison.labels import labels

if TYPE_CHECKING:
    from rich.table import Table

AT = (16.0, 32.0, 64.0, 128.0)
SUFFIXES = (".html", ".csv", ".json")


class Flag(NamedTuple):
    """Something in which the SAEs differ that a fair comparison would keep equal."""

    mark: str
    text: str
    families: frozenset[Family]
    """Those unlike most; all of them where there is no most."""


@dataclass(frozen=True)
class Comparison:
    """What the runs say when they are put side by side."""

    entries: list[Entry]
    """Every SAE and control row that counts."""
    labels: Mapping[Family, str]
    points: list[Point]
    matched: list[Match]
    at: tuple[float, ...]
    flags: list[Flag]
    warnings: list[str]
    comparisons: int
    """Differences that were judged, each with its own 95 % interval."""

    def marks(self, family: Family) -> str:
        """The letters of the flags that a family carries."""
        return " ".join(flag.mark for flag in self.flags if family in flag.families)

    def table(self) -> "Table":
        """For a terminal, at most 100 columns wide."""
        from kanary.evaluation.comparison.table import terminal_table

        return terminal_table(self)

    def to_json(self) -> dict[str, Any]:
        from kanary.evaluation.comparison.table import to_json

        return to_json(self)

    def write(self, path: Path) -> None:
        """An ``.html`` page, or the numbers as ``.csv`` or ``.json``.

        Raises:
            KanaryError: another ending; the disk is full.
        """
        from kanary.evaluation.comparison.page import page
        from kanary.evaluation.comparison.table import to_csv
        from kanary.files import write_json, write_text

        _check_suffix(path)
        if path.suffix.lower() == ".json":
            write_json(path, self.to_json())
        else:
            write_text(path, page(self) if path.suffix.lower() == ".html" else to_csv(self))


def compare(runs: Sequence[str | Path], out: str | Path | None = None, *, at: Sequence[float] = AT) -> Comparison:
    """Compares every SAE of the runs, and writes the result to ``out`` if that is given.

    Args:
        runs: run folders with a ``metrics.json``, or such files.
        out: a page (``.html``), or the numbers (``.csv``, ``.json``).
        at: values of L0 at which families are compared.

    Raises:
        KanaryError: a run that was not measured, a damaged file, an unknown kind of ``out``, an L0 that is not positive.
    """
    if out is not None:
        _check_suffix(Path(out))
    if not at or not all(math.isfinite(l0) and l0 > 0 for l0 in at):
        raise KanaryError(f"at={list(at)} must be numbers of active latents above 0, such as 16, 32.")
    read = read_runs([runs] if isinstance(runs, str | Path) else runs)
    entries, warnings = independent(read.entries)
    names = labels(entry.family for entry in entries)
    families: dict[Family, list[Entry]] = grouped(entries, lambda e: e.family)
    saes = {family: group for family, group in families.items() if not family.control}
    levels = tuple(sorted(set(map(float, at))))
    matched = [match for l0 in levels for match in matches(families, l0)]
    found = Comparison(
        entries=entries,
        labels=names,
        points=measured(entries),
        matched=matched,
        at=levels,
        flags=_flags(saes, names),
        warnings=[
            *read.warnings,
            *warnings,
            *_coverage(saes, names, matched, levels),
            *_better_controls(matched, names),
        ],
        comparisons=sum(m.verdict is not None and not math.isnan(m.verdict.loss) for m in matched),
    )
    if out is not None:
        found.write(Path(out))
    return found


def _check_suffix(path: Path) -> None:
    if path.suffix.lower() not in SUFFIXES:
        raise KanaryError(f"--out {path}: end the name in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}.")


# --- what to beware of --------------------------------------------------------------------------------------------


SAME_SIZE = 1.02
"""Costs that may count as one: a threshold for every latent is no advantage."""
COST_AT = 32
"""Active latents per token with which FLOPs are compared, whatever the L0 of each."""
COSTS: dict[str, Callable[[Entry], int | None]] = {
    "parameters": lambda e: int(e.about["parameters"]),
    f"training FLOPs per token (L0 {COST_AT})": lambda e: _flops(e.about.get("train_flops")),
}
ALIKE: dict[str, Callable[[Entry], str]] = {
    "site": lambda e: e.family.site,
    "model": lambda e: _named(e.family.model_name, e.family.model),
    "training text": lambda e: _named(e.family.text_name, e.family.text),
    "tokens trained": lambda e: count(e.family.tokens_trained),
    "d_sae": lambda e: count(e.family.d_sae),
    "evaluation text": lambda e: _named(e.family.test_name, e.family.test_text),
    "part of the text": lambda e: e.family.test_part,
    "tokens evaluated": lambda e: count(e.held_out.get("tokens")),
    "tokens for the losses": lambda e: count(e.held_out.get("loss_tokens")),
    "windows": lambda e: count(e.held_out.get("windows")),
    "tokens per window": lambda e: count(e.family.window),
    "seed of the evaluation": lambda e: str(e.held_out.get("seed")),
} | {what: lambda e, value=value: count(value(e)) for what, value in COSTS.items()}


def _named(name: str, fingerprint: str) -> str:
    return name if fingerprint == name else f"{name} ({fingerprint[:8]})"


def _flops(formula: Mapping[str, float] | None) -> int | None:
    return None if formula is None else round(formula["per_token"] + COST_AT * formula["per_active_latent"])


def _flags(families: Mapping[Family, Sequence[Entry]], names: Mapping[Family, str]) -> list[Flag]:
    """One flag for everything in which SAEs differ besides what the comparison is about."""
    flags: list[Flag] = []
    every = [entry for entries in families.values() for entry in entries]
    for what, value in ALIKE.items():
        if what in COSTS and _close([COSTS[what](entry) for entry in every]):
            continue
        holders: dict[str, list[Family]] = {}
        for family, entries in families.items():
            for found in sorted({value(entry) for entry in entries}):
                holders.setdefault(found, []).append(family)
        if len(holders) < 2:
            continue
        each = [f"{found} ({listed((names[f] for f in having), 3)})" for found, having in holders.items()]
        *others, most = sorted(holders.values(), key=len)
        odd = families if len(others[-1]) == len(most) else {f for having in others for f in having}
        mark = chr(ord("a") + len(flags))
        flags.append(Flag(mark, f"{what} {listed(each)}", frozenset(odd)))
    return flags


def _close(costs: Sequence[int | None]) -> bool:
    known = [cost for cost in costs if cost is not None]
    return len(known) == len(costs) and max(known) <= SAME_SIZE * min(known)


def _coverage(
    families: Mapping[Family, Sequence[Entry]],
    names: Mapping[Family, str],
    matched: Sequence[Match],
    levels: Sequence[float],
) -> list[str]:
    """What cannot be compared, and why."""
    warnings = []
    silent = [e.title for group in families.values() for e in group if e.metrics["l0"].value <= 0]
    if silent:
        warnings.append(f"{listed(silent)}: no latent ever fires (L0 0), so that nothing can be read off at any L0.")
    if len(families) < 2:
        (entries,) = families.values()
        what = f"{entries[0].title} holds one SAE" if len(entries) == 1 else f"every SAE is {names[entries[0].family]}"
        return [*warnings, f"There is nothing to compare: {what}."]
    covering = {l0: {m.family for m in matched if m.l0 == l0} & set(families) for l0 in levels}
    if poor := [f"{l0:g}" for l0, found in covering.items() if len(found) < 2]:
        ranges = listed((f"{names[family]} covers {_range(entries)}" for family, entries in families.items()), 6)
        warnings.append(f"No two families cover L0 {listed(poor).replace(' and ', ' or ')}: {ranges}.")
    return warnings


def _range(entries: Sequence[Entry]) -> str:
    measured = [e.metrics["l0"].value for e in entries]
    low, high = f"{min(measured):.4g}", f"{max(measured):.4g}"
    return low if low == high else f"{low}–{high}"


def _better_controls(matched: Sequence[Match], names: Mapping[Family, str]) -> list[str]:
    """Controls that score as well as the best SAE: then the SAEs have shown nothing there."""
    matched = [m for m in matched if not m.estimate.wide]
    best: dict[tuple[float, str], float] = {}
    for m in matched:
        if not m.family.control and m.metric in COLUMNS and COLUMNS[m.metric].higher_is_better:
            place = m.l0, m.metric
            best[place] = max(best.get(place, -math.inf), m.estimate.mean)
    where: dict[Family, dict[float, list[str]]] = {}
    for m in matched:
        if m.family.control and m.estimate.mean >= best.get((m.l0, m.metric), math.inf):
            where.setdefault(m.family, {}).setdefault(m.l0, []).append(COLUMNS[m.metric].heading)
    return [
        f"{names[family]} does at least as well as every SAE at "
        + "; ".join(f"L0 {l0:g} in {listed(headings)}" for l0, headings in places.items())
        + "."
        for family, places in where.items()
    ]
