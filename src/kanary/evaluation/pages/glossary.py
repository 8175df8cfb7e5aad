"""Every metric in plain words, with its formula; shown beside the numbers.

In the formulas x is the activation, x̂ what stands in for it, f the latents, E the mean over tokens. The definitions are
those of :mod:`kanary.evaluation.metrics`.
"""

GROUPS = {
    "model_behavior_preservation": "Does the model still predict the same?",
    "model_performance_preservation": "Does the model still predict well?",
    "reconstruction_quality": "How close is the reconstruction?",
    "shrinkage": "Does the reconstruction have the right size?",
    "sparsity": "How many latents are active?",
    "splines": "What do the learned functions do?",
    "misc_metrics": "Are the latents used, and different?",
    "as_coded_elsewhere": "Other people's formulas, for comparing with their tables",
    "token_stats": "How many tokens?",
}

_KL = "KL(clean ‖ new), nats per token"
METRICS = {
    "kl_div_score": f"Share of the damage by zeroing the site that is avoided, measured by the change of the predictions: "
    f"(KL_zero − KL_new) / KL_zero, with {_KL}. 1 is perfect, 0 as bad as zeros.",
    "kl_div_score_mean": "The same against the mean activation in place of zeros: the stricter score where that harms less.",
    "kl_div_with_sae": f"How far the predictions move when the reconstruction is put in place: {_KL}.",
    "kl_div_with_ablation": "The same with zeros in place.",
    "kl_div_with_mean_ablation": "The same with the mean activation in place.",
    "top1_agreement": "Share of tokens after which the model's most likely next token stays the same.",
    "ce_loss_score": "Share of the loss caused by zeroing the site that is avoided: (CE_zero − CE_new) / (CE_zero − "
    "CE_clean). 1 is perfect, 0 as bad as zeros; below 0, worse than zeros.",
    "ce_loss_score_mean": "The same against the mean activation in place of zeros: the stricter score where that harms less.",
    "ce_loss_without_sae": "The untouched model's loss: mean of −ln p(next token), nats per token.",
    "ce_loss_with_sae": "Its loss with the reconstruction in place, nats per token.",
    "ce_loss_with_ablation": "Its loss with zeros in place, nats per token.",
    "ce_loss_with_mean_ablation": "Its loss with the mean activation in place, nats per token.",
    "ce_loss_increase": "CE_new − CE_clean: what the reconstruction costs, nats per token.",
    "explained_variance": "Share of what varies in the activations that is reconstructed: 1 − E‖x − x̂‖² / (E‖x‖² − ‖E x‖²).",
    "fvu": "The unexplained rest: 1 − explained variance.",
    "explained_variance_legacy": "Mean over tokens of 1 − ‖x − x̂‖² / ‖x − x̄‖², x̄ the mean of the batch; what SAEBench's "
    "paper and Neuronpedia print.",
    "mse": "Mean squared error E‖x − x̂‖², summed over the width, in squared units of the activation.",
    "cossim": "Mean cosine between x and x̂: 1 is the same direction.",
    "l2_norm_in": "Mean norm of the activation, E‖x‖.",
    "l2_norm_out": "Mean norm of the reconstruction, E‖x̂‖.",
    "l2_ratio": "Mean of ‖x̂‖ / ‖x‖; below 1 the reconstruction is too small.",
    "relative_reconstruction_bias": "E‖x̂‖² / E[x · x̂]; 1 without shrinkage, below 1 all reconstructions are too small.",
    "l0": "Mean number of latents that are not zero on a token.",
    "l0_p5": "5 % of the tokens have at most so many active latents.",
    "l0_p50": "Half of the tokens have at most so many.",
    "l0_p95": "95 % of the tokens have at most so many.",
    "l1": "Mean of Σ |f_i| ‖W_dec,i‖, the sparsity penalty, in units of the activation.",
    "dead_share": "Share of the latents that fired on none of the n tokens. Falls as n grows.",
    "frac_alive": "The others: 1 − dead share.",
    "freq_over_1_percent": "Share of the latents that fire on more than 1 % of the tokens.",
    "freq_over_10_percent": "Share of the latents that fire on more than 10 % of the tokens: dense, rarely one concept.",
    "normalized_freq_over_1_percent": "Share of all firings that come from latents firing on more than 1 % of the tokens.",
    "normalized_freq_over_10_percent": "Share of all firings that come from latents firing on more than 10 % of the tokens.",
    "average_max_decoder_cosine_sim": "Mean over latents (n counts them) of the largest cosine with another decoder direction.",
    "average_max_encoder_cosine_sim": "The same for the encoder's directions.",
    "explained_variance_saebench": "SAEBench 0.6.0's formula: the variance is taken about (mean of x²)², so the value "
    "changes with the scale of x. Only for comparing with its tables.",
    "mse_saebench": "SAEBench 0.6.0's formula: the squared error divided by the tokens of its batch once more.",
    "straight_ev_lost": "Explained variance that is lost when every learned function is replaced by its best straight line "
    "through the origin (the straight twin among the controls), on the same tokens. Below 0, the bends do harm.",
    "straight_ce_increase": "Loss of the model, in nats per token, that is added when they are.",
    "total_tokens_eval_reconstruction": "Tokens read for losses and KL. The last one of a window predicts nothing "
    "here, so their own n is a little less.",
    "total_tokens_eval_sparsity_variance": "Tokens over which everything else was measured.",
}

