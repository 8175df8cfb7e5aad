"""The report's section on learned functions: what kinds there are, and those that are least straight, drawn."""

import math
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch

from kanary import svg
from kanary.evaluation.pages.pictures import Figure, Table, interval, metric, percent
from kanary.evaluation.result import Evaluation, Metric, Metrics
from kanary.evaluation.splines import CURVED, DRAWN, LEAST, Functions, Shown
from kanary.evaluation.standin import STRAIGHT
from kanary.scales import number
from kanary.splines import census
from kanary.svg import Axis, Series
from kanary.svg_rows import bars

INTENSITIES = ("weak", "middle", "strong")
TOO_MUCH = 0.01
"""Share of values outside their grids that is worth a warning."""
ROWS = 24
"""Rows of a table with a function's values."""


class FunctionsOfPart(NamedTuple):
    """What the report shows of one part's functions."""

    title: str
    lines: list[str]
    """Sentences before the pictures."""
    figures: list[Figure]
    left_out: list[str]


class Section(NamedTuple):
    """What the report shows of an SAE's functions."""

    straight: str
    """What straightening them loses."""
    parts: list[FunctionsOfPart]


def functions_section(evaluation: Evaluation, name: str) -> Section | None:
    """The section about the SAE ``name``; None where it has no learned functions, or they were not looked at."""
    found = evaluation.functions.get(name)
    return Section(_straight(evaluation, name), [_part(each) for each in found]) if found else None


def outside_grids(metrics: Metrics) -> Iterator[str]:
    """A warning about every part whose functions read too much outside their grids."""
    for part in ("encoder", "decoder"):
        share = metric(metrics, f"{part}_values_outside").value
        if share > TOO_MUCH:
            yield (
                f"{percent(share)} of what the {part}'s functions read lies outside their grids, where they are straight "
                "lines. Grids follow the values until half of training is over, but leave out the rarest: one or two in a "
                "hundred are usual. Many more say that this text is unlike that of training; training on such text would "
                "update the grids."
            )


def _straight(evaluation: Evaluation, name: str) -> str:
    """What is lost without the bends."""
    mine, control = evaluation.saes[name], evaluation.controls.get(STRAIGHT + name)
    lost, worse = (metric(mine, key) for key in ("straight_ev_lost", "straight_ce_increase"))
    if control is None or not math.isfinite(lost.value):
        return "What the functions are worth was not measured."
    ev, straight = (number(metric(row, "explained_variance").value, 4) for row in (mine, control))
    words = (
        "Without the bends, that is with every function replaced by its best straight line through the origin (fitted on "
        f"{evaluation.held_out.get('controls_fitted_on', 'other text')}), the SAE explains {straight} of the variance instead "
        f"of {ev}: a loss of {_with_interval(lost)}"
    )
    if math.isfinite(worse.value):
        words += f". The model then loses {_with_interval(worse)} nats per token more"
    verdict = "Whether the bends earn anything cannot be told from chance."
    if any(m.low > 0 for m in (lost, worse)):
        verdict = "The bends earn something."
    elif any(m.high < 0 for m in (lost, worse)):
        verdict = "The bends do harm."
    return f"{words}. {verdict if math.isfinite(lost.low) else 'There are too few documents to say whether that is chance.'}"


def _with_interval(m: Metric) -> str:
    span = interval(m)
    return f"{number(m.value)}{f' ({span})' if span else ''}"


def _part(of: Functions) -> FunctionsOfPart:
    reads = "scores, before the function" if of.part == "encoder" else "codes"
    figures = [_census(of)]
    figures += [_turning(of)] if of.turns else []
    figures += [_function(of, each) for each in of.shown]
    none = f"No function is drawn: none has more than {percent(DRAWN)} of its energy off a straight line."
    left_out = [] if of.shown else [none]
    return FunctionsOfPart(f"{of.part.capitalize()}: {of.name}", list(_lines(of, reads)), figures, left_out)


def _lines(of: Functions, reads: str) -> Iterator[str]:
    count = of.density.values
    alive, energy = int((count > 0).sum()), (of.energy * count).nan_to_num()
    share = float((energy * of.bent.nan_to_num()).sum() / energy.sum())
    off = "off the latents' straight lines" if of.turns else "what no straight line through the origin explains"
    yield (
        f"{alive:,} of {len(count):,} functions read values ({reads}) on {of.density.tokens:,} tokens. Over all of them, "
        f"{percent(share)} of the energy is {off}."
    )
    outside = of.density.share_outside
    if math.isfinite(outside):
        yield (
            f"{percent(outside)} of the values lie outside their function's grid, where it goes on as a straight line; so it "
            f"is on {percent(of.density.tokens_outside / max(1, of.density.tokens))} of the tokens."
        )
    if of.shown:
        yield (
            f"Drawn are the {len(of.shown)} whose functions put most off a straight line in all: by how often they fire, how "
            "strongly, and what share is off."
        )


