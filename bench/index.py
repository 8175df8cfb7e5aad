"""How fast the features of an SAE are indexed, beside reading and encoding the same text and doing nothing with it.

    python bench/index.py --json

The model that comes with Kanary reads the labelled corpus (or ``--model`` and ``--text``); the SAE (``--width 2048 --k 32``,
TopK, behind block 4 of 6) has the weights that training would begin with. In turn, ``--rounds`` times:

- ``harvest and encode``: text to windows, the model up to the SAE's site, ``sae.encode``.
- ``index``: the whole of ``kanary index`` on as many tokens, the model's loading and the files' checksums included, without
  effects and concepts. Target: ``x_harvest`` >= 0.70.

``x_harvest`` is the index's rate by that of ``harvest and encode`` in the same round, the median over the rounds;
``x_harvest_cpu`` the same in processor seconds, all threads added, for a machine that is busy with other work.
``added_mb`` is what the index adds to the process' most memory after harvest and encode. ``bytes_per_feature`` is its folder
by its latents, ``bytes_per_token`` what the text takes of that, by its tokens.

- ``effects``: ``tokens_s`` that the model reads without a latent, on some of the index's examples.
- ``read``: ``FeatureIndex.open(folder)[i].to_json()`` of an index of ``--latents 65536`` made-up latents with 40 examples of
  128 tokens each: milliseconds, the median over 200 latents drawn at random, opened anew every time; ``cpu_ms`` the same in
  processor time. Target: < 5.
"""

import argparse
import json
import random
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harvest import median_ratio, timed
from train_step import peak_mb

import kanary
from kanary.activations.source import resolve_lm_batch
from kanary.evaluation.standin import Calibration
from kanary.features.arrays import write_arrays
from kanary.features.effects import Effects, strongest
from kanary.features.examples import Ragged, pairs_of, traces, write_examples
from kanary.features.index import COLUMNS, EXAMPLES, META, TEXT, FeatureIndex
from kanary.features.reading import Pass, Reading
from kanary.features.selection import BINS, INTERVALS, Chosen, Selection, Totals
from kanary.features.spool import Chunk, Codes
from kanary.features.text import write_text
from kanary.lm import LanguageModel, load_model
from kanary.sae import SAE
from kanary.text import TextSource, Windows, open_text
from kanary.training.config import TrainConfig
from kanary.training.learner import begin


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--tokens", type=int, default=200_000)
    parser.add_argument("--effects", type=int, default=500, help="examples without their latent")
    parser.add_argument("--latents", type=int, default=65_536, help="of the index that is only read")
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lm, text = load_model(args.model, device="cpu"), open_text(args.text)
        run = Path(folder) / "run"
        sae = made_sae(lm, text, args)
        sae.save_pretrained(run / "sae")
        for line in (
            *speed(lm, text, sae, run, args),
            effects(lm, text, sae, Path(folder), args),
            read(lm, Path(folder), args),
        ):
            print(json.dumps(line) if args.json else in_words(line), flush=True)


def options(doc: str | None) -> argparse.ArgumentParser:
    """What every bench takes that works with :func:`made_sae`; its own options are added to these."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--text", default="labelled")
    parser.add_argument("--site", default="resid_post.3")
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--window", type=int, default=128)
    parser.add_argument("--json", action="store_true", help="JSON lines instead of sentences")
    return parser


def made_sae(lm: LanguageModel, text: TextSource, args: argparse.Namespace) -> SAE:
    """With the weights that training begins with."""
    calibration = Calibration(lm.width(args.site))
    windows = Windows(text, lm, window=args.window, batch=32, part="all")
    for _ in range(4):
        batch = next(windows)
        calibration.add(lm.capture(batch.tokens, [args.site])[args.site][~batch.special])
    known = {"site": args.site, "model": args.model, "text": args.text, "window": args.window}
    sae = SAE(TrainConfig(sae="topk", width=args.width, k=args.k).sae_config(lm.width(args.site), known))
    begin(sae, calibration.sample, "median", 0)
    sae.remember(**known)
    return sae


def speed(lm: LanguageModel, text: TextSource, sae: SAE, run: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    plain, indexed, counted, memory = [], [], 0, 0.0
    for _ in range(args.rounds):
        plain.append(timed(lambda: harvest(lm, text, sae, args), lm.device))
        before = peak_mb()
        shutil.rmtree(run / "index", ignore_errors=True)
        indexed.append(timed(lambda: index(run, args), lm.device))
        memory = max(memory, peak_mb() - before)
        counted = FeatureIndex.open(run).meta["tokens"]
    folder = FeatureIndex.open(run).folder
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    clock, processor = ([each[i] for each in plain] for i in (0, 1))
    mine, mine_cpu = ([each[i] for each in indexed] for i in (0, 1))
    about = {
        "width": sae.d_sae,
        "k": args.k,
        "window": args.window,
        "tokens": counted,
        "n": args.rounds,
        "threads": torch.get_num_threads(),
    }
    return [
        {"case": "harvest and encode", "tokens_s": round(counted / statistics.median(clock)), **about},
        {
            "case": "index",
            "x_harvest": round(median_ratio(clock, mine), 3),
            "x_harvest_cpu": round(median_ratio(processor, mine_cpu), 3),
            "tokens_s": round(counted / statistics.median(mine)),
            "peak_mb": round(peak_mb()),
            "added_mb": round(memory),
            "bytes_per_feature": round(sum(sizes.values()) / sae.d_sae),
            "bytes_per_token": round(sizes[TEXT] / counted, 2),
            **about,
        },
    ]


@torch.no_grad()
def harvest(lm: LanguageModel, text: TextSource, sae: SAE, args: argparse.Namespace) -> None:
    read = 0
    for batch in Windows(text, lm, window=args.window, batch=resolve_lm_batch(0, args.window, "cpu"), part="all"):
        x = lm.capture(batch.tokens, [args.site])[args.site]
        sae.encode(x[~batch.special])
        read += batch.n_tokens
        if read >= args.tokens:
            return


def index(run: Path, args: argparse.Namespace) -> None:
    kanary.index(run, quiet=True, tokens=args.tokens, part="all", effects="none", concept_tokens=0, device="cpu")


def effects(lm: LanguageModel, text: TextSource, sae: SAE, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The strongest examples of some latents, on one chunk of text."""
    reading = Reading("all", args.window, resolve_lm_batch(0, args.window, "cpu"), 2**16)
    (folder / "work").mkdir()
    done = Pass(lm, text, [sae], reading, folder / "work", {})
    done.run(lambda _: None)
    totals = Totals(sae.d_sae)
    chunk = next(done.chunks())
    totals.add(chunk)
    selection = Selection(totals.maximum, 5, 0)
    selection.add(chunk)
    chosen = selection.result()
    pairs = pairs_of(chosen, args.window)
    wanted = strongest(chosen, pairs, 5)
    wanted = wanted[np.linspace(0, len(wanted) - 1, min(args.effects, len(wanted))).astype(np.int64)]
    wanted = wanted[pairs.windows[wanted] < len(chunk.tokens)]
    work = Effects(lm, sae, pairs, traces(pairs, [chunk]))
    clock, processor = timed(lambda: work.of(chunk, wanted, lambda _: None), lm.device)
    tokens = len(wanted) * args.window
    threads = torch.get_num_threads()
    rates = {"tokens_s": round(tokens / clock), "tokens_cpu_s": round(tokens / processor)}
    return {"case": "effects", "examples": len(wanted), **rates, "threads": threads}


