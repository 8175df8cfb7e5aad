"""The jobs that people ask for by name: each opens its inputs, calls the rooms, and writes a run folder."""

import dataclasses
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kanary.activations.live import LiveActivations
from kanary.activations.source import ActivationSource, resolve_window
from kanary.activations.store import ActivationStore
from kanary.activations.stored import StoredActivations
from kanary.config import dump_yaml, parse_seconds, read_yaml
from kanary.errors import KanaryError, typed
from kanary.evaluation.numbers import Sampling, numbers
from kanary.evaluation.result import Evaluation, flat, plain
from kanary.files import exclusive, write_json, write_text
from kanary.lm import LanguageModel, load_model, trace
from kanary.lm.load import BUNDLED
from kanary.progress import bar
from kanary.sae import SAE
from kanary.text import TextSource, TokenBatch, Windows, check_text, open_text
from kanary.text.labelled.reader import labelled_text
from kanary.text.windows import Part
from kanary.training import checkpoint
from kanary.training.config import TrainConfig, grid, names, replaced, shared_values
from kanary.training.estimate import estimate
from kanary.training.fit import Ending, fit
from kanary.training.logs import open_loggers, require_loggers
from kanary.training.progress import TrainingProgress, say

REMEMBERED = ("l0", "explained_variance", "ce_loss_score", "ce_loss_without_sae", "dead_share")
SMALL = 32  # a width of activations at which an SAE is built only to see whether its options fit each other
"""The numbers that a trained SAE carries with it."""


@dataclass(frozen=True)
class Run:
    """A run folder; usable wherever a path is."""

    folder: Path
    ending: Ending
    metrics: dict[str, Any]  # as in metrics.json; empty until training is finished

    def __fspath__(self) -> str:
        return str(self.folder)


def train(
    config: TrainConfig | Sequence[TrainConfig] | None = None,
    *,
    resume: str | os.PathLike[str] | None = None,
    quiet: bool = False,
    **fields: Any,
) -> Run:
    """Trains one SAE, or many on one stream of activations, and measures them on held-out text.

    Args:
        config: what to train; several must agree in everything but the SAE. Or give the fields themselves:
            ``train(model=..., site=..., text=..., sae="topk", k=[16, 32])``.
        resume: a run folder to go on with; then ``config`` may be left out.
        quiet: print nothing.

    Raises:
        KanaryError: anything that is wrong with the request, the inputs or the disk, in one line.
    """
    if config is not None and fields:
        raise KanaryError("Give either a config or fields, not both.")
    if resume is not None:
        folder = Path(resume)
        configs = _resumed(folder, config, fields)
    else:
        configs = [config] if isinstance(config, TrainConfig) else list(config or grid(fields))
        folder = Path(configs[0].out) if configs[0].out else _new_folder(configs)
    named = dict(zip(names(configs), configs, strict=True))
    shared_values(configs)
    for each in configs:
        # refuses what cannot be built before anything slow is loaded; how wide the model is is not known yet
        SAE(each.sae_config(SMALL))
    try:
        with exclusive(folder):
            if resume is None:
                _refuse_taken(folder)
            return _train(folder, named, quiet)
    except KeyboardInterrupt as stop:
        if not (folder / "config.yaml").is_file():
            raise
        raise KeyboardInterrupt(f"stopped. Go on with: kanary train --resume {typed(folder)}") from stop


def _train(folder: Path, configs: Mapping[str, TrainConfig], quiet: bool) -> Run:
    config = next(iter(configs.values()))
    budget = None if config.budget is None else parse_seconds(config.budget)
    require_loggers(config.log)
    lm, text, source, about = open_inputs(config, [c.site for c in configs.values()])
    if not (folder / "config.yaml").exists():  # only now, so that a mistake in the inputs leaves no run behind
        written = {**shared_values(list(configs.values())), "out": str(folder)}
        write_text(folder / "config.yaml", dump_yaml(written))
    loggers = open_loggers(config.log, folder, {"runs": list(configs)}, _steps_done(folder))
    if not quiet:
        say(about["text_check"], estimate(configs, source, lm), _steps_done(folder), config.eval_tokens)
    try:
        with TrainingProgress(configs, _steps_done(folder), quiet=quiet) as progress:
            trained_on = {key: value for key, value in about.items() if key != "text_check"}
            fitted = fit(configs, source, folder, loggers, trained_on=trained_on, budget=budget, show=progress.show)
    finally:
        for logger in loggers:
            logger.close()
    if fitted.ending != "finished":
        return Run(folder, fitted.ending, {})
    saes = {name: learner.sae.eval() for name, learner in fitted.learners.items()}
    for sae in saes.values():
        sae.remember(weights=sae.digest())
    save_saes(folder, saes)  # before anything that could fail
    del fitted  # and with it the optimisers: measuring needs the memory
    metrics = _measure(config, lm, text, saes, quiet)
    save_saes(folder, saes)  # now with their numbers
    write_json(folder / "metrics.json", metrics)
    return Run(folder, "finished", metrics)


