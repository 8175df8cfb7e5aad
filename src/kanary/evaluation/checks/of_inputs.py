"""Self-checks of the model, the site and the text: is what we read and write what we think it is?"""

import math
from difflib import SequenceMatcher

import torch
from torch import Tensor

from kanary.evaluation.checks.sample import Sample, Verdict
from kanary.text.guard import LEAST_AGREEMENT, MOST_LOSS, round_trip

SURPRISE = 0.25
"""How far from the loss at training towards that of guessing a text may be. Stories lose 1.1 nats and Shakespeare 4.3 on
a model of stories (guessing: 6.2), other stories 1.06."""
_LOSS_SLACK = 0.02
"""Nats by which the loss on the text of training may differ beside the intervals of then and now."""
_SHOWN = 40
_COMPARED = 400  # characters of the first document


def writing_back(sample: Sample, site: str) -> Verdict:
    """Putting back what was read must change nothing, whether it is the tensor itself or a copy."""
    lm, tokens = sample.lm, sample.probe
    clean = lm.logits(tokens)
    changes = [float((lm.logits(tokens, replace={site: put}) - clean).abs().max()) for put in (_same, torch.clone)]
    if changes == [0.0, 0.0]:
        return Verdict(True, f"Writing back what was read at {site} leaves {clean.numel():,} logits equal bit for bit.")
    return Verdict(
        False,
        f"Writing back what was read at {site} moves the logits by up to {max(changes):.3g}: the model gives other "
        "numbers every time it runs, or this module passes on more than its tensor. Try dtype float32, or another site.",
    )


def same_point(sample: Sample, site: str) -> Verdict:
    """What is written must be what is read there, and must matter to what comes after."""
    lm, tokens = sample.lm, sample.probe
    x = lm.capture(tokens, [site])[site]
    mark = x.roll(1, dims=-1) + 1
    with lm.replacing({site: lambda _: mark}):
        found = lm.capture(tokens, [site])[site]
    if not torch.equal(found, mark):
        return Verdict(
            False,
            f"What is written at {site} is not what is read there afterwards: reading and writing use different points "
            "of this model. Name a module by hand: module:PATH.",
        )
    moved = float((lm.logits(tokens, replace={site: torch.zeros_like}) - lm.logits(tokens)).abs().max())
    if not moved > 0:
        return Verdict(
            False,
            f"Zeroing {site} does not change a single logit: nothing that comes later reads this point, so no SAE can "
            "be judged there. Choose another site.",
        )
    return Verdict(
        True, f"What is written at {site} is read there, and zeroing it moves the logits by up to {moved:.3g}."
    )


def place(sample: Sample, site: str) -> Verdict:
    """The site must be where its name says, by the model's own account of its residual stream."""
    lm, where = sample.lm, sample.lm.site(site)
    tokens = sample.probe
    if where.layer is None:
        return Verdict(None, f"{site} is a module named by hand, so there is no name to hold it against.")
    around = [f"resid_pre.{where.layer}", f"resid_post.{where.layer}"]
    x = lm.capture(tokens, list(dict.fromkeys([*around, site])))
    if where.kind in ("attn_out", "mlp_out"):
        parts = lm.capture(tokens, [f"attn_out.{where.layer}", f"mlp_out.{where.layer}"])
        wrong = _distance(x[around[0]] + sum(parts.values()), x[around[1]])
        good = wrong < 0.02  # bfloat16 rounds sums to 0.4 %
        how = "the residual stream before the block and what the block adds make up the stream after it"
    else:
        last = where.kind == "resid_post" and where.layer == where.n_layers - 1
        own = _hidden_states(sample)
        if own is None or last:  # the model reports its last one after the final norm
            return Verdict(None, f"The model itself does not report the residual stream {where.describe()}.")
        wrong = _distance(x[site], own[where.layer + (where.kind == "resid_post")])
        good = wrong == 0
        how = "it equals the hidden state that the model itself reports there"
    if good:
        return Verdict(True, f"{site} lies {where.describe()}: {how}.")
    return Verdict(
        False,
        f"{site} does not lie {where.describe()}: {how.replace('equals', 'should equal').replace('make', 'should make')}, "
        f"but they differ by {wrong:.1%}. Kanary knows this family of models wrongly: please report it, and name the "
        "module by hand (module:PATH).",
    )


def exact_scores(sample: Sample, site: str) -> Verdict:
    """The identity in the SAE's place must score exactly 1 and zero exactly 0, through the evaluation's own path."""
    zeroed = float(sample.zeroed[site].sum())
    clean, x = float(sample.clean_losses.sum()), sample.clean.x[site]
    if zeroed == clean:
        return Verdict(False, f"Zeroing {site} leaves the loss as it is, so a CE score does not exist there.")

    def score(new: Tensor) -> float:
        return (zeroed - float(sample.losses(sample.clean.replay(site, new)).sum())) / (zeroed - clean)

    one, zero = score(x.clone()), score(torch.zeros_like(x))
    if (one, zero) == (1.0, 0.0):
        return Verdict(True, "In the SAE's place the identity scores CE exactly 1, and zero exactly 0.")
    return Verdict(
        False,
        f"In the SAE's place the identity scores CE {one:.6f} (not 1) and zero {zero:.6f} (not 0): running the model on "
        f"from {site} is not the same as running all of it, so CE scores of this model are off by as much.",
    )


