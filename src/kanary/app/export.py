"""Features in one file that opens offline: the page with its data inside."""

import base64
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kanary.app.packing import packed
from kanary.app.pages import STATIC
from kanary.errors import KanaryError
from kanary.features.formats import shared
from kanary.features.index import FeatureIndex
from kanary.files import write_atomic
from kanary.progress import bar

SLOT = '<script type="application/json" id="kanary-data"></script>'
GZIP = 31  # zlib's number for a gzip file around the largest window
PIECE = 2**16
"""Bytes that are written at a time."""
FILLED = '<script type="application/json" id="kanary-data">{}</script>'


def html(index: FeatureIndex, latents: Iterable[int], static: Path = STATIC) -> str:
    """The page as one file, with these features in it.

    Raises:
        KanaryError: this copy of Kanary comes without its page.
    """
    return "".join(_page_of(index, latents, static))


def page(
    saes: Sequence[Mapping[str, Any]], features: Iterable[Mapping[str, Any]], static: Path = STATIC
) -> Iterator[str]:
    """The page with what :func:`kanary.app.packing.packed` makes of these, in pieces."""
    template = static / "export.html"
    if not template.is_file():
        raise KanaryError("This copy of Kanary comes without its page: build it with npm ci && npm run build, in web/.")
    before, slot, after = template.read_text(encoding="utf-8").partition(SLOT)
    if not slot:
        raise KanaryError(
            f"{template} is damaged: it has no place for data. Build it again with npm run build, in web/."
        )
    start, end = FILLED.split("{}")
    yield before + start
    yield from _written(packed(saes, features))
    yield end + after


def write_html(index: FeatureIndex, latents: Sequence[int], path: Path, *, quiet: bool = False) -> None:
    """Writes :func:`html` to ``path``.

    Args:
        quiet: show no progress.

    Raises:
        KanaryError: this copy of Kanary comes without its page; the disk is full.
    """

    def write(partial: Path) -> None:
        with partial.open("w", encoding="utf-8") as file:
            file.writelines(_page_of(index, _told(latents, show), STATIC))

    with bar("reading features", len(latents), "features", quiet) as show:
        write_atomic(path, write)


def _page_of(index: FeatureIndex, latents: Iterable[int], static: Path) -> Iterator[str]:
    about = shared(index.meta)
    return page([about], (_feature(index, latent) | {"sae": about["sae"]} for latent in latents), static)


def _told(latents: Iterable[int], show: Callable[[int], None]) -> Iterator[int]:
    for latent in latents:
        yield latent
        show(1)


def _feature(index: FeatureIndex, latent: int) -> dict[str, Any]:
    found = index[latent].to_json()
    if found["explanation"]:
        found["explanation"]["by"] = shared(found["explanation"]["by"])  # a model, perhaps by its folder
    return found | {"twins": shared(found["twins"])}


def _written(json: Iterable[str]) -> Iterator[str]:
    """Pieces of JSON as gzip in base64: a third of the size, and a token that is ``</script>`` ends nothing."""
    work, left = zlib.compressobj(5, wbits=GZIP), b""  # 6 takes half as long again, for a fortieth fewer bytes
    for piece in json:
        left += work.compress(piece.encode("utf-8", "replace"))
        whole = len(left) - len(left) % 3  # three bytes are four letters
        if whole >= PIECE:
            yield base64.b64encode(left[:whole]).decode()
            left = left[whole:]
    yield base64.b64encode(left + work.flush()).decode()
