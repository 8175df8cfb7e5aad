"""What cannot work is refused in one line that names it, with status 2, and nothing is lost."""

import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from kanary.activations.store import ActivationStore
from runs import assert_same, checkpoints, flags, kanary, small, steps_logged, weights, write_stories

Edit = Callable[[dict[str, torch.Tensor]], None]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stories(tmp_path_factory.mktemp("text") / "stories.jsonl", 120)


@pytest.fixture(scope="module")
def harvested(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path, text: Path) -> Path:
    folder = tmp_path_factory.mktemp("stores") / "store"
    given = {"model": tiny_llama, "text": text, "site": "resid_post.1", "device": "cpu", "window": 32, "shard": 1024}
    assert kanary("harvest", *flags({**given, "tokens": "4000", "out": folder})).code == 0
    return folder


@pytest.fixture
def store(harvested: Path, tmp_path: Path) -> Path:
    """A store of one's own, to be damaged."""
    shutil.copytree(harvested, tmp_path / "store")
    return tmp_path / "store"


def edited(model: Path, to: Path, edit: Edit) -> Path:
    """A copy of ``model`` with other weights."""
    shutil.copytree(model, to)
    tensors = load_file(to / "model.safetensors")
    edit(tensors)
    save_file(tensors, to / "model.safetensors", {"format": "pt"})
    return to


def refused(tmp_path: Path, model: Path, text: Path, **fields: object) -> str:
    """The one line with which ``kanary train`` refuses; it leaves no run behind."""
    message = kanary("train", *flags(small(model, text, out=tmp_path / "run", **fields))).message
    assert not (tmp_path / "run").exists()
    return message


