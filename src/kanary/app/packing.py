"""Features as an exported file holds them: every window of text once, no number that follows from others, few digits.

What is dropped is worked out again by ``web/src/data/packed.ts``, which says it from the reader's side. A token is a character:
the n-th most frequent token of the file is the n-th character from :data:`FIRST` on, the surrogates left out, so that a window
is a string and UTF-8 gives frequent tokens one byte.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from kanary.features.rounding import DIGITS, rounded

FIRST = 0x20
"""Where the characters for tokens begin: behind the control characters, which JSON would write as six."""
_SURROGATES = range(0xD800, 0xE000)


def packed(saes: Sequence[Mapping[str, Any]], features: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """The JSON that stands in an exported file, in pieces: no feature is held longer than it takes to write it.

    Args:
        saes: what the indexes are of, :attr:`kanary.FeatureIndex.meta`.
        features: :meth:`kanary.features.feature.Feature.to_json` of each.
    """
    text = _Text()
    yield f'{{"saes":{_json(list(saes))},"features":['
    for number, each in enumerate(features):
        yield f"{',' if number else ''}{_json(_feature(each, text))}"
    yield f"],{_json(text.json())[1:]}"


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))


class _Text:
    """The windows of all examples, each once."""

    def __init__(self) -> None:
        self.numbers: dict[tuple[Any, ...], int] = {}
        self.seen: dict[int, tuple[int, Sequence[str]]] = {}
        self.windows: list[dict[str, Any]] = []

    def add(self, example: Mapping[str, Any]) -> int:
        """The number of the example's window."""
        tokens = example["tokens"]
        found = self.seen.get(
            id(tokens)
        )  # fast because an index gives the same tuple again; it is held, so its id stays its own
        if found is None:
            key = (example["window"], tuple(tokens))
            if key not in self.numbers:
                self.numbers[key] = len(self.windows)
                self.windows.append({name: example[name] for name in ("window", "tokens", "special", "starts")})
            found = self.seen[id(tokens)] = self.numbers[key], tokens
        return found[0]

    def json(self) -> dict[str, Any]:
        counted = Counter(token for window in self.windows for token in window["tokens"])
        tokens = [token for token, _ in counted.most_common()]
        written = dict(zip(tokens, _characters(len(tokens)), strict=True))
        windows = {
            "text": ["".join(written[token] for token in window["tokens"]) for window in self.windows],
            **{name: [window[name] for window in self.windows] for name in ("window", "special", "starts")},
        }
        return {"tokens": tokens, "windows": windows}


def _characters(n: int) -> list[str]:
    codes = (code for code in range(FIRST, 0x110000) if code not in _SURROGATES)
    return [chr(code) for _, code in zip(range(n), codes, strict=False)]


def _feature(feature: Mapping[str, Any], text: _Text) -> dict[str, Any]:
    return {key: value if key in _WHOLE else _short(value) for key, value in feature.items()} | {
        "histogram": feature["histogram"]["counts"],
        "intervals": [interval["examples"] for interval in feature["intervals"]],
        "logits": feature["logits"] and _logits(feature),
        "examples": _examples(feature["examples"], text),
    }


_WHOLE = {"histogram", "intervals", "logits", "examples", "top", "sae", "human"}
"""What has no numbers to shorten, or is written in another way."""


def _examples(examples: Sequence[Mapping[str, Any]], text: _Text) -> dict[str, Any]:
    """Lists of what each of them has; an empty one where none has anything."""
    alike = [min(i, *each["repeats"]) if each["repeats"] else i for i, each in enumerate(examples)]
    return {
        "window": [text.add(each) for each in examples],
        **{name: [each[name] for each in examples] for name in ("document", "position", "focus")},
        **{name: _traces([each[name] for each in examples]) for name in ("activations", "effects")},
        "alike": [] if alike == list(range(len(examples))) else alike,
    }


def _logits(feature: Mapping[str, Any]) -> dict[str, Any]:
    """With the weights of the examples' own tokens: those around them, too, are a quarter of a file."""
    logits = feature["logits"]
    focus = {each["tokens"][each["focus"]] for each in feature["examples"]}
    near = {token: value for token, value in logits["near"].items() if token in focus}
    shown = {key: _short(value) for key, value in logits.items() if key not in ("histogram", "near")}
    return shown | {"near": _short(near), "histogram": _ends(logits["histogram"])}


def _ends(histogram: Mapping[str, Any]) -> dict[str, Any]:
    """Of even bins, the two ends."""
    edges = histogram["edges"]
    if not edges:
        return {"counts": []}
    return {"low": _short(edges[0]), "high": _short(edges[-1]), "counts": histogram["counts"]}


def _traces(examples: Sequence[Sequence[tuple[int, float]]]) -> list[list[float | None]]:
    """Places and values of each in turn; a place as its distance from the one before, which repeats more."""
    if not any(examples):
        return []
    values = iter(_whole(rounded(np.array([value for pairs in examples for _, value in pairs]))))
    found = []
    for pairs in examples:
        last, row = 0, []
        for at, _ in pairs:
            row += [at - last, next(values)]
            last = at
        found.append(row)
    return found


def _whole(values: list[float | None]) -> list[float | None]:
    """Without a point where nothing stands behind it."""
    return [int(value) if value is not None and value.is_integer() else value for value in values]


def _short(value: Any) -> Any:
    """Numbers with four significant digits, wherever they are."""
    kind = type(value)
    if kind is float:
        number = float(f"{value:.{DIGITS}g}")
        return int(number) if number.is_integer() and abs(number) < 1e9 else number
    if kind is str or kind is int or kind is bool or value is None:
        return value
    if kind is dict:
        return {key: _short(each) for key, each in value.items()}
    return _short(float(value)) if isinstance(value, float) else [_short(each) for each in value]
