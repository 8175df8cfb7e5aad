"""Evaluation on the labelled corpus: from the command to the table, the report and the Python object."""

import csv
import dataclasses
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

import kanary as library
from kanary.evaluation import evaluate, numbers
from kanary.evaluation.concepts import measure
from kanary.evaluation.concepts.ground_truth import ground_truth, steps
from kanary.evaluation.pages.concepts import concept_tables
from kanary.evaluation.pages.report import report
from kanary.evaluation.result import Evaluation
from kanary.evaluation.standin import Spliced
from kanary.evaluation.tables import CONCEPTS
from kanary.lm import LanguageModel
from kanary.sae import SAE, SAEConfig
from labelled_sample import SITE, labelled_sample
from runs import kanary, small

FAMILIES = "labelled:hebrew,spanish,weather"


@pytest.fixture(scope="module", autouse=True)
def few_tokens() -> Iterator[None]:
    """Controls are fitted to few tokens: what they score is not looked at here."""
    with patch.object(numbers, "_FIT_TOKENS", 1000):
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    library.train(**small(tiny_llama, Path("."), out=folder, eval_tokens=0) | {"text": FAMILIES}, quiet=True)
    return folder


@pytest.fixture(scope="module")
def found(run: Path) -> Evaluation:
    return library.evaluate(run, tokens="1K", loss_tokens=0, prompts=0, concept_tokens="8K", quiet=True)


