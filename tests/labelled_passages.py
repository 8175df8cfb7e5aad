"""Passages of the labelled corpus, for tests of single families, and where a concept holds in them."""

from __future__ import annotations

import functools

from kanary.text.labelled.passage import Span, Written
from kanary.text.labelled.record import Record, write


@functools.cache
def passages(family: str, n: int = 600) -> list[Written]:
    return [write(family, seed) for seed in range(n)]


def spans(passage: Written | Record, concept: str) -> list[Span]:
    return [span for span in passage.spans if span.concept == concept]


def said(passage: Written | Record, concept: str) -> list[str]:
    return [passage.text[span.start : span.end] for span in spans(passage, concept)]


def held(passage: Written | Record, concept: str) -> set[int]:
    """Characters at which the concept holds."""
    return {at for span in spans(passage, concept) for at in range(span.start, span.end)}