def known_text(sample: Sample) -> Verdict:
    """A model that finds the text surprising has representations of noise."""
    lm, loss, guessing = sample.lm, sample.loss.value, math.log(sample.lm.vocab_size)
    name, recorded = sample.inputs.text.name, (sample.known.get("metrics") or {}).get("ce_loss_without_sae") or {}
    before = recorded.get("value")
    compared = "at training: not recorded; " if before is None else f"at training: {before:.2f}; "
    says = f"{lm.name} loses {loss:.2f} nats per token on {name} ({compared}guessing: {guessing:.2f})"
    if not loss < MOST_LOSS * guessing:
        return Verdict(
            False,
            f"{says}: to this model the text is noise. It belongs to another model, or was tokenised by another tokenizer.",
        )
    if before is not None and loss > before + SURPRISE * (guessing - before):
        return Verdict(
            False,
            f"{says}: the model knows this text far less than the one the SAE was trained on, so what the SAE does here "
            "says little about it. Check the tokenizer, or use text of the kind the model was trained on.",
        )
    if before is not None and sample.same_text and not sample.loss.agrees(recorded, _LOSS_SLACK):
        return Verdict(
            False,
            f"{says}: this is the text of training, but not the loss that it had there, so other tokens are read now. "
            "Restore the tokenizer and the text.",
        )
    return Verdict(True, f"{says}.")


def token_ids(sample: Sample) -> Verdict:
    """Token ids must decode to the text, come back from it, and fit the vocabulary."""
    lm, batch = sample.lm, sample.batch
    ids = [row.tolist() for row in batch.tokens]
    if (largest := max(map(max, ids))) >= lm.vocab_size or min(map(min, ids)) < 0:
        return Verdict(
            False,
            f"The text has the token id {largest:,}, but {lm.name} knows only {lm.vocab_size:,}: use its tokenizer.",
        )
    back, like = round_trip(lm, ids), _likeness(sample)
    start = lm.tokenizer.decode([i for i in ids[0] if i not in lm.special_ids])[:_SHOWN].strip()
    if back < LEAST_AGREEMENT or (like is not None and like < LEAST_AGREEMENT):
        what = (
            f"only {back:.0%} of the token ids come back from the text they decode to"
            if back < LEAST_AGREEMENT
            else f"the decoded tokens agree with the text in only {like:.0%} of its letters"
        )
        return Verdict(
            False,
            f"{what[0].upper()}{what[1:]} ({start!r} …): they come from another tokenizer than {lm.tokenizer_name}.",
        )
    return Verdict(
        True, f"The tokens read {start!r} …, and {back:.1%} of their ids come back when that is tokenised again."
    )


def special_tokens(sample: Sample) -> Verdict:
    """BOS must start every window where there is one, and BOS, EOS and padding must be marked."""
    lm, batch = sample.lm, sample.batch
    should = torch.isin(batch.tokens, torch.tensor(sorted(lm.special_ids), dtype=torch.int64))
    if wrong := int((should != batch.special).sum()):
        return Verdict(
            False,
            f"{wrong:,} of {batch.tokens.numel():,} tokens are marked wrongly: {int(should.sum()):,} are BOS, EOS or "
            f"padding, {int(batch.special.sum()):,} are marked so. SAEs would be judged on tokens they never trained on.",
        )
    trained, now = (_token(sample, i) for i in (sample.known.get("bos_id"), lm.bos_id))
    if "bos_id" in sample.known and trained != now:
        return Verdict(
            False,
            f"The tokenizer of {lm.name} names {now} as BOS, but the SAE was trained with "
            f"{trained}. Give the tokenizer its bos_token back.",
        )
    without = 0 if lm.bos_id is None else int((batch.tokens[:, 0] != lm.bos_id).sum())
    if without:
        return Verdict(
            False,
            f"{without} of {len(batch.tokens)} windows do not begin with BOS (token {lm.bos_id}): the model sees text as "
            "it never did in training, and its first activations are off. Pack the windows with kanary.text.Windows.",
        )
    begin = f"All {len(batch.tokens)} windows begin with {'text' if lm.bos_id is None else 'BOS'} (BOS: {now})"
    if "bos_id" not in sample.known:
        return Verdict(None, f"{begin}, but what they began with in training was not recorded.")
    return Verdict(True, f"{begin}, and the {int(should.sum()):,} special tokens are marked.")


def _token(sample: Sample, token: int | None) -> str:
    return "no token" if token is None else f"token {token} ({sample.lm.tokenizer.decode([token])!r})"


def _likeness(sample: Sample) -> float | None:
    """Share of letters that the first document and its decoded tokens have in common; None for pre-tokenised text."""
    lm, batch = sample.lm, sample.batch
    number = int(batch.documents[0, 0])
    document = next(sample.inputs.text.documents(number), None)
    if document is None or not document.text:
        return None
    ids = batch.tokens[(batch.documents == number) & (batch.positions >= 0)][:_COMPARED].tolist()
    decoded = lm.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    a, b = (text.strip().casefold()[:_COMPARED] for text in (decoded, document.text))
    length = min(len(a), len(b))
    return SequenceMatcher(None, a[:length], b[:length], autojunk=False).ratio()


def _hidden_states(sample: Sample) -> tuple[Tensor, ...] | None:
    """The residual stream before each block, as the model itself reports it."""
    lm = sample.lm
    with torch.no_grad(), lm.alone():
        out = lm.model(input_ids=sample.probe.to(lm.device), use_cache=False, output_hidden_states=True)
    states: tuple[Tensor, ...] | None = getattr(out, "hidden_states", None)
    return states if states is not None and len(states) == lm.n_layers + 1 else None


def _distance(a: Tensor, b: Tensor) -> float:
    """Of ``a`` from ``b``, as a share of the length of ``b``."""
    return float((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-30))


def _same(x: Tensor) -> Tensor:
    return x
