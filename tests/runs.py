"""Small runs for tests: a text, a config, the command in this process, and the command in a child that may be killed."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import random
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from conftest import SENTENCES
from kanary.cli import main
from kanary.sae.parts import SPARSIFIERS, import_parts

import_parts()
KINDS = sorted(SPARSIFIERS)
# A child is forked from a server that has imported these and done nothing else: it starts in no time, and safely.
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(
    ["kanary.jobs", "transformers.models.auto.modeling_auto", "transformers.models.llama.modeling_llama", "tokenizers"]
)


def write_stories(path: Path, documents: int, words: int = 40, seed: int = 0) -> Path:
    """A .jsonl file of random sentences."""
    draw = random.Random(seed)
    known = SENTENCES[0].split()
    lines = [json.dumps({"text": " ".join(draw.choices(known, k=words))}) + "\n" for _ in range(documents)]
    path.write_text("".join(lines))
    return path


def small(model: Path, text: Path, **fields: Any) -> dict[str, Any]:
    """Fields of a run of 40 steps with ten checkpoints and three pools, unless ``fields`` say otherwise."""
    values = {
        "model": str(model),
        "text": str(text),
        "site": "resid_post.1",
        "width": 64,
        "k": 4,
        "tokens": 40 * 64,
        "batch": 64,
        "pool": 1024,
        "window": 32,
        "lm_batch": 16,
        "checkpoint": 4 * 64,
        "eval_tokens": 500,
        "device": "cpu",
        "lr": 1e-2,
        "dead_after": 640,
    }
    values.update(fields)
    return {name: value for name, value in values.items() if value is not None}


def flags(fields: dict[str, Any]) -> list[str]:
    """``{"lm_batch": 4, "k": [4, 8]}`` -> ``["--lm-batch", "4", "--k", "4,8"]``."""
    found = []
    for name, value in fields.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            found.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            found += [f"--{flag}", ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)]
    return found


@dataclass(frozen=True)
class Answer:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def message(self) -> str:
        """The error of a command that refused its input: one line, no traceback, status 2."""
        assert self.code == 2, self
        assert "Traceback" not in self.err, self.err
        line = self.err.strip().splitlines()[-1]
        before = self.err.strip().splitlines()[:-1]
        assert line.startswith("kanary: "), self.err
        assert not any(text.startswith("kanary:") for text in before), self.err
        return line.removeprefix("kanary: ")


def kanary(*words: object) -> Answer:
    """The command ``kanary``, run in this process."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["kanary", *map(str, words)]
    code: object = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as ending:
        code = ending.code
    finally:
        sys.argv = before
    return Answer(int(code or 0), out.getvalue(), err.getvalue())  # type: ignore[call-overload]


class Child:
    """The command ``kanary`` in a process of its own. ``plant`` runs there first, to make something go wrong."""

    def __init__(self, words: Sequence[object], logs: Path, plant: Callable[[], None] | None = None) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        self.out, self.err = logs / "out.txt", logs / "err.txt"
        arguments = ([*map(str, words)], str(self.out), str(self.err), plant)
        self.process: BaseProcess = context.Process(target=_run, args=arguments)
        self.process.start()

    def wait(self, seconds: float = 240) -> Answer:
        self.process.join(seconds)
        assert self.process.exitcode is not None, f"still running: {self.err.read_text()}"
        return Answer(self.process.exitcode, self.out.read_text(), self.err.read_text())

    def send(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def until(self, condition: Callable[[], bool], seconds: float = 240) -> None:
        """Waits for ``condition``, or for the child's end."""
        end = time.monotonic() + seconds
        while self.process.is_alive() and not condition():
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.001)


def _run(words: list[str], out: str, err: str, plant: Callable[[], None] | None) -> None:
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
    # a shell that runs the tests in the background makes them ignore what the tests send
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if plant:
        plant()
    sys.argv = ["kanary", *words]
    main()


def steps_logged(run: Path) -> list[int]:
    """The step of every whole line of ``metrics.jsonl``."""
    path = run / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [int(found) for found in re.findall(r'^\{"step": (\d+),.*\}$', text, re.MULTILINE)]


def weights(run: Path | str) -> dict[str, torch.Tensor]:
    """Every tensor of every SAE in a run folder, by file and name."""
    folder = Path(run) / "sae"
    files = sorted(folder.rglob("*.safetensors"))
    assert files, f"no SAE in {folder}"
    return {f"{f.relative_to(folder)}: {key}": t for f in files for key, t in load_file(f).items()}


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    """Bit for bit."""
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert not different


def checkpoints(run: Path) -> list[str]:
    return sorted(p.name for p in (run / "checkpoints").glob("step-*"))
