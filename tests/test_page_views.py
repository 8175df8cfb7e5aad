"""Every view in a real browser: nothing complains, nothing leaves the address, everybody can read it."""

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import page_data as data
from kanary.app.export import page as page_of
from page_browser import VIEWS, Reader, axe, readers, screenshot
from page_server import STATIC


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    yield from readers()


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_is_readable_in_light_and_dark_and_nothing_complains(reader: Reader, view: str) -> None:
    with reader.reading(VIEWS[view]) as page:
        screenshot(page, f"{view}-light")
        if view == "feature":
            page.keyboard.press("7")  # one interval: as many kinds of things in a tenth of the rows
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(253, 253, 252)"
        assert not axe(page, whole=view == "search")  # one table to its last row: others are dead, unnamed or hostile
        page.emulate_media(color_scheme="dark")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 22, 28)"
        assert not axe(page, "color-contrast")
        screenshot(page, f"{view}-dark")
    assert not reader.complaints()


def test_no_view_is_wider_than_the_window(reader: Reader) -> None:
    with reader.reading("#/", width=360, height=900) as page:
        for view, address in VIEWS.items():
            page.set_viewport_size({"width": 360, "height": 900})
            page.evaluate(f"location.hash = {address!r}")
            page.wait_for_timeout(120)
            page.wait_for_selector("[aria-busy=true]", state="detached")
            for width in (360, 1280, 1920):
                page.set_viewport_size({"width": width, "height": 900})
                page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
                wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
                assert wide <= 0, f"{view} at {width} px: {wide} px too wide"
                screenshot(page, f"{view}-{width}")
    assert not reader.complaints()


def test_without_runs_the_page_says_how_to_make_one(reader: Reader) -> None:
    kept, reader.server.runs = reader.server.runs, []
    try:
        with reader.reading("#/") as page:
            assert "kanary demo" in page.inner_text("main")
    finally:
        reader.server.runs = kept
    with reader.reading("#/") as page:
        assert "kanary index runs/kan" in page.inner_text("main"), "one SAE of this run has no index"


def test_an_error_is_told_in_words_and_can_be_tried_again(reader: Reader) -> None:
    reader.server.failing.add("/features/12")
    try:
        with reader.reading("#/f/demo/topk/12") as page:
            assert page.inner_text("[role=alert] strong") == "the index of demo/topk is damaged"
            assert page.inner_text("[role=alert] code") == "kanary index runs/demo"
            assert not axe(page)
            reader.server.failing.clear()
            page.click("text=Try again")
            page.wait_for_selector("[role=alert]", state="detached")
            page.wait_for_selector("[aria-busy=true]", state="detached")
            assert page.locator("li[data-row]").count() == 70
    finally:
        reader.server.failing.clear()
        reader.complaints()


def test_a_hint_is_read_once_and_words_are_explained_behind_a_key(reader: Reader) -> None:
    with reader.reading("#/") as page:
        assert "sparse autoencoder" in page.inner_text("[aria-label='What this is']")
        page.click("text=Got it")
        page.reload()
        page.wait_for_selector("main table")
        assert page.locator("[aria-label='What this is']").count() == 0
        page.keyboard.press("?")
        assert "share of tokens on which a feature fires" in page.inner_text("dialog[open]")
        assert not axe(page)
        page.keyboard.press("Escape")
        page.evaluate(f"location.hash = {VIEWS['feature']!r}")
        page.wait_for_selector("[aria-label='What this is'] >> text=outlined token")  # every view has its own
    assert not reader.complaints()


def test_the_theme_that_a_reader_chose_is_kept(reader: Reader) -> None:
    with reader.reading("#/", theme="dark") as page:
        page.keyboard.press("t")  # from the system's to light
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(253, 253, 252)"
        page.reload()
        page.wait_for_selector("main h1")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(253, 253, 252)"


def test_a_token_in_the_address_is_sent_along_and_not_shown(reader: Reader) -> None:
    with reader.reading("#token=s%20cret") as page:
        assert page.url.endswith("#/")
        assert page.inner_text("h1") == "Runs"
        with page.expect_request("**/api/runs") as asked:
            page.reload()
        assert asked.value.headers["authorization"] == "Bearer s cret"


