"""``kanary index``: from a run and a text to its feature index, in one pass that can be stopped at any time."""

import dataclasses
import os
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import numpy as np

import kanary
from kanary.activations.source import resolve_lm_batch
from kanary.config import from_mapping, option, to_mapping
from kanary.errors import KanaryError, nearest
from kanary.evaluation.inputs import Inputs, open_inputs
from kanary.evaluation.progress import bar
from kanary.features.arrays import Array, write_arrays
from kanary.features.examples import Ragged, nothing, pairs_of, traces, write_examples
from kanary.features.index import COLUMNS, EXAMPLES, FORMAT, META, TEXT, FeatureIndex
from kanary.features.reading import Pass, Reading
from kanary.features.selection import BINS, Selection, Totals
from kanary.features.text import write_text
from kanary.features.vocabulary import token_bytes
from kanary.features.weights import logit_columns
from kanary.features.weights import nearest as nearest_directions
from kanary.files import exclusive, new_folder, read_json, sha256, write_json
from kanary.text.windows import Part


@dataclasses.dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """What to index, and on which text."""

    text: str | None = option(None, "Text to read; by default what was held out of the training text.")
    column: str | None = option(None, "Column of the data that holds the text; by default that of training, or 'text'.")
    split: str | None = option(None, "Split of a data set on the Hub; by default that of training, or 'train'.")
    part: str = option("auto", "Documents to read: train, heldout, all; auto = those the SAE was not trained on.")
    model: str | None = option(None, "The language model, if it has moved since training.")
    dtype: str = option("auto", "Numbers the model computes with: auto (as saved), float32, bfloat16.")
    device: str = option("auto", "Where to compute: auto, cpu, cuda, cuda:1.")
    sae: str | None = option(None, "Name of one SAE of the run; by default all of them, one after another.")
    tokens: int = option(1_000_000, "Tokens to read, in whole batches; fewer if the text is shorter.", count=True)
    window: int = option(0, "Tokens the model sees at once; 0 = as in training.")
    lm_batch: int = option(0, "Windows per forward pass of the model; 0 = chosen for the device.")
    per_interval: int = option(5, "Examples from each of the ten intervals of a latent's values.")
    seed: int = option(0, "Seed of the examples that are drawn.")

    def __post_init__(self) -> None:
        if self.tokens < 1 or self.per_interval < 1:
            raise KanaryError(f"tokens={self.tokens} and per_interval={self.per_interval} must be 1 or more.")
        if self.part not in (parts := ("auto", *get_args(Part))):
            raise KanaryError(f"Unknown part {self.part!r}. {nearest(self.part, parts)}")


def index(
    run: str | os.PathLike[str], config: IndexConfig | None = None, *, quiet: bool = False, **fields: Any
) -> dict[str, FeatureIndex]:
    """Makes the feature index of every SAE of ``run``, into ``RUN/index/NAME``, and opens it.

    A build that was stopped goes on where it was, to the same result. An index that is there already is replaced.

    Args:
        run: a run folder, or an SAE's folder.
        config: or give its fields themselves: ``index("runs/first", tokens="200K")``.
        quiet: show no progress.

    Raises:
        KanaryError: anything that is wrong with the request, the inputs or the disk, in one line.
    """
    if config is not None and fields:
        raise KanaryError("Give either a config or fields, not both.")
    config = config or from_mapping(IndexConfig, fields)
    folder = Path(run)
    inputs = open_inputs(
        run,
        model=config.model,
        text=config.text,
        column=config.column,
        split=config.split,
        dtype=config.dtype,
        device=config.device,
    )
    if config.sae is not None and config.sae not in inputs.saes:
        raise KanaryError(f"{run} has no SAE {config.sae!r}. {nearest(config.sae, inputs.saes)}")
    names = [config.sae] if config.sae else list(inputs.saes)
    return {name: _Build(folder, name, inputs, config, quiet).run() for name in names}


