"""Self-checks of one SAE: does it fit its site, its numbers and itself? Bounds rest on healthy SAEs of all kinds; see each."""

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from kanary.evaluation.checks.sample import SIGMAS, Coded, Moments, Ratio, Sample, Verdict, coded_at, judged, ratio
from kanary.files import read_json, read_tensors, verify
from kanary.sae import SAE, SparseCodes
from kanary.sae.store import described, load_state

# Each bound says what was found on 45 healthy SAEs of five kinds at nine sites of a story model.
# Power of standardised activations, per dimension: 0.97 to 1.01
POWER = (0.85, 1.15)
# the same on text that the SAE was not trained on: Shakespeare 0.88
OTHER_POWER = (0.4, 2.5)
# Squared distance of the means, as a share of the variance: at most 0.0011; a mean that was lost, 0.04 to 0.28
OFF_MEAN = 0.01
# the same on other text: Shakespeare 0.03
OTHER_OFF_MEAN = 0.2
# Factor that would make reconstructions fit best: 0.96 to 1.1, relu (L1 shrinks) up to 1.41, jumprelu after 29 steps 0.56
SIZE = (0.52, 2.0)
# Least cosine of reconstructions and activations at which a size means something: 0.8; with shuffled rows 0.0
LIKE = 0.3
# Share of planted directions that come back: at least 0.94, in a toy of 16 dimensions 0.53; with shuffled rows 0 to 0.02
RECOVERED = 0.25
# Share of tokens without any code: at most 0.022
SILENT = 0.5
# How far the mean and scale of a site may be from those stored: 0.001; those of the next layer 0.39
FITS = 0.05
# By how much a number may differ from the recorded one beside the intervals of both; for l0 a share of its value
# (the sample is part of what was measured then: at most 0.0027 of EV); EV loses 0.014 where W_enc grew by a tenth
SLACK = {"explained_variance": 0.005, "l0": 0.05, "ce_loss_score": 0.02}
# Least cosine of encoder and decoder of a latent that fires: 0.42
AGAINST = -0.1
# Lengths of decoder directions that bfloat16 rounds: 0.9988 to 1.001
ROUNDING = 5e-3
_PLANTED = 200
_PASSING_TOKENS = 512
_EXACT_TOKENS = 256


def input_scale(sample: Sample, coded: Coded) -> Verdict:
    """E|(x - mean) * scale|^2 = d_model is what the weights were trained for."""
    sae = coded.sae
    z = (coded.x - sae.mean.double()) * sae.scale.double()
    power = coded.ratio(z.square().sum(1) / sae.d_model, torch.ones_like(z[:, 0]))
    low, high = POWER if sample.same_text else OTHER_POWER
    says = f"Standardised activations have {power.value:.3g} times the power that the weights expect"
    return judged(
        low - SIGMAS * power.error <= power.value <= high + SIGMAS * power.error,
        says,
        f" (allowed: {low} to {high}): the scale stored with the SAE was lost, or folded into the weights by halves, or "
        f"the SAE was trained at another site than {coded.site} or on other tokens.",
    )


def input_mean(sample: Sample, coded: Coded) -> Verdict:
    """The stored mean must be that of the activations."""
    n, mean = len(coded.x), coded.x.mean(0)
    variance = float(coded.deviation.mean())
    off = float((mean - coded.sae.mean.double()).square().sum()) / variance
    windows = torch.zeros(int(coded.window[-1]) + 1, coded.x.shape[1], dtype=torch.float64, device=coded.x.device)
    sums = windows.index_add(0, coded.window, coded.x - mean)
    noise = float(sums.square().sum()) / n**2 / variance if len(sums) > 2 else 10 / n
    most = (OFF_MEAN if sample.same_text else OTHER_OFF_MEAN) + 9 * noise
    says = f"The stored mean is off by {off:.2%} of the variance (allowed: {most:.2%})"
    lost = f": it was lost or set to zero, or the SAE was trained at another site than {coded.site} or on other tokens."
    return judged(off <= most, says, lost)


