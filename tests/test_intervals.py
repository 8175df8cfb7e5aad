"""An explained variance lies well inside its own interval, also where few documents were read and little is explained."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kanary.evaluation.metrics import fidelity_metrics
from kanary.evaluation.result import Metric
from kanary.evaluation.sums import Sums, bootstrap

WIDTH, DOCUMENTS, TOKENS = 8, 16, 250


def documents(seed: int) -> Tensor:
    """``[document, token, width]``: the tokens of a document have much in common."""
    draw = torch.Generator().manual_seed(seed)
    own = torch.randn(DOCUMENTS, 1, WIDTH, generator=draw, dtype=torch.float64)
    return 3 + own + torch.randn(DOCUMENTS, TOKENS, WIDTH, generator=draw, dtype=torch.float64)


def explained(x: Tensor, reconstruct: Callable[[Tensor], Tensor]) -> Metric:
    """EV of ``reconstruct(x - mean) + mean``, over documents."""
    mean = x.mean((0, 1))
    y = mean + reconstruct(x - mean)
    n = torch.full((DOCUMENTS,), float(TOKENS))
    site, row = Sums(), Sums()
    groups = torch.arange(DOCUMENTS)
    site.add(groups, n=n, norm=n, x=x.sum(1), square=x.square().sum((1, 2)))
    others = dict.fromkeys(("legacy", "cosine", "norm", "ratio", "error_by_batch", "square", "dot"), n)
    row.add(groups, error=(x - y).square().sum((1, 2)), **others)
    draws = bootstrap(site.columns["n"], seed=0)
    return fidelity_metrics(site, row, draws, WIDTH)["reconstruction_quality"]["explained_variance"]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.9])
def test_what_moves_every_activation_by_the_same_share_explains_as_much_of_any_documents(share: float) -> None:
    for seed in range(5):
        found = explained(documents(seed), lambda x: share * x)
        assert (found.low, found.value, found.high) == pytest.approx((1 - (1 - share) ** 2,) * 3, abs=1e-12)


@pytest.mark.parametrize("kept", [1, 4, 7])
def test_an_explained_variance_lies_near_the_middle_of_its_interval(kept: int) -> None:
    keep = (torch.arange(WIDTH) < kept).double()
    for seed in range(20):
        found = explained(documents(seed), lambda x: keep * x)
        middle, half = (found.low + found.high) / 2, (found.high - found.low) / 2
        assert half > 0.002
        assert abs(found.value - middle) < 0.25 * half
