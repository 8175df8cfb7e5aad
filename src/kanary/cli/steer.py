"""``kanary steer``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from kanary.errors import KanaryError

HELP = """Steer a run's model by its features, beside the model as it is.

    kanary steer runs/first --feature 12 --strength 1.5 --prompt "Once upon a time"

    kanary steer runs/first --feature 12 --feature 40 --strength 1.5 --strength -1 --prompt "I am a" --out table.html

    kanary steer runs/first --feature 12 --sweep --prompt "Once upon a time" --out sweep

Strengths count in maxima: at **--strength 2**, the feature's value rises by twice the largest one of its index
(`kanary index RUN` comes first; else **--text FILE** measures, or **--unit raw**).

**--sweep** tries a range of strengths and recommends one: presence of the concept against fluency, in five texts or more. With
**--controls** a random feature and a random direction are swept as well.
docs/steering.md has the definitions, and what Python can do besides.
"""
Concept = Annotated[
    str | None, typer.Option(help="Judge a sweep by this concept of the labelled corpus.", show_default=False)
]
Out = Annotated[
    Path | None, typer.Option(help="A .html, .md, .csv or .json file; of a sweep, a folder.", show_default=False)
]
Text = Annotated[
    str | None, typer.Option(help="Measure maxima on this text where there is no index.", show_default=False)
]


def command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder or an SAE's folder.", show_default=False)],
    prompt: Annotated[
        list[str], typer.Option(help="What the model goes on from; may be given again.", show_default=False)
    ],
    feature: Annotated[
        list[str],
        typer.Option(help="A feature, or NAME:feature of several SAEs; may be given again.", show_default=False),
    ],
    strength: Annotated[
        list[float] | None,
        typer.Option(help="How much of each feature, or of all. [2; of project_out 1]", show_default=False),
    ] = None,
    unit: Annotated[str, typer.Option(help="Of strengths: maximum, sigma or raw.")] = "maximum",
    kind: Annotated[str, typer.Option(help="add, set, at_least, at_most, scale, ablate or project_out.")] = "add",
    sweep: Annotated[bool, typer.Option("--sweep", help="Find the strength.")] = False,
    concept: Concept = None,
    controls: Annotated[bool, typer.Option("--controls", help="Sweep random features, too.")] = False,
    seeds: Annotated[
        str | None, typer.Option(help="One text for each. [0; of a sweep 0,1,2,3,4]", show_default=False)
    ] = None,
    tokens: Annotated[int, typer.Option(help="To write.")] = 40,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.7,
    out: Out = None,
    text: Text = None,
    model: Annotated[str | None, typer.Option(help="The language model, if it has moved.", show_default=False)] = None,
    device: Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda, cuda:1.")] = "auto",
) -> None:
    from kanary.config import coerce
    from kanary.interventions.requested import requested_edits, write_sweep
    from kanary.interventions.side_by_side import named, side_by_side
    from kanary.interventions.steerable import Steerable
    from kanary.interventions.strength import SEEDS

    numbers: Any = coerce("--seeds", tuple[int, ...], seeds) if seeds else SEEDS if sweep else (0,)
    panel = Steerable.open(run, model=model, device=device, text=text, asks="--feature {}:12")
    edits = requested_edits(feature, strength or [], kind, unit)
    options = {"seeds": numbers, "tokens": tokens, "temperature": temperature}
    if sweep:
        typer.echo(write_sweep(panel, edits, prompt, concept, out, controls, **options))
        return
    if concept is not None or controls:
        raise KanaryError("--concept and --controls belong to a sweep: add --sweep.")
    table = side_by_side(panel, prompt, {named(edits): edits}, **options)
    for row in table.rows:
        typer.echo(f"\n{row[0].prompt!r}, seed {row[0].seed}")
        for name, each in zip(table.columns, row, strict=True):
            typer.echo(f"  {name}: {each.text.strip()!r}")
    if out is not None:
        table.write(out)
        typer.echo(f"\nWritten to {out}.")
