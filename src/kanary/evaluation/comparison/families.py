"""SAEs read from ``metrics.json`` and put into families, within which only sparsity and seed differ."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from kanary.errors import KanaryError, typed
from kanary.evaluation.comparison.matched import Seed
from kanary.evaluation.result import Metric
from kanary.files import read_json
from kanary.sae.store import refuse_unfinished

FORMAT = "kanary-metrics-1"
SPARSITY = ("k", "target_l0", "l1", "l0_penalty")  # options of the sparsifiers that set how many latents fire

Options = tuple[tuple[str, str], ...]
"""(name, JSON of the value), by name."""


@dataclass(frozen=True)
class Family:
    """What SAEs have in common that differ in sparsity and seed alone; for a control, what it is a control of."""

    control: str  # "" for an SAE, else "PCA", "identity", "random twin" or "untrained twin"
    kind: str
    encoder: str
    decoder: str
    d_sae: int | None
    options: Options
    encoder_options: Options
    decoder_options: Options
    recipe: Options  # of training; empty where it was not recorded
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
        again = f"Write it anew with `kanary evaluate {typed(name)}`."
        if data.get("format") != FORMAT:
            raise KanaryError(f"{file} is of another version (format {data.get('format')!r}, not {FORMAT!r}). {again}")
        try:
            entries += _entries(data, name)
            if missing := data["held_out"].get("missing"):
                warnings.append(f"{name} has no numbers and is left out: {missing}")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise KanaryError(f"{file} is damaged ({type(error).__name__}: {error}). {again}") from error
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
        raise KanaryError(f"{run} is not a run but a folder of runs: give {typed(run)}/*")
    refuse_unfinished(run)
    raise KanaryError(f"{run} has no metrics.json: measure it first with `kanary evaluate {typed(run)}`.")


def _entries(data: Mapping[str, Any], run: str) -> list[Entry]:
    saes = [
        Entry(
            run=run,
            name=name,
            family=_family(about := data["about"][name], data["held_out"]),
            setting=_options({key: value for key, value in about["options"].items() if key in SPARSITY}),
            seed=about["seed"],
            metrics=_metrics(groups),
            about=about,
            held_out=data["held_out"],
            only=len(data["saes"]) == 1,
        )
        for name, groups in data["saes"].items()
    ]
    return saes + [_control(name, _metrics(groups), saes) for name, groups in data["controls"].items()]


def _metrics(groups: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, Metric]:
    """The numbers of all groups by name; null is NaN."""
    found = {}
    for name, row in (item for group in groups.values() for item in group.items()):
        value, low, high = (math.nan if row[key] is None else float(row[key]) for key in ("value", "low", "high"))
        found[name] = Metric(value, low, high, int(row["n"]))
    return found


def _family(about: Mapping[str, Any], held_out: Mapping[str, Any]) -> Family:
    return Family(
        control="",
        kind=about["kind"],
        encoder=about["encoder"],
        decoder=about["decoder"],
        d_sae=about["d_sae"],
        options=_options({key: value for key, value in about["options"].items() if key not in SPARSITY}),
        encoder_options=_options(about.get("encoder_options") or {}),
        decoder_options=_options(about.get("decoder_options") or {}),
        recipe=_options(about.get("recipe") or {}),
        site=about["site"],
        model=about.get("fingerprint") or str(about["model"]),
        text=about.get("text_fingerprint") or _short(about["text"]),
        tokens_trained=about["tokens_trained"],
        test_text=held_out.get("text_fingerprint") or _short(held_out["text"]),
        test_part=held_out["part"],
        window=held_out["window"],
        model_name=_short(about["model"]),
        text_name=_short(about["text"]),
        test_name=_short(held_out["text"]),
    )


def _control(name: str, metrics: dict[str, Metric], saes: Sequence[Entry]) -> Entry:
    """A twin belongs to the family of twins of its SAE's family, with its seed; a PCA and the identity only to a site."""
    for sae in saes:
        if name in sae.about["twins"]:
            family = replace(sae.family, control=name.removesuffix(f" of {sae.name}"))
            return replace(sae, name=name, family=family, metrics=metrics)
    what, _, site = name.partition(" at ")
    sae = {each.family.site: each for each in saes}[site]
    pca = any(name == each.about["pca"] for each in saes)
    alike: dict[str, Any] = {
        "kind": "",
        "encoder": "",
        "decoder": "",
        "d_sae": None,
        "options": (),
        "encoder_options": (),
        "decoder_options": (),
        "recipe": (),
        "text": "",
        "tokens_trained": None,
    }
    family = replace(sae.family, control="PCA" if pca else what, **alike)
    setting = (("components", f"{metrics['l0'].value:g}"),) if pca else ()
    return replace(sae, name=name, family=family, setting=setting, seed=None, metrics=metrics)


def independent(entries: Sequence[Entry]) -> Read:
    """Without the SAEs that are another's copy; and a warning, by name, wherever what looks like two seeds is one.

    SAEs of one family, setting and seed whose weights differ are kept: their mean counts as one seed.
    """
    kept, warnings = [], []
    dropped: set[tuple[str, str]] = set()  # (run, name) of copies and their twins
    for group in grouped((e for e in entries if not e.family.control), lambda e: (e.family, e.setting)).values():
        for weights, same in grouped(group, lambda e: e.about["weights"]).items():
            first, *copies = sorted(same, key=lambda e: (-e.held_out["tokens"], *e.order()))
            kept.append(first)
            if copies:
                dropped |= {(e.run, name) for e in copies for name in (e.name, *e.about["twins"])}
                which = f"one SAE (weights {weights[:8]})"
                warnings.append(f"{listed(e.title for e in [first, *copies])} are {which}: counted once.")
        counted = [e for e in group if (e.run, e.name) not in dropped]
        for seed, same in grouped(counted, lambda e: e.seed).items():
            if len(same) > 1:
                which = "all have no seed" if seed is None else f"are all seed {seed}"
                warnings.append(f"{listed(e.title for e in same)} {which}: counted once (their mean).")
    kept += [e for e in entries if e.family.control and (e.run, e.name) not in dropped]
    return Read(sorted(kept, key=Entry.order), warnings)


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
