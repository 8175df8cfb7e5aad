"""Checkpoints: everything the next step depends on, whole or not there."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kanary.errors import KanaryError
from kanary.files import new_folder, read_json, read_tensors, sha256, verify, write_json, write_tensors
from kanary.training.learner import Learner

KEPT = 2  # the last one, and one before it in case the last is damaged


class Place(NamedTuple):
    """Where a run stands."""

    step: int  # steps done
    pool: dict[str, Any] | None  # state of the pool that is being read; None: the beginning
    batch: int  # batches of that pool that are done
    seconds: float  # time spent so far, over all sittings


def save(run: Path, learners: Mapping[str, Learner], place: Place) -> Path:
    """Writes ``checkpoints/step-…`` atomically and forgets all but the last two."""
    folder = run / "checkpoints" / f"step-{place.step:08d}"
    with new_folder(folder) as partial:
        sums = {}
        for name, learner in learners.items():
            write_tensors(partial / f"{name}.safetensors", learner.state())
            sums[f"{name}.safetensors"] = sha256(partial / f"{name}.safetensors")
        write_json(partial / "state.json", {**place._asdict(), "sha256": sums})
    for old in _all(run)[:-KEPT]:
        for file in old.iterdir():
            file.unlink()
        old.rmdir()
    return folder


def last(run: Path) -> Path | None:
    """The newest checkpoint's folder."""
    found = _all(run)
    return found[-1] if found else None


def load(folder: Path, learners: Mapping[str, Learner]) -> Place:
    """Puts the learners where the checkpoint left them.

    Raises:
        KanaryError: a file is missing, cut short or changed (named); the way out is the checkpoint before it.
    """
    try:
        state = read_json(folder / "state.json")
        for name, learner in learners.items():
            file = folder / f"{name}.safetensors"
            verify(file, str(state["sha256"].get(file.name)))
            learner.load(read_tensors(file, learner.sae.mean.device))
        return Place(*(state[key] for key in Place._fields))
    except (KanaryError, KeyError) as error:
        others = [p.name for p in _all(folder.parent.parent) if p != folder]
        way_out = (
            f"Delete {folder} to resume from {others[-1]}." if others else "There is no earlier checkpoint; train anew."
        )
        what = error if isinstance(error, KanaryError) else f"{folder / 'state.json'} is damaged: {error} is missing."
        raise KanaryError(f"{what} {way_out}") from error


def _all(run: Path) -> list[Path]:
    return sorted(p for p in (run / "checkpoints").glob("step-*") if re.fullmatch(r"step-\d{8}", p.name))
