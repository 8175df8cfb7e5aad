"""The report: an evaluation as one HTML page that a student can read and a researcher can trust."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from kanary.evaluation.capability import kept
from kanary.evaluation.pages.concepts import Row, Tables, concept_tables
from kanary.evaluation.pages.glossary import GROUPS, METRICS, SPLINES
from kanary.evaluation.pages.page import render
from kanary.evaluation.pages.pictures import Figure, controls_of, interval, metric, percent, pictures, short
from kanary.evaluation.pages.splines import Section as SplinesSection
from kanary.evaluation.pages.splines import functions_section, outside_grids
from kanary.evaluation.result import Answer, Evaluation, Metric, Prompt
from kanary.evaluation.standin import STRAIGHT
from kanary.evaluation.sums import FEWEST
from kanary.scales import number

PERCENT = "\u00a0%"
PROMPTS = 10
FEW_TOKENS = 10_000
FEW_DOCUMENTS = 30  # from so few the bootstrap's intervals come out too narrow
HEADLINES = ("l0", "explained_variance", "ce_loss_score", "dead_share")


class Headline(NamedTuple):
    """One of the numbers that matter."""

    label: str
    value: str
    interval: str
    n: str
    sentence: str
    beside: str
    """The same number of the controls."""


class Section(NamedTuple):
    """One SAE."""

    anchor: str
    name: str
    headlines: list[Headline]
    warnings: list[str]
    figures: list[Figure]
    left_out: list[str]
    columns: list[str]
    groups: list[tuple[str, list[Row]]]
    functions: SplinesSection | None
    concepts: Tables | None
    said: list[tuple[Prompt, Answer, Answer]]
    about: dict[str, object]


def report(evaluation: Evaluation) -> str:
    """The page: for every SAE its five numbers, its pictures, all its metrics beside the controls', and prompts.

    It loads nothing and runs no script, so that it can be mailed, archived and opened anywhere.
    """
    sections = [_section(evaluation, name, f"sae-{i}") for i, name in enumerate(evaluation.saes, 1)]
    return render(
        "report.html.jinja",
        sections=sections,
        held_out={key: value for key, value in evaluation.held_out.items() if key != "missing"},
        missing=evaluation.held_out.get("missing"),
        tokens=evaluation.held_out.get("tokens"),
        asked=_ended(evaluation.held_out),
        prompts=len(evaluation.capability.prompts) if evaluation.capability else 0,
    )


def _ended(held_out: Mapping[str, Any]) -> int | None:
    """How many tokens were asked for, where the text had fewer."""
    asked, read = held_out.get("asked_tokens"), [held_out.get(key) or 0 for key in ("windows", "window")]
    return asked if asked and math.prod(read) < asked else None  # special tokens are read, but not counted


def _section(evaluation: Evaluation, name: str, anchor: str) -> Section:
    controls, (figures, left_out) = controls_of(evaluation, name), pictures(evaluation, name)
    return Section(
        anchor=anchor,
        name=name,
        headlines=list(_headlines(evaluation, name)),
        warnings=list(warnings(evaluation, name)),
        figures=figures,
        left_out=left_out,
        columns=[name, *(short(evaluation, control, name) for control in controls)],
        groups=list(_groups(evaluation, name, controls)),
        functions=functions_section(evaluation, name),
        concepts=concept_tables(evaluation, name),
        said=_said(evaluation, name),
        about=dict(evaluation.about.get(name, {})),
    )


# --- the five numbers ---------------------------------------------------------------------------------------------


def _headlines(evaluation: Evaluation, name: str) -> Iterator[Headline]:
    mine = evaluation.saes[name]
    d_sae = _width(evaluation, name)
    l0, ev, ce, dead = (metric(mine, key) for key in HEADLINES)
    yield _headline(evaluation, name, "Active latents (L0)", "l0", _say_l0(l0, d_sae, dense=_dense(evaluation, name)))
    yield _headline(evaluation, name, "Explained variance", "explained_variance", _say_ev(evaluation, name, ev))
    yield _headline(evaluation, name, "CE score (zero ablation)", "ce_loss_score", _say_ce(evaluation, name, ce))
    yield _headline(evaluation, name, "Dead latents", "dead_share", _say_dead(dead, d_sae), share=True)
    yield _fifth(evaluation, name)


def _headline(evaluation: Evaluation, name: str, label: str, key: str, sentence: str, share: bool = False) -> Headline:
    controls = {short(evaluation, c, name): metric(evaluation.controls[c], key) for c in controls_of(evaluation, name)}
    own = metric(evaluation.saes[name], key)
    fewer = sorted({m.n for m in controls.values() if math.isfinite(m.value) and m.n != own.n})
    if fewer:  # dead latents in particular grow fewer with more tokens
        sentence += f" The controls are over {' and '.join(f'{n:,}' for n in fewer)} tokens."
    return _shown(label, own, sentence, {control: m.value for control, m in controls.items()}, share=share)


def _shown(
    label: str, m: Metric, sentence: str, beside: dict[str, float], share: bool = False, unit: str = "tokens"
) -> Headline:
    text = percent if share else number
    known = [f"{control}: {text(value)}" for control, value in beside.items() if math.isfinite(value)]
    scale = 100 if share else 1
    span = interval(Metric(m.value * scale, m.low * scale, m.high * scale, m.n))
    words = f"95 % interval {span}{PERCENT if share else ''}" if span else ""
    return Headline(
        label,
        text(m.value),
        f"no interval: fewer than {FEWEST} documents" if math.isfinite(m.value) and math.isnan(m.low) else words,
        f"over {m.n:,} {unit}" if m.n else "not measured",
        sentence,
        "; ".join(known),
    )


def _say_l0(l0: Metric, d_sae: int, dense: bool) -> str:
    if not math.isfinite(l0.value):
        return "How many latents are active was not measured."
    if l0.value == 0:
        return "No latent ever fires: the SAE puts the same vector in place of every activation."
    share = l0.value / d_sae if d_sae else math.nan
    verdict = "not sparse" if share > 0.25 or dense else "only moderately sparse" if share > 0.05 else "sparse"
    return f"On average {number(l0.value)} of {d_sae:,} latents are active on a token ({percent(share)}): {verdict}."


def _say_ev(evaluation: Evaluation, name: str, ev: Metric) -> str:
    if not math.isfinite(ev.value):
        return "There is no such number: the activations do not vary, or some are not finite."
    words = f"The reconstruction explains {percent(ev.value)} of what varies in the activations"
    if ev.value < 0:
        words = "The reconstruction is further from the activations than their mean is"
    verdict = _against(evaluation, name, "explained_variance")
    return f"{words}{f': {verdict}' if verdict else ''}."


def _say_ce(evaluation: Evaluation, name: str, ce: Metric) -> str:
    keys = ("ce_loss_with_sae", "ce_loss_without_sae", "ce_loss_score_mean")
    spliced, alone, strict = (number(metric(evaluation.saes[name], key).value, 4) for key in keys)
    if not math.isfinite(ce.value):
        return "The model was not run with the SAE in place."
    words = (
        f"With the SAE in place the model loses {spliced} nats per token instead of {alone}; 1 would be no harm, 0 as bad "
        "as zeros."
    )
    verdict = _against(evaluation, name, "ce_loss_score")
    words += f" It is {verdict}." if verdict else ""
    mean = metric(evaluation.saes[name], "ce_loss_score_mean").value
    return f"{words} Against mean ablation{', the stricter score' if mean < ce.value else ''}: {strict}."


def _say_dead(dead: Metric, d_sae: int) -> str:
    if not math.isfinite(dead.value):
        return "Which latents fire was not measured."
    words = f"{round(dead.value * d_sae):,} of {d_sae:,} latents fired on none of {dead.n:,} tokens"
    shares = {1.0: "all are unused", 0.5: "most are unused", 0.1: "many are unused", 1e-12: "nearly all are used"}
    verdict = next((verdict for least, verdict in shares.items() if dead.value >= least), "all are used")
    return f"{words}: {verdict}."


def _fifth(evaluation: Evaluation, name: str) -> Headline:
    """Capability; where no prompt was tried, how often the prediction stays the same."""
    found = evaluation.capability
    if found is None or name not in found.rows:
        words = "On so many of the tokens the model with the SAE in place predicts the same next token as alone."
        if not metric(evaluation.saes[name], "top1_agreement").n:
            words = "The model was not run with the SAE in place."
        return _headline(evaluation, name, "Same prediction", "top1_agreement", words, share=True)
    m = kept(found, name).share
    controls = [c for c in controls_of(evaluation, name) if c in found.rows]
    beside = {short(evaluation, c, name): kept(found, c).share.value for c in controls}
    words = (
        f"Of {m.n:,} prompts whose next token the model ranks first, it still ranks {round(m.value * m.n):,} first with "
        f"the SAE in place{'' if m.n >= 30 else '; too few prompts to say much'}."
        if m.n
        else f"The model alone ranks the next token first on none of {len(found.without):,} prompts."
    )
    return _shown("Answers kept", m, words, beside, share=True, unit="prompts")


def _against(evaluation: Evaluation, name: str, key: str) -> str:
    """How a number stands to the best of ``_rivals``; "" without intervals."""
    m = metric(evaluation.saes[name], key)
    rivals = {c: metric(evaluation.controls[c], key) for c in _rivals(evaluation, name)}
    rivals = {c: rival for c, rival in rivals.items() if math.isfinite(rival.value)}
    if not rivals:
        return ""
    best = max(rivals, key=lambda c: rivals[c].value)
    if not all(math.isfinite(end) for end in (*m[:3], *rivals[best][:3])):
        return ""
    verdict = "below" if _below(m, rivals[best]) else "above" if _below(rivals[best], m) else "not told apart from"
    besides = "; the straight twin apart" if any(c.startswith(STRAIGHT) for c in controls_of(evaluation, name)) else ""
    return f"{verdict} the best control ({short(evaluation, best, name)}{besides})"


def _below(a: Metric, b: Metric) -> bool:
    """Whether the intervals are apart; never without intervals."""
    return a.high < b.low


def _rivals(evaluation: Evaluation, name: str) -> list[str]:
    """Without the identity, and without the straightened copy, which is no other way to get there."""
    return [c for c in controls_of(evaluation, name) if not c.startswith(("identity at ", STRAIGHT))]


def _width(evaluation: Evaluation, name: str) -> int:
    return int(evaluation.about.get(name, {}).get("d_sae") or 0)


def _dense(evaluation: Evaluation, name: str) -> bool:
    """Whether it takes more than half as many active latents as the activation has dimensions."""
    d_model = evaluation.about.get(name, {}).get("d_model") or math.inf
    return metric(evaluation.saes[name], "l0").value > d_model / 2


# --- warnings -----------------------------------------------------------------------------------------------------


def warnings(evaluation: Evaluation, name: str) -> Iterator[str]:
    """What makes the SAE's numbers doubtful, in words; the worst first."""
    mine, d_sae = evaluation.saes[name], _width(evaluation, name)
    l0, ev, ce, dead = (metric(mine, key) for key in HEADLINES)
    if l0.value == 0:
        yield "The SAE never fires: not one latent was active on any token. It is broken, or its threshold is too high."
    elif d_sae and l0.value > d_sae / 4:
        yield f"Not sparse: {number(l0.value)} of {d_sae:,} latents are active on a token, more than a quarter."
    if _dense(evaluation, name):
        d_model = evaluation.about[name]["d_model"]
        yield f"Not sparse: {number(l0.value)} active latents stand for an activation of only {d_model:,} dimensions."
    for control in _rivals(evaluation, name):
        theirs = metric(evaluation.controls[control], "explained_variance")
        if _below(ev, theirs):
            so = "training is not what explains the activations"
            if " twin " not in control:
                so = "the linear code explains more"
            elif metric(evaluation.controls[control], "l0").value > 1.1 * l0.value:
                so = "but it has more active latents"
            control_is = f"the control {short(evaluation, control, name)}, {number(theirs.value)}"
            yield f"Explained variance {number(ev.value)} is below that of {control_is}: {so}."
        theirs = metric(evaluation.controls[control], "ce_loss_score")
        if control.startswith("random twin") and _below(ce, theirs):
            yield (
                f"CE score {number(ce.value)} is below that of random directions, {number(theirs.value)}: "
                "the model would be served better by an SAE that was never trained."
            )
    if 0.5 < dead.value < 1:
        yield f"{percent(dead.value)} of the latents never fired on {dead.n:,} tokens: most of the SAE is unused."
    yield from outside_grids(mine)
    tokens = evaluation.held_out.get("tokens")
    if tokens is not None and tokens < FEW_TOKENS:
        yield f"Only {tokens:,} tokens were measured, fewer than {FEW_TOKENS:,}: rare latents look dead, intervals are wide."
    documents = evaluation.held_out.get("documents", FEW_DOCUMENTS)
    if documents < FEWEST:
        yield f"Fewer than {FEWEST} documents: numbers have no interval, and are not compared with the controls."
    elif documents < FEW_DOCUMENTS:
        yield f"Only {documents} documents, fewer than {FEW_DOCUMENTS}: intervals are rough, and tend to be too narrow."


# --- tables -------------------------------------------------------------------------------------------------------


def _groups(evaluation: Evaluation, name: str, controls: list[str]) -> Iterator[tuple[str, list[Row]]]:
    """Every metric, in the order of the glossary; unknown groups and metrics last, without an explanation."""
    columns = [evaluation.saes[name], *(evaluation.controls[control] for control in controls)]
    known = [group for group in GROUPS if group in columns[0]]
    explained = METRICS | SPLINES
    for group in known + [group for group in columns[0] if group not in GROUPS]:
        rows = []
        for key, mine in columns[0][group].items():
            cells = [metric(column, key) for column in columns]
            texts = [(number(m.value, 4), interval(m, 4)) for m in cells]
            rows.append(Row(key, explained.get(key, ""), texts, f"{mine.n:,}" if mine.n else "–"))
        yield GROUPS.get(group, group), rows


def _said(evaluation: Evaluation, name: str) -> list[tuple[Prompt, Answer, Answer]]:
    """The first prompts, what the model alone makes of them, and what it makes of them with the SAE in place."""
    found = evaluation.capability
    if found is None or name not in found.rows:
        return []
    return list(zip(found.prompts, found.without, found.rows[name], strict=True))[:PROMPTS]
