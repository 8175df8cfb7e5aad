"""The tables of docs/kan.md say what the study's cells say."""

import csv
import math
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "studies" / "kan" / "results"
WIDTH = {"a": 512, "b": 512, "c": 1024, "d": 512, "e": 320, "f": 320}
FAMILIES = {"kan_relu_dense": "kan-relu-dense", "only_kan": "only-kan"}
T = {2: 12.7062, 3: 4.30265, 6: 2.57058}
"""Student's t at 97.5 %, by number of seeds."""
SAID = re.compile(r"([+−][\d.]+) % \(([+−][\d.]+) to ([+−][\d.]+)\)(, tie)?$")
CONTROLS = {
    "linear, as many latents": "width",
    "linear, equal parameters": "parameters",
    "linear, equal training FLOPs": "flops",
    "linear, equal FLOPs": "flops",
    "`refine`, equal parameters": "refine",
    "`refine`, equal FLOPs": "refine-flops",
}


class Row(NamedTuple):
    """One row of a table of differences in FVU."""

    setting: str
    family: str
    seeds: int
    l0: int
    cells: dict[str, str]
    """What is said, by control."""
    f1: str
    """Of its latents as detectors; of those of the controls."""


def tables() -> Iterator[Row]:
    setting, family, head = "", "", list[str]()
    for line in (ROOT / "docs" / "kan.md").read_text().splitlines():
        if found := re.match(r"\*\*Setting ([a-f])\*\*", line):
            setting = found[1]
        columns = [column.strip() for column in line.strip("|").split("|")]
        if not line.startswith("|"):
            head = []
        elif columns[1] == "L0":
            head = columns
        elif head and not columns[0].startswith("---"):
            family = columns[0] or family
            where = re.match(r"([a-f]): ", family)
            name = "-".join(FAMILIES.get(part, part) for part in re.findall(r"`([\w-]+)`", family))
            name = "kan-hidden-bend" if name == "kan-hidden-kan-bend" else name
            cells = {CONTROLS[h]: c for h, c in zip(head, columns, strict=True) if h in CONTROLS and c}
            seeds = 6 if "six seeds" in family else 3
            f1 = columns[-1] if head[-1].startswith("F1") else ""
            yield Row(where[1] if where else setting, name, seeds, int(columns[1]), cells, f1)


@cache
def rows(table: str) -> list[dict[str, str]]:
    with (RESULTS / f"{table}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@cache
def by_seed(setting: str, sae: str, l0: int, metric: str) -> dict[int, float]:
    return {
        int(row["seed"]): float(row[metric])
        for row in rows("cells")
        if (row["setting"], row["SAE"], row["L0_asked"]) == (setting, sae, str(l0))
    }


def pairs(row: Row, control: str, metric: str = "fvu") -> list[tuple[float, float]]:
    """The family's value and the control's, by seed."""
    theirs = {
        each["SAE"]
        for each in rows("paired")
        if (each["setting"], each["family"], each["L0"], each["control"])
        == (row.setting, row.family, str(row.l0), control)
    }
    assert len(theirs) == 1, f"{row.family} less {control} is not among the results"
    ours = by_seed(row.setting, f"{row.family}-w{WIDTH[row.setting]}", row.l0, metric)
    other = by_seed(row.setting, theirs.pop(), row.l0, metric)
    return [(ours[seed], other[seed]) for seed in range(row.seeds)]


def measured(row: Row, control: str) -> tuple[float, float, float]:
    """Difference in % of the control's FVU, and its 95 % interval."""
    both = pairs(row, control)
    differences = [a - b for a, b in both]
    unit = fmean(b for _, b in both) / 100
    mean, half = fmean(differences), T[len(differences)] * stdev(differences) / math.sqrt(len(differences))
    return mean / unit, (mean - half) / unit, (mean + half) / unit


def detection(row: Row) -> list[float]:
    """F1 of the family, then of the controls that it is compared with."""
    both = [pairs(row, control, "feature_f1") for control in row.cells]
    return [fmean(a for a, _ in both[0])] + [fmean(b for _, b in each) for each in both]


def test_every_table_was_found() -> None:
    found = [row.setting for row in tables()]
    assert {setting: found.count(setting) > 3 for setting in "abcd"} == dict.fromkeys("abcd", True)
    assert {"e", "f"} < set(found)
    assert [setting for setting, _ in MATCHED] == ["d", "c"]


@pytest.mark.parametrize("row", [pytest.param(r, id=f"{r.setting}-{r.family}-{r.l0}-n{r.seeds}") for r in tables()])
def test_a_row_of_differences_is_what_was_measured(row: Row) -> None:
    assert row.cells
    for control, said in row.cells.items():
        if said == "the same as the first":
            assert measured(row, control) == measured(row, "width")
            continue
        parts = SAID.match(said)
        assert parts, f"not a difference with its interval: {said}"
        numbers = [float(part.replace("−", "-")) for part in parts.groups()[:3]]
        found = measured(row, control)
        assert numbers == pytest.approx(found, abs=0.0501), control
        assert bool(parts[4]) == (found[1] <= 0 <= found[2]), f"{control}: a tie or not"
    if row.f1:
        assert [float(number) for number in re.findall(r"\.\d+", row.f1)] == pytest.approx(detection(row), abs=0.000501)


MATCHED = re.findall(
    r"^\| FVU, ([a-f]) \|.*\n\|.*\n((?:\| `.*\n)+)", (ROOT / "docs" / "kan.md").read_text(), re.MULTILINE
)


@pytest.mark.parametrize(
    ("setting", "line"), [(setting, line) for setting, some in MATCHED for line in some.splitlines()]
)
def test_a_row_at_matched_l0_is_what_was_measured(setting: str, line: str) -> None:
    sparsifier, values, *said = [column.strip(" *`") for column in line.strip("|").split("|")]
    known = [row for row in rows("matched") if (row["setting"], row["sparsifier"]) == (setting, sparsifier)]
    by_width = sorted({row["linear"] for row in known}, key=lambda name: int(name.split("-w")[1].split("-")[0]))
    assert len(by_width) == len(said) == 2  # as many latents, as many parameters
    for linear, cell in zip(by_width, said, strict=True):
        parts, shown = cell.split(" / "), values.split(" / ")
        assert len(parts) == len(shown) == 3
        for l0, part, value in zip(("8", "16", "32"), parts, shown, strict=True):
            (row,) = [r for r in known if (r["linear"], r["L0"], r["metric"]) == (linear, l0, "fvu")]
            percent, difference = float(row["percent"]), float(row["difference"])
            control = 100 * difference / percent
            found = [percent] + [100 * float(row[end]) / control for end in ("low", "high") if "(" in part]
            numbers = [float(number.replace("−", "-")) for number in re.findall(r"[+−][\d.]+", part)]
            assert numbers == pytest.approx(found, abs=0.0501)
            assert ("tie" in part) == (row["outcome"] == "tie")
            assert float(value) == pytest.approx(control + difference, abs=0.000501)
