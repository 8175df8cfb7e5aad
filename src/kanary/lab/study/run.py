"""``kanary study``: trains and measures every cell that is not finished yet, then writes the tables."""

import dataclasses
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kanary.config import to_mapping
from kanary.errors import KanaryError, nearest
from kanary.files import read_tensors, write_tensors
from kanary.lab import blocks
from kanary.lab.study.across import across
from kanary.lab.study.cells import Cell, Grid, Role, Variant, tuning_cells
from kanary.lab.study.design import Design, find_design, read_design
from kanary.lab.study.folder import Results, finish
from kanary.lab.study.judgement import Numbers, best_family, winners
from kanary.lab.study.measure import Latents, fidelity, measured
from kanary.lab.study.progress import Progress
from kanary.lab.study.settings import Setting, open_setting
from kanary.lab.study.train import train
from kanary.sae.parts import import_parts
from kanary.training.config import TrainConfig

RECIPE = (
    "encoder",
    "sae",
    "decoder",
    "options",
    "width",
    "k",
    "target_l0",
    "tokens",
    "batch",
    "lr",
    "seed",
    "data_seed",
)
SETTING = ("synthetic", "site", "window", "tokens", "tuning_tokens", "report_tokens", "loss_tokens", "concept_tokens")
MATCHED = "matched"
"""Word of ``only`` for the stage of all sparsifiers."""


@dataclasses.dataclass(frozen=True)
class Chosen:
    """The learning rate of a variant in a setting."""

    rate: float
    """As a multiple of the default for its width."""
    lr: float
    at_edge: bool
    """It is the least or the greatest that was tried: a larger budget might have found a better one."""
    tried: Mapping[float, float]
    """Rate -> FVU on the tuning split; infinite where training broke down."""


