"""``kanary explain``: from an indexed run to explanations, their scores and the controls, kept where the app finds them."""

import asyncio
import os
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kanary.activations.source import resolve_lm_batch
from kanary.config import from_mapping
from kanary.errors import KanaryError, nearest
from kanary.evaluation.inputs import open_saes, refuse_other_model, refuse_other_tokenizer
from kanary.evaluation.progress import bar
from kanary.explain.backing import Parts, open_parts
from kanary.explain.contrastive import CONCEPTS, PAIRS, contrast, read_stories
from kanary.explain.controls import RandomSAE, controls, random_sae
from kanary.explain.evidence import Logits, gather
from kanary.explain.options import ExplainConfig
from kanary.explain.pool import Pool, Subject, read_pools
from kanary.explain.progress import features_bar
from kanary.explain.scorers import CHANCE
from kanary.explain.statistics import Estimate, spearman
from kanary.explain.table import ITSELF, Result, Row, contrastive_row, rows, summary, write_explanations, write_table
from kanary.explain.types import Explanation, Failed, Score
from kanary.explain.vocabulary import Vocabulary
from kanary.features.index import FeatureIndex
from kanary.features.lists import listed
from kanary.files import write_json
from kanary.lm import LanguageModel, load_model
from kanary.sae import SAE
from kanary.text.labelled.reader import labelled_text

AT_ONCE = 64
"""Features under way together where a language model is asked; its back end limits the calls."""
_STORE_EVERY = 50  # features, after which a job that is killed has lost nothing
_ROOM = 5  # features with a best concept that an agreement needs


