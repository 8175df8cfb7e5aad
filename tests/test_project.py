"""The repository keeps its promises: what the README shows exists, rooms stay in order, nothing unsafe is called."""

import ast
import functools
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runs import kanary

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "kanary"
README = (ROOT / "README.md").read_text(encoding="utf-8")
PLAIN = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}

# Data flows downwards; a room imports only from rooms above it (and from the foundation).
FOUNDATION = {"errors", "config", "files", "scales", "svg", "svg_rows", "ink", "progress"}
ROOMS = [
    "lm", "text", "activations", "kernels", "splines", "sae", "training", "evaluation", "features", "explain",
    "interventions", "interop", "scale", "lab", "app",
]  # fmt: skip


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def room(path: Path) -> str:
    """First part of the module's name below kanary: a room, or the name of a top-level file."""
    return path.relative_to(SOURCE).with_suffix("").parts[0]


def kanary_imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and first part below ``kanary`` of all that the module imports from Kanary ('' is the public face)."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            names = [f"{node.module}.{a.name}" for a in node.names] if node.module == "kanary" else [str(node.module)]
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "kanary":
                known = len(parts) > 1 and ((SOURCE / parts[1]).is_dir() or (SOURCE / f"{parts[1]}.py").is_file())
                yield node.lineno, parts[1] if known else ""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=os.environ | PLAIN, timeout=280, stdin=subprocess.DEVNULL
    )


def shell_commands(program: str) -> list[list[str]]:
    """The words of every call of ``program`` in the README's shell blocks, comments left out."""
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True)) and words[0] == program]


# --- the layout ---------------------------------------------------------------------------------------------------


