"""What people see while features are explained: how many are done, how fast, what it has cost, how long it will take."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def features_bar(total: int, quiet: bool) -> Iterator[Callable[[str], None]]:
    """A bar, on a terminal; yields a function to call after every feature with what has been spent so far."""
    console = Console(stderr=True)
    columns = (
        TextColumn("explaining"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f} features"),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[spent]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as progress:
        task = progress.add_task("", total=total, rate="", spent="")

        def done(spent: str) -> None:
            speed = progress.tasks[0].speed
            rate = f"{speed:.1f} features/s" if speed else ""
            progress.update(task, advance=1, rate=rate, spent=spent)

        yield done
