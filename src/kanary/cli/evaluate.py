"""``kanary evaluate``."""

from typing import Annotated, Any

import typer

from kanary.cli.show import print_metrics

HELP = """Say how good the SAEs of a run are, on text that they have not seen, and write a report to read.

    kanary evaluate runs/first

    kanary evaluate runs/first --text other-stories.parquet --tokens 500K

**What is measured.** How sparse (L0), how faithful (explained variance, the loss of the model with the SAE in its place),
how healthy (dead and dense latents), what each latent does to the logits, and whether the model can still do what it
could: prompts with known next tokens, with and without the SAE. Every number has its interval and stands beside controls:
the identity, a PCA of as many components, the same SAE untrained, random directions.

**What latents mean**, where the text is the labelled corpus: the best latent for every concept, beside neurons and controls.

**What is written**, into RUN or --out: report.html (opens anywhere, offline), metrics.json, and tables as CSV.

**Comparable with others.** --like saebench or --like saelens samples as they do and also writes their JSON.
"""


def fields() -> dict[str, Any]:
    from kanary.evaluation.evaluate import EvaluateConfig

    return {"config": EvaluateConfig}


def command(
    run: Annotated[
        str, typer.Argument(help="A run folder, an SAE's folder, or an SAE on the Hub.", show_default=False)
    ],
    *,
    values: dict[str, Any],
) -> None:
    from kanary.config import from_mapping
    from kanary.evaluation.evaluate import EvaluateConfig, evaluate
    from kanary.evaluation.pages.report import warnings

    found = evaluate(run, from_mapping(EvaluateConfig, values))
    print_metrics(found.to_json())
    for name in found.saes:
        for warning in warnings(found, name):
            typer.echo(f"{name}: {warning}", err=True)
    typer.echo(
        f"The report is {found.folder}/report.html; the numbers are in metrics.json and the CSV files beside it."
    )
