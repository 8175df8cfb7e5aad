"""The pictures of one SAE: what its numbers look like token by token and latent by latent.

Each picture comes with a sentence that says what it shows, and with the same data as a table of at most 25 rows.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from kanary import svg
from kanary.evaluation.capability import kept
from kanary.evaluation.result import Capability, Details, Evaluation, Metric, Metrics, flat
from kanary.scales import number
from kanary.svg import Axis, Series
from kanary.svg_rows import bars

BINS = 24
POINTS = 1000  # most points of a scatter
NOTHING = Metric(math.nan, math.nan, math.nan, 0)


class Table(NamedTuple):
    """Cells as text, ready to be shown."""

    headers: list[str]
    rows: list[list[str]]


class Figure(NamedTuple):
    """A picture, and two ways to read it without seeing it."""

    title: str
    svg: str
    reading: str
    """One sentence or two, with the numbers."""
    table: Table


def pictures(evaluation: Evaluation, name: str) -> tuple[list[Figure], list[str]]:
    """The pictures of the SAE ``name``, and why others could not be drawn, one line each."""
    found = list(_pictures(evaluation, name))
    return [item for item in found if isinstance(item, Figure)], [item for item in found if isinstance(item, str)]


def controls_of(evaluation: Evaluation, name: str) -> list[str]:
    """Names of the controls that stand beside the SAE ``name``: identity, PCA, its twins; those that were measured."""
    about = evaluation.about.get(name, {})
    names = [f"identity at {about.get('site')}", about.get("pca"), *about.get("twins", ())]
    return [str(control) for control in names if control in evaluation.controls]


def short(evaluation: Evaluation, control: str, name: str) -> str:
    """What a control is called beside the SAE ``name``: ``random twin``, ``PCA with 16 components``.

    A twin whose L0 is unlike the SAE's says so, for every score rises with L0.
    """
    words = control.removesuffix(f" of {name}").split(" at ")[0]
    words = words.replace(" 1 components", " 1 component")
    l0, mine = (metric(row, "l0").value for row in (evaluation.controls[control], evaluation.saes[name]))
    return f"{words} (L0 {number(l0)})" if words.endswith(" twin") and abs(l0 - mine) > 0.1 * mine else words


def metric(metrics: Metrics, name: str) -> Metric:
    """A number of an SAE or control; NaN over no tokens where it was not measured."""
    return flat(metrics).get(name, NOTHING)


def percent(share: float) -> str:
    """``0.0213`` as ``2.13 %``, with a space that does not break."""
    return f"{number(100 * share)}\u00a0%" if math.isfinite(share) else "–"


def _pictures(evaluation: Evaluation, name: str) -> Iterator[Figure | str]:
    metrics = evaluation.saes[name]
    if (details := evaluation.details.get(name)) is None:
        yield "No pictures of active latents, densities, positions and norms: nothing was kept token by token."
    else:
        yield _l0(details, metrics)
        yield _density(details)
        yield _position(details)
        yield _norms(details)
    if metric(metrics, "ce_loss_with_sae").n:
        yield _losses(evaluation, name)
    else:
        yield "No picture of the losses: the model was not run with the SAE in place."
    if evaluation.capability is None or name not in evaluation.capability.rows:
        yield "No picture of the answers: the model was not tried on prompts."
    else:
        controls = [control for control in controls_of(evaluation, name) if control in evaluation.capability.rows]
        yield _answers(evaluation.capability, name, {c: short(evaluation, c, name) for c in controls})
    if (latents := evaluation.latents.get(name)) is None:
        yield "No pictures of decoder directions and logit weights: the latents were not looked at one by one."
        return
    yield _cosines(latents.max_decoder_cosine)
    if latents.logit_skewness is None or latents.logit_kurtosis is None or latents.logit_std is None:
        yield "No pictures of logit weights: this SAE does not write into the residual stream."
    else:
        fire = details.firings > 0 if details else slice(None)
        skewness, kurtosis, std = latents.logit_skewness[fire], latents.logit_kurtosis[fire], latents.logit_std[fire]
        yield _skewness(skewness)
        yield _kurtosis(kurtosis)
        yield _moments(skewness, kurtosis, std)


# --- tokens -------------------------------------------------------------------------------------------------------


def _l0(details: Details, metrics: Metrics) -> Figure:
    title = "Active latents per token"
    values, counts = details.l0_values.double(), details.l0_counts.double()
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)
    width = max(1, math.ceil((high - low + 1) / BINS))
    bins = math.ceil((high - low + 1) / width)
    edges = [low - 0.5 + width * i for i in range(bins + 1)]
    heights = torch.zeros(bins, dtype=torch.float64)
    heights.index_add_(0, ((values - low) / width).long(), counts)
    x = Axis("active latents (L0)", low=max(-0.5, low - 5.5), high=high + 5.5)
    picture = svg.histogram(edges, heights.tolist(), x, Axis(f"tokens (of {details.tokens:,})"), title)
    mean, p5, p50, p95 = (number(metric(metrics, key).value, 4) for key in ("l0", "l0_p5", "l0_p50", "l0_p95"))
    reading = (
        f"On average {mean} of {len(details.firings):,} latents are active on a token; the median is {p50}, the 5th "
        f"percentile {p5} and the 95th {p95}, over {details.tokens:,} tokens."
    )
    names = [
        f"{math.ceil(a):,}" if width == 1 else f"{math.ceil(a):,} to {math.floor(b):,}" for a, b in pairwise(edges)
    ]
    rows = [[bin_, f"{int(count):,}"] for bin_, count in zip(names, heights, strict=True)]
    return Figure(title, picture, reading, Table(["active latents", "tokens"], rows))


def _density(details: Details) -> Figure:
    title = "How often the latents fire"
    fired = details.firings[details.firings > 0].double() / max(details.tokens, 1)
    d_sae, dead = len(details.firings), len(details.firings) - len(fired)
    x = Axis("share of tokens on which a latent fires", log=True, low=1 / max(details.tokens, 1), high=1.0)
    reading = f"{dead:,} of {d_sae:,} latents never fired on {details.tokens:,} tokens"
    if len(fired):
        often = int((fired > 0.1).sum())
        reading += f"; the median of the others fires on {percent(float(fired.median()))} of the tokens. "
        reading += f"Latents that fire on more than 10 % of the tokens: {often:,}"
    figure = _histogram(title, fired, x, "share of tokens", f"{reading}.", d_sae)
    figure.table.rows.insert(0, ["never", f"{dead:,}"])
    return figure


def _position(details: Details) -> Figure:
    title = "Error by position in the window"
    starts, fvu = _grouped(details, 256)
    known = sorted(v for v in fvu if math.isfinite(v))
    steep = bool(known) and known[0] > 0 and known[-1] > 20 * known[len(known) // 2]
    window = len(details.position_fvu)
    y = Axis("unexplained variance (FVU)", log=steep, low=None if steep else 0.0)
    picture = svg.lines(
        [Series("FVU", starts, fvu)], Axis(f"position in the window (0 to {max(0, window - 1):,})"), y, title
    )
    _, quarters = _grouped(details, 4)
    reading = (
        f"In the first quarter of the window the SAE leaves {percent(quarters[0])} of the variance unexplained, "
        f"in the last {percent(quarters[-1])}."
        if quarters
        else "No position was measured."
    )
    starts, fvu = _grouped(details, 25)
    rows = [[f"from {at:,.0f}", percent(value)] for at, value in zip(starts, fvu, strict=True)]
    return Figure(title, picture, reading, Table(["position", "unexplained variance"], rows))


def _grouped(details: Details, most: int) -> tuple[list[float], list[float]]:
    """First position and token-weighted mean FVU of at most ``most`` groups of neighbouring positions."""
    size = max(1, math.ceil(len(details.position_fvu) / most))
    starts, values = [], []
    for start in range(0, len(details.position_fvu), size):
        fvu = details.position_fvu[start : start + size].double()
        weight = torch.where(fvu.isfinite(), details.position_tokens[start : start + size].double(), 0.0)
        total = float(weight.sum())
        starts.append(float(start))
        values.append(float((fvu.nan_to_num() * weight).sum()) / total if total else math.nan)
    return starts, values


def _norms(details: Details) -> Figure:
    title = "Error against the size of the activation"
    pairs = details.norms[details.norms.isfinite().all(1) & (details.norms[:, 0] > 0)].double()
    shown = pairs[_sample(len(pairs))]
    sizes, errors = shown.T.tolist() if len(shown) else ([], [])
    wide = bool(sizes) and max(sizes) > 20 * min(sizes)
    x, y = Axis("norm of the activation", log=wide), Axis("norm of the error", log=wide)
    picture = svg.scatter(sizes, errors, x, y, title)
    headers = ["norm of the activation", "tokens", "median error", "median error / norm"]
    if not len(pairs):
        return Figure(title, picture, "No token was sampled.", Table(headers, []))
    ratio = pairs[:, 1] / pairs[:, 0]
    low, middle, high = torch.quantile(ratio, torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)).tolist()
    reading = (
        f"The error's norm is {percent(middle)} of the activation's at the median, between {percent(low)} and "
        f"{percent(high)} for 90 % of {len(pairs):,} sampled tokens{_drawn(len(pairs))}."
    )
    rows = []
    for span, part in _tenths(pairs):
        error, share = (float(v.median()) for v in (part[:, 1], part[:, 1] / part[:, 0]))
        rows.append([span, f"{len(part):,}", number(error), percent(share)])
    return Figure(title, picture, reading, Table(headers, rows))


# --- the model ----------------------------------------------------------------------------------------------------


def _losses(evaluation: Evaluation, name: str) -> Figure:
    title = "What the model loses"
    mine = evaluation.saes[name]
    rows = [
        ("model alone", "model", metric(mine, "ce_loss_without_sae")),
        (f"with {name}", "this SAE", metric(mine, "ce_loss_with_sae")),
        *(
            (f"with {short(evaluation, c, name)}", "controls", metric(evaluation.controls[c], "ce_loss_with_sae"))
            for c in controls_of(evaluation, name)
        ),
        ("mean ablation", "ablations", metric(mine, "ce_loss_with_mean_ablation")),
        ("zero ablation", "ablations", metric(mine, "ce_loss_with_ablation")),
    ]
    picture = _bars(rows, Axis("loss (nats per token; lower is better)"), title)
    clean, spliced, *_, zero = (row[2] for row in rows)
    increase = number(metric(mine, "ce_loss_increase").value)
    reading = (
        f"The model loses {number(clean.value)} nats per token; with the SAE in place {number(spliced.value)} "
        f"({increase} more), with zeros in place {number(zero.value)}, over {spliced.n:,} tokens."
    )
    cells = [[label, number(m.value, 4), interval(m, 4), f"{m.n:,}"] for label, _, m in rows]
    return Figure(title, picture, reading, Table(["in place of the activations", "nats", "95 % interval", "n"], cells))


def _answers(capability: Capability, name: str, controls: Mapping[str, str]) -> Figure:
    title = "Answers that stay first"
    found = {row: kept(capability, row) for row in (name, *controls)}
    labels = {row: f"with {controls.get(row, row)}" for row in found}
    n = found[name].share.n
    shares = [("model alone", "model", Metric(1.0 if n else math.nan, math.nan, math.nan, n))]
    shares += [(labels[row], "this SAE" if row == name else "controls", found[row].share) for row in found]
    picture = _bars(shares, Axis("share of the model's own first answers", high=1.0), title)
    reading = (
        f"Of {len(capability.without):,} prompts the model alone ranks the true next token first on {n:,}; with the SAE "
        f"in place it still does on {_count(found[name].share):,} of these."
    )
    rows = [["model alone", f"{n:,} of {n:,}", percent(1.0 if n else math.nan), number(found[name].rank_without)]]
    for row, (share, _, rank) in found.items():
        rows.append([labels[row], f"{_count(share):,} of {share.n:,}", percent(share.value), number(rank)])
    return Figure(title, picture, reading, Table(["", "still first", "share", "median rank, all prompts"], rows))


def _count(share: Metric) -> int:
    return round(share.value * share.n) if share.n else 0


def _bars(rows: Sequence[tuple[str, str, Metric]], x: Axis, title: str) -> str:
    labels, groups, numbers = zip(*rows, strict=True)
    columns = [[m[i] for m in numbers] for i in range(3)]
    return bars(labels, columns[0], columns[1], columns[2], x, title, groups)


def interval(m: Metric, digits: int = 3) -> str:
    """``0.97 to 0.99``; nothing for a number without an interval."""
    if not (math.isfinite(m.low) and math.isfinite(m.high)) or m.low == m.high:
        return ""
    place = math.floor(math.log10(max(abs(m.low), abs(m.high))))
    if not -4 <= place < 9:
        return f"{number(m.low, digits)} to\u00a0{number(m.high, digits)}"
    decimals = max(0, digits - 1 - place)  # both ends with as many, so that they can be compared at a glance
    return f"{m.low:,.{decimals}f} to\u00a0{m.high:,.{decimals}f}".replace("-", "−")


# --- latents ------------------------------------------------------------------------------------------------------


def _cosines(max_decoder_cosine: Tensor) -> Figure:
    title = "Nearest neighbour of each decoder direction"
    values = _finite(max_decoder_cosine)
    near = int((values > 0.9).sum())
    mean = number(float(values.mean())) if len(values) else "–"
    reading = f"The mean is {mean} over {len(values):,} latents; {near:,} have a neighbour above 0.9, a near copy."
    return _histogram(title, values, Axis("largest cosine with another latent", high=1.0), "largest cosine", reading)


def _skewness(skewness: Tensor) -> Figure:
    title = "Skewness of the logit weights"
    values = _finite(skewness)
    up, down = int((values > 1).sum()), int((values < -1).sum())
    reading = (
        f"Of {len(values):,} latents that fire, {up:,} have a skewness above 1 and {down:,} below −1. Random directions have "
        "such a skewness too, how often depends on the model."
    )
    return _histogram(title, values, Axis("skewness"), "skewness", reading)


def _kurtosis(kurtosis: Tensor) -> Figure:
    title = "Kurtosis of the logit weights"
    values = _finite(kurtosis)
    values = values[values > 0]
    median = number(float(values.median())) if len(values) else "–"
    reading = f"The median is {median} over {len(values):,} latents that fire; above 10: {int((values > 10).sum()):,}."
    return _histogram(title, values, Axis("kurtosis (3 for a normal distribution)", log=True), "kurtosis", reading)


def _moments(skewness: Tensor, kurtosis: Tensor, std: Tensor) -> Figure:
    title = "Skewness against kurtosis of the logit weights"
    table = torch.stack([skewness, kurtosis, std], 1).double()
    table = table[table.isfinite().all(1) & (table[:, 1] > 0)]
    xs, ys, colours = table[_sample(len(table))].T.tolist() if len(table) else ([], [], [])
    y = Axis("kurtosis", log=True)
    picture = svg.scatter(xs, ys, Axis("skewness"), y, title, colours, "standard deviation")
    both = int(((table[:, 0] > 1) & (table[:, 1] > 10)).sum())
    reading = (
        f"{both:,} of {len(table):,} latents that fire have both a skewness above 1 and a kurtosis above 10"
        f"{_drawn(len(table))}."
    )
    rows = [
        [span, f"{len(part):,}", *(number(float(part[:, i].median())) for i in (1, 2))] for span, part in _tenths(table)
    ]
    headers = ["skewness", "latents", "median kurtosis", "median standard deviation"]
    return Figure(title, picture, reading, Table(headers, rows))


# --- bins ---------------------------------------------------------------------------------------------------------


def _finite(values: Tensor) -> Tensor:
    return values[values.isfinite()].double()


def _histogram(title: str, values: Tensor, x: Axis, header: str, reading: str, total: int | None = None) -> Figure:
    """Of latents; ``total``: how many there are, where not all have a value."""
    edges, counts = _binned(values, x.log)
    y = Axis(f"latents (of {len(values) if total is None else total:,})")
    rows = [[f"{number(a)} to {number(b)}", f"{n:,.0f}"] for (a, b), n in zip(pairwise(edges), counts, strict=True)]
    return Figure(title, svg.histogram(edges, counts, x, y, title), reading, Table([header, "latents"], rows))


def _binned(values: Tensor, log: bool = False) -> tuple[list[float], list[float]]:
    """Edges and counts of at most ``BINS`` bins of one width (in log10, if ``log``) from the least to the greatest."""
    if not len(values):
        return [], []
    places = values.log10() if log else values
    low, high = float(places.min()), float(places.max())
    if high - low <= 1e-9 * max(1.0, abs(high)):
        room = 0.05 * (abs(low) if low and not log else 1.0)
        edges = torch.tensor([low - room, high + room], dtype=torch.float64)
    else:
        edges = torch.linspace(low, high, BINS + 1, dtype=torch.float64)
    index = (torch.bucketize(places, edges, right=True) - 1).clamp(0, len(edges) - 2)
    counts = torch.bincount(index, minlength=len(edges) - 1)
    return (10**edges if log else edges).tolist(), counts.double().tolist()


def _tenths(table: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The rows by their first column, in at most ten parts of one size, each with the span of that column."""
    for part in table[table[:, 0].argsort()].chunk(10) if len(table) else ():
        yield f"{number(float(part[0, 0]))} to {number(float(part[-1, 0]))}", part


def _sample(count: int) -> Tensor:
    """Indices of at most ``POINTS`` of ``count`` things: the same ones each time."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))[:POINTS]


def _drawn(count: int) -> str:
    return f" (a random {POINTS:,} are drawn)" if count > POINTS else ""
