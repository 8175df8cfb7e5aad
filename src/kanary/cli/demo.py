"""``kanary demo``."""

from pathlib import Path
from typing import Annotated

import typer

from kanary.cli.show import print_metrics

HELP = """Try the whole path in two minutes, without a download: train two SAEs, judge them, find concepts in them.

    kanary demo

A TopK and a JumpReLU SAE are trained on the small Llama that comes with Kanary, from one stream of activations. Its text is
written by Kanary, so which concepts hold at every token is known, and the best latent for each can be named and judged beside
the best neuron. Then come a report to read and what to do next.
"""


def command(
    out: Annotated[
        Path | None,
        typer.Option(help="Run folder; by default runs/demo, runs/demo-2 …", metavar="RUN", show_default=False),
    ] = None,
) -> None:
    from kanary.demo import demo, lines

    found = demo(out)
    print_metrics(found.evaluation.to_json())
    for line in lines(found):
        typer.echo(line)
