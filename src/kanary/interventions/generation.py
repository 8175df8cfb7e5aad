"""Several texts written at once by one model, in one batch: each with its own prompt, steering, watched latents, seed and end.

What stands in one row of the batch never reaches another: rows share the weights and nothing else. A row leaves as soon as its
text ends or nobody wants it any more, and another takes its place, without waiting for the rest.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kanary.errors import KanaryError
from kanary.interventions.cache import Past, joined, kept, nothing, without_last
from kanary.interventions.edits import Edit
from kanary.interventions.observing import Observing
from kanary.interventions.prompts import special_at
from kanary.interventions.steer import Steering
from kanary.interventions.steerable import Steerable
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
    edits: tuple[Edit, ...] = ()
    """How the model is steered while it reads and writes this text."""
    watched: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """SAE -> latents whose codes are wanted on every token."""


Codes = Mapping[str, Sequence[tuple[float, ...]]]
"""SAE -> at every position, the codes of the watched latents, in their order."""


class Token(NamedTuple):
    """A token of a row: of the prompt, once it has been read, or a written one."""

    id: int
    written: bool
    codes: Mapping[str, tuple[float, ...]]
    """SAE -> the codes of its watched latents, in their order; 0 at special tokens."""


class Row:
    """A text that is being written."""

    ended: str | None = None
    """Why it is over: ``stop`` (EOS, or whatever its owner saw in it), ``length``, ``error``; None while it is not."""
    problem: KanaryError | None = None
    """What went wrong, if it ended so."""
    pending: int
    """The token that was drawn last and has not been read."""
    last: bool = False
    """Whether none is drawn after it."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.edits = request.edits
        """May be replaced between two steps: what is read from then on is steered so."""
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
        # in float64, from the largest down, no temperature above 0 is too small to divide by
        shares = ((scores - scores.max()).double() / self.request.temperature).softmax(0).float()
        if self.request.top_p < 1:
            ordered, order = shares.sort(descending=True)
            ordered[ordered.cumsum(0) - ordered >= self.request.top_p] = 0  # the likeliest always stays
            shares = torch.zeros_like(shares).scatter_(0, order, ordered)
        return int(torch.multinomial(shares, 1, generator=self._draw))


