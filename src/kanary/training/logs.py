"""Where a run's numbers go while it trains: always ``metrics.jsonl``, and the services that the user names."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from kanary.errors import KanaryError, nearest
from kanary.files import disk_errors, write_text

MODULES = {"tensorboard": "torch.utils.tensorboard.writer", "wandb": "wandb", "trackio": "trackio"}


class Logger(Protocol):
    """A receiver of numbers."""

    def log(self, step: int, name: str, values: Mapping[str, float]) -> None:
        """``values`` of the SAE ``name`` after ``step`` steps."""
        ...

    def close(self) -> None: ...


class JsonLines:
    """One line per step and SAE: ``{"step": …, "sae": …, "l0": …}``."""

    def __init__(self, path: Path, from_step: int) -> None:
        self.path = path
        if path.exists():  # a resumed run goes on from its checkpoint; what came after it will be written again
            lines = [line for line in path.read_text(encoding="utf-8").splitlines() if _step(line) <= from_step]
            write_text(path, "".join(line + "\n" for line in lines))
        with disk_errors(path):
            self.file = path.open("a", encoding="utf-8")

    def log(self, step: int, name: str, values: Mapping[str, float]) -> None:
        with disk_errors(self.path):
            self.file.write(json.dumps({"step": step, "sae": name, **values}) + "\n")
            self.file.flush()

    def close(self) -> None:
        with suppress(OSError):  # after a full disk stopped the run, what could not be written cannot be written here
            self.file.close()


class TensorBoard:
    def __init__(self, module: Any, run: Path) -> None:
        self.writer = module.SummaryWriter(str(run / "tensorboard"))

    def log(self, step: int, name: str, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            self.writer.add_scalar(f"{name}/{key}", value, step)

    def close(self) -> None:
        self.writer.close()


class Tracker:
    """Weights & Biases, or trackio, which has the same three calls."""

    def __init__(self, module: Any, run: Path, config: Mapping[str, Any]) -> None:
        self.module = module
        module.init(project="kanary", name=run.name, config=dict(config))

    def log(self, step: int, name: str, values: Mapping[str, float]) -> None:
        self.module.log({f"{name}/{key}": value for key, value in values.items()}, step=step)

    def close(self) -> None:
        self.module.finish()


def open_loggers(names: Sequence[str], run: Path, config: Mapping[str, Any], from_step: int) -> list[Logger]:
    """The loggers called ``names``, after ``metrics.jsonl``.

    Raises:
        KanaryError: an unknown name, or a package that is not installed.
    """
    modules = {name: _imported(name) for name in names}
    loggers: list[Logger] = [JsonLines(run / "metrics.jsonl", from_step)]
    for name, module in modules.items():
        loggers.append(TensorBoard(module, run) if name == "tensorboard" else Tracker(module, run, config))
    return loggers


def require_loggers(names: Sequence[str]) -> None:
    """Raises :class:`KanaryError` for an unknown name, or a package that is not installed."""
    for name in names:
        _imported(name)


def _imported(name: str) -> Any:
    if name not in MODULES:
        raise KanaryError(f"Unknown logger {name!r}. {nearest(name, MODULES)}")
    try:
        return import_module(MODULES[name])
    except ImportError as error:
        raise KanaryError(f"--log {name} needs a package that is not installed: pip install {name}") from error


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):  # the last line of a killed run may be cut
        return float("inf")
