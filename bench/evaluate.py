"""How fast SAEs are evaluated, beside the model's own bare forward over the same windows.

    OMP_NUM_THREADS=1 python bench/evaluate.py --json

The random Llama of bench/harvest.py (``--d-model 512 --layers 8``, a vocabulary of 4,096) or ``--model FOLDER`` reads
windows of text (``--text FILE``, or made-up words), tokenised before the clock starts. The SAE (``--sae topk --k 32``, 8
latents per dimension) lies behind the middle layer and has the weights that training would begin with. In turn,
``--rounds`` times:

- ``forward``: the whole model, logits included, no hooks.
- ``losses``: every number of one SAE, with its losses; no controls. Target: ``x_forward`` >= 0.25.
- ``losses and controls``: the same beside the SAE's four controls.
- ``statistics``: every number of one SAE but the losses. Target: ``x_forward`` >= 0.70.
- ``statistics of 4 SAEs``: the same for ``--saes`` of them at once.

``x_forward`` is the evaluation's rate by that of ``forward``, the median over the rounds; ``x_forward_cpu`` the same in
processor seconds, all threads added, for a machine that is busy with other work (meaningful with OMP_NUM_THREADS=1, since
idle threads spin). ``tokens_s`` counts ordinary tokens, ``sae_tokens_s`` those times the SAEs. ``result_s`` is what the
numbers and their intervals take at the end, once, however many tokens there were. The first round warms up.

``peak_mb`` is the process' most memory. ``added_mb_per_10_percent`` is what ``statistics`` added to it when a run of
``--batches`` forwards went on, for every tenth of those forwards (target: 0).
"""

import argparse
import json
import statistics
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from harvest import full, made_up_text, median_ratio, random_llama, timed
from torch import Tensor
from train_step import KINDS, peak_mb

