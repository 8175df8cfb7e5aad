"""The codes of two lists of prompts, and which latents fire there for a reason that both lists have."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from kanary.interventions.prompts import prompt_ids, special_at, token_texts
from kanary.lm import LanguageModel
from kanary.progress import bar
from kanary.sae import SAE, SparseCodes

Pool = Literal["max", "mean", "last"]
POOLS: tuple[Pool, ...] = ("max", "mean", "last")
BATCH = 16
STRONGEST = 4
"""One in so many of the latents that fire at a token counts as strong there."""
ALWAYS, MOST = 0.5, 0.8
"""Share of the tokens (or starts, or prompts) of each list at which a latent fires for a reason that both have; and share of
its activity that must lie there."""
ENDS = (".", "!", "?", "\n", '."', '!"', '?"', ".)", ":")
"""What may stand before the first word of a sentence."""


@dataclass(frozen=True)
class PromptCodes:
    """Codes of the tokens of all prompts that are not special, one prompt after the other."""

    codes: SparseCodes
    prompt: Tensor
    """``[tokens]`` int64: which prompt."""
    position: Tensor
    """``[tokens]`` int64: place in its prompt, BOS left out."""
    starts: Tensor
    """``[tokens]`` bool: the first token of a sentence."""
    positive: Tensor
    """``[prompts]`` bool: the list that each is from."""
    texts: tuple[tuple[str, ...], ...]
    """The tokens of every prompt."""

    @property
    def d_sae(self) -> int:
        return self.codes.d_sae

    @cached_property
    def sizes(self) -> Tensor:
        """``[prompts]`` int64: tokens."""
        return torch.bincount(self.prompt, minlength=len(self.positive))

    @cached_property
    def _cells(self) -> Tensor:
        """``[nnz]`` int64: prompt and latent of every code."""
        return self.prompt[self.codes.rows()] * self.d_sae + self.codes.indices

    def pooled(self, pool: Pool) -> Tensor:
        """``[prompts, d_sae]`` float32: each latent's code in each prompt: its largest, its mean, or that of the last token."""
        table, values = torch.zeros(len(self.positive) * self.d_sae), self.codes.values.float()
        if pool == "max":
            table.scatter_reduce_(0, self._cells, values, "amax")
        else:
            kept = torch.ones_like(values)
            if pool == "last":
                kept = (self.position == self.sizes[self.prompt] - 1)[self.codes.rows()].float()
            table.index_add_(0, self._cells, values * kept)
        found = table.view(-1, self.d_sae)
        return found / self.sizes[:, None] if pool == "mean" else found

    def strong(self) -> Tensor:
        """``[prompts, d_sae]`` float32: share of tokens at which a latent is in the strongest quarter of those that fire."""
        rows, order = self.codes.rows(), self.codes.values.argsort(descending=True, stable=True)
        order = order[rows[order].argsort(stable=True)]
        rank = torch.arange(len(order)) - self.codes.offsets[rows[order]]
        strong = rank < (self.codes.offsets.diff()[rows[order]] + STRONGEST - 1) // STRONGEST
        cells = torch.zeros(len(self.positive) * self.d_sae)
        cells.index_add_(0, self._cells[order], strong.float())
        return cells.view(-1, self.d_sae) / self.sizes[:, None]

    def nuisances(self) -> dict[int, tuple[str, str]]:
        """Latent -> (why, in words) for those that fire for a reason that both lists have."""
        found: dict[int, tuple[str, str]] = {}
        fires, place, there = self._one_position()
        for latent in ((fires >= ALWAYS) & (there >= MOST)).nonzero()[:, 0].tolist():
            found[latent] = (
                "position",
                f"{there[latent]:.0%} of its activity is at token {place[latent] + 1} of the prompts",
            )
        begins = self._activity(self.starts) / self._activity(None).clamp_min(1e-30)
        for latent in ((self._in_both(self.starts) >= ALWAYS) & (begins >= MOST)).nonzero()[:, 0].tolist():
            found[latent] = ("sentence start", f"{begins[latent]:.0%} of its activity is where sentences start")
        always = self._in_both(None)
        for latent in (always >= ALWAYS).nonzero()[:, 0].tolist():
            found[latent] = ("always on", f"it fires at {always[latent]:.0%} or more of the tokens of either list")
        return found

    def _activity(self, tokens: Tensor | None) -> Tensor:
        """``[d_sae]``: sum of a latent's absolute codes at ``tokens [tokens]`` bool."""
        kept = slice(None) if tokens is None else tokens[self.codes.rows()]
        return torch.zeros(self.d_sae).index_add_(0, self.codes.indices[kept], self.codes.values[kept].abs().float())

    def _in_both(self, tokens: Tensor | None) -> Tensor:
        """``[d_sae]``: share of ``tokens [tokens]`` bool at which a latent fires, in the list where it is less."""
        rows, shares = self.codes.rows(), []
        for side in (True, False):
            here = (self.positive == side)[self.prompt]
            here = here if tokens is None else here & tokens
            fired = torch.bincount(self.codes.indices[here[rows]], minlength=self.d_sae)
            shares.append(fired / here.sum().clamp_min(1))
        return torch.minimum(*shares)

    def _one_position(self) -> tuple[Tensor, Tensor, Tensor]:
        """``[d_sae]`` each: share of prompts in which a latent fires at its own position (in the list where that is less),
        that position, and the share of its activity there."""
        best, share = torch.zeros(self.d_sae, dtype=torch.int64), torch.zeros(self.d_sae)
        total = self._activity(None).clamp_min(1e-30)
        for place in range(int(self.position.max()) + 1):
            here = self._activity(self.position == place) / total
            best, share = torch.where(here > share, place, best), torch.maximum(here, share)
        entries = self.position[self.codes.rows()] == best[self.codes.indices]
        fires = []
        for side in (True, False):
            mine = entries & (self.positive == side)[self.prompt[self.codes.rows()]]
            prompts = (self.positive == side).sum()
            fires.append(torch.bincount(self.codes.indices[mine], minlength=self.d_sae) / prompts)
        return torch.minimum(*fires), best, share


