"""The capability test: does the model still continue a text rightly when an SAE stands in for its activations?

A prompt is the start of a passage of a held-out document, the answer the token that really follows. The rank of the
answer, its probability and the greedy continuation are compared with those of the model alone.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from inspect import signature
from math import sqrt
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from kanary.activations.pool import generator
from kanary.evaluation.result import Answer, Capability, Metric, Prompt
from kanary.lm import LanguageModel
from kanary.text import TokenBatch

if TYPE_CHECKING:
    from kanary.evaluation.standin import StandIn

SHORTEST = 8
"""Tokens of the shortest prompt, BOS not counted, that short documents may lead to."""
AMPLE = 50
"""Tokens to choose each token of the prompts from: more of the text is not read, for it may be a whole crawl."""

Show = Callable[[int], None]


class Kept(NamedTuple):
    """How much of the model's ability is left."""

    share: Metric
    """Of the prompts whose answer the model alone ranks first, the share still ranked first, with its 95 % Wilson
    interval; ``n`` counts those prompts, and is 0 (the numbers NaN) where there are none."""
    rank_without: float
    """Median rank of the answer, over all prompts, by the model alone."""
    rank_with: float


def capability(
    lm: LanguageModel,
    batches: Iterable[TokenBatch],
    standins: Mapping[str, "StandIn"],
    n: int = 200,
    seed: int = 0,
    *,
    show: Show | None = None,
) -> Capability:
    """The same prompts answered by the model alone and with each of ``standins`` in its place.

    Args:
        batches: held-out windows.
        n: prompts; fewer where the text has no more.
        show: called with the number of prompts answered since the last call, of ``(1 + len(standins)) * n`` in all.
    """
    prompts = make_prompts(lm, batches, n, seed=seed)
    without = answers(lm, prompts, None, show=show)
    return Capability(
        prompts, without, {name: answers(lm, prompts, standin, show=show) for name, standin in standins.items()}
    )


def kept(found: Capability, name: str) -> Kept:
    """The row ``name`` of a capability test in three numbers."""
    row = found.rows[name]
    still = [now.rank == 1 for before, now in zip(found.without, row, strict=True) if before.rank == 1]
    medians = [median(a.rank for a in side) if side else float("nan") for side in (found.without, row)]
    return Kept(_wilson(sum(still), len(still)), *medians)


def make_prompts(
    lm: LanguageModel, batches: Iterable[TokenBatch], n: int = 200, length: int = 32, seed: int = 0
) -> list[Prompt]:
    """Up to ``n`` prompts, no two alike, that share no token, spread over the documents.

    Each is BOS (if the tokenizer has one) and ``length`` consecutive tokens of one document within one window; the
    answer is the document's next token. Where that gives fewer than ``n``, all prompts are as much shorter as it takes
    (not below 8 tokens); where even that is too few, the list is shorter.
    """
    passages: dict[int, list[Tensor]] = {}
    read = 0
    for batch in batches:
        for document, passage in _passages(batch):
            passages.setdefault(document, []).append(passage)
        read += batch.n_tokens
        if read >= AMPLE * n * (length + 1):
            break
    best: list[Prompt] = []
    for each in range(length, min(length, SHORTEST) - 1, -1):
        found = _choose(lm, passages, n, each, generator("prompts", seed))
        if len(found) == n:
            return found
        best = max(best, found, key=len)
    return best


