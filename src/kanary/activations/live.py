"""Activations harvested on the fly: text goes through the model up to the last site, special tokens are left out."""

import contextlib
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kanary.activations.ahead import ahead
from kanary.activations.pool import Pool
from kanary.activations.source import SourceConfig, resolve_lm_batch, resolve_pool, resolve_window
from kanary.errors import KanaryError
from kanary.lm import LanguageModel
from kanary.text import TextSource, TokenBatch, Windows
from kanary.text.windows import Part

_Step = tuple[dict[str, Any], TokenBatch, dict[str, Any]]  # state of the text before, windows, state after
_CHECKED_ROWS = 4096
_WINDOWS_AHEAD = 4  # batches of windows tokenised in advance: a few kilobytes each


class LiveActivations:
    """Pools of activations of ``text`` at ``sites``, made by running the model.

    The forward stops after the last site. Rows stay in the order of the text, and a pool ends exactly at ``pool_rows``
    rows, in the middle of a forward if need be; the rest of that forward begins the next pool.
    """

    def __init__(
        self,
        lm: LanguageModel,
        text: TextSource,
        sites: Sequence[str],
        *,
        window: int = 0,
        lm_batch: int = 0,
        pool: int = 131_072,
        batch: int = 1,
        part: Part = "train",
        repeat: bool = True,
        tokens: int | None = None,
        overlap: bool = True,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
        on_rows: Callable[[int], None] | None = None,
    ) -> None:
        """
        Args:
            sites: one or several; they share every forward.
            window: tokens the model sees at once; 0 = its context, at most 256.
            lm_batch: windows per forward; 0 = chosen for the device.
            pool: rows of a pool, rounded up to a multiple of ``batch`` (the training batch).
            part: "train", "heldout" or "all" of the documents.
            repeat: begin the text again at its end, for ever; else the last pool is shorter.
            tokens: stop after so many rows in all.
            overlap: make the next pool in the background while one is in use. The pools are the same either way.
            dtype: of the pools' activations; default: what the model computes.
            device: where pools are kept; default: the model's device.
            on_rows: called with the number of new rows after every forward, maybe from another thread.

        Raises:
            KanaryError: unknown site; a window the model cannot read.
        """
        self.lm, self.text, self.sites = lm, text, list(sites)
        self.window = resolve_window(window, lm.context)
        self.lm_batch = resolve_lm_batch(lm_batch, self.window, torch.device(lm.device).type)
        self.pool_rows = resolve_pool(pool, batch)
        self.part, self.repeat, self.tokens, self.overlap = part, repeat, tokens, overlap
        self.device = torch.device(lm.device if device is None else device)
        self.on_rows = on_rows
        probe = lm.capture(torch.zeros(1, 2, dtype=torch.int64, device=lm.device), self.sites)
        self.widths: dict[str, int] = {site: probe[site].shape[-1] for site in self.sites}
        self.dtype = dtype or probe[self.sites[0]].dtype

    @classmethod
    def from_config(
        cls, config: SourceConfig, lm: LanguageModel, text: TextSource, sites: Sequence[str], **options: Any
    ) -> "LiveActivations":
        """As ``config`` says; ``options`` are the other arguments of the constructor (batch, part, repeat, …)."""
        given = {"window": config.window, "lm_batch": config.lm_batch, "pool": config.pool}
        return cls(lm, text, sites, **(given | options))

    @property
    def d_model(self) -> int:
        """Width of one activation; of the first site, when a module named by hand has another width."""
        return self.widths[self.sites[0]]

    def pools(self, start: Mapping[str, Any] | None = None) -> Generator[Pool, None, None]:
        """See :class:`ActivationSource`. Closing the generator stops its threads.

        Raises:
            KanaryError: NaN or infinite activations, with site, document and token.
        """
        stop = threading.Event()
        if start:
            self._continue_as(start)
        forwards = {"lm_batch": self.lm_batch, "window": self.window}  # rows are counted in forwards of this size
        made = self._pools(dict(start) if start else {"pool": 0, "rows": 0, "skip": 0, "text": None, **forwards}, stop)
        return ahead(made, stop=stop) if self.overlap else made

    def _continue_as(self, start: Mapping[str, Any]) -> None:
        """Takes over the size of the forwards in which ``start`` counts; the automatic one differs between devices."""
        if start["window"] != self.window:
            raise KanaryError(f"The run began with windows of {start['window']} tokens; this one has {self.window}.")
        self.lm_batch = int(start["lm_batch"])

    def _pools(self, state: dict[str, Any], stop: threading.Event) -> Generator[Pool, None, None]:
        batches = self._batches(state["text"])
        with contextlib.closing(batches):
            forward, skip = None, int(state["skip"])
            while self.tokens is None or state["rows"] < self.tokens:
                size = self.pool_rows if self.tokens is None else min(self.pool_rows, self.tokens - state["rows"])
                filling = _Filling(self, size)
                while filling.room and not stop.is_set():
                    if forward is None or forward.used == len(forward):
                        if (step := next(batches, None)) is None:
                            break
                        forward = self._forward(*step)
                        forward.used, skip = skip, 0
                    if len(forward):  # windows of padding alone have no rows
                        filling.take(forward)
                if not filling.n or forward is None or stop.is_set():
                    return
                after = state | {"pool": state["pool"] + 1, "rows": state["rows"] + filling.n} | forward.place()
                yield filling.pool(state, after)
                state = after
                if filling.room:
                    return

    def _batches(self, state: Mapping[str, Any] | None) -> Generator[_Step, None, None]:
        """Batches of windows, each between the states of the text before and after it."""
        steps = self._steps(state)
        return ahead(steps, _WINDOWS_AHEAD) if self.overlap else steps

    def _steps(self, state: Mapping[str, Any] | None) -> Generator[_Step, None, None]:
        windows = Windows(
            self.text, self.lm, window=self.window, batch=self.lm_batch, part=self.part, repeat=self.repeat, state=state
        )
        before = windows.state()
        for batch in windows:
            after = windows.state()
            yield before, batch, after
            before = after

    @torch.no_grad()
    def _forward(self, before: dict[str, Any], batch: TokenBatch, after: dict[str, Any]) -> "_Forward":
        kept = (~batch.special).flatten().nonzero().squeeze(1)  # once, and on the CPU: no wait for the GPU
        x = self.lm.capture(batch.tokens.to(self.lm.device), self.sites)
        if self.on_rows:
            self.on_rows(len(kept))
        return _Forward(
            x={site: x[site].flatten(0, 1) for site in self.sites},
            kept=kept.to(self.lm.device),
            tokens=batch.tokens.flatten().index_select(0, kept),
            documents=batch.documents.flatten().index_select(0, kept),
            positions=batch.positions.flatten().index_select(0, kept),
            before=before,
            after=after,
        )


