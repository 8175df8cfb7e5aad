"""An encoder that looks again: scores are corrected by what the reconstruction missed."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from kanary.config import option
from kanary.errors import KanaryError
from kanary.kernels import Pattern
from kanary.sae.codes import SparseCodes
from kanary.sae.curves import Schedule
from kanary.sae.encoders.linear import LinearEncoder
from kanary.sae.parts import Active, Decoder, Sparsifier, part
from kanary.sae.sparsifiers.topk import TopK

JOINS = 0.25  # penalties and thresholds must have found their place: docs/kan.md, "Looking again"
JOINS_TOPK = 0.02  # has neither


@dataclass(frozen=True)
class RefineOptions:
    rounds: int = option(2, "how often scores are corrected by what the reconstruction missed")
    candidates: int = option(4, "latents that may still become active, per active one (TopK and BatchTopK)")
    joins: float | None = option(
        None, "share of training after which the corrections begin to learn (0.02 with topk, 0.25 with the others)"
    )


@part("refine")
class RefineEncoder(LinearEncoder):
    """``pre_0 = W_enc (x - b_dec) + b_enc``, ``pre_t+1 = pre_t + gain_t * W_dec (x - x^_t)``, ``pre = pre_rounds``.

    ``x^_t`` is the decoding of the codes that ``pre_t`` gives; for curved decoders the tangent at these codes stands for
    ``W_dec``. Latents that say the same no longer both say all of it, and one that was passed over can still be chosen: a
    few steps of sparse coding, unrolled and learned with the rest, as in LISTA (Gregor & LeCun 2010), with a step per
    latent and round. One linear map cannot find the best sparse code (O'Neill et al. 2024, arXiv 2411.13117); other ways to
    look again are matching pursuit (Costa et al. 2025, arXiv 2506.03093) and a hidden layer (``mlp``). Only candidates are
    corrected: the entries that the sparsifier selects by ``pre_0``, for TopK and BatchTopK ``candidates`` times as many as
    fire in the end.

    d_model + 1 + T parameters per latent (T = ``rounds``); 2 d_model FLOPs per latent and token, and in every round
    2 d_model (1 + ``candidates``) per active one. ``gain = 0`` at the start, which is the linear encoder. State: ``W_enc
    [d_sae, d_model]``, ``b_enc [d_sae]``, ``gain [d_sae, T]``, and for BatchTopK the thresholds of earlier rounds.
    """

    Options = RefineOptions
    options: RefineOptions
    schedule: Schedule

    def __init__(self, d_model: int, d_sae: int, options: RefineOptions | None = None) -> None:
        super().__init__(d_model, d_sae, options)
        for name in ("rounds", "candidates"):
            if (value := getattr(self.options, name)) < 1:
                raise KanaryError(f"{name}={value}: give 1 or more, or --encoder linear for no correction.")
        self.gain = nn.Parameter(torch.zeros(d_sae, self.options.rounds))
        self.stages = nn.ModuleList()  # who chooses the candidates, and the codes of each round before the last
        self._asleep = False

    def meet(self, sparsifier: Sparsifier) -> None:
        if self.options.joins is None:  # what was meant is kept with the SAE
            self.options = replace(self.options, joins=JOINS_TOPK if isinstance(sparsifier, TopK) else JOINS)
        assert self.options.joins is not None
        self.schedule = Schedule(self.options.joins, 1.0)
        stages = [sparsifier.like(self.options.candidates), *(sparsifier.like(1) for _ in range(self.options.rounds))]
        self.stages = nn.ModuleList([stage for stage in stages if stage is not None])

    def active(self, x: Tensor, sparsifier: Sparsifier, decoder: Decoder, precision: str = "fp32") -> Active | None:
        if self.training and self._asleep:
            return super().active(x, sparsifier, decoder, precision)
        first, *rounds = self._stages(sparsifier)
        active = self.select(x, decoder.b_dec, first, precision)
        if active is None:
            return None
        for gain, stage in zip(self.gain.unbind(1), rounds, strict=True):
            active = _corrected(active, gain, *_missed(active, stage, sparsifier, decoder), decoder)
        assert active.pattern is not None
        return _only(active, sparsifier.keep(active.pre.detach(), active.pattern))

    def scores(self, x: Tensor, sparsifier: Sparsifier, decoder: Decoder, latents: Tensor) -> Tensor:
        """Those that are no candidates are corrected like these."""
        first, *rounds = self._stages(sparsifier)
        active, found = self.select(x, decoder.b_dec, first), super().scores(x, sparsifier, decoder, latents)
        offsets = torch.arange(len(x) + 1, device=x.device) * len(latents)
        wanted = Pattern(latents.repeat(len(x)), offsets, self.d_sae)
        for gain, stage in zip(self.gain.unbind(1), rounds, strict=True):
            assert active is not None
            assert active.pattern is not None
            missed, values = _missed(active, stage, sparsifier, decoder)
            codes = SparseCodes.of(values, active.pattern, (len(x),)).columns(latents)
            found = found + gain[latents] * decoder.along(missed, codes.reshape(-1), wanted).view_as(found)
            active = _corrected(active, gain, missed, values, decoder)
        return found

    def all_active(self, x: Tensor, sparsifier: Sparsifier, decoder: Decoder) -> Active:
        active = super().all_active(x, sparsifier, decoder)
        if self.training and self._asleep:
            return active
        mask = sparsifier.mask(active.pre.detach())  # what lists would hold
        for gain in self.gain.unbind(1):
            values = sparsifier.activate(active)
            step = decoder.along(x - decoder(values, None), values, None)
            active = Active(active.pre + mask * gain * step, None, x)
        return active

    def _stages(self, sparsifier: Sparsifier) -> list[Sparsifier]:
        """Who chooses the candidates, and the codes of every round before the last."""
        return self._own_stages() or [sparsifier] * (1 + self.options.rounds)

    def _own_stages(self) -> list[Sparsifier]:
        return [stage for stage in self.stages if isinstance(stage, Sparsifier)]

    def before_step(self, step: int, steps: int) -> None:
        self._asleep = not self.schedule.joined(step, steps) and not bool(self.gain.any())
        for stage in self._own_stages():
            stage.before_step(step, steps)

    @torch.no_grad()
    def observe(self, active: Active, values: Tensor) -> None:
        for stage in self._own_stages():
            stage.after_step(0.0, 0.0)

    def paces(self, step: int, steps: int) -> dict[str, float]:
        return {"gain": float(self.schedule.joined(step, steps))}

    @torch.no_grad()
    def tie(self, directions: Tensor) -> None:
        super().tie(directions)
        self.gain.zero_()

    @torch.no_grad()
    def reset(self, latents: Tensor, directions: Tensor) -> None:
        super().reset(latents, directions)
        self.gain[latents] = 0


def _missed(active: Active, stage: Sparsifier, sparsifier: Sparsifier, decoder: Decoder) -> tuple[Tensor, Tensor]:
    """What the codes that ``stage`` chooses among the candidates miss, ``[tokens, d_model]``; and these, ``[nnz]``."""
    assert active.pattern is not None
    keep = stage.keep(active.pre.detach(), active.pattern)
    kept = _only(active, keep)
    values = sparsifier.activate(kept)
    missed = active.x - decoder(values, kept.pattern)
    if keep is not None:  # candidates that are not chosen have the code 0
        values = torch.zeros_like(active.pre).masked_scatter(keep, values)
    return missed, values


def _corrected(active: Active, gain: Tensor, missed: Tensor, values: Tensor, decoder: Decoder) -> Active:
    step = decoder.along(missed, values, active.pattern)
    return Active(active.pre + active.per_latent(gain) * step, active.pattern, active.x)


def _only(active: Active, keep: Tensor | None) -> Active:
    """The entries where ``keep [nnz]`` is true; None for all."""
    if keep is None:
        return active
    assert active.pattern is not None
    return Active(active.pre[keep], active.pattern.keep(keep), active.x)
