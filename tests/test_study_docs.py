"""The tables of docs/kan.md say what the study's cells say."""

import re
import sys
from pathlib import Path

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


def test_the_study_computes_the_same_differences() -> None:
    checked = 0
    for pair in study_tables.results("paired"):
        control, seeds = pair["control"], pair["seeds"]
        if pair["metric"] != "fvu" or seeds != "3" or control not in study_tables.CONTROLS.values():
            continue
        row = study_tables.Row(pair["setting"], pair["family"], pair["L0"], 3)
        percent, low, high = study_tables.measured(row, control)
        unit = float(pair["difference"]) / float(pair["percent"])
        theirs = (float(pair["percent"]), float(pair["low"]) / unit, float(pair["high"]) / unit)
        assert (percent, low, high) == pytest.approx(theirs, rel=1e-4, abs=1e-4), (row, control)
        assert pair["outcome"] == ("win" if high < 0 else "loss" if low > 0 else "tie"), (row, control)
        checked += 1
    assert checked > 200


def test_every_picture_of_the_page_is_there_and_shows_its_setting() -> None:
    shown = re.findall(r'src="\.\./([^"]*fvu-([a-f])\.svg)"', PAGE)
    assert sorted(setting for _, setting in shown) == list("abcdef")
    for file, setting in shown:
        assert f">{setting}: " in (ROOT / file).read_text()


MATCHED = re.findall(r"^\| FVU, ([a-f]) \|.*\n\|.*\n((?:\| `.*\n)+)", PAGE, re.MULTILINE)


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
