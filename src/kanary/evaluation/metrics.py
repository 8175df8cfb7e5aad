"""Every number of an SAE, from sums over tokens. All over tokens that are not special, in raw activation space.

``x`` is the activation, ``x^`` what stands in for it; groups and names are SAEBench's where the definition is the same.

- ``explained_variance`` = 1 - E|x - x^|^2 / (E|x|^2 - |E x|^2), one global mean; ``fvu`` is the rest.
- ``explained_variance_legacy`` = mean over tokens of 1 - |x - x^|^2 / |x - mean of the batch|^2, printed by others.
- ``mse`` = E|x - x^|^2, summed over the width; ``cossim`` = mean cosine of x and x^.
- ``l2_ratio`` = E(|x^| / |x|); ``relative_reconstruction_bias`` = E|x^|^2 / E[x . x^], 1 without shrinkage (Rajamanoharan
  et al. 2024, arXiv 2404.16014, eq. 10).
- ``ce_loss_score`` = (CE_ablation - CE_sae) / (CE_ablation - CE_clean); the ablation zeroes the site at every position
  (``_mean``: puts the mean activation there), the SAE replaces only tokens that are not special; a position's loss is left
  out when its source token is special. ``kl_div_score`` likewise with KL(clean || new), whose value for clean is 0.
- ``l0`` = mean number of latents that are not zero; ``l1`` = mean of sum_i |f_i| |W_dec,i|, in units of the activation.
- ``dead_share``: latents that fired on none of the ``n`` tokens: a count, not an estimate, so its interval is a point.
- ``explained_variance_saebench`` and ``mse_saebench``: what SAEBench 0.6.0 computes under the plain names: a variance about
  (E x^2)^2 with one scalar mean, and a squared error that is divided by the tokens of its batch once more.

In a model of lower precision x^ is what the model is given, so its rounding counts as error.
"""

from collections.abc import Mapping

from torch import Tensor

from kanary.evaluation.result import Metric, Metrics
from kanary.evaluation.sums import Sums, estimate

QUANTILES = {"l0_p5": 0.05, "l0_p50": 0.5, "l0_p95": 0.95}


def fidelity_metrics(site: Sums, row: Sums, draws: Tensor, d_model: int) -> dict[str, dict[str, Metric]]:
    """Reconstruction and shrinkage. ``draws``: see :func:`~kanary.evaluation.sums.bootstrap`."""
    s, r = site.resampled(draws), row.resampled(draws)
    n = s["n"]
    mse = r["error"] / n
    variance = _variance(s)
    about_zero = s["square"] / n - (s["square"] / n / d_model).square()
    unexplained = mse / variance
    return _grouped(
        int(n[0]),
        reconstruction_quality={
            "explained_variance": 1 - unexplained,
            "fvu": unexplained,
            "explained_variance_legacy": r["legacy"] / n,
            "mse": mse,
            "cossim": r["cosine"] / n,
        },
        shrinkage={
            "l2_norm_in": s["norm"] / n,
            "l2_norm_out": r["norm"] / n,
            "l2_ratio": r["ratio"] / n,
            "relative_reconstruction_bias": r["square"] / r["dot"],
        },
        as_coded_elsewhere={
            "explained_variance_saebench": 1 - mse / about_zero,
            "mse_saebench": r["error_by_batch"] / n,
        },
    )


def _variance(s: Mapping[str, Tensor]) -> Tensor:
    """E|x|^2 - |E x|^2 of the sample, and of every resample E|x - m|^2 with the sample's mean m: ``[1 + resamples]``.

    A resample's own mean lies nearer to its tokens than m does. Variances about it are too small on average, so that with
    few documents the EV of what explains little would lie at the end of its own interval or beside it.
    """
    mean = s["x"][0] / s["n"][0]
    return (s["square"] - 2 * s["x"] @ mean) / s["n"] + mean @ mean


