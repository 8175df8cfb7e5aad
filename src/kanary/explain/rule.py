"""The rule explainer: the shortest list of patterns that tells the tokens on which a latent fires from those where it does not.

After Neuron to Graph (Foote et al., arXiv 2305.19911): from triggers to triggers in a context, where whatever the examples do
not need stays a wildcard. Here patterns are chosen greedily on all excerpts of the training half together: each must explain
more firing than it costs in tokens on which the latent is silent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kanary.explain.patterns import EARLIER, Condition, Grid, Mask, Pattern, PatternRule, What, excerpt_score
from kanary.explain.pool import ConceptMarks
from kanary.explain.types import Evidence, Excerpt, Explanation, Failed, Half
from kanary.explain.vocabulary import Vocabulary
from kanary.explain.words import sentence, title

FEWEST = 2
"""Firing tokens that a pattern must explain."""
MOST = 24
"""Patterns of a rule."""
Places = tuple[tuple[What, int], ...]
"""Of a pattern's conditions: what, and where."""
_TEMPLATES: tuple[Places, ...] = (
    (("word", 0),),
    (("token", 0),),
    (("kind", 0),),
    (("word", 1),),
    (("word", -1),),
    (("first", 0),),
    (("word", 1), ("word", 0)),
    (("word", 2), ("word", 0)),
    (("word", 3), ("word", 0)),
    (("word", 2), ("word", 1)),
    (("word", 1), ("kind", 0)),
    (("kind", 1), ("word", 0)),
    (("kind", 1), ("kind", 0)),
    (("word", -1), ("word", 0)),
    (("word", 2), ("word", 1), ("word", 0)),
)
_PER_TEMPLATE = 40  # values of a template that explain most
_EARLIER, _WITH_EARLIER = 24, 6  # words said before, and triggers that are tried with them
_LEAD = 0.25
"""A word said before is tried if it stands in so much larger a share of the excerpts in which the latent fires."""
_STRICTNESS = (1.0, 0.25)
"""What a silent token costs: first patterns that are right more often than not, then those right in one of five cases."""
_COST = 2.0
"""Of a pattern, in firing tokens: a rule stays short."""
_PRIOR = 1.0  # tokens at the base rate that are added to every count


@dataclass(frozen=True)
class RuleExplainer:
    """Explains without an LLM; a hundred latents in a few seconds."""

    vocabulary: Vocabulary
    marks: ConceptMarks | None = None
    """What holds at every token, where the text is the labelled corpus; None: the rule speaks of tokens alone."""
    name: str = "rule"

    async def explain(self, evidence: Evidence) -> Explanation:
        """Raises :class:`kanary.explain.types.Failed` where the training half has too few examples."""
        rule = learn(evidence.train, self.vocabulary, self.marks)
        logits = evidence.positive_logits
        return Explanation(evidence.latent, sentence(rule, logits), title(rule), self.name, rule)


def learn(half: Half, vocabulary: Vocabulary, marks: ConceptMarks | None = None) -> PatternRule:
    """The rule for the excerpts of one half."""
    excerpts = half.firing + half.negatives
    grid = Grid(excerpts, vocabulary, marks)
    fires = grid.activations > 0
    if fires.sum() < FEWEST:
        raise Failed(f"it fires on {int(fires.sum())} tokens of the training half, {FEWEST} are needed")
    rule = _chosen(grid, fires, _candidates(grid, fires))
    return PatternRule(*rule, _threshold(grid, rule, vocabulary, marks), vocabulary, marks)


class _Candidates(NamedTuple):
    """Patterns that could be meant."""

    conditions: list[tuple[Places, tuple[int, ...]]]
    """With their values; most are never chosen, and so never made."""
    masks: Mask
    """``[patterns, cells]``: where they hold, in the excerpts laid end to end."""


# --- which patterns could be meant --------------------------------------------------------------------------------------


