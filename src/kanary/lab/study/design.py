"""What a study compares, read from its YAML file: settings, families of SAEs, and the controls each is held against."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from kanary.config import from_mapping, option, read_yaml
from kanary.errors import KanaryError, nearest

T = TypeVar("T")
SMOKE = "smoke"
"""Key of the file with what is smaller in a trial of all code paths."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SettingDesign:
    """Activations to train on and to judge on: of synthetic features, or of a model's site."""

    title: str = option("", "In words.")
    real: bool = option(False, "Activations of a language model; synthetic ones otherwise.")
    synthetic: Mapping[str, Any] = option({}, "Options of SyntheticConfig.")
    model: str = option("", "The language model; without one the setting is left out.")
    text: str = option("", "The text, as in `kanary train`.")
    site: str = option("", "Where activations are read.")
    window: int = option(256, "Tokens that the model sees at once.")
    width: int = option(512, "Latents of the families; controls may have others.", count=True)
    l0: tuple[int, ...] = option((8, 16, 32), "Active latents per token.")
    tokens: int = option(1_000_000, "Tokens to train on.", count=True)
    batch: int = option(1024, "Tokens per step.", count=True)
    tuning_tokens: int = option(30_000, "Tokens on which learning rates are chosen.", count=True)
    report_tokens: int = option(30_000, "Other tokens, on which everything is reported.", count=True)
    loss_tokens: int = option(20_000, "How many of them for the model's losses; 0 = no losses.", count=True)
    concept_tokens: int = option(0, "Tokens of the labelled corpus for its concepts; 0 = none.", count=True)
    families: tuple[str, ...] = option((), "Only these; all unless given.")

    def levels(self, d_model: int) -> tuple[int, ...]:
        """The L0s that the width allows: at most half of d_model, and an eighth of the latents."""
        return tuple(k for k in self.l0 if k <= min(d_model / 2, self.width / 8))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """A kind of SAE."""

    encoder: str = option("linear", "Name of the encoder.")
    decoder: str = option("linear", "Name of the decoder.")
    sparsifier: str = option("topk", "Name of the sparsifier.")
    options: Mapping[str, Any] = option({}, "Options of its parts.")
    kan: bool = option(False, "Judged by the study's rule; others are only controls.")
    against: tuple[str, ...] = option((), "Controls to hold it against.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Control:
    """Another family at an equal cost of the family that is judged."""

    of: str = option("linear", "The family that serves as control.")
    solve: str = option("", "What is chosen so that costs are equal: width or hidden (units); nothing: equal width.")
    equal: str = option("parameters", "The cost that is equal: parameters or flops (of training).")
    bits: bool = option(False, "Also so many active latents that saying which costs equally many bits.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuning:
    """The budget with which every learning rate is tuned."""

    rates: tuple[float, ...] = option((0.5, 1.0, 2.0, 4.0), "As multiples of the default for the width.")
    share: float = option(1 / 3, "Share of the tokens of training.")
    l0: int = option(16, "At this L0, or the nearest that the setting has.")
    seed: int = option(100, "Not one of the seeds that are reported.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Matched:
    """The stage of all sparsifiers, for linear SAEs and the best KAN family, compared at matched L0."""

    settings: tuple[str, ...] = option((), "Which settings.")
    sparsifiers: tuple[str, ...] = option((), "relu, gated, jumprelu, batchtopk.")
    targets: tuple[int, ...] = option((), "L0s that are asked for; numbers are read between them.")
    best: str = option("", "The KAN family; by default the best on the tuning split.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """Something the study is to settle: families against some of their controls."""

    ask: str = option("", "In words.")
    families: tuple[str, ...] = option((), "Which families.")
    against: tuple[str, ...] = option((), "Which of their controls.")
    metrics: tuple[str, ...] = option(("fvu",), "In what.")


@dataclasses.dataclass(frozen=True)
class Design:
    """A whole study."""

    seeds: tuple[int, ...]
    confirm: tuple[int, ...]
    """Seeds that no verdict has seen, for those that won."""
    tuning: Tuning
    settings: Mapping[str, SettingDesign]
    families: Mapping[str, Family]
    controls: Mapping[str, Control]
    matched: Matched
    questions: tuple[Question, ...]
    decides: tuple[str, ...]
    """Controls of which a family must beat every one to win."""


def find_design(study: str) -> Path:
    """The file that describes ``study``: a file's name, or the name of one that comes with Kanary.

    Raises:
        KanaryError: there is no such study.
    """
    if (path := Path(study)).suffix in (".yaml", ".yml"):
        return path
    installed = Path(__file__).parent
    checkout = installed.parents[3] / "studies"
    known = {file.stem: file for file in installed.glob("*.yaml")}
    known |= {file.parent.name: file for file in checkout.glob("*/design.yaml")}
    if study not in known:
        raise KanaryError(f"There is no study {study!r}. {nearest(study, known)}")
    return known[study]


def read_design(path: Path, *, smoke: bool = False, settings: Mapping[str, Mapping[str, Any]] | None = None) -> Design:
    """Reads a study.

    Args:
        smoke: with the sizes of its trial.
        settings: name of a setting -> fields to replace.

    Raises:
        KanaryError: the file is not there or not right; the field is named.
    """
    values = read_yaml(path)
    smaller = values.pop(SMOKE, {})
    if smoke:
        values = merged(values, smaller)
    if settings:
        values = merged(values, {"settings": settings})
    known = {f.name for f in dataclasses.fields(Design)}
    if wrong := [name for name in values if name not in known]:
        raise KanaryError(f"{path}: unknown key {wrong[0]!r}. {nearest(wrong[0], known)}")
    if missing := sorted(known - {"confirm", "matched", "questions", "decides"} - values.keys()):
        raise KanaryError(f"{path}: {missing[0]} is missing.")
    design = Design(
        tuple(values["seeds"]),
        tuple(values.get("confirm", ())),
        from_mapping(Tuning, values["tuning"]),
        _each(SettingDesign, values["settings"]),
        _each(Family, values["families"]),
        _each(Control, values["controls"]),
        from_mapping(Matched, values.get("matched", {})),
        tuple(from_mapping(Question, each) for each in values.get("questions", ())),
        tuple(values.get("decides", ())),
    )
    _check(design, path)
    return design


def merged(values: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` with ``others`` in their place, mappings within mappings too."""
    found = dict(values)
    for name, other in others.items():
        both = isinstance(other, Mapping) and isinstance(found.get(name), Mapping)
        found[name] = merged(found[name], other) if both else other
    return found


def _each(cls: type[T], values: Mapping[str, Mapping[str, Any] | None]) -> dict[str, T]:
    return {str(name): from_mapping(cls, given or {}) for name, given in values.items()}


def _check(design: Design, path: Path) -> None:
    """Names that are used exist."""
    used = [
        *((name, design.controls, f"families.{f}.against") for f, of in design.families.items() for name in of.against),
        *((of.of, design.families, f"controls.{c}.of") for c, of in design.controls.items()),
        *(
            (name, design.families, f"settings.{s}.families")
            for s, of in design.settings.items()
            for name in of.families
        ),
        *((name, design.settings, "matched.settings") for name in design.matched.settings),
        *((name, design.families, "matched.best") for name in (design.matched.best,) if name),
        *((name, design.families, "questions.families") for q in design.questions for name in q.families),
        *((name, design.controls, "questions.against") for q in design.questions for name in q.against),
        *((name, design.controls, "decides") for name in design.decides),
    ]
    for name, known, where in used:
        if name not in known:
            raise KanaryError(f"{path}: {where} names {name!r}. {nearest(name, known)}")
    if set(design.seeds) & {*design.confirm, design.tuning.seed}:
        raise KanaryError(f"{path}: seeds, confirm and tuning.seed must share no seed.")
