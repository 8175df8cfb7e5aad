"""What tests of steering share: a double-precision model with SAEs of every family, and edits worked out token by token."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kan_decoders import FORMS, added, kan_sae
from kanary.interventions.edits import Edit
from kanary.interventions.ranges import Ranges, counted
from kanary.interventions.steer import Steering
from kanary.interventions.steerable import Steerable
from kanary.lm import LanguageModel, load_model
from kanary.sae import SAE
from planted import KINDS, random_sae

SITE, AFTER = "resid_post.1", "resid_pre.2"  # the same point of the network
D_SAE = 24
FAMILIES = [*KINDS, *(f"{form}/{kind}" for form in FORMS for kind in ("topk", "jumprelu"))]
PROMPT = "Once upon a time, the big dog was happy."


def double(folder: Path) -> LanguageModel:
    lm = load_model(folder, device="cpu")
    lm.model.double()
    return lm


def tokens_of(lm: LanguageModel, *texts: str) -> tuple[Tensor, Tensor]:
    """(ids, mask) ``[batch, position]`` of the texts, BOS first, padded on the right."""
    rows = [[lm.bos_id or 0, *lm.tokenizer(text, add_special_tokens=False)["input_ids"]] for text in texts]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [2] * (longest - len(row)) for row in rows])
    return ids, torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])


def sae_for(lm: LanguageModel, family: str, site: str = SITE, seed: int = 0) -> SAE:
    """An SAE of random weights that reads the model's activations; float64."""
    form, _, kind = family.rpartition("/")
    make: Callable[..., SAE] = (lambda **o: kan_sae(form, kind, **o)) if form else (lambda **o: random_sae(kind, **o))
    sae = make(d_model=lm.d_model, d_sae=D_SAE, seed=seed)
    x = lm.capture(tokens_of(lm, PROMPT)[0], [site])[site][0, 1:]
    sae.mean.copy_(x.mean(0))
    sae.scale.copy_((lm.d_model / (x - x.mean(0)).square().sum(1).mean()).sqrt())
    sae.remember(site=site, model=lm.name, fingerprint=lm.fingerprint, special_ids=sorted(lm.special_ids))
    return sae.requires_grad_(False)


def ranges_for(lm: LanguageModel, sae: SAE) -> Ranges:
    """Over the tokens of the prompt and a few others; a latent that is silent there is given a maximum of 1."""
    site = str(sae.config.trained_on["site"])
    ids = tokens_of(lm, PROMPT, "Tom said, he had a small cake and his friend.")[0]
    codes = sae.encode(lm.capture(ids, [site])[site][:, 1:])
    found = counted(codes.indices, codes.values.double(), sae.d_sae, codes.tokens, "a test")
    return Ranges(
        found.source, found.tokens, found.maximum.masked_fill(found.maximum == 0, 1.0), found.mean,
        found.sigma.masked_fill(found.sigma == 0, 0.5), found.counts,
    )  # fmt: skip


def panel_for(lm: LanguageModel, **saes: SAE) -> Steerable:
    return Steerable(lm, saes, ranges={name: ranges_for(lm, sae) for name, sae in saes.items()})


def contributions(sae: SAE, codes: Tensor) -> Tensor:
    """``[tokens, d_sae, d_model]`` raw: what every latent adds, by the formulas of the decoders' docstrings."""
    if sae.decoder.name == "linear":
        return codes[..., None] * sae.W_dec / sae.scale
    return added(sae, codes) / sae.scale


def wanted(edit: Edit, f: float, ranges: Ranges) -> float:
    """The code that an edit asks for where the latent has the code ``f``; one number at a time."""
    latent = edit.feature
    assert isinstance(latent, int)
    unit = {"raw": 1.0, "maximum": float(ranges.maximum[latent]), "sigma": float(ranges.sigma[latent])}[edit.unit]
    if edit.kind == "add":
        return f + edit.amount * unit
    if edit.kind == "set":
        return edit.amount * unit
    if edit.kind == "scale":
        return f * edit.amount
    if edit.kind == "clamp":
        low = -float("inf") if edit.low is None else edit.low * unit
        high = float("inf") if edit.high is None else edit.high * unit
        return min(max(f, low), high)
    return {"zero": 0.0, "mean": float(ranges.mean[latent])}[edit.to]


Acts = Callable[[int, int], bool]


def steered_x(panel: Steerable, edits: Any, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    """``[batch, position, d_model]`` after the edits at :data:`SITE`: exact, while norms further on round to float32."""
    with Steering(panel, edits):
        return panel.lm.capture(ids, [AFTER], mask)[AFTER]


def by_hand(
    panel: Steerable, ids: Tensor, mask: Tensor, edits: list[Edit], acts: Acts, name: str | None = None
) -> Tensor:
    """What :func:`steered_x` must be. ``acts(row, position)`` says where all of the edits act."""
    lm, sae, ranges = panel.lm, panel.saes[panel.name(name)], panel.ranges(name)
    x = lm.capture(ids, [SITE], mask)[SITE]
    special = torch.isin(ids, torch.tensor(sorted(lm.special_ids))) | (mask == 0)
    codes = sae.encode(x, special).to_dense()
    new = codes.clone()
    for row, position in (~special).nonzero().tolist():
        for edit in edits:
            if acts(row, position):
                at = (row, position, int(edit.feature))  # type: ignore[arg-type]
                new[at] = wanted(edit, float(new[at]), ranges)
    shift = contributions(sae, new.flatten(0, 1)) - contributions(sae, codes.flatten(0, 1))
    return x + shift.sum(1).view(x.shape)


def generated(lm: LanguageModel, ids: Tensor, mask: Tensor | None = None, tokens: int = 8, **more: Any) -> Tensor:
    options = {"max_new_tokens": tokens, "do_sample": False, "pad_token_id": 2, "eos_token_id": None} | more
    found: Tensor = lm.model.generate(ids, attention_mask=torch.ones_like(ids) if mask is None else mask, **options)
    return found
