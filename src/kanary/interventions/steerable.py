"""A model with the SAEs by which it can be steered, and the measure of each latent."""

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from kanary.errors import KanaryError, nearest
from kanary.evaluation.inputs import open_saes, refuse_other_model, refuse_other_tokenizer
from kanary.interventions.edits import Condition, Edit, Vector
from kanary.interventions.prompts import token_texts
from kanary.interventions.ranges import Ranges, find_ranges, measure_ranges
from kanary.lm import LanguageModel, load_model
from kanary.sae import SAE

SAEs = SAE | str | os.PathLike[str] | Mapping[str, SAE | str | os.PathLike[str]]


class Steerable:
    """What edits are resolved with; opening it is slow, steering with it is not. Safe to share between threads."""

    lm: LanguageModel
    saes: dict[str, SAE]
    """By name, on the model's device."""
    sites: dict[str, str]
    """Name -> the site that the SAE reads, and is steered at."""

    def __init__(
        self,
        lm: LanguageModel,
        saes: SAEs | None,
        *,
        index: str | os.PathLike[str] | None = None,
        text: str | None = None,
        ranges: Mapping[str, Ranges] | None = None,
        asks: str = "sae={!r}",
    ) -> None:
        """
        Args:
            saes: one, or several by name; a path is a run folder or an SAE's folder. None: vectors alone can be used.
            index: a run or an index from which maxima are taken; by default that of the run which the SAE was read from.
            text: measure maxima on this text where there is no index.
            ranges: known already, by SAE.
            asks: how the user names one of several SAEs, for errors; ``{}`` stands for the name.

        Raises:
            KanaryError: an SAE was trained on another model (both are named), or reads another width or site.
        """
        self.lm, self._index, self._text, self._asks = lm, index, text, asks
        self.saes = {name: sae.to(lm.device) for name, sae in _opened(saes).items()}
        self.sites = {}
        for name, sae in self.saes.items():
            if not sae.config.trained_on.get("site"):
                raise KanaryError(f"SAE {name} does not say which site it reads: its config.json has no site.")
            refuse_other_model(name, sae, lm)
            self.sites[name] = str(sae.config.trained_on["site"])
        self._ranges: dict[str, Ranges | None] = dict(ranges or {})

    @classmethod
    def open(
        cls,
        run: str | os.PathLike[str],
        *,
        model: str | None = None,
        dtype: str = "auto",
        device: str = "auto",
        **more: Any,
    ) -> "Steerable":
        """The SAEs of a run with the model that they were trained on; ``more`` as for the class."""
        saes = open_saes(run)
        known = next(iter(saes.values())).config.trained_on
        source = model or known.get("model")
        if not isinstance(source, str):
            raise KanaryError(f"{run} does not say which model it was trained with; give --model.")
        if not model and Path(source).is_absolute() and not Path(source).exists():
            raise KanaryError(f"{run} was trained with the model {source}, which is not there any more: give --model.")
        lm = load_model(source, revision=None if model else known.get("revision"), dtype=dtype, device=device)
        for name, sae in saes.items():
            refuse_other_tokenizer(name, sae, lm)
        return cls(lm, saes, **more)

    def name(self, sae: str | None) -> str:
        """The SAE called ``sae``, or the only one."""
        if sae is None and len(self.saes) == 1:
            return next(iter(self.saes))
        if sae in self.saes:
            return str(sae)
        if not self.saes:
            raise KanaryError("No SAE was given, so there are no features: only vectors can be added or projected out.")
        if sae is None:
            *others, last = self.saes
            raise KanaryError(
                f"There are {len(self.saes)} SAEs, {', '.join(others)} and {last}: say which one is meant, such as "
                f"{self._asks.format(last)}."
            )
        raise KanaryError(f"There is no SAE {sae!r} here. {nearest(str(sae), self.saes)}")

    def ranges(self, sae: str | None = None) -> Ranges:
        """How large the codes of an SAE get.

        Raises:
            KanaryError: the run has no feature index, and no text to measure on was given.
        """
        name = self.name(sae)
        if self._ranges.get(name) is None:
            found = find_ranges(self.saes[name], self._index)
            if found is None and self._text is not None:
                found = measure_ranges(self.lm, self.saes[name], self._text)
            if found is None:
                raise KanaryError(
                    f"Strengths in maxima and sigmas need the feature index of SAE {name}: make one with kanary index RUN, "
                    "or measure on a text with text='stories.parquet' (--text), or give strengths with unit='raw' (--unit raw)."
                )
            self._ranges[name] = found
        ranges = self._ranges[name]
        assert ranges is not None
        return ranges

    def latent(self, sae: str | None, feature: Any) -> int:
        """``feature`` if it is one."""
        name = self.name(sae)
        size = self.saes[name].d_sae
        if isinstance(feature, bool) or not isinstance(feature, int) or not 0 <= feature < size:
            raise KanaryError(f"Feature {feature!r} is not there: SAE {name} has features 0 to {size - 1:,}.")
        return feature

    def size(self, edit: Edit | Condition) -> float:
        """How large one unit of the edit's strength is, in the SAE's own units."""
        if edit.unit == "raw" or isinstance(edit.feature, Vector):
            return 1.0
        return self.ranges(edit.sae).unit(edit.feature, edit.unit)

    def site_of(self, edit: Edit) -> str:
        """Where the edit is made."""
        return edit.feature.site if isinstance(edit.feature, Vector) else self.sites[self.name(edit.sae)]

    @cached_property
    def words(self) -> list[str]:
        """The text of every token of the vocabulary."""
        return token_texts(self.lm, range(self.lm.vocab_size))


def _opened(saes: SAEs | None) -> dict[str, SAE]:
    if saes is None:
        return {}
    if isinstance(saes, Mapping):
        return {str(name): _one(sae) for name, sae in saes.items()}
    if isinstance(saes, SAE):
        return {str(saes.config.sparsifier["name"]): saes}
    return open_saes(saes)


def _one(sae: SAE | str | os.PathLike[str]) -> SAE:
    return sae if isinstance(sae, SAE) else SAE.from_pretrained(Path(sae) if Path(sae).exists() else str(sae))