def answers(
    lm: LanguageModel,
    prompts: Sequence[Prompt],
    standin: "StandIn | None",
    *,
    new_tokens: int = 16,
    batch: int = 32,
    show: Show | None = None,
) -> list[Answer]:
    """What the model makes of every prompt, with ``standin`` in place of its site's activation, or alone.

    The stand-in takes every position that is not special, of the prompt and of what is generated alike.

    Args:
        new_tokens: of the greedy continuation, which ends before EOS and at the longest context of the model.
        batch: prompts at a time.
        show: called with the number of prompts answered since the last call.
    """
    found: dict[int, Answer] = {}
    for numbers in _equally_long(prompts, batch):
        some = [prompts[i] for i in numbers]
        logits, written = _greedy(lm, torch.stack([p.tokens for p in some]), standin, new_tokens)
        ranks, probabilities = rank_and_probability(logits, torch.tensor([p.answer_id for p in some]))
        for i, prompt, rank, probability, ids in zip(numbers, some, ranks, probabilities, written, strict=True):
            found[i] = Answer(rank, probability, _after(lm, _without_bos(lm, prompt.tokens.tolist()), ids))
        if show:
            show(len(some))
    return [found[i] for i in range(len(prompts))]


def rank_and_probability(logits: Tensor, tokens: Tensor) -> tuple[list[int], list[float]]:
    """Rank (1 + the number of strictly larger logits) and probability of ``tokens [batch]`` in ``logits [batch, vocab]``.

    Where the logits are NaN the token comes last, with a probability of NaN.
    """
    logits = logits.double()
    mine = logits.gather(1, tokens.to(logits.device)[:, None])
    ranks = (1 + (~(logits <= mine)).sum(1)).clamp(max=logits.shape[1])
    return ranks.tolist(), (mine[:, 0] - logits.logsumexp(1)).exp().tolist()


def _passages(batch: TokenBatch) -> Iterator[tuple[int, Tensor]]:
    """(document, tokens) of every stretch of a window that is one piece of one document, without special tokens."""
    ordinary = ~batch.special
    goes_on = ordinary[:, 1:] & ordinary[:, :-1]
    goes_on &= (batch.documents.diff(dim=1) == 0) & (batch.positions.diff(dim=1) == 1)
    no = goes_on.new_zeros(len(goes_on), 1)
    first = (ordinary & ~torch.cat([no, goes_on], 1)).nonzero().tolist()
    last = (ordinary & ~torch.cat([goes_on, no], 1)).nonzero().tolist()
    for (row, start), (_, end) in zip(first, last, strict=True):
        yield int(batch.documents[row, start]), batch.tokens[row, start : end + 1]


def _choose(
    lm: LanguageModel, passages: Mapping[int, list[Tensor]], n: int, length: int, draw: torch.Generator
) -> list[Prompt]:
    """Up to ``n`` prompts of ``length`` tokens: one from every document before a second from any."""
    names = list(passages)
    documents = [names[i] for i in torch.randperm(len(passages), generator=draw).tolist()]
    slots = {document: _slots(passages[document], length, draw) for document in documents}
    prompts: dict[tuple[int, ...], Prompt] = {}  # one for each text
    for turn in range(max(map(len, slots.values()), default=0)):
        for document in documents:
            if len(prompts) == n:
                return list(prompts.values())
            if turn < len(slots[document]):
                *ids, answer = slots[document][turn]
                prompts.setdefault(tuple(ids), _prompt(lm, ids, answer, document))
    return list(prompts.values())


def _slots(parts: list[Tensor], length: int, draw: torch.Generator) -> list[list[int]]:
    """Every stretch of ``length + 1`` tokens of a document; they do not overlap, and their order is random."""
    slots = []
    for part in parts:
        spare = len(part) % (length + 1)
        shift = int(torch.randint(spare + 1, (), generator=draw))
        slots += [part[shift + i : shift + i + length + 1] for i in range(0, len(part) - spare, length + 1)]
    return [slots[i].tolist() for i in torch.randperm(len(slots), generator=draw).tolist()]


def _prompt(lm: LanguageModel, ids: list[int], answer: int, document: int) -> Prompt:
    bos = [] if lm.bos_id is None else [lm.bos_id]
    return Prompt(_text(lm, ids), _after(lm, ids, [answer]), answer, document, torch.tensor(bos + ids))


def _without_bos(lm: LanguageModel, ids: list[int]) -> list[int]:
    return ids[1:] if ids and ids[0] == lm.bos_id else ids


