"""Where activations come from: the options every job shares, and what a source of activations offers."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from kanary.activations.pool import Pool
from kanary.config import option
from kanary.errors import KanaryError

_AUTO_WINDOW = 256
_AUTO_TOKENS = {
    "cpu": 4096,
    "cuda": 32768,
}  # per forward: large enough that fixed costs vanish, small enough for caches


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """What is read, where in the model, and how; the options of harvesting and of training start with these."""

    model: str = option(
        "",
        "Language model: a folder, a name on the Hugging Face Hub, or 'bundled': the small one that comes with Kanary.",
        group="Model",
    )
    site: str = option(
        "",
        "Where activations are read: resid_pre.L, resid_post.L, attn_out.L or mlp_out.L (layers count from 0), "
        "or module:PATH / input:PATH for a module by hand.",
        group="Model",
        sweep=True,
    )
    text: str = option(
        "",
        "Text: a .parquet, .jsonl, .jsonl.gz, .json or .txt file, a folder of these, a data set on the Hub, or "
        "'labelled': passages that Kanary writes, with known concepts ('labelled:weather,code': only these kinds).",
        group="Text",
    )
    store: Path | None = option(
        None, "Folder of activations written by 'kanary harvest'; they are read instead of run again.", group="Text"
    )
    revision: str | None = option(None, "Version of the model on the Hub: a branch, tag or commit.", group="Model")
    dtype: str = option("auto", "Numbers the model computes with: auto (as saved), float32, bfloat16.", group="Model")
    device: str = option("auto", "Where the model runs: auto, cpu, cuda, cuda:1.", group="Model")
    column: str = option("text", "Column of the data that holds the text (or the token ids).", group="Text")
    split: str = option("train", "Split of a data set on the Hub.", group="Text")
    same_tokenizer: bool = option(
        False,
        "Accept pre-tokenised data that names its tokenizer otherwise than the model does.",
        group="Text",
    )
    window: int = option(0, "Tokens the model sees at once; 0 = the model's context, at most 256.", group="Text")
    lm_batch: int = option(0, "Windows per forward pass of the model; 0 = chosen for the device.", group="Model")
    pool: int = option(
        131_072,
        "Tokens that are mixed together before batches are drawn (two pools stay in memory).",
        group="Text",
        count=True,
    )


class ActivationSource(Protocol):
    """Live or stored: anything that hands out pools. The same source and start give the same pools, bit for bit."""

    sites: list[str]
    widths: dict[str, int]  # site → length of one activation
    device: torch.device  # of the pools' activations
    pool_rows: int  # rows of every pool; a multiple of the training batch

    def pools(self, start: Mapping[str, Any] | None = None) -> Iterator[Pool]:
        """Pools from the beginning, or from the ``state`` of a pool seen before: that pool comes again first."""
        ...


def resolve_window(window: int, context: int) -> int:
    """Tokens per window; raises :class:`KanaryError` if the model cannot read that many."""
    if window == 0:
        return min(context, _AUTO_WINDOW)
    if not 2 <= window <= context:
        raise KanaryError(f"window={window} does not fit this model: choose 2 to {context} tokens, or 0 for automatic.")
    return window


def resolve_lm_batch(lm_batch: int, window: int, device: str) -> int:
    """Windows per forward; it depends on the kind of device alone, so that a resumed run forms the same batches."""
    if lm_batch < 0:
        raise KanaryError(f"lm_batch={lm_batch} must be 1 or more windows, or 0 for automatic.")
    return lm_batch or max(1, _AUTO_TOKENS.get(device, _AUTO_TOKENS["cuda"]) // window)


def resolve_pool(pool: int, batch: int) -> int:
    """Rows of a pool: ``pool`` rounded up to whole batches, so that no row is left over."""
    if batch < 1 or pool < 1:
        raise KanaryError(f"pool={pool} and batch={batch} must both be 1 token or more.")
    return -(-pool // batch) * batch
