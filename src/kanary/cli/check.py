"""``kanary check``."""

from pathlib import Path
from typing import Annotated

import typer

HELP = """Check that nothing is silently wrong with a run: site, scale, special tokens, tokenizer, weights.

    kanary check runs/first

One line per check, in plain words. Exit status 1 if any fails.
"""


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder or an SAE's folder.", show_default=False)],
    text: Annotated[str | None, typer.Option(help="Another text than that of training.", show_default=False)] = None,
    model: Annotated[
        str | None, typer.Option(help="The language model, if it has moved since training.", show_default=False)
    ] = None,
    device: Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda, cuda:1.")] = "auto",
) -> None:
    from kanary.evaluation.checks.check import check, lines

    found = check(run, text=text, model=model, device=device)
    typer.echo(lines(found))
    if any(one.passed is False for one in found):
        raise SystemExit(1)
