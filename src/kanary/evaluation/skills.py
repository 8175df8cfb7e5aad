"""What a model can do on the labelled corpus, alone or with an SAE in place: questions that have one right next word.

The prompt is BOS (if the tokenizer has one) and the passage up to the question. Prompt and answer are tokenised together, so
that tokens are those of running text; what is asked for are the tokens that end behind the prompt. Where a token lies on both
sides of that point, it is asked for whole, and the prompt that the model reads ends before it.
"""

import itertools
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from kanary.errors import KanaryError
from kanary.evaluation.losses import CHUNK
from kanary.evaluation.result import Metric
from kanary.evaluation.sums import Sums, bootstrap, groups_of
from kanary.lm import LanguageModel
from kanary.text import TokenBatch
from kanary.text.labelled import Question, Record, record
from kanary.text.labelled.record import Tokenised, chosen_families, tokenise
from kanary.text.windows import HELD_OUT_EVERY, Part

if TYPE_CHECKING:
    from kanary.evaluation.standin import StandIn

SKILLS = (
    "lie",
    "true_claim",
    "recall",
    "turn",
    "brackets",
    "gender",
    "repeated_name",
    "arithmetic",
    "translation",
    "outcome",
)
FAR = 30
"""Tokens between the fact and the question from which a question also counts in a row of its own."""
_FACT = {"lie": 2, "true_claim": 1, "recall": 1}
"""How many of (answer, wrong answer) name what must be remembered: both for a lie, where the wrong answer is the truth."""
_PATIENCE = 1000
"""Documents in a row without a question that is still wanted, after which there are taken to be no more."""
_BATCH = 32
_Z2 = 1.959963984540054**2

Show = Callable[[int], None]
Key = tuple[int, ...]
"""Of a sequence: a document, or a question and one of its options."""


@dataclass(frozen=True)
class Skill:
    """How well the questions of one skill are answered. Intervals are 95 % ones over documents."""

    name: str
    """As in the corpus; ``lie, fact ≥ 30 tokens back`` for those of a skill whose fact is far away."""
    n: int
    """Questions."""
    documents: int
    """That they come from."""
    greedy: Metric
    """Share of the questions at which the model's own greedy continuation spells the answer. It may be spelled in the
    answer's tokens only, but the last token may say more, as ``),`` does where ``)`` is right, if the word does not go on."""
    choice: Metric
    """Share at which the answer is likelier than every wrong one, by the sum of the log-probabilities of its tokens; over the
    questions that have wrong answers (NaN where none has)."""
    chance: float
    """What ``choice`` is for a model that draws one of the answers blindly."""
    distance: float
    """Median number of tokens that lie between what must be remembered and the question; NaN for skills where the corpus does
    not say what that is. For ``true_claim`` and ``recall`` it is the last mention of the answer before the question,
    for ``lie`` the last mention of the answer or of the truth, as a whole word, large or small letters alike. Counted are
    the tokens after that of the word's last character, and before the first that is asked for."""
    skipped: int
    """Questions that were met but not asked: longer than the model's context, or with nothing before them."""


@dataclass(frozen=True)
class _Asked:
    """A question in the model's tokens."""

    skill: str
    document: int
    passage: list[int]
    """Ids of the whole passage, BOS included."""
    options: list[list[int]]
    """Ids of the prompt with the answer, then with each wrong answer; BOS included."""
    start: int
    """From here the ids are those of the option; the same for all of them, so that their probabilities can be compared."""
    distance: int | None


@dataclass
class _Collected:
    asked: list[_Asked] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


class _Wanted(NamedTuple):
    """What is to be read off a sequence's predictions."""

    question: int
    option: int
    start: int
    ids: list[int]


class _Read(NamedTuple):
    """What the model makes of an option."""

    log_p: float
    """Of its tokens, in nats."""
    predicted: list[int]
    """The likeliest token at each of its places, after what stands before."""


