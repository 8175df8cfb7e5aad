"""One text as it is written: its pieces, the values of its watches on every token, and what the watches do about it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from kanary.interventions.alarms import Alarm, Vigil
from kanary.interventions.generation import Batch, Request, Row, Token
from kanary.interventions.prompts import token_texts
from kanary.interventions.spelling import Speller
from kanary.interventions.traces import Recorder
from kanary.interventions.watch import Watch
from kanary.lm import LanguageModel


class Piece(NamedTuple):
    """What one token brings."""

    text: str
    """What is certain of the text after it: may be "" or more than the token's own."""
    token: str
    """The token as people read it."""
    id: int
    written: bool
    """False for tokens of the prompt, which bring no text."""
    values: Mapping[str, float]
    """Watch -> value."""
    codes: Mapping[str, tuple[float, ...]]
    """SAE -> the codes of its watched latents."""
    alarms: Sequence[Alarm]


def watched(watches: Sequence[Watch], name: Callable[[Watch], str] = lambda watch: watch.sae) -> dict[str, list[int]]:
    """SAE -> the latents that these watches read. ``name``: of a watch's SAE, where the model is written with several."""
    found: dict[str, dict[int, None]] = {}
    for watch in watches:
        found.setdefault(name(watch), {}).update(dict.fromkeys(watch.latents))
    return {sae: list(latents) for sae, latents in found.items()}


class Writing:
    """Follows one row of a batch."""

    ended: str | None = None
    """Why the text is over: ``stop``, ``length``, ``alarm``, ``error``, ``cancelled``; None while it is written."""

    def __init__(
        self,
        lm: LanguageModel,
        row: Row,
        watches: Sequence[Watch] = (),
        *,
        name: Callable[[Watch], str] = lambda watch: watch.sae,
        stops: Sequence[str] = (),
        send: Callable[[str, Mapping[str, Any]], None] | None = None,
        record: Recorder | None = None,
    ) -> None:
        """
        Args:
            name: of a watch's SAE in the row's request.
            stops: texts that end the answer.
            send: see :class:`~kanary.interventions.alarms.Vigil`.
        """
        self.lm, self.row, self.record = lm, row, record
        self._name = name
        self._vigil = Vigil(watches, send)
        self._speller = Speller(lm.tokenizer, row.request.prompt, stops)
        self._at = 0
        places = {sae: {latent: i for i, latent in enumerate(known)} for sae, known in row.request.watched.items()}
        self._columns = {w.name: [places[name(w)][latent] for latent in w.latents] for w in watches}

    def take(self, tokens: Sequence[Token]) -> Iterator[Piece]:
        """The pieces that a step's tokens bring. What stops the text, or steers it, has been done when this returns."""
        for token, text in zip(tokens, token_texts(self.lm, [token.id for token in tokens]), strict=True):
            if self.ended is not None:
                return
            yield self._piece(token, text)
        if self.row.ended is not None:
            self._end(self.row.ended)

    def rest(self) -> str:
        """What was held back of the text; once it has ended."""
        return "" if self.ended in ("alarm", "error") else self._speller.finish()

    def cancel(self) -> None:
        """Nobody wants the rest."""
        self.row.end("stop")
        self._end("cancelled")

    def fail(self) -> None:
        self.row.end("error")
        self._end("error")

    def _piece(self, token: Token, text: str) -> Piece:
        codes = {w.name: [token.codes[self._name(w)][i] for i in self._columns[w.name]] for w in self._vigil.watches}
        values = self._vigil.values(codes)
        if self.record is not None:
            self.record.token(text, token.id, token.written, values)
        if not token.written:
            return Piece("", text, token.id, False, values, token.codes, ())
        alarms = self._vigil.read(self._at, text, values)
        self._at += 1
        said = self._speller.push(token.id)
        for alarm in alarms:
            self._act(alarm)
        if self._speller.stopped:
            self.row.end("stop")
            self._end("stop")
        return Piece(said, text, token.id, True, values, token.codes, alarms)

    def _act(self, alarm: Alarm) -> None:
        if self.record is not None:
            self.record.alarm(alarm)
        watch = next(watch for watch in self._vigil.watches if watch.name == alarm.watch)
        if alarm.action == "stop":
            self.row.end("stop")
            self._end("alarm")
        elif alarm.action == "steer":
            new = tuple(edit for edit in watch.edits(self._name(watch)) if edit not in self.row.edits)
            self.row.edits = (*self.row.edits, *new)

    def _end(self, why: str) -> None:
        if self.ended is None:
            self.ended = why
            if self.record is not None:
                self.record.end(why)


def write(batch: Batch, request: Request, watches: Sequence[Watch] = (), **more: Any) -> Iterator[Piece]:
    """Writes one text; ``more`` as for :class:`Writing`. Leaving the iterator early leaves the text unfinished.

    Raises:
        KanaryError: the request cannot be served, or its steering is absurd.
    """
    writing = Writing(batch.lm, batch.add(request), watches, **more)
    try:
        while writing.ended is None:
            for row, tokens in batch.step():
                if row is writing.row:
                    yield from writing.take(tokens)
            if writing.row.problem is not None:
                writing.fail()
                raise writing.row.problem
            if writing.row.ended is not None and writing.ended is None:
                yield from writing.take(())
        if rest := writing.rest():
            yield Piece(rest, "", -1, True, {}, {}, ())
    finally:
        if writing.ended is None:
            writing.cancel()
        batch.step()  # the row leaves
