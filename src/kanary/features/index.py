"""An index on disk, opened in milliseconds: ``FeatureIndex.open("runs/first")[12]``."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from kanary.errors import KanaryError, nearest, typed
from kanary.features.arrays import Array, Arrays
from kanary.features.feature import Example, Feature, Interval, finite
from kanary.features.labels import Labels
from kanary.features.learned import functions_of
from kanary.features.rounding import rounded
from kanary.features.selection import BINS, INTERVALS
from kanary.features.sparsity import L0
from kanary.features.text import Text
from kanary.files import read_json, recover, verify
from kanary.sae.store import refuse_unfinished

FORMAT = 2
META, TEXT, COLUMNS = "index.json", "text.safetensors", "features.safetensors"
EXAMPLES, FUNCTIONS = "examples.safetensors", "functions.safetensors"


class FeatureIndex(Sequence[Feature]):
    """The features of one SAE on one text. ``index[i]`` is a :class:`Feature`; nothing is read before it is asked for."""

    folder: Path
    meta: dict[str, Any]
    """What the index is of: see docs/feature-index.md."""

    def __init__(self, folder: Path) -> None:
        """Use :meth:`open`, which also finds the folder and refuses an index of another SAE."""
        self.folder = folder
        with _made_again(folder):
            self.meta = _meta(folder)
            self._columns, self._examples = Arrays(folder / COLUMNS), Arrays(folder / EXAMPLES)
            self._text = Text(folder / TEXT, self.meta["special_ids"])
            self._functions = Arrays(folder / FUNCTIONS) if self.meta["functions"] else {}
            self._fired, self._offsets = self._columns["fired"], self._examples["offsets"]
            if len(self._fired) + 1 != len(self._offsets):
                raise KanaryError(
                    f"{folder} is damaged: its files are of {len(self._fired)} and {len(self._offsets) - 1} latents."
                )
            for name in ("maximum", "total"):  # what strengths and thresholds are measured in
                if len(wrong := np.flatnonzero(~np.isfinite(self._columns[name]))):
                    raise KanaryError(f"{folder / COLUMNS} is damaged: {name} of latent {wrong[0]} is no number.")
        if folder.parent.name == "index":  # the run may have been moved since it was written
            self.meta["sae"]["run"] = str(folder.parent.parent)

    @classmethod
    def open(cls, path: str | os.PathLike[str], sae: str | None = None) -> "FeatureIndex":
        """The index in a run folder, or in a folder of its own.

        Args:
            sae: the name of the SAE, where a run has the indices of several.

        Raises:
            KanaryError: there is no index, several, a damaged one, or one of another SAE than the run's (named).
        """
        folder = find_index(Path(path), sae)
        found = cls(folder)
        _refuse_other_sae(found)
        return found

    def __len__(self) -> int:
        return len(self._fired)

    def __getitem__(self, latent: int) -> Feature:  # type: ignore[override]
        """Raises IndexError where there is no such latent, :class:`KanaryError` where the file is damaged."""
        number = range(len(self))[latent]
        try:
            return self._feature(number)
        except (IndexError, ValueError, OverflowError) as error:
            raise KanaryError(f"{self.folder} is damaged at latent {number}: index the run again ({error}).") from error

    def __iter__(self) -> Iterator[Feature]:
        return (self[latent] for latent in range(len(self)))

    def columns(self) -> dict[str, Array]:
        """A number per latent under each name, ``[latents]``: density, fired, maximum, mean_active; skewness and kurtosis of
        its logit weights where it has some; on the labelled corpus concept, the name of its best one or None, and f1."""
        fired = self._fired
        with np.errstate(invalid="ignore"):
            found = {
                "density": fired / self.meta["tokens"],
                "fired": fired,
                "maximum": self._columns["maximum"],
                "mean_active": self._columns["total"] / fired,
            }
        names = {"skewness": "logit_skewness", "kurtosis": "logit_kurtosis"}
        found |= {name: self._columns[stored] for name, stored in names.items() if stored in self._columns}
        if "concepts" in self._columns:
            best = self._columns["concepts"][:, 0]
            named = np.array([*self.meta["concepts"], None], object)[best]
            found |= {"concept": named, "f1": np.where(best < 0, np.nan, self._columns["concept_f1"][:, 0])}
        return found

    @property
    def l0(self) -> L0 | None:
        """How many latents fire on a token; None of an index that was made before this was kept."""
        found = self.meta.get("l0")
        try:
            return None if found is None else L0(**found | {name: tuple(found[name]) for name in ("edges", "counts")})
        except (TypeError, KeyError) as error:
            raise KanaryError(f"{self.folder / META} is damaged: l0 is {found!r}.") from error

    def logit_moments(self) -> dict[str, Array]:
        """``[latents]`` each: std, skewness and kurtosis of the logit weights; may be empty: see ``Feature.logits``."""
        names = ("std", "skewness", "kurtosis")
        return {name: self._columns[f"logit_{name}"] for name in names if f"logit_{name}" in self._columns}

    @property
    def text(self) -> Text:
        """The text that was read: the ids of its windows, and where each token comes from."""
        return self._text

    def tokens(self, window: int) -> list[str]:
        """The tokens of a window as text; bytes that are no UTF-8 as ``⟨e2⟩``."""
        found: list[str] = self._text.tokens(self._text.ids[window])
        return found

    def document(self, id: int) -> dict[str, Any]:
        """``{"id", "tokens": [str], "ids": [int]}``: of a document, what was read of it.

        Raises:
            KanaryError: it is not in the index.
        """
        ids = self._text.document(id)
        return {"id": id, "tokens": self._text.tokens(ids), "ids": ids.tolist()}

    def token(self, id: int) -> str:
        """A token of the vocabulary as text."""
        return self._text.token(id)

    def verify(self) -> None:
        """Reads every file and raises :class:`KanaryError` naming the one that is not as it was written."""
        with _made_again(self.folder):
            for name, digest in self.meta["files"].items():
                verify(self.folder / name, digest)

    @cached_property
    def labels(self) -> Labels:
        """What people and explainers say of the features; it outlives the index."""
        path = self.folder.with_name(f"{self.folder.name}.labels.sqlite")
        return Labels(path, self.meta["sae"]["digest"], len(self))

    def top_tokens(self) -> dict[str, Array]:
        """``[latents, 10]`` ids of the tokens that each latent raises ("positive") and lowers ("negative") most; may be
        empty: see ``Feature.logits``."""
        names = {"positive": "logit_high_tokens", "negative": "logit_low_tokens"}
        return {name: self._columns[stored] for name, stored in names.items() if stored in self._columns}

    def histograms(self) -> Array:
        """``[latents, 50]``: how many of each latent's values that are not zero lie in even bins over (0, maximum]."""
        return self._columns["histogram"]

    def _repr_html_(self) -> str:
        from kanary.features.notebook import index_html

        return index_html(self)

    # --- one feature ------------------------------------------------------------------------------------------------

    def _feature(self, latent: int) -> Feature:
        columns, fired = self._columns, int(self._fired[latent])
        maximum, counts = float(columns["maximum"][latent]), columns["histogram"][latent].tolist()
        examples = self._shown(latent)
        shown_in: dict[str | int, list[int]] = {}
        for i, example in enumerate(examples):
            for name in example.lists:
                shown_in.setdefault(name, []).append(i)
        return Feature(
            latent,
            len(self),
            self.meta["sae"],
            self.meta["tokens"],
            fired,
            maximum,
            float(columns["total"][latent]) / fired if fired else None,
            {"edges": edges(maximum, BINS), "counts": counts},
            examples,
            tuple(sorted(shown_in.get("top", ()), key=lambda i: (-examples[i].value, i))),
            tuple(_interval(i, maximum, counts, fired, tuple(shown_in.get(i, ()))) for i in range(INTERVALS)),
            self._logits(latent),
            self._neurons(latent),
            {
                "correlated": self._latents(
                    "correlated", "correlation", latent, exact=self.meta["correlated"]["exact"]
                ),
                "similar": self._latents("similar", "cosine", latent),
            },
            tuple(self._twins(latent)),
            tuple(functions_of(latent, self.meta["functions"], self._functions, self._text.tokens)),
            tuple(self._concepts(latent)),
            self._explanation(latent),
            self.labels.human(latent),
        )

    def _explanation(self, latent: int) -> dict[str, Any] | None:
        found = self.labels.explanations(latent)
        return {key: found[0][key] for key in ("text", "title", "by", "scores")} if found else None

    def _shown(self, latent: int) -> tuple[Example, ...]:
        stored, text = self._examples, self._text
        rows = slice(*self._offsets[latent : latent + 2].tolist())
        windows, focus = stored["windows"][rows].tolist(), stored["focus"][rows].tolist()
        lists, values = stored["lists"][rows].tolist(), stored["values"][rows].tolist()
        read = [text.read(window) for window in windows]
        repeats = _repeats([window.around(at) for window, at in zip(read, focus, strict=True)])
        activations, effects = self._numbers("activation", rows), self._numbers("effect", rows)
        found = []
        for i, window in enumerate(read):
            document, position = window.locate(focus[i])
            found.append(
                Example(
                    windows[i],
                    document,
                    position,
                    focus[i],
                    values[i],
                    window.tokens,
                    window.special,
                    window.starts,
                    activations[i],
                    effects[i],
                    repeats[i],
                    _lists(lists[i]),
                )
            )
        return tuple(found)

    def _numbers(self, kind: str, rows: slice) -> list[tuple[tuple[int, float], ...]]:
        ends = self._examples[f"{kind}_offsets"][rows.start : rows.stop + 1].tolist()
        at, values = (self._examples[f"{kind}_{name}"][ends[0] : ends[-1]].tolist() for name in ("at", "values"))
        pairs, first = tuple(zip(at, values, strict=True)), ends[0]
        return [pairs[a - first : b - first] for a, b in pairwise(ends)]

    def _latents(self, name: str, number: str, latent: int, **more: Any) -> list[dict[str, Any]]:
        """What is stored under ``name`` as numbers of latents, and under ``name_NUMBERs`` as a number for each."""
        which, values = self._columns[name][latent].tolist(), self._columns[f"{name}_{number}s"][latent].tolist()
        return [{"latent": i, number: value, **more} for i, value in zip(which, values, strict=True) if i >= 0]

    def _neurons(self, latent: int) -> dict[str, Any]:
        found: dict[str, Any] = {"kind": self.meta["neurons"], "aligned": [], "correlated": []}
        for name, number in (("aligned", "cosine"), ("correlated", "correlation")):
            if f"neurons_{name}" in self._columns:
                stored = (self._columns[f"neurons_{name}{end}"][latent].tolist() for end in ("", "_values"))
                found[name] = [{"neuron": i, number: value} for i, value in zip(*stored, strict=True) if i >= 0]
        return found

    def _twins(self, latent: int) -> Iterator[dict[str, Any]]:
        """Of every other SAE the latent with the largest correlation, and that with the largest cosine if it is another."""
        for number, about in enumerate(self.meta["twins"]):
            names = ("twins", "twin_cosines", "twin_correlations")
            rows = zip(*(self._columns[name][latent, number].tolist() for name in names), strict=True)
            seen: set[int] = set()
            for which, cosine, correlation in rows:
                if which >= 0 and which not in seen:
                    seen.add(which)
                    yield about | {"latent": which, "cosine": finite(cosine), "correlation": finite(correlation)}

    def _concepts(self, latent: int) -> Iterator[dict[str, Any]]:
        if "concepts" in self._columns:
            names = ("concepts", "concept_f1", "concept_auroc", "concept_n")
            for which, f1, auroc, n in zip(*(self._columns[name][latent].tolist() for name in names), strict=True):
                if which >= 0:
                    yield {"concept": self.meta["concepts"][which], "f1": finite(f1), "auroc": finite(auroc), "n": n}

    def _logits(self, latent: int) -> dict[str, Any] | None:
        columns = self._columns
        if "logit_mean" not in columns:
            return None
        low, high = columns["logit_range"][latent].tolist()
        steps = columns["logit_counts"].shape[1]
        found: dict[str, Any] = {
            name: self._tokens(columns[f"logit_{which}_tokens"][latent], columns[f"logit_{which}_values"][latent])
            for name, which in (("positive", "high"), ("negative", "low"))
        }
        for name in ("mean", "std", "skewness", "kurtosis"):
            found[name] = finite(columns[f"logit_{name}"][latent])
        counts = columns["logit_counts"][latent].tolist()
        return found | {
            "near": self._near(latent),
            "histogram": {"edges": [low + (high - low) * i / steps for i in range(steps + 1)], "counts": counts},
        }

    def _near(self, latent: int) -> dict[str, float]:
        """Logit weights of the tokens around the examples; none in an index that was made before they were kept."""
        columns, shown = self._columns, self._examples
        if "logit_near_values" not in columns:
            return {}
        rows = slice(*self._offsets[latent : latent + 2].tolist())
        ids = self._text.near(shown["windows"][rows], shown["focus"][rows])
        values = columns["logit_near_values"][slice(*columns["logit_near_offsets"][latent : latent + 2].tolist())]
        return dict(zip(self._text.tokens(ids), rounded(values, 3), strict=True))  # as many digits as float16 has

    def _tokens(self, ids: Array, values: Array) -> list[dict[str, Any]]:
        rows = zip(self._text.tokens(ids), ids.tolist(), values.tolist(), strict=True)
        return [{"token": token, "id": id, "value": value} for token, id, value in rows]


