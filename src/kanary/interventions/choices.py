"""Questions with two answers, asked of a model as it is or while it is steered."""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kanary.errors import KanaryError
from kanary.evaluation.losses import CHUNK
from kanary.interventions.edits import Edit
from kanary.interventions.steer import Steering
from kanary.interventions.steerable import Steerable
from kanary.lm import LanguageModel
from kanary.text.labelled.record import tokenise

BATCH = 16
TAIL = 16
"""Tokens at the end of a prompt, at most, at which it is steered unless more are asked for."""


class Item(NamedTuple):
    """A text, and two ways in which it may go on."""

    prompt: str
    yes: str
    """With its leading space."""
    no: str


class Asked(NamedTuple):
    """An item in a model's tokens, BOS included."""

    yes: list[int]
    no: list[int]
    start: int
    """From here the ids are those of the answers; before it they are the same."""

    @property
    def prompt(self) -> list[int]:
        return self.yes[: self.start]


def in_tokens(lm: LanguageModel, items: Sequence[Item]) -> list[Asked | None]:
    """Prompt and answer are tokenised together, as in running text; None where they are longer than the model reads.

    None, too, where not even BOS stands before the last token of the prompt: at the first one no SAE is steered.

    Raises:
        KanaryError: a tokenizer that does not say which characters its tokens stand for.
    """
    bos = [] if lm.bos_id is None else [lm.bos_id]
    texts = [item.prompt + answer for item in items for answer in (item.yes, item.no)]
    written = tokenise(texts, lm.tokenizer) if texts else []
    found: list[Asked | None] = []
    for item, yes, no in zip(items, written[::2], written[1::2], strict=True):
        alike = 0
        for a, b, (_, end) in zip(yes.ids, no.ids, yes.places, strict=False):
            if a != b or end > len(item.prompt):
                break
            alike += 1
        fits = alike and len(bos) + alike > 1 and max(len(yes.ids), len(no.ids)) + len(bos) <= lm.context
        found.append(Asked(bos + yes.ids, bos + no.ids, len(bos) + alike) if fits else None)
    return found


Steered = Callable[[int], Sequence[Edit]]
"""The number of an item -> how it is steered, at the last tokens of its prompt and in the answer only."""


@torch.no_grad()
def margins(
    panel: Steerable,
    asked: Sequence[Asked],
    ways: Sequence[Steered | None] = (None,),
    tail: int = TAIL,
    show: Callable[[int], None] | None = None,
) -> Tensor:
    """``[ways, items]`` float64: by how many nats the answer yes is likelier than no, each by the sum over its tokens.

    What stands before the last tokens of a prompt is read once for all ways.

    Args:
        ways: of steering; None leaves the model alone.
        tail: last tokens of a prompt at which it may be steered, at most.
        show: called with the number of items answered since the last call, those of all ways together.
    """
    found = torch.zeros(len(ways), len(asked), dtype=torch.float64)
    reads = [(i, read) for i, each in enumerate(asked) for read in _reads(each)]
    for some in _batches(reads, panel.lm.vocab_size):
        prefixed = _Prefixed(panel.lm, [(read, _split(asked[i], tail)) for i, read in some])
        for way, steered in enumerate(ways):
            if steered is None:
                logits = prefixed.logits()
            else:
                with Steering(panel, rows=[steered(i) for i, _ in some]):
                    logits = prefixed.logits()
            for row, (i, read) in zip(logits, some, strict=True):
                for sign, ids in ((1, asked[i].yes), (-1, asked[i].no)):
                    if read == ids[:-1]:
                        found[way, i] += sign * _log_p(row, asked[i], ids, tail)
            if show:
                show(sum(read == asked[i].yes[:-1] for i, read in some))
    if not bool(found.isfinite().all()):
        raise KanaryError("The model's answers are NaN or infinite while it is steered: use a smaller strength.")
    return found


class _Prefixed:
    """Sequences whose beginnings are read once; their ends are read as often as one likes."""

    def __init__(self, lm: LanguageModel, rows: Sequence[tuple[list[int], int]]) -> None:
        """``rows``: ids, and how many of them are the beginning (at least 1)."""
        self.lm = lm
        first = max(split for _, split in rows)
        last = max(len(ids) - split for ids, split in rows)
        tokens = torch.zeros(len(rows), first + last, dtype=torch.long)
        mask = torch.zeros_like(tokens)
        for row, (ids, split) in enumerate(rows):  # padded on both sides
            here = slice(first - split, first - split + len(ids))
            tokens[row, here], mask[row, here] = torch.tensor(ids), 1
        self._ends, self._mask = tokens[:, first:].to(lm.device), mask.to(lm.device)
        self._positions = (self._mask.cumsum(1) - 1).clamp_min(0)
        with lm.alone():
            self._past = lm.model(
                input_ids=tokens[:, :first].to(lm.device),
                attention_mask=self._mask[:, :first],
                position_ids=self._positions[:, :first],
                use_cache=True,
            ).past_key_values

    def logits(self) -> Tensor:
        """``[rows, positions, vocab]`` of the ends."""
        with self.lm.alone():
            found: Tensor = self.lm.model(
                input_ids=self._ends,
                attention_mask=self._mask,
                position_ids=self._positions[:, -self._ends.shape[1] :],
                past_key_values=copy.deepcopy(self._past),
                use_cache=True,
            ).logits
        return found


def _split(asked: Asked, tail: int) -> int:
    """How many tokens stand before those at which the model is steered: BOS at least."""
    return max(1, min(asked.start - 1, asked.start - tail))


def _reads(asked: Asked) -> list[list[int]]:
    """What the model must read: answers of one token share their prompt."""
    yes, no = asked.yes[:-1], asked.no[:-1]
    return [yes] if yes == no else [yes, no]


def _log_p(logits: Tensor, asked: Asked, ids: list[int], tail: int) -> float:
    """Of the answer in ``ids``; ``logits [positions, vocab]`` are those of the tokens from the split on."""
    answer = torch.tensor(ids[asked.start :], device=logits.device)
    first = asked.start - 1 - _split(asked, tail)
    places = logits[first : first + len(answer)].double().log_softmax(1)
    return float(places.gather(1, answer[:, None]).sum())


def _batches(reads: Sequence[tuple[int, list[int]]], vocab: int) -> Iterator[list[tuple[int, list[int]]]]:
    """Sequences of similar length, as many at a time as there is room for their logits."""
    batch: list[tuple[int, list[int]]] = []
    for each in sorted(reads, key=lambda each: len(each[1])):
        if batch and (len(batch) == BATCH or (len(batch) + 1) * len(each[1]) * vocab > CHUNK):
            yield batch
            batch = []
        batch.append(each)
    if batch:
        yield batch
