"""Dashboards of all features of an SAE: Kanary's index and page beside SAEDashboard's, on the same model, SAE and tokens.

    python -m venv ~/saedashboard
    ~/saedashboard/bin/pip install sae-dashboard==0.8.0 "torch==2.13.0" "pyarrow<21" "pandas<3"
    ~/saedashboard/bin/pip uninstall -y torchvision torchaudio       # as they come, they do not fit a torch without CUDA
    python bench/dashboards.py --peer ~/saedashboard/bin/python --json

SAEDashboard stays in an environment of its own; without ``--peer`` only Kanary runs. The model is the one that comes with
Kanary, in TransformerLens for SAEDashboard; the SAE is a ReLU SAE at the initial weights of training with biases such that
``--l0`` latents fire on a token; the tokens are windows of the labelled corpus. That both compute the same activations is
checked. Each side is a process of its own, in turn, ``--rounds`` times:

- ``make``: from tokens to everything about all latents; Kanary's index is then on disk and can be looked at (`kanary serve`),
  SAEDashboard's is in memory. SAEDashboard: its defaults, features in batches of 256.
- ``write``: one HTML file of all latents.

Times are in seconds by the clock and of the processor (all threads), starting after the imports; ``peak_mb`` is of the whole
process, and ``import_mb`` what it had after its imports. The ratios are SAEDashboard's by Kanary's, medians over the rounds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

SITE, HOOK, WINDOW = "resid_post.3", "blocks.3.hook_resid_post", 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, metavar="PYTHON", help="the interpreter of SAEDashboard's environment")
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--l0", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=65_536)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="JSON lines instead of sentences")
    parser.add_argument("--side", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        result = {"ours": ours, "theirs": theirs}[args.side](args.folder)
        (args.folder / "result.json").write_text(json.dumps(result))
        return
    with tempfile.TemporaryDirectory() as folder:
        for line in compare(Path(folder), args):
            text = ", ".join(f"{key} {value}" for key, value in line.items())
            print(json.dumps(line) if args.json else text, flush=True)


def compare(folder: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    prepare(folder, args)
    sides = {"ours": Path(sys.executable)} | ({"theirs": args.peer} if args.peer else {})
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for _ in range(args.rounds):
        for side, python in sides.items():
            found[side].append(run(python, side, folder))
            print(
                side,
                {key: value for key, value in found[side][-1].items() if key != "sums"},
                file=sys.stderr,
                flush=True,
            )
    about = {
        "width": args.width,
        "l0": args.l0,
        "tokens": args.tokens,
        "n": args.rounds,
        "threads": torch.get_num_threads(),
    }
    names = {"ours": "Kanary", "theirs": "SAEDashboard"}
    lines = [{"case": names[side], **medians(rounds), **about} for side, rounds in found.items()]
    if args.peer:
        lines.append({"case": "SAEDashboard by Kanary", **ratios(found["ours"], found["theirs"]), **about})
    return lines


def medians(rounds: list[dict[str, Any]]) -> dict[str, float]:
    return {key: round(statistics.median(one[key] for one in rounds), 2) for key in rounds[0] if key != "sums"}


def ratios(mine: list[dict[str, Any]], other: list[dict[str, Any]]) -> dict[str, float]:
    """Of every quantity the median quotient; and the largest difference of a latent's summed activations."""

    def ratio(key: Callable[[dict[str, Any]], float]) -> float:
        return round(statistics.median(key(b) / key(a) for a, b in zip(mine, other, strict=True)), 1)

    found = {
        f"x_{key}": ratio(lambda one, key=key: one[key]) for key in ("make_s", "make_cpu_s", "write_cpu_s", "peak_mb")
    }
    found["x_total_cpu_s"] = ratio(lambda one: one["make_cpu_s"] + one["write_cpu_s"])
    found["x_html_bytes"] = ratio(lambda one: one["html_bytes_per_feature"])
    found["x_until_seen_cpu_s"] = round(
        statistics.median(
            (b["make_cpu_s"] + b["write_cpu_s"]) / a["make_cpu_s"] for a, b in zip(mine, other, strict=True)
        ),
        1,
    )
    a, b = (torch.tensor(rounds[0]["sums"], dtype=torch.float64) for rounds in (mine, other))
    a, b = a / a.norm(), b / b.norm()  # in other units
    return found | {"activations_differ": float(f"{(a - b).abs().max() / a.max():.1e}")}


def run(python: Path, side: str, folder: Path) -> dict[str, Any]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}
    command = [python, __file__, "--side", side, "--folder", folder]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    if ended.returncode:
        sys.exit(f"{side} failed:\n{ended.stderr[-3000:]}")
    return dict(json.loads((folder / "result.json").read_text()))


