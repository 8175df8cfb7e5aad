"""Features as an exported file holds them: every window of text once, no number that follows from others, few digits.

What is dropped is worked out again by ``web/src/data/packed.ts``, which says it from the reader's side. A token is a character:
the n-th most frequent token of the file is the n-th character from :data:`FIRST` on, the surrogates left out, so that a window
is a string and UTF-8 gives frequent tokens one byte.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from kanary.app.rounding import DIGITS, rounded

FIRST = 0x20
"""Where the characters for tokens begin: behind the control characters, which JSON would write as six."""
_SURROGATES = range(0xD800, 0xE000)


def packed(saes: Sequence[Mapping[str, Any]], features: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What stands in an exported file.

    Args:
        saes: what the indexes are of, :attr:`kanary.FeatureIndex.meta`.
        features: :meth:`kanary.features.feature.Feature.to_json` of each.
    """
    text = _Text()
    short = [_feature(each, text) for each in features]
    return {"saes": list(saes), **text.json(), "features": short}


class _Text:
    """The windows of all examples, each once."""

    def __init__(self) -> None:
        self.numbers: dict[tuple[Any, ...], int] = {}
        self.windows: list[Mapping[str, Any]] = []

    def add(self, example: Mapping[str, Any]) -> int:
        """The number of the example's window."""
        key = (example["window"], tuple(example["tokens"]))
        if key not in self.numbers:
            self.numbers[key] = len(self.windows)
            self.windows.append(example)
        return self.numbers[key]

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
    examples = feature["examples"]
    logits = feature["logits"]
    if logits:
        focus = {each["tokens"][each["focus"]] for each in examples}
        near = {token: value for token, value in logits["near"].items() if token in focus}  # all: a quarter of a file
        logits = logits | {"histogram": _ends(logits["histogram"]), "near": near}
    found: dict[str, Any] = _short(
        {
            **feature,
            "histogram": feature["histogram"]["counts"],
            "intervals": [interval["examples"] for interval in feature["intervals"]],
            "logits": logits,
            "examples": None,
        }
    )
    return found | {
        "examples": {
            "window": [text.add(each) for each in examples],
            **{name: [each[name] for each in examples] for name in ("document", "position", "focus")},
            **{name: _traces([each[name] for each in examples]) for name in ("activations", "effects")},
            "alike": [min([i, *each["repeats"]]) for i, each in enumerate(examples)],
        }
    }


def _ends(histogram: Mapping[str, Any]) -> dict[str, Any]:
    """Of even bins, the two ends."""
    edges = histogram["edges"]
    return {"low": edges[0], "high": edges[-1], "counts": histogram["counts"]} if edges else {"counts": []}


def _traces(examples: Sequence[Sequence[tuple[int, float]]]) -> list[list[float | None]]:
    """Places and values of each in turn; a place as its distance from the one before, which repeats more."""
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
    if isinstance(value, float):
        number = float(f"{value:.{DIGITS}g}")
        return int(number) if number.is_integer() and abs(number) < 1e9 else number
    if isinstance(value, Mapping):
        return {key: _short(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_short(each) for each in value]
    return value
