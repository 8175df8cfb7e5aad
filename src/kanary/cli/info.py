"""``kanary info``."""

from pathlib import Path
from typing import Annotated

import typer

HELP = "Say what a folder holds: a run, an SAE, or a store of activations."


def command(
    path: Annotated[Path, typer.Argument(help="A run folder, an SAE's folder, or a store.", show_default=False)],
) -> None:
    from kanary.info import describe

    typer.echo(describe(path))
