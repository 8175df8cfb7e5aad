"""``kanary study``."""

from pathlib import Path
from typing import Annotated

import typer

HELP = """Run a study that comes with Kanary, or go on with it: many SAEs trained alike, compared by a written rule.

    kanary study kan --smoke                        every code path, at tiny sizes

    kanary study kan --plan                         how long it will take here

    kanary study kan --out runs/study-kan --budget 8h

`kan` asks whether KAN-based SAEs beat linear ones at equal parameters, training FLOPs and index bits. Each SAE is a cell; a
cell that is finished is never run again, and a stop loses one at most. Several processes may share the folder.

The report is OUT/report.md, beside the numbers as CSV. Settings of synthetic features need the extra `eval`.
"""


def command(
    name: Annotated[str, typer.Argument(help="kan, or a study's own YAML file.", metavar="STUDY")] = "kan",
    out: Annotated[
        Path | None, typer.Option(help="Folder of the study; by default runs/study-STUDY.", show_default=False)
    ] = None,
    smoke: Annotated[bool, typer.Option("--smoke", help="All code paths at tiny sizes.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Only say what there is to do and how long it takes.")] = False,
    only: Annotated[
        str,
        typer.Option(help="Only these settings and families: c,kan-bend. matched: all sparsifiers.", metavar="NAMES"),
    ] = "",
    budget: Annotated[str | None, typer.Option(help="Begin no cell that ends after this long: 8h.")] = None,
    stories_model: Annotated[
        str, typer.Option(help="The model stories260K, for setting d.", metavar="MODEL", show_default=False)
    ] = "",
    stories_text: Annotated[
        str, typer.Option(help="TinyStories, for setting d.", metavar="TEXT", show_default=False)
    ] = "",
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1.")] = "cpu",
) -> None:
    from kanary.config import parse_seconds
    from kanary.lab.study.plan import lines
    from kanary.lab.study.plan import plan as planned
    from kanary.lab.study.report import WAITS
    from kanary.lab.study.run import open_study, run_study

    given = {"model": stories_model, "text": stories_text}
    settings = {"d": {key: value for key, value in given.items() if value}} if any(given.values()) else {}
    words = [word.strip() for word in only.split(",") if word.strip()]
    found = open_study(name, out, smoke=smoke, only=words, settings=settings, device=device)
    for note in found.notes:
        typer.echo(note, err=True)
    if plan:
        for line in lines(planned(found)):
            typer.echo(line)
        return
    try:
        report, done = run_study(found, budget=None if budget is None else parse_seconds(budget))
    except KeyboardInterrupt as stop:
        again = "Give the same command again to go on, or with --budget 1s for a report of what is there."
        raise KeyboardInterrupt(
            f"stopped. What was finished is kept, what was being trained begins anew. {again}"
        ) from stop
    typer.echo(f"The report is {report}; the numbers are in the CSV files beside it.")
    if not done:
        typer.echo("The time is up before all is done: give the same command again to go on.", err=True)
    elif found.matched and found.design.matched.sparsifiers and not found.best():
        typer.echo(f"All sparsifiers at matched L0. {WAITS}", err=True)