def test_every_row_says_what_the_others_say(run: Path, found: Evaluation) -> None:
    truth = found.concepts
    assert truth is not None
    said = json.loads((run / "metrics.json").read_text())["concepts"]
    assert said == truth.to_json()
    assert said["text"] == FAMILIES
    assert set(said["measurable"]) & set(said["too_rare"]) == set()
    with (run / "concepts.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == list(CONCEPTS)
    assert {(row["name"], row["concept"]) for row in table} == {
        (name, concept) for name in truth.concepts.rows for concept in truth.concepts.measurable
    }
    for row in table:
        best = truth.concepts.rows[row["name"]].found[row["concept"]]
        assert (int(row["unit"]), float(row["auroc"])) == (best.unit, best.auroc.value)
        assert (row["is_control"] == "false") == (row["name"] == "topk")


def test_controls_stand_beside_the_sae_and_shuffled_labels_score_chance(found: Evaluation) -> None:
    truth = found.concepts
    assert truth is not None
    rows = set(truth.rows)
    assert {"topk", "shuffled labels (topk)", f"neurons at {SITE}", f"random directions at {SITE}"} <= rows
    assert {"random twin of topk", "untrained twin of topk"} <= rows
    assert any(name.startswith("PCA") for name in rows)
    assert not any(name.startswith("identity") for name in rows)
    shuffled = truth.summary("shuffled labels (topk)")
    for key in ("mean_auroc", "probing_accuracy_1", "probing_accuracy_5"):
        assert abs(shuffled[key].value - 0.5) < 0.05, key
    assert set(truth.probes[f"neurons at {SITE}"]) == {"1", "2", "5", "all"}
    neurons = truth.summary(f"neurons at {SITE}")
    assert neurons["probing_accuracy_all"].value > neurons["probing_accuracy_1"].value > 0.5


def test_every_table_speaks_of_the_same_concepts(found: Evaluation) -> None:
    truth = found.concepts
    assert truth is not None
    measurable = set(truth.concepts.measurable)
    assert any("from" in why and "documents" in why for why in truth.concepts.too_rare.values()), "tokens alone suffice"
    assert set(truth.probes) == set(truth.concepts.rows) - {f"random directions at {SITE}"}
    for name, probes in truth.probes.items():
        assert set(probes) == {"1", "2", "5"} | ({"all"} if name.startswith("neurons") else set())
        for probed in probes.values():
            assert set(probed.scores) == measurable
    assert set(truth.absorptions) == {"topk", "untrained twin of topk", "random twin of topk"}
    for absorption in truth.absorptions.values():
        assert measurable >= {*absorption.parents, *absorption.left_out}
        assert measurable >= {child for parent in absorption.parents.values() for child in parent.by_child}


def test_every_n_has_its_unit(found: Evaluation) -> None:
    tables = concept_tables(found, "topk")
    assert tables is not None
    (_, summaries), (_, concepts) = tables.groups
    said = {row.name: row.n for row in summaries}
    assert found.concepts is not None
    summary = found.concepts.summary("topk")
    measurable = len(found.concepts.concepts.measurable)
    assert said["mean_auroc"] == said["mean_f1"] == said["recall_at_0.9"] == f"{measurable} concepts"
    assert said["monosemanticity"] == f"{summary['monosemanticity'].n} latents"
    assert said["probing_accuracy_1"] == f"{summary['probing_accuracy_1'].n:,} tokens"
    assert said["probing_accuracy_all"].endswith(" tokens")
    assert all(re.fullmatch(r"[\d,]+ (concepts?|graded concepts?|latents?|tokens?|parents?)", n) for n in said.values())
    assert all(row.explanation for row in summaries)
    mine = found.concepts.concepts.rows["topk"].found
    assert {row.name: row.n for row in concepts} == {name: f"{each.positives:,} tokens" for name, each in mine.items()}


def test_the_report_says_which_control_is_left_out(found: Evaluation) -> None:
    truth = found.concepts
    assert truth is not None
    twin = "untrained twin of topk"
    rows = {name: row for name, row in truth.concepts.rows.items() if name != twin}
    concepts = dataclasses.replace(truth.concepts, rows=rows, left_out={twin: "60 of its 64 latents are active"})
    probes = {name: each for name, each in truth.probes.items() if name != twin}
    page = report(dataclasses.replace(found, concepts=dataclasses.replace(truth, concepts=concepts, probes=probes)))
    assert re.search(r"Left out: untrained twin.*?\. 60 of its 64 latents are active\.", page)
    assert "Left out" not in report(found)
    assert "random directions have no probes" in report(found)


def test_the_report_shows_them(run: Path, found: Evaluation) -> None:
    page = (run / "report.html").read_text()
    assert found.concepts is not None
    assert all(concept.partition(".")[2].split("_")[0] in page for concept in found.concepts.concepts.measurable)
    for best in found.concepts.concepts.rows["topk"].found.values():
        assert f"latent {best.unit}" in page
    assert "shuffled labels" in page


def test_another_text_has_none_and_they_can_be_left_out(run: Path, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("It rained in the morning. " * 400)
    answer = kanary(
        "evaluate", run, "--text", tmp_path / "other.txt", "--tokens", "500", "--loss-tokens", "0", "--prompts", "0",
        "--out", tmp_path / "elsewhere",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert "concepts" not in json.loads((tmp_path / "elsewhere" / "metrics.json").read_text())
    assert not (tmp_path / "elsewhere" / "concepts.csv").exists()
    out = str(tmp_path / "without")
    without = library.evaluate(run, tokens=500, loss_tokens=0, prompts=0, concept_tokens=0, out=out, quiet=True)
    assert without.concepts is None


def test_too_few_tokens_say_so_and_lose_nothing(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "few")
    few = library.evaluate(
        run, tokens=200, loss_tokens=0, prompts=0, concept_tokens=60, lm_batch=1, out=out, quiet=True
    )
    assert few.concepts is None
    assert "None of 141 concepts" in capsys.readouterr().err
    assert "concepts" not in json.loads((tmp_path / "few" / "metrics.json").read_text())


def test_a_tokenizer_that_cannot_be_aligned_is_said_before_anything_is_measured(
    run: Path,
    tiny_lm: LanguageModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    said: list[str] = []

    def measured(*args: Any, **options: Any) -> Any:
        said.append(capsys.readouterr().err)
        return numbers.numbers(*args, **options)

    monkeypatch.setattr(evaluate, "numbers", measured)
    monkeypatch.setattr(type(tiny_lm.tokenizer), "is_fast", False, raising=False)
    out = str(tmp_path / "out")
    without = library.evaluate(run, tokens=200, loss_tokens=0, prompts=0, lm_batch=1, out=out, quiet=True)
    assert without.concepts is None
    (line,) = said[0].splitlines()
    assert line.startswith("No concepts are looked for (--concept-tokens 200000): ")
    assert "labels cannot be aligned" in line
    assert capsys.readouterr().err == ""


def test_a_planted_direction_is_the_best_latent_for_its_concept(
    tiny_lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = labelled_sample(tiny_lm)
    names = ("domain.weather", "domain.code", "language.foreign", "language.hebrew")
    columns = [read.concepts.index(name) for name in names]
    x, held = read.x[SITE].clone(), {"labels": read.labels[:, columns], "judged": read.judged[:, columns]}
    labelled = dataclasses.replace(read, x={SITE: x}, concepts=names, values=read.values[:, :0], graded=(), **held)
    direction = torch.zeros(x.shape[1])
    direction[3] = 50 * float(x.norm(dim=1).mean())
    x[labelled.labels[:, 0]] += direction
    sae = SAE(SAEConfig(x.shape[1], 32, sparsifier={"name": "topk", "k": 4}, trained_on={"site": SITE}))
    with torch.no_grad():
        others = torch.randn(32, x.shape[1], generator=torch.Generator().manual_seed(0))
        others[:, 3] = 0  # they do not see what is planted
        sae.decoder.begin(torch.nn.functional.normalize(others, dim=1))
        sae.W_dec[17] = direction / direction.norm()
        sae.encoder.tie(sae.decoder.W_dec)
    dense = SAE(SAEConfig(x.shape[1], 32, sparsifier={"name": "relu"}))
    with torch.no_grad():
        dense.encoder.b_enc.fill_(1e3)
    twins = {"untrained twin": Spliced(SITE, dense)}
    monkeypatch.setattr(measure, "FIRINGS", 8 * len(x))
    calls: list[int] = []
    found = ground_truth(labelled, {"planted": sae.eval()}, twins, show=calls.append)
    best = found.concepts.rows["planted"].found["domain.weather"]
    assert best.unit == best.f1_unit == 17
    assert best.auroc.value > 0.99
    assert best.f1.value > 0.99
    assert found.probes["planted"]["1"].scores["domain.weather"].accuracy.value > 0.99
    assert sum(calls) == steps({"planted": sae}, twins)
    assert found.to_json()["left_out"] == found.concepts.left_out
    assert found.concepts.left_out["untrained twin"].startswith("32 of its 32 latents are active")
    assert "untrained twin" not in found.rows
    neuron = found.concepts.rows[f"neurons at {SITE}"].found["domain.weather"]
    assert (neuron.unit, neuron.sign) == (3, 1)
    assert math.isfinite(found.summary("planted")["mean_auroc"].low)
