"""What an attribution found, as plain data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from kanary.interventions.lens import LensRow, Prediction


class Credit(NamedTuple):
    """By how much something raises the target, in its units: logits, or the latent's pre-activation. Negative: it lowers it."""

    gradient: float
    """Contribution times gradient."""
    integrated: float
    """Contribution times mean gradient on the way from the SAE's bias."""
    ablated: float | None
    """The target as it is, minus the target without the contribution; None where that was not computed."""


class Row(NamedTuple):
    """A latent at one token."""

    latent: int
    position: int
    value: float
    """The code, in the SAE's units."""
    credit: Credit


class FeatureRow(NamedTuple):
    """A latent at all tokens on which it fires, together."""

    latent: int
    tokens: int
    position: int
    """Of the token at which its gradient credit is largest."""
    credit: Credit


class ErrorRow(NamedTuple):
    """What the SAE misses."""

    credit: Credit
    """Of all tokens together; ablated: with the reconstruction in the place of every activation."""
    by_position: tuple[tuple[float, float], ...]
    """Gradient and integrated, per token."""


class Completeness(NamedTuple):
    """Whether the integrated credits account for everything."""

    sum: float
    """Of all latents and the error."""
    total: float
    """Change of the target from the SAE's bias alone to the activations as they are: what the sum should be."""
    steps: int

    @property
    def error(self) -> float:
        return self.sum - self.total


@dataclass(frozen=True)
class Attribution:
    """Which features, at which tokens, raise a target. Pairs and features: strongest gradient credit first."""

    tokens: tuple[str, ...]
    """Up to the one after which is predicted, BOS included."""
    ids: tuple[int, ...]
    special: tuple[int, ...]
    """Places of BOS, EOS and padding: no feature there is credited."""
    site: str
    where: str
    """The site in plain words."""
    target: Mapping[str, Any]
    """kind, and token, id, against, probability, rank; or site, latent, value."""
    value: float
    """Of the target: the logit above that of ``against`` or above the mean; the latent's pre-activation."""
    baseline: float
    """The same with the SAE's bias in the place of every activation."""
    completeness: Completeness
    rows: tuple[Row, ...]
    features: tuple[FeatureRow, ...]
    error: ErrorRow
    positions: tuple[tuple[float, float], ...]
    """Gradient and integrated of all latents and the error, per token."""
    rest: Credit
    """Of all pairs that are not in ``rows``."""
    pairs: int
    """How many there are in all."""
    predictions: tuple[Prediction, ...]
    """The likeliest next tokens; empty where the target is a latent."""
    lens: tuple[LensRow, ...]
    """The prediction after every block; empty where the target is a latent or the model's blocks are not known."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "tokens": list(self.tokens),
            "ids": list(self.ids),
            "special": list(self.special),
            "position": len(self.tokens) - 1,
            "site": self.site,
            "where": self.where,
            "target": dict(self.target),
            "value": self.value,
            "baseline": self.baseline,
            "completeness": self.completeness._asdict() | {"error": self.completeness.error},
            "rows": [_flat(row) for row in self.rows],
            "features": [_flat(row) for row in self.features],
            "error": _flat(self.error) | {"by_position": [list(pair) for pair in self.error.by_position]},
            "positions": [list(pair) for pair in self.positions],
            "rest": self.rest._asdict() | {"pairs": self.pairs - len(self.rows)},
            "predictions": [each._asdict() for each in self.predictions],
            "lens": [row.to_json() for row in self.lens],
        }


def _flat(row: Row | FeatureRow | ErrorRow) -> dict[str, Any]:
    found = row._asdict()
    credit: Credit = found.pop("credit")
    return {**found, **credit._asdict()}
