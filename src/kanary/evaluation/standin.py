"""What can take the place of an activation: an SAE's reconstruction, and the controls that an SAE must be held against."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from kanary.activations.pool import generator
from kanary.errors import KanaryError
from kanary.evaluation.densities import Densities
from kanary.evaluation.splines import straighten
from kanary.sae import SAE, SAEConfig, SparseCodes
from kanary.sae.readable import learned
from kanary.training.learner import begin

STRAIGHT = "straight twin of "
"""Begins the name of the control in which an SAE's learned functions are straight lines; the SAE's name follows."""


class StandIn(Protocol):
    """Takes the place of the activations at a site."""

    @property
    def site(self) -> str: ...

    def __call__(self, x: Tensor) -> tuple[Tensor, SparseCodes | None]:
        """Raw activations of tokens that are not special, ``[tokens, width]``, to what stands in for them (same shape),
        and the codes if it has sparse ones."""
        ...


@dataclass(frozen=True)
class Spliced:
    """An SAE in the place of the activations that it reconstructs."""

    site: str
    sae: SAE

    @torch.no_grad()
    def __call__(self, x: Tensor) -> tuple[Tensor, SparseCodes]:
        codes = self.sae.encode(x)
        x_hat = self.sae.decode(codes).to(x.dtype)
        if not bool(x_hat.isfinite().all()):
            raise KanaryError(
                f"An SAE at {self.site} reconstructs NaN or infinity: its weights are too large or damaged."
            )
        return x_hat, codes


@dataclass(frozen=True)
class Identity:
    """Control: the activation itself, put back the way an SAE's output is. Anything but perfect scores is a fault."""

    site: str

    def __call__(self, x: Tensor) -> tuple[Tensor, None]:
        return x.clone(), None


@dataclass(frozen=True)
class PCA:
    """Control: the projection on the first ``k`` principal components, the best linear code of that many numbers."""

    site: str
    mean: Tensor
    """``[width]`` float32."""
    basis: Tensor
    """``[width, k]`` float32, orthonormal."""

    @property
    def k(self) -> int:
        return self.basis.shape[1]

    def __call__(self, x: Tensor) -> tuple[Tensor, None]:
        return (self.mean + ((x.float() - self.mean) @ self.basis) @ self.basis.T).to(x.dtype), None


class Calibration:
    """What the controls are fitted on: moments of the activations at one site, a sample of them, and what the learned
    functions of the SAEs there read."""

    SAMPLE = 4096

    def __init__(self, width: int, saes: Mapping[str, SAE] | None = None) -> None:
        """``saes``: by name, those at this site."""
        self.n = 0
        self.densities = {name: Densities(sae) for name, sae in (saes or {}).items() if learned(sae)}
        self.total = torch.zeros(width, dtype=torch.float64)
        self.products = torch.zeros(width, width, dtype=torch.float64)
        self.sample: Tensor = torch.zeros(0, width)

    def add(self, x: Tensor) -> None:
        """``x [tokens, width]``, raw, no special tokens."""
        values = x.to("cpu", torch.float64)
        self.n += len(x)
        self.total += values.sum(0)
        self.products += values.T @ values
        if len(self.sample) < self.SAMPLE:
            self.sample = torch.cat([self.sample.to(x), x[: self.SAMPLE - len(self.sample)]])
        for densities in self.densities.values():
            densities.add(x)

    @property
    def mean(self) -> Tensor:
        """``[width]`` float64."""
        return self.total / max(1, self.n)

    @cached_property
    def directions(self) -> Tensor:
        """``[width, width]`` float64: the principal directions of what was added so far, largest variance last."""
        covariance = self.products / max(1, self.n) - self.mean.outer(self.mean)
        directions: Tensor = torch.linalg.eigh(covariance).eigenvectors
        return directions

    def components(self, k: int) -> Tensor:
        """``[width, k]`` float64: the directions of largest variance."""
        return self.directions[:, -k:]

    def pca(self, site: str, k: int) -> PCA:
        k = min(k, len(self.total))
        return PCA(site, self.mean.to(self.sample.device).float(), self.components(k).to(self.sample.device).float())