def _candidates(grid: Grid, fires: Mask) -> _Candidates:
    """Every pattern that fits the firing tokens often enough, however often it fits others."""
    parts = [_of_template(grid, fires, template) for template in _TEMPLATES]
    parts += [_of_concepts(grid, fires), _of_earlier(grid, fires)]
    masks = np.concatenate([part.masks for part in parts])
    return _Candidates([conditions for part in parts for conditions in part.conditions], masks)


def _of_template(grid: Grid, fires: Mask, template: Places) -> _Candidates:
    columns = [grid.column(*each) for each in template]
    usable = grid.inside & np.logical_and.reduce([column >= 0 for column in columns])
    if template[0][0] == "first":
        usable &= columns[0] == 1
    code = columns[0]
    for column in columns[1:]:
        code = code * (int(column.max(initial=0)) + 1) + column
    code = np.where(usable, code, -1).reshape(-1)
    values, counts = np.unique(code[(fires & usable).reshape(-1)], return_counts=True)
    kept = counts >= max(FEWEST, 0.01 * fires.sum())
    values = values[kept][np.argsort(-counts[kept], kind="stable")[:_PER_TEMPLATE]]
    masks = values[:, None] == code
    first = masks.argmax(1)
    each = [column.reshape(-1)[first].tolist() for column in columns]
    return _Candidates([(template, row) for row in zip(*each, strict=True)], masks)


def _of_concepts(grid: Grid, fires: Mask) -> _Candidates:
    found: list[tuple[tuple[Condition, ...], Mask]] = []
    if grid.marks is not None:
        right = grid.marks.unpacked(grid.concepts[fires]).sum(0)
        for number in np.flatnonzero(right >= FEWEST).tolist():
            mask = grid.holds_concept(number)
            if 2 * right[number] > mask.sum():
                found.append(((Condition("concept", 0, number),), mask))
    return _stacked(grid, found)


def _stacked(grid: Grid, found: Sequence[tuple[tuple[Condition, ...], Mask]]) -> _Candidates:
    masks = np.array([mask.reshape(-1) for _, mask in found], bool).reshape(len(found), grid.inside.size)
    return _Candidates([(tuple(c[:2] for c in each), tuple(c.value for c in each)) for each, _ in found], masks)


def _of_earlier(grid: Grid, fires: Mask) -> _Candidates:
    """Words said before: alone, and with the words on which the latent fires most."""
    words = grid.column("word")
    firing = fires.any(1)
    present = np.unique(words[firing][words[firing] >= 0])
    if not len(present):
        return _stacked(grid, ())
    number = np.searchsorted(present, words).clip(0, len(present) - 1)
    known = (present[number] == words) & grid.inside
    there = np.zeros((len(words), len(present)), bool)
    there[known.nonzero()[0], number[known]] = True
    lead = there[firing].mean(0) - (there[~firing].mean(0) if (~firing).any() else 0)
    triggers, counts = np.unique(words[fires], return_counts=True)
    triggers = triggers[np.argsort(-counts, kind="stable")[:_WITH_EARLIER]]
    here = {int(word): words == word for word in triggers}
    best = np.argsort(-lead, kind="stable")[:_EARLIER]
    found: list[tuple[tuple[Condition, ...], Mask]] = []
    for word in present[best[lead[best] >= _LEAD]].tolist():
        condition = Condition("word", EARLIER, word)
        mask = grid.holds(condition)
        found.append(((condition,), mask))
        for trigger, at in here.items():
            if trigger != word:
                found.append(((condition, Condition("word", 0, trigger)), mask & at))
    return _stacked(grid, found)


# --- which of them are -------------------------------------------------------------------------------------------------