class _Build:
    """The index of one SAE."""

    def __init__(self, run: Path, name: str, inputs: Inputs, config: IndexConfig, quiet: bool) -> None:
        self.run_folder, self.name, self.inputs, self.config, self.quiet = run, name, inputs, config, quiet
        self.sae = inputs.saes[name]
        self.folder = run / "index" / name
        self.work = run / "index" / f".{name}.work"
        part: Any = inputs.part if config.part == "auto" else config.part
        window = config.window or inputs.window
        batch = resolve_lm_batch(config.lm_batch, window, inputs.lm.device.type)
        self.reading = Reading(part, window, batch, config.tokens)

    def run(self) -> FeatureIndex:
        with exclusive(self.work):
            self._prepare()
            read = Pass(self.inputs.lm, self.inputs.text, self.sae, [], self.reading, self.work, {})
            with bar("reading", self.config.tokens, "tok", self.quiet) as show:
                show(read.progress.tokens)
                read.run(show)
            with new_folder(self.folder) as partial:
                self._finish(read, partial)
        shutil.rmtree(self.work)
        return FeatureIndex.open(self.folder)

    def _prepare(self) -> None:
        """Keeps what an earlier build left here if it is of the same index, and nothing else."""
        mine = to_mapping(self.config) | {
            "digest": self.sae.digest(),
            "fingerprint": self.inputs.lm.fingerprint,
            "text_read": self.inputs.text.name,
            "reading": dataclasses.asdict(self.reading),
        }
        path = self.work / "config.json"
        if path.exists() and read_json(path) == mine:
            return
        for old in self.work.iterdir():
            if not old.name.startswith(".") or old.name.endswith(".partial"):
                old.unlink()
        write_json(path, mine)

    def _finish(self, read: Pass, folder: Path) -> None:
        lm, sae, done = self.inputs.lm, self.sae, read.progress
        totals = Totals(sae.d_sae)
        for chunk in read.chunks():
            totals.add(chunk)
        selection = Selection(totals.maximum, self.config.per_interval, self.config.seed)
        for chunk in read.chunks():
            selection.add(chunk)
        chosen = selection.result()
        pairs = pairs_of(chosen, self.reading.window)
        values = traces(pairs, read.chunks()).rows(pairs.of)
        effects: Ragged = nothing(len(chosen.places), self.reading.window)
        write_examples(folder / EXAMPLES, chosen, self.reading.window, sae.d_sae, values, effects)
        documents = write_text(folder / TEXT, read.chunks, done.windows, self.reading.window, token_bytes(lm))
        similar, cosines = nearest_directions(sae.W_dec, sae.W_dec, 3, itself=True)
        columns: dict[str, Array] = {
            "fired": totals.fired,
            "maximum": totals.maximum,
            "total": totals.total,
            "histogram": selection.histogram.reshape(-1, BINS).astype(np.int32),
            "similar": similar,
            "similar_cosines": cosines,
            **logit_columns(sae, lm),
        }
        write_arrays(folder / COLUMNS, columns)
        write_json(folder / META, self._meta(read, documents, int((totals.fired == 0).sum()), folder))

    def _meta(self, read: Pass, documents: int, dead: int, folder: Path) -> dict[str, Any]:
        known, done = self.sae.config.trained_on, read.progress
        site = self.inputs.lm.site(read.site)
        return {
            "format": FORMAT,
            "sae": {
                "run": str(self.run_folder),
                "name": self.name,
                "digest": self.sae.digest(),
                "model": known.get("model") or self.inputs.lm.name,
                "site": read.site,
                "where": site.describe(),
                "weights_sha256": _weights(self.run_folder, self.name),
            },
            "fingerprint": self.inputs.lm.fingerprint,
            "text": self.inputs.text.name,
            "part": self.reading.part,
            "tokens": done.tokens,
            "documents": documents,
            "windows": done.windows,
            "window": self.reading.window,
            "per_interval": self.config.per_interval,
            "seed": self.config.seed,
            "special_ids": sorted(self.inputs.lm.special_ids),
            "dead": dead,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "kanary": kanary.__version__,
            "files": {name: sha256(folder / name) for name in (TEXT, COLUMNS, EXAMPLES)},
        }


def _weights(run: Path, name: str) -> str | None:
    """The checksum of the file that the SAE was read from."""
    for folder in (run / "sae" / name, run / "sae", run / name, run):
        if (folder / "sae.safetensors").is_file():
            found: Mapping[str, Any] = read_json(folder / "config.json")
            return str(found.get("sha256"))
    return None
