"""Features in a notebook: HTML without a script, whose every text is escaped."""

from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING

from kanary.features.feature import Example, Feature
from kanary.features.glyphs import visible
from kanary.features.sparsity import L0

if TYPE_CHECKING:
    from kanary.features.index import FeatureIndex

SHOWN, CONTEXT = 10, 16


def feature_html(feature: Feature) -> str:
    """The numbers of a feature, its strongest examples and the tokens it writes for."""
    title = f"Feature {feature.latent:,} of {feature.sae['name']}"
    label = f": {escape(feature.label)}" if feature.label else ""
    numbers = f"fires on {feature.fired:,} of {feature.tokens:,} tokens ({feature.density:.3%}), at most {feature.maximum:.3g}"
    parts = [f"<div style='max-width:60em'><b>{escape(title)}</b>{label}<br>{numbers}<br>{_bars(feature)}"]
    if feature.logits:
        for name in ("positive", "negative"):
            tokens = ", ".join(
                f"<code>{escape(visible(row['token']))}</code> {row['value']:+.2f}" for row in feature.logits[name]
            )
            parts.append(f"<div>{name} logits: {tokens}</div>")
    rows = "".join(_row(feature.examples[i], feature.maximum) for i in feature.top[:SHOWN])
    parts.append(f"<table>{rows}</table></div>" if rows else "it fires nowhere in this text</div>")
    return "".join(parts)


def index_html(index: "FeatureIndex") -> str:
    """What the index is of, and its features by density."""
    meta = index.meta
    sae = meta["sae"]
    density = index.columns()["density"]
    order = density.argsort()[::-1][:SHOWN]
    rows = "".join(
        f"<tr><td>{latent}</td><td>{density[latent]:.3%}</td></tr>" for latent in map(int, order) if density[latent]
    )
    return (
        f"<div><b>Feature index of {escape(str(sae['name']))}</b>, {escape(str(sae['where']))} of "
        f"{escape(str(sae['model']))}<br>{len(index):,} latents, {meta['dead']:,} of them silent on "
        f"{meta['tokens']:,} tokens of {escape(str(meta['text']))}{_l0(index.l0)}"
        f"<table><tr><th>latent</th><th>density</th></tr>{rows}</table></div>"
    )


def _l0(l0: L0 | None) -> str:
    if l0 is None:
        return ""
    return f"<br>L0, latents that fire on a token: mean {l0.mean:.3g}, median {l0.median}, 90 % of tokens {l0.p5} to {l0.p95}"


def _row(example: Example, maximum: float) -> str:
    values = dict(example.activations)
    start = max(0, example.focus - CONTEXT)
    shown = range(start, min(len(example.tokens), example.focus + CONTEXT + 1))
    tokens = "".join(_token(example.tokens[i], values.get(i, 0.0), maximum, i == example.focus) for i in shown)
    return f"<tr><td>{example.value:.2f}</td><td style='text-align:left'>{tokens}</td></tr>"


def _token(text: str, value: float, maximum: float, bold: bool) -> str:
    shown = escape(visible(text))
    shown = f"<b>{shown}</b>" if bold else shown
    if not value:
        return shown
    return (
        f"<span title='{value:.3g}' style='background:rgba(240,140,0,{min(1.0, value / maximum):.2f})'>{shown}</span>"
    )


def _bars(feature: Feature) -> str:
    """The histogram as an SVG of bars with logarithmic heights."""
    counts: Iterable[int] = feature.histogram["counts"]
    most = max([1, *feature.histogram["counts"]]).bit_length()
    bars = "".join(
        f"<rect x='{6 * i}' y='{40 - 40 * n.bit_length() / most:.1f}' width='5' height='{40 * n.bit_length() / most:.1f}'/>"
        for i, n in enumerate(counts)
    )
    return f"<svg width='300' height='40' role='img' aria-label='histogram of values' fill='#888'>{bars}</svg>"
