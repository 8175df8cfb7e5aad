"""Times a training step as a multiple of one bare encode matmul of the same size, measured beside it in the same process.

    python bench/train_step.py                     # every kind of SAE
    python bench/train_step.py --sae topk --json   # one kind, one JSON line

After each step one ``[batch, d] @ [d, width]`` runs into a ready buffer, so that ``x_gemm`` (median step / median matmul)
can be compared between machines and under load; ``tok_s`` can not.

The kinds without top-k cost more the more latents fire. ``--case settled`` has brought L0 to ``--k``, where a real run
spends nearly all its time; ``start`` leaves it as training starts; ``dense`` makes half of all latents fire, as in SAEs
that start untuned: then full matrices are used.
"""

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Iterator

import torch
from torch.nn.functional import normalize

from kanary.sae import SAE
from kanary.training.config import TrainConfig
from kanary.training.learner import Learner, begin

KINDS = ("topk", "batchtopk", "relu", "jumprelu", "gated")
WARMUP = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sae", choices=KINDS, action="append", help="which kinds (default: all)")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--case", choices=["settled", "start", "dense"], default="settled")
    for name, default in {"d": 512, "width": 8192, "k": 32, "batch": 4096, "steps": 20, "threads": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", action="store_true", help="one JSON line per case")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for kind in arguments.sae or KINDS:
        case = time_steps(kind, arguments)
        print(json.dumps(case) if arguments.json else in_words(case), flush=True)


def time_steps(kind: str, a: argparse.Namespace) -> dict[str, object]:
    """One kind's case."""
    batches = list(make_batches(a.d, a.batch))
    options = {"k": a.k} if kind in ("topk", "batchtopk") else {}
    config = TrainConfig(
        sae=kind, width=a.width, batch=a.batch, tokens=a.batch * 1000, precision=a.precision, **options
    )
    torch.manual_seed(0)
    sae = SAE(config.sae_config(a.d))
    begin(sae, batches[0], "median", 0)
    if kind not in ("topk", "batchtopk") and a.case != "start":
        bring_to(sae, batches[0], a.width / 2 if a.case == "dense" else a.k)
    learner = Learner(sae, config)
    weight, out = torch.randn(a.width, a.d), torch.empty(a.batch, a.width)
    steps: list[float] = []
    matmuls: list[float] = []
    l0 = []
    before = peak_mb()
    for i in range(WARMUP + a.steps):
        x = batches[i % len(batches)]
        began = time.perf_counter()
        l0.append(learner.step(x, i).l0)
        steps.append(time.perf_counter() - began)
        began = time.perf_counter()
        torch.matmul(x, weight.T, out=out)
        matmuls.append(time.perf_counter() - began)
    step, matmul = statistics.median(steps[WARMUP:]), statistics.median(matmuls[WARMUP:])
    return {
        "bench": "train_step",
        "sae": kind,
        "case": a.case,
        "precision": a.precision,
        "x_gemm": round(step / matmul, 2),
        "step_s": round(step, 4),
        "gemm_s": round(matmul, 4),
        "tok_s": round(a.batch / step),
        "l0": round(statistics.median(l0[WARMUP:]), 1),
        "added_mb": round(peak_mb() - before),
        "peak_mb": round(peak_mb()),
        "n": a.steps,
        **{key: getattr(a, key) for key in ("d", "width", "k", "batch", "threads")},
    }


def make_batches(
    d: int, batch: int, count: int = 6, directions: int = 2000, active: int = 15
) -> Iterator[torch.Tensor]:
    """Sparse sums of random unit directions, about ``active`` of them per token: ``[batch, d]`` each."""
    draw = torch.Generator().manual_seed(0)
    basis = normalize(torch.randn(directions, d, generator=draw), dim=1)
    for _ in range(count):
        on = torch.rand(batch, directions, generator=draw) < active / directions
        yield (on * (torch.rand(batch, directions, generator=draw) + 0.5)) @ basis


@torch.no_grad()
def bring_to(sae: SAE, x: torch.Tensor, l0: float) -> None:
    """Shifts every latent so that ``l0`` of them fire per token."""
    z = sae.standardise(x[:2048]) - sae.decoder.b_dec
    cutoff = sae.sparsifier.start()[1]
    rank = max(1, len(z) - round(len(z) * l0 / sae.d_sae))
    for some in torch.arange(sae.d_sae).split(1024):
        amount = torch.zeros(sae.d_sae)
        amount[some] = cutoff - sae.encoder(z, latents=some).kthvalue(rank, dim=0).values
        sae.encoder.raise_by(amount)


def peak_mb() -> float:
    """Largest memory this process has had so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 if sys.platform != "darwin" else peak / 2**20


def in_words(case: dict[str, object]) -> str:
    return (
        f"{case['sae']:>10} {case['precision']}: {case['x_gemm']} x the encode matmul "
        f"({case['step_s']} s, {case['tok_s']:,} tok/s) at L0 {case['l0']}, {case['added_mb']} MB added"
    )


if __name__ == "__main__":
    main()
