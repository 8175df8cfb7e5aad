"""What neuronpedia.org says of a feature, by model, SAE and number; kept on disk, and gone without when offline."""

import asyncio
import json
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from kanary.errors import KanaryError
from kanary.explain.cache import Kept
from kanary.explain.types import Evidence, Explanation, Failed

URL = "https://www.neuronpedia.org"
_TIMEOUT = 20.0  # seconds
_LARGEST = 32 * 2**20  # bytes of a reply; a feature with all its examples has about 30 KB
_IN_FLIGHT = 4
_TRIES = 4
_LONGEST_WAIT = 60.0  # seconds
_LONGEST_TEXT = 2000  # characters of an explanation


class Neuronpedia:
    """Looks explanations up; an explainer. It asks nothing of ``evidence`` but the latent's number.

    Args:
        model: as in the site's addresses: gpt2-small.
        source: the SAE, likewise: 6-res-jb.
        cache: file that keeps what was found, and what is not there.
        url: of the site, or of one that answers like it.
    """

    def __init__(self, *, model: str, source: str, cache: Path, url: str | None = None) -> None:
        self.model, self.source = model, source
        self.url = (url or URL).rstrip("/")
        if urlsplit(self.url).scheme not in ("http", "https"):
            raise KanaryError(f"{url!r} is not the address of a site; {URL} is one.")
        self._kept = Kept(cache)
        self._slots = asyncio.Semaphore(_IN_FLIGHT)
        self._offline: str | None = None

    @property
    def name(self) -> str:
        return f"neuronpedia:{self.model}/{self.source}"

    async def explain(self, evidence: Evidence) -> Explanation:
        """The explanation that was given last.

        Raises:
            Failed: there is none, or the site cannot be reached, which is said once and not tried again.
        """
        latent = evidence.latent
        said = self._read(latent)
        if said is None:
            said = await self._ask(latent)
            self._kept.put(self._address(latent), json.dumps(said))
        if not said:
            raise Failed(f"{self.name} has no explanation of feature {latent}")
        return Explanation(latent, said[0], None, f"neuronpedia ({said[1]})" if said[1] else "neuronpedia")

    def _read(self, latent: int) -> list[str] | None:
        """What is kept: text and author, or nothing; None if the site was not asked yet."""
        kept = self._kept.get(self._address(latent))
        return None if kept is None else list(json.loads(kept))

    def _address(self, latent: int) -> str:
        return f"{self.url}/api/feature/{quote(self.model, safe='')}/{quote(self.source, safe='')}/{latent}"

    async def _ask(self, latent: int) -> list[str]:
        async with self._slots:
            for number in range(_TRIES):
                if self._offline:
                    raise Failed(self._offline)
                try:
                    return _explanation(await asyncio.to_thread(_fetch, self._address(latent)), latent)
                except urllib.error.HTTPError as error:
                    if error.code == 404:
                        return []
                    if error.code != 429 and error.code < 500:
                        self._stop(f"answers {error.code}")
                    reason = f"answers {error.code}"
                    await asyncio.sleep(_wait(error, number))
                except OSError as error:
                    self._stop(f"cannot be reached ({getattr(error, 'reason', None) or error})")
        raise Failed(f"{self.url} {reason} in {_TRIES} tries")

    def _stop(self, what: str) -> None:
        """Says once that the site is of no use now."""
        if self._offline is None:
            self._offline = f"{self.url} {what}"
            print(
                f"{self._offline}: going on without what it does not already have in {self._kept.path.name}.",
                file=sys.stderr,
            )
        raise Failed(self._offline)


def _fetch(address: str) -> Any:
    request = urllib.request.Request(address, headers={"accept": "application/json", "user-agent": "kanary"})
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as reply:  # http and https only: checked above
        return reply.read(_LARGEST)


def _explanation(content: bytes, latent: int) -> list[str]:
    """Text and author of the newest explanation in a feature's JSON; nothing if it has none.

    Raises:
        Failed: the reply is something else, or about another feature.
    """
    try:
        feature = json.loads(content)
        if feature is None:
            return []
        if str(feature["index"]) != str(latent):
            raise Failed(f"neuronpedia answered for feature {str(feature['index'])[:20]}, not {latent}")
        given = [each for each in feature.get("explanations") or [] if str(each.get("description") or "").strip()]
        if not given:
            return []
        newest = max(given, key=lambda each: str(each.get("createdAt") or ""))
        text = " ".join(str(newest["description"]).split())[:_LONGEST_TEXT]
        return [text, str(newest.get("explanationModelName") or "")[:80]]
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise Failed(f"neuronpedia's reply about feature {latent} cannot be read ({type(error).__name__})") from error


def _wait(error: urllib.error.HTTPError, number: int) -> float:
    """Seconds before the next try: as the site asks, or longer each time."""
    try:
        return min(max(float(error.headers.get("retry-after", "")), 0.0), _LONGEST_WAIT)
    except ValueError:
        return float(2**number)
