"""``kanary train``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from kanary.cli.flags import Config
from kanary.cli.show import print_metrics
from kanary.config import read_yaml
from kanary.errors import KanaryError, typed

HELP = """Train a sparse autoencoder (SAE) on the activations of a language model.

A language model packs more concepts into an activation than the activation has dimensions. An SAE takes them apart again:
it rewrites every activation as a sum of a few out of many directions, so that single concepts can be seen and changed.

    kanary train --model MODEL --site resid_post.12 --text stories.parquet --sae topk --k 32 --width 16K --tokens 50M

    kanary train --model bundled --site resid_post.3 --text labelled --sae topk --k 32 --width 1K --tokens 300K

**Model, site, text.** MODEL is a folder, a name on the Hugging Face Hub, or bundled, the small Llama that comes with Kanary
and reads text that Kanary writes: the second line above needs no download and takes two or three minutes. The site is where
activations are read: resid_post.12 is the residual stream after block 12 (blocks count from 0). The text should be of the kind
that the model knows.

**SAE.** topk keeps the k largest latents of every token: the easiest to train. batchtopk shares k x tokens over a batch.
jumprelu, gated and relu learn how many latents fire; say how many you want with --target-l0. With any of them, --encoder
refine explains more with as many active latents, at some cost in time. What else a part can be told (--set knots=3) is
in docs/kan.md.

**How many?** A width of 8 to 32 times the activation's and 16 to 64 active latents are usual. More active latents explain
more and are harder to read.

**Several at once.** Lists train every combination on one stream, for the price of one harvest: --k 16,32,64 --seeds 0,1,2

**Stopping.** Ctrl-C, --budget 2h or a crash lose nothing but the steps since the last checkpoint: kanary train --resume RUN

At the end the SAE is tested on held-out text, beside controls: the identity, PCA, the same SAE untrained, random directions.
"""


def fields() -> dict[str, Any]:
    from kanary.training.config import TrainConfig

    return {"config": TrainConfig, "lists": True}


def command(
    *,
    config: Config = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with this run folder.", show_default=False)] = None,
    set: Annotated[
        list[str] | None, typer.Option(help="An option of a part, as name=value; may be repeated.", show_default=False)
    ] = None,
    values: dict[str, Any],
) -> None:
    from kanary.jobs import train
    from kanary.training.config import grid, replaced

    given = replaced(read_yaml(config) if config else {}, values)
    if set:
        given["options"] = dict(given.get("options", {})) | dict(_pair(text) for text in set)
    if resume is None:
        run = train(grid(given))
    else:
        run = train(resume=resume, **given)
    if run.ending == "finished":
        print_metrics(run.metrics)
        typer.echo(f"The SAE is in {run.folder / 'sae'}. Look at the run with: kanary info {typed(run.folder)}")
        return
    why = "The budget is spent" if run.ending == "budget" else "Stopped as asked"
    typer.echo(f"{why}; everything is saved. Go on with: kanary train --resume {typed(run.folder)}", err=True)
    if run.ending == "interrupted":
        raise SystemExit(130)


def _pair(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise KanaryError(f"--set {text!r} must be name=value.")
    import yaml

    return name.strip().replace("-", "_"), yaml.safe_load(value)
