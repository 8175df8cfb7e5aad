"""Documents packed into windows of equal length, with the document and position of every token."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kanary.errors import KanaryError
from kanary.lm import LanguageModel
from kanary.text.guard import refuse_other_tokenizer
from kanary.text.source import Document, TextSource

Part = Literal["train", "heldout", "all"]
HELD_OUT_EVERY = 20
"""One document in so many is never trained on: those with ``id % 20 == 19``."""
_CHUNK_DOCUMENTS = 256
_CHUNK_CHARACTERS = 500_000


@dataclass(frozen=True)
class TokenBatch:
    """Windows of token ids; every row is full, so no mask is needed."""

    tokens: Tensor
    """``[batch, window]`` int64."""
    documents: Tensor
    """``[batch, window]`` int64: the document that each token comes from (a separator: that which follows it)."""
    positions: Tensor
    """``[batch, window]`` int32: place of the token in its document's tokenisation; −1 for a separator put in here."""
    special: Tensor
    """``[batch, window]`` bool: BOS, EOS and padding, which are never trained on or counted."""

    @property
    def n_tokens(self) -> int:
        """How many tokens count."""
        return int((~self.special).sum())


class _Tokenised(NamedTuple):
    id: int
    ids: NDArray[np.int64]


class Windows(Iterator[TokenBatch]):
    """Iterates over a text as batches of packed windows, and can go on where another one stopped.

    Documents are tokenised without special tokens and laid end to end. BOS, when the tokenizer has one, starts every
    window and every document inside a window; without BOS, EOS stands between documents. Every token of every document
    appears exactly once, except those of the last incomplete window of the text.
    """

    def __init__(
        self,
        source: TextSource,
        lm: LanguageModel,
        *,
        window: int,
        batch: int = 1,
        part: Part = "train",
        repeat: bool = False,
        state: Mapping[str, int] | None = None,
    ) -> None:
        """
        Args:
            source: from :func:`kanary.text.open_text`.
            lm: whose tokenizer is used.
            window: tokens per window, BOS included.
            batch: windows per batch; the last batch of the text may have fewer.
            part: ``train``, ``heldout`` (the documents with ``id % 20 == 19``) or ``all``.
            repeat: start again at the end of the text; batches then stay full.
            state: what :meth:`state` returned; the next batch is the one that followed.

        Raises:
            KanaryError: a window longer than the model's, or pre-tokenised data of another tokenizer.
        """
        if not 2 <= window <= lm.context:
            raise KanaryError(
                f"window={window} must lie between 2 and {lm.context}, the longest that {lm.name} can read."
            )
        if batch < 1:
            raise KanaryError(f"batch={batch} must be at least 1.")
        refuse_other_tokenizer(source, lm)
        state = state or {}
        self.source, self.lm, self.window, self.batch, self.part, self.repeat = source, lm, window, batch, part, repeat
        self._document = int(state.get("document", 0))  # the next token to place is number `offset` of this document
        self._offset = int(state.get("offset", 0))
        self._epoch = int(state.get("epoch", 0))
        self._windows = int(state.get("windows", 0))
        self._starts_document = lm.bos_id if lm.bos_id is not None else lm.eos_id
        self._is_special = np.zeros(lm.vocab_size, dtype=bool)
        self._is_special[list(lm.special_ids)] = True
        self._stream = self._tokenised()
        self._current: _Tokenised | None = None

    def state(self) -> dict[str, int]:
        """Where the next batch starts: ``document``, ``offset`` in it, ``epoch``, and the ``windows`` made so far."""
        return {"document": self._document, "offset": self._offset, "epoch": self._epoch, "windows": self._windows}

    def __next__(self) -> TokenBatch:
        tokens = np.empty((self.batch, self.window), dtype=np.int64)
        documents = np.empty_like(tokens)
        positions = np.empty((self.batch, self.window), dtype=np.int32)
        rows = 0
        while rows < self.batch and self._fill(tokens[rows], documents[rows], positions[rows]):
            rows += 1
        if rows == 0:
            raise StopIteration
        special = self._is_special[tokens[:rows]]
        arrays = (tokens[:rows], documents[:rows], positions[:rows], special)
        return TokenBatch(*(torch.from_numpy(a) for a in arrays))

    def _fill(self, tokens: NDArray[np.int64], documents: NDArray[np.int64], positions: NDArray[np.int32]) -> bool:
        """Fills one window; False when the text ends before it is full."""
        at = 0
        while at < self.window:
            document = self._next_document()
            if document is None:
                if not self._at_end(at):
                    return False
                at = 0
                continue
            at = self._put_separator(document, at, tokens, documents, positions)
            take = min(self.window - at, len(document.ids) - self._offset)
            to = slice(at, at + take)
            tokens[to] = document.ids[self._offset : self._offset + take]
            documents[to] = document.id
            positions[to] = np.arange(self._offset, self._offset + take)
            self._offset += take
            at += take
        self._leave_finished()
        self._windows += 1
        return True

    def _put_separator(
        self,
        document: _Tokenised,
        at: int,
        tokens: NDArray[np.int64],
        documents: NDArray[np.int64],
        positions: NDArray[np.int32],
    ) -> int:
        """BOS at the start of a window, BOS or EOS at the start of a document; nothing where the data has its own."""
        separator = self.lm.bos_id if at == 0 else self._starts_document if self._offset == 0 else None
        if separator is None or document.ids[self._offset] == separator:
            return at
        tokens[at], documents[at], positions[at] = separator, document.id, -1
        return at + 1

    def _next_document(self) -> _Tokenised | None:
        """The document of which tokens are left to place."""
        self._leave_finished()
        if self._current is None:
            self._current = next(self._stream, None)
            if self._current is not None and self._current.id != self._document:
                self._document, self._offset = self._current.id, 0
        return self._current

    def _leave_finished(self) -> None:
        if self._current is not None and self._offset >= len(self._current.ids):
            self._document, self._offset, self._current = self._current.id + 1, 0, None

    def _at_end(self, left_over: int) -> bool:
        """The text has ended inside a window, which is dropped: True if it starts again from the beginning."""
        if self._windows == 0:
            part = (
                ""
                if self.part == "all"
                else f" its part {self.part!r} (one document in {HELD_OUT_EVERY} is held out) of"
            )
            raise KanaryError(
                f"The text is shorter than a window:{part} {self.source.name!r} gives {left_over:,} tokens "
                f"and a window has {self.window:,}. Use a smaller window or more text."
            )
        if not self.repeat:
            return False
        self._epoch += 1
        self._document, self._offset, self._current = 0, 0, None
        self._stream = self._tokenised()
        return True

    def _tokenised(self) -> Iterator[_Tokenised]:
        """The part's documents from the current one on, tokenised many at a time."""
        chunk: list[Document] = []
        characters = 0
        for document in self.source.documents(self._document):
            if self.part != "all" and (self.part == "heldout") != (document.id % HELD_OUT_EVERY == HELD_OUT_EVERY - 1):
                continue
            chunk.append(document)
            characters += len(document.text or "")
            if len(chunk) >= _CHUNK_DOCUMENTS or characters >= _CHUNK_CHARACTERS:
                yield from self._tokenise(chunk)
                chunk, characters = [], 0
        if chunk:
            yield from self._tokenise(chunk)

    def _tokenise(self, chunk: list[Document]) -> Iterator[_Tokenised]:
        # One call for many documents, which the tokenizer spreads over the cores.
        texts = [d.text for d in chunk if d.text]
        encoded = iter(encode(self.lm, texts) if texts else ())
        for document in chunk:
            ids = np.asarray(next(encoded) if document.text else document.tokens or (), dtype=np.int64)
            if len(ids) == 0:
                continue
            if ids.max() >= self.lm.vocab_size or ids.min() < 0:
                wrong = int(ids.max() if ids.min() >= 0 else ids.min())
                raise KanaryError(
                    f"Document {document.id} of {self.source.name!r} has the token id {wrong}, but {self.lm.name!r} "
                    f"has only {self.lm.vocab_size:,} tokens. It was made with another tokenizer than "
                    f"{self.lm.tokenizer_name!r}."
                )
            yield _Tokenised(document.id, ids)


def encode(lm: LanguageModel, texts: list[str]) -> list[list[int]]:
    """The token ids of each text, without special tokens."""
    encoded = lm.tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
    ids: list[list[int]] = encoded["input_ids"]
    return ids
