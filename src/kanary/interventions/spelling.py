"""Generated tokens as text, piece by piece: no half characters, and nothing beyond a stop text."""

from collections.abc import Sequence
from typing import Any

BROKEN = "�"


class Speller:
    """Turns token ids into text as they come. Joined, the pieces are what decoding all ids at once gives."""

    stopped: bool
    """Whether a stop text was met; nothing is said after that."""

    def __init__(self, tokenizer: Any, before: Sequence[int] = (), stops: Sequence[str] = ()) -> None:
        """
        Args:
            before: the ids that come before; some tokenizers write a space only where something stands before it.
            stops: texts that end the answer and are not part of it.
        """
        self._tokenizer = tokenizer
        self._stops = [stop for stop in stops if stop]
        self._lengths: dict[int, int] = {}
        self._ids = list(before[-1:])
        self._said = len(self._text(self._ids))
        self._held = ""
        self.stopped = False

    def push(self, id: int) -> str:
        """The text that is certain after ``id``; "" within a character, or within what may become a stop text."""
        if self.stopped:
            return ""
        self._ids.append(id)
        whole = self._text(self._ids)
        if whole.endswith(BROKEN) and len(self._ids) < 16:  # a character of UTF-8 has 4 bytes; longer is damage
            return ""
        piece = whole[self._said :]
        self._ids, self._said = [id], self._length(id)
        return self._release(piece)

    def finish(self) -> str:
        """What was held back, once no token follows."""
        if self.stopped:
            return ""
        rest, self._held = self._held + self._text(self._ids)[self._said :], ""
        self._ids, self._said = [], 0
        return self._cut(rest)

    def _length(self, id: int) -> int:
        """Of the text of one token; kept, because a text has few different ones."""
        if id not in self._lengths:
            self._lengths[id] = len(self._text([id]))
        return self._lengths[id]

    def _text(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def _release(self, piece: str) -> str:
        text = self._cut(self._held + piece)
        self._held = ""
        if not self.stopped:
            keep = max((_overlap(text, stop) for stop in self._stops), default=0)
            text, self._held = text[: len(text) - keep], text[len(text) - keep :]
        return text

    def _cut(self, text: str) -> str:
        places = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        self.stopped = self.stopped or bool(places)
        return text[: min(places)] if places else text


def _overlap(text: str, stop: str) -> int:
    """The length of the longest beginning of ``stop`` that ``text`` ends with."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
