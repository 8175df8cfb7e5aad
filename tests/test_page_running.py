"""Steer, Watch, Attribute and Prompt search in a real browser: what is asked, what is shown, and that it stops."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from page_browser import VIEWS, Reader, axe, readers, screenshot


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    yield from readers()


def test_default_and_steered_texts_stand_side_by_side_and_lie_in_the_address(reader: Reader, tmp_path: Path) -> None:
    with reader.reading("#/steer", width=1280, height=900) as page:
        page.wait_for_url("**/#/steer/demo/topk*")
        page.fill("#steer-prompt", "It is said")
        page.fill("input[placeholder=number]", "12")
        page.keyboard.press("Enter")
        page.focus("#strength-12")
        page.keyboard.press("ArrowRight")
        assert "f=12%3A2.25" in page.url
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
        screenshot(page, tmp_path, "steer-written")
        link = page.url
    with reader.reading(link[link.index("#") :]) as page:
        assert page.input_value("#steer-prompt") == "It is said"
        assert page.input_value("[aria-label='Strength of feature 12, in maxima']") == "4"
    assert not reader.complaints()


def test_stopping_is_at_once_and_the_server_hears_of_it(reader: Reader) -> None:
    reader.server.pause, reader.server.left = 0.05, []
    try:
        with reader.reading(VIEWS["steer"]) as page:
            page.fill("label:has-text('tokens') input", "400")
            page.click("text=Write >> nth=0")
            page.wait_for_selector("[aria-label='Steered, seed 0'] >> text=/KEEPER/")
            page.keyboard.press("Escape")
            page.wait_for_selector("text=Stopped. >> nth=1", timeout=1000)
            page.wait_for_timeout(400)
        assert len(reader.server.left) == 2
        assert max(reader.server.left) < 100
    finally:
        reader.server.pause = 0.0
    assert not reader.complaints()


def test_values_alarms_and_records_of_a_watch(reader: Reader, tmp_path: Path) -> None:
    with reader.reading(VIEWS["watch"], width=1280, height=900) as page:
        page.click("text=Write >> nth=0")
        page.wait_for_selector("text=As long as asked for.")
        assert page.inner_text("mark") == " would"
        assert (page.text_content("[role=status] li") or "").startswith("lying at ␣would, token 6: 3")
        assert page.locator("svg[aria-label^='lying: 61 values'] rect.loud").count() == 1
        assert not axe(page)
        screenshot(page, tmp_path, "watch-written")
        page.click("button:has-text('2026-11-28 19:00')")
        page.wait_for_selector("#values-title >> text=Recorded")
        assert page.locator("svg[aria-label^='lying: 11 values']").count() == 1
        assert page.inner_text("mark") == " would"
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
        page.click("[aria-label='Delete the watch rain']")
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


def test_features_that_separate_two_lists(reader: Reader) -> None:
    with reader.reading(VIEWS["prompts"]) as page:
        page.fill("textarea >> nth=0", "a\nb")
        page.fill("textarea >> nth=1", "c\nd")
        page.click("button:has-text('Search')")
        page.wait_for_selector("#separating-title >> text=/^10 features/")
        assert page.inner_text("b.token >> nth=0") == " that"
        assert not axe(page)
    assert not reader.complaints()
