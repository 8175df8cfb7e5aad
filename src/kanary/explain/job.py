"""``kanary explain``: from an indexed run to explanations, their scores and the controls, kept where the app finds them."""

import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kanary.activations.source import resolve_lm_batch
from kanary.config import from_mapping
from kanary.errors import KanaryError, nearest, typed
from kanary.evaluation.inputs import open_saes, refuse_other_model, refuse_other_tokenizer
from kanary.explain.allowance import Allowance, Need
from kanary.explain.backing import Parts, open_parts
from kanary.explain.contrastive import CONCEPTS, PAIRS, contrast, read_stories
from kanary.explain.controls import CONTROLS, Controls, RandomSAE, random_sae, shuffled
from kanary.explain.evidence import Logits, gather
from kanary.explain.explained import Explained, agreement, keep
from kanary.explain.forecast import Forecast, forecast
from kanary.explain.options import ExplainConfig
from kanary.explain.patterns import PatternRule
from kanary.explain.pool import Pool, Subject, read_pools
from kanary.explain.rule import RuleExplainer
from kanary.explain.running import each, finished
from kanary.explain.spending import Price
from kanary.explain.table import ITSELF, Result, Row, contrastive_row, rows
from kanary.explain.types import Explainer, Explanation, Failed, Score
from kanary.explain.vocabulary import Vocabulary
from kanary.explain.workers import how_many, shared
from kanary.features.index import FeatureIndex
from kanary.features.lists import listed
from kanary.lm import LanguageModel, load_model
from kanary.progress import bar
from kanary.sae import SAE
from kanary.text.labelled.reader import labelled_text

AT_ONCE = 64
"""Features under way together where a language model is asked; its back end limits the calls."""
_KEEP_EVERY = 50  # features, so that a job that is killed has lost little
_NO_WORDS = RuleExplainer(Vocabulary.of(()))


def explain_features(
    run: str | os.PathLike[str], config: ExplainConfig | None = None, *, quiet: bool = False, **fields: Any
) -> Explained:
    """Explains features of an indexed run, scores the explanations on text they were not made from, and keeps both.

    Args:
        run: a run folder with an index (``kanary index``).
        config: or give its fields themselves: ``explain_features("runs/first", features="alive:50")``.
        quiet: show no progress.

    Raises:
        KanaryError: anything that is wrong with the request, the inputs, the endpoint or the disk, in one line. What was
            explained until then is kept, and what an endpoint answered is not asked again.
    """
    if config is not None and fields:
        raise KanaryError("Give either a config or fields, not both.")
    config = config or from_mapping(ExplainConfig, fields)
    index = FeatureIndex.open(run, config.sae)
    index.verify()
    return explain_latents(run, index, listed(index, config.features), config, quiet=quiet)


def explain_latents(
    run: str | os.PathLike[str],
    index: FeatureIndex,
    latents: Sequence[int],
    config: ExplainConfig,
    *,
    quiet: bool = False,
) -> Explained:
    """The same for ``latents`` of ``index``, whatever ``config.features`` says."""
    subject = _open(run, index, config)
    folder = Path(config.out) if config.out else Path(run) / "explain" / subject.name
    fired = index.columns()["fired"]
    alive = [latent for latent in latents if fired[latent] > 0]
    if not alive:
        raise KanaryError(f"None of the {len(latents):,} features fires in the index: there is nothing to explain.")
    job = _Job(subject, alive, config, folder, quiet)
    job.failed.update(dict.fromkeys(set(latents) - set(alive), "it does not fire in the index"))
    return finished(job.run())


@dataclass(frozen=True)
class _Opened:
    name: str
    index: FeatureIndex
    sae: SAE
    lm: LanguageModel


def _open(run: str | os.PathLike[str], index: FeatureIndex, config: ExplainConfig) -> _Opened:
    name, saes = str(index.meta["sae"]["name"]), open_saes(run)
    if name not in saes:
        raise KanaryError(f"{run} has no SAE {name!r}, which its index is of. {nearest(name, saes)}")
    sae = saes[name]
    if sae.digest() != index.meta["sae"]["digest"]:
        raise KanaryError(f"{index.folder} is the index of another SAE than {name} of {run}: kanary index {typed(run)}")
    known = sae.config.trained_on
    revision = None if config.model else known.get("revision")
    lm = load_model(str(config.model or known["model"]), revision=revision, dtype=config.dtype, device=config.device)
    refuse_other_model(name, sae, lm)
    refuse_other_tokenizer(name, sae, lm)
    return _Opened(name, index, sae.to(lm.device), lm)


