"""What a user did that cannot work, said in one line."""

import os
import shlex
from collections.abc import Iterable
from difflib import get_close_matches


class KanaryError(Exception):
    """A mistake the user can mend: the message names the value, the place and the fix.

    The command line prints it as one line and exits with status 2; Python users catch it.
    """


def nearest(given: str, choices: Iterable[str], n: int = 1) -> str:
    """A ready sentence that helps after a wrong name: ``Did you mean 'x'?`` or the list of choices."""
    known = sorted(choices)
    near = get_close_matches(given, known, n=n, cutoff=0.5)
    if near:
        return "Did you mean " + " or ".join(repr(x) for x in near) + "?"
    return "Known: " + ", ".join(known) + "."


def typed(path: str | os.PathLike[str]) -> str:
    """A path as a shell takes it, for a command that a message tells to give: ``'my run'``."""
    return shlex.quote(os.fspath(path))
