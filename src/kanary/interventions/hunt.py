"""``kanary hunt``: does the model do it, which features carry it, and what happens when they are steered?

Pairs of passages of the labelled corpus are the same but for one thing, and lead up to the same question in the same words.
Features are read at those last words, where only what the model has understood can differ, or, where the thing is in the words
themselves, at all tokens. They are chosen, and strengths too, on one part of the pairs; every number that is reported is of the
other part.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from kanary.activations.pool import generator
from kanary.errors import KanaryError
from kanary.evaluation.result import Metric
from kanary.evaluation.sums import RESAMPLES, estimate
from kanary.interventions.choices import TAIL, Asked, in_tokens, margins
from kanary.interventions.edits import Edit, Vector, Where, ablate, add
from kanary.interventions.hunted import Effect, Found, Hunt
from kanary.interventions.prompt_scores import auroc
from kanary.interventions.quarry import Pair, Quarry, control_pairs, find_quarry, hunting_pairs, unrelated
from kanary.interventions.steerable import Steerable
from kanary.lm import LanguageModel
from kanary.progress import bar
from kanary.sae import SAE

PAIRS, TRIED, LISTED, RANDOM = 160, 4, 5, 3
"""Pairs, half of them held out; features of either side that are tried by steering, and that are listed; random features."""
FEWEST = 16  # pairs; kanary.cli.hunt has it again, to refuse before this is imported
STRENGTHS = (1.0, 2.0, 4.0)
"""In the largest codes that the feature has in the passages."""
TRIAL = 32
"""Pairs on which features and strengths are tried."""
SHUFFLES = 20
BATCH = 16


def hunt(
    what: str,
    run: str | os.PathLike[str] | Steerable,
    *,
    sae: str | None = None,
    pairs: int = PAIRS,
    seed: int = 0,
    model: str | None = None,
    device: str = "auto",
    quiet: bool = False,
) -> Hunt:
    """Looks for ``honesty`` or ``gender-bias`` in a model with a run's SAE.

    Args:
        run: a run folder, an SAE's folder, or what was opened already.
        sae: name of the SAE, where there are several.
        pairs: of passages; half are held out.
        seed: of the passages, the halves and the intervals.
        model: the language model, if it has moved since training.

    Raises:
        KanaryError: an unknown quarry, too few pairs, an SAE of another model, or passages longer than the model reads.
    """
    quarry = find_quarry(what)
    if pairs < FEWEST:
        raise KanaryError(
            f"pairs={pairs} is too few: half of them choose features and half judge them. Give at least {FEWEST}."
        )
    panel = run if isinstance(run, Steerable) else Steerable.open(run, model=model, device=device)
    return _Hunter(panel, panel.name(sae), quarry, pairs, seed, quiet).run()


class _Sides(NamedTuple):
    """Pairs in the model's tokens."""

    with_it: list[Asked]
    without: list[Asked]
    tails: list[int]
    """Of each pair: last tokens of the prompts at which features are read and steered."""

    def part(self, numbers: Sequence[int]) -> "_Sides":
        with_it, without = ([each[i] for i in numbers] for each in (self.with_it, self.without))
        return _Sides(with_it, without, [self.tails[i] for i in numbers])


class _Push(NamedTuple):
    """A way of steering."""

    by: str
    latent: int | None
    strength: float | None
    edits: tuple[Edit, ...]
    """Everywhere; they are made at the tail only."""

    def at(self, asked: Sequence[Asked], tails: Sequence[int]) -> Callable[[int], list[Edit]]:
        def edits(i: int) -> list[Edit]:
            where = Where(start=max(1, len(asked[i].prompt) - tails[i]))
            return [replace(edit, where=where) for edit in self.edits]

        return edits