_OF_A_PART = {
    "nonlinearity": "Share of the functions' energy that no straight line through the origin explains: "
    "1 − |Σ p f ψ|² / (Σ p f² · Σ p |ψ|²), ψ(f) the function's output at f, p how often f occurs. 0 for a linear part.",
    "curvature": "Share of the energy off the latents' straight lines, whatever the speed along them: 1 − (largest eigenvalue "
    "of Σ p ψψᵀ) / Σ p |ψ|², over all latents together. 0 where no direction changes with intensity.",
    "curvature_per_latent": "The same for each latent on its own, averaged over those with 32 values or more (n counts them).",
    "curved_share": "Share of these latents with a curvature above 1 %.",
    "turning_angle": "Mean angle, in degrees, between what such a latent adds at its weak codes (10 % quantile) and at its "
    "strong ones (90 %).",
    "turning_angle_p90": "One in ten of these latents turns by at least so much.",
    "values_outside": "Share of the values (n counts them) outside their function's grid, where it goes on as a straight line.",
    "tokens_outside": "Share of the tokens with any such value.",
    "share_linear": "Share of the functions whose simplest name is a straight line, R² ≥ .99; n counts all with enough values.",
    "share_saturating": "The same for tanh and sigmoid.",
    "share_thresholded": "The same for relu, step and absolute value.",
    "share_bump": "The same for Gaussian and rational bumps.",
    "share_periodic": "The same for sines.",
    "share_power_like": "The same for powers, roots, reciprocal, exponential and logarithm.",
    "share_other": "No simple form explains 99 % of the variance.",
    "share_constant": "Share of the functions that are constant: of a curved decoder, latents that stay straight.",
}
SPLINES = {
    f"{part}_{name}": f"{part.capitalize()}: {text}"
    for part in ("encoder", "decoder")
    for name, text in _OF_A_PART.items()
}
"""The numbers of :func:`kanary.evaluation.splines.spline_metrics`."""

CONCEPTS = {
    "mean_auroc": "Mean over the concepts of the AUROC of the best unit, which was chosen on other passages: the chance that "
    "it is larger where the concept holds. .5 is chance. Of neurons, directions and components both signs are tried.",
    "mean_f1": "Mean F1 of the best unit at its best threshold, both chosen on other passages.",
    "recall_at_0.9": "Share of the concepts whose best unit has an AUROC of at least .9.",
    "mean_graded_r": "Concepts with an amount (degrees, milligrams): mean |r| between it and the best unit. Above 0 by "
    "chance: see the shuffled labels.",
    "monosemanticity": "Share of a latent's activity that falls on its best concept, corrected for chance: 1 for a latent of "
    "one concept, 0 for one that fires anywhere. Mean over latents (n counts them).",
    "probing_accuracy_1": "Accuracy of a logistic probe on the one unit whose means differ most, balanced, so chance is .5.",
    "probing_accuracy_2": "The same with two units.",
    "probing_accuracy_5": "The same with five units.",
    "probing_accuracy_all": "The same with all coordinates of the activation: what a linear probe can know at most.",
    "absorption_full": "Tokens where a parent concept holds, its main latents are silent, and another latent carries it "
    "(Chanin et al. 2024, SAEBench's thresholds). Read it beside parent_recall: a latent that finds nothing is never absorbed.",
    "absorption_fraction": "Share of the parent's direction that other latents carry there.",
    "parent_recall": "Share of a parent's tokens on which one of its main latents fires.",
    "parent_false_alarms": "Share of the other tokens on which one of them fires.",
    "latents_per_parent": "Feature splitting: latents that a probe needs for a parent concept, until one more adds less than "
    ".03 to its F1.",
}
"""The numbers of :class:`kanary.evaluation.concepts.ground_truth.GroundTruth`."""

_PROBES = ("probing_accuracy_1", "probing_accuracy_2", "probing_accuracy_5", "probing_accuracy_all")
_PARENTS = ("absorption_full", "absorption_fraction", "parent_recall", "parent_false_alarms")
CONCEPT_UNITS = {
    "mean_auroc": "concept",
    "mean_f1": "concept",
    "recall_at_0.9": "concept",
    "mean_graded_r": "graded concept",
    "monosemanticity": "latent",
    **dict.fromkeys((*_PROBES, *_PARENTS), "token"),
    "latents_per_parent": "parent",
}
"""What the n of each of them counts."""
