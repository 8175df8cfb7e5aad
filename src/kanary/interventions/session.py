"""What ``kanary watch`` does: a run's watches are made, measured, listed, and followed while the model writes."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from kanary.errors import KanaryError, typed
from kanary.interventions.alarms import Webhooks
from kanary.interventions.generation import Batch, Request
from kanary.interventions.making import Examples, make_watch, values
from kanary.interventions.prompts import prompt_ids
from kanary.interventions.steerable import Steerable
from kanary.interventions.terminal import Screen, described, follow
from kanary.interventions.threshold import Scored, measure
from kanary.interventions.traces import recording
from kanary.interventions.watch import Action, Measured, Watch, named, open_watch, save
from kanary.interventions.writing import watched, write


@dataclass(frozen=True)
class Wanted:
    """A watch to make, in the words of the command line."""

    features: Sequence[str] = ()
    """``12`` or ``12:0.5``: a latent and its weight. None: the best one is looked for."""
    false_alarms: float = 0.01
    on_alarm: Action = "log"
    steer: Sequence[str] = ()
    """``12:-2``: a latent and by how many of its maxima its code is changed from an alarm on."""
    webhook: str | None = None
    seed: int = 0


@dataclass(frozen=True)
class Writing:
    """How a text is written."""

    prompt: str = ""
    tokens: int = 100
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0


@dataclass
class Watched:
    """A text that was followed."""

    screen: Screen
    trace: str | None
    """The name of its record."""
    problems: list[str] = field(default_factory=list)
    """Of webhooks."""
    doubts: list[str] = field(default_factory=list)
    """About the watches."""

    def afterwards(self, run: str | os.PathLike[str]) -> list[str]:
        """What is to be said once the text is there, in lines."""
        lines = [f"Warning: {doubt}" for doubt in self.doubts]
        lines += [f"webhook: {problem}" for problem in self.problems]
        return lines if self.trace is None else [*lines, f"Recorded: kanary watch {typed(run)} --replay {self.trace}"]


def new_watch(
    run: str | os.PathLike[str], panel: Steerable, sae: str | None, name: str, wanted: Wanted, examples: Examples
) -> Watch:
    """Makes a watch and keeps it in the run folder.

    Raises:
        KanaryError: see :func:`~kanary.interventions.making.make_watch`.
    """
    from kanary.interventions.edits import add

    which = panel.name(sae)
    weights = dict(_pair(text, 1.0) for text in wanted.features)
    edits = tuple(add(*_pair(text, None)) for text in wanted.steer)
    watch = make_watch(
        panel,
        which,
        name,
        weights or None,
        examples,
        false_alarms=wanted.false_alarms,
        on_alarm=wanted.on_alarm,
        steer=named(edits, which),
        webhook=wanted.webhook,
        seed=wanted.seed,
    )
    save(watch, run)
    return watch


def follow_text(
    run: str | os.PathLike[str],
    panel: Steerable,
    names: Sequence[str],
    how: Writing,
    console: Console,
    *,
    record: bool = True,
) -> Watched:
    """Writes a text and shows the watches' values as they come; keeps a trace in the run folder.

    Raises:
        KanaryError: no such watch, one of other weights, or a prompt that is too long.
    """
    watches = [opened(run, panel, name) for name in dict.fromkeys(names)]
    lm = panel.lm
    ids = prompt_ids(lm, how.prompt).tolist() if how.prompt else [] if lm.bos_id is None else [lm.bos_id]
    request = Request(tuple(ids), how.tokens, how.temperature, how.top_p, how.seed, watched=watched(watches))
    about = {"model": lm.name, "prompt": how.prompt, "seed": how.seed, "temperature": how.temperature}
    webhooks = Webhooks()
    doubts = [f"{w.name}: {w.measured.doubt}" for w in watches if w.measured is not None and w.measured.doubt]
    try:
        if not record:
            pieces = write(Batch(panel), request, watches, send=webhooks.send)
            return Watched(follow(pieces, watches, console, how.prompt), None, webhooks.problems, doubts)
        with recording(run, watches, about) as recorder:
            pieces = write(Batch(panel), request, watches, send=webhooks.send, record=recorder)
            shown = follow(pieces, watches, console, how.prompt)
    finally:
        webhooks.close()
    return Watched(shown, recorder.name, webhooks.problems, doubts)


def measured_on(run: str | os.PathLike[str], panel: Steerable, name: str, examples: Examples) -> Measured:
    """How a watch does on other labelled texts.

    Raises:
        KanaryError: no such watch, or no text of one kind.
    """
    watch = opened(run, panel, name)
    if not examples.positive or not examples.negative:
        raise KanaryError("To measure a watch, give positive and negative texts.")
    texts = (examples.positive, examples.negative)
    scored = Scored(*(values(panel.lm, panel.saes[watch.sae], watch, each, quiet=False) for each in texts))
    return measure(scored, watch.threshold)


def opened(run: str | os.PathLike[str], panel: Steerable, name: str) -> Watch:
    """The watch, once it is sure that it belongs to an SAE of the panel."""
    watch = open_watch(run, name)
    watch.refuse_other(panel.saes[panel.name(watch.sae)])
    return watch


def listed(run: str | os.PathLike[str]) -> list[str]:
    """Lines about every watch of a run, and how many traces there are.

    Raises:
        KanaryError: ``run`` is no folder.
    """
    from kanary.interventions.traces import trace_names
    from kanary.interventions.watch import watch_names

    if not Path(run).is_dir():
        raise KanaryError(f"{run} is no folder: give a run folder, such as runs/first.")
    lines = [line for name in watch_names(run) for line in described(open_watch(run, name))]
    if not lines:
        lines = [f"{Path(run)} has no watch yet: kanary watch {typed(run)} --make NAME --positive FILE --negative FILE"]
    traces = trace_names(run)
    if traces:
        lines.append(
            f"{len(traces)} recorded texts, the last one {traces[0]}: kanary watch {typed(run)} --replay {traces[0]}"
        )
    return lines


def _pair(text: str, default: float | None) -> tuple[int, float]:
    latent, colon, number = text.partition(":")
    try:
        value = float(number) if colon else default
        if value is None:
            raise ValueError
        return int(latent), value
    except ValueError:
        form = "12 or 12:0.5" if default is not None else "12:-2"
        raise KanaryError(f"{text!r} is no feature with a number: write for example {form}.") from None
