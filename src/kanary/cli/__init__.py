"""The command line: parses, calls one function, prints. Each command is a module of this folder."""

import functools
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, NoReturn

import typer

from kanary.cli.flags import flags
from kanary.errors import KanaryError

COMMANDS = (
    "train",
    "harvest",
    "evaluate",
    "compare",
    "index",
    "explain",
    "serve",
    "steer",
    "watch",
    "export",
    "attribute",
    "search-prompts",
    "hunt",
    "demo",
    "study",
    "check",
    "info",
)


def main() -> None:
    """The command ``kanary``: user mistakes become one line and exit status 2."""
    try:
        _build()(standalone_mode=False)
    except KanaryError as error:
        typer.echo(f"kanary: {error}", err=True)
        raise SystemExit(2) from None
    except typer.Exit as ending:
        raise SystemExit(ending.exit_code) from None
    except (KeyboardInterrupt, typer.Abort) as stop:
        _stopped(stop)
    except Exception as error:
        if not hasattr(error, "format_message"):  # click's usage errors know how to say what is wrong
            raise
        if message := error.format_message():
            typer.echo(f"kanary: {message}", err=True)
        raise SystemExit(2) from None


def _build() -> typer.Typer:
    """Registers the commands, each with its ``HELP``, its ``command`` and, where it has them, its ``fields``.

    ``fields()`` gives the arguments of :func:`kanary.cli.flags.flags`, for which the room of the command is imported.
    """
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        help="**Kanary**: see, test, steer and watch what a language model represents, with sparse autoencoders.",
    )
    asked = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    for name in COMMANDS:
        module = import_module(f"kanary.cli.{name.replace('-', '_')}")
        command = module.command
        if hasattr(module, "fields"):  # fast because only the command that runs imports its room
            command = flags(**module.fields())(command) if name == asked else _stand_in
        app.command(name, help=module.HELP)(_heard(command))
    return app


def _heard(command: Callable[..., None]) -> Callable[..., None]:
    """``command``, which says so when it was asked to stop: typer would end it without a word, and as a success."""

    @functools.wraps(command)
    def run(*given: Any, **named: Any) -> None:
        try:
            command(*given, **named)
        except KeyboardInterrupt as stop:
            _stopped(stop)

    return run


def _stopped(stop: BaseException) -> NoReturn:
    typer.echo(f"kanary: {str(stop) or 'stopped.'}", err=True)
    raise SystemExit(130) from None


def _stand_in() -> None:
    """Holds the place of a command in the list of commands; never run."""
