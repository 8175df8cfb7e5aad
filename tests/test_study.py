"""`kanary study`: a cell is done once, whoever is killed; costs are equal where they should be; the rule says what it says."""

import csv
import dataclasses
import json
import math
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from scipy import stats
from torch.utils.flop_counter import FlopCounterMode

from kanary.errors import KanaryError
from kanary.lab import blocks
from kanary.lab.study import run as module
from kanary.lab.study.across import across, spearman
from kanary.lab.study.cells import Cell, Grid, Role, Variant
from kanary.lab.study.cost import TOLERANCE, bits, cost, flops
from kanary.lab.study.design import Design, find_design, read_design
from kanary.lab.study.findings import Findings
from kanary.lab.study.folder import Results
from kanary.lab.study.judgement import Numbers, best_family, curves_are_real, verdicts, winners
from kanary.lab.study.measure import Latents, best_cosines, fidelity
from kanary.lab.study.plan import lines, plan
from kanary.lab.study.run import Study, open_study, run_study
from kanary.lab.study.settings import Real
from kanary.lab.study.tables import TABLES
from kanary.lab.study.verdict import at_level, difference, in_setting, outcome, over_settings
from kanary.sae import SAE, SAEConfig
from kanary.sae.parts import SPARSIFIERS, Active, import_parts
from runs import Child, kanary, write_stories

TIMES = {"seconds", "cpu_seconds", "peak_mb", "measuring_seconds"}


@pytest.fixture(autouse=True, scope="module")
def _blocks() -> Iterator[None]:
    """The study's own sparsifier is known while these tests run, and not to others."""
    import_parts()
    blocks.register()
    yield
    SPARSIFIERS.pop(blocks.NAME)


SMALL: dict[str, Any] = {
    "seeds": [0, 1],
    "confirm": [2, 3],
    "tuning": {"rates": [1.0, 2.0], "share": 0.5},
    "decides": ["parameters", "flops"],
    "settings": {
        "a": {
            "title": "planted",
            "synthetic": {"features": 24, "d_model": 16, "active": 3, "curved": 0.5, "noise": 0.05},
            "width": 32,
            "l0": [4],
            "tokens": 512,
            "batch": 64,
            "report_tokens": 512,
            "tuning_tokens": 256,
        }
    },
    "controls": {
        "width": {"of": "linear"},
        "parameters": {"of": "linear", "solve": "width"},
        "flops": {"of": "linear", "solve": "width", "equal": "flops"},
        "bits": {"of": "linear", "solve": "width", "bits": True},
        "mlp": {"of": "mlp", "solve": "hidden"},
        "blocks": {"of": "blocks", "solve": "width"},
    },
    "families": {
        "linear": {},
        "mlp": {"encoder": "mlp"},
        "blocks": {"sparsifier": "blocks"},
        "kan-bend": {
            "encoder": "linear",
            "decoder": "kan-bend",
            "kan": True,
            "against": ["width", "parameters", "flops", "bits", "mlp", "blocks"],
        },
    },
    "matched": {"settings": ["a"], "sparsifiers": ["batchtopk"], "targets": [4]},
    "questions": [{"ask": "Do curves help?", "families": ["kan-bend"], "against": ["width", "blocks"]}],
}


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
    assert {row["family"] for row in table(finished, "verdicts")} == {"kan-bend"}


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
    assert {row["outcome"] for row in table(study, "verdicts")} == {"no verdict"}


def test_a_folder_of_another_design_is_refused(finished: Study, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished.folder / "cells", out / "cells")
    values = yaml.safe_load(yaml.safe_dump(SMALL))
    values["settings"]["a"]["tokens"] = 640
    path = tmp_path / "other.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(KanaryError, match="another recipe: tokens was"):
        run_study(open_study(str(path), out), quiet=True)


def test_the_plan_counts_what_is_left(finished: Study, design_path: Path, tmp_path: Path) -> None:
    done = plan(finished)
    assert sum(part.left for part in done if part.stage != "all sparsifiers") == 0
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


# --- costs --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kan() -> Design:
    return read_design(find_design("kan"), settings={name: {"l0": [16]} for name in "abcd"})