def find_index(path: Path, sae: str | None = None) -> Path:
    """The folder of the index in ``path``, itself or that of a run; see :meth:`FeatureIndex.open`."""
    if (path / META).is_file():
        return path
    if (path / "index").is_dir():
        for partial in (path / "index").glob(".*.old"):
            recover(path / "index" / partial.name[1:-4])
    found = {file.parent.name: file.parent for file in sorted((path / "index").glob(f"*/{META}"))}
    if not path.is_dir():
        raise KanaryError(f"There is no folder {path}: give a run, as kanary train makes it, or an index.")
    if not found:
        refuse_unfinished(path)
        raise KanaryError(f"There is no feature index in {path}. Make one: kanary index {typed(path)}")
    if sae is not None:
        if sae not in found:
            raise KanaryError(f"{path} has no index of an SAE {sae!r}. {nearest(sae, found)}")
        return found[sae]
    if len(found) > 1:
        raise KanaryError(f"{path} has the indices of {len(found)} SAEs; name one of them: {', '.join(found)}.")
    return next(iter(found.values()))


@contextmanager
def _made_again(folder: Path) -> Iterator[None]:
    """Whatever is wrong with the index in ``folder``, its run can make it again."""
    try:
        yield
    except KanaryError as error:
        run = folder.parent.parent if folder.parent.name == "index" else "RUN"
        raise KanaryError(
            f"{error} To make it anew (labels and explanations are kept): kanary index {typed(run)}"
        ) from error