def own_site(sample: Sample, coded: Coded) -> Verdict:
    """No other site may fit better.

    By what it explains, where the site also has the stored mean and scale (simpler activations are explained better than
    one's own now and then); or by the stored mean and scale, where sites are so alike that it explains both. A scale that
    was lost may be another site's by chance, so only a site where the recorded numbers come out is that of training.
    """
    lm, sae, here = sample.lm, coded.sae, sample.moments[coded.site]
    if not lm.sites or sae.d_model != lm.d_model:
        return Verdict(None, f"The model has no other site of width {sae.d_model} to compare {coded.site} with.")
    found = _explained_everywhere(sample, coded)
    own = found.pop(coded.site)
    fits = {site: misfit for site in found if (misfit := _misfit(sae, sample.moments[site])) < FITS}
    better = [site for site in fits if fits[site] < _misfit(sae, here) and _clearly_better(found[site], own)]
    alike = [site for site in fits if found[site].fvu <= own.fvu and sample.same_text]
    nearer = [site for site in alike if _nearer(coded, here, sample.moments[site])]
    says = f"It explains {1 - own.fvu:.1%} of the variance at {coded.site}"
    if wrong := better or nearer:
        true = min(wrong, key=fits.__getitem__)
        says += f" and {1 - found[true].fvu:.1%} at {true}, and its stored mean and scale are those of {true}"
        why = f"it was trained there. Set trained_on.site in its config.json to {true!r}."
        if not _comes_back(sample, coded, true):
            why = "yet not what was recorded: mean, scale, weights or site were changed since training. Restore them."
        return Verdict(False, f"{says}: {why}")
    best = min(found, key=lambda site: found[site].fvu)
    but = ", whose mean and scale are not its own" if found[best].fvu < own.fvu else ""
    return Verdict(
        True, f"{says}; of {len(found)} other sites {best} comes nearest with {1 - found[best].fvu:.1%}{but}."
    )


def recorded_numbers(sample: Sample, coded: Coded) -> Verdict:
    """What training recorded must come out again, within the intervals of both."""
    here = {"explained_variance": coded.explained_variance, "l0": coded.l0, "ce_loss_score": _ce_score(sample, coded)}
    words = {"explained_variance": "EV", "l0": "L0", "ce_loss_score": "CE score"}
    listed = ", ".join(f"{words[name]} {value.value:.3g}" for name, value in here.items())
    recorded = {
        name: m for name, m in (coded.known.get("metrics") or {}).items() if name in here and m["value"] is not None
    }
    if not recorded:
        return Verdict(None, f"No numbers were recorded with this SAE; here: {listed}.")
    before = ", ".join(f"{words[name]} {recorded[name]['value']:.3g}" for name in here if name in recorded)
    if not sample.same_text:
        return Verdict(None, f"This is another text than that of training; there: {before}; here: {listed}.")
    wrong = [words[name] for name in recorded if not _as_recorded(name, here[name], recorded[name])]
    if not wrong:
        return Verdict(True, f"As recorded at training ({before}): on this sample {listed}.")
    return Verdict(
        False,
        f"Other than recorded at training: {', '.join(wrong)} (there: {before}; here: {listed}). {_clue(coded, wrong)}",
    )


def _clue(coded: Coded, wrong: list[str]) -> str:
    """What the change looks like. Healthy SAEs are off by at most 0.3 %, without b_dec by up to 4 %."""
    off = float((coded.x - coded.x_hat).mean(0).square().sum() / coded.deviation.mean())
    clues = ["Another number of latents fires, as if k, a threshold or a bias had been changed."] * ("L0" in wrong)
    if off > 0.005:
        clues.append(f"Reconstructions are off by {off:.1%} of the variance on average, as if a bias had been lost.")
    other = "Weights, scale, site, tokenizer or text changed since; where no other check fails, it was the weights or the text."
    return " ".join(clues) or other


def trained_weights(coded: Coded, measured: str | None) -> Verdict:
    """The weights must be those of the end of training; ``measured``: those that metrics.json of the run is about."""
    trained, now = coded.known.get("weights") or measured, coded.sae.digest()
    if trained is None:
        return Verdict(None, f"Which weights were trained was not recorded with this SAE; these are {now}.")
    W = coded.sae.W_dec
    rounded = [str(d)[6:] for d in (torch.bfloat16, torch.float16) if torch.equal(W, W.to(d).to(W.dtype))]
    why = f"rounded to {rounded[0]}" if rounded else "edited after training, or are another SAE's"
    return judged(
        trained == now,
        f"The weights are {now}, and those that were trained {trained}",
        f": they are not those that were trained, but {why}. Restore the files of sae/ from a copy, or train again.",
    )


