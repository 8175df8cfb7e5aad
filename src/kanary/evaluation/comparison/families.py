"""SAEs read from ``metrics.json`` and put into families, within which only sparsity and seed differ."""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from kanary.errors import KanaryError
from kanary.evaluation.comparison.matched import Seed
from kanary.evaluation.result import Metric
from kanary.files import read_json

FORMAT = "kanary-metrics-1"
SPARSITY = ("k", "target_l0", "l1", "l0_penalty")  # options of the sparsifiers that set how many latents fire
NEEDED = {"site": str, "kind": str, "encoder": str, "decoder": str, "d_sae": int, "options": dict}
TWIN = re.compile(r"(untrained|random) twin of (.+)", re.DOTALL)
PCA = re.compile(r"PCA with ([\d,]+) components? at (.+)", re.DOTALL)
IDENTITY = re.compile(r"identity at (.+)", re.DOTALL)

Options = tuple[tuple[str, str], ...]
"""(name, JSON of the value), by name."""


@dataclass(frozen=True)
class Family:
    """What SAEs have in common that differ in sparsity and seed alone; for a control, what it is a control of."""

    control: str  # "" for an SAE, else "PCA", "identity", "random twin", "untrained twin" or the control's own name
    kind: str
    encoder: str
    decoder: str
    d_sae: int | None
    options: Options
    site: str
    model: str  # fingerprint, or the name where there is none
    text: str  # trained on; fingerprint, or the name where there is none
    tokens_trained: int | None
    test_text: str  # fingerprint, or the name where there is none
    test_part: str
    window: int | None  # tokens per window of the evaluation
    model_name: str = field(default="", compare=False)
    text_name: str = field(default="", compare=False)
    test_name: str = field(default="", compare=False)

    def order(self) -> tuple[str, ...]:
        """By what to sort, SAEs first."""
        return tuple(f"{v:020d}" if isinstance(v, int) else str(v) for v in (getattr(self, f.name) for f in COMPARED))


COMPARED = [f for f in fields(Family) if f.compare]


@dataclass(frozen=True)
class Entry:
    """One SAE, or one control row, of one run."""

    run: str
    name: str
    family: Family
    setting: Options
    """The options that set sparsity."""
    seed: Seed
    weights: str | None
    metrics: Mapping[str, Metric]
    about: Mapping[str, Any]
    held_out: Mapping[str, Any]
    only: bool
    """The one SAE of its run."""

    @property
    def title(self) -> str:
        return self.run if self.only and not self.family.control else f"{self.run}: {self.name}"

    def order(self) -> tuple[Any, ...]:
        seed = -1 if self.seed is None else self.seed
        return (self.family.order(), self.metrics["l0"].value, self.setting, seed, self.run, self.name)


class Read(NamedTuple):
    """What the runs hold."""

    entries: list[Entry]
    warnings: list[str]


def read_runs(runs: Sequence[str | Path]) -> Read:
    """Every SAE and control of the runs, in an order that does not depend on that of the runs.

    Args:
        runs: run folders, or their ``metrics.json``.

    Raises:
        KanaryError: no run; a run without ``metrics.json``; a file that is damaged or of another version; nothing measured.
    """
    if not runs:
        raise KanaryError("Name at least one run: a folder with a metrics.json.")
    files: dict[Path, list[str]] = {}
    for run in runs:
        files.setdefault(metrics_file(Path(run)).resolve(), []).append(str(run))
    entries, warnings = [], []
    for file, names in files.items():
        name = min(names)
        if len(names) > 1:
            warnings.append(f"{name} was given {len(names)} times: counted once.")
        data = read_json(file)
        _check_format(data, file, name)
        if missing := data["held_out"].get("missing"):
            warnings.append(f"{name} has no numbers and is left out: {missing}")
            continue
        entries += _entries(data, file, name)
    if not any(not entry.family.control for entry in entries):
        raise KanaryError("There is nothing to compare. " + " ".join(sorted(warnings) or ["No run holds an SAE."]))
    return Read(sorted(entries, key=Entry.order), sorted(warnings))


def metrics_file(run: Path) -> Path:
    """The ``metrics.json`` of a run folder, or the file itself."""
    if run.is_file():
        return run
    if not run.exists():
        raise KanaryError(f"{run} does not exist.")
    if (run / "metrics.json").is_file():
        return run / "metrics.json"
    if any(run.glob("*/metrics.json")):
        raise KanaryError(f"{run} is not a run but a folder of runs: give {run}/*")
    raise KanaryError(f"{run} has no metrics.json: measure it first with `kanary evaluate {run}`.")


