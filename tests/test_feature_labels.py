"""Labels of features: kept when an index is made again, searched, shared by processes, refused for another SAE."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from kanary.errors import KanaryError
from kanary.features.labels import Labels

SCORE = {"name": "detection", "value": 0.9, "low": 0.8, "high": 0.95, "n": 100}


@pytest.fixture
def labels(tmp_path: Path) -> Labels:
    return Labels(tmp_path / "topk.labels.sqlite", "digest", 100)


def test_nothing_is_written_by_reading(labels: Labels) -> None:
    assert labels.human(3) is None
    assert labels.explanations(3) == []
    assert labels.titles() == labels.scores() == labels.lists() == {}
    assert labels.search("dog") == []
    assert not labels.path.exists()


def test_peoples_text_is_kept_replaced_and_deleted(labels: Labels) -> None:
    first = labels.set_human(3, "  dogs & <cats>\n")
    assert first is not None
    assert first["text"] == "dogs & <cats>"
    assert labels.human(3) == first
    labels.set_human(3, "only cats")
    assert labels.search("dogs") == []
    assert labels.search("cat") == [3]
    assert labels.titles() == {3: "only cats"}
    assert labels.set_human(3, " ") is None
    assert labels.human(3) is None
    assert labels.search("cats") == []


def test_the_newest_explanation_comes_first_and_replaces_that_of_the_same_author(labels: Labels) -> None:
    labels.add_explanation(5, "fires on animals", "rule", [SCORE], title="animals")
    labels.add_explanation(5, "fires on dogs", "a model")
    assert [each["by"] for each in labels.explanations(5)] == ["a model", "rule"]
    assert labels.titles() == {5: "fires on dogs"}
    labels.add_explanation(5, "fires on pets", "rule", [SCORE], title="pets")
    assert [each["text"] for each in labels.explanations(5)] == ["fires on pets", "fires on dogs"]
    assert labels.explanations(5)[0]["scores"] == [SCORE]
    assert labels.scores() == {5: [SCORE]}
    assert labels.titles() == {5: "pets"}
    assert labels.search("animals") == []
    assert labels.search("pets") == [5]
    labels.set_human(5, "the zoo")
    assert labels.titles() == {5: "the zoo"}


@pytest.mark.parametrize(
    "words", ['"', "a OR", "NEAR(", "x*", "col:dog", "-- ; DROP TABLE words", "😀 \x00", "'", "()"]
)
def test_no_search_can_break_the_file(labels: Labels, words: str) -> None:
    labels.set_human(1, "a dog OR a cat")
    assert labels.search(words) in ([], [1])
    assert labels.search("dog cat") == [1]
    assert labels.search("dog bird") == []


def test_lists_are_saved_replaced_and_deleted(labels: Labels) -> None:
    labels.save_list("mine", [4, 2, 9])
    labels.save_list('a list with <markup> & "quotes" \'', [])
    labels.save_list("mine", [2])
    assert labels.lists() == {'a list with <markup> & "quotes" \'': [], "mine": [2]}
    labels.delete_list("mine")
    with pytest.raises(KanaryError, match="There is no list 'mine'"):
        labels.delete_list("mine")


def test_what_cannot_be_is_refused(labels: Labels) -> None:
    for call in (
        lambda: labels.set_human(100, "x"),
        lambda: labels.set_human(-1, "x"),
        lambda: labels.save_list("x", [100]),
        lambda: labels.add_explanation(100, "x", "y"),
    ):
        with pytest.raises(KanaryError, match="There is no latent"):
            call()
    with pytest.raises(KanaryError, match="is too long"):
        labels.set_human(1, "x" * 10_001)
    with pytest.raises(KanaryError, match="needs a text"):
        labels.add_explanation(1, " ", "rule")
    with pytest.raises(KanaryError, match="needs a name"):
        labels.save_list(" ", [1])
    with pytest.raises(ValueError, match="JSON"):
        labels.add_explanation(1, "x", "rule", [{"value": float("nan")}])
    assert labels.titles() == {}


def test_labels_of_another_sae_are_refused(labels: Labels) -> None:
    labels.set_human(1, "x")
    other = Labels(labels.path, "another", 100)
    for call in (lambda: other.human(1), lambda: other.set_human(1, "y"), other.lists):
        with pytest.raises(KanaryError, match=r"has the labels of another SAE \(digest\) than this one \(another\)"):
            call()
    assert labels.human(1) is not None


def test_a_damaged_file_is_named(labels: Labels) -> None:
    labels.set_human(1, "x")
    labels.path.write_bytes(b"no database" * 100)
    with pytest.raises(KanaryError, match=r"topk\.labels\.sqlite cannot be used: .* Restore it from a copy"):
        labels.human(1)


def test_a_file_that_is_being_made_reads_as_empty_and_one_whose_making_was_ended_too(labels: Labels) -> None:
    labels.path.parent.mkdir(parents=True, exist_ok=True)
    labels.path.touch()
    assert labels.titles() == {}
    with suppress(InterruptedError), labels._writing():
        assert labels.titles() == {}
        assert labels.human(1) is None
        raise InterruptedError
    assert labels.lists() == {}
    labels.set_human(1, "x")
    assert labels.titles() == {1: "x"}


def write(path: Path, start: int) -> None:
    labels = Labels(path, "digest", 1000)
    for latent in range(start, start + 15):
        labels.set_human(latent, f"text {latent}")


def test_threads_and_processes_write_at_once_and_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "labels.sqlite"
    context = multiprocessing.get_context("forkserver")
    processes = [context.Process(target=write, args=(path, 100 * i)) for i in range(2)]
    for process in processes:
        process.start()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda start: write(path, start), (200, 300)))
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    titles = Labels(path, "digest", 1000).titles()
    assert titles == {latent: f"text {latent}" for i in range(4) for latent in range(100 * i, 100 * i + 15)}
