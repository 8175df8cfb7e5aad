"""How an SAE is written, read and shared: safetensors and JSON, never pickle."""

import copy
import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from kanary.config import to_mapping
from kanary.errors import KanaryError, typed
from kanary.files import new_folder, read_json, read_tensors, recover, sha256, verify, write_json, write_tensors
from kanary.sae.model import SAE, SAEConfig

CONFIG, WEIGHTS = "config.json", "sae.safetensors"
FORMAT = "kanary-sae-1"
PARTS = ("encoder", "sparsifier", "decoder")


def save(sae: SAE, folder: Path) -> None:
    here = {p.name for p in folder.glob("*")}
    if here and here != {CONFIG, WEIGHTS}:  # a language model's folder has a config.json too
        raise KanaryError(f"{folder} holds other files; give an empty or new folder to save an SAE in.")
    with new_folder(folder) as partial:
        facts = to_mapping(described(sae))
        made_of = json.dumps({kind: facts[kind] for kind in PARTS})
        write_tensors(partial / WEIGHTS, sae.state_dict(), {"format": FORMAT, "parts": made_of})
        write_json(partial / CONFIG, {"format": FORMAT, "sha256": sha256(partial / WEIGHTS), **facts})


def described(sae: SAE) -> SAEConfig:
    """The SAE's config with every option of every part spelled out."""
    return SAEConfig(
        sae.d_model,
        sae.d_sae,
        sae.encoder.describe(),
        sae.sparsifier.describe(),
        sae.decoder.describe(),
        sae.config.trained_on,
    )


def load(name: str | Path, *, revision: str | None = None, device: str | torch.device = "cpu") -> SAE:
    folder = find(Path(name)) if Path(name).exists() else _download(str(name), revision)
    described = read_json(folder / CONFIG)
    if described.get("format") != FORMAT:
        raise KanaryError(
            f"{folder / CONFIG} is not a Kanary SAE: its format is {described.get('format')!r}, expected {FORMAT!r}."
        )
    config = _config(described, folder / CONFIG)
    verify(folder / WEIGHTS, str(described["sha256"]))
    tensors = read_tensors(folder / WEIGHTS)
    _refuse_other_parts(folder, config)
    sizes = (config.d_sae, config.d_model)
    if "decoder.W_dec" in tensors and tensors["decoder.W_dec"].shape != sizes:  # before memory of that size is taken
        found = list(tensors["decoder.W_dec"].shape)
        raise KanaryError(
            f"{folder / CONFIG} is damaged: its d_sae and d_model are {[*sizes]}, the weights have {found}."
        )
    try:
        sae = SAE(config)
    except KanaryError as error:
        raise KanaryError(f"{folder / CONFIG} cannot be used: {error}") from error
    load_state(sae, tensors, folder / WEIGHTS)
    sae.folder = folder
    return sae.to(device)


def _config(described: dict[str, Any], path: Path) -> SAEConfig:
    """The SAE's config in the JSON of ``path``; names the entry that is missing or of another kind."""
    kinds = {"d_model": int, "d_sae": int, "encoder": dict, "sparsifier": dict, "decoder": dict, "trained_on": dict}
    for key, kind in {**kinds, "sha256": str}.items():
        if type(described.get(key)) is not kind:
            raise KanaryError(f"{path} is damaged: {key} is {described.get(key)!r}, expected {kind.__name__}.")
    for key in PARTS:
        if not isinstance(described[key].get("name"), str):
            raise KanaryError(f"{path} is damaged: {key} has no name.")
    return SAEConfig(**{key: described[key] for key in kinds})


def _refuse_other_parts(folder: Path, config: SAEConfig) -> None:
    """Functions on another basis may have weights of the same shapes, so the file of weights says what they are of.

    Files written before it did are taken at their config's word.
    """
    with safe_open(folder / WEIGHTS, "pt") as file:
        said = (file.metadata() or {}).get("parts", "{}")
    try:
        written = {kind: dict(options) for kind, options in json.loads(said).items() if kind in PARTS}
    except (ValueError, TypeError, AttributeError) as error:
        raise KanaryError(
            f"{folder / WEIGHTS} is damaged: it does not say what it holds, but {said[:80]!r}."
        ) from error
    for kind, before in written.items():
        now = getattr(config, kind)
        for key in sorted(before.keys() | now.keys()):
            if before.get(key) != now.get(key):
                raise KanaryError(
                    f"{folder / CONFIG} does not fit {WEIGHTS}: the {kind}'s {key} is {now.get(key)!r}, the weights are "
                    f"those of {before.get(key)!r}. Put the old value back."
                )


