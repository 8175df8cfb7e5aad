"""One reader per file format: one value per document, and never a whole file in memory (except .json)."""

import gzip
import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Protocol

from kanary.errors import KanaryError

LEAST_DOCUMENT = 1000
"""Paragraphs of plain text are merged up to this many characters."""
MOST_DOCUMENT = 16_000
"""A paragraph of plain text is cut at the first line that ends beyond this many characters."""


class Reader(Protocol):
    """The documents of one file or data set."""

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def tokenizer_name(self) -> str | None:
        """The tokenizer that the file says its token ids come from."""

    def columns(self) -> list[str] | None:
        """The names to choose from; None for plain text, which has none."""

    def count(self) -> int:
        """How many documents; may read the whole file."""

    def values(self, column: str, start: int = 0) -> Iterator[Any]:
        """The column's values from document ``start`` on: a text, a list of token ids, None, or a function that gives the
        text, called when it is needed.
        """


@dataclass(frozen=True)
class ParquetFile:
    path: Path

    @property
    def name(self) -> str:
        return str(self.path)

    @cached_property
    def _file(self) -> Any:
        import pyarrow.parquet

        with _readable(self.path):
            return pyarrow.parquet.ParquetFile(self.path)

    @property
    def tokenizer_name(self) -> str | None:
        return tokenizer_in(self._file.schema_arrow.metadata)

    def columns(self) -> list[str]:
        return list(self._file.schema_arrow.names)

    def count(self) -> int:
        return int(self._file.metadata.num_rows)

    def values(self, column: str, start: int = 0) -> Iterator[Any]:
        groups = range(self._file.num_row_groups)
        sizes = [self._file.metadata.row_group(g).num_rows for g in groups]
        skipped = 0
        while skipped < len(sizes) and start >= sizes[skipped]:
            start -= sizes[skipped]
            skipped += 1
        with _readable(self.path):
            batches = self._file.iter_batches(
                batch_size=1024, row_groups=list(groups[skipped:]), columns=[column], use_threads=False
            )
            for batch in batches:
                yield from batch.column(0)[start:].to_pylist()
                start = max(0, start - batch.num_rows)


@dataclass(frozen=True)
class JsonLines:
    """One JSON object (or string) per line, optionally gzipped; blank lines do not count."""

    path: Path
    tokenizer_name: None = None

    @property
    def name(self) -> str:
        return str(self.path)

    def columns(self) -> list[str] | None:
        for number, line in self._lines():
            row = self._parse(number, line)
            return list(row) if isinstance(row, dict) else None
        return None

    def count(self) -> int:
        return sum(1 for _ in self._lines())

    def values(self, column: str, start: int = 0) -> Iterator[Any]:
        for number, line in itertools.islice(self._lines(), start, None):
            yield _field(self._parse(number, line), column, f"{self.path}, line {number}")

    def _parse(self, number: int, line: str) -> Any:
        try:
            return json.loads(line)
        except ValueError as error:
            raise KanaryError(f"{self.path}, line {number}, is not JSON: {error}.") from error

    def _lines(self) -> Iterator[tuple[int, str]]:
        with _readable(self.path), _open(self.path) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line


@dataclass(frozen=True)
class JsonFile:
    """A JSON list of objects or strings, alone or under the key ``data``; read whole."""

    path: Path
    tokenizer_name: None = None

    @property
    def name(self) -> str:
        return str(self.path)

    @cached_property
    def _rows(self) -> list[Any]:
        with _readable(self.path), _open(self.path) as file:
            try:
                value = json.load(file)
            except UnicodeDecodeError:
                raise
            except ValueError as error:
                raise KanaryError(
                    f"{self.path} is not JSON: {error}. If each line is an object, call it .jsonl."
                ) from error
        if isinstance(value, dict):
            value = value.get("data", value)
        if not isinstance(value, list):
            raise KanaryError(f"{self.path} must hold a list of documents, found one {type(value).__name__}.")
        return value

    def columns(self) -> list[str] | None:
        return list(self._rows[0]) if self._rows and isinstance(self._rows[0], dict) else None

    def count(self) -> int:
        return len(self._rows)

    def values(self, column: str, start: int = 0) -> Iterator[Any]:
        for number, row in enumerate(self._rows[start:], start):
            yield _field(row, column, f"{self.path}, item {number}")


