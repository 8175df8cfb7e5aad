"""Absorption and splitting that are planted come out, token by token as written down by hand."""

from __future__ import annotations

from collections.abc import Sequence
from math import erf
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kanary.errors import KanaryError
from kanary.evaluation.concepts.absorption import Absorption, absorbed, absorption, main_latents
from kanary.evaluation.concepts.probing import Draws, balanced_draws, entries_at, probe_all
from kanary.sae import SAE, SAEConfig, SparseCodes

TOKENS, WIDTH, LATENTS = 6000, 12, 16
PARENT, CHILD, OTHER_CHILD = 0, 1, 2
CONCEPTS = ("animal", "dog", "cat")
FAMILY = {"animal": ["dog", "cat"]}


class World:
    """Half of the tokens are animals, 4 % of these dogs, 4 % cats.

    Direction 0 is the animal's, 1 the dog's, 2 the cat's; everything else is noise in the other directions. The SAE is
    standardised with a large offset and a scale, which must not matter. Subclassing tests say what the latents do.
    """

    def __init__(self, seed: int = 0, noise: float = 0.05) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.documents = torch.arange(TOKENS) // 100
        self.test = self.documents % 2 == 0
        animal = torch.rand(TOKENS, generator=draw) < 0.5
        kind = torch.rand(TOKENS, generator=draw)
        self.labels = torch.stack([animal, animal & (kind < 0.04), animal & (kind > 0.96)], 1)
        self.judged = torch.ones_like(self.labels)
        self.dog, self.cat, self.animal = self.labels[:, 1], self.labels[:, 2], animal
        self.directions = torch.eye(LATENTS, WIDTH)
        self.directions[WIDTH:] = torch.nn.functional.normalize(
            torch.randn(LATENTS - WIDTH, WIDTH, generator=draw) * (torch.arange(WIDTH) > 3), dim=1
        )
        self.strength = 4 + torch.rand(TOKENS, generator=draw)
        self.noise = noise * torch.randn(TOKENS, WIDTH, generator=draw)
        self.dense = torch.zeros(TOKENS, LATENTS)
        background = torch.rand(TOKENS, LATENTS - 4, generator=draw)
        self.dense[:, 4:] = background * (torch.rand(TOKENS, LATENTS - 4, generator=draw) < 0.1)
        self.dense[:, 0] = self.strength * self.animal
        self.dense[:, 1] = self.strength * self.dog
        self.dense[:, 2] = self.strength * self.cat

    def sae(self, origin: float = 30.0, scale: float = 0.25, length: float = 1.0) -> SAE:
        sae = SAE(SAEConfig(WIDTH, LATENTS, sparsifier={"name": "topk", "k": 3}))
        with torch.no_grad():
            sae.decoder.W_dec.copy_(self.directions * length)
            sae.decoder.b_dec.fill_(0.1)
            sae.mean.fill_(origin)
            sae.scale.fill_(scale)
        return sae

    def draws(self, **options: Any) -> Draws:
        return balanced_draws(CONCEPTS, self.labels, self.judged, self.test, self.documents, **options)

    @torch.no_grad()
    def x(self, sae: SAE) -> Tensor:
        return sae.decode(SparseCodes.from_dense(self.dense)) + self.noise

    def measure(self, codes: Tensor | None = None, sae: SAE | None = None) -> Absorption:
        """``codes``: what the SAE is said to have encoded, if not what the activations are made of."""
        sae = self.sae() if sae is None else sae
        x, draws = self.x(sae), self.draws()
        seen = SparseCodes.from_dense(self.dense if codes is None else codes)
        return absorption(sae, x, seen, draws, probe_all(x, draws).probes, FAMILY)


def absorb(world: World) -> Tensor:
    """The dog's latent takes over from the animal's, whose direction it then has to write as well."""
    world.directions[1] = torch.nn.functional.normalize(world.directions[0] + world.directions[1], dim=0)
    world.dense[:, 0] = world.strength * (world.animal & ~world.dog)
    world.dense[:, 1] = world.strength * world.dog * 2**0.5
    return world.dense


