"""The model that comes with Kanary, and ``kanary demo``, which shows the whole path on it."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
import torch

import kanary as library
from kanary import demo as module
from kanary.errors import KanaryError
from kanary.evaluation.concepts.measure import concept_scores
from kanary.evaluation.concepts.sample import sample
from kanary.evaluation.standin import PCA
from kanary.jobs import _lasting
from kanary.lm import load
from kanary.text import Windows, check_text, open_text
from runs import kanary

FOLDER = load.BUNDLED_FOLDER


def test_the_bundled_model_is_small_and_says_how_it_was_made() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 12_000_000
    assert {path.suffix for path in FOLDER.iterdir()} <= {".json", ".jsonl", ".md", ".safetensors"}
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    log = [json.loads(line) for line in (FOLDER / "log.jsonl").read_text().splitlines()]
    assert f"{log[-1]['tokens']:,} tokens" in card
    assert f"{log[-1]['held_out_loss']:.4f}" in card
    assert "| lie |" in card
    assert not re.search(r"/(tmp|home|root|work)/", card + (FOLDER / "config.json").read_text())


def test_the_bundled_model_has_its_own_name_everywhere_and_knows_its_text() -> None:
    lm = library.load_model("bundled", device="cpu")
    assert (lm.name, lm.tokenizer_name) == ("bundled", "bundled")
    assert str(lm.dtype) == "torch.float32"  # exact, and quick on every machine
    text = open_text("labelled")
    check = check_text(lm, next(Windows(text, lm, window=128, batch=16, part="heldout")))
    log = [json.loads(line) for line in (FOLDER / "log.jsonl").read_text().splitlines()]
    assert check.loss_nats < 1.3 * log[-1]["held_out_loss"] + 0.1


def test_the_bundled_model_has_no_revisions(tmp_path: Path) -> None:
    with pytest.raises(KanaryError, match=r"'bundled' comes with Kanary and has no revisions, .*'main'.* Leave it out"):
        library.load_model("bundled", revision="main")
    answer = kanary(
        "train", "--model", "bundled", "--revision", "v1", "--site", "resid_post.1", "--text", "labelled",
        "--out", tmp_path / "r",
    )  # fmt: skip
    assert "revision='v1'" in answer.message
    assert not (tmp_path / "r").exists()


def test_a_folder_called_bundled_is_reached_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bundled").mkdir()
    monkeypatch.chdir(tmp_path)
    assert library.load_model("bundled", device="cpu").name == "bundled"
    for name in ("./bundled", Path("bundled")):
        with pytest.raises(KanaryError, match=r"not a model: it has no config\.json"):
            library.load_model(name)
    shutil.copytree(FOLDER, tmp_path / "bundled", dirs_exist_ok=True)
    assert library.load_model("./bundled", device="cpu").name == str(tmp_path / "bundled")
    (tmp_path / "labelled").mkdir()
    assert (_lasting("bundled"), _lasting("labelled@3")) == ("bundled", "labelled@3")
    assert _lasting("./bundled") == str(tmp_path / "bundled")


def test_an_installation_without_the_model_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(load, "BUNDLED_FOLDER", tmp_path)
    answer = kanary(
        "train", "--model", "bundled", "--site", "resid_post.1", "--text", "labelled", "--out", tmp_path / "r"
    )
    assert answer.code == 2
    assert str(tmp_path / "model.safetensors") in answer.err
    assert "pip install" in answer.err
    assert "tools/" not in answer.err  # what is installed has none
    assert not (tmp_path / "r").exists()


def test_the_demo_trains_judges_and_names_latents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "WIDTH": 256,
        "TOKENS": 8192,
        "JUDGED": 2000,
        "LOSSES": 500,
        "PROMPTS": 4,
        "CONCEPTS": 8000,
    }.items():
        monkeypatch.setattr(module, name, value)
    answer = kanary("demo", "--out", tmp_path / "run")
    assert answer.code == 0, answer.err
    truth = json.loads((tmp_path / "run" / "metrics.json").read_text())["concepts"]
    named = [line for line in answer.out.splitlines() if re.match(r"  [a-z]+\.\w+ ( +\S+ \(−?\d+\)){8}$", line)]
    assert named
    with (tmp_path / "run" / "concepts.csv").open(newline="") as file:
        table = {(row["name"], row["concept"]): row for row in csv.DictReader(file)}
    for line in named:
        concept, auroc, unit, f1, f1_unit = line.split()[:5]
        row = table["jumprelu", concept]
        assert (unit, f1_unit) == (f"({row['unit']})", f"({row['f1_unit']})")
        assert abs(float(auroc) - float(row["auroc"])) < 6e-4
        assert abs(float(f1) - float(row["f1"])) < 6e-4
    assert {line.split()[0] for line in named} == set(module.SHOWN) & set(truth["measurable"])
    shuffled = re.search(r"shuffled labels \(topk\) +mean AUROC (\.\d+)", answer.out)
    assert shuffled
    assert abs(float(shuffled[1]) - truth["rows"]["shuffled labels (topk)"]["mean_auroc"]["value"]) < 6e-4
    assert (tmp_path / "run" / "report.html").is_file()
    assert f"kanary check {tmp_path / 'run'}" in answer.out
    again = kanary("demo", "--out", tmp_path / "run")
    assert again.code == 2
    assert "already holds a run" in again.err


def test_at_least_ten_concepts_of_the_demos_table_are_frequent_enough() -> None:
    lm = library.load_model("bundled", device="cpu")
    read = sample(lm, open_text("labelled"), [module.SITE], tokens=module.CONCEPTS, concepts=module.SHOWN)
    pca = PCA(module.SITE, torch.zeros(lm.d_model), torch.eye(lm.d_model)[:, :2])
    found = concept_scores(read, {}, {"PCA": pca})
    assert len(found.measurable) >= 10


def test_the_examples_on_the_corpus_page_run_as_they_stand(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).resolve().parent.parent / "docs" / "labelled-corpus.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(block, {})
    printed = capsys.readouterr().out
    assert "honesty.lie honesty.claim None" in printed
