"""``kanary evaluate``: every number, picture and table of a run's SAEs, written into its folder."""

import dataclasses
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kanary.config import from_mapping, option
from kanary.errors import KanaryError
from kanary.evaluation.capability import capability
from kanary.evaluation.concepts.ground_truth import GroundTruth, ground_truth, steps
from kanary.evaluation.concepts.sample import check_sample, sample
from kanary.evaluation.inputs import Inputs, open_inputs, open_saes
from kanary.evaluation.latents import latent_table
from kanary.evaluation.metrics import census, merged
from kanary.evaluation.numbers import CONTROL_TOKENS, Sampling, numbers
from kanary.evaluation.pages.report import report
from kanary.evaluation.peers import LIKE, shuffled
from kanary.evaluation.result import Capability, Evaluation, LatentTable
from kanary.evaluation.splines import Functions, measure_functions, spline_metrics, stray_metrics
from kanary.evaluation.standin import STRAIGHT, Identity, Spliced, StandIn
from kanary.evaluation.tables import TABLES, write_tables
from kanary.files import exclusive, write_json, write_text
from kanary.progress import bar
from kanary.text import Windows
from kanary.text.labelled.reader import LabelledText


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What to evaluate on, and how much of it."""

    text: str | None = option(None, "Text to judge on; by default what was held out of the training text.")
    column: str | None = option(None, "Column of the data that holds the text; by default that of training, or 'text'.")
    split: str | None = option(None, "Split of a data set on the Hub; by default that of training, or 'train'.")
    model: str | None = option(None, "The language model, if it has moved since training.")
    dtype: str = option("auto", "Numbers the model computes with: auto (as saved), float32, bfloat16.")
    device: str = option("auto", "Where to compute: auto, cpu, cuda, cuda:1.")
    window: int = option(0, "Tokens the model sees at once; 0 = as in training.")
    lm_batch: int = option(0, "Windows per forward pass of the model; 0 = chosen for the device.")
    tokens: int = option(1_000_000, "Tokens to measure on, in whole batches; fewer if the text is shorter.", count=True)
    loss_tokens: int = option(
        CONTROL_TOKENS, "How many of them for the losses and the controls, which cost more; 0 = no losses.", count=True
    )
    prompts: int = option(200, "Prompts of the capability test; 0 = none.", count=True)
    concept_tokens: int = option(
        200_000,
        "Tokens of the labelled corpus to look for its concepts on, where that is the text; 0 = none.",
        count=True,
    )
    seed: int = option(0, "Seed of the bootstrap, the controls and the prompts.")
    like: str | None = option(
        None, "Sample as a public library does (window, tokens, seed), and write its JSON too: saebench or saelens."
    )
    out: str | None = option(None, "Folder for the results; by default the run's own.")

    def __post_init__(self) -> None:
        if self.tokens < 1 or min(self.loss_tokens, self.prompts, self.concept_tokens) < 0:
            raise KanaryError(
                f"tokens={self.tokens}, loss_tokens={self.loss_tokens}, prompts={self.prompts} and "
                f"concept_tokens={self.concept_tokens}: tokens must be 1 or more, the others 0 or more."
            )
        if self.like is not None and self.like not in LIKE:
            raise KanaryError(f"like={self.like!r} is unknown: choose {' or '.join(LIKE)}.")
        sampling = ("window", "lm_batch", "tokens", "loss_tokens", "seed")
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        if self.like and (given := [name for name in sampling if getattr(self, name) != defaults[name]]):
            raise KanaryError(f"like={self.like} samples as that library does: leave out {', '.join(given)}.")


def evaluate(
    run: str | os.PathLike[str], config: EvaluateConfig | None = None, *, quiet: bool = False, **fields: Any
) -> Evaluation:
    """Measures every SAE of ``run`` on text that it has not seen, beside its controls, and writes what it found.

    Writes ``metrics.json``, ``report.html``, ``l0.csv``, ``losses.csv``, ``capability.csv`` and ``logit_weights.csv``; on
    the labelled corpus also ``concepts.csv``.

    Args:
        run: a run folder, an SAE's folder or an SAE on the Hub (then ``out`` is needed).
        config: or give its fields themselves: ``evaluate("runs/first", tokens="200K")``.
        quiet: show no progress.

    Raises:
        KanaryError: anything that is wrong with the request, the inputs or the disk, in one line.
    """
    if config is not None and fields:
        raise KanaryError("Give either a config or fields, not both.")
    config = config or from_mapping(EvaluateConfig, fields)
    folder = _out(Path(run), config)
    inputs = open_inputs(
        run,
        model=config.model,
        text=config.text,
        column=config.column,
        split=config.split,
        dtype=config.dtype,
        device=config.device,
    )
    with exclusive(folder):
        found = _evaluate(inputs, config, quiet)
        found = dataclasses.replace(found, folder=folder)
        write(found, inputs, config.like)
    return found


def _evaluate(inputs: Inputs, config: EvaluateConfig, quiet: bool) -> Evaluation:
    sampling = _sampling(inputs, config)
    wanted = _wants_concepts(inputs, sampling, config.concept_tokens)
    with bar("measuring", sampling.tokens, "tok", quiet) as show:
        found, controls = numbers(inputs.lm, inputs.text, inputs.saes, sampling, show=show)
    # a straight twin says what the bends are worth to the reconstruction; its codes say nothing new
    controls = {name: row for name, row in controls.items() if not name.startswith(STRAIGHT)}
    concepts = None
    if wanted:
        with _no_concepts(config.concept_tokens):
            concepts = _concepts(inputs, controls, sampling, config.concept_tokens, quiet)
    controls = {name: row for name, row in controls.items() if not name.startswith("untrained")}  # not worth a test
    total = sum(sae.d_sae for sae in inputs.saes.values())
    with bar("reading the weights", total, "latents", quiet) as show:
        latents = {name: latent_table(sae, inputs.lm, show=show) for name, sae in inputs.saes.items()}
    functions = _functions(inputs, found, quiet)
    return dataclasses.replace(
        found,
        saes={
            name: merged(
                metrics,
                _from_weights(latents[name]),
                spline_metrics(functions.get(name, [])),
                stray_metrics(found.details[name].strays),
            )
            for name, metrics in found.saes.items()
        },
        latents=latents,
        functions=functions,
        capability=_capability(inputs, controls, sampling, config, quiet) if config.prompts else None,
        concepts=concepts,
    )


def _functions(inputs: Inputs, found: Evaluation, quiet: bool) -> dict[str, list[Functions]]:
    """What the learned functions do, of those SAEs that have some."""
    saes = {name: sae for name, sae in inputs.saes.items() if found.details[name].densities}
    if not saes:
        return {}
    total = sum(sae.d_sae * len(found.details[name].densities) for name, sae in saes.items())
    with bar("naming the functions", total, "functions", quiet) as show:
        return {
            name: measure_functions(sae, found.details[name].densities, inputs.lm, show=show)
            for name, sae in saes.items()
        }


def write(found: Evaluation, inputs: Inputs, like: str | None = None) -> None:
    """Every file of an evaluation. They take their places together, so a full disk leaves the earlier ones as they were."""
    folder = found.folder
    assert folder is not None
    with tempfile.TemporaryDirectory(prefix=".evaluation-", dir=folder) as name:
        new = Path(name)
        write_tables(new, found, lambda token: str(inputs.lm.tokenizer.decode([token])))
        write_text(new / "report.html", report(found))
        if like:
            shapes = {sae: LIKE[like].shape(found, sae) for sae in found.saes}
            write_json(new / f"{like}.json", next(iter(shapes.values())) if len(shapes) == 1 else shapes)
        write_json(new / "metrics.json", found.to_json())
        for file in (*TABLES, *(f"{peer}.json" for peer in LIKE), "report.html", "metrics.json"):
            if (new / file).exists():
                (new / file).replace(folder / file)
            else:  # of an earlier evaluation
                (folder / file).unlink(missing_ok=True)


def _out(run: Path, config: EvaluateConfig) -> Path:
    if config.out:
        out = Path(config.out)
        if (out / "config.yaml").is_file() and out.resolve() != run.resolve():
            raise KanaryError(
                f"{out} is another run; its numbers would be replaced. Choose a folder of its own for --out."
            )
        return out
    if (run / "config.yaml").is_file():
        return run
    open_saes(run)  # says what is wrong with what is no folder of an SAE either
    raise KanaryError(f"{run} is an SAE without its run, so the results need a folder of their own: --out FOLDER.")


def _sampling(inputs: Inputs, config: EvaluateConfig) -> Sampling:
    if config.like is None:
        return Sampling(
            part=inputs.part,
            window=config.window or inputs.window,
            lm_batch=config.lm_batch,
            tokens=config.tokens,
            loss_tokens=config.loss_tokens,
            seed=config.seed,
        )
    peer = LIKE[config.like]
    return Sampling(
        part=inputs.part,
        window=min(peer.window, inputs.lm.context),
        lm_batch=peer.batch,
        tokens=peer.tokens,
        loss_tokens=peer.loss_tokens,
        seed=peer.seed,
        shuffle=shuffled,
    )


def _capability(
    inputs: Inputs, controls: Mapping[str, StandIn], sampling: Sampling, config: EvaluateConfig, quiet: bool
) -> Capability | None:
    """The capability test of every SAE and control."""
    standins: dict[str, StandIn] = {
        name: Spliced(str(sae.config.trained_on["site"]), sae) for name, sae in inputs.saes.items()
    }
    standins |= controls
    windows = Windows(inputs.text, inputs.lm, window=sampling.window, batch=16, part=inputs.part)
    with bar("testing capability", (1 + len(standins)) * config.prompts, "answers", quiet) as show:
        found = capability(inputs.lm, windows, standins, config.prompts, config.seed, show=show)
    return found if found.prompts else None


def _wants_concepts(inputs: Inputs, sampling: Sampling, tokens: int) -> bool:
    """Whether there are concepts to look for; what forbids it is said before hours of other measurements."""
    if tokens and isinstance(inputs.text.readers[0], LabelledText):
        with _no_concepts(tokens):
            check_sample(inputs.lm, inputs.text, _sites(inputs), tokens, sampling.part)
            return True
    return False


@contextmanager
def _no_concepts(tokens: int) -> Iterator[None]:
    """Says in one line why there are none; everything else is worth more than what is missing."""
    try:
        yield
    except KanaryError as error:
        print(f"No concepts are looked for (--concept-tokens {tokens}): {error}", file=sys.stderr)


def _sites(inputs: Inputs) -> list[str]:
    return list(dict.fromkeys(str(sae.config.trained_on["site"]) for sae in inputs.saes.values()))


def _concepts(
    inputs: Inputs, controls: Mapping[str, StandIn], sampling: Sampling, tokens: int, quiet: bool
) -> GroundTruth:
    """Which latents stand for the concepts of the labelled corpus."""
    with bar("reading concepts", tokens, "tok", quiet) as show:
        labelled = sample(
            inputs.lm,
            inputs.text,
            _sites(inputs),
            tokens=tokens,
            window=sampling.window,
            lm_batch=sampling.lm_batch,
            part=sampling.part,
            seed=sampling.seed,
            show=show,
        )
    rows = {name: row for name, row in controls.items() if not isinstance(row, Identity)}
    about = {"text": inputs.text.name, "part": sampling.part}
    with bar("finding concepts", steps(inputs.saes, rows), "rows", quiet) as show:
        return ground_truth(labelled, inputs.saes, rows, seed=sampling.seed, about=about, show=show)


def _from_weights(table: LatentTable) -> dict[str, Any]:
    found = {"average_max_decoder_cosine_sim": table.max_decoder_cosine}
    if table.max_encoder_cosine is not None:
        found["average_max_encoder_cosine_sim"] = table.max_encoder_cosine
    return {"misc_metrics": {name: census(float(values.nanmean()), len(values)) for name, values in found.items()}}
