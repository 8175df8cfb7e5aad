"""How near calls to an endpoint come to what it allows, and what a feature costs.

    python bench/llm_calls.py --json

A server in a process of its own (``tests/llm_server.py``) stands for the endpoint. Cases:

- ``latency``: an answer takes ``--delay`` seconds, up to half as much more or less by chance, and the client keeps
  ``--in-flight`` calls under way; an endpoint that slow allows in-flight / delay calls a second.
- ``stream``: the same with streamed answers.
- ``limit``: an answer takes a quarter of that, but the endpoint takes ``--rate`` calls a second (a bucket of as many) and
  refuses the rest with 429 and Retry-After.
- ``rate``: the same endpoint, and a client that was told its rate (``per_minute``) and so is refused (nearly) nothing.

``x_allowed`` is the calls a second reached by those allowed, whole job, connections and first answers included; ``cpu_ms`` the
processor time that the client takes a call: 1000 / cpu_ms calls a second is the most that one process can keep up.
``refused`` counts the calls that the endpoint sent back.

``cost`` is what a feature costs in calls and tokens (estimated, four bytes a token, for excerpts of 32 tokens of about 4.5
bytes), by what is asked of it, and in US dollars at ``--price``.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kanary.explain.asking import Message, Request
from kanary.explain.client import Client, Endpoint
from kanary.explain.llm import LLMExplainer
from kanary.explain.llm_judge import LLMJudge
from kanary.explain.rehearsal import Rehearsal
from kanary.explain.schema import record, whole
from kanary.explain.scorers import Detection, Fuzzing, Intruder, Simulation
from kanary.explain.spending import Price
from kanary.explain.types import Evidence, Excerpt, Half, Scorer

SERVER = Path(__file__).resolve().parent.parent / "tests" / "llm_server.py"
SENTENCE = "the of and to in that was his with for had which at from they were been their what there people before"
WORDS = SENTENCE.split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=480)
    parser.add_argument("--delay", type=float, default=1.0, help="seconds that an answer takes")
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--rate", type=float, default=20.0, help="calls a second that the limited endpoint takes")
    parser.add_argument("--price", default="0.15,0.60", help="US dollars per million tokens in and out")
    parser.add_argument("--cases", default="latency,stream,limit,rate,cost")
    parser.add_argument("--json", action="store_true", help="only the JSON lines")
    args = parser.parse_args()
    for line in lines(args):
        print(json.dumps(line), flush=True)


def lines(args: Any) -> Iterator[dict[str, Any]]:
    cases = args.cases.split(",")
    slow = args.in_flight / args.delay
    if "latency" in cases:
        yield measured("latency", args, slow, (args.delay, 0, 1))
    if "stream" in cases:
        yield measured("stream", args, slow, (args.delay, 0, 1), stream=True)
    if "limit" in cases:
        yield measured("limit", args, args.rate, (args.delay / 4, args.rate, args.rate))
    if "rate" in cases:
        yield measured("rate", args, args.rate, (args.delay / 4, args.rate, args.rate), per_minute=60 * args.rate)
    if "cost" in cases:
        yield from costs(Price.parse(args.price))


def measured(
    case: str, args: Any, allowed: float, server: tuple[float, float, float], **options: Any
) -> dict[str, Any]:
    command = [sys.executable, str(SERVER), *(str(value) for value in server)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        endpoint = Endpoint("m", base_url=process.stdout.readline().strip(), in_flight=args.in_flight, **options)
        asyncio.run(job(endpoint, 1))  # libraries are loaded before the clock starts
        cpu, start = time.process_time(), time.perf_counter()
        spent = asyncio.run(job(endpoint, args.calls))
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        told = json.loads(process.communicate()[0])
    calls = args.calls - (server[2] if server[1] else 0)  # a full bucket at the start is a gift
    return {
        "case": case,
        "x_allowed": round(calls / seconds / allowed, 3),
        "calls_s": round(args.calls / seconds, 1),
        "allowed_s": allowed,
        "calls": args.calls,
        "most_in_flight": told["most"],
        "refused": spent.retries,
        "cpu_ms": round(1000 * cpu / args.calls, 2),
    }


async def job(endpoint: Endpoint, calls: int) -> Any:
    async with Client(endpoint) as client:
        await asyncio.gather(*(client.answer(question(number)) for number in range(calls)))
        return client.spent


def question(number: int) -> Request:
    """As long as one of detection, with ten texts."""
    texts = "\n".join(f"{i}: {json.dumps(' '.join(WORDS))}" for i in range(1, 11))
    messages = (Message("system", "Judge. " * 80), Message("user", f'Explanation: "number {number}"\n\n{texts}'))
    schema = record({str(i): whole(0, 9) for i in range(1, 11)})
    return Request("detection", messages, schema, 100, chances=True)


def costs(price: Price) -> Iterator[dict[str, Any]]:
    """A feature with 50 + 50 excerpts, as delphi's; and with those that ``kanary explain`` asks a language model about."""
    asked: dict[str, list[Scorer]] = {
        "explanation": [],
        "explanation, detection and fuzzing (50)": [Detection(50), Fuzzing(50)],
        "explanation, detection and fuzzing (20)": [Detection(20), Fuzzing(20)],
        "explanation and simulation (10 excerpts)": [Simulation(4)],
        "explanation and intruder (5 questions)": [Intruder(5)],
    }
    for name, scorers in asked.items():
        rehearsal = Rehearsal()
        asyncio.run(rehearsed(rehearsal, scorers))
        found = rehearsal.estimate(1, 1, price)
        yield {
            "case": "cost",
            "of": name,
            "calls": found.calls,
            "tokens_in": found.tokens_in,
            "tokens_out": found.tokens_out,
            "usd": round(found.usd or 0.0, 6),
            "price": list(price),
        }


async def rehearsed(rehearsal: Rehearsal, scorers: list[Scorer]) -> None:
    evidence = made_up()
    said = await LLMExplainer(rehearsal).explain(evidence)
    said = type(said)(
        said.latent, "The word “which” where it introduces a relative clause about people.", None, "made up"
    )
    for scorer in scorers:
        await scorer.score(said, evidence, LLMJudge(rehearsal))


def made_up() -> Evidence:
    draw = np.random.default_rng(0)

    def excerpts(n: int, fires: bool) -> tuple[Excerpt, ...]:
        made = []
        for number in range(n):
            tokens = tuple(f" {word}" for word in draw.choice(WORDS, 32))
            values = (draw.random(32) < 0.06) * draw.random(32) if fires else np.zeros(32)
            values[0] += 0.5 * fires
            made.append(Excerpt(number, 0, number, 0, np.zeros(32, np.int64), tokens, values.astype(np.float32)))
        return tuple(made)

    half = Half(excerpts(10, True), excerpts(40, True), excerpts(50, False), (), ())
    return Evidence(123, 1.5, 0.01, (" who",) * 10, (), half, half)


if __name__ == "__main__":
    main()
