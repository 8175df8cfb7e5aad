"""The page that ships is the page whose sources are here: checked by hashes, and by building it again where Node is."""

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
WEB, STATIC = ROOT / "web", ROOT / "src" / "kanary" / "app" / "static"
FILES = ["app.css", "app.js", "export.html", "index.html"]
DATA = '<script type="application/json" id="kanary-data"></script>'

needs_sources = pytest.mark.skipif(not WEB.is_dir(), reason="the page's sources are not part of an installed Kanary")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def fingerprint(web: Path) -> str:
    """SHA-256 over the sorted lines "sha256 of a file, two spaces, its path", as web/vite.config.ts takes it."""
    outside = ["index.html", "package.json", "package-lock.json", "tsconfig.json", "vite.config.ts"]
    inside = [p.relative_to(web).as_posix() for p in (web / "src").rglob("*") if p.is_file()]
    return sha256(
        "".join(f"{sha256((web / path).read_bytes())}  {path}\n" for path in sorted(outside + inside)).encode()
    )


@needs_sources
def test_the_committed_build_was_made_from_the_committed_sources() -> None:
    manifest = json.loads((STATIC / "build.json").read_text())
    assert manifest["sources"] == fingerprint(WEB), "web/ has changed since: run `make page` and commit what it builds"


def test_the_built_files_are_those_that_were_built() -> None:
    manifest = json.loads((STATIC / "build.json").read_text())
    assert sorted(p.name for p in STATIC.iterdir()) == sorted([*FILES, "build.json"])
    assert {name: sha256((STATIC / name).read_bytes()) for name in FILES} == manifest["files"]


@pytest.mark.slow
@needs_sources
@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_building_again_gives_the_same_bytes(tmp_path: Path) -> None:
    web = tmp_path / "web"
    shutil.copytree(WEB, web, ignore=shutil.ignore_patterns("node_modules"))
    for command in (["npm", "ci", "--no-audit", "--no-fund"], ["npm", "run", "build"]):
        done = subprocess.run(command, cwd=web, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stdout + done.stderr
    built = tmp_path / "src" / "kanary" / "app" / "static"
    for name in [*FILES, "build.json"]:
        assert (built / name).read_bytes() == (STATIC / name).read_bytes(), f"{name} differs: run `make page`"


def test_the_page_names_no_other_address() -> None:
    for name in FILES:
        text = (STATIC / name).read_text(encoding="utf-8")
        named = set(re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}[^\s\"'`)]*", text))
        # Names of XML vocabularies and the address that Svelte's messages point to; none of them is ever fetched.
        known = re.compile(r"https?://(www\.w3\.org/|svelte\.dev/e/)")
        assert not [address for address in named if not known.match(address)]


def test_an_exported_page_has_one_place_for_data_and_a_policy_that_loads_nothing() -> None:
    page = (STATIC / "export.html").read_text(encoding="utf-8")
    assert page.count(DATA) == 1
    assert page.index(DATA) < page.index('<script type="module">'), "data comes before the script that reads it"
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    assert policy
    assert policy[1].startswith("default-src 'none'; script-src 'sha256-")
    assert "src=" not in re.sub(r"<script type=\"module\">.*</script>", "", page, flags=re.DOTALL)


def test_an_exported_page_carries_nothing_that_needs_a_server() -> None:
    page, app = ((STATIC / name).read_text(encoding="utf-8") for name in ("export.html", "app.js"))
    for needed in ("fetch(", "Bearer ", "TextDecoderStream", "/sweep"):
        assert needed in app, needed
        assert needed not in page, needed


@needs_sources
def test_no_source_turns_text_into_markup() -> None:
    for path in (WEB / "src").rglob("*"):
        if path.is_file():
            found = re.findall(
                r"\{@html|innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", path.read_text()
            )
            assert not found, f"{path.relative_to(WEB)}: {found}"
