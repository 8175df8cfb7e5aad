"""One pass over the text: every statistic of every SAE and control, in memory that does not grow with the tokens."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from kanary.errors import KanaryError
from kanary.evaluation.losses import CHUNK, Clean, read, window_losses
from kanary.evaluation.metrics import fidelity_metrics, loss_metrics, merged, straight_metrics, token_stats
from kanary.evaluation.result import Details, Metric, Metrics
from kanary.evaluation.row import DetailedRow, Row, View, Whole
from kanary.evaluation.standin import STRAIGHT, Spliced, StandIn
from kanary.evaluation.sums import Sums, bootstrap, groups_of
from kanary.lm import LanguageModel, Trace, trace
from kanary.text import TokenBatch


class Measured(NamedTuple):
    """What :func:`measure` found."""

    rows: dict[str, dict[str, dict[str, Metric]]]
    details: dict[str, Details]
    tokens: int
    control_tokens: int
    windows: int
    groups: int
    """That the intervals rest on: documents, or long stretches of them; at most ``sums.GROUPS``."""


class _Part:
    """Windows and tokens of a part of the text, and the sums of the untouched activations over them."""

    def __init__(self, sites: Iterable[str]) -> None:
        self.windows = self.read = self.tokens = 0  # read: special tokens included
        self.sites = {site: Sums() for site in sites}

    def count(self, batch: TokenBatch) -> None:
        self.windows += len(batch.tokens)
        self.read += batch.tokens.numel()
        self.tokens += batch.n_tokens


class Measurement:
    """Takes batches one after another and adds up what every SAE and control makes of them."""

    def __init__(
        self,
        lm: LanguageModel,
        saes: Mapping[str, Spliced],
        controls: Mapping[str, StandIn],
        means: Mapping[str, Tensor],
        *,
        window: int,
        losses: bool = True,
        seed: int = 0,
    ) -> None:
        """
        Args:
            means: site -> mean activation ``[width]``, for the ablation.
            window: tokens per window.
            losses: also run the model on from the sites, for what needs its predictions.
            seed: of the bootstrap, and of the sample of norms.
        """
        self.lm, self.means, self.with_losses, self.seed = lm, means, losses, seed
        self.sites = list(dict.fromkeys(each.site for each in [*saes.values(), *controls.values()]))
        self.saes: dict[str, Row] = {name: DetailedRow(each, name, seed, window) for name, each in saes.items()}
        self.controls = {name: Row(each) for name, each in controls.items()}
        # of the same tokens as their SAEs, with which they are compared pair by pair
        self.straight = {name: row for name, row in self.controls.items() if name.startswith(STRAIGHT)}
        self.losses = {name: Sums() for name in (*saes, *controls)}
        self.whole, self.first = _Part(self.sites), _Part(self.sites)
        self.ablated: dict[tuple[str, str], Tensor] = {}  # logits [1, position, vocab] that hold for every window

    @torch.no_grad()
    def add(self, batch: TokenBatch, *, controls: bool) -> None:
        """Counts one batch for the SAEs; with ``controls``, also for the controls and the losses of all.

        Batches with controls come first. The forwards that losses need take as many windows at a time as there is room
        for their logits.
        """
        if not (controls and self.with_losses):
            self._add(batch, self.lm.capture(batch.tokens, self.sites), controls=controls)
            return
        room = CHUNK * (16 if self.lm.device.type == "cuda" else 1)
        parts = list(_split(batch, max(1, room // (batch.tokens.shape[1] * self.lm.vocab_size))))
        wholes = self._wholes(batch) if len(parts) > 1 else {}
        for part in parts:
            clean = trace(self.lm, part.tokens.to(self.lm.device), self.sites)
            self._add(part, clean.x, controls=True, clean=clean, wholes=wholes)

    def _wholes(self, batch: TokenBatch) -> dict[str, Whole]:
        kept = ~batch.special.to(self.lm.device)
        return {site: Whole.of(x[kept]) for site, x in self.lm.capture(batch.tokens, self.sites).items()}

    def _add(
        self,
        batch: TokenBatch,
        x: Mapping[str, Tensor],
        *,
        controls: bool,
        clean: Trace | None = None,
        wholes: Mapping[str, Whole] | None = None,
    ) -> None:
        special, place = batch.special.to(self.lm.device), groups_of(batch)
        predicted = read(clean.logits) if clean else None
        for site in self.sites:
            view = View(x[site], special, (wholes or {}).get(site))
            sums = view.sums()
            self.whole.sites[site].add(place, **sums)
            if controls:
                extra = self._ablations(clean, predicted, site, special) if clean and predicted else {}
                self.first.sites[site].add(place, **sums, **extra)
            for name, row in {**self.saes, **(self.controls if controls else self.straight)}.items():
                if row.standin.site == site:
                    x_hat = row.add(view, place)
                    if clean and predicted:
                        new = clean.replay(site, view.spliced(x_hat))
                        found = window_losses(predicted, new, clean.tokens, special)
                        self.losses[name].add(place, **found._asdict())
        for part in (self.whole, self.first) if controls else (self.whole,):
            part.count(batch)

    def _ablations(self, clean: Trace, predicted: Clean, site: str, special: Tensor) -> dict[str, Tensor]:
        """Sums of the clean model and of the two ablations, which spare no position."""
        sums = {"n_ce": (~special[:, :-1]).sum(1), "ce_clean": predicted.ce(clean.tokens, special)}
        x = clean.x[site]
        for name, value in (("zero", torch.zeros_like(x)), ("mean", self.means[site].to(x).expand_as(x))):
            found = window_losses(predicted, self._ablated(clean, site, name, value), clean.tokens, special)
            sums |= {f"ce_{name}": found.ce, f"kl_{name}": found.kl}
        return sums

    def _ablated(self, clean: Trace, site: str, name: str, value: Tensor) -> Tensor:
        """Logits with the same vector at every position: ``[windows or 1, position, vocab]``.

        Fast because nothing of the window is left in the residual stream, so one forward tells all. That is seen, not
        assumed: a family may read its tokens again further on.
        """
        known = self.ablated.get((site, name))
        if known is not None and known.shape[1] == clean.tokens.shape[1]:
            return known
        logits = clean.replay(site, value)
        room = sum(kept.numel() for kept in self.ablated.values()) + logits[0].numel() <= 4 * CHUNK
        if room and self.lm.site(site).kind in ("resid_pre", "resid_post"):
            others = dataclasses.replace(clean, tokens=clean.tokens.flip(1)).replay(site, value)
            if torch.equal(logits, others) and torch.equal(logits, logits[:1].expand_as(logits)):
                self.ablated[site, name] = logits[:1].clone()
        return logits

    def _lost(self, name: str, straight: str, draws: Mapping[int, Tensor]) -> Metrics:
        """What the SAE ``name`` loses when its functions are straightened."""
        site = self.saes[name].standin.site
        whole = self.whole.sites[site], self.saes[name].sums, self.controls[straight].sums, draws[id(self.whole)]
        if not (self.with_losses and self.first.tokens):
            return straight_metrics(*whole)
        losses = self.losses[name], self.losses[straight]
        return straight_metrics(*whole, (self.first.sites[site], *losses, draws[id(self.first)]))

    def result(self) -> Measured:
        """The numbers so far.

        Raises:
            KanaryError: not one token counted.
        """
        if not self.whole.tokens:
            raise KanaryError("There are no tokens to evaluate on: every one of them is special (BOS, EOS or padding).")
        parts = [part for part in (self.whole, self.first) if part.tokens]
        draws = {id(part): bootstrap(part.sites[self.sites[0]].columns["n"], self.seed) for part in parts}
        rows, details = {}, {}
        for name, row in {**self.saes, **self.controls}.items():
            site = row.standin.site
            part = self.whole if name in self.saes or name in self.straight else self.first
            if not part.tokens:
                continue
            drawn, sums = draws[id(part)], part.sites[site]
            found = [fidelity_metrics(sums, row.sums, drawn, row.width), row.sparsity(sums, drawn, part.tokens)]
            if self.with_losses and self.first.tokens:
                found.append(loss_metrics(self.first.sites[site], self.losses[name], draws[id(self.first)]))
            rows[name] = merged(*found, token_stats(self.first.tokens if self.with_losses else 0, part.tokens))
            if isinstance(row, DetailedRow):
                details[name] = row.details(sums, part.tokens)
        for name in self.straight:
            of = name.removeprefix(STRAIGHT)
            rows[of] = merged(rows[of], self._lost(of, name, draws))
        groups = int((self.whole.sites[self.sites[0]].columns["n"] > 0).sum())
        return Measured(rows, details, self.whole.tokens, self.first.tokens, self.whole.windows, groups)


def measure(
    measurement: Measurement,
    batches: Iterable[TokenBatch],
    *,
    tokens: int,
    control_tokens: int,
    show: Callable[[int], None] | None = None,
) -> Measured:
    """Reads ``batches`` until there are ``tokens`` tokens; controls and losses see the first ``control_tokens`` of them.

    Args:
        tokens, control_tokens: rounded up to whole batches; special tokens are read, but not counted in any number.
        show: called with the number of tokens of every batch.
    """
    for batch in batches:
        measurement.add(batch, controls=measurement.whole.read < control_tokens)
        if show:
            show(batch.tokens.numel())
        if measurement.whole.read >= tokens:
            break
    return measurement.result()


def _split(batch: TokenBatch, size: int) -> Iterator[TokenBatch]:
    fields = (batch.tokens, batch.documents, batch.positions, batch.special)
    return (TokenBatch(*(f[a : a + size] for f in fields)) for a in range(0, len(batch.tokens), size))