def skills(
    lm: LanguageModel,
    *,
    seed: int = 0,
    part: Part = "heldout",
    per_skill: int = 500,
    families: Sequence[str] = (),
    standin: "StandIn | None" = None,
    show: Show | None = None,
) -> list[Skill]:
    """How well ``lm`` answers the questions of the labelled corpus, by skill, in the order of :data:`SKILLS`.

    Args:
        seed: of the corpus, and of the intervals.
        part: of the corpus; ``heldout`` are the documents with ``id % 20 == 19``.
        per_skill: questions at most, from the first documents on; fewer where 1,000 documents in a row have no more.
        families: only these (default: all).
        standin: takes the place of the activations of its site at every token of the text, as in the other evaluations.
        show: called with the number of questions answered since the last call, of at most ``len(SKILLS) * per_skill``.

    Raises:
        KanaryError: an unknown family or part, no question that fits the model, or a tokenizer that does not say which
            characters its tokens stand for.
    """
    found = _collect(lm, _records(seed, part, families), per_skill)
    if not found.asked:
        raise KanaryError(
            f"Not one question of the labelled corpus (families: {', '.join(families) or 'all'}) can be asked: "
            f"{found.skipped.total():,} are longer than the {lm.context:,} tokens that {lm.name!r} reads, and per_skill is "
            f"{per_skill:,}. Choose other families or more questions."
        )
    read = _answer(lm, found.asked, standin, show)
    greedy = [_spells(lm, q, read[i, 0].predicted) for i, q in enumerate(found.asked)]
    choice = [all(read[i, 0].log_p > read[i, o].log_p for o in _wrong(q)) for i, q in enumerate(found.asked)]
    rows = []
    for name in SKILLS:
        mine = [i for i, q in enumerate(found.asked) if q.skill == name]
        far = [i for i in mine if (distance := found.asked[i].distance) is not None and distance >= FAR]
        for label, numbers in ((name, mine), (f"{name}, fact ≥ {FAR} tokens back", far)):
            if numbers:
                row = [(found.asked[i], greedy[i], choice[i]) for i in numbers]
                rows.append(_skill(label, row, found.skipped[name] if numbers is mine else 0, seed))
    return rows


