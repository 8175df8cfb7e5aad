"""Program code in a small part of Python: functions and how they are called, or tables of data."""

import re
from typing import NamedTuple

from kanary.text.labelled.concepts import concept
from kanary.text.labelled.passage import Passage, family
from kanary.text.labelled.words import code as words

DOMAIN = concept("domain.code", "the text is program code", switch=False)
COMMENT = concept("code.comment", "a comment, which a computer does not read")
STRING = concept("code.string", "text in quotes, with its quotes", switch=False)
DOCSTRING = concept("code.docstring", "text in quotes that says what a function does", parent=STRING)
KEYWORD = concept("code.keyword", "a word that belongs to the language Python itself", switch=False)
LOOP = concept("code.loop", "a keyword of a loop: for, while, continue", parent=KEYWORD, switch=False)
BRANCH = concept("code.branch", "a keyword of a choice: if, elif, else", parent=KEYWORD, switch=False)
FUNCTION_NAME = concept(
    "code.function_name", "the name of a function or method, where it is defined or called", switch=False
)
DEFINED = concept(
    "code.function_defined", "the name of a function where it is defined", parent=FUNCTION_NAME, switch=False
)
INDENT = concept("code.indent", "a line inside of a block or a bracket", unit="levels of four spaces", switch=False)

_KEYWORDS = dict.fromkeys(("for", "while", "continue"), (LOOP,))
_KEYWORDS |= dict.fromkeys(("if", "elif", "else"), (BRANCH,))
_KEYWORDS |= dict.fromkeys(("def", "return", "in", "not"), (KEYWORD,))
_SCAN = re.compile(r'\s+#[^\n]*|"[^"\n]*"|[A-Za-z_]\w*|\d+|\s+|.')
_CLOSING = re.compile(r"[)\]}]+[:,]?")
_SPACES = " " * 4
Function = tuple[str, tuple[str, ...], "tuple[Part, ...]", tuple[str, ...]]
"""What it is given, its possible names, its source, and the names in it that could be taken for each other."""


class Part(NamedTuple):
    """A part of a function's source."""

    lead: str
    """A space in front of a name that is asked for."""
    text: str
    concepts: tuple[str, ...] = ()
    name: bool = False
    """Whether ``text`` is to be replaced by what was drawn for it."""
    asked: bool = False
    """Whether it is the only right name here."""
    wrong: tuple[str, ...] = ()
    """If ``text`` is what must close the brackets here: what does not."""


def parts(source: str) -> tuple[Part, ...]:
    """Takes a function's source apart (see :mod:`~kanary.text.labelled.words.code`)."""
    found: list[Part] = []
    asked, before, source = False, "", source.strip()
    for match in _SCAN.finditer(source):
        text, after = match.group(), source[match.end() :]
        if text == "@":
            asked = True
        elif text == "§":
            run = _CLOSING.match(after)
            assert run is not None, f"no bracket is closed at {after!r}"
            found.append(Part("", run.group(), wrong=mismatched(run.group())))
        else:
            part = _part(text, after, before, asked)
            last = found[-1] if found else part
            if asked and last.text[-1:] == " " and not last.name:
                found[-1] = last._replace(text=last.text[:-1])
                part = part._replace(lead=" ")
            if found and _plain(part) and _plain(last):
                found[-1] = last._replace(text=last.text + text)
            else:
                found.append(part)
            asked, before = False, text if text.strip() else before
    at = next(index for index, part in enumerate(found) if part.text.startswith("):"))
    documented = [
        found[at]._replace(text="):"),
        Part("", "DOC", (DOCSTRING,)),
        found[at]._replace(text=found[at].text[2:]),
    ]
    return tuple(part for part in (*found[:at], *documented, *found[at + 1 :]) if part.text)


def _part(text: str, after: str, before: str, asked: bool) -> Part:
    if text.lstrip().startswith("#"):
        return Part("", text, (COMMENT,))
    if text.startswith('"'):
        return Part("", text, (STRING,), name=text[1:2].isupper() and text[1:3].isupper())
    name = text[0].isupper()
    concepts = _KEYWORDS.get(text, ())
    if text[0].isalpha() and after.startswith("("):
        concepts = (DEFINED,) if before == "def" else (FUNCTION_NAME,)
    return Part("", text, concepts, name, asked)


def _plain(part: Part) -> bool:
    return not (part.concepts or part.name or part.asked or part.wrong)


def mismatched(closing: str) -> tuple[str, ...]:
    """The same brackets, but the first one of another kind."""
    return tuple(other + closing[1:] for other in ")]}" if other != closing[0])


def _used(source: tuple[Part, ...]) -> tuple[str, ...]:
    """Names in a function's source that could be taken for each other."""
    return tuple(
        dict.fromkeys(part.text for part in source if part.name and part.text.isalpha() and part.text not in "FUN N")
    )