def test_a_latent_of_its_own_is_neither_split_nor_absorbed() -> None:
    found = World().measure()
    animal = found.parents["animal"]
    assert animal.main == (0,)
    assert animal.splits == 1
    assert animal.recall.value == 1
    assert animal.false_alarms.value == 0
    assert animal.probe_f1 > 0.99
    for rates in (animal.rates, *animal.by_child.values(), found.rates):
        assert rates.full.value == 0
        assert rates.fraction.value == 0
    assert (found.splits, found.left_out) == (1, {})


@pytest.mark.parametrize(("origin", "scale", "length"), [(0.0, 1.0, 1.0), (30.0, 0.25, 1.0), (-30.0, 4.0, 2.0)])
def test_a_child_that_takes_over_absorbs_on_its_own_tokens_alone(origin: float, scale: float, length: float) -> None:
    world = World()
    absorb(world)
    found = world.measure(sae=world.sae(origin, scale, length))
    animal = found.parents["animal"]
    assert animal.main == (0,)
    assert animal.by_child["dog"].full.value == animal.by_child["dog"].fraction.value == 1
    assert animal.by_child["cat"].full.value == animal.by_child["cat"].fraction.value == 0
    on_test = world.test & world.animal
    share = float(world.dog[on_test].double().mean())
    assert animal.rates.full.n == animal.recall.n == int(on_test.sum())
    assert animal.by_child["dog"].full.n == int((world.dog & on_test).sum())
    assert animal.rates.full.value == animal.rates.fraction.value == pytest.approx(share)
    assert animal.rates.full.low < share < animal.rates.full.high
    assert animal.recall.value == pytest.approx(1 - share)
    assert found.rates == animal.rates


@pytest.mark.parametrize("decoder", ["kan-bend", "kan-curve", "kan-gain"])
def test_what_a_curved_latent_writes_of_the_parent_counts_wherever_it_is_written(decoder: str) -> None:
    """The dog's latent writes of the animal as before, but off its own direction (or, a gain, beside its code)."""
    world = World(noise=0.0)
    straight = world.sae(scale=0.25)
    bent: Any = SAE(SAEConfig(WIDTH, LATENTS, sparsifier={"name": "topk", "k": 3}, decoder={"name": decoder}))
    world.dense[:, 0] = world.strength * (world.animal & ~world.dog)
    with torch.no_grad():
        for name in ("mean", "scale"):
            getattr(bent, name).copy_(getattr(straight, name))
        bent.decoder.b_dec.copy_(straight.decoder.b_dec)
        bent.decoder.curves.basis.set_range(0.0, 6.0)
        ramp = torch.linspace(0, 6, 8)[1:]  # a function that equals its input
        if decoder == "kan-gain":  # codes of 30 %, and a function for the rest
            world.directions[1] = torch.nn.functional.normalize(world.directions[0] + world.directions[1], dim=0)
            world.dense[:, 1] = world.strength * world.dog * 2**0.5 * 0.3
            bent.decoder.curves.coefficients[1, 0] = ramp * 0.7 / 0.3
        elif decoder == "kan-bend":
            bent.decoder.W_bend[1, 0] = world.directions[0]
            bent.decoder.curves.coefficients[1, 0] = ramp
        else:
            bent.decoder.knots_dec[1] = ramp[:, None] * world.directions[0]
        bent.decoder.W_dec.copy_(world.directions)
    animal = world.measure(sae=bent).parents["animal"]
    assert animal.main == (0,)
    assert animal.by_child["dog"].full.value == animal.by_child["dog"].fraction.value == 1
    assert animal.by_child["cat"].full.value == animal.by_child["cat"].fraction.value == 0


def test_partial_absorption_has_its_fraction_and_is_not_full() -> None:
    """Main and dog latents both write of the animal: 40 and 60 %."""
    world = World(noise=0.0)
    world.directions[1] = torch.nn.functional.normalize(world.directions[0] + world.directions[1], dim=0)
    world.dense[:, 0] = world.strength * torch.where(world.dog, 0.4, 1.0) * world.animal
    world.dense[:, 1] = world.strength * world.dog * 0.6 * 2**0.5
    animal = world.measure().parents["animal"]
    dog = animal.by_child["dog"]
    assert dog.full.value == 0
    draws = world.draws()
    weight = probe_all(world.x(world.sae()), draws).probes["animal"].weight
    by_main, by_dog = 0.4 * weight[0], 0.6 * (weight[0] + weight[1])  # the probe leans a little to the dog as well
    assert dog.fraction.value == pytest.approx(float(by_dog / (by_dog + by_main)), abs=1e-3)
    assert dog.fraction.value == pytest.approx(0.6, abs=0.06)
    assert animal.by_child["cat"].fraction.value == 0


