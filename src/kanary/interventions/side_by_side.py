"""The same prompts with and without steering, side by side, to read and to send."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanary.errors import KanaryError
from kanary.files import write_text
from kanary.interventions.edits import Edit, Edits, Vector, as_edits
from kanary.interventions.samples import Sample, refuse_empty, requests, write
from kanary.interventions.steerable import Steerable
from kanary.progress import bar

UNSTEERED = "unsteered"


@dataclass(frozen=True)
class Table:
    """A row for every prompt and seed, a column for every way of steering."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Sample, ...], ...]
    """One sample per column."""

    def to_json(self) -> dict[str, Any]:
        return {
            "columns": list(self.columns),
            "rows": [
                {"prompt": row[0].prompt, "seed": row[0].seed, "texts": [each.text for each in row]}
                for row in self.rows
            ],
        }

    def to_csv(self) -> str:
        """A line for every prompt, seed and column."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
        writer.writerow(("prompt", "seed", "steering", "text"))
        for row in self.rows:
            writer.writerows((_safe(each.prompt), each.seed, name, _safe(each.text)) for name, each in self._pairs(row))
        return out.getvalue()

    def to_markdown(self) -> str:
        head = ["prompt", "seed", *self.columns]
        lines = [head, ["---"] * len(head)]
        lines += [[row[0].prompt, str(row[0].seed), *(each.text for each in row)] for row in self.rows]
        return "".join("| " + " | ".join(map(_cell, line)) + " |\n" for line in lines)

    def to_html(self) -> str:
        """One page that opens anywhere."""
        from kanary.evaluation.pages.page import render

        return render("side_by_side.html.jinja", title="Steering, side by side", table=self)

    def write(self, path: Path) -> None:
        """As the ending of ``path`` says: .csv, .html, .md or .json.

        Raises:
            KanaryError: another ending, or a disk that cannot be written.
        """
        import json

        made = {
            ".csv": self.to_csv,
            ".html": self.to_html,
            ".md": self.to_markdown,
            ".json": lambda: json.dumps(self.to_json(), ensure_ascii=False, indent=1) + "\n",
        }
        if path.suffix not in made:
            raise KanaryError(f"{path} must end in one of {', '.join(made)}.")
        write_text(path, made[path.suffix]())

    def _pairs(self, row: Sequence[Sample]) -> Sequence[tuple[str, Sample]]:
        return list(zip(self.columns, row, strict=True))


def side_by_side(
    panel: Steerable,
    prompts: Sequence[str],
    columns: Mapping[str, Edits],
    *,
    seeds: Sequence[int] = (0,),
    tokens: int = 60,
    temperature: float = 0.7,
    quiet: bool = False,
) -> Table:
    """Writes every prompt with every seed, unsteered first and then as each of ``columns`` says."""
    refuse_empty(prompts)
    ways: dict[str, Sequence[Edit]] = {UNSTEERED: ()} | {name: as_edits(edits) for name, edits in columns.items()}
    asked = [
        each
        for edits in ways.values()
        for each in requests(panel.lm, prompts, seeds, edits, tokens=tokens, temperature=temperature)
    ]
    with bar("writing", len(asked), "texts", quiet) as show:
        texts = write(panel, asked, show=show)
    size = len(prompts) * len(seeds)
    return Table(tuple(ways), tuple(tuple(texts[i::size]) for i in range(size)))


def named(edits: Sequence[Edit]) -> str:
    """Edits in a few words, such as ``12 ×4``, or ``topk:12 ×4`` where the SAE is named."""
    words = []
    for edit in edits:
        name = edit.feature.name if isinstance(edit.feature, Vector) else str(edit.feature)
        name = name if edit.sae is None else f"{edit.sae}:{name}"
        unit = {"maximum": "×", "sigma": "σ", "raw": "raw "}[edit.unit]
        shown = {"add": f"{unit}{edit.amount:g}", "set": f"= {unit}{edit.amount:g}", "scale": f"scaled {edit.amount:g}"}
        bounds = (("≥", edit.low), ("≤", edit.high))
        shown["clamp"] = " ".join(f"{sign} {unit}{bound:g}" for sign, bound in bounds if bound is not None)
        words.append(f"{name} {shown.get(edit.kind, edit.kind.replace('_', ' '))}")
    return ", ".join(words)


def _safe(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return "'" + text if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _cell(text: str) -> str:
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\r", "").replace("\n", "<br>")