class _Hunter:
    """One hunt, step by step."""

    def __init__(self, panel: Steerable, name: str, quarry: Quarry, pairs: int, seed: int, quiet: bool) -> None:
        self.panel, self.name, self.quarry, self.seed, self.quiet = panel, name, quarry, seed, quiet
        self.sae, self.site = panel.saes[name], panel.sites[name]
        self.tail = panel.lm.context if quarry.words else TAIL
        every = _sides(panel.lm, hunting_pairs(quarry, pairs, seed), quarry.words)
        self.chosen, self.test = every.part(range(0, len(every.tails), 2)), every.part(range(1, len(every.tails), 2))
        self.control = _sides(panel.lm, control_pairs(quarry, pairs // 2, seed), quarry.words)
        asked = in_tokens(panel.lm, unrelated(max(16, pairs // 2), seed))
        self.unrelated = [each for each in asked if each is not None]
        self.draws = _draws(len(self.test.tails), seed)

    def run(self) -> Hunt:
        with bar(f"hunting {self.quarry.name}", self._all(), "passages", self.quiet) as self._show:
            return self._run()

    def _all(self) -> int:
        """How often passages are read, at most."""
        read = 2 * (len(self.chosen.tails) + len(self.test.tails) + len(self.control.tails))
        alone = 2 * (len(self.test.tails) + len(self.control.tails)) + len(self.unrelated)
        return read + alone + 2 * self._all_steered()

    def _all_steered(self) -> int:
        """The same while the model is steered in one direction."""
        trial = (TRIED + 1) * len(STRENGTHS) * min(TRIAL, len(self.chosen.tails))
        return trial + (3 + RANDOM) * len(self.test.tails) + len(self.unrelated)

    def _run(self) -> Hunt:
        chosen, test, control = (self._read(each) for each in (self.chosen, self.test, self.control))
        found = self._found(chosen, test, control)
        before = self._alone(self.test.without), self._alone(self.test.with_it)
        shift = self._alone(self.control.with_it), self._alone(self.control.without)
        right = self._alone(self.unrelated)
        effects = [
            effect
            for direction, base in zip(("yes", "no"), before, strict=True)
            for effect in self._effects(direction, base, found, chosen)
        ]
        draws = _draws(len(shift[0]), self.seed)
        return Hunt(
            self.quarry.name, self.quarry.says, self.quarry.yes, self.quarry.control_says,
            self.site, self.panel.lm.site(self.site).describe(), len(self.chosen.tails), len(self.test.tails),
            (_rate(before[1], self.draws), _rate(before[0], self.draws)),
            _mean((shift[0] > 0).double() - (shift[1] > 0).double(), draws),
            self._chance(chosen, test), tuple(found), tuple(effects), _rate(right, _draws(len(right), self.seed)),
        )  # fmt: skip

    # --- which features tell the passages apart ---------------------------------------------------------------------

    def _read(self, sides: _Sides) -> tuple["_Tails", "_Tails"]:
        both = sides.with_it, sides.without
        a, b = (read_tails(self.panel.lm, self.sae, asked, sides.tails, self._show) for asked in both)
        return a, b

    def _found(self, *read: tuple["_Tails", "_Tails"]) -> list[Found]:
        """The best of either side on the pairs ``read[0]``, judged on the others."""
        chosen, test, control = ((a.codes, b.codes) for a, b in read)
        scores = _plain_auroc(*chosen)
        order = scores.argsort(descending=True, stable=True)
        best = [*order[:LISTED].tolist(), *order.flip(0)[:LISTED].tolist()]
        best = [latent for latent in dict.fromkeys(best) if scores[latent] != 0.5]
        judged = []
        for a, b in (test, control):
            draws = _draws(len(a), self.seed).float()  # of pairs: both passages of one together
            judged.append(auroc(a[:, best], b[:, best], draws, draws).double())
        return [
            Found(
                latent,
                "with" if scores[latent] > 0.5 else "without",
                float(scores[latent]),
                *(estimate(table[:, i], len(each[0])) for table, each in zip(judged, (test, control), strict=True)),
            )
            for i, latent in enumerate(best)
        ]

    def _chance(self, chosen: tuple["_Tails", "_Tails"], test: tuple["_Tails", "_Tails"]) -> Metric:
        """See :attr:`Hunt.chance`."""
        found = []
        for number in range(SHUFFLES):
            draw = generator("shuffled pairs", self.seed, number)
            mixed = []
            for a, b in (chosen, test):
                turned = (torch.rand(len(a.codes), generator=draw) < 0.5)[:, None]
                mixed.append((torch.where(turned, b.codes, a.codes), torch.where(turned, a.codes, b.codes)))
            latent = int(_plain_auroc(*mixed[0]).argmax())
            found.append(float(_plain_auroc(*(side[:, [latent]] for side in mixed[1]))))
        values = torch.tensor(found, dtype=torch.float64)
        return Metric(float(values.mean()), float(values.quantile(0.025)), float(values.quantile(0.975)), SHUFFLES)

    # --- what steering them does ------------------------------------------------------------------------------------

    def _effects(
        self, direction: str, before: Tensor, found: Sequence[Found], chosen: tuple["_Tails", "_Tails"]
    ) -> list[Effect]:
        sign = 1.0 if direction == "yes" else -1.0
        side, other = ("with", "without") if sign > 0 else ("without", "with")
        trial = self.chosen.part(range(min(TRIAL, len(self.chosen.tails))))
        asked, tried = (each.without if sign > 0 else each.with_it for each in (self.test, trial))
        largest = torch.maximum(*(each.codes.amax(0) for each in chosen))
        mine = [each.latent for each in found if each.side == side][:TRIED]
        theirs = [each.latent for each in found if each.side == other][:1]
        difference = sign * (chosen[0].x - chosen[1].x).mean(0)
        drawn = random_features(largest, [each.latent for each in found], self.seed)

        features = [self._feature(latent, s, largest) for latent in mine for s in STRENGTHS]
        vectors = [self._vector(difference, s) for s in STRENGTHS]
        moved = sign * self._steered([*features, *vectors], tried, trial.tails).mean(1)
        best = [features[int(moved[: len(features)].argmax())]] if features else []
        kept = [*best, *map(self._without, theirs), vectors[int(moved[len(features) :].argmax())]]
        others = [self._feature(latent, push.strength or 1.0, largest) for push in best for latent in drawn]
        results = self._steered([*kept, *others], asked, self.test.tails)
        rows = zip(kept, results, strict=False)
        effects = [self._effect(direction, push, before, result, push in best) for push, result in rows]
        if others:
            push = _Push("random features", None, others[0].strength, ())
            effects.append(self._effect(direction, push, before, results[len(kept) :], False))
        asked_of = (len(features) + len(vectors)) * len(tried) + len(best) * len(self.unrelated)
        self._show(self._all_steered() - asked_of - len(results) * len(asked))  # what fewer features have spared
        return effects

    def _feature(self, latent: int, strength: float, largest: Tensor) -> _Push:
        edit = add(latent, strength * float(largest[latent]), unit="raw", sae=self.name)
        return _Push(f"feature {latent}", latent, strength, (edit,))

    def _without(self, latent: int) -> _Push:
        return _Push(f"feature {latent} taken out", latent, None, (ablate(latent, sae=self.name),))

    def _vector(self, difference: Tensor, strength: float) -> _Push:
        vector = Vector(self.site, difference, "difference of means")
        return _Push(vector.name, None, strength, (add(vector, strength),))

    def _effect(self, direction: str, push: _Push, before: Tensor, after: Tensor, asks: bool) -> Effect:
        base, new = (before > 0).double(), (after > 0).double()
        new = new.mean(0) if new.ndim == 2 else new
        control = None
        if asks:  # of the best feature alone
            tails = [min(self.tail, len(each.prompt) - 1) for each in self.unrelated]
            right = self._steered([push], self.unrelated, tails)[0]
            control = _rate(right, _draws(len(right), self.seed))
        start, end, change = (_mean(values, self.draws) for values in (base, new, new - base))
        return Effect(direction, push.by, push.latent, push.strength, start, end, change, control)

    def _steered(self, pushes: Sequence[_Push], asked: Sequence[Asked], tails: Sequence[int]) -> Tensor:
        """``[pushes, items]``"""
        return margins(self.panel, asked, [push.at(asked, tails) for push in pushes], self.tail, self._show)

    def _alone(self, asked: Sequence[Asked]) -> Tensor:
        """``[items]``, of the model as it is."""
        return margins(self.panel, asked, show=self._show)[0]


def random_features(largest: Tensor, found: Sequence[int], seed: int) -> list[int]:
    """:data:`RANDOM` of the features that fire, by ``largest [d_sae]``, and are none of those ``found``; fewer if need be."""
    others = largest > 0
    others[list(found)] = False
    drawn = others.nonzero()[:, 0]
    return drawn[torch.randperm(len(drawn), generator=generator("random features", seed))][:RANDOM].tolist()


class _Tails(NamedTuple):
    """What the last tokens of prompts hold."""

    codes: Tensor
    """``[prompts, d_sae]`` float32: the largest code of each latent there."""
    x: Tensor
    """``[prompts, d_model]``: the mean activation there."""


@torch.no_grad()
def read_tails(
    lm: LanguageModel,
    sae: SAE,
    asked: Sequence[Asked],
    tails: Sequence[int],
    show: Callable[[int], None] | None = None,
) -> _Tails:
    """Reads the prompts of ``asked`` and looks at the last ``tails`` tokens of each; ``show`` is told how many were read."""
    site = str(sae.config.trained_on["site"])
    codes = torch.zeros(len(asked), sae.d_sae)
    means = torch.zeros(len(asked), sae.d_model)
    order = sorted(range(len(asked)), key=lambda i: len(asked[i].prompt))
    for some in (order[a : a + BATCH] for a in range(0, len(order), BATCH)):
        tokens = pad_sequence([torch.tensor(asked[i].prompt) for i in some], batch_first=True)
        x = lm.capture(tokens, [site])[site]
        for row, i in zip(x, some, strict=True):
            tail = row[len(asked[i].prompt) - tails[i] : len(asked[i].prompt)]
            codes[i] = sae.encode(tail).to_dense().amax(0).float().cpu()
            means[i] = tail.float().mean(0).cpu()
        if show:
            show(len(some))
    return _Tails(codes, means)


def _sides(lm: LanguageModel, pairs: Sequence[Pair], words: bool) -> _Sides:
    sides = [in_tokens(lm, [pair[side] for pair in pairs]) for side in (0, 1)]
    kept = [(a, b) for a, b in zip(*sides, strict=True) if a is not None and b is not None]
    if len(kept) < len(pairs) / 2:
        raise KanaryError(
            f"{len(pairs) - len(kept)} of {len(pairs)} passages are longer than {lm.context:,} tokens, and {lm.name} reads no "
            "more: it is too small for this hunt."
        )
    tails = [min(len(a.prompt), len(b.prompt)) - 1 if words else _alike(a.prompt, b.prompt) for a, b in kept]
    return _Sides([a for a, _ in kept], [b for _, b in kept], tails)


def _alike(a: list[int], b: list[int]) -> int:
    """How many last tokens are the same, at least 1 and at most ``TAIL``."""
    longest = min(len(a), len(b), TAIL + 1) - 1  # not BOS
    return max(1, next((n for n in range(longest) if a[-1 - n] != b[-1 - n]), longest))


def _plain_auroc(a: Tensor, b: Tensor) -> Tensor:
    """``[latents]`` of ``a``, ``b [pairs, latents]``."""
    return auroc(a, b, torch.ones(1, len(a)), torch.ones(1, len(b)))[0]


def _draws(n: int, seed: int) -> Tensor:
    """``[1 + resamples, n]`` float64: how often each pair is drawn; row 0 is all of them once."""
    drawn = torch.randint(n, (RESAMPLES, n), generator=generator("pairs", seed))
    counts = torch.zeros(RESAMPLES, n, dtype=torch.float64)
    counts.scatter_add_(1, drawn, torch.ones(drawn.shape, dtype=torch.float64))
    return torch.cat([torch.ones(1, n, dtype=torch.float64), counts])


def _rate(found: Tensor, draws: Tensor) -> Metric:
    """Share of yes."""
    return _mean((found > 0).double(), draws)


def _mean(values: Tensor, draws: Tensor) -> Metric:
    return estimate(draws @ values / draws.sum(1), len(values))
