"""Learned functions are read as they were planted: angles, names, curvature, and what straight lines lose."""

import dataclasses
import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from by_hand import SITE, activations, measured, windows
from evaluations import evaluation
from kanary import svg
from kanary.errors import KanaryError
from kanary.evaluation.densities import INSIDE, Densities, Density, Strays
from kanary.evaluation.evaluate import evaluate
from kanary.evaluation.pages.glossary import SPLINES
from kanary.evaluation.pages.report import report, warnings
from kanary.evaluation.result import Metric
from kanary.evaluation.splines import (
    SHARES,
    Functions,
    measure_functions,
    spline_metrics,
    straighten,
    stray_metrics,
    top_tokens,
)
from kanary.evaluation.standin import STRAIGHT, Calibration, controls
from kanary.features.learned import function_arrays
from kanary.features.learned import functions_of as functions_shown
from kanary.lm import LanguageModel
from kanary.lm.unembed import unembedding
from kanary.sae import SAE, SAEConfig, SparseCodes
from kanary.sae.readable import read, values
from kanary.splines import fit
from kanary.svg import Axis, Series
from kanary.training.learner import begin
from pages import Page
from runs import write_stories

UPPER = 4.0  # where the planted grids end
DECODERS = ("kan-gain", "kan-bend", "kan-curve")
Function = Callable[[Tensor], Tensor]


def curved(
    decoder: str = "kan-bend", functions: Sequence[Function] = (torch.zeros_like,), d: int = 8, **options: object
) -> SAE:
    """A latent per function: psi(f) = f·d + s(f)·e with unit vectors d ⟂ e, or the gain (f + s(f))·d."""
    sae = SAE(
        SAEConfig(
            d,
            len(functions),
            sparsifier={"name": "relu"},
            decoder={"name": decoder, "knots": 33, **options},
            trained_on={"site": SITE},
        )
    )
    draw = torch.Generator().manual_seed(len(functions))
    pairs = torch.linalg.qr(torch.randn(len(functions), d, 2, generator=draw))[0]
    it = sae.decoder
    it.curves.basis.set_range(0.0, UPPER)
    with torch.no_grad():
        it.W_dec.copy_(pairs[..., 0])
        if decoder == "kan-bend":
            it.W_bend[:, 0] = pairs[..., 1]
        for latent, s in enumerate(functions):
            numbers = fit(it.curves.basis, s)[latent, 1:]
            if decoder == "kan-curve":
                it.knots_dec[latent] = numbers[:, None] * pairs[latent, :, 1]
            else:
                it.curves.coefficients[latent, 0] = numbers
    return sae


def random_codes(sae: SAE, tokens: int = 3000, high: float = UPPER, seed: int = 0) -> SparseCodes:
    draw = torch.Generator().manual_seed(seed)
    dense = high * torch.rand(tokens, sae.d_sae, generator=draw)
    return SparseCodes.from_dense(dense * (torch.rand(tokens, sae.d_sae, generator=draw) < 0.5))


def densities_of(sae: SAE, codes: SparseCodes) -> dict[str, Density]:
    found = Densities(sae)
    found.add(torch.zeros(codes.tokens, sae.d_model), codes)
    return found.result()


def functions_of(sae: SAE, codes: SparseCodes | None = None) -> Functions:
    (found,) = measure_functions(sae, densities_of(sae, random_codes(sae) if codes is None else codes))
    return found


def wild(v: Tensor) -> Tensor:
    return torch.sin(1.7 * v) + 0.2 * v.square()


def half(v: Tensor) -> Tensor:
    return v / 2


# --- what was planted -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", ["kan-bend", "kan-curve"])
@pytest.mark.parametrize("basis", ["hat", "bspline"])
def test_a_planted_angle_is_read_back(decoder: str, basis: str) -> None:
    angles = [0.0, 20.0, 45.0, 60.0]
    # the direction at code f is f / UPPER of a turn by angle / 0.8, and 80 % of the codes lie between weak and strong
    turns = [lambda v, a=a: v * torch.tan(math.radians(a / 0.8) * v / UPPER) for a in angles]
    found = functions_of(curved(decoder, turns, basis=basis))
    assert found.turning == pytest.approx(angles, abs=2)