from kanary.activations.source import resolve_lm_batch
from kanary.evaluation.measure import Measurement
from kanary.evaluation.standin import Calibration, Spliced, StandIn, controls
from kanary.lm import LanguageModel, load_model
from kanary.sae import SAE
from kanary.text import TextSource, Windows, open_text
from kanary.training.config import TrainConfig
from kanary.training.learner import begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None, help="folder of a model (default: a random Llama)")
    parser.add_argument("--text", default=None, help="file of text (default: made-up words)")
    parser.add_argument("--d-model", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--site", default=None, help="default: resid_post of the layer before the middle")
    parser.add_argument("--sae", choices=KINDS, default="topk")
    parser.add_argument("--width", type=int, default=0, help="latents (default: 8 per dimension of the model)")
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--saes", type=int, default=4, help="SAEs in the case of several at once")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--lm-batch", type=int, default=0)
    parser.add_argument("--batches", type=int, default=1, help="forwards per measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="JSON lines instead of sentences")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = args.model or random_llama(Path(folder) / "model", args.d_model, args.layers)
        text = open_text(args.text or made_up_text(Path(folder) / "words.txt"))
        lm = load_model(model, dtype=args.dtype, device=args.device)
        for line in measured(lm, text, args):
            print(json.dumps(line) if args.json else in_words(line))


class Bench:
    """What is evaluated, and on what."""

    def __init__(self, lm: LanguageModel, text: TextSource, args: argparse.Namespace) -> None:
        self.lm, self.window = lm, args.window
        self.site = args.site or f"resid_post.{lm.n_layers // 2 - 1}"
        self.lm_batch = resolve_lm_batch(args.lm_batch, args.window, lm.device.type)
        stream = Windows(text, lm, window=args.window, batch=self.lm_batch, part="all", repeat=True)
        self.batches = [next(stream) for _ in range(args.batches)]
        self.tokens = sum(batch.n_tokens for batch in self.batches)
        calibration = Calibration(lm.width(self.site))
        for batch in self.batches:
            calibration.add(lm.capture(batch.tokens, [self.site])[self.site][~batch.special.to(lm.device)])
        self.mean = calibration.mean
        self.saes = {f"sae{seed}": self._sae(calibration.sample, seed, args) for seed in range(args.saes)}
        self.first = {"sae0": self.saes["sae0"]}
        self.controls, _ = controls({"sae0": self.saes["sae0"].sae}, {self.site: calibration}, 0)

    def _sae(self, sample: Tensor, seed: int, args: argparse.Namespace) -> Spliced:
        d_model = sample.shape[1]
        options = {"k": args.k} if args.sae in ("topk", "batchtopk") else {}
        config = TrainConfig(sae=args.sae, width=args.width or 8 * d_model, **options)
        sae = SAE(config.sae_config(d_model, {"site": self.site})).to(self.lm.device)
        begin(sae, sample, "median", seed)
        return Spliced(self.site, sae)

    def begin(self, case: "Case") -> Measurement:
        means = {self.site: self.mean}
        return Measurement(self.lm, case.saes, case.controls, means, window=self.window, losses=case.losses)

    def go_on(self, found: Measurement, case: "Case") -> None:
        """Takes every batch once."""
        for batch in self.batches:
            found.add(batch, controls=case.losses)


class Case(NamedTuple):
    saes: dict[str, Spliced]
    controls: dict[str, StandIn]
    losses: bool


def measured(lm: LanguageModel, text: TextSource, args: argparse.Namespace) -> list[dict[str, Any]]:
    bench = Bench(lm, text, args)
    alone = Case(bench.first, {}, False)
    added = added_mb(bench, alone)  # first, because the other cases take more
    cases = {
        "losses": Case(bench.first, {}, True),
        "losses and controls": Case(bench.first, bench.controls, True),
        "statistics": alone,
        f"statistics of {args.saes} SAEs": Case(bench.saes, {}, False),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ("forward", *cases)}
    begun = {name: bench.begin(case) for name, case in cases.items()}
    for number in range(args.rounds + 1):
        taken = {"forward": timed(lambda: full(lm, [batch.tokens.to(lm.device) for batch in bench.batches]), lm.device)}
        for name, case in cases.items():
            taken[name] = timed(partial(bench.go_on, begun[name], case), lm.device)
        if number:  # what is done once, for the first batch, does not count
            for name, each in taken.items():
                times[name].append(each)
    results = {name: timed(partial(finish, found), lm.device)[0] for name, found in begun.items()}
    about = {
        "site": bench.site,
        "layers": lm.n_layers,
        "d_model": lm.d_model,
        "vocab": lm.vocab_size,
        "sae": args.sae,
        "width": bench.saes["sae0"].sae.d_sae,
        "window": args.window,
        "lm_batch": bench.lm_batch,
        "dtype": str(lm.dtype).removeprefix("torch."),
        "device": lm.device.type,
        "tokens": bench.tokens,
        "n": args.rounds,
        "threads": torch.get_num_threads(),
        "added_mb_per_10_percent": round(added, 2),
        "peak_mb": round(peak_mb()),
    }
    lines: list[dict[str, Any]] = []
    forward, forward_cpu = zip(*times["forward"], strict=True)
    for name in times:
        clock, processor = zip(*times[name], strict=True)
        rate = bench.tokens / statistics.median(clock)
        line = {
            "case": name,
            "x_forward": round(median_ratio([*forward], [*clock]), 3),
            "x_forward_cpu": round(median_ratio([*forward_cpu], [*processor]), 3),
            "tokens_s": round(rate),
        }
        if name in cases:
            line |= {"sae_tokens_s": round(rate * len(cases[name].saes)), "result_s": round(results[name], 2)}
        lines.append(line | about)
    return lines


def added_mb(bench: Bench, case: Case, more: int = 3) -> float:
    """MB that each further tenth of the tokens adds, over ``more`` times as many tokens."""
    found = bench.begin(case)
    for _ in range(2):  # what is allocated once has been
        bench.go_on(found, case)
    before = peak_mb()
    for _ in range(more):
        bench.go_on(found, case)
    return (peak_mb() - before) / (10 * more)


def finish(found: Measurement) -> None:
    found.result()


def in_words(line: dict[str, Any]) -> str:
    saes = f", {line['sae_tokens_s']:,} times the SAEs" if "sae_tokens_s" in line else ""
    return (
        f"{line['case']:>22}: {line['x_forward']} x the forward ({line['x_forward_cpu']} in processor time), "
        f"{line['tokens_s']:,} tok/s{saes}"
    )


if __name__ == "__main__":
    main()