def _chosen(grid: Grid, fires: Mask, candidates: _Candidates) -> tuple[tuple[Pattern, ...], float]:
    """The patterns, in the order of their choice, and how likely the latent fires where none matches."""
    masks = candidates.masks
    y, values = fires.reshape(-1), grid.activations.reshape(-1)
    mean, most = float(values[y].mean()), float(values.max())
    worth = np.where(y, np.clip(values / mean, 0.3, 2.0), 0.0).astype(np.float32)
    base, total = float(y.sum() / grid.inside.sum()), float(worth.sum())
    open_ = grid.inside.reshape(-1).copy()
    firing = masks[:, y]
    won = firing @ worth[y]  # what each pattern explains that none before it did
    lost = np.array([np.count_nonzero(mask) for mask in masks]) - firing.sum(1)  # and where it is wrong
    found: list[Pattern] = []
    for strictness in _STRICTNESS if len(masks) else ():
        while len(found) < MOST:
            gains = won - strictness * lost
            best = int(gains.argmax())
            if gains[best] <= _COST:
                break
            here = np.flatnonzero(masks[best] & open_)
            right = here[y[here]]
            chance = (len(right) + _PRIOR * base) / (len(here) + _PRIOR)
            value = 10 * float(values[right].mean()) / most
            pairs = zip(*candidates.conditions[best], strict=True)
            conditions = tuple(Condition(*place, number) for place, number in pairs)
            found.append(Pattern(conditions, chance, value, float(worth[here].sum()) / total))
            open_[here] = False
            won -= masks[:, right] @ worth[right]  # fast because few tokens are new to a pattern
            lost -= masks[:, here[~y[here]]].sum(1)
    rest = open_
    elsewhere = (float((y & rest).sum()) + _PRIOR * base) / (float(rest.sum()) + _PRIOR)
    return tuple(found), elsewhere


def _threshold(
    grid: Grid, rule: tuple[tuple[Pattern, ...], float], vocabulary: Vocabulary, marks: ConceptMarks | None
) -> float:
    """The score of an excerpt that best tells those with firing tokens from those without, both counting as much."""
    score = excerpt_score(grid, PatternRule(*rule, 0.5, vocabulary, marks).expected(grid)[0])
    fires = (grid.activations > 0).any(1)
    if fires.all() or not fires.any():
        return float(np.clip(score.mean(), 1e-6, 1 - 1e-6))
    steps = np.unique(score)
    ends = np.concatenate([steps, [steps[-1] + 1e-9]])
    right = [((score[fires] >= end).mean() + (score[~fires] < end).mean()) / 2 for end in ends]
    best = int(np.argmax(right))
    middle = (ends[best] + ends[best - 1]) / 2 if best else ends[0] / 2
    return float(np.clip(middle, 1e-6, 1 - 1e-6))


def most_frequent_token(evidence: Evidence, vocabulary: Vocabulary) -> Explanation:
    """Baseline: wherever the token stands on which the latent fires most often. Raises :class:`Failed` without any."""
    grid = Grid(evidence.train.firing, vocabulary, None)
    ids, counts = np.unique(grid.ids[grid.activations > 0], return_counts=True)
    if not len(ids):
        raise Failed("it fires nowhere in the training half")
    return token_explanation(evidence.latent, [int(ids[counts.argmax()])], vocabulary, "most frequent token")


def random_explanation(evidence: Evidence, vocabulary: Vocabulary, draw: np.random.Generator) -> Explanation:
    """Control: a rule of three tokens drawn from the text that the latent was shown in."""
    ids: NDArray[np.int64] = np.concatenate([each.ids for each in _all(evidence.train)])
    drawn = draw.choice(ids, 3).tolist()
    return token_explanation(evidence.latent, list(dict.fromkeys(drawn)), vocabulary, "random explanation")


def token_explanation(latent: int, ids: Sequence[int], vocabulary: Vocabulary, by: str) -> Explanation:
    """Wherever one of the tokens stands."""
    patterns = tuple(Pattern((Condition("token", 0, id),), 0.9, 5.0, 0.0) for id in ids)
    rule = PatternRule(patterns, 0.01, 0.5, vocabulary)
    return Explanation(latent, sentence(rule, ()), title(rule), by, rule)


def _all(half: Half) -> tuple[Excerpt, ...]:
    return half.firing + half.negatives
