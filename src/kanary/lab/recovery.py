"""How much of the planted features does an SAE find again? Numbers per feature, and the controls to hold them against."""

from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

from kanary.errors import KanaryError
from kanary.evaluation.dictionary import DictionaryMatch, match
from kanary.evaluation.standin import random_twin, untrained_twin
from kanary.kernels.sparse import transposed_product
from kanary.lab.synthetic import INTENSITY, SyntheticActivations
from kanary.sae import SAE, SAEConfig, SparseCodes

CALIBRATION = 16_384
"""Samples that the controls are fitted on."""
_ROWS = 4096  # samples encoded at a time
_COLUMNS = 512  # latents whose threshold is looked for at a time
_THRESHOLDS = 48


class FeatureMeans(NamedTuple):
    """Means over features that fire among the samples tested; NaN where there are none."""

    features: int
    precision: float
    recall: float
    f1: float
    auroc: float
    latents: float
    covered: float


@dataclass(frozen=True)
class FeatureScores:
    """Columns with one entry per feature.

    ``latent`` and ``latents`` are chosen on one half of the samples, the others measured on the other half. A latent
    fires where its code is not zero. NaN where a feature does not fire in the half that is measured.
    """

    latent: Tensor
    """``[features]`` int64: the latent whose firing has the highest F1 with the feature's, -1 if none fires with it."""
    precision: Tensor
    """``[features]`` float64: share of that latent's firings on which the feature fires; 0 if the latent does not fire."""
    recall: Tensor
    """``[features]`` float64: share of the feature's firings on which that latent fires."""
    f1: Tensor
    """``[features]`` float64: harmonic mean of the two."""
    auroc: Tensor
    """``[features]`` float64: chance that the latent is larger on a sample with the feature than on one without; 0.5 = none."""
    latents: Tensor
    """``[features]`` int64: latents that stand for it: it is their best feature (highest F1), and it fires on at least half
    of the samples on which they do. More than 1: the feature is split."""
    covered: Tensor
    """``[features]`` float64: share of the feature's firings on which at least one of those latents fires."""

    def means(self, which: Tensor) -> FeatureMeans:
        """Over the features where ``which [features]`` is true."""
        which = which & self.recall.isfinite()
        columns = {f.name: getattr(self, f.name)[which].double() for f in fields(self) if f.name != "latent"}
        return FeatureMeans(int(which.sum()), **{name: float(column.mean()) for name, column in columns.items()})


@dataclass(frozen=True)
class Recovery:
    """What an SAE makes of activations whose features are known."""

    directions: DictionaryMatch
    """Dictionary a: the planted directions (of a curved feature, that of the middle intensity); b: the SAE's."""
    scores: FeatureScores
    is_curved: Tensor
    """``[features]`` bool."""
    uniqueness: float
    """Distinct best features (highest F1) of all latents, as a share of the latents: those that are not outdone by a latent
    with the same best feature. SynthSAEBench (arXiv 2602.14687) has the same quotient. At most features / latents."""
    true_l0: float
    l0: float
    explained_variance: float
    tokens: int
    """Samples in both halves; L0 and explained variance are over both."""

    @property
    def all(self) -> FeatureMeans:
        return self.scores.means(torch.ones_like(self.is_curved))

    @property
    def linear(self) -> FeatureMeans:
        """Of the features whose direction does not turn."""
        return self.scores.means(~self.is_curved)

    @property
    def curved(self) -> FeatureMeans:
        return self.scores.means(self.is_curved)


