"""Feature splitting and absorption: does a general concept keep its latent where a special case of it holds?

In absorption a latent seems to stand for a general concept ("non-Latin script") but is silent on tokens of one special case
("Arabic script"), whose own latent carries the general direction as well. Chanin et al. 2024 (arXiv 2409.14507), as
SAEBench computes it (Karvonen et al. 2025, arXiv 2503.09532), with parents and children of the labelled corpus in place
of first letters and words. For every parent:

1. The full probe on the raw activation gives its direction p, and says where the activation itself holds the parent. A
   parent counts where its F1 on the judged tokens of the test half is at least ``PROBE_F1``. An F1 means something at one
   frequency only, and parents differ a hundredfold in theirs: each is treated as if it held on ``FREQUENCY`` of the
   tokens, that of a first letter (the probe, fitted at 1/2, is shifted by the log odds; false alarms are weighted).
2. Main latents: those whose mean is larger where the parent holds, ordered by the difference, as long as another one lifts
   the F1 of the probe on all of them by more than ``F1_GAIN``, on the balanced draw of the selection half. *Splits* is how
   many there are. (SAEBench orders them by the weights of an L1 probe.)
3. On every token of the test half where the parent holds and the full probe says so, with P the length of the activation
   along p, counted from what the decoder writes without any latent (SAEBench: from 0), and the length that each active
   latent adds along p = value x cosine(W_dec, p) x |W_dec|; of a curved decoder, whose latents turn, what the latent adds
   at its value stands for value x W_dec:

   - *full* absorption: every main latent is below ``SILENT``, and the latent that adds most has a cosine of at least
     ``FULL_COSINE`` and adds at least ``SHARE`` of P > 0.
   - *fraction*: with M what the main latents add and A what at most ``ABSORBERS`` other latents with a cosine of at least
     ``FRACTION_COSINE`` add (those that add most): 0 if M >= P or A < ``SHARE`` P; otherwise 1 if M <= 0; otherwise
     a / (a + M), where a = min(A, P - M).

Both must be read beside other numbers. An SAE that does not find the parent can look unabsorbed: its main latents fire on
few tokens of the parent (*recall*) or on about as many others (*false alarms*). A child that makes up more than about 6 %
of its parent lifts the F1 by more than ``F1_GAIN``, so that its latent becomes a main one: what would be absorption from a
small child is splitting from a large one. And in a narrow model unrelated directions reach the cosines by chance (about
1 / sqrt(width)), so that a random SAE may have a fraction of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log

import torch
from torch import Tensor

from kanary.errors import KanaryError
from kanary.evaluation.concepts.probing import (
    Draws,
    Probe,
    best_units,
    entries_at,
    fit_probes,
    mean_differences,
    mean_over,
)
from kanary.evaluation.result import Metric
from kanary.evaluation.sums import estimate
from kanary.sae import SAE, SparseCodes
from kanary.sae.decoders.linear import LinearDecoder

MAIN = 10
"""Main latents, at most."""
F1_GAIN = 0.03
PROBE_F1 = 0.6
FREQUENCY = 1 / 26
SILENT = 1e-8
FULL_COSINE = 0.025
FRACTION_COSINE = 0.1
SHARE = 0.4
ABSORBERS = 3
_BLOCK = 2**22  # numbers of contributions that are held at a time


@dataclass(frozen=True)
class Rates:
    """Absorption on some of the tokens where the parent holds and the full probe says so; ``n`` of them."""

    full: Metric
    """Share of the tokens on which the parent is fully absorbed."""
    fraction: Metric
    """Mean over the tokens of the share of the parent that other latents carry."""


@dataclass(frozen=True)
class ParentAbsorption:
    """What becomes of one parent."""

    main: tuple[int, ...]
    """The main latents, the one with the largest mean difference first."""
    rates: Rates
    by_child: Mapping[str, Rates]
    """Child -> the same on the tokens where it holds: the child with a high rate took the parent over."""
    recall: Metric
    """Share of the tokens of the test half with the parent on which any main latent fires. Low rates mean little where
    it is not far above the false alarms: an SAE reaches them by not finding the parent."""
    false_alarms: Metric
    """The same on the tokens without the parent, of the balanced draw of the test half."""
    probe_f1: float
    """Of the full probe on the test half, as if the parent held on ``FREQUENCY`` of the tokens."""

    @property
    def splits(self) -> int:
        return len(self.main)


@dataclass(frozen=True)
class Absorption:
    """Every parent of one SAE, and means over the parents that count. Read the rates beside recall and false alarms.

    The intervals are over documents, which are drawn for all parents alike. NaN where no parent counts.
    """

    parents: Mapping[str, ParentAbsorption]
    left_out: Mapping[str, str]
    """Parents that do not count -> why."""
    rates: Rates
    recall: Metric
    false_alarms: Metric
    splits: float


def absorption(
    sae: SAE,
    x: Tensor,
    codes: SparseCodes,
    draws: Draws,
    probes: Mapping[str, Probe],
    parents: Mapping[str, Sequence[str]] | None = None,
) -> Absorption:
    """Splitting and absorption of the parents among ``draws.concepts``.

    Args:
        sae: whose decoder writes ``codes``.
        x: ``[tokens, width]``, raw activations.
        codes: of ``x``.
        draws: made without ``shuffle``.
        probes: the full probes on ``x`` (``probe_all(x, draws).probes``).
        parents: parent -> its children; default: as the labelled corpus knows them.

    Raises:
        KanaryError: ``x`` or ``codes`` of another number of tokens than the draws, a concept without labels, a probe that
            is not a full one.
    """
    parents = _parents(draws.concepts) if parents is None else parents
    _check(sae, x, draws, probes, parents)
    directions = {}
    left_out = {}
    for parent in parents:
        if parent not in draws.train_rows:
            left_out[parent] = draws.left_out[parent]
            continue
        direction = _Direction.of(probes[parent], parent, x, draws)
        if direction.f1 < PROBE_F1:
            left_out[parent] = f"the full probe has an F1 of {direction.f1:.2f}, below {PROBE_F1}"
        else:
            directions[parent] = direction
    found, drawn = {}, []
    for parent, main in main_latents(codes, draws, list(directions)).items():
        if not main:
            left_out[parent] = "no latent has a larger mean where it holds"
            continue
        found[parent], numbers = _parent(sae, codes, draws, parent, parents[parent], main, directions[parent])
        drawn.append(numbers)
    full, fraction, recall, false_alarms = mean_over(drawn, 4)
    parts = [(p.rates.full.n, p.recall.n, p.false_alarms.n, p.splits) for p in found.values()]
    n, n_recall, n_alarms, splits = (sum(column) for column in zip(*parts, strict=True)) if parts else (0, 0, 0, 0)
    return Absorption(
        found,
        left_out,
        Rates(estimate(full, n), estimate(fraction, n)),
        estimate(recall, n_recall),
        estimate(false_alarms, n_alarms),
        splits / len(found) if found else float("nan"),
    )


def main_latents(codes: SparseCodes, draws: Draws, parents: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Parent -> its main latents: see step 2 above; none where no latent has a larger mean where the parent holds."""
    differences = mean_differences(codes, draws)
    column = {name: i for i, name in enumerate(draws.train_rows)}
    best = best_units(differences, draws, MAIN)
    f1 = {}
    fitted = fit_probes(codes, draws, {name: best[name] for name in parents}, range(1, min(MAIN, codes.d_sae) + 1))
    for k, probes in fitted.items():
        for name, probe in probes.items():
            rows = draws.train_rows[name]
            f1[name, k] = _f1(probe.log_odds(codes, rows) > 0, torch.arange(len(rows)) < len(rows) // 2)
    main = {}
    for name in parents:
        useful = int((differences[best[name], column[name]] > 0).sum())
        k = min(1, useful)
        while 0 < k < useful and f1[name, k + 1] > f1[name, k] + F1_GAIN:
            k += 1
        main[name] = tuple(best[name][:k].tolist())
    return main


def absorbed(
    codes: SparseCodes, rows: Tensor, main: Sequence[int], adds: Tensor, cosines: Tensor, projection: Tensor
) -> tuple[Tensor, Tensor]:
    """Full absorption and absorption fraction of single tokens; step 3 above.

    Args:
        rows: ``[n]`` int64, the tokens.
        adds: ``[nnz]`` float64, what every value at these tokens (in the order of ``entries_at``) adds along the probe's
            direction (raw activation).
        cosines: ``[nnz]`` float64, between the probe's direction and that in which each of them adds.
        projection: ``[n]`` float64, P of every token.

    Returns:
        ``[n]`` bool and ``[n]`` float64.
    """
    entries = (*entries_at(codes, rows), adds, cosines)
    order = adds.argsort(descending=True)
    order = order[entries[0][order].argsort(stable=True)]  # within each token, the latent that adds most comes first
    which, latents, values, adds, cosines = (each[order] for each in entries)
    is_main = torch.isin(latents, torch.tensor(main))
    none = torch.zeros(len(rows), dtype=torch.float64)

    awake = none.index_add(0, which[is_main], (values[is_main].abs() >= SILENT).double()) > 0
    top = _place(which, len(rows)) == 0
    largest, cosine = none.clone(), none.clone()
    largest[which[top]], cosine[which[top]] = adds[top], cosines[top]
    enough = (projection > 0) & (largest >= SHARE * projection)
    full = ~awake & (cosine >= FULL_COSINE) & enough

    by_main = none.index_add(0, which[is_main], adds[is_main])
    others = ~is_main & (cosines >= FRACTION_COSINE) & (adds > 0)
    which, adds = which[others], adds[others]
    first = _place(which, len(rows)) < ABSORBERS
    by_others = none.index_add(0, which[first], adds[first])
    taken = torch.minimum(by_others, projection - by_main)
    fraction = torch.where(by_main <= 0, 1.0, taken / (taken + by_main))
    absent = (by_main >= projection) | (projection <= 0) | (by_others < SHARE * projection)
    return full, fraction.masked_fill(absent, 0.0)


@dataclass(frozen=True)
class _Direction:
    """A parent as the raw activation holds it."""

    unit: Tensor  # [width] float64, unit length
    rows: Tensor  # [n], tokens of the test half where the parent holds
    along: Tensor  # [n] float64, their activations' length along the direction
    hit: Tensor  # [n] bool: the full probe says so
    f1: float

    @classmethod
    def of(cls, probe: Probe, parent: str, x: Tensor, draws: Draws) -> "_Direction":
        column = draws.concepts.index(parent)
        holds, judged = draws.labels[:, column], draws.judged[:, column]
        rows = (judged & draws.test).nonzero()[:, 0]
        log_odds, mine = probe.log_odds(x, rows), holds[rows]
        said = log_odds > log((1 - FREQUENCY) / FREQUENCY)
        hits, false_alarms = FREQUENCY * _share(said[mine]), (1 - FREQUENCY) * _share(said[~mine])
        f1 = 2 * hits / (hits + false_alarms + FREQUENCY)
        length = probe.weight.norm()
        return cls(probe.weight / length, rows[mine], ((log_odds - probe.bias) / length)[mine], said[mine], f1)


def _share(said: Tensor) -> float:
    return float(said.double().mean())


def _parent(
    sae: SAE,
    codes: SparseCodes,
    draws: Draws,
    parent: str,
    children: Sequence[str],
    main: tuple[int, ...],
    direction: _Direction,
) -> tuple[ParentAbsorption, Tensor]:
    """And ``[4, 1 + resamples]``: full, fraction, recall and false alarms under the bootstrap."""
    origin = sae.restore(sae.decoder.b_dec).detach().cpu().double() @ direction.unit
    rows, projection = direction.rows[direction.hit], direction.along[direction.hit] - origin
    adds, cosines = _added(sae, *entries_at(codes, rows)[1:], direction.unit)
    full, fraction = absorbed(codes, rows, main, adds, cosines, projection)
    drawn = _rates(draws, rows, full, fraction)

    without = draws.test_rows[parent][len(draws.test_rows[parent]) // 2 :]
    recall, false_alarms = (draws.mean(_fires(codes, some, main), some) for some in (direction.rows, without))

    by_child = {}
    for child in children:
        here = draws.labels[rows, draws.concepts.index(child)]
        by_child[child] = _as_rates(_rates(draws, rows[here], full[here], fraction[here]), int(here.sum()))
    result = ParentAbsorption(
        main,
        _as_rates(drawn, len(rows)),
        by_child,
        estimate(recall, len(direction.rows)),
        estimate(false_alarms, len(without)),
        direction.f1,
    )
    return result, torch.cat([drawn, recall[None], false_alarms[None]])


@torch.no_grad()
def _added(sae: SAE, latents: Tensor, values: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
    """Of ``values [nnz]`` of ``latents [nnz]``: what each adds along ``unit [width]``, raw, and the cosine of that with it.

    The cosine of a linear decoder is that of the latent's direction, whatever the sign of the value.
    """
    tiny = torch.finfo(torch.float64).tiny
    if type(sae.decoder) is LinearDecoder:  # fast because a latent is looked at once, not at every value
        weights = sae.W_dec.detach().cpu().double()
        along = weights @ unit
        cosines = along / weights.norm(dim=1).clamp_min(tiny)
        return values * along[latents] / sae.scale.detach().cpu().double(), cosines[latents]
    adds, cosines = torch.zeros_like(values), torch.zeros_like(values)
    for some in torch.arange(len(values)).split(max(1, _BLOCK // sae.d_model)):
        made = sae.contribution(latents[some].to(sae.mean.device), values[some].to(sae.mean)).cpu().double()
        adds[some] = made @ unit
        cosines[some] = adds[some] / made.norm(dim=1).clamp_min(tiny)
    return adds, cosines


def _fires(codes: SparseCodes, rows: Tensor, main: Sequence[int]) -> Tensor:
    """``[rows]`` bool: whether any main latent fires at the token."""
    which, latents, values = entries_at(codes, rows)
    fired = torch.isin(latents, torch.tensor(main)) & (values.abs() >= SILENT)
    return torch.zeros(len(rows), dtype=torch.bool).index_fill(0, which[fired], True)


def _rates(draws: Draws, rows: Tensor, full: Tensor, fraction: Tensor) -> Tensor:
    """``[2, 1 + resamples]``; NaN without tokens."""
    return torch.stack([draws.mean(values, rows) for values in (full, fraction)])


def _as_rates(drawn: Tensor, n: int) -> Rates:
    return Rates(estimate(drawn[0], n), estimate(drawn[1], n))


def _place(which: Tensor, tokens: int) -> Tensor:
    """The place of every entry within its token, from 0, where ``which`` (its token) ascends."""
    counts = torch.bincount(which, minlength=tokens)
    return torch.arange(len(which)) - (counts.cumsum(0) - counts)[which]


def _f1(said: Tensor, holds: Tensor) -> float:
    both, either = int((said & holds).sum()), int(said.sum() + holds.sum())
    return 2 * both / either if either else 0.0


def _parents(concepts: Sequence[str]) -> dict[str, list[str]]:
    from kanary.text.labelled.concepts import find_concept

    found: dict[str, list[str]] = {}
    for name in concepts:
        parent = find_concept(name).parent
        if parent is not None and parent in concepts:
            found.setdefault(parent, []).append(name)
    return found


def _check(
    sae: SAE, x: Tensor, draws: Draws, probes: Mapping[str, Probe], parents: Mapping[str, Sequence[str]]
) -> None:
    if x.shape != (len(draws.test), sae.d_model):
        raise KanaryError(
            f"Absorption needs activations of shape {(len(draws.test), sae.d_model)}, got {tuple(x.shape)}."
        )
    for parent, children in parents.items():
        for name in (parent, *children):
            if name not in draws.concepts:
                raise KanaryError(f"The concept {name!r} has no labels here; leave it out of the parents and children.")
        if parent in draws.train_rows and (parent not in probes or len(probes[parent].units) != sae.d_model):
            raise KanaryError(f"The parent {parent!r} has no full probe; give those of probe_all on the same draws.")
