"""The shapes of answers, as the small part of JSON Schema that endpoints enforce: made, sent, and checked when they are back.

An answer is always an object whose keys are all required and known, so that an answer for something that was not asked for,
a list of the wrong length and a number out of range are found in one place.
"""

from collections.abc import Mapping, Sequence
from typing import Any

Schema = Mapping[str, Any]
LONGEST = 2000
"""Characters of a text in an answer."""


class Unusable(Exception):
    """What is wrong with an answer, in words that its author can act on."""


def record(fields: Mapping[str, Schema]) -> Schema:
    """An object with exactly these keys, in this order."""
    return {"type": "object", "properties": dict(fields), "required": list(fields), "additionalProperties": False}


def whole(low: int, high: int) -> Schema:
    """A whole number from ``low`` to ``high``."""
    return {"type": "integer", "minimum": low, "maximum": high}


def words(choices: Sequence[str] = ()) -> Schema:
    """A text; one of ``choices`` if there are any."""
    return {"type": "string", "enum": list(choices)} if choices else {"type": "string"}


def check(value: Any, schema: Schema, place: str = "the answer") -> None:
    """Raises :class:`Unusable` where ``value`` is not what ``schema`` asks for."""
    kind = schema["type"]
    if kind == "object":
        _check_object(value, schema, place)
    elif kind == "integer":
        if not isinstance(value, int) or isinstance(value, bool):
            raise Unusable(f"{place} should be a whole number, not {_short(value)}")
        if not schema["minimum"] <= value <= schema["maximum"]:
            raise Unusable(f"{place} is {value}, which is not {_span(schema['minimum'], schema['maximum'])}")
    elif not isinstance(value, str) or not value.strip():
        raise Unusable(f"{place} should be a text, not {_short(value)}")
    elif len(value) > LONGEST or any("\ud800" <= sign <= "\udfff" for sign in value):
        raise Unusable(f"{place} is too long, or holds half of a character")
    elif value not in schema.get("enum", [value]):
        raise Unusable(f"{place} is {_short(value)}, which is none of {', '.join(schema['enum'])}")


def _check_object(value: Any, schema: Schema, place: str) -> None:
    if not isinstance(value, dict):
        raise Unusable(f"{place} should be an object with {len(schema['properties'])} keys, not {_short(value)}")
    fields = schema["properties"]
    if missing := [name for name in fields if name not in value]:
        raise Unusable(f"{place} lacks {_some(missing)}")
    if unknown := [name for name in value if name not in fields]:
        raise Unusable(f"{place} has {_some(unknown)}, which was not asked for")
    for name, part in fields.items():
        check(value[name], part, f"{name!r}")


def placeholder(schema: Schema) -> Any:
    """The shortest value that ``schema`` allows."""
    if schema["type"] == "object":
        return {name: placeholder(part) for name, part in schema["properties"].items()}
    if schema["type"] == "integer":
        return schema["minimum"]
    return schema["enum"][0] if "enum" in schema else "…"


def usual_tokens(schema: Schema) -> int:
    """About so many tokens has an answer of this shape."""
    if schema["type"] == "object":
        return sum(4 + len(name) // 4 + usual_tokens(part) for name, part in schema["properties"].items())
    return 20 if schema["type"] == "string" and "enum" not in schema else 1


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name[:20]) for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _span(low: int, high: int) -> str:
    return f"from {low} to {high}" if high > low else f"{low}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
