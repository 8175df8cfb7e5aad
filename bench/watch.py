"""What watching costs: texts written by one model with and without a watch, in turns, step by step.

    python bench/watch.py --json

The model that comes with Kanary, and an SAE of it (``--width 2048 --k 32``, TopK, behind block 4 of 6) with the weights that
training would begin with, or those of a ``--run``. For each number of texts at once (``--rows 1 8``), two batches write the
same texts of ``--tokens 128`` tokens, one of them with a watch on four latents; their steps alternate, so that whatever else
the machine does meets both alike. Repeated ``--rounds 5`` times with other seeds.

- ``overhead``: the time per step with the watch by the time without it, less 1: the median over rounds of the ratio of
  processor times, with the smallest and the largest round. Target: at most 10 %.
- ``clock``: the same by the clock, and ``tokens_s``: tokens per second with the watch.
- ``trace``: the overhead with values worked out, alarms looked for, and a trace written, as ``kanary watch`` does.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from index import made_sae, options

from kanary.interventions.generation import Batch, Request, Row, Token
from kanary.interventions.steerable import Steerable
from kanary.interventions.traces import recording
from kanary.interventions.watch import Watch
from kanary.interventions.writing import Writing, watched
from kanary.lm import load_model
from kanary.sae import SAE
from kanary.text import open_text

PROMPT = "The weather in Paris will be rainy tomorrow. Anna said that"


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--run", type=Path, default=None, help="a run with one SAE (default: one is made)")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    lm = load_model(args.model, device="cpu")
    torch.manual_seed(0)
    sae = SAE.from_pretrained(args.run) if args.run else made_sae(lm, open_text(args.text), args)
    panel = Steerable(lm, {"sae": sae})
    watch = Watch("bench", "sae", sae.digest(), tuple((latent, 1.0) for latent in (3, 70, 700, 1300)), 1e9, 0.01)
    with tempfile.TemporaryDirectory() as folder:
        for rows in args.rows:
            line = measured(panel, watch, rows, args, Path(folder))
            print(json.dumps(line) if args.json else in_words(line), flush=True)


def measured(panel: Steerable, watch: Watch, rows: int, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    ids = (panel.lm.bos_id or 0, *panel.lm.tokenizer(PROMPT, add_special_tokens=False)["input_ids"])
    found = []
    for round in range(args.rounds + 1):
        asked = [Request(ids, tokens=args.tokens, seed=rows * round + i, ends=False) for i in range(rows)]
        seen = [Request(r.prompt, tokens=r.tokens, seed=r.seed, ends=False, watched=watched([watch])) for r in asked]
        with recording(folder, [watch], {}) as record:
            plain, watching, tracing = Batch(panel), Batch(panel), Batch(panel)
            kept = {row: Writing(panel.lm, row, [watch], record=record) for row in map(tracing.add, seen)}
            for request, other in zip(asked, seen, strict=True):
                plain.add(request)
                watching.add(other)
            followed = lambda said, kept=kept: follow(said, kept)  # noqa: E731
            times = in_turns([(plain, nothing), (watching, nothing), (tracing, followed)])
        if round:  # the first one warms up
            found.append(times)
    cpu, clock = ([[times[i][kind] / times[0][kind] - 1 for times in found] for i in (1, 2)] for kind in (0, 1))
    speed = rows * args.tokens * args.rounds / sum(times[1][1] for times in found)
    each = {"rows": rows, "tokens": args.tokens, "rounds": args.rounds, "width": panel.saes["sae"].d_sae}
    return {
        **each,
        "overhead": summary(cpu[0]),
        "clock": summary(clock[0]),
        "trace": summary(cpu[1]),
        "tokens_s": speed,
    }


def in_turns(batches: list[tuple[Batch, Callable[[Any], None]]]) -> list[tuple[float, float]]:
    """Processor seconds and seconds that each batch needs to write its rows to the end."""
    spent = [[0.0, 0.0] for _ in batches]
    left = True
    while left:
        left = False
        for (batch, then), each in zip(batches, spent, strict=True):
            cpu, clock = time.process_time(), time.perf_counter()
            then(batch.step())
            each[0] += time.process_time() - cpu
            each[1] += time.perf_counter() - clock
            left = left or any(row.ended is None for row in batch.rows)
    return [(cpu, clock) for cpu, clock in spent]


def nothing(_: object) -> None:
    """What is said is not looked at."""


def follow(said: list[tuple[Row, list[Token]]], kept: dict[Row, Writing]) -> None:
    for row, tokens in said:
        for _ in kept[row].take(tokens):
            pass


def summary(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def in_words(line: dict[str, Any]) -> str:
    def percent(name: str) -> str:
        return "{median:+.1%} ({low:+.1%} to {high:+.1%})".format(**line[name])

    return (
        f"{line['rows']} text(s) at once, SAE of {line['width']:,} latents: watching adds {percent('overhead')} processor time "
        f"a step, {percent('clock')} by the clock; with a trace {percent('trace')}. "
        f"{line['tokens_s']:,.0f} tokens/s with the watch; "
        f"{line['rounds']} rounds of {line['tokens']} tokens."
    )


if __name__ == "__main__":
    main()
