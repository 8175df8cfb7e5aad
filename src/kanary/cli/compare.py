"""``kanary compare``."""

from pathlib import Path
from typing import Annotated

import typer

HELP = """Compare the SAEs of several runs at the same sparsity: one table, Pareto plots, intervals over seeds.

    kanary compare runs/topk runs/jumprelu --out comparison.html

SAEs that differ only in their seed are averaged. Kinds are compared at L0 16, 32, 64 and 128, interpolated between the SAEs
that were trained; a difference inside the interval is called a tie. Train with --k 8,16,32,64 --seeds 0,1,2 for that.

FILE is .html (a page to read), .csv or .json. What is not like for like (other site, text, width) is said on the table.
"""


def command(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="Write the comparison here: .html, .csv or .json.", show_default=False)
    ] = None,
) -> None:
    from rich.console import Console

    from kanary.evaluation.comparison.compare import compare

    found = compare(runs, out)
    console = Console(highlight=False)
    console.width = max(console.width, 100)
    console.print(found.table())
    for warning in found.warnings:
        typer.echo(f"Note: {warning}", err=True)
    if out:
        typer.echo(f"The comparison is in {out}.")