def test_planted_functions_are_named() -> None:
    bends: dict[str, Function] = {
        "tanh": lambda v: torch.tanh(2 * v - 3),
        "square": lambda v: v.square() / 4,
        "sine": lambda v: torch.sin(2 * v),
        "linear": half,
        "relu": lambda v: F.relu(v - 2),
        "constant": torch.zeros_like,
    }
    # what is zero at zero can only be named so
    bends["tanh"] = lambda v: torch.tanh(2 * v)
    found = functions_of(curved("kan-bend", [*bends.values()]))
    assert [one.name for one in found.fits] == [*bends]
    assert all(one.r2 > 0.999 for one in found.fits[:-1])
    assert found.fits[1].formula == "0.25 * x^2"
    low, high = found.fits[1].ranges[0]
    assert (low, high) == pytest.approx((0, UPPER), abs=2 * UPPER / INSIDE)


def test_a_gain_is_named_whole_and_never_turns() -> None:
    gains: list[Function] = [lambda v: torch.sin(2 * v) - v, lambda v: v.square() / 4 - v, torch.zeros_like]
    found = functions_of(curved("kan-gain", gains))
    assert [one.name for one in found.fits] == ["sine", "square", "linear"]
    assert found.turning[2] == pytest.approx(0, abs=1e-4)
    assert found.curvature.abs().max() < 1e-9
    assert found.nonlinearity[0] > 0.1
    assert "decoder_turning_angle" not in spline_metrics([found])["splines"]


@pytest.mark.parametrize("start", ["zero", "relu"])
def test_an_encoders_function_is_read_over_its_scores(start: str) -> None:
    d, n = 6, 4
    sae = SAE(
        SAEConfig(d, n, encoder={"name": "kan-node", "knots": 33, "start": start}, sparsifier={"name": "topk", "k": 2})
    )
    bends: list[Function] = [lambda v: v.square() / 2, half, torch.zeros_like, lambda v: 2 * torch.tanh(v)]
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        sae.encoder.tie(torch.eye(n, d))
        sae.encoder.b_enc.fill_(0.1)
        sae.encoder.curves.basis.set_range(0.0, UPPER)
        for latent, s in enumerate(bends):
            whole = s if start == "zero" else lambda v, s=s: v + s(v)
            sae.encoder.curves.coefficients[latent, 0] = fit(sae.encoder.curves.basis, whole)[latent, 1:]
    x = 3 * torch.rand(4000, d, generator=draw)
    counted = Densities(sae)
    counted.add(x)
    found = counted.result()
    # scores are those of the selected entries: what is in the codes, but before the function
    codes = sae.encode(x)
    z = (x[:, :n] + 0.1)[codes.rows(), codes.indices]
    for latent in range(n):
        mine = z[codes.indices == latent].double()
        assert found["encoder"].values[latent] == len(mine)
        assert (found["encoder"].counts * found["encoder"].means)[latent].sum() == pytest.approx(
            float(mine.sum()), rel=1e-5
        )
    (one,) = measure_functions(sae, found)
    assert [fitted.name for fitted in one.fits[:3]] == ["square", "linear", "linear"]
    at = torch.tensor([[0.5, 2.0]]).expand(n, -1)
    y = read(sae, "encoder", torch.arange(n), at, torch.ones(n, 2)).y
    wanted = torch.stack([at[0] + s(at[0]) for s in bends])
    assert torch.allclose(y.float(), wanted, atol=2e-3)
    twin = straighten(sae, found)
    assert torch.equal(twin.encode(x).indices, codes.indices)
    y = read(twin, "encoder", torch.arange(n), at, torch.ones(n, 2)).y
    assert torch.allclose(y[:, 1] / y[:, 0], torch.full((n,), 4.0, dtype=torch.float64), atol=1e-4)
    assert y[1] == pytest.approx([0.75, 3.0], abs=1e-4)