def planted_directions(sample: Sample, coded: Coded) -> Verdict:
    """An activation that is nothing but one latent's direction, as long as a typical one, must make that latent fire most."""
    sae = coded.sae
    fired = coded.codes.indices.unique()
    if not len(fired):
        return Verdict(None, "No latent fires on this text, so none could be planted.")
    chosen = fired[torch.linspace(0, len(fired) - 1, min(_PLANTED, len(fired)), device=fired.device).round().long()]
    z = sae.standardise(coded.x.to(sae.mean.dtype)) - sae.decoder.b_dec
    planted = SparseCodes(
        chosen,
        z.norm(dim=1).mean().expand(len(chosen)).contiguous(),
        torch.arange(len(chosen) + 1, device=chosen.device),
        sae.d_sae,
        (len(chosen),),
    )
    found = sae.encode(sae.decode(planted)).to_dense().max(1)
    share = float(((found.indices == chosen) & (found.values > 0)).double().mean())
    W_enc = getattr(sae.encoder, "W_enc", None)
    if share >= RECOVERED and isinstance(W_enc, Tensor) and W_enc.shape == sae.W_dec.shape:
        cosines = F.cosine_similarity(W_enc[fired].double(), sae.W_dec[fired].double())
        if against := int((cosines < AGAINST).sum()):
            return Verdict(
                False,
                f"{against:,} of {len(fired):,} latents that fire write the opposite of what they read (cosine of encoder "
                f"and decoder below {AGAINST}, least {float(cosines.min()):.2f}): rows of W_enc or W_dec were negated or "
                "exchanged.",
            )
    says = f"Of {len(chosen)} planted directions {share:.0%} make their own latent fire most (by chance: {1 / sae.d_sae:.2%})"
    return judged(
        share >= RECOVERED,
        says,
        ": row i of the encoder and row i of the decoder are not the same latent (one of them was shuffled, "
        "transposed or taken from another SAE), or latents hardly fire at all.",
    )


def saved_codes(sample: Sample, coded: Coded, saved: Path | None) -> Verdict:
    """Saved and loaded again the SAE must give the same codes, and its last checkpoint ``saved`` must hold its weights."""
    x = coded.x[:_EXACT_TOKENS].to(sample.x[coded.site].dtype)
    codes = coded.sae.encode(x)
    says = f"the same {len(codes.values):,} code values, bit for bit"
    with tempfile.TemporaryDirectory() as temporary:
        coded.sae.save_pretrained(Path(temporary) / "sae")
        again = SAE.from_pretrained(Path(temporary) / "sae", device=x.device).encode(x)
    if not _equal(codes, again):
        return Verdict(
            False, "Saved and loaded again it gives other codes: a part keeps state outside its parameters and buffers."
        )
    if saved is None:
        return Verdict(True, f"Saved and loaded again it gives {says}; there is no checkpoint to compare with.")
    if _at_checkpoint(saved, coded.sae).digest() != coded.sae.digest():
        return Verdict(
            False,
            f"It has other weights than the SAE in {saved}: the files in sae/ are not those that training wrote last. "
            "Restore them, or train again.",
        )
    return Verdict(True, f"Saved and loaded again it gives {says}; the last checkpoint has the same weights.")


