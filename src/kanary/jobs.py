"""The jobs that people ask for by name: each opens its inputs, calls the rooms, and writes a run folder."""

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kanary.activations.live import LiveActivations
from kanary.activations.source import ActivationSource, resolve_lm_batch, resolve_window
from kanary.activations.store import ActivationStore
from kanary.activations.stored import StoredActivations
from kanary.config import dump_yaml, parse_seconds, read_yaml
from kanary.errors import KanaryError
from kanary.evaluation.fidelity import Row, Target, fidelity, random_twin
from kanary.files import exclusive, write_json, write_text
from kanary.lm import LanguageModel, load_model
from kanary.sae import SAE
from kanary.text import TextSource, Windows, check_text, open_text
from kanary.training.config import TrainConfig, grid, names, shared_values
from kanary.training.estimate import estimate
from kanary.training.fit import Ending, fit
from kanary.training.logs import open_loggers
from kanary.training.progress import TrainingProgress, say

RESUMABLE = {"out", "budget", "log", "checkpoint", "overlap"}  # may differ from the run that is resumed


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
    with exclusive(folder):
        if resume is None:
            _start(folder, configs)
        return _train(folder, named, quiet)


def _train(folder: Path, configs: Mapping[str, TrainConfig], quiet: bool) -> Run:
    config = next(iter(configs.values()))
    for each in configs.values():
        each.sae_config(1)  # refuses what cannot be built before anything slow is loaded
    budget = None if config.budget is None else parse_seconds(config.budget)
    lm, text, source, about = open_inputs(config, [c.site for c in configs.values()])
    loggers = open_loggers(config.log, folder, {"runs": list(configs)}, _steps_done(folder))
    if not quiet:
        say(about["text_check"], estimate(configs, source, lm))
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
    metrics = _measure(config, lm, text, saes)
    write_json(folder / "metrics.json", metrics)
    for name, sae in saes.items():
        sae.save_pretrained(folder / "sae" if len(saes) == 1 else folder / "sae" / name)
    return Run(folder, "finished", metrics)


def open_inputs(
    config: TrainConfig, sites: Iterable[str]
) -> tuple[LanguageModel, TextSource, ActivationSource, dict[str, Any]]:
    """Model, text and source of activations that ``config`` names, and what an SAE should remember of them."""
    sites = list(dict.fromkeys(sites))
    store = ActivationStore.open(config.store) if config.store else None
    model_name, text_name = config.model, config.text
    if store:
        sites = [site or store.sites[0] for site in sites]
        model_name = model_name or str(store.manifest["model"])
        text_name = text_name or str(store.manifest["text"])
    for name, given, example in (
        ("model", model_name, "a folder or a Hub id"),
        ("site", all(sites), "resid_post.2"),
        ("text", text_name, "stories.parquet"),
    ):
        if not given:
            raise KanaryError(f"--{name} is missing: give for example {example}.")
    lm = load_model(model_name, revision=config.revision, dtype=config.dtype, device=config.device)
    text = open_text(text_name, column=config.column, split=config.split)
    window = resolve_window(config.window, lm.context)
    source: ActivationSource
    if store:
        source = StoredActivations(
            store,
            sites,
            pool=config.pool,
            batch=config.batch,
            seed=config.data_seed,
            overlap=config.overlap,
            device=lm.device,
        )
    else:
        source = LiveActivations.from_config(config, lm, text, sites, batch=config.batch, overlap=config.overlap)
    check = check_text(lm, next(Windows(text, lm, window=window, batch=16, part="train")))
    about = {
        "model": lm.name,
        "revision": lm.revision,
        "fingerprint": lm.fingerprint,
        "tokenizer": lm.tokenizer_name,
        "special_ids": sorted(lm.special_ids),
        "text": text.name,
        "window": window,
        "tokens": config.tokens,
        "text_check": check,
    }
    return lm, text, source, about


