"""What ``kanary explain`` can be asked for."""

import dataclasses

from kanary.config import option
from kanary.errors import KanaryError, nearest

SCORERS = ("detection", "fuzzing", "intruder", "simulation", "examples", "rubric", "surprisal", "contrastive")
EXPLAINERS = ("rule", "llm", "local:FOLDER", "neuronpedia:MODEL/SAE")
JUDGES = ("auto", "rule", "embedding", "llm", "local:FOLDER")
_LLM = "Language model as explainer or judge"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExplainConfig:
    """Which features to explain, by what, and how to find out whether to believe it."""

    features: str = option("alive:50", "Numbers, ranges like 0:50, alive:100, list:NAME or all; commas between.")
    explainer: str = option("rule", f"What explains: {', '.join(EXPLAINERS)}.")
    scorers: tuple[str, ...] = option(("detection", "fuzzing", "simulation"), f"Scores: {', '.join(SCORERS)}.")
    judge: str = option(
        "auto",
        f"Who answers the scorers' questions: {', '.join(JUDGES)}; auto = the rule or the LLM that explains.",
    )
    controls: int = option(20, "Features for which the controls are computed too; 0 = none.", count=True)
    sae: str | None = option(None, "Name of the SAE, where the run has several.")
    model: str | None = option(None, "The language model, if it has moved since training.")
    dtype: str = option("auto", "Numbers the model computes with: auto (as saved), float32, bfloat16.")
    device: str = option("auto", "Where to compute: auto, cpu, cuda, cuda:1.")
    tokens: int = option(
        100_000, "Tokens of the index's text to draw examples from; more for features that fire rarely.", count=True
    )
    concepts: bool = option(True, "Rules may speak of the labelled corpus's concepts, where that is the text.")
    seed: int = option(0, "Seed of halves, examples and intervals.")
    workers: int = option(0, "Processes, where no language model is asked (Linux); 0 = as many as cores.")
    out: str | None = option(None, "Folder for the tables; by default RUN/explain/NAME.")
    llm: str | None = option(None, "Name of the model at the endpoint.", group=_LLM)
    llm_url: str | None = option(None, "The endpoint; by default OPENAI_BASE_URL, else OpenAI's.", group=_LLM)
    in_flight: int = option(32, "Calls at once.", group=_LLM)
    rate: int | None = option(None, "Calls per minute at most.", group=_LLM)
    price: str | None = option(None, "US$ per million tokens: IN,OUT.", group=_LLM)
    budget_usd: float | None = option(None, "Stop before more than this is spent.", group=_LLM)

    def __post_init__(self) -> None:
        for scorer in self.scorers:
            if scorer not in SCORERS:
                raise KanaryError(f"Unknown scorer {scorer!r}. {nearest(scorer, SCORERS)}")
        _refuse_unknown("explainer", self.explainer, EXPLAINERS)
        _refuse_unknown("judge", self.judge, JUDGES)
        if self.tokens < 1 or self.controls < 0:
            raise KanaryError(f"tokens={self.tokens} must be 1 or more, controls={self.controls} 0 or more.")
        if self.workers < 0:
            raise KanaryError(f"workers={self.workers} must be 0 (as many as cores) or more.")
        if self.llm is None and "llm" in (self.explainer, self.judge):
            raise KanaryError("Say which model to ask: --llm NAME, as the endpoint calls it.")
        if self.budget_usd is not None and self.price is None:
            raise KanaryError("A budget needs a price: --price IN,OUT in US$ per million tokens.")

    @property
    def calls(self) -> bool:
        """Whether a language model other than the SAE's is asked."""
        return any(kind in ("llm", "local") for kind in (_kind(self.explainer), _kind(self.judge)))

    @property
    def reads_no_model(self) -> bool:
        """Whether numpy alone explains and scores, once the text has been read."""
        return (
            self.explainer == "rule" and self.judge in ("auto", "rule", "embedding") and "surprisal" not in self.scorers
        )


def _refuse_unknown(what: str, given: str, known: tuple[str, ...]) -> None:
    kind, colon, rest = given.partition(":")
    names = {name.partition(":")[0]: ":" in name for name in known}
    if kind not in names:
        raise KanaryError(f"Unknown {what} {given!r}. {nearest(given, known)}")
    if names[kind] != bool(colon and rest):
        raise KanaryError(f"{what}={given!r}: write {next(name for name in known if name.startswith(kind))}.")


def _kind(given: str) -> str:
    return given.partition(":")[0]