_FUNCTIONS = tuple(
    (kind, tuple(names.split()), taken, _used(taken))
    for kind, names, source in words.FUNCTIONS
    for taken in (parts(source),)
)

_OF_NUMBERS = tuple(
    each for each in _FUNCTIONS if each[0] != "text" and not any(part.concepts == (STRING,) for part in each[2])
)
"""Functions without any text in quotes."""


@family("code")
def code(p: Passage) -> None:
    comments, documented = p.decide(COMMENT, 0.5), p.decide(DOCSTRING, 0.3)
    text: list[str] = []
    functions, wordy = p.draw.random() < 0.58, p.draw.random() < 0.5
    heads = p.some(words.HEADS if functions else words.DATA_HEADS, 5)
    with p.during(DOMAIN):
        if functions:
            for number, function in enumerate(p.some(_FUNCTIONS if wordy else _OF_NUMBERS, p.number(2, 3))):
                _head(p, text, "\n\n\n" if number else "", comments, heads[number])
                _function(p, text, function, comments, documented)
        else:
            for number, name in enumerate(p.some(words.DATA_NAMES, p.number(3, 5))):
                _head(p, text, "\n\n" if number else "", comments, heads[number])
                _put(p, text, f"{name} = ")
                p.pick(_DATA if wordy else _DATA_OF_NUMBERS)(p, text)
    _indents(p, "".join(text))


def _put(p: Passage, text: list[str], piece: str, *concepts: str) -> None:
    text.append(piece)
    p.say(piece, *concepts)


def _close(p: Passage, text: list[str], closing: str, rest: str = "") -> None:
    """Asks for the brackets that must be closed, and closes them."""
    p.ask("brackets", closing, *mismatched(closing))
    _put(p, text, closing + rest)


def _indents(p: Passage, text: str) -> None:
    """Marks every indented line, with how deep it is."""
    start = 0
    for line in text.split("\n"):
        depth = len(line) - len(line.lstrip(" "))
        if depth:
            p.mark(start + depth, start + len(line), INDENT, value=depth / 4)
        start += len(line) + 1


def _head(p: Passage, text: list[str], gap: str, comments: bool, chosen: str) -> None:
    """The empty lines before a part of the program, and the comment over it, if there is one."""
    has = p.draw.random() < 0.7 or not gap
    _put(p, text, gap)
    if comments and has:
        _put(p, text, f"# {chosen}", COMMENT)
        _put(p, text, "\n")


def _names(p: Passage, kind: str) -> dict[str, str]:
    """A name for everything that a function's source writes in capitals."""
    xs, x, cell = p.pick(words.ROWS)
    if kind != "rows":
        xs, x = p.pick(words.NUMBERS if kind == "number" else words.TEXTS)
    one, other = p.some(words.VALUES, 2)
    return {
        "XS": xs,
        "X": x,
        "CELL": cell,
        "ACC": p.pick(words.SUMS),
        "BEST": p.pick(words.BESTS),
        "LIST": p.pick(words.LISTS),
        "LIMIT": p.pick(words.LIMITS),
        "INDEX": p.pick(words.INDEXES),
        "COUNT": p.pick(words.COUNTS),
        "TABLE": p.pick(words.TABLES),
        '"STR"': f'"{p.pick(words.STRINGS)}"',
        '"VALUE"': f'"{one}"',
        '"VALUE2"': f'"{other}"',
        "N": str(p.number(2, 30)),
        "DOC": f'\n    """{p.pick(words.DOCS)}"""',
    }


def _function(p: Passage, text: list[str], function: Function, comments: bool, documented: bool) -> None:
    """A function, and often a call of it."""
    kind, options, source, used = function
    names = _names(p, kind)
    names["FUN"] = p.pick(options).replace("XS", names["XS"]).replace("X", names["X"])
    for lead, word, concepts, name, asked, wrong in source:
        if wrong:
            p.ask("brackets", word, *wrong)
        elif word == "DOC":
            if documented:
                _put(p, text, names[word], DOCSTRING)
        elif concepts == (COMMENT,):
            if comments:
                _put(p, text, word.replace(" X ", f" {names['X']} "), COMMENT)
        elif asked:
            p.ask("repeated_name", lead + names[word], *[lead + names[other] for other in used if other != word])
            _put(p, text, lead + names[word], *concepts)
        else:
            _put(p, text, names[word] if name else word, *concepts)
    if p.draw.random() < 0.75:
        _call(p, text, kind, names)


