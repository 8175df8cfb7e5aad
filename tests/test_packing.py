"""What an exported file holds is what the features say, in four digits, worked out again the plain way."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest

import page_data as data
from kanary.app import packing


def packed(saes: list[dict[str, Any]], features: list[dict[str, Any]]) -> dict[str, Any]:
    """What a reader of the file finds."""
    return dict(json.loads("".join(packing.packed(saes, features))))


def unpacked(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The features of a file, as they were before; figures that follow from others are worked out."""
    return [_feature(each, found["tokens"], found["windows"]) for each in found["features"]]


def _feature(short: dict[str, Any], tokens: list[str], windows: dict[str, Any]) -> dict[str, Any]:
    examples, maximum, counts = short["examples"], short["maximum"], short["histogram"]
    made = []
    for i, window in enumerate(examples["window"]):
        activations = _pairs(examples["activations"][i])
        letters = [ord(letter) for letter in windows["text"][window]]
        firsts = examples["alike"] or range(len(examples["window"]))
        alike = [j for j, first in enumerate(firsts) if first == firsts[i] and j != i]
        shown: list[Any] = ["top"] * (i in short["top"])
        made.append(
            {name: examples[name][i] for name in ("document", "position", "focus")}
            | {name: windows[name][window] for name in ("window", "special", "starts")}
            | {
                "tokens": [tokens[code - 32 - (2048 if code >= 0xE000 else 0)] for code in letters],
                "activations": activations,
                "effects": _pairs(examples["effects"][i]) if examples["effects"] else [],
                "value": dict(map(tuple, activations))[examples["focus"][i]],
                "repeats": alike,
                "in": shown + [k for k, interval in enumerate(short["intervals"]) if i in interval],
            }
        )
    logits = short["logits"]
    ends = logits["histogram"]
    return short | {
        "examples": made,
        "histogram": {"edges": _even(0, maximum, 50), "counts": counts},
        "intervals": [
            {"low": low, "high": high, "count": sum(counts[5 * k : 5 * k + 5]), "examples": short["intervals"][k]}
            | {"share": sum(counts[5 * k : 5 * k + 5]) / max(1, short["fired"])}
            for k, (low, high) in enumerate(pairwise(_even(0, maximum, 10)))
        ],
        "logits": logits
        | {"histogram": {"edges": _even(ends["low"], ends["high"], len(ends["counts"])), "counts": ends["counts"]}},
    }


def _pairs(flat: list[float]) -> list[list[float]]:
    places, values = flat[::2], flat[1::2]
    return [[sum(places[: i + 1]), value] for i, value in enumerate(values)]


def _even(low: float, high: float, bins: int) -> list[float]:
    return [low + (high - low) * i / bins for i in range(bins + 1)]


def same(a: Any, b: Any, at: str = "") -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys(), at
        for key in a:
            same(a[key], b[key], f"{at}.{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), at
        for i, (one, other) in enumerate(zip(a, b, strict=True)):
            same(one, other, f"{at}[{i}]")
    elif isinstance(a, float) or isinstance(b, float):
        assert b == pytest.approx(a, rel=5e-4, abs=1e-9), at
    else:
        assert a == b, at


def test_nothing_is_lost_but_digits() -> None:
    features = [data.feature(latent, hostile=latent == 13) for latent in (3, 12, 13, 19)]
    found = packed([data.meta()], features)
    for given, back in zip(features, unpacked(found), strict=True):
        focus = {each["tokens"][each["focus"]] for each in given["examples"]}
        near = {token: value for token, value in given["logits"]["near"].items() if token in focus}
        same(given | {"logits": given["logits"] | {"near": near}}, back)
    assert found["saes"] == [data.meta()]


def test_what_no_example_has_is_not_written_for_each() -> None:
    plain = data.feature(3)
    plain = plain | {"examples": [each | {"effects": [], "repeats": []} for each in plain["examples"]]}
    found = packed([], [plain])
    assert found["features"][0]["examples"]["effects"] == found["features"][0]["examples"]["alike"] == []
    same([each["repeats"] for each in plain["examples"]], [each["repeats"] for each in unpacked(found)[0]["examples"]])


def test_a_window_that_many_examples_show_is_written_once() -> None:
    feature = data.feature(3)
    twice = packed([], [feature, feature | {"latent": 4}])
    assert len(twice["windows"]["text"]) == 70
    assert twice["features"][0]["examples"]["window"] == twice["features"][1]["examples"]["window"]


def test_no_token_is_written_as_half_a_character() -> None:
    """As many tokens as a vocabulary has, each in one window of its own."""
    feature = data.feature(3)
    many = [f"t{i}" for i in range(60_000)]
    one = feature["examples"][0] | {"tokens": many, "special": [], "starts": [], "repeats": []}
    found = packed([], [feature | {"examples": [one], "top": [0], "intervals": []}])
    (text,) = found["windows"]["text"]
    assert text.encode("utf-8").decode("utf-8") == text
    assert len(text) == len(set(text)) == len(many)
    (back,) = unpacked(found | {"features": [found["features"][0] | {"intervals": [[]] * 10}]})
    assert back["examples"][0]["tokens"] == many


def test_a_feature_takes_a_fifth_of_what_its_plain_json_does() -> None:
    features = [data.feature(latent) for latent in range(3)]
    plain, short = (len(json.dumps(each, separators=(",", ":"))) for each in (features, packed([], features)))
    assert short < plain / 3
