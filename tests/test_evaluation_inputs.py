"""An SAE is judged with the model that it reads and on text that it has not seen; strangers are refused by name."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from by_hand import SITE, sae_for
from kanary.errors import KanaryError
from kanary.evaluation.inputs import open_inputs, open_saes, refuse_other_model, unseen_part
from kanary.lm import LanguageModel
from kanary.text import open_text
from runs import write_stories


@pytest.fixture(scope="module")
def text_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stories(tmp_path_factory.mktemp("text") / "stories.jsonl", 600)


def known(lm: LanguageModel, folder: Path, text: Path, /, **facts: Any) -> dict[str, Any]:
    return {
        "site": SITE,
        "model": str(folder),
        "revision": None,
        "fingerprint": lm.fingerprint,
        "special_ids": sorted(lm.special_ids),
        "text": str(text),
        "text_fingerprint": open_text(text).fingerprint,
        "part": "train",
        "window": 48,
    } | facts


@pytest.fixture
def write(tiny_lm: LanguageModel, tiny_llama: Path, text_path: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes an SAE into a folder of its own, with ``facts`` in the place of what it was trained on."""

    def written(name: str = "", kind: str = "topk", **facts: Any) -> Path:
        sae = sae_for(tiny_lm, kind)
        sae.remember(**known(tiny_lm, tiny_llama, text_path, **facts))
        sae.save_pretrained(tmp_path / "run" / "sae" / name)
        return tmp_path / "run"

    return written


def test_a_run_opens_with_its_model_and_what_was_held_out(
    write: Callable[..., Path], tiny_lm: LanguageModel, text_path: Path
) -> None:
    inputs = open_inputs(write(), device="cpu")
    assert list(inputs.saes) == ["topk"]
    assert inputs.lm.fingerprint == tiny_lm.fingerprint
    assert (inputs.part, inputs.window, inputs.text.name) == ("heldout", 48, str(text_path))
    assert inputs.saes["topk"].digest() == sae_for(tiny_lm).digest()


def test_a_window_longer_than_the_model_reads_is_cut(write: Callable[..., Path], tiny_lm: LanguageModel) -> None:
    assert open_inputs(write(window=4096), device="cpu").window == tiny_lm.context


def test_every_sae_of_a_run_is_opened_by_the_name_of_its_folder(write: Callable[..., Path]) -> None:
    write("topk-k4-seed0")
    run = write("relu-seed1", "relu")
    assert list(open_saes(run)) == ["relu-seed1", "topk-k4-seed0"]
    assert list(open_inputs(run, device="cpu").saes) == ["relu-seed1", "topk-k4-seed0"]
    assert list(open_saes(run / "sae" / "relu-seed1")) == ["relu"]
    (run / "sae" / "relu-seed1" / "sae.safetensors").write_bytes(b"x")
    with pytest.raises(KanaryError, match="relu-seed1"):
        open_saes(run)


def test_a_folder_without_an_sae_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KanaryError, match=re.escape(str(tmp_path))):
        open_inputs(tmp_path)


def test_another_text_is_judged_on_as_a_whole_but_a_copy_is_recognised(
    write: Callable[..., Path], text_path: Path, tmp_path: Path
) -> None:
    run = write()
    copy, other = tmp_path / "copy.jsonl", write_stories(tmp_path / "other.jsonl", 30, seed=1)
    shutil.copy(text_path, copy)
    assert open_inputs(run, text=str(copy), device="cpu").part == "heldout"
    assert open_inputs(run, text=str(other), device="cpu").part == "all"


def test_an_sae_that_saw_all_of_the_text_is_not_judged_on_it(
    write: Callable[..., Path], text_path: Path, tmp_path: Path
) -> None:
    run = write(part="all")
    with pytest.raises(KanaryError) as error:
        open_inputs(run, device="cpu")
    assert "part 'all'" in str(error.value)
    assert str(text_path) in str(error.value)
    assert "--text" in str(error.value)
    other = write_stories(tmp_path / "other.jsonl", 30, seed=1)
    assert open_inputs(run, text=str(other), device="cpu").part == "all"


def test_a_text_changed_under_the_same_name_is_still_the_training_text(text_path: Path) -> None:
    changed = {"text": str(text_path), "text_fingerprint": "0" * 12}
    assert unseen_part(open_text(text_path), changed) == "heldout"


@pytest.mark.parametrize(
    ("facts", "both"),
    [
        (
            {"fingerprint": "0123456789ab", "model": "llama-9"},
            ["llama-9 (0123456789ab)", "{lm.name}", "{lm.fingerprint}"],
        ),
        ({"site": "input:model.layers.0.mlp.down_proj"}, ["width 16", "width 32", "down_proj", "{lm.name}"]),
        ({"special_ids": [0, 1, 2, 299]}, ["[0, 1, 2, 299]", "{lm.special_ids}", "{lm.name}"]),
        ({"site": "resid_post.9"}, ["'resid_post.9'", "'resid_post.2'"]),
    ],
)
def test_an_sae_of_another_model_is_refused(
    tiny_lm: LanguageModel, tiny_llama: Path, text_path: Path, facts: dict[str, Any], both: list[str]
) -> None:
    sae = sae_for(tiny_lm)
    sae.remember(**known(tiny_lm, tiny_llama, text_path))
    refuse_other_model("mine", sae, tiny_lm)
    sae.remember(**facts)
    with pytest.raises(KanaryError) as error:
        refuse_other_model("mine", sae, tiny_lm)
    special = sorted(tiny_lm.special_ids)
    names = {"{lm.name}": tiny_lm.name, "{lm.fingerprint}": tiny_lm.fingerprint, "{lm.special_ids}": str(special)}
    for word in both:
        assert names.get(word, word) in str(error.value)
    assert "\n" not in str(error.value)


def test_every_sae_of_a_folder_is_checked_not_only_the_first(write: Callable[..., Path]) -> None:
    write("a")
    run = write("b", fingerprint="0123456789ab")
    with pytest.raises(KanaryError, match=r"SAE b was trained on .*0123456789ab"):
        open_inputs(run, device="cpu")


@pytest.mark.parametrize(("missing", "which"), [("model", "a"), ("text", "a"), ("site", "a"), ("site", "b")])
def test_what_an_sae_does_not_say_is_asked_for_by_an_option_that_exists(
    write: Callable[..., Path], missing: str, which: str
) -> None:
    """The first of several says for all what the model and the text were; every one has a site of its own."""
    from kanary.evaluation.evaluate import EvaluateConfig

    for name in ("a", "b"):
        run = write(name, **({missing: None} if name == which else {}))
    with pytest.raises(KanaryError) as error:
        open_inputs(run, device="cpu")
    assert missing in str(error.value)
    assert "None" not in str(error.value)
    options = {field.name.replace("_", "-") for field in dataclasses.fields(EvaluateConfig)}
    assert set(re.findall(r"--([a-z-]+)", str(error.value))) <= options
