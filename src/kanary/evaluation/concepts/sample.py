"""Tokens of the labelled corpus: their activations, what holds at each, and for which concepts each counts."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kanary.activations.pool import generator
from kanary.activations.source import resolve_lm_batch
from kanary.errors import KanaryError
from kanary.evaluation.concepts.memory import free_memory, gigabytes, round_down
from kanary.lm import LanguageModel
from kanary.text import TextSource, TokenBatch, Windows
from kanary.text.labelled.concepts import find_concept
from kanary.text.labelled.labels import Labels
from kanary.text.labelled.reader import LabelledText
from kanary.text.labelled.record import chosen_families
from kanary.text.windows import Part

EVERYWHERE = ("domain", "language", "script")
"""Concepts with one of these prefixes, or with a family's name, are judged at every token, unless they are common ones."""
_PER_LABEL = 24
"""Bytes per token and concept: labels and what is judged, as such, by halves, as numbers to be counted, and shuffled."""


@dataclass(frozen=True)
class Sample:
    """Tokens of the labelled corpus with what holds at each; special tokens are left out. Everything is on the CPU.

    The two halves share no document: units are chosen on the selection half and judged on the test half.
    """

    x: Mapping[str, Tensor]
    """Site -> ``[tokens, width]`` raw activations, float32."""
    labels: Tensor
    """``[tokens, concepts]`` bool."""
    judged: Tensor
    """``[tokens, concepts]`` bool: the token counts for the concept, as a positive or a negative."""
    values: Tensor
    """``[tokens, graded]`` float32, NaN where none is given."""
    documents: Tensor
    """``[tokens]`` int64."""
    test: Tensor
    """``[tokens]`` bool: False in the selection half, True in the test half."""
    concepts: tuple[str, ...]
    graded: tuple[str, ...]
    """Those of the concepts that have a unit, in the order of ``values``."""

    def half(self, test: bool) -> "Sample":
        """The tokens of one half: views where they lie together, as :func:`sample` lays them, copies otherwise."""
        rows = (self.test == test).nonzero().squeeze(1)
        together = len(rows) == 0 or int(rows[-1] - rows[0]) == len(rows) - 1
        kept = slice(int(rows[0]), int(rows[-1]) + 1) if len(rows) and together else rows
        return Sample(
            {site: values[kept] for site, values in self.x.items()},
            self.labels[kept],
            self.judged[kept],
            self.values[kept],
            self.documents[kept],
            self.test[kept],
            self.concepts,
            self.graded,
        )


def sample(
    lm: LanguageModel,
    text: TextSource,
    sites: Sequence[str],
    *,
    tokens: int = 100_000,
    window: int = 256,
    lm_batch: int = 0,
    part: Part = "heldout",
    seed: int = 0,
    concepts: Sequence[str] = (),
    show: Callable[[int], None] | None = None,
) -> Sample:
    """Reads the labelled corpus and runs the model on it; the tokens of the selection half come first.

    Where concepts are shared by several families (tense, sentiment, occupation …), a family that does not mark them
    says nothing by a missing label: they are judged only in documents of families that mark some concept of that
    prefix in the sample. Every other concept is judged everywhere.

    Args:
        text: the labelled corpus, ``open_text("labelled")`` or another of its names.
        tokens: how many that are not special, rounded up to whole batches.
        window: tokens per window, BOS included.
        lm_batch: windows per forward; 0 = chosen for the device.
        seed: of the division into halves.
        concepts: names (default: all that the corpus knows).
        show: called with the number of new tokens after every batch.

    Raises:
        KanaryError: another text than the labelled corpus, an unknown concept or site (with the nearest), a window that
            the model cannot read, fewer than 1 token asked for, or more than fit into the memory that is free.
    """
    _refuse_nothing(sites, tokens)
    names = tuple(dict.fromkeys(find_concept(name).name for name in concepts))
    labels = Labels(text, lm)  # of every concept: which families mark a prefix is told by all that have it
    _refuse_large(lm, sites, tokens, len(labels.concepts))
    windows = Windows(text, lm, window=window, batch=resolve_lm_batch(lm_batch, window, lm.device.type), part=part)
    parts: list[_Read] = []
    for read in _parts(lm, labels, windows, sites, tokens):
        parts.append(read)
        if show:
            show(len(read.documents))
    documents = torch.cat([part.documents for part in parts])
    families = _families(text, documents)
    test = _halves(documents, families, seed)
    order = test.long().argsort(stable=True)
    held, values = (torch.cat(each)[order] for each in zip(*((p.labels, p.values) for p in parts), strict=True))
    judged = _judged(held, [families[i] for i in order.tolist()], labels.concepts)
    columns = [labels.concepts.index(name) for name in names or labels.concepts]
    graded = [name for name in labels.graded if not names or name in names]
    return Sample(
        {site: _laid([part.x.pop(site) for part in parts], order.argsort()) for site in dict.fromkeys(sites)},
        held[:, columns] if names else held,
        judged[:, columns] if names else judged,
        values[:, [labels.graded.index(name) for name in graded]],
        documents[order],
        test[order],
        names or labels.concepts,
        tuple(graded),
    )


