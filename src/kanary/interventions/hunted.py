"""What a hunt found, as plain data, and what it says in words."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from kanary.evaluation.result import Metric


class Found(NamedTuple):
    """A feature that tells the passages of a pair apart."""

    latent: int
    side: str
    """``with`` or ``without``: the passages that have more of it."""
    chosen_on: float
    """AUROC on the pairs it was chosen on; below .5 for ``without``."""
    held_out: Metric
    """AUROC on the others, with its 95 % interval over pairs."""
    control: Metric
    """AUROC on the control pairs, of which .5 is expected: there something else is switched."""


class Effect(NamedTuple):
    """What steering does to answers on held-out pairs; shares with 95 % intervals over pairs."""

    direction: str
    """``yes``: in passages without it, towards yes; ``no``: in passages with it, towards no."""
    by: str
    """``feature 12``, ``feature 12 taken out``, ``random features`` or ``difference of means``."""
    latent: int | None
    strength: float | None
    """In the largest codes that the feature has in the passages (or in differences of the means); None where taken out."""
    before: Metric
    """Share of yes, not steered."""
    after: Metric
    change: Metric
    """After minus before, pair by pair."""
    control: Metric | None
    """Share of unrelated questions that are answered rightly while steered so; None where that was not asked."""


@dataclass(frozen=True)
class Hunt:
    """Whether a model has something, which features carry it, and what steering them does."""

    what: str
    says: str
    """What is switched between the passages of a pair."""
    yes: str
    """What the answer yes means."""
    control_says: str
    """What is switched in the control pairs."""
    site: str
    where: str
    chosen_on: int
    """Pairs."""
    held_out: int
    rates: tuple[Metric, Metric]
    """Share of yes in held-out passages with it, and without, when the model is left alone."""
    control_shift: Metric
    """Share of yes that the control switch adds: what the model makes of something that should not matter."""
    chance: Metric
    """AUROC on held-out pairs of the best feature when it is drawn which passage of a pair is which."""
    found: tuple[Found, ...]
    effects: tuple[Effect, ...]
    unrelated: Metric
    """Share of unrelated questions that are answered rightly, not steered."""

    @property
    def real(self) -> tuple[Found, ...]:
        """Those features whose interval lies beyond what chance finds."""
        margin = self.chance.high - 0.5
        return tuple(
            each
            for each in self.found
            if (each.held_out.low > 0.5 + margin if each.side == "with" else each.held_out.high < 0.5 - margin)
        )

    def verdict(self) -> list[str]:
        """Plain sentences, the bad news among them."""
        return [
            self._model(),
            self._features(),
            *(self._steering(direction) for direction in ("yes", "no")),
            *self._random(),
            self._control(),
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        names = ("what", "says", "yes", "control_says", "site", "where")
        return {name: getattr(self, name) for name in names} | {
            "pairs": {"chosen_on": self.chosen_on, "held_out": self.held_out},
            "rates": {"with": self.rates[0]._asdict(), "without": self.rates[1]._asdict()},
            "control_shift": self.control_shift._asdict(),
            "chance": self.chance._asdict(),
            "unrelated": self.unrelated._asdict(),
            "found": [_plain(each) | {"real": each in self.real} for each in self.found],
            "effects": [_plain(each) for each in self.effects],
            "verdict": self.verdict(),
        }

    def _model(self) -> str:
        there, not_there = self.rates
        if there.low > not_there.high:
            return (
                f"The model does it: {self.yes} in {share(there)} of passages with it and {share(not_there)} without."
            )
        return (
            f"Nothing to find: {self.yes} in {share(there)} of passages with it and {share(not_there)} without, so the "
            "model makes no difference between them."
        )

    def _features(self) -> str:
        if not self.real:
            return (
                "No feature found: none tells held-out pairs apart better than the best one does by chance "
                f"({self.chance.value:.2f}, up to {self.chance.high:.2f})."
            )
        best = max(self.real, key=lambda each: abs(each.held_out.value - 0.5))
        return (
            f"{len(self.real)} of {len(self.found)} features tell held-out pairs apart; the best is {best.latent}, with an "
            f"AUROC of {number(best.held_out)}, and {number(best.control)} on the control pairs."
        )

    def _steering(self, direction: str) -> str:
        mine = [each for each in self.effects if each.direction == direction and each.latent is not None]
        towards = f"towards {direction}"
        if not mine:
            return f"No feature to steer {towards}."
        sign = 1 if direction == "yes" else -1
        best = max(mine, key=lambda each: sign * each.change.value)
        moved = best.change.low > 0 if sign > 0 else best.change.high < 0
        if not moved:
            wrong = [each for each in mine if (each.change.high < 0 if sign > 0 else each.change.low > 0)]
            if best in wrong:
                return f"Steering {towards} moves the other way: even the best, {best.by}, {_by(best)}."
            against = "".join(f"; {each.by} moves the other way: it {_by(each)}" for each in wrong)
            return f"Steering {towards} moves nothing that way: the best, {best.by}, {_by(best)}{against}."
        others = [each for each in self.effects if each.direction == direction and each.latent is None]
        beside = "; ".join(f"{each.by}: {share(each.after)}" for each in others)
        return f"Steered {towards} by {best.by}, yes goes from {share(best.before)} to {share(best.after)} ({beside})."

    def _random(self) -> list[str]:
        """What random features do at the same strengths; nothing where no feature was steered."""
        random = [each for each in self.effects if each.by == "random features"]
        if not random:
            return []
        moved = [f"{share(each.change)} towards {each.direction}" for each in random]
        still = all(each.change.low <= 0 <= each.change.high for each in random)
        says = "as they should" if still else "so steering of any kind does some of it"
        return [
            f"Control, random features at the same strengths: they change the share of yes by {' and '.join(moved)}, {says}."
        ]

    def _control(self) -> str:
        shift = self.control_shift
        moved = shift.low > 0 or shift.high < 0
        says = f"changes the share of yes by {share(shift)}"
        return f"Control, {self.control_says}: it {says}, " + ("which it should not." if moved else "as it should.")


def _by(effect: Effect) -> str:
    return f"changes the share of yes by {share(effect.change)}"


def share(metric: Metric) -> str:
    """In percent, with the interval."""
    value, low, high = (round(100 * each) for each in metric[:3])  # whole numbers, which have no -0
    return f"{value} % ({low} to {high})"


def number(metric: Metric) -> str:
    """With the interval."""
    return f"{metric.value:.2f} ({metric.low:.2f} to {metric.high:.2f})"


def _plain(each: Found | Effect) -> dict[str, Any]:
    return {name: value._asdict() if isinstance(value, Metric) else value for name, value in each._asdict().items()}
