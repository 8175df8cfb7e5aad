"""Steer, Watch, Attribute and Prompt search in a real browser: what is asked, what is shown, and that it stops."""

from collections.abc import Iterator
from typing import Any

import pytest

import page_running as running
from page_browser import VIEWS, Reader, axe, readers, screenshot


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    yield from readers()


def test_default_and_steered_texts_stand_side_by_side_and_lie_in_the_address(reader: Reader) -> None:
    with reader.reading("#/steer", width=1280, height=900) as page:
        page.wait_for_url("**/#/steer/demo/topk*")
        page.fill("#steer-prompt", "It is said")
        page.fill("input[placeholder=number]", "12")
        page.keyboard.press("Enter")
        page.focus("#strength-12")
        page.keyboard.press("ArrowRight")
        assert "f=12%3A0.75" in page.url, "begins at half its maximum"
        page.fill("[aria-label='Strength of feature 12, in maxima']", "4")
        page.keyboard.press("Control+Enter")
        page.wait_for_selector("text=As long as asked for. >> nth=1")
        plain = page.inner_text("[aria-label='As it is, seed 0'] .text")
        assert plain.startswith("It is saidthe keeper")
        assert page.inner_text("[aria-label='Steered, seed 0'] .text").startswith("It is saidTHE KEEPER")
        assert "<b>no</b>" in plain
        assert "⟨U+202E⟩" in plain, "what could reorder a line is named"
        assert sum("/write" in one for one in reader.server.asked) == 2
        page.click("text=Try strengths")
        page.click("text=Use +4")
        assert page.input_value("[aria-label='Strength of feature 12, in maxima']") == "4"
        assert not axe(page)
        screenshot(page, "steer-written")
        link = page.url
    with reader.reading(link[link.index("#") :]) as page:
        assert page.input_value("#steer-prompt") == "It is said"
        assert page.input_value("[aria-label='Strength of feature 12, in maxima']") == "4"
    assert not reader.complaints()


def test_a_feature_is_changed_in_the_way_that_is_chosen(reader: Reader) -> None:
    ways = {  # by what is said, and typed: what the server is asked for, and what lies in the address
        ("add", "2"): ({"amount": 2}, "12:2"),
        ("set to", "3"): ({"kind": "set", "amount": 3}, "12:3:set"),
        ("at least", "0.5"): ({"kind": "clamp", "low": 0.5}, "12:0.5:floor"),
        ("at most", "0"): ({"kind": "clamp", "high": 0}, "12:0:cap"),
        ("times", "4"): ({"kind": "scale", "amount": 4}, "12:4:scale"),
        ("take out", None): ({"kind": "ablate"}, "12:4:ablate"),
        ("project out", None): ({"kind": "project_out", "amount": 1}, "12:4:project_out"),
    }
    with reader.reading("#/steer/demo/topk?prompt=It&f=12:2", width=1280, height=900) as page:
        page.wait_for_selector("#way-12")
        for number, ((says, typed), (asked, written)) in enumerate(ways.items()):
            page.select_option("#way-12", label=says)
            if typed is None:
                assert page.locator("#strength-12").count() == 0
            else:
                page.fill("input[aria-label^='Strength of feature 12']", typed)
            reader.server.written.clear()
            page.click("button >> text=/^Write$/")
            page.wait_for_selector("text=As long as asked for. >> nth=1")
            assert [body["edits"] for body in reader.server.written if body.get("edits")] == [
                [{"feature": 12, **asked}]
            ]
            assert f"f={written.replace(':', '%3A')}&" in page.url + "&"
            assert page.is_enabled("text=Try strengths") == (number < 2)
        assert not axe(page)
        screenshot(page, "steer-ways")
        link = page.url
    with reader.reading(link[link.index("#") :]) as page:
        assert page.input_value("#way-12") == "project_out"
        page.focus("#way-12")
        page.keyboard.type("times")  # a select is worked by its words
        assert page.input_value("#way-12") == "scale"
        assert "in times its value" in str(page.get_attribute("input[type=number][aria-label^=Strength]", "aria-label"))
    with reader.reading("#/steer/demo/topk?prompt=It&f=12:2:nothing&f=3:1:set") as page:
        page.wait_for_selector("#way-3")
        assert page.locator("#way-12").count() == 0, "a link from elsewhere cannot ask for what is not there"
    assert not reader.complaints()