@pytest.mark.parametrize("command", ["index", "export --csv features.csv", "compare", "explain"])
def test_a_run_that_has_not_finished_is_to_be_finished_first(command: str, tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    name, *more = command.split()
    assert f"kanary train --resume {tmp_path / 'run'}" in kanary(name, str(tmp_path / "run"), *more).message


def test_a_model_that_is_missing_or_unreadable(tiny_llama: Path, text: Path, tmp_path: Path) -> None:
    assert "'/nowhere/llama'" in refused(tmp_path, Path("/nowhere/llama"), text)
    (tmp_path / "empty").mkdir()
    assert "it has no config.json" in refused(tmp_path, tmp_path / "empty", text)
    cut = shutil.copytree(tiny_llama, tmp_path / "cut")
    content = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(content[: len(content) // 2])
    assert "its weights are damaged or cut short" in refused(tmp_path, cut, text)
    assert kanary("train", "--text", text, "--site", "resid_post.1").message.startswith("--model is missing")


def test_a_tokenizer_of_another_model(tiny_llama: Path, stories_path: Path, text: Path, tmp_path: Path) -> None:
    mixed = shutil.copytree(tiny_llama, tmp_path / "mixed")
    for path in mixed.glob("*token*"):
        path.unlink()
    for path in stories_path.glob("*token*"):
        shutil.copy(path, mixed)
    assert "they do not belong together" in refused(tmp_path, mixed, text)


def test_an_unknown_site_gets_the_nearest_one(tiny_llama: Path, text: Path, tmp_path: Path) -> None:
    message = refused(tmp_path, tiny_llama, text, site="resid_pots.1")
    assert "'resid_pots.1'" in message
    assert "'resid_post.1'" in message
    assert "resid_post.7" in refused(tmp_path, tiny_llama, text, site="resid_post.7")
    fields = small(tiny_llama, text)
    del fields["site"]
    assert kanary("train", *flags(fields)).message.startswith("--site is missing")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"", "empty"),
        ("empty.jsonl", b"", "empty"),
        ("binary.txt", bytes(range(256)) * 100, "binary"),
        ("short.txt", b"Once upon a time.", "The text is shorter than a window"),
        ("broken.jsonl", b'{"text": "a"}\n{"text": ', "broken.jsonl"),
        ("other.jsonl", b'{"story": "Once upon a time."}\n', "story"),
        ("cut.parquet", b"PAR1 and then nothing", "cut.parquet"),
    ],
)
def test_a_text_that_is_none(name: str, content: bytes, message: str, tiny_llama: Path, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert message in refused(tmp_path, tiny_llama, path)


def test_a_text_that_is_not_there(tiny_llama: Path, tmp_path: Path) -> None:
    assert "/nowhere/text.txt" in refused(tmp_path, tiny_llama, Path("/nowhere/text.txt"))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"k": 65}, ["k=65", "width of 64", "1 <= k <= width"]),
        ({"k": 0}, ["k=0"]),
        ({"k": "few"}, ["--k='few'"]),
        ({"width": "wide"}, ["--width", "'wide'"]),
        ({"matryoshka": [3]}, ["width=64 is not divisible by 3"]),
        ({"matryoshka": [0]}, ["0"]),
        ({"sae": "topkk"}, ["'topkk'", "Did you mean 'topk'?"]),
        ({"encoder": "liner"}, ["'liner'", "'linear'"]),
        ({"revive": "aux"}, ["'aux'", "'auxk'"]),
        ({"target_l0": 8}, ["target_l0=8.0", "is not an option of"]),
        ({"sae": "relu"}, ["k=4", "is not an option of"]),
        ({"window": 65}, ["window=65", "64"]),
        ({"tokens": 10}, ["tokens=10", "one batch of 64"]),
        ({"budget": "soon"}, ["'soon'", "2h"]),
        ({"dtype": "float8"}, ["'float8'"]),
        ({"device": "tpu9"}, ["'tpu9'"]),
        ({"log": "tensorbord"}, ["'tensorbord'", "'tensorboard'"]),
        ({"plugin": "mine.py"}, ["mine.py", "no such file"]),
        ({"seeds": [1, 1]}, ["Two of the SAEs are the same"]),
        ({"store": "/nowhere/store"}, ["/nowhere/store", "is not a store"]),
        ({"lr": "nan"}, ["lr=nan"]),
    ],
)
def test_a_value_that_cannot_work(
    fields: dict[str, object], words: list[str], tiny_llama: Path, text: Path, tmp_path: Path
) -> None:
    message = refused(tmp_path, tiny_llama, text, **fields)
    for word in words:
        assert word in message


def test_words_that_are_no_options(tiny_llama: Path, text: Path, tmp_path: Path) -> None:
    assert "--widht" in kanary("train", "--widht", 64).message
    assert "'tain'" in kanary("tain").message
    words = flags(small(tiny_llama, text, out=tmp_path / "run"))
    assert "bandwith=1 is not an option" in kanary("train", *words, "--set", "bandwith=1").message
    assert "must be name=value" in kanary("train", *words, "--set", "bandwidth").message
    assert "cannot be read" in kanary("train", "--config", tmp_path / "absent.yaml").message
    for given, word in (("widht: 64", "'width'"), ("quiet: true", "'quiet'"), ("config: a", "'config'"), ("1: 2", "1")):
        (tmp_path / "run.yaml").write_text(given)
        assert word in kanary("train", "--config", tmp_path / "run.yaml").message
        assert "is not a run" in kanary("train", "--resume", tmp_path / "run").message
    assert not (tmp_path / "run").exists()