@torch.no_grad()
def read_prompts(
    lm: LanguageModel, sae: SAE, positive: Sequence[str], negative: Sequence[str], *, quiet: bool = True
) -> PromptCodes:
    """Runs the model on both lists, up to the SAE's site.

    Raises:
        KanaryError: a prompt is empty or longer than the model reads.
    """
    sae, site = sae.to(lm.device), str(sae.config.trained_on["site"])
    ids = [prompt_ids(lm, text) for text in (*positive, *negative)]
    codes: dict[int, SparseCodes] = {}
    with bar("reading prompts", len(ids), "prompts", quiet) as show:
        for some in _alike(ids):
            tokens = pad_sequence(
                [ids[i] for i in some], batch_first=True
            )  # on the right, where a causal model never looks
            x = lm.capture(tokens, [site])[site]
            for row, i in zip(x, some, strict=True):
                keep = ~special_at(lm, ids[i])
                codes[i] = sae.encode(row[: len(ids[i])][keep.to(x.device)]).to("cpu")
            show(len(some))
    words = [token_texts(lm, each[~special_at(lm, each)].tolist()) for each in ids]
    sizes = torch.tensor([len(each) for each in words])
    return PromptCodes(
        SparseCodes.cat([codes[i] for i in range(len(ids))]),
        torch.repeat_interleave(torch.arange(len(ids)), sizes),
        torch.cat([torch.arange(n) for n in sizes.tolist()]),
        torch.tensor([start for each in words for start in sentence_starts(each)]),
        torch.arange(len(ids)) < len(positive),
        tuple(map(tuple, words)),
    )


def sentence_starts(words: Sequence[str]) -> Iterator[bool]:
    """For every token of a prompt, whether a sentence begins with it: at the first, and behind a sign that ends one."""
    before, begins = "", True
    for word in words:
        wordy = any(c.isalnum() for c in word)
        yield begins and wordy
        before = (before + word)[-4:]
        begins = before.rstrip(" ").endswith(ENDS) or (begins and not wordy)


def _alike(ids: Sequence[Tensor]) -> Iterator[list[int]]:
    """Numbers of prompts of similar length, a batch at a time."""
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    return (order[a : a + BATCH] for a in range(0, len(order), BATCH))
