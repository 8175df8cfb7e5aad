"""``kanary index``: from a run and a text to its feature index, in one pass that can be stopped at any time."""

import dataclasses
import os
import shutil
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kanary.activations.source import resolve_lm_batch
from kanary.config import from_mapping, to_mapping
from kanary.errors import KanaryError, nearest
from kanary.evaluation.inputs import Inputs, open_inputs
from kanary.features.contents import Contents
from kanary.features.index import FORMAT, META, FeatureIndex
from kanary.features.learned import Read
from kanary.features.neurons import Neurons
from kanary.features.options import IndexConfig
from kanary.features.reading import Pass, Reading, Watcher
from kanary.features.twins import open_twins
from kanary.files import exclusive, new_folder, read_json, sha256, write_json
from kanary.progress import bar


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
    if not Path(run).is_dir():
        raise KanaryError(f"{run} is no folder here: give a run folder, or the folder of an SAE.")
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
    return {name: _Build(Path(run), name, inputs, config, quiet).run() for name in names}


class _Build:
    """The index of one SAE."""

    def __init__(self, run: Path, name: str, inputs: Inputs, config: IndexConfig, quiet: bool) -> None:
        self.run_folder, self.name, self.inputs, self.config, self.quiet = run, name, inputs, config, quiet
        self.sae, self.lm = inputs.saes[name], inputs.lm
        self.digest = self.sae.digest()
        self.twins = open_twins(config.twins, self.sae, inputs.lm)
        self.folder, self.work = run / "index" / name, run / "index" / f".{name}.work"
        part: Any = inputs.part if config.part == "auto" else config.part
        window = config.window or inputs.window
        batch = resolve_lm_batch(config.lm_batch, window, inputs.lm.device.type)
        self.reading = Reading(part, window, batch, config.tokens)

    def run(self) -> FeatureIndex:
        with exclusive(self.work):
            self._prepare()
            neurons, learned = Neurons(self.lm, self.sae), Read(self.sae)
            saes = [self.sae, *(twin.sae for twin in self.twins)]
            watchers: dict[str, Watcher] = {"neurons": neurons, "functions": learned}
            read = Pass(self.lm, self.inputs.text, saes, self.reading, self.work, watchers)
            with bar(f"reading for {self.name}", self.config.tokens, "tok", self.quiet) as show:
                show(read.progress.tokens)
                read.run(show)
            contents = Contents(self.inputs, read, self.twins, neurons, learned, self.config, self.quiet)
            _ = contents.effects  # what takes longest is kept if it is stopped, before files are written that are not
            with new_folder(self.folder) as partial:
                contents.write(partial)
                files = {path.name: sha256(path) for path in sorted(partial.iterdir())}
                write_json(partial / META, self._meta(read) | contents.about | {"files": files})
        shutil.rmtree(self.work)
        return FeatureIndex.open(self.folder)

    def _prepare(self) -> None:
        """Keeps what an earlier build left here if it is of the same index, and nothing else."""
        mine = to_mapping(self.config) | {
            "digest": self.digest,
            "twin_digests": [twin.sae.digest() for twin in self.twins],
            "fingerprint": self.lm.fingerprint,
            "text_fingerprint": self.inputs.text.fingerprint,
            "reading": dataclasses.asdict(self.reading),
        }
        path = self.work / "config.json"
        if path.exists() and read_json(path) == mine:
            return
        for old in self.work.iterdir():
            if not old.name.startswith(".") or old.name.endswith(".partial"):
                old.unlink()
        write_json(path, mine)

    def _meta(self, read: Pass) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "sae": {
                "run": str(self.run_folder),
                "name": self.name,
                "digest": self.digest,
                "model": self.sae.config.trained_on.get("model") or self.lm.name,
                "site": read.site,
                "where": self.lm.site(read.site).describe(),
                "weights_sha256": _weights(self.run_folder, self.name),
            },
            "fingerprint": self.lm.fingerprint,
            "text": self.inputs.text.name,
            "part": self.reading.part,
            "tokens": read.progress.tokens,
            "windows": read.progress.windows,
            "window": self.reading.window,
            "per_interval": self.config.per_interval,
            "seed": self.config.seed,
            "special_ids": sorted(self.lm.special_ids),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "kanary": version("kanary"),
        }


def _weights(run: Path, name: str) -> str | None:
    """The checksum of the file that the SAE was read from."""
    for folder in (run / "sae" / name, run / "sae", run / name, run):
        if (folder / "sae.safetensors").is_file():
            return str(read_json(folder / "config.json").get("sha256"))
    return None
