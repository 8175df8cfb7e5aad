"""One shard of a store: a safetensors file, written and read without holding a second copy in memory.

The format is https://github.com/huggingface/safetensors#format: the header's length (8 bytes, little-endian), a JSON
header, the numbers. Any safetensors library opens these files; ours also hashes while it writes and reads any range of
rows straight into a tensor.
"""

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kanary.errors import KanaryError
from kanary.files import write_atomic

DTYPES = {
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I64": torch.int64,
    "I32": torch.int32,
}
_CODES = {dtype: code for code, dtype in DTYPES.items()}
_MAX_HEADER = 1 << 20  # ours have a few hundred bytes; a damaged length must not fill the memory
_PIECE = 1 << 20


@dataclass(frozen=True)
class Rows:
    """Where one tensor lies in a shard: ``[rows, width]``, or ``[rows]`` when ``width`` is None."""

    path: Path
    offset: int  # bytes from the start of the file
    rows: int
    width: int | None
    dtype: torch.dtype

    def read_into(self, target: Tensor, start: int) -> None:
        """Reads rows ``start`` to ``start + len(target)`` into a contiguous CPU tensor; safe from several threads."""
        size = target.element_size() * (self.width or 1)
        buffer = target.view(torch.uint8).numpy().data.cast("B")
        done = 0
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(self.offset + start * size)
                while done < len(buffer):
                    count = file.readinto(buffer[done:])
                    if not count:
                        raise KanaryError(f"{self.path} is cut short: row {start + done // size} is missing.")
                    done += count
        except OSError as error:
            raise KanaryError(f"{self.path} cannot be read: {error.strerror or error}.") from error


def write_shard(path: Path, tensors: Mapping[str, Tensor]) -> tuple[int, str]:
    """Writes contiguous CPU tensors atomically; returns the file's size in bytes and its SHA-256."""
    header: dict[str, object] = {}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)  # the numbers start on a cache line
    front = struct.pack("<Q", len(text)) + text
    digest = hashlib.sha256(front)

    def write(partial: Path) -> None:
        with partial.open("wb") as file:
            file.write(front)
            for tensor in tensors.values():
                data = tensor.view(torch.uint8).numpy().data.cast("B")
                for a in range(0, len(data), _PIECE):  # hashed while the piece is in the cache
                    file.write(data[a : a + _PIECE])
                    digest.update(data[a : a + _PIECE])

    write_atomic(path, write)
    return len(front) + offset, digest.hexdigest()


def read_header(path: Path) -> dict[str, Rows]:
    """Where each tensor of a shard lies; raises :class:`KanaryError` naming the file if it is cut or damaged."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            (length,) = struct.unpack("<Q", file.read(8))
            if not 2 <= length <= _MAX_HEADER:
                raise ValueError(f"its header claims {length} bytes")
            header = json.loads(file.read(length))
        found = {}
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            dtype, shape, (a, b) = DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
            if b - a != math.prod(shape) * dtype.itemsize or 8 + length + b > size:
                raise ValueError(f"{name} does not fit in {size} bytes")
            found[name] = Rows(path, 8 + length + a, shape[0], shape[1] if len(shape) == 2 else None, dtype)
        return found
    except OSError as error:
        raise KanaryError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (struct.error, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise KanaryError(f"{path} is damaged or cut short ({error}).") from error