class Study:
    """A design, the settings that can be opened here, and the results so far."""

    def __init__(self, design: Design, folder: Path, only: Sequence[str] = (), device: str = "cpu") -> None:
        """
        Args:
            only: settings and families to do, and ``matched`` for the stage of all sparsifiers (in these settings; by itself:
                nothing else); all unless given. What is finished of others is reported all the same.
        """
        import_parts()
        blocks.register()
        self.design, self.folder, self.results, self.device = design, folder, Results(folder), device
        known = [*design.settings, *design.families, MATCHED]
        for word in only:
            if word not in known:
                raise KanaryError(f"--only {word}: the study has no such setting or family. {nearest(word, known)}")
        self.only, self.matched = tuple(only), not only or MATCHED in only
        self.settings: dict[str, Setting] = {}
        self.notes: list[str] = []
        for name, setting in design.settings.items():
            if setting.real and not (setting.model and setting.text):
                self.notes.append(f"{name} ({setting.title}) is left out: no model and text were given.")
            else:
                self.settings[name] = open_setting(setting, folder / "activations", name, device)
        self.grids = {name: Grid(design, name, setting.d_model) for name, setting in self.settings.items()}
        missing = {family: part for grid in self.grids.values() for family, part in grid.missing.items()}
        self.notes += [f"{family} is left out: there is no part {part!r}." for family, part in missing.items()]
        self._chosen: dict[tuple[str, Variant], Chosen] = {}

    # --- the cells, stage by stage ---

    def main(self) -> list[Cell]:
        """Every family that is to be done and its controls, with TopK, seed after seed; what decides comes first."""
        if self.only == (MATCHED,):
            return []
        settings = [name for name in self.grids if name in self.only] or list(self.grids)
        families = tuple(word for word in self.only if word in self.design.families)
        cells = [
            cell
            for controls in (self.design.decides, ())
            for seed in self.design.seeds
            for name in settings
            for cell in self._seed(name, seed, families, controls)
        ]
        return list(dict.fromkeys(cells))

    def _seed(self, name: str, seed: int, families: tuple[str, ...] = (), controls: tuple[str, ...] = ()) -> list[Cell]:
        return [Cell(name, role.variant, role.l0, seed) for role in self.grids[name].reported(families, controls)]

    def confirming(self) -> list[Cell]:
        """The families that won, and what they had to beat, with seeds that no verdict has seen."""
        return [
            Cell(name, role.variant, role.l0, seed)
            for seed in self.design.confirm
            for name, family in winners(self.numbers(), self.design, self.grids)
            for k in self.grids[name].levels
            for role in [Role(self.grids[name].base(family), k), *self._deciding(name, family, k)]
        ]

    def _deciding(self, name: str, family: str, l0: int) -> list[Role]:
        roles = self.grids[name].roles[family, l0]
        return [roles[control] for control in self.design.decides if control in roles]

    def sparsifiers(self, best: str | None = None) -> list[Cell]:
        """All sparsifiers with linear SAEs, as wide and as large as the best KAN family, and with that.

        Args:
            best: the family; as :meth:`best` says unless given.
        """
        best = (best or self.best()) if self.matched else None
        settings = [name for name in self.design.settings if name in self.only]
        return [cell for cell in (self._sparsifiers(best) if best else []) if not settings or cell.setting in settings]

    def best(self) -> str | None:
        """The KAN family of that stage, as the design names it or by the tuning split; None as long as one that may be it has
        not been measured."""
        return self.design.matched.best or best_family(self.numbers(), self.design, self.grids)

    def _sparsifiers(self, best: str) -> list[Cell]:
        design = self.design.matched
        return [
            Cell(name, variant, target, seed)
            for seed in self.design.seeds
            for name in design.settings
            if name in self.grids
            for sparsifier in design.sparsifiers
            for variant in self.matched_variants(name, best, sparsifier)
            for target in design.targets
        ]

    def matched_variants(self, setting: str, best: str, sparsifier: str) -> list[Variant]:
        """The best KAN family, and linear SAEs as wide and with as many parameters."""
        grid = self.grids[setting]
        if best not in grid.families:
            return []
        controls = grid.roles[best, grid.tuned_at]
        sizes = {grid.base(best): None, grid.base("linear"): None}
        sizes |= {controls[name].variant: None for name in self.design.decides[:1] if name in controls}
        return [dataclasses.replace(each, sparsifier=sparsifier) for each in sizes]

    def tuned(self, cells: Iterable[Cell]) -> list[Cell]:
        """The cells whose numbers the learning rates of ``cells`` are chosen by."""
        variants = dict.fromkeys((cell.setting, self.grids[cell.setting].tuned_as(cell.variant)) for cell in cells)
        if len(self.design.tuning.rates) < 2:
            return []
        return [each for setting, variant in variants for each in tuning_cells(self.grids[setting], variant)]

    # --- one cell ---

    def chosen(self, setting: str, variant: Variant) -> Chosen:
        """The rate with the least FVU on the tuning split; all of them have been tried."""
        if (setting, variant) not in self._chosen:
            self._chosen[setting, variant] = self._choose(setting, variant)
        return self._chosen[setting, variant]

    def _choose(self, setting: str, variant: Variant) -> Chosen:
        grid, rates = self.grids[setting], self.design.tuning.rates
        tried = {}
        for cell in tuning_cells(grid, variant) if len(rates) > 1 else ():
            found = self.read(cell)
            assert found is not None
            assert cell.rate is not None
            tried[cell.rate] = found["tuning_fvu"] if found["failed"] is None else float("inf")
        rate = min(tried, key=lambda r: (tried[r], r)) if tried else rates[0]
        default = grid.config(variant, grid.tuned_at, seed=0).peak_lr
        return Chosen(rate, rate * default, len(rates) > 1 and rate in (min(rates), max(rates)), tried)

    def config(self, cell: Cell) -> TrainConfig:
        grid, tuning = self.grids[cell.setting], self.design.tuning
        if cell.rate is None:
            lr, share = self.chosen(cell.setting, cell.variant).lr, 1.0
        else:
            lr, share = cell.rate * grid.config(cell.variant, cell.l0, seed=0).peak_lr, tuning.share
        return grid.config(cell.variant, cell.l0, cell.seed, lr, share)

    def recipe(self, cell: Cell) -> dict[str, Any]:
        """What the numbers of ``cell`` depend on, without paths of this machine."""
        config, setting = to_mapping(self.config(cell)), to_mapping(self.design.settings[cell.setting])
        found = {name: config[name] for name in RECIPE} | {f"setting_{name}": setting[name] for name in SETTING}
        return found | {f"setting_{name}": made for name, made in self.settings[cell.setting].made_of.items()}

    def read(self, cell: Cell) -> dict[str, Any] | None:
        return self.results.read(cell.id, self.recipe(cell))

    def run(self, cell: Cell) -> dict[str, Any]:
        """Trains and measures ``cell``, and writes its numbers. A training that breaks down is a result, too."""
        config, setting = self.config(cell), self.settings[cell.setting]
        source = setting.source(config)
        numbers: dict[str, Any] = {"failed": None}
        try:
            trained = train(config, source, self.folder / ".scratch" / cell.id)
        except KanaryError as error:
            if not isinstance(error.__cause__, FloatingPointError):
                raise
            numbers["failed"] = str(error)
        else:
            numbers |= {key: getattr(trained, key) for key in ("seconds", "cpu_seconds", "peak_mb")}
            began = time.perf_counter()
            if cell.rate is None:
                found, latents = measured(trained.sae, setting)
                write_tensors(self.latents_path(cell), latents._asdict())
                cost = self.grids[cell.setting].cost(cell.variant, cell.l0)
                chosen = self.chosen(cell.setting, cell.variant)
                numbers |= found | cost._asdict() | {"rate": chosen.rate, "rate_at_edge": chosen.at_edge}
            else:
                numbers["tuning_fvu"] = fidelity(trained.sae, setting.tuning.to(trained.sae.mean.device)).fvu
            numbers["measuring_seconds"] = time.perf_counter() - began
        finite = {
            key: None if value in (math.inf, -math.inf) or value != value else value for key, value in numbers.items()
        }
        self.results.write(cell.id, self.recipe(cell), finite)
        return finite

    def latents_path(self, cell: Cell) -> Path:
        return self.folder / "latents" / f"{cell.id}.safetensors"

    # --- over seeds ---

    def numbers(self, best: str | None = None) -> Numbers:
        """Of every finished cell that is reported; with those of all sparsifiers for the family ``best``."""
        seeds = (*self.design.seeds, *self.design.confirm)
        cells = [cell for seed in seeds for name in self.grids for cell in self._seed(name, seed)]
        cells += self._sparsifiers(best) if best else []
        return Numbers({cell: found for cell in cells if (found := self._known(cell)) is not None})

    def _known(self, cell: Cell) -> dict[str, Any] | None:
        if not self.results.path(cell.id).is_file() or any(self.read(t) is None for t in self.tuned([cell])):
            return None
        return self.read(cell)

    def compare_seeds(self, name: str, role: Role) -> dict[str, Any] | None:
        """What the seeds of one SAE have in common; None with fewer than two."""
        cells = [Cell(name, role.variant, role.l0, seed) for seed in self.design.seeds]
        cells = [cell for cell in cells if (known := self._known(cell)) and known["failed"] is None]
        if len(cells) < 2:
            return None
        recipe = {"seeds": [cell.seed for cell in cells]}
        id = f"seeds/{name}/{role.variant.name}-k{role.l0}-" + "-".join(map(str, recipe["seeds"]))
        if (found := self.results.read(id, recipe)) is None:
            paths = [self.latents_path(cell) for cell in cells]
            if not all(path.is_file() for path in paths):  # numbers may be handed on without them
                return None
            found = across([Latents(**read_tensors(path)) for path in paths])._asdict()
            found = {key: value if value == value else None for key, value in found.items()}
            self.results.write(id, recipe, found)
        return found