@torch.no_grad()
def prepare(folder: Path, args: argparse.Namespace) -> None:
    """The SAE for both, and the tokens that Kanary's index reads."""
    from parity import folded

    from kanary.evaluation.standin import Calibration
    from kanary.lm import load_model
    from kanary.lm.load import BUNDLED_FOLDER
    from kanary.sae import SAE
    from kanary.text import Windows, open_text
    from kanary.training.config import TrainConfig
    from kanary.training.learner import begin

    lm, text = load_model("bundled", device="cpu"), open_text("labelled")
    windows, read, batches = Windows(text, lm, window=WINDOW, batch=32, part="all"), 0, []
    while read < args.tokens:
        batches.append(next(windows))
        read += batches[-1].n_tokens
    calibration = Calibration(lm.width(SITE))
    for batch in batches[:8]:
        calibration.add(lm.capture(batch.tokens, [SITE])[SITE][~batch.special])
    known = {"site": SITE, "model": "bundled", "text": "labelled", "window": WINDOW}
    sae = SAE(TrainConfig(sae="relu", width=args.width).sae_config(lm.width(SITE), known))
    begin(sae, calibration.sample, "median", 0)
    sae.remember(**known)
    pre = sae.encoder(sae.standardise(calibration.sample[:4096]))
    sae.encoder.get_parameter("b_enc").sub_(pre.quantile(1 - args.l0 / args.width, dim=0))
    sae.save_pretrained(folder / "run" / "sae")
    config, tensors = folded(sae)
    config["metadata"] = {"hook_name": HOOK, "model_name": "bundled", "sae_lens_version": "6.54.12"}
    (folder / "theirs").mkdir()
    (folder / "theirs" / "cfg.json").write_text(json.dumps(config))
    save_file(tensors, folder / "theirs" / "sae_weights.safetensors")
    save_file({"tokens": torch.cat([batch.tokens for batch in batches]).contiguous()}, folder / "tokens.safetensors")
    job = {"model": str(BUNDLED_FOLDER), "tokens": args.tokens, "threads": torch.get_num_threads()}
    (folder / "job.json").write_text(json.dumps(job))


@torch.no_grad()
def ours(folder: Path) -> dict[str, Any]:
    import kanary
    from kanary.app.export import write_html
    from kanary.lm import load_model

    imported, job = peak_mb(), json.loads((folder / "job.json").read_text())
    torch.set_num_threads(job["threads"])
    fields = {"tokens": job["tokens"], "window": WINDOW, "part": "all", "effects": "none", "concept_tokens": 0}
    make = timed(lambda: kanary.index(folder / "run", quiet=True, device="cpu", **fields))
    index = kanary.FeatureIndex.open(folder / "run")
    write = timed(lambda: write_html(index, range(len(index)), folder / "ours.html"))
    lm, sae = load_model("bundled", device="cpu"), kanary.SAE.from_pretrained(folder / "run")
    x = lm.capture(load_file(folder / "tokens.safetensors")["tokens"][:8], [SITE])[SITE]
    return result(make, write, imported, folder / "ours.html", sae.encode(x).to_dense().sum((0, 1)))


@torch.no_grad()
def theirs(folder: Path) -> dict[str, Any]:
    from sae_dashboard.data_writing_fns import save_feature_centric_vis
    from sae_dashboard.sae_vis_data import SaeVisConfig
    from sae_dashboard.sae_vis_runner import SaeVisRunner
    from sae_lens import SAE

    imported, job = peak_mb(), json.loads((folder / "job.json").read_text())
    torch.set_num_threads(job["threads"])
    model, sae = in_transformer_lens(job["model"]), SAE.load_from_disk(folder / "theirs")
    tokens = load_file(folder / "tokens.safetensors")["tokens"].long()
    config = SaeVisConfig(hook_point=HOOK, features=list(range(sae.cfg.d_sae)))
    made: list[Any] = []
    make = timed(lambda: made.append(SaeVisRunner(config).run(encoder=sae, model=model, tokens=tokens)))
    write = timed(lambda: save_feature_centric_vis(made[0], folder / "theirs.html"))
    x = model.run_with_cache(tokens[:8], names_filter=HOOK)[1][HOOK]
    return result(make, write, imported, folder / "theirs.html", sae.encode(x).sum((0, 1)))


def in_transformer_lens(folder: str) -> Any:
    """A Llama folder as TransformerLens has it, its weights as they are."""
    from sae_lens import HookedSAETransformer
    from transformer_lens import HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_llama_weights
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    llama = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    about = llama.config
    shape = {"d_model": about.hidden_size, "d_mlp": about.intermediate_size, "n_layers": about.num_hidden_layers}
    shape |= {"n_heads": about.num_attention_heads, "n_key_value_heads": about.num_key_value_heads}
    shape |= {"d_head": about.head_dim, "d_vocab": about.vocab_size, "n_ctx": WINDOW, "rotary_dim": about.head_dim}
    kind = {
        "normalization_type": "RMS",
        "eps": about.rms_norm_eps,
        "final_rms": True,
        "gated_mlp": True,
        "act_fn": "silu",
    }
    kind |= {
        "positional_embedding_type": "rotary",
        "rotary_adjacent_pairs": False,
        "rotary_base": int(about.rope_theta),
    }
    config = HookedTransformerConfig(**shape, **kind, original_architecture="LlamaForCausalLM", device="cpu")
    named = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "add_bos_token": True,
        "name_or_path": folder,
    }
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=f"{folder}/tokenizer.json", **named)
    model = HookedSAETransformer(config, tokenizer=tokenizer, default_padding_side="right")
    kept = {"fold_ln": False, "center_writing_weights": False, "center_unembed": False, "fold_value_biases": False}
    model.load_and_process_state_dict(convert_llama_weights(llama, config), **kept)
    return model


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds by the clock and of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - processor


def peak_mb() -> float:
    """Of this program alone: what ``getrusage`` says begins with the most that the program which started it had."""
    said = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(said["VmHWM"].split()[0]) / 1024


def result(
    make: tuple[float, float], write: tuple[float, float], imported: float, html: Path, sums: torch.Tensor
) -> dict[str, Any]:
    return {
        "make_s": make[0], "make_cpu_s": make[1], "write_s": write[0], "write_cpu_s": write[1],
        "import_mb": imported, "peak_mb": peak_mb(), "html_bytes_per_feature": html.stat().st_size / len(sums),
        "sums": sums.double().tolist(),
    }  # fmt: skip


if __name__ == "__main__":
    main()
