"""What is at hand: the SAEs of the run folders that were opened, and their weights, models and indexes once they are needed."""

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from kanary.app.answers import Refused
from kanary.errors import KanaryError, nearest, typed
from kanary.evaluation.inputs import refuse_other_model, refuse_other_tokenizer
from kanary.features.index import FeatureIndex
from kanary.files import read_json
from kanary.lm import LanguageModel, load_model
from kanary.lm.load import BUNDLED, BUNDLED_FOLDER
from kanary.lm.sites import Site
from kanary.sae import SAE
from kanary.sae.store import CONFIG, WEIGHTS, refuse_unfinished

SAES, MODELS, INDEXES = 4, 2, 16
"""How many are kept in memory; of more, those used last."""
NUMBERS = {"l0": "l0", "ev": "explained_variance", "ce_score": "ce_loss_score", "dead": "dead_share"}

V = TypeVar("V")


class Kept(Generic[V]):
    """The values asked for last, each made once, whichever thread asks first."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._values: OrderedDict[Hashable, V] = OrderedDict()
        self._making = threading.RLock()

    def get(self, key: Hashable, make: Callable[[], V]) -> V:
        with self._making:
            if key not in self._values:
                self._values[key] = make()
                while len(self._values) > self.most:
                    self._values.popitem(last=False)
            self._values.move_to_end(key)
            return self._values[key]


@dataclass(frozen=True)
class Entry:
    """One SAE at hand; its weights may never have been read."""

    run: str
    """Of the address: letters, digits, ``-``, ``_`` and ``.`` only."""
    name: str
    """Of the address, too; the SAE's name in its run, where that has no other characters."""
    own_name: str
    run_folder: Path
    folder: Path
    """Of its config and weights."""
    config: Mapping[str, Any]

    @property
    def id(self) -> str:
        return f"{self.run}/{self.name}"

    @property
    def known(self) -> Mapping[str, Any]:
        """What the SAE knows of its training."""
        known: Mapping[str, Any] = self.config["trained_on"]
        return known

    @property
    def digest(self) -> str | None:
        return self.known.get("weights")

    @property
    def version(self) -> tuple[str, int]:
        """Changes when the SAE on the disk does."""
        return str(self.folder), (self.folder / WEIGHTS).stat().st_mtime_ns


class Library:
    """Everything that the server may show: the SAEs of ``runs`` and nothing else of this machine."""

    def __init__(
        self, runs: Iterable[str | Path], *, model: str | None = None, dtype: str = "auto", device: str = "auto"
    ) -> None:
        """
        Args:
            runs: run folders, folders of SAEs, or folders of such folders.
            model: the language model of all of them, if it has moved since training.

        Raises:
            KanaryError: a folder that is not there, or no SAE in any of them.
        """
        self.runs = [Path(run) for run in runs]
        for run in self.runs:
            if not run.is_dir():
                raise KanaryError(f"{run} is not a folder: give run folders, such as runs/first.")
        self._model, self._dtype, self._device = model, dtype, device
        self._saes: Kept[SAE] = Kept(SAES)
        self._models: Kept[LanguageModel] = Kept(MODELS)
        self._indexes: Kept[FeatureIndex] = Kept(INDEXES)
        self._belong: set[Hashable] = set()
        self.entries: dict[str, Entry] = {}
        self.refresh()
        if not self.entries:
            for run in self.runs:
                refuse_unfinished(run)
            where = ", ".join(map(str, self.runs)) or "no folder"
            raise KanaryError(f"There is no SAE in {where}. Train one with kanary train, or try kanary demo.")

    def refresh(self) -> None:
        """Looks again at what lies in the folders: a run may have finished."""
        self.entries = {entry.id: entry for entry in _entries(self.runs)}

    def entry(self, run: str, name: str) -> Entry:
        """Raises :class:`Refused` (404) if there is none."""
        if found := self.entries.get(f"{run}/{name}"):
            return found
        raise Refused(404, f"There is no SAE {f'{run}/{name}'[:100]!r} here.", nearest(f"{run}/{name}", self.entries))

    def sae(self, entry: Entry) -> SAE:
        """With its weights."""
        return self._saes.get(entry.version, lambda: SAE.from_pretrained(entry.folder))

    def model(self, entry: Entry) -> LanguageModel:
        """The model that the SAE reads; loaded once, whichever SAEs read it.

        Raises:
            KanaryError: it is not there any more, or is another one.
        """
        name = self.model_name(entry)
        if not name:
            raise KanaryError(f"SAE {entry.id} does not say which model it reads: kanary serve … --model MODEL.")
        revision = None if self._model else entry.known.get("revision")
        key = (str(name), revision, self._dtype, self._device)
        lm = self._models.get(key, lambda: load_model(name, revision=revision, dtype=self._dtype, device=self._device))
        sae = self.sae(entry).to(lm.device)
        if (entry.version, key) not in self._belong:
            refuse_other_model(entry.id, sae, lm)
            refuse_other_tokenizer(entry.id, sae, lm)
            self._belong.add((entry.version, key))
        return lm

    def model_name(self, entry: Entry) -> str | None:
        """Of the model that the SAE reads: a folder or an id on the Hub."""
        name = self._model or entry.known.get("model")
        return str(name) if name else None

    def index(self, entry: Entry) -> FeatureIndex:
        """What ``kanary index`` wrote of the SAE.

        Raises:
            Refused: there is none (404), or it is of other weights (409).
            KanaryError: it is damaged.
        """
        if not indexed(entry):
            raise Refused(404, f"{entry.id} has no index.", f"Build it: kanary index {typed(entry.run_folder)}")
        made = index_folder(entry).stat().st_mtime_ns
        index = self._indexes.get((entry.version, made), lambda: FeatureIndex.open(index_folder(entry)))
        digest = index.meta["sae"].get("digest")
        if entry.digest and digest != entry.digest:
            raise Refused(
                409,
                f"The index of {entry.id} is of other weights ({digest}) than the SAE ({entry.digest}).",
                f"Build it again: kanary index {typed(entry.run_folder)}",
            )
        return index

    def live(self) -> bool:
        """Whether the model of some SAE is likely to be found: it is not a folder that has gone."""
        names = {self.model_name(entry) for entry in self.entries.values()}
        return any(name and (not Path(name).is_absolute() or Path(name).exists()) for name in names)

    def row(self, entry: Entry) -> dict[str, Any]:
        """An SAE in the list of ``/api/runs``."""
        config, known = entry.config, entry.known
        return {
            "id": entry.id,
            "name": entry.own_name,
            "kind": config["sparsifier"]["name"],
            "encoder": config["encoder"]["name"],
            "decoder": config["decoder"]["name"],
            "width": config["d_sae"],
            "site": known.get("site"),
            "where": _where(known, self._model),
            "model": known.get("model"),
            **_numbers(entry),
            "indexed": indexed(entry),
            "digest": entry.digest,
            "seed": known.get("seed"),
        }


