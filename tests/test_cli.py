"""The command line says the same as Python and YAML, teaches, and tells what a folder holds."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import kanary as library
from kanary.activations.harvest import HarvestConfig
from kanary.activations.store import ActivationStore
from kanary.cli import COMMANDS, _build
from kanary.sae import SAE
from kanary.sae.parts import DECODERS, ENCODERS, import_parts
from kanary.training.config import TrainConfig
from kanary.training.estimate import _over_linear, _parameters
from runs import KINDS, Child, assert_same, flags, kanary, small, steps_logged, weights, write_stories

import_parts()


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stories(tmp_path_factory.mktemp("text") / "stories.jsonl", 120)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path, text: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    library.train(**small(tiny_llama, text, out=folder, k=[4, 8], options={"k_start": 32}), quiet=True)
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path, text: Path) -> Path:
    folder = tmp_path_factory.mktemp("stores") / "store"
    given = {"model": tiny_llama, "text": text, "site": "resid_post.0,mlp_out.1", "device": "cpu", "window": 32}
    assert kanary("harvest", *flags({**given, "tokens": "1.6K", "out": folder})).code == 0
    return folder


def resolved(run: Path) -> dict[str, object]:
    """``config.yaml``, without the folder's own name."""
    return {k: v for k, v in yaml.safe_load((run / "config.yaml").read_text()).items() if k != "out"}


def test_a_config_file_equals_the_same_flags(tiny_llama: Path, text: Path, tmp_path: Path) -> None:
    fields = small(tiny_llama, text, tokens="1.28K", eval_tokens=0, k=[4, 8], matryoshka=[4, 2], overlap=False)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(fields | {"seeds": [0, 1], "options": {"k_start": 16}}))
    assert kanary("train", "--config", tmp_path / "run.yaml", "--out", tmp_path / "yaml").code == 0
    words = [*flags(fields), "--seeds", "0,1", "--set", "k-start=16"]
    assert kanary("train", *words, "--out", tmp_path / "flags").code == 0
    assert resolved(tmp_path / "yaml") == resolved(tmp_path / "flags")
    assert_same(weights(tmp_path / "yaml"), weights(tmp_path / "flags"))


def test_flags_win_over_the_config_file(tiny_llama: Path, text: Path, tmp_path: Path) -> None:
    each = [{"sae": "topk", "k": 4}, {"sae": "batchtopk", "k": 4}]
    fields = small(tiny_llama, text, eval_tokens=0, tokens=640, k=None) | {"each": each}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(fields))
    assert kanary("train", "--config", tmp_path / "run.yaml", "--k", 8, "--out", tmp_path / "run").code == 0
    assert resolved(tmp_path / "run")["k"] == 8
    assert resolved(tmp_path / "run")["sae"] == ["topk", "batchtopk"]


def test_the_config_of_a_finished_run_makes_it_again(finished: Path, tmp_path: Path) -> None:
    answer = kanary("train", "--config", finished / "config.yaml", "--out", tmp_path / "again")
    assert answer.code == 0, answer.err
    assert resolved(tmp_path / "again") == resolved(finished)
    assert_same(weights(tmp_path / "again"), weights(finished))
    assert (tmp_path / "again/metrics.json").read_text() == (finished / "metrics.json").read_text()


def test_the_config_of_a_run_is_complete(finished: Path) -> None:
    assert set(resolved(finished)) == {f.name for f in dataclasses.fields(TrainConfig)} - {"out"}


def test_info_tells_of_a_finished_run(finished: Path) -> None:
    out = kanary("info", finished).out
    assert f"Run {finished}: topk of width 64 at resid_post.1 of" in out
    assert "Finished: 40 steps, 2,560 tokens." in out
    for name in ("topk-k4", "topk-k8", "identity at resid_post.1", "random twin of topk-k4"):
        assert f"  {name}: L0 " in out
    for name in ("topk-k4", "topk-k8"):  # what it says to do works
        assert f"kanary.SAE.from_pretrained({str(finished / 'sae' / name)!r})" in out
        library.SAE.from_pretrained(finished / "sae" / name)


