"""What people see while something takes long: a bar on a terminal, elsewhere a line now and then."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

EVERY = 0.1
"""Seconds between two drawings: working out the rate takes as long as some of the steps that are counted."""
LINE_EVERY = 30.0
"""Seconds between two lines where there is no terminal."""


class Show(Protocol):
    """Is told of what is done."""

    def __call__(self, n: int, /, note: str = "") -> None:
        """``n`` more are done; ``note`` is shown beside the rate."""


@contextmanager
def bar(what: str, total: int, unit: str, quiet: bool, *, done: int = 0) -> Iterator[Show]:
    """A progress bar with rate and time left; yields a function that is told of what is done.

    Args:
        done: how many are done already; they say nothing of the rate.
    """
    console = Console(stderr=True, highlight=False)
    if quiet:
        yield lambda n, note="": None
    elif console.is_terminal:
        with _drawn(console, what, total, unit, done) as show:
            yield show
    else:
        yield _told(console, what, total, unit, done)


@contextmanager
def _drawn(console: Console, what: str, total: int, unit: str, done: int) -> Iterator[Show]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f} " + unit),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=total, completed=done, rate="", note="")
        drawn = time.monotonic()

        def show(n: int, note: str = "") -> None:
            nonlocal done, drawn
            done = min(total, done + n)
            if (now := time.monotonic()) - drawn >= EVERY:
                progress.update(task, completed=done, rate=_rate(progress.tasks[0].speed, unit), note=note)
                drawn = now

        yield show


def _told(console: Console, what: str, total: int, unit: str, done: int) -> Show:
    before, began = done, time.monotonic()
    said = began

    def show(n: int, note: str = "") -> None:
        nonlocal done, said
        done = min(total, done + n)
        if (now := time.monotonic()) - said < LINE_EVERY:
            return
        said = now
        speed = (done - before) / (now - began)
        left = f"{duration((total - done) / speed)} left" if speed else ""
        parts = (f"{what}: {done:,} of {total:,} {unit}", _rate(speed, unit), note, left)
        console.print("  ".join(part for part in parts if part), soft_wrap=True, markup=False)

    return show


def _rate(speed: float | None, unit: str) -> str:
    return f"{speed:,.{0 if speed >= 10 else 1}f} {unit}/s" if speed else ""


def duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3.4 h``."""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