def _check_format(data: Mapping[str, Any], file: Path, run: str) -> None:
    again = f"Write it anew with `kanary evaluate {run}`."
    if "format" not in data and "saes" in data:
        raise KanaryError(f"{file} was written by an older version of Kanary. {again}")
    if data.get("format") != FORMAT:
        raise KanaryError(f"{file} is no metrics.json that this version reads: format {data.get('format')!r}. {again}")
    for key in ("saes", "controls", "about", "held_out"):
        if not isinstance(data.get(key), dict):
            raise KanaryError(f"{file} is damaged: {key!r} is not an object. {again}")


def _entries(data: Mapping[str, Any], file: Path, run: str) -> list[Entry]:
    saes: dict[str, Entry] = {}
    for name, groups in data["saes"].items():
        about = data["about"].get(name)
        _check_about(about, name, file)
        metrics = _metrics(groups, name, file)
        if not math.isfinite(metrics["l0"].value):
            raise KanaryError(f"{file} is damaged: {name!r} has no l0.")
        sparsity = {key: value for key, value in about["options"].items() if key in SPARSITY}
        saes[name] = Entry(
            run=run,
            name=name,
            family=_family(about, data["held_out"]),
            setting=_options(sparsity),
            seed=about["seed"],
            weights=about.get("weights"),
            metrics=metrics,
            about=about,
            held_out=data["held_out"],
            only=len(data["saes"]) == 1,
        )
    controls = data["controls"].items()
    return [*saes.values(), *(_control(name, _metrics(groups, name, file), saes) for name, groups in controls if saes)]


def _check_about(about: Any, name: str, file: Path) -> None:
    if not isinstance(about, dict):
        raise KanaryError(f"{file} is damaged: nothing is said about {name!r}.")
    for key, kind in NEEDED.items():
        if not isinstance(about.get(key), kind):
            raise KanaryError(f"{file} is damaged: {key!r} of {name!r} is {about.get(key)!r}.")
    for key, optional in {"seed": int, "tokens_trained": int, "parameters": int, "weights": str}.items():
        if not isinstance(about.setdefault(key, None), optional | None):
            raise KanaryError(f"{file} is damaged: {key!r} of {name!r} is {about[key]!r}.")


def _metrics(groups: Any, name: str, file: Path) -> dict[str, Metric]:
    """The numbers of all groups by name; null, NaN and infinity all mean that there is none."""
    if not isinstance(groups, dict) or not all(isinstance(group, dict) for group in groups.values()):
        raise KanaryError(f"{file} is damaged: the metrics of {name!r} are not objects.")
    found = {"l0": Metric(math.nan, math.nan, math.nan, 0)}
    for metric, row in (item for group in groups.values() for item in group.items()):
        numbers: list[Any] = [row.get(key, "") if isinstance(row, dict) else "" for key in Metric._fields]
        if not all(n is None or (isinstance(n, int | float) and not isinstance(n, bool)) for n in numbers):
            raise KanaryError(f"{file} is damaged: {metric!r} of {name!r} is {row!r}.")
        value, low, high = (n if n is not None and math.isfinite(n) else math.nan for n in numbers[:3])
        found[metric] = Metric(float(value), float(low), float(high), int(numbers[3] or 0))
    return found


def _family(about: Mapping[str, Any], held_out: Mapping[str, Any]) -> Family:
    return Family(
        control="",
        kind=about["kind"],
        encoder=about["encoder"],
        decoder=about["decoder"],
        d_sae=about["d_sae"],
        options=_options({key: value for key, value in about["options"].items() if key not in SPARSITY}),
        site=about["site"],
        model=str(about.get("fingerprint") or about.get("model")),
        text=str(about.get("text_fingerprint") or _short(about.get("text"))),
        tokens_trained=about["tokens_trained"],
        test_text=str(held_out.get("text_fingerprint") or _short(held_out.get("text"))),
        test_part=str(held_out.get("part")),
        window=_int(held_out.get("window")),
        model_name=_short(about.get("model")),
        text_name=_short(about.get("text")),
        test_name=_short(held_out.get("text")),
    )


