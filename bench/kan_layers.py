"""What each KAN part costs: time and memory of an SAE that has it, as a ratio to ``nn.Linear`` + TopK in the same run.

    python bench/kan_layers.py --json                          # every part, one JSON line each
    python bench/kan_layers.py --parts kan-node kan-bend       # some of them
    python bench/kan_layers.py --device cuda --d 2048 --width 16384 --batch 4096   # on a GPU
    python bench/kan_layers.py --arithmetic                    # parameters, bytes and FLOPs for Llama-3.2-1B, no timing

A round takes, one directly after the other, one forward and backward (encode, TopK, decode, mean squared error, all weight
gradients; no optimiser) over the same batch of

- ``plain``: what one writes with torch alone: ``nn.Linear``, ``torch.topk``, ``embedding_bag``, autograd. It is no straw
  man: its decoder touches active latents only, and no gradient is computed for its input.
- ``linear``: our own linear SAE with TopK, whose weight gradients are sparse too.
- the part, in place of the encoder or the decoder of ``linear``. Its functions are not zero and its grids have followed
  the data, so that nothing is spared that training would need.

``ratio`` is the part's time by that of ``plain``, ``ratio_sae`` by that of ``linear``: medians of the quotients within a
round, which a machine's moods change less than times. The targets are stated for ``ratio``, "to ``nn.Linear`` + TopK in the
same run", and ``met`` is about it. But our linear SAE is much faster than ``plain``, and what a part costs beyond it is what
one pays for choosing that part: this is ``ratio_sae``, and ``met_sae`` says whether it keeps the same target. ``ratio_cpu``
is ``ratio_sae`` in processor time, for a machine that is busy with other work (with ``--threads 1``, since idle threads
spin).

``flop_ratio`` is the arithmetic of ``COSTS`` for these sizes, forward and backward, by that of the linear SAE.
``peak_mb`` is how much more memory a process of its own held at most than before it built the SAE: weights, their gradients
and all that lies between, no optimiser state.

With ``--device cuda`` everything runs on a GPU, ``peak_mb`` is its memory, and the parts that have Triton kernels run once more
in every round without them: ``ratio_torch`` is the part's time by that.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from harvest import median_ratio, timed
from sympy import Symbol, sympify
from torch import Tensor, nn
from torch.nn import functional as F
from train_step import make_batches, peak_mb

from kanary.kernels import Pattern
from kanary.kernels.fused import VARIABLE
from kanary.sae import SAE, SAEConfig
from kanary.sae.parts import DECODERS, ENCODERS, import_parts
from kanary.training.learner import begin

SIZES = {"d": 512, "width": 4096, "batch": 2048, "k": 32}
WARMUP = 2  # rounds
TARGETS = {"kan-node": 1.15, "kan-gain": 1.15, "kan-bend": 1.15, "kan-curve": 1.5, "kan-edge": 7.0}
FLOP_TARGETS = {"kan-hidden": 1.2}  # of the part's FLOP ratio
ON_TRITON = ("kan-bend", "kan-curve", "kan-edge")  # see kanary.kernels.fused


class Cost(NamedTuple):
    """What a part costs beyond the linear one in whose place it stands: formulas, see :func:`of`.

    d: d_model, n: latents, k: active ones per token, G: knots, h: hidden units, R: rounds of corrections with C
    candidates per active latent. FLOPs are per token; a multiplication and an
    addition are two. Products with weights are counted in full, and of what is done to every number only the evaluation of
    functions: 8 for a piecewise linear one, 30 for a cubic one, as many for its gradients. Parts have their default options.
    """

    parameters: str
    forward: str
    backward: str


LINEAR = Cost("2*d*n + n + d", "2*d*n + 2*d*k", "6*d*k")  # the whole SAE: gradients of both weights, and of the codes
COSTS = {
    "linear": Cost("0", "0", "0"),
    "mlp": Cost("h*(d + 1) + n*h", "2*d*h + 2*n*h", "2*d*h + 4*k*h"),
    "kan-hidden": Cost("h*(d + 1 + G) + n*h", "2*d*h + 2*n*h + 8*h", "2*d*h + 4*k*h + 8*h"),
    "refine": Cost("n*R", "2*R*d*k*(1 + C)", "4*R*d*k*(1 + C)"),
    "kan-node": Cost("n*(G - 1)", "8*k", "8*k"),
    "kan-edge": Cost("n*d*G", "2*d*n*G + 30*d", "2*d*k + 4*d*k*G + 30*d"),
    "kan-gain": Cost("n*(G - 1)", "8*k", "8*k"),
    "kan-bend": Cost("n*(d + G - 1)", "2*d*k + 8*k", "4*d*k + 8*k"),
    "kan-curve": Cost("n*d*(G - 1)", "4*d*k + 8*k", "8*d*k + 8*k"),
}
# numbers read and written in rows of d where a part has Triton kernels, t tokens, forward and backward: (torch, Triton)
MOVED = {
    "kan-bend": ("8*t*k*d + 2*n*d", "6*t*k*d + 2*n*d"),
    "kan-curve": ("12*t*k*d + n*d*G", "8*t*k*d + n*d*G"),
    "kan-edge": ("2*t*k*d*G + 5*n*d*G", "t*k*d*G + t*k*d + n*d*G"),
}
TOKENS = 4096
LLAMA = {"d": 2048, "k": 32, "G": 8, "h": 2048, "R": 2, "C": 4}  # Llama-3.2-1B, and the parts' defaults
WIDTHS = (16_384, 65_536)
STATE = 16  # bytes per parameter in training: the weight, its gradient and Adam's two moments, fp32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {**SIZES, "rounds": 15, "threads": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--parts", nargs="+", metavar="PART", help="which encoders and decoders (default: all)")
    parser.add_argument("--json", action="store_true", help="one JSON line per part")
    parser.add_argument("--arithmetic", action="store_true", help="only the tables of docs/kan-cost.md")
    parser.add_argument("--peak", metavar="PART", help=argparse.SUPPRESS)  # this is the process of its own
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.arithmetic:
        print(arithmetic())
    elif arguments.peak:
        print(peak(arguments.peak, arguments))
    else:
        for line in measured(arguments):
            print(json.dumps(line) if arguments.json else in_words(line), flush=True)


def part_names() -> list[str]:
    """Encoders, then decoders, each once; first the linear ones."""
    import_parts()
    return ["linear", *sorted(ENCODERS.keys() - {"linear"}), *sorted(DECODERS.keys() - {"linear"})]


def with_part(name: str, d: int, width: int, k: int) -> SAE:
    """A linear SAE with TopK in which the part ``name`` stands in the place where it can."""
    import_parts()
    parts = {"encoder": {"name": "linear"}, "decoder": {"name": "linear"}}
    parts["encoder" if name in ENCODERS else "decoder"] = {"name": name}
    return SAE(SAEConfig(d, width, sparsifier={"name": "topk", "k": k}, **parts))


def in_training(name: str, x: Tensor, a: argparse.Namespace) -> SAE:
    """:func:`with_part` as it is in the middle of its training on ``x [batch, d]``: grids moved, functions not zero."""
    sae = with_part(name, a.d, a.width, a.k).to(x.device)
    begin(sae, x, "median", 0)
    sae.train()
    for step in range(6):  # of 10: functions join, and their grids stop moving
        for part in (sae.encoder, sae.decoder):
            part.before_step(step, 10)
        codes(sae, sae.standardise(x))
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, weight in sae.named_parameters():
            if not weight.any() and not key.endswith(("b_enc", "b_dec")):
                weight.copy_(0.01 * torch.randn(weight.shape, generator=draw))
    return sae


def codes(sae: SAE, z: Tensor) -> tuple[Tensor, Pattern]:
    """The codes of standardised ``z [batch, d]`` as a training step finds them, and where they are."""
    active = sae.active(z)
    assert active is not None
    assert active.pattern is not None
    values = sae.sparsifier.activate(active)
    for part in (sae.encoder, sae.decoder):
        part.observe(active, values.detach())
    return values, active.pattern


def forward_backward(sae: SAE, z: Tensor) -> None:
    """All gradients of the mean squared error of standardised ``z [batch, d]``."""
    sae.zero_grad(set_to_none=True)
    squared_error(sae.decoder(*codes(sae, z)), z).backward()


def squared_error(z_hat: Tensor, z: Tensor) -> Tensor:
    return F.mse_loss(z_hat, z, reduction="sum") / len(z)


class Plain(nn.Module):
    """A TopK SAE of torch's own operations."""

    def __init__(self, d: int, width: int, k: int) -> None:
        super().__init__()
        self.k = k
        self.encoder = nn.Linear(d, width)
        self.W_dec = nn.Parameter(F.normalize(torch.randn(width, d), dim=1))
        self.b_dec = nn.Parameter(torch.zeros(d))

    def forward_backward(self, z: Tensor) -> None:
        self.zero_grad(set_to_none=True)
        values, latents = self.encoder(z).topk(self.k, dim=1)
        z_hat = F.embedding_bag(latents, self.W_dec, per_sample_weights=values.relu(), mode="sum") + self.b_dec
        squared_error(z_hat, z).backward()


