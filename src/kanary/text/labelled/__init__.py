"""The labelled corpus: English passages, and some in other languages, in which the concepts of every token are known."""

from kanary.text.labelled.concepts import Concept, find_concept, known
from kanary.text.labelled.passage import Question, Span
from kanary.text.labelled.record import LabelledTokens, Record, labelled, pairs, record

__all__ = [
    "Concept",
    "LabelledTokens",
    "Question",
    "Record",
    "Span",
    "find_concept",
    "known",
    "labelled",
    "pairs",
    "record",
]