@pytest.mark.parametrize(("setting", "d_model"), [("a", 96), ("c", 256), ("d", 64)])
def test_controls_cost_as_much_within_one_percent(kan: Design, setting: str, d_model: int) -> None:
    grid = Grid(kan, setting, d_model)
    assert not grid.missing
    judged = 0
    for (family, k), roles in grid.roles.items():
        ours = grid.cost(grid.base(family), k)
        assert set(roles) == set(kan.families[family].against)
        for control, role in roles.items():
            of, theirs = kan.controls[control], grid.cost(role.variant, k)
            if of.solve:
                assert getattr(theirs, of.equal) == pytest.approx(getattr(ours, of.equal), rel=TOLERANCE), (
                    family,
                    control,
                )
                judged += 1
            if of.bits:
                nearest = min(range(1, 65), key=lambda n: abs(bits(role.variant.width, n) - ours.bits))
                assert role.l0 == nearest
            else:
                assert role.l0 == k
    assert judged > 30


def test_parameters_are_those_of_the_modules() -> None:
    d, n, units, knots = 16, 40, 5, 8
    for encoder, more in (("linear", 0), ("mlp", units * (d + 1 + n)), ("kan-hidden", units * (d + 1 + n + knots))):
        options = {} if encoder == "linear" else {"hidden": units}
        sae = SAE(SAEConfig(d, n, encoder={"name": encoder, **options}, sparsifier={"name": "topk", "k": 4}))
        assert cost(sae, 4, 64).parameters == 2 * d * n + n + d + more


@pytest.mark.parametrize("encoder", ["linear", "mlp", "kan-node", "kan-hidden", "kan-edge"])
def test_flops_that_grow_with_the_width_are_two_for_every_weight_of_the_encoder(encoder: str) -> None:
    """Scores of all latents are the full matrix products; where torch can count them, it counts as many."""
    d, tokens, k = 16, 32, 4

    def counts(n: int) -> tuple[float, float, float]:
        sae = SAE(SAEConfig(d, n, encoder={"name": encoder}, sparsifier={"name": "topk", "k": k}))
        weights = sum(p.numel() for p in sae.encoder.parameters() if p.ndim > 1)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            sae.encoder(torch.randn(tokens, d))
        return flops(sae, k), 2 * weights, counter.get_total_flops() / tokens

    formula, weights, counted = (b - a for a, b in zip(counts(64), counts(128), strict=True))
    functions = 2 * 64 * 7 if encoder == "kan-node" else 0  # its coefficients are read at the active entries only
    assert formula == weights - functions
    if encoder in ("linear", "mlp", "kan-hidden"):  # torch does not see products that are added in place
        assert counted == formula


def test_bits_of_index_are_exact() -> None:
    for n, k in ((64, 1), (512, 8), (1000, 32)):
        assert bits(n, k) == pytest.approx(math.log2(math.comb(n, k)))


# --- pairs of latents ---------------------------------------------------------------------------------------------


def test_blocks_choose_pairs_by_their_length_and_keep_signs() -> None:
    part = blocks.Blocks(8, 8, blocks.BlockOptions(k=4))
    pre = torch.tensor([[0.1, 0.2, -3.0, 0.1, 1.0, 1.0, 0.0, 1.3], [5.0, -5.0, 0.0, 0.0, 0.0, 0.1, -1.0, 0.0]])
    latents, counts = part.select(pre)
    assert counts.tolist() == [4, 4]
    assert [sorted(row) for row in latents.view(2, 4).tolist()] == [[2, 3, 4, 5], [0, 1, 6, 7]]
    assert part.mask(pre).nonzero()[:, 1].view(2, 4).tolist() == [[2, 3, 4, 5], [0, 1, 6, 7]]
    assert torch.equal(part.activate(Active(pre, None, pre)), pre)
    with pytest.raises(KanaryError, match="must be even"):
        blocks.Blocks(8, 8, blocks.BlockOptions(k=3))


