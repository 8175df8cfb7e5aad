"""Writes the numbers of the tables of differences in ``docs/kan.md`` anew from the cells of ``kanary study kan``.

    python tools/study_tables.py

A new row is written by hand, with its family, its L0 and ``?`` in the cells that are to be filled: ``| | 16 | ? | ? |``.
"""

import csv
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import yaml

from kanary.files import write_text
from kanary.lab.study import verdict

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "kan.md"
RESULTS = ROOT / "studies" / "kan" / "results"
CONTROLS = {
    "linear, as many latents": "width",
    "linear, equal parameters": "parameters",
    "linear, equal training FLOPs": "flops",
    "linear, equal FLOPs": "flops",
    "`refine`, equal parameters": "refine",
    "`refine`, equal FLOPs": "refine-flops",
    "linear, as many parameters": "parameters",
    "linear, as many training FLOPs": "flops",
    "`refine`, as many parameters": "refine",
    "`refine`, as many training FLOPs": "refine-flops",
}
SAME = "the same as the first"
"""Where equal training FLOPs leave a linear SAE no wider than the family."""


class Row(NamedTuple):
    """What one row of a table is about."""

    setting: str
    family: str
    l0: str
    seeds: int


@cache
def results(table: str) -> list[dict[str, str]]:
    with (RESULTS / f"{table}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@cache
def by_seed(setting: str, sae: str, l0: str, metric: str) -> dict[int, float]:
    return {
        int(cell["seed"]): float(cell[metric])
        for cell in results("cells")
        if (cell["setting"], cell["SAE"], cell["L0_asked"]) == (setting, sae, l0)
    }


def compared_with(row: Row, control: str) -> str:
    """The SAE that is the family's control at this L0."""
    found = {
        pair["SAE"]
        for pair in results("paired")
        if (pair["setting"], pair["family"], pair["L0"], pair["control"]) == (row.setting, row.family, row.l0, control)
    }
    if len(found) != 1:
        raise SystemExit(f"{row.setting}: {row.family} at L0 {row.l0} less {control} is not among the results.")
    return found.pop()


@cache
def widths() -> dict[str, int]:
    """Latents of every family, by setting."""
    settings = yaml.safe_load((RESULTS.parent / "design.yaml").read_text())["settings"]
    return {name: setting["width"] for name, setting in settings.items()}


def differs(row: Row, control: str, metric: str) -> verdict.Difference:
    """The family less the control, over the row's seeds."""
    ours = by_seed(row.setting, f"{row.family}-w{widths()[row.setting]}", row.l0, metric)
    theirs = by_seed(row.setting, compared_with(row, control), row.l0, metric)
    found = verdict.difference({seed: ours[seed] for seed in range(row.seeds) if seed in ours}, theirs)
    if found.n < row.seeds:
        raise SystemExit(
            f"{row.setting}: {row.family} at L0 {row.l0} less {control} has {found.n} of {row.seeds} seeds."
        )
    return found


def difference(row: Row, control: str, controls: Sequence[str]) -> str:
    if control == "flops" and "width" in controls and compared_with(row, control) == compared_with(row, "width"):
        return SAME
    found = differs(row, control, "fvu")
    low, high = (100 * end / found.theirs for end in (found.low, found.high))
    tie = ", tie" if low <= 0 <= high else ""
    return f"{found.percent:+.1f} % ({low:+.1f} to {high:+.1f}){tie}".replace("-", "−")


def detection(row: Row, controls: Sequence[str]) -> str:
    """F1 of the family, then of the controls that it is compared with."""
    found = [differs(row, control, "feature_f1") for control in controls]
    values = [found[0].theirs + found[0].mean, *(each.theirs for each in found)]
    ours, *theirs = (f"{f1:.3f}".removeprefix("0") for f1 in values)
    return f"{ours}; {', '.join(theirs)}"


def family_named(cell: str) -> str:
    """``kan-hidden-bend`` where the page says ```kan-hidden` + `kan-bend```."""
    name = "-".join(re.findall(r"`([\w-]+)`", cell)).replace("_", "-")
    return {"kan-hidden-kan-bend": "kan-hidden-bend"}.get(name, name)


class Tables:
    """Fills the page's tables line by line; cells that are empty stay so."""

    def __init__(self) -> None:
        self.setting = self.family = ""
        self.head: list[str] = []

    def line(self, line: str) -> str:
        if found := re.search(r"\*\*Setting ([a-f])\*\*|reporting split of \*\*([a-f])\*\*", line):
            self.setting = found[1] or found[2]
        if not line.startswith("|"):
            self.head = []
            return line
        columns = [column.strip() for column in line[1:-1].split("|")]
        if columns[1:2] == ["L0"] or columns[0] == "less …":
            self.head = columns
        elif self.head and not columns[0].startswith("---"):
            columns = self.family_by_control(columns) if self.head[1] == "L0" else self.control_by_l0(columns)
            line = "|" + "|".join(f" {column} " if column else " " for column in columns) + "|"
        return line

    def family_by_control(self, columns: list[str]) -> list[str]:
        self.family = columns[0] or self.family
        where = re.match(r"([a-f]): ", self.family)
        seeds = 6 if "six seeds" in self.family else 3
        row = Row(where[1] if where else self.setting, family_named(self.family), columns[1], seeds)
        controls = {at: CONTROLS[name] for at, name in enumerate(self.head) if name in CONTROLS and columns[at]}
        for at, control in controls.items():
            columns[at] = difference(row, control, list(controls.values()))
        if self.head[-1].startswith("F1"):
            columns[-1] = detection(row, list(controls.values()))
        return columns

    def control_by_l0(self, columns: list[str]) -> list[str]:
        *family, control = columns[0].strip("*").split(": ")
        self.family = family_named(family[0]) if family else self.family
        rows = [Row(self.setting, self.family, title.removeprefix("L0 "), 3) for title in self.head[1:]]
        return [columns[0], *(difference(row, CONTROLS[control], ()) for row in rows)]


def filled(page: str) -> str:
    """The page with every difference in its tables as the cells have it."""
    tables = Tables()
    return "".join(f"{tables.line(line)}\n" for line in page.splitlines())


if __name__ == "__main__":
    write_text(PAGE, filled(PAGE.read_text(encoding="utf-8")))