@dataclass(frozen=True)
class PlainText:
    """Plain text: documents end at blank lines; short ones are merged up to 1,000 characters, long ones cut."""

    path: Path
    tokenizer_name: None = None

    @property
    def name(self) -> str:
        return str(self.path)

    def columns(self) -> None:
        return None

    def count(self) -> int:
        return sum(1 for _ in self.values(""))

    def values(self, column: str, start: int = 0) -> Iterator[str]:
        return itertools.islice(self._documents(), start, None)

    def _documents(self) -> Iterator[str]:
        parts: list[str] = []
        size = 0
        with _readable(self.path), _open(self.path) as file:
            # A limit, because a file without line ends would otherwise be one line of any size.
            while line := file.readline(MOST_DOCUMENT):
                blank = not line.strip()
                if (blank and size >= LEAST_DOCUMENT) or size >= MOST_DOCUMENT:
                    yield "".join(parts).rstrip()
                    parts, size = [], 0
                if parts or not blank:
                    parts.append(line)
                    size += len(line)
        if parts:
            yield "".join(parts).rstrip()


@dataclass(frozen=True)
class HuggingFaceData:
    """A data set of the ``datasets`` library: on disk or from the Hub, streamed or not."""

    name: str
    data: Any
    tokenizer_name: str | None = None

    def columns(self) -> list[str]:
        if names := self.data.column_names:
            return list(names)
        return list(next(iter(self.data), {}))  # a stream may not know its columns before its first row

    def count(self) -> int:
        if hasattr(self.data, "__len__"):
            return len(self.data)
        return sum(1 for _ in self.data)

    def values(self, column: str, start: int = 0) -> Iterator[Any]:
        if start and hasattr(self.data, "__len__") and start >= len(self.data):
            return  # the library refuses to skip to the end
        with remote_errors(self.name):
            data = self.data.select_columns([column])
            for row in data.skip(start) if start else data:
                yield row[column]


@contextmanager
def remote_errors(name: str) -> Iterator[None]:
    """Turns what the ``datasets`` library and the network raise into one line."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        said = " ".join(str(error).split())[:300]
        raise KanaryError(
            f"Text {name!r} is neither a file or folder here nor a data set that the Hugging Face Hub can give: {said}"
        ) from error


def tokenizer_in(metadata: Any) -> str | None:
    """The value of ``tokenizer`` or ``tokenizer_name`` in the metadata of a parquet or Arrow schema."""
    for key in (b"tokenizer", b"tokenizer_name"):
        if metadata and key in metadata:
            return str(metadata[key].decode("utf-8", "replace")).strip('"')
    return None


def _open(path: Path) -> IO[str]:
    """The file as text; ``utf-8-sig`` drops the mark that some editors put first."""
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig")
    return path.open("r", encoding="utf-8-sig")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns what goes wrong while ``path`` is read into one line that names it."""
    import pyarrow

    try:
        yield
    except UnicodeDecodeError as error:
        raise KanaryError(
            f"{path} is not text: byte 0x{error.object[error.start]:02x} is not UTF-8. "
            "Give a .txt, .jsonl or .parquet file, or convert this one to UTF-8."
        ) from error
    except (EOFError, gzip.BadGzipFile) as error:
        raise KanaryError(f"{path} is damaged or cut short ({error}).") from error
    except pyarrow.ArrowException as error:
        raise KanaryError(f"{path} is damaged or not a parquet file ({' '.join(str(error).split())[:160]}).") from error
    except OSError as error:
        raise KanaryError(f"{path} cannot be read: {error.strerror or error}.") from error


def _field(row: Any, column: str, place: str) -> Any:
    if not isinstance(row, dict):
        return row
    if column not in row:
        raise KanaryError(f"{place}, has no column {column!r}; it has: {', '.join(row)}.")
    return row[column]
