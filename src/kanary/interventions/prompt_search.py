"""From prompts that have something and prompts that lack it to the features that tell them apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kanary.activations.pool import generator
from kanary.errors import KanaryError, nearest
from kanary.evaluation.inputs import refuse_other_model
from kanary.evaluation.result import Metric
from kanary.interventions.concept_prompts import TrueLatent, true_latent
from kanary.interventions.prompt_codes import POOLS, Pool, PromptCodes, read_prompts
from kanary.interventions.prompt_scores import SCORES, Values, plain_scores, resampled_scores
from kanary.lm import LanguageModel
from kanary.sae import SAE

FEWEST = 8
"""Prompts of either list: four to choose on and four to judge on."""
SHUFFLES = 20
SHOWN = 20


class Strongest(NamedTuple):
    """Where a latent is strongest among the prompts of its side."""

    prompt: int
    """Number in its list, from 0."""
    tokens: tuple[str, ...]
    at: int
    value: float


class Separating(NamedTuple):
    """A latent that tells the lists apart."""

    latent: int
    side: str
    """``positive`` or ``negative``: the list that has more of it."""
    ranks: Mapping[str, int]
    """By each score, from 1, among the latents of its side that are not left out, on the prompts it was chosen on."""
    chosen_on: Mapping[str, float]
    """The scores on these."""
    held_out: Mapping[str, Metric]
    """The scores on the others, with 95 % intervals over prompts. On either side AUROC is the chance that a positive prompt has
    more of it than a negative one: near 0 where the negative ones have more."""
    fires: tuple[float, float]
    """Share of all positive prompts, and of all negative ones, in which it fires."""
    strongest: Strongest

    @property
    def holds(self) -> bool:
        """Whether its side has more of it among the prompts held out, too: the interval of AUROC lies on that side of .5."""
        auroc = self.held_out["auroc"]
        return auroc.low > 0.5 if self.side == "positive" else auroc.high < 0.5


class LeftOut(NamedTuple):
    """A latent that would have been found, but fires for a reason that both lists have."""

    latent: int
    why: str
    """``always on``, ``sentence start`` or ``position``."""
    says: str
    would_rank: Mapping[str, int]


class Truth(NamedTuple):
    """Where the latent that stands for a labelled concept was ranked."""

    concept: str
    latent: int
    """The best for the concept by F1 at single tokens of other passages."""
    f1: float
    """There, at its best threshold."""
    ranks: Mapping[str, int]
    """On the positive side, by each score, among all latents of that side that are not left out, itself counted in any case."""
    left_out: str | None
    """Why, if it was."""


@dataclass(frozen=True)
class PromptSearch:
    """Features that tell two lists of prompts apart; the first of each side are the best by ``by``."""

    site: str
    where: str
    d_sae: int
    pool: Pool
    by: str
    seed: int
    prompts: Mapping[str, tuple[int, int]]
    """Side -> how many were chosen on, and how many were held out."""
    found: tuple[Separating, ...]
    left_out: tuple[LeftOut, ...]
    control: Metric
    """AUROC on held-out prompts of the latent that is best by ``by`` when it is drawn which prompts are positive: mean of 20
    draws and the range in which 95 % of them lie. What does not beat it was found by chance."""
    truth: Truth | None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        sides = {side: {"chosen_on": a, "held_out": b} for side, (a, b) in self.prompts.items()}
        plain = {name: getattr(self, name) for name in ("site", "where", "d_sae", "pool", "by", "seed")}
        return plain | {
            "prompts": sides,
            "scores": {name: score.says for name, score in SCORES.items()},
            "found": [_plain(each) for each in self.found],
            "left_out": [each._asdict() for each in self.left_out],
            "control": _metric(self.control),
            "truth": self.truth._asdict() if self.truth else None,
        }


def search_prompts(
    model: LanguageModel,
    sae: SAE,
    positive: Sequence[str],
    negative: Sequence[str],
    *,
    pool: Pool = "max",
    by: str = "auroc",
    top: int = SHOWN,
    concept: str | None = None,
    seed: int = 0,
    quiet: bool = True,
) -> PromptSearch:
    """The latents that are stronger in one list of prompts than in the other, chosen on half of them and judged on the rest.

    Args:
        positive, negative: prompts, at least 8 of each, no two alike.
        pool: what a prompt's value of a latent is: the largest over its tokens, the mean, or that of the last token.
        by: the score by which the best are listed; the others are given too.
        top: how many of each side.
        concept: of the labelled corpus; then the rank of the latent that stands for it is told.
        seed: of the halves, the intervals and the control.
        quiet: show no progress.

    Raises:
        KanaryError: too few prompts, an empty one, one that stands twice or in both lists, one longer than the model reads, an
            SAE of another model, an unknown score, pool or concept.
    """
    if by not in SCORES:
        raise KanaryError(f"Unknown score {by!r}. {nearest(by, list(SCORES))}")
    if top < 1:
        raise KanaryError(f"top={top} must be 1 or more.")
    search = _begun(model, sae, positive, negative, pool, by, seed, quiet)
    site = str(sae.config.trained_on["site"])
    return PromptSearch(
        site,
        model.site(site).describe(),
        sae.d_sae,
        pool,
        by,
        seed,
        search.counts(),
        tuple(each for side in (True, False) for each in search.best(side, top)),
        tuple(search.left_out(top)),
        search.control(),
        search.truth(concept, true_latent(model, sae, concept)) if concept else None,
    )


def rank_truth(
    model: LanguageModel,
    sae: SAE,
    positive: Sequence[str],
    negative: Sequence[str],
    concept: str,
    true: TrueLatent,
    *,
    pool: Pool = "max",
    seed: int = 0,
) -> Truth:
    """Where a search would rank the latent that stands for a concept, without the rest of the search.

    Raises:
        KanaryError: as :func:`search_prompts`.
    """
    return _begun(model, sae, positive, negative, pool, "auroc", seed, True).truth(concept, true)


def most_positive(
    model: LanguageModel, sae: SAE, positive: Sequence[str], negative: Sequence[str], *, quiet: bool = True
) -> int | None:
    """The latent that stands out most in the positive prompts, by AUROC of its largest value, chosen on all of them.

    Nothing is held out: judge it on other prompts. None where no latent stands out.

    Raises:
        KanaryError: as :func:`search_prompts`, but for lists that are short.
    """
    _refuse_texts(positive, negative)
    read = _read(model, sae, positive, negative, quiet)
    search = _Search(read, Values(read.pooled("max"), read.strong()), "auroc", 0, torch.zeros_like(read.positive))
    best = search.order(True)
    return int(best[0]) if len(best) else None


def _begun(
    model: LanguageModel,
    sae: SAE,
    positive: Sequence[str],
    negative: Sequence[str],
    pool: Pool,
    by: str,
    seed: int,
    quiet: bool,
) -> "_Search":
    if pool not in POOLS:
        raise KanaryError(f"Unknown pool {pool!r}. {nearest(pool, list(POOLS))}")
    refuse_prompts(positive, negative)
    read = _read(model, sae, positive, negative, quiet)
    return _Search(read, Values(read.pooled(pool), read.strong()), by, seed, _halves(read.positive, seed))


def _read(model: LanguageModel, sae: SAE, positive: Sequence[str], negative: Sequence[str], quiet: bool) -> PromptCodes:
    refuse_other_model(str(sae.config.sparsifier["name"]), sae, model)
    return read_prompts(model, sae, positive, negative, quiet=quiet)


def refuse_prompts(positive: Sequence[str], negative: Sequence[str]) -> None:
    """Raises :class:`KanaryError` where two lists of prompts cannot be told apart fairly."""
    _refuse_texts(positive, negative)
    for name, prompts in (("positive", positive), ("negative", negative)):
        if len(prompts) < FEWEST:
            raise KanaryError(
                f"{len(prompts)} {name} prompts are too few: half of them choose features and half judge them. Give at least "
                f"{FEWEST}."
            )


def _refuse_texts(positive: Sequence[str], negative: Sequence[str]) -> None:
    for name, prompts in (("positive", positive), ("negative", negative)):
        for number, text in enumerate(prompts, 1):
            if not text.strip():
                raise KanaryError(f"The {name} prompt number {number} is empty: delete that line.")
        if twice := next((text for text in prompts if prompts.count(text) > 1), None):
            raise KanaryError(
                f"The {name} prompt {_short(twice)} stands there twice: copies would be held against each other."
            )
    if both := next((text for text in positive if text in set(negative)), None):
        raise KanaryError(f"The prompt {_short(both)} is in both lists: it cannot have something and lack it.")


def read_list(path: Any) -> list[str]:
    """The prompts in a text file, one a line; ``\\n`` within a line stands for a line break.

    Raises:
        KanaryError: the file cannot be read, is no text, or has an empty line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise KanaryError(f"{path} cannot be read as a list of prompts, one a line: {error}.") from error
    if blank := next((number for number, line in enumerate(lines, 1) if not line.strip()), None):
        raise KanaryError(f"{path}: line number {blank} is empty: delete it.")
    return [line.strip().replace("\\n", "\n") for line in lines]


