"""Which unit of every SAE, and of every control, tells each concept of the labelled corpus best, and how well."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from kanary.activations.pool import generator
from kanary.errors import KanaryError
from kanary.evaluation.concepts.best import (
    FEWEST_TOKENS,
    NONE,
    Found,
    FoundGraded,
    Half,
    judge,
    judge_graded,
    monosemanticity,
)
from kanary.evaluation.concepts.memory import free_memory, gigabytes, round_down
from kanary.evaluation.concepts.sample import Sample
from kanary.evaluation.concepts.units import DenseUnits, SparseUnits, Units
from kanary.evaluation.result import Metric
from kanary.evaluation.standin import PCA, Spliced, StandIn
from kanary.evaluation.sums import FEWEST, estimate
from kanary.sae import SAE, SparseCodes
from kanary.sae.parts import TILE

FIRINGS = 2**26
"""Values other than zero above which a control's latents are left out, unless an SAE has as many: they take 24 bytes each."""
PER_FIRING = 24
"""Bytes, at most, that a value other than zero takes for a while."""
_PIECE = 2**13  # tokens that are projected together
_LOOKED_AT = 1024  # tokens from which the number of values is told beforehand


@dataclass(frozen=True)
class Row:
    """What one SAE or control scores."""

    site: str
    found: Mapping[str, Found]
    """Measurable concept -> its best units."""
    graded: Mapping[str, FoundGraded]
    """Measurable graded concept -> its best unit."""
    summary: Mapping[str, Metric]
    """``mean_auroc``, ``mean_f1``, ``recall_at_0.9`` (share of the concepts whose best unit has an AUROC of at least .9),
    ``mean_graded_r`` (of ``|r|``) and ``monosemanticity`` (latents only). ``n``: concepts, or latents for the last."""


@dataclass(frozen=True)
class Concepts:
    """The labelled concepts in SAEs and controls, as plain data."""

    rows: Mapping[str, Row]
    """The SAEs by name, then the controls."""
    measurable: tuple[str, ...]
    graded: tuple[str, ...]
    """Graded concepts of which enough values are given."""
    too_rare: Mapping[str, str]
    """Concept -> what there is too little of."""
    graded_too_rare: Mapping[str, str]
    tokens: int
    """In both halves together."""
    documents: int
    left_out: Mapping[str, str]
    """Controls that have no row -> why."""


def concept_scores(
    sample: Sample,
    saes: Mapping[str, SAE],
    twins: Mapping[str, StandIn],
    *,
    seed: int = 0,
    show: Callable[[int], None] | None = None,
) -> Concepts:
    """Chooses the best unit for every concept on the selection half and judges it on the test half.

    The rows: every SAE; the coordinates of every site ("neurons at SITE") and as many random directions; ``twins``; and
    every SAE with the labels of tokens exchanged at random in each half, which must come out at chance (.5). Of neurons,
    directions and components both signs are tried, latents are taken as they are.

    A concept is measurable if each half has at least 50 positive and 50 negative tokens judged for it, the positives from
    at least 5 documents; a graded one if each half has at least 50 tokens with a value, not all the same, from at least
    5 documents. The intervals of the summaries are bootstraps over the documents of the test half, that of
    ``monosemanticity`` one over latents. ``mean_graded_r`` is above 0 by chance: by how much, the shuffled labels say.

    An untrained SAE may be dense: a control is left out whose values other than zero (counted on some of the tokens) are
    more than ``FIRINGS``, and more than those of any SAE.

    Args:
        sample: with the activations of every SAE's site (``config.trained_on["site"]``).
        twins: controls by name; without sparse codes, only PCA, whose units are the projections on its basis.
        seed: of the bootstrap, the random directions and the shuffled labels.
        show: called with 1 after every row, and for every control that is left out.

    Raises:
        KanaryError: no concept is measurable, a site is not in the sample, a name is given twice, or an SAE has more values
            other than zero than fit into the memory that is free.
    """
    sites = {name: str(sae.config.trained_on["site"]) for name, sae in saes.items()}
    _check(sample, sites, twins)
    both = sample.half(False), sample.half(True)
    too_rare = {name: why for name in sample.concepts if (why := _missing(both, name))}
    graded_too_rare = {name: why for name in sample.graded if (why := _missing_values(both, name))}
    measurable = tuple(name for name in sample.concepts if name not in too_rare)
    graded = tuple(name for name in sample.graded if name not in graded_too_rare)
    if not measurable:
        raise KanaryError(_unmeasurable(sample, too_rare))
    left_out = _too_dense(sample, saes, sites, twins)
    if show and left_out:
        show(len(left_out))
    twins = {name: twin for name, twin in twins.items() if name not in left_out}
    halves = _both(lambda i: Half.of(both[i], measurable, graded, seed))
    rows: dict[str, Row] = {}
    for name, site, units, labelled in _rows(both, halves, saes, sites, twins, seed):
        rows[name] = _row(site, units, labelled, measurable, graded)
        if show:
            show(1)
    ordered = {name: rows[name] for name in sorted(rows, key=lambda name: name not in saes)}  # the SAEs first
    size = len(sample.test), len(sample.documents.unique())
    return Concepts(ordered, measurable, graded, too_rare, graded_too_rare, *size, left_out)


