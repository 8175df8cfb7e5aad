"""Features in the formats of others: a table for spreadsheets, and what Neuronpedia imports.

Neuronpedia's bulk layout (its public exports have it too): ``MODEL/SOURCE/`` with a line of JSON for the release, the model,
the source set and the source, and gzipped lines for features, activations and explanations. Its importer takes the columns
from the first line of a file, so every line has the same. ``lossValues`` are the effects of removing the latent, with the
sign that its page draws red where the loss rises.
"""

import csv
import gzip
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from kanary.features.feature import Example, Feature, Interval
from kanary.features.index import FeatureIndex
from kanary.files import write_atomic, write_text

BATCH = 1024
"""Features per file."""
COLUMNS = (
    {"latent": "int", "label": "str", "fired": "int", "tokens": "int", "density": "float", "maximum": "float"}
    | {"mean_active": "float", "concept": "str", "concept_f1": "float", "concept_n": "int", "score": "float"}
    | {"score_name": "str", "score_low": "float", "score_high": "float", "score_n": "int"}
    | {"raises": "list", "lowers": "list", "fires_on": "list"}
)
"""Of the table, and their types."""
DISTINCT = 5
"""Different tokens on which a feature fires most strongly, of the table."""
_TOP = -1
"""What stands for the interval of the strongest examples."""


