"""Named watches: a number that is read off every token, and from which value on it is an alarm."""

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

from kanary.errors import KanaryError, nearest
from kanary.files import read_json, write_json
from kanary.interventions.edits import Edit
from kanary.sae import SAE

FORMAT = 1
FOLDER = "watches"
"""In a run folder; each watch is a file ``NAME.json`` there."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
ACTIONS = ("log", "stop", "steer")
Action = Literal["log", "stop", "steer"]


class Rate(NamedTuple):
    """A share with its 95 % interval (Wilson 1927)."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Measured:
    """How a watch does on labelled texts: a text's score is its largest value, an alarm a score that reaches the threshold."""

    positives: int
    negatives: int
    auroc: Rate
    """Of the texts' scores; its interval is a bootstrap over the texts."""
    detection: Rate
    """Share of the positive texts that raise an alarm."""
    false_alarms: Rate
    """Share of the negative texts that do."""
    token_false_alarms: float
    """Share of the negative texts' tokens at or above the threshold."""

    @property
    def doubt(self) -> str | None:
        """What should be known before such a watch is trusted."""
        if self.auroc.low > 0.5:
            return None
        if self.auroc.high < 0.5:
            return "it is higher in the negative texts than in the positive ones: take another feature."
        return (
            f"this may be chance: on texts that it was not chosen on, the interval of its AUROC ({self.auroc.low:.3f} to "
            f"{self.auroc.high:.3f}) includes .5. Give more texts, or another feature."
        )


@dataclass(frozen=True)
class Watch:
    """One watch of a run."""

    name: str
    sae: str
    """The SAE's name in its run."""
    digest: str
    """Of that SAE's weights."""
    weights: tuple[tuple[int, float], ...]
    """(latent, weight): the value of a token is the sum of weight x code."""
    threshold: float
    """A token whose value is at least this raises an alarm."""
    false_alarms: float
    """The share of negative texts that may raise an alarm, as it was asked for."""
    on_alarm: Action = "log"
    """``log`` alone, ``stop`` the text, or ``steer`` the rest of it."""
    steer: tuple[Edit, ...] = ()
    """What is done from the alarm on, where that is the action."""
    webhook: str | None = None
    """An address to which every alarm is sent."""
    at_most: float | None = None
    """The rate of false alarms that is not exceeded with a confidence of 95 %, by the texts that the threshold was chosen on
    or, of a feature that was sought on these, by the others; above ``false_alarms`` where they vouch for less. None in a
    watch of an earlier version."""
    chosen: Measured | None = None
    """On the texts that the threshold was chosen on."""
    measured: Measured | None = None
    """On texts that had no part in the choice."""
    latency_ms: float | None = None
    """From when a token is drawn to when its value is known, the median of one stream on the machine that made the watch."""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise KanaryError(
                f"{self.name!r} cannot name a watch: letters, digits, '-', '_' and '.', 64 at most, a letter or digit first."
            )
        if not self.weights:
            raise KanaryError(
                f"The watch {self.name!r} names no feature: give --feature, or lists of texts to find one."
            )
        if not all(math.isfinite(weight) and weight for _, weight in self.weights):
            raise KanaryError(f"The weights of the watch {self.name!r} must be finite and not 0.")
        if not math.isfinite(self.threshold):
            raise KanaryError(
                f"The threshold of the watch {self.name!r} is {self.threshold}: it must be a finite number."
            )
        if self.on_alarm not in ACTIONS:
            raise KanaryError(f"A watch cannot {self.on_alarm!r} on an alarm. {nearest(self.on_alarm, ACTIONS)}")
        if (self.on_alarm == "steer") != bool(self.steer):
            raise KanaryError(
                f"The watch {self.name!r} is to {self.on_alarm} on an alarm and has {len(self.steer)} edits to steer with: "
                "give --steer FEATURE:STRENGTH together with --on-alarm steer."
            )
        if self.webhook is not None and urlsplit(self.webhook).scheme not in ("http", "https"):
            raise KanaryError(f"The webhook {self.webhook!r} is no address: it begins with http:// or https://.")

    @property
    def latents(self) -> tuple[int, ...]:
        return tuple(latent for latent, _ in self.weights)

    def value(self, codes: Sequence[float]) -> float:
        """Of one token, from the codes of :attr:`latents`, in that order."""
        return sum(weight * code for (_, weight), code in zip(self.weights, codes, strict=True))

    def edits(self, sae: str) -> tuple[Edit, ...]:
        """What it steers with, where its SAE is called ``sae``."""
        return named(self.steer, sae)

    def refuse_other(self, sae: SAE) -> None:
        """Raises :class:`KanaryError` unless this is the SAE that the watch was made for."""
        if (found := sae.digest()) != self.digest:
            raise KanaryError(
                f"The watch {self.name!r} was made for an SAE {self.sae!r} with other weights ({self.digest}) than this one "
                f"({found}). Make it again."
            )
        if (most := max(self.latents)) >= sae.d_sae:
            raise KanaryError(f"The watch {self.name!r} names feature {most}; its SAE has {sae.d_sae}, from 0.")

    def to_json(self) -> dict[str, Any]:
        plain = {**asdict(self), "steer": [edit.to_json() for edit in self.steer]}
        for name in ("chosen", "measured"):
            plain[name] = _plain(getattr(self, name))
        return {"format": FORMAT, **plain, "weights": [list(pair) for pair in self.weights]}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any], where: object = "the watch") -> "Watch":
        """The inverse of :meth:`to_json`; raises :class:`KanaryError` naming ``where`` it was read from."""
        try:
            if plain["format"] != FORMAT:
                raise KanaryError(f"{where} has the format {plain['format']!r}, expected {FORMAT}.")
            fields: dict[str, Any] = {name: plain[name] for name in ("name", "sae", "digest", "on_alarm", "webhook")}
            fields |= {name: float(plain[name]) for name in ("threshold", "false_alarms")}
            fields |= {name: _measured(plain[name]) for name in ("chosen", "measured")}
            fields["at_most"] = None if plain.get("at_most") is None else float(plain["at_most"])
            fields["latency_ms"] = None if plain["latency_ms"] is None else float(plain["latency_ms"])
            fields["weights"] = tuple((_whole(latent), float(weight)) for latent, weight in plain["weights"])
            fields["steer"] = tuple(Edit.from_json(each) for each in plain["steer"])
            return cls(**fields)
        except (KeyError, TypeError, ValueError) as error:
            raise KanaryError(f"{where} is damaged: {type(error).__name__}: {error}.") from error


