"""Flags from configs: a command has one for every field of its dataclass."""

import dataclasses
import inspect
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from kanary.config import coerce

Config = Annotated[
    Path | None, typer.Option(help="YAML file with the same names as the flags; flags win.", show_default=False)
]


def flags(
    config: type, *, lists: bool = False, without: Sequence[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator: gives a command one flag per field of the dataclass ``config``; it receives the given ones as ``values``."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = typing.get_type_hints(config)
        parameters = [p for p in inspect.signature(command).parameters.values() if p.name != "values"]
        fields = [f for f in dataclasses.fields(config) if f.name not in ("options", *without)]
        for field in fields:
            parameters.append(_flag(field, hints[field.name], lists))

        def run(**given: Any) -> None:
            values = {f.name: given.pop(f.name) for f in fields}
            values = {name: value for name, value in values.items() if value is not None}
            command(**given, values={n: _parsed(config, n, v, lists) for n, v in values.items()})

        run.__name__, run.__doc__ = command.__name__, command.__doc__
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def _flag(field: "dataclasses.Field[Any]", hint: Any, lists: bool) -> inspect.Parameter:
    name = "--" + field.name.replace("_", "-")
    boolean = bool in (hint, *typing.get_args(hint))
    names = [f"{name}/--no-{name[2:]}"] if boolean else [name, "--seeds"] if lists and field.name == "seed" else [name]
    default = ",".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
    shown = "" if default in (None, "") or boolean else f" [{default}]"
    extra = " *Takes a list.*" if field.metadata["sweep"] else ""
    info = typer.Option(
        *names,
        help=field.metadata["help"] + extra + shown,
        rich_help_panel=field.metadata["group"],
        show_default=False,
        metavar=None if boolean else _metavar(field, hint),
    )
    kind: Any = bool | None if boolean else str | None
    annotation = Annotated[kind, info]
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _metavar(field: "dataclasses.Field[Any]", hint: Any) -> str:
    kinds = {k for k in (typing.get_args(hint) or (hint,)) if k is not type(None)}
    return "NUMBER" if field.metadata["count"] or kinds & {int, float} else field.name.upper()


def _parsed(config: type, name: str, value: Any, lists: bool) -> Any:
    field = next(f for f in dataclasses.fields(config) if f.name == name)
    hint = typing.get_type_hints(config)[name]

    def one(text: Any) -> Any:
        return coerce("--" + name.replace("_", "-"), hint, text, count=field.metadata["count"])

    if lists and field.metadata["sweep"] and isinstance(value, str) and "," in value:
        return [one(item.strip()) for item in value.split(",")]
    return one(value)