def test_a_parent_in_two_latents_is_split_in_two() -> None:
    world = World()
    half = torch.arange(TOKENS) % 2 == 0
    world.directions[3] = world.directions[0] + 0.1 * torch.eye(WIDTH)[3]
    world.dense[:, 0] = world.strength * (world.animal & half)
    world.dense[:, 3] = world.strength * (world.animal & ~half)
    found = world.measure()
    assert sorted(found.parents["animal"].main) == [0, 3]
    assert found.splits == 2
    assert found.parents["animal"].recall.value == 1
    assert found.rates.full.value == found.rates.fraction.value == 0


def test_a_large_child_is_a_split_and_not_absorption() -> None:
    """What the module says of the 6 %: a dog that is a third of all animals becomes a main latent."""
    world = World()
    world.dog |= world.animal & (torch.arange(TOKENS) % 3 == 0)
    absorb(world)
    found = world.measure()
    assert sorted(found.parents["animal"].main) == [0, 1]
    assert found.rates.full.value == 0


def test_random_codes_look_unabsorbed_and_their_recall_shows_why() -> None:
    world = World()
    draw = torch.Generator().manual_seed(5)
    noise = torch.rand(TOKENS, LATENTS, generator=draw)
    codes = noise * (torch.rand(TOKENS, LATENTS, generator=draw) < 0.05)
    codes[:, :3] = 0
    found = world.measure(codes)
    assert found.rates.full.value < 0.01
    assert found.rates.fraction.value < 0.01
    assert found.recall.value < 0.2
    assert found.recall.low <= found.recall.value <= found.recall.high


def test_a_dense_latent_has_recall_and_as_many_false_alarms() -> None:
    """The other way to look unabsorbed: the main latent fires nearly everywhere, a little more for the parent."""
    world = World()
    codes = torch.zeros(TOKENS, LATENTS)
    codes[:, 0] = (1 + 0.1 * world.animal) * (torch.rand(TOKENS, generator=torch.Generator().manual_seed(6)) < 0.9)
    found = world.measure(codes)
    assert found.rates.full.value == found.rates.fraction.value == 0
    assert found.recall.value == pytest.approx(0.9, abs=0.02)
    assert found.false_alarms.value == pytest.approx(0.9, abs=0.04)
    assert found.false_alarms.low < found.false_alarms.value < found.false_alarms.high


def test_what_does_not_count_is_listed_with_its_reason() -> None:
    world = World()
    dead = world.measure(torch.zeros(TOKENS, LATENTS))
    assert "no latent" in dead.left_out["animal"]
    assert not dead.parents
    assert np.isnan([dead.rates.full.value, dead.recall.value, dead.splits]).all()

    world.noise = 60 * torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(1))
    world.labels[:, 0] = torch.rand(TOKENS, generator=torch.Generator().manual_seed(2)) < 0.1
    blurred = world.measure()
    assert "F1 of 0." in blurred.left_out["animal"]
    assert "below 0.6" in blurred.left_out["animal"]

    world.labels[:, 0] = False
    assert "fewer than 50" in world.measure().left_out["animal"]


@pytest.mark.parametrize("frequency", [0.1, 0.5])
def test_a_probes_f1_does_not_depend_on_how_often_the_parent_is(frequency: float) -> None:
    world = World()
    draw = torch.Generator().manual_seed(3)
    holds = torch.rand(TOKENS, generator=draw) < frequency
    world.labels = holds[:, None] & torch.tensor([True, False, False])
    world.dense[:, :3] = 0
    world.dense[:, 0] = 4.5 * holds
    world.noise = world.noise.clone()
    world.noise[:, 0] = 6.0 * torch.randn(TOKENS, generator=draw)
    animal = world.measure().parents["animal"]
    x = world.x(world.sae())
    says = probe_all(x, world.draws()).probes["animal"].log_odds(x, torch.arange(TOKENS)) > np.log(25)
    recall, wrong = (float(says[world.test & side].double().mean()) for side in (holds, ~holds))
    precision = recall / (recall + 25 * wrong)  # among 1 token with the parent and 25 without
    assert animal.probe_f1 == pytest.approx(2 * recall * precision / (recall + precision))
    assert animal.recall.n == int((holds & world.test).sum())
    assert animal.rates.full.n == int((holds & world.test & says).sum())
    # what two normal distributions 18 apart and 6 wide allow where the odds are even at 1 in 26
    threshold = 9 + 6 / 3 * np.log(25)
    recall, wrong = (0.5 - 0.5 * erf((threshold - mean) / (6 * 2**0.5)) for mean in (18, 0))
    assert animal.probe_f1 == pytest.approx(2 * recall / (recall + 25 * wrong + 1), abs=0.12)


