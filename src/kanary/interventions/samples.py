"""Texts written under steering, and the same texts read back by the model as it is."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from kanary.errors import KanaryError
from kanary.interventions.edits import Edit
from kanary.interventions.generation import Batch, Request
from kanary.interventions.prompts import prompt_ids, special_at
from kanary.interventions.steerable import Steerable
from kanary.lm import LanguageModel, trace

ROWS = 16
"""Texts that are written or read at once."""
GRAM = 4
"""Tokens of a run that counts as repeated (seq-rep-4 of Welleck et al. 2020, arXiv 1908.04319)."""


class Sample(NamedTuple):
    """A prompt and what the model wrote after it."""

    prompt: str
    seed: int
    ids: tuple[int, ...]
    """Of the prompt, BOS included."""
    written: tuple[int, ...]
    text: str
    """What was written."""


class Reread(NamedTuple):
    """A sample's written tokens as the unsteered model reads them."""

    losses: Tensor
    """``[written]`` nats of predicting each."""
    x: dict[str, Tensor]
    """Site -> ``[written, width]`` raw activations."""
    special: Tensor
    """``[written]`` bool."""

    @property
    def loss(self) -> float:
        """Mean, in nats; its exponential is the perplexity."""
        return float(self.losses.double().mean())


def requests(
    lm: LanguageModel,
    prompts: Sequence[str],
    seeds: Sequence[int],
    edits: Sequence[Edit] = (),
    *,
    tokens: int = 40,
    temperature: float = 1.0,
) -> list[Request]:
    """One for every prompt and seed, prompt by prompt."""
    ids = [tuple(prompt_ids(lm, prompt).tolist()) for prompt in prompts]
    return [
        Request(each, tokens=tokens, temperature=temperature, seed=seed, edits=tuple(edits))
        for each in ids
        for seed in seeds
    ]


def write(panel: Steerable, asked: Sequence[Request], *, show: Callable[[int], None] | None = None) -> list[Sample]:
    """The texts, in the order asked for; ``show`` is told of each that is done.

    Raises:
        KanaryError: a request that cannot be served, or a strength that is too much for the model.
    """
    batch = Batch(panel)
    rows = []
    for some in torch.arange(len(asked)).split(ROWS):
        now = [batch.add(asked[i]) for i in some.tolist()]
        while batch.rows or any(row.ended is None for row in now):
            batch.step()
            if all(row.ended is not None for row in now):
                break
        for row in now:
            if row.problem is not None:
                raise row.problem
        rows += now
        if show:
            show(len(now))
    decode = panel.lm.tokenizer.decode
    return [
        Sample(
            decode([i for i in row.request.prompt if i not in panel.lm.special_ids]),
            row.request.seed,
            row.request.prompt,
            tuple(row.written),
            decode(row.written),
        )
        for row in rows
    ]


@torch.no_grad()
def reread(lm: LanguageModel, samples: Sequence[Sample], sites: Iterable[str] = ()) -> list[Reread]:
    """What the unsteered model makes of each sample."""
    found: list[Reread] = []
    names = list(dict.fromkeys(sites))
    for start in range(0, len(samples), ROWS):
        some = samples[start : start + ROWS]
        longest = max(len(each.ids) + len(each.written) for each in some)
        tokens = torch.zeros(len(some), longest, dtype=torch.int64)
        for row, each in zip(tokens, some, strict=True):
            row[: len(each.ids) + len(each.written)] = torch.tensor(each.ids + each.written)
        run = trace(lm, tokens.to(lm.device), names)  # what stands to the right of a text does not reach it
        for i, each in enumerate(some):
            span = slice(len(each.ids), len(each.ids) + len(each.written))
            logits = run.logits[i, span.start - 1 : span.stop - 1].float()
            losses = F.cross_entropy(logits, tokens[i, span].to(logits.device), reduction="none").cpu()
            x = {name: run.x[name][i, span].float().cpu() for name in names}
            found.append(Reread(losses, x, special_at(lm, tokens[i, span])))
    return found


def repetition(written: Sequence[int]) -> float:
    """Share of the runs of :data:`GRAM` tokens that stood in the text before; 0 where there are none."""
    grams = [tuple(written[i : i + GRAM]) for i in range(len(written) - GRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def refuse_empty(prompts: Sequence[str]) -> None:
    """Raises :class:`KanaryError` where there is no prompt."""
    if not prompts:
        raise KanaryError("No prompt was given: give at least one, such as --prompt 'Once upon a time'.")