def check_sample(lm: LanguageModel, text: TextSource, sites: Sequence[str], tokens: int, part: Part) -> None:
    """The first steps of :func:`sample`, in a moment: finds room for so many tokens, and aligns one window with its labels.

    Raises:
        KanaryError: what :func:`sample` would raise: above all, a tokenizer that cannot be aligned, or too little memory.
    """
    labels = Labels(text, lm)
    _refuse_large(lm, sites, tokens, len(labels.concepts))
    labels.of(next(Windows(text, lm, window=min(64, lm.context), part=part)))


def _refuse_nothing(sites: Sequence[str], tokens: int) -> None:
    if tokens < 1:
        raise KanaryError(f"tokens={tokens} must be at least 1.")
    if not sites:
        raise KanaryError("No site was given to read the concepts at; for example resid_post.2.")


def _refuse_large(lm: LanguageModel, sites: Sequence[str], tokens: int, concepts: int) -> None:
    """The activations of all sites, once more as many for random directions, and the labels."""
    widths = [lm.width(site) for site in dict.fromkeys(sites)]
    each = 4 * (sum(widths) + max(widths)) + _PER_LABEL * concepts
    free = free_memory()
    if free is not None and tokens * each > free:
        raise KanaryError(
            f"{tokens:,} tokens of the labelled corpus at {', '.join(dict.fromkeys(sites))} take "
            f"{gigabytes(tokens * each)} of memory, but {gigabytes(free)} are free. "
            f"Read fewer: --concept-tokens {round_down(free / each)}."
        )


@dataclass(frozen=True)
class _Read:
    """One batch without its special tokens; fields as those of a :class:`Sample`."""

    x: dict[str, Tensor]
    labels: Tensor
    values: Tensor
    documents: Tensor


def _parts(
    lm: LanguageModel, labels: Labels, windows: Iterable[TokenBatch], sites: Sequence[str], tokens: int
) -> Iterator[_Read]:
    """Batches, until they have so many tokens."""
    for batch in windows:
        read = _read(lm, labels, batch, sites)
        yield read
        tokens -= len(read.documents)
        if tokens <= 0:
            return


def _read(lm: LanguageModel, labels: Labels, batch: TokenBatch, sites: Sequence[str]) -> _Read:
    kept = ~batch.special
    x = {site: found[kept.to(found.device)].cpu().float() for site, found in lm.capture(batch.tokens, sites).items()}
    return _Read(x, labels.of(batch)[kept], labels.values(batch)[kept], batch.documents[kept])


def _laid(parts: list[Tensor], places: Tensor) -> Tensor:
    """The rows of ``parts`` at their ``places [rows]``; each part is given up as soon as it is copied."""
    whole = torch.empty(len(places), parts[0].shape[1])
    for some in places.split([len(part) for part in parts]):
        whole[some] = parts.pop(0)
    return whole


def _families(text: TextSource, documents: Tensor) -> list[str]:
    """Of every token, the family of its document."""
    reader = text.readers[0]
    assert isinstance(reader, LabelledText)  # Labels has refused any other
    numbers, which = documents.unique(return_inverse=True)
    known = [reader.record(number).family for number in numbers.tolist()]
    return [known[i] for i in which.tolist()]


def _judged(labels: Tensor, families: Sequence[str], concepts: Sequence[str]) -> Tensor:
    """``[tokens, concepts]`` bool from the labels of all ``concepts``; see :func:`sample`."""
    judged = torch.ones_like(labels)
    everywhere = {*EVERYWHERE, *chosen_families()}
    prefixes = [name.partition(".")[0] for name in concepts]
    names = sorted(set(families))
    family = torch.tensor([names.index(each) for each in families])
    partly = [p not in everywhere or find_concept(name).common for p, name in zip(prefixes, concepts, strict=True)]
    for prefix in sorted({prefix for prefix, part in zip(prefixes, partly, strict=True) if part}):
        columns = torch.tensor([part and each == prefix for each, part in zip(prefixes, partly, strict=True)])
        marks = torch.zeros(len(names), dtype=torch.bool)
        marks[family[labels[:, columns].any(1)]] = True
        judged[:, columns] = marks[family][:, None]
    return judged


def _halves(documents: Tensor, families: Sequence[str], seed: int) -> Tensor:
    """``[tokens]`` bool: every second document of each family, in the order of a hash, is in the test half."""
    family = dict(zip(documents.tolist(), families, strict=True))
    order = sorted(family, key=lambda n: (family[n], generator("halves", seed, n).initial_seed()))
    test = set(order[1::2])
    return torch.tensor([number in test for number in documents.tolist()], dtype=torch.bool)