def test_after_a_mistake_the_same_folder_can_be_used(tiny_llama: Path, text: Path, tmp_path: Path) -> None:
    assert "k=65" in refused(tmp_path, tiny_llama, text, k=65)
    assert kanary("train", *flags(small(tiny_llama, text, out=tmp_path / "run", tokens=320, eval_tokens=0))).code == 0
    before = weights(tmp_path / "run")
    again = kanary("train", *flags(small(tiny_llama, text, out=tmp_path / "run", seed=1)))
    assert again.message.startswith(f"{tmp_path / 'run'} already holds a run.")
    assert_same(before, weights(tmp_path / "run"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    assert "thesis.txt" in kanary("train", *flags(small(tiny_llama, text, out=tmp_path / "mine"))).message
    assert [p.name for p in (tmp_path / "mine").iterdir() if p.name != ".lock"] == ["thesis.txt"]
    assert "cannot be written" in kanary("train", *flags(small(tiny_llama, text, out=text / "run"))).message


@pytest.mark.parametrize("name", ["wandb", "trackio", "tensorboard"])
def test_a_logger_that_is_not_installed_says_how_to_get_it(
    name: str, tiny_llama: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer" if name == "tensorboard" else name, None)
    assert refused(tmp_path, tiny_llama, text, log=name).endswith(f"pip install {name}")


def test_nan_in_the_weights_of_a_model(tiny_llama: Path, text: Path, tmp_path: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"

    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name][3, 5] = float("nan")

    message = refused(tmp_path, edited(tiny_llama, tmp_path / "spoilt", spoil), text)
    assert f"NaN or Inf in 1 of 512 values of {name}" in message


def overflowing(tensors: dict[str, torch.Tensor], token: int) -> None:
    """Block 0 answers ``token``, and no other, with infinity: only its embedding has a first coordinate."""
    tensors["model.embed_tokens.weight"][:, 0] = 0
    tensors["model.embed_tokens.weight"][token, 0] = 1
    tensors["model.layers.0.self_attn.o_proj.weight"][0] = 0
    for part in ("gate_proj", "up_proj"):
        tensors[f"model.layers.0.mlp.{part}.weight"].zero_()
        tensors[f"model.layers.0.mlp.{part}.weight"][0, 0] = 1e20


def test_nan_in_activations_stops_with_step_document_and_last_good_checkpoint(tiny_llama: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    plain = write_stories(tmp_path / "plain.jsonl", 35)
    rare = AutoTokenizer.from_pretrained(tiny_llama)("z", add_special_tokens=False)["input_ids"][-1]
    with plain.open("a") as file:
        file.write('{"text": "' + "z " * 40 + '"}\n')
    model = edited(tiny_llama, tmp_path / "model", lambda tensors: overflowing(tensors, rare))
    run = tmp_path / "run"
    message = kanary(
        "train", *flags(small(model, plain, out=run, site="resid_post.0", tokens=6400, eval_tokens=0))
    ).message
    step = steps_logged(run)[-1] + 1
    assert message.startswith(f"Training stopped before step {step}: ")
    assert f"infinite activations at site resid_post.0: document 35, token 0 (vocabulary id {rare})" in message
    assert message.endswith(f"The last good checkpoint is {run / 'checkpoints' / checkpoints(run)[-1]}.")


def test_nan_in_the_loss_stops_with_step_batch_and_last_good_checkpoint(
    tiny_llama: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, count = tmp_path / "run", iter(range(1000))
    from kanary.sae.model import SAE

    standardise = SAE.standardise

    def spoilt(self: SAE, x: torch.Tensor) -> torch.Tensor:
        z = standardise(self, x)
        if self.training and len(x) == 64 and next(count) == 21:
            z = z.clone()
            z[5, 3] = float("nan")
        return z

    fields = small(tiny_llama, text, out=run)
    monkeypatch.setattr(SAE, "standardise", spoilt)
    message = kanary("train", *flags(fields)).message
    monkeypatch.undo()
    assert "Training of topk broke down at step 22, batch 5 of pool 1: loss nan" in message
    assert f"The last good checkpoint is {run / 'checkpoints/step-00000020'}." in message
    assert kanary("train", "--resume", run).code == 0  # nothing that was saved is spoilt
    whole = tmp_path / "whole"
    assert kanary("train", *flags(fields | {"out": whole})).code == 0
    assert_same(weights(run), weights(whole))


def test_a_learning_rate_that_breaks_the_weights_leaves_no_broken_checkpoint(
    tiny_llama: Path, text: Path, tmp_path: Path
) -> None:
    message = kanary("train", *flags(small(tiny_llama, text, out=tmp_path / "run", lr=1e38, checkpoint=64))).message
    assert "broke down at step" in message
    assert "--lr" in message
    for state in (tmp_path / "run").glob("checkpoints/step-*/*.safetensors"):
        assert all(torch.isfinite(t).all() for t in load_file(state).values() if t.is_floating_point())


@pytest.mark.parametrize("damage", ["cut", "missing", "header", "nan"])
def test_a_damaged_shard_is_named(damage: str, store: Path, tiny_llama: Path, text: Path, tmp_path: Path) -> None:
    shard = store / "resid_post.1" / "shard-00001.safetensors"
    content = bytearray(shard.read_bytes())
    if damage == "cut":
        shard.write_bytes(content[:-100])
    elif damage == "missing":
        shard.unlink()
    elif damage == "header":
        content[:8] = b"\xff" * 8
        shard.write_bytes(content)
    else:
        content[-4:] = b"\xff" * 4
        shard.write_bytes(content)
    message = kanary("train", *flags(small(tiny_llama, text, store=store, out=tmp_path / "run"))).message
    assert str(shard if damage != "nan" else shard.parent) in message
    if damage == "nan":
        with pytest.raises(Exception, match=rf"{shard} is damaged: its SHA-256"):
            ActivationStore.open(store).verify()


def test_a_store_of_another_model_or_site(store: Path, tiny_llama: Path, text: Path, tmp_path: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.embed_tokens.weight"] *= 2

    other = edited(tiny_llama, tmp_path / "other", change)
    assert "is another model" in refused(tmp_path, other, text, store=store)
    message = refused(tmp_path, tiny_llama, text, store=store, site="resid_post.0")
    assert "holds no activations of site 'resid_post.0'. Did you mean 'resid_post.1'?" in message


def test_a_harvest_that_cannot_work(tiny_llama: Path, text: Path, tmp_path: Path, store: Path) -> None:
    given = {"model": tiny_llama, "text": text, "site": "resid_post.1", "device": "cpu", "window": 32}
    out = tmp_path / "new"
    assert "--out" in kanary("harvest", *flags(given)).message
    assert "'resid_post.1'" in kanary("harvest", *flags({**given, "site": "resid_pst.1", "out": out})).message
    assert "GB free" in kanary("harvest", *flags({**given, "tokens": "900T", "out": out})).message
    assert not out.exists()
    before = ActivationStore.open(store).n_tokens
    changed = {**given, "tokens": "8K", "shard": 512, "out": store}
    assert "begun with other options: shard=1024 (now 512)" in kanary("harvest", *flags(changed)).message
    assert ActivationStore.open(store).n_tokens == before


def test_a_config_edited_into_nonsense(tiny_llama: Path, text: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert kanary("train", *flags(small(tiny_llama, text, out=run, tokens=640, eval_tokens=0))).code == 0
    (run / "config.yaml").write_text(yaml.safe_dump({"k": "four"}))
    assert kanary("train", "--resume", run).message.startswith("k='four' is not an int")
    (run / "config.yaml").write_text("k: [4")
    assert kanary("train", "--resume", run).message.startswith(f"{run / 'config.yaml'} is not YAML")


@pytest.mark.parametrize(
    ("command", "inside", "remedy"),
    [("index", "checkpoints", "kanary train --resume"), ("compare", "sae", "kanary evaluate")],
)
def test_a_command_that_a_message_tells_to_give_can_be_pasted(
    command: str, inside: str, remedy: str, tmp_path: Path
) -> None:
    run = tmp_path / "run with room ü"
    (run / inside).mkdir(parents=True)
    message = kanary(command, str(run)).message
    words = shlex.split(message[message.index(remedy) :].split("`")[0])
    assert words[len(remedy.split())] == str(run)
