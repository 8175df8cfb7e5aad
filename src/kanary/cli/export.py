"""``kanary export``."""

from pathlib import Path
from typing import Annotated

import typer

from kanary.errors import KanaryError

HELP = """Write features of a run's index into files to send, keep or import elsewhere.

    kanary export runs/first --features 0:50 --html features.html

    kanary export runs/first --features alive:500 --csv features.csv --neuronpedia upload

**--html** is one page that opens from disk, without a network, and shows what `kanary serve` shows of these features.
**--csv** and **--parquet** have a row per feature. **--svg** and **--png** draw every feature and each part of it, for papers;
PNG needs `pip install "kanary[figures]"`. **--neuronpedia** writes the files of its bulk import, with what removing the latent
does to every token's loss.

`kanary index RUN` comes first.
"""


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder or an index.", show_default=False)],
    features: Annotated[
        str, typer.Option(help="Numbers, ranges like 0:50, alive:100, list:NAME or all; commas between.")
    ] = "alive:50",
    sae: Annotated[
        str | None, typer.Option(help="Name of the SAE, where the run has several.", show_default=False)
    ] = None,
    html: Annotated[Path | None, typer.Option(help="A page that opens offline.", show_default=False)] = None,
    csv: Annotated[Path | None, typer.Option(help="A table.", show_default=False)] = None,
    parquet: Annotated[Path | None, typer.Option(help="The same table, with types.", show_default=False)] = None,
    svg: Annotated[Path | None, typer.Option(help="Folder for figures.", metavar="DIR", show_default=False)] = None,
    png: Annotated[
        Path | None, typer.Option(help="Folder for figures as pixels.", metavar="DIR", show_default=False)
    ] = None,
    neuronpedia: Annotated[
        Path | None, typer.Option(help="Folder for Neuronpedia's import.", metavar="DIR", show_default=False)
    ] = None,
) -> None:
    from kanary.app.export import write_html
    from kanary.features.figures import write_png, write_svg
    from kanary.features.formats import write_csv, write_neuronpedia, write_parquet
    from kanary.features.index import FeatureIndex
    from kanary.features.lists import listed

    if not (html or csv or parquet or svg or png or neuronpedia):
        raise KanaryError(
            "Say what to write: --html FILE, --csv FILE, --parquet FILE, --svg DIR, --png DIR or --neuronpedia DIR."
        )
    index = FeatureIndex.open(run, sae)
    index.verify()  # what leaves the house is as it was written
    latents = listed(index, features)
    if html:
        write_html(index, latents, html)
        typer.echo(f"{len(latents):,} features are in {html}, which opens without a network.")
    for path, write in ((csv, write_csv), (parquet, write_parquet)):
        if path:
            write(index, latents, path)
            typer.echo(f"{len(latents):,} features are in {path}.")
    for folder, draw in ((svg, write_svg), (png, write_png)):
        if folder:
            draw(index, latents, folder)
            typer.echo(f"Figures of {len(latents):,} features are in {folder}.")
    if neuronpedia:
        made = write_neuronpedia(index, latents, neuronpedia)
        typer.echo(f"{len(latents):,} features are in {made}, as Neuronpedia imports them.")