# --- curvature ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", DECODERS)
def test_curvature_is_what_the_samples_say(decoder: str) -> None:
    sae = curved(decoder, [wild, half, lambda v: 3 * torch.tanh(v), torch.zeros_like], knots=9)
    if decoder == "kan-curve":  # in more dimensions than a plane
        with torch.no_grad():
            sae.decoder.knots_dec += 0.5 * torch.randn(
                sae.decoder.knots_dec.shape, generator=torch.Generator().manual_seed(3)
            )
    codes = random_codes(sae, high=1.1 * UPPER)
    found = functions_of(sae, codes)
    total = torch.zeros(2, dtype=torch.float64)
    for latent in range(sae.d_sae):
        f = codes.values[codes.indices == latent]
        psi = values(sae, "decoder", torch.tensor([latent]), f[None])[0].double()
        energy = psi.square().sum()
        off = 1 - torch.linalg.svdvals(psi)[0].square() / energy
        line = torch.linalg.lstsq(f[:, None].double(), psi).solution
        rest = (psi - f[:, None] * line).square().sum() / energy
        assert found.curvature[latent] == pytest.approx(float(off), rel=1e-2, abs=1e-9)
        assert found.nonlinearity[latent] == pytest.approx(float(rest), rel=1e-2, abs=1e-9)
        assert found.energy[latent] == pytest.approx(float(energy) / len(f), rel=1e-2)
        total += torch.stack([off * energy, energy])
    if decoder != "kan-gain":
        whole = spline_metrics([found])["splines"]["decoder_curvature"]
        assert whole.value == pytest.approx(float(total[0] / total[1]), rel=1e-2)
        assert whole.n == len(codes.values)


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_straight_decoder_has_no_curvature_and_loses_nothing(decoder: str) -> None:
    sae = curved(decoder, [torch.zeros_like, half, lambda v: -v / 4])
    codes = random_codes(sae)
    found = functions_of(sae, codes)
    assert found.curvature.max() < 1e-9
    assert found.nonlinearity.max() < 1e-9
    assert found.turning.max() < 1e-3
    assert not found.shown
    straight = straighten(sae, densities_of(sae, codes))
    assert straight.config.decoder == {"name": "linear"}
    assert torch.allclose(straight.decode(codes), sae.decode(codes), atol=2e-5)


@pytest.mark.parametrize("decoder", DECODERS)
def test_straightened_functions_are_the_best_straight_lines(decoder: str) -> None:
    sae = curved(decoder, [wild, lambda v: v.square() / 2])
    codes = random_codes(sae)
    straight = straighten(sae, densities_of(sae, codes))
    for latent in range(2):
        f = codes.values[codes.indices == latent]
        psi = values(sae, "decoder", torch.tensor([latent]), f[None])[0].double()
        best = torch.linalg.lstsq(f[:, None].double(), psi).solution[0]
        assert torch.allclose(straight.W_dec[latent].double(), best, atol=2e-3)
    assert not torch.allclose(straight.decode(codes), sae.decode(codes), atol=0.1)
    again = straight.decode(codes)
    assert sae.decoder.name == decoder, "the SAE itself was changed"
    assert torch.equal(again, straight.decode(codes))


def test_a_latent_without_values_is_straightened_over_its_grid() -> None:
    sae = curved("kan-bend", [half, lambda v: v.square()])
    only = SparseCodes.from_dense(torch.tensor([[1.0, 0.0], [2.0, 0.0]]))
    straight = straighten(sae, densities_of(sae, only))
    e = sae.decoder.W_bend[1, 0]
    f = (torch.arange(INSIDE + 1) / INSIDE * UPPER).double()
    assert (straight.W_dec[1] @ e).item() == pytest.approx(float((f**3).sum() / (f**2).sum()), rel=1e-3)
    found = functions_of(sae, only)
    assert found.fits[1].name == "too little data"
    assert math.isnan(found.curvature[1])


# --- where the values lie -------------------------------------------------------------------------------------------