def test_every_folder_of_the_package_is_a_room() -> None:
    folders = {p.name for p in SOURCE.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert folders <= {*ROOMS, "cli"}


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_rooms_import_only_from_rooms_above_them(path: Path) -> None:
    own = room(path)
    if own in FOUNDATION:
        allowed = FOUNDATION
    elif own in ROOMS:
        allowed = FOUNDATION | set(ROOMS[: ROOMS.index(own) + 1])
    else:
        return  # __init__.py, cli: the face that people see may use every room
    wrong = [f"line {line}: kanary.{name}" for line, name in kanary_imports(path) if name not in allowed]
    assert not wrong, f"{path.relative_to(ROOT)} imports from below: {wrong}"


def test_importing_kanary_and_telling_of_a_run_load_no_heavy_library() -> None:
    heavy = ["torch", "transformers", "datasets", "pyarrow", "pandas", "huggingface_hub", "typer", "rich"]
    code = f"import sys, kanary, kanary.info; print([m for m in {heavy} if m in sys.modules])"
    done = run(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_every_public_name_can_be_reached_and_listed() -> None:
    import kanary

    for name in ("load_model", "train", "TrainConfig", "harvest", "HarvestConfig", "SAE", "SparseCodes", "KanaryError"):
        assert getattr(kanary, name) is not None
        assert name in dir(kanary)


def test_a_data_set_of_the_hub_without_its_library_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from kanary.errors import KanaryError
    from kanary.text import open_text

    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(KanaryError, match=r'pip install -e "\.\[data\]"'):
        open_text("someone/stories")


# --- safety -------------------------------------------------------------------------------------------------------


def forbidden(node: ast.AST) -> str | None:
    """What ``node`` does that no file of the package may do, or None."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
        unsafe = {"pickle", "dill", "marshal", "shelve", "joblib", "cloudpickle"}
        return next((f"imports {name}" for name in names if name.split(".")[0] in unsafe), None)
    if not isinstance(node, ast.Call):
        return None
    called = ast.unparse(node.func)
    if called in {"torch.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec", "os.system"}:
        return f"calls {called}"
    for keyword in node.keywords:
        value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
        if keyword.arg in {"trust_remote_code", "allow_pickle", "shell"} and value not in (False, None):
            return f"passes {keyword.arg}={value}"
    return None


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "torch.load(path, weights_only=True)",
        "yaml.load(file)",
        "load(trust_remote_code=True)",
        "np.load(path, allow_pickle=True)",
    ],
)
def test_the_safety_check_sees_what_it_should(code: str) -> None:
    assert any(forbidden(node) for node in ast.walk(ast.parse(code)))


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_nothing_is_unpickled_and_no_remote_code_is_trusted(path: Path) -> None:
    found = [f"line {node.lineno} {what}" for node in ast.walk(parsed(path)) if (what := forbidden(node))]  # type: ignore[attr-defined]
    assert not found, f"{path.relative_to(ROOT)}: {found}"


# --- the README and the project files ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    """What ``--help`` prints for each command of the README."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in PLAIN.items():
            patch.setenv(name, value)
        answers = {name: kanary(name, "--help") for name in {words[1] for words in shell_commands("kanary")}}
    assert {answer.code for answer in answers.values()} == {0}
    return {name: answer.out for name, answer in answers.items()}


def test_every_flag_in_the_readme_exists(helps: dict[str, str]) -> None:
    calls = shell_commands("kanary")
    assert {words[1] for words in calls} >= {"train", "harvest"}
    for words in calls:
        for flag in (word for word in words if word.startswith("--")):
            assert re.search(rf"{flag}\b", helps[words[1]]) or f"{flag} " in helps[words[1]], f"{flag} of {words[1]}"


def test_every_flag_mentioned_in_the_readmes_text_exists(helps: dict[str, str]) -> None:
    text = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    mentioned = {
        flag for code in re.findall(r"`([^`]*)`", text) for flag in re.findall(r"(?<!\S)--[a-z][a-z0-9-]+", code)
    }
    known = "\n".join(helps.values()) + " --help --torch-backend "
    assert mentioned
    assert {flag for flag in mentioned if not re.search(rf"{flag}(?![\w-])", known)} == set()


def test_every_kind_of_sae_in_the_readmes_table_exists() -> None:
    from kanary.sae.parts import SPARSIFIERS, import_parts

    import_parts()
    rows = re.findall(r"^\| `(\w+)` \|", README.split("| `--sae` |")[1].split("\n\n")[0], re.MULTILINE)
    assert sorted(rows) == sorted(SPARSIFIERS)


def test_the_readmes_python_example_runs_as_it_stands(
    stories_path: Path, corpora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import kanary

    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    shorter = {"tokens=2_000_000": "tokens=10_000, eval_tokens=2_000", "width=2048": "width=256"}
    shorter["tokens=200_000"] = "tokens=2_000, prompts=5"
    (tmp_path / "path" / "to").mkdir(parents=True)
    (tmp_path / "path" / "to" / "llama").symlink_to(stories_path)
    (tmp_path / "stories.parquet").symlink_to(corpora / "stories-train.parquet")
    for full, short in shorter.items():
        assert full in block
        block = block.replace(full, short)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(block, "the example in README.md", "exec"), names)
    assert isinstance(names["codes"], kanary.SparseCodes)
    assert names["codes"].indices.shape == names["codes"].values.shape
    assert names["x_hat"].shape == names["x"].shape
    assert names["codes"].tokens == names["tokens"].numel()
    assert (names["found"].folder / "report.html").is_file()
    assert names["one"].passed


def test_make_targets_in_the_readme_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    guides = (
        README + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8") + (ROOT / ".ci/run").read_text(encoding="utf-8")
    )
    called = {word for line in re.findall(r"^(?:.*`)?make ([a-z ]+)", guides, re.MULTILINE) for word in line.split()}
    assert {"demo", "test"} <= called
    assert {"demo", "test", "lint", "types", "bench", "clean"} <= targets


def test_make_demo_installs_and_runs_the_demo() -> None:
    done = run("make", "-n", "demo", "ARGS=--out somewhere", f"VENV={ROOT / 'no-such-venv'}")
    assert done.returncode == 0, done.stderr
    assert any(line.endswith("/kanary demo --out somewhere") for line in done.stdout.splitlines())


def test_constraints_pin_everything_that_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    names = {re.split(r"[\[<>=]", requirement)[0].lower() for requirement in asked} - {"kanary"}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.split("==")[0] for line in lines if line and not line.startswith("#")}
    assert names <= pinned
    assert "torch==2.13.0" in lines


def test_every_file_that_the_readme_links_to_is_there() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)|src=\"([^\":]+)\"", README)
    assert links
    for link in (a or b for a, b in links):
        assert (ROOT / link).is_file(), link
