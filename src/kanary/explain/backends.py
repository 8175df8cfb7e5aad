"""Back ends by name: an LLM behind an endpoint, or a model in a folder, each with a cache of its answers."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from kanary.errors import KanaryError
from kanary.explain.cache import Cached, Counting, Kept
from kanary.explain.client import Client, Endpoint


@asynccontextmanager
async def open_backend(name: str, *, cache: Path, endpoint: Endpoint | None = None) -> AsyncIterator[Cached]:
    """
    Args:
        name: ``llm``, which needs an ``endpoint``, or ``local:FOLDER``, a Hugging Face model.
        cache: file that keeps the answers; made if it is not there, shared by processes.

    Raises:
        KanaryError: another name, no endpoint, no key, no such model.
    """
    async with AsyncExitStack() as stack:
        yield Cached(await _backend(name, endpoint, stack), stack.enter_context(Kept(cache)))


async def _backend(name: str, endpoint: Endpoint | None, stack: AsyncExitStack) -> Counting:
    kind, _, folder = name.partition(":")
    if kind == "llm" and endpoint is not None:
        return await stack.enter_async_context(Client(endpoint))
    if kind == "local" and folder:
        from kanary.explain.local import Local

        return Local(folder)
    raise KanaryError(
        f"There is no back end {name!r}: give llm, with the name of its model, or local:FOLDER, a Hugging Face model."
    )
