"""What ``kanary index`` can be asked for."""

import dataclasses
from typing import get_args

from kanary.config import option
from kanary.errors import KanaryError, nearest
from kanary.features.selection import TOP
from kanary.text.windows import Part


@dataclasses.dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """What to index, and on which text."""

    text: str | None = option(None, "Text to read; by default what was held out of the training text.")
    column: str | None = option(None, "Column of the data that holds the text; by default that of training, or 'text'.")
    split: str | None = option(None, "Split of a data set on the Hub; by default that of training, or 'train'.")
    part: str = option("auto", "Documents to read: train, heldout, all; auto = those the SAE was not trained on.")
    model: str | None = option(None, "The language model, if it has moved since training.")
    dtype: str = option("auto", "Numbers the model computes with: auto (as saved), float32, bfloat16.")
    device: str = option("auto", "Where to compute: auto, cpu, cuda, cuda:1.")
    sae: str | None = option(None, "Name of one SAE of the run; by default all of them, one after another.")
    tokens: int = option(1_000_000, "Tokens to read, in whole batches; fewer if the text is shorter.", count=True)
    window: int = option(0, "Tokens the model sees at once; 0 = as in training.")
    lm_batch: int = option(0, "Windows per forward pass of the model; 0 = chosen for the device.")
    per_interval: int = option(5, "Examples from each of the ten intervals of a latent's values.")
    effects: str = option(
        "auto",
        "For which examples to run the model without the latent: none, all, or of how many of the strongest; auto = so many "
        "(1 to 20) that it reads about as many tokens as the text has.",
    )
    concept_tokens: int = option(
        100_000,
        "Tokens of the labelled corpus to look for its concepts on, where that is the text; 0 = none.",
        count=True,
    )
    twins: tuple[str, ...] = option(
        (), "Runs, or RUN/SAE, with other SAEs of the same model, of which the like of every latent is looked for."
    )
    seed: int = option(0, "Seed of the examples that are drawn.")

    def __post_init__(self) -> None:
        if self.tokens < 1 or self.per_interval < 1 or self.concept_tokens < 0:
            raise KanaryError(
                f"tokens={self.tokens}, per_interval={self.per_interval} and concept_tokens={self.concept_tokens}: the "
                "first two must be 1 or more, the last 0 or more."
            )
        if self.part not in (parts := ("auto", *get_args(Part))):
            raise KanaryError(f"Unknown part {self.part!r}. {nearest(self.part, parts)}")
        if not (self.effects in ("auto", "none", "all") or self.effects.isdecimal()):
            raise KanaryError(f"effects={self.effects!r} must be auto, none, all or a number of examples.")

    def shown_effects(self, tokens: int, latents: int, window: int) -> int | None:
        """Of how many of the strongest examples of each of ``latents`` the effects are computed; None for all examples."""
        if self.effects == "all":
            return None
        if self.effects == "auto":
            return min(TOP, max(1, tokens // max(1, latents * window)))
        return 0 if self.effects == "none" else int(self.effects)
