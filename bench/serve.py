"""How quickly the server answers, beside what the language model alone needs for the same text.

    python bench/serve.py --json

The model that comes with Kanary, and an SAE of it (``--width 2048 --k 32``, TopK, behind block 4 of 6) with the weights that
training would begin with, indexed on ``--tokens 50000`` tokens; or a ``--run`` of yours that is indexed. The server and its
clients share this process, the requests go over loopback, each connection is kept open.

- ``live``: a text of 50 and of 500 tokens is typed: every request has one more character. Target: p95 < 150 ms at 50.
  ``x_forward`` is the model's own forward pass over as many tokens (logits included, no SAE) by the whole request, the median
  over requests that alternate with it; ``cpu_ms`` is processor time of the process, all threads and the client included, for
  a machine that is busy with other work.
- ``feature``: the JSON of a feature drawn at random, never the same twice in a row.
- ``columns``: the first time (which makes the map) and again; ``compare``: two SAEs of this width, the first time.
- ``50 clients``: fifty clients at once, each with ``--each 5`` texts of 50 tokens, one after another; one that is
  refused ends the bench.
"""

import argparse
import http.client
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import torch
from index import made_sae, options

import kanary
from kanary.app.reading import cut
from kanary.lm import LanguageModel, load_model
from kanary.text import open_text

STORY = (
    "The weather in Paris will be rainy tomorrow. Anna said that the river is calm, and that her friend the doctor would "
    "walk along it in the evening. 12 + 7 = 19. If the light holds, they will see the old bridge. "
)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--run", type=Path, default=None, help="an indexed run (default: one is made)")
    parser.add_argument("--tokens", type=int, default=50_000)
    parser.add_argument("--keys", type=int, default=60, help="keys typed per text")
    parser.add_argument("--each", type=int, default=5, help="texts of each of fifty clients")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = [args.run] if args.run else [made_run(Path(folder), seed, args) for seed in (0, 1)]
        with kanary.serve(*runs, port=0, browser=False, block=False) as server:
            saes = [sae["id"] for run in Client(server.url).get("/api/runs") for sae in run["saes"] if sae["indexed"]]
            for line in measured(server.url, saes, load_model(args.model, device="cpu"), args):
                print(json.dumps(line) if args.json else in_words(line), flush=True)


def made_run(folder: Path, seed: int, args: argparse.Namespace) -> Path:
    run = folder / f"run-{seed}"
    torch.manual_seed(seed)
    made_sae(load_model(args.model, device="cpu"), open_text(args.text), args).save_pretrained(run / "sae")
    kanary.index(run, quiet=True, tokens=args.tokens, part="all", effects="none", concept_tokens=0, device="cpu")
    return run


class Client:
    """One connection that is kept open."""

    def __init__(self, url: str) -> None:
        self.connection = http.client.HTTPConnection(str(urlsplit(url).netloc), timeout=600)
        self.bytes = 0  # of the last answer

    def get(self, path: str) -> Any:
        return self._ask("GET", path, None)

    def live(self, sae: str, text: str) -> Any:
        return self._ask("POST", f"/api/saes/{sae}/live", json.dumps({"text": text}).encode())

    def _ask(self, method: str, path: str, body: bytes | None) -> Any:
        self.connection.request(method, path, body, {"content-type": "application/json"})
        answer = self.connection.getresponse()
        data = answer.read()
        self.bytes = len(data)
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status} {data[:200]!r}")
        return json.loads(data)


class Taken(NamedTuple):
    """Milliseconds."""

    clock: float
    processor: float


def taken(work: Callable[[], Any]) -> Taken:
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return Taken(1e3 * (time.perf_counter() - clock), 1e3 * (time.process_time() - processor))


def summary(times: list[Taken]) -> dict[str, Any]:
    clock = sorted(each.clock for each in times)
    return {
        "ms": round(statistics.median(clock), 1),
        "ms_p95": round(clock[int(0.95 * (len(clock) - 1))], 1),
        "cpu_ms": round(statistics.median(each.processor for each in times), 1),
        "n": len(times),
    }


def measured(url: str, saes: list[str], lm: LanguageModel, args: argparse.Namespace) -> list[dict[str, Any]]:
    client, sae = Client(url), saes[0]
    about = {"threads": torch.get_num_threads()}
    lines = [{"case": "load", "seconds": round(taken(lambda: client.live(sae, "")).clock / 1e3, 1)}]
    lines += [typed(client, sae, lm, tokens, args.keys) | about for tokens in (50, 500)]
    width = client.get(f"/api/saes/{sae}")["numbers"]["width"]
    draw = random.Random(0)
    features = [taken(lambda: client.get(f"/api/saes/{sae}/features/{draw.randrange(width)}")) for _ in range(200)]
    lines.append({"case": "feature", **summary(features), "bytes": client.bytes, "width": width})
    columns = [taken(lambda: client.get(f"/api/saes/{sae}/columns")) for _ in range(6)]
    first = {"ms_first": round(columns[0].clock, 1)}
    lines.append({"case": "columns", **first, **summary(columns[1:]), "bytes": client.bytes, "width": width})
    if len(saes) > 1:
        found = taken(lambda: client.get(f"/api/compare?sae={saes[0]}&sae={saes[1]}"))
        lines.append({"case": "compare", "ms_first": round(found.clock, 1), "bytes": client.bytes, "width": width})
    return [*lines, crowd(url, sae, lm, args.each)]


def typed(client: Client, sae: str, lm: LanguageModel, tokens: int, keys: int) -> dict[str, Any]:
    text = beginning(lm, tokens)
    requests, alone = [], []
    for key in range(-5, keys):  # the first five warm up
        typing = text[: len(text) - keys + key + 1] if key >= 0 else text
        ids = torch.tensor([cut(lm, typing).ids])
        alone.append(taken(lambda: lm.logits(ids)))  # noqa: B023
        requests.append(taken(lambda: client.live(sae, typing)))  # noqa: B023
    requests, alone = requests[5:], alone[5:]
    return {
        "case": f"live, {tokens} tokens",
        **summary(requests),
        "x_forward": round(statistics.median(a.clock / b.clock for a, b in zip(alone, requests, strict=True)), 2),
        "x_forward_cpu": round(
            statistics.median(a.processor for a in alone) / statistics.median(b.processor for b in requests), 2
        ),
        "bytes": client.bytes,
    }


def beginning(lm: LanguageModel, tokens: int) -> str:
    """A text of that many tokens."""
    text = STORY * (tokens // 20)
    spans = lm.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return text[: spans[tokens - 1][1]]


def crowd(url: str, sae: str, lm: LanguageModel, each: int) -> dict[str, Any]:
    text = beginning(lm, 50)

    def one(_: int) -> list[Taken]:
        client = Client(url)
        return [taken(lambda: client.live(sae, text)) for _ in range(each)]

    began = time.perf_counter()
    with ThreadPoolExecutor(50) as clients:
        times = [time_ for found in clients.map(one, range(50)) for time_ in found]
    seconds = time.perf_counter() - began
    found = summary(times)
    del found["cpu_ms"]  # of all clients at once
    return {"case": "50 clients", **found, "requests_s": round(len(times) / seconds, 1)}


def in_words(line: dict[str, Any]) -> str:
    rest = ", ".join(f"{name} {value}" for name, value in line.items() if name != "case")
    return f"{line['case']}: {rest}"


if __name__ == "__main__":
    main()