def _census(of: Functions) -> Figure:
    title = "Kinds of functions"
    kinds = {kind: n for kind, n in census(of.fits).items() if n}
    values = [float(n) for n in kinds.values()]
    missing = [math.nan] * len(values)
    picture = bars([*kinds], values, missing, missing, Axis("latents"), title, ["kind"] * len(values))
    names = Counter(fit.name for fit in of.fits if fit.r2 >= 0.99)
    common = ", ".join(f"{name} ({n:,})" for name, n in names.most_common(5))
    reading = "Each function is named over the values it reads, weighted by how often they occur. "
    reading += f"The most common names that explain 99 % of the variance: {common}." if common else "None has a name."
    if of.turns:
        reading += (
            " Named is the coordinate across the latent's axis, the one that training found: constant means that the latent "
            "stays straight, and so does linear, along another axis. The same curve has another formula on other axes; "
            "angle and curvature do not depend on them."
        )
    return Figure(title, picture, reading, Table(["kind", "latents"], [[k, f"{n:,}"] for k, n in kinds.items()]))


def _turning(of: Functions) -> Figure:
    title = "How far directions turn"
    known = of.density.values >= LEAST
    angles, curvature = of.turning[known], of.curvature[known]
    edges = torch.linspace(0, max(10.0, float(angles.max()) if len(angles) else 0.0), 25, dtype=torch.float64)
    places = (torch.bucketize(angles, edges, right=True) - 1).clamp(0, 23)
    counts = torch.bincount(places, minlength=24).tolist()
    x = Axis("degrees between weak and strong")
    picture = svg.histogram(edges.tolist(), counts, x, Axis(f"latents (of {len(angles):,})"), title)
    reading = "No latent has enough values."
    if len(angles):
        reading = (
            f"Between its weak (10 %) and strong (90 %) codes the median latent turns by {number(float(angles.median()))}°, "
            f"one in ten by {number(float(angles.quantile(0.9)))}° or more. {int((curvature > CURVED).sum()):,} of "
            f"{len(angles):,} latents with {LEAST} values or more have over {percent(CURVED)} of their energy off their "
            "straight line."
        )
    ends = pairwise(edges.tolist())
    rows = [[f"{number(a)} to {number(b)}", f"{n:,}"] for (a, b), n in zip(ends, counts, strict=True)]
    return Figure(title, picture, reading, Table(["degrees", "latents"], rows))


# --- one function -------------------------------------------------------------------------------------------------


def _function(of: Functions, shown: Shown) -> Figure:
    drawn = shown.function
    title = f"Latent {drawn.latent}"
    reads = "score" if of.part == "encoder" else "code"
    density = of.density
    lows, highs, counts = (each[drawn.latent].tolist() for each in (density.edges, density.ends(), density.counts))
    bins = [(a, b, n) for a, b, n in zip(lows, highs, counts, strict=True) if n]
    most = max((n / (b - a) for a, b, n in bins if b > a), default=1.0)
    bars = [(a, b, n / (b - a) / most) for a, b, n in bins if b > a]
    xs, ys = drawn.x.tolist(), drawn.y.tolist()
    marks = [end for x, y in shown.knots.tolist() for end in ((x, y), (math.nan, math.nan))]  # marks, not a line
    series = [
        Series(drawn.says, xs, ys),
        Series("knots", [x for x, _ in marks], [y for _, y in marks]),
        Series("straight" if of.turns else "linear part", xs, drawn.straight.tolist(), dashed=True),
    ]
    picture = svg.lines(series, Axis(reads, low=0.0), Axis(drawn.says), title, bars, f"how often a {reads} occurs")
    return Figure(
        title, picture, " ".join(_words(of, shown)), Table([reads, drawn.says, "values"], _rows(shown, counts))
    )


def _words(of: Functions, shown: Shown) -> Iterator[str]:
    latent = shown.function.latent
    fit = of.fits[latent]
    if math.isfinite(fit.r2):
        span = (
            f"{number(fit.ranges[0][0])} to {number(fit.ranges[-1][1])}{', with gaps' if len(fit.ranges) > 1 else ''}"
        )
        also = f", or {', '.join(fit.equivalents)} as well" if fit.equivalents else ""
        yield f"Nearest: {fit.name}{also}, {fit.formula}, R² {number(fit.r2, 4)} from {span}."
    elif fit.formula:
        yield f"It is {fit.formula} wherever there are values."
    else:
        yield "Too few different values to name it."
    what = "is off its straight line" if of.turns else "is what no straight line through the origin explains"
    yield f"{percent(float(of.bent[latent]))} of its energy {what}, over {int(of.density.values[latent]):,} values."
    if of.turns:
        yield f"Between weak and strong it turns by {number(float(of.turning[latent]))}°."
    for intensity, (x, _), tokens in zip(INTENSITIES, shown.intensities.tolist(), shown.tokens, strict=False):
        listed = ", ".join(token.replace(" ", "␣").replace("\n", "⏎") or "(empty)" for token in tokens)
        yield f"Most raised when {intensity} ({number(x)}): {listed}."


def _rows(shown: Shown, counts: list[int]) -> list[list[str]]:
    """The function over at most ``ROWS`` stretches of x that hold values."""
    drawn = shown.function
    some = [at for at, n in enumerate(counts) if n]
    size = max(1, math.ceil(len(some) / ROWS))
    rows = []
    for start in range(0, len(some), size):
        part = some[start : start + size]
        low, high = float(drawn.x[3 * part[0]]), float(drawn.x[3 * part[-1] + 2])
        middle = float(drawn.y[3 * part[len(part) // 2] + 1])
        rows.append([f"{number(low)} to {number(high)}", number(middle), f"{sum(counts[at] for at in part):,}"])
    return rows
