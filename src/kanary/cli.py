"""The command line: parses, calls one function, prints."""

import dataclasses
import inspect
import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from kanary.config import coerce, read_yaml
from kanary.errors import KanaryError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="**Kanary**: see, test, steer and watch what a language model represents, with sparse autoencoders.",
)

TRAIN_HELP = """Train a sparse autoencoder (SAE) on the activations of a language model.

A language model packs more concepts into an activation than the activation has dimensions. An SAE takes them apart again:
it rewrites every activation as a sum of a few out of many directions, so that single concepts can be seen and changed.

    kanary train --model MODEL --site resid_post.12 --text stories.parquet --sae topk --k 32 --width 16K --tokens 50M

**Model, site, text.** MODEL is a folder or a name on the Hugging Face Hub. The site is where activations are read:
resid_post.12 is the residual stream after block 12 (blocks count from 0). The text should be of the kind the model knows.

**SAE.** topk keeps the k largest latents of every token: the easiest to train. batchtopk shares k x tokens over a batch.
jumprelu, gated and relu learn how many latents fire; say how many you want with --target-l0.

**How many?** A width of 8 to 32 times the activation's and 16 to 64 active latents are usual. More active latents explain
more and are harder to read.

**Several at once.** Lists train every combination on one stream, for the price of one harvest: --k 16,32,64 --seeds 0,1,2

**Stopping.** Ctrl-C, --budget 2h or a crash lose nothing but the steps since the last checkpoint: kanary train --resume RUN

At the end the SAE is tested on held-out text, beside two controls that no training could explain.
"""

HARVEST_HELP = """Write a model's activations to disk, to train on them many times without running the model again.

    kanary harvest --model MODEL --site resid_post.12,mlp_out.12 --text stories.parquet --tokens 10M --out STORE

    kanary train --store STORE --site resid_post.12 --sae topk

Several sites share every forward. A harvest that is stopped goes on when the same command is given again.
"""

EVALUATE_HELP = """Say how good the SAEs of a run are, on text that they have not seen, and write a report to read.

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

COMPARE_HELP = """Compare the SAEs of several runs at the same sparsity: one table, Pareto plots, intervals over seeds.

    kanary compare runs/topk runs/jumprelu --out comparison.html

SAEs that differ only in their seed are averaged. Kinds are compared at L0 16, 32, 64 and 128, interpolated between the SAEs
that were trained; a difference inside the interval is called a tie. Train with --k 8,16,32,64 --seeds 0,1,2 for that.

FILE is .html (a page to read), .csv or .json. What is not like for like (other site, text, width) is said on the table.
"""

DEMO_HELP = """Try the whole path in two minutes, without a download: train two SAEs, judge them, find concepts in them.

    kanary demo

A TopK and a JumpReLU SAE are trained on the small Llama that comes with Kanary, from one stream of activations. Its text is
written by Kanary, so which concepts hold at every token is known, and the best latent for each can be named and judged beside
the best neuron. Then come a report to read and what to do next.
"""

STUDY_HELP = """Run a study that comes with Kanary, or go on with it: many SAEs trained alike, compared by a written rule.

    kanary study kan --smoke                        every code path, at tiny sizes

    kanary study kan --plan                         how long it will take here

    kanary study kan --out runs/study-kan --budget 8h

`kan` asks whether KAN-based SAEs beat linear ones at equal parameters, training FLOPs and index bits. Each SAE is a cell; a
cell that is finished is never run again, and a stop loses one at most. Several processes may share the folder.

The report is OUT/report.md, beside the numbers as CSV.
"""

CHECK_HELP = """Check that nothing is silently wrong with a run: site, scale, special tokens, tokenizer, weights.

    kanary check runs/first

