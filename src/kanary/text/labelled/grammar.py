"""What can be read off any passage: where sentences start, what is quoted or bracketed, and which words negate."""

from collections.abc import Iterator
from unicodedata import combining

from kanary.text.labelled.concepts import concept
from kanary.text.labelled.passage import Span

START = concept("grammar.sentence_start", "the first word of a sentence, a quoted one included", switch=False)
QUOTED = concept("grammar.quoted", "the text stands between double quotation marks", switch=False)
QUOTE_CLOSE = concept("grammar.quote_close", "a double quotation mark that ends a quotation", switch=False)
BRACKETED = concept("grammar.bracketed", "the text stands between round or square brackets", switch=False)
BRACKET_CLOSE = concept("grammar.bracket_close", "a round or square bracket that closes", switch=False)
NEGATION = concept("grammar.negation", "a word that says no: not, never, nobody, don't", switch=False)

ENDS = (". ", "! ", "? ", ".\n", "!\n", "?\n", '." ', '!" ', '?" ', ".” ", "!” ", "?” ", ".) ", "؟ ", "\n")
"""What may stand between two sentences."""
OPENERS = "\"“«([¿¡'- \n"
"""Signs before the first word."""
ABBREVIATIONS = frozenset(
    (
        "mr",
        "mrs",
        "ms",
        "dr",
        "st",
        "no",
        "vs",
        "e.g",
        "i.e",
        "approx",
        "fig",
        "prof",
        "art",
        "sec",
        "sr",
        "sra",
        "dra",
    )
)
"""A full stop behind one of these does not end a sentence."""
NEGATIVE = (
    *("not", "never", "no", "nobody", "nothing", "none", "nowhere", "neither", "nor", "cannot"),
    *("nunca", "nadie", "nada", "ningún", "ninguno", "ninguna", "jamás", "tampoco"),  # Spanish, which shares "no"
)
QUOTES = (("“", "”"), ("«", "»"))
BRACKETS = {")": "(", "]": "["}


def mark_grammar(text: str) -> list[Span]:
    """The spans of the ``grammar`` concepts in ``text``, in no particular order.

    A sign without its partner closes nothing. Quotation marks and brackets do not belong to what they enclose.
    """
    return [*_starts(text), *_quotes(text), *_brackets(text), *_negations(text)]


def _all(text: str, sign: str) -> Iterator[int]:
    """Where ``sign`` is."""
    at = text.find(sign)
    while at >= 0:
        yield at
        at = text.find(sign, at + 1)


def _starts(text: str) -> Iterator[Span]:
    places = {0}
    for end in ENDS:
        for at in _all(text, end):
            if end[0] != "." or not _abbreviated(text, at):
                places.add(at + len(end))
    for at in _all(text, '"'):
        # A quoted sentence follows a comma or a colon; other quotations are names and single words.
        if text[at - 2 : at] in (", ", ": "):
            places.add(at + 1)
    seen = set()
    for at in places:
        at = _first(text, at)
        if at not in seen and at < len(text) and not text[at].islower() and text[at].isalnum():
            seen.add(at)
            yield Span(START, at, _word_end(text, at))


def _abbreviated(text: str, stop: int) -> bool:
    """Whether the full stop at ``stop`` belongs to an abbreviation, an initial or the number of a step."""
    start = max(text.rfind(" ", 0, stop), text.rfind("\n", 0, stop), text.rfind("(", 0, stop)) + 1
    word = text[start:stop]
    if len(word) == 1:
        return word.isupper() and word != "I"
    return word.lower() in ABBREVIATIONS


def _first(text: str, at: int) -> int:
    """Where the first word of a sentence is from ``at`` on; numbers of steps and sections and speakers of a play are passed
    over."""
    n = len(text)
    while at < n and text[at] in OPENERS:
        at += 1
    section = text.startswith("§ ", at)
    end = at = at + 2 * section
    while end < n and text[end].isdigit():
        end += 1
    if section:
        return end + 1
    if end > at and text[end : end + 2] in (". ", ") "):
        return _first(text, end + 2)
    if end > at and text[at - 1 : at] != " ":  # a line that starts with a number is a figure, not a sentence
        return n
    return _after_speaker(text, at)


def _after_speaker(text: str, at: int) -> int:
    """In a play, ``Ann: Yes`` or ``Ann (laughing): Yes``, where a line at ``at`` goes on behind the speaker's name."""
    if at and text[at - 1] != "\n":
        return at
    end = _word_end(text, at)
    if text[end : end + 2] in (" (", " ["):
        end = text.find("):" if text[end + 1] == "(" else "]:", end, end + 60) + 1 or end
    return end + 2 if text[end : end + 2] == ": " else at


def _word_end(text: str, at: int) -> int:
    n = len(text)
    while at < n and (
        text[at].isalnum() or combining(text[at]) or (text[at] in "'’-" and at + 1 < n and text[at + 1].isalnum())
    ):
        at += 1
    return at


def _quotes(text: str) -> Iterator[Span]:
    opened = -1
    for at in _all(text, '"'):
        if opened >= 0:
            yield from _enclosed(text, opened + 1, at, QUOTED)
            yield Span(QUOTE_CLOSE, at, at + 1)
        opened = -1 if opened >= 0 else at
    for start, end in QUOTES:
        for at in _all(text, start):
            close = text.find(end, at)
            if close > 0:
                yield from _enclosed(text, at + 1, close, QUOTED)
                yield Span(QUOTE_CLOSE, close, close + 1)


def _brackets(text: str) -> Iterator[Span]:
    if ")" not in text and "]" not in text:
        return
    opened: list[int] = []
    for at in sorted(at for sign in "()[]" for at in _all(text, sign)):
        if text[at] in "([":
            opened.append(at)
        elif opened and text[opened[-1]] == BRACKETS[text[at]]:
            start = opened.pop() + 1
            yield Span(BRACKET_CLOSE, at, at + 1)
            if not opened:  # what stands between outer brackets holds the inner ones
                yield from _enclosed(text, start, at, BRACKETED)


def _enclosed(text: str, start: int, end: int, name: str) -> Iterator[Span]:
    """The span from ``start`` to ``end``, less the spaces at its ends."""
    inner = text[start:end]
    start += len(inner) - len(inner.lstrip())
    end = start + len(inner.strip())
    if end > start:
        yield Span(name, start, end)


def _negations(text: str) -> Iterator[Span]:
    low = text.lower()
    n = len(low)
    if n != len(text):  # a letter whose small form is longer: its place would shift
        low = text
    for word in NEGATIVE:
        for at in _all(low, word):
            end = at + len(word)
            if (at == 0 or not _inside(low[at - 1])) and (end == n or not _inside(low[end])):
                yield Span(NEGATION, at, end)
    for sign in ("n't", "n’t"):
        for at in _all(low, sign):
            end, start = at + 3, at
            while start and low[start - 1].isalpha():
                start -= 1
            yield Span(NEGATION, start, end)


def _inside(letter: str) -> bool:
    """Whether a word goes on with this sign."""
    return letter.isalnum() or letter in "_'’"