@dataclass(frozen=True)
class Explained:
    """What a job found; the explanations are in the index's labels too."""

    sae: str
    by: str
    results: Mapping[int, Result]
    failed: Mapping[int, str]
    """Latent -> why it has no explanation."""
    table: Sequence[Row]
    agreement: Mapping[str, tuple[Estimate, int]]
    """Scorer -> rank correlation of its scores with the F1 of the feature's best concept, and n; on the labelled corpus."""
    spent: str
    """What calls of a language model cost, in a sentence; empty without any."""
    stopped: str
    """Why it ended before the last feature; empty if it did not."""
    folder: Path
    """Where explanations.csv, table.csv and summary.json are."""

    @property
    def summary(self) -> str:
        """One line for people."""
        return summary(self.table, sae=self.sae, by=self.by, features=len(self.results), failed=len(self.failed))

    @property
    def remarks(self) -> list[str]:
        """Lines for people beside the table: how scores go with the truth, costs, and what went wrong."""
        found = []
        for name, (r, n) in self.agreement.items():
            if r.value is not None and r.low is not None:
                found.append(
                    f"{name} goes with the F1 of the best concept by a rank correlation of {r.value:.2f} "
                    f"[{r.low:.2f}, {r.high:.2f}] (n {n})."
                )
        reasons = Counter(self.failed.values())
        found += [f"{count} without an explanation: {why}." for why, count in reasons.most_common(3)]
        found += [self.spent] if self.spent else []
        found += [f"Stopped: {self.stopped}"] if self.stopped else []
        return [*found, f"Tables: {self.folder}"]


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
    return _finished(job.run())


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
        raise KanaryError(f"{index.folder} is the index of another SAE than {name} of {run}: kanary index {run}")
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
        self.stop: KanaryError | None = None
        self._unstored: list[int] = []

    async def run(self) -> Explained:
        index, config = self.opened.index, self.config
        special = frozenset(index.meta["special_ids"])
        vocabulary = Vocabulary.of(tuple(index.text.tokens(np.arange(self.opened.lm.vocab_size))), special)
        pool, random = self._read()
        marks = pool.concepts if config.concepts else None
        async with AsyncExitStack() as stack:
            parts = await open_parts(config, stack, self.folder, self.opened.lm, pool, vocabulary, marks)
            if not self.quiet:
                await parts.tell_estimate(pool, self.latents, config)
            try:
                await self._explain_all(pool, parts)
            finally:
                self._store()
            if not self.results:
                raise self.stop or self._unexplained()
            scored = {ITSELF: [self.results[latent].scores for latent in self.latents if latent in self.results]}
            if self.stop is None and config.controls:
                await self._add_controls(scored, pool, random, parts, vocabulary)
            table = rows(scored, config.seed)
            if "contrastive" in config.scorers:
                table += self._contrastive(random)
            return self._written(table, parts)

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

    async def _explain_all(self, pool: Pool, parts: Parts) -> None:
        waiting, logits = iter(self.latents), _logits(self.opened.index, self.latents)
        with features_bar(len(self.latents), self.quiet) as done:

            async def work() -> None:
                for latent in waiting:
                    if self.stop is not None:
                        return
                    await self._explain(latent, pool, logits, parts)
                    done(parts.cost)

            await asyncio.gather(*(work() for _ in range(AT_ONCE if self.config.calls else 1)))

    async def _explain(self, latent: int, pool: Pool, logits: Mapping[int, Logits], parts: Parts) -> None:
        evidence = gather(pool, latent, logits=logits, seed=self.config.seed)
        try:
            explanation = await parts.explainer.explain(evidence)
            self.results[latent] = Result(explanation, await parts.judging.scores(explanation, evidence))
        except Failed as failure:
            self.failed[latent] = str(failure)
            return
        except KanaryError as error:  # the budget is spent, or the endpoint is gone: what is there is kept
            self.stop = error
            return
        self._unstored.append(latent)
        if len(self._unstored) >= _STORE_EVERY:
            self._store()

    def _unexplained(self) -> KanaryError:
        why = Counter(self.failed.values()).most_common(1)[0][0]
        return KanaryError(f"None of the {len(self.latents):,} features could be explained: {why}.")

    def _store(self) -> None:
        kept, self._unstored = self._unstored, []
        if kept:
            self.opened.index.labels.add_explanations(_stored(latent, self.results[latent]) for latent in kept)

    async def _add_controls(
        self,
        scored: dict[str, list[tuple[Score, ...]]],
        pool: Pool,
        random: tuple[RandomSAE, Pool] | None,
        parts: Parts,
        vocabulary: Vocabulary,
    ) -> None:
        explained: dict[int, Explanation] = {
            latent: self.results[latent].explanation for latent in self._controlled() if latent in self.results
        }
        found = controls(explained, pool, random, parts.explainer, parts.judging, vocabulary, self.config.seed)
        with bar("controls", 6 * len(explained), "scorings", self.quiet) as show:
            try:
                async for name, scores in found:
                    scored.setdefault(name, []).append(scores)
                    show(1)
            except KanaryError as error:
                self.stop = error

    def _contrastive(self, random: tuple[RandomSAE, Pool] | None) -> list[Row]:
        """Of the SAE as a whole, and of the random one."""
        saes = [self.opened.sae, *([random[0].subject.sae] if random else [])]
        with bar("reading pairs of stories", CONCEPTS * PAIRS, "pairs", self.quiet) as show:
            stories = read_stories(self.opened.lm, saes, seed=self.config.seed, show=show)
        names = (ITSELF, "random SAE")
        return [
            contrastive_row(name, contrast(each, self.config.seed)) for name, each in zip(names, stories, strict=False)
        ]

    def _written(self, table: Sequence[Row], parts: Parts) -> Explained:
        results = {latent: self.results[latent] for latent in self.latents if latent in self.results}
        agreement = _agreement(self.opened.index, results, self.config.seed)
        stopped = str(self.stop) if self.stop else ""
        found = Explained(
            self.opened.name,
            parts.explainer.name,
            results,
            self.failed,
            table,
            agreement,
            parts.spent,
            stopped,
            self.folder,
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        write_explanations(self.folder / "explanations.csv", results)
        write_table(self.folder / "table.csv", table)
        about = {"summary": found.summary, "spent": found.spent, "stopped": stopped, "tokens": self.config.tokens}
        about |= {"failed": {str(latent): why for latent, why in self.failed.items()}}
        about |= {"agreement": {name: [*estimate, n] for name, (estimate, n) in agreement.items()}}
        write_json(self.folder / "summary.json", about | {"rows": [row.to_json() for row in table]})
        return found


def _logits(index: FeatureIndex, latents: Sequence[int]) -> dict[int, Logits]:
    ids = index.top_tokens()
    if not {"positive", "negative"} <= ids.keys():
        return {}
    return {latent: tuple(index.text.tokens(ids[k][latent]) for k in ("positive", "negative")) for latent in latents}


def _stored(latent: int, result: Result) -> tuple[int, str, str, list[dict[str, Any]], str | None]:
    """As the index's labels take it; the judge is part of a score's name, so that it is seen wherever the score is."""
    explanation = result.explanation
    scores = [
        {
            "name": f"{s.name}, {s.judge}",
            "value": s.value,
            "low": s.low,
            "high": s.high,
            "n": s.n,
            "failures": s.failures,
            "chance": CHANCE.get(s.name),
        }
        for s in result.scores
        if s.value is not None
    ]
    return latent, explanation.text, explanation.by, scores, explanation.title


def _agreement(index: FeatureIndex, results: Mapping[int, Result], seed: int) -> dict[str, tuple[Estimate, int]]:
    """Of the features that have a best concept, how scores go with its F1."""
    f1 = index.columns().get("f1")
    if f1 is None:
        return {}
    pairs: dict[str, list[tuple[float, float]]] = {}
    for latent, result in results.items():
        for score in result.scores:
            if score.value is not None and np.isfinite(f1[latent]):
                pairs.setdefault(score.name, []).append((score.value, float(f1[latent])))
    draw = np.random.default_rng([seed, 31])
    found: dict[str, tuple[Estimate, int]] = {}
    for name, each in pairs.items():
        scores, best = (np.array(column) for column in zip(*each, strict=True))
        if len(each) >= _ROOM:
            found[name] = spearman(scores, best, draw), len(each)
    return found


def _finished(job: Coroutine[Any, Any, Explained]) -> Explained:
    """Runs ``job`` to its end, in a thread of its own where this one already has a loop, as a notebook's has."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(job)
    found: list[Callable[[], Explained]] = []

    def work() -> None:
        try:
            value = asyncio.run(job)
            found.append(lambda: value)
        except BaseException as error:
            caught = error

            def again() -> Explained:
                raise caught

            found.append(again)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return found[0]()
