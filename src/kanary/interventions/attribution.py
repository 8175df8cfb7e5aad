"""Which features at which tokens raise a prediction: by gradients, by integrated gradients, and by taking them out.

The activation at the SAE's site is ``bias + sum of contributions + error``. A feature's contribution is credited

- with *gradient*: contribution times the gradient of the target, its effect to first order (for linear decoders gradient ×
  activation; attribution patching, Nanda 2023);
- with *integrated*: contribution times the mean gradient on the straight way from the bias alone to the activation
  (integrated gradients, Sundararajan et al. 2017, arXiv 1703.01365), so that all rows, the error's among them, add up to
  the change of the target; how far they do not is shown;
- with *ablated*: the target as it is, minus the target without the contribution: exact, and dear, so the strongest have it.

Strongest are those with the largest gradient credit: of the two estimates it is the one that predicts what ablation does
(bench/attribution.py).
"""

from collections.abc import Callable, Iterator
from itertools import zip_longest
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from kanary.errors import KanaryError
from kanary.evaluation.losses import CHUNK
from kanary.interventions.attributed import Attribution, Completeness, Credit, ErrorRow, FeatureRow, Row
from kanary.interventions.decomposed import Decomposed, decompose
from kanary.interventions.lens import LensRow, Prediction, logit_lens, predictions
from kanary.interventions.prompts import one_token, prompt_ids, token_texts
from kanary.interventions.targets import LatentTarget, Target, TokenTarget, last_logits
from kanary.lm import LanguageModel
from kanary.sae import SAE

T = TypeVar("T")
STEPS, EXACT, SHOWN, PREDICTIONS = 32, 20, 40, 10


def attribute(
    model: LanguageModel,
    sae: SAE,
    prompt: str,
    *,
    token: str | None = None,
    against: str | None = None,
    target: LatentTarget | None = None,
    position: int = -1,
    steps: int = STEPS,
    exact: int = EXACT,
    top: int = SHOWN,
) -> Attribution:
    """What raises the prediction of a token after ``prompt``, or a latent of another SAE at its last token.

    Args:
        token: the text of one token, with its leading space; by default the likeliest next one.
        against: another one, whose logit is subtracted; by default the mean logit is.
        target: explain this latent of a later site instead of a token.
        position: of the token after which is predicted; what comes later is cut off. Negative: from the end.
        steps: of the integral (Gauss-Legendre nodes).
        exact: how many of the strongest pairs of feature and token, and how many features, are ablated as well.
        top: how many pairs are listed; all others are summed.

    Raises:
        KanaryError: a prompt that is empty or too long, no such position, a token that is several, an SAE of another model, a
            latent that the site does not reach.
    """
    if target is not None and (token is not None or against is not None):
        raise KanaryError("Give either token (and against) or target, not both.")
    if steps < 1 or exact < 0 or top < 1:
        raise KanaryError(f"steps={steps}, exact={exact}, top={top}: steps and top must be 1 or more, exact 0 or more.")
    tokens = _until(prompt_ids(model, prompt), position)
    read = decompose(model, sae, tokens)
    if not read.changing.any():
        raise KanaryError(f"Up to position {position} the prompt {prompt!r} has only special tokens: no feature fires.")
    if target is not None:
        return _attribution(read, target, steps, exact, top, (), ())
    with torch.no_grad():
        likeliest = predictions(model, last_logits(model, read.tokens[None], {})[0], PREDICTIONS)
    wanted = likeliest[0].id if token is None else one_token(model, token)
    what = TokenTarget(wanted, None if against is None else one_token(model, against))
    return _attribution(read, what, steps, exact, top, likeliest, logit_lens(model, read.tokens, wanted))


def _until(tokens: Tensor, position: int) -> Tensor:
    if not -len(tokens) <= position < len(tokens):
        raise KanaryError(
            f"There is no position {position} in the prompt: it has {len(tokens)} tokens, from 0 to {len(tokens) - 1} "
            f"(or from -1 to {-len(tokens)})."
        )
    return tokens[: range(len(tokens))[position] + 1]


def _attribution(
    read: Decomposed,
    target: Target,
    steps: int,
    exact: int,
    top: int,
    likeliest: tuple[Prediction, ...],
    lens: tuple[LensRow, ...],
) -> Attribution:
    way = _integrate(read, target, steps)
    entries = _estimates(way, read.codes.rows(), read.contributions)
    missed = _estimates(way, torch.arange(len(read.x), device=read.x.device), read.error)
    order = entries[:, 0].abs().argsort(descending=True, stable=True)
    groups = _by_latent(read, entries)
    without = [read.without(some) for some in (*order[:exact, None], *groups[:exact])]
    lost = [way.value - value for value in _values(read, target, [*without, read.x - read.error])]
    of_entries, of_groups = lost[: len(order[:exact])], lost[len(order[:exact]) : -1]
    return Attribution(
        tokens=tuple(token_texts(read.lm, read.tokens.tolist())),
        ids=tuple(read.tokens.tolist()),
        special=tuple(read.special.nonzero()[:, 0].tolist()),
        site=read.site,
        where=read.lm.site(read.site).describe(),
        target=_described(read, target),
        value=way.value,
        baseline=way.baseline,
        completeness=Completeness(float(entries[:, 1].sum() + missed[:, 1].sum()), way.value - way.baseline, steps),
        rows=tuple(_row(read, e, entries, loss) for e, loss in zip_longest(order[:top].tolist(), of_entries[:top])),
        features=tuple(_feature(read, some, entries, loss) for some, loss in zip_longest(groups, of_groups)),
        error=ErrorRow(_credit(missed.sum(0), lost[-1]), _pairs(missed)),
        positions=_pairs(missed.index_add(0, read.codes.rows(), entries)),
        rest=_credit(entries[order[top:]].sum(0), None),
        pairs=len(entries),
        predictions=likeliest,
        lens=lens,
    )