def read(lm: LanguageModel, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    made = made_up(lm, folder / "made-up", args.latents)
    draw = random.Random(0)
    taken = []
    for _ in range(200):
        latent = draw.randrange(args.latents)
        taken.append(timed(lambda: FeatureIndex.open(made)[latent].to_json(), torch.device("cpu")))  # noqa: B023
    size = sum(path.stat().st_size for path in made.iterdir())
    clock, processor = (sorted(1e3 * each[i] for each in taken) for i in (0, 1))
    return {
        "case": "read",
        "latents": args.latents,
        "ms": round(statistics.median(clock), 2),
        "ms_p90": round(clock[180], 2),
        "cpu_ms": round(statistics.median(processor), 2),
        "mb": round(size / 1e6),
    }


def made_up(lm: LanguageModel, folder: Path, latents: int, examples: int = 40, windows: int = 4096) -> Path:
    """An index of ``latents`` latents with ``examples`` examples each, which fire on every twelfth token of their windows."""
    folder.mkdir()
    draw, window = np.random.default_rng(0), 128
    shape = (windows, window)
    tokens = draw.integers(3, lm.vocab_size, shape, dtype=np.int32)
    nothing = Codes(np.zeros(tokens.size, np.int32), np.zeros(0, np.uint16), np.zeros(0, np.float32))
    documents = np.repeat(np.arange(windows)[:, None], window, 1)
    chunk = Chunk(0, tokens, documents, np.tile(np.arange(window, dtype=np.int32), (windows, 1)), nothing)
    vocabulary = [f" word{i}".encode() for i in range(lm.vocab_size)]
    write_text(folder / TEXT, lambda: iter([chunk]), windows, window, vocabulary)
    n = latents * examples
    places = draw.integers(0, tokens.size, n)
    bits = (1 << draw.integers(0, INTERVALS + 1, n)).astype(np.uint16)
    values = draw.random(n, np.float32)
    chosen = Chosen(np.repeat(np.arange(latents), examples), places, values, bits)
    shown = Ragged(np.arange(n + 1) * 10, np.tile(np.arange(0, 120, 12), n), np.repeat(values, 10))
    write_examples(folder / EXAMPLES, chosen, window, latents, shown, shown)
    three = draw.integers(0, latents, (latents, 3), dtype=np.int32)
    numbers = draw.random((latents, 3), np.float32)
    ten, weights = three[:, [0] * 10] % lm.vocab_size, numbers[:, [0] * 10]
    columns = {"fired": np.full(latents, 1000), "maximum": values[:latents], "total": np.ones(latents)}
    columns |= {"histogram": np.ones((latents, BINS), np.int32), "logit_counts": np.ones((latents, 40), np.int32)}
    columns |= {"logit_range": numbers[:, :2], "similar": three, "similar_cosines": numbers, "correlated": three}
    columns |= {"correlated_correlations": numbers, "neurons_aligned": three, "neurons_aligned_values": numbers}
    columns |= {f"logit_{name}": values[:latents] for name in ("mean", "std", "skewness", "kurtosis")}
    columns |= {f"logit_{end}_tokens": ten for end in ("high", "low")}
    columns |= {f"logit_{end}_values": weights for end in ("high", "low")}
    write_arrays(folder / COLUMNS, columns)
    sae = {"run": "made-up", "name": "made-up", "digest": "", "model": "", "site": "", "where": ""}
    meta: dict[str, Any] = {"format": 1, "sae": sae, "files": {}, "correlated": {"exact": True, "tokens": tokens.size}}
    meta |= {"neurons": "made-up", "tokens": tokens.size, "windows": windows, "window": window, "special_ids": [0]}
    meta |= {"functions": [], "twins": [], "concepts": []}
    (folder / META).write_text(json.dumps(meta))
    return folder


def in_words(line: dict[str, Any]) -> str:
    return f"{line['case']:>18}: " + ", ".join(f"{key} {value}" for key, value in line.items() if key != "case")


if __name__ == "__main__":
    main()
