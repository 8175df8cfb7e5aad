"""`kanary study`: every table is filled, a cell is done once whoever is killed, mistakes are named."""

import csv
import dataclasses
import json
import math
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from kanary.errors import KanaryError
from kanary.lab import blocks
from kanary.lab.study import run as module
from kanary.lab.study.cells import Cell, Role, Variant
from kanary.lab.study.design import read_design
from kanary.lab.study.findings import Findings
from kanary.lab.study.folder import Results
from kanary.lab.study.judgement import Numbers
from kanary.lab.study.pictures import EQUAL
from kanary.lab.study.plan import lines, plan
from kanary.lab.study.run import Study, open_study, run_study
from kanary.lab.study.settings import Real
from kanary.lab.study.tables import TABLES
from kanary.sae.parts import SPARSIFIERS, import_parts
from runs import Child, kanary, write_stories
from small_study import SMALL

TIMES = {"seconds", "cpu_seconds", "peak_mb", "measuring_seconds"}


@pytest.fixture(autouse=True, scope="module")
def _blocks() -> Iterator[None]:
    """The study's own sparsifier is known while these tests run, and not to others."""
    import_parts()
    blocks.register()
    yield
    SPARSIFIERS.pop(blocks.NAME)


@pytest.fixture(scope="module")
def design_path(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    """SMALL, and a setting of a real model with one KAN family."""
    folder = tmp_path_factory.mktemp("study")
    text = write_stories(folder / "stories.jsonl", 200)
    real = {
        "title": "a tiny model",
        "real": True,
        "model": str(tiny_llama),
        "text": str(text),
        "site": "resid_post.1",
        "window": 32,
        "width": 32,
        "l0": [4],
        "tokens": 512,
        "batch": 64,
        "report_tokens": 128,
        "tuning_tokens": 64,
        "loss_tokens": 128,
        "families": ["linear", "kan-bend"],
    }
    values = {**SMALL, "settings": {**SMALL["settings"], "r": real}}
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def finished(design_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The whole of it."""
    study = open_study(str(design_path), tmp_path_factory.mktemp("finished") / "out")
    report, done = run_study(study, quiet=True)
    assert done
    assert report.is_file()
    return study


def numbers_in(folder: Path) -> dict[str, dict[str, Any]]:
    """Every cell without what it took."""
    files = sorted((folder / "cells").rglob("*.json"))
    read = {str(file.relative_to(folder)): json.loads(file.read_text()) for file in files}
    return {name: {k: v for k, v in found.items() if k not in TIMES} for name, found in read.items()}


def table(study: Study, name: str) -> list[dict[str, str]]:
    with (study.folder / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


# --- the whole path -----------------------------------------------------------------------------------------------


def test_a_study_fills_every_table(finished: Study) -> None:
    for name in TABLES:
        assert table(finished, name), name
    cells = {(row["setting"], row["SAE"], row["L0_asked"], row["seed"]) for row in table(finished, "cells")}
    assert {setting for setting, *_ in cells} == {"a", "r"}
    assert any("batchtopk" in sae for _, sae, *_ in cells)
    paired = table(finished, "paired")
    assert {row["control"] for row in paired if row["setting"] == "a"} == set(SMALL["controls"])
    assert {row["metric"] for row in paired if row["setting"] == "r"} >= {
        "fvu",
        "ce_loss_score",
        "redundancy",
        "dead_share",
    }
    assert {row["metric"] for row in paired if row["setting"] == "a"} >= {"mcc", "feature_f1", "uniqueness"}
    assert {row["sparsifier"] for row in table(finished, "matched")} >= {"topk"}
    (row,) = (r for r in table(finished, "summary") if (r["setting"], r["SAE"]) == ("a", "kan-bend-w32"))
    for name in ("decoder_curvature", "straightened_fvu_lost", "alive_by_coefficients", "parameters", "flops", "bits"):
        assert math.isfinite(float(row[name])), name
    assert float(row["turning_planted"]) == pytest.approx(72)  # of 90 degrees, between the 10 % and 90 % quantiles
    page = (finished.folder / "report.md").read_text()
    assert "Do curves help?" in page
    assert "95 % intervals" in page
    for setting, families in (("a", {"linear", "mlp", "blocks", "kan-bend"}), ("r", {"linear", "kan-bend"})):
        there, planned, whole = re.findall(rf"\| {setting} \| (\d+) of (\d+) \| ([^|]*) \|", page)[0]
        assert int(there) == int(planned) > 0
        assert set(whole.split(", ")) == families
    assert {row["family"] for row in table(finished, "verdicts")} == {"kan-bend"}


def test_the_plot_of_a_setting_shows_the_paired_differences(finished: Study) -> None:
    for setting in ("a", "r"):
        assert f"](fvu-{setting}.svg)" in (finished.folder / "report.md").read_text()
        tips = re.findall(r"<title>([^<]*)</title>", (finished.folder / f"fvu-{setting}.svg").read_text())[1:]
        rows = [r for r in table(finished, "paired") if (r["setting"], r["metric"]) == (setting, "fvu")]
        for control, words in EQUAL.items():
            compared = [r for r in rows if r["control"] == control]
            shown = [tip for tip in tips if f", {words}: " in tip]
            assert len(shown) == len(compared) > 0
            for row, tip in zip(compared, shown, strict=True):
                assert tip.startswith(f"{row['family']} L0 {row['L0']}, {words}: ")
                assert float(re.split("[ :]+", tip.split(words)[1])[1]) == pytest.approx(
                    1 + float(row["percent"]) / 100, rel=6e-3
                )


def test_results_hold_no_path_of_this_machine(finished: Study, design_path: Path) -> None:
    files = [
        f for f in finished.folder.rglob("*") if f.suffix in (".json", ".csv", ".md") and "activations" not in f.parts
    ]
    assert not [file for file in files if str(design_path.parent) in file.read_text()]


def test_every_sae_of_a_seed_sees_the_same_batches_and_is_tuned_elsewhere(finished: Study) -> None:
    planted, real = finished.settings["a"], finished.settings["r"]
    assert not {tuple(row) for row in planted.report.tolist()} & {tuple(row) for row in planted.tuning.tolist()}
    assert isinstance(real, Real)
    report, tuning = ({int(d) for batch in part for d in batch.documents.unique()} for part in real._held_out)
    assert len(report & tuning) <= 1  # the document at the border
    assert all(document % 20 == 19 for document in report | tuning)  # those held out
    variants = [Variant("linear", 32), Variant("kan-bend", 32), Variant("linear", 48)]
    for name, setting in finished.settings.items():
        streams = []
        for variant in variants[: 2 if name == "r" else 3]:
            config = finished.grids[name].config(variant, 4, seed=1)
            pool = next(iter(setting.source(config).pools()))
            streams.append(next(pool.batches(config.batch, config.data_seed)).x)
        (site,) = streams[0]
        assert all(torch.equal(stream[site], streams[0][site]) for stream in streams)
    tuned = {cell.seed for cell in finished.tuned(finished.main())}
    assert tuned == {finished.design.tuning.seed}
    assert not tuned & {*finished.design.seeds, *finished.design.confirm}


def test_what_is_finished_is_never_run_again(finished: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    before = numbers_in(finished.folder)
    monkeypatch.setattr(module, "train", lambda *_: pytest.fail("a finished cell was trained again"))
    again = Study(finished.design, finished.folder)
    assert run_study(again, quiet=True)[1]
    assert numbers_in(finished.folder) == before


def test_a_killed_study_goes_on_to_the_same_numbers(finished: Study, design_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["study", design_path, "--out", out, "--only", "a,blocks"]
    child = Child(words, tmp_path / "logs")
    child.until(lambda: len(list((out / "cells").rglob("*.json"))) >= 2)
    child.send(signal.SIGKILL)
    child.process.join(60)
    done = {file: file.stat().st_mtime_ns for file in (out / "cells").rglob("*.json")}
    assert 2 <= len(done) < len(finished.tuned(finished.main()))
    (out / ".scratch" / "a" / "left-behind").mkdir(parents=True, exist_ok=True)
    study = open_study(str(design_path), out, only=["a", "blocks"])
    assert run_study(study, quiet=True)[1]
    assert all(file.stat().st_mtime_ns == at for file, at in done.items())
    expected = numbers_in(finished.folder)
    found = {name: numbers for name, numbers in numbers_in(out).items() if "seeds" not in name}
    assert any("blocks-w32-k4-s1.json" in name for name in found)
    assert found == {name: expected[name] for name in found}


def test_two_processes_share_the_work(design_path: Path, tmp_path: Path) -> None:
    out, words = tmp_path / "out", ["study", design_path, "--out", tmp_path / "out", "--only", "a,blocks"]
    children = [Child(words, tmp_path / f"logs-{i}") for i in range(2)]
    answers = [child.wait() for child in children]
    assert [answer.code for answer in answers] == [0, 0]
    ran = [re.findall(r"left  (\S+):", answer.err) for answer in answers]
    cells = [p for p in (out / "cells" / "a").iterdir() if p.suffix == ".json"]
    assert len(ran[0]) + len(ran[1]) == len({*ran[0], *ran[1]}) == len(cells)
    assert not set(ran[0]) & set(ran[1])


def test_the_time_may_be_up(design_path: Path, tmp_path: Path) -> None:
    study = open_study(str(design_path), tmp_path / "out", only=["a", "blocks"])
    report, done = run_study(study, budget=0, quiet=True)
    assert not done
    assert "Nothing is finished here yet" in report.read_text()
    assert re.search(r"\| a \| 0 of \d+ \| none \|", report.read_text())


def test_a_training_that_breaks_down_is_a_result(
    design_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module.train

    def breaks(config: Any, *rest: Any) -> Any:
        if config.decoder == "kan-bend":
            raise KanaryError("Training of sae broke down.") from FloatingPointError()
        return real(config, *rest)

    monkeypatch.setattr(module, "train", breaks)
    study = open_study(str(design_path), tmp_path / "out", only=["r", "kan-bend"])
    assert run_study(study, quiet=True)[1]
    found = study.read(Cell("r", Variant("kan-bend", 32), 4, 0))
    assert found is not None
    assert "broke down" in found["failed"]
    assert [(row["r"], row["outcome"]) for row in table(study, "verdicts")] == [("loss", "loss")]
    assert "Trainings that broke down, which count as losses: r/kan-bend-w32-k4-s0" in (
        study.folder / "report.md"
    ).read_text(encoding="utf-8")


def test_a_folder_of_another_design_is_refused(finished: Study, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished.folder / "cells", out / "cells")
    values = yaml.safe_load(yaml.safe_dump(SMALL))
    values["settings"]["a"]["tokens"] = 640
    path = tmp_path / "other.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(KanaryError, match="another recipe: tokens was"):
        run_study(open_study(str(path), out), quiet=True)


def test_numbers_of_another_model_are_refused(finished: Study, design_path: Path) -> None:
    cell = Cell("r", Variant("linear", 32), 4, 0)
    assert open_study(str(design_path), finished.folder).read(cell) is not None
    study = open_study(str(design_path), finished.folder)
    setting = study.settings["r"]
    assert isinstance(setting, Real)
    with torch.no_grad():
        next(setting.lm.model.parameters()).add_(0.1)
    with pytest.raises(KanaryError, match="another recipe: setting_model_fingerprint was"):
        study.read(cell)


def test_what_seeds_have_in_common_outlives_their_latents(finished: Study, tmp_path: Path) -> None:
    """Numbers are handed on without the tensors they were made from."""
    role = Role(Variant("kan-bend", 32), 4)
    expected = finished.compare_seeds("r", role)
    assert expected is not None
    shutil.copytree(finished.folder / "cells", tmp_path / "cells")
    assert Study(finished.design, tmp_path).compare_seeds("r", role) == expected
    shutil.rmtree(tmp_path / "cells" / "seeds")
    assert Study(finished.design, tmp_path).compare_seeds("r", role) is None


def test_what_decides_comes_first(finished: Study) -> None:
    cells = finished.main()
    assert len(cells) == len(set(cells))
    decide = {
        Cell(name, role, k, seed)
        for name, grid in finished.grids.items()
        for (family, k), roles in grid.roles.items()
        for role in (grid.base(family), *(roles[c].variant for c in finished.design.decides if c in roles))
        for seed in finished.design.seeds
    }
    assert set(cells[: len(decide)]) == decide
    assert len(cells) > len(decide)


def test_the_plan_counts_what_is_left(finished: Study, design_path: Path, tmp_path: Path) -> None:
    done = plan(finished)
    assert {part.stage for part in done} >= {"tuning", "main", "all sparsifiers"}
    assert sum(part.left for part in done) == 0
    planned = {cell for stage in (finished.main, finished.sparsifiers, finished.confirming) for cell in stage()}
    assert sum(part.cells for part in done if part.stage != "tuning") == len(planned)
    fresh = plan(open_study(str(design_path), tmp_path / "out", only=["a", "blocks"]))
    assert [(part.stage, part.cells, part.left) for part in fresh if part.setting == "a"] == [
        ("tuning", 2, 2),
        ("main", 2, 2),
    ]
    assert all(part.seconds > 0 for part in fresh if part.left)
    assert "several processes" in list(lines(fresh))[-1]


# --- what people type ---------------------------------------------------------------------------------------------


def test_mistakes_are_named(tmp_path: Path, design_path: Path) -> None:
    assert "There is no study 'kna'. Did you mean 'kan'?" in kanary("study", "kna").message
    answer = kanary("study", design_path, "--out", tmp_path, "--only", "kan-bent")
    assert "Did you mean 'kan-bend'?" in answer.message
    values = {**SMALL, "families": {**SMALL["families"], "x": {"against": ["widht"]}}}
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(KanaryError, match=r"families\.x\.against names 'widht'\. Did you mean 'width'"):
        read_design(path)
    path.write_text(yaml.safe_dump({**SMALL, "seeds": [0, 2]}))
    with pytest.raises(KanaryError, match="must share no seed"):
        read_design(path)


def test_what_is_not_there_is_left_out_and_said(tmp_path: Path) -> None:
    values = {
        **SMALL,
        "settings": {**SMALL["settings"], "d": {"real": True, "title": "elsewhere", "site": "resid_post.2"}},
        "families": {**SMALL["families"], "mine": {"encoder": "my-own"}},
    }
    path = tmp_path / "design.yaml"
    path.write_text(yaml.safe_dump(values))
    study = open_study(str(path), tmp_path / "out")
    assert list(study.settings) == ["a"]
    assert study.notes == [
        "d (elsewhere) is left out: no model and text were given.",
        "mine is left out: there is no part 'my-own'.",
    ]


def test_what_wins_is_trained_again_with_new_seeds(finished: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "winners", lambda *_: [("r", "kan-bend")])
    cells = finished.confirming()
    roles = finished.grids["r"].roles["kan-bend", 4]
    assert {cell.seed for cell in cells} == {2, 3}
    assert {Role(cell.variant, cell.l0) for cell in cells} == {
        Role(Variant("kan-bend", 32), 4),
        roles["parameters"],
        roles["flops"],
    }


def test_only_chooses_where_all_sparsifiers_are_trained(finished: Study, design_path: Path) -> None:
    def of(*only: str) -> Study:
        return open_study(str(design_path), finished.folder, only=only)

    assert {cell.variant.sparsifier for cell in of("matched").sparsifiers()} == {"batchtopk"}
    assert of("matched").main() == []
    assert of("a", "matched").sparsifiers() == of("matched").sparsifiers()
    assert of("r", "matched").sparsifiers() == []  # not a setting of that stage
    assert of("a").sparsifiers() == []


def test_without_scipy_no_cell_is_begun(design_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    answer = kanary("study", design_path, "--out", tmp_path / "out")
    assert (answer.code, answer.out) == (2, "")
    assert 'pip install -e ".[eval]"' in answer.err
    assert not (tmp_path / "out").exists()


def test_all_sparsifiers_wait_for_the_best_family_and_say_so(design_path: Path, tmp_path: Path) -> None:
    answer = kanary("study", design_path, "--out", tmp_path / "out", "--only", "matched")
    assert answer.code == 0
    assert "All sparsifiers at matched L0. Not begun" in answer.err
    assert "name one as `best`" in (tmp_path / "out" / "report.md").read_text()
    values = yaml.safe_load(design_path.read_text())
    values["matched"]["best"] = "kan-bend"
    named = tmp_path / "named.yaml"
    named.write_text(yaml.safe_dump(values))
    assert {
        cell.variant.family for cell in open_study(str(named), tmp_path / "new", only=["matched"]).sparsifiers()
    } == {
        "linear",
        "kan-bend",
    }


def test_all_sparsifiers_are_read_at_one_l0(finished: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers that are linear in log L0 are read off exactly at an L0 that nothing hit."""
    matched = dataclasses.replace(finished.design.matched, targets=(3, 5))
    monkeypatch.setattr(finished, "design", dataclasses.replace(finished.design, matched=matched))
    numbers: dict[Cell, dict[str, Any]] = {}
    for cell in finished._sparsifiers("kan-bend"):
        gain, l0 = 0.1 if cell.variant.family == "kan-bend" else 0.0, 1.1 * cell.l0
        numbers[cell] = {"l0": l0, "fvu": 1 - 0.2 * math.log(l0) - gain - 0.001 * cell.seed}
    monkeypatch.setattr(Study, "numbers", lambda *_: Numbers(numbers))
    monkeypatch.setattr(finished, "best", lambda: "kan-bend")
    found = [each for each in Findings.of(finished).at_l0 if each.sparsifier == "batchtopk" and each.metric == "fvu"]
    assert found
    for each in found:
        assert each.difference.mean == pytest.approx(-0.1)
        assert each.difference.theirs == pytest.approx(1 - 0.2 * math.log(4) - 0.0005)


def test_a_claim_is_let_go_of(tmp_path: Path) -> None:
    first, second = Results(tmp_path), Results(tmp_path)
    with first.claim("x") as ours:
        assert ours
        with second.claim("x") as theirs:
            assert not theirs
        with second.claim("y") as theirs:
            assert theirs
    with second.claim("x") as theirs:
        assert theirs