def test_values_outside_the_grid_are_counted_and_warned_of() -> None:
    sae = curved("kan-bend", [half, wild])
    inside = torch.full((98, 2), 3.0)
    outside = torch.tensor([[5.0, 0.0], [5.0, 1000.0]])
    codes = SparseCodes.from_dense(torch.cat([inside, outside]))
    density = densities_of(sae, codes)["decoder"]
    assert density.outside.tolist() == [2, 1]
    assert density.share_outside == pytest.approx(3 / 199)
    assert (density.tokens, density.tokens_outside) == (100, 2)
    assert density.counts.sum() == 199
    assert (density.counts * density.means).sum() == pytest.approx(codes.values.double().sum())
    found = spline_metrics([functions_of(sae, codes)])["splines"]
    assert found["decoder_values_outside"] == Metric(pytest.approx(3 / 199), *found["decoder_values_outside"][1:3], 199)
    assert found["decoder_tokens_outside"].value == pytest.approx(0.02)

    def said(share: float) -> str:
        made = evaluation()
        own = {**made.saes["topk"], "splines": {"decoder_values_outside": Metric(share, math.nan, math.nan, 199)}}
        return " ".join(warnings(dataclasses.replace(made, saes={"topk": own}), "topk"))

    assert "1.51\u00a0% of what the decoder's functions read lies outside their grids" in said(3 / 199)
    assert "update the grids" in said(3 / 199)
    assert "outside" not in said(0.009)


