"""What may be asked of a feature while the model runs: how its code changes, where in the text, and under which condition.

An edit says which code a latent is to have. What is written is the difference between what the latent adds at that code and
at the code that it has (:meth:`kanary.sae.SAE.contribution`), so that all else in the activation, the SAE's error too, stays
as it is, and a curved latent is moved along its curve.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from torch import Tensor

from kanary.errors import KanaryError, nearest

KINDS = ("add", "set", "clamp", "scale", "ablate", "project_out")
UNITS = ("maximum", "sigma", "raw")
REPLACEMENTS = ("zero", "mean", "resample")
Unit = Literal["maximum", "sigma", "raw"]
Replacement = Literal["zero", "mean", "resample"]


@dataclass(frozen=True)
class Where:
    """At which tokens an edit acts; all that is given must hold. BOS, EOS and padding are never touched."""

    start: int = 0
    """First position in the text, from 0, BOS counted and padding not."""
    stop: int | None = None
    """First position that is left alone again."""
    generated: int | None = None
    """Acts from what the n-th generated token is predicted from: 1 = from the prompt's last token on."""
    pattern: str | None = None
    """A regular expression that the token's own text must contain, such as ``^ ?Paris$``."""

    def __post_init__(self) -> None:
        if self.start < 0 or (self.stop is not None and self.stop <= self.start):
            raise KanaryError(
                f"positions {self.start} to {self.stop}: the first is 0, and the end lies after the start."
            )
        if self.generated is not None and self.generated < 1:
            raise KanaryError(f"generated={self.generated}: the first generated token is number 1.")
        try:
            re.compile(self.pattern or "")
        except re.error as error:
            raise KanaryError(f"pattern={self.pattern!r} is not a regular expression: {error}.") from error


EVERYWHERE = Where()


@dataclass(frozen=True)
class Condition:
    """Holds at a token where the code of ``feature`` lies above ``above`` and below ``below``, as far as they are given."""

    feature: int
    above: float | None = None
    below: float | None = None
    unit: Unit = "maximum"
    sae: str | None = None
    """Name of its SAE, where there are several. Its site may lie before that of the edit, or be the same."""

    def __post_init__(self) -> None:
        if self.above is None and self.below is None:
            raise KanaryError(
                f"The condition on feature {self.feature} says neither above nor below which value it holds."
            )
        _check_unit(self.unit)
        for name in ("above", "below"):
            if (value := getattr(self, name)) is not None:
                _check_number(f"{name} of the condition on feature {self.feature}", value)


@dataclass(frozen=True, eq=False)
class Vector:
    """A direction that is not a latent's, such as a difference of means or a probe."""

    site: str
    values: Tensor
    """``[d_model]``, raw: what an amount of 1 adds."""
    name: str = "vector"


