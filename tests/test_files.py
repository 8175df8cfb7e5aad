"""A file or folder is the old one or the new one, never a part of either."""

import functools
import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import runs
from kanary.errors import KanaryError
from kanary.files import (
    exclusive,
    new_folder,
    read_json,
    read_tensors,
    sha256,
    verify,
    write_atomic,
    write_json,
    write_tensors,
    write_text,
)


def in_a_child(work: Callable[[], None]) -> int | None:
    """Exit code of ``work`` in a process of its own; negative when a signal ended it."""
    process = runs.context.Process(target=work)
    process.start()
    process.join(60)
    return process.exitcode


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _half_a_file(path: Path) -> None:
    def write(partial: Path) -> None:
        partial.write_text("new, but only ha")
        die()

    write_atomic(path, write)


def _half_a_folder(path: Path) -> None:
    with new_folder(path) as partial:
        (partial / "a").write_text("new")
        die()


@pytest.mark.parametrize("old", ["old", None])
def test_a_writer_that_fails_or_is_killed_leaves_the_old_file(old: str | None, tmp_path: Path) -> None:
    path = tmp_path / "file"
    if old:
        path.write_text(old)

    def fail(partial: Path) -> None:
        partial.write_text("new, but only ha")
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_atomic(path, fail)
    assert [p.name for p in tmp_path.iterdir()] == (["file"] if old else [])
    assert in_a_child(functools.partial(_half_a_file, path)) == -signal.SIGKILL
    assert (path.read_text() if path.exists() else None) == old
    write_text(path, "new")
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("old", ["old", None])
def test_a_writer_that_fails_or_is_killed_leaves_the_old_folder(old: str | None, tmp_path: Path) -> None:
    path = tmp_path / "folder"
    if old:
        path.mkdir()
        (path / "b").write_text(old)

    def content() -> dict[str, str]:
        return {p.name: p.read_text() for p in path.iterdir()} if path.exists() else {}

    before = content()
    with pytest.raises(ZeroDivisionError), new_folder(path) as partial:
        (partial / "a").write_text(str(1 / 0))
    assert content() == before
    assert in_a_child(functools.partial(_half_a_folder, path)) == -signal.SIGKILL
    assert content() == before
    with new_folder(path) as partial:
        assert not list(partial.iterdir())
        (partial / "a").write_text("new")
    assert content() == {"a": "new"}
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, rename = tmp_path / "folder", Path.rename
    path.mkdir()
    (path / "b").write_text("old")

    def refuse(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial"):
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(KanaryError, match="Input/output error"), new_folder(path) as partial:
        (partial / "a").write_text("new")
    assert (path / "b").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def _hold(folder: Path, ready: "multiprocessing.synchronize.Event") -> None:
    with exclusive(folder):
        ready.set()
        signal.pause()


def test_a_folder_has_one_holder_and_is_free_when_it_dies(tmp_path: Path) -> None:
    folder, ready = tmp_path / "run", runs.context.Event()
    process = runs.context.Process(target=_hold, args=(folder, ready))
    process.start()
    assert ready.wait(60)
    with pytest.raises(KanaryError, match=rf"in use by another process \(id {process.pid}\)"), exclusive(folder):
        pass
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with exclusive(folder):
        (folder / "work").write_text("done")
    with exclusive(folder):
        pass
    assert {p.name for p in folder.iterdir()} == {".lock", "work"}


def test_a_file_is_not_taken_for_a_folder(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(KanaryError, match=r"notes\.txt is a file\. Choose"), exclusive(tmp_path / "notes.txt"):
        pass
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_folder_made_for_nothing_is_removed_again(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="bad input"), exclusive(tmp_path / "run"):
        raise ValueError("bad input")
    assert not (tmp_path / "run").exists()
    (tmp_path / "mine").mkdir()
    with exclusive(tmp_path / "mine"):
        pass
    assert (tmp_path / "mine").is_dir()


@pytest.mark.parametrize("place", ["file/run", "/proc/nothing/run"])
def test_a_place_where_nothing_can_be_written_is_named(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KanaryError, match="cannot be written"), exclusive(tmp_path / place):
        pass
    with pytest.raises(KanaryError, match="cannot be written"):
        write_text(tmp_path / place / "a", "text")


def test_tensors_come_back_and_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tensors = {"a": torch.randn(3, 4), "b": torch.arange(5), "c": torch.randn(4, 3).T}
    write_tensors(path, tensors)
    back = read_tensors(path)
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())
    recorded = sha256(path)
    verify(path, recorded)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(KanaryError, match=rf"{path} is damaged: its SHA-256"):
        verify(path, recorded)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(KanaryError, match=rf"{path} is damaged or cut short"):
        read_tensors(path)
    path.unlink()
    with pytest.raises(KanaryError, match=rf"{path} is missing"):
        read_tensors(path)
    with pytest.raises(KanaryError, match=rf"{path} cannot be read"):
        verify(path, recorded)


@pytest.mark.parametrize("content", ["{", "[1, 2]", "", "\xff"])
def test_damaged_json_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(KanaryError, match=r"a\.json is damaged"):
        read_json(tmp_path / "a.json")


def test_json_holds_no_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": 1.5})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1.5}