def test_stopping_is_at_once_and_the_server_hears_of_it(reader: Reader) -> None:
    reader.server.pause, reader.server.left = 0.05, []
    try:
        with reader.reading(VIEWS["steer"]) as page:
            page.fill("label:has-text('tokens') input", "400")
            page.click("button >> text=/^Write$/")
            page.wait_for_selector("[aria-label='Steered, seed 0'] >> text=/KEEPER/")
            page.keyboard.press("Escape")
            page.wait_for_selector("text=Stopped. >> nth=1", timeout=5000)
            page.wait_for_timeout(400)
        assert len(reader.server.left) == 2
        assert max(reader.server.left) < 100
    finally:
        reader.server.pause = 0.0
    assert not reader.complaints()


def test_values_alarms_and_records_of_a_watch(reader: Reader) -> None:
    with reader.reading(VIEWS["watch"], width=1280, height=900) as page:
        page.click("button >> text=/^Write$/")
        page.wait_for_selector("text=As long as asked for.")
        assert page.inner_text("mark") == " would"
        assert (page.text_content("[role=status] li") or "").startswith("lying at ␣would, token 6: 3")
        assert page.locator("svg[aria-label^='lying: 61 values'] rect.loud").count() == 1
        assert not axe(page)
        screenshot(page, "watch-written")
        page.click("button:has-text('2026-11-28 19:00')")
        page.wait_for_selector("#values-title >> text=Recorded")
        assert page.locator("svg[aria-label^='lying: 11 values']").count() == 1
        assert page.inner_text("mark") == " would"
    assert not reader.complaints()


@pytest.mark.parametrize(("auroc", "says"), [(0.55, "may be chance: AUROC .450 to .650"), (0.3, "higher in the neg")])
def test_a_doubtful_watch_says_so(reader: Reader, auroc: float, says: str) -> None:
    made = running.watch("perhaps")
    made["measured"]["auroc"] = running.rate(auroc)
    reader.server.watches.append(made)
    try:
        with reader.reading(VIEWS["watch"]) as page:
            assert page.locator("[aria-labelledby=watches-title] li .badge.warn").count() == 1
            assert says in page.inner_text("[aria-labelledby=watches-title] li .badge.warn")
            assert not axe(page)
    finally:
        reader.server.watches.remove(made)
    assert not reader.complaints()


def test_a_watch_is_made_from_texts_and_deleted(reader: Reader) -> None:
    with reader.reading(VIEWS["watch"]) as page:
        page.click("summary:has-text('New watch')")
        page.fill("label:has-text('Name') input", "rain")
        page.fill("label:has-text('go off in') textarea", "one\ntwo\n\nthree")
        page.fill("label:has-text('be silent') textarea", "four")
        page.select_option("select", "stop")
        with page.expect_request("**/watches/rain") as asked:
            page.click("button:has-text('Make')")
        body = asked.value.post_data_json
        assert (body["positive"], body["negative"], body["on_alarm"]) == (["one", "two", "three"], ["four"], "stop")
        page.wait_for_selector("li:has-text('rain') input:checked")
        page.focus("[aria-label='Delete the watch rain']")
        page.keyboard.press("Enter")
        page.keyboard.press("Enter")  # twice by mistake
        page.keyboard.press("Enter")
        page.keyboard.press("Escape")
        page.wait_for_timeout(150)
        assert [watch["name"] for watch in reader.server.watches] == ["lying", "rain"]
        assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Delete the watch rain"
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.wait_for_selector("li:has-text('rain')", state="detached")
    assert not reader.complaints()


