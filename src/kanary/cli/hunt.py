"""``kanary hunt``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kanary.errors import KanaryError

if TYPE_CHECKING:
    from kanary.interventions.hunted import Hunt

HELP = """Look for what matters for safety: whether the model does it, which features carry it, and what steering them does.

    kanary hunt honesty runs/first

    kanary hunt gender-bias runs/first --out hunt.json

Pairs of passages are the same but for one thing (a deceptive speaker in the place of an honest one; a woman in the place of a
man) and lead up to the same question. Features are chosen on half of the pairs; all numbers are those of the other half, with
95 % intervals. Beside the best features stand random ones, a difference of means, and pairs in which something else is
switched. Where nothing is found, that is said. docs/hunt.md says how to read it.
"""
FEWEST = 16
"""Pairs, as in ``kanary.interventions.hunt``."""


def command(
    what: Annotated[str, typer.Argument(metavar="WHAT", help="honesty or gender-bias.", show_default=False)],
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder or an SAE's folder.", show_default=False)],
    sae: Annotated[
        str | None, typer.Option(help="Name of the SAE, where the run has several.", show_default=False)
    ] = None,
    pairs: Annotated[int, typer.Option(help="Pairs of passages; half are held out.")] = 160,
    seed: Annotated[int, typer.Option(help="Of the passages, the halves and the intervals.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write everything here, as JSON.", show_default=False)] = None,
    model: Annotated[str | None, typer.Option(help="The language model, if it has moved.", show_default=False)] = None,
    device: Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda, cuda:1.")] = "auto",
) -> None:
    if pairs < FEWEST:  # before the seconds that the imports take
        raise KanaryError(
            f"--pairs {pairs} is too few: half of them choose features and half judge them. Give at least {FEWEST}."
        )
    from kanary.files import write_json
    from kanary.interventions.hunt import hunt
    from kanary.interventions.quarry import find_quarry
    from kanary.interventions.steerable import Steerable

    find_quarry(what)  # refuses an unknown one before the model is loaded
    panel = Steerable.open(run, model=model, device=device, asks="--sae {}")
    found = hunt(what, panel, sae=sae, pairs=pairs, seed=seed)
    if out:
        write_json(out, found.to_json())
    for line in _lines(found):
        typer.echo(line)


def _lines(found: "Hunt") -> list[str]:
    from kanary.interventions.hunted import number, share

    lines = [f"Hunting {found.what} at {found.site} ({found.where}): {found.says}."]
    lines += [f"Yes means: {found.yes}. {found.chosen_on} pairs were chosen on, {found.held_out} held out.", ""]
    lines.append(f"{'feature':>9}  {'more of it':<12}{'AUROC held out':<24}{'on the control':<24}")
    for each in found.found:
        mark = "" if each in found.real else "  not above chance"
        lines.append(f"{each.latent:>9}  {each.side:<12}{number(each.held_out):<24}{number(each.control):<24}{mark}")
    lines += ["", f"{'steered':<36}{'times':>6}  {'yes before':<22}{'yes after':<22}{'change':<24}unrelated right"]
    for effect in found.effects:
        times = "" if effect.strength is None else f"{effect.strength:g}"
        control = "" if effect.control is None else share(effect.control)
        by = f"towards {effect.direction}: {effect.by}"
        cells = f"{share(effect.before):<22}{share(effect.after):<22}{share(effect.change):<24}"
        lines.append(f"{by:<36}{times:>6}  {cells}{control}")
    lines += ["", f"Unrelated questions answered rightly without steering: {share(found.unrelated)}.", ""]
    return [*lines, *found.verdict()]