def test_info_tells_of_a_run_that_is_not_finished(tiny_llama: Path, text: Path, tmp_path: Path) -> None:
    fields = small(tiny_llama, text, out=tmp_path / "run")
    assert kanary("train", *flags(fields), "--budget", "0s").code == 0
    out = kanary("info", tmp_path / "run").out
    assert f"Not finished: 1 of 40 steps. Go on with: kanary train --resume {tmp_path / 'run'}" in out
    resumed = kanary("train", "--resume", tmp_path / "run", "--budget", "1h")
    assert "About to take 39 of 40 steps" in resumed.err
    assert "measured on 500 tokens" in resumed.err
    (tmp_path / "run" / "metrics.json").unlink()  # as after a stop while it was measured
    assert "Not finished: trained, but not measured." in kanary("info", tmp_path / "run").out
    assert "All 40 steps are taken. Then the result is measured" in kanary("train", "--resume", tmp_path / "run").err


@pytest.mark.parametrize("decoder", sorted(DECODERS))
@pytest.mark.parametrize("encoder", sorted(ENCODERS))
def test_the_estimate_counts_the_parameters_of_the_chosen_parts(encoder: str, decoder: str) -> None:
    for sae, width in (("topk", 100), ("batchtopk", 640), ("jumprelu", 1000), ("gated", 256)):
        config = TrainConfig(sae=sae, encoder=encoder, decoder=decoder, width=width, k=40 if "topk" in sae else None)
        real = SAE(config.sae_config(24))
        assert _parameters(config, 24) == sum(each.numel() for each in real.parameters())


@pytest.mark.parametrize("given", [{"k": 3000}, {"options": {"k": 3000}}])
def test_more_active_latents_than_a_trial_has_can_be_estimated(given: dict[str, Any]) -> None:
    config = TrainConfig(sae="topk", encoder="refine", width=6200, batch=64, tokens=6400, **given)
    assert _parameters(config, 4) == 2 * 4 * 6200 + 6200 + 4 + 2 * 6200
    assert _over_linear(config, 4, torch.device("cpu")) > 0


def test_a_k_among_the_options_is_the_linear_twins_too() -> None:
    """The usual 32 would not fit a width of 16, of which --set k=4 asks for 4."""
    config = TrainConfig(sae="topk", encoder="kan-node", width=16, batch=64, tokens=6400, options={"k": 4, "knots": 5})
    assert _over_linear(config, 4, torch.device("cpu")) > 0


def test_info_tells_of_an_sae_and_of_a_store(finished: Path, store: Path) -> None:
    out = kanary("info", finished / "sae" / "topk-k4").out
    assert "64 latents on activations of width 16: linear → topk → linear" in out
    assert "Trained on 2,560 tokens at resid_post.1 of" in out
    assert "L0 4 over" in out
    out = kanary("info", store).out
    assert "1,600 tokens" in out
    assert "float32, complete" in out
    assert "resid_post.0: width 16" in out
    assert "mlp_out.1: width 16" in out
    assert "stories.jsonl" in out
    assert "{" not in out


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent", "does not exist"),
        ("empty", "holds no run"),
        ("model", "no SAE of Kanary's"),
        ("yaml", "not the config"),
    ],
)
def test_info_on_something_else_says_so(name: str, message: str, tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "yaml").mkdir()
    (tmp_path / "yaml" / "config.yaml").write_text("a: 1")
    assert message in kanary("info", tiny_llama if name == "model" else tmp_path / name).message