def save_saes(folder: Path, saes: Mapping[str, SAE]) -> None:
    """``sae/``, or ``sae/<name>/`` for each of several."""
    for name, sae in saes.items():
        sae.save_pretrained(folder / "sae" if len(saes) == 1 else folder / "sae" / name)


def open_inputs(
    config: TrainConfig, sites: Sequence[str]
) -> tuple[LanguageModel, TextSource, ActivationSource, dict[str, Any]]:
    """Model, text and source of activations that ``config`` names, and what an SAE should remember of them.

    Raises:
        KanaryError: one of them is missing or unreadable, or the store comes from another model.
    """
    store = ActivationStore.open(config.store) if config.store else None
    if store:
        config = _as_harvested(config, store)
    for name, given, example in (
        ("model", config.model, "a folder or a Hub id"),
        ("site", store or all(sites), "resid_post.2"),
        ("text", config.text, "stories.parquet"),
    ):
        if not given:
            raise KanaryError(f"--{name} is missing: give for example {example}.")
    lm = load_model(config.model, revision=config.revision, dtype=config.dtype, device=config.device)
    if lm.device.type not in ("cpu", "cuda"):
        raise KanaryError(f"SAEs train on cpu or cuda, not on {lm.device.type}: use --device cpu.")
    text = open_text(config.text, column=config.column, split=config.split, same_tokenizer=config.same_tokenizer)
    window = resolve_window(config.window, lm.context)
    source = _source(config, store, lm, text, sites)
    part: Part = store.manifest["part"] if store else "train"
    first = next(Windows(text, lm, window=window, batch=16, part=part))
    refuse_leaking_site(lm, first, source.sites)
    about = {
        "model": _lasting(lm.name),
        "revision": lm.revision,
        "fingerprint": lm.fingerprint,
        "tokenizer": lm.tokenizer_name,
        "tokenizer_fingerprint": lm.tokenizer_fingerprint,
        "special_ids": sorted(lm.special_ids),
        "bos_id": lm.bos_id,
        "text": _lasting(text.name),
        "text_fingerprint": text.fingerprint,
        "part": part,
        "window": window,
        "tokens": config.steps * config.batch,
        "text_check": check_text(lm, first),
    }
    return lm, text, source, about


def _lasting(name: str) -> str:
    """A name that means the same in every folder."""
    if name == BUNDLED or labelled_text(name) is not None:  # also where a file of that name lies in this folder
        return name
    return str(Path(name).resolve()) if Path(name).exists() else name


def refuse_leaking_site(lm: LanguageModel, batch: TokenBatch, sites: Sequence[str]) -> None:
    """Raises :class:`KanaryError` unless an activation that is read at each of ``sites`` and written back changes nothing,
    and zeros in its place change something: otherwise an SAE would be trained on what the model does not use.
    """
    tokens = batch.tokens[:1].to(lm.device)
    clean = trace(lm, tokens, sites)
    for site, x in clean.x.items():
        if not torch.equal(clean.replay(site, x.clone()), clean.logits):
            raise KanaryError(
                f"Writing back what was read at {site} of {lm.name} changes its predictions; choose another."
            )
        if torch.equal(clean.replay(site, torch.zeros_like(x)), clean.logits):
            raise KanaryError(f"{lm.name} predicts the same whatever is written at {site}; choose another site.")


def _as_harvested(config: TrainConfig, store: ActivationStore) -> TrainConfig:
    """``config`` with model, text and window of ``store`` where it names none of its own."""
    made = store.manifest
    return dataclasses.replace(
        config,
        model=config.model or made["model"]["name"],
        revision=config.revision or made["model"]["revision"],
        text=config.text or made["text"]["name"],
        column=made["text"]["column"],
        split=made["text"]["split"],
        window=made["window"],
    )