@torch.no_grad()
def recovery(sae: SAE, synthetic: SyntheticActivations, tokens: int = 100_000, seed: int = 0) -> Recovery:
    """Judges ``sae`` on samples that no training has seen.

    Args:
        tokens: samples; one half chooses a latent for every feature, the other measures it.
        seed: of the samples and of the random dictionaries.

    Raises:
        KanaryError: another width, fewer than 2 samples, scipy is not installed, NaN among the SAE's weights.
    """
    if tokens < 2:
        raise KanaryError(
            f"tokens={tokens}: one half of the samples chooses latents, the other measures; give 2 or more."
        )
    x, truth = next(synthetic.batches(tokens, stream=f"recovery {seed}"))
    training = sae.training
    sae.eval()  # in training, codes of BatchTopK depend on the other samples
    try:
        codes, explained_variance = _encoded(sae, x)
    finally:
        sae.train(training)
    truth = truth.to("cpu")
    chosen, measured = slice(0, tokens // 2), slice(tokens // 2, tokens)
    best = _Choice(truth[chosen], codes[chosen])
    return Recovery(
        match(synthetic.directions, sae.W_dec, seed),
        _scores(best, truth[measured], codes[measured]),
        synthetic.is_curved,
        best.uniqueness,
        float(truth.l0().double().mean()),
        float(codes.l0().double().mean()),
        explained_variance,
        tokens,
    )


@torch.no_grad()
def controls(sae: SAE, synthetic: SyntheticActivations, seed: int = 0) -> dict[str, SAE]:
    """What to hold ``sae`` against: :func:`true_sae`, an SAE like it before training, and one with random directions."""
    x, _ = next(synthetic.batches(CALIBRATION, stream=f"controls {seed}"))
    x = x.to(sae.mean.device)
    return {
        "true dictionary": true_sae(synthetic, seed),
        "untrained twin": untrained_twin(sae, x, seed),
        "random twin": random_twin(sae, x, seed),
    }


@torch.no_grad()
def true_sae(synthetic: SyntheticActivations, seed: int = 0) -> SAE:
    """The planted directions as an SAE: how far a linear encoder with thresholds gets that knows the dictionary.

    Latent i reads ``w . x`` with ``w = S^-1 d_i / (d_i . S^-1 d_i)``, S the covariance of the activations: the linear
    reading that returns the intensity itself and is disturbed least by all else (Capon, Proc. IEEE 1969). Its threshold
    is the one with the highest F1 on a sample, and one factor for all latents makes reconstructions fit best. Where
    features are many and activations narrow, no linear reading tells them apart, and scores fall below 1.
    """
    x, truth = next(synthetic.batches(CALIBRATION, stream=f"controls {seed}"))
    x, truth = x.cpu().double(), truth.to("cpu")
    mean, directions = x.mean(0), synthetic.directions.double()
    covariance = (x - mean).T @ (x - mean) / len(x)
    covariance.diagonal().add_(1e-4 * covariance.diagonal().mean())  # without noise it may have no inverse
    reading = torch.linalg.solve(covariance, directions.T).T
    reading /= (reading * directions).sum(1, keepdim=True)
    bias = synthetic.rates * sum(INTENSITY) / 2 - reading @ mean  # so that a silent feature reads 0 in the mean
    sae = SAE(
        SAEConfig(
            synthetic.d_model,
            synthetic.features,
            sparsifier={"name": "jumprelu"},
            trained_on={"site": synthetic.sites[0]},
        )
    )
    sae.decoder.begin(synthetic.directions)
    sae.encoder.tie(reading.float())
    sae.encoder.raise_by(bias.float())
    threshold = sae.sparsifier.get_parameter("threshold")
    threshold.copy_(_thresholds(sae, x.float(), truth))
    x_hat = sae(x.float()).double()
    gain = float((x * x_hat).sum() / x_hat.square().sum())
    sae.encoder.tie(gain * reading.float())
    sae.encoder.raise_by(gain * bias.float())
    threshold.mul_(gain)
    return sae.to(synthetic.device)


def _thresholds(sae: SAE, x: Tensor, truth: SparseCodes) -> Tensor:
    """``[d_sae]``: the threshold of each latent that makes its firing most like that of the feature of the same number."""
    levels = torch.linspace(0, INTENSITY[1], _THRESHOLDS + 1)[1:]
    found = []
    for latents in torch.arange(sae.d_sae).split(_COLUMNS):
        pre = sae.encoder(x, latents)
        inside = (truth.indices >= latents[0]) & (truth.indices <= latents[-1])
        on = torch.zeros(pre.shape, dtype=torch.bool)
        on[truth.rows()[inside], truth.indices[inside] - latents[0]] = True
        f1 = []
        for level in levels:
            fired = pre > level
            f1.append(2 * (fired & on).sum(0) / (fired.sum(0) + on.sum(0)).clamp_min(1))
        found.append(levels[torch.stack(f1).argmax(0)])
    return torch.cat(found)


def _encoded(sae: SAE, x: Tensor) -> tuple[SparseCodes, float]:
    """The codes of ``x [tokens, d_model]`` on the CPU, and the explained variance."""
    found, total, square, error = [], torch.zeros(x.shape[1], dtype=torch.float64), 0.0, 0.0
    for piece in x.to(sae.mean.device).split(_ROWS):
        codes = sae.encode(piece)
        error += float((piece - sae.decode(codes)).double().square().sum())
        square += float(piece.double().square().sum())
        total += piece.double().sum(0).cpu()
        found.append(codes.to("cpu"))
    return SparseCodes.cat(found), 1 - error / (square - float(total.square().sum()) / len(x))


class _Choice:
    """Which latents belong to which feature, from samples."""

    def __init__(self, truth: SparseCodes, codes: SparseCodes) -> None:
        together, on, fired = _together(truth, codes), _firings(truth), _firings(codes)
        f1 = 2 * together / (on.float()[:, None] + fired.float()).clamp_min_(1)  # [features, d_sae]
        best, latent = f1.max(1)
        self.latent = torch.where(best > 0, latent, -1)  # [features]
        most, feature = f1.max(0)
        self.uniqueness = len(feature[most > 0].unique()) / codes.d_sae
        precise = together[feature, torch.arange(codes.d_sae)] >= 0.5 * fired
        self.feature = torch.where((most > 0) & precise, feature, -1)  # [d_sae]


def _scores(best: _Choice, truth: SparseCodes, codes: SparseCodes) -> FeatureScores:
    on, fired = _firings(truth).double(), _firings(codes).double()
    chosen, some = best.latent.clamp_min(0), best.latent >= 0
    hits = torch.where(some, _together(truth, codes)[torch.arange(len(on)), chosen].double(), 0.0)
    said = torch.where(some, fired[chosen], 0.0)
    nothing = torch.where(on > 0, 0.0, torch.nan)
    return FeatureScores(
        best.latent,
        hits / said.clamp_min(1) + nothing,
        hits / on.clamp_min(1) + nothing,
        2 * hits / (on + said).clamp_min(1) + nothing,
        _aurocs(best.latent, truth, codes),
        torch.bincount(best.feature[best.feature >= 0], minlength=len(on)),
        _covered(best.feature, truth, codes) / on.clamp_min(1) + nothing,
    )


def _firings(codes: SparseCodes) -> Tensor:
    """``[d_sae]`` int64: samples on which each fires."""
    return torch.bincount(codes.indices, minlength=codes.d_sae)


def _together(truth: SparseCodes, codes: SparseCodes) -> Tensor:
    """``[features, d_sae]`` float32: samples on which both fire (exact up to 16 million)."""
    total = torch.zeros(truth.d_sae, codes.d_sae)
    for start in range(0, truth.tokens, _ROWS):
        some, made = truth[start : start + _ROWS], codes[start : start + _ROWS]
        fired = torch.zeros(made.tokens, made.d_sae)
        fired[made.rows(), made.indices] = 1
        total += transposed_product(torch.ones_like(some.values), some.pattern, fired)
    return total


def _covered(feature: Tensor, truth: SparseCodes, codes: SparseCodes) -> Tensor:
    """``[features]`` int64: samples with the feature on which one of its latents, as ``feature [d_sae]`` says, fires."""
    owner = feature[codes.indices]
    said = (codes.rows() * truth.d_sae + owner)[owner >= 0]
    right = torch.isin(truth.rows() * truth.d_sae + truth.indices, said)
    return torch.bincount(truth.indices[right], minlength=truth.d_sae)


def _aurocs(latent: Tensor, truth: SparseCodes, codes: SparseCodes) -> Tensor:
    """``[features]`` float64: AUROC of every feature's ``latent``, 0.5 where it has none; NaN where all samples are alike."""
    order, starts, rows = codes.pattern.by_latent()
    values = codes.values[order].double()
    _, true_starts, true_rows = truth.pattern.by_latent()
    on = torch.zeros(truth.tokens, dtype=torch.bool)
    found = torch.full((len(latent),), 0.5, dtype=torch.float64)
    for feature, chosen in enumerate(latent.tolist()):
        samples = true_rows[true_starts[feature] : true_starts[feature + 1]]
        if len(samples) in (0, truth.tokens):
            found[feature] = torch.nan
        elif chosen >= 0:
            on[samples] = True
            span = slice(int(starts[chosen]), int(starts[chosen + 1]))
            found[feature] = _auroc(values[span], on[rows[span]], len(samples), truth.tokens)
            on[samples] = False
    return found


def _auroc(values: Tensor, right: Tensor, positives: int, samples: int) -> float:
    """Of a latent that is ``values [n]`` on n samples, of which ``right [n]`` are positive, and 0 on all others."""
    hits, misses = right.double(), (~right).double()
    silent = torch.tensor([positives - float(hits.sum()), samples - positives - float(misses.sum())])
    levels, place = torch.cat([values, values.new_zeros(1)]).unique(return_inverse=True)
    good = levels.new_zeros(len(levels)).index_add_(0, place, torch.cat([hits, silent[:1].double()]))
    bad = levels.new_zeros(len(levels)).index_add_(0, place, torch.cat([misses, silent[1:].double()]))
    below = bad.cumsum(0) - bad / 2  # ties count half
    return float(good @ below) / (positives * (samples - positives))
