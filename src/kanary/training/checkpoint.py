"""Checkpoints: everything the next step depends on, whole or not there."""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from kanary.config import to_mapping
from kanary.errors import KanaryError
from kanary.files import new_folder, read_json, read_tensors, sha256, verify, write_json, write_tensors
from kanary.sae.store import described
from kanary.training.learner import Learner

RESUMABLE = {"out", "budget", "log", "checkpoint", "overlap"}  # may differ from the run that is resumed
KEPT = 2  # the last one, and one before it in case the last is damaged


class Place(NamedTuple):
    """Where a run stands."""

    step: int  # steps done
    pool: dict[str, Any] | None  # state of the pool that is being read; None: the beginning
    batch: int  # batches of that pool that are done
    seconds: float  # time spent so far, over all sittings


def save(run: Path, learners: Mapping[str, Learner], place: Place) -> Path:
    """Writes ``checkpoints/step-…`` atomically and forgets all but the last two.

    Raises:
        FloatingPointError: a weight is NaN or infinite; nothing is written, so that the last checkpoint is a good one.
        KanaryError: the disk is full; the earlier checkpoints are as before.
    """
    folder = run / "checkpoints" / f"step-{place.step:08d}"
    states = {name: learner.state() for name, learner in learners.items()}
    for name, state in states.items():
        _refuse_non_finite(name, state)
    with new_folder(folder) as partial:
        sums = {}
        for name, state in states.items():
            write_tensors(partial / f"{name}.safetensors", state)
            sums[f"{name}.safetensors"] = sha256(partial / f"{name}.safetensors")
        facts = {
            **place._asdict(),
            "text": {name: _fingerprint(learner, "text_fingerprint") for name, learner in learners.items()},
            "model": {name: _fingerprint(learner) for name, learner in learners.items()},
            "configs": {name: _resolved(learner) for name, learner in learners.items()},
            "sha256": sums,
        }
        write_json(partial / "state.json", facts | {"digest": _digest(facts)})
    for left in [*_all(run)[:-KEPT], *folder.parent.glob(".step-*")]:  # the latter from a writer that was killed
        shutil.rmtree(left, ignore_errors=True)
    return folder


def last(run: Path) -> Path | None:
    """The newest checkpoint's folder."""
    found = _all(run)
    return found[-1] if found else None


def load(folder: Path, learners: Mapping[str, Learner]) -> Place:
    """Puts the learners where the checkpoint left them.

    Raises:
        KanaryError: a file is missing, cut short or changed (named); the way out is the checkpoint before it. Or the
            run's config or model is no longer the one that the checkpoint was trained with.
    """
    try:
        state = read_json(folder / "state.json")
        if state.pop("digest", None) != _digest(state):
            raise KanaryError(f"{folder / 'state.json'} is damaged: it does not match its own checksum.")
        for name, digest in state["sha256"].items():
            verify(folder / name, digest)
    except KanaryError as error:
        others = [p.name for p in _all(folder.parent.parent) if p != folder]
        way_out = (
            f"Delete {folder} to resume from {others[-1]}." if others else "There is no earlier checkpoint; train anew."
        )
        raise KanaryError(f"{error} {way_out}") from error
    _refuse_changed(folder, state, learners)
    for name, learner in learners.items():
        learner.load(read_tensors(folder / f"{name}.safetensors", learner.sae.mean.device))
    return Place(*(state[key] for key in Place._fields))


def _refuse_changed(folder: Path, state: Mapping[str, Any], learners: Mapping[str, Learner]) -> None:
    """The command line is compared with ``config.yaml``; this notices when that file was edited, or the model replaced."""
    if (old := sorted(state["configs"])) != (new := sorted(learners)):
        raise KanaryError(f"{folder} holds the SAEs {', '.join(old)}; the run's config now asks for {', '.join(new)}.")
    for name, learner in learners.items():
        before, now = state["configs"][name], _resolved(learner)
        changed = [key for key in now if before.get(key) != now[key] and key not in RESUMABLE]
        if changed:
            what = "; ".join(f"{key} was {before.get(key)!r}, now {now[key]!r}" for key in changed)
            raise KanaryError(f"{folder} was trained with another config: {what}. Put the old values back to resume.")
        if state["text"][name] != _fingerprint(learner, "text_fingerprint"):
            raise KanaryError(
                f"{folder} was trained on other text than {learner.config.text} holds now. "
                "Put the old text back, or start a new run."
            )
        if state["model"][name] != _fingerprint(learner):
            raise KanaryError(
                f"{folder} was trained on a model with the fingerprint {state['model'][name]}; the one at "
                f"{learner.config.model} now has {_fingerprint(learner)}. Put the old model back, or start a new run."
            )


def _resolved(learner: Learner) -> dict[str, Any]:
    """The config as JSON values, with what it leaves to defaults: a newer Kanary may have others."""
    config, sae = learner.config, described(learner.sae)
    defaults = {"peak_lr": config.peak_lr, "dead_window": config.dead_window}
    parts = {"encoder_options": sae.encoder, "sparsifier_options": sae.sparsifier, "decoder_options": sae.decoder}
    values: dict[str, Any] = json.loads(json.dumps({**to_mapping(config), **defaults, **parts}))
    return values


def _refuse_non_finite(name: str, state: Mapping[str, torch.Tensor]) -> None:
    for key, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise FloatingPointError(f"{key} of {name} holds NaN or infinity")


def _fingerprint(learner: Learner, of: str = "fingerprint") -> str | None:
    return learner.sae.config.trained_on.get(of)


def _digest(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _all(run: Path) -> list[Path]:
    return sorted(p for p in (run / "checkpoints").glob("step-*") if re.fullmatch(r"step-\d{8}", p.name))