def _measure(config: TrainConfig, lm: LanguageModel, text: TextSource, saes: Mapping[str, SAE]) -> dict[str, Any]:
    """``metrics.json``: every SAE beside the identity and a random twin of the same L0, on held-out text."""
    if not config.eval_tokens:
        return {"saes": {}, "controls": {}, "held_out": {"tokens": 0}}
    window = resolve_window(config.window, lm.context)
    lm_batch = resolve_lm_batch(config.lm_batch, window, torch.device(lm.device).type)
    batches = []
    tokens = 0
    for batch in Windows(text, lm, window=window, batch=lm_batch, part="heldout"):
        batches.append(batch)
        tokens += batch.n_tokens
        if tokens >= config.eval_tokens:
            break
    targets, controls = {}, {}
    for name, sae in saes.items():
        site = str(sae.config.trained_on["site"])
        targets[name] = Target(site, sae)
        x = lm.capture(batches[0].tokens, [site])[site]
        l0 = float(sae.encode(x, batches[0].special.to(x.device)).l0()[~batches[0].special].double().mean())
        controls[f"identity at {site}"] = Target(site, None)
        controls[f"random twin of {name}"] = Target(site, random_twin(sae, l0, config.seed))
    rows = fidelity(lm, batches, {**targets, **controls}, seed=config.data_seed)
    for name, sae in saes.items():
        short = {
            key: rows[name]._asdict()[key]._asdict()
            for key in ("l0", "explained_variance", "ce_score_zero", "dead_share")
        }
        sae.remember(metrics=short)
    return {
        "saes": {name: _plain(rows[name]) for name in targets},
        "controls": {name: _plain(rows[name]) for name in controls},
        "held_out": {"text": text.name, "tokens": tokens, "window": window, "bootstrap_seed": config.data_seed},
    }


def _plain(row: Row) -> dict[str, dict[str, float | None]]:
    """JSON has no NaN: a number that does not exist (the identity has no latents) is null."""
    return {
        name: {k: (v if v == v else None) for k, v in metric._asdict().items()}
        for name, metric in row._asdict().items()
    }


def _new_folder(configs: Sequence[TrainConfig]) -> Path:
    base = Path("runs") / f"{time.strftime('%Y-%m-%d')}-{'-'.join(dict.fromkeys(c.sae for c in configs))}"
    taken = next(n for n in range(1, 10_000) if not (base if n == 1 else base.with_name(f"{base.name}-{n}")).exists())
    return base if taken == 1 else base.with_name(f"{base.name}-{taken}")


def _start(folder: Path, configs: Sequence[TrainConfig]) -> None:
    if (folder / "config.yaml").exists():
        raise KanaryError(
            f"{folder} already holds a run. Go on with it: kanary train --resume {folder}, or choose another --out."
        )
    others = [p.name for p in folder.iterdir() if not p.name.startswith(".")]
    if others:
        raise KanaryError(f"{folder} holds other files ({others[0]}); choose an empty or new folder for --out.")
    write_text(folder / "config.yaml", dump_yaml({**shared_values(configs), "out": str(folder)}))


def _resumed(
    folder: Path, config: TrainConfig | Sequence[TrainConfig] | None, fields: Mapping[str, Any]
) -> list[TrainConfig]:
    if not (folder / "config.yaml").is_file():
        raise KanaryError(f"{folder} is not a run: it has no config.yaml.")
    recorded = grid(read_yaml(folder / "config.yaml"))
    if config is None and not fields:
        return recorded
    given = (
        [config]
        if isinstance(config, TrainConfig)
        else list(config or grid({**read_yaml(folder / "config.yaml"), **fields}))
    )
    old, new = shared_values(recorded), shared_values(given)
    differing = [key for key in old if old[key] != new[key] and key not in RESUMABLE]
    if differing:
        what = "; ".join(f"{key} was {old[key]!r}, now {new[key]!r}" for key in differing)
        raise KanaryError(
            f"{folder} was begun with another config: {what}. Leave these out, or start a new run with --out."
        )
    return given


def _steps_done(folder: Path) -> int:
    from kanary.training import checkpoint

    newest = checkpoint.last(folder)
    return int(newest.name.removeprefix("step-")) if newest else 0
