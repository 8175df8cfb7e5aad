"""Features in one file that opens offline: the page with its data inside."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kanary.app.pages import STATIC
from kanary.errors import KanaryError
from kanary.features.index import FeatureIndex

SLOT = '<script type="application/json" id="kanary-data"></script>'


def html(index: FeatureIndex, latents: Iterable[int], static: Path = STATIC) -> str:
    """The page as one file, with these features in it.

    Raises:
        KanaryError: this copy of Kanary comes without its page.
    """
    template = static / "export.html"
    if not template.is_file():
        raise KanaryError("This copy of Kanary comes without its page: build it with npm ci && npm run build, in web/.")
    before, slot, after = template.read_text(encoding="utf-8").partition(SLOT)
    if not slot:
        raise KanaryError(
            f"{template} is damaged: it has no place for data. Build it again with npm run build, in web/."
        )
    data = {"saes": [index.meta], "features": [index[latent].to_json() for latent in latents]}
    return f"{before}{SLOT.replace('><', f'>{_inside_html(data)}<')}{after}"


def _inside_html(value: Any) -> str:
    """JSON in which nothing can end the element that it stands in: a token may well be ``</script>``."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
