"""Features written for others: what the files hold is what the index says."""

from __future__ import annotations

import base64
import csv
import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

import kanary
from feature_runs import build, make_run, stories
from kanary.app.export import FILLED
from kanary.errors import KanaryError
from kanary.features.formats import Source, write_neuronpedia
from kanary.features.lists import listed
from runs import kanary as command


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> kanary.FeatureIndex:
    folder = tmp_path_factory.mktemp("export")
    return build(make_run(folder / "run", tiny_llama, stories(folder)))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().splitlines()]


def test_latents_can_be_named_in_many_ways(index: kanary.FeatureIndex) -> None:
    assert listed(index, "3, 17,3") == [3, 17]
    assert listed(index, "0:4,2:6") == [0, 1, 2, 3, 4, 5]
    assert listed(index, "all") == list(range(len(index)))
    fired = index.columns()["fired"]
    alive = listed(index, "alive:5")
    assert len(alive) == 5
    assert all(fired[i] > 0 for i in alive)
    assert [fired[i] for i in alive] == sorted(fired[i] for i in alive)
    assert fired[alive[-1]] == fired.max()
    assert len(listed(index, "alive:9999")) == int((fired > 0).sum())
    index.labels.save_list("mine", [5, 2])
    assert listed(index, "list:mine") == [5, 2]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "names no latent"),
        ("4:4", "names no latent"),
        ("0:999", "no latent 998"),
        ("-1", "'-1' names no latents"),
        ("many", "'many' names no latents"),
        ("list:other", "no list 'other'"),
    ],
)
def test_what_names_no_latent_is_refused(index: kanary.FeatureIndex, text: str, says: str) -> None:
    with pytest.raises(KanaryError, match=says):
        listed(index, text)


def test_the_table_has_a_row_per_feature(index: kanary.FeatureIndex, tmp_path: Path) -> None:
    assert command("export", index.folder, "--features", "0:5", "--csv", tmp_path / "t.csv").code == 0
    rows = list(csv.DictReader((tmp_path / "t.csv").open(encoding="utf-8", newline="")))
    assert [int(row["latent"]) for row in rows] == [0, 1, 2, 3, 4]
    for row in rows:
        feature = index[int(row["latent"])]
        assert int(row["fired"]) == feature.fired
        assert float(row["density"]) == feature.density
        strongest = [feature.examples[i] for i in feature.top]
        different = [*dict.fromkeys(example.tokens[example.focus] for example in strongest)]
        assert row["fires_on"] == " ".join(map(repr, different[:5]))


def test_parquet_holds_the_same_table_with_types(index: kanary.FeatureIndex, tmp_path: Path) -> None:
    options = ("--csv", tmp_path / "t.csv", "--parquet", tmp_path / "t.parquet")
    assert command("export", index.folder, "--features", "0:5,47", *options).code == 0
    plain = list(csv.DictReader((tmp_path / "t.csv").open(encoding="utf-8", newline="")))
    typed = parquet.read_table(tmp_path / "t.parquet").to_pylist()
    assert [row["latent"] for row in typed] == [0, 1, 2, 3, 4, 47]
    for row, text in zip(typed, plain, strict=True):
        assert row.keys() == text.keys()
        for name, value in row.items():
            said = " ".join(map(repr, value)) if isinstance(value, list) else "" if value is None else str(value)
            assert text[name] == said, name
    assert typed[-1]["mean_active"] is None
    assert all(isinstance(token, str) for token in typed[0]["raises"])


def test_neuronpedia_gets_every_example_with_its_losses(index: kanary.FeatureIndex, tmp_path: Path) -> None:
    latents = [0, 3, 47]
    folder = write_neuronpedia(index, latents, tmp_path)
    assert {path.name for path in folder.glob("*.jsonl")} == {
        "release.jsonl", "model.jsonl", "sourceset.jsonl", "source.jsonl",
    }  # fmt: skip
    features = lines(folder / "features" / "batch-0.jsonl.gz")
    assert [line["index"] for line in features] == ["0", "3", "47"]
    assert len({tuple(line) for line in features}) == 1  # the importer takes its columns from the first line
    activations = lines(folder / "activations" / "batch-0.jsonl.gz")
    assert len({tuple(line) for line in activations}) == 1
    assert len({line["id"] for line in activations}) == len(activations)
    for latent in latents:
        feature = index[latent]
        mine = [line for line in activations if line["index"] == str(latent)]
        assert len(mine) == len(feature.top) + sum(len(each.examples) for each in feature.intervals)
        for line in mine:
            assert len(line["values"]) == len(line["tokens"]) == len(line["lossValues"])
            value = line["values"][line["qualifyingTokenIndex"]]
            assert value > 0
            assert line["binMin"] < value <= line["binMax"] * (1 + 1e-6)


def test_neuronpedia_gets_what_removing_a_feature_does(index: kanary.FeatureIndex) -> None:
    feature = index[0]
    planted = replace(feature, examples=tuple(replace(each, effects=((each.focus, 0.5),)) for each in feature.examples))
    found = list(Source(index).activations(planted))
    assert found
    for line in found:
        at = line["qualifyingTokenIndex"]
        assert [i for i, one in enumerate(line["lossValues"]) if one] == [at]
        assert line["lossValues"][at] == 0.5


def test_one_page_holds_the_features_and_needs_a_kind_of_file(index: kanary.FeatureIndex, tmp_path: Path) -> None:
    done = command("export", index.folder, "--features", "1,2", "--html", tmp_path / "page.html")
    assert "2 features are in" in done.out
    assert [each["latent"] for each in json.loads(unpacked((tmp_path / "page.html").read_bytes()))["features"]] == [
        1,
        2,
    ]
    assert "Say what to write" in command("export", index.folder).message


def test_no_file_tells_where_things_lie_on_the_machine_that_wrote_it(tmp_path: Path, tiny_llama: Path) -> None:
    private = tmp_path / "somebody"
    private.mkdir()
    text = stories(private)
    other = make_run(private / "other", tiny_llama, text, seed=1)
    index = build(make_run(private / "run", tiny_llama, text), twins=[str(other)])
    assert index[0].twins[0]["run"] == str(other)
    index.labels.add_explanation(0, "a rule", str(private / "explainer"))
    out = tmp_path / "out"
    options = ("--html", out / "page.html", "--csv", out / "t.csv", "--neuronpedia", out / "upload")
    assert command("export", index.folder, "--features", "0:3", *options).code == 0
    for path in (path for path in out.rglob("*") if path.is_file()):
        found = path.read_bytes()
        found = gzip.decompress(found) if path.suffix == ".gz" else found
        found += unpacked(found) if path.suffix == ".html" else b""
        assert b"somebody" not in found, found[max(0, found.find(b"somebody") - 150) :][:300]
        assert str(tmp_path).encode() not in found, path.name


def unpacked(page: bytes) -> bytes:
    before, after = FILLED.encode().split(b"{}")
    return gzip.decompress(base64.b64decode(page.partition(before)[2].partition(after)[0]))