def by_definition(
    codes: np.ndarray, main: list[int], along: np.ndarray, cosines: np.ndarray, projection: float
) -> tuple[bool, float]:
    """One token, dense, in the words of the definition."""
    adds = codes * along
    top = int(np.argmax(adds))
    silent = all(abs(codes[i]) < 1e-8 for i in main)
    full = silent and projection > 0 and cosines[top] >= 0.025 and adds[top] / projection >= 0.4
    by_main = sum(adds[i] for i in main)
    others = sorted(adds[i] for i in range(len(codes)) if i not in main and cosines[i] >= 0.1 and adds[i] > 0)
    by_others = sum(others[-3:])
    if projection <= 0 or by_main >= projection or by_others / projection < 0.4:
        return full, 0.0
    if by_main <= 0:
        return full, 1.0
    taken = min(by_others, projection - by_main)
    return full, taken / (taken + by_main)


def absorbed_straight(
    codes: SparseCodes, rows: Tensor, main: Sequence[int], along: Tensor, cosines: Tensor, projection: Tensor
) -> tuple[Tensor, Tensor]:
    """``absorbed``, from what one unit of every latent adds, ``along [d_sae]``, and its direction's cosine."""
    _, latents, values = entries_at(codes, rows)
    return absorbed(codes, rows, main, values * along[latents], cosines[latents], projection)


