"""The tables of docs/kan.md say what the study's cells say."""

import math
import re
import sys
from pathlib import Path
from statistics import fmean, stdev

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import study_tables  # type: ignore[import-not-found]  # noqa: E402

PAGE = (ROOT / "docs" / "kan.md").read_text()


def test_the_tables_of_differences_are_what_was_measured() -> None:
    assert study_tables.filled(PAGE) == PAGE, "python tools/study_tables.py writes them anew"


def test_numbers_in_them_are_all_written_anew() -> None:
    rows = re.findall(r"^\|.*% \(.* to .*\).*\|$", PAGE.split("| FVU, d |")[0], re.MULTILINE)
    assert len(rows) > 100
    page = PAGE
    for row in rows:
        page = page.replace(row, re.sub(r"[−+][\d.]+ % \([^|]*", "? ", row))
    assert page.count("?") > 250
    assert study_tables.filled(page) == PAGE


def test_the_first_table_of_the_page_is_what_was_measured() -> None:
    for setting, seeds in (("d", 6), ("c", 3)):
        (line,) = re.findall(rf"^\| {setting}: .*seeds 0 to {seeds - 1}\) \| (.*) \|$", PAGE, re.MULTILINE)
        for control, cell in zip(("width", "parameters", "flops"), line.split(" | "), strict=True):
            rows = [study_tables.Row(setting, "kan-bend-3", l0, seeds) for l0 in ("8", "16", "32")]
            found = " / ".join(f"{study_tables.differs(row, control, 'fvu').percent:+.1f}" for row in rows)
            assert cell.strip("*") == f"{found} %".replace("-", "−")


def test_the_differences_of_the_results_are_those_of_its_cells() -> None:
    checked = 0
    for pair in study_tables.results("paired"):
        if pair["metric"] != "fvu" or pair["seeds"] != "3":
            continue
        row = study_tables.Row(pair["setting"], pair["family"], pair["L0"], 3)
        ours = study_tables.by_seed(row.setting, f"{row.family}-w{study_tables.widths()[row.setting]}", row.l0, "fvu")
        theirs = study_tables.by_seed(row.setting, pair["SAE"], pair["control_L0"], "fvu")
        differences = [ours[seed] - theirs[seed] for seed in range(3)]
        mean, half = (
            fmean(differences),
            4.30265 * stdev(differences) / math.sqrt(3),
        )  # Student's t at 97.5 %, two degrees
        written = [float(pair[name]) for name in ("difference", "low", "high")]
        assert written == pytest.approx([mean, mean - half, mean + half], rel=1e-4, abs=1e-7), row
        outcome = "win" if mean + half < 0 else "loss" if mean > half else "tie"
        assert pair["outcome"] == outcome, (row, pair["control"])
        checked += 1
    assert checked > 400


def test_every_picture_of_the_page_is_there_and_shows_its_setting() -> None:
    shown = re.findall(r'src="\.\./([^"]*fvu-([a-f])\.svg)"', PAGE)
    assert sorted(setting for _, setting in shown) == list("abcdef")
    for file, setting in shown:
        assert f">{setting}: " in (ROOT / file).read_text()


MATCHED = re.findall(r"^\| FVU, ([a-f]) \|.*\n\|.*\n((?:\| `.*\n)+)", PAGE, re.MULTILINE)


def test_the_tables_at_matched_l0_were_found() -> None:
    assert [(setting, some.count("\n")) for setting, some in MATCHED] == [("d", 5), ("c", 5)]


@pytest.mark.parametrize(
    ("setting", "line"), [(setting, line) for setting, some in MATCHED for line in some.splitlines()]
)
def test_a_row_at_matched_l0_is_what_was_measured(setting: str, line: str) -> None:
    sparsifier, values, *said = [column.strip(" *`") for column in line.strip("|").split("|")]
    known = [
        row for row in study_tables.results("matched") if (row["setting"], row["sparsifier"]) == (setting, sparsifier)
    ]
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