class Batch:
    """The rows that a model writes together. Not for several threads at once; other users of the model wait a step at most."""

    def __init__(self, panel: Steerable) -> None:
        """``panel``: the model, and the SAEs that rows are steered and watched with."""
        self.panel = panel
        self.rows: list[Row] = []
        """In the order of the batch; those that have just been added are not among them."""
        self._waiting: list[Row] = []
        self._ends = ends(panel.lm)
        self._past: Past = nothing(0, panel.lm.device)
        self._pass: tuple[Any, Steering | Observing | None, list[dict[str, list[int]]]] | None = None

    @property
    def lm(self) -> LanguageModel:
        return self.panel.lm

    def add(self, request: Request) -> Row:
        """A new row, which begins with the next step.

        Raises:
            KanaryError: a prompt that is empty, or leaves no room in the model's context; edits that cannot be made.
        """
        check(request, self.lm)
        row = Row(request)
        self._made([row])  # refuses what cannot be done, before it can harm the others
        self._waiting.append(row)
        return row

    def step(self) -> list[tuple[Row, list[Token]]]:
        """Reads one token of every row, and the prompts of new ones; draws the token that follows in each.

        Returns:
            Row by row, what can be said now: of a row that watches nothing, the token that was drawn; of one that does, what
            was read, with its codes. A row whose text ends here has ``ended`` set.
        """
        self._leave()
        said = self._go_on() if self.rows else []
        return said + self._begin() if self._waiting else said

    def _leave(self) -> None:
        """Rows that are over give their place free."""
        self._waiting = [row for row in self._waiting if row.ended is None]
        self._keep([i for i, row in enumerate(self.rows) if row.ended is None])

    def _keep(self, staying: Sequence[int]) -> None:
        if len(staying) < len(self.rows):
            self.rows = [self.rows[i] for i in staying]
            self._past = kept(self._past, staying) if staying else nothing(0, self.lm.device)

    def _go_on(self) -> list[tuple[Row, list[Token]]]:
        tokens = torch.tensor([[row.pending] for row in self.rows])
        rows, self._past, read = self._read_all(self.rows, tokens, torch.ones_like(tokens), self._past)
        self.rows = rows
        return [(row, self._after(row, [row.pending], True, *each)) for row, each in zip(rows, read, strict=True)]

    def _begin(self) -> list[tuple[Row, list[Token]]]:
        rows, self._waiting = self._waiting, []
        length = max(len(row.request.prompt) for row in rows)
        tokens = torch.zeros(len(rows), length, dtype=torch.int64)
        seen = torch.zeros_like(tokens)
        for i, row in enumerate(rows):
            tokens[i, length - len(row.request.prompt) :] = torch.tensor(row.request.prompt)
            seen[i, length - len(row.request.prompt) :] = 1
        rows, past, read = self._read_all(rows, tokens, seen, nothing(len(rows), self.lm.device))
        if rows:
            self._past = joined(self._past, past) if self.rows else past
            self.rows = self.rows + rows
        return [(row, self._after(row, row.request.prompt, False, *each)) for row, each in zip(rows, read, strict=True)]

    def _after(self, row: Row, read: Sequence[int], written: bool, logits: Tensor, codes: Codes) -> list[Token]:
        """What can be said of ``row`` once it has ``read`` these ids; draws the token that follows."""
        if row.ended is not None:
            return []
        said = []
        if row.request.watched:
            said = [
                Token(id, written, {sae: values[at - len(read)] for sae, values in codes.items()})
                for at, id in enumerate(read)
            ]
        if row.last:
            row.end("length")
            return said
        if not bool(torch.isfinite(logits).all()):
            row.end("error", KanaryError("The logits are no longer finite: use a smaller strength."))
            return said
        id = row.choose(logits)
        if row.request.ends and id in self._ends:
            row.end("stop")
            return said
        row.pending = id
        row.written.append(id)
        room = self.lm.context - len(row.request.prompt)
        row.last = len(row.written) >= min(row.request.tokens, room)
        if row.request.watched:
            return said  # a token is told with its codes, which are known once it has been read
        if row.last:
            row.end("length")
        return [Token(id, True, {})]

    def _read_all(
        self, rows: list[Row], tokens: Tensor, seen: Tensor, past: Past
    ) -> tuple[list[Row], Past, list[tuple[Tensor, Codes]]]:
        """Reads ``tokens``; if the steering of one row is absurd, that row ends and the others do not notice.

        Returns:
            The rows that were read, what they have read, and each one's logits and codes.
        """
        before = past.seen.shape[1]
        try:
            return rows, *self._read(rows, tokens, seen, past)
        except KanaryError as error:
            if len(rows) == 1:
                rows[0].end("error", error)
                return [], nothing(0, self.lm.device), []
        past = without_last(past, before)
        parts = []
        for i, row in enumerate(rows):
            one = kept(past, [i]) if before else nothing(1, self.lm.device)
            used = slice(int(seen[i].argmax()), None)
            parts.append(self._read_all([row], tokens[i : i + 1, used], seen[i : i + 1, used], one))
        left = [part for part in parts if part[0]]
        if not left:
            return [], nothing(0, self.lm.device), []
        together = left[0][1]
        for part in left[1:]:
            together = joined(together, part[1])
        return [part[0][0] for part in left], together, [part[2][0] for part in left]

    @torch.no_grad()
    def _read(
        self, rows: list[Row], tokens: Tensor, seen: Tensor, past: Past
    ) -> tuple[Past, list[tuple[Tensor, Codes]]]:
        """Reads ``tokens [rows, position]`` where ``seen`` is 1.

        Returns:
            Of each row the logits ``[vocab]`` after its last token, and the codes of its watched latents.
        """
        device = self.lm.device
        mask = torch.cat([past.seen, seen.to(device)], 1)
        session, places = self._session(rows)
        if isinstance(session, Observing):
            session.special = special(self.lm, tokens, seen)
        turn: AbstractContextManager[object] = self.lm.alone() if session is None else session
        with turn:
            out = self.lm.model(
                input_ids=tokens.to(device),
                attention_mask=mask,
                position_ids=(mask.cumsum(1) - 1).clamp_(min=0)[:, past.seen.shape[1] :],
                past_key_values=past.cache,
                use_cache=True,
                logits_to_keep=1,
            )
            # fast because all rows are read off the tensor at once
            observed = {} if session is None else {sae: codes.tolist() for sae, codes in session.observed.items()}
        read = [(out.logits[i, -1], _own(observed, i, columns)) for i, columns in enumerate(places)]
        return Past(past.cache, mask), read

    def _session(self, rows: Sequence[Row]) -> tuple["Steering | Observing | None", list[dict[str, list[int]]]]:
        """How these rows are steered and watched, and :func:`_columns`; kept until rows, edits or SAEs change."""
        key = (self.panel, [(row, row.edits) for row in rows])
        if self._pass is None or self._pass[0] != key:
            self._pass = (key, self._made(rows), _columns(rows))
        return self._pass[1:]

    def _made(self, rows: Sequence[Row]) -> "Steering | Observing | None":
        edits, watched = [row.edits or None for row in rows], _watched(rows)
        if not any(edits):
            return Observing(self.panel, watched) if watched else None
        prompts = [len(row.request.prompt) for row in rows]
        return Steering(self.panel, rows=edits, observe=watched, prompts=prompts)


def special(lm: LanguageModel, tokens: Tensor, seen: Tensor) -> Tensor | None:
    """``[rows, position]`` bool: where ``tokens`` are BOS, EOS or, ``seen`` being 0, padding; None where none is."""
    # fast because a step reads a handful of tokens, which Python looks up sooner than torch
    if tokens.shape[1] == 1 and lm.special_ids.isdisjoint(tokens.flatten().tolist()):
        return None
    return (special_at(lm, tokens) | (seen == 0)).to(lm.device)


def _watched(rows: Sequence[Row]) -> dict[str, list[int]]:
    """SAE -> the latents that any of the rows watches, each once."""
    found: dict[str, dict[int, None]] = {}
    for row in rows:
        for sae, latents in row.request.watched.items():
            found.setdefault(sae, {}).update(dict.fromkeys(latents))
    return {sae: list(latents) for sae, latents in found.items()}


def _own(observed: Mapping[str, list[list[list[float]]]], row: int, columns: Mapping[str, Sequence[int]]) -> Codes:
    return {sae: [tuple(codes[i] for i in at) for codes in observed[sae][row]] for sae, at in columns.items()}


def _columns(rows: Sequence[Row]) -> list[dict[str, list[int]]]:
    """Where each row's own latents stand among those of all rows."""
    place = {sae: {latent: at for at, latent in enumerate(latents)} for sae, latents in _watched(rows).items()}
    return [
        {sae: [place[sae][latent] for latent in latents] for sae, latents in row.request.watched.items()}
        for row in rows
    ]


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