def edges(maximum: float, bins: int) -> list[float]:
    """The ends of even bins over (0, maximum]."""
    return [maximum * (i / bins) for i in range(bins + 1)]


@cache
def _lists(bits: int) -> tuple[str | int, ...]:
    """What shows an example, from what is stored of it."""
    return (*("top" for _ in range(bits >> INTERVALS & 1)), *(k for k in range(INTERVALS) if bits >> k & 1))


def _interval(number: int, maximum: float, counts: list[int], fired: int, shown: tuple[int, ...]) -> Interval:
    width = BINS // INTERVALS
    count = sum(counts[number * width : (number + 1) * width])
    low, high = (maximum * (i * width / BINS) for i in (number, number + 1))
    return Interval(low, high, count, count / fired if fired else 0.0, shown)


def _repeats(around: list[tuple[int, bytes]]) -> list[tuple[int, ...]]:
    """For every example the others with the same tokens around their focus."""
    groups: dict[tuple[int, bytes], list[int]] = {}
    for i, same in enumerate(around):
        groups.setdefault(same, []).append(i)
    return [tuple(other for other in groups[same] if other != i) for i, same in enumerate(around)]


def _meta(folder: Path) -> dict[str, Any]:
    path = folder / META
    meta = read_json(path)
    if meta.get("format") != FORMAT:
        given = meta.get("format")
        raise KanaryError(f"{path} is of another version, or no feature index (format {given!r}, not {FORMAT}).")
    kinds: dict[str, type] = {"sae": dict, "files": dict, "correlated": dict, "neurons": str}
    kinds |= dict.fromkeys(("tokens", "windows", "window"), int)
    kinds |= dict.fromkeys(("special_ids", "functions", "twins", "concepts"), list)
    for key, kind in kinds.items():
        if type(meta.get(key)) is not kind:
            raise KanaryError(f"{path} is damaged: {key} is {meta.get(key)!r}, expected {kind.__name__}.")
    return meta


def _refuse_other_sae(index: FeatureIndex) -> None:
    """Where the SAE lies beside its index, they must belong together: its weights are known by their checksum."""
    known = index.meta["sae"].get("weights_sha256")
    run = index.folder.parent.parent
    if known is None or index.folder.parent.name != "index":
        return
    name = index.meta["sae"]["name"]
    for folder in (run / "sae" / name, run / "sae", run):
        if (folder / "config.json").is_file() and (folder / "sae.safetensors").is_file():
            if (found := read_json(folder / "config.json").get("sha256")) != known:
                raise KanaryError(
                    f"{index.folder} is the index of another SAE (weights {known[:12]}…) than the one in {folder} "
                    f"({str(found)[:12]}…). Make it again: kanary index {typed(run)}"
                )
            return
