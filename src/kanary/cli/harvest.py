"""``kanary harvest``."""

from typing import Any

import typer

from kanary.cli.flags import Config
from kanary.config import read_yaml

HELP = """Write a model's activations to disk, to train on them many times without running the model again.

    kanary harvest --model MODEL --site resid_post.12,mlp_out.12 --text stories.parquet --tokens 10M --out STORE

    kanary train --store STORE --site resid_post.12 --sae topk

Several sites share every forward. A harvest that is stopped goes on when the same command is given again.
"""


def fields() -> dict[str, Any]:
    from kanary.activations.harvest import HarvestConfig

    # a harvest neither mixes nor reads activations
    return {"config": HarvestConfig, "without": ("pool", "store")}


def command(*, config: Config = None, values: dict[str, Any]) -> None:
    from kanary.activations.harvest import HarvestConfig, harvest
    from kanary.config import from_mapping

    try:
        store = harvest(from_mapping(HarvestConfig, (read_yaml(config) if config else {}) | values))
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt("stopped. Every whole file is kept: give the same command again to go on.") from stop
    typer.echo(
        f"{store.n_tokens:,} tokens at {', '.join(store.sites)} are in {store.folder} ({store.n_bytes / 1e9:.2f} GB)."
    )