def controls(
    saes: Mapping[str, SAE], calibrations: Mapping[str, Calibration], seed: int
) -> tuple[dict[str, StandIn], dict[str, dict[str, object]]]:
    """The control rows of ``saes``, by name, and which of them belong to which SAE."""
    rows: dict[str, StandIn] = {}
    belong: dict[str, dict[str, object]] = {}
    for name, sae in saes.items():
        site = str(sae.config.trained_on["site"])
        x = calibrations[site].sample
        rows[f"identity at {site}"] = Identity(site)
        k = typical_l0(sae, x)
        k = min(k, sae.d_model)
        pca = f"PCA with {k} component{'s' if k > 1 else ''} at {site}"
        if pca not in rows:
            rows[pca] = calibrations[site].pca(site, k)
        draw = _own(seed, sae)  # SAEs of several seeds have twins of several seeds
        twins = {f"untrained twin of {name}": untrained_twin(sae, x, draw)}
        twins[f"random twin of {name}"] = random_twin(sae, x, draw)
        if name in calibrations[site].densities:
            twins[STRAIGHT + name] = straighten(sae, calibrations[site].densities[name].result())
        rows |= {twin: Spliced(site, other) for twin, other in twins.items()}
        belong[name] = {"pca": pca, "twins": list(twins)}
    return rows, belong


def _own(seed: int, sae: SAE) -> int:
    """A seed for the twins of ``sae``, from that of the evaluation and that of its training."""
    trained = sae.config.trained_on.get("seed")
    return int(torch.randint(2**31, (), generator=generator("twins", seed, -1 if trained is None else int(trained))))


def typical_l0(sae: SAE, x: Tensor) -> int:
    """Mean number of active latents on ``x [tokens, d_model]``, rounded, at least 1."""
    return min(sae.d_sae, max(1, round(float(sae.encode(x).l0().double().mean()))))


def untrained_twin(sae: SAE, x: Tensor, seed: int) -> SAE:
    """A control: the same parts with fresh weights, as training on ``x [tokens, d_model]`` would begin with them."""
    twin = SAE(SAEConfig(**{**vars(sae.config), "trained_on": {}})).to(sae.mean.device)
    begin(twin, x, "median", int(torch.randint(2**31, (), generator=generator("untrained twin", seed))))
    twin.train()  # one batch's worth of looking: BatchTopK learns its threshold there
    with torch.no_grad():
        codes = twin.encode(x)
        least = float(codes.values.min()) if len(codes.values) else 0.0
        twin.sparsifier.after_step(float(codes.l0().double().mean()), least)
    return twin.eval()


def random_twin(sae: SAE, x: Tensor, seed: int) -> SAE:
    """A control: random unit directions read and written alike, as many active per token as ``sae`` has on ``x``.

    It shares the width, the standardisation and ``b_dec``, and its size of output is the best for ``x [tokens, d_model]``:
    whatever it scores, training is not the reason.
    """
    twin = SAE(SAEConfig(sae.d_model, sae.d_sae, sparsifier={"name": "topk", "k": typical_l0(sae, x)}))
    directions = torch.randn(sae.d_sae, sae.d_model, generator=generator("random twin", seed))
    with torch.no_grad():
        twin.mean.copy_(sae.mean)
        twin.scale.copy_(sae.scale)
        twin.decoder.b_dec.copy_(sae.decoder.b_dec)
        twin.decoder.begin(F.normalize(directions, dim=1))
        twin.encoder.tie(twin.decoder.W_dec)
        twin.to(sae.mean.device)
        z, z_hat = (sae.standardise(each).double() - twin.decoder.b_dec for each in (x, twin(x)))
        twin.encoder.tie(twin.decoder.W_dec * ((z * z_hat).sum() / z_hat.square().sum()))
    return twin
