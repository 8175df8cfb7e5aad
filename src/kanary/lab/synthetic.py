"""Activations whose features are known: sparse sums of planted directions, endless, and the same for the same seed.

A root feature fires on its own, or together with its partner; a child fires only where its parent does. What fires adds
its direction, as long as it is intense, and some directions turn as intensity grows. With rates that follow Zipf's law,
hierarchy and correlation this is the kind of problem of SynthSAEBench (arXiv 2602.14687); curved features are our own.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kanary.activations.pool import Pool, generator
from kanary.activations.source import resolve_pool
from kanary.config import option, to_mapping
from kanary.errors import KanaryError, nearest
from kanary.kernels import Pattern
from kanary.kernels.sparse import weigh_rows
from kanary.sae import SparseCodes

INTENSITY = (0.5, 1.5)
"""Least and greatest intensity of a feature that fires; every one between is as likely."""
CHILDREN = 4
"""Children of a parent."""
PARENTS_WITH_CHILD = 0.8
"""Children that fire per firing of their parent, in the mean; if they exclude each other, the share that has one."""
BLOCK = 4096
"""Samples that are drawn at once. A block depends on its number alone, so the size of batches does not matter."""
_SPREADING = 200
_KINDS = ("random", "spread")


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """What the features are like. The defaults are features that fire alone, straight and without noise."""

    features: int = option(512, "Number of features.", count=True)
    d_model: int = option(64, "Width of the activations.", count=True)
    active: float = option(8.0, "Features that fire per sample, in the mean.")
    zipf: float = option(0.5, "Rates of the roots fall as rank to the power of minus this; 0 = all fire equally often.")
    hierarchy: float = option(0.0, "Share of features that are children (at most 0.8); a parent has four.")
    exclusive: bool = option(True, "Of the children of one parent at most one fires at a time.")
    correlation: float = option(
        0.0, "Correlation (phi) of the firing of two roots without children, which neighbour in rate; all are in pairs."
    )
    noise: float = option(
        0.0, "Length of Gaussian noise, as a share of that of the sum of features (root mean square)."
    )
    curved: float = option(0.0, "Share of features whose direction turns with their intensity.")
    turn: float = option(
        math.pi / 2, "Angle between such a feature's directions at least and greatest intensity, radians."
    )
    directions: str = option(
        "random",
        "random: unit vectors of any direction; spread: pushed apart (orthogonal if they fit), those turned to likewise.",
    )
    seed: int = option(0, "Seed of the features and of what is drawn of them.")

    def __post_init__(self) -> None:
        if self.directions not in _KINDS:
            raise KanaryError(f"directions={self.directions!r} is unknown. {nearest(self.directions, _KINDS)}")
        most = CHILDREN / (CHILDREN + 1)
        for name, least, greatest in (
            ("features", 1, math.inf),
            ("d_model", 2 if self.curved else 1, math.inf),
            ("zipf", 0, math.inf),
            ("hierarchy", 0, most),
            ("correlation", 0, 1),
            ("noise", 0, math.inf),
            ("curved", 0, 1),
            ("turn", 0, 2 * math.pi),
        ):
            value = getattr(self, name)
            if not least <= value <= greatest or math.isinf(value):
                bounds = f"{least} or more" if math.isinf(greatest) else f"between {least} and {greatest:.4g}"
                raise KanaryError(f"{name}={value} must be {bounds}.")
        if not 0 < self.active < math.inf:
            raise KanaryError(f"active={self.active} must be above 0: samples without features cannot be told apart.")


class SyntheticActivations:
    """The features of a config, and an endless stream of samples of them: an ``ActivationSource`` to train SAEs on.

    Features ``0 … roots - 1`` are roots, most frequent first; the children of parent ``parents[i]`` are the four features
    from ``roots + 4 i`` on.

    Example::

        source = SyntheticActivations(SyntheticConfig(features=512, d_model=64), batch=1024)
        fitted = fit({"sae": TrainConfig(sae="topk", k=8, width=512, batch=1024)}, source, Path("runs/toy"))

    Attributes:
        directions: ``[features, d_model]`` float32, unit; that of a curved feature belongs to the middle intensity.
        sideways: ``[curved, d_model]`` float32, unit, orthogonal to its feature's direction: where that turns to.
        is_curved: ``[features]`` bool.
        rates: ``[features]`` float64: share of samples on which each fires.
        roots: number of features that are no children.
        parents: ``[families]`` int64: the roots that have children.
        given_parent: ``[4]`` float64: share of a parent's firings on which each of its children fires.
        parent: ``[features]`` int64: the parent of each, -1 for a root.
        partner: ``[features]`` int64: the feature that each is correlated with, -1 for none.
        noise_std: of the noise in every dimension.
    """

    def __init__(
        self,
        config: SyntheticConfig,
        *,
        pool: int = 65_536,
        batch: int = 1,
        device: str | torch.device = "cpu",
        site: str = "synthetic",
    ) -> None:
        """
        Args:
            pool: rows of a pool, rounded up to a multiple of ``batch`` (the training batch).
            device: where samples are put once drawn.
            site: the name that SAEs remember.

        Raises:
            KanaryError: so many features cannot be active, or pairs be so correlated, at these rates.
        """
        self.config = config
        self.sites, self.widths = [site], {site: config.d_model}
        self.device, self.pool_rows = torch.device(device), resolve_pool(pool, batch)
        self.roots = config.features - CHILDREN * (round(config.hierarchy * config.features) // CHILDREN)
        self._plant_family()
        self._plant_rates()
        self._plant_pairs()
        self._plant_directions()

    @property
    def d_model(self) -> int:
        return self.config.d_model

    @property
    def features(self) -> int:
        return self.config.features

    def directions_at(self, intensity: float) -> Tensor:
        """``[features, d_model]``: the unit direction of every feature where it fires with ``intensity``."""
        angle = self._angle(torch.tensor(float(intensity)))
        found = self.directions.clone()
        found[self.is_curved] = angle.cos() * found[self.is_curved] + angle.sin() * self.sideways
        return found

    def batches(self, batch: int, *, start: int = 0, stream: str = "train") -> Iterator[tuple[Tensor, SparseCodes]]:
        """Samples without end: activations ``x [batch, d_model]`` float32, and what fired, with its intensity.

        Args:
            start: samples to leave out at the front (they are not drawn), to go on after a stop.
            stream: another name gives other samples of the same features.
        """
        if batch < 1 or start < 0:
            raise KanaryError(f"batch={batch} must be 1 sample or more, and start={start} not below 0.")
        at, number, block = start, -1, None
        while True:
            pieces, missing = [], batch
            while missing:
                if block is None or at // BLOCK != number:
                    number = at // BLOCK
                    block = self._block(generator(f"synthetic {stream}", self.config.seed, number))
                span = slice(at % BLOCK, min(BLOCK, at % BLOCK + missing))
                pieces.append((block[0][span], block[1][span]))
                at += span.stop - span.start
                missing -= span.stop - span.start
            yield (
                torch.cat([x for x, _ in pieces]).to(self.device),
                SparseCodes.cat([t for _, t in pieces]).to(self.device),
            )

    def pools(self, start: Mapping[str, Any] | None = None) -> Iterator[Pool]:
        """See :class:`~kanary.activations.source.ActivationSource`; every sample counts as a document of its own.

        Raises:
            KanaryError: ``start`` comes from other features or another size of pools.
        """
        about = {"rows": self.pool_rows, "config": to_mapping(self.config)}
        if start and {**start, "pool": 0} != {**about, "pool": 0}:
            raise KanaryError(f"The run began with {start}; this source is {about}. Start a new run.")
        first = int(start["pool"]) if start else 0
        made = self.batches(self.pool_rows, start=first * self.pool_rows)
        zeros = torch.zeros(self.pool_rows, dtype=torch.int64)
        for index, (x, _) in enumerate(made, start=first):
            samples = torch.arange(self.pool_rows) + index * self.pool_rows
            state, after = {"pool": index, **about}, {"pool": index + 1, **about}
            yield Pool(index, {self.sites[0]: x}, zeros, samples, zeros.int(), state, after)

    def _plant_family(self) -> None:
        config, draw = self.config, generator("synthetic family", self.config.seed)
        count = (config.features - self.roots) // CHILDREN
        self.parents = torch.randperm(self.roots, generator=draw)[:count].sort().values
        self.parent = torch.full((config.features,), -1)
        self.parent[self.roots :] = self.parents.repeat_interleave(CHILDREN)
        self._family = torch.full((config.features,), -1)  # number of every parent among the parents
        self._family[self.parents] = torch.arange(count)

    def _plant_rates(self) -> None:
        config = self.config
        falling = torch.arange(1, self.roots + 1, dtype=torch.float64) ** -config.zipf
        siblings = torch.arange(1, CHILDREN + 1, dtype=torch.float64) ** -config.zipf
        self.given_parent = PARENTS_WITH_CHILD * siblings / siblings.sum()  # [CHILDREN] float64, a child's rate there
        per_firing = torch.ones(self.roots, dtype=torch.float64)
        per_firing[self.parents] += PARENTS_WITH_CHILD
        rates = falling * (config.active / (falling @ per_firing))
        if float(rates[0]) >= 1:
            most = config.active / float(rates[0])
            raise KanaryError(
                f"active={config.active} of {config.features} features: the most frequent would fire more often than "
                f"always. At zipf={config.zipf} active must be below {most:.4g}."
            )
        self.rates = torch.cat([rates, torch.outer(rates[self.parents], self.given_parent).flatten()])

    def _plant_pairs(self) -> None:
        """The Poisson processes of a block: roots alone, then pairs.

        A feature fires where at least one event of its own or of its pair falls. With event rates ``-log(1 - rate)`` in
        all, rates are exact, features independent, and phi of a pair follows from the share of its common events.
        """
        phi, every = self.config.correlation, -torch.log1p(-self.rates[: self.roots])
        lonely = torch.ones(self.roots, dtype=torch.bool)
        lonely[self.parents] = False
        alone = lonely.nonzero().squeeze(1)
        self.partner = torch.full((self.features,), -1)
        self._pairs = alone[: len(alone) // 2 * 2].view(-1, 2) if phi else alone[:0].view(-1, 2)
        odds = (self.rates / (1 - self.rates))[self._pairs]  # [pairs, 2]
        common = torch.log1p(phi * odds.prod(1).sqrt())
        if bool((common > (1 + 1e-9) * every[self._pairs].amin(1)).any()):
            most = float((odds.amin(1) / odds.amax(1)).sqrt().min())
            raise KanaryError(
                f"correlation={phi} is more than features of different rates can have: at most {most:.3g}."
            )
        own = every.clone()
        own[self._pairs] -= common[:, None]
        self._events = BLOCK * torch.cat([own, common]).clamp_min(0)  # expected in a block
        self._first = torch.cat([torch.arange(self.roots), self._pairs[:, 0]])
        self.partner[self._pairs] = self._pairs.flip(1)

    def _plant_directions(self) -> None:
        config, draw = self.config, generator("synthetic directions", self.config.seed)
        chosen = torch.randperm(config.features, generator=draw)[: round(config.curved * config.features)].sort().values
        vectors = torch.randn(config.features + len(chosen), config.d_model, generator=draw)
        vectors = F.normalize(vectors, dim=1) if config.directions == "random" else spread(F.normalize(vectors, dim=1))
        self.directions, across = vectors[: config.features], vectors[config.features :]
        along = self.directions[chosen]
        self.sideways = F.normalize(across - (across * along).sum(1, keepdim=True) * along, dim=1)
        self.is_curved = torch.zeros(config.features, dtype=torch.bool)
        self.is_curved[chosen] = True
        self._curve = torch.full((config.features,), -1)  # number of every curved feature among these
        self._curve[chosen] = torch.arange(len(chosen))
        low, high = INTENSITY
        power = config.active * (low * low + low * high + high * high) / 3  # of the sum, were directions orthogonal
        self.noise_std = config.noise * math.sqrt(power / config.d_model)

    def _angle(self, intensity: Tensor) -> Tensor:
        low, high = INTENSITY
        return self.config.turn * ((intensity - low) / (high - low) - 0.5)

    def _block(self, draw: torch.Generator) -> tuple[Tensor, SparseCodes]:
        keys = self._fired(draw)
        rows = keys // self.features
        features = keys - rows * self.features
        offsets = F.pad(torch.bincount(rows, minlength=BLOCK).cumsum(0), (1, 0))
        low, high = INTENSITY
        intensity = torch.rand(len(keys), generator=draw).mul_(high - low).add_(low)
        truth = SparseCodes(features, intensity, offsets, self.features, (BLOCK,))
        straight, x = intensity, None
        if len(self.sideways):
            curve = self._curve[features]
            turning = curve >= 0
            angle = self._angle(intensity).mul_(turning)
            straight = intensity * angle.cos()
            pattern = Pattern(curve, offsets, len(self.sideways)).keep(turning)
            x = weigh_rows((intensity * angle.sin())[turning], pattern, self.sideways)
        along = weigh_rows(straight, truth.pattern, self.directions)
        x = along if x is None else x + along
        if self.noise_std:
            x += torch.randn(x.shape, generator=draw).mul_(self.noise_std)
        return x, truth

    def _fired(self, draw: torch.Generator) -> Tensor:
        """What fires in a block: ``[nnz]`` int64 ``row * features + feature``, ascending."""
        # fast because the work grows with what fires, not with the number of features
        counts = torch.poisson(self._events, generator=draw).long()
        events = torch.repeat_interleave(counts)
        rows = torch.randint(BLOCK, (len(events),), generator=draw) * self.features
        common = events >= self.roots
        partners = self._pairs[events[common] - self.roots, 1]
        keys = torch.cat([rows + self._first[events], rows[common] + partners]).unique()
        return keys if not len(self.parents) else torch.cat([keys, self._children(keys, draw)]).sort().values

    def _children(self, keys: Tensor, draw: torch.Generator) -> Tensor:
        """The children that fire where ``keys`` (ascending, each once) do, in no order."""
        family = self._family[keys % self.features]
        keys, family = keys[family >= 0], family[family >= 0]
        first = keys // self.features * self.features + self.roots + CHILDREN * family  # key of the eldest
        if not self.config.exclusive:
            on = torch.rand(len(keys), CHILDREN, generator=draw, dtype=torch.float64) < self.given_parent
            return (first[:, None] + torch.arange(CHILDREN))[on]
        dice = torch.rand(len(keys), generator=draw, dtype=torch.float64)
        which = torch.searchsorted(self.given_parent.cumsum(0), dice, right=True)
        return (first + which)[which < CHILDREN]


def spread(directions: Tensor) -> Tensor:
    """Unit ``directions [n, d]`` pushed apart: orthogonal if n is at most d, else with small cosines for their number."""
    n, d = directions.shape
    if n <= d:
        orthogonal: Tensor = torch.linalg.qr(directions.T).Q.T.contiguous()
        return orthogonal
    for _ in range(_SPREADING):
        cosines = (directions @ directions.T).fill_diagonal_(0)
        # large cosines count most; the step keeps the sum of a row's pushes of the order of its largest cosine
        push = cosines.pow(3)
        push /= push.abs().sum(1, keepdim=True).clamp_min(1e-12) / cosines.abs().amax(1, keepdim=True)
        directions = F.normalize(directions - 0.2 * push @ directions, dim=1)
    return directions
