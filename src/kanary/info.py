"""What a folder holds, in words."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kanary.config import read_yaml
from kanary.errors import KanaryError, typed
from kanary.files import read_json

if TYPE_CHECKING:
    from rich.table import Table

FORMAT = "kanary-metrics-1"  # as evaluation.result writes it; not imported, so that info stays quick
JsonMetric = Mapping[str, float | None]
COLUMNS = {
    "l0": "L0",
    "explained_variance": "EV",
    "ce_loss_score": "CE score (zero)",
    "ce_loss_with_sae": "CE with SAE",
    "dead_share": "dead",
}


def describe(path: Path) -> str:
    """A few lines about a run folder, an SAE's folder, or a store of activations.

    Raises:
        KanaryError: nothing there that Kanary wrote.
    """
    if not path.exists():
        raise KanaryError(f"{path} does not exist.")
    for marker, tell in (("config.yaml", _run), ("manifest.json", _store), ("config.json", _sae)):
        if (path / marker).is_file():
            return "\n".join(tell(path))
    raise KanaryError(f"{path} holds no run (config.yaml), SAE (config.json) or store (manifest.json).")


def metrics_table(metrics: dict[str, Any]) -> "Table":
    """``metrics.json`` as a table: SAEs first, then the controls; value and 95 % interval."""
    from rich.table import Table

    held_out = metrics["held_out"]
    tokens, asked = held_out["tokens"], held_out.get("asked_tokens", 0)
    which = "held-out tokens" if held_out.get("part") == "heldout" else f"tokens of {held_out.get('text')}"
    short = "; the text has no more" if tokens < 0.9 * asked else ""
    table = Table(title=f"On {tokens:,} {which} (95 % intervals{short})", title_justify="left")
    table.add_column("")
    for heading in COLUMNS.values():
        table.add_column(heading, justify="right")
    for group in ("saes", "controls"):
        for name, row in metrics[group].items():
            table.add_row(name, *(_cell(row, key) for key in COLUMNS))
        table.add_section()
    return table


def _cell(row: Mapping[str, Mapping[str, JsonMetric]], name: str) -> str:
    """The metric ``name`` of a row of ``metrics.json``, in whatever group it is."""
    return _metric(next((group[name] for group in row.values() if name in group), {}))


def _metric(metric: JsonMetric) -> str:
    value, low, high = (metric.get(key) for key in ("value", "low", "high"))
    if value is None:
        return "–"
    return f"{value:.4g}" if low is None or high is None or low == high else f"{value:.4g} ({low:.4g}–{high:.4g})"


def _run(path: Path) -> Iterator[str]:
    config = read_yaml(path / "config.yaml")
    if not {"tokens", "batch", "data_seed"} <= config.keys():
        raise KanaryError(f"{path / 'config.yaml'} is not the config of a Kanary run.")
    steps = int(config["tokens"]) // int(config["batch"])
    checkpoints = sorted((path / "checkpoints").glob("step-*"))
    done = int(checkpoints[-1].name.removeprefix("step-")) if checkpoints else 0
    sae, width, site = (_values(config, name) for name in ("sae", "width", "site"))
    source = config["model"] or config["store"]
    yield f"Run {path}: {sae} of width {width} at {site or 'the first site'} of {source}"
    if (path / "metrics.json").is_file():
        yield f"Finished: {steps:,} steps, {steps * int(config['batch']):,} tokens."
        yield from _numbers(path / "metrics.json")
        several = sorted(file.parent for file in (path / "sae").glob("*/config.json"))
        for folder in several or [path]:
            yield f"Load it: kanary.SAE.from_pretrained({str(folder)!r})"
    else:
        so_far = f"{done:,} of {steps:,} steps" if done < steps else "trained, but not measured"
        yield f"Not finished: {so_far}. Go on with: kanary train --resume {typed(path)}"


def _numbers(path: Path) -> list[str]:
    """What ``metrics.json`` says; raises :class:`KanaryError` if it is of another version or damaged."""
    metrics = read_json(path)
    if metrics.get("format") != FORMAT:
        raise KanaryError(
            f"{path} is of another version ({metrics.get('format')!r}): measure again with kanary evaluate."
        )
    try:
        rows = {**metrics["saes"], **metrics["controls"]}
        told = [
            f"  {name}: " + ", ".join(f"{heading} {_cell(row, key)}" for key, heading in COLUMNS.items())
            for name, row in rows.items()
        ]
        missing = metrics["held_out"].get("missing")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise KanaryError(f"{path} is damaged ({error!r}): measure again with kanary evaluate.") from error
    return [*told, f"No numbers on held-out text: {missing}"] if missing else told


def _values(config: dict[str, Any], name: str) -> str:
    """The value or values of an option that SAEs of a run may differ in."""
    found = [entry[name] for entry in config["each"]] if name not in config else config[name]
    return ", ".join(map(str, dict.fromkeys(found))) if isinstance(found, list) else str(found)


def _store(path: Path) -> Iterator[str]:
    from kanary.activations.store import ActivationStore

    store = ActivationStore.open(path)
    state = "complete" if store.complete else "not complete; give the same harvest command again to go on"
    yield f"Store {path}: {store.n_tokens:,} tokens, {store.n_bytes / 1e9:.2f} GB, {store.dtype}, {state}"
    yield f"From {store.manifest['model']['name']} reading {store.manifest['text']['name']}"
    for site, width in store.widths.items():
        yield f"  {site}: width {width}"


def _sae(path: Path) -> Iterator[str]:
    config = read_json(path / "config.json")
    if not {"d_model", "d_sae", "encoder", "sparsifier", "decoder"} <= config.keys():
        raise KanaryError(f"{path} holds no SAE of Kanary's: its config.json describes something else.")
    parts = " → ".join(str(config[part]["name"]) for part in ("encoder", "sparsifier", "decoder"))
    source = config.get("trained_on", {})
    yield f"SAE {path}: {config['d_sae']:,} latents on activations of width {config['d_model']}: {parts}"
    yield f"Trained on {source.get('tokens', 0):,} tokens at {source.get('site')} of {source.get('model')}"
    for name, metric in source.get("metrics", {}).items():
        yield f"  {COLUMNS.get(name, name)} {_metric(metric)} over {metric['n']:,} tokens"
