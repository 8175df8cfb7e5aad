"""Trains the small Llama that comes with Kanary on the labelled corpus, and its tokenizer.

    python tools/train_bundled_model.py --out build/half --tokens 10M
    python tools/train_bundled_model.py --out build/bundled --tokens 20M --from build/half

The tokenizer is a byte-level BPE made from the first documents of the corpus. The model reads windows of packed documents,
each document opened by BOS. Every hundred steps the state is saved; the same command goes on where it stopped. At the end
OUT holds a Hugging Face folder (bf16 safetensors) and ``log.jsonl``.

The learning rate is level until the last part of a run, in which it falls to zero, and the state at that point is kept
(``trunk.safetensors``). A longer run can start there, ``--from``, as if it had been trained from its beginning: what twice
the tokens are worth then costs little more than the longer run alone.
"""

import argparse
import functools
import json
import math
import random
import shutil
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from kanary.config import parse_count
from kanary.files import read_tensors, write_tensors
from kanary.text.labelled import labelled

VOCABULARY = 3072
TOKENIZER_DOCUMENTS = 60_000
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}  # ids 0, 1, 2
WINDOW, BATCH = 256, 32  # tokens per window, windows per step
LONG_EVERY = 4  # one step in four reads windows of twice the length, half as many
PRACTICE = (
    "arithmetic",
    "honesty",
)  # a fifth of the documents are extra ones of these, whose steps are harder to learn
HELD_OUT = 20  # documents with id % 20 == 19 are never trained on, as in every Kanary run
SHAPE = {
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
MUON_LR, ADAM_LR, WARMUP, DECAY = 0.02, 3e-3, 100, 0.3  # steps; share of training in which the rates fall to zero


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", type=parse_count, default=parse_count("30M"))
    parser.add_argument("--from", dest="trunk", type=Path, help="the OUT of a shorter run to go on from")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.trunk and not (args.out / "log.jsonl").exists():
        branch(args.trunk, args.out)
    tokenizer = load_or_train_tokenizer(args.out)
    train(args.out, tokenizer, args.tokens // (WINDOW * BATCH), torch.device(args.device))


def branch(shorter: Path, out: Path) -> None:
    """Makes ``out`` what a longer run would have been where ``shorter`` let its learning rate fall."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(shorter / name, out / name)
    shutil.copy(shorter / "trunk.safetensors", out / "state.safetensors")
    with safe_open(shorter / "trunk.safetensors", "pt") as file:
        step = json.loads(file.metadata()["place"])[0]
    lines = (shorter / "log.jsonl").read_text().splitlines(keepends=True)
    (out / "log.jsonl").write_text("".join(line for line in lines if json.loads(line)["step"] <= step))


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


def windows(tokenizer: Any, start: int, held_out: bool = False) -> Iterator[tuple[Tensor, int]]:
    """``[BATCH, WINDOW]`` token ids and the id of the next document; every document opened by BOS, none left out.

    Held-out batches are of the corpus as it is, the others have :data:`PRACTICE` mixed in.
    """
    buffer: list[int] = []
    records, practice = labelled(start=start), labelled(families=PRACTICE, start=start)
    while True:
        chunk, extra = list(islice(records, 256)), list(islice(practice, 256))
        texts = [r.text for r in chunk if (r.id % HELD_OUT == HELD_OUT - 1) == held_out]
        if not held_out:
            texts += [r.text for r in extra if r.id % 4 == 0]
            random.Random(chunk[0].id).shuffle(texts)
        for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]:
            buffer += [tokenizer.bos_token_id, *ids]
        while len(buffer) >= BATCH * WINDOW:
            yield torch.tensor(buffer[: BATCH * WINDOW]).view(BATCH, WINDOW), chunk[-1].id + 1
            del buffer[: BATCH * WINDOW]


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
        torch.optim.Muon(inside, lr=MUON_LR, momentum=0.95, weight_decay=0.01),
        torch.optim.AdamW(others, lr=ADAM_LR, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def rate(step: int, steps: int) -> float:
    """Share of the peak rates: up, level, and down to zero at the end."""
    return min(1.0, (step + 1) / WARMUP, (steps - step) / (steps - falls_from(steps)))


def falls_from(steps: int) -> int:
    """The step from which the rates fall."""
    return steps - max(1, round(DECAY * steps))


def train(out: Path, tokenizer: Any, steps: int, device: torch.device) -> None:
    model = new_model(tokenizer).to(device)
    steppers = optimizers(model)
    state, log = out / "state.safetensors", out / "log.jsonl"
    step, document, seconds = restore(state, model, steppers)
    stream = windows(tokenizer, document)
    held_out = [batch for batch, _ in islice(windows(tokenizer, 0, held_out=True), 8)]
    loss_of = torch.compile(functools.partial(next_token_loss, model))
    began = time.monotonic()
    while step < steps:
        batch, document = next(stream)
        if step % LONG_EVERY == 0:
            batch = batch.view(BATCH // 2, 2 * WINDOW)
        loss = loss_of(batch.to(device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for stepper, peak in zip(steppers, (MUON_LR, ADAM_LR), strict=True):
            for group in stepper.param_groups:
                group["lr"] = peak * rate(step, steps)
            stepper.step()
            stepper.zero_grad(set_to_none=True)
        step += 1
        spent = seconds + time.monotonic() - began
        if step % 50 == 0 or step == steps:
            line = {"step": step, "tokens": step * WINDOW * BATCH, "loss": loss.item(), "seconds": round(spent)}
            if step % 250 == 0 or step == steps:
                with torch.no_grad():
                    losses = [loss_of(batch.to(device)).item() for batch in held_out]
                line["held_out_loss"] = math.fsum(losses) / len(losses)
            with log.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(line, flush=True)
        if step == falls_from(steps):
            save(out / "trunk.safetensors", model, steppers, step, document, spent)
        if step % 100 == 0:
            save(state, model, steppers, step, document, spent)
    model.to(torch.bfloat16).save_pretrained(out)
    model.config.dtype = "float32"  # what it is read as: bfloat16 is slow on most CPUs
    model.config.save_pretrained(out)
    state.unlink(missing_ok=True)


def next_token_loss(model: Any, batch: Tensor) -> Tensor:
    """Nats per token of ``[windows, tokens]``."""
    with torch.autocast(batch.device.type, dtype=torch.bfloat16):
        logits = model(batch[:, :-1]).logits
    return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())


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
