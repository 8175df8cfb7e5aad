"""The rule of `kanary study` on numbers that are known: equal costs, paired intervals, verdicts, what seeds share."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from scipy import stats
from torch.utils.flop_counter import FlopCounterMode

from kanary.errors import KanaryError
from kanary.lab import blocks
from kanary.lab.study.across import across, spearman
from kanary.lab.study.cells import Cell, Grid, Variant, tuning_cells
from kanary.lab.study.cost import TOLERANCE, bits, cost
from kanary.lab.study.design import Design, find_design, read_design
from kanary.lab.study.judgement import Numbers, best_family, curves_are_real, verdicts, winners
from kanary.lab.study.measure import Latents, best_cosines, fidelity
from kanary.lab.study.verdict import at_level, difference, in_setting, outcome, over_settings
from kanary.sae import SAE, SAEConfig
from kanary.sae.cost import flops
from kanary.sae.parts import SPARSIFIERS, Active, import_parts
from small_study import SMALL


@pytest.fixture(autouse=True, scope="module")
def _blocks() -> Iterator[None]:
    """The study's own sparsifier is known while these tests run, and not to others."""
    import_parts()
    blocks.register()
    yield
    SPARSIFIERS.pop(blocks.NAME)


# --- costs --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kan() -> Design:
    return read_design(find_design("kan"), settings={name: {"l0": [16]} for name in "abcd"})


@pytest.mark.parametrize(("setting", "d_model"), [("a", 96), ("c", 256), ("d", 64)])
def test_controls_cost_as_much_within_one_percent(kan: Design, setting: str, d_model: int) -> None:
    grid = Grid(kan, setting, d_model)
    assert not grid.missing
    judged = 0
    for (family, k), roles in grid.roles.items():
        ours = grid.cost(grid.base(family), k)
        assert set(roles) == set(kan.families[family].against)
        for control, role in roles.items():
            of, theirs = kan.controls[control], grid.cost(role.variant, k)
            if of.solve:
                assert getattr(theirs, of.equal) == pytest.approx(getattr(ours, of.equal), rel=TOLERANCE), (
                    family,
                    control,
                )
                judged += 1
            if of.bits:
                nearest = min(range(1, 65), key=lambda n: abs(bits(role.variant.width, n) - ours.bits))
                assert role.l0 == nearest
            else:
                assert role.l0 == k
    assert judged > 30


def test_sizes_share_the_rates_of_a_ladder_of_widths(kan: Design) -> None:
    grid = Grid(kan, "d", 64)  # 512 wide
    sizes = {
        362: 256,
        363: 512,
        512: 512,
        544: 512,
        724: 512,
        725: 1024,
        1312: 1024,
        2544: 2048,
        5568: 4096,
        5794: 8192,
    }
    for width, tuned in sizes.items():
        assert grid.tuned_as(Variant("linear", width)) == Variant("linear", tuned)
        assert grid.tuned_as(Variant("blocks", width, sparsifier="relu")) == Variant("blocks", tuned, sparsifier="relu")
    hidden = {0: 0, 6: 8, 60: 0, 64: 0, 90: 0, 91: 128, 454: 512}
    for units, tuned in hidden.items():
        assert grid.tuned_as(Variant("mlp", 512, units)) == Variant("mlp", 512, tuned)
    tried = list(tuning_cells(grid, Variant("linear", 544)))
    assert [(cell.variant.width, cell.rate) for cell in tried] == [(512, rate) for rate in kan.tuning.rates]


def test_parameters_are_those_of_the_modules() -> None:
    d, n, units, knots = 16, 40, 5, 8
    for encoder, more in (("linear", 0), ("mlp", units * (d + 1 + n)), ("kan-hidden", units * (d + 1 + n + knots))):
        options = {} if encoder == "linear" else {"hidden": units}
        sae = SAE(SAEConfig(d, n, encoder={"name": encoder, **options}, sparsifier={"name": "topk", "k": 4}))
        assert cost(sae, 4, 64).parameters == 2 * d * n + n + d + more


@pytest.mark.parametrize("encoder", ["linear", "mlp", "kan-node", "kan-hidden", "kan-edge"])
def test_flops_that_grow_with_the_width_are_two_for_every_weight_of_the_encoder(encoder: str) -> None:
    """Scores of all latents are the full matrix products; where torch can count them, it counts as many."""
    d, tokens, k = 16, 32, 4

    def counts(n: int) -> tuple[float, float, float]:
        sae = SAE(SAEConfig(d, n, encoder={"name": encoder}, sparsifier={"name": "topk", "k": k}))
        weights = sum(p.numel() for p in sae.encoder.parameters() if p.ndim > 1)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            sae.encoder(torch.randn(tokens, d))
        return flops(sae, k), 2 * weights, counter.get_total_flops() / tokens

    formula, weights, counted = (b - a for a, b in zip(counts(64), counts(128), strict=True))
    functions = 2 * 64 * 7 if encoder == "kan-node" else 0  # its coefficients are read at the active entries only
    assert formula == weights - functions
    if encoder in ("linear", "mlp", "kan-hidden"):  # torch does not see products that are added in place
        assert counted == formula


