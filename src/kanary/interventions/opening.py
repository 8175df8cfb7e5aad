"""From a run to its SAEs and their model, without the text that they were trained on."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kanary.errors import KanaryError, nearest
from kanary.evaluation.inputs import open_saes, refuse_other_model, refuse_other_tokenizer
from kanary.lm import LanguageModel, load_model
from kanary.sae import SAE


@dataclass(frozen=True)
class Opened:
    """A run's SAEs on the device of their model."""

    lm: LanguageModel
    saes: Mapping[str, SAE]

    def one(self, name: str | None) -> SAE:
        """The SAE called ``name``; None: the only one.

        Raises:
            KanaryError: no such SAE, or several to choose from.
        """
        if name is None and len(self.saes) > 1:
            raise KanaryError(
                f"The run has {len(self.saes)} SAEs; name one of them with --sae: {', '.join(self.saes)}."
            )
        if name is not None and name not in self.saes:
            raise KanaryError(f"The run has no SAE {name!r}. {nearest(name, self.saes)}")
        return self.saes[name] if name is not None else next(iter(self.saes.values()))


def open_run(
    run: str | os.PathLike[str], *, model: str | None = None, dtype: str = "auto", device: str = "auto"
) -> Opened:
    """The SAEs of a run folder (or one in a folder of its own, or on the Hub) with the model that they read.

    Args:
        model: the language model, if it has moved since training.

    Raises:
        KanaryError: one is missing or damaged, or the model is not the one that the SAEs read (both are named).
    """
    saes = open_saes(run)
    for name, sae in saes.items():
        if not isinstance(sae.config.trained_on.get("site"), str):
            raise KanaryError(f"SAE {name} of {run} does not say which site it reads: its config.json has no site.")
    known = next(iter(saes.values())).config.trained_on
    source = model or known.get("model")
    if not source:
        raise KanaryError(f"{run} does not say which model it was trained with; give --model.")
    if not model and Path(str(source)).is_absolute() and not Path(str(source)).exists():
        raise KanaryError(f"{run} was trained with the model {source}, which is not there any more: give --model.")
    lm = load_model(str(source), revision=None if model else known.get("revision"), dtype=dtype, device=device)
    for name, sae in saes.items():
        refuse_other_model(name, sae, lm)
        refuse_other_tokenizer(name, sae, lm)
    return Opened(lm, {name: sae.to(lm.device) for name, sae in saes.items()})
