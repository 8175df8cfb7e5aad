"""``kanary index``."""

from typing import Annotated, Any

import typer

HELP = """Make the feature index of a run: for every latent of its SAEs, what a page about it shows, in one pass over a text.

    kanary index runs/first

    kanary index runs/first --text other-stories.parquet --tokens 500K

Density, the values' histogram, the strongest examples and examples from ten even intervals of the values, the tokens it
writes for, and the latents nearest to it: for all latents together, while the text is read once.

It is written into RUN/index/NAME, in a format that docs/feature-index.md describes. A build that is stopped goes on where
it was when the same command is given again, and ends with the same files.
"""


def fields() -> dict[str, Any]:
    from kanary.features.options import IndexConfig

    return {"config": IndexConfig}


def command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder or an SAE's folder.", show_default=False)],
    *,
    values: dict[str, Any],
) -> None:
    from kanary.config import from_mapping
    from kanary.features.build import index
    from kanary.features.options import IndexConfig

    config = from_mapping(IndexConfig, values)
    try:
        found = index(run, config)
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt("stopped. Give the same command again to go on.") from stop
    for each in found.values():
        tokens = each.meta["tokens"]
        all_of_it = "no more is held out" if each.meta["part"] == "heldout" else "the text has no more"
        short = f" ({all_of_it})" if tokens < 0.9 * config.tokens else ""
        typer.echo(
            f"{len(each):,} latents, {each.meta['dead']:,} of them silent on {tokens:,} tokens{short}: {each.folder}"
        )
