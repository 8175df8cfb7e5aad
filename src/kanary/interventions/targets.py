"""What an attribution explains: a token's logit, or how strongly a latent further down is called for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any, Protocol

import torch
from torch import Tensor

from kanary.errors import KanaryError
from kanary.evaluation.inputs import refuse_other_model
from kanary.lm import LanguageModel
from kanary.sae import SAE


class Target(Protocol):
    """A number at the last token of a prompt."""

    def measure(self, lm: LanguageModel, tokens: Tensor, replace: Mapping[str, Callable[[Tensor], Tensor]]) -> Tensor:
        """``[batch]``, differentiable: of the last of ``tokens [batch, position]``, with the sites in ``replace`` replaced."""
        ...


@dataclass(frozen=True)
class TokenTarget:
    """The logit of a token, above that of another one or above the mean of the vocabulary.

    What is added to all logits alike changes no prediction, and so does not count.
    """

    token: int
    against: int | None = None

    def measure(self, lm: LanguageModel, tokens: Tensor, replace: Mapping[str, Callable[[Tensor], Tensor]]) -> Tensor:
        logits = last_logits(lm, tokens, replace)
        other = logits.mean(1) if self.against is None else logits[:, self.against]
        return logits[:, self.token] - other


@dataclass(frozen=True)
class LatentTarget:
    """What a latent's code is made of where it fires: its pre-activation, after whatever its encoder does to it.

    Not its code, which jumps to 0 where the sparsifier cuts and has no gradient there.
    """

    sae: SAE
    """Of a site after that of the features that are to explain it."""
    latent: int

    def __post_init__(self) -> None:
        if not 0 <= self.latent < self.sae.d_sae:
            raise KanaryError(
                f"There is no latent {self.latent} in the SAE at {self.site}: they go from 0 to {self.sae.d_sae - 1}."
            )

    @property
    def site(self) -> str:
        return str(self.sae.config.trained_on["site"])

    def measure(self, lm: LanguageModel, tokens: Tensor, replace: Mapping[str, Callable[[Tensor], Tensor]]) -> Tensor:
        refuse_other_model(self.sae.config.sparsifier["name"], self.sae, lm)
        found: list[Tensor] = []

        def keep(x: Tensor) -> Tensor:
            found.append(x[:, -1])
            return x

        with lm.replacing({**replace, self.site: keep}):
            lm.model(input_ids=tokens, use_cache=False, **_last_only(lm))
        if self.site in replace or (torch.is_grad_enabled() and not found[0].requires_grad):
            raise KanaryError(
                f"What happens at {next(iter(replace))} does not reach latent {self.latent} of {self.site}: the latent to be "
                "explained must be at a later site than the features that explain it."
            )
        latents = torch.tensor([self.latent], device=found[0].device)
        z = self.sae.to(lm.device).standardise(found[0])
        return self.sae.encoder.scores(z, self.sae.sparsifier, self.sae.decoder, latents)[:, 0]


def last_logits(lm: LanguageModel, tokens: Tensor, replace: Mapping[str, Callable[[Tensor], Tensor]]) -> Tensor:
    """``[batch, vocab]`` after the last of ``tokens [batch, position]``, differentiable, at least float32."""
    with lm.replacing(replace):
        logits: Tensor = lm.model(input_ids=tokens, use_cache=False, **_last_only(lm)).logits[:, -1]
    return logits if logits.dtype == torch.float64 else logits.float()


def _last_only(lm: LanguageModel) -> dict[str, Any]:
    """So that the logits of all other positions, which may be large, are not made."""
    return {"logits_to_keep": 1} if "logits_to_keep" in signature(lm.model.forward).parameters else {}
