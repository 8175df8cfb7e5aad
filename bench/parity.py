"""Kanary's numbers beside those of SAELens' own ``run_evals``, for the same weights on the same tokens.

    python bench/parity.py runs/mine/sae --saelens ~/saelens/bin/python

SAELens and its many dependencies stay in an environment of their own: ``--saelens`` is the Python of one into which
``pip install sae-lens==6.54.12`` has been done. The SAE is folded into SAELens' format (:func:`folded`), the tokens are
handed over as they are, and SAELens loads the model itself. Sites that are a module's output in a model folder that
transformers can open; SAEs with linear encoder and decoder.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

if TYPE_CHECKING:
    from kanary.lm import LanguageModel
    from kanary.sae import SAE
    from kanary.text import TokenBatch

# kanary and sae_lens are imported where used: each of the two environments has only one of them
DIFFERS = {
    "relative_reconstruction_bias": "SAELens averages the quotients of the batches, Kanary divides the global means",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sae", type=Path, help="folder of an SAE, or of a run with one SAE")
    parser.add_argument("--saelens", type=Path, metavar="PYTHON", help="the interpreter of SAELens' environment")
    parser.add_argument("--text", help="held-out text (default: the text it was trained on)")
    parser.add_argument("--batches", type=int, default=32, help="how many batches")
    parser.add_argument("--batch", type=int, default=16, help="windows per batch")
    parser.add_argument("--window", type=int, default=128, help="tokens per window")
    parser.add_argument("--json", action="store_true", help="one JSON line")
    parser.add_argument("--theirs", action="store_true", help=argparse.SUPPRESS)  # this is SAELens' side; see _theirs
    args = parser.parse_args()
    if args.theirs:
        answer(args.sae)
        return
    if args.saelens is None:
        parser.error("--saelens PYTHON is missing")
    rows = compare(args)
    if args.json:
        print(json.dumps({"bench": "parity", "sae": args.sae.name, "metrics": rows}))
        return
    print(f"{'':33}{'Kanary':>14}{'SAELens':>14}{'difference':>14}")
    for name, row in rows.items():
        print(f"{name:33}{row['kanary']:14.6f}{row['saelens']:14.6f}{row['difference']:14.1e}  {DIFFERS.get(name, '')}")
    print(f"largest relative difference: {max(row['relative'] for row in rows.values()):.1e}")


def compare(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Metric -> both values, their distance, and it as a share of SAELens' value."""
    from kanary.lm import load_model
    from kanary.sae import SAE
    from kanary.text import Windows, open_text

    sae = SAE.from_pretrained(args.sae)
    about = sae.config.trained_on
    lm = load_model(about["model"], revision=about["revision"], dtype="float32", device="cpu")
    text = open_text(args.text or about["text"])
    windows = Windows(text, lm, window=args.window, batch=args.batch, part="all" if args.text else "heldout")
    batches = [batch for batch in islice(windows, args.batches) if len(batch.tokens) == args.batch]
    theirs, their_latents = _theirs(args.saelens, sae, lm, batches)
    ours, latents = _ours(sae, lm, batches)
    rows = {name: _row(ours[name], value, abs(ours[name] - value)) for name, value in theirs.items()}
    for name, values in latents.items():  # means over latents, but the largest difference of any latent
        found = torch.tensor(their_latents[name], dtype=torch.float64).nan_to_num()
        rows[name] = _row(float(values.mean()), float(found.mean()), float((values - found).abs().max()))
    return rows


def _row(ours: float, theirs: float, difference: float) -> dict[str, float]:
    return {"kanary": ours, "saelens": theirs, "difference": difference, "relative": difference / abs(theirs)}


def _ours(sae: "SAE", lm: "LanguageModel", batches: list["TokenBatch"]) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Every metric; and by SAELens' names ``[d_sae]`` numbers per latent, 0 where there is none."""
    from kanary.evaluation.measure import Measurement
    from kanary.evaluation.standin import Spliced

    site = str(sae.config.trained_on["site"])
    means = {site: sae.mean}  # only the mean ablation uses them, which SAELens has not
    measurement = Measurement(lm, {"sae": Spliced(site, sae)}, {}, means, window=batches[0].tokens.shape[1])
    for batch in batches:
        measurement.add(batch, controls=True)
    found = measurement.result()
    details = found.details["sae"]
    latents = {
        "feature_density": details.firings.double() / details.tokens,
        "consistent_activation_heuristic": (details.firings.double() / details.windows_fired).nan_to_num(),
    }
    return {name: metric.value for group in found.rows["sae"].values() for name, metric in group.items()}, latents


