"""``kanary search-prompts``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kanary.cli.lists import texts_in
from kanary.errors import KanaryError

if TYPE_CHECKING:
    from kanary.evaluation.result import Metric
    from kanary.interventions.prompt_search import PromptSearch, Separating

HELP = """Find the features that tell two lists of prompts apart.

    kanary search-prompts runs/first --positive rude.txt --negative polite.txt

    kanary search-prompts runs/first --concept honesty.lie

A list is a text file with a prompt on every line, at least 8; of equal lines one is read. Features are chosen on half of the
prompts and judged on the rest, with intervals; features that fire at the start of every sentence, at one position, or all the
time are left out and named. The line about shuffled lists says what chance alone would find.

With **--concept**, a concept of the labelled corpus, the rank of the latent that stands for it is told; without lists, the
prompts are passages with the concept, and the same passages without it.
"""


HEAD = ("feature", "AUROC", "difference", "rank share", "d", "fires in +/−", "strongest at")
TOWARDS = {
    "positive": "near 1: more of it in positive prompts; .5: no difference",
    "negative": "near 0: more of it in negative prompts; .5: no difference",
}
FEW = 10
"""Prompts held out of either kind, below which a warning is given."""


def command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder or an SAE's folder.", show_default=False)],
    positive: Annotated[Path | None, typer.Option(help="Prompts that have it, one a line.", show_default=False)] = None,
    negative: Annotated[Path | None, typer.Option(help="Prompts that lack it, one a line.", show_default=False)] = None,
    concept: Annotated[str | None, typer.Option(help="A concept of the labelled corpus.", show_default=False)] = None,
    pool: Annotated[
        str, typer.Option(help="A latent's value in a prompt: max, mean or last, over its tokens.")
    ] = "max",
    by: Annotated[
        str, typer.Option(help="Score to list by: mean_difference, rank_share, auroc or cohens_d.")
    ] = "auroc",
    top: Annotated[int, typer.Option(help="Features of each side.")] = 10,
    pairs: Annotated[int, typer.Option(help="Prompts of each kind that --concept makes.")] = 64,
    sae: Annotated[
        str | None, typer.Option(help="Name of the SAE, where the run has several.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the halves and the intervals.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write everything here, as JSON.", show_default=False)] = None,
    model: Annotated[str | None, typer.Option(help="The language model, if it has moved.", show_default=False)] = None,
    device: Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda, cuda:1.")] = "auto",
) -> None:
    from kanary.files import write_json
    from kanary.interventions.concept_prompts import concept_prompts
    from kanary.interventions.prompt_search import refuse_prompts, search_prompts
    from kanary.interventions.steerable import Steerable

    if positive and negative:
        lists = texts_in(positive), texts_in(negative)
    elif positive or negative or not concept:
        raise KanaryError("Give both --positive FILE and --negative FILE, or --concept NAME alone.")
    else:
        lists = concept_prompts(concept, pairs, seed)
    refuse_prompts(*lists)
    opened = Steerable.open(run, model=model, device=device, asks="--sae {}")
    options = {"by": by, "top": top, "concept": concept, "seed": seed}
    found = search_prompts(opened.lm, opened.saes[opened.name(sae)], *lists, pool=pool, **options, quiet=False)  # type: ignore[arg-type]
    if out:
        write_json(out, found.to_json())
    for line in _lines(found):
        typer.echo(line)


def _lines(found: "PromptSearch") -> list[str]:
    sizes = ", ".join(f"{a} {side} prompts and {b} held out" for side, (a, b) in found.prompts.items())
    lines = [
        f"Features at {found.site} ({found.where}), chosen on {sizes}.",
        "Scores are those of the prompts held out; how often a feature fires is said of all.",
    ]
    if (fewest := min(b for _, b in found.prompts.values())) < FEW:
        lines.append(
            f"{fewest} held out are few: intervals say how little they show. Give {2 * FEW} prompts of each kind."
        )
    for side in ("positive", "negative"):
        here = [each for each in found.found if each.side == side]
        held = sum(each.holds for each in here)
        lines += [
            "",
            f"Stronger in the {side} prompts that they were chosen on, best first there by {found.by}; on those held",
            f"out {held} of {len(here)} still are, beyond the interval of their AUROC ({TOWARDS[side]}):",
            "",
        ]
        lines += _aligned([HEAD, *map(_cells, here)])
    control = found.control
    lines += [
        "",
        f"By chance, with shuffled lists: AUROC {control.value:.2f} ({control.low:.2f} to {control.high:.2f}).",
    ]
    for left in found.left_out:
        lines.append(f"Left out: feature {left.latent}, {left.why}: {left.says}.")
    if found.truth:
        truth = found.truth
        ranks = ", ".join(f"{rank:,} by {score}" for score, rank in truth.ranks.items())
        out = f"; it is left out: {truth.left_out}" if truth.left_out else ""
        lines.append(
            f"The latent that stands for {truth.concept} is {truth.latent} (F1 {truth.f1:.2f}); its rank is {ranks}{out}."
        )
    return lines


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """The first column to the right, the others to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [row[0].rjust(widths[0] + 2), *(cell.ljust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        ).rstrip()
        for row in rows
    ]


def _cells(each: "Separating") -> tuple[str, ...]:
    scores = each.held_out
    return (
        str(each.latent),
        _metric(scores["auroc"], 2),
        _metric(scores["mean_difference"], 2),
        _metric(scores["rank_share"], 3),
        _metric(scores["cohens_d"], 1),
        f"{each.fires[0]:.0%} / {each.fires[1]:.0%}",
        _around(each.strongest.tokens, each.strongest.at),
    )


def _metric(metric: "Metric", digits: int) -> str:
    rounded = (round(each, digits) + 0.0 for each in metric[:3])  # no −0
    value, low, high = (f"{each:.{digits}f}".replace("-", "−") for each in rounded)
    return f"{value} ({low} to {high})"


def _around(tokens: tuple[str, ...], at: int) -> str:
    before, after = "".join(tokens[max(0, at - 4) : at]), "".join(tokens[at + 1 : at + 3])
    return f"{before}[{tokens[at]}]{after}".replace("\n", "↵")
