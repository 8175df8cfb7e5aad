"""Every format gives the same documents, from any start, and what is not text is refused in one line."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kanary.errors import KanaryError
from kanary.text import open_text
from kanary.text.readers import LEAST_DOCUMENT, MOST_DOCUMENT

TEXTS = [f"Document {i} says: {'naïve 🙂 words. ' * (i % 5)}" for i in range(2500)]


def _parquet(folder: Path) -> Path:
    pq.write_table(pa.table({"n": range(len(TEXTS)), "text": TEXTS}), folder / "a.parquet", row_group_size=700)
    return folder / "a.parquet"


def _jsonl(folder: Path) -> Path:
    (folder / "a.jsonl").write_text("\n\n".join(json.dumps({"text": t}) for t in TEXTS) + "\n", encoding="utf-8")
    return folder / "a.jsonl"


def _jsonl_gz(folder: Path) -> Path:
    with gzip.open(folder / "a.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": t}) + "\n" for t in TEXTS)
    return folder / "a.jsonl.gz"


def _json(folder: Path) -> Path:
    (folder / "a.json").write_text(json.dumps({"version": 1, "data": [{"text": t} for t in TEXTS]}))
    return folder / "a.json"


def _folder(folder: Path) -> Path:
    inside = folder / "parts"
    inside.mkdir()
    pq.write_table(pa.table({"text": TEXTS[:1000]}), inside / "part-0.parquet")
    (inside / "part-1.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in TEXTS[1000:1800]))
    (inside / "part-2.json").write_text(json.dumps(TEXTS[1800:]))
    return inside


def _saved(folder: Path) -> Path:
    import datasets

    data = datasets.Dataset.from_dict({"text": TEXTS})
    datasets.DatasetDict({"train": data, "test": data.select([0])}).save_to_disk(folder / "saved")
    return folder / "saved"


@pytest.mark.parametrize("write", [_parquet, _jsonl, _jsonl_gz, _json, _folder, _saved])
def test_every_format_gives_the_same_documents_from_any_start(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    source = open_text(write(tmp_path))
    documents = list(source.documents())
    assert [d.text for d in documents] == TEXTS
    assert [d.id for d in documents] == list(range(len(TEXTS)))
    for start in (1, 699, 700, 1000, 1801, 2499, 2500, 9999):
        assert list(source.documents(start)) == documents[start:]


def test_plain_text_is_split_at_blank_lines_and_nothing_is_lost(tmp_path: Path) -> None:
    paragraphs = [f"Paragraph {i}. " + "word " * (7 * i % 90) for i in range(200)]
    (tmp_path / "a.txt").write_text("\n\n".join(p.strip() for p in paragraphs) + "\n\n\n", encoding="utf-8")
    documents = [str(d.text) for d in open_text(tmp_path / "a.txt").documents()]
    assert all(LEAST_DOCUMENT <= len(d) < 2 * LEAST_DOCUMENT for d in documents[:-1])
    assert "\n\n".join(documents).split("\n\n") == [p.strip() for p in paragraphs]


def test_a_file_without_line_ends_is_cut_and_not_read_at_once(tmp_path: Path) -> None:
    text = "".join(f"{i} " for i in range(50_000)).strip()
    (tmp_path / "a.md").write_text(text)
    documents = [str(d.text) for d in open_text(tmp_path / "a.md").documents()]
    assert max(map(len, documents)) <= 2 * MOST_DOCUMENT
    assert "".join("".join(documents).split()) == "".join(text.split())


def test_files_of_another_split_are_left_out_of_a_folder(tmp_path: Path) -> None:
    for name in ("stories-train.jsonl", "stories-validation.jsonl", "more.jsonl", "test-0.jsonl"):
        (tmp_path / name).write_text(json.dumps({"text": name}))
    assert [d.text for d in open_text(tmp_path).documents()] == ["more.jsonl", "stories-train.jsonl"]
    assert [d.text for d in open_text(tmp_path, split="test").documents()] == ["more.jsonl", "test-0.jsonl"]
    assert open_text(tmp_path).describe().endswith("(2 files), column 'text'")


def test_another_column_can_be_chosen(tmp_path: Path) -> None:
    pq.write_table(pa.table({"title": ["a"], "text": ["b"]}), tmp_path / "a.parquet")
    assert [d.text for d in open_text(tmp_path / "a.parquet", column="title").documents()] == ["a"]


@pytest.mark.parametrize("column", ["input_ids", "tokens"])
def test_token_columns_are_found_without_being_asked_for(tmp_path: Path, column: str) -> None:
    pq.write_table(pa.table({column: [[5, 6], [7]]}), tmp_path / "a.parquet")
    source = open_text(tmp_path / "a.parquet")
    assert source.tokenised
    assert [d.tokens for d in source.documents()] == [[5, 6], [7]]


@pytest.mark.parametrize("where", ["metadata", "sae_lens.json", "folder name"])
def test_pre_tokenised_data_says_its_tokenizer(tmp_path: Path, where: str) -> None:
    folder = tmp_path / ("owt-tokenizer-gpt2" if where == "folder name" else "data")
    folder.mkdir()
    table = pa.table({"tokens": [[5, 6]]})
    pq.write_table(
        table.replace_schema_metadata({"tokenizer": "gpt2"}) if where == "metadata" else table, folder / "a.parquet"
    )
    if where == "sae_lens.json":
        (folder / "sae_lens.json").write_text('{"tokenizer_name": "gpt2"}')
    assert open_text(folder).tokenizer_name == "gpt2"
    assert open_text(folder, same_tokenizer=True).tokenizer_name is None


def _refused(path: Path | str, *words: str, **options: str) -> None:
    with pytest.raises(KanaryError) as error:
        list(open_text(path, **options).documents())  # type: ignore[arg-type]
    message = str(error.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    _refused(tmp_path / "none.txt", "none.txt", "does not exist")
    _refused(tmp_path, str(tmp_path), "holds no text")


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".json", ".parquet", ".jsonl.gz", ".txt.gz"])
def test_an_empty_file_is_refused(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"a{suffix}"
    file.touch()
    _refused(file, str(file))


def test_a_text_of_blank_lines_is_empty(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n\n  \n")
    _refused(tmp_path / "a.txt", "is empty")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
    _refused(tmp_path / "a.parquet", "is empty")


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".json", ".parquet", ".jsonl.gz", ".bin"])
@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" * 9, bytes(range(128, 256)) * 9])
def test_a_binary_file_is_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    file = tmp_path / f"a{suffix}"
    file.write_bytes(content)
    _refused(file, str(file))


def test_a_parquet_file_cut_short_is_refused(tmp_path: Path) -> None:
    file = _parquet(tmp_path)
    file.write_bytes(file.read_bytes()[:-1000])
    _refused(file, str(file), "damaged")


def test_a_gzip_file_cut_short_is_refused(tmp_path: Path) -> None:
    file = _jsonl_gz(tmp_path)
    file.write_bytes(file.read_bytes()[:-100])
    _refused(file, str(file), "damaged or cut short")


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n{"text": \n')
    _refused(tmp_path / "a.jsonl", "line 2", "not JSON")
    (tmp_path / "b.jsonl").write_text('{"text": "x"}\n{"body": "y"}\n')
    _refused(tmp_path / "b.jsonl", "line 2", "no column 'text'", "it has: body")
    (tmp_path / "c.jsonl").write_text('{"text": "x"}\n{"text": {"a": 1}}\n')
    _refused(tmp_path / "c.jsonl", "document 1", "holds dict")


@pytest.mark.parametrize("write", [_parquet, _jsonl, _json, _saved])
def test_a_missing_column_is_refused_with_those_that_are_there(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    _refused(write(tmp_path), "no column 'body'", "text", column="body")


def test_a_missing_split_is_refused(tmp_path: Path) -> None:
    _refused(_saved(tmp_path), "no split 'tset'", "Did you mean 'test'", split="tset")


def test_a_hub_data_set_without_a_network_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets.config
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    _refused("nobody/no-such-text", "'nobody/no-such-text'", "neither a file or folder here")


def test_a_hub_data_set_is_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[tuple[object, ...]] = []

    def load_dataset(*names: object, split: str, streaming: bool) -> object:
        asked.append((*names, split, streaming))
        return datasets.Dataset.from_dict({"n": range(30), "text": TEXTS[:30]}).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = open_text("someone/stories:small", split="validation")
    assert [d.text for d in source.documents(7)] == TEXTS[7:30]
    assert asked == [("someone/stories", "small", "validation", True)]