def open_study(
    name: str = "kan",
    out: str | os.PathLike[str] | None = None,
    *,
    smoke: bool = False,
    only: Sequence[str] = (),
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    device: str = "cpu",
) -> Study:
    """Opens a study, with what is finished of it.

    Args:
        name: a study that comes with Kanary, or a YAML file.
        out: its folder, by default ``runs/study-<name>``.
        smoke: all code paths at tiny sizes.
        only: settings and families to do, and ``matched``.
        settings: setting -> fields to replace, such as its model and text.

    Raises:
        KanaryError: a mistake in the design or the request.
    """
    design = read_design(find_design(name), smoke=smoke, settings=settings)
    default = Path("runs") / f"study-{Path(name).stem}{'-smoke' if smoke else ''}"
    return Study(design, Path(out) if out is not None else default, only, device)


def run_study(found: Study, *, budget: float | None = None, quiet: bool = False) -> tuple[Path, bool]:
    """Goes on until all is done or the time is up. Several processes may do this in one folder.

    Args:
        budget: seconds; no cell is begun that would end later.

    Returns the report, which has what is there in any case, and whether all is done.

    Raises:
        KanaryError: the folder holds numbers of another design; the disk is full.
    """
    from kanary.lab.study.report import write_report

    deadline = None if budget is None else time.monotonic() + budget
    with Progress(quiet) as progress:
        done = all(
            _do(found, stage(), progress, deadline) for stage in (found.main, found.sparsifiers, found.confirming)
        )
    return write_report(found, found.folder), done


def _do(found: Study, cells: list[Cell], progress: Progress, deadline: float | None) -> bool:
    """The learning rates of ``cells``, then the cells; False where the time is up."""
    tuning = found.tuned(cells)
    progress.expect(found, [*tuning, *cells])

    def run(cell: Cell) -> bool:
        if deadline is not None and time.monotonic() + progress.predicted(cell) > deadline:
            return False
        began = time.monotonic()
        progress.done(cell, found.run(cell), time.monotonic() - began)
        return True

    for each in (tuning, cells):
        if not finish(found.results, each, lambda cell: cell.id, lambda cell: found.read(cell) is not None, run):
            return False
    return True