def _text(lm: LanguageModel, ids: list[int]) -> str:
    text: str = lm.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    return text


def _after(lm: LanguageModel, before: list[int], ids: list[int]) -> str:
    """The text of ``ids`` where they follow ``before``: decoded alone, many tokenizers drop their first space."""
    head, both = _text(lm, before), _text(lm, before + ids)
    return both[len(head) :] if both.startswith(head) else _text(lm, ids)


def _equally_long(prompts: Sequence[Prompt], batch: int) -> Iterator[list[int]]:
    """Numbers of prompts that can be read together without padding, up to ``batch`` at a time."""
    by_length: dict[int, list[int]] = {}
    for i, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt.tokens), []).append(i)
    for numbers in by_length.values():
        yield from (numbers[a : a + batch] for a in range(0, len(numbers), batch))


class _Splice:
    """Puts a stand-in in the place of the activations of ordinary tokens."""

    def __init__(self, standin: "StandIn", special: Tensor) -> None:
        self.standin = standin
        self.special = (
            special  # [batch, position]: of the tokens that the next forward reads, not of those in the cache
        )

    def __call__(self, x: Tensor) -> Tensor:
        keep = ~self.special
        if not bool(keep.any()):
            return x
        new = x.clone()
        new[keep] = self.standin(x[keep])[0].to(x.dtype)
        return new


@torch.no_grad()
def _greedy(
    lm: LanguageModel, tokens: Tensor, standin: "StandIn | None", new_tokens: int
) -> tuple[Tensor, list[list[int]]]:
    """The logits ``[batch, vocab]`` after ``tokens [batch, length]``, and the greedy continuations up to EOS."""
    special_ids = torch.tensor(sorted(lm.special_ids), dtype=torch.long, device=lm.device)
    read = tokens.to(lm.device)
    splice = None if standin is None else _Splice(standin, torch.isin(read, special_ids))
    replace = {} if standin is None or splice is None else {standin.site: splice}
    options = {"logits_to_keep": 1} if "logits_to_keep" in signature(lm.model.forward).parameters else {}
    stops = _stops(lm)
    first, cache, written = None, None, read[:, :0]
    with lm.replacing(replace):
        for _ in range(max(1, min(new_tokens, lm.context - tokens.shape[1] + 1))):
            if splice is not None:
                splice.special = torch.isin(read, special_ids)
            out = lm.model(input_ids=read, past_key_values=cache, use_cache=True, **options)
            logits, cache = out.logits[:, -1], out.past_key_values
            first = logits if first is None else first
            read = logits.argmax(1, keepdim=True)
            written = torch.cat([written, read], 1)
            if bool(torch.isin(written, stops).any(1).all()):
                break
    assert first is not None
    return first, [_until(ids, stops.tolist()) for ids in written[:, :new_tokens].tolist()]


def _stops(lm: LanguageModel) -> Tensor:
    """The ids that end a text: the tokenizer's EOS, and those of the model's own that are special tokens."""
    listed = getattr(getattr(lm.model, "generation_config", None), "eos_token_id", None)
    ids = {lm.eos_id, *(listed if isinstance(listed, list) else [listed])}
    return torch.tensor(sorted(i for i in ids if i in lm.special_ids), dtype=torch.long, device=lm.device)


def _until(ids: list[int], stops: list[int]) -> list[int]:
    end = next((i for i, token in enumerate(ids) if token in stops), len(ids))
    return ids[:end]


def _wilson(successes: int, n: int) -> Metric:
    """A share with its 95 % interval (Wilson, JASA 1927)."""
    if n == 0:
        return Metric(float("nan"), float("nan"), float("nan"), 0)
    z, share = 1.959963984540054, successes / n
    centre, half = share + z * z / (2 * n), z * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = ((centre + sign * half) / (1 + z * z / n) for sign in (-1, 1))
    return Metric(share, max(0.0, low), min(1.0, high), n)