def shuffled_control(sample: Sample, coded: Coded) -> Verdict:
    """Reconstructions given to other tokens must explain nothing; given to their own, something."""
    silent = float((coded.codes.l0() == 0).double().mean())
    if silent > SILENT:
        return Verdict(
            None, f"No latent fires on {silent:.0%} of the tokens, so there is little to give to other tokens."
        )
    wrong = coded.ratio((coded.x - coded.x_hat.roll(len(coded.x) // 2, 0)).square().sum(1), coded.deviation)
    chance, own = 1 - wrong.value, coded.explained_variance.value
    says = f"Its reconstructions explain {own:.1%} of their own tokens and {chance:.1%} of others"
    return judged(
        chance <= 0.05 and own > max(chance, 0) + 0.05,
        says,
        ", where own should be well above zero and others not: reconstructions and activations do not belong "
        "together, or the text repeats itself. The other checks say more.",
    )


def firing(sample: Sample, coded: Coded) -> Verdict:
    """Some latents must fire, not most of them, and not always the same."""
    n, l0, d_sae = len(coded.x), coded.l0.value, coded.sae.d_sae
    silent = float((coded.codes.l0() == 0).double().mean())
    fired = len(coded.codes.indices.unique())
    says = f"{l0:.3g} of {d_sae:,} latents fire at a time, {fired:,} of them somewhere in {n:,} tokens"
    if fired == 0:
        why = "it never fires. Its thresholds or biases are far off; train again with a weaker penalty"
    elif silent > SILENT:
        why = f"none fires on {silent:.0%} of the tokens. The penalty was too strong, or scale and mean do not fit"
    elif l0 > d_sae / 2:
        why = "these codes are not sparse. The penalty was too weak, or a threshold was lost"
    elif fired < 1.5 * l0:
        why = "always the same ones, whatever the token. Scale, mean or biases do not fit"
    else:
        return Verdict(True, f"{says}; {silent:.1%} of the tokens have none.")
    return Verdict(False, f"{says}: {why}.")


def unit_directions(sample: Sample, coded: Coded) -> Verdict:
    """Decoder directions of length 1 make latent values comparable."""
    norms = coded.sae.decoder.norms()
    low, high = float(norms.min()), float(norms.max())
    if low > 1 - ROUNDING and high < 1 + ROUNDING:
        return Verdict(True, f"All {len(norms):,} decoder directions have length 1 (from {low:.4g} to {high:.4g}).")
    return Verdict(
        False,
        f"Decoder directions have lengths from {low:.4g} to {high:.4g} instead of 1: the weights were scaled after "
        "training. Divide each row of W_dec by its length and multiply its latent's values by it.",
    )


def output_size(sample: Sample, coded: Coded) -> Verdict:
    """The factor that would make reconstructions fit best; a little above 1 where a penalty shrinks them."""
    bias = coded.sae.restore(coded.sae.decoder.b_dec.detach()).double()
    made = coded.x_hat - bias
    wanted = coded.x - bias
    likeness = float((wanted * made).sum() / (wanted.norm() * made.norm()))
    if not likeness > LIKE:
        return Verdict(
            None, f"Its reconstructions are not like the activations (cosine {likeness:.2f}), so no size fits them."
        )
    size = coded.ratio((wanted * made).sum(1), made.square().sum(1))
    says = f"Reconstructions would fit best {size.value:.3g} times as large"
    return judged(
        SIZE[0] <= size.value <= SIZE[1],
        says,
        f" (allowed: {SIZE[0]} to {SIZE[1]}): encoder or decoder weights were scaled after training, or a penalty "
        "shrinks the codes too much.",
    )


def special_untouched(sample: Sample, coded: Coded) -> Verdict:
    """BOS, EOS and padding get no codes and pass through unchanged."""
    rows = max(1, _PASSING_TOKENS // sample.batch.tokens.shape[1])
    x, special = sample.x[coded.site][:rows], sample.special[:rows]
    if not (count := int(special.sum())):
        return Verdict(None, "There is no special token in this sample.")
    coded_tokens = int((coded.sae.encode(x, special).l0()[special] > 0).sum())
    moved = int((coded.sae(x, special)[special] != x[special]).any(1).sum())
    if not coded_tokens and not moved:
        return Verdict(True, f"None of {count:,} special tokens gets a code, and all pass through unchanged.")
    return Verdict(
        False,
        f"Of {count:,} special tokens {coded_tokens:,} get codes and {moved:,} are changed, although the SAE was never "
        "trained on them.",
    )


class _Unexplained(NamedTuple):
    fvu: float
    residuals: Tensor
    """``[tokens]``, what each adds to the error of ``fvu``."""


def _explained_everywhere(sample: Sample, coded: Coded) -> dict[str, _Unexplained]:
    """What the SAE leaves unexplained at every named site that is another point than its own, and at its own."""
    own = sample.everywhere[coded.site]
    # resid_post.2 and resid_pre.3 are one point
    points = {site: x for site, x in sample.everywhere.items() if x is own or not torch.equal(x, own)}
    return {site: _unexplained(coded.sae, x) for site, x in points.items() if x.shape[1] == coded.sae.d_model}


def _unexplained(sae: SAE, x: Tensor) -> _Unexplained:
    error = (x.double() - sae(x).double()).square().sum(1)
    deviation = (x.double() - x.double().mean(0)).square().sum(1)
    total = max(float(deviation.sum()), 1e-30)
    fvu = float(error.sum()) / total
    return _Unexplained(fvu, (error - fvu * deviation) / total)


def _clearly_better(other: _Unexplained, own: _Unexplained) -> bool:
    """By more than the noise of the difference over the same tokens."""
    return own.fvu - other.fvu > SIGMAS * float((own.residuals - other.residuals).square().sum().sqrt())


def _nearer(coded: Coded, here: Moments, there: Moments) -> bool:
    """Whether the stored mean and scale are so much nearer to those of another site that sampling cannot be why.

    If they were those of this site, they would look nearer to the other's only where this sample is off by more than half
    the way between the two, in the mean or in the (logarithm of the) variance.
    """
    if not _misfit(coded.sae, there) < _misfit(coded.sae, here) / 4:  # where it was lost, all sites fit badly
        return False
    way = there.mean - here.mean
    along = (coded.x - here.mean) @ (way / way.norm().clamp_min(1e-30))
    ones = torch.ones_like(along)
    spread = coded.ratio(coded.deviation, ones)
    for distance, error in (
        (float(way.norm()), coded.ratio(along, ones).error),
        (abs(math.log(there.variance / here.variance)), spread.error / spread.value),
    ):
        if distance / 2 > 5 * error:
            return True
    return False


def _misfit(sae: SAE, at: Moments) -> float:
    """How far mean and size of activations are from those that the SAE expects; 0 at a perfect fit."""
    unit = float(sae.scale.double().square()) / sae.d_model
    off = float((at.mean - sae.mean.double()).square().sum()) * unit
    return off + math.log(max(at.variance * unit, 1e-30)) ** 2


def _ce_score(sample: Sample, coded: Coded) -> Ratio:
    """Against zero ablation, over the windows whose losses are measured."""
    x = sample.clean.x[coded.site]
    spliced = coded.sae(x, sample.special[: len(x)])
    new = sample.losses(sample.clean.replay(coded.site, spliced))
    lost = ratio(new - sample.clean_losses, sample.zeroed[coded.site] - sample.clean_losses)
    return Ratio(1 - lost.value, lost.error if len(new) > 3 else 0.05)  # three windows say nothing of their spread


def _as_recorded(name: str, here: Ratio, recorded: Mapping[str, Any]) -> bool:
    return here.agrees(recorded, SLACK[name] * (float(recorded["value"]) if name == "l0" else 1))


def _comes_back(sample: Sample, coded: Coded, site: str) -> bool:
    """Whether the SAE does at ``site`` what training recorded; False where nothing was, or this is another text."""
    recorded, x = coded.known.get("metrics") or {}, sample.everywhere[site]
    names = ("explained_variance", "l0")
    if not sample.same_text or any(recorded.get(name, {}).get("value") is None for name in names):
        return False
    there = coded_at(coded.name, coded.sae, site, x, coded.window[: len(x)])
    return all(_as_recorded(name, getattr(there, name), recorded[name]) for name in names)


def _at_checkpoint(file: Path, like: SAE) -> SAE:
    """The SAE that a file of a checkpoint holds, made of the same parts as ``like``."""
    verify(file, str(read_json(file.parent / "state.json").get("sha256", {}).get(file.name)))
    tensors = {key.removeprefix("sae."): t for key, t in read_tensors(file).items() if key.startswith("sae.")}
    sae = SAE(described(like))
    load_state(sae, tensors, file)
    return sae.to(like.mean.device)


def _equal(a: SparseCodes, b: SparseCodes) -> bool:
    return all(torch.equal(getattr(a, key), getattr(b, key)) for key in ("indices", "values", "offsets"))
