"""Activations on disk: a folder of shards and a manifest that says what they are and where they came from.

    STORE/manifest.json
    STORE/ids/shard-00000.safetensors           tokens, documents, positions of the rows
    STORE/resid_post.2/shard-00000.safetensors  activations [rows, width], one folder per site

Row r means the same token in every folder. The manifest lists each shard's rows, bytes and SHA-256, and the place in
the text where the next shard begins, so that a harvest can go on after any stop.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kanary.activations.shards import Rows, read_header
from kanary.errors import KanaryError, nearest
from kanary.files import read_json, verify
from kanary.progress import bar

FORMAT = "kanary activations 1"
IDS: dict[str, torch.dtype] = {"tokens": torch.int64, "documents": torch.int64, "positions": torch.int32}
STORED_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class StoredRows:
    """Consecutive rows of a store, in memory."""

    x: dict[str, Tensor]  # site → [n, width] in the store's dtype
    tokens: Tensor  # [n] int64
    documents: Tensor  # [n] int64
    positions: Tensor  # [n] int32


class ActivationStore:
    """A store opened for reading. Opening reads the manifest and the sizes of the files, no activations."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.manifest = manifest
        self.widths: dict[str, int] = {site: int(width) for site, width in manifest["widths"].items()}
        self.dtype = STORED_DTYPES[manifest["dtype"]]
        self.shard_rows: list[int] = [int(shard["rows"]) for shard in manifest["shards"]]
        starts = [0]
        for rows in self.shard_rows:
            starts.append(starts[-1] + rows)
        self.shard_starts = starts  # first row of each shard, then n_tokens

    @classmethod
    def open(cls, folder: str | Path) -> "ActivationStore":
        """Opens a store, finished or not.

        Raises:
            KanaryError: not a store; a shard missing, cut short or of another size than recorded (named).
        """
        folder = Path(folder)
        if not (folder / "manifest.json").is_file():
            raise KanaryError(
                f"{folder} is not a store of activations: it has no manifest.json. Make one: kanary harvest."
            )
        manifest = read_json(folder / "manifest.json")
        if manifest.get("format") != FORMAT:
            raise KanaryError(f"{folder}/manifest.json has format {manifest.get('format')!r}, expected {FORMAT!r}.")
        try:
            store = cls(folder, manifest)
            if any(site_folder(name) != name or not name.strip(".") for name in store.manifest["sites"].values()):
                raise ValueError("a site's folder lies outside the store")
            files = [(path, record["bytes"], record["sha256"]) for path, record in store._files()]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise KanaryError(f"{folder}/manifest.json is damaged ({error!r}).") from error
        for path, size, _ in files:
            found = path.stat().st_size if path.is_file() else None
            if found != size:
                state = "missing" if found is None else f"damaged: it has {found:,} bytes, recorded were {size:,}"
                raise KanaryError(f"{path} is {state}. Restore it from a copy, or harvest again into a new folder.")
        return store

    @property
    def sites(self) -> list[str]:
        return list(self.widths)

    @property
    def d_model(self) -> int:
        """Width of one activation; of the first site, when a module named by hand has another width."""
        return self.widths[self.sites[0]]

    @property
    def n_tokens(self) -> int:
        """Rows in the store."""
        return self.shard_starts[-1]

    @property
    def complete(self) -> bool:
        """Whether the harvest that writes this store reached its goal or the end of the text."""
        return bool(self.manifest["complete"])

    @property
    def n_bytes(self) -> int:
        """Bytes of all shards."""
        return sum(int(record["bytes"]) for _, record in self._files())

    def require(self, sites: Iterable[str]) -> None:
        """Raises :class:`KanaryError` unless the store holds ``sites``."""
        for site in sites:
            if site not in self.widths:
                raise KanaryError(f"{self.folder} holds no activations of site {site!r}. {nearest(site, self.widths)}")

    def verify(self, *, quiet: bool = True) -> None:
        """Reads every byte and compares checksums; raises :class:`KanaryError` naming the damaged shard."""
        files = list(self._files())
        with bar("checking the store", len(files), "files", quiet) as show:
            for path, record in files:
                verify(path, record["sha256"])
                show(1)

    def read(self, start: int, stop: int, sites: Sequence[str] | None = None) -> StoredRows:
        """Rows ``start`` to ``stop`` of the store, in the order of harvesting."""
        if not 0 <= start <= stop <= self.n_tokens:
            raise KanaryError(f"Rows {start} to {stop} are not in {self.folder}: it has {self.n_tokens} rows.")
        rows = self.empty(stop - start, sites)
        for shard, a, b, at in self.pieces(start, stop):
            self.read_piece(rows, shard, a, b, at)
        return rows

    def empty(self, n: int, sites: Sequence[str] | None = None) -> StoredRows:
        """Room for ``n`` rows."""
        sites = self.sites if sites is None else list(sites)
        self.require(sites)
        x = {site: torch.empty(n, self.widths[site], dtype=self.dtype) for site in sites}
        return StoredRows(x, **{name: torch.empty(n, dtype=dtype) for name, dtype in IDS.items()})

    def pieces(self, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
        """Rows ``start`` to ``stop`` as (shard, first row in it, last row + 1, place in the result)."""
        for shard, (a, b) in enumerate(zip(self.shard_starts, self.shard_starts[1:], strict=False)):
            low, high = max(a, start), min(b, stop)
            if low < high:
                yield shard, low - a, high - a, low - start

    def read_piece(self, target: StoredRows, shard: int, a: int, b: int, at: int) -> None:
        """Reads rows ``a`` to ``b`` of one shard into ``target`` from row ``at``; safe from several threads."""
        tables = self._tables[shard]
        for name in IDS:
            tables[name].read_into(getattr(target, name)[at : at + b - a], a)
        for site, x in target.x.items():
            tables[site].read_into(x[at : at + b - a], a)

    def path(self, folder: str, shard: int) -> Path:
        return shard_path(self.folder, folder, shard)

    @cached_property
    def _tables(self) -> list[dict[str, Rows]]:
        """Of each shard, where every column lies; the headers must say what the manifest says."""
        tables = []
        for shard, rows in enumerate(self.shard_rows):
            ids = self.path("ids", shard)
            table = {name: _column(ids, name, rows, None, dtype) for name, dtype in IDS.items()}
            for site, folder in self.manifest["sites"].items():
                path = self.path(folder, shard)
                table[site] = _column(path, "activations", rows, self.widths[site], self.dtype)
            tables.append(table)
        return tables

    def _files(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        for number, shard in enumerate(self.manifest["shards"]):
            for folder, record in shard["files"].items():
                yield self.path(folder, number), record


def site_folder(site: str) -> str:
    """A folder name for a site: its own name, made safe for any file system."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", site)


def _column(path: Path, name: str, rows: int, width: int | None, dtype: torch.dtype) -> Rows:
    found = read_header(path).get(name)
    if found is None or (found.rows, found.width, found.dtype) != (rows, width, dtype):
        raise KanaryError(f"{path} is damaged: it should hold {rows} rows of {name} ({dtype}) as the manifest says.")
    return found


def shard_path(store: Path, folder: str, shard: int) -> Path:
    return store / folder / f"shard-{shard:05d}.safetensors"
