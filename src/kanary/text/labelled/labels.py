"""For every token read from the labelled corpus, the concepts that hold there."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kanary.errors import KanaryError
from kanary.text.labelled.concepts import find_concept, known
from kanary.text.labelled.reader import LabelledText, labelled_text
from kanary.text.labelled.record import Record, Tokenised, tokenise

if TYPE_CHECKING:
    from kanary.lm import LanguageModel
    from kanary.text.source import TextSource
    from kanary.text.windows import TokenBatch

_KEPT = 256
"""Records whose labels are remembered. In the order of the text, only the last record of a batch is met again."""


class _Aligned(NamedTuple):
    """One record, token by token."""

    ids: NDArray[np.int64]  # [tokens]
    holds: NDArray[np.bool_]  # [tokens, concepts]
    values: NDArray[np.float32]  # [tokens, graded], NaN where no value is given


class Labels:
    """The labels of windows of the labelled corpus.

    Windows carry the document (which is the record's id) and the position of every token, so a record is written again,
    or remembered from when it was read, and its labels are looked up. They hold for one tokenizer.
    """

    concepts: tuple[str, ...]
    """The names, in the order of the labels' last dimension."""
    graded: tuple[str, ...]
    """Those of them that have a unit, in the order of the values' last dimension."""

    def __init__(self, text: "TextSource | str", lm: "LanguageModel", concepts: Sequence[str] = ()) -> None:
        """
        Args:
            text: the one that the windows are read from, which remembers its last records, or its name, for example
                ``labelled:weather@7``.
            lm: whose tokenizer the windows are in.
            concepts: names (default: all that the corpus knows).

        Raises:
            KanaryError: another text than the labelled corpus, an unknown concept, or a tokenizer that does not tell which
                characters its tokens stand for.
        """
        self._reader = _reader(text)
        self._tokenizer = lm.tokenizer
        self._tokenizer_name = lm.tokenizer_name
        self.concepts = tuple(dict.fromkeys(find_concept(name).name for name in concepts or known()))
        self.graded = tuple(name for name in self.concepts if known()[name].unit is not None)
        self._column = {name: i for i, name in enumerate(self.concepts)}
        self._graded_column = {name: i for i, name in enumerate(self.graded)}
        self._known: dict[int, _Aligned] = {}  # the oldest first
        tokenise([""], self._tokenizer)  # refuses a tokenizer that cannot be aligned before anything is read

    def of(self, batch: "TokenBatch") -> Tensor:
        """``[batch, window, concepts]`` bool: whether the concept holds at the token; nowhere at special tokens.

        Raises:
            KanaryError: the tokens are not those of the record: they come from another text or another tokenizer.
        """
        records, rows = self._look_up(batch)
        nowhere = np.zeros((1, len(self.concepts)), dtype=bool)
        return torch.from_numpy(np.concatenate([nowhere, *(r.holds for r in records)])[rows])

    def values(self, batch: "TokenBatch") -> Tensor:
        """``[batch, window, graded]`` float32: how much of each graded concept there is, NaN where no value is given.

        Raises:
            KanaryError: as :meth:`of`.
        """
        records, rows = self._look_up(batch)
        none = np.full((1, len(self.graded)), np.nan, dtype=np.float32)
        return torch.from_numpy(np.concatenate([none, *(r.values for r in records)])[rows])

    def _look_up(self, batch: "TokenBatch") -> tuple[list[_Aligned], NDArray[np.int64]]:
        """The batch's records, and for every token its row ``[batch, window]`` in all of them laid end to end.

        Rows are counted from 1; special tokens have row 0.
        """
        tokens, documents, positions, special = (
            x.cpu().numpy() for x in (batch.tokens, batch.documents, batch.positions, batch.special)
        )
        inside = positions >= 0
        numbers, which = np.unique(documents[inside], return_inverse=True)
        records = self._aligned(numbers.tolist())
        lengths = np.array([len(r.ids) for r in records], dtype=np.int64)
        firsts = 1 + np.cumsum(lengths) - lengths
        places = positions[inside].astype(np.int64)
        ids = np.concatenate([np.array([-1]), *(r.ids for r in records)])
        found = np.where(places < lengths[which], firsts[which] + places, 0)
        wrong = ids[found] != tokens[inside]
        if wrong.any():
            at = int(wrong.argmax())
            raise KanaryError(
                f"Token {places[at]} of document {documents[inside][at]} (vocabulary id {tokens[inside][at]}) is not that "
                f"of {self._reader.name!r} with the tokenizer {self._tokenizer_name!r}: the windows come from another text "
                "or another tokenizer. Read them from the text that the labels are made for."
            )
        rows = np.zeros(tokens.shape, dtype=np.int64)
        rows[inside] = found
        rows[special] = 0
        return records, rows

    def _aligned(self, numbers: Sequence[int]) -> list[_Aligned]:
        """The records with these ids; those that are not remembered are tokenised in one call."""
        new = [self._reader.record(number) for number in numbers if number not in self._known]
        tokenised = tokenise([r.text for r in new], self._tokenizer) if new else []
        for each, tokens in zip(new, tokenised, strict=True):
            self._known[each.id] = self._align(each, tokens)
        found = [self._known[number] for number in numbers]
        for oldest in list(self._known)[: max(0, len(self._known) - _KEPT)]:
            del self._known[oldest]
        return found

    def _align(self, record: Record, tokens: Tokenised) -> _Aligned:
        holds = np.zeros((len(self.concepts), len(tokens.ids)), dtype=bool)
        values = np.full((len(tokens.ids), len(self.graded)), np.nan, dtype=np.float32)
        spans = [span for span in record.spans if span.concept in self._column]
        starts, ends = _columns(tokens.places)
        begins, stops = _columns((span.start, span.end) for span in spans)
        covered = (begins[:, None] < ends) & (stops[:, None] > starts)  # [spans, tokens]
        for span, here in zip(spans, covered, strict=True):
            holds[self._column[span.concept]] |= here
            if span.value is not None and span.concept in self._graded_column:
                values[here, self._graded_column[span.concept]] = span.value
        return _Aligned(np.array(tokens.ids, dtype=np.int64), np.ascontiguousarray(holds.T), values)


def _columns(pairs: Iterable[tuple[int, int]]) -> NDArray[np.int64]:
    """``[2, n]``."""
    return np.array(list(pairs), dtype=np.int64).reshape(-1, 2).T


def _reader(text: "TextSource | str") -> LabelledText:
    reader = labelled_text(text) if isinstance(text, str) else text.readers[0]
    if not isinstance(reader, LabelledText):
        name = text if isinstance(text, str) else text.name
        raise KanaryError(f"Labels are known for the labelled corpus only, not for {name!r}. Use --text labelled.")
    return reader
