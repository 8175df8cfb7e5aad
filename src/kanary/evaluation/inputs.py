"""From a run folder to what an evaluation needs: its SAEs, their model, and a text, all of which must belong together."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanary.config import read_yaml
from kanary.errors import KanaryError
from kanary.lm import LanguageModel, load_model
from kanary.sae import SAE
from kanary.text import TextSource, open_text
from kanary.text.windows import Part


@dataclass(frozen=True)
class Inputs:
    """SAEs with the model and the text they are judged on."""

    lm: LanguageModel
    text: TextSource
    part: Part
    """``heldout`` of the text that they were trained on, ``all`` of any other."""
    saes: dict[str, SAE]
    window: int
    """Tokens per window in training."""


def open_saes(run: str | os.PathLike[str]) -> dict[str, SAE]:
    """Every SAE of a run folder by name, or the one in a folder of its own or on the Hub.

    Raises:
        KanaryError: there is none, or one is damaged (named).
    """
    folder = Path(run)
    for base in (folder / "sae", folder):
        several = sorted(file.parent for file in base.glob("*/config.json"))
        if len(several) > 1:
            return {path.name: SAE.from_pretrained(path) for path in several}
    if not folder.exists() and "/" not in str(run):  # an id on the Hub has an owner
        raise KanaryError(f"{run} does not exist.")
    sae = SAE.from_pretrained(folder if folder.exists() else str(run))
    return {str(sae.config.sparsifier["name"]): sae}


def open_inputs(
    run: str | os.PathLike[str],
    *,
    model: str | None = None,
    text: str | None = None,
    column: str | None = None,
    split: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
) -> Inputs:
    """What ``run`` was trained with, unless told otherwise.

    Raises:
        KanaryError: something is missing or damaged, or the model is not the one that the SAEs read.
    """
    saes = open_saes(run)
    config = read_yaml(Path(run) / "config.yaml") if (Path(run) / "config.yaml").is_file() else {}
    for name, sae in saes.items():
        _refuse_damaged(f"SAE {name} of {run}", sae.config.trained_on)
    known = next(iter(saes.values())).config.trained_on
    for need, given in (("model", model), ("text", text)):
        if not (given or known.get(need)):
            raise KanaryError(f"{run} does not say which {need} it was trained with; give --{need}.")
        if not given and Path(known[need]).is_absolute() and not Path(known[need]).exists():
            raise KanaryError(
                f"{run} was trained with the {need} {known[need]}, which is not there any more: give --{need}."
            )
    revision = None if model else known.get("revision")
    lm = load_model(str(model or known["model"]), revision=revision, dtype=dtype, device=device)
    if lm.device.type not in ("cpu", "cuda"):  # others have no float64, in which numbers are summed
        raise KanaryError(f"SAEs are measured on cpu or cuda, not on {lm.device.type}: use --device cpu.")
    for name, sae in saes.items():
        refuse_other_model(name, sae, lm)
        refuse_other_tokenizer(name, sae, lm)
    source = open_text(
        text or str(known["text"]),
        column=column or (config.get("column") or "text" if not text else "text"),
        split=split or (config.get("split") or "train" if not text else "train"),
        same_tokenizer=bool(config.get("same_tokenizer")),
    )
    part = unseen_part(source, known)
    window = min(known.get("window") or 256, lm.context)
    return Inputs(lm, source, part, {name: sae.to(lm.device) for name, sae in saes.items()}, window)


def _refuse_damaged(which: str, known: Mapping[str, Any]) -> None:
    """An SAE's memory of its training is text that anybody may have edited."""
    if not known.get("site"):
        raise KanaryError(f"{which} does not say which site it reads: its config.json has no site.")
    kinds = {
        "site": str,
        "model": str,
        "text": str,
        "fingerprint": str,
        "window": int,
        "seed": int,
        "special_ids": list,
    }
    for key, kind in kinds.items():
        if (value := known.get(key)) is not None and type(value) is not kind:
            raise KanaryError(
                f"{which} is damaged: trained_on.{key} in its config.json is {value!r}, not {kind.__name__}."
            )


def refuse_other_model(name: str, sae: SAE, lm: LanguageModel) -> None:
    """Raises :class:`KanaryError` unless ``sae`` reads activations of ``lm``: its weights, site and width."""
    known = sae.config.trained_on
    if known.get("fingerprint") not in (None, lm.fingerprint):
        raise KanaryError(
            f"SAE {name} was trained on {known.get('model')} ({known['fingerprint']}), but {lm.name} is another model "
            f"({lm.fingerprint}). Name the model it belongs to: --model."
        )
    site = str(known["site"])
    if (width := lm.width(site)) != sae.d_model:
        raise KanaryError(
            f"SAE {name} reads activations of width {sae.d_model}, but {site} of {lm.name} has width {width}: "
            "it was trained on another model or site."
        )
    if known.get("special_ids") not in (None, sorted(lm.special_ids)):
        raise KanaryError(
            f"SAE {name} was trained with the special tokens {known['special_ids']}, but the tokenizer of {lm.name} has "
            f"{sorted(lm.special_ids)}: BOS, EOS or padding changed. Use the tokenizer it was trained with."
        )


def refuse_other_tokenizer(name: str, sae: SAE, lm: LanguageModel) -> None:
    """Raises :class:`KanaryError` if the model's tokenizer is not the one that the training text was read with."""
    known = sae.config.trained_on
    if known.get("tokenizer_fingerprint") not in (None, lm.tokenizer_fingerprint):
        raise KanaryError(
            f"SAE {name} was trained with the tokenizer {known.get('tokenizer')} ({known['tokenizer_fingerprint']}), but "
            f"{lm.tokenizer_name} splits text otherwise ({lm.tokenizer_fingerprint}). Use the one it was trained with."
        )


def unseen_part(text: TextSource, known: Mapping[str, Any]) -> Part:
    """The part of ``text`` that an SAE was not trained on.

    Raises:
        KanaryError: it was trained on all of it.
    """
    print_ = text.fingerprint
    same = text.name == known.get("text") or (print_ is not None and print_ == known.get("text_fingerprint"))
    if not same:
        return "all"
    if known.get("part", "train") != "train":
        raise KanaryError(
            f"The SAE was trained on part {known['part']!r} of {text.name}, so none of it is held out. "
            "Evaluate it on another text: --text."
        )
    return "heldout"