def test_a_pair_of_latents_reaches_a_whole_plane() -> None:
    """On points of a few planes, pairs with two active numbers do what TopK with two cannot."""
    draw = torch.Generator().manual_seed(0)
    planes = torch.linalg.qr(torch.randn(8, 8, generator=draw)).Q.view(8, 4, 2)
    which = torch.randint(4, (4096,), generator=draw)
    x = torch.einsum("tdp,tp->td", planes.permute(1, 0, 2)[which], torch.randn(4096, 2, generator=draw))
    sae = SAE(SAEConfig(8, 8, sparsifier={"name": "blocks", "k": 2}))
    with torch.no_grad():
        directions = planes.permute(1, 2, 0).reshape(8, 8)
        sae.decoder.begin(directions)
        sae.encoder.tie(directions)
    found = fidelity(sae, x)
    assert found.l0 == 2
    assert found.fvu < 1e-9
    assert bool((sae.encode(x).values < 0).any())


# --- differences and the rule -------------------------------------------------------------------------------------


def test_the_interval_is_that_of_a_paired_t_test() -> None:
    ours, theirs = {0: 0.51, 1: 0.49, 2: 0.47, 3: 9.0}, {0: 0.55, 1: 0.5, 2: 0.52, 4: 9.0}
    found = difference(ours, theirs)
    both = [0, 1, 2]
    expected = stats.ttest_rel([ours[s] for s in both], [theirs[s] for s in both]).confidence_interval(0.95)
    assert (found.n, found.mean) == (3, pytest.approx(-0.1 / 3))
    assert (found.low, found.high) == (pytest.approx(expected.low, rel=1e-6), pytest.approx(expected.high, rel=1e-6))
    # by hand: mean -0.0333, deviation 0.0208, t(2) 4.303
    assert found.high == pytest.approx(-0.033333 + 4.302653 * 0.0208167 / math.sqrt(3), abs=1e-6)
    assert found.percent == pytest.approx(100 * found.mean / (1.57 / 3))
    assert difference({0: 1.0}, {0: 2.0}).n == 1
    assert math.isnan(difference({0: 1.0}, {0: 2.0}).low)
    assert difference({0: math.inf, 1: 1.0}, {0: 2.0, 1: 1.0}).n == 1


def test_outcomes() -> None:
    better = difference({0: 1.0, 1: 1.1, 2: 0.9}, {0: 2.0, 1: 2.1, 2: 2.0})
    assert outcome(better, higher_is_better=False) == "win"
    assert outcome(better, higher_is_better=True) == "loss"
    assert outcome(difference({0: 1.0, 1: 2.0}, {0: 1.5, 1: 1.4}), higher_is_better=False) == "tie"
    assert outcome(difference({0: 1.0}, {0: 2.0}), higher_is_better=False) == "no verdict"
    assert at_level(["win", "win"]) == "win"
    assert at_level(["win", "tie"]) == "tie"
    assert at_level(["win", "loss"]) == "loss"
    assert at_level(["win", "no verdict"]) == at_level([]) == "no verdict"
    assert at_level(["win", "win"], veto=["tie", "loss"]) == "mixed"
    assert in_setting(["win", "win", "tie"]) == "win"
    assert in_setting(["win", "tie", "tie"]) == "tie"
    assert in_setting(["win", "win", "loss"]) == in_setting(["win", "win", "mixed"]) == "mixed"
    assert in_setting(["loss", "loss", "tie"]) == "loss"
    assert over_settings(["loss", "win"]) == "win"
    assert over_settings(["loss", "tie"]) == "tie"
    assert over_settings([]) == "no verdict"


def planted(design: Design, grid: Grid, fvu: float, *, ce: float = 0.9, noise: float = 0.001) -> Numbers:
    """The KAN family has ``fvu`` and ``ce``; every control .5 and .9."""
    cells: dict[Cell, dict[str, Any]] = {}
    for role in grid.reported():
        for seed in (*design.seeds, *design.confirm):
            ours = role.variant.family == "kan-bend"
            cells[Cell(grid.name, role.variant, role.l0, seed)] = {
                "fvu": fvu + noise * (1, -1, 0)[seed % 3] if ours else 0.5,
                "tuning_fvu": fvu if ours else 0.5,
                "ce_loss_score": ce + noise * (0, 1, -1)[seed % 3] if ours else 0.9,
            }
    return Numbers(cells)