def folded(sae: "SAE") -> tuple[dict[str, Any], dict[str, Tensor]]:
    """``cfg.json`` and weights of ``sae`` in SAELens' inference format, computed in float64.

    SAELens knows no standardisation, so it is folded into the weights; its latents come in units of the raw activation
    (ours divided by ``scale``), so that decoder directions keep their unit norm:
    ``f / scale = act(W_enc (x - mean) + (b_enc - W_enc b_dec) / scale)``, with thresholds divided by ``scale`` too.
    Every sparsifier here is homogeneous, ``act(c h) = c act(h)``, or becomes so with its thresholds.

    Raises:
        KanaryError: an encoder, decoder or sparsifier that SAELens has not.
    """
    from kanary.errors import KanaryError

    names = (sae.encoder.name, sae.decoder.name, sae.sparsifier.name)
    if names[:2] != ("linear", "linear") or names[2] not in ("relu", "topk", "batchtopk", "jumprelu", "gated"):
        raise KanaryError(f"SAELens has no SAE of the parts {', '.join(names)}.")
    weights = {name: tensor.detach().cpu() for name, tensor in sae.state_dict().items()}
    state = {name: t.double() for name, t in weights.items() if t.is_floating_point()}
    mean, scale, W_enc, b_dec = (state[key] for key in ("mean", "scale", "encoder.W_enc", "decoder.b_dec"))
    b_enc = (state["encoder.b_enc"] - W_enc @ b_dec) / scale - W_enc @ mean
    tensors = {"W_enc": W_enc.T, "W_dec": state["decoder.W_dec"], "b_dec": b_dec / scale + mean}
    config: dict[str, Any] = {"architecture": names[2]}
    match names[2]:
        case "relu":
            config["architecture"] = "standard"
            tensors["b_enc"] = b_enc
        case "topk":
            config["k"] = int(weights["sparsifier.k_now"])
            tensors["b_enc"] = b_enc
        case "batchtopk" | "jumprelu":  # at inference a batchtopk is a jumprelu with one threshold for all
            config["architecture"] = "jumprelu"
            threshold = state["sparsifier.threshold"].clamp_min(0) / scale
            tensors |= {"b_enc": b_enc, "threshold": threshold.expand_as(b_enc)}
        case "gated":
            stretch = state["sparsifier.r_mag"].exp()
            tensors |= {"b_gate": b_enc, "r_mag": state["sparsifier.r_mag"]}
            tensors["b_mag"] = stretch * b_enc + state["sparsifier.b_mag"] / scale
    config |= {"d_in": sae.d_model, "d_sae": sae.d_sae, "dtype": "float32", "device": "cpu"}
    config |= {"apply_b_dec_to_input": False, "normalize_activations": "none", "reshape_activations": "none"}
    return config, {name: tensor.float().contiguous() for name, tensor in tensors.items()}


def _theirs(
    python: Path, sae: "SAE", lm: "LanguageModel", batches: list["TokenBatch"]
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """What :func:`answer` finds with the other interpreter: metrics, and one number per latent."""
    from kanary.errors import KanaryError

    site = lm.site(str(sae.config.trained_on["site"]))
    if site.side != "output":
        raise KanaryError(f"SAELens hooks only what modules return; {site.name!r} is what {site.path!r} is given.")
    config, tensors = folded(sae)
    config["metadata"] = {"hook_name": site.path, "model_name": lm.name, "sae_lens_version": "6.54.12"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "cfg.json").write_text(json.dumps(config))
        save_file(tensors, folder / "sae_weights.safetensors")
        save_file({str(i): batch.tokens for i, batch in enumerate(batches)}, folder / "tokens.safetensors")
        job = {"model": lm.name, "special": sorted(lm.special_ids), "threads": torch.get_num_threads()}
        (folder / "job.json").write_text(json.dumps(job))
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environment |= {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}
        ended = subprocess.run([python, __file__, folder, "--theirs"], env=environment, capture_output=True, text=True)
        if ended.returncode:
            sys.exit(f"SAELens failed:\n{ended.stderr}")
        groups, latents = json.loads((folder / "result.json").read_text())
    groups.pop("token_stats")  # SAELens counts special tokens there
    return {name: value for group in groups.values() for name, value in group.items()}, latents


def answer(folder: Path) -> None:
    """SAELens' side: its ``run_evals`` on the SAE and tokens in ``folder``; writes ``result.json`` there."""
    from sae_lens import SAE
    from sae_lens.evals import get_eval_everything_config, run_evals
    from sae_lens.load_model import load_model
    from sae_lens.training.activation_scaler import ActivationScaler

    job = json.loads((folder / "job.json").read_text())
    torch.set_num_threads(job["threads"])
    sae = SAE.load_from_disk(folder)
    hooks = [sae.cfg.metadata.hook_name]
    model = load_model("AutoModelForCausalLM", job["model"], "cpu", {"dtype": torch.float32}, hooks)
    tokens = load_file(folder / "tokens.safetensors")
    store = _Tokens([tokens[str(i)] for i in range(len(tokens))])
    config = get_eval_everything_config(store.store_batch_size_prompts, len(tokens), len(tokens))
    found = run_evals(sae, store, model, ActivationScaler(), config, exclude_special_tokens=job["special"])
    (folder / "result.json").write_text(json.dumps(found))


class _Tokens:
    """As much of SAELens' ``ActivationsStore`` as ``run_evals`` asks for, over given ``[windows, position]`` batches."""

    def __init__(self, batches: list[Tensor]) -> None:
        self.batches = batches
        self.store_batch_size_prompts, self.context_size = batches[0].shape
        self.reset_input_dataset()

    def reset_input_dataset(self) -> None:
        self.left: Iterator[Tensor] = iter(self.batches)

    def get_batch_tokens(self, windows: int) -> Tensor:
        batch = next(self.left)
        assert len(batch) == windows
        return batch


if __name__ == "__main__":
    main()