def index_folder(entry: Entry) -> Path:
    """Where ``kanary index`` writes."""
    return entry.run_folder / "index" / entry.own_name


def indexed(entry: Entry) -> bool:
    return (index_folder(entry) / "index.json").is_file()


def _entries(runs: Iterable[Path]) -> Iterator[Entry]:
    taken: set[str] = set()
    for folder in dict.fromkeys(path.resolve() for path in _run_folders(runs)):
        names: set[str] = set()
        run = ""
        paths = _sae_folders(folder)
        for path in paths:
            config = _config(path)
            if config is None:
                continue  # kanary info says what is wrong with it
            own_name = path.name if len(paths) > 1 else config["sparsifier"]["name"]
            run = run or _free(_safe(folder.name), taken)
            yield Entry(run, _free(_safe(own_name), names), own_name, folder, path, config)


def _run_folders(runs: Iterable[Path]) -> Iterator[Path]:
    """Each of ``runs``, or the folders in it if it has no SAE itself."""
    for run in runs:
        if _sae_folders(run):
            yield run
        elif run.is_dir():
            yield from sorted(path for path in run.iterdir() if path.is_dir())


def _sae_folders(run: Path) -> list[Path]:
    """Where the SAEs of a run lie, as :func:`kanary.evaluation.inputs.open_saes` finds and names them."""
    for place in (run / "sae", run):
        for found in ([place / CONFIG], sorted(place.glob(f"*/{CONFIG}"))):
            if saes := [path.parent for path in found if (path.parent / WEIGHTS).is_file()]:
                return saes
    return []


def _config(folder: Path) -> dict[str, Any] | None:
    """The SAE's ``config.json``, if it is one."""
    try:
        config = read_json(folder / CONFIG)
        named = all(isinstance(config[part]["name"], str) for part in ("encoder", "sparsifier", "decoder"))
        whole = isinstance(config["d_sae"], int) and isinstance(config["trained_on"], dict)
    except (KanaryError, KeyError, TypeError):
        return None
    return config if named and whole else None


def _where(known: Mapping[str, Any], model: str | None) -> str | None:
    """The site in plain words, if the number of the model's blocks can be read without loading it."""
    kind, _, layer = str(known.get("site")).partition(".")
    name = str(model or known.get("model"))
    folder = BUNDLED_FOLDER if name == BUNDLED else Path(name)
    try:
        config = read_json(folder / "config.json")
        blocks = int(config.get("num_hidden_layers") or config["n_layer"])
        return Site(f"{kind}.{layer}", kind, int(layer), "", "output", blocks).describe()
    except (KanaryError, KeyError, TypeError, ValueError):
        return None


def _numbers(entry: Entry) -> dict[str, Any]:
    """The numbers of the last evaluation, each with its interval; null where there are none."""
    try:
        saes = read_json(entry.run_folder / "metrics.json")["saes"]
        groups = saes.get(entry.own_name) or (next(iter(saes.values())) if len(saes) == 1 else {})
        found = {name: metric for group in groups.values() for name, metric in group.items()}
    except (KanaryError, KeyError, TypeError, AttributeError):
        found = {}
    found = found or entry.known.get("metrics") or {}
    numbers = {name: found.get(metric) for name, metric in NUMBERS.items()}
    single = {name: (numbers[name] or {}).get("value") for name in ("l0", "dead")}
    return numbers | single


def _safe(name: str) -> str:
    """``name`` with nothing in it that means something in an address."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", name).strip(".") or "run"


def _free(name: str, taken: set[str]) -> str:
    found = next(each for n in range(1, 10**6) if (each := name if n == 1 else f"{name}-{n}") not in taken)
    taken.add(found)
    return found