def skills_table(rows: Sequence[Skill]) -> str:
    """``rows`` as a markdown table, shares in percent with their intervals."""
    lines = [
        "| skill | questions | documents | greedy | choice | chance | distance | skipped |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        chance = "–" if row.chance != row.chance else f"{100 * row.chance:.1f} %"
        distance = "–" if row.distance != row.distance else f"{row.distance:g}"
        cells = [row.name, f"{row.n:,}", f"{row.documents:,}", _percent(row.greedy), _percent(row.choice)]
        lines.append(f"| {' | '.join([*cells, chance, distance, f'{row.skipped:,}'])} |")
    return "\n".join(lines) + "\n"


def _percent(metric: Metric) -> str:
    if metric.n == 0:
        return "–"
    interval = f" ({100 * metric.low:.1f}–{100 * metric.high:.1f})" if metric.low == metric.low else ""
    return f"{100 * metric.value:.1f} %{interval}"


def _records(seed: int, part: Part, families: Sequence[str]) -> Iterator[Record]:
    if part not in ("train", "heldout", "all"):
        raise KanaryError(f"Unknown part {part!r} of the labelled corpus: write heldout, train or all.")
    chosen = chosen_families(families)
    for number in itertools.count():
        if part == "all" or (part == "heldout") == (number % HELD_OUT_EVERY == HELD_OUT_EVERY - 1):
            yield record(number, seed, chosen)


def _collect(lm: LanguageModel, records: Iterator[Record], per_skill: int) -> _Collected:
    """The first ``per_skill`` questions of every skill that fit the model."""
    found = _Collected()
    full = dict.fromkeys(SKILLS, 0)
    vain = 0
    for each in records:
        if vain >= _PATIENCE or min(full.values()) >= per_skill:
            break
        vain += 1
        open_ones = [question for question in each.questions if full.get(question.skill, per_skill) < per_skill]
        for asked, question in zip(_in_tokens(lm, each, open_ones), open_ones, strict=True):
            longest = max(map(len, asked.options)) - 1  # the last token is predicted, not read
            if not 0 < longest <= lm.context or asked.start == 0:
                found.skipped[question.skill] += 1
            elif full[question.skill] < per_skill:
                found.asked.append(asked)
                full[question.skill] += 1
                vain = 0
    return found


def _in_tokens(lm: LanguageModel, each: Record, questions: Sequence[Question]) -> list[_Asked]:
    if not questions:
        return []
    texts = [each.text[: q.end] + option for q in questions for option in (q.answer, *q.wrong)]
    passage, *options = tokenise([each.text, *texts], lm.tokenizer)
    bos = [] if lm.bos_id is None else [lm.bos_id]
    left = iter(options)
    found = []
    for q in questions:
        mine = list(itertools.islice(left, 1 + len(q.wrong)))
        start = _start(mine, q.end)
        distance = _distance(each.text, q, mine[0], start)
        ids = [bos + option.ids for option in mine]
        found.append(_Asked(q.skill, each.id, bos + passage.ids, ids, len(bos) + start, distance))
    return found


def _start(options: Sequence[Tokenised], end: int) -> int:
    """How many tokens, the same ones in all ``options``, end at character ``end`` or before."""
    alike = 0
    for column in zip(*(zip(option.ids, option.places, strict=True) for option in options), strict=False):
        if len(set(column)) > 1 or column[0][1][1] > end:
            break
        alike += 1
    return alike


def _distance(text: str, q: Question, answer: Tokenised, start: int) -> int | None:
    """Tokens between the last mention of the fact and the question, see :attr:`Skill.distance`."""
    named = [re.escape(word.strip()) for word in (q.answer, *q.wrong)[: _FACT.get(q.skill, 0)]]
    mentions = list(re.finditer(rf"(?<!\w)(?:{'|'.join(named)})(?!\w)", text[: q.end], re.IGNORECASE)) if named else []
    if not mentions:
        return None
    last = bisect_left([end for _, end in answer.places], mentions[-1].end())
    return max(0, start - last - 1)


def _answer(
    lm: LanguageModel, asked: Sequence[_Asked], standin: "StandIn | None", show: Show | None
) -> dict[tuple[int, int], _Read]:
    """What the model makes of every option of every question, by their numbers."""
    sequences, wanted = _plan(asked)
    found: dict[tuple[int, int], _Read] = {}
    for keys in _batches(sequences, lm.vocab_size):
        logits = _logits(lm, [sequences[key] for key in keys], standin)
        some = [(row, each) for row, key in enumerate(keys) for each in wanted[key]]
        places = [(row, at - 1, each.ids[at]) for row, each in some for at in range(each.start, len(each.ids))]
        rows, columns, targets = torch.tensor(places, device=logits.device).T
        at_places = logits[rows, columns]
        log_p = at_places.double().log_softmax(1).gather(1, targets[:, None])[:, 0]
        sizes = [len(each.ids) - each.start for _, each in some]
        best = at_places.argmax(1).split(sizes)
        for (_, each), mine, predicted in zip(some, log_p.split(sizes), best, strict=True):
            found[each.question, each.option] = _Read(float(mine.sum()), predicted.tolist())
        if show:
            show(sum(each.option == 0 for _, each in some))
    return found


def _plan(asked: Sequence[_Asked]) -> tuple[dict[Key, list[int]], dict[Key, list[_Wanted]]]:
    """The sequences that must be read, and what is wanted of each.

    The last token of an option is predicted, not read. So the passage itself answers for every option that differs from it
    in the last token at most; only other wrong answers need sequences of their own.
    """
    sequences: dict[Key, list[int]] = {}
    wanted: dict[Key, list[_Wanted]] = {}
    for number, q in enumerate(asked):
        for option, ids in enumerate(q.options):
            read = ids[:-1]
            key: Key = (q.document,) if q.passage[: len(read)] == read else (number, option)
            sequences[key] = max(sequences.get(key, []), read, key=len)
            wanted.setdefault(key, []).append(_Wanted(number, option, q.start, ids))
    return sequences, wanted


def _batches(sequences: Mapping[Key, list[int]], vocab: int) -> Iterator[list[Key]]:
    """Sequences of similar length, as many at a time as there is room for their logits."""
    batch: list[Key] = []
    for key in sorted(sequences, key=lambda key: len(sequences[key])):
        if batch and (len(batch) == _BATCH or (len(batch) + 1) * len(sequences[key]) * vocab > CHUNK):
            yield batch
            batch = []
        batch.append(key)
    if batch:
        yield batch


def _logits(lm: LanguageModel, sequences: Sequence[list[int]], standin: "StandIn | None") -> Tensor:
    """``[sequence, position, vocab]``. Padding stands on the right, where a causal model never looks."""
    lengths = torch.tensor([len(ids) for ids in sequences])
    tokens = torch.zeros(len(sequences), int(lengths.max()), dtype=torch.long)
    for row, ids in zip(tokens, sequences, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    if standin is None:
        return lm.logits(tokens)
    put, special = standin, torch.tensor(sorted(lm.special_ids), dtype=torch.long)
    padded = torch.arange(tokens.shape[1]) >= lengths[:, None]
    keep = ~(torch.isin(tokens, special) | padded).to(lm.device)

    def spliced(x: Tensor) -> Tensor:
        new = x.clone()
        new[keep] = put(x[keep])[0].to(x.dtype)
        return new

    return lm.logits(tokens, replace={standin.site: spliced})


def _wrong(q: _Asked) -> range:
    """Numbers of the wrong options."""
    return range(1, len(q.options))


def _spells(lm: LanguageModel, q: _Asked, predicted: list[int]) -> bool:
    """Whether the greedy continuation spells the answer; ``predicted`` follow the answer's own tokens."""
    *first, last = q.options[0][q.start :]
    if predicted[:-1] != first:
        return False
    return predicted[-1] == last or _says_more(
        lm, q.options[0][1 if lm.bos_id is not None else 0 : -1], last, predicted[-1]
    )


def _says_more(lm: LanguageModel, before: list[int], right: int, predicted: int) -> bool:
    """Whether the token ``predicted`` begins with the text of ``right``, and does not make a longer word of it."""

    def text(ids: list[int]) -> str:
        decoded: str = lm.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        return decoded

    short, long = text([*before, right]), text([*before, predicted])
    if "\ufffd" in short[-1:] or len(long) <= len(short) or not long.startswith(short):
        return False
    return not (short[-1].isalnum() and long[len(short)].isalnum())


def _skill(name: str, row: Sequence[tuple[_Asked, bool, bool]], skipped: int, seed: int) -> Skill:
    asked = [q for q, _, _ in row]
    distances = [q.distance for q in asked if q.distance is not None]
    choices = [(q, right) for q, _, right in row if _wrong(q)]
    return Skill(
        name=name,
        n=len(row),
        documents=len({q.document for q in asked}),
        greedy=_share([(q.document, right) for q, right, _ in row], seed),
        choice=_share([(q.document, right) for q, right in choices], seed),
        chance=fmean(1 / len(q.options) for q, _ in choices) if choices else float("nan"),
        distance=median(distances) if distances else float("nan"),
        skipped=skipped,
    )


def _share(answers: Sequence[tuple[int, bool]], seed: int) -> Metric:
    """The share of (document, right) that are right, with its bootstrap interval over documents.

    Where all are right, or none, resamples do not differ, and the interval is Wilson's for so many trials as documents.
    """
    if not answers:
        return Metric(float("nan"), float("nan"), float("nan"), 0)
    documents = torch.tensor([document for document, _ in answers])
    right = torch.tensor([right for _, right in answers], dtype=torch.float64)
    value, trials = float(right.mean()), len({document for document, _ in answers})
    if value in (0.0, 1.0):
        reach = _Z2 / (trials + _Z2)
        return Metric(value, value - reach if value else 0.0, value if value else reach, len(answers))
    pairs = documents[:, None].expand(-1, 2)
    nothing = torch.zeros_like(pairs)
    sums = Sums()
    sums.add(
        groups_of(TokenBatch(nothing, pairs, nothing.int(), nothing.bool())), n=torch.ones_like(right), right=right
    )
    drawn = sums.resampled(bootstrap(sums.columns["n"], seed))
    shares = (drawn["right"] / drawn["n"])[1:]
    low, high = (float(shares.quantile(q)) if len(shares) else float("nan") for q in (0.025, 0.975))
    return Metric(value, low, high, len(answers))
