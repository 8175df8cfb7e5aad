"""What an edit does to predictions: what its direction alone says beforehand, and what the model then does."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from kanary.errors import KanaryError
from kanary.evaluation.latents import writes_residual
from kanary.interventions.edits import Edits, Vector, as_edits
from kanary.interventions.prompts import prompt_ids, special_at, token_texts
from kanary.interventions.samples import refuse_empty
from kanary.interventions.steer import Steering
from kanary.interventions.steerable import Steerable
from kanary.lm import LanguageModel, trace
from kanary.lm.unembed import unembedding

TOP = 10
"""Tokens that are raised most, and as many that are lowered most."""


class TokenEffect(NamedTuple):
    """A token of the vocabulary; logits are less their mean over the vocabulary, and averaged over all positions."""

    id: int
    token: str
    predicted: float
    """Change of its logit by the direct path: what is added, through the final norm as it stands, to the unembedding."""
    measured: float
    """Change of its logit when the model is run with the edit."""


@dataclass(frozen=True)
class LogitEffects:
    """Predicted and measured effects of edits on the logits."""

    positions: int
    """Tokens that were averaged over; special ones are left out."""
    top: tuple[TokenEffect, ...]
    """The tokens that are predicted to rise most, then those to fall most."""
    agreement: float
    """Share of them whose measured effect has the predicted sign."""
    correlation: float
    """Between predicted and measured effects, over the whole vocabulary."""

    def to_json(self) -> dict[str, Any]:
        return {
            "positions": self.positions,
            "agreement": self.agreement,
            "correlation": self.correlation,
            "top": [each._asdict() for each in self.top],
        }


class TokenLoss(NamedTuple):
    """One token of a text, and how well it is predicted."""

    id: int
    token: str
    loss: float | None
    """Nats, without the edit; None of the first token, and after a special one."""
    change: float | None
    """Nats that the edit adds."""


@torch.no_grad()
def logit_effects(panel: Steerable, edits: Edits, prompts: Sequence[str], *, top: int = TOP) -> LogitEffects:
    """The direct effect of ``edits`` on the logits, and the one that the model shows, over the tokens of the prompts.

    Raises:
        KanaryError: edits at several sites, or at one that writes into no residual stream, have no direct path.
    """
    refuse_empty(prompts)
    chosen = as_edits(edits)
    lm, site = panel.lm, _one_site(panel, chosen)
    unembed = unembedding(lm)
    if unembed is None:
        raise KanaryError(
            f"{lm.name} has no single matrix from its final norm to the logits, so nothing can be predicted."
        )
    unembed = unembed.double()
    last = f"resid_post.{lm.n_layers - 1}"
    predicted = torch.zeros(lm.vocab_size, dtype=torch.float64, device=lm.device)
    measured, count = torch.zeros_like(predicted), 0
    for prompt in prompts:
        tokens = prompt_ids(lm, prompt)[None].to(lm.device)
        kept = ~special_at(lm, tokens)[0]
        clean = trace(lm, tokens, [site, last])
        with Steering(panel, chosen):
            new = trace(lm, tokens, [site])
        added = (new.x[site] - clean.x[site])[0, kept].double()
        size = clean.x[last][0, kept].double().square().mean(1).sqrt()  # of the final norm
        predicted += ((added / size[:, None]) @ unembed).sum(0)
        measured += (new.logits - clean.logits)[0, kept].double().sum(0)
        count += int(kept.sum())
    predicted, measured = (each / count - each.mean() / count for each in (predicted, measured))
    if not bool(predicted.any()):
        raise KanaryError("The edits change nothing on these prompts: the feature does not fire, or the strength is 0.")
    ids = torch.cat([predicted.topk(top).indices, predicted.topk(top, largest=False).indices])
    agree = (predicted[ids].sign() == measured[ids].sign()).double().mean()
    rows = zip(
        ids.tolist(), token_texts(lm, ids.tolist()), predicted[ids].tolist(), measured[ids].tolist(), strict=True
    )
    correlation = F.cosine_similarity(predicted, measured, dim=0)  # both have a mean of 0
    return LogitEffects(count, tuple(TokenEffect(*row) for row in rows), float(agree), float(correlation))


@torch.no_grad()
def loss_effects(panel: Steerable, edits: Edits, text: str) -> tuple[TokenLoss, ...]:
    """Token by token, what edits do to how well the model predicts ``text``."""
    lm = panel.lm
    tokens = prompt_ids(lm, text)[None].to(lm.device)
    before = next_losses(lm.logits(tokens), tokens)[0]
    with Steering(panel, as_edits(edits)):
        after = next_losses(lm.logits(tokens), tokens)[0]
    special = special_at(lm, tokens)[0].tolist()
    ids = tokens[0].tolist()
    found = [TokenLoss(ids[0], token_texts(lm, ids[:1])[0], None, None)]
    for at, name in enumerate(token_texts(lm, ids[1:]), 1):
        known = not special[at - 1]
        loss, change = float(before[at - 1]), float(after[at - 1] - before[at - 1])
        found.append(TokenLoss(ids[at], name, loss if known else None, change if known else None))
    return tuple(found)


def next_losses(logits: Tensor, tokens: Tensor) -> Tensor:
    """``[batch, position - 1]`` float32 nats of predicting every token but the first, from ``[batch, position, vocab]``."""
    flat = logits[:, :-1].flatten(0, 1).float()
    losses = F.cross_entropy(flat, tokens[:, 1:].flatten(), reduction="none")
    return losses.view(len(tokens), -1)


def mean_difference(
    lm: LanguageModel, site: str, positive: Sequence[str], negative: Sequence[str], *, length: float | None = None
) -> Vector:
    """What a user would try without an SAE: the mean activation on some prompts less that on others.

    Args:
        length: of the vector, raw; by default what it happens to be.

    Raises:
        KanaryError: a list is empty, or both have the same mean.
    """
    means = []
    for name, prompts in (("positive", positive), ("negative", negative)):
        if not prompts:
            raise KanaryError(f"There is no {name} prompt: a difference of means needs both kinds.")
        rows = []
        for prompt in prompts:
            tokens = prompt_ids(lm, prompt)[None]
            kept = ~special_at(lm, tokens)[0]
            rows.append(lm.capture(tokens, [site])[site][0, kept.to(lm.device)].double())
        means.append(torch.cat(rows).mean(0))
    values = means[0] - means[1]
    if not bool(values.any()):
        raise KanaryError("The positive and the negative prompts have the same mean activation.")
    if length is not None:
        values = values / values.norm() * length
    return Vector(site, values.float(), "mean difference")


def _one_site(panel: Steerable, edits: Sequence[Any]) -> str:
    sites = {panel.site_of(edit) for edit in edits}
    if len(sites) != 1:
        raise KanaryError(
            f"A direct effect is that of one site, but the edits are at {', '.join(sorted(sites)) or 'none'}."
        )
    site = sites.pop()
    saes = [panel.saes[panel.name(edit.sae)] for edit in edits if not isinstance(edit.feature, Vector)]
    if not all(writes_residual(sae, panel.lm) for sae in saes) or panel.lm.width(site) != panel.lm.d_model:
        raise KanaryError(f"{site} does not write into the residual stream, so there is no direct path to the logits.")
    return site
