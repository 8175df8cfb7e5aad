"""What ``kanary steer`` is asked for, in words, as edits; and what it leaves behind."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kanary.errors import KanaryError, nearest
from kanary.files import write_json, write_text
from kanary.interventions.baselines import compare
from kanary.interventions.edits import Edit
from kanary.interventions.presence import Presence, by_concept
from kanary.interventions.side_by_side import UNSTEERED, Table, named
from kanary.interventions.steerable import Steerable
from kanary.interventions.strength import by_first, scaled, sweep

KINDS = ("add", "set", "at_least", "at_most", "scale", "ablate", "project_out")


def requested_edits(features: Sequence[str], strengths: Sequence[float], kind: str, unit: str) -> list[Edit]:
    """``["12", "topk:7"]`` with a strength each, or one for all; without any, 2, or all of what is projected out.

    Raises:
        KanaryError: a feature that is no number, another number of strengths, an unknown kind.
    """
    if kind not in KINDS:
        raise KanaryError(f"--kind {kind}: {nearest(kind, KINDS)}")
    if not features:
        raise KanaryError("Name at least one feature: --feature 12.")
    strengths = strengths or [1.0 if kind == "project_out" else 2.0]
    if len(strengths) not in (1, len(features)):
        raise KanaryError(
            f"--strength was given {len(strengths)} times for {len(features)} features: give one, or one each."
        )
    amounts = list(strengths) * (len(features) if len(strengths) == 1 else 1)
    found: list[Edit] = []
    for written, amount in zip(features, amounts, strict=True):
        name, _, number = written.rpartition(":")
        if not number.strip().isdecimal():
            raise KanaryError(f"--feature {written}: give its number, such as 12, or NAME:12.")
        more: dict[str, Any] = {"unit": unit, "sae": name or None}
        if kind in ("at_least", "at_most"):
            low, high = (amount, None) if kind == "at_least" else (None, amount)
            found.append(Edit(int(number), "clamp", low=low, high=high, **more))
        else:
            found.append(Edit(int(number), kind, amount, **more))
    return found


def write_sweep(
    panel: Steerable,
    edits: Sequence[Edit],
    prompts: Sequence[str],
    concept: str | None,
    folder: Path | None,
    controls: bool = False,
    **options: Any,
) -> str:
    """Sweeps, leaves ``sweep.json``, ``sweep.svg`` and ``texts.html`` in ``folder``, and says what was found.

    Args:
        concept: of the labelled corpus, by which presence is judged; None: by the first feature.
        controls: sweep a random feature and a random direction as well, and leave ``controls.json``.
        options: as of :func:`kanary.interventions.strength.sweep`.
    """
    if controls:
        _lone_feature(edits)  # refuses before anything is swept
    presence: Presence = by_first(panel, edits)
    if concept is not None:
        presence = by_concept(panel.lm, concept, presence.sites[0])
    found = sweep(panel, edits, prompts, presence=presence, **options)
    lines = [f"Presence: {found.measure}.", "strength  presence  fluency  score  perplexity  repetition"]
    word = "recommended" if found.between else "best here"
    for p in found.points:
        mark = f"  ← {word}" if p.strength == found.best else ""
        lines.append(
            f"{p.strength:8g}  {p.presence.value:8.3f}  {p.fluency.value:7.3f}  {p.score.value:5.3f}  "
            f"{p.perplexity:10.2f}  {p.repetition.value:10.3f}{mark}"
        )
    lines.append(found.says())
    if controls:
        beside = compare(panel, _lone_feature(edits), prompts, sae=edits[0].sae, presence=presence, **options)
        lines += ["", "Beside it, pushes as long as its own, at the strength that is best for each:", *beside.says()]
        if folder is not None:
            write_json(folder / "controls.json", beside.to_json())
    if folder is not None:
        columns = tuple(UNSTEERED if p.strength == 0 else named(scaled(edits, p.strength)) for p in found.points)
        write_json(folder / "sweep.json", found.to_json())
        write_text(folder / "sweep.svg", found.svg())
        Table(columns, tuple(zip(*found.texts, strict=True))).write(folder / "texts.html")
        lines.append(f"Curve, numbers and texts are in {folder}.")
    return "\n".join(lines)


def _lone_feature(edits: Sequence[Edit]) -> int:
    (edit, *more) = edits
    if more or edit.kind != "add" or not isinstance(edit.feature, int):
        raise KanaryError("--controls stand beside one feature that is added: give one --feature, and no --kind.")
    return edit.feature