def write_csv(index: FeatureIndex, latents: Iterable[int], path: Path) -> None:
    """One row per feature: numbers, label, best concept, tokens it writes for and fires on, each quoted."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    for latent in latents:
        rows.writerow(["" if value is None else _cell(value) for value in _row(index[latent])])
    write_text(path, text.getvalue())


def write_parquet(index: FeatureIndex, latents: Iterable[int], path: Path) -> None:
    """The table of :func:`write_csv`, with types; tokens as lists."""
    import pyarrow as pa
    from pyarrow import parquet

    columns = zip(*(_row(index[latent]) for latent in latents), strict=True)
    types = {"int": pa.int64(), "float": pa.float64(), "str": pa.string(), "list": pa.list_(pa.string())}
    schema = pa.schema([(name, types[kind]) for name, kind in COLUMNS.items()])
    arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
    table = pa.table(arrays, schema=schema)

    def write(partial: Path) -> None:
        parquet.write_table(table, partial)

    write_atomic(path, write)


def _cell(value: Any) -> Any:
    return " ".join(map(repr, value)) if isinstance(value, list) else value


def _row(feature: Feature) -> list[Any]:
    concept = next(iter(feature.concepts), {})
    score: Mapping[str, Any] = next(iter((feature.explanation or {}).get("scores", ())), {})
    logits = feature.logits or {"positive": (), "negative": ()}
    strongest = (feature.examples[i] for i in feature.top)
    fires_on = dict.fromkeys(example.tokens[example.focus] for example in strongest)
    return [
        *(feature.latent, feature.label, feature.fired, feature.tokens, feature.density, feature.maximum),
        feature.mean_active,
        *(concept.get(key) for key in ("concept", "f1", "n")),
        *(score.get(key) for key in ("value", "name", "low", "high", "n")),
        *([one["token"] for one in logits[side]] for side in ("positive", "negative")),
        list(fires_on)[:DISTINCT],
    ]


def write_neuronpedia(index: FeatureIndex, latents: Iterable[int], folder: Path) -> Path:
    """Writes ``FOLDER/MODEL/SOURCE`` and returns it."""
    source = Source(index)
    target = folder / source.model / source.id
    for name, line in source.about().items():
        write_text(target / f"{name}.jsonl", _json(line))
    batch: list[Feature] = []
    number = 0
    for latent in latents:
        batch.append(index[latent])
        if len(batch) == BATCH:
            source.write(target, number, batch)
            batch, number = [], number + 1
    if batch or not number:
        source.write(target, number, batch)
    return target


def shared(said: Any) -> Any:
    """What an index says of itself (its ``meta``, a feature's ``sae`` and ``twins``) as others may see it: of the paths of
    this machine the last part alone."""
    if isinstance(said, Mapping):
        return {key: shared(value) for key, value in said.items()}
    if isinstance(said, list | tuple):
        return [shared(value) for value in said]
    return Path(said).name if _is_path(said) else said


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and (Path(value).is_absolute() or value.startswith(("~", "./", "../")))


class Source:
    """One SAE, under the names by which Neuronpedia knows it."""

    def __init__(self, index: FeatureIndex) -> None:
        self.meta = shared(index.meta)
        sae = self.meta["sae"]
        self.model = _name(Path(str(sae["model"])).name)
        self.set = _name(f"kanary-{sae['name']}")
        layer = re.search(r"\.(\d+)$", str(sae["site"]))
        self.id = f"{layer[1] if layer else 0}-{self.set}"
        self.site, self.created = str(sae["site"]), self.meta["created"]

    def about(self) -> dict[str, dict[str, Any]]:
        """The lines that say what it is, by the name of their file."""
        said = f"Made with Kanary {self.meta['kanary']} on {self.meta['tokens']:,} tokens of {self.meta['text']}."
        return {
            "release": {"name": self.set, "description": said, "urls": [], "visibility": "PRIVATE"},
            "model": {"id": self.model, "displayName": self.model, "owner": "", "visibility": "PRIVATE"},
            "sourceset": {"modelId": self.model, "name": self.set, "releaseName": self.set, "description": said},
            "source": {
                "id": self.id,
                "modelId": self.model,
                "setName": self.set,
                "dataset": self.meta["text"],
                "num_prompts": self.meta["windows"],
                "num_tokens_in_prompt": self.meta["window"],
            },
        }

    def write(self, folder: Path, number: int, features: list[Feature]) -> None:
        """The files of one batch."""
        for kind, lines in (
            ("features", map(self.feature, features)),
            ("activations", (line for feature in features for line in self.activations(feature))),
            ("explanations", (line for feature in features for line in self.explanations(feature))),
        ):
            _write_gzip(folder / kind / f"batch-{number}.jsonl.gz", "".join(map(_json, lines)))

    def _of(self, feature: Feature) -> dict[str, Any]:
        return {"modelId": self.model, "layer": self.id, "index": str(feature.latent), "createdAt": self.created}

    def feature(self, feature: Feature) -> dict[str, Any]:
        """The line of one feature."""
        edges = feature.histogram["edges"]
        logits = feature.logits or {"positive": [], "negative": [], "histogram": {"edges": [], "counts": []}}
        neurons = feature.neurons or {"aligned": [], "correlated": []}
        correlated, similar = feature.features["correlated"], feature.features["similar"]
        steps = logits["histogram"]["edges"]
        return self._of(feature) | {
            "sourceSetName": self.set,
            "hookName": self.site,
            "maxActApprox": feature.maximum,
            "hasVector": False,
            "frac_nonzero": feature.density,
            "pos_str": [one["token"] for one in logits["positive"]],
            "pos_values": [one["value"] for one in logits["positive"]],
            "neg_str": [one["token"] for one in logits["negative"]],
            "neg_values": [one["value"] for one in logits["negative"]],
            "freq_hist_data_bar_heights": feature.histogram["counts"],
            "freq_hist_data_bar_values": _middles(edges),
            "logits_hist_data_bar_heights": logits["histogram"]["counts"],
            "logits_hist_data_bar_values": _middles(steps),
            "neuron_alignment_indices": [one["neuron"] for one in neurons["aligned"]],
            "neuron_alignment_values": [one["cosine"] for one in neurons["aligned"]],
            "correlated_neurons_indices": [one["neuron"] for one in neurons["correlated"]],
            "correlated_neurons_pearson": [one["correlation"] for one in neurons["correlated"]],
            "correlated_features_indices": [one["latent"] for one in correlated],
            "correlated_features_pearson": [one["correlation"] for one in correlated],
            "topkCosSimIndices": [one["latent"] for one in similar],
            "topkCosSimValues": [one["cosine"] for one in similar],
        }

    def activations(self, feature: Feature) -> Iterator[dict[str, Any]]:
        """A line for every example, in the interval that it was drawn from; the strongest in one of their own."""
        for place, at in enumerate(feature.top):
            yield self._activation(feature, feature.examples[at], f"top-{place}", _TOP, feature.maximum, _TOP)
        for number, interval in enumerate(feature.intervals):
            for place, at in enumerate(interval.examples):
                yield self._sampled(feature, feature.examples[at], f"{number}-{place}", interval)

    def _sampled(self, feature: Feature, example: Example, name: str, interval: Interval) -> dict[str, Any]:
        return self._activation(feature, example, name, interval.low, interval.high, interval.share)

    def _activation(
        self, feature: Feature, example: Example, name: str, low: float, high: float, share: float
    ) -> dict[str, Any]:
        values, effects = [0.0] * len(example.tokens), [0.0] * len(example.tokens)
        for at, value in example.activations:
            values[at] = value
        for at, value in example.effects:
            effects[at] = value
        return self._of(feature) | {
            "id": f"{self.meta['sae']['digest']}-{feature.latent}-{name}",
            "tokens": list(example.tokens),
            "values": values,
            "lossValues": effects,
            "maxValue": max(values),
            "maxValueTokenIndex": values.index(max(values)),
            "minValue": min(values),
            "dataSource": self.meta["text"],
            "dataIndex": str(example.document),
            "binMin": low,
            "binMax": high,
            "binContains": share,
            "qualifyingTokenIndex": example.focus,
        }

    def explanations(self, feature: Feature) -> Iterator[dict[str, Any]]:
        """What it was called by people and by explainers."""
        said = [("human", feature.human["text"])] if feature.human else []
        if feature.explanation:
            said.append((shared(feature.explanation["by"]), feature.explanation["text"]))
        for by, text in said:
            yield self._of(feature) | {
                "id": f"{self.meta['sae']['digest']}-{feature.latent}-{by}",
                "description": text,
                "typeName": by,
                "explanationModelName": by,
            }


def _middles(edges: list[float]) -> list[float]:
    return [(a + b) / 2 for a, b in pairwise(edges)]


def _name(text: str) -> str:
    """What may stand in a path and in a source's id."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-.") or "model"


def _json(line: dict[str, Any]) -> str:
    text = json.dumps(line, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return text.replace("\\u0000", "\\ufffd") + "\n"  # its database takes no zero character


def _write_gzip(path: Path, text: str) -> None:
    packed = gzip.compress(text.encode(), mtime=0)  # the same file for the same features

    def write(partial: Path) -> None:
        partial.write_bytes(packed)

    write_atomic(path, write)
