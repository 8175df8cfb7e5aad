"""Prompts for a concept of the labelled corpus: passages with it, and the same ones without."""

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence

from kanary.errors import KanaryError
from kanary.evaluation.concepts.best import FEWEST_TOKENS
from kanary.evaluation.concepts.units import SparseUnits, Truth, unit_scores
from kanary.lm import LanguageModel
from kanary.sae import SAE, SparseCodes
from kanary.text.labelled import Record, pairs

BEFORE, AFTER = 120, 360
"""Characters of a passage before the place where the concept first holds, and after it: about 120 tokens in all."""


PAIRS = 60
"""Of passages in which the latent that stands for a concept is looked for."""
BATCH = 16


class TrueLatent(NamedTuple):
    """The latent that stands for a concept."""

    latent: int
    f1: float
    """At its best threshold, over the tokens of passages with the concept and of their counterparts without."""


def concept_prompts(concept: str, n: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """``n`` prompts around the place where ``concept`` first holds in a passage, and their counterparts without it.

    They are written anew, from other seeds than the corpus has, so no model has read them.

    Raises:
        KanaryError: an unknown concept, or one that cannot be switched by itself.
    """
    found = list(islice(_cut(concept, seed), n))
    return [on for on, _ in found], [off for _, off in found]


def _cut(concept: str, seed: int) -> Iterator[tuple[str, str]]:
    seen: set[str] = set()
    for on, off in pairs(concept, seed):
        first = min((span for span in on.spans if span.concept == concept), key=lambda span: span.start)
        both = _window(on, first.start), _window(off, first.start)
        if not seen & {*both} and both[0] != both[1] and all(both):
            seen |= {*both}
            yield both


def _window(record: Record, place: int) -> str:
    """Whole words of the passage around the character ``place``."""
    text = record.text
    begin, stop = max(0, place - BEFORE), min(len(text), place + AFTER)
    begin = text.find(" ", begin) + 1 if begin else 0
    stop = text.rfind(" ", 0, stop) if stop < len(text) else stop
    return text[begin:stop].strip()


@torch.no_grad()
def true_latent(lm: LanguageModel, sae: SAE, concept: str, *, n: int = PAIRS, seed: int = 0) -> TrueLatent:
    """The latent that tells best, by F1, at which tokens of ``n`` pairs of passages ``concept`` holds.

    The passages are others than those of :func:`concept_prompts`.

    Raises:
        KanaryError: an unknown concept, one that cannot be switched by itself, or one that holds at fewer than 50 tokens.
    """
    site, bos = str(sae.config.trained_on["site"]), [] if lm.bos_id is None else [lm.bos_id]
    codes: list[SparseCodes] = []
    holds: list[bool] = []
    records = [each for pair in islice(pairs(concept, seed + 1_000_003), n) for each in pair]
    for some in (records[a : a + BATCH] for a in range(0, len(records), BATCH)):
        written = [record.tokens(lm.tokenizer) for record in some]
        read = [(torch.tensor(bos + each.ids[: lm.context - len(bos)]), each.concepts) for each in written]
        x = lm.capture(pad_sequence([ids for ids, _ in read], batch_first=True), [site])[
            site
        ]  # padded where none looks
        for row, (ids, where) in zip(x, read, strict=True):
            codes.append(sae.encode(row[len(bos) : len(ids)]).to("cpu"))
            holds += [concept in here for here in where[: len(ids) - len(bos)]]
    if sum(holds) < FEWEST_TOKENS:
        raise KanaryError(
            f"{concept} holds at {sum(holds)} tokens of {n} passages, too few to say which latent stands for it; "
            f"{FEWEST_TOKENS} are needed. Choose another concept."
        )
    labels = torch.tensor(holds)[:, None]
    truth = Truth.of(labels, torch.ones_like(labels))
    f1 = torch.cat([each.f1[0, :, 0] for each in unit_scores(SparseUnits.of(codes), truth)])
    return TrueLatent(int(f1.argmax()), float(f1.max()))