def test_typing_asks_rarely_and_the_last_text_wins(reader: Reader) -> None:
    with reader.reading("#/live/demo/topk") as page:
        asked = len(reader.server.asked)
        page.type("#live-text", "it would rain on Tuesday", delay=12)
        page.wait_for_selector("text=/^6 tokens/")
        assert sum("/live" in one for one in reader.server.asked[asked:]) <= 6
        reader.server.slow["/live"] = 0.3
        page.fill("#live-text", "a slow one that is overtaken")
        page.wait_for_timeout(120)
        reader.server.slow.clear()
        page.fill("#live-text", "two words")
        page.wait_for_selector("text=/^3 tokens/")
        page.wait_for_timeout(400)
        assert page.inner_text("[aria-label='The text, token by token']").strip() == "<s>two words"
        assert page.url.endswith("?text=two+words")
    assert not reader.complaints()


def test_a_token_shows_its_features_and_a_feature_colours_the_text(reader: Reader) -> None:
    with reader.reading(VIEWS["live"]) as page:
        page.click(".typed [data-i='3']")
        assert page.inner_text("#fired-title").startswith("Features on ␣said")
        assert page.locator(".pick").count() == 7  # six made up, and feature 3
        page.keyboard.press("ArrowRight")
        assert page.inner_text("#fired-title").startswith("Features on ␣that")
        page.keyboard.press("Escape")
        page.locator("li", has=page.locator("a >> text=/^3$/")).locator(".pick").click()
        coloured = page.eval_on_selector_all(".typed [class*=' h']", "all => all.map(one => Number(one.dataset.i))")
        assert coloured == [1, 3, 5, 7]


def test_a_search_lies_in_the_address_and_its_hits_become_a_list(reader: Reader) -> None:
    with reader.reading("#/s/demo/topk") as page:
        assert page.inner_text("#found-title") == "2,048 features found"
        page.fill("#search-words", "rain")
        page.wait_for_selector("text=/^342 features found/")
        assert page.url.endswith("#/s/demo/topk?q=rain")
        page.click("[aria-label='Tick feature 6']")
        page.click("[aria-label='Tick feature 0']")
        page.fill("#list-name", "rain & <b>storms</b>")
        page.click("button >> text=/^Save$/")
        page.wait_for_selector("strong >> text='rain & <b>storms</b>'")
        assert reader.server.lists["rain & <b>storms</b>"] == [0, 6]
        page.click("text=Next ›")
        page.wait_for_selector("text=/^51–100 of 342/")
        page.fill("input[placeholder=number]", "12")
        page.wait_for_selector("th >> text=cosine")
    assert not reader.complaints()


