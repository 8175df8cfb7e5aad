"""How excerpts look in a question: numbered JSON strings, with marks around tokens."""

import json
from collections.abc import Iterable, Sequence

import numpy as np

from kanary.explain.scorers import marked
from kanary.explain.types import Excerpt, Values

STRONGEST = 10
_MARKS = (("<<", ">>"), ("⟦", "⟧"), ("{{", "}}"))


def marks_for(excerpts: Iterable[Excerpt]) -> tuple[str, str]:
    """A pair of marks that none of the texts has itself."""
    whole = "".join(excerpt.text for excerpt in excerpts)
    return next((pair for pair in _MARKS if not any(mark in whole for mark in pair)), _MARKS[-1])


def numbered(texts: Sequence[str]) -> str:
    """A line for each text, from 1; quoted, so that no text can pass for a part of the question."""
    return "\n".join(f"{number}: {quoted(text)}" for number, text in enumerate(texts, 1))


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def with_marks(excerpt: Excerpt, places: Iterable[int], marks: tuple[str, str]) -> str:
    """The text, with marks around the tokens at ``places``; neighbours share a pair."""
    marked = np.zeros(len(excerpt.tokens) + 2, bool)
    marked[[place + 1 for place in places]] = True
    parts = []
    for place, token in enumerate(excerpt.tokens, 1):
        before = marks[0] if marked[place] and not marked[place - 1] else ""
        after = marks[1] if marked[place] and not marked[place + 1] else ""
        parts.append(before + token + after)
    return "".join(parts)


def strengths(excerpt: Excerpt, maximum: float) -> str:
    """The marked tokens with their activations, from 1 to 10 (the latent's largest anywhere)."""
    scaled = scale(excerpt.activations, maximum)
    return ", ".join(f"{quoted(excerpt.tokens[place])} {scaled[place]:.0f}" for place in marked(excerpt))


def scale(activations: Values, maximum: float) -> Values:
    """``[length]``: whole numbers, 0 where silent, else 1 to 10."""
    part = activations / max(maximum, 1e-12)
    return np.where(activations > 0, np.clip(np.ceil(part * STRONGEST), 1, STRONGEST), 0).astype(np.float32)
