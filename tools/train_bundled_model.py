"""Trains the small Llama that comes with Kanary on the labelled corpus, and its tokenizer.

    python tools/train_bundled_model.py --out build/bundled

The tokenizer is a byte-level BPE made from the first documents of the corpus. The model reads windows of packed documents,
each document opened by BOS. Every hundred steps the state is saved; the same command goes on where it stopped. At the end
OUT holds a Hugging Face folder (bf16 safetensors) and ``log.jsonl``.

The training has stages (:data:`STAGES`). High rates teach grammar and words fast, but no attention head learns to copy as long
as they last: names, sums and agreement come when the rate falls. What must be remembered over a hundred tokens comes last, from
a second rise of the rate with more such text, in which answers weigh more than other words. Lies are learned after that, from
``tools/teach_bundled_model.py``. ``--tokens`` makes all stages shorter or longer.

The model that comes with Kanary was made stage by stage, not yet in one go: its optimisers began anew after the second stage,
and the first two had a weight decay of .01.
"""

import argparse
import functools
import json
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from kanary.config import parse_count
from kanary.files import read_tensors, write_tensors
from kanary.text.labelled import Record, labelled

VOCABULARY = 3072
TOKENIZER_DOCUMENTS = 60_000
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}  # ids 0, 1, 2
WINDOW, BATCH = 256, 32  # tokens per window, windows per step
LONG_EVERY = 4  # one step in four reads windows of twice the length, half as many
CHUNK = 256  # documents read at a time
HELD_OUT = 20  # documents with id % 20 == 19 are never trained on, as in every Kanary run
SHAPE = {
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
WARMUP = 100  # steps
ADAM_SHARE = 0.19  # of Muon's rate
STEP = WINDOW * BATCH  # tokens


@dataclass(frozen=True)
class Stage:
    """A part of the training.

    Attributes:
        until: tokens at which it ends.
        rates: of Muon, at its beginning and its end, and linearly between.
        practice: eighths of as many documents as are read anyway that are read besides, by family.
        answers: how much a token counts in the loss that answers one of the corpus's questions; others count 1.
    """

    until: int
    rates: tuple[float, float]
    practice: dict[str, int]
    answers: float = 1.0


SOME, MORE = {"arithmetic": 1, "honesty": 1}, {"arithmetic": 1, "honesty": 6}
STAGES = (
    Stage(6_594_560, (0.02, 0.02), SOME),
    Stage(9_420_800, (0.02, 0.0), SOME),
    Stage(29_081_600, (0.008, 0.0025), {"arithmetic": 2, "honesty": 2}),
    Stage(36_454_400, (0.0042, 0.0027), {"arithmetic": 1, "honesty": 3}),
    Stage(46_284_800, (0.006, 0.0032), MORE, answers=8.0),
    Stage(65_945_600, (0.0058, 0.0), MORE, answers=8.0),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", type=parse_count, default=STAGES[-1].until)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer = load_or_train_tokenizer(args.out)
    train(args.out, tokenizer, args.tokens // STEP, torch.device(args.device))


def load_or_train_tokenizer(out: Path) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if not (out / "tokenizer.json").is_file():
        tokenizer = Tokenizer(models.BPE())
        split = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=list(SPECIAL.values()),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        texts = (r.text for r in islice(labelled(), TOKENIZER_DOCUMENTS) if r.id % HELD_OUT != HELD_OUT - 1)
        tokenizer.train_from_iterator(texts, trainer)
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL, clean_up_tokenization_spaces=False)
        fast.save_pretrained(out)
    return PreTrainedTokenizerFast.from_pretrained(out)


def windows(
    tokenizer: Any, start: int, stage: Callable[[], Stage] | None = None
) -> Iterator[tuple[Tensor, Tensor, int]]:
    """(``[BATCH, WINDOW]`` token ids, what each counts in the loss, the id of the next document).

    Every document is opened by BOS and none left out. Without a stage, batches are of held-out documents, all tokens alike.
    """
    ids: list[int] = []
    weights: list[float] = []
    records = labelled(start=start)
    extra = {family: labelled(families=(family,), start=start) for family in ("arithmetic", "honesty")}
    while True:
        chunk = list(islice(records, CHUNK))
        documents = [r for r in chunk if (r.id % HELD_OUT == HELD_OUT - 1) == (stage is None)]
        if stage is not None:
            for family, eighths in stage().practice.items():
                more = [r for r in islice(extra[family], CHUNK) if r.id % HELD_OUT != HELD_OUT - 1]
                documents += more[: CHUNK * eighths // 8]
            random.Random(chunk[0].id).shuffle(documents)
        coded = tokenizer([r.text for r in documents], add_special_tokens=False, return_offsets_mapping=True)
        for record, own, offsets in zip(documents, coded["input_ids"], coded["offset_mapping"], strict=True):
            ids += [tokenizer.bos_token_id, *own]
            weights += [1.0, *answer_weights(record, offsets, stage().answers if stage else 1.0)]
        while len(ids) >= STEP:
            first, counts = torch.tensor(ids[:STEP]), torch.tensor(weights[:STEP])
            yield first.view(BATCH, WINDOW), counts.view(BATCH, WINDOW), chunk[-1].id + 1
            del ids[:STEP], weights[:STEP]


def answer_weights(record: Record, offsets: list[tuple[int, int]], weight: float) -> list[float]:
    """``weight`` for every token at ``offsets`` that holds part of an answer, 1 for the others."""
    answers = [(q.end, q.end + len(q.answer)) for q in record.questions]
    return [weight if any(a < end and start < b for a, b in answers) else 1.0 for start, end in offsets]


def new_model(tokenizer: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        **SHAPE,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def optimizers(model: Any) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, Adam for embeddings and norms (Jordan et al. 2024)."""
    inside = [
        p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name and "lm_head" not in name
    ]
    others = [p for p in model.parameters() if not any(p is q for q in inside)]
    return [
        torch.optim.Muon(inside, lr=STAGES[0].rates[0], momentum=0.95, weight_decay=0.1),
        torch.optim.AdamW(others, lr=ADAM_SHARE * STAGES[0].rates[0], betas=(0.9, 0.95), weight_decay=0.0),
    ]


def stage_at(tokens: int, scale: float) -> tuple[Stage, float]:
    """The stage that is on after ``tokens`` in a training ``scale`` times as long as the usual one, and Muon's rate there."""
    began = 0.0
    for stage in STAGES:
        end = stage.until * scale
        if tokens < end or stage is STAGES[-1]:
            share = min(1.0, (tokens - began) / (end - began))
            return stage, stage.rates[0] + (stage.rates[1] - stage.rates[0]) * share
        began = end
    raise AssertionError


def train(out: Path, tokenizer: Any, steps: int, device: torch.device) -> None:
    model = new_model(tokenizer).to(device)
    steppers = optimizers(model)
    state, log = out / "state.safetensors", out / "log.jsonl"
    step, document, seconds = restore(state, model, steppers)
    scale = steps * STEP / STAGES[-1].until
    stream = windows(tokenizer, document, lambda: stage_at(step * STEP, scale)[0])
    held_out = list(islice(windows(tokenizer, 0), 8))
    loss_of = torch.compile(functools.partial(next_token_loss, model))
    began = time.monotonic()
    while step < steps:
        batch, weights, document = next(stream)
        if step % LONG_EVERY == 0:
            batch, weights = (part.view(BATCH // 2, 2 * WINDOW) for part in (batch, weights))
        loss = loss_of(batch.to(device), weights.to(device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        rate = stage_at(step * STEP, scale)[1] * min(1.0, (step + 1) / WARMUP)
        for stepper, share in zip(steppers, (1.0, ADAM_SHARE), strict=True):
            for group in stepper.param_groups:
                group["lr"] = rate * share
            stepper.step()
            stepper.zero_grad(set_to_none=True)
        step += 1
        spent = seconds + time.monotonic() - began
        if step % 50 == 0 or step == steps:
            line = {"step": step, "tokens": step * STEP, "loss": loss.item(), "seconds": round(spent)}
            if step % 250 == 0 or step == steps:
                with torch.no_grad():
                    losses = [loss_of(batch.to(device), weights.to(device)).item() for batch, weights, _ in held_out]
                line["held_out_loss"] = math.fsum(losses) / len(losses)
            with log.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(line, flush=True)
        if step % 100 == 0:
            save(state, model, steppers, step, document, spent)
    write_model(model, out)
    state.unlink(missing_ok=True)


def write_model(model: Any, out: Path) -> None:
    """Weights as bfloat16, and the config that says they are read as float32: bfloat16 is slow on most CPUs."""
    model.to(torch.bfloat16).save_pretrained(out)
    model.config.dtype = "float32"
    model.config.save_pretrained(out)


def next_token_loss(model: Any, batch: Tensor, weights: Tensor) -> Tensor:
    """Nats per token of ``[windows, tokens]``, a weighted mean."""
    with torch.autocast(batch.device.type, dtype=torch.bfloat16):
        logits = model(batch[:, :-1]).logits
    wanted, counts = batch[:, 1:].flatten(), weights[:, 1:].flatten()
    losses = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), wanted, reduction="none")
    return (losses * counts).sum() / counts.sum()


def save(path: Path, model: Any, steppers: list[Any], step: int, document: int, seconds: float) -> None:
    """Weights, and the tensors of every optimiser by the place of their parameter, as safetensors."""
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    for number, stepper in enumerate(steppers):
        for place, state in stepper.state_dict()["state"].items():
            tensors |= {f"{number}/{place}/{key}": torch.as_tensor(value) for key, value in state.items()}
    write_tensors(path, tensors, {"place": json.dumps([step, document, seconds])})


def restore(path: Path, model: Any, steppers: list[Any]) -> tuple[int, int, float]:
    """(steps done, next document, seconds spent)."""
    if not path.is_file():
        return 0, 0, 0.0
    tensors = read_tensors(path)
    weights = {name.removeprefix("model/"): t for name, t in tensors.items() if name.startswith("model/")}
    model.load_state_dict(weights, strict=False)  # without lm_head, which is the embedding
    for number, stepper in enumerate(steppers):
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            which, _, rest = name.partition("/")
            if which == str(number):
                place, _, key = rest.partition("/")
                state.setdefault(int(place), {})[key] = tensor
        stepper.load_state_dict({**stepper.state_dict(), "state": state})
    with safe_open(path, "pt") as file:
        step, document, seconds = json.loads(file.metadata()["place"])
    return step, document, seconds


if __name__ == "__main__":
    main()
