"""Files that are whole or not there: atomic writes, checksums, one writer per folder."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from kanary.errors import KanaryError

if TYPE_CHECKING:
    import torch


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns a full disk or a forbidden folder into a :class:`KanaryError` that names the path."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise _explained(error, path) from error


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yields an empty folder that becomes ``path`` in one rename when the block ends well.

    Killed half-way, it leaves ``.<name>.partial``, which the next writer removes; killed in the instant between putting
    an old folder aside and moving the new one in, it leaves ``.<name>.old``, which :func:`recover` moves back.
    """
    partial = path.with_name(f".{path.name}.partial")
    with disk_errors(path):
        recover(path)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            yield partial
            _sync_tree(partial)
            _replace(partial, path)
            _sync(path.parent)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def recover(path: Path) -> None:
    """Puts back the folder ``path`` if a writer was killed while replacing it."""
    old = path.with_name(f".{path.name}.old")
    if old.is_dir() and not path.exists():
        old.rename(path)


def _replace(new: Path, path: Path) -> None:
    """Renames the folder ``new`` to ``path``; what was there is put aside first, because a rename cannot replace it."""
    if not path.exists():
        new.rename(path)
        return
    old = path.with_name(f".{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    path.rename(old)
    try:
        new.rename(path)
    except BaseException:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def write_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Calls ``write(temporary)`` and renames the result to ``path`` once it is on the disk."""
    partial = path.with_name(f".{path.name}.partial")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(partial)
            _sync(partial)
            partial.replace(path)
            _sync(path.parent)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def write_text(path: Path, text: str) -> None:
    def write(partial: Path) -> None:
        partial.write_text(text, encoding="utf-8")

    write_atomic(path, write)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``; raises :class:`KanaryError` naming the file if it is not one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise KanaryError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise KanaryError(f"{path} is damaged: not JSON ({error}).") from error
    if not isinstance(value, dict):
        raise KanaryError(f"{path} is damaged: expected a JSON object, found {type(value).__name__}.")
    return value


def write_tensors(path: Path, tensors: "Mapping[str, torch.Tensor]", metadata: Mapping[str, str] | None = None) -> None:
    """Writes safetensors atomically; tensors are made contiguous and moved to the CPU."""
    from safetensors.torch import save_file  # imports torch, which ``kanary info`` can do without

    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomic(path, lambda partial: save_file(ready, partial, dict(metadata) if metadata else None))


def read_tensors(path: Path, device: "str | torch.device" = "cpu") -> "dict[str, torch.Tensor]":
    """Every tensor of a safetensors file; raises :class:`KanaryError` naming the file if it is cut or damaged."""
    from safetensors.torch import load_file

    try:
        return load_file(path, device=str(device))
    except FileNotFoundError as error:
        raise KanaryError(f"{path} is missing.") from error
    except (OSError, SafetensorError) as error:
        raise KanaryError(f"{path} is damaged or cut short ({error}).") from error


def sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise KanaryError(f"{path} cannot be read: {error.strerror or error}.") from error


def verify(path: Path, expected: str) -> None:
    """Raises :class:`KanaryError` naming ``path`` unless its SHA-256 is ``expected``."""
    if (found := sha256(path)) != expected:
        raise KanaryError(
            f"{path} is damaged: its SHA-256 is {found[:12]}…, recorded was {expected[:12]}…. "
            "Delete it or restore it from a copy."
        )


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Holds ``folder`` for this process; the operating system lets go when the process ends, however it ends.

    A folder that was made for this and in which nothing was written is removed again.

    Raises :class:`KanaryError` with the holder's process id if another process has it.
    """
    made = not folder.exists()
    if not made and not folder.is_dir():
        raise KanaryError(f"{folder} is a file. Choose another name for the folder.")
    holder, lock = folder / ".holder", FileLock(folder / ".lock")
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            process = holder.read_text(encoding="utf-8") if holder.exists() else "unknown"
            raise KanaryError(
                f"{folder} is in use by another process (id {process}). Wait for it, stop it, or choose another folder."
            ) from error
    try:
        with disk_errors(folder):
            holder.write_text(str(os.getpid()), encoding="utf-8")
        yield
    finally:
        with suppress(OSError):
            holder.unlink()
        if made and all(path.name == ".lock" for path in folder.iterdir()):
            with suppress(OSError):  # somebody else may have come in just now
                (folder / ".lock").unlink()
                folder.rmdir()
        lock.release()


def _explained(error: Exception, path: Path) -> KanaryError:
    number = error.errno if isinstance(error, OSError) else None
    full = (
        number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        or "No space left" in str(error)
        or "os error 27" in str(error)
    )
    if full:
        free = shutil.disk_usage(next(p for p in [path, *path.parents] if p.exists())).free
        return KanaryError(
            f"The disk is full: {path} could not be written ({free / 1e6:.0f} MB free). "
            "Nothing already written was lost; free some space and run it again."
        )
    return KanaryError(f"{path} cannot be written: {error}.")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            _sync(path)
