"""``kanary.serve``: runs shown in a browser."""

import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kanary.errors import KanaryError

if TYPE_CHECKING:
    from kanary.app.library import Library
    from kanary.app.server import Running

RUNS = Path("runs")


def serve(
    *runs: str | Path,
    host: str = "127.0.0.1",
    port: int | None = None,
    token: str | None = None,
    model: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    watch: Sequence[str] = (),
    browser: bool = True,
    block: bool = True,
) -> "Running":
    """Shows runs in the browser: their features, search, a live view of any text, comparisons.

    Args:
        runs: run folders, SAEs' folders, or folders of these; by default ``runs``.
        host: where to listen. Any other than 127.0.0.1, ::1 and localhost lets other machines in, and demands a token.
        port: by default the first free one from 7350 on.
        token: what clients must know, at least 16 characters; made up where one is needed and none is given.
        model: the language model of all SAEs, if it has moved since training.
        dtype, device: of the model, as for :func:`kanary.load_model`.
        watch: watches of the runs whose values every answer of OpenAI's interface (``/v1``) carries.
        browser: open the page.
        block: return only when Ctrl-C has stopped the server. In a notebook: ``block=False``, and ``.stop()`` in the end.

    Raises:
        KanaryError: no run, an address that cannot be used, a token that is too short, a watch that cannot be followed,
            fastapi or uvicorn not installed.
    """
    try:
        from kanary.app.library import Library
        from kanary.app.server import start
    except ImportError as error:
        raise KanaryError(
            f'The page needs the packages fastapi and uvicorn ({error}): pip install -e ".[app]"'
        ) from error
    if not runs and not RUNS.is_dir():
        raise KanaryError(f"There is no folder {RUNS} here: name run folders, or try kanary demo first.")
    library = Library(runs or [RUNS], model=model, dtype=dtype, device=device)
    running = start(library, host, port, token, watch)
    _load_watched(library, running, watch)
    _announce(len(library.entries), running)
    if browser:
        webbrowser.open(running.url)
    if block:
        _until_interrupted(running)
    return running


def _load_watched(library: "Library", running: "Running", watch: Sequence[str]) -> None:
    """So that the first request does not wait; stops the server if it cannot watch what it was asked to."""
    from kanary.app.openai import watched_by_default

    try:
        for entry, each in watched_by_default(library, watch):
            print(f"Loading what the watch {each.name} reads …", file=sys.stderr)
            library.model(entry)
            each.refuse_other(library.sae(entry))
    except BaseException:
        running.stop()
        raise


def _announce(saes: int, running: "Running") -> None:
    many = "1 SAE" if saes == 1 else f"{saes} SAEs"
    print(f"Kanary shows {many} at {running.url}", file=sys.stderr)
    print(f"Clients of OpenAI's interface: base URL {running.base_url}", file=sys.stderr)
    if "#token=" in running.url:
        print("Whoever has this address can see all of it, and change explanations and lists.", file=sys.stderr)


def _until_interrupted(running: "Running") -> None:
    print("Ctrl-C stops it.", file=sys.stderr)
    try:
        running.wait()
    except KeyboardInterrupt:
        pass
    finally:
        running.stop()