@dataclass
class _Forward:
    """One forward's rows, and how many of them are already in a pool."""

    x: dict[str, Tensor]  # site → [windows * window, width], special tokens included
    kept: Tensor  # [n] rows of x that are no special tokens
    tokens: Tensor  # [n] like documents and positions
    documents: Tensor
    positions: Tensor
    before: dict[str, Any]
    after: dict[str, Any]
    used: int = 0

    def __len__(self) -> int:
        return len(self.tokens)

    def place(self) -> dict[str, Any]:
        """Where the stream goes on: inside this forward, or after it."""
        if self.used < len(self):
            return {"skip": self.used, "text": self.before}
        return {"skip": 0, "text": self.after}


class _Filling:
    """A pool in the making."""

    def __init__(self, source: LiveActivations, size: int) -> None:
        self.x = {
            site: torch.empty(size, width, dtype=source.dtype, device=source.device)
            for site, width in source.widths.items()
        }
        self.tokens = torch.empty(size, dtype=torch.int64)
        self.documents = torch.empty(size, dtype=torch.int64)
        self.positions = torch.empty(size, dtype=torch.int32)
        self.extremes: list[Tensor] = []
        self.size, self.n = size, 0

    @property
    def room(self) -> int:
        return self.size - self.n

    @torch.no_grad()
    def take(self, forward: _Forward) -> None:
        """Moves as many rows of ``forward`` as there is room for."""
        a, b = forward.used, min(len(forward), forward.used + self.room)
        here = slice(self.n, self.n + b - a)
        for site, x in forward.x.items():
            target = self.x[site][here]
            if target.dtype == x.dtype and target.device == x.device:
                torch.index_select(x, 0, forward.kept[a:b], out=target)  # fast because nothing is copied in between
            else:
                target.copy_(x.index_select(0, forward.kept[a:b]))
            self.extremes += target.aminmax()  # NaN and Inf show there; looked at once per pool, so that no GPU waits
        self.tokens[here] = forward.tokens[a:b]
        self.documents[here] = forward.documents[a:b]
        self.positions[here] = forward.positions[a:b]
        forward.used = b
        self.n += b - a

    def pool(self, state: dict[str, Any], after: dict[str, Any]) -> Pool:
        pool = Pool(
            state["pool"],
            {site: x[: self.n] for site, x in self.x.items()},
            self.tokens[: self.n],
            self.documents[: self.n],
            self.positions[: self.n],
            state,
            after,
        )
        if not torch.stack(self.extremes).isfinite().all():
            refuse_non_finite(pool)
        return pool


def refuse_non_finite(pool: Pool, where: str = "") -> None:
    """Raises :class:`KanaryError` with the first NaN or infinite activation of ``pool``, if there is one.

    Args:
        where: said at the end: which file, or what to do.
    """
    for site, x in pool.x.items():
        for a in range(0, len(x), _CHECKED_ROWS):
            bad = (~x[a : a + _CHECKED_ROWS].isfinite()).any(1).nonzero()
            if len(bad):
                row = a + int(bad[0])
                kind = "NaN" if x[row].isnan().any() else "infinite"
                hint = " Numbers this large need float32 or bfloat16." if x.dtype == torch.float16 else ""
                raise KanaryError(
                    f"{kind} activations at site {site}: document {int(pool.documents[row])}, token "
                    f"{int(pool.positions[row])} (vocabulary id {int(pool.tokens[row])}).{hint}{where}"
                )
