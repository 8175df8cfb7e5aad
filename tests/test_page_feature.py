"""A feature's page in a real browser: every token tells its values, by pointer and by keyboard, whatever its text is."""

import math
import re
from collections.abc import Iterator
from typing import Any

import pytest

import page_data as data
from page_browser import Reader, readers

FEATURE = "#/f/demo/topk/12"


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    yield from readers()


@pytest.fixture(scope="module")
def feature() -> dict[str, Any]:
    return data.feature(12)


def seen(text: str) -> str:
    """A token as the page must show it: what cannot be seen is named."""
    named = {"\n": "↵", "\t": "⇥"}
    unseen = re.compile("[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
    return unseen.sub(lambda m: named.get(m[0], f"⟨U+{ord(m[0]):04X}⟩"), text)


def tip(page: Any) -> str:
    return str(page.inner_text(".tip"))


def focused(page: Any, name: str) -> str:
    return str(page.evaluate(f"document.activeElement.getAttribute('{name}')"))


def test_an_example_is_its_bold_token_between_four_tokens_on_each_side(reader: Reader, feature: dict[str, Any]) -> None:
    with reader.reading(FEATURE) as page:
        for at in (0, 7, 19):
            example = feature["examples"][at]
            low, high = max(0, example["focus"] - 4), example["focus"] + 5
            around = "".join(seen(t) for t in example["tokens"][low:high])
            row = page.locator(f"[data-row='top-{at}']")
            assert row.locator(".line").inner_text().replace("¶ ", "").split() == around.split()
            assert row.locator("b").inner_text() == seen(example["tokens"][example["focus"]]).strip()
        page.wait_for_function("() => document.querySelectorAll('li[data-row]').length === 70")


def test_colours_follow_the_logarithm_and_lines_the_sign_of_the_effect(reader: Reader, feature: dict[str, Any]) -> None:
    with reader.reading(FEATURE) as page:
        page.click("label >> text=window")
        shown = page.eval_on_selector_all(
            "[data-row] [data-i]",
            "all => all.map(t => [t.closest('[data-row]').dataset.row, +t.dataset.i, t.className])",
        )
    assert len(shown) > 700
    for row, i, classes in shown:
        example = feature["examples"][int(row.rsplit("-", 1)[1])]
        value, effect = dict(example["activations"]).get(i, 0), dict(example["effects"]).get(i)
        level = math.ceil(10 * math.log10(1 + 9 * value / feature["maximum"]) - 1e-9)
        assert re.findall(r"\bh(\d+)\b", classes) == ([str(max(1, level))] if value else [])
        expected = "" if effect is None else "lowers" if effect < 0 else "raises"
        assert ("lowers" in classes, "raises" in classes) == (expected == "lowers", expected == "raises")
    with reader.reading(FEATURE) as page:
        lines = page.eval_on_selector_all(
            ".effects .token",
            "all => all.map(t => [getComputedStyle(t).borderBottomStyle, getComputedStyle(t).borderBottomColor])",
        )
        assert [style for style, _ in lines] == ["dotted", "solid"]
        assert [colour for _, colour in lines] == ["rgb(11, 95, 165)", "rgb(184, 20, 60)"]


def test_silent_neighbours_share_a_text_node_until_somebody_reads_them(reader: Reader) -> None:
    with reader.reading(FEATURE) as page:
        page.click("label >> text=window")
        count = "document.querySelectorAll('[data-row] .line *').length"
        merged = page.evaluate(count)
        assert merged < 70 * 25, "of 128 tokens about 15 fire or have an effect"
        page.hover("[data-row='top-2'] b")
        assert page.locator("[data-row='top-2'] [data-i]").count() == 128
        before = page.inner_text("[data-row='top-2'] .line")
        page.hover("[data-row='top-4'] b")
        assert page.inner_text("[data-row='top-2'] .line") == before, "the text is the same, however it is painted"


def test_pointing_at_any_token_shows_its_values_and_marks_them_in_every_drawing(
    reader: Reader, feature: dict[str, Any]
) -> None:
    example = feature["examples"][0]
    with reader.reading(FEATURE) as page:
        page.hover("[data-row='top-0'] b")
        assert f"{example['value']:.4g}" in tip(page)
        assert page.locator(".plot line.cross").count() == 1
        assert page.locator("#functions line.cross").count() == 1
        silent = next(
            i for i in range(example["focus"] - 4, example["focus"] + 5) if i not in dict(example["activations"])
        )
        page.hover(f"[data-row='top-0'] [data-i='{silent}']")
        assert re.search(r"activation\s+0\n", tip(page))
        assert page.locator(".plot line.cross").count() == 0
        page.mouse.move(5, 5)
        assert page.locator(".tip").count() == 0


def test_the_crosshair_stands_at_the_logit_weight_of_every_token_in_sight(
    reader: Reader, feature: dict[str, Any]
) -> None:
    logits, example = feature["logits"], feature["examples"][0]
    known = logits["near"] | {each["token"]: each["value"] for each in logits["positive"] + logits["negative"]}
    low, high = logits["histogram"]["edges"][0], logits["histogram"]["edges"][-1]
    with reader.reading(FEATURE) as page:
        page.hover("[data-row='top-0'] b")
        places = range(example["focus"] - 4, example["focus"] + 5)
        for i in places:
            page.hover(f"[data-row='top-0'] [data-i='{i}']")
            value = known[example["tokens"][i]]
            assert re.search(f"logit weight\\s+[{'+' if value > 0 else '−'}]", tip(page))
            at, left, right = page.evaluate(
                "['line.cross', 'line.axis', 'line.axis'].map((part, i) =>"
                " +document.querySelector(`#logits ${part}`).getAttribute(i < 2 ? 'x1' : 'x2'))"
            )
            assert (at - left) / (right - left) == pytest.approx((value - low) / (high - low), abs=1e-6)
        assert len({example["tokens"][i] for i in places} - {each["token"] for each in logits["positive"]}) > 3


def test_pointing_at_the_histogram_marks_the_tokens_of_that_height(reader: Reader, feature: dict[str, Any]) -> None:
    with reader.reading(FEATURE) as page:
        page.hover(".strip button >> nth=2")
        low, high = feature["intervals"][2]["low"], feature["intervals"][2]["high"]
        marked = page.eval_on_selector_all(
            ".same", "all => all.map(t => [t.closest('[data-row]').dataset.row, +t.dataset.i])"
        )
        assert marked
        for row, i in marked:
            assert low < dict(feature["examples"][int(row.rsplit("-", 1)[1])]["activations"])[i] <= high


def test_an_interval_filters_by_click_by_key_and_by_address(reader: Reader) -> None:
    with reader.reading(FEATURE) as page:
        page.click(".strip button >> nth=2")
        assert page.url.endswith("?interval=3")
        assert page.locator("li[data-row]").count() == 5
        assert page.locator(".strip [aria-pressed=true]").count() == 1
        page.keyboard.press("0")
        assert page.url.endswith("?interval=10")
        page.keyboard.press("Escape")
        page.wait_for_function("() => document.querySelectorAll('li[data-row]').length === 70")
    with reader.reading(FEATURE + "?interval=4") as page:
        assert page.locator("li[data-row]").count() == 5


def test_the_keyboard_reaches_everything_and_every_stop_can_be_seen(reader: Reader, feature: dict[str, Any]) -> None:
    with reader.reading(FEATURE) as page:
        stops: list[str] = []
        for _ in range(60):
            page.keyboard.press("Tab")
            tag = page.evaluate("document.activeElement.tagName")
            if tag == "BODY":
                break
            stops.append(page.evaluate("document.activeElement.innerText || document.activeElement.id || ''").strip())
            ring = page.evaluate(
                "(() => { const e = document.activeElement, s = getComputedStyle(e.matches('.hidden') ? e.parentElement : e);"
                " return s.outlineStyle + s.outlineWidth })()"
            )
            assert ring.startswith("solid"), f"{tag} {stops[-1]!r} has the focus and does not show it: {ring}"
        assert 30 < len(stops) < 60, "the 70 examples are one stop, their row's buttons two more"
        for name in ("To the content", "Runs", "?", "Copy link", "jump", "Say it in your words"):
            assert name in stops
        page.keyboard.press("Shift+Tab")
        page.focus("[data-row='top-0'] b")
        example = feature["examples"][0]
        assert f"activation {example['value']:.3g}" in focused(page, "aria-label")
        page.keyboard.press("ArrowRight")
        assert focused(page, "data-i") == str(example["focus"] + 1)
        assert page.locator(".tip").count() == 1
        page.keyboard.press("ArrowDown")
        assert focused(page, "data-i") == str(feature["examples"][1]["focus"])
        page.keyboard.press("Enter")
        page.mouse.move(300, 700)
        assert "pinned" in tip(page), "what is pinned stays while the pointer goes elsewhere"
        page.keyboard.press("o")
        assert page.locator("[data-row='top-1'] .line.flow").count() == 1
        assert focused(page, "data-i") == str(feature["examples"][1]["focus"])


def in_order(feature: dict[str, Any]) -> list[str]:
    """The values of its examples as the page lists them: the strongest, then the intervals from the highest down."""
    shown = [*feature["top"], *(i for interval in reversed(feature["intervals"]) for i in interval["examples"])]
    return [f"{feature['examples'][i]['value']:#.3g}" for i in shown]


def test_a_change_shows_a_screenful_at_once_and_the_rest_when_there_is_time(reader: Reader) -> None:
    values = "[...document.querySelectorAll('li[data-row] .value')].map(one => one.textContent.replace('›', '').trim())"
    old, new = (in_order(data.feature(latent)) for latent in (12, 13))
    with reader.reading(FEATURE) as page:
        page.wait_for_function(
            "() => performance.getEntriesByType('resource').some(e => e.name.endsWith('/features/13'))"
        )
        page.wait_for_timeout(200)
        page.evaluate("window.later = []; window.requestIdleCallback = work => window.later.push(work); 0")
        page.keyboard.press("n")
        page.wait_for_selector("h1 >> text=Feature 13")
        found = page.evaluate(values)
        assert found[:10] == new[:10]
        assert found[20:] == old[20:], "the intervals are still those of the feature before"
        assert page.locator(".examples[aria-busy=true]").count() == 1
        page.evaluate("for (const work of window.later) work()")
        page.wait_for_selector("[aria-busy=true]", state="detached")
        assert page.evaluate(values) == new
    assert not reader.complaints()


def test_a_feature_can_be_taken_along(reader: Reader) -> None:
    with reader.reading(FEATURE) as page:
        with page.expect_download() as saved:
            page.click("text=Save page")
        assert saved.value.suggested_filename == "demo-topk-12.html"
        assert saved.value.path().read_text() == "<!doctype html>features 12"
        page.click("text=Use it elsewhere")
        said = page.inner_text("#elsewhere")
        assert 'kanary.FeatureIndex.open("runs/demo", "topk")[12]' in said
        assert 'kanary.SAE.from_pretrained("runs/demo/sae/topk").W_dec[12]' in said
        assert "--feature topk:12" in said
        assert 'src="feature-12.html#/f/demo/topk/12?embed=1"' in said
    assert not reader.complaints()


def test_features_follow_each_other_by_key_unless_keys_are_turned_off(reader: Reader) -> None:
    with reader.reading(FEATURE) as page:
        page.keyboard.press("n")
        page.wait_for_selector("h1 >> text=Feature 13")
        page.keyboard.press("p")
        page.wait_for_selector("h1 >> text=Feature 12")
        page.keyboard.press("?")
        page.click("dialog[open] input[type=checkbox]")
        page.keyboard.press("Escape")
        page.keyboard.press("n")
        page.wait_for_timeout(150)
        assert page.inner_text("h1").startswith("Feature 12")
        page.fill("#jump", "40")
        page.keyboard.press("Enter")
        page.wait_for_selector("h1 >> text=Feature 40")
    assert not reader.complaints()


def test_a_learned_function_stands_beside_its_straight_line_and_nothing_leaves_the_axis(
    reader: Reader, feature: dict[str, Any]
) -> None:
    ends = """() => {
        const box = of => document.querySelector(`#functions ${of}`).getBBox();
        const parts = ['.axis', 'path.learned', 'path.straight', 'path.rug', '.fitted'];
        const [axis, learned, straight, rug, fitted] = parts.map(box);
        return [straight.height, axis.x + axis.width, ...[learned, straight, rug, fitted].map(one => one.x + one.width)];
    }"""
    function = feature["functions"][0]
    assert function["turns"]
    with reader.reading(FEATURE) as page:
        height, end, learned, straight, rug, fitted = page.evaluate(ends)
        assert height == 0, "an arc's coordinate off its straight line is 0 where it is straight"
        assert (learned, straight) == pytest.approx((end, end), abs=0.2), "to the strongest value"
        assert max(rug, fitted) <= end + 0.2
    assert not reader.complaints()


def test_repeats_lead_to_each_other_and_lists_to_each_other(reader: Reader) -> None:
    with reader.reading(FEATURE) as page:
        for expected in ("top-4", "top-11", "top-0"):
            page.keyboard.press("r") if expected != "top-4" else page.click("[data-row='top-0'] .repeat")
            page.wait_for_function(
                "key => document.activeElement.closest('[data-row]')?.dataset.row === key", arg=expected
            )
        page.click("[data-row='top-2'] .value")
        page.click("[data-row='top-2'] >> text=also in interval 10")
        page.wait_for_function(
            "key => document.activeElement.closest('[data-row]')?.dataset.row === key", arg="interval-9-2"
        )


def test_an_example_has_an_address_and_its_whole_text_can_be_read(reader: Reader, feature: dict[str, Any]) -> None:
    example = feature["examples"][5]
    with reader.reading(f"{FEATURE}?example={example['document']}.{example['position']}") as page:
        assert page.locator("[data-row='top-5'].open").count() == 1
        page.click("[data-row='top-5'] >> text=the whole text")
        page.wait_for_selector("dialog[open] .text b")
        assert page.inner_text("dialog[open] .text b").strip() == seen(example["tokens"][example["focus"]]).strip()
        assert f"{len(example['activations'])} token" in page.inner_text("dialog[open] header")
        page.keyboard.press("Escape")
        page.wait_for_selector("dialog[open]", state="detached")
    assert not reader.complaints()


def test_a_score_stands_beside_what_guessing_would_score(reader: Reader, feature: dict[str, Any]) -> None:
    places = """all => all.map(one => {
        const track = one.querySelector('.track')?.getBoundingClientRect();
        const share = (part, side) => {
            const box = track && one.querySelector(part)?.getBoundingClientRect();
            return box ? (box[side] - track.left) / track.width : null;
        };
        return [share('.chance', 'left'), share('.range', 'left'), share('.range', 'right')];
    })"""
    with reader.reading(FEATURE) as page:
        shown = page.eval_on_selector_all(".machine ~ ul.num > li", places)
    scores = feature["explanation"]["scores"]
    for score, (chance, low, high) in zip(scores, shown, strict=True):
        if score["chance"] is None:  # grades from 1 to 5 have no place between 0 and 1
            assert (chance, low, high) == (None, None, None)
        else:
            assert chance == pytest.approx(score["chance"], abs=0.02)
            assert (low, high) == pytest.approx((max(0.0, score["low"]), score["high"]), abs=0.02)


def test_a_person_can_say_what_a_feature_means(reader: Reader) -> None:
    with reader.reading("#/f/demo/topk/14") as page:
        page.click("text=Say it in your words")
        page.keyboard.type("<b>storms</b> at sea")
        page.keyboard.press("Control+Enter")
        page.wait_for_selector("blockquote >> text='<b>storms</b> at sea'")
        assert reader.server.human[14]["text"] == "<b>storms</b> at sea"
        page.keyboard.press("n")
        page.wait_for_selector("h1 >> text=Feature 15")
        page.keyboard.press("p")
        page.wait_for_selector("h1 >> text='<b>storms</b> at sea'")
        reader.server.failing.add("/human")
        page.click("text=edit")
        page.click("button >> text=/^Save$/")
        page.wait_for_selector("[role=alert]")
        assert page.input_value("textarea") == "<b>storms</b> at sea", "what was written is not lost"
        reader.server.failing.clear()
    reader.complaints()  # of the refusal that was asked for


@pytest.mark.parametrize("each", [False, True])
def test_tokens_are_text_whatever_they_hold(reader: Reader, each: bool) -> None:
    hostile = data.feature(13, hostile=True)
    with reader.reading("#/f/demo/topk/13") as page:
        page.click("label >> text=window")
        if each:
            page.hover("[data-row='top-1'] b")
        example = hostile["examples"][1]
        shown = page.text_content("[data-row='top-1'] .line")
        assert shown.replace("¶ ", "") == "".join(seen(token) for token in example["tokens"])
        tags = page.evaluate("[...new Set([...document.querySelectorAll('.line *')].map(e => e.tagName))].sort()")
        assert set(tags) <= {"B", "BDI", "SPAN"}
        assert page.locator("main script, main img").count() == 0
        assert page.evaluate("window.hacked") is None
        page.click("label >> text=±12")
        page.hover("[data-row='top-1'] b")
        edges = page.eval_on_selector_all(
            "[data-row='top-1'] .after [data-i]", "all => all.map(e => e.getBoundingClientRect().left)"
        )
        assert len(edges) == 13
        assert edges == sorted(edges), "a right-to-left token turns its own letters only"
        assert page.evaluate("getComputedStyle(document.querySelector('.line bdi')).unicodeBidi") == "isolate"
    assert not reader.complaints()
