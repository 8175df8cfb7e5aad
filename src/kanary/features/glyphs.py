"""Tokens as they are drawn: what cannot be seen, or would reorder a line, is named instead of obeyed."""

import unicodedata

_NAMED = {"\n": "↵", "\t": "⇥"}


def visible(text: str) -> str:
    """``text`` with a sign in the place of every character that shows nothing of itself."""
    return "".join(c if c.isprintable() else _NAMED.get(c, f"⟨U+{ord(c):04X}⟩") for c in text)


def cells(text: str) -> int:
    """Columns that ``text`` takes in a font whose letters are all as wide."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)
