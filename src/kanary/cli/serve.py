"""``kanary serve``."""

from pathlib import Path
from typing import Annotated

import typer

HELP = """Look at runs in the browser: every feature, search, any text you type, SAEs side by side.

    kanary serve runs/first

    kanary serve                       every run in the folder runs

    kanary serve runs/first --watch lying      OpenAI clients get the watch's values; their base URL is printed

The features shown are those that `kanary index RUN` has looked for. Nothing leaves this machine, and nobody else can look:
the server listens at 127.0.0.1. With another --host other machines can reach it, if they know the token in the address that
is printed.
"""


def command(
    runs: Annotated[
        list[Path] | None, typer.Argument(help="Run folders, or folders of runs; by default runs.", show_default=False)
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="By default the first free one from 7350 on; 0 = any.", show_default=False)
    ] = None,
    host: Annotated[str, typer.Option(help="Where to listen: 0.0.0.0 for all networks of this machine.")] = "127.0.0.1",
    token: Annotated[
        str | None, typer.Option(help="What a client must know; made up where --host needs one.", show_default=False)
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The language model, if it has moved since training.", show_default=False)
    ] = None,
    dtype: Annotated[str, typer.Option(help="Numbers the model computes with: auto, float32, bfloat16.")] = "auto",
    device: Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda, cuda:1.")] = "auto",
    watch: Annotated[
        list[str] | None,
        typer.Option(help="A watch that answers at /v1 carry the values of; may be repeated.", show_default=False),
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
) -> None:
    from kanary.app.serve import serve

    serve(
        *(runs or ()),
        host=host,
        port=port,
        token=token,
        model=model,
        dtype=dtype,
        device=device,
        watch=watch or (),
        browser=browser,
    )
