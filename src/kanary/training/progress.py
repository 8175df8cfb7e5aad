"""What people see while a run trains."""

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from kanary.progress import duration
from kanary.text import TextCheck
from kanary.training.config import TrainConfig
from kanary.training.estimate import Estimate
from kanary.training.learner import StepStats

LINES = 20  # without a terminal, about so many lines per run instead of a bar


def say(check: TextCheck, cost: Estimate, done: int, measured: int) -> None:
    """The lines before the first step; ``done`` steps are behind, and the end is ``measured`` on so many tokens."""
    console = Console(stderr=True, highlight=False)
    console.print(
        f"The model loses {check.loss_nats:.2f} nats per token on this text (guessing: {check.ln_vocab:.2f})."
    )
    if check.warning:
        console.print(f"[bold]Warning:[/bold] {check.warning}", soft_wrap=True)
    where = f"GPU memory {_bytes(cost.gpu)}" if cost.gpu else f"memory {_bytes(cost.ram)}"
    left = cost.steps - done
    takes = duration(cost.seconds * left / cost.steps)
    steps = f"{left:,} of {cost.steps:,}" if done else f"{left:,}"
    line = (
        f"About to take {steps} steps for {cost.parameters:,} parameters: roughly {takes}, "
        f"{where} beside the model, {_bytes(cost.disk)} on disk."
    )
    then = (
        f" Then the result is measured on {measured:,} tokens that are held out, which is not in this time."
        if measured
        else ""
    )
    console.print(line + then if left else f"All {cost.steps:,} steps are taken.{then}", soft_wrap=True)


class TrainingProgress:
    """A bar with rate and time left; without a terminal, a line now and then."""

    def __init__(self, configs: Mapping[str, TrainConfig], done: int, *, quiet: bool) -> None:
        config = next(iter(configs.values()))
        self.steps, self.batch, self.saes = config.steps, config.batch, len(configs)
        self.console = Console(stderr=True, highlight=False, quiet=quiet)
        self.bar = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=quiet or not self.console.is_terminal,
        )
        self.task = self.bar.add_task("", total=self.steps, completed=done)
        self.began, self.first, self.shown = time.monotonic(), done, 0

    def __enter__(self) -> "TrainingProgress":
        self.bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.bar.stop()

    def show(self, step: int, stats: Mapping[str, StepStats]) -> None:
        """After every step."""
        if self.shown == 0:  # the first step also waits for the first pool
            self.began, self.first = time.monotonic(), step
        self.shown += 1
        rate = (step - self.first) * self.batch / max(1e-9, time.monotonic() - self.began)  # 0: not known yet
        speed = f"{rate:,.0f} tok/s  " if rate else ""
        name, values = list(stats.items())[-1]
        text = (
            f"{speed}loss {values.loss:.3g}  L0 {values.l0:.1f}  EV {values.explained_variance:.3f}  "
            f"dead {values.dead}" + (f"  ({name}, last of {self.saes})" if self.saes > 1 else "")
        )
        self.bar.update(self.task, completed=step, description=text)
        if not self.console.is_terminal and (step == self.steps or step % max(1, self.steps // LINES) == 0):
            left = f"  {duration((self.steps - step) * self.batch / rate)} left" if rate else ""
            self.console.print(f"step {step:,}/{self.steps:,}  {text}{left}", soft_wrap=True)


def _bytes(n: int) -> str:
    return f"{n / 1e9:.1f} GB" if n >= 1e9 else f"{n / 1e6:.0f} MB"
