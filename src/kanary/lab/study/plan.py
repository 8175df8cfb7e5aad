"""How long a study will take, from a few timed steps of every family and the measuring of one SAE in every setting."""

import statistics
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import torch

from kanary.lab.study.cells import Cell, Grid, Variant
from kanary.lab.study.measure import measured
from kanary.progress import duration
from kanary.sae import SAE
from kanary.training.learner import Learner, begin

if TYPE_CHECKING:
    from kanary.lab.study.run import Study

STEPS = 4  # timed, after one that is not
SAMPLE = 4096


class Part(NamedTuple):
    """Cells of one stage in one setting."""

    stage: str
    setting: str
    cells: int
    left: int
    seconds: float
    """For those that are left, on one process of this machine as busy as it is now."""


def plan(study: "Study") -> list[Part]:
    """Every stage in every setting. Harvests what the settings need."""
    timed = {name: _Timed(study, name) for name in study.grids}
    main, best = study.main(), study.best() or next(name for name, of in study.design.families.items() if of.kan)
    matched, confirming = study.sparsifiers(best), study.confirming()
    stages = {
        "tuning": study.tuned([*main, *matched, *confirming]),
        "main": main,
        "all sparsifiers": matched,
        "new seeds": confirming,
    }
    parts = []
    for stage, cells in stages.items():
        for name in study.grids:
            here = [cell for cell in cells if cell.setting == name]
            left = [cell for cell in here if not study.results.path(cell.id).is_file()]
            if here:
                parts.append(Part(stage, name, len(here), len(left), sum(map(timed[name].cell, left))))
    return parts


def lines(parts: Iterable[Part]) -> Iterable[str]:
    """What ``--plan`` prints."""
    parts = list(parts)
    for part in parts:
        done = f", {part.cells - part.left} done" if part.left < part.cells else ""
        yield f"{part.stage:>16} {part.setting:<4} {part.cells:>5} cells{done}: {duration(part.seconds)}"
    total = sum(part.seconds for part in parts)
    yield f"About {duration(total)} on one process of this machine; several processes may share the folder."


class _Timed:
    """Seconds of the cells of one setting."""

    def __init__(self, study: "Study", name: str) -> None:
        self.study, self.grid, self.setting = study, study.grids[name], study.settings[name]
        self._step: dict[str, float] = {}
        self._measuring: float | None = None

    def cell(self, cell: Cell) -> float:
        if cell.rate is not None:
            return self.study.design.tuning.share * self.training(cell.variant)
        return self.training(cell.variant) + self.measuring

    def training(self, variant: Variant) -> float:
        """In proportion to the arithmetic of the family at its usual size, which is timed once."""
        base, k = self.grid.base(variant.family), self.grid.tuned_at
        if variant.family not in self._step:
            self._step[variant.family] = _step_seconds(self.grid, base, self.study.device)
        plain = Variant(variant.family, variant.width, variant.hidden)
        ratio = self.grid.cost(plain, k).flops / self.grid.cost(base, k).flops
        steps = self.grid.config(base, k, 0).steps
        return steps * self._step[variant.family] * (ratio if ratio == ratio else 1.0)

    @property
    def measuring(self) -> float:
        """Of one SAE, once the setting is prepared."""
        if self._measuring is None:
            config = self.grid.config(self.grid.base("linear"), self.grid.tuned_at, 0)
            sae = SAE(config.sae_config(self.setting.d_model, {"site": self.grid.setting.site}))
            begin(sae, self.setting.report[:SAMPLE].cpu(), "mean", 0)
            sae = sae.to(self.setting.report.device)
            measured(sae, self.setting)  # prepares what all SAEs share
            began = time.perf_counter()
            measured(sae, self.setting)
            self._measuring = time.perf_counter() - began
        return self._measuring


def _step_seconds(grid: Grid, variant: Variant, device: str) -> float:
    """Median seconds of a step in the middle of training, on noise."""
    config = grid.config(variant, grid.tuned_at, 0)
    x = torch.randn(config.batch, grid.d_model, device=device)
    sae = SAE(config.sae_config(grid.d_model)).to(device)
    begin(sae, x, "mean", 0)
    learner, taken = Learner(sae, config), []
    for step in range(1 + STEPS):
        began = time.perf_counter()
        learner.step(x, config.steps // 2 + step)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])
