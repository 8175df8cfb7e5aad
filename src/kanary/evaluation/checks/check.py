"""``kanary check``: what can go wrong without a word, tried out on the user's own model, text and SAE."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from kanary.errors import KanaryError
from kanary.evaluation.checks import of_inputs, of_sae
from kanary.evaluation.checks.sample import Coded, Sample, Verdict, code, read_sample
from kanary.evaluation.inputs import open_inputs
from kanary.files import read_json
from kanary.progress import bar
from kanary.training import checkpoint

_OF_TEXT: dict[str, Callable[[Sample], Verdict]] = {
    "the model knows the text": of_inputs.known_text,
    "token ids": of_inputs.token_ids,
    "BOS and special tokens": of_inputs.special_tokens,
}
_OF_SITE: dict[str, Callable[[Sample, str], Verdict]] = {
    "where the site lies": of_inputs.place,
    "writing back": of_inputs.writing_back,
    "reading and writing": of_inputs.same_point,
    "exact CE scores": of_inputs.exact_scores,
}
_OF_SAE: dict[str, Callable[[Sample, Coded], Verdict]] = {
    "input scale": of_sae.input_scale,
    "input mean": of_sae.input_mean,
    "its own site": of_sae.own_site,
    "recorded numbers": of_sae.recorded_numbers,
    "planted directions": of_sae.planted_directions,
    "shuffled control": of_sae.shuffled_control,
    "firing": of_sae.firing,
    "unit directions": of_sae.unit_directions,
    "size of the output": of_sae.output_size,
    "special tokens pass": of_sae.special_untouched,
}
_SAVED = "saved and loaded"
_TRAINED = "trained weights"
_MARKS = {True: "✓", False: "✗", None: "–"}


class Check(NamedTuple):
    """One self-check and what it found."""

    name: str
    passed: bool | None
    """None: it could not be done, and ``says`` tells why."""
    says: str
    """One sentence with the numbers and, where it failed, what that most likely means and what to do."""
    about: str
    """What was checked: ``model and text``, a site, or an SAE by name."""


def check(
    run: str | os.PathLike[str],
    *,
    text: str | None = None,
    model: str | None = None,
    device: str = "auto",
    quiet: bool = False,
) -> list[Check]:
    """Self-checks of every SAE of ``run`` on its own model and text; a few thousand tokens are read.

    Args:
        run: a run folder, an SAE's folder or an SAE on the Hub.
        text: another text than that of training, of which the held-out part is read.
        model: where the model lies, if it has moved.
        device: ``auto`` (CUDA, else CPU), ``cpu``, ``cuda`` …
        quiet: show no progress.

    Raises:
        KanaryError: something is missing or damaged, or the SAE belongs to another model, width or tokenizer.
    """
    inputs = open_inputs(run, model=model, text=text, device=device)
    sites = dict.fromkeys(str(sae.config.trained_on["site"]) for sae in inputs.saes.values())
    total = len(_OF_TEXT) + len(sites) * len(_OF_SITE) + len(inputs.saes) * (len(_OF_SAE) + 2)
    numbers = Path(run) / "metrics.json"
    measured = read_json(numbers).get("about", {}) if numbers.is_file() else {}
    saved = _checkpoints(Path(run), inputs.saes)
    found = []
    with torch.no_grad(), bar("checking", total, "checks", quiet) as show:
        sample = read_sample(inputs)
        for each in _checks(sample, sites, saved, measured):
            found.append(each)
            show(1)
    return found


def lines(checks: Iterable[Check]) -> str:
    """A line for every check (✓ passed, ✗ failed, – could not be done) under what it is about, and a last one that counts."""
    found = list(checks)
    said: list[str] = []
    width = max((len(each.name) for each in found), default=0)
    for about in dict.fromkeys(each.about for each in found):
        said.append(about)
        said += [f"  {_MARKS[c.passed]} {c.name:<{width}}  {c.says}" for c in found if c.about == about]
    passed, failed, left = (sum(c.passed is state for c in found) for state in (True, False, None))
    counts = [f"{passed} passed", f"{failed} failed", f"{left} could not be done"]
    return "\n".join([*said, ", ".join(counts[: 3 if left else 2]) + "."])


def _checks(
    sample: Sample, sites: Iterable[str], saved: Mapping[str, Path], measured: Mapping[str, Any]
) -> Iterator[Check]:
    for name, test in _OF_TEXT.items():
        yield _done("model and text", name, partial(test, sample))
    for site in sites:
        for name, about_site in _OF_SITE.items():
            yield _done(site, name, partial(about_site, sample, site))
    for sae_name, sae in sample.inputs.saes.items():
        coded = code(sample, sae_name, sae)
        for name, about_sae in _OF_SAE.items():
            yield _done(sae_name, name, partial(about_sae, sample, coded))
        weights = measured.get(sae_name, {}).get("weights")
        yield _done(sae_name, _TRAINED, partial(of_sae.trained_weights, coded, weights))
        yield _done(sae_name, _SAVED, partial(of_sae.saved_codes, sample, coded, saved.get(sae_name)))


def _done(about: str, name: str, test: Callable[[], Verdict]) -> Check:
    try:
        verdict = test()
    except KanaryError as error:  # a damaged checkpoint, NaN in activations
        verdict = Verdict(False, str(error))
    return Check(name, verdict.passed, verdict.says, about)


def _checkpoints(run: Path, saes: Iterable[str]) -> dict[str, Path]:
    """Name of an SAE -> the file that holds it in the last checkpoint of ``run``."""
    newest = checkpoint.last(run)
    files = {file.stem: file for file in newest.glob("*.safetensors")} if newest else {}
    return dict.fromkeys(saes, *files.values()) if len(files) == 1 else files