class _Job:
    """The explanations of one SAE's features."""

    def __init__(
        self, opened: _Opened, latents: Sequence[int], config: ExplainConfig, folder: Path, quiet: bool
    ) -> None:
        self.opened, self.latents, self.config, self.folder, self.quiet = opened, latents, config, folder, quiet
        self.results: dict[int, Result] = {}
        self.failed: dict[int, str] = {}
        self._kept = 0

    async def run(self) -> Explained:
        index, config = self.opened.index, self.config
        special = frozenset(index.meta["special_ids"])
        vocabulary = Vocabulary.of(tuple(index.text.tokens(np.arange(self.opened.lm.vocab_size))), special)
        pool, random = self._read()
        marks = pool.concepts if config.concepts else None
        async with AsyncExitStack() as stack:
            parts = await open_parts(config, stack, self.folder, self.opened.lm, pool, vocabulary, marks)
            controls = Controls(pool, random, parts.explainer, parts.judging, vocabulary, config.seed)
            before = await self._foretold(parts, controls)
            try:
                stop = await self._explain_all(pool, parts, before)
            finally:
                self._keep()
            if not self.results:
                raise stop or self._unexplained()
            scored = {ITSELF: [self.results[latent].scores for latent in self.latents if latent in self.results]}
            if stop is None and config.controls:
                stop = await self._add_controls(scored, controls, parts, before)
            table = rows(scored, config.seed)
            if "contrastive" in config.scorers:
                table += self._contrastive(random)
            return self._written(table, parts, stop)

    def _read(self) -> tuple[Pool, tuple[RandomSAE, Pool] | None]:
        index, config, sae, lm = self.opened.index, self.config, self.opened.sae, self.opened.lm
        special, columns = index.meta["special_ids"], index.columns()
        subjects = [Subject(sae, self.latents, columns["fired"] > 0)]
        random = None
        if config.controls:
            first = index.text.ids[: max(1, 8192 // index.text.window)].astype(np.int64)
            densities = {latent: float(columns["density"][latent]) for latent in self._controlled()}
            random = random_sae(sae, lm, first, np.isin(first, special), densities, config.seed)
            subjects.append(random.subject)
        labelled = config.concepts and labelled_text(str(index.meta["text"])) is not None
        with bar("reading", config.tokens, "tok", self.quiet) as show:
            pools = read_pools(
                index.text,
                special,
                lm,
                subjects,
                labels=str(index.meta["text"]) if labelled else None,
                tokens=config.tokens,
                batch=resolve_lm_batch(0, index.text.window, lm.device.type),
                seed=config.seed,
                show=show,
            )
        return pools[0], (random, pools[1]) if random else None

    def _controlled(self) -> list[int]:
        """The features that controls are computed for, evenly over all."""
        count = min(self.config.controls, len(self.latents))
        return [self.latents[i] for i in np.linspace(0, len(self.latents) - 1, count).round().astype(int)]

    async def _foretold(self, parts: Parts, controls: Controls) -> dict[str, Forecast]:
        """By back end, what its calls will cost; said on standard error before the first of them."""
        if not parts.backends:
            return {}
        config = self.config
        price = Price.parse(config.price) if config.price else None
        found = await forecast(parts, controls, self.latents, self._controlled(), price)
        for one in found:
            if not self.quiet:
                budget = config.budget_usd
                print(one.told(len(self.latents), len(self._controlled()), budget), file=sys.stderr)
        return {one.backend: one for one in found}

    async def _explain_all(self, pool: Pool, parts: Parts, before: Mapping[str, Forecast]) -> KanaryError | None:
        logits = _logits(self.opened.index, self.latents)

        async def explained(latent: int) -> Result:
            evidence = gather(pool, latent, logits=logits, seed=self.config.seed)
            explanation = await parts.explainer.explain(evidence)
            return _reading(Result(explanation, await parts.judging.scores(explanation, evidence)), _NO_WORDS)

        workers = self._workers(len(self.latents))
        async with shared(explained, workers) as result:
            with bar("explaining", len(self.latents), "features", self.quiet) as show:

                async def work(latent: int) -> None:
                    try:
                        self.results[latent] = _reading(await result(latent), parts.explainer)
                    except Failed as failure:
                        self.failed[latent] = str(failure)
                    if len(self.results) >= self._kept + _KEEP_EVERY:
                        self._keep()
                    show(1, parts.cost)

                need = {name: one.feature for name, one in before.items()}
                allowance = self._allowance(parts, need, "features")
                return await each(self._in_any_order(), work, at_once=self._at_once(workers), allowance=allowance)

    def _workers(self, things: int) -> int:
        return how_many(things, self.config.workers) if self.config.reads_no_model else 1

    def _in_any_order(self) -> list[int]:
        """All features; by chance under a budget, so that those that it does for are not the rarest alone."""
        if self.config.budget_usd is None:
            return list(self.latents)
        return np.random.default_rng([self.config.seed, 61]).permutation(self.latents).tolist()  # type: ignore[no-any-return]

    def _at_once(self, workers: int) -> int:
        """Where a language model is asked, what it can take; two for each process, so that none waits for its next."""
        if self.config.calls:
            return AT_ONCE
        return 2 * workers if workers > 1 else 1

    def _allowance(self, parts: Parts, need: Mapping[str, Need], what: str) -> Allowance | None:
        endpoint = parts.endpoint
        if self.config.budget_usd is None or endpoint is None or endpoint.name not in need:
            return None
        return Allowance(endpoint.ledger, need[endpoint.name], what)

    def _unexplained(self) -> KanaryError:
        why = Counter(self.failed.values()).most_common(1)[0][0]
        return KanaryError(f"None of the {len(self.latents):,} features could be explained: {why}.")

    def _keep(self) -> None:
        new = dict(list(self.results.items())[self._kept :])
        self._kept = len(self.results)
        keep(self.opened.index, new)

    async def _add_controls(
        self,
        scored: dict[str, list[tuple[Score, ...]]],
        controls: Controls,
        parts: Parts,
        before: Mapping[str, Forecast],
    ) -> KanaryError | None:
        explained: dict[int, Explanation] = {
            latent: self.results[latent].explanation for latent in self._controlled() if latent in self.results
        }
        others = shuffled(list(explained), self.config.seed)
        found: dict[int, list[tuple[str, tuple[Score, ...]]]] = {}

        async def control(asked: tuple[int, str]) -> tuple[Score, ...] | None:
            latent, name = asked
            return await controls.scores(name, latent, explained[latent], explained[others[latent]] if others else None)

        scorings = len(CONTROLS) * len(explained)
        workers = self._workers(scorings)
        async with shared(control, workers) as result:
            with bar("controls", scorings, "scorings", self.quiet) as show:

                async def work(latent: int) -> None:
                    for name in CONTROLS:
                        if (scores := await result((latent, name))) is not None:
                            found.setdefault(latent, []).append((name, scores))
                        show(1)

                need = {name: one.controlled for name, one in before.items()}
                allowance = self._allowance(parts, need, "controls")
                stop = await each(explained, work, at_once=self._at_once(workers), allowance=allowance)
        for latent in explained:
            for name, scores in found.get(latent, ()):
                scored.setdefault(name, []).append(scores)
        return stop

    def _contrastive(self, random: tuple[RandomSAE, Pool] | None) -> list[Row]:
        """Of the SAE as a whole, and of the random one."""
        saes = [self.opened.sae, *([random[0].subject.sae] if random else [])]
        with bar("reading pairs of stories", CONCEPTS * PAIRS, "pairs", self.quiet) as show:
            stories = read_stories(self.opened.lm, saes, seed=self.config.seed, show=show)
        names = (ITSELF, "random SAE")
        return [
            contrastive_row(name, contrast(each, self.config.seed)) for name, each in zip(names, stories, strict=False)
        ]

    def _written(self, table: Sequence[Row], parts: Parts, stop: KanaryError | None) -> Explained:
        results = {latent: self.results[latent] for latent in self.latents if latent in self.results}
        found = Explained(
            sae=self.opened.name,
            by=parts.explainer.name,
            asked=len(self.latents),
            results=results,
            failed=dict(sorted(self.failed.items())),
            table=table,
            agreement=agreement(self.opened.index, results, self.config.seed),
            spent=parts.spent,
            usd=parts.endpoint.ledger.charged if parts.endpoint else 0.0,
            stopped=str(stop) if stop else "",
            folder=self.folder,
        )
        found.write(tokens=self.config.tokens)
        return found


def _logits(index: FeatureIndex, latents: Sequence[int]) -> dict[int, Logits]:
    ids = index.top_tokens()
    if not {"positive", "negative"} <= ids.keys():
        return {}
    return {latent: tuple(index.text.tokens(ids[k][latent]) for k in ("positive", "negative")) for latent in latents}


def _reading(result: Result, explainer: Explainer) -> Result:
    """The result, whose rule reads texts by the words that ``explainer`` knows: every process has them, none sends them."""
    rule = result.explanation.rule
    if not isinstance(rule, PatternRule) or not isinstance(explainer, RuleExplainer):
        return result
    rule = replace(rule, vocabulary=explainer.vocabulary, marks=explainer.marks)
    return replace(result, explanation=replace(result.explanation, rule=rule))
