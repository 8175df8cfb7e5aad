"""``kanary demo``: the whole path in two minutes, on the model and the text that come with Kanary."""

import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from kanary.errors import typed
from kanary.evaluation.concepts.best import Found
from kanary.evaluation.concepts.ground_truth import GroundTruth
from kanary.evaluation.concepts.measure import shuffled_name
from kanary.evaluation.evaluate import evaluate
from kanary.evaluation.result import Evaluation, flat
from kanary.jobs import free_folder, train
from kanary.lm.load import BUNDLED

SITE, WIDTH, L0 = "resid_post.3", 1024, 32
TOKENS, BATCH, JUDGED, LOSSES, PROMPTS, CONCEPTS = 300_000, 1024, 30_000, 10_000, 20, 40_000
SHOWN = (
    "script.arabic",
    "script.hebrew",
    "script.non_latin",
    "language.foreign",
    "honesty.claim",
    "gender.any",
    "occupation.any",
    "clinical.result",
    "recipe.ingredient",
    "sports.term",
    "legal.party",
    "legal.norm",
    "arithmetic.operation",
    "landmark.any",
    "tense.future",
    "number.plural",
    "grammar.quoted",
    "grammar.quote_close",
    "domain.weather",
    "domain.code",
)
"""Concepts of the printed table, of many kinds and mostly frequent; concepts.csv has all."""


class Demo(NamedTuple):
    """What the demo found."""

    evaluation: Evaluation
    seconds: float


def demo(out: str | os.PathLike[str] | None = None, *, quiet: bool = False) -> Demo:
    """Trains a TopK and a JumpReLU SAE on the bundled model from one stream, and judges them on passages held out.

    Args:
        out: the run folder; by default ``runs/demo``, or ``runs/demo-2`` and so on where there is one already.
        quiet: print nothing.

    Raises:
        KanaryError: this installation came without the model, or ``out`` holds something else.
    """
    began = time.monotonic()
    folder = Path(out) if out is not None else free_folder(Path("runs") / "demo")
    run = train(
        model=BUNDLED,
        site=SITE,
        text="labelled",
        sae=["topk", "jumprelu"],
        k=L0,
        target_l0=L0,
        width=WIDTH,
        tokens=TOKENS,
        batch=BATCH,
        eval_tokens=0,  # the evaluation that follows measures more
        out=str(folder),
        quiet=quiet,
    )
    found = evaluate(run, tokens=JUDGED, loss_tokens=LOSSES, prompts=PROMPTS, concept_tokens=CONCEPTS, quiet=quiet)
    return Demo(found, time.monotonic() - began)


def lines(found: Demo) -> Iterator[str]:
    """What the command prints, line by line."""
    evaluation = found.evaluation
    truth = evaluation.concepts
    assert truth is not None  # the text is the labelled corpus
    shown = [name for name in SHOWN if name in truth.concepts.measurable]
    yield ""
    yield (
        "Concepts that were found. Each latent and neuron was chosen on one half of "
        f"{truth.concepts.tokens:,} tokens; AUROC (1 = perfect, .5 = chance) and F1 are those of the other half, each with the "
        "number of the best latent, neuron or direction (− where it is smaller when the concept holds)."
    )
    yield from _table(truth, list(evaluation.saes), shown)
    yield ""
    yield from _over_all(truth, {name: flat(row)["l0"].value for name, row in evaluation.saes.items()})
    yield ""
    yield f"It took {found.seconds:.0f} seconds. What to do next:"
    folder = typed(str(evaluation.folder))
    yield f"  open {folder}/report.html                what every number means, beside its controls"
    yield f"  kanary index {folder} --tokens 200K      then kanary serve {folder}: every feature in the browser"
    yield f"  kanary check {folder}                    is anything silently wrong?"
    yield f"  kanary info {folder}                     what the folder holds"
    yield "  kanary train --model YOURS --site resid_post.8 --text YOURS.parquet     your own model and text"


def _table(truth: GroundTruth, saes: list[str], concepts: list[str]) -> Iterator[str]:
    site = truth.concepts.rows[saes[0]].site
    neurons, directions = (truth.concepts.rows[f"{what} at {site}"] for what in ("neurons", "random directions"))
    rows = [*(truth.concepts.rows[name] for name in saes), neurons, directions]
    titles = [*(f"{name}: latents" for name in saes), "neurons", "random directions"]
    yield f"  {'concept':<20}" + "".join(f"{title:>26}" for title in titles)
    for concept in concepts:
        yield f"  {concept:<20}" + "".join(f"{_scores(row.found[concept]):>26}" for row in rows)


def _over_all(truth: GroundTruth, l0: Mapping[str, float]) -> Iterator[str]:
    """A line for each SAE, with its ``l0``, without which the kinds cannot be held against one another, and each control."""
    saes = list(l0)
    site = truth.concepts.rows[saes[0]].site
    rows = [*saes, *(name for name in truth.concepts.rows if " twin of " in name), f"neurons at {site}"]
    rows += [f"random directions at {site}", *map(shuffled_name, saes)]
    yield f"Over all {len(truth.concepts.measurable)} concepts that are frequent enough (95 % intervals over passages):"
    for row in rows:
        summary = truth.concepts.rows[row].summary
        auroc, f1 = summary["mean_auroc"], summary["mean_f1"]
        span = f"({_score(auroc.low)} to {_score(auroc.high)})"
        name = f"{row} (L0 {l0[row]:.1f})" if row in l0 else row
        yield f"  {name:<36} mean AUROC {_score(auroc.value)} {span:<16} mean F1 {_score(f1.value)}"


def _scores(found: Found) -> str:
    """AUROC and F1, each with its best unit; a minus before a unit that is smaller where the concept holds."""
    units = (
        f"{'−' if sign < 0 else ''}{unit}" for unit, sign in ((found.unit, found.sign), (found.f1_unit, found.f1_sign))
    )
    scores = (_score(found.auroc.value), _score(found.f1.value))
    return "  ".join(f"{score} ({unit})" for score, unit in zip(scores, units, strict=True))


def _score(value: float) -> str:
    return f"{value:.3f}".removeprefix("0") if math.isfinite(value) else "–"
