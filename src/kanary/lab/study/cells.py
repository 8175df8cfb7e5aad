"""The cells of a study: which SAEs are trained in a setting, and which of them is whose control."""

import dataclasses
import math
from collections.abc import Iterator
from functools import cached_property

from kanary.lab.study.cost import TOLERANCE, Cost, bits, cost, solve, solve_bits
from kanary.lab.study.design import Control, Design, SettingDesign
from kanary.sae import SAE
from kanary.sae.parts import DECODERS, ENCODERS, SPARSIFIERS
from kanary.training.config import TrainConfig

PENALISED = ("relu", "gated", "jumprelu")
"""Sparsifiers that are steered to an L0."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """A family at one size."""

    family: str
    width: int
    hidden: int = 0
    """Hidden units; 0: as the family says."""
    sparsifier: str = ""
    """Instead of the family's."""

    @property
    def name(self) -> str:
        hidden = f"-h{self.hidden}" if self.hidden else ""
        return f"{self.family}-w{self.width}{hidden}" + (f"-{self.sparsifier}" if self.sparsifier else "")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One SAE to train and measure."""

    setting: str
    variant: Variant
    l0: int
    seed: int
    rate: float | None = None
    """A learning rate that is tried, as a multiple of the default; None: the chosen one, and the cell is reported."""

    @property
    def id(self) -> str:
        tried = "" if self.rate is None else f"-r{self.rate:g}"
        return f"{self.setting}/{self.variant.name}-k{self.l0}-s{self.seed}{tried}"


@dataclasses.dataclass(frozen=True)
class Role:
    """An SAE that serves as a control of a family at an L0."""

    variant: Variant
    l0: int


class Grid:
    """The variants of one setting, by what they are needed for. Costs are those of the real modules.

    Attributes:
        missing: families whose parts are not installed -> the part.
    """

    def __init__(self, design: Design, name: str, d_model: int) -> None:
        self.design, self.name, self.d_model = design, name, d_model
        self.setting: SettingDesign = design.settings[name]
        self.missing = {
            family: part
            for family, of in design.families.items()
            for part, known in ((of.encoder, ENCODERS), (of.decoder, DECODERS), (of.sparsifier, SPARSIFIERS))
            if part not in known
        }
        self._costs: dict[tuple[Variant, int], Cost] = {}

    @property
    def levels(self) -> tuple[int, ...]:
        return self.setting.levels(self.d_model)

    @property
    def tuned_at(self) -> int:
        """The L0 at which learning rates are chosen."""
        return min(self.levels, key=lambda k: abs(k - self.design.tuning.l0))

    def tuned_as(self, variant: Variant) -> Variant:
        """The SAE with which the learning rate of ``variant`` is chosen: the same family, as wide as the setting's width
        times a power of two, the nearest, and with hidden units as d_model by the same rule. What is shared is the rate as a
        multiple of the default, which falls with the width.
        """
        width = _rung(variant.width, self.setting.width)
        hidden = _rung(variant.hidden, self.d_model) if variant.hidden else 0
        return dataclasses.replace(variant, width=width, hidden=0 if hidden == self.d_model else hidden)

    @cached_property
    def families(self) -> tuple[str, ...]:
        """Those that this setting has."""
        wanted = self.setting.families or tuple(self.design.families)
        return tuple(name for name in wanted if name not in self.missing)

    def base(self, family: str, sparsifier: str = "") -> Variant:
        """``family`` at the setting's width."""
        return Variant(family, self.setting.width, sparsifier=sparsifier)

    @cached_property
    def roles(self) -> dict[tuple[str, int], dict[str, Role]]:
        """(family, L0) -> control -> which SAE that is. SAEs that serve several are named alike and trained once."""
        found: dict[tuple[str, int], dict[str, Role]] = {}
        known: list[Variant] = [self.base(family) for family in self.families]
        for family in self.families:
            for k in self.levels:
                roles = found.setdefault((family, k), {})
                for control in self.design.families[family].against:
                    of = self.design.controls[control]
                    if of.of in self.missing or not self._has_cost(family, k, of):
                        continue
                    roles[control] = self._role(family, k, of, known)
                    known.append(roles[control].variant)
        return found

    def reported(self, families: tuple[str, ...] = (), controls: tuple[str, ...] = ()) -> list[Role]:
        """Every variant and L0 of ``families`` and of their ``controls`` (default: all), each once."""
        chosen = [family for family in self.families if not families or family in families]
        found: dict[Role, None] = {}
        for k in self.levels:
            for family in chosen:
                roles = self.roles[family, k]
                theirs = [role for control, role in roles.items() if not controls or control in controls]
                found |= dict.fromkeys([Role(self.base(family), k), *theirs])
        return list(found)

    def cost(self, variant: Variant, l0: int) -> Cost:
        """See :func:`kanary.lab.study.cost.cost`."""
        if (variant, l0) not in self._costs:
            config = self.config(variant, l0, seed=0)
            self._costs[variant, l0] = cost(SAE(config.sae_config(self.d_model)), l0, config.batch)
        return self._costs[variant, l0]

    def config(self, variant: Variant, l0: int, seed: int, lr: float | None = None, share: float = 1.0) -> TrainConfig:
        """How the SAE is trained; ``share`` of the tokens of the setting."""
        family, setting = self.design.families[variant.family], self.setting
        sparsifier = variant.sparsifier or family.sparsifier
        steered = sparsifier in PENALISED
        return TrainConfig(
            sae=sparsifier,
            encoder=family.encoder,
            decoder=family.decoder,
            options={**family.options, **({"hidden": variant.hidden} if variant.hidden else {})},
            width=variant.width,
            k=None if steered else l0,
            target_l0=float(l0) if steered else None,
            tokens=max(setting.batch, round(share * setting.tokens)),
            batch=setting.batch,
            lr=lr,
            seed=seed,
            data_seed=seed,
            checkpoint=setting.tokens,
            eval_tokens=0,
        )

    def _has_cost(self, family: str, k: int, control: Control) -> bool:
        """Whether the cost that is to be equal is known."""
        return not control.solve or not math.isnan(getattr(self.cost(self.base(family), k), control.equal))

    def _role(self, family: str, k: int, control: Control, known: list[Variant]) -> Role:
        base = self.base(control.of)
        if not control.solve:
            return Role(base, k)
        target = getattr(self.cost(self.base(family), k), control.equal)

        def value(size: int) -> float:
            return float(getattr(self.cost(_sized(base, control.solve, size), k), control.equal))

        alike = [base, *(each for each in known if each.family == control.of)]
        near = min(alike, key=lambda each: abs(getattr(self.cost(each, k), control.equal) / target - 1))
        if abs(getattr(self.cost(near, k), control.equal) / target - 1) <= TOLERANCE:
            variant = near
        else:
            pairs = 2 if self.design.families[control.of].sparsifier == "blocks" else 1
            start = self.setting.width if control.solve == "width" else self.d_model
            size = solve(value, target, start, pairs if control.solve == "width" else 1)
            variant = _sized(base, control.solve, size)
        if not control.bits:
            return Role(variant, k)
        return Role(variant, solve_bits(variant.width, bits(self.setting.width, k)))


def _sized(variant: Variant, what: str, size: int) -> Variant:
    return dataclasses.replace(variant, width=size) if what == "width" else dataclasses.replace(variant, hidden=size)


def _rung(size: int, base: int) -> int:
    """``base`` times the power of two that is nearest to ``size / base``; even."""
    return max(2, 2 * round(base * 2.0 ** round(math.log2(size / base)) / 2))


def tuning_cells(grid: Grid, variant: Variant) -> Iterator[Cell]:
    """The rates that are tried for ``variant``, with the SAE that is tuned in its place."""
    for rate in grid.design.tuning.rates:
        yield Cell(grid.name, grid.tuned_as(variant), grid.tuned_at, grid.design.tuning.seed, rate)