def _source(
    config: TrainConfig, store: ActivationStore | None, lm: LanguageModel, text: TextSource, sites: Sequence[str]
) -> ActivationSource:
    if store is None:
        needed = config.steps * config.batch  # not a token more is harvested
        options = {"batch": config.batch, "tokens": needed, "overlap": config.overlap}
        return LiveActivations.from_config(config, lm, text, list(dict.fromkeys(sites)), **options)
    store.verify(quiet=False)
    if store.manifest["model"]["fingerprint"] != lm.fingerprint:
        raise KanaryError(
            f"{store.folder} holds activations of {store.manifest['model']['name']} "
            f"({store.manifest['model']['fingerprint']}), but {lm.name} is another model ({lm.fingerprint})."
        )
    return StoredActivations(
        store,
        list(dict.fromkeys(site or store.sites[0] for site in sites)),
        pool=config.pool,
        batch=config.batch,
        seed=config.data_seed,
        overlap=config.overlap,
        device=lm.device,
    )


def _measure(
    config: TrainConfig, lm: LanguageModel, text: TextSource, saes: Mapping[str, SAE], quiet: bool
) -> dict[str, Any]:
    """``metrics.json``; where nothing can be measured it says why, because a trained SAE is worth more than its numbers."""
    about = next(iter(saes.values())).config.trained_on
    missing = None
    if not config.eval_tokens:
        missing = "eval_tokens is 0"
    elif about["part"] != "train":
        missing = f"the store was harvested from part {about['part']!r}, so no text is held out"
    else:
        sampling = Sampling(
            part="heldout",
            window=int(about["window"]),
            lm_batch=config.lm_batch,
            tokens=config.eval_tokens,
            loss_tokens=config.eval_tokens,
            seed=config.data_seed,
        )
        try:
            with bar("measuring", sampling.tokens, "tok", quiet) as show:
                found, _ = numbers(lm, text, saes, sampling, show=show)
            for name, sae in saes.items():
                row = plain({"": flat(found.saes[name])})[""]
                sae.remember(metrics={key: row[key] for key in REMEMBERED})
            return found.to_json()
        except KanaryError as error:
            missing = str(error)
        except torch.OutOfMemoryError:
            missing = "the device's memory is too small; try kanary evaluate with --lm-batch 1 or --device cpu"
    if not quiet:
        print(f"No numbers on held-out text: {missing}", file=sys.stderr)
    return Evaluation({}, {}, {}, {"tokens": 0, "missing": missing}).to_json()


def _new_folder(configs: Sequence[TrainConfig]) -> Path:
    return free_folder(Path("runs") / f"{time.strftime('%Y-%m-%d')}-{'-'.join(dict.fromkeys(c.sae for c in configs))}")


def free_folder(base: Path) -> Path:
    """``base``, or ``base-2`` and so on where there is one already."""
    taken = next(n for n in range(1, 10_000) if not (base if n == 1 else base.with_name(f"{base.name}-{n}")).exists())
    return base if taken == 1 else base.with_name(f"{base.name}-{taken}")


def _refuse_taken(folder: Path) -> None:
    if (folder / "config.yaml").exists():
        raise KanaryError(
            f"{folder} already holds a run. Go on with it: kanary train --resume {typed(folder)}, or choose another --out."
        )
    others = [p.name for p in folder.iterdir() if not p.name.startswith(".")]
    if others:
        raise KanaryError(f"{folder} holds other files ({others[0]}); choose an empty or new folder for --out.")


def _resumed(
    folder: Path, config: TrainConfig | Sequence[TrainConfig] | None, fields: Mapping[str, Any]
) -> list[TrainConfig]:
    if not (folder / "config.yaml").is_file():
        raise KanaryError(f"{folder} is not a run: it has no config.yaml.")
    recorded = read_yaml(folder / "config.yaml")
    if isinstance(config, TrainConfig):
        given = [config]
    else:
        given = list(config or grid(replaced(recorded, fields)))
    old, new = shared_values(grid(recorded)), shared_values(given)
    differing = [key for key in {**old, **new} if old.get(key) != new.get(key) and key not in checkpoint.RESUMABLE]
    if differing:
        what = "; ".join(f"{key} was {old.get(key)!r}, now {new.get(key)!r}" for key in differing)
        raise KanaryError(
            f"{folder} was begun with another config: {what}. Leave these out, or start a new run with --out."
        )
    return given


def _steps_done(folder: Path) -> int:
    newest = checkpoint.last(folder)
    return int(newest.name.removeprefix("step-")) if newest else 0