def test_tokens_by_hand() -> None:
    """Main latents 0 and 1; 2, 3, 4, 5 may absorb; 6 has a cosine of .05, 7 of .01 and 8 of -.5, all of length 2."""
    cosines = torch.tensor([0.9, 0.4, 0.8, 0.5, 0.4, 0.3, 0.05, 0.01, -0.5]).double()
    along = 2 * cosines
    tokens: list[tuple[dict[int, float], float, bool, float]] = [
        ({0: 5.0}, 9.0, False, 0.0),  # main has it all
        ({2: 5.0}, 10.0, True, 1.0),  # 8 of 10, main silent
        ({2: 2.4}, 10.0, False, 0.0),  # 3.84 of 10 is below .4
        ({2: 2.6}, 10.0, True, 1.0),  # 4.16 of 10
        ({0: 1.0, 2: 5.0}, 9.8, False, 8.0 / 9.8),  # main 1.8, others min(8, 8) = 8
        ({0: 1.0, 2: 5.0}, 5.0, False, 3.2 / 5.0),  # others min(8, 3.2)
        ({0: 1.0, 2: 5.0}, 12.0, False, 8.0 / 9.8),  # some of it is nobody's
        ({0: 1.0, 2: 5.0}, 1.8, False, 0.0),  # main suffices exactly
        ({3: 2.0, 4: 2.0, 5: 2.0, 2: 1.0}, 10.0, False, 1.0),  # 2 + 1.6 + 1.6: 5.2, though no one alone has 4
        ({3: 1.0, 4: 1.0, 5: 3.0, 2: 0.5}, 10.0, False, 0.0),  # 1.8 + 1 + .8 = 3.6, the fourth does not count
        ({6: 50.0}, 10.0, True, 0.0),  # 5 of 10 at a cosine of .05: full, but no fraction
        ({7: 500.0}, 10.0, False, 0.0),  # 10 of 10 at .01
        ({8: -5.0}, 10.0, False, 0.0),  # adds 5 with a direction that is not aligned
        ({2: 5.0, 0: 1e-9}, 10.0, True, 8.0 / (8.0 + 1.8e-9)),  # silent but for rounding
        ({1: -1.0, 2: 5.0}, 10.0, False, 1.0),  # main fires against the direction
        ({2: 5.0}, -1.0, False, 0.0),  # the activation points away
        ({}, 10.0, False, 0.0),
        ({2: 5.0}, 0.0, False, 0.0),
    ]
    dense = torch.zeros(len(tokens) + 1, 9).double()
    for i, (values, *_) in enumerate(tokens):
        for latent, value in values.items():
            dense[i + 1, latent] = value
    rows = torch.arange(len(tokens)) + 1
    projection = torch.tensor([token[1] for token in tokens]).double()
    full, fraction = absorbed_straight(SparseCodes.from_dense(dense), rows, (0, 1), along, cosines, projection)
    assert full.tolist() == [token[2] for token in tokens]
    np.testing.assert_allclose(fraction, [token[3] for token in tokens], atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_tokens_are_as_defined(seed: int) -> None:
    draw = np.random.default_rng(seed)
    dense = draw.normal(1, 1, (300, 12)) * (draw.random((300, 12)) < 0.35)
    cosines, lengths = draw.uniform(-0.3, 0.9, 12), draw.uniform(0.5, 2, 12)
    along, main, rows = cosines * lengths, [4, 1], draw.integers(0, 300, 200)
    projection = draw.normal(1.5, 1.5, 200)
    expected = [by_definition(dense[r], main, along, cosines, p) for r, p in zip(rows, projection, strict=True)]
    codes = SparseCodes.from_dense(torch.tensor(dense))
    tensors = map(torch.tensor, (along, cosines, projection))
    full, fraction = absorbed_straight(codes, torch.tensor(rows), main, *tensors)
    assert full.tolist() == [bool(e[0]) for e in expected]
    np.testing.assert_allclose(fraction, [e[1] for e in expected], atol=1e-9)
    assert 0 < full.sum() < 200
    assert ((fraction > 0) & (fraction < 1)).any()


def test_main_latents_are_added_while_each_lifts_the_f1_enough() -> None:
    """Latents on disjoint shares of a parent, the last too small to matter; one of the opposite sign never counts."""
    world = World()
    place = torch.arange(TOKENS) % 100
    codes = torch.zeros(TOKENS, LATENTS)
    for latent, (start, end) in enumerate([(0, 50), (50, 80), (80, 97), (97, 100)]):
        codes[:, latent] = (world.animal & (place >= start) & (place < end)).float()
    codes[:, 7] = 3.0 * ~world.animal
    found = main_latents(SparseCodes.from_dense(codes), world.draws(), ["animal"])
    assert found == {"animal": (0, 1, 2)}


def test_parents_are_the_labelled_corpuss_own() -> None:
    world = World()
    names = ("script.non_latin", "script.arabic", "script.hebrew", "language.arabic")  # whose parent is not there
    labels = torch.cat([world.labels, world.labels[:, 1:2]], 1)
    judged = torch.ones_like(labels)
    draws = balanced_draws(names, labels, judged, world.test, world.documents)
    sae = world.sae()
    x = world.x(sae)
    found = absorption(sae, x, SparseCodes.from_dense(world.dense), draws, probe_all(x, draws).probes)
    assert list(found.parents) == ["script.non_latin"]
    assert list(found.parents["script.non_latin"].by_child) == ["script.arabic", "script.hebrew"]


def test_bad_input_is_refused() -> None:
    world = World()
    sae, draws, codes = world.sae(), world.draws(), SparseCodes.from_dense(world.dense)
    x = world.noise
    probes = probe_all(x, draws).probes
    with pytest.raises(KanaryError, match="'bird' has no labels"):
        absorption(sae, x, codes, draws, probes, {"animal": ["bird"]})
    with pytest.raises(KanaryError, match="'animal' has no full probe"):
        absorption(sae, x, codes, draws, {}, FAMILY)
    with pytest.raises(KanaryError, match=r"shape \(6000, 12\), got \(6000, 11\)"):
        absorption(sae, x[:, 1:], codes, draws, probes, FAMILY)
    with pytest.raises(KanaryError, match="values of 5999 tokens"):
        absorption(sae, x, codes[:5999], draws, probes, FAMILY)
