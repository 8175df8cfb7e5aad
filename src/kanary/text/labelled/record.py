"""Records of the labelled corpus: an endless, seeded series of passages in which every concept's place is known."""

import functools
import itertools
import random
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from kanary.errors import KanaryError, nearest
from kanary.text.labelled.concepts import find_concept, import_families, known
from kanary.text.labelled.grammar import mark_grammar
from kanary.text.labelled.passage import WRITERS, Passage, Question, Span, Written, place

_LOOKED_AT = 32  # passages of a family in which its decisions are looked for
_LOOKED_AT_CLOSELY = 1000  # the same, for a concept that none of them decides
_TRIES = 2000  # passages in a row without a pair


class LabelledTokens(NamedTuple):
    """A record in the tokens of a tokenizer."""

    ids: list[int]
    concepts: list[frozenset[str]]
    """Of every token."""
    values: list[dict[str, float]]
    """Of every token: graded concepts and how much of them there is."""


class Tokenised(NamedTuple):
    """A text in the tokens of a tokenizer, without special tokens."""

    ids: list[int]
    places: list[tuple[int, int]]
    """Of every token: its first character that is no space, and one past its last. Of one that is all spaces: twice its end.
    Tokens that share a character, as the bytes of an Arabic letter do, have the same place."""


@dataclass(frozen=True)
class Record:
    """One passage, with the concepts that hold at each character."""

    id: int
    family: str
    text: str
    spans: tuple[Span, ...]
    questions: tuple[Question, ...]
    """Places where only one next word is right."""

    def tokens(self, tokenizer: Any) -> LabelledTokens:
        """The tokens of ``tokenizer`` (a fast Hugging Face one) and the concepts at each.

        A concept holds at a token if it holds at one of its characters, spaces in front left out; at a token of spaces
        alone, if it holds on both sides of the token's end. Where two spans give one concept a value, the one that starts
        last counts.

        Raises:
            KanaryError: a tokenizer that does not tell which characters a token stands for.
        """
        ids, places = tokenise([self.text], tokenizer)[0]
        cuts, between = self._pieces()
        nothing = _Holding(frozenset(), {})
        found = []
        for start, end in places:
            first, last = bisect_right(cuts, start) - 1, bisect_left(cuts, end) - 1
            if first != last:  # a span begins or ends inside the token
                found.append(_holding([span for span in self.spans if span.start < end and span.end > start]))
            else:
                found.append(between[first] if first >= 0 else nothing)
        return LabelledTokens(ids, [here.concepts for here in found], [dict(here.values) for here in found])

    def _pieces(self) -> tuple[list[int], list["_Holding"]]:
        """The characters at which some span begins or ends, and what holds from each of them to the next."""
        cuts = sorted({place for span in self.spans for place in (span.start, span.end)})
        number = {place: i for i, place in enumerate(cuts)}
        inside: list[list[Span]] = [[] for _ in cuts]
        for span in self.spans:
            for i in range(number[span.start], number[span.end]):
                inside[i].append(span)
        return cuts, [_holding(spans) for spans in inside]


class _Holding(NamedTuple):
    concepts: frozenset[str]
    values: dict[str, float]


def _holding(spans: Sequence[Span]) -> _Holding:
    values = {span.concept: span.value for span in spans if span.value is not None}
    return _Holding(frozenset(span.concept for span in spans), values)


