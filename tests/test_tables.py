"""The CSV files say what the evaluation says, whatever the texts in it are."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kanary.evaluation.result import Answer, Capability, Details, Evaluation, LatentTable, Metric, Prompt
from kanary.evaluation.tables import LOSSES, guarded, write_tables

D_SAE = 5
NAN = float("nan")
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def some_details(seed: int = 0) -> Details:
    draw = torch.Generator().manual_seed(seed)
    return Details(
        tokens=90,
        l0_values=torch.tensor([0, 3, 7]),
        l0_counts=torch.tensor([1, 80, 9]),
        firings=torch.tensor([0, 1, 30, 89, 90]),
        windows_fired=torch.tensor([0, 1, 9, 9, 9]),
        strength=torch.rand(D_SAE, generator=draw, dtype=torch.float64),
        position_fvu=torch.rand(10, generator=draw, dtype=torch.float64),
        position_tokens=torch.full((10,), 9),
        norms=torch.rand(4, 2, generator=draw, dtype=torch.float64),
    )


def some_latents(seed: int = 0, *, logits: bool = True, encoder: bool = True) -> LatentTable:
    draw = torch.Generator().manual_seed(seed)

    def numbers(there: bool = True) -> torch.Tensor | None:
        return torch.randn(D_SAE, generator=draw, dtype=torch.float64) if there else None

    def tokens() -> torch.Tensor | None:
        return torch.randint(50, (D_SAE,), generator=draw) if logits else None

    cosines = numbers()
    assert cosines is not None
    return LatentTable(
        cosines, *(numbers(encoder) for _ in range(4)), *(numbers(logits) for _ in range(4)), tokens(), tokens()
    )


def some_metrics(seed: int = 0) -> dict[str, dict[str, Metric]]:
    """Every metric of ``losses.csv`` in one group, and one that is not in it."""
    draw = torch.Generator().manual_seed(seed)

    def metric(n: int) -> Metric:
        return Metric(*torch.randn(3, generator=draw, dtype=torch.float64).tolist(), n)

    return {"some": {name: metric(85) for name in LOSSES}, "sparsity": {"l0": metric(90)}}


def an_evaluation(**fields: object) -> Evaluation:
    values: dict[str, object] = {
        "saes": {"a": some_metrics(1), "b": some_metrics(2)},
        "controls": {
            "identity at mlp_out.1": some_metrics(3),
            "PCA with 4 components at mlp_out.1": some_metrics(4),
            "random twin of a": some_metrics(5),
        },
        "about": {
            "a": {"site": "mlp_out.1", "twins": ["untrained twin of a", "random twin of a"]},
            "b": {"site": "resid_post.0", "twins": []},
        },
        "held_out": {},
        "details": {"a": some_details(), "b": some_details()},
        "latents": {"a": some_latents(1), "b": some_latents(2, logits=False)},
        **fields,
    }
    return Evaluation(**values)  # type: ignore[arg-type]


def decode(token: int) -> str:
    return f"={token}\n"


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def number(cell: str) -> float:
    return float(cell) if cell else NAN


def same(cell: str, value: float | None) -> bool:
    """Exactly: the cell reads as ``value``, and is empty where there is none."""
    return cell == "" if value is None or not math.isfinite(value) else float(cell) == value


def test_l0_csv_is_the_histogram(tmp_path: Path) -> None:
    write_tables(tmp_path, an_evaluation(), decode)
    rows = [(r["sae"], int(r["active_latents"]), int(r["tokens"])) for r in read(tmp_path / "l0.csv")]
    assert rows == [(sae, *pair) for sae in "ab" for pair in [(0, 1), (3, 80), (7, 9)]]


def test_losses_csv_has_a_line_per_sae_and_control(tmp_path: Path) -> None:
    evaluation = an_evaluation()
    write_tables(tmp_path, evaluation, decode)
    rows = {r["name"]: r for r in read(tmp_path / "losses.csv")}
    assert list(rows) == [*evaluation.saes, *evaluation.controls]
    for name, row in rows.items():
        metrics = {**evaluation.saes, **evaluation.controls}[name]["some"]
        assert row["is_control"] == ("true" if name in evaluation.controls else "false")
        assert row["site"] == ("resid_post.0" if name == "b" else "mlp_out.1")
        assert int(row["n"]) == 85  # of the losses, not of the other numbers
        for loss in LOSSES:
            assert (float(row[loss]), float(row[f"{loss}_low"]), float(row[f"{loss}_high"])) == metrics[loss][:3]


def test_capability_csv_has_a_line_per_prompt_and_answerer(tmp_path: Path) -> None:
    prompts = [Prompt("Once", " upon", 3, 19, torch.tensor([1, 5])), Prompt("a,b\n", '"', 4, 39, torch.tensor([1]))]
    answers = {n: [Answer(i + n, 1 / (3 + i + n), f"and {i}, {n}") for i in range(2)] for n in range(3)}
    capability = Capability(prompts, answers[0], {"a": answers[1], "identity at x": answers[2]})
    write_tables(tmp_path, an_evaluation(capability=capability), decode)
    rows = read(tmp_path / "capability.csv")
    found = [
        (r["prompt"], r["answer"], int(r["document"]), r["name"], int(r["rank"]), float(r["probability"])) for r in rows
    ]
    assert found == [
        (p.text, p.answer, p.document, name, answers[n][i].rank, answers[n][i].probability)
        for i, p in enumerate(prompts)
        for n, name in enumerate(("model alone", "a", "identity at x"))
    ]
    assert [r["continuation"] for r in rows] == [answers[n][i].continuation for i in range(2) for n in range(3)]


def test_logit_weights_csv_has_a_line_per_latent(tmp_path: Path) -> None:
    evaluation = an_evaluation()
    write_tables(tmp_path, evaluation, decode)
    rows = read(tmp_path / "logit_weights.csv")
    assert [(r["sae"], int(r["latent"])) for r in rows] == [(sae, i) for sae in "ab" for i in range(D_SAE)]
    for row in rows:
        i, table, details = int(row["latent"]), evaluation.latents[row["sae"]], evaluation.details[row["sae"]]
        assert int(row["firings"]) == details.firings[i]
        assert float(row["density"]) == int(details.firings[i]) / details.tokens
        assert float(row["max_decoder_cosine"]) == float(table.max_decoder_cosine[i])
        for column in ("mean", "std", "skewness", "kurtosis"):
            values = getattr(table, f"logit_{column}")
            assert same(row[column], None if values is None else float(values[i]))
        for column in ("highest_token", "lowest_token"):
            values = getattr(table, column)
            assert row[column] == ("" if values is None else "'" + decode(int(values[i])))


def test_what_does_not_exist_is_an_empty_cell(tmp_path: Path) -> None:
    missing = {"some": dict.fromkeys(LOSSES, Metric(NAN, float("inf"), -float("inf"), 7))}
    latents = some_latents()
    evaluation = an_evaluation(
        saes={"a": missing}, controls={"b": {}}, details={}, latents={"a": latents, "b": some_latents(logits=False)}
    )
    latents.max_decoder_cosine[2] = NAN
    write_tables(tmp_path, evaluation, decode)
    for path in tmp_path.iterdir():
        assert not any(word in path.read_text().lower() for word in ("nan", "inf,", "inf\n", "none"))
    a, b = read(tmp_path / "losses.csv")
    assert {a[f"{loss}{end}"] for loss in LOSSES for end in ("", "_low", "_high")} == {""}
    assert (a["n"], b["n"], b["ce_loss_score"]) == ("7", "", "")
    rows = read(tmp_path / "logit_weights.csv")
    assert {row["density"] + row["firings"] for row in rows} == {""}
    assert rows[2]["max_decoder_cosine"] == ""
    assert {row["skewness"] + row["highest_token"] for row in rows if row["sae"] == "b"} == {""}


def test_only_tables_with_something_in_them_are_there(tmp_path: Path) -> None:
    write_tables(tmp_path, an_evaluation(capability=Capability([], [], {})), decode)
    assert {p.name for p in tmp_path.iterdir()} == {"l0.csv", "losses.csv", "logit_weights.csv"}
    (tmp_path / "capability.csv").write_text("of an earlier evaluation")
    write_tables(tmp_path, an_evaluation(details={}, latents={}), decode)
    assert {p.name for p in tmp_path.iterdir()} == {"losses.csv"}


def test_a_writer_that_fails_leaves_the_old_table(tmp_path: Path) -> None:
    write_tables(tmp_path, an_evaluation(), decode)
    before = (tmp_path / "logit_weights.csv").read_text()

    def broken(token: int) -> str:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_tables(tmp_path, an_evaluation(details={}), broken)
    assert (tmp_path / "logit_weights.csv").read_text() == before
    assert not list(tmp_path.glob(".*"))


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with TemporaryDirectory() as name:
        yield Path(name)


@given(texts=st.lists(st.text(), min_size=4, max_size=4), probability=st.floats(0, 1))
def test_any_text_comes_back_as_it_was_but_for_the_guard(folder: Path, texts: list[str], probability: float) -> None:
    prompt, answer, name, continuation = texts
    answers = [Answer(1, probability, continuation)]
    capability = Capability([Prompt(prompt, answer, 0, 0, torch.tensor([0]))], answers, {name: answers})
    write_tables(folder, an_evaluation(capability=capability), decode)
    row = read(folder / "capability.csv")[-1]
    found = [row[column] for column in ("prompt", "answer", "name", "continuation")]
    assert found == ["'" + text if text[:1] in FORMULA and text else text for text in texts]
    assert not any(text.startswith(FORMULA) for text in found)
    assert float(row["probability"]) == probability


def test_lines_end_in_one_newline(tmp_path: Path) -> None:
    write_tables(tmp_path, an_evaluation(), lambda token: "word")
    for path in tmp_path.iterdir():
        content = path.read_bytes()
        assert content.endswith(b"\n")
        assert b"\r" not in content


@pytest.mark.parametrize(("text", "safe"), [("=1+1", "'=1+1"), ("-3", "'-3"), ("a=1", "a=1"), ("", ""), ("'=", "'=")])
def test_the_guard(text: str, safe: str) -> None:
    assert guarded(text) == safe
