"""Recorded watches: a line of JSON per token, written as it comes, so that a run that is killed keeps what it saw.

The first line says what was watched and how the text was made; the others are tokens, and alarms where they were raised; the
last one says why the text ended.
"""

import json
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from kanary.errors import KanaryError
from kanary.files import disk_errors
from kanary.interventions.alarms import Alarm
from kanary.interventions.watch import Watch

FORMAT = 1
FOLDER = "traces"
"""In a run folder; each trace is a file ``WHEN-xxxx.jsonl`` there."""
NAME = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}")

_encode = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False
).encode  # fast because it is made once, not for every line


@dataclass(frozen=True)
class Trace:
    """What was seen while one text was written."""

    name: str
    about: Mapping[str, Any]
    """``model``, ``prompt``, ``seed``, ``temperature`` …, and ``watches``: name -> threshold and weights."""
    tokens: tuple[Mapping[str, Any], ...]
    """``{"token", "id", "written", "values": {watch: value}}`` each."""
    alarms: tuple[Alarm, ...]
    ended: str | None
    """Why; None if the recording was cut short."""

    def to_json(self) -> dict[str, Any]:
        alarms = [alarm._asdict() for alarm in self.alarms]
        return {"name": self.name, **self.about, "tokens": list(self.tokens), "alarms": alarms, "ended": self.ended}


@dataclass
class Recorder:
    """Writes one trace."""

    name: str
    _path: Path
    _file: IO[str] = field(repr=False)

    def token(self, token: str, id: int, written: bool, values: Mapping[str, float]) -> None:
        self._line({"token": token, "id": id, "written": written, "values": dict(values)})

    def alarm(self, alarm: Alarm) -> None:
        self._line({"alarm": alarm._asdict()})

    def end(self, why: str) -> None:
        self._line({"ended": why})

    def _line(self, value: Mapping[str, Any]) -> None:
        with disk_errors(self._path):
            self._file.write(_encode(value) + "\n")
            self._file.flush()


@contextmanager
def recording(run: str | os.PathLike[str], watches: Sequence[Watch], about: Mapping[str, Any]) -> Iterator[Recorder]:
    """A new trace in the run folder, open as long as the block."""
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    path = Path(run) / FOLDER / f"{name}.jsonl"
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("x", encoding="utf-8")
    with file:
        recorder = Recorder(name, path, file)
        watched = {w.name: {"threshold": w.threshold, "weights": w.weights, "on_alarm": w.on_alarm} for w in watches}
        created = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        recorder._line({"format": FORMAT, "created": created, **about, "watches": watched})
        yield recorder


def trace_names(run: str | os.PathLike[str]) -> list[str]:
    """The newest first."""
    return sorted((p.stem for p in (Path(run) / FOLDER).glob("*.jsonl") if NAME.fullmatch(p.stem)), reverse=True)


def read_trace(run: str | os.PathLike[str], name: str) -> Trace:
    """A recorded trace. A last line that was cut short, as by a killed process, is left out.

    Raises:
        KanaryError: there is none of that name, or its file is damaged.
    """
    path = Path(run) / FOLDER / f"{name}.jsonl"
    if not NAME.fullmatch(name) or not path.is_file():
        known = trace_names(run)
        raise KanaryError(f"{run} has no trace {name!r}. {f'The last one is {known[0]}.' if known else 'It has none.'}")
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
        about, *lines = [json.loads(line) for line in text.split("\n")[:-1]]
        if about.pop("format") != FORMAT:
            raise KanaryError(f"{path} is a trace of another format than {FORMAT}.")
        tokens = tuple(line for line in lines if "token" in line)
        alarms = tuple(Alarm(**line["alarm"]) for line in lines if "alarm" in line)
        for each in tokens:
            _check(each, about["watches"])
        return Trace(name, about, tokens, alarms, next((str(line["ended"]) for line in lines if "ended" in line), None))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise KanaryError(f"{path} is damaged: {type(error).__name__}: {error}.") from error


def _check(token: Mapping[str, Any], watches: Mapping[str, Any]) -> None:
    values = token["values"]
    fits = isinstance(token["token"], str) and type(token["id"]) is int and type(token["written"]) is bool
    if not fits or not all(isinstance(value, (int, float)) for value in values.values()) or not {*values} <= {*watches}:
        raise ValueError(f"{str(token)[:80]} is no token of a trace")
