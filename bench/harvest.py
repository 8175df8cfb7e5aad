"""How fast activations are harvested, beside the model's own bare forward.

    python bench/harvest.py --json

A random Llama (``--d-model 512 --layers 8``) or ``--model FOLDER`` reads windows of text (``--text FILE``, or made-up
words). In turn, ``--rounds`` times:

- ``forward``: the windows, tokenised before the clock starts, through the model with one plain hook that raises at the
  site. This is the least that any harvest can cost.
- ``full``: the same windows through the whole model, logits included.
- ``live``: our pools from the text: tokenising, the forward, special tokens left out, checked for NaN;
  without and with the background thread.
- ``store``: the same and written to disk with checksums.

``x_forward`` is ours by the bare truncated forward and ``x_full`` ours by the full one, both in ordinary tokens/s and the
median over the rounds. ``x_forward_cpu`` is ``x_forward`` in processor seconds, all threads added, for a machine that is
busy with other work (meaningful with OMP_NUM_THREADS=1, since idle threads spin). ``peak_mb`` is the process' most memory.
"""

import argparse
import json
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from kanary.activations.harvest import HarvestConfig, harvest
from kanary.activations.live import LiveActivations
from kanary.lm import LanguageModel, load_model
from kanary.text import TextSource, Windows, open_text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None, help="folder of a model (default: a random Llama)")
    parser.add_argument("--text", default=None, help="file of text (default: made-up words)")
    parser.add_argument("--d-model", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--site", default=None, help="default: resid_post of the layer before the middle")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--lm-batch", type=int, default=0)
    parser.add_argument("--batches", type=int, default=3, help="forwards per measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="only the JSON lines")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = args.model or random_llama(Path(folder) / "model", args.d_model, args.layers)
        text = open_text(args.text or made_up_text(Path(folder) / "words.txt"))
        lm = load_model(model, dtype=args.dtype, device=args.device)
        site = args.site or f"resid_post.{lm.n_layers // 2 - 1}"
        for line in measured(lm, text, site, args, Path(folder)):
            print(json.dumps(line))


def measured(lm: LanguageModel, text: TextSource, site: str, args: Any, folder: Path) -> list[dict[str, Any]]:
    options = {"window": args.window, "lm_batch": args.lm_batch}
    source = LiveActivations(lm, text, [site], **options)
    stream = Windows(text, lm, window=args.window, batch=source.lm_batch, repeat=True)
    windows = [next(stream) for _ in range(args.batches)]
    rows = sum(batch.n_tokens for batch in windows)
    tokens = [batch.tokens.to(lm.device) for batch in windows]
    stores = iter(range(10**6))

    def live(overlap: bool) -> None:
        source = LiveActivations(lm, text, [site], pool=-(-rows // 2), tokens=rows, overlap=overlap, **options)
        assert sum(len(pool) for pool in source.pools()) == rows

    def store() -> None:
        out = folder / f"store{next(stores)}"
        harvest(HarvestConfig(site=site, out=out, tokens=rows, shard=-(-rows // 2), **options), lm, text, quiet=True)

    cases: dict[str, Callable[[], None]] = {
        "forward": lambda: bare(lm, site, tokens),
        "full": lambda: full(lm, tokens),
        "live": lambda: live(overlap=False),
        "live in the background": lambda: live(overlap=True),
        "store": store,
    }
    rates: dict[str, list[float]] = {name: [] for name in cases}
    cpu_rates: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(args.rounds + 1):
        for name, run in cases.items():
            seconds, processor = timed(run, lm.device)
            if number:  # the first warms up
                rates[name].append(rows / seconds)
                cpu_rates[name].append(rows / processor)
    sizes = {
        "site": site,
        "layers": lm.n_layers,
        "d_model": lm.d_model,
        "window": args.window,
        "lm_batch": source.lm_batch,
        "dtype": str(lm.dtype).removeprefix("torch."),
        "device": lm.device.type,
        "tokens": rows,
        "n": args.rounds,
        "threads": torch.get_num_threads(),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    return [
        {
            "case": name,
            "x_forward": round(median_ratio(rates[name], rates["forward"]), 3),
            "x_full": round(median_ratio(rates[name], rates["full"]), 3),
            "x_forward_cpu": round(median_ratio(cpu_rates[name], cpu_rates["forward"]), 3),
            "tokens_s": round(statistics.median(rates[name])),
        }
        | sizes
        for name in cases
    ]


def median_ratio(ours: list[float], theirs: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def timed(run: Callable[[], None], device: torch.device) -> tuple[float, float]:
    start, processor = time.perf_counter(), time.process_time()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, time.process_time() - processor


class Stop(Exception):
    pass


@torch.no_grad()
def bare(lm: LanguageModel, site: str, tokens: list[torch.Tensor]) -> None:
    def stop(*_: Any) -> None:
        raise Stop

    handle = lm.model.get_submodule(lm.site(site).path).register_forward_hook(stop)
    for batch in tokens:
        try:
            lm.model(batch, use_cache=False)
        except Stop:
            continue
    handle.remove()


@torch.no_grad()
def full(lm: LanguageModel, tokens: list[torch.Tensor]) -> None:
    for batch in tokens:
        lm.model(batch, use_cache=False)


def random_llama(folder: Path, d_model: int, layers: int) -> Path:
    """A random Llama with a vocabulary of bytes and common words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=4096, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    trainer.show_progress = False
    tokenizer.train_from_iterator(["".join(made_up_words(20_000))], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    config = LlamaConfig(
        vocab_size=max(4096, len(fast)),
        hidden_size=d_model,
        intermediate_size=d_model * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=d_model // 64,
        num_key_value_heads=d_model // 64,
        max_position_embeddings=2048,
        bos_token_id=0,
        eos_token_id=1,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def made_up_text(path: Path) -> Path:
    words = made_up_words(200_000)
    path.write_text("\n\n".join("".join(words[a : a + 300]) for a in range(0, len(words), 300)))
    return path


def made_up_words(n: int) -> list[str]:
    chance = random.Random(0)
    syllables = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
    known = ["".join(chance.choices(syllables, k=chance.randint(1, 4))) for _ in range(3000)]
    return [" " + word for word in chance.choices(known, k=n)]


if __name__ == "__main__":
    main()
