"""One frozen dataclass describes a job; Python, YAML and the command line all read it.

A field is declared as ``name: type = option(default, "what it means", group="…")``. The help text serves as the field's
documentation everywhere; the group is its heading in ``--help``.
"""

import dataclasses
import math
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from kanary.errors import KanaryError, nearest

T = TypeVar("T")
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9, "T": 10**12}
_NUMBER = r"\d+(?:\.\d+)?"
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def option(default: Any, help: str, *, group: str = "Options", count: bool = False, sweep: bool = False) -> Any:
    """A dataclass field with its documentation.

    Args:
        default: the value when the user says nothing.
        help: one or two sentences; shown by ``--help``.
        group: heading in ``--help``.
        count: an integer that people may write as ``2M`` or ``64K``.
        sweep: a list is allowed on the command line (comma separated) and in YAML; every value becomes a job of its own.
    """
    metadata = {"help": help, "group": group, "count": count, "sweep": sweep}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=dict, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def parse_count(text: str | int | float) -> int:
    """``"2M"`` → 2,000,000; also K, B/G, T and plain numbers."""
    if isinstance(text, int) and not isinstance(text, bool):
        return text
    match = re.fullmatch(r"\s*(\d[\d_]*)(\.\d+)?(e\+?\d{1,2})?\s*([KMBGT]?)\s*", str(text), re.IGNORECASE)
    if not match:
        raise KanaryError(f"{text!r} is not a count. Write for example 2000000, 2M or 500K.")
    whole, fraction, power, unit = match[1].replace("_", ""), match[2], match[3], _UNITS[match[4].upper()]
    if not fraction and not power:
        return int(whole) * unit  # exact, however large
    return round(float(whole + (fraction or "") + (power or "")) * unit)


def parse_seconds(text: str | int | float) -> float:
    """``"2h"`` → 7200.0; ``"1h30m"`` and plain seconds also work."""
    if isinstance(text, (int, float)):
        if text >= 0 and math.isfinite(text):
            return float(text)
    elif re.fullmatch(rf"\s*{_NUMBER}\s*", text):
        return float(text)
    elif re.fullmatch(rf"\s*({_NUMBER}\s*[smhd]\s*)+", text.lower()):
        parts = re.findall(rf"({_NUMBER})\s*([smhd])", text.lower())
        return sum(float(number) * _SECONDS[unit] for number, unit in parts)
    raise KanaryError(f"{text!r} is not a duration. Write for example 90s, 45m, 2h or 1h30m.")


def coerce(name: str, annotation: Any, value: Any, *, count: bool = False) -> Any:
    """``value`` as the field ``name`` wants it; raises :class:`KanaryError` naming the field and the value."""
    kinds = [k for k in (typing.get_args(annotation) or (annotation,)) if k is not type(None)]
    if not isinstance(annotation, types.UnionType) and typing.get_origin(annotation) is not None:
        kinds = [annotation]
    if typing.get_origin(annotation) is Mapping or annotation is Mapping:
        if isinstance(value, Mapping):
            return dict(value)
        raise KanaryError(f"{name}={value!r} must be 'name: value' pairs.")
    optional = type(None) in typing.get_args(annotation)
    if value is None or (optional and isinstance(value, str) and value.lower() in ("none", "null")):
        if optional:
            return None
        raise KanaryError(f"{name} needs a value.")
    for kind in kinds:
        try:
            return _as(kind, value, count)
        except (ValueError, TypeError, OverflowError):
            continue
        except KanaryError as error:
            raise KanaryError(f"{name}: {error}") from None
    expected = " or ".join(getattr(k, "__name__", str(k)) for k in kinds)
    raise KanaryError(f"{name}={value!r} is not {'an' if expected[0] in 'aeiou' else 'a'} {expected}.")


def _as(kind: Any, value: Any, count: bool) -> Any:
    if typing.get_origin(kind) is tuple:
        items = value.split(",") if isinstance(value, str) else value
        items = [items] if isinstance(items, (int, float)) else items
        return tuple(_as(typing.get_args(kind)[0], item, count) for item in items)
    if kind is bool:
        if isinstance(value, bool):
            return value
        if str(value).lower() in ("true", "yes", "on", "1"):
            return True
        if str(value).lower() in ("false", "no", "off", "0"):
            return False
        raise ValueError
    if kind is int:
        if isinstance(value, bool) or (isinstance(value, float) and value != int(value)):
            raise ValueError
        return parse_count(value) if count else int(value)
    if kind is float:
        return float(value)
    if kind is Path:
        return Path(value)
    if kind is str:
        return str(value)
    raise ValueError


def from_mapping(cls: type[T], values: Mapping[str, Any]) -> T:
    """``cls(**values)`` with texts turned into the fields' types; an unknown name is refused with the nearest one."""
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    ready = {}
    for name, value in values.items():
        if name not in fields:
            raise KanaryError(f"Unknown option {name!r}. {nearest(name, fields)}")
        ready[name] = coerce(name, hints[name], value, count=fields[name].metadata.get("count", False))
    return cls(**ready)


def to_mapping(config: Any) -> dict[str, Any]:
    """The fields as plain YAML values, in the order in which they are declared."""
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config)}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return dict(value) if isinstance(value, Mapping) else value


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; raises :class:`KanaryError` naming the file and the line."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise KanaryError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise KanaryError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise KanaryError(f"{path} must hold 'name: value' lines, found {type(value).__name__}.")
    if wrong := [name for name in value if not isinstance(name, str)]:
        raise KanaryError(f"{path} must hold 'name: value' lines; {wrong[0]!r} is not a name.")
    return value


def dump_yaml(value: Any) -> str:
    """``value`` as YAML, in the order of its names, that reads back as the same value."""
    text = str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True))
    if yaml.safe_load(text) == value:
        return text
    return str(yaml.safe_dump(value, sort_keys=False))  # a line break of Unicode's must be written as its number
