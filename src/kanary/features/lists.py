"""Which latents somebody means: ``0:50``, ``3,17``, ``alive:100``."""

import re
from collections.abc import Iterator

import numpy as np

from kanary.errors import KanaryError
from kanary.features.index import FeatureIndex


def listed(index: FeatureIndex, text: str) -> list[int]:
    """The latents that ``text`` names, each once, in its order.

    Args:
        text: numbers, ranges ``FIRST:END`` (END not included), ``alive:N`` (N of those that fired, evenly over their order
            from rare to frequent), ``list:NAME`` (a list saved in the page), ``all``; several with commas between.

    Raises:
        KanaryError: something else, a latent that is not there, or none at all.
    """
    found = list(
        dict.fromkeys(latent for part in text.split(",") if part.strip() for latent in _part(index, part.strip()))
    )
    if not found:
        raise KanaryError(f"{text!r} names no latent of {_name(index)}. Write for example 0:50, 3,17 or alive:100.")
    return found


def _part(index: FeatureIndex, part: str) -> Iterator[int]:
    kind, _, rest = part.partition(":")
    if part == "all":
        yield from range(len(index))
    elif kind == "alive" and rest.isdecimal():
        yield from _alive(index, int(rest))
    elif kind == "list":
        lists = index.labels.lists()
        if rest not in lists:
            raise KanaryError(f"There is no list {rest!r} of {_name(index)}; saved are: {', '.join(lists) or 'none'}.")
        yield from lists[rest]
    elif re.fullmatch(r"\d{1,9}(:\d{1,9})?", part):
        first = int(kind)
        span = range(first, int(rest) if rest else first + 1)
        if span and span[-1] >= len(index):
            raise KanaryError(f"There is no latent {span[-1]} in {_name(index)}: they go from 0 to {len(index) - 1}.")
        yield from span
    else:
        raise KanaryError(f"{part!r} names no latents. Write numbers, ranges like 0:50, alive:100, list:NAME or all.")


def _alive(index: FeatureIndex, most: int) -> Iterator[int]:
    fired = index.columns()["fired"]
    alive = np.argsort(fired, kind="stable")
    alive = alive[fired[alive] > 0]
    if len(alive) > most:
        alive = alive[np.linspace(0, len(alive) - 1, most).round().astype(int)] if most else alive[:0]
    yield from alive.tolist()


def _name(index: FeatureIndex) -> str:
    """Of its SAE; without folders, which are nobody's business over a network."""
    return str(index.meta["sae"]["name"])
