"""Several texts written at once by one model, in one batch: each with its own prompt, steering, seed and end.

What stands in one row of the batch never reaches another: rows share the weights and nothing else. A row leaves as soon as its
text ends or nobody wants it any more, and another takes its place, without waiting for the rest.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from kanary.errors import KanaryError
from kanary.interventions.cache import Past, joined, kept, nothing
from kanary.lm import LanguageModel


@dataclass(frozen=True)
class Request:
    """One text to write."""

    prompt: tuple[int, ...]
    """Token ids, BOS included."""
    tokens: int = 64
    """How many to write at most."""
    temperature: float = 1.0
    """0 takes the likeliest token every time."""
    top_p: float = 1.0
    """Only the likeliest tokens that together have this probability are drawn from."""
    seed: int = 0
    ends: bool = True
    """Whether EOS ends the text, as the model wants it."""


class Token(NamedTuple):
    """A token of a row, once it has been read."""

    id: int
    written: bool
    """False for tokens of the prompt."""


class Row:
    """A text that is being written."""

    ended: str | None = None
    """Why it is over: ``stop`` (EOS, or whatever its owner saw in it), ``length``, ``error``; None while it is not."""
    problem: KanaryError | None = None
    """What went wrong, if it ended so."""

    pending: int
    """The token that was drawn last and has not been read."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.written: list[int] = []
        """The ids drawn so far, without EOS."""
        self._draw = torch.Generator().manual_seed(request.seed)

    def end(self, why: str = "stop", problem: KanaryError | None = None) -> None:
        """Nothing more is written; the row leaves its batch at the next step."""
        if self.ended is None:
            self.ended, self.problem = why, problem

    def choose(self, logits: Tensor) -> int:
        """The next token, from ``logits [vocab]``."""
        scores = logits.float().cpu()
        if self.request.temperature == 0:
            return int(scores.argmax())
        shares = (scores / self.request.temperature).softmax(0)
        if self.request.top_p < 1:
            ordered, order = shares.sort(descending=True)
            ordered[ordered.cumsum(0) - ordered >= self.request.top_p] = 0  # the likeliest always stays
            shares = torch.zeros_like(shares).scatter_(0, order, ordered)
        return int(torch.multinomial(shares, 1, generator=self._draw))


class Batch:
    """The rows that a model writes together. Not for several threads at once; other users of the model wait a step at most."""

    def __init__(self, lm: LanguageModel) -> None:
        self.lm = lm
        self.rows: list[Row] = []
        """In the order of the batch; those that have just been added are not among them."""
        self._waiting: list[Row] = []
        self._ends = ends(lm)
        self._past: Past = nothing(0, lm.device)

    def add(self, request: Request) -> Row:
        """A new row, which begins with the next step.

        Raises:
            KanaryError: a prompt that is empty, or leaves no room in the model's context.
        """
        check(request, self.lm)
        row = Row(request)
        self._waiting.append(row)
        return row

    def step(self) -> list[tuple[Row, list[Token]]]:
        """Reads one token of every row, and the prompts of new ones; draws the token that follows in each.

        Returns:
            What was read, row by row. A row whose text ends here has ``ended`` set.
        """
        self._leave()
        said: list[tuple[Row, list[Token]]] = []
        if self.rows:
            said += self._go_on()
        if self._waiting:
            said += self._begin()
        return said

    def _leave(self) -> None:
        """Rows that are over give their place free."""
        self._waiting = [row for row in self._waiting if row.ended is None]
        staying = [i for i, row in enumerate(self.rows) if row.ended is None]
        if len(staying) < len(self.rows):
            self.rows = [self.rows[i] for i in staying]
            self._past = kept(self._past, staying) if staying else nothing(0, self.lm.device)

    def _go_on(self) -> list[tuple[Row, list[Token]]]:
        tokens = torch.tensor([[row.pending] for row in self.rows])
        self._past, logits = self._read(tokens, torch.ones_like(tokens), self._past)
        return [(row, self._after(row, logits[i])) for i, row in enumerate(self.rows)]

    def _begin(self) -> list[tuple[Row, list[Token]]]:
        rows, self._waiting = self._waiting, []
        length = max(len(row.request.prompt) for row in rows)
        tokens = torch.zeros(len(rows), length, dtype=torch.int64)
        seen = torch.zeros_like(tokens)
        for i, row in enumerate(rows):
            tokens[i, length - len(row.request.prompt) :] = torch.tensor(row.request.prompt)
            seen[i, length - len(row.request.prompt) :] = 1
        past, logits = self._read(tokens, seen, nothing(len(rows), self.lm.device))
        self._past = joined(self._past, past) if self.rows else past
        self.rows = self.rows + rows
        return [(row, self._after(row, logits[i])) for i, row in enumerate(rows)]

    def _after(self, row: Row, logits: Tensor) -> list[Token]:
        """Draws the token of ``row`` that follows what it has read."""
        if row.ended is not None:
            return []
        if not bool(torch.isfinite(logits).all()):
            problem = KanaryError(
                "The logits are no longer finite: the strength is far too large. Choose a smaller one."
            )
            row.end("error", problem)
            return []
        id = row.choose(logits)
        if row.request.ends and id in self._ends:
            row.end("stop")
            return []
        row.pending = id
        row.written.append(id)
        if len(row.written) >= row.request.tokens or len(row.request.prompt) + len(row.written) >= self.lm.context:
            row.end("length")
        return [Token(id, True)]

    @torch.no_grad()
    def _read(self, tokens: Tensor, seen: Tensor, past: Past) -> tuple[Past, Tensor]:
        """Reads ``tokens [rows, position]`` where ``seen`` is 1; the logits ``[rows, vocab]`` are those after the last."""
        device = self.lm.device
        mask = torch.cat([past.seen, seen.to(device)], 1)
        positions = (mask.cumsum(1) - 1).clamp_(min=0)[:, past.seen.shape[1] :]
        with self.lm.alone():
            out = self.lm.model(
                input_ids=tokens.to(device),
                attention_mask=mask,
                position_ids=positions,
                past_key_values=past.cache,
                use_cache=True,
                logits_to_keep=1,
            )
        return Past(past.cache, mask), out.logits[:, -1]


def ends(lm: LanguageModel) -> frozenset[int]:
    """The tokens that end a text: EOS, and those that the model's generation config adds where they are special."""
    configured = getattr(getattr(lm.model, "generation_config", None), "eos_token_id", None)
    more = configured if isinstance(configured, (list, tuple)) else [configured]
    return frozenset(id for id in (lm.eos_id, *more) if id is not None and id in lm.special_ids)


def check(request: Request, lm: LanguageModel) -> None:
    """Raises :class:`KanaryError` at a request that cannot be served."""
    length = len(request.prompt)
    if not length:
        raise KanaryError(f"The prompt has no token, and {lm.name} has no BOS to begin with. Write at least one word.")
    if length >= lm.context:
        raise KanaryError(f"The prompt has {length:,} tokens; {lm.name} reads {lm.context:,}. Shorten it.")
    if request.tokens < 1:
        raise KanaryError(f"tokens={request.tokens} must be at least 1.")
    if not 0 <= request.temperature <= 100 or not 0 < request.top_p <= 1:
        raise KanaryError(
            f"temperature={request.temperature} must lie between 0 and 100, top_p={request.top_p} above 0 and up to 1."
        )