def measured(a: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One line per part."""
    names = part_names()
    unknown = set(a.parts or ()) - set(names)
    if unknown:
        sys.exit(f"There is no part {', '.join(sorted(unknown))}; there are {', '.join(names)}.")
    x = next(make_batches(a.d, a.batch, 1)).to(a.device)
    torch.manual_seed(0)
    plain, linear = Plain(a.d, a.width, a.k).to(a.device), in_training("linear", x, a)
    for name in a.parts or names:
        sae = in_training(name, x, a)
        z = sae.standardise(x)
        runs = {
            "plain": partial(plain.forward_backward, z),
            "linear": partial(forward_backward, linear, z),
            "part": partial(forward_backward, sae, z),
        }
        if name in ON_TRITON and z.is_cuda and find_spec("triton"):
            runs["torch"] = runs["part"]
            runs["part"] = partial(with_triton, runs["torch"])
        yield a_line(name, sae, times(runs, a.rounds, z.device), a)


def with_triton(run: Callable[[], None]) -> None:
    with patch.dict(os.environ, {VARIABLE: "triton"}):
        run()


def times(
    runs: dict[str, Callable[[], None]], rounds: int, device: torch.device
) -> dict[str, tuple[list[float], list[float]]]:
    """What each run took in every round: (seconds by the clock, processor seconds)."""
    found: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in runs}
    for number in range(WARMUP + rounds):
        for name, run in runs.items():
            took = timed(run, device)
            if number >= WARMUP:
                for each, seconds in zip(found[name], took, strict=True):
                    each.append(seconds)
    return found


def a_line(
    name: str, sae: SAE, taken: dict[str, tuple[list[float], list[float]]], a: argparse.Namespace
) -> dict[str, Any]:
    clock = {run: each[0] for run, each in taken.items()}
    ratio, ratio_sae = (median_ratio(clock["part"], clock[run]) for run in ("plain", "linear"))
    line: dict[str, Any] = {
        "part": name,
        "ratio": round(ratio, 3),
        "ratio_sae": round(ratio_sae, 3),
        "ratio_cpu": round(median_ratio(taken["part"][1], taken["linear"][1]), 3),
        "ms": round(1e3 * statistics.median(clock["part"]), 1),
        "ms_plain": round(1e3 * statistics.median(clock["plain"]), 1),
        "ms_linear": round(1e3 * statistics.median(clock["linear"]), 1),
        "peak_mb": peak_of_its_own(name, a),
        "parameters": sum(weight.numel() for weight in sae.parameters()),
    }
    if name in COSTS:
        line["flop_ratio"] = round(flops(name, sizes_of(sae, a.k)) / flops("linear", sizes_of(sae, a.k)), 3)
    target = TARGETS.get(name)
    if name in FLOP_TARGETS and name in COSTS:
        target = round(FLOP_TARGETS[name] * line["flop_ratio"], 3)
    if target is not None:
        line |= {"target": target, "met": ratio <= target, "met_sae": ratio_sae <= target}
    if sae.mean.is_cuda:
        line["device"] = torch.cuda.get_device_name(sae.mean.device)
    if "torch" in clock:
        line["ratio_torch"] = round(median_ratio(clock["part"], clock["torch"]), 3)
    return line | {"n": a.rounds, "threads": a.threads, **{size: getattr(a, size) for size in SIZES}}


def peak_of_its_own(name: str, a: argparse.Namespace) -> float:
    """:func:`peak` in a new process."""
    sizes = [f"--{size}={getattr(a, size)}" for size in (*SIZES, "threads", "device") if size in a]
    command = [sys.executable, __file__, "--peak", name, *sizes]
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        sys.exit(f"The process that measures the memory of {name} failed:\n{ended.stderr}")
    return float(ended.stdout)


def peak(name: str, a: argparse.Namespace) -> float:
    """MB that building the SAE and a few forwards and backwards add to this process at most."""
    small = argparse.Namespace(d=16, width=64, batch=32, k=2)
    before = 0.0
    for sizes in (small, a):  # the small one loads what is loaded at the first use
        before = most_memory(a.device)
        x = torch.randn(sizes.batch, sizes.d, device=a.device)
        sae = in_training(name, x, sizes)
        for _ in range(3):
            forward_backward(sae, sae.standardise(x))
    return max(0.0, round(most_memory(a.device) - before, 1))  # Linux counts pages in batches: a peak may seem to sink


def most_memory(device: str) -> float:
    """MB that this process has held at most so far, of the GPU's memory if that is the device.

    On Linux from its own page tables: what ``getrusage`` says starts, in a new process, with what its parent held.
    """
    if device != "cpu":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")
    if not status.exists():
        return peak_mb()
    return int(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def sizes_of(sae: SAE, k: int) -> dict[str, int]:
    """What the formulas of ``COSTS`` are about."""
    options = {**vars(sae.encoder.options), **vars(sae.decoder.options)}
    h = options.get("hidden") or sae.d_model  # as the encoders with a hidden layer mean it
    return {"d": sae.d_model, "n": sae.d_sae, "k": k, "G": options.get("knots", 0), "h": h,
            "R": options.get("rounds", 2), "C": options.get("candidates", 4)}  # fmt: skip


def of(formula: str, sizes: dict[str, int]) -> int:
    """The value of a formula such as ``"2*d*n + 2*d*k"``."""
    return int(sympify(formula, locals={name: Symbol(name) for name in sizes}).subs(sizes))


def flops(name: str, sizes: dict[str, int]) -> int:
    """Per token, forward and backward, of the whole SAE."""
    return sum(of(formula, sizes) for cost in (LINEAR, COSTS[name]) for formula in cost[1:])


def parameters(name: str, sizes: dict[str, int]) -> int:
    """Of the whole SAE."""
    return of(LINEAR.parameters, sizes) + of(COSTS[name].parameters, sizes)


def arithmetic() -> str:
    """The tables of docs/kan-cost.md: what a part adds, by formula, and what whole SAEs cost for Llama-3.2-1B."""
    lines = [
        "| part | parameters added | FLOPs added per token, forward | backward |",
        "| --- | --- | --- | --- |",
        f"| the linear SAE | {' | '.join(_written(formula) for formula in LINEAR)} |",
        *(f"| `{name}` | {' | '.join(map(_written, cost))} |" for name, cost in COSTS.items() if name != "linear"),
    ]
    for width in WIDTHS:
        sizes = {**LLAMA, "n": width}
        lines += [
            "",
            f"| d {LLAMA['d']:,}, width {width:,} | parameters | training state | MFLOP/token forward | backward | × linear |",
            "| --- | --: | --: | --: | --: | --: |",
        ]
        lines += [_row(name, sizes) for name in COSTS]
    lines += [
        "",
        f"| GB in rows of d {LLAMA['d']:,}, {TOKENS:,} tokens, k {LLAMA['k']} "
        f"| {' | '.join(f'width {width:,}: torch | Triton' for width in WIDTHS)} |",
        "| --- | --: | --: | --: | --: |",
        *(_moved(name) for name in MOVED),
    ]
    return "\n".join(lines)


def _row(name: str, sizes: dict[str, int]) -> str:
    count = parameters(name, sizes)
    forward, backward = (sum(of(cost[i], sizes) for cost in (LINEAR, COSTS[name])) / 1e6 for i in (1, 2))
    ratio = flops(name, sizes) / flops("linear", sizes)
    state = f"{STATE * count / 1e9:.2f} GB"
    return f"| {name} | {count / 1e6:,.1f} M | {state} | {forward:,.1f} | {backward:,.2f} | {ratio:.2f} |"


def _moved(name: str) -> str:
    sizes = [{**LLAMA, "n": width, "t": TOKENS} for width in WIDTHS]
    return (
        f"| {name} | {' | '.join(f'{4 * of(formula, each) / 1e9:.1f}' for each in sizes for formula in MOVED[name])} |"
    )


def _written(formula: str) -> str:
    return formula.replace("*", " ")


def in_words(line: dict[str, Any]) -> str:
    target = ""
    if "target" in line:
        met, met_sae = ("met" if line[key] else "not met" for key in ("met", "met_sae"))
        target = f"; target {line['target']}: {met}, {met_sae}"
    triton = f"; {line['ratio_torch']} x the time without Triton" if "ratio_torch" in line else ""
    return (
        f"{line['part']:>10}: {line['ratio']} x nn.Linear + TopK, {line['ratio_sae']} x the linear SAE{target}; "
        f"{line['ms']} ms, {line['peak_mb']} MB{triton}"
    )


if __name__ == "__main__":
    main()
