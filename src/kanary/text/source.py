"""One way to reach documents, whatever they are kept in."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanary.errors import KanaryError, nearest
from kanary.lm.load import locate
from kanary.text.labelled.reader import LabelledText, labelled_text
from kanary.text.readers import (
    HuggingFaceData,
    JsonFile,
    JsonLines,
    ParquetFile,
    PlainText,
    Reader,
    remote_errors,
    tokenizer_in,
)

_MEGABYTE = 2**20
TOKEN_COLUMNS = ("input_ids", "tokens")
_SUFFIXES: dict[str, type[ParquetFile] | type[JsonLines] | type[JsonFile] | type[PlainText]] = {
    ".parquet": ParquetFile,
    ".jsonl": JsonLines,
    ".jsonl.gz": JsonLines,
    ".json": JsonFile,
    ".json.gz": JsonFile,
    ".txt": PlainText,
    ".txt.gz": PlainText,
}
_SPLITS = {
    "train": "train",
    "training": "train",
    "valid": "validation",
    "validation": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}


@dataclass(frozen=True, slots=True)
class Document:
    """One document: either its text or the token ids that the data set holds."""

    id: int
    """Its place in the source, from 0; the same at every reading."""
    text: str | None
    tokens: list[int] | None


class _Unwritten(Document):
    """A document that is written when its text is asked for: those of another part are passed over at no cost."""

    __slots__ = ("_write",)
    _write: Callable[[], str]

    def __init__(self, number: int, write: Callable[[], str]) -> None:
        for name, value in (("id", number), ("tokens", None), ("_write", write)):
            object.__setattr__(self, name, value)

    @property
    def text(self) -> str:
        return self._write()


@dataclass(frozen=True)
class TextSource:
    """The documents of a file, a folder or a data set, in a fixed order."""

    name: str
    """What the user wrote."""
    readers: Sequence[Reader]
    column: str
    tokenizer_name: str | None
    """The tokenizer that pre-tokenised data says it comes from, if it says so."""

    def documents(self, start: int = 0) -> Iterator[Document]:
        """The documents with ``id >= start``, in order.

        Raises:
            KanaryError: damaged or unreadable data, with the file.
        """
        number = 0
        for reader in self.readers:
            skip = start - number
            if skip > 0 and len(self.readers) > 1 and (n := reader.count()) <= skip:
                number += n
                continue
            number += max(0, skip)
            for value in reader.values(self.column, max(0, skip)):
                yield _document(number, value, reader.name, self.column)
                number += 1

    @property
    def tokenised(self) -> bool:
        """Whether the documents are token ids rather than texts."""
        first = next((d for d in self.documents() if d.text or d.tokens), None)
        return first is not None and first.tokens is not None

    @property
    def fingerprint(self) -> str | None:
        """Twelve hex digits by which local files are known again: sizes, first and last megabyte; None for the Hub.

        The labelled corpus is known by passages that it writes.
        """
        digest = hashlib.sha256()
        for reader in self.readers:
            if isinstance(reader, LabelledText):
                return reader.fingerprint
            path = Path(reader.name)
            if not path.is_file():
                return None
            size = path.stat().st_size
            digest.update(f"{size}\n".encode())
            with path.open("rb") as file:
                digest.update(file.read(_MEGABYTE))
                file.seek(max(0, size - _MEGABYTE))
                digest.update(file.read(_MEGABYTE))
        return digest.hexdigest()[:12]

    def describe(self) -> str:
        """Plain words: what is read, and from how many files."""
        if isinstance(self.readers[0], LabelledText):
            return self.readers[0].describe()
        files = "" if len(self.readers) == 1 else f" ({len(self.readers)} files)"
        column = "" if self.readers[0].columns() is None else f", column {self.column!r}"
        return f"{self.name}{files}{column}"


def open_text(
    source: str | Path,
    *,
    column: str = "text",
    split: str = "train",
    streaming: bool = True,
    same_tokenizer: bool = False,
) -> TextSource:
    """Opens text for reading; reads no more than it must to see that it is text.

    Args:
        source: a file (.parquet, .jsonl, .json or any plain text; .gz too), a folder of such files, a folder written by
            ``datasets.save_to_disk``, or a data set on the Hub: ``id``, or ``id:configuration``. ``labelled`` is the
            labelled corpus, written as it is read and without end; ``labelled:FAMILY,FAMILY`` a part of it, and
            ``labelled@SEED`` another series (a folder of that name is ``./labelled``).
        column: where the texts are, or the token ids of pre-tokenised data. Without the column ``text``, the columns
            ``input_ids`` and ``tokens`` are tried.
        split: of a Hub data set or a saved one; in a folder, files whose name says another split are left out.
        streaming: read a Hub data set as it comes instead of downloading it first.
        same_tokenizer: take pre-tokenised data although it names its tokenizer otherwise than the model does (another
            name of the same tokenizer); the token ids themselves are still checked.

    Raises:
        KanaryError: not found, empty, binary or damaged, or without the column (with the columns that are there).
    """
    if isinstance(source, str) and (corpus := labelled_text(source)):
        return TextSource(source, [corpus], column, None)
    where, remote = locate(source, "text")
    if remote and _suffix(Path(where)) in _SUFFIXES:
        raise KanaryError(f"There is no text at {where!r} (looked in {Path.cwd()}).")
    readers = _from_hub(where, split, streaming) if remote else _from_path(Path(where), split)
    named = next((r.tokenizer_name for r in readers if r.tokenizer_name), None) or _tokenizer_beside(where)
    found = [_choose_column(r, column) for r in readers]
    text = TextSource(str(source), readers, found[0], None if same_tokenizer else named)
    if other := next((r.name for r, c in zip(readers, found, strict=True) if c != found[0]), None):
        raise KanaryError(f"{other} has no column {found[0]!r}, which {readers[0].name} has. Choose one that all have.")
    if next(text.documents(), None) is None:
        raise KanaryError(f"Text {str(source)!r} is empty: there is no document in it.")
    return text


def _from_path(path: Path, split: str) -> list[Reader]:
    if path.is_dir():
        if any((path / marker).is_file() for marker in ("state.json", "dataset_dict.json")):
            return [_saved(path, split)]
        return _from_folder(path, split)
    _refuse_binary(path)
    return [_file_reader(path)]


def _from_folder(folder: Path, split: str) -> list[Reader]:
    files = [p for p in sorted(folder.rglob("*")) if _suffix(p) in _SUFFIXES and not p.name.startswith(".")]
    files = [p for p in files if p.name not in ("sae_lens.json", "dataset_info.json")]
    if not files:
        raise KanaryError(f"Folder {folder} holds no text: looked for {', '.join(sorted(_SUFFIXES))}.")
    wanted = _SPLITS.get(split, split)
    chosen = [p for p in files if _split_of(p) in (None, wanted)]
    if not chosen:
        there = ", ".join(sorted({str(_split_of(p)) for p in files}))
        raise KanaryError(f"Folder {folder} has no files of split {split!r}; it has: {there}.")
    for path in chosen:
        _refuse_binary(path)
    return [_file_reader(p) for p in chosen if p.stat().st_size > 0]


def _split_of(path: Path) -> str | None:
    words = re.split(r"[^a-z]+", path.name.lower())
    return next((_SPLITS[w] for w in words if w in _SPLITS), None)


def _suffix(path: Path) -> str:
    return "".join(path.suffixes[-2:]).lower() if path.suffix == ".gz" else path.suffix.lower()


def _file_reader(path: Path) -> Reader:
    return _SUFFIXES.get(_suffix(path), PlainText)(path)


def _refuse_binary(path: Path) -> None:
    """Catches the photograph and the checkpoint before anything is tokenised."""
    if _suffix(path) == ".parquet" or path.suffix == ".gz":
        return  # their own readers say what is wrong with them
    try:
        with path.open("rb") as file:
            head = file.read(8192)
    except OSError as error:
        raise KanaryError(f"{path} cannot be read: {error.strerror or error}.") from error
    if b"\x00" in head:
        raise KanaryError(f"{path} is not text but a binary file. Give a .txt, .jsonl or .parquet file, in UTF-8.")


def _saved(folder: Path, split: str) -> Reader:
    datasets = _datasets()

    with remote_errors(str(folder)):
        data = datasets.load_from_disk(str(folder))
    if isinstance(data, datasets.DatasetDict):
        if split not in data:
            raise KanaryError(f"{folder} has no split {split!r}. {nearest(split, data)}")
        data = data[split]
    return HuggingFaceData(str(folder), data, tokenizer_in(data.data.schema.metadata))


def _from_hub(name: str, split: str, streaming: bool) -> list[Reader]:
    datasets = _datasets()

    repository, _, configuration = name.partition(":")
    with remote_errors(name):
        data = datasets.load_dataset(repository, configuration or None, split=split, streaming=streaming)
    return [HuggingFaceData(name, data)]


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise KanaryError('This text needs the package datasets: pip install -e ".[data]"') from error
    return datasets


def _tokenizer_beside(where: str) -> str | None:
    """What SAELens' ``sae_lens.json`` beside the data says, else a name such as ``openwebtext-tokenizer-gpt2``."""
    path = Path(where)
    text: str | None = None
    if path.exists():
        note = (path if path.is_dir() else path.parent) / "sae_lens.json"
        text = note.read_text(encoding="utf-8", errors="replace") if note.is_file() else None
    try:
        value: Any = json.loads(text) if text else {}
    except ValueError:
        value = {}
    if isinstance(value, dict) and value.get("tokenizer_name"):
        return str(value["tokenizer_name"])
    match = re.search(r"tokenizer-([\w.-]+?)(\.parquet|\.jsonl(\.gz)?)?$", path.name)
    return match[1] if match else None


def _choose_column(reader: Reader, wanted: str) -> str:
    columns = reader.columns()
    if columns is None or wanted in columns:
        return wanted
    tokens = [c for c in TOKEN_COLUMNS if c in columns]
    if wanted == "text" and tokens:
        return tokens[0]
    raise KanaryError(
        f"{reader.name} has no column {wanted!r}; it has: {', '.join(columns)}. Choose the one with the text (column=)."
    )


def _document(number: int, value: Any, name: str, column: str) -> Document:
    if callable(value):
        return _Unwritten(number, value)
    if value is None or isinstance(value, str):
        return Document(number, value or "", None)
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list) and (not value or isinstance(value[0], int)):
        return Document(number, None, value)
    raise KanaryError(
        f"{name}, document {number}: column {column!r} holds {type(value).__name__}, expected text or a list of ids."
    )