def _control(name: str, metrics: dict[str, Metric], saes: Mapping[str, Entry]) -> Entry:
    """A twin belongs to the family of twins of its SAE's family, with its seed; a PCA and the identity only to a site."""
    if (twin := TWIN.fullmatch(name)) and twin[2] in saes:
        parent = saes[twin[2]]
        family = replace(parent.family, control=f"{twin[1]} twin")
        return replace(parent, name=name, family=family, metrics=metrics, weights=None)
    pca, identity = PCA.fullmatch(name), IDENTITY.fullmatch(name)
    site = pca[2] if pca else identity[1] if identity else None
    parent = next((sae for sae in saes.values() if sae.family.site == site), next(iter(saes.values())))
    setting: Options = ()
    if pca:
        components = int(pca[1].replace(",", ""))
        setting = (("components", str(components)),)
        if not math.isfinite(metrics["l0"].value):
            metrics["l0"] = Metric(components, components, components, metrics["l0"].n)
    family = replace(
        parent.family,
        control="PCA" if pca else "identity" if identity else name,
        kind="",
        encoder="",
        decoder="",
        d_sae=None,
        options=(),
        site=site or parent.family.site,
        text="",
        tokens_trained=None,
    )
    return replace(parent, name=name, family=family, setting=setting, seed=None, weights=None, metrics=metrics)


def independent(entries: Sequence[Entry]) -> Read:
    """Without the SAEs that are another's copy; and a warning, by name, wherever what looks like two seeds is one.

    SAEs of one family, setting and seed whose weights differ are kept: their mean counts as one seed.
    """
    kept, warnings, dropped = [], [], set()
    for group in grouped((e for e in entries if not e.family.control), lambda e: (e.family, e.setting)).values():
        for weights, same in grouped(group, lambda e: e.weights or (e.run, e.name)).items():
            first, *copies = sorted(same, key=lambda e: (-(_int(e.held_out.get("tokens")) or 0), *e.order()))
            kept.append(first)
            if copies:
                dropped |= {(e.run, e.name) for e in copies}
                which = f"one SAE (weights {str(weights)[:8]})"
                warnings.append(f"{listed(e.title for e in [first, *copies])} are {which}: counted once.")
        counted = [e for e in group if (e.run, e.name) not in dropped]
        for seed, same in grouped(counted, lambda e: e.seed).items():
            if len(same) > 1:
                why = f"are both seed {seed}" if len(same) == 2 else f"are all seed {seed}"
                why = why if seed is not None else "have no seed, so that they may be copies"
                warnings.append(f"{listed(e.title for e in same)} {why}: counted once (their mean).")
            if seed is None and len(same) < len(counted):
                warnings.append(f"{listed(e.title for e in same)} has no seed: left out beside seeds that are known.")
    for entry in entries:
        parent = TWIN.fullmatch(entry.name)
        if entry.family.control and not (parent and (entry.run, parent[2]) in dropped):
            kept.append(entry)
    return Read(sorted(kept, key=Entry.order), warnings + _kept_apart(kept))


def _kept_apart(entries: Sequence[Entry]) -> list[str]:
    """Warnings about equal seeds that were trained for different lengths: related, so no seeds of one another."""
    warnings = []
    saes = [e for e in entries if not e.family.control]
    for group in grouped(saes, lambda e: (replace(e.family, tokens_trained=None), e.setting, e.seed)).values():
        if len({e.family for e in group}) > 1 and group[0].seed is not None:
            lengths = listed(count(e.family.tokens_trained) for e in group)
            warnings.append(
                f"{listed(e.title for e in group)} are seed {group[0].seed} trained on {lengths} tokens: kept apart."
            )
    return warnings


def grouped(entries: Iterable[Entry], key: Callable[[Entry], Any]) -> dict[Any, list[Entry]]:
    """``key(entry)`` -> entries, both in the order of ``entries``."""
    groups: dict[Any, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(key(entry), []).append(entry)
    return groups


def count(tokens: int | None) -> str:
    """Whole millions and thousands in short."""
    if tokens is None:
        return "unknown"
    for unit, letter in ((10**6, "M"), (10**3, "K")):
        if tokens and tokens % unit == 0:
            return f"{tokens // unit:,}{letter}"
    return f"{tokens:,}"


def listed(words: Iterable[str], most: int = 8) -> str:
    """``a, b and c``, each once; of many only the first."""
    each = list(dict.fromkeys(words))
    *others, last = each if len(each) <= most else [*each[:most], f"{len(each) - most} more"]
    return f"{', '.join(others)} and {last}" if others else last


def _options(values: Mapping[str, Any]) -> Options:
    return tuple(sorted((str(name), json.dumps(value, sort_keys=True)) for name, value in values.items()))


def _short(name: Any) -> str:
    """The last part of a path or of a Hub name: the same text may lie elsewhere on another machine."""
    return str(name).rstrip("/").rpartition("/")[2]


def _int(value: Any) -> int | None:
    return value if isinstance(value, int) else None
