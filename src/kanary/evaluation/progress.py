"""What people see while an evaluation runs."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

EVERY = 0.1
"""Seconds between two drawings: working out the rate takes as long as some of the steps that are counted."""


@contextmanager
def bar(what: str, total: int, unit: str, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar with rate and time left, on a terminal; yields a function that is told of what is done."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda _: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f} " + unit),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=total, rate="")
        done, drawn = 0, time.monotonic()

        def show(n: int) -> None:
            nonlocal done, drawn
            done += n
            if (now := time.monotonic()) - drawn >= EVERY:
                speed = progress.tasks[0].speed
                progress.update(task, completed=done, rate=f"{speed:,.0f} {unit}/s" if speed else "")
                drawn = now

        yield show
