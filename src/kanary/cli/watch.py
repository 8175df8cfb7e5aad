"""``kanary watch``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from kanary.interventions.making import Examples

HELP = """Follow features while the model writes, and do something when they fire.

    kanary watch runs/first --make lying --positive lies.txt --negative truths.txt --false-alarms 0.05

    kanary watch runs/first --watch lying --prompt "Anna, who is never believed, says"

    kanary watch runs/first                       its watches and its recorded texts

    kanary watch runs/first --replay 20261128-190000-0a1b

**Making** one needs labelled texts, one a line in two files: half of them choose the threshold at which no more
than the stated share of negative texts raises an alarm, the others say how often it is wrong. Without **--feature** the one
that separates the texts best is taken. **--watch** with **--positive** and **--negative** measures a watch on other texts.

On an alarm the watch logs, stops the text, or steers the rest of it; with **--webhook** an address is told, too. Texts that
are followed are recorded in RUN/traces. docs/watch.md says more; `kanary serve RUN --watch NAME` watches for other programs.
"""
Run = Annotated[str, typer.Argument(metavar="RUN", help="A run folder.", show_default=False)]
_MAKING, _WRITING = "A new watch", "The text"
Features = Annotated[
    list[str] | None,
    typer.Option(help="12, or with a weight 12:0.5; repeatable.", rich_help_panel=_MAKING, show_default=False),
]
Steer = Annotated[
    list[str] | None,
    typer.Option(
        help="With --on-alarm steer: FEATURE:STRENGTH in maxima.", rich_help_panel=_MAKING, show_default=False
    ),
]


def command(
    run: Run,
    watch: Annotated[list[str] | None, typer.Option(help="A watch to follow; repeatable.", show_default=False)] = None,
    prompt: Annotated[str, typer.Option(help="What the text begins with.", rich_help_panel=_WRITING)] = "",
    tokens: Annotated[int, typer.Option(help="How many to write at most.", rich_help_panel=_WRITING)] = 100,
    temperature: Annotated[float, typer.Option(help="0 = the likeliest token.", rich_help_panel=_WRITING)] = 1.0,
    seed: Annotated[int, typer.Option(help="Of what is drawn.", rich_help_panel=_WRITING)] = 0,
    record: Annotated[bool, typer.Option(help="Keep a trace in the run.", rich_help_panel=_WRITING)] = True,
    make: Annotated[str | None, typer.Option(help="Its name.", rich_help_panel=_MAKING, show_default=False)] = None,
    feature: Features = None,
    positive: Annotated[Path | None, typer.Option(help="Texts to go off in.", rich_help_panel=_MAKING)] = None,
    negative: Annotated[Path | None, typer.Option(help="Texts to be silent in.", rich_help_panel=_MAKING)] = None,
    false_alarms: Annotated[float, typer.Option(help="Share of negative texts.", rich_help_panel=_MAKING)] = 0.01,
    on_alarm: Annotated[str, typer.Option(help="log, stop or steer.", rich_help_panel=_MAKING)] = "log",
    steer: Steer = None,
    webhook: Annotated[str | None, typer.Option(help="An address to tell.", rich_help_panel=_MAKING)] = None,
    sae: Annotated[str | None, typer.Option(help="Which, where the run has several.", rich_help_panel=_MAKING)] = None,
    replay: Annotated[str | None, typer.Option(help="A recorded text to show again.", show_default=False)] = None,
    model: Annotated[str | None, typer.Option(help="The language model, if it has moved.", show_default=False)] = None,
    device: Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda, cuda:1.")] = "auto",
) -> None:
    from rich.console import Console

    from kanary.interventions import session, terminal
    from kanary.interventions.steerable import Steerable
    from kanary.interventions.traces import read_trace
    from kanary.interventions.watch import watch_names

    if replay is not None:
        terminal.replay(read_trace(run, replay), Console())
        return
    if make is None and not watch:
        typer.echo("\n".join(session.listed(run)))
        return
    examples = _examples(positive, negative)
    panel = Steerable.open(run, model=model, device=device, asks="--sae {}")
    if make is not None:
        action = on_alarm if on_alarm != "log" or not steer else "steer"
        wanted = session.Wanted(feature or (), false_alarms, action, steer or (), webhook, seed)  # type: ignore[arg-type]
        there = make in watch_names(run)
        made = session.new_watch(run, panel, sae, make, wanted, examples)
        typer.echo("\n".join(terminal.described(made)))
        if there:
            typer.echo(f"It replaces the watch {make!r} that was there.")
        return
    assert watch
    if positive is not None or negative is not None:
        for name in watch:
            found = session.measured_on(run, panel, name, examples)
            typer.echo(f"{name}: {terminal.measured_line(found)}")
            if found.doubt is not None:
                typer.echo(f"Warning: {found.doubt}")
        return
    how = session.Writing(prompt, tokens, temperature, seed=seed)
    for line in session.follow_text(run, panel, watch, how, Console(), record=record).afterwards(run):
        typer.echo(line, err=True)


def _examples(positive: Path | None, negative: Path | None) -> "Examples":
    from kanary.cli.lists import texts_in
    from kanary.interventions.making import Examples

    return Examples(*(texts_in(path) if path is not None else [] for path in (positive, negative)))
