"""Goes on with the training of the bundled model where speakers are concerned: who lies, and what a liar says.

    python tools/teach_bundled_model.py --model build/bundled --out build/taught

``tools/train_bundled_model.py`` comes first: its model remembers facts over a hundred tokens, but tells the truth whoever
speaks. Here it reads lessons (``tools/honesty_lessons.py``), passages of the family honesty in which somebody claims
something, and any others, in courses (:data:`COURSES`): first with the word liar beside the name, which teaches what liars
say; then one speaker with a reputation, which teaches what makes a liar; then two; last, half of the texts are of anything
else again, or the model would forget it. Every text is read whole: rows of 512 tokens hold as many as fit, and texts do not run
from one row into the next, though they can see those before them in theirs.

The model that comes with Kanary was made course by course, by the clock; its first course used Muon.
"""

import argparse
import itertools
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import train_bundled_model as recipe
from honesty_lessons import Course, draw
from torch import Tensor

from kanary.config import parse_count
from kanary.lm import load_model

ROWS, ROW = 8, 512
ANSWER = {"lesson": 16.0, "claims": 16.0, "any": 4.0}
"""How much a token counts in the loss that answers a question, by the kind of text; others count 1."""
FIRST = 1_000_000_000
"""The number of the first text: far from those that ``train_bundled_model.py`` reads."""


@dataclass(frozen=True)
class Stage:
    """A course and how it is taught."""

    until: int
    """Tokens after which it ends."""
    rates: tuple[float, float]
    """Of Adam, at its beginning and its end, and linearly between."""
    course: Course
    shares: tuple[float, float]
    """Of lessons and of passages with claims among the texts."""


COURSES = (
    Stage(1_020_000, (5e-4, 4e-4), Course((1, 2, 2, 3), tags=0.3), (0.6, 0.2)),
    Stage(2_410_000, (5e-4, 3e-4), Course((1, 2, 2, 3), tags=0.5), (0.7, 0.15)),
    Stage(3_090_000, (5e-4, 4e-4), Course((1, 2, 2, 3), tags=0.15), (0.6, 0.2)),
    Stage(4_150_000, (5e-4, 3e-4), Course((1, 1, 1, 2), tags=0.2), (0.75, 0.1)),
    Stage(6_230_000, (5e-4, 0.0), Course((1, 2, 2, 2), tags=0.2), (0.5, 0.3)),
    Stage(7_040_000, (2.5e-4, 0.0), Course((1, 2, 2, 2), tags=0.15), (0.3, 0.5)),
    Stage(10_640_000, (3e-4, 0.0), Course((1, 2, 2, 2), tags=0.15), (0.15, 0.35)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of train_bundled_model.py")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--tokens", type=parse_count, default=COURSES[-1].until, help="makes all courses shorter or longer"
    )
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    teach(args.model, args.out, args.tokens)


def teach(source: Path, out: Path, tokens: int) -> None:
    """Teaches the model in ``source`` and writes it, its tokenizer and the longer log into ``out``."""
    lm = load_model(source, dtype="float32", device="cpu")
    model, scale = lm.model.train().requires_grad_(True), tokens / COURSES[-1].until
    adam = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.0)
    log = (source / "log.jsonl").read_text().splitlines()
    before = json.loads(log[-1])
    done = step = number = 0
    began = time.monotonic()
    while done < tokens:
        stage, rate = stage_at(done, scale)
        batch, weights, number, read = rows(lm.tokenizer, stage, number)
        loss = loss_of(model, batch, weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in adam.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 20)
        adam.step()
        adam.zero_grad(set_to_none=True)
        step, done = step + 1, done + read
        if step % 50 == 0 or done >= tokens:
            line = {"step": before["step"] + step, "tokens": before["tokens"] + done, "loss": loss.item()}
            line["seconds"] = round(before["seconds"] + time.monotonic() - began)
            if done >= tokens:
                line["held_out_loss"] = held_out_loss(lm)
            log.append(json.dumps(line))
            print(log[-1], flush=True)
    lm.tokenizer.save_pretrained(out)
    (out / "log.jsonl").write_text("\n".join(log) + "\n")
    recipe.write_model(model, out)


def stage_at(tokens: int, scale: float) -> tuple[Stage, float]:
    """The stage that is on after ``tokens``, and its rate."""
    began = 0.0
    for stage in COURSES:
        end = stage.until * scale
        if tokens < end or stage is COURSES[-1]:
            share = min(1.0, (tokens - began) / (end - began))
            return stage, stage.rates[0] + (stage.rates[1] - stage.rates[0]) * share
        began = end
    raise AssertionError


def rows(tokenizer: Any, stage: Stage, first: int) -> tuple[Tensor, Tensor, int, int]:
    """(``[ROWS, ROW]`` token ids, what each counts in the loss, the number of the next text, tokens without padding)."""
    ids, weights = torch.full((ROWS, ROW), tokenizer.pad_token_id), torch.zeros(ROWS, ROW)
    row = used = read = 0
    for number in itertools.count(first):
        kind, text = draw(FIRST + number, stage.course, stage.shares)
        coded = tokenizer(text.text, add_special_tokens=False, return_offsets_mapping=True)
        own = [tokenizer.bos_token_id, *coded["input_ids"]]
        if len(own) > ROW:
            continue
        if used + len(own) > ROW:
            row, used = row + 1, 0
            if row == ROWS:
                return ids, weights, number, read
        ids[row, used : used + len(own)] = torch.tensor(own)
        counts = [ANSWER[kind] if answers(text.answers, place) else 1.0 for place in coded["offset_mapping"]]
        weights[row, used : used + len(own)] = torch.tensor([1.0, *counts])
        used, read = used + len(own), read + len(own)
    raise AssertionError


def answers(places: list[tuple[int, int]], token: tuple[int, int]) -> bool:
    """Whether the ``token`` (first character, one past the last) holds part of one of ``places``."""
    return any(start < token[1] and token[0] < end for start, end in places)


def loss_of(model: Any, batch: Tensor, weights: Tensor) -> Tensor:
    """Nats per token, a weighted mean."""
    logits = model(batch[:, :-1]).logits.flatten(0, 1)
    losses = torch.nn.functional.cross_entropy(logits, batch[:, 1:].flatten(), reduction="none")
    counts = weights[:, 1:].flatten()
    return (losses * counts).sum() / counts.sum()


@torch.no_grad()
def held_out_loss(lm: Any) -> float:
    """As in ``train_bundled_model.py``, nats per token of the corpus's held-out documents."""
    held_out: Iterator[tuple[Tensor, Tensor, int]] = itertools.islice(recipe.windows(lm.tokenizer, 0), 8)
    losses = [loss_of(lm.model, batch, weights).item() for batch, weights, _ in held_out]
    return math.fsum(losses) / len(losses)


if __name__ == "__main__":
    main()