def test_a_token_shows_what_raises_the_prediction(reader: Reader) -> None:
    with reader.reading(VIEWS["attribute"]) as page:
        page.wait_for_selector("#target-title")
        assert page.locator("[aria-label='Table: features at single tokens'] tbody tr").count() == 20
        page.click(".tokens button >> nth=2")
        assert page.locator("[aria-label='Table: features at single tokens'] tbody tr").count() == 5
        page.keyboard.press("Escape")
        assert page.locator("[aria-label='Table: features at single tokens'] tbody tr").count() == 20
    assert not reader.complaints()


def test_attributed_features_stand_by_what_is_shown_and_colours_say_what_raises(reader: Reader) -> None:
    with reader.reading(VIEWS["attribute"]) as page:
        page.wait_for_selector("#features-title")
        cells = page.locator("[aria-label='Table: features at all their tokens'] tbody tr td:nth-child(3)")
        shown = [abs(float(cell.replace("−", "-"))) for cell in cells.all_inner_texts()[:-1]]  # the last is the rest
        assert shown == sorted(shown, reverse=True)
        assert shown[0] == 1.9, "of all twenty, not of the first twelve"
        ground = "one => getComputedStyle(one).backgroundColor"  # oklab(lightness, redness, yellowness)
        up, down = (
            page.eval_on_selector_all(f".tokens .{way}", f"all => ({ground})(all.at(-1))") for way in ("up", "down")
        )
        assert float(up.rstrip(")").split()[2]) < 0 < float(down.rstrip(")").split()[2]), (
            f"as logit weights: {up} blue, {down} orange"
        )
    assert not reader.complaints()


def test_a_sweep_says_how_far_it_has_come_and_how_long_it_will_take(reader: Reader) -> None:
    reader.server.slow["/sweep"], reader.server.pause = 3, 0.5
    try:
        with reader.reading(VIEWS["steer"]) as page:
            page.click("text=Try strengths")
            page.wait_for_selector("progress:not([value])")  # nothing is written yet
            assert not axe(page)
            page.wait_for_function(
                """() => {
                    const bar = document.querySelector('progress');
                    const said = /^5 of 40 texts, [\\d.]+\\/s, \\d+ s left$/.test(bar?.nextElementSibling?.textContent ?? '');
                    return said && bar.value === 5 && bar.max === 40;
                }"""
            )
            page.wait_for_selector("text=Use +4")
            assert not page.locator("progress").count()
    finally:
        reader.server.slow.clear()
        reader.server.pause = 0.0
    assert not reader.complaints()


@pytest.mark.parametrize(
    ("events", "said"),
    [
        (
            [{"done": 5, "of": 40}, {"error": "The index is of other weights.", "fix": "Build it again."}],
            "Build it again",
        ),
        ([{"done": 5, "of": 40}], "The server stopped before it was done."),
    ],
)
def test_a_sweep_that_fails_on_its_way_says_why(
    reader: Reader, monkeypatch: pytest.MonkeyPatch, events: list[dict[str, Any]], said: str
) -> None:
    monkeypatch.setattr(running, "swept", lambda: events)
    with reader.reading(VIEWS["steer"]) as page:
        page.click("text=Try strengths")
        page.wait_for_selector(f"text={said}")
        page.wait_for_selector("text=Try strengths")
    assert not reader.complaints()


def test_features_that_separate_two_lists(reader: Reader) -> None:
    with reader.reading(VIEWS["prompts"]) as page:
        page.fill("textarea >> nth=0", "a\nb")
        page.fill("textarea >> nth=1", "c\nd")
        page.click("button:has-text('Search')")
        page.wait_for_selector("#separating-title >> text=/^10 features/")
        assert page.inner_text("b.token >> nth=0") == " that"
        assert "near 0 where the others do" in page.inner_text("#separating-title")
        assert not axe(page)
    assert not reader.complaints()
