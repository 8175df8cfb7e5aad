"""From text to a store of activations on disk; a harvest that is stopped, even by ``kill -9``, goes on where it was."""

import dataclasses
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, get_args

import torch

from kanary.activations.live import LiveActivations
from kanary.activations.source import SourceConfig
from kanary.activations.store import FORMAT, IDS, STORED_DTYPES, ActivationStore, site_folder
from kanary.activations.writer import StoreWriter
from kanary.config import option
from kanary.errors import KanaryError, nearest
from kanary.files import exclusive
from kanary.lm import LanguageModel, load_model
from kanary.progress import bar
from kanary.text import TextSource, open_text
from kanary.text.windows import Part

_SHARD_BYTES = 128 << 20  # work lost by a kill is at most one shard; two are in memory
_FREE_BYTES = 64 << 20  # left on the disk for everybody else


@dataclasses.dataclass(frozen=True, kw_only=True)
class HarvestConfig(SourceConfig):
    """Options of ``kanary harvest``. ``site`` may name several sites, comma separated: they share every forward."""

    out: Path | None = option(None, "Folder of the store.", group="Store")
    tokens: int = option(2_000_000, "Tokens to keep, special tokens not counted.", group="Store", count=True)
    part: str = option(
        "train",
        "Documents that are read: train, heldout (every 20th document, never trained on) or all.",
        group="Text",
    )
    store_dtype: str = option(
        "auto", "Numbers in the store: auto (as the model computes: exact), float32, bfloat16, float16.", group="Store"
    )
    shard: int = option(0, "Tokens per file; 0 = about 128 MB.", group="Store", count=True)
    overlap: bool = option(True, "Write a file while the next one is harvested.", group="Store")


def harvest(
    config: HarvestConfig, lm: LanguageModel | None = None, text: TextSource | None = None, *, quiet: bool = False
) -> ActivationStore:
    """Writes the store that ``config`` describes, or goes on with it, and opens it.

    A store that has reached its goal is opened as it is; with a larger ``tokens`` it grows.

    Args:
        lm: the model, when it is already loaded; else ``config.model`` is loaded.
        text: likewise the text.
        quiet: no progress bar.

    Raises:
        KanaryError: the disk is full or will be; the folder is in use, or holds a store of another configuration (the
            differing options are named); NaN activations; whatever the model and the text raise.
    """
    if config.out is None:
        raise KanaryError("harvest needs a folder for the store: --out FOLDER.")
    if config.tokens < 1:
        raise KanaryError(f"tokens={config.tokens} must be 1 or more.")
    _choice("store_dtype", config.store_dtype, ("auto", *STORED_DTYPES))
    lm, text = _opened(config, lm, text)
    live = _live(config, lm, text)
    with exclusive(config.out):
        manifest = _begun(config, live, config.out)
        if not manifest["complete"]:  # before anything is written, so that a smaller harvest can still go there
            _check_space(config, live, sum(shard["rows"] for shard in manifest["shards"]), config.out)
        writer = StoreWriter(config.out, manifest)
        if not writer.manifest["complete"]:
            start = writer.manifest["shards"][-1]["after"] if writer.rows else None
            if not quiet:
                size = predicted_bytes(config.tokens, live.widths, live.dtype)
                print(f"{config.tokens:,} tokens will take {size / 1e9:.2f} GB in {config.out}.", file=sys.stderr)
            shown = bar("harvesting", config.tokens, "tokens", quiet, done=writer.rows)
            with shown as show, closing(live.pools(start)) as pools:
                live.on_rows = show
                for pool in pools:
                    writer.append(pool)
            if not writer.rows:
                raise KanaryError(f"The text holds no tokens to harvest: {live.text.describe()}.")
            writer.finish()
        return ActivationStore.open(config.out)


def predicted_bytes(tokens: int, widths: Mapping[str, int], dtype: torch.dtype) -> int:
    """Bytes of a store of ``tokens`` rows, up to a few kilobytes of headers per shard."""
    row = sum(widths.values()) * dtype.itemsize + sum(ids.itemsize for ids in IDS.values())
    return tokens * row


def config_sites(site: str) -> list[str]:
    """``"resid_post.2, mlp_out.2"`` → both names; raises :class:`KanaryError` for none or one given twice."""
    sites = [name.strip() for name in site.split(",") if name.strip()]
    if not sites:
        raise KanaryError("Which site? For example --site resid_post.2 (after the third block).")
    if len(set(map(site_folder, sites))) < len(sites):
        raise KanaryError(f"site={site!r} names a site twice.")
    return sites


