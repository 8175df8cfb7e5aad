"""``kanary explain``."""

from typing import Annotated, Any

import typer

HELP = """Say in words what the features of an indexed run mean (`kanary index RUN` comes first), and whether to believe it.

    kanary explain runs/first --features alive:50 --explainer rule --scorers detection,fuzzing,simulation

    kanary explain runs/first --explainer llm --llm gpt-4o-mini --price 0.15,0.60 --budget-usd 2

    kanary explain runs/first runs/second --features alive:100 --report compared

**What explains.** rule needs no language model: it finds the tokens and contexts on which a feature fires, and can be run on
new text. llm asks any OpenAI-compatible endpoint; its key comes from OPENAI_API_KEY.

**What scores.** Explanations are made from one half of the documents and scored on the other, whose negatives include the same
token where the feature is silent. Beside every score stand the controls: the oracle, shuffled and random explanations, the
feature's most frequent token, a latent that fires at random, a random SAE.

**What is written.** Explanations and scores go into the index, where `kanary serve` shows them; tables into RUN/explain/NAME.

**--report DIR** compares several runs, on as many features of each density.
"""


def fields() -> dict[str, Any]:
    from kanary.explain.options import ExplainConfig

    return {"config": ExplainConfig}


def command(
    run: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Run folders that have an index.", show_default=False)
    ],
    report: Annotated[
        str | None,
        typer.Option(help="Compare the runs' SAEs, and write the tables here.", metavar="DIR", show_default=False),
    ] = None,
    *,
    values: dict[str, Any],
) -> None:
    from kanary.config import from_mapping
    from kanary.errors import KanaryError
    from kanary.explain.compare import compare_explanations
    from kanary.explain.job import explain_features
    from kanary.explain.options import ExplainConfig
    from kanary.explain.table import shown

    config = from_mapping(ExplainConfig, values)
    try:
        if report:
            found = compare_explanations(run, report, config)
            typer.echo(found.shown)
            typer.echo(found.summary)
            return
        if len(run) > 1:
            raise KanaryError(f"{len(run)} runs: give one, or compare them with --report DIR.")
        explained = explain_features(run[0], config)
    except KeyboardInterrupt as stop:
        again = "; answers paid for are not asked again" if config.calls else ""
        raise KeyboardInterrupt(f"stopped. What was explained is kept{again}.") from stop
    typer.echo(shown(explained.table))
    for line in explained.remarks:
        typer.echo(line, err=True)
    typer.echo(explained.summary)
