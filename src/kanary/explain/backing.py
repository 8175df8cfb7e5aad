"""From the names on the command line to the explainer, the judges and the scorers of a job."""

from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kanary.errors import KanaryError
from kanary.explain.backends import open_backend
from kanary.explain.cache import Cached
from kanary.explain.client import Client, Endpoint
from kanary.explain.controls import Judging
from kanary.explain.embedding import Embedding
from kanary.explain.judges import EmbeddingJudge, RuleJudge
from kanary.explain.options import ExplainConfig
from kanary.explain.pool import ConceptMarks, Pool
from kanary.explain.rule import RuleExplainer
from kanary.explain.scorers import Detection, Examples, Fuzzing, Intruder, RubricGrade, Simulation
from kanary.explain.spending import Price
from kanary.explain.surprisal import Surprisal
from kanary.explain.types import Explainer, Judge, Scorer
from kanary.explain.vocabulary import Vocabulary
from kanary.lm import LanguageModel

ASKED = {"detection": 20, "fuzzing": 20, "intruder": 5, "simulation": 5}
"""Where a language model answers: positives and negatives, excerpts, questions, and excerpts of each kind at most."""
_LEARNED_FROM = 4000  # pieces, from which it is learned how rare words are


@dataclass(frozen=True)
class Parts:
    """What explains and what scores, and what was spent by it."""

    explainer: Explainer
    judging: Judging
    backends: tuple[Cached, ...]
    """Of language models that are asked."""

    @property
    def cost(self) -> str:
        """A few words for the progress bar."""
        usd = [backend.spent.usd for backend in self.backends]
        known = [each for each in usd if each is not None]
        return f"${sum(known):.2f}" if known else ""

    @property
    def spent(self) -> str:
        return " ".join(str(backend.spent) for backend in self.backends)

    @property
    def endpoint(self) -> Client | None:
        """What is paid, where an endpoint is asked."""
        found = (backend.backend for backend in self.backends)
        return next((each for each in found if isinstance(each, Client)), None)


async def open_parts(
    config: ExplainConfig,
    stack: AsyncExitStack,
    folder: Path,
    lm: LanguageModel,
    pool: Pool,
    vocabulary: Vocabulary,
    marks: ConceptMarks | None,
) -> Parts:
    """Opens what ``config`` names; ``stack`` closes it.

    Raises:
        KanaryError: a back end cannot be opened: no key, no such folder.
    """
    opened: dict[str, Cached] = {}
    for name in (config.explainer, _judge_name(config)):
        if name.partition(":")[0] in ("llm", "local") and name not in opened:
            opened[name] = await _backend(name, config, stack, folder)
    embedding = Embedding(_texts(pool))
    explainer = _explainer(config, opened, folder, vocabulary, marks)
    judge = _judge(_judge_name(config), opened, embedding)
    asked = ASKED if opened and _judge_name(config) in opened else {}
    of_features = [name for name in config.scorers if name != "contrastive"]  # which is one of the SAE as a whole
    scorers = [_scorer(name, config.seed, asked.get(name), embedding, lm) for name in of_features]
    pairs = [(scorer, _judge_for(scorer, judge, embedding)) for scorer in scorers]
    return Parts(explainer, Judging(pairs), tuple(opened.values()))


def _judge_name(config: ExplainConfig) -> str:
    if config.judge != "auto":
        return config.judge
    return config.explainer if config.explainer.partition(":")[0] in ("rule", "llm", "local") else "embedding"


async def _backend(name: str, config: ExplainConfig, stack: AsyncExitStack, folder: Path) -> Cached:
    endpoint = None
    if name == "llm":
        assert config.llm is not None
        endpoint = Endpoint(
            model=config.llm,
            base_url=config.llm_url,
            in_flight=config.in_flight,
            per_minute=config.rate,
            price=Price.parse(config.price) if config.price else None,
            budget_usd=config.budget_usd,
        )
    folder.mkdir(parents=True, exist_ok=True)
    return await stack.enter_async_context(open_backend(name, cache=folder / "answers.sqlite", endpoint=endpoint))


def _explainer(
    config: ExplainConfig, opened: dict[str, Cached], folder: Path, vocabulary: Vocabulary, marks: ConceptMarks | None
) -> Explainer:
    kind, _, rest = config.explainer.partition(":")
    if kind == "rule":
        return RuleExplainer(vocabulary, marks)
    if kind == "neuronpedia":
        from kanary.explain.neuronpedia import Neuronpedia

        model, slash, source = rest.partition("/")
        if not slash:
            raise KanaryError(f"explainer={config.explainer!r}: write neuronpedia:MODEL/SAE, as its addresses do.")
        found: Explainer = Neuronpedia(model=model, source=source, cache=folder / "neuronpedia.sqlite")
        return found
    from kanary.explain.llm import LLMExplainer

    return LLMExplainer(opened[config.explainer])


def _judge(name: str, opened: dict[str, Cached], embedding: Embedding) -> Judge:
    if name in opened:
        from kanary.explain.llm_judge import LLMJudge

        return LLMJudge(opened[name])
    return RuleJudge() if name == "rule" else EmbeddingJudge(embedding)


def _judge_for(scorer: Scorer, judge: Judge, embedding: Embedding) -> Judge:
    """A rule cannot say what is odd without an explanation; words can."""
    if scorer.name == "intruder" and isinstance(judge, RuleJudge):
        return EmbeddingJudge(embedding)
    return judge


def _scorer(name: str, seed: int, most: int | None, embedding: Embedding, lm: LanguageModel) -> Scorer:
    match name:
        case "detection":
            return Detection(seed=seed) if most is None else Detection(most, seed)
        case "fuzzing":
            return Fuzzing(seed=seed) if most is None else Fuzzing(most, seed)
        case "intruder":
            return Intruder(seed=seed) if most is None else Intruder(most, seed)
        case "simulation":
            return Simulation(seed=seed) if most is None else Simulation(most, seed)
        case "examples":
            return Examples(embedding, seed)
        case "rubric":
            return RubricGrade()
        case _:
            return Surprisal(lm, seed=seed)


def _texts(pool: Pool) -> list[str]:
    """The texts of some pieces, evenly over all."""
    which = np.linspace(0, len(pool.pieces) - 1, min(_LEARNED_FROM, len(pool.pieces))).astype(int)
    tokens = pool.text.tokens(np.maximum(pool.pieces.ids[which], 0))
    lengths = pool.pieces.length[which].tolist()
    return ["".join(row[:n]) for row, n in zip(tokens, lengths, strict=True)]