@dataclass(frozen=True)
class Edit:
    """One change; made by the functions below, which say what it does."""

    feature: int | Vector
    kind: str
    amount: float = 0.0
    """add: how much; set: to what; scale: times what; project_out: which share."""
    low: float | None = None
    high: float | None = None
    to: Replacement = "zero"
    unit: Unit = "maximum"
    where: Where = EVERYWHERE
    when: Condition | None = None
    sae: str | None = None
    """Name of its SAE, where there are several."""
    seed: int = 0
    """Of a resampled ablation."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise KanaryError(f"Unknown edit {self.kind!r}. {nearest(self.kind, KINDS)}")
        _check_unit(self.unit)
        for name in ("amount", "low", "high"):
            if (value := getattr(self, name)) is not None or name == "amount":
                _check_number(f"{name} of {self.kind} on {self.target}", value)
        if self.to not in REPLACEMENTS:
            raise KanaryError(f"A feature cannot be ablated to {self.to!r}. {nearest(self.to, REPLACEMENTS)}")
        if isinstance(self.feature, Vector) and self.kind not in ("add", "project_out"):
            raise KanaryError(f"{self.kind} needs a feature: a vector can be added or projected out.")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise KanaryError(f"clamp on {self.target}: low={self.low:g} is above high={self.high:g}.")

    @property
    def target(self) -> str:
        """``feature 12``, or the vector's name."""
        return self.feature.name if isinstance(self.feature, Vector) else f"feature {self.feature}"

    def to_json(self) -> dict[str, Any]:
        """The fields that are not at their defaults, as plain values; a vector has no such form."""
        if isinstance(self.feature, Vector):
            raise KanaryError(f"The vector {self.feature.name!r} cannot be written as JSON.")
        return _plain(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Edit":
        """The inverse of :meth:`to_json`.

        Raises:
            KanaryError: an unknown or missing name, or a value of another type.
        """
        nested = {"where": (Where, values.get("where")), "when": (Condition, values.get("when"))}
        rest = {key: value for key, value in values.items() if key not in nested}
        found = {key: _read(of, value, key) for key, (of, value) in nested.items() if value is not None}
        edit: Edit = _read(cls, {"kind": "add"} | rest, "edit", found)
        return edit


Edits = Mapping[Any, float] | Edit | Sequence[Edit]
"""What :func:`as_edits` takes."""


def add(feature: int | Vector, amount: float, **more: Any) -> Edit:
    """Raises the code by ``amount``; a vector is added ``amount`` times. Negative amounts lower, below 0 too."""
    return Edit(feature, "add", amount, **more)


def set_to(feature: int, amount: float, **more: Any) -> Edit:
    """Gives the feature the code ``amount`` at every token."""
    return Edit(feature, "set", amount, **more)


def clamp(feature: int, low: float | None = None, high: float | None = None, **more: Any) -> Edit:
    """Raises codes below ``low`` to it, and lowers those above ``high``."""
    if low is None and high is None:
        raise KanaryError(f"clamp on feature {feature}: give low, high or both.")
    return Edit(feature, "clamp", low=low, high=high, **more)


def scale(feature: int, factor: float, **more: Any) -> Edit:
    """Multiplies the code, where the feature fires."""
    return Edit(feature, "scale", factor, **more)


def ablate(feature: int, to: Replacement = "zero", **more: Any) -> Edit:
    """Takes away what the code says of this token: it becomes 0, its mean over a text, or a value drawn from that text."""
    return Edit(feature, "ablate", to=to, **more)


def project_out(feature: int | Vector, share: float = 1.0, **more: Any) -> Edit:
    """Removes from the activation what points along the feature's direction (``W_dec``), whatever put it there.

    Of a feature that bends only its straight part is removed: what its curve adds beside ``W_dec`` stays (ablate it).
    """
    return Edit(feature, "project_out", share, **more)


def as_edits(edits: "Edits") -> tuple[Edit, ...]:
    """``{12: +2, ("topk", 7): -1}`` adds 2 maxima of feature 12, and so on; edits stay as they are."""
    if isinstance(edits, Edit):
        return (edits,)
    if not isinstance(edits, Mapping):
        for each in edits:
            _check_edit(each)
        return tuple(edits)
    found = []
    for key, amount in edits.items():
        sae, feature = key if isinstance(key, tuple) else (None, key)
        found.append(add(feature, amount, sae=sae))
    return tuple(found)


def _check_edit(edit: Any) -> None:
    if not isinstance(edit, Edit):
        raise KanaryError(f"{edit!r} is not an edit: write for example kanary.interventions.edits.add(12, 2).")


def _check_unit(unit: str) -> None:
    if unit not in UNITS:
        raise KanaryError(f"Unknown unit {unit!r}. {nearest(unit, UNITS)}")


def _check_number(what: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise KanaryError(f"{what} is {value!r}: it must be a finite number.")


def _plain(value: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for each in fields(value):
        given = getattr(value, each.name)
        if given != each.default:
            found[each.name] = _plain(given) if isinstance(given, (Where, Condition)) else given
    return found


_JSON: dict[str, tuple[type, ...]] = {
    "feature": (int,), "kind": (str,), "amount": (int, float), "low": (int, float), "high": (int, float), "to": (str,),
    "unit": (str,), "sae": (str,), "seed": (int,), "start": (int,), "stop": (int,), "generated": (int,), "pattern": (str,),
    "above": (int, float), "below": (int, float),
}  # fmt: skip


def _read(cls: Any, values: Any, what: str, ready: Mapping[str, Any] | None = None) -> Any:
    if not isinstance(values, Mapping):
        raise KanaryError(f"{what} is {values!r}: it must be an object with names and values.")
    known = [each.name for each in fields(cls) if each.name not in ("where", "when")]
    for name, value in values.items():
        if name not in known:
            raise KanaryError(f"{what} has no {name!r}. {nearest(str(name), known)}")
        optional = name not in ("feature", "kind", "amount", "to", "unit", "seed", "start")
        right = isinstance(value, _JSON[name]) and not isinstance(value, bool)
        if not right and not (value is None and optional):
            wanted = " or ".join(kind.__name__ for kind in _JSON[name])
            raise KanaryError(f"{name}={value!r} of {what} is not {wanted}.")
    if "feature" in known and "feature" not in values:
        raise KanaryError(f"{what} names no feature.")
    return cls(**values, **(ready or {}))
