"""What a language model is asked, in our words: one function for each kind of question.

The structure follows delphi (Paulo et al., arXiv 2410.13928) for detection, fuzzing and the intruder, Bills et al. (2023) for
the simulation, RouteSAE (arXiv 2503.08200) for the rubric. Several excerpts share a question; every answer is keyed by the
number of what it is about, so that none can slip.
"""

from collections.abc import Sequence

from kanary.explain.asking import Message, Request
from kanary.explain.schema import Schema, record, whole, words
from kanary.explain.scorers import marked
from kanary.explain.showing import marks_for, numbered, quoted, strengths, with_marks
from kanary.explain.types import Evidence, Excerpt, Explanation

FIELDS = ("dominant_tokens", "patterns", "summary", "context", "title")
CATEGORIES = ("low-level", "high-level", "undiscernible")
SURE = 9
"""A grade for how sure a judge is: one digit, so that its probabilities are those of one token."""
_ROOM = 1000  # tokens on top of the answer, for models that think first
_LOGITS = 10

_FEATURE = (
    "You study one feature of a language model: a number that the model computes at every token of a text, above zero where "
    "something certain is there and zero elsewhere. "
)
_JSON = "Answer with nothing but a JSON object"
_EXPLAIN = (
    _FEATURE
    + "You are shown stretches of text in which it is active, from strong to weak. The tokens at which it is active "
    "stand between {0} and {1}; under each text they are listed with their strength, from 1 to 10. Find out what the marked "
    "places share. It may be a word or a part of one, a subject, a style, a place in the structure of a text, or one of these "
    "only in certain surroundings. Prefer what holds for weak examples too. One or two examples may be accidents: leave them "
    "out rather than stretch the explanation. Use plain words, and be as narrow as the examples are.\n\n"
    + _JSON
    + ":\n"
    "latent: the number of the feature, as given\n"
    "dominant_tokens: the tokens marked most often and most strongly, separated by commas\n"
    "patterns: what comes before, after or around them, when that matters\n"
    "summary: one sentence by which somebody who has seen no example could tell where in a new text the feature is active\n"
    "context: what the texts are about, leaving the marked tokens aside\n"
    "title: three words at most, specific, as a pupil would put it"
)
_DETECT = (
    _FEATURE
    + "You are given an explanation of the feature, and numbered texts. Say of each text how sure you are that the "
    "feature is active somewhere in it, if the explanation is right: 9 surely, 5 or more rather yes, 4 or less rather no, 0 "
    "surely not.\n\n" + _JSON + " that has the number of every text as a key and your grade as its value: "
    '{{"1": 0, "2": 9}}'
)
_FUZZ = (
    _FEATURE
    + "You are given an explanation of the feature, and numbered texts in which some tokens stand between {0} and "
    "{1}. Say of each text how sure you are that the marked tokens are those at which the feature is active, if the "
    "explanation is right: 9 surely, 5 or more rather yes, 4 or less rather no, 0 surely not. The texts themselves may all "
    "fit; it is the marks that may be wrong.\n\n"
    + _JSON
    + " that has the number of every text as a key and your grade as "
    'its value: {{"1": 0, "2": 9}}'
)
_SIMULATE = (
    _FEATURE
    + "You are given an explanation of the feature, and texts, token by token, each token with its number. Foretell "
    "the feature's activation at every token, given it and those before it: 0 where it is silent, 9 where it is as strong as "
    "it gets. Most features are silent at most tokens.\n\n"
    + _JSON
    + " that has the number of every token as a key and the "
    'activation as its value: {{"1": 0, "2": 7}}'
)
_INTRUDE = (
    _FEATURE
    + "You are shown numbered texts with some tokens between {0} and {1}. In all texts but one the marked tokens make "
    "the same feature active; in one they are marked by chance. Find the text that does not belong.\n\n"
    + _JSON
    + ' with its number: {{"odd": 1}}'
)
_GRADE = (
    _FEATURE
    + "You are given an explanation of the feature, and texts in which it is active; the tokens at which it is stand "
    "between {0} and {1}, and are listed with their strength, from 1 to 10. Judge how well the feature can be understood.\n\n"
    + _JSON
    + ":\n"
    "reason: one sentence that weighs what the marked places share against what does not fit\n"
    "category: low-level (words, parts of words, punctuation, grammar), high-level (meaning, subject, purpose), or "
    "undiscernible (nothing is shared)\n"
    "grade: 5 one clear pattern in all texts; 4 clear, with small deviations; 3 a pattern in most; 2 a weak pattern in some; 1 "
    "none"
)