def test_features_without_words_are_shown_by_their_tokens_and_how_words_are_made(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    with reader.reading("#/s/demo/topk") as page:
        assert page.locator("main code >> text=kanary explain").count() == 0
        assert re.search(r"\w F1 \.364\b", page.inner_text("[aria-label='Features found'] tbody tr >> nth=0"))
    nothing = dict.fromkeys(("label", "best_concept"), [None] * data.WIDTH)
    monkeypatch.setattr(reader.server, "columns", reader.server.columns | nothing)
    one_dead = data.meta() | {"dead": 1}
    monkeypatch.setattr(data, "meta", lambda name="topk": one_dead)
    with reader.reading("#/s/demo/topk") as page:
        assert page.inner_text("main code >> text=kanary explain") == "kanary explain runs/demo"
        first = page.locator("[aria-label='Features found'] tbody tr >> nth=0")
        assert first.locator(".chip").all_inner_texts() == ["␣rain", "it"]
        assert page.locator("th >> text=best concept").count() == 0
        assert "1 dead one left out" in page.inner_text("main")
        assert "on this page of the table" in page.inner_text("figcaption:has-text('others')")
        assert not axe(page)
    with reader.reading("#/f/demo/topk/15") as page:
        assert "means. kanary explain lets" in page.inner_text("#said")
    assert not reader.complaints()


def test_while_the_model_loads_a_typed_text_is_not_called_nothing(reader: Reader) -> None:
    reader.server.slow["/live"] = 1.0
    try:
        with reader.reading("#/live/demo/topk") as page:
            assert "Nothing typed yet" in page.inner_text("main")
            page.fill("#live-text", "some words")
            page.wait_for_selector("text=/loads the model/")
            assert "Nothing typed yet" not in page.inner_text("main")
            page.wait_for_selector("text=/^3 tokens/")
    finally:
        reader.server.slow.clear()
    assert not reader.complaints()


def test_neighbouring_values_of_an_axis_differ(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = copy.deepcopy(reader.server.runs)
    for i, sae in enumerate(sae for run in runs for sae in run["saes"]):
        sae["ev"] = {"value": 0.9485 + i / 10000, "low": None, "high": None, "n": 1000}
    monkeypatch.setattr(reader.server, "runs", runs)
    with reader.reading("#/") as page:
        shown = page.locator("[aria-label^='explained variance'] > text[text-anchor=end]").all_text_contents()
        assert len(shown) > 2
        assert len(set(shown)) == len(shown), shown


def test_an_sae_is_shown_as_a_whole(reader: Reader) -> None:
    bars = "document.querySelectorAll('#main figure svg .bars')[{}].getAttribute('d').split('z').length - 1"
    with reader.reading("#/s/demo/topk") as page:
        l0, over = page.locator("figure >> nth=0"), page.locator("figure >> nth=1")
        said = l0.inner_text().replace(",", "")
        assert all(part in said for part in ("mean 15.8", "median 16", "90 % of tokens: 11 to 21", "n 1000000 tokens"))
        assert page.evaluate(bars.format(0)) == sum(count > 0 for count in data.L0["counts"])
        box = l0.locator("svg").bounding_box()
        page.mouse.move(
            box["x"] + box["width"] / 2 + 3, box["y"] + 50
        )  # the middle of ten bars is the edge to the sixth
        assert "290000 tokens with 14 to 15" in l0.inner_text().replace(",", "")
        alive = sum(share > 0 for share in reader.server.columns["density"])
        assert f"n {alive} features" in over.inner_text().replace(",", "")
        over.locator("label >> text=kurtosis").click()
        known = sorted(value for value in data.moments()["kurtosis"] if value is not None)
        assert f"n {len(known)} features" in over.inner_text().replace(",", "")
        median = float(re.search(r"median ([0-9.]+)\n", over.inner_text())[1])  # type: ignore[index]
        assert median == pytest.approx(known[len(known) // 2], rel=0.02)
        page.click("label >> text=logit weights")
        page.focus("canvas")
        page.keyboard.press("ArrowRight")
        assert "skewness" in page.inner_text(".map .tip")
        assert not axe(page)
    assert not reader.complaints()


def test_an_index_without_numbers_per_token_says_so(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    old = {key: value for key, value in data.meta().items() if key != "l0"}
    monkeypatch.setattr(data, "meta", lambda name="topk": old)
    with reader.reading("#/s/demo/topk") as page:
        assert "kanary index" in page.inner_text("figure >> nth=0")
    assert not reader.complaints()


def test_twins_lead_only_to_saes_that_have_an_index(reader: Reader) -> None:
    asked = len(reader.server.asked)
    with reader.reading("#/compare?sae=demo/topk&sae=kan/gated-k32") as page:
        first, second = (page.locator(f".twins tbody tr >> nth=0 >> td >> nth={i}") for i in (0, 1))
        assert first.locator("a").get_attribute("href") == "#/f/demo/topk/0"
        assert (second.locator("a").count(), second.inner_text().strip()) == (0, "0")
    assert not any("gated-k32/columns" in one for one in reader.server.asked[asked:])
    assert not reader.complaints()


def test_the_map_is_walked_with_the_keyboard(reader: Reader) -> None:
    with reader.reading("#/s/demo/topk") as page:
        page.focus("canvas")
        x, y = reader.server.columns["x"], reader.server.columns["y"]
        for key, axis, sign in (("ArrowRight", x, 1), ("ArrowUp", y, 1), ("ArrowLeft", x, -1), ("ArrowDown", y, -1)):
            if key == "ArrowRight":
                page.keyboard.press(key)  # from nowhere to the first point
                assert page.inner_text(".map .tip strong") == "0"
            before = int(page.inner_text(".map .tip strong"))
            page.keyboard.press(key)
            after = int(page.inner_text(".map .tip strong"))
            assert sign * (axis[after] - axis[before]) > 0, f"{key}: from {before} to {after}"
        page.keyboard.press("Space")
        assert page.locator(f"[aria-label='Tick feature {after}']:checked").count() == (after < 50), "one of the table"
        page.keyboard.press("+")
        assert page.inner_text(".map .tip strong") == str(after), "closer is still there"
        page.keyboard.press("Enter")
        page.wait_for_selector(f"h1 >> text=Feature {after}")
    assert not reader.complaints()


def write_page(file: Path, features: list[dict[str, Any]]) -> None:
    file.write_text("".join(page_of([data.meta()], features)), encoding="utf-8")


def test_an_exported_file_needs_no_server(reader: Reader, tmp_path: Path) -> None:
    file = tmp_path / "features.html"
    unnamed = data.feature(16) | dict.fromkeys(("label", "human", "explanation"))
    write_page(file, [data.feature(3), data.feature(13, hostile=True), unnamed])
    strongest = dict.fromkeys(
        each["tokens"][each["focus"]] for each in (unnamed["examples"][i] for i in unnamed["top"])
    )
    reader.complaints()
    asked = len(reader.server.asked)
    with reader.reading(file.as_uri()) as page:
        assert page.inner_text("h1") == "3 features"
        last = page.locator("tbody tr >> nth=2")
        assert [chip.strip("␣") for chip in last.locator(".chip").all_inner_texts()] == [
            token.strip() for token in strongest
        ][:3]
        assert f"F1 .{1000 * unnamed['concepts'][0]['f1']:.0f}" in last.inner_text()
        assert not axe(page)
        page.click("td a >> text=/^3$/")
        page.wait_for_selector("h1 >> text=Feature 3")
        page.wait_for_selector("[aria-busy=true]", state="detached")  # the rest when it is idle
        assert page.locator("li[data-row]").count() == 70
        assert page.locator("text=edit").count() == 0, "nothing can be written here"
        page.keyboard.press("n")
        page.wait_for_selector("h1 >> text=Feature 13")
        assert page.evaluate("window.hacked") is None
        screenshot(page, "exported")
    assert len(reader.server.asked) == asked
    assert {url.split(":")[0] for url in reader.requests} == {"file"}
    assert not reader.complaints()


def test_a_file_of_one_feature_opens_on_it(reader: Reader, tmp_path: Path) -> None:
    file = tmp_path / "feature.html"
    write_page(file, [data.feature(3)])
    with reader.reading(file.as_uri()) as page:
        assert page.inner_text("h1").startswith("Feature 3")
        page.click("text=All features of this file")
        page.wait_for_selector("h1 >> text='1 feature'")
    assert not reader.complaints()


def test_in_a_frame_an_exported_feature_stands_alone(reader: Reader, tmp_path: Path) -> None:
    file = tmp_path / "features.html"
    write_page(file, [data.feature(3)])
    with reader.reading(f"{file.as_uri()}#/f/demo/topk/3?embed=1") as page:
        assert page.locator("nav[aria-label=Views]").count() == 0
        page.keyboard.press("4")  # an interval: the address changes
        assert page.locator("li[data-row]").count() == 5
        assert page.locator("nav[aria-label=Views]").count() == 0
    assert not reader.complaints()


NUMBER = re.compile(r"\d*\.\d+|\d+")  # with four digits in a file, so the third may be another
SHOWN = """() => {
  const marked = (one) => [one.dataset.i, one.className.replace(/ h[0-9]+/, ' h')];
  const text = (node, of) => Array.from(node.querySelectorAll(of), (one) => one.textContent.trim());
  return {
    rows: Array.from(document.querySelectorAll('li[data-row]'), (row) => ({
      key: row.dataset.row, value: row.querySelector('.value').textContent, repeats: text(row, '.repeat')[0] ?? '',
      line: row.querySelector('.line').textContent, focus: text(row, 'b')[0],
      marked: Array.from(row.querySelectorAll('.line [data-i]'), marked),
    })),
    groups: text(document, 'section h3'),
    strip: Array.from(document.querySelectorAll('.strip button'), (one) => one.title),
    paths: Array.from(document.querySelectorAll('svg path'), (one) => one.getAttribute('d')),
    logits: text(document, '#logits li'), related: text(document, '#related .value'), facts: text(document, 'dl > div'),
  };
}"""


def numbers(shown: Any) -> list[float]:
    return list(map(float, NUMBER.findall(str(shown))))


def plain(shown: Any) -> str:
    return NUMBER.sub("0", str(shown))


@pytest.mark.parametrize("latent", [3, 12, 19])
def test_a_feature_is_shown_from_a_file_as_it_is_from_a_server(reader: Reader, tmp_path: Path, latent: int) -> None:
    file = tmp_path / "features.html"
    write_page(file, [data.feature(13, hostile=True), data.feature(latent)])
    found = []
    for address in (f"#/f/demo/topk/{latent}", f"{file.as_uri()}#/f/demo/topk/{latent}"):
        with reader.reading(address) as page:
            page.wait_for_selector(f"h1 >> text=Feature {latent}")
            page.keyboard.press("c")  # ± 12 tokens
            page.keyboard.press("c")  # whole windows
            found.append(page.evaluate(SHOWN))
    served, exported = found
    assert len(served["rows"]) == (70 if latent != 19 else 0)
    for key, value in served.items():
        assert plain(exported[key]) == plain(value), key
        assert numbers(exported[key]) == pytest.approx(numbers(value), rel=5e-3, abs=0.2), key
    reader.complaints()


def test_an_exported_file_without_data_says_so(reader: Reader) -> None:
    with reader.reading((STATIC / "export.html").as_uri()) as page:
        assert "kanary export" in page.inner_text("main")
    assert not reader.complaints()