def loss_metrics(site: Sums, row: Sums, draws: Tensor) -> dict[str, dict[str, Metric]]:
    """What happens to the predictions; ``site`` holds the sums of the clean and the ablated model."""
    s, r = site.resampled(draws), row.resampled(draws)
    n, n_ce = s["n"], s["n_ce"]
    clean, new, zero, mean = (t / n_ce for t in (s["ce_clean"], r["ce"], s["ce_zero"], s["ce_mean"]))
    kl, kl_zero, kl_mean = (t / n for t in (r["kl"], s["kl_zero"], s["kl_mean"]))
    behaviour = _grouped(
        int(n[0]),
        model_behavior_preservation={
            "kl_div_score": (kl_zero - kl) / kl_zero,
            "kl_div_score_mean": (kl_mean - kl) / kl_mean,
            "kl_div_with_sae": kl,
            "kl_div_with_ablation": kl_zero,
            "kl_div_with_mean_ablation": kl_mean,
            "top1_agreement": r["agree"] / n,
        },
    )
    performance = _grouped(
        int(n_ce[0]),
        model_performance_preservation={
            "ce_loss_score": (zero - new) / (zero - clean),
            "ce_loss_score_mean": (mean - new) / (mean - clean),
            "ce_loss_without_sae": clean,
            "ce_loss_with_sae": new,
            "ce_loss_with_ablation": zero,
            "ce_loss_with_mean_ablation": mean,
            "ce_loss_increase": new - clean,
        },
    )
    return behaviour | performance


def sparsity_metrics(site: Sums, row: Sums, draws: Tensor, l0_values: Tensor) -> dict[str, dict[str, Metric]]:
    """L0 and L1. ``l0_values [bins]``: the numbers of latents that the sum ``l0_histogram`` counts tokens of."""
    s, r = site.resampled(draws), row.resampled(draws)
    n = s["n"]
    below = r["l0_histogram"].cumsum(1) / n[:, None]
    quantiles = {
        name: l0_values[(below < q - 1e-12).sum(1).clamp(max=len(l0_values) - 1)].double()
        for name, q in QUANTILES.items()
    }
    return _grouped(int(n[0]), sparsity={"l0": r["l0"] / n, **quantiles, "l1": r["l1"] / n})


def health_metrics(firings: Tensor, tokens: int) -> dict[str, dict[str, Metric]]:
    """Dead and dense latents, from ``firings [d_sae]`` on ``tokens`` tokens."""
    density = firings.double() / max(1, tokens)
    mass = float(density.sum()) or float("nan")
    values = {"dead_share": float((firings == 0).double().mean()), "frac_alive": float((firings > 0).double().mean())}
    for percent in (1, 10):
        dense = density > percent / 100
        values[f"freq_over_{percent}_percent"] = float(dense.double().mean())
        values[f"normalized_freq_over_{percent}_percent"] = float(density[dense].sum()) / mass
    return {"misc_metrics": {name: census(value, tokens) for name, value in values.items()}}


def straight_metrics(
    site: Sums, own: Sums, straight: Sums, draws: Tensor, losses: tuple[Sums, Sums, Sums, Tensor] | None = None
) -> dict[str, dict[str, Metric]]:
    """What is lost when an SAE's learned functions become straight lines: differences on the same tokens and resamples.

    Args:
        own, straight: the rows of the SAE and of its straightened copy.
        losses: the same four of the tokens on which the model was run on.
    """
    s, a, b = (sums.resampled(draws) for sums in (site, own, straight))
    n = s["n"]
    found = _grouped(int(n[0]), splines={"straight_ev_lost": (b["error"] - a["error"]) / n / _variance(s)})
    if losses:
        s, a, b = (sums.resampled(losses[3]) for sums in losses[:3])
        loss = {"straight_ce_increase": (b["ce"] - a["ce"]) / s["n_ce"]}
        found = merged(found, _grouped(int(s["n_ce"][0]), splines=loss))
    return found


def token_stats(loss_tokens: int, tokens: int) -> dict[str, dict[str, Metric]]:
    return {
        "token_stats": {
            "total_tokens_eval_reconstruction": census(loss_tokens, loss_tokens),
            "total_tokens_eval_sparsity_variance": census(tokens, tokens),
        }
    }


def census(value: float, n: int) -> Metric:
    """A number that was counted, not estimated."""
    return Metric(value, value, value, n)


def merged(*parts: Metrics) -> dict[str, dict[str, Metric]]:
    """The groups of all ``parts``."""
    found: dict[str, dict[str, Metric]] = {}
    for part in parts:
        for group, row in part.items():
            found.setdefault(group, {}).update(row)
    return found


def _grouped(n: int, **groups: dict[str, Tensor]) -> dict[str, dict[str, Metric]]:
    return {group: {name: estimate(values, n) for name, values in row.items()} for group, row in groups.items()}