def test_help_teaches() -> None:
    assert kanary("--help").code == 0
    out = kanary("train", "--help").out
    for field in dataclasses.fields(TrainConfig):
        if field.name != "options":
            assert "--" + field.name.replace("_", "-") in out, field.name
    for word in (*KINDS, "--resume", "--config", "Ctrl-C", "resid_post.12", "Hugging Face", "--seeds"):
        assert word in out, word
    assert "\\" not in out
    out = kanary("harvest", "--help").out
    for field in dataclasses.fields(HarvestConfig):
        if field.name not in ("store", "pool"):
            assert "--" + field.name.replace("_", "-") in out, field.name
    assert "[detection,fuzzing,simulation]" in kanary("explain", "--help").out  # as one would type it


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_is_stopped_says_so_and_is_no_success(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = import_module(f"kanary.cli.{name.replace('-', '_')}")

    def plain() -> None:
        raise KeyboardInterrupt("stopped. Give the same command again.")

    def with_flags(values: dict[str, Any]) -> None:
        plain()

    monkeypatch.setattr(module, "command", with_flags if hasattr(module, "fields") else plain)
    answer = kanary(name)
    assert (answer.code, answer.err) == (130, "kanary: stopped. Give the same command again.\n")


def test_a_command_costs_the_same_however_many_ran_before_it_in_this_process() -> None:
    for _ in range(2):
        assert len(_build().registered_commands) == len(COMMANDS)


def _slowly() -> None:
    """Shards take a while, so that a signal meets the harvest before its end."""
    from kanary.activations.writer import StoreWriter

    append = StoreWriter.append

    def slow(self: StoreWriter, pool: Any) -> None:
        time.sleep(0.2)
        append(self, pool)

    StoreWriter.append = slow  # type: ignore[method-assign]


def test_a_harvest_that_is_stopped_goes_on_when_the_command_is_given_again(tiny_llama: Path, tmp_path: Path) -> None:
    long = write_stories(tmp_path / "long.jsonl", 1200)
    given = {"model": tiny_llama, "text": long, "site": "resid_post.1", "device": "cpu", "window": 32, "shard": 2048}
    words = ["harvest", *flags({**given, "tokens": "40K", "out": tmp_path / "store"})]
    child = Child(words, tmp_path / "logs", _slowly)
    child.until(lambda: (tmp_path / "store/resid_post.1/shard-00002.safetensors").exists())
    child.send(signal.SIGINT)
    answer = child.wait()
    assert answer.code == 130
    assert answer.err.strip().endswith("give the same command again to go on.")
    assert "Traceback" not in answer.err
    begun = ActivationStore.open(tmp_path / "store")
    assert not begun.complete
    assert "not complete; give the same harvest command again" in kanary("info", tmp_path / "store").out
    assert kanary(*words).code == 0
    whole = ActivationStore.open(tmp_path / "store")
    assert whole.complete
    assert whole.n_tokens > begun.n_tokens
    whole.verify()


def test_ctrl_c_before_anything_was_trained_ends_with_one_line(tiny_llama: Path, text: Path, tmp_path: Path) -> None:
    child = Child(
        ["train", *flags(small(tiny_llama, text, out=tmp_path / "run"))], tmp_path / "logs", _stop_while_loading
    )
    answer = child.wait()
    assert answer.code == 130
    assert answer.err.strip() == "kanary: stopped."
    assert not (tmp_path / "run").exists()


def _stop_while_loading() -> None:
    import kanary.jobs

    def interrupted(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        signal.pause()

    kanary.jobs.load_model = interrupted  # type: ignore[assignment]


def test_the_installed_command_stops_at_ctrl_c_and_resumes(tiny_llama: Path, text: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "kanary.cli", "train"]
    given = small(tiny_llama, text, tokens="10M", checkpoint=None, out=tmp_path / "run")
    process = subprocess.Popen([*words, *flags(given)], stderr=subprocess.PIPE, text=True)
    while process.poll() is None and len(steps_logged(tmp_path / "run")) < 5:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 130, err
    assert err.strip().endswith(f"Go on with: kanary train --resume {tmp_path / 'run'}")
    done = steps_logged(tmp_path / "run")[-1]
    assert kanary("train", "--resume", tmp_path / "run", "--budget", "0.2s").code == 0
    assert steps_logged(tmp_path / "run") == list(range(1, steps_logged(tmp_path / "run")[-1] + 1))
    assert steps_logged(tmp_path / "run")[-1] > done
