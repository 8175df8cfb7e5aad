"""Does this text belong to this model? Two questions: whose tokens are these, and can the model predict them."""

import math
import re
from difflib import SequenceMatcher
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from torch.nn.functional import cross_entropy

from kanary.errors import KanaryError
from kanary.lm import LanguageModel
from kanary.text.source import TextSource

if TYPE_CHECKING:
    from kanary.text.windows import TokenBatch

LEAST_AGREEMENT = 0.95
"""Share of token ids that must come back when they are turned into text and tokenised again. With 512 tokens the right
tokenizer gives more than 99 %, another one of the same size 74 %, the right one with every id off by one 93 %."""
MOST_LOSS = 0.8
"""Share of ln(vocabulary) at which a text looks random to the model."""
_SAMPLE_DOCUMENTS, _SAMPLE_TOKENS, _SAMPLE_WINDOWS = 20, 512, 16


class TextCheck(NamedTuple):
    """How well a model predicts a text."""

    loss_nats: float
    """Mean next-token loss per token, in nats, where neither source nor target is special."""
    ln_vocab: float
    """The loss of guessing: ln(vocabulary), in nats."""
    warning: str | None
    """What looks wrong, in one sentence; None when nothing does."""


def check_text(lm: LanguageModel, batch: "TokenBatch") -> TextCheck:
    """The model's own loss on at most 16 windows of a text, and a warning if text and model do not belong together."""
    tokens, special = batch.tokens[:_SAMPLE_WINDOWS], batch.special[:_SAMPLE_WINDOWS]
    total, count = 0.0, 0
    for row, skip in zip(
        tokens, special, strict=True
    ):  # one window at a time: the logits of a large vocabulary are large
        keep = ~(skip[1:] | skip[:-1])
        logits = lm.logits(row[None])[0, :-1].float()
        losses = cross_entropy(logits, row[1:].to(logits.device), reduction="none")
        total += float(losses[keep.to(losses.device)].double().sum())
        count += int(keep.sum())
    loss, guessing = total / max(1, count), math.log(lm.vocab_size)
    if not math.isfinite(loss):
        warning = f"{lm.name} gives NaN or Inf on this text. Try dtype float32."
    elif loss >= MOST_LOSS * guessing:
        warning = (
            f"{lm.name} loses {loss:.2f} nats per token on this text, and guessing would lose {guessing:.2f}: "
            "the text and the model do not belong together."
        )
    else:
        warning = None
    return TextCheck(loss, guessing, warning)


def refuse_other_tokenizer(source: TextSource, lm: LanguageModel) -> None:
    """Raises :class:`KanaryError` if the text is token ids made by another tokenizer than the model's.

    By name, where the data set gives one; by content: the ids lie in the vocabulary, and turning them into text and
    back gives the same ids (``LEAST_AGREEMENT``).
    """
    named = source.tokenizer_name
    own = {_plain(lm.tokenizer_name), _plain(lm.name), _plain(getattr(lm.model.config, "_name_or_path", "") or lm.name)}
    sample = [d.tokens for d in islice(source.documents(), _SAMPLE_DOCUMENTS) if d.tokens]
    if not sample:
        return
    if named and _plain(named) not in own:
        raise KanaryError(
            f"{source.name!r} was tokenised with {named!r}, but the model's tokenizer is {lm.tokenizer_name!r}. "
            "Use the text itself, or say --same-tokenizer (same_tokenizer=True) if these are two names of one tokenizer."
        )
    if (largest := max(max(ids) for ids in sample)) >= lm.vocab_size:
        raise KanaryError(
            f"{source.name!r} holds the token id {largest:,}, but {lm.tokenizer_name!r} has {lm.vocab_size:,} tokens: "
            "it was made with another tokenizer. Use the text itself."
        )
    if (agreement := round_trip(lm, sample)) < LEAST_AGREEMENT:
        raise KanaryError(
            f"The token ids of {source.name!r} are not those of {lm.tokenizer_name!r}: turned into text and back, only "
            f"{agreement:.0%} of them agree. It was made with another tokenizer; use the text itself."
        )


def round_trip(lm: LanguageModel, sample: list[list[int]]) -> float:
    """Share of the ids that come back, in order, after decoding and encoding again; special tokens are left out."""
    kept = [[i for i in ids if i not in lm.special_ids][:_SAMPLE_TOKENS] for ids in sample]
    kept = [ids for ids in kept if ids]
    texts = [lm.tokenizer.decode(ids, clean_up_tokenization_spaces=False) for ids in kept]
    again = lm.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []
    same = sum(
        block.size
        for a, b in zip(kept, again, strict=True)
        for block in SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks()
    )
    return same / max(1, sum(map(len, kept)))


def _plain(name: str) -> str:
    """The last part of a path or Hub id, without case and punctuation."""
    return re.sub(r"[^a-z0-9]", "", name.rstrip("/").rsplit("/", 1)[-1].lower())