def named(edits: Sequence[Edit], sae: str) -> tuple[Edit, ...]:
    """The same edits of, and under conditions on, an SAE called ``sae``."""
    whens = [None if edit.when is None else replace(edit.when, sae=sae) for edit in edits]
    return tuple(replace(edit, sae=sae, when=when) for edit, when in zip(edits, whens, strict=True))


def save(watch: Watch, run: str | os.PathLike[str]) -> Path:
    """Writes it into the run folder; one of that name is replaced."""
    path = Path(run) / FOLDER / f"{watch.name}.json"
    write_json(path, watch.to_json())
    return path


def open_watch(run: str | os.PathLike[str], name: str) -> Watch:
    """The watch called ``name`` of a run folder.

    Raises:
        KanaryError: there is none (the nearest name is given), or its file is damaged.
    """
    known = watch_names(run)
    if name not in known:
        hint = nearest(name, known) if known else "It has none: make one with kanary watch RUN --make NAME."
        raise KanaryError(f"{run} has no watch {name!r}. {hint}")
    path = Path(run) / FOLDER / f"{name}.json"
    return Watch.from_json(read_json(path), path)


def watch_names(run: str | os.PathLike[str]) -> list[str]:
    return sorted(path.stem for path in (Path(run) / FOLDER).glob("*.json") if NAME.fullmatch(path.stem))


def _whole(latent: Any) -> int:
    if type(latent) is not int or latent < 0:
        raise ValueError(f"{latent!r} is no latent")
    return latent


def _plain(found: Measured | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {name: value._asdict() if isinstance(value, Rate) else value for name, value in vars(found).items()}


def _measured(plain: Mapping[str, Any] | None) -> Measured | None:
    if plain is None:
        return None
    rates = {name: Rate(**plain[name]) for name in ("auroc", "detection", "false_alarms")}
    return Measured(
        int(plain["positives"]), int(plain["negatives"]), **rates, token_false_alarms=float(plain["token_false_alarms"])
    )
