"""What the weights alone say of every latent: cosines between directions, and what a latent does to the logits.

Logit weights of latent i (the "logit lens"): ``W_dec,i · diag(final-norm weight) · W_U``, what one unit of the latent's
unit-norm direction, in raw activation space, adds to the logits before the final norm's scale. Their moments are over the
vocabulary and of the population: a latent that writes for one token has a large skewness and kurtosis.
"""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kanary.evaluation.result import LatentTable
from kanary.lm import LanguageModel
from kanary.lm.unembed import unembedding
from kanary.sae import SAE

ROWS = 256
"""Latents treated at a time."""
BLOCK = 2**24
"""Numbers in the largest block held at a time, of cosines or logit weights."""


@torch.no_grad()
def latent_table(sae: SAE, lm: LanguageModel, *, show: Callable[[int], None] | None = None) -> LatentTable:
    """The table of ``sae``, whose site is in ``sae.config.trained_on``; its columns lie on the CPU.

    The logit columns are None where the site does not write into the residual stream (see :func:`writes_residual`) or
    the model has no :func:`~kanary.lm.unembed.unembedding`; the encoder's where it has no ``W_enc [d_sae, d_model]`` and
    ``b_enc [d_sae]``. Encoder norm and bias are those of the standardised space. A latent without a direction, or with
    the same effect on every token, has NaN where there is no such number.

    Args:
        lm: the model that the SAE was trained on; the work is done on its device.
        show: called with the number of latents done since the last call.
    """
    W_dec = sae.W_dec.detach().to(lm.device)
    encoder = _encoder_directions(sae)
    W_enc = None if encoder is None else encoder[0].to(lm.device)
    unembed = unembedding(lm) if writes_residual(sae, lm) else None
    logits = None if unembed is None else _LogitWeights(unembed)
    # fast because directions get their length once; a cosine needs no more than float32
    units = [F.normalize(W, dim=1) for W in (W_dec, W_enc) if W is not None]
    columns: dict[str, list[Tensor]] = {}
    for start in range(0, sae.d_sae, ROWS):
        rows = slice(start, min(start + ROWS, sae.d_sae))
        found = {"max_decoder_cosine": _max_cosine(units[0], rows)}
        if W_enc is not None:
            d, e = W_dec[rows].double(), W_enc[rows].double()
            found["max_encoder_cosine"] = _max_cosine(units[1], rows)
            found["encoder_norm"] = e.norm(dim=1)
            found["encoder_decoder_cosine"] = (d * e).sum(1) / (d.norm(dim=1) * e.norm(dim=1))
        if logits is not None:
            found |= logits.of(W_dec[rows].double())
        for name, values in found.items():
            columns.setdefault(name, []).append(values.cpu())
        if show:
            show(rows.stop - start)
    table: dict[str, Any] = dict.fromkeys(field.name for field in fields(LatentTable))
    table |= {name: torch.cat(values) for name, values in columns.items()}
    table["encoder_bias"] = None if encoder is None else encoder[1].double().cpu()
    return LatentTable(**table)


def writes_residual(sae: SAE, lm: LanguageModel) -> bool:
    """Whether the SAE's site adds to, or is, the residual stream.

    True of every named site. A module named by hand must be the same place as a named site; in a family without site
    names its width is all there is to go by.
    """
    name = sae.config.trained_on.get("site")
    if name is None or sae.d_model != lm.d_model:
        return False
    site = lm.site(str(name))
    if site.layer is not None or not lm.sites:
        return True
    return any((other.path, other.side) == (site.path, site.side) for other in map(lm.site, lm.sites))


def _encoder_directions(sae: SAE) -> tuple[Tensor, Tensor] | None:
    """``W_enc [d_sae, d_model]`` and ``b_enc [d_sae]``, or None: a KAN encoder has no single direction per latent."""
    W_enc, b_enc = (getattr(sae.encoder, name, None) for name in ("W_enc", "b_enc"))
    if not isinstance(W_enc, Tensor) or not isinstance(b_enc, Tensor):
        return None
    if W_enc.shape != (sae.d_sae, sae.d_model) or b_enc.shape != (sae.d_sae,):
        return None
    return W_enc.detach(), b_enc.detach()


def _max_cosine(units: Tensor, rows: slice) -> Tensor:
    """Largest cosine of each of ``units[rows]`` (unit or zero, ``[d_sae, d_model]``) with another one that is not zero."""
    mine = units[rows]
    best = mine.new_full((len(mine),), -torch.inf)
    width = _width(*mine.shape)
    for start in range(0, len(units), width):
        others = units[start : start + width]
        cosines = mine @ others.T
        cosines.diagonal(rows.start - start).fill_(-torch.inf)  # with itself; empty where this block holds no such pair
        cosines.masked_fill_((others == 0).all(1), -torch.inf)
        best = torch.maximum(best, cosines.amax(1))
    nothing = (mine == 0).all(1) | best.isinf()
    return best.double().masked_fill_(nothing, torch.nan)


class _LogitWeights:
    """Moments over the vocabulary, block by block, in float64: a skewness near zero is a difference of large sums."""

    def __init__(self, unembed: Tensor) -> None:
        self.unembed = unembed  # [d_model, vocab] float32
        self.mean = unembed.mean(1, dtype=torch.float64)  # [d_model]

    def of(self, directions: Tensor) -> dict[str, Tensor]:
        """The logit columns for ``directions [rows, d_model]`` float64."""
        vocab = self.unembed.shape[1]
        sums = directions.new_zeros(3, len(directions))  # of the centred logit weights to the powers 2, 3 and 4
        highest, lowest = _Extreme(torch.max), _Extreme(torch.min)
        width = _width(*directions.shape)
        for start in range(0, vocab, width):
            # centred first: moments about the mean then need one pass and lose no digits
            x = directions @ (self.unembed[:, start : start + width].double() - self.mean[:, None])
            square = x.square()
            sums += torch.stack([square.sum(1), (square * x).sum(1), square.square().sum(1)])
            highest.add(x, start)
            lowest.add(x, start)
        m2, m3, m4 = sums / vocab
        return {
            "logit_mean": directions @ self.mean,
            "logit_std": m2.sqrt(),
            "logit_skewness": m3 / m2.pow(1.5),
            "logit_kurtosis": m4 / m2.square(),
            "highest_token": highest.at,
            "lowest_token": lowest.at,
        }


class _Extreme:
    """The place of the largest (or smallest) number of every row, over blocks of columns."""

    value: Tensor
    at: Tensor

    def __init__(self, choose: Callable[..., tuple[Tensor, Tensor]]) -> None:
        self.choose = choose

    def add(self, x: Tensor, start: int) -> None:
        value, at = self.choose(x, dim=1)
        at = at + start
        if start:
            value, which = self.choose(torch.stack([self.value, value]), dim=0)
            at = torch.stack([self.at, at]).gather(0, which[None])[0]
        self.value, self.at = value, at


def _width(rows: int, d_model: int) -> int:
    """Columns for a block: neither the result ``[rows, width]`` nor the factor ``[d_model, width]`` is above BLOCK."""
    return max(1, BLOCK // max(rows, d_model))