def _choice(name: str, value: str, known: Sequence[str]) -> Any:
    if value not in known:
        raise KanaryError(f"Unknown {name} {value!r}. {nearest(value, known)}")
    return value


def _opened(
    config: HarvestConfig, lm: LanguageModel | None, text: TextSource | None
) -> tuple[LanguageModel, TextSource]:
    for name, given in (("model", lm or config.model), ("text", text or config.text)):
        if not given:
            raise KanaryError(f"harvest needs a {name}: --{name} PATH or a name on the Hub.")
    lm = lm or load_model(config.model, revision=config.revision, dtype=config.dtype, device=config.device)
    return lm, text or open_text(
        config.text, column=config.column, split=config.split, same_tokenizer=config.same_tokenizer
    )


def _live(config: HarvestConfig, lm: LanguageModel, text: TextSource) -> LiveActivations:
    sites = config_sites(config.site)
    live = LiveActivations.from_config(
        config,
        lm,
        text,
        sites,
        part=_choice("part", config.part, get_args(Part)),
        repeat=False,
        tokens=config.tokens,
        overlap=config.overlap,
        dtype=STORED_DTYPES.get(config.store_dtype),
        device="cpu",
    )
    row = predicted_bytes(1, live.widths, live.dtype)
    live.pool_rows = config.shard or max(1024, min(262_144, _SHARD_BYTES // row) // 1024 * 1024)
    return live


def _begun(config: HarvestConfig, live: LiveActivations, folder: Path) -> dict[str, Any]:
    """The manifest in ``folder``, or a new one."""
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "complete": False,
        "tokens": config.tokens,
        "model": {"name": str(live.lm.name), "revision": live.lm.revision, "fingerprint": live.lm.fingerprint},
        "tokenizer": live.lm.tokenizer_name,
        "text": {"name": live.text.name, "column": live.text.column, "split": config.split},
        "part": live.part,
        "window": live.window,
        "lm_batch": live.lm_batch,
        "sites": {site: site_folder(site) for site in live.sites},
        "widths": live.widths,
        "dtype": str(live.dtype).removeprefix("torch."),
        "shard": live.pool_rows,
        "shards": [],
    }
    if (folder / "manifest.json").exists():
        return _continued(manifest, ActivationStore.open(folder), folder)
    if others := [path.name for path in folder.iterdir() if not path.name.startswith(".")]:
        raise KanaryError(f"{folder} holds other files ({others[0]}, …). Choose a new folder for the store.")
    return manifest


def _continued(new: dict[str, Any], store: ActivationStore, folder: Path) -> dict[str, Any]:
    """The manifest of ``store`` with the goal of ``new``; raises unless the other options are the same."""
    old = store.manifest
    names = ("text", "part", "tokenizer", "window", "lm_batch", "sites", "dtype", "shard")
    if changed := [name for name in names if _placed(old[name]) != _placed(new[name])]:
        differences = ", ".join(f"{name}={_shown(old[name])} (now {_shown(new[name])})" for name in changed)
        raise KanaryError(
            f"{folder} was begun with other options: {differences}. Use the same options to go on, or another folder."
        )
    if old["model"]["fingerprint"] != new["model"]["fingerprint"]:
        raise KanaryError(
            f"{folder} was begun with another model ({old['model']['name']}) than {new['model']['name']}. "
            "Use another folder."
        )
    text_ended = old["complete"] and store.n_tokens < old["tokens"]
    if store.n_tokens >= new["tokens"]:
        return old | {"complete": True}
    return old | {"tokens": max(new["tokens"], old["tokens"]) if text_ended else new["tokens"], "complete": text_ended}


def _placed(value: Any) -> Any:
    """The same, with paths that lead to something written in one way, however they were given."""
    if isinstance(value, dict):
        return {key: _placed(each) for key, each in value.items()}
    return str(Path(value).resolve()) if isinstance(value, str) and Path(value).exists() else value


def _shown(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    return ",".join(str(value[key]) for key in ("name", "column", "split")) if "name" in value else ",".join(value)


def _check_space(config: HarvestConfig, live: LiveActivations, done: int, folder: Path) -> None:
    needed = predicted_bytes(config.tokens - done, live.widths, live.dtype)
    free = shutil.disk_usage(folder).free
    if needed + _FREE_BYTES > free:
        raise KanaryError(
            f"{folder} needs {needed / 1e9:.2f} GB for {config.tokens - done:,} tokens, but the disk has "
            f"{free / 1e9:.2f} GB free. Keep fewer tokens, use store_dtype=bfloat16, or choose another disk."
        )
