"""A job of N questions to an endpoint, through a cache, in a process of its own: URL CACHE N FIRST; prints what it cost."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from kanary.explain.asking import Message, Request
from kanary.explain.cache import Cached, Kept
from kanary.explain.client import Client, Endpoint
from kanary.explain.schema import record, whole


def question(number: int) -> Request:
    return Request("detection", (Message("user", f"Question {number}."),), record({"1": whole(0, 9)}), max_tokens=20)


async def job(url: str, cache: Path, numbers: range) -> None:
    with Kept(cache) as kept:
        async with Client(Endpoint("m", base_url=url)) as client:
            backend = Cached(client, kept)
            await asyncio.gather(*(backend.answer(question(number)) for number in numbers))
            print(backend.spent)


if __name__ == "__main__":
    first = int(sys.argv[4])
    asyncio.run(job(sys.argv[1], Path(sys.argv[2]), range(first, first + int(sys.argv[3]))))