def test_bits_of_index_are_exact() -> None:
    for n, k in ((64, 1), (512, 8), (1000, 32)):
        assert bits(n, k) == pytest.approx(math.log2(math.comb(n, k)))


# --- pairs of latents ---------------------------------------------------------------------------------------------


def test_blocks_choose_pairs_by_their_length_and_keep_signs() -> None:
    part = blocks.Blocks(8, 8, blocks.BlockOptions(k=4))
    pre = torch.tensor([[0.1, 0.2, -3.0, 0.1, 1.0, 1.0, 0.0, 1.3], [5.0, -5.0, 0.0, 0.0, 0.0, 0.1, -1.0, 0.0]])
    latents, counts = part.select(pre)
    assert counts.tolist() == [4, 4]
    assert [sorted(row) for row in latents.view(2, 4).tolist()] == [[2, 3, 4, 5], [0, 1, 6, 7]]
    assert part.mask(pre).nonzero()[:, 1].view(2, 4).tolist() == [[2, 3, 4, 5], [0, 1, 6, 7]]
    assert torch.equal(part.activate(Active(pre, None, pre)), pre)
    with pytest.raises(KanaryError, match="must be even"):
        blocks.Blocks(8, 8, blocks.BlockOptions(k=3))


def test_a_pair_of_latents_reaches_a_whole_plane() -> None:
    """On points of a few planes, pairs with two active numbers do what TopK with two cannot."""
    draw = torch.Generator().manual_seed(0)
    planes = torch.linalg.qr(torch.randn(8, 8, generator=draw)).Q.view(8, 4, 2)
    which = torch.randint(4, (4096,), generator=draw)
    x = torch.einsum("tdp,tp->td", planes.permute(1, 0, 2)[which], torch.randn(4096, 2, generator=draw))
    sae = SAE(SAEConfig(8, 8, sparsifier={"name": "blocks", "k": 2}))
    with torch.no_grad():
        directions = planes.permute(1, 2, 0).reshape(8, 8)
        sae.decoder.begin(directions)
        sae.encoder.tie(directions)
    found = fidelity(sae, x)
    assert found.l0 == 2
    assert found.fvu < 1e-9
    assert bool((sae.encode(x).values < 0).any())


# --- differences and the rule -------------------------------------------------------------------------------------


def test_the_interval_is_that_of_a_paired_t_test() -> None:
    ours, theirs = {0: 0.51, 1: 0.49, 2: 0.47, 3: 9.0}, {0: 0.55, 1: 0.5, 2: 0.52, 4: 9.0}
    found = difference(ours, theirs)
    both = [0, 1, 2]
    expected = stats.ttest_rel([ours[s] for s in both], [theirs[s] for s in both]).confidence_interval(0.95)
    assert (found.n, found.mean) == (3, pytest.approx(-0.1 / 3))
    assert (found.low, found.high) == (pytest.approx(expected.low, rel=1e-6), pytest.approx(expected.high, rel=1e-6))
    # by hand: mean -0.0333, deviation 0.0208, t(2) 4.303
    assert found.high == pytest.approx(-0.033333 + 4.302653 * 0.0208167 / math.sqrt(3), abs=1e-6)
    assert found.percent == pytest.approx(100 * found.mean / (1.57 / 3))
    assert difference({0: 1.0}, {0: 2.0}).n == 1
    assert math.isnan(difference({0: 1.0}, {0: 2.0}).low)
    assert difference({0: math.inf, 1: 1.0}, {0: 2.0, 1: 1.0}).n == 1


def test_outcomes() -> None:
    better = difference({0: 1.0, 1: 1.1, 2: 0.9}, {0: 2.0, 1: 2.1, 2: 2.0})
    assert outcome(better, higher_is_better=False) == "win"
    assert outcome(better, higher_is_better=True) == "loss"
    assert outcome(difference({0: 1.0, 1: 2.0}, {0: 1.5, 1: 1.4}), higher_is_better=False) == "tie"
    assert outcome(difference({0: 1.0}, {0: 2.0}), higher_is_better=False) == "no verdict"
    assert at_level(["win", "win"]) == "win"
    assert at_level(["win", "tie"]) == "tie"
    assert at_level(["win", "loss"]) == "loss"
    assert at_level(["win", "no verdict"]) == at_level([]) == "no verdict"
    assert at_level(["win", "win"], veto=["tie", "loss"]) == "mixed"
    assert in_setting(["win", "win", "tie"]) == "win"
    assert in_setting(["win", "tie", "tie"]) == "tie"
    assert in_setting(["win", "win", "loss"]) == in_setting(["win", "win", "mixed"]) == "mixed"
    assert in_setting(["loss", "loss", "tie"]) == "loss"
    assert over_settings(["loss", "win"]) == "win"
    assert over_settings(["loss", "tie"]) == "tie"
    assert over_settings([]) == "no verdict"