def _call(p: Passage, text: list[str], kind: str, names: dict[str, str]) -> None:
    """Something to call the function with, and the call."""
    given = names["XS"]
    _put(p, text, "\n\n\n")
    if kind == "count":
        given = str(p.number(3, 40))
    else:
        _put(p, text, f"{given} = ")
        _GIVEN[kind](p, text)
        _put(p, text, "\n")
    name, kept = names["FUN"], p.pick(("outcome", "reply", "got", "printed", "final"))
    if p.draw.random() < 0.5:
        _put(p, text, f"{kept} = ")
        _put(p, text, name, FUNCTION_NAME)
        _put(p, text, f"({given}")
        _close(p, text, ")", "\n")
        _put(p, text, "print", FUNCTION_NAME)
        _put(p, text, "(")
        p.ask("repeated_name", kept, name)
        _put(p, text, kept)
        _close(p, text, ")")
    else:
        _put(p, text, "print", FUNCTION_NAME)
        _put(p, text, "(")
        _put(p, text, name, FUNCTION_NAME)
        _put(p, text, f"({given}")
        _close(p, text, "))")


def _numbers(p: Passage, text: list[str]) -> None:
    _put(p, text, f"[{', '.join([str(p.number(1, 40)) for _ in range(p.number(3, 6))])}]")


def _texts(p: Passage, text: list[str]) -> None:
    between = "["
    for word in p.some(words.VALUES, p.number(2, 4)):
        _put(p, text, between)
        _put(p, text, f'"{word}"', STRING)
        between = ", "
    _put(p, text, "]")


def _grid(p: Passage, text: list[str]) -> None:
    """Rows of the same length, so that it is known where the later ones end."""
    width = p.number(2, 4)
    _put(p, text, "[\n")
    for row in range(p.number(2, 4)):
        _put(p, text, f"{_SPACES}[{', '.join([str(p.number(0, 20)) for _ in range(width)])}")
        _close(p, text, "],", "\n") if row else _put(p, text, "],\n")
    _put(p, text, "]")


def _points(p: Passage, text: list[str]) -> None:
    """Pairs of numbers on one line."""
    between = "["
    for pair in range(p.number(2, 4)):
        _put(p, text, f"{between}({p.number(0, 40)}, {p.number(0, 40)}")
        _close(p, text, ")") if pair else _put(p, text, ")")
        between = ", "
    _put(p, text, "]")


def _pairs(p: Passage, text: list[str]) -> None:
    """Pairs of a word and a number."""
    _put(p, text, "[\n")
    for row, word in enumerate(p.some(words.VALUES, p.number(2, 4))):
        _put(p, text, f"{_SPACES}(")
        _put(p, text, f'"{word}"', STRING)
        _put(p, text, f", {p.number(1, 60)}")
        _close(p, text, "),", "\n") if row else _put(p, text, "),\n")
    _put(p, text, "]")


def _places(p: Passage, text: list[str]) -> None:
    """Words, and for each as many pairs of numbers, in one kind of brackets within the other."""
    opening, closing = p.pick((("(", ")"), ("[", "]")))
    outer, end = p.pick((("[", "],"), ("(", "),")))
    many = p.number(2, 3)
    _put(p, text, "{\n")
    for row, word in enumerate(p.some(words.VALUES, p.number(2, 3))):
        _put(p, text, _SPACES)
        _put(p, text, f'"{word}"', STRING)
        _put(p, text, f": {outer}")
        for pair in range(many):
            _put(p, text, f"{opening}{p.number(0, 30)}, {p.number(0, 30)}")
            if pair < many - 1:
                _close(p, text, f"{closing},", " ") if pair or row else _put(p, text, f"{closing}, ")
            else:
                _close(p, text, closing + end, "\n") if row else _put(p, text, f"{closing}{end}\n")
    _put(p, text, "}")


def _table(p: Passage, text: list[str]) -> None:
    """Words and a number for each."""
    _put(p, text, "{\n")
    for word in p.some(words.VALUES, p.number(2, 4)):
        _put(p, text, _SPACES)
        _put(p, text, f'"{word}"', STRING)
        _put(p, text, f": {p.number(1, 90)},\n")
    _put(p, text, "}")


def _plain_text(p: Passage, text: list[str]) -> None:
    _put(p, text, f'"{p.pick(words.STRINGS)}"', STRING)


def _sum(p: Passage, text: list[str]) -> None:
    """A product of two sums."""
    one, other = p.pick("+-*"), p.pick("+-*")
    _put(p, text, f"({p.number(1, 30)} {one} {p.number(1, 30)}")
    _close(p, text, ")", f" {p.pick('+-*')} ({p.number(1, 30)} {other} {p.number(1, 30)}")
    _close(p, text, ")")


_GIVEN = {"number": _numbers, "text": _texts, "rows": _grid}
_DATA_OF_NUMBERS = (_numbers, _numbers, _grid, _points, _sum)
_DATA = (_numbers, _texts, _grid, _grid, _pairs, _pairs, _places, _places, _table, _plain_text, _sum)