def load_state(sae: SAE, tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Copies ``tensors`` into ``sae``; names the tensor that is missing, too many, of another shape or not finite."""
    wanted = sae.state_dict()
    for key in sorted(wanted.keys() ^ tensors.keys()):
        raise KanaryError(
            f"{path} does not fit its config: tensor {key!r} is {'missing' if key in wanted else 'unexpected'}."
        )
    for key, tensor in tensors.items():
        if tensor.shape != wanted[key].shape:
            raise KanaryError(
                f"{path} does not fit its config: {key} has shape {list(tensor.shape)}, expected {list(wanted[key].shape)}."
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise KanaryError(f"{path} cannot be used: {key} holds NaN or infinity.")
    sae.load_state_dict(tensors)


def find(path: Path) -> Path:
    """The folder of the one SAE in ``path``: itself, ``path/sae``, or the only sub-folder of ``path/sae``."""
    for folder in (path, path / "sae"):
        recover(folder)
        if (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file():
            return folder
    found = sorted(p.parent for p in (path / "sae").glob(f"*/{WEIGHTS}"))
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(p.name for p in found)
        raise KanaryError(f"{path} holds {len(found)} SAEs; name one of them: {path}/sae/<name> with {names}.")
    refuse_unfinished(path)
    raise KanaryError(f"There is no SAE in {path}: expected {CONFIG} and {WEIGHTS} there or in {path / 'sae'}.")


def refuse_unfinished(path: Path) -> None:
    """Raises :class:`KanaryError` for a run whose training has begun and has not ended: it has no SAE yet."""
    if (path / "checkpoints").is_dir() and not any((path / "sae").rglob(WEIGHTS)):
        raise KanaryError(f"{path} is a run that has not finished; finish it with: kanary train --resume {typed(path)}")


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return find(
            Path(
                snapshot_download(
                    name,
                    revision=revision,
                    allow_patterns=[f"{sub}{file}" for sub in ("", "sae/") for file in (CONFIG, WEIGHTS)],
                )
            )
        )
    except HFValidationError as error:
        raise KanaryError(f"There is no folder {name!r}, and it is not a Hub id (owner/name).") from error
    except KanaryError:
        raise
    except Exception as error:  # the Hub client raises many kinds: offline, missing, gated, interrupted
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise KanaryError(
            f"{name!r} is neither a folder here nor could it be fetched from the Hub: {reason}"
        ) from error


def push(sae: SAE, repository: str, *, private: bool = False, token: str | None = None) -> str:
    from huggingface_hub import HfApi

    sae = _public(sae)
    api = HfApi(token=token, endpoint=os.environ.get("HF_ENDPOINT"))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "sae"
        save(sae, folder)
        (folder / "README.md").write_text(model_card(sae, repository), encoding="utf-8")
        try:
            api.create_repo(repository, private=private, exist_ok=True)
            api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Upload SAE")
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise KanaryError(f"The SAE could not be pushed to {repository!r}: {reason}") from error
    return f"{api.endpoint}/{repository}"


def _public(sae: SAE) -> SAE:
    """The same SAE, its memory of training without the folders of this machine."""
    known = {
        key: Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
        for key, value in sae.config.trained_on.items()
    }
    public = copy.copy(sae)
    public.config = replace(sae.config, trained_on=known)
    return public


def model_card(sae: SAE, repository: str) -> str:
    """The README of a published SAE: what it is, what it reads, its numbers, how to load it."""
    config, source = described(sae), dict(sae.config.trained_on)
    parts = " → ".join(_part(p) for p in (config.encoder, config.sparsifier, config.decoder))
    rows = [
        f"| {key.replace('_', ' ')} | {str(value).replace('|', chr(92) + '|')} |"
        for key, value in source.items()
        if key not in ("metrics", "special_ids", "weights")
    ]
    metrics = source.get("metrics") or {}
    numbers = [
        f"| {key} | {m['value']:.4g} | {m['low']:.4g} … {m['high']:.4g} | {m['n']:,} |"
        for key, m in metrics.items()
        if m["value"] is not None
    ]
    base = f"base_model: {json.dumps(str(source['model']))}\n" if _is_hub_id(source.get("model")) else ""
    table = [
        "## Numbers on held-out text",
        "",
        "| | value | 95 % interval | tokens |",
        "| --- | --- | --- | --- |",
        *numbers,
        "",
    ]
    return "\n".join(
        [
            f"---\nlibrary_name: kanary\ntags: [sparse-autoencoder, interpretability]\n{base}---",
            f"# {repository}",
            "",
            f"A sparse autoencoder with {sae.d_sae:,} latents on activations of width {sae.d_model}: {parts}.",
            "It reads and returns raw activations; BOS, EOS and padding were never trained on.",
            "",
            "| trained on | |\n| --- | --- |",
            *rows,
            "",
            *(table if numbers else []),
            f"```python\nimport kanary\n\nsae = kanary.SAE.from_pretrained({repository!r})\ncodes = sae.encode(x)\n```",
            "",
        ]
    )


def _part(description: Any) -> str:
    options = ", ".join(f"{k}={v}" for k, v in description.items() if k != "name" and v is not None)
    return f"{description['name']}({options})" if options else str(description["name"])


def _is_hub_id(name: Any) -> bool:
    return isinstance(name, str) and name.count("/") == 1 and not Path(name).exists() and not name.startswith(".")
