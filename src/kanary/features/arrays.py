"""Arrays in safetensors files that are read where they lie: opening costs a header, a feature costs a few pages."""

import json
import math
import mmap
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kanary.errors import KanaryError
from kanary.files import write_atomic

Array = NDArray[Any]
DTYPES = {
    "BOOL": np.bool_,
    "U8": np.uint8,
    "I8": np.int8,
    "U16": np.uint16,
    "I32": np.int32,
    "U32": np.uint32,
    "I64": np.int64,
    "F16": np.float16,
    "F32": np.float32,
    "F64": np.float64,
}
_CODES = {np.dtype(dtype): code for code, dtype in DTYPES.items()}
_MOST_HEADER = 1 << 20  # ours have a few kilobytes; a damaged length must not fill the memory


class Pieces(NamedTuple):
    """An array that is written piece after piece along its first dimension, without ever being whole in memory."""

    dtype: Any
    shape: tuple[int, ...]
    pieces: Iterable[Array]


def write_arrays(path: Path, arrays: Mapping[str, Array | Pieces]) -> None:
    """Writes a safetensors file atomically."""
    whole = {name: _pieces(array) for name, array in arrays.items()}
    header: dict[str, object] = {}
    offset = 0
    for name, (dtype, shape, _) in whole.items():
        end = offset + math.prod(shape) * np.dtype(dtype).itemsize
        header[name] = {"dtype": _CODES[np.dtype(dtype)], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)

    def write(partial: Path) -> None:
        with partial.open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for dtype, shape, pieces in whole.values():
                rows = 0
                for piece in pieces:
                    file.write(np.ascontiguousarray(piece, dtype).data)
                    rows += len(piece)
                assert rows == shape[0], (rows, shape)

    write_atomic(path, write)


class Arrays(Mapping[str, Array]):
    """The arrays of a safetensors file, as views into a memory map of it; read-only."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            KanaryError: the file is missing, cut short or no safetensors (named).
        """
        self.path = path
        try:
            with path.open("rb") as file:
                size = file.seek(0, 2)
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
            (length,) = struct.unpack("<Q", self._map[:8])
            if not 2 <= length <= _MOST_HEADER:
                raise ValueError(f"its header claims {length} bytes")
            self._entries = dict(_entries(json.loads(self._map[8 : 8 + length]), 8 + length, size))
            self._views: dict[str, Array] = {}  # fast because a feature looks at forty of them
        except OSError as error:
            raise KanaryError(f"{path} cannot be read: {error.strerror or error}.") from error
        except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
            raise KanaryError(f"{path} is damaged or cut short ({error}).") from error

    def __getitem__(self, name: str) -> Array:
        if name not in self._views:
            try:
                dtype, shape, offset = self._entries[name]
            except KeyError:
                raise KanaryError(f"{self.path} is damaged: it has no array {name!r}.") from None
            self._views[name] = np.frombuffer(self._map, dtype, math.prod(shape), offset).reshape(shape)
        return self._views[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def _pieces(array: Array | Pieces) -> Pieces:
    return array if isinstance(array, Pieces) else Pieces(array.dtype, array.shape, [array])


def _entries(header: dict[str, Any], start: int, size: int) -> Iterator[tuple[str, tuple[Any, tuple[int, ...], int]]]:
    end = start
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        dtype, shape, (a, b) = DTYPES[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"]
        if a < 0 or b - a != math.prod(shape) * np.dtype(dtype).itemsize or start + b > size:
            raise ValueError(f"{name} does not fit in {size} bytes")
        end = max(end, start + b)
        yield name, (dtype, shape, start + a)
    if end != size:
        raise ValueError(f"it has {size} bytes, its header speaks of {end}")