def shuffled_name(sae: str) -> str:
    """The name of the row of the SAE ``sae`` with shuffled labels."""
    return f"shuffled labels ({sae})"


def _check(sample: Sample, sites: Mapping[str, str], twins: Mapping[str, StandIn]) -> None:
    for name, site in [*sites.items(), *((name, twin.site) for name, twin in twins.items())]:
        if site not in sample.x:
            raise KanaryError(
                f"{name} reads {site}, but the sample holds {', '.join(sample.x)}: give {site} to sample(), too."
            )
    if twice := sorted({*sites} & {*twins}):
        raise KanaryError(f"{twice[0]!r} names both an SAE and a control. Rename one of them.")


def firings(sae: SAE, x: Tensor) -> int:
    """About how many values other than zero the codes of ``x [tokens, width]`` have, told from 1,024 of the tokens."""
    some = x[:: max(1, len(x) // _LOOKED_AT)]
    return round(len(x) * sum(len(codes.values) for codes in encoded(sae, some)) / max(1, len(some)))


@torch.no_grad()
def encoded(sae: SAE, x: Tensor) -> Iterator[SparseCodes]:
    """The codes of ``x [tokens, width]``, on the CPU, a piece at a time: those of an untrained SAE may be dense."""
    for piece in x.split(max(1, TILE // sae.d_sae)):
        yield sae.encode(piece.to(sae.mean.device)).to("cpu")


def _too_dense(
    sample: Sample, saes: Mapping[str, SAE], sites: Mapping[str, str], twins: Mapping[str, StandIn]
) -> dict[str, str]:
    """Controls that take too much memory -> why."""
    free, most, tokens = free_memory(), FIRINGS, len(sample.test)
    for name, sae in saes.items():
        n = firings(sae, sample.x[sites[name]])
        if free is not None and n * PER_FIRING > free:
            raise KanaryError(
                f"{name} has {n / tokens:,.0f} active latents per token: their values on {tokens:,} tokens take "
                f"{gigabytes(n * PER_FIRING)} of memory, but {gigabytes(free)} are free. "
                f"Read fewer tokens: --concept-tokens {round_down(tokens * free / (n * PER_FIRING))}."
            )
        most = max(most, n)
    left_out = {}
    for name, twin in twins.items():
        if isinstance(twin, Spliced) and (n := firings(twin.sae, sample.x[twin.site])) > most:
            left_out[name] = (
                f"{n / tokens:,.0f} of its {twin.sae.d_sae:,} latents are active on a token: about {n:,} values on "
                f"{tokens:,} tokens, more than {most:,}"
            )
    return left_out


def _both(of: Callable[[int], Half]) -> tuple[Half, Half]:
    return of(0), of(1)


def _unmeasurable(sample: Sample, too_rare: Mapping[str, str]) -> str:
    name = sample.concepts[0]
    return (
        f"None of {len(sample.concepts)} concepts can be measured on {len(sample.test):,} tokens "
        f"({name}: {too_rare[name]}). Read more tokens."
    )


def _missing(both: tuple[Sample, Sample], name: str) -> str:
    """What there is too little of for the concept to be measured; empty if there is enough."""
    for half, where in zip(both, ("selection", "test"), strict=True):
        column = half.concepts.index(name)
        judged = half.judged[:, column]
        positive = half.labels[:, column] & judged
        for what, n in (("positive", int(positive.sum())), ("negative", int((judged & ~positive).sum()))):
            if n < FEWEST_TOKENS:
                return f"{n} {what} tokens in the {where} half, {FEWEST_TOKENS} are needed"
        if (n := len(half.documents[positive].unique())) < FEWEST:
            return f"positive tokens from {n} documents in the {where} half, {FEWEST} are needed"
    return ""


def _missing_values(both: tuple[Sample, Sample], name: str) -> str:
    """The same for a graded concept."""
    for half, where in zip(both, ("selection", "test"), strict=True):
        values = half.values[:, half.graded.index(name)]
        given = ~values.isnan()
        if (n := int(given.sum())) < FEWEST_TOKENS:
            return f"{n} tokens with a value in the {where} half, {FEWEST_TOKENS} are needed"
        if (n := len(half.documents[given].unique())) < FEWEST:
            return f"values from {n} documents in the {where} half, {FEWEST} are needed"
        if len(values[given].unique()) < 2:
            return f"only one value in the {where} half"
    return ""


_Unjudged = tuple[str, str, tuple[Units, Units], tuple[Half, Half]]
"""Of a row the name, the site, and on both halves the units and the labels."""


def _rows(
    both: tuple[Sample, Sample],
    halves: tuple[Half, Half],
    saes: Mapping[str, SAE],
    sites: Mapping[str, str],
    twins: Mapping[str, StandIn],
    seed: int,
) -> Iterator[_Unjudged]:
    for name, sae in saes.items():
        yield from _and_shuffled(name, sites[name], _units(Spliced(sites[name], sae), name, both), halves, seed)
    for site in dict.fromkeys([*sites.values(), *(twin.site for twin in twins.values())]):
        first, second = both[0].x[site], both[1].x[site]
        yield f"neurons at {site}", site, (DenseUnits(first), DenseUnits(second)), halves
        directions = random_directions(first.shape[1], seed).to(_device(saes))
        units = DenseUnits(projected(first, directions)), DenseUnits(projected(second, directions))
        yield f"random directions at {site}", site, units, halves
    for name, twin in twins.items():
        yield name, twin.site, _units(twin, name, both), halves


def _and_shuffled(
    name: str, site: str, units: tuple[Units, Units], halves: tuple[Half, Half], seed: int
) -> Iterator[_Unjudged]:
    yield name, site, units, halves
    yield shuffled_name(name), site, units, _both(lambda i: halves[i].shuffled(2 * seed + i))


def random_directions(width: int, seed: int) -> Tensor:
    """``[width, width]`` float32: unit vectors in its columns, uniform on the sphere."""
    return F.normalize(torch.randn(width, width, generator=generator("random directions", seed)), dim=0)


def projected(x: Tensor, basis: Tensor, mean: Tensor | None = None) -> Tensor:
    """``(x - mean) @ basis`` for ``x [tokens, width]``, ``basis [width, k]``: ``[tokens, k]`` float32, on the CPU.

    It is computed where the basis is, a piece at a time.
    """
    found = torch.empty(len(x), basis.shape[1])
    for piece, to in zip(x.split(_PIECE), found.split(_PIECE), strict=True):
        here = piece.to(basis.device)
        to.copy_((here if mean is None else here - mean) @ basis)
    return found


def _device(saes: Mapping[str, SAE]) -> torch.device:
    return next((sae.mean.device for sae in saes.values()), torch.device("cpu"))


def _units(twin: StandIn, name: str, both: tuple[Sample, Sample]) -> tuple[Units, Units]:
    """The units of an SAE or a control on both halves."""
    first, second = (half.x[twin.site] for half in both)
    if isinstance(twin, PCA):
        units = (DenseUnits(projected(x, twin.basis, twin.mean)) for x in (first, second))
        return next(units), next(units)
    if not isinstance(twin, Spliced):
        raise KanaryError(f"The control {name!r} has no sparse codes, so it has no latents to judge. Leave it out.")
    return SparseUnits.of(encoded(twin.sae, first)), SparseUnits.of(encoded(twin.sae, second))


def _row(
    site: str,
    units: tuple[Units, Units],
    halves: tuple[Half, Half],
    concepts: tuple[str, ...],
    graded: tuple[str, ...],
) -> Row:
    judged = judge(*units, halves)
    by_value, r = judge_graded(*units, halves)
    first, second = units
    pure = Metric(math.nan, math.nan, math.nan, 0)
    if isinstance(first, SparseUnits) and isinstance(second, SparseUnits):
        pure = monosemanticity(first, second, halves)
    summary = {
        "mean_auroc": estimate(judged.auroc.nanmean(1), len(concepts)),
        "mean_f1": estimate(judged.f1.nanmean(1), len(concepts)),
        "recall_at_0.9": estimate(_share_at_least(judged.auroc, 0.9), len(concepts)),
        "mean_graded_r": estimate(r.abs().mean(1) if graded else NONE, len(graded)),
        "monosemanticity": pure,
    }
    return Row(site, dict(zip(concepts, judged.found, strict=True)), dict(zip(graded, by_value, strict=True)), summary)


def _share_at_least(scores: Tensor, least: float) -> Tensor:
    """``[resamples]``: of ``scores [resamples, concepts]``, those that are not NaN."""
    return (scores >= least).double().sum(1) / scores.isfinite().sum(1)