def planted(design: Design, grid: Grid, fvu: float, *, ce: float = 0.9, noise: float = 0.001) -> Numbers:
    """The KAN family has ``fvu`` and ``ce``; every control .5 and .9."""
    cells: dict[Cell, dict[str, Any]] = {}
    for role in grid.reported():
        for seed in (*design.seeds, *design.confirm):
            ours = role.variant.family == "kan-bend"
            cells[Cell(grid.name, role.variant, role.l0, seed)] = {
                "fvu": fvu + noise * (1, -1, 0)[seed % 3] if ours else 0.5,
                "tuning_fvu": fvu if ours else 0.5,
                "ce_loss_score": ce + noise * (0, 1, -1)[seed % 3] if ours else 0.9,
            }
    return Numbers(cells)


@pytest.mark.parametrize(
    ("fvu", "ce", "expected", "confirmed"),
    [
        (0.45, 0.9, "win", "win"),
        (0.5, 0.9, "tie", None),
        (0.55, 0.95, "loss", None),
        (0.45, 0.8, "mixed", None),
    ],
)
def test_the_rule_on_planted_numbers(
    tmp_path: Path, fvu: float, ce: float, expected: str, confirmed: str | None
) -> None:
    values = yaml.safe_load(yaml.safe_dump(SMALL)) | {"seeds": [0, 1, 2], "confirm": [3, 4, 5]}
    values["settings"] = {"c": values["settings"]["a"] | {"real": True, "model": "m", "text": "t"}}
    values["matched"] = {}
    path = tmp_path / "design.yaml"
    path.write_text(yaml.safe_dump(values))
    design = read_design(path)
    grids = {"c": Grid(design, "c", 16)}
    numbers = planted(design, grids["c"], fvu, ce=ce)
    (verdict,) = verdicts(numbers, design, grids)
    assert (verdict.outcome, verdict.confirmed) == (expected, confirmed)
    assert verdict.settings == {"c": expected}
    assert verdict.gain == pytest.approx(fvu / 0.5 - 1, abs=0.005)
    assert winners(numbers, design, grids) == ([("c", "kan-bend")] if expected == "win" else [])
    assert best_family(numbers, design, grids) == "kan-bend"


# --- over seeds ---------------------------------------------------------------------------------------------------


def unit(*shape: int, seed: int) -> torch.Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(drawn, dim=-1)


def test_curves_that_seeds_share_are_told_from_those_they_do_not() -> None:
    direction, bend = unit(40, 16, seed=0), unit(40, 16, seed=1)
    curvature = torch.linspace(0.02, 0.5, 40)
    firings = torch.ones(40, dtype=torch.int64)
    firings[-5:] = 0  # dead latents are no evidence
    a = Latents(direction, bend, curvature, firings)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(2))
    same = Latents(*(column[order] for column in a))
    found = across([a, same])
    assert found.stability == pytest.approx(1)
    assert found.stability_chance < 0.8
    assert (found.matched_share, found.curvature_correlation) == (pytest.approx(1), pytest.approx(1))
    assert found.bend_cosine == pytest.approx(1)
    assert found.bend_cosine_chance < 0.4
    assert curves_are_real(found._asdict()) == "replicate"
    other = same._replace(bend=unit(40, 16, seed=3), curvature=curvature[torch.randperm(40)])
    assert curves_are_real(across([a, other])._asdict()) == "do not replicate"
    elsewhere = across([a, same._replace(bend=unit(40, 16, seed=3))])
    assert elsewhere.curvature_correlation == pytest.approx(1)
    assert curves_are_real(elsewhere._asdict()) == "do not replicate"
    straight = a._replace(curvature=torch.zeros(40), bend=torch.zeros(40, 16))
    assert math.isnan(across([straight, straight]).bend_cosine)


def test_rank_correlation_is_spearmans() -> None:
    x, y = torch.tensor([1.0, 2, 2, 5, 3]), torch.tensor([3.0, 1, 4, 4, 9])
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)
    assert math.isnan(spearman(torch.ones(3), x[:3]))


def test_the_best_cosine_leaves_a_row_itself_out() -> None:
    rows = unit(6, 4, seed=0)
    cosines = (rows @ rows.T).abs().fill_diagonal_(0)
    assert torch.allclose(best_cosines(rows[:3], rows, same=True), cosines[:3].amax(1))
    assert torch.allclose(best_cosines(rows, rows), torch.ones(6))
