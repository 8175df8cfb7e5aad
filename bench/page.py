"""How fast the page is in a real browser: its first paint, and from one feature to the next.

    python bench/page.py --json
    python bench/page.py --url http://127.0.0.1:7350/ --sae demo/topk    # against a running `kanary serve`

Needs `playwright` and Chromium (Debian: apt install chromium). Without ``--url`` it serves made-up features, each with 70
examples of 128 tokens, in which about one token in eight fires or has an effect. A feature change is from the change of the
address to the end of the layout that it causes; everything but the examples below the first screenful is then there, and
those follow when the browser is idle. The next feature was fetched while the reader looked at the last one, as the page does
by itself. ``change_ms`` is by the clock, ``painted_ms`` with the wait for the browser's next frame (up to 16 ms) and the
frame itself. ``cpu_ms`` is the processor time of the page's main thread from the one moment to the other (of a trace), so
that what the clock says beyond it is waiting for a processor; ``whole_cpu_ms`` is that of script, style and layout with the
rows below. The floor is what the browser alone needs to put the same finished elements in place and to lay them out;
``x_floor`` is the quotient of the processor times.
"""

import argparse
import json
import shutil
import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))  # the made-up features and their server

CHANGE = """([sae, latent]) => new Promise((done) => {
  performance.mark(`change ${latent}`);
  const started = performance.now();
  addEventListener('hashchange', () => {  // behind the page's own listener and the work that it left for afterwards
    document.body.offsetHeight;
    const took = performance.now() - started;
    performance.mark(`change ${latent}`);
    const shown = !document.querySelector('.page.feature[aria-busy=true]');
    const elements = document.querySelectorAll('main *').length;
    requestAnimationFrame(() => {
      const port = new MessageChannel();
      port.port1.onmessage = () => done([took, performance.now() - started, shown, elements]);
      port.port2.postMessage(0);
    });
  }, { once: true });
  location.hash = `#/f/${sae}/${latent}`;
})"""
FLOOR = """(latent) => {
  const main = document.querySelector('main');
  const copy = main.cloneNode(true);
  performance.mark(`floor ${latent}`);
  main.replaceWith(copy);
  document.body.offsetHeight;
  performance.mark(`floor ${latent}`);
  copy.replaceWith(main);
  document.body.offsetHeight;
}"""
FETCHED = """latent => performance.getEntriesByType('resource')
    .some(({ name, responseEnd }) => responseEnd && name.endsWith(`/features/${latent}`))"""
PAINT = "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a running server; without it, made-up features are served")
    parser.add_argument("--sae", default="demo/topk", help="RUN/SAE whose features are shown")
    parser.add_argument("--changes", type=int, default=21, help="feature changes per layout")
    parser.add_argument("--paints", type=int, default=7, help="first paints")
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    args = parser.parse_args()
    with served(args.url) as url, browser() as chromium:
        line: dict[str, Any] = {
            "case": "page",
            "first_paint_ms": spread(first_paints(chromium, url, args.sae, args.paints)),
        }
        for name, context in (("4", "±4 tokens"), ("window", "whole windows")):
            line[context] = changes(chromium, url, args.sae, args.changes, name)
    print(json.dumps(line, ensure_ascii=False) if args.json else json.dumps(line, ensure_ascii=False, indent=2))


@contextmanager
def served(url: str | None) -> Iterator[str]:
    if url:
        yield url.rstrip("/") + "/"
        return
    from page_server import serving

    with serving() as server:
        yield server.url


@contextmanager
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    from page_browser import QUIET

    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        sys.exit("Chromium is not installed. On Debian: apt install chromium")
    with sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=path, args=QUIET)
        yield chromium
        chromium.close()


def first_paints(chromium: Any, url: str, sae: str, n: int) -> list[float]:
    """Milliseconds from the start of the navigation to the first content, in a browser that has seen nothing yet."""
    found = []
    for _ in range(n):
        context = chromium.new_context(viewport={"width": 1280, "height": 800})
        page = context.new_page()
        page.goto(f"{url}#/f/{sae}/0")
        page.wait_for_selector("li[data-row]")
        found.append(page.evaluate(PAINT))
        context.close()
    return found


def changes(chromium: Any, url: str, sae: str, n: int, context: str) -> dict[str, Any]:
    page = chromium.new_page(viewport={"width": 1280, "height": 800})
    page.add_init_script(f"localStorage.setItem('kanary-context', {context!r})")
    page.goto(f"{url}#/f/{sae}/0")
    page.wait_for_selector("li[data-row]")
    tools = page.context.new_cdp_session(page)
    tools.send("Performance.enable", {"timeDomain": "threadTicks"})
    took, painted, whole, elements, shown_latents = [], [], [], [], []
    spent = Marks(tools)
    for latent in range(1, n + 4):
        page.wait_for_function(FETCHED, arg=latent)
        page.wait_for_timeout(100)  # until it is read
        before = busy(tools)
        ms, frame, shown, count = page.evaluate(CHANGE, [sae, latent])
        page.wait_for_selector("[aria-busy=true]", state="detached")
        whole.append(busy(tools) - before)
        if not shown:
            sys.exit(f"feature {latent} was not there in time: was it not fetched ahead?")
        if page.locator("li[data-row]").count() < 60 or latent < 4:
            whole.pop()
            continue  # a feature that hardly fires; and the first ones, before the code is compiled
        took.append(ms)
        painted.append(frame)
        elements.append(count)
        page.evaluate(FLOOR, latent)
        shown_latents.append(latent)
    cpu_ms = spent.between(page)
    page.close()
    cpu, floor = ([cpu_ms[f"{what} {latent}"] for latent in shown_latents] for what in ("change", "floor"))
    return {
        "change_ms": spread(took), "painted_ms": spread(painted),
        "cpu_ms": spread(cpu), "whole_cpu_ms": spread(whole), "floor_cpu_ms": spread(floor),
        "x_floor": round(statistics.median(cpu) / statistics.median(floor), 2),
        "elements": round(statistics.median(elements)),
    }  # fmt: skip


class Marks:
    """The processor time of the page's main thread between two marks of one name, from a trace of the marks alone."""

    def __init__(self, tools: Any) -> None:
        self.tools, self.events, self.ended = tools, [], []
        tools.on("Tracing.dataCollected", lambda found: self.events.extend(found["value"]))
        tools.on("Tracing.tracingComplete", lambda said: self.ended.append(said))
        tools.send("Tracing.start", {"traceConfig": {"includedCategories": ["blink.user_timing"]}})

    def between(self, page: Any) -> dict[str, float]:
        """Ends the trace; milliseconds by name."""
        self.tools.send("Tracing.end")
        while not self.ended:
            page.wait_for_timeout(20)
        times: dict[str, list[int]] = {}
        for event in self.events:
            if "tts" in event:
                times.setdefault(event["name"], []).append(event["tts"])
        return {name: (max(both) - min(both)) / 1000 for name, both in times.items()}


def busy(tools: Any) -> float:
    """Milliseconds of processor time that the page's main thread has spent in script, style and layout."""
    spent = {one["name"]: one["value"] for one in tools.send("Performance.getMetrics")["metrics"]}
    return 1000 * float(spent["ScriptDuration"] + spent["RecalcStyleDuration"] + spent["LayoutDuration"])


def spread(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "median": round(statistics.median(ordered), 1),
        "p90": round(ordered[min(len(ordered) - 1, int(0.9 * len(ordered)))], 1),
        "n": len(ordered),
    }


if __name__ == "__main__":
    main()
