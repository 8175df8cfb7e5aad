"""On a run of several SAEs every command asks which one is meant, in words that answer it, and says which one it was."""

import shutil
from pathlib import Path

import pytest

from feature_runs import make_run
from kanary.errors import KanaryError
from kanary.interventions.steer import Steering
from kanary.interventions.steerable import Steerable
from runs import kanary, write_stories

TEXTS = [f"Tom said number {n} ." for n in range(8)]
OTHERS = [f"Anna had {n} small dogs ." for n in range(8)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    folder = tmp_path_factory.mktemp("several")
    text = write_stories(folder / "text.jsonl", 6)
    for name in ("early", "late", "later"):
        make_run(folder / name, tiny_llama, text)
        shutil.copytree(folder / name / "sae", folder / "run" / "sae" / name)
    for name, lines in (("positive", TEXTS), ("negative", OTHERS)):
        (folder / "run" / f"{name}.txt").write_text("\n".join(lines))
    return folder / "run"


def lists(run: Path) -> list[object]:
    return ["--positive", run / "positive.txt", "--negative", run / "negative.txt"]


def test_the_question_names_them_all_and_the_flag_that_answers_it(run: Path) -> None:
    asked = {
        "--feature later:12": [["steer", run, "--feature", 3, "--prompt", "Tom said", "--unit", "raw"]],
        "--sae later": [
            ["attribute", run, "--prompt", "Tom said"],
            ["hunt", "honesty", run, "--pairs", 16],
            ["search-prompts", run, *lists(run)],
            ["watch", run, "--make", "w", "--feature", 3, *lists(run)],
        ],
    }
    for answer, commands in asked.items():
        for words in commands:
            message = kanary(*words).message
            assert message == f"There are 3 SAEs, early, late and later: say which one is meant, such as {answer}."


def test_in_python_it_is_asked_for_by_the_argument(run: Path) -> None:
    panel = Steerable.open(run, device="cpu")
    with pytest.raises(KanaryError, match=r"early, late and later: say which one is meant, such as sae='later'\."):
        Steering(panel, {3: 1.0})


def test_what_is_steered_is_said_with_its_sae(run: Path) -> None:
    words = ["--prompt", "Tom said", "--unit", "raw", "--strength", 2, "--tokens", 3, "--device", "cpu"]
    answer = kanary("steer", run, "--feature", "late:3", "--feature", "early:4", *words)
    assert answer.code == 0, answer.err
    assert "late:3 raw 2, early:4 raw 2:" in answer.out