@pytest.mark.parametrize("encoder", ["kan-edge", "kan-hidden"])
def test_what_shared_functions_read_outside_their_grids_is_counted(encoder: str) -> None:
    """Against a loop over tokens and functions, in pieces."""
    sae = SAE(SAEConfig(6, 8, sparsifier={"name": "relu"}, encoder={"name": encoder}))
    grid, part = sae.encoder.basis.grid, sae.encoder
    x = 2 * torch.randn(90, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for weights in part.parameters():
            weights.copy_(torch.randn(weights.shape, generator=torch.Generator().manual_seed(1)))
        read_by = x if encoder == "kan-edge" else x @ part.P.T + part.c
    stray = [[bool(v < grid[j, 0] or v > grid[j, -1]) for j, v in enumerate(row)] for row in read_by]
    strays = Strays()
    strays.add(sae, x[:7])
    strays.add(sae, x[7:])
    found = stray_metrics(strays)["splines"]
    total = sum(map(sum, stray))
    assert 0 < total < 90 * 6
    assert found["encoder_values_outside"].value == pytest.approx(total / (90 * 6))
    assert found["encoder_tokens_outside"].value == pytest.approx(sum(map(any, stray)) / 90)
    assert stray_metrics(Strays()) == {}


def test_an_evaluation_says_what_shared_functions_read_outside(
    tiny_lm: LanguageModel, tiny_llama: Path, tmp_path: Path
) -> None:
    """Grids that hold next to nothing: the share is among the numbers, and the report warns."""
    about = {"site": SITE, "model": str(tiny_llama), "window": 32}
    relu, edge = {"name": "relu"}, {"name": "kan-edge"}
    sae = SAE(SAEConfig(tiny_lm.d_model, 8, sparsifier=relu, encoder=edge, trained_on=about))
    sae.encoder.basis.set_range(-1e-4, 1e-4)
    sae.save_pretrained(tmp_path / "sae")
    text = write_stories(tmp_path / "stories.jsonl", 20)
    out = tmp_path / "out"
    found = evaluate(tmp_path / "sae", text=str(text), tokens=200, loss_tokens=0, prompts=0, out=str(out), quiet=True)
    (row,) = found.saes.values()
    assert row["splines"]["encoder_values_outside"].value > 0.9
    assert row["splines"]["encoder_tokens_outside"].value == 1
    assert (
        "of what the encoder's functions read lies outside their grids" in Page((out / "report.html").read_text()).text
    )


def test_counting_in_pieces_is_counting_at_once() -> None:
    sae = curved("kan-curve", [half, wild, half])
    codes = random_codes(sae, 500, high=20 * UPPER)
    pieces = Densities(sae)
    for start in (0, 100, 350):
        part = codes[start : {0: 100, 100: 350, 350: 500}[start]]
        pieces.add(torch.zeros(part.tokens, sae.d_model), part)
    whole, apart = densities_of(sae, codes)["decoder"], pieces.result()["decoder"]
    for one, other in zip(whole, apart, strict=True):
        assert torch.allclose(torch.as_tensor(one).double(), torch.as_tensor(other).double())


@pytest.mark.parametrize("spread", ["even", "narrow", "heavy"])
def test_quantiles_are_right_to_a_bin(spread: str) -> None:
    sae = curved("kan-bend", [half])
    uniform = torch.rand(4000, generator=torch.Generator().manual_seed(1))
    f = {"even": UPPER * uniform, "narrow": 3 + 0.05 * uniform, "heavy": -2 * uniform.log()}[spread]
    found = densities_of(sae, SparseCodes.from_dense(f[:, None]))["decoder"].quantiles(SHARES)[0]
    wanted = torch.quantile(f, torch.tensor(SHARES)).double()
    assert torch.allclose(found, wanted, rtol=0.1, atol=UPPER / INSIDE)


# --- in Python ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", DECODERS)
def test_sae_splines_gives_the_functions_on_their_grids(decoder: str) -> None:
    sae = curved(decoder, [half, wild, torch.zeros_like])
    (one,) = sae.splines(1)
    assert (one.latent, one.part, one.name, one.basis) == (1, "decoder", decoder, "hat")
    assert one.range == (0, UPPER)
    assert one.knots == pytest.approx(torch.linspace(0, UPPER, 33).tolist())
    assert (float(one.x[0]), float(one.x[-1])) == (0, UPPER)
    exact = {"kan-gain": one.x + wild(one.x), "kan-bend": wild(one.x)}
    if decoder in exact:
        assert torch.allclose(one.y, exact[decoder].double(), atol=0.02)
        assert torch.allclose(one.linear, one.x.double(), atol=1e-5)
    else:  # about its best line, but as far from the origin
        square = one.x.double().square() + wild(one.x).double().square()
        assert torch.allclose(one.y.square() + one.linear.square(), square, atol=0.1)
    assert [each.latent for each in sae.splines([2, 0])] == [2, 0]
    assert [each.latent for each in sae.splines(torch.tensor([1]))] == [1]
    assert [each.latent for each in sae.splines()] == [0, 1, 2]


@pytest.mark.parametrize("decoder", ["kan-bend", "kan-curve"])
def test_sae_splines_gives_formula_and_angle_over_the_values_that_occur(decoder: str) -> None:
    # straight, but for a bend where no value lies; and a square
    bends: list[Function] = [lambda v: 3 * F.relu(v - 3), lambda v: v.square() / 4]
    sae = curved(decoder, bends)
    with torch.no_grad():  # each latent reads its own direction, which the other's curve does not touch
        sae.encoder.tie(sae.W_dec)
        sae.encoder.b_enc.fill_(0.0)
        sae.encoder.W_enc[0] -= (sae.encoder.W_enc[0] @ sae.W_dec[1]) * sae.W_dec[1]
        sae.encoder.W_enc[1] = 0
    strengths = torch.linspace(0.5, 2.5, 400)
    x = strengths[:, None] * F.normalize(sae.encoder.W_enc[0], dim=0) / sae.encoder.W_enc[0].norm()
    straight, silent = sae.splines([0, 1], x.view(4, 100, sae.d_model))
    assert (straight.turning, straight.fit.name) == (pytest.approx(0, abs=1e-2), "constant")
    assert straight.weight.sum() == 400
    assert straight.weight[straight.x > 2.6].sum() == 0
    assert math.isnan(silent.turning)
    assert silent.fit.name == "too little data"
    everywhere, square = sae.splines()
    assert everywhere.turning > 20
    weak, strong = (math.degrees(math.atan(share * UPPER / 4)) for share in (0.1, 0.9))
    assert square.turning == pytest.approx(strong - weak, abs=0.5)
    if decoder == "kan-bend":
        assert square.fit.formula == "0.25 * x^2"
        assert square.fit.r2 > 0.999
        assert square.fit.ranges == ((0.0, UPPER),)


def test_an_sae_without_functions_says_which_parts_have_some() -> None:
    sae = SAE(SAEConfig(4, 8, sparsifier={"name": "relu"}))
    for call in (sae.splines, lambda: straighten(sae, {}), lambda: measure_functions(sae, {})):
        with pytest.raises(
            KanaryError, match=r"encoder linear and decoder linear .*encoder kan-node.*decoder kan-bend"
        ):
            call()
    with pytest.raises(KanaryError, match="no latent 7: this SAE has 0 to 1"):
        curved("kan-bend", [half, half]).splines([0, 7])


def test_a_bend_into_two_directions_is_read_about_its_own_line() -> None:
    sae = curved("kan-bend", [lambda v: 0.6 * v.square(), half], rank=2)
    with (
        torch.no_grad()
    ):  # the same function once more, so that the principal coordinate is sqrt(1 + 16/9) times as large
        sae.decoder.curves.coefficients[0, 1] = sae.decoder.curves.coefficients[0, 0] * 4 / 3
        sae.decoder.normalise()
    (one,) = sae.splines(0)
    assert torch.allclose(one.y, one.x.double().square(), atol=0.02)
    assert torch.allclose(one.linear, one.x.double(), atol=1e-4)


# --- in an evaluation -----------------------------------------------------------------------------------------------


def kan_sae(lm: LanguageModel, encoder: str = "kan-node", decoder: str = "kan-bend", width: int = 24) -> SAE:
    """With functions that matter, started on the model's activations."""
    config = SAEConfig(
        lm.d_model,
        width,
        encoder={"name": encoder},
        sparsifier={"name": "topk", "k": 4},
        decoder={"name": decoder},
        trained_on={"site": SITE},
    )
    sae, x = SAE(config), activations(lm, windows())
    begin(sae, x, "mean", 0)
    upper = sae.encode(x).values.max().item()
    with torch.no_grad():
        for part in (sae.encoder, sae.decoder):
            if hasattr(part, "curves"):
                part.curves.basis.set_range(0.0, upper)
                part.curves.coefficients.copy_(0.4 * upper * torch.sin(3 * part.curves.line() / upper)[:, None])
    return sae


def test_top_tokens_are_those_that_the_curve_points_to(tiny_lm: LanguageModel) -> None:
    sae = kan_sae(tiny_lm)
    unembed = unembedding(tiny_lm)
    assert unembed is not None
    codes = torch.tensor([[0.1, 1.0, 3.0], [0.2, 2.0, 9.0]])
    found = top_tokens(sae, tiny_lm, unembed, torch.tensor([3, 7]), codes)
    for latent, at, rows in zip((3, 7), codes, found, strict=True):
        for f, tokens in zip(at, rows, strict=True):
            s = sae.decoder.curves(f[None], torch.tensor([latent]))
            psi = f * sae.W_dec[latent] + s * sae.decoder.W_bend[latent, 0]
            order = (psi.double() @ unembed.double()).argsort(descending=True)
            assert list(tokens) == [tiny_lm.tokenizer.decode([int(token)]) for token in order[: len(tokens)]]


def test_the_straight_twin_is_compared_on_the_saes_own_tokens(tiny_lm: LanguageModel) -> None:
    sae, batches = kan_sae(tiny_lm), windows(24, 12)
    calibration = Calibration(tiny_lm.d_model, {"it": sae})
    calibration.add(activations(tiny_lm, batches))
    rows, belong = controls({"it": sae}, {SITE: calibration}, 0)
    twin = STRAIGHT + "it"
    assert twin in belong["it"]["twins"]  # type: ignore[operator]
    found = measured(tiny_lm, batches, {"it": sae}, {twin: rows[twin]}, first=2)
    own, straight = found.rows["it"], found.rows[twin]
    ev, ce = (
        [row[group][name] for row in (own, straight)]
        for group, name in (
            ("reconstruction_quality", "explained_variance"),
            ("model_performance_preservation", "ce_loss_with_sae"),
        )
    )
    assert ev[0].n == ev[1].n
    lost, worse = own["splines"]["straight_ev_lost"], own["splines"]["straight_ce_increase"]
    assert lost.value == pytest.approx(ev[0].value - ev[1].value, abs=1e-9)
    assert lost.n == ev[0].n
    assert worse.value == pytest.approx(ce[1].value - ce[0].value, abs=1e-9)
    assert worse.n == ce[0].n
    assert lost.low < lost.value < lost.high
    # pairs of the same tokens differ less than either varies
    assert lost.high - lost.low < ev[0].high - ev[0].low


def test_only_saes_with_functions_have_them_in_the_evaluation(tiny_lm: LanguageModel) -> None:
    plain = dataclasses.replace
    sae = kan_sae(tiny_lm)
    linear = SAE(plain(sae.config, encoder={"name": "linear"}, decoder={"name": "linear"}))
    begin(linear, activations(tiny_lm, windows()), "mean", 0)
    found = measured(tiny_lm, windows(), {"kan": sae, "linear": linear}, losses=False)
    assert [*found.details["kan"].densities] == ["encoder", "decoder"]
    assert not found.details["linear"].densities
    tokens = found.details["kan"].densities["decoder"]
    assert tokens.tokens == found.tokens
    assert torch.equal(tokens.values, found.details["kan"].firings)


def test_an_evaluation_writes_all_of_it(tiny_lm: LanguageModel, tiny_llama: Path, tmp_path: Path) -> None:
    sae = kan_sae(tiny_lm)
    sae.remember(model=str(tiny_llama), window=32)
    sae.save_pretrained(tmp_path / "kan")
    text = write_stories(tmp_path / "stories.jsonl", 60)
    found = evaluate(
        tmp_path / "kan", text=str(text), tokens=2000, loss_tokens=600, prompts=5, out=str(tmp_path / "out"), quiet=True
    )
    (written,) = json.loads((tmp_path / "out" / "metrics.json").read_text())["saes"].values()
    of = written["splines"]
    assert set(of) - set(SPLINES) == {"straight_ev_lost", "straight_ce_increase"}
    assert of["decoder_curvature"]["n"] == found.details["topk"].densities["decoder"].counts.sum() > 5000
    assert of["decoder_tokens_outside"]["n"] == of["straight_ev_lost"]["n"] == found.held_out["tokens"]
    assert of["straight_ev_lost"]["value"] == pytest.approx(
        found.saes["topk"]["reconstruction_quality"]["explained_variance"].value
        - found.controls[STRAIGHT + "topk"]["reconstruction_quality"]["explained_variance"].value
    )
    assert found.capability is not None
    assert STRAIGHT + "topk" not in found.capability.rows
    assert [part.name for part in found.functions["topk"]] == ["kan-node", "kan-bend"]
    page = Page((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    assert "Encoder: kan-node" in page.text
    assert "Decoder: kan-bend" in page.text
    assert "Most raised when strong" in page.text
    # it is no rival: an SAE as good as its straightened copy is not thereby worthless
    assert "control (straight twin" not in page.text


# --- in the report --------------------------------------------------------------------------------------------------


def section(found: list[Functions], *, lost: Metric | None = None) -> tuple[str, Page]:
    """The report's section on learned functions, and the whole page."""
    made = evaluation()
    own = {**made.saes["topk"], **spline_metrics(found)}
    rows = dict(made.controls)
    if lost:
        own["splines"]["straight_ev_lost"] = lost
        rows[STRAIGHT + "topk"] = made.saes["topk"]
    made = dataclasses.replace(made, saes={"topk": own}, controls=rows, functions={"topk": found})
    html = report(made)
    part = html.split('<h3 id="sae-1-functions">')[1].split("<h3")[0]
    return part, Page(html)


def test_the_report_draws_what_there_is_and_where_there_is_data() -> None:
    sae = curved("kan-bend", [lambda v: torch.sin(2 * v), half, lambda v: v.square() / 4])
    f = torch.cat(
        [0.5 + torch.rand(500, 3), 3 + 0.5 * torch.rand(500, 3)]
    )  # nothing below .5, between 1.5 and 3, above 3.5
    found = functions_of(sae, SparseCodes.from_dense(f))
    assert [shown.function.latent for shown in found.shown] == [0, 2]
    for shown in found.shown:
        x, y = shown.function.x, shown.function.y
        drawn = x[x.isfinite()]
        assert float(drawn.min()) >= 0.5 - 1e-5
        assert float(drawn.max()) <= 3.5 + 1e-5
        assert not ((drawn > 1.5 + 1e-5) & (drawn < 3 - 1e-5)).any()
        assert torch.equal(x.isfinite(), y.isfinite())
        assert x.isfinite().sum() > 40
        assert not x.isfinite().all()
    assert not ((found.shown[0].knots[:, 0] > 1.6) & (found.shown[0].knots[:, 0] < 2.9)).any()
    assert torch.allclose(found.shown[0].intensities[:, 0], found.quantiles[0])
    part, page = section([found], lost=Metric(0.02, 0.01, 0.03, 100))
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", part)).replace("\u00a0", " ")
    assert "Decoder: kan-bend" in text
    assert "a loss of 0.02 (0.0100 to 0.0300)" in text
    assert "The bends earn something." in text
    assert "Nearest: sine" in text
    assert found.fits[0].formula in text.replace("&gt;", ">")
    assert f"it turns by {float(found.turning[0]):.3g}" in text
    assert "Under it, how often a code occurs." in text
    assert "periodic 1" in text
    assert part.count("<svg") == part.count("<figure") == part.count("<details") == 4  # kinds, angles, two latents
    assert "#sae-1-functions" in page.links
    assert not re.search(r"\b(nan|inf|None)\b", text)
    for name in spline_metrics([found])["splines"]:
        assert name in page.text
        assert SPLINES[name] in page.text


@pytest.mark.parametrize("decoder", DECODERS)
def test_an_index_draws_a_function_exactly_to_where_its_values_end(decoder: str, tiny_lm: LanguageModel) -> None:
    sae = curved(decoder, [wild, half, wild], basis="bspline")
    codes = SparseCodes.from_dense(torch.tensor([2.0, 1.5 * UPPER, 0.0]) * torch.rand(3000, 3))  # within, beyond, none
    parts, arrays = function_arrays(sae, tiny_lm, densities_of(sae, codes), lambda _: None)
    for latent, end in enumerate((2.0, 1.5 * UPPER, UPPER)):
        (found,) = functions_shown(latent, parts, arrays, None)
        x = torch.tensor(found["x"], dtype=torch.float64)
        assert 0.95 * end < float(x[-1]) < 1.2 * end
        assert x[-1] >= codes.to_dense()[:, latent].max()
        psi = values(sae, "decoder", torch.tensor([latent]), x[None])[0].double()
        if decoder == "kan-gain":
            line, expected = found["x"], psi @ sae.W_dec[latent].double()
        elif decoder == "kan-bend":
            line, expected = [0.0] * len(x), psi @ sae.decoder.W_bend[latent, 0].double()
        else:
            continue  # about an axis that follows from the values
        assert found["straight"] == pytest.approx(line)
        assert torch.allclose(torch.tensor(found["y"], dtype=torch.float64), expected, atol=1e-4)


def test_a_report_about_linear_saes_has_no_such_section() -> None:
    html = report(evaluation())
    assert "Learned functions" not in html
    assert "straight twin" not in html


def test_functions_that_nothing_reads_are_reported_as_such() -> None:
    sae = curved("kan-curve", [wild, half])
    silent = SparseCodes.from_dense(torch.zeros(50, 2))
    found = functions_of(sae, silent)
    assert math.isnan(found.density.share_outside)
    assert found.density.quantiles(SHARES).isnan().all()
    numbers = spline_metrics([found])["splines"]
    assert math.isnan(numbers["decoder_curvature"].value)
    text = re.sub(r"<[^>]+>", " ", section([found])[0])
    assert "0 of 2 functions read values" in text
    assert "too little data" in text
    assert "No function is drawn" in text
    assert not re.search(r"\b(nan|inf)\b", text)


def test_bars_under_lines_share_their_axis_and_stay_below() -> None:
    picture = svg.lines(
        [Series("y", [0, 1, 2, 3], [0, 5, 5, 9])],
        Axis("x", low=0),
        Axis("y"),
        "t",
        [(1, 2, 1.0), (2, 3, 0.5)],
        "counts",
    )
    bars = re.search(r'class="dot" d="([^"]+)"', picture)
    line = re.search(r'class="line" d="([^"]+)"', picture)
    assert bars
    assert line
    (_, base), (x2, _), (x3, _), (x4, _) = re.findall(r"[ML]([\d.]+) ([\d.]+)", line[1])
    lefts, tops, rights = (
        re.findall(r"M([\d.]+) ", bars[1]),
        re.findall(r" [\d.]+V([\d.]+)H", bars[1]),
        re.findall(r"H([\d.]+)", bars[1]),
    )
    assert (lefts, rights) == ([x2, x3], [x3, x4])
    assert all(float(top) > float(base) for top in tops)
    assert "Under it, counts." in picture
    assert 'class="dot"' not in svg.lines([Series("y", [0, 1], [0, 5])], Axis("x"), Axis("y"), "t")
