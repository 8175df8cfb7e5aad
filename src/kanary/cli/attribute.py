"""``kanary attribute``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kanary.errors import KanaryError

if TYPE_CHECKING:
    from kanary.interventions.attributed import Attribution
    from kanary.interventions.steerable import Steerable
    from kanary.interventions.targets import LatentTarget

HELP = """Show which features, at which tokens, raise a prediction.

    kanary attribute runs/first --prompt "Anna had wanted to sail round the world; instead" --token " she" --against " he"

    kanary attribute runs/both --sae early --prompt "Anna had wanted to sail" --latent 17 --of late

Without **--token** it is the likeliest next token. With **--latent** and **--of** it is, instead of a token, a latent of
another SAE of the run, at a later site.

Every feature has its effect to first order (gradient) and its share by integrated gradients; the strongest are also taken
out, which is exact. What the SAE misses has a row of its own. Positive numbers raise the target. docs/attribution.md says
how to read them.
"""


def command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder or an SAE's folder.", show_default=False)],
    prompt: Annotated[str, typer.Option(help="What the model reads.", show_default=False)],
    token: Annotated[
        str | None, typer.Option(help="The next token to explain, with its leading space.", show_default=False)
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="Explain the token's logit minus that of this one.", show_default=False)
    ] = None,
    latent: Annotated[int | None, typer.Option(help="Explain a latent instead of a token.", show_default=False)] = None,
    of: Annotated[str | None, typer.Option(help="Name of the SAE of --latent.", show_default=False)] = None,
    position: Annotated[int, typer.Option(help="Of the token after which is predicted; -1 is the last.")] = -1,
    sae: Annotated[
        str | None, typer.Option(help="Name of the SAE, where the run has several.", show_default=False)
    ] = None,
    steps: Annotated[int, typer.Option(help="Of the integral.")] = 32,
    exact: Annotated[int, typer.Option(help="Features, and features at single tokens, to take out.")] = 20,
    top: Annotated[int, typer.Option(help="Rows to print.")] = 15,
    out: Annotated[Path | None, typer.Option(help="Write everything here, as JSON.", show_default=False)] = None,
    model: Annotated[str | None, typer.Option(help="The language model, if it has moved.", show_default=False)] = None,
    device: Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda, cuda:1.")] = "auto",
) -> None:
    from kanary.files import write_json
    from kanary.interventions.attribution import attribute
    from kanary.interventions.steerable import Steerable

    opened = Steerable.open(run, model=model, device=device, asks="--sae {}")
    found = attribute(
        opened.lm,
        opened.saes[opened.name(sae)],
        prompt,
        token=token,
        against=against,
        target=_target(opened, latent, of),
        position=position,
        steps=steps,
        exact=exact,
        top=max(top, exact),
    )
    if out:
        write_json(out, found.to_json())
    for line in _lines(found, top):
        typer.echo(line)


def _target(opened: "Steerable", latent: int | None, of: str | None) -> "LatentTarget | None":
    from kanary.interventions.targets import LatentTarget

    if latent is None and of is None:
        return None
    if latent is None or of is None:
        raise KanaryError("Give --latent and --of together: the number of a latent and the name of its SAE.")
    return LatentTarget(opened.saes[opened.name(of)], latent)


def _lines(found: "Attribution", top: int) -> list[str]:
    target, total = found.target, found.completeness
    if target["kind"] == "token":
        against = f" above {target['against']['token']!r}" if target["against"] else " above the mean"
        lines = [
            f"{target['token']!r}: probability {target['probability']:.3f}, rank {target['rank']}; its logit{against} is "
            f"{found.value:.3f}. Likeliest: {', '.join(repr(each.token) for each in found.predictions[:5])}."
        ]
    else:
        lines = [
            f"Latent {target['latent']} of {target['site']}: code {target['value']:.3f}, called for {found.value:.3f}."
        ]
    lines += ["", f"Features at {found.site} ({found.where}), at single tokens:", ""]
    lines.append(f"{'feature':>9}  {'token':<16}{'value':>8}{'gradient':>11}{'integrated':>12}{'taken out':>11}")
    for row in found.rows[:top]:
        where = f"{row.position} {found.tokens[row.position]!r}"
        lines.append(f"{row.latent:>9}  {where:<16}{row.value:>8.2f}{_numbers(*row.credit)}")
    lines += ["", "Features at all their tokens:", ""]
    lines += [f"{row.latent:>9}  {_tokens(row.tokens):<24}{_numbers(*row.credit)}" for row in found.features[:top]]
    lines += ["", f"{'':>9}  {'what the SAE misses':<24}{_numbers(*found.error.credit)}"]
    lines.append(
        f"{'':>11}Integrated: {total.sum:.4f} in all, of a change of {total.total:.4f} from the SAE's bias alone "
        f"(error {total.error:.1e} with {total.steps} steps)."
    )
    if found.lens:
        lines += ["", "The prediction after each block, if those that follow were left out:", ""]
        for each in found.lens:
            likely = ", ".join(repr(one.token) for one in each.top)
            lines.append(f"  {each.where:<20}{each.probability:>8.3f}  rank {each.rank:<7,}{likely}")
    return lines


def _numbers(gradient: float, integrated: float, ablated: float | None) -> str:
    return f"{gradient:>11.3f}{integrated:>12.3f}{'–' if ablated is None else f'{ablated:.3f}':>11}"


def _tokens(n: int) -> str:
    return "1 token" if n == 1 else f"{n} tokens"
