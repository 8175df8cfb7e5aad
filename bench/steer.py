"""What steering costs: texts written by one model as it is and steered, in turns, step by step.

    python bench/steer.py --json

The model that comes with Kanary, and an SAE of it (``--width 2048 --k 32``, TopK, behind block 4 of 6) with the weights that
training would begin with. For each number of texts at once (``--rows 1 8``), batches write ``--tokens 64`` tokens each with a
KV cache: one unsteered, and one for each way of steering. Their steps alternate, so that whatever else the machine does meets
all alike. Repeated ``--rounds 5`` times.

- ``add``: one feature is added to (a linear decoder needs no codes for that).
- ``clamp``: one feature is clamped, for which the activation is encoded.
- ``ten``: ten features in each row, five added and five clamped, other ones in every row.
- ``if``: one feature is added to while another one fires.

``overhead`` is the time per step by that of the unsteered batch, less 1: the median over rounds of the ratio of processor
times, with the smallest and the largest round. ``tokens_s`` is by the clock, and ``plain_tokens_s`` without steering.
"""

import json
import statistics
import time
from typing import Any

import torch
from index import made_sae, options

from kanary.interventions.edits import Condition, Edit, add, clamp
from kanary.interventions.generation import Batch, Request
from kanary.interventions.steerable import Steerable
from kanary.lm import load_model
from kanary.text import open_text

PROMPT = "The weather in Paris will be rainy tomorrow. Anna said that"
WARM = 3
"""Steps before the watch is read: prompts are read, and steerings made."""


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    lm = load_model(args.model, device="cpu")
    torch.manual_seed(0)
    panel = Steerable(lm, {"sae": made_sae(lm, open_text(args.text), args)})
    prompt = tuple(lm.tokenizer(PROMPT, return_tensors="pt").input_ids[0].tolist())
    for rows in args.rows:
        rounds = [_round(panel, prompt, rows, args.tokens) for _ in range(args.rounds)]
        for name in rounds[0]:
            if name != "plain":
                _say({"rows": rows, "steering": name, **_compared(rounds, name, rows)}, args.json)


def ways(row: int) -> dict[str, tuple[Edit, ...]]:
    """What each batch asks for in a row."""
    first = 40 * row
    ten = [add(first + i, 0.1, unit="raw") for i in range(5)]
    ten += [clamp(first + i, 0.0, 0.5, unit="raw") for i in range(5, 10)]
    condition = Condition(first + 1, above=0.0, unit="raw")
    return {
        "plain": (),
        "add": (add(first, 0.1, unit="raw"),),
        "clamp": (clamp(first, 0.0, 0.5, unit="raw"),),
        "ten": tuple(ten),
        "if": (add(first, 0.1, unit="raw", when=condition),),
    }


def _round(panel: Steerable, prompt: tuple[int, ...], rows: int, tokens: int) -> dict[str, tuple[float, float]]:
    """By way, (processor seconds, seconds) per step."""
    batches = {name: Batch(panel) for name in ways(0)}
    for row in range(rows):
        for name, edits in ways(row).items():
            batches[name].add(Request(prompt, tokens, seed=row, ends=False, edits=edits))
    spent = {name: [0.0, 0.0] for name in batches}
    for step in range(tokens):
        for name, batch in batches.items():
            before = time.process_time(), time.perf_counter()
            batch.step()
            if step >= WARM:
                spent[name][0] += time.process_time() - before[0]
                spent[name][1] += time.perf_counter() - before[1]
    return {name: (cpu / (tokens - WARM), clock / (tokens - WARM)) for name, (cpu, clock) in spent.items()}


def _compared(rounds: list[dict[str, tuple[float, float]]], name: str, rows: int) -> dict[str, Any]:
    ratios = sorted(each[name][0] / each["plain"][0] - 1 for each in rounds)
    return {
        "overhead": round(statistics.median(ratios), 3),
        "smallest": round(ratios[0], 3),
        "largest": round(ratios[-1], 3),
        "tokens_s": round(rows / statistics.median(each[name][1] for each in rounds), 1),
        "plain_tokens_s": round(rows / statistics.median(each["plain"][1] for each in rounds), 1),
        "rounds": len(rounds),
    }


def _say(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(found), flush=True)
        return
    print(
        f"{found['rows']} rows, {found['steering']}: {found['overhead']:+.1%} ({found['smallest']:+.1%} to "
        f"{found['largest']:+.1%}) per step; {found['tokens_s']} tokens/s, {found['plain_tokens_s']} without steering",
        flush=True,
    )


if __name__ == "__main__":
    main()