def explanation(evidence: Evidence, examples: Sequence[Excerpt]) -> Request:
    """For the five fields, and the latent's number back."""
    marks = marks_for(examples)
    lines = [f"Feature {evidence.latent}, active on {evidence.density:.2%} of tokens."]
    if evidence.positive_logits:
        lines.append(
            "It makes these likelier as the next token: " + ", ".join(map(quoted, evidence.positive_logits[:_LOGITS]))
        )
    lines += ["", _with_strengths(examples, evidence.maximum, marks)]
    schema = record({"latent": whole(evidence.latent, evidence.latent)} | {name: words() for name in FIELDS})
    return _request("explanation", _EXPLAIN.format(*marks), "\n".join(lines), schema, 300)


def detection(explanation: Explanation, excerpts: Sequence[Excerpt]) -> Request:
    """For a grade of every excerpt."""
    question = f"{_said(explanation)}\n\n{numbered([excerpt.text for excerpt in excerpts])}"
    return _request("detection", _DETECT.format(), question, grades(len(excerpts)), 8 * len(excerpts), chances=True)


def fuzzing(explanation: Explanation, excerpts: Sequence[Excerpt], places: Sequence[Sequence[int]]) -> Request:
    """For a grade of the marks in every excerpt."""
    marks = marks_for(excerpts)
    texts = [with_marks(excerpt, own, marks) for excerpt, own in zip(excerpts, places, strict=True)]
    question = f"{_said(explanation)}\n\n{numbered(texts)}"
    return _request("fuzzing", _FUZZ.format(*marks), question, grades(len(excerpts)), 8 * len(excerpts), chances=True)


def simulation(explanation: Explanation, excerpts: Sequence[Excerpt]) -> Request:
    """For a digit at every token of all excerpts, numbered through from 1."""
    lines, number = [_said(explanation)], 0
    for excerpt in excerpts:
        lines += ["", "A text:"]
        for token in excerpt.tokens:
            number += 1
            lines.append(f"{number}: {quoted(token)}")
    return _request("simulation", _SIMULATE.format(), "\n".join(lines), grades(number), 8 * number, chances=True)


def intruder(excerpts: Sequence[Excerpt], places: Sequence[Sequence[int]]) -> Request:
    """For the number of the excerpt that does not belong, from 1."""
    marks = marks_for(excerpts)
    texts = [with_marks(excerpt, own, marks) for excerpt, own in zip(excerpts, places, strict=True)]
    schema = record({"odd": whole(1, len(excerpts))})
    return _request("intruder", _INTRUDE.format(*marks), numbered(texts), schema, 10)


def rubric(explanation: Explanation, excerpts: Sequence[Excerpt]) -> Request:
    """For a category, a grade and the reason, which is given first so that the grade follows from it."""
    marks = marks_for(excerpts)
    maximum = max((excerpt.maximum for excerpt in excerpts), default=0.0)
    question = f"{_said(explanation)}\n\n{_with_strengths(excerpts, maximum, marks)}"
    schema = record({"reason": words(), "category": words(CATEGORIES), "grade": whole(1, 5)})
    return _request("rubric", _GRADE.format(*marks), question, schema, 150)


def grades(n: int) -> Schema:
    """A digit for each of ``n`` things, numbered from 1."""
    return record({str(number): whole(0, SURE) for number in range(1, n + 1)})


def _request(name: str, task: str, question: str, schema: Schema, room: int, chances: bool = False) -> Request:
    return Request(name, (Message("system", task), Message("user", question)), schema, _ROOM + room, chances)


def _said(explanation: Explanation) -> str:
    return f"Explanation: {quoted(explanation.text)}"


def _with_strengths(excerpts: Sequence[Excerpt], maximum: float, marks: tuple[str, str]) -> str:
    lines = []
    for number, excerpt in enumerate(excerpts, 1):
        lines.append(f"{number}: {quoted(with_marks(excerpt, marked(excerpt), marks))}")
        lines.append(f"   strength: {strengths(excerpt, maximum)}")
    return "\n".join(lines)
