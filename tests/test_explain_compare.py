"""Several SAEs are explained beside each other: matched features, one page, and nothing that hides what is missing."""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from explain_world import indexed
from kanary.errors import KanaryError
from kanary.explain.strata import NAMES, matched, of
from pages import Page
from runs import kanary


@pytest.fixture(scope="module")
def report(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run and its copy, with a name that is HTML. Not to be changed."""
    folder = tmp_path_factory.mktemp("compare")
    run = indexed(tiny_llama, folder)
    shutil.copytree(run, other := folder / "<b>other")
    asked = ("--features", "alive:9", "--tokens", "2K", "--controls", "2", "--scorers", "detection,simulation")
    answer = kanary("explain", run, other, *asked, "--report", folder / "report")
    assert answer.code == 0, answer.err
    assert answer.out.strip().splitlines()[-1].startswith("2 SAEs compared on 9 features of each, matched by density: ")
    return folder / "report"


def test_every_score_of_the_tables_is_on_the_page_with_its_interval_and_n(report: Path) -> None:
    text = Page((report / "report.html").read_text(encoding="utf-8")).text
    tables = sorted(report.glob("*/table.csv"))
    assert len(tables) == 2
    rows = [row for table in tables for row in csv.DictReader(table.open(encoding="utf-8"))]
    assert {row["what"] for row in rows} > {"explanation", "oracle", "shuffled explanation", "random SAE"}
    for row in rows:
        if row["value"]:
            assert f"{float(row['value']):.3f}" in text
        if row["low"]:
            assert f"{float(row['low']):.3f} to {float(row['high']):.3f}" in text
    assert "Guessing scores 0.5" in text


def test_the_page_loads_nothing_escapes_names_and_draws_intervals(report: Path) -> None:
    html = (report / "report.html").read_text(encoding="utf-8")
    assert "<b>other" not in html
    assert "&lt;b&gt;other" in html
    assert "default-src 'none'" in html
    assert "<script" not in html
    assert not re.search(r"(src|href)=\"(?!#)", html)
    assert html.count('class="whisker"') >= 4
    assert html.count("<svg") >= 3  # two scores, and at least one of them by density


def test_explanations_are_there_to_be_read(report: Path) -> None:
    text = Page((report / "report.html").read_text(encoding="utf-8")).text
    first = next(csv.DictReader(next(report.glob("*/explanations.csv")).open(encoding="utf-8")))
    assert " ".join(first["explanation"].split()) in " ".join(text.split())


def test_a_run_and_its_copy_score_the_same_in_every_stratum(report: Path) -> None:
    by_sae: dict[str, list[list[str]]] = {}
    with (report / "strata.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            by_sae.setdefault(row["sae"], []).append([row["scorer"], row["density"], row["n"]])
    one, other = by_sae.values()
    assert one == other
    assert {density for _, density, _ in one} <= {"all", *NAMES}
    for scorer in ("detection", "simulation"):
        n = {density: int(n) for name, density, n in one if name == scorer}
        assert sum(n.values()) == 2 * n["all"]


def drawn(densities: Mapping[str, list[float]], count: int) -> dict[str, list[int]]:
    return matched({name: np.array(each) for name, each in densities.items()}, count, seed=0)[0]


def test_as_many_features_of_every_density_are_drawn_from_each() -> None:
    few = [0.0] * 50 + [5e-4] * 30 + [5e-3] * 10
    many = [5e-4] * 10 + [5e-3] * 40 + [0.5] * 20
    found = drawn({"few": few, "many": many}, 8)
    strata = {name: [of((few if name == "few" else many)[i]) for i in each] for name, each in found.items()}
    assert strata["few"] == strata["many"]
    assert sorted(set(strata["few"])) == ["0.0001 to 0.001", "0.001 to 0.01"]
    assert len(found["few"]) == 8


@pytest.mark.parametrize("count", [1, 2, 3, 7, 40, 1000])
def test_as_many_are_drawn_as_were_asked_for(count: int) -> None:
    densities = np.exp(np.random.default_rng(0).uniform(np.log(1e-5), 0, 400))
    both, sizes = matched({"one": densities, "other": densities[::-1]}, count, 0)
    assert {len({*latents}) for latents in both.values()} == {sum(sizes.values())} == {min(count, 400)}


def test_saes_without_a_common_density_are_refused() -> None:
    with pytest.raises(KanaryError, match="No stratum of density has features of every SAE"):
        drawn({"rare": [5e-5], "often": [0.5]}, 8)