def tokenise(texts: Sequence[str], tokenizer: Any) -> list[Tokenised]:
    """Each text in the tokens of ``tokenizer``, with their places.

    Raises:
        KanaryError: a tokenizer that does not tell which characters a token stands for.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise KanaryError(
            f"The tokenizer {getattr(tokenizer, 'name_or_path', '') or type(tokenizer).__name__!r} does not say which "
            "characters its tokens stand for, so labels cannot be aligned. Use its fast version (tokenizer.json)."
        )
    found = tokenizer(
        list(texts),
        add_special_tokens=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    return [
        Tokenised(ids, [(end - len(text[start:end].lstrip()), end) for start, end in offsets])
        for text, ids, offsets in zip(texts, found["input_ids"], found["offset_mapping"], strict=True)
    ]


def labelled(seed: int = 0, families: Sequence[str] = (), start: int = 0) -> Iterator[Record]:
    """Records without end, the same ones for the same ``seed`` and ``families``.

    Args:
        families: only these (default: all). Their records are others than those of the whole corpus.
        start: id of the first record.

    Raises:
        KanaryError: an unknown family.
    """
    chosen = chosen_families(families)
    for number in itertools.count(start):
        yield record(number, seed, chosen)


def record(number: int, seed: int = 0, families: Sequence[str] = ()) -> Record:
    """The record with the id ``number`` of the series that :func:`labelled` gives."""
    chosen = chosen_families(families)
    # With their names in the seed, no passage of a few families is met again in the whole corpus, so that what is
    # trained on one and judged on the other is judged on passages it has not seen.
    few = "" if len(chosen) == len(WRITERS) else f"/{','.join(chosen)}"
    draw = random.Random(f"{seed}{few}/{number}")
    name = chosen[int(draw.random() * len(chosen))]
    return _record(number, write(name, draw.getrandbits(48)))


def pairs(concept: str, seed: int = 0) -> Iterator[tuple[Record, Record]]:
    """Contrastive pairs without end: the same passage with ``concept`` and without; their ids count the pairs.

    Raises:
        KanaryError: an unknown concept, or one that cannot be switched by itself.
    """
    name = find_concept(concept).name
    if not known()[name].switch:
        able = [other.name for other in known().values() if other.switch]
        raise KanaryError(f"{name} cannot be switched by itself. {nearest(name, able)}")
    writers = _deciders(name)
    number, vain = 0, 0
    for turn in itertools.count():
        draw = random.Random(f"{seed}/pairs/{name}/{turn}")
        both = _pair(name, writers[int(draw.random() * len(writers))], draw.getrandbits(48))
        if both:
            yield _record(number, both[0]), _record(number, both[1])
            number, vain = number + 1, 0
        elif (vain := vain + 1) >= _TRIES:
            raise KanaryError(
                f"{name} cannot be switched by itself: {_TRIES:,} passages of {', '.join(writers)} have it either way, "
                "or neither way."
            )


def _pair(concept: str, family: str, seed: int) -> tuple[Written, Written] | None:
    """One passage with ``concept`` and without; None where deciding it makes no difference."""
    on = write(family, seed, {concept: True})
    if concept not in concepts_of(on):
        return None
    off = write(family, seed, {concept: False})
    return None if concept in concepts_of(off) else (on, off)


def concepts_of(passage: Written | Record) -> set[str]:
    return {span.concept for span in passage.spans}


def write(family: str, seed: int, forced: dict[str, bool] | None = None) -> Written:
    """One passage of ``family`` as its writer marks it; ``forced``: concepts that are decided beforehand."""
    passage = Passage(seed, forced)
    WRITERS[family](passage)
    return passage.written(family)


def chosen_families(names: Sequence[str] = ()) -> tuple[str, ...]:
    """``names`` in order, each once; all families if there are none.

    Raises:
        KanaryError: an unknown family, with one of nearly that name.
    """
    import_families()
    for name in names:
        if name not in WRITERS:
            raise KanaryError(f"Unknown family {name!r} of the labelled corpus. {nearest(name, WRITERS)}")
    return tuple(sorted(set(names or WRITERS)))


@functools.cache
def _deciders(concept: str) -> tuple[str, ...]:
    """Families whose writer decides ``concept``, found by trying.

    Raises:
        KanaryError: no writer does.
    """
    families = chosen_families()
    if often := tuple(name for name in families if concept in _decided(name, _LOOKED_AT)):
        return often
    # Decided in few passages: the family it is named after is the likeliest.
    for name in sorted(families, key=lambda name: name != concept.partition(".")[0]):
        if concept in _decided(name, _LOOKED_AT_CLOSELY):
            return (name,)
    raise KanaryError(
        f"{concept} cannot be switched: no family's writer decides it in {_LOOKED_AT_CLOSELY:,} passages. "
        "Its writer must call p.decide with it, or the concept be registered with switch=False."
    )


@functools.cache
def _decided(family: str, passages: int) -> frozenset[str]:
    """The concepts that are decided in the first ``passages`` passages of ``family``."""
    found: set[str] = set()
    for seed in range(passages):
        passage = Passage(seed)
        WRITERS[family](passage)
        found |= passage.decided
    return frozenset(found)


def _record(number: int, written: Written) -> Record:
    spans = written.spans
    if written.family != "code":  # it has no sentences
        spans = tuple(sorted((*spans, *mark_grammar(written.text)), key=place))
    return Record(number, written.family, written.text, spans, written.questions)