class _Search:
    """Prompts to choose on and prompts held out, and the latents that are compared."""

    def __init__(self, read: PromptCodes, values: Values, by: str, seed: int, test: Tensor) -> None:
        """``test [prompts]`` bool: those that are held out."""
        self.read, self.values, self.by, self.seed = read, values, by, seed
        self.nuisances = read.nuisances()
        self.allowed = torch.ones(read.d_sae, dtype=torch.bool)
        self.allowed[list(self.nuisances)] = False
        self.test = test
        self.scores = self._signed(plain_scores(self._of(~self.test), read.positive[~self.test]))

    def counts(self) -> dict[str, tuple[int, int]]:
        found = {}
        for name, side in (("positive", self.read.positive), ("negative", ~self.read.positive)):
            found[name] = (int((side & ~self.test).sum()), int((side & self.test).sum()))
        return found

    def order(self, positive: bool) -> Tensor:
        """The latents of one side that are not left out, best first."""
        return self._order(self.by, positive, self.allowed)

    def best(self, positive: bool, top: int) -> list[Separating]:
        """The best of one side that are not left out."""
        order = self.order(positive)[:top]
        if not len(order):
            return []
        judged = resampled_scores(self._of(self.test, order), self.read.positive[self.test], self.seed)
        return [
            self._separating(latent, positive, scores) for latent, scores in zip(order.tolist(), judged, strict=True)
        ]

    def _separating(self, latent: int, positive: bool, held_out: dict[str, Metric]) -> Separating:
        fires = self.values.pooled[:, latent] != 0
        with_it, without = (float(fires[side].double().mean()) for side in (self.read.positive, ~self.read.positive))
        return Separating(
            latent,
            "positive" if positive else "negative",
            {score: self._rank(score, positive, latent, self.allowed) for score in SCORES},
            {score: float(values[latent]) + SCORES[score].neutral for score, values in self.scores.items()},
            held_out,
            (with_it, without),
            self._strongest(latent, self.read.positive == positive),
        )

    def left_out(self, top: int) -> list[LeftOut]:
        """Of those that fire for a reason that both lists have, the ones that would have been among the best by some score."""
        everything = torch.ones_like(self.allowed)
        found = []
        for latent, (why, says) in sorted(self.nuisances.items()):
            positive = bool(self.scores[self.by][latent] >= 0)
            ranks = {score: self._rank(score, positive, latent, everything) for score in SCORES}
            if min(ranks.values()) <= top:
                found.append(LeftOut(latent, why, says, ranks))
        return sorted(found, key=lambda each: min(each.would_rank.values()))

    def control(self) -> Metric:
        """See :attr:`PromptSearch.control`."""
        found = []
        for number in range(SHUFFLES):
            drawn = self._shuffled(number)
            scores = self._signed(plain_scores(self._of(~self.test), drawn[~self.test]))[self.by]
            latent = scores.masked_fill(~self.allowed, -torch.inf).argmax()[None]
            found.append(float(plain_scores(self._of(self.test, latent), drawn[self.test])["auroc"][0]))
        values = torch.tensor(found, dtype=torch.float64)
        low, high = (float(values.quantile(q)) for q in (0.025, 0.975))
        return Metric(float(values.mean()), low, high, SHUFFLES)

    def _shuffled(self, number: int) -> Tensor:
        """``[prompts]`` bool: which are positive, by chance; in either half as many as there are."""
        draw, drawn = generator("shuffled prompts", self.seed, number), self.read.positive.clone()
        for half in (self.test, ~self.test):
            drawn[half] = self.read.positive[half][torch.randperm(int(half.sum()), generator=draw)]
        return drawn

    def truth(self, concept: str, true: TrueLatent) -> Truth:
        latent = true.latent
        allowed = self.allowed.clone()
        allowed[latent] = True
        why = self.nuisances[latent][0] if latent in self.nuisances else None
        ranks = {score: self._rank(score, True, latent, allowed) for score in SCORES}
        return Truth(concept, latent, true.f1, ranks, why)

    def _of(self, prompts: Tensor, latents: Tensor | None = None) -> Values:
        found = (each[prompts] for each in self.values)
        return Values(*(each if latents is None else each[:, latents] for each in found))

    def _signed(self, scores: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: values - SCORES[name].neutral for name, values in scores.items()}

    def _order(self, score: str, positive: bool, allowed: Tensor) -> Tensor:
        """Latents of one side, best first; of equally good ones that with the larger difference of means."""
        sign = 1 if positive else -1
        second = (sign * self.scores["mean_difference"]).argsort(descending=True, stable=True)
        order = second[(sign * self.scores[score][second]).argsort(descending=True, stable=True)]
        return order[(sign * self.scores[score][order] > 0) & allowed[order]]

    def _rank(self, score: str, positive: bool, latent: int, allowed: Tensor) -> int:
        """Place of ``latent`` among those of its side; behind the last where the score puts it on the other side."""
        order = self._order(score, positive, allowed)
        at = (order == latent).nonzero()
        return int(at[0, 0]) + 1 if len(at) else len(order) + 1

    def _strongest(self, latent: int, side: Tensor) -> Strongest:
        values = self.read.codes.latent(latent).masked_fill(~side[self.read.prompt], -torch.inf)
        token = int(values.argmax())
        prompt = int(self.read.prompt[token])
        first = int(side.nonzero()[0, 0])
        return Strongest(prompt - first, self.read.texts[prompt], int(self.read.position[token]), float(values[token]))


def _halves(positive: Tensor, seed: int) -> Tensor:
    """``[prompts]`` bool: every second prompt of either list, in a random order, is held out."""
    test = torch.zeros_like(positive)
    for number, side in enumerate((positive, ~positive)):
        mine = side.nonzero()[:, 0]
        test[mine[torch.randperm(len(mine), generator=generator("halves of prompts", seed, number))][1::2]] = True
    return test


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "…")


def _metric(metric: Metric) -> dict[str, float | int]:
    return metric._asdict()


def _plain(each: Separating) -> dict[str, Any]:
    return each._asdict() | {
        "held_out": {name: _metric(metric) for name, metric in each.held_out.items()},
        "fires": dict(zip(("positive", "negative"), each.fires, strict=True)),
        "strongest": each.strongest._asdict() | {"tokens": list(each.strongest.tokens)},
    }