@pytest.mark.parametrize(
    ("fvu", "ce", "expected", "confirmed"),
    [
        (0.45, 0.9, "win", "win"),
        (0.5, 0.9, "tie", None),
        (0.55, 0.95, "loss", None),
        (0.45, 0.8, "mixed", None),
    ],
)
def test_the_rule_on_planted_numbers(
    tmp_path: Path, fvu: float, ce: float, expected: str, confirmed: str | None
) -> None:
    values = yaml.safe_load(yaml.safe_dump(SMALL)) | {"seeds": [0, 1, 2], "confirm": [3, 4, 5]}
    values["settings"] = {"c": values["settings"]["a"] | {"real": True, "model": "m", "text": "t"}}
    values["matched"] = {}
    path = tmp_path / "design.yaml"
    path.write_text(yaml.safe_dump(values))
    design = read_design(path)
    grids = {"c": Grid(design, "c", 16)}
    numbers = planted(design, grids["c"], fvu, ce=ce)
    (verdict,) = verdicts(numbers, design, grids)
    assert (verdict.outcome, verdict.confirmed) == (expected, confirmed)
    assert verdict.settings == {"c": expected}
    assert verdict.gain == pytest.approx(fvu / 0.5 - 1, abs=0.005)
    assert winners(numbers, design, grids) == ([("c", "kan-bend")] if expected == "win" else [])
    assert best_family(numbers, design, grids) == "kan-bend"


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


def test_all_sparsifiers_are_read_at_one_l0(finished: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers that are linear in log L0 are read off exactly at an L0 that nothing hit."""
    matched = dataclasses.replace(finished.design.matched, targets=(3, 5))
    monkeypatch.setattr(finished, "design", dataclasses.replace(finished.design, matched=matched))
    numbers: dict[Cell, dict[str, Any]] = {}
    for cell in finished._sparsifiers("kan-bend"):
        gain, l0 = 0.1 if cell.variant.family == "kan-bend" else 0.0, 1.1 * cell.l0
        numbers[cell] = {"l0": l0, "fvu": 1 - 0.2 * math.log(l0) - gain - 0.001 * cell.seed}
    monkeypatch.setattr(Study, "numbers", lambda *_: Numbers(numbers))
    monkeypatch.setattr("kanary.lab.study.findings.best_family", lambda *_: "kan-bend")
    found = [each for each in Findings.of(finished).at_l0 if each.sparsifier == "batchtopk" and each.metric == "fvu"]
    assert found
    for each in found:
        assert each.difference.mean == pytest.approx(-0.1)
        assert each.difference.theirs == pytest.approx(1 - 0.2 * math.log(4) - 0.0005)


# --- over seeds ---------------------------------------------------------------------------------------------------


def unit(*shape: int, seed: int) -> torch.Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(drawn, dim=-1)


def test_curves_that_seeds_share_are_told_from_those_they_do_not() -> None:
    direction, bend = unit(40, 16, seed=0), unit(40, 16, seed=1)
    curvature = torch.linspace(0.02, 0.5, 40)
    firings = torch.ones(40, dtype=torch.int64)
    firings[-5:] = 0  # dead latents are no evidence
    a = Latents(direction, bend, curvature, firings)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(2))
    same = Latents(*(column[order] for column in a))
    found = across([a, same])
    assert found.stability == pytest.approx(1)
    assert found.stability_chance < 0.8
    assert (found.matched_share, found.curvature_correlation) == (pytest.approx(1), pytest.approx(1))
    assert found.bend_cosine == pytest.approx(1)
    assert found.bend_cosine_chance < 0.4
    assert curves_are_real(found._asdict()) == "replicate"
    other = same._replace(bend=unit(40, 16, seed=3), curvature=curvature[torch.randperm(40)])
    assert curves_are_real(across([a, other])._asdict()) == "do not replicate"
    straight = a._replace(curvature=torch.zeros(40), bend=torch.zeros(40, 16))
    assert math.isnan(across([straight, straight]).bend_cosine)


def test_rank_correlation_is_spearmans() -> None:
    x, y = torch.tensor([1.0, 2, 2, 5, 3]), torch.tensor([3.0, 1, 4, 4, 9])
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)
    assert math.isnan(spearman(torch.ones(3), x[:3]))


def test_the_best_cosine_leaves_a_row_itself_out() -> None:
    rows = unit(6, 4, seed=0)
    cosines = (rows @ rows.T).abs().fill_diagonal_(0)
    assert torch.allclose(best_cosines(rows[:3], rows, same=True), cosines[:3].amax(1))
    assert torch.allclose(best_cosines(rows, rows), torch.ones(6))


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