def _estimates(way: "_Way", positions: Tensor, parts: Tensor) -> Tensor:
    """``[n, 2]`` float64: gradient and integrated credit of ``parts [n, d_model]`` at ``positions [n]``."""
    return torch.stack([(g[positions] * parts).sum(1) for g in (way.gradient, way.mean_gradient)], 1)


def _by_latent(read: Decomposed, entries: Tensor) -> list[Tensor]:
    """The numbers of every latent's codes; the latent with the largest sum of gradient credits first."""
    named, of = torch.unique(read.codes.indices, return_inverse=True)
    sums = entries.new_zeros(len(named)).index_add_(0, of, entries[:, 0])
    return [(of == i).nonzero()[:, 0] for i in sums.abs().argsort(descending=True, stable=True).tolist()]


def _row(read: Decomposed, entry: int, entries: Tensor, loss: float | None) -> Row:
    latent, position = int(read.codes.indices[entry]), int(read.codes.rows()[entry])
    return Row(latent, position, float(read.codes.values[entry]), _credit(entries[entry], loss))


def _feature(read: Decomposed, some: Tensor, entries: Tensor, loss: float | None) -> FeatureRow:
    strongest = some[entries[some, 0].abs().argmax()]
    latent, position = int(read.codes.indices[strongest]), int(read.codes.rows()[strongest])
    return FeatureRow(latent, len(some), position, _credit(entries[some].sum(0), loss))


def _credit(numbers: Tensor, loss: float | None) -> Credit:
    return Credit(float(numbers[0]), float(numbers[1]), loss)


def _pairs(table: Tensor) -> tuple[tuple[float, float], ...]:
    return tuple((a, b) for a, b in table.tolist())


@torch.no_grad()
def _described(read: Decomposed, target: Target) -> dict[str, object]:
    if isinstance(target, LatentTarget):
        x = read.lm.capture(read.tokens[None], [target.site])[target.site][0]
        code = float(target.sae.encode(x[-1:]).latent(target.latent)[0])
        return {"kind": "latent", "site": target.site, "latent": target.latent, "value": code}
    assert isinstance(target, TokenTarget)
    logits = last_logits(read.lm, read.tokens[None], {})[0].double()
    (mine,) = token_texts(read.lm, [target.token])
    other = None if target.against is None else token_texts(read.lm, [target.against])[0]
    return {
        "kind": "token",
        "token": mine,
        "id": target.token,
        "against": None if target.against is None else {"token": other, "id": target.against},
        "probability": float(logits.softmax(0)[target.token]),
        "rank": int((logits > logits[target.token]).sum()) + 1,
    }


class _Way(NamedTuple):
    """What is met on the straight way from the bias alone to the activations."""

    value: float
    baseline: float
    gradient: Tensor
    """``[position, d_model]`` float64, at the end of the way."""
    mean_gradient: Tensor
    """``[position, d_model]`` float64, over the way."""


def _integrate(read: Decomposed, target: Target, steps: int) -> _Way:
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    shares = [0.0, *((nodes + 1) / 2).tolist(), 1.0]
    start, way = read.x - read.changing, read.changing
    values: list[float] = []
    gradients: list[Tensor] = []
    for some in _batches(shares, read):
        at = (start + torch.tensor(some).to(way)[:, None, None] * way).requires_grad_()
        with torch.enable_grad():
            found = _measure(read, target, at)
            gradients.append(torch.autograd.grad(found.sum(), at)[0].double())
        values += found.detach().double().tolist()
    every = torch.cat(gradients)
    mean = torch.einsum("s,spd->pd", torch.from_numpy(weights / 2).to(every), every[1:-1])
    return _Way(values[-1], values[0], every[-1], mean)


@torch.no_grad()
def _values(read: Decomposed, target: Target, changed: list[Tensor]) -> list[float]:
    """The target with each of the activations ``changed``, ``[position, d_model]`` each, in the place of the real one."""
    found: list[float] = []
    for some in _batches(changed, read):
        found += _measure(read, target, torch.stack(some)).double().tolist()
    return found


def _measure(read: Decomposed, target: Target, x: Tensor) -> Tensor:
    replace: dict[str, Callable[[Tensor], Tensor]] = {read.site: lambda _: x}
    return target.measure(read.lm, read.tokens.expand(len(x), -1), replace)


def _batches(items: list[T], read: Decomposed) -> Iterator[list[T]]:
    """As many at a time as there is room for."""
    room = CHUNK * (16 if read.lm.device.type == "cuda" else 1)
    size = max(1, min(64, room // max(1, len(read.tokens) * 8 * read.lm.d_model, read.lm.vocab_size)))
    return (items[a : a + size] for a in range(0, len(items), size))
