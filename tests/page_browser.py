"""A reader with a real browser before the page: what they see, and what goes wrong behind their back."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from page_server import Page, serving

QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
VIEWS = {
    "runs": "#/",
    "feature": "#/f/demo/topk/12",
    "dead": "#/f/demo/topk/19",
    "search": "#/s/demo/topk?q=rain",
    "live": "#/live/demo/topk?text=The+keeper+said+that+it+would+rain",
    "compare": "#/compare?sae=demo/topk&sae=demo/topk-s1",
    "steer": "#/steer/demo/topk?prompt=It+is+said&f=12:4&f=30:-1",
    "watch": "#/watch/demo/topk?prompt=It+is+said&w=lying",
    "attribute": "#/attribute/demo/topk?prompt=Anna+went+home+because",
    "prompts": "#/prompts/demo/topk",
    "unknown": "#/nowhere",
}


REPEATED = ["tbody tr:nth-child(n+7)", "li:nth-child(n+9)"]  # rows like those before them: most of axe's time


class Reader:
    """One browser, one server; the page is watched for errors and for requests to anywhere else."""

    def __init__(self, browser: Any, server: Page) -> None:
        self.server = server
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.page = browser.new_page()
        self.page.set_default_timeout(20_000)
        self.page.on(
            "console", lambda said: self.problems.append(said.text) if said.type in ("error", "warning") else None
        )
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))

    @contextmanager
    def reading(self, address: str, *, width: int = 1280, height: int = 800, theme: str = "light") -> Iterator[Any]:
        """The page at ``address`` (of the server, if it starts with #), once it has stopped loading."""
        self.page.set_viewport_size({"width": width, "height": height})
        self.page.emulate_media(color_scheme=theme)
        self.page.goto(self.server.url + address if address.startswith("#") else address)
        self.page.wait_for_selector("main h1")
        self.page.wait_for_selector("[aria-busy=true]", state="detached")
        try:
            yield self.page
        finally:
            self.page.mouse.move(0, 0)
            if self.page.url.startswith(("http", "file")):
                self.page.evaluate("() => { localStorage.clear(); sessionStorage.clear() }")
            self.page.goto("about:blank")  # nothing of this visit stays in memory

    def complaints(self) -> list[str]:
        """Console messages, exceptions and foreign requests since last asked."""
        own = (self.server.url, "data:", "blob:", "file:")
        found = self.problems + [url for url in self.requests if not url.startswith(own)]
        self.problems, self.requests = [], []
        return found


def readers() -> Iterator[Reader]:
    """For a fixture of one module: the browser's event loop must not outlive it."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("chromium is not installed")
    with serving() as server, playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=QUIET)
        yield Reader(browser, server)
        browser.close()


def axe(page: Any, *rules: str, whole: bool = False) -> list[str]:
    """What axe-core finds (all of WCAG 2.2 A and AA, or these ``rules``): a line per broken rule, with its first place.

    Rows that are like those before them are left out, but for a ``whole`` page.
    """
    found = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed"
    )
    standard = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
    options = {"runOnly": list(rules) or standard, "resultTypes": ["violations"]}
    broken = (
        found.Axe().run(page, context=None if whole else {"exclude": REPEATED}, options=options).response["violations"]
    )
    return [f"{v['id']}: {v['help']} · {len(v['nodes'])} · {v['nodes'][0]['html'][:200]}" for v in broken]


def screenshot(page: Any, name: str) -> None:
    """For people who want to look: into the folder that SCREENSHOTS names, if it does."""
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png")
