"""One feature, as plain data: what the page shows, the API returns and a notebook draws."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class Example:
    """A latent at one token, with the window around it."""

    window: int
    document: int
    position: int
    """Of the focus token in its document."""
    focus: int
    """Of the same token in ``tokens``."""
    value: float
    """The latent's there, in the SAE's own units, in which an activation has a mean square of 1 per dimension."""
    tokens: tuple[str, ...]
    """The whole window; bytes that are no UTF-8 as ``⟨e2⟩``."""
    special: tuple[int, ...]
    """Places of BOS, EOS and padding."""
    starts: tuple[int, ...]
    """Places at which another document begins."""
    activations: tuple[tuple[int, float], ...]
    """Places where the latent fires, and its values."""
    effects: tuple[tuple[int, float], ...]
    """Places whose token is predicted with another loss when the latent is removed: by how many nats it rises."""
    repeats: tuple[int, ...]
    """Other examples that show the same tokens around their focus."""
    lists: tuple[str | int, ...]
    """What shows it: "top", or the number of an interval."""

    def to_json(self) -> Json:
        """What JSON can write; tuples stay tuples, because a feature has thousands."""
        found = dict(vars(self))
        return found | {"in": found.pop("lists")}


@dataclass(frozen=True)
class Interval:
    """One of ten even intervals of (0, maximum]."""

    low: float
    high: float
    count: int
    """Firings with a value above ``low`` and up to ``high``: all of them, not only those shown."""
    share: float
    """Of all firings."""
    examples: tuple[int, ...]
    """A uniform sample of them."""


@dataclass(frozen=True, repr=False)
class Feature:
    """Everything that an index knows of one latent."""

    latent: int
    d_sae: int
    sae: Mapping[str, Any]
    """run, name, digest, model, site, where."""
    tokens: int
    """Tokens that were read, special ones not counted: what ``density`` is a share of."""
    fired: int
    maximum: float
    mean_active: float | None
    """Mean of the values that are not zero; None without any."""
    histogram: Mapping[str, Any]
    """edges ``[51]`` and counts ``[50]`` of the values that are not zero."""
    examples: tuple[Example, ...]
    top: tuple[int, ...]
    """Which of them are the strongest of their windows, strongest first."""
    intervals: tuple[Interval, ...]
    logits: Mapping[str, Any] | None
    """None where the SAE's site writes into no residual stream."""
    neurons: Mapping[str, Any] | None
    features: Mapping[str, Any]
    twins: tuple[Mapping[str, Any], ...]
    functions: tuple[Mapping[str, Any], ...]
    concepts: tuple[Mapping[str, Any], ...]
    explanation: Mapping[str, Any] | None
    human: Mapping[str, Any] | None

    @property
    def density(self) -> float:
        """Share of the tokens on which the latent fired."""
        return self.fired / self.tokens

    @property
    def label(self) -> str | None:
        """What people call it, else the title of its explanation."""
        if self.human:
            return str(self.human["text"])
        return str(self.explanation.get("title") or self.explanation["text"]) if self.explanation else None

    def to_json(self) -> Json:
        """Plain JSON values, with null where there is no number; see docs/feature-index.md."""
        found = {
            "latent": self.latent,
            "d_sae": self.d_sae,
            "label": self.label,
            "sae": dict(self.sae),
            "tokens": self.tokens,
            "fired": self.fired,
            "density": self.density,
            "maximum": self.maximum,
            "mean_active": self.mean_active,
            "histogram": self.histogram,
            "examples": [example.to_json() for example in self.examples],
            "top": list(self.top),
            "intervals": [vars(each) | {"examples": list(each.examples)} for each in self.intervals],
            "logits": self.logits,
            "neurons": self.neurons,
            "features": self.features,
            "twins": list(self.twins),
            "functions": list(self.functions),
            "concepts": list(self.concepts),
            "explanation": self.explanation,
            "human": self.human,
        }
        return found

    def __repr__(self) -> str:
        said = f"{self.label!r}, " if self.label else ""
        known = f"fires on {self.density:.3%} of {self.tokens:,} tokens" if self.tokens else "no tokens read"
        return (
            f"Feature {self.latent} of {self.d_sae:,} ({said}{known}, {len(self.examples)} examples; .to_json() is all)"
        )

    def _repr_html_(self) -> str:
        from kanary.features.notebook import feature_html

        return feature_html(self)


def finite(value: float) -> float | None:
    """JSON has neither NaN nor infinity."""
    return float(value) if math.isfinite(value) else None