One line per check, in plain words. Exit status 1 if any fails.
"""


def flags(
    config: type, *, lists: bool, without: Sequence[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator: gives a command one flag per field of the dataclass ``config``; it receives the given ones as ``values``."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = typing.get_type_hints(config)
        parameters = [p for p in inspect.signature(command).parameters.values() if p.name != "values"]
        fields = [f for f in dataclasses.fields(config) if f.name not in ("options", *without)]
        for field in fields:
            parameters.append(_flag(field, hints[field.name], lists))

        def run(**given: Any) -> None:
            values = {f.name: given.pop(f.name) for f in fields}
            values = {name: value for name, value in values.items() if value is not None}
            try:
                command(**given, values={n: _parsed(config, n, v, lists) for n, v in values.items()})
            except KeyboardInterrupt as stop:  # typer would end without a word
                _stop(stop)

        run.__name__, run.__doc__ = command.__name__, command.__doc__
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def _flag(field: "dataclasses.Field[Any]", hint: Any, lists: bool) -> inspect.Parameter:
    name = "--" + field.name.replace("_", "-")
    boolean = bool in (hint, *typing.get_args(hint))
    names = [f"{name}/--no-{name[2:]}"] if boolean else [name, "--seeds"] if lists and field.name == "seed" else [name]
    shown = "" if field.default in (None, "", ()) or boolean else f" [{field.default}]"
    extra = " *Takes a list.*" if field.metadata["sweep"] else ""
    info = typer.Option(
        *names,
        help=field.metadata["help"] + extra + shown,
        rich_help_panel=field.metadata["group"],
        show_default=False,
        metavar=None if boolean else _metavar(field, hint),
    )
    kind: Any = bool | None if boolean else str | None
    annotation = Annotated[kind, info]
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _metavar(field: "dataclasses.Field[Any]", hint: Any) -> str:
    kinds = {k for k in (typing.get_args(hint) or (hint,)) if k is not type(None)}
    return "NUMBER" if field.metadata["count"] or kinds & {int, float} else field.name.upper()


def _parsed(config: type, name: str, value: Any, lists: bool) -> Any:
    field = next(f for f in dataclasses.fields(config) if f.name == name)
    hint = typing.get_type_hints(config)[name]

    def one(text: Any) -> Any:
        return coerce("--" + name.replace("_", "-"), hint, text, count=field.metadata["count"])

    if lists and field.metadata["sweep"] and isinstance(value, str) and "," in value:
        return [one(item.strip()) for item in value.split(",")]
    return one(value)


def _train_flags() -> type:
    from kanary.training.config import TrainConfig

    return TrainConfig


def _harvest_flags() -> type:
    from kanary.activations.harvest import HarvestConfig

    return HarvestConfig


def _evaluate_flags() -> type:
    from kanary.evaluation.evaluate import EvaluateConfig

    return EvaluateConfig


Config = Annotated[
    Path | None, typer.Option(help="YAML file with the same names as the flags; flags win.", show_default=False)
]


def train(
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
        _print_metrics(run.metrics)
        typer.echo(f"The SAE is in {run.folder / 'sae'}. Look at the run with: kanary info {run.folder}")
        return
    why = "The budget is spent" if run.ending == "budget" else "Stopped as asked"
    typer.echo(f"{why}; everything is saved. Go on with: kanary train --resume {run.folder}", err=True)
    if run.ending == "interrupted":
        raise SystemExit(130)


def harvest(*, config: Config = None, values: dict[str, Any]) -> None:
    from kanary.activations.harvest import HarvestConfig, harvest
    from kanary.config import from_mapping

    try:
        store = harvest(from_mapping(HarvestConfig, (read_yaml(config) if config else {}) | values))
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt("stopped. Every whole file is kept: give the same command again to go on.") from stop
    typer.echo(
        f"{store.n_tokens:,} tokens at {', '.join(store.sites)} are in {store.folder} ({store.n_bytes / 1e9:.2f} GB)."
    )


def evaluate(
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
    _print_metrics(found.to_json())
    for name in found.saes:
        for warning in warnings(found, name):
            typer.echo(f"{name}: {warning}", err=True)
    typer.echo(
        f"The report is {found.folder}/report.html; the numbers are in metrics.json and the CSV files beside it."
    )


def demo(
    out: Annotated[
        Path | None,
        typer.Option(help="Run folder; by default runs/demo, runs/demo-2 …", metavar="RUN", show_default=False),
    ] = None,
) -> None:
    from kanary.demo import demo, lines

    found = demo(out)
    _print_metrics(found.evaluation.to_json())
    for line in lines(found):
        typer.echo(line)


def study(
    name: Annotated[str, typer.Argument(help="kan, or a study's own YAML file.", metavar="STUDY")] = "kan",
    out: Annotated[
        Path | None, typer.Option(help="Folder of the study; by default runs/study-STUDY.", show_default=False)
    ] = None,
    smoke: Annotated[bool, typer.Option("--smoke", help="All code paths at tiny sizes.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Only say what there is to do and how long it takes.")] = False,
    only: Annotated[
        str, typer.Option(help="Only these settings and families: c,kan-bend. Also: matched.", metavar="NAMES")
    ] = "",
    budget: Annotated[str | None, typer.Option(help="Begin no cell that ends after this long: 8h.")] = None,
    stories_model: Annotated[
        str, typer.Option(help="The model stories260K, for setting d.", metavar="MODEL", show_default=False)
    ] = "",
    stories_text: Annotated[
        str, typer.Option(help="TinyStories, for setting d.", metavar="TEXT", show_default=False)
    ] = "",
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1.")] = "cpu",
) -> None:
    from kanary.config import parse_seconds
    from kanary.lab.study.plan import lines
    from kanary.lab.study.plan import plan as planned
    from kanary.lab.study.run import open_study, run_study

    given = {"model": stories_model, "text": stories_text}
    settings = {"d": {key: value for key, value in given.items() if value}} if any(given.values()) else {}
    words = [word.strip() for word in only.split(",") if word.strip()]
    found = open_study(name, out, smoke=smoke, only=words, settings=settings, device=device)
    for note in found.notes:
        typer.echo(note, err=True)
    if plan:
        for line in lines(planned(found)):
            typer.echo(line)
        return
    try:
        report, done = run_study(found, budget=None if budget is None else parse_seconds(budget))
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt("stopped. Give the same command again to go on.") from stop
    typer.echo(f"The report is {report}; the numbers are in the CSV files beside it.")
    if not done:
        typer.echo("The time is up before all is done: give the same command again to go on.", err=True)


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="Write the comparison here: .html, .csv or .json.", show_default=False)
    ] = None,
) -> None:
    from rich.console import Console

    from kanary.evaluation.comparison.compare import compare

    found = compare(runs, out)
    console = Console(highlight=False)
    console.width = max(console.width, 100)
    console.print(found.table())
    for warning in found.warnings:
        typer.echo(f"Note: {warning}", err=True)
    if out:
        typer.echo(f"The comparison is in {out}.")


def check(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder or an SAE's folder.", show_default=False)],
    text: Annotated[str | None, typer.Option(help="Another text than that of training.", show_default=False)] = None,
    model: Annotated[
        str | None, typer.Option(help="The language model, if it has moved since training.", show_default=False)
    ] = None,
    device: Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda, cuda:1.")] = "auto",
) -> None:
    from kanary.evaluation.checks.check import check, lines

    found = check(run, text=text, model=model, device=device)
    typer.echo(lines(found))
    if any(one.passed is False for one in found):
        raise SystemExit(1)


def info(
    path: Annotated[Path, typer.Argument(help="A run folder, an SAE's folder, or a store.", show_default=False)],
) -> None:
    """Say what a folder holds: a run, an SAE, or a store of activations."""
    from kanary.info import describe

    typer.echo(describe(path))


def _pair(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise KanaryError(f"--set {text!r} must be name=value.")
    import yaml

    return name.strip().replace("-", "_"), yaml.safe_load(value)


def _stop(stop: BaseException) -> NoReturn:
    typer.echo(f"kanary: {str(stop) or 'stopped.'}", err=True)
    raise SystemExit(130) from None


def _print_metrics(metrics: dict[str, Any]) -> None:
    from rich.console import Console

    from kanary.info import metrics_table

    if metrics.get("saes"):
        console = Console(highlight=False)
        console.width = max(console.width, 110 if console.is_terminal else 160)  # an interval cut short says nothing
        console.print(metrics_table(metrics))


def main() -> None:
    """The command ``kanary``: user mistakes become one line and exit status 2."""
    try:
        _build()(standalone_mode=False)
    except KanaryError as error:
        typer.echo(f"kanary: {error}", err=True)
        raise SystemExit(2) from None
    except typer.Exit as ending:
        raise SystemExit(ending.exit_code) from None
    except (KeyboardInterrupt, typer.Abort) as stop:
        _stop(stop)
    except Exception as error:
        if not hasattr(error, "format_message"):  # click's usage errors know how to say what is wrong
            raise
        if message := error.format_message():
            typer.echo(f"kanary: {message}", err=True)
        raise SystemExit(2) from None


def _build() -> typer.Typer:
    """Registers the commands; the one that was asked for reads its flags from its config."""
    asked = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    # fast because only the command that runs imports its room
    app.command("train", help=TRAIN_HELP)(flags(_train_flags(), lists=True)(train) if asked == "train" else _stand_in)
    unused = ("pool", "store")  # a harvest neither mixes nor reads activations
    app.command("harvest", help=HARVEST_HELP)(
        flags(_harvest_flags(), lists=False, without=unused)(harvest) if asked == "harvest" else _stand_in
    )
    app.command("evaluate", help=EVALUATE_HELP)(
        flags(_evaluate_flags(), lists=False)(evaluate) if asked == "evaluate" else _stand_in
    )
    app.command("compare", help=COMPARE_HELP)(compare)
    app.command("demo", help=DEMO_HELP)(demo)
    app.command("study", help=STUDY_HELP)(study)
    app.command("check", help=CHECK_HELP)(check)
    app.command("info")(info)
    return app


def _stand_in() -> None:
    """Holds the place of a command in the list of commands; never run."""


if __name__ == "__main__":
    main()
