"""What people see while a study runs: a bar with rate and time left, or a line per cell where there is no terminal."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from kanary.lab.study.cells import Cell
from kanary.progress import duration

if TYPE_CHECKING:
    from kanary.lab.study.run import Study

FIXED = 2e9
"""FLOPs that stand for what a cell takes besides its matrix products, per step."""


class Progress:
    """Counts cells, each weighed by its arithmetic, so that the time left is told before the slow ones are met."""

    def __init__(self, quiet: bool) -> None:
        self.console = Console(stderr=True, highlight=False, quiet=quiet)
        columns = BarColumn(bar_width=24), MofNCompleteColumn(), TextColumn("cells  {task.description}")
        self.bar = Bar(*columns, console=self.console, disable=quiet or not self.console.is_terminal)
        self.task = self.bar.add_task("", total=0)
        self.left: dict[str, float] = {}
        self.total, self.cells, self.seconds, self.weight = 0, 0, 0.0, 0.0

    def __enter__(self) -> "Progress":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def expect(self, study: "Study", cells: Sequence[Cell]) -> None:
        """Adds what is not finished of ``cells``, whose learning rates may still be unknown."""
        new = {cell.id: weight(study, cell) for cell in cells if not study.results.path(cell.id).is_file()}
        self.total += len(new.keys() - self.left.keys())
        self.left |= new
        self.bar.update(self.task, total=self.total)

    def predicted(self, cell: Cell) -> float:
        """Seconds that ``cell`` will take, by those that are done; 0 before any is."""
        return self.left.get(cell.id, 0.0) * self.seconds / self.weight if self.weight else 0.0

    def done(self, cell: Cell, numbers: Mapping[str, Any], seconds: float) -> None:
        self.cells += 1
        self.seconds += seconds
        self.weight += self.left.pop(cell.id, 0.0)
        left = sum(self.left.values()) * self.seconds / self.weight if self.weight else math.nan
        fvu = numbers.get("fvu", numbers.get("tuning_fvu"))
        said = "broke down" if fvu is None else f"FVU {fvu:.4f}"
        text = f"{60 * self.cells / self.seconds:.1f}/min, {duration(left)} left  {cell.id}: {said}, {seconds:.0f} s"
        self.bar.update(self.task, completed=self.cells, description=text)
        if not self.console.is_terminal:
            self.console.print(f"{self.cells}/{self.total} cells  {text}", soft_wrap=True)


def weight(study: "Study", cell: Cell) -> float:
    """The arithmetic of a cell's training, and something for every step besides."""
    grid = study.grids[cell.setting]
    share = 1.0 if cell.rate is None else study.design.tuning.share
    flops = grid.cost(cell.variant, cell.l0).flops
    known = flops if math.isfinite(flops) else grid.cost(grid.base("linear"), cell.l0).flops
    return share * grid.setting.tokens * (known + FIXED / grid.setting.batch)
