"""Figures of features: files that any program draws, whatever the tokens are."""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

import kanary
from feature_runs import build, make_run, stories
from kanary.errors import KanaryError
from kanary.features.drawing import Panel, file
from kanary.features.example_rows import AFTER, CELL, VALUE, heat
from kanary.features.feature import Feature
from kanary.features.figures import figures, png, write_png, write_svg
from kanary.features.glyphs import cells, visible
from page_data import HOSTILE
from runs import kanary as command

ELEMENTS = {"svg", "title", "g", "text", "rect", "line", "polyline"}
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> kanary.FeatureIndex:
    folder = tmp_path_factory.mktemp("figures")
    return build(make_run(folder / "run", tiny_llama, stories(folder), decoder={"name": "kan-bend"}))


def drawn(feature: Feature) -> dict[str, ET.Element]:
    return {panel.name: ET.fromstring(file(panel)) for panel in figures(feature)}


def texts(picture: ET.Element) -> list[str]:
    return [one.text or "" for one in picture.iter(f"{SVG}text")]


def test_a_figure_has_every_part_and_the_whole(index: kanary.FeatureIndex, tmp_path: Path) -> None:
    done = command("export", index.folder, "--features", "0,5", "--svg", tmp_path / "out")
    assert "Figures of 2 features" in done.out
    parts = {"", "-activations", "-examples", "-logits", "-decoder"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"feature-{i}{p}.svg" for i in (0, 5) for p in parts
    }


def test_the_histogram_shows_every_count(index: kanary.FeatureIndex) -> None:
    feature = index[0]
    found = drawn(feature)["activations"]
    strip = [interval.count for interval in feature.intervals]
    assert [int(one.replace(",", "")) for one in texts(found) if re.fullmatch(r"[\d,]+", one)][-10 - 11 :][
        :10
    ] == strip or all(f"{count:,}" in texts(found) for count in strip)
    bars = [one for one in found.iter(f"{SVG}rect") if one.get("fill") == "#8a96a5"]
    assert len(bars) == sum(count > 0 for count in feature.histogram["counts"])
    tallest = max(range(len(bars)), key=lambda i: float(bars[i].get("height", 0)))
    counts = [count for count in feature.histogram["counts"] if count]
    assert counts[tallest] == max(counts)


def test_examples_stand_below_each_other_at_their_focus(index: kanary.FeatureIndex) -> None:
    feature = index[0]
    words = tuple(" " * (i % 2) + f"w{i}" for i in range(32))
    named = replace(feature, examples=tuple(replace(each, tokens=words) for each in feature.examples))
    bold = [one for one in drawn(named)["examples"].iter(f"{SVG}text") if one.get("font-weight") == "bold"]
    shown = [words[feature.examples[i].focus] for i in feature.top[:10]]
    assert [one.text for one in bold[:10]] == [word.strip() for word in shown]
    starts = [float(one.get("x", 0)) - CELL * word.startswith(" ") for one, word in zip(bold, shown, strict=False)]
    assert max(starts) - min(starts) < 0.2
    assert min(starts) > VALUE


def test_nothing_in_a_token_becomes_markup_or_unreadable(index: kanary.FeatureIndex) -> None:
    """Markup, control characters, turned writing, wide letters, and a token longer than the room."""
    odd = [*HOSTILE, "\x00\x08", "漢字", "e\u0301", "x" * 500, "\ud800"]
    feature = index[0]
    examples = tuple(
        replace(each, tokens=tuple(odd[(i + k) % len(odd)] for k in range(32)))
        for i, each in enumerate(feature.examples)
    )
    logits = dict(feature.logits or {})
    logits["positive"] = [{"token": token, "id": i, "value": 1.0} for i, token in enumerate(odd)]
    for name, picture in drawn(replace(feature, examples=examples, logits=logits)).items():
        assert {one.tag.removeprefix(SVG) for one in picture.iter()} <= {
            "svg",
            "title",
            "g",
            "text",
            "rect",
            "line",
            "polyline",
        }, name
        assert not any(c in text for text in texts(picture) for c in "\x00\x08\u202e\u200b\n"), name
    rows = drawn(replace(feature, examples=examples))["examples"]
    for one in rows.iter(f"{SVG}text"):
        if one.get("textLength"):
            assert float(one.get("x", 0)) + float(one.get("textLength", 0)) <= VALUE + (34 + AFTER) * CELL + 1


def test_a_learned_function_is_drawn_to_its_strongest_value_beside_its_straight_line(
    index: kanary.FeatureIndex,
) -> None:
    latent = int(index.columns()["fired"].argmax())
    feature = index[latent]
    function = feature.functions[0]
    bent = replace(feature, functions=({**function, "y": [x * x for x in function["x"]]},))
    picture = drawn(bent)["decoder"]
    straight, curve = (
        [tuple(map(float, point.split(","))) for point in (line.get("points") or "").split()]
        for line in picture.iter(f"{SVG}polyline")
    )
    assert len({y for _, y in straight}) == 1, "a coordinate off a straight line is 0 where it is straight"
    assert len({y for _, y in curve}) > 3
    assert function["x"][-1] >= feature.maximum
    bars = [one for one in picture.iter(f"{SVG}rect") if one.get("fill") == "#8a96a5"]
    assert bars
    assert max(float(bar.get("x", 0)) + float(bar.get("width", 0)) for bar in bars) <= curve[-1][0] + 0.5


def test_a_silent_feature_says_so(index: kanary.FeatureIndex) -> None:
    silent = drawn(index[len(index) - 1])
    assert "It fires nowhere in this text." in texts(silent["examples"])


def test_colours_are_the_page_s() -> None:
    css = Path(__file__).parent.parent.joinpath("web/src/app.css").read_text(encoding="utf-8")
    light = re.findall(r"--h\d+: light-dark\((#\w+),", css)
    assert len(light) == 10
    shown = [heat((10 ** (level / 10) - 1) / 9 * 5.0, 5.0) for level in range(1, 11)]
    assert shown == light


def test_letters_take_as_many_cells_as_they_are_wide() -> None:
    assert cells("abc") == 3
    assert cells("漢字") == 4
    assert cells("e\u0301") == 1
    assert visible(" a\n\t\x00\u202e") == " a↵⇥⟨U+0000⟩⟨U+202E⟩"


def test_png_is_a_picture_of_three_times_the_size(index: kanary.FeatureIndex, tmp_path: Path) -> None:
    pytest.importorskip("resvg_py")
    write_png(index, [0], tmp_path, quiet=True)
    write_svg(index, [0], tmp_path, quiet=True)
    for picture in tmp_path.glob("*.png"):
        raw = picture.read_bytes()
        assert raw[:8] == b"\x89PNG\r\n\x1a\n"
        whole = ET.fromstring(picture.with_suffix(".svg").read_text(encoding="utf-8"))
        for at, side in ((16, "width"), (20, "height")):
            assert abs(int.from_bytes(raw[at : at + 4], "big") - 3 * float(whole.get(side, 0))) <= 3, (
                picture.name,
                side,
            )
    blank = png(file(Panel("", "", 60, 60, "")))
    assert len(blank) < len((tmp_path / "feature-0-logits.png").read_bytes()) / 5


def test_without_what_draws_pixels_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(KanaryError, match=r"kanary\[figures\]"):
        png("<svg/>")
