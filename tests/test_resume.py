"""A run that is stopped, however it is stopped, goes on to the weights of one that never was."""

import functools
import json
import os
import random
import resource
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml

import kanary as library
from kanary.errors import KanaryError
from kanary.files import exclusive
from runs import (
    KINDS,
    Child,
    assert_same,
    checkpoints,
    flags,
    kanary,
    small,
    steps_logged,
    weights,
    write_stories,
)

STEPS = 84


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stories(tmp_path_factory.mktemp("text") / "stories.jsonl", 150)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path, text: Path) -> Path:
    folder = tmp_path_factory.mktemp("stores") / "store"
    given = {"model": tiny_llama, "text": text, "site": "resid_post.1", "device": "cpu", "window": 32, "shard": 1024}
    assert kanary("harvest", *flags({**given, "tokens": "4000", "out": folder})).code == 0
    return folder


def every_kind(tiny_llama: Path, text: Path, **fields: object) -> dict[str, object]:
    """One run with an SAE of every kind, a way of revival for each, and a schedule for k."""
    revivals = ["auxk", "ghost", "resample"]
    each = [
        {"sae": kind, "revive": revivals[i % 3]} | ({"k": 4} if "topk" in kind else {"target_l0": 4.0})
        for i, kind in enumerate(KINDS)
    ]
    given = {"k": None, "tokens": STEPS * 64, "checkpoint": 6 * 64, "dead_after": 640, "eval_tokens": 300, **fields}
    return small(tiny_llama, text, **given) | {"each": each}


def config_file(path: Path, fields: dict[str, object]) -> Path:
    path.write_text(yaml.safe_dump(fields))
    return path


@pytest.fixture(scope="module")
def uninterrupted(
    tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path, text: Path, store: Path
) -> dict[str, Path]:
    """Finished runs that nobody disturbed: from live text, and from a store."""
    folder = tmp_path_factory.mktemp("whole")
    runs = {}
    for source, given in (("text", {}), ("store", {"store": str(store)})):
        config = config_file(folder / f"{source}.yaml", every_kind(tiny_llama, text, **given))
        answer = kanary("train", "--config", config, "--out", folder / source)
        assert answer.code == 0, answer.err
        runs[source] = folder / source
    return runs


def same_numbers(a: Path, b: Path) -> None:
    def numbers(run: Path) -> list[dict[str, object]]:
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]

    assert numbers(a) == numbers(b)
    assert (a / "metrics.json").read_text() == (b / "metrics.json").read_text()


@pytest.mark.parametrize("source", ["text", "store"])
def test_a_run_killed_again_and_again_ends_with_the_weights_of_one_that_was_not(
    source: str, uninterrupted: dict[str, Path], tmp_path: Path
) -> None:
    whole, run = uninterrupted[source], tmp_path / "run"
    draw = random.Random(source)
    config = config_file(tmp_path / "run.yaml", yaml.safe_load((whole / "config.yaml").read_text()))
    words: list[object] = ["train", "--config", config, "--out", run]
    killed, saes = 0, len(KINDS)
    for part in (0.1, 0.35, 0.6, 0.9):
        target = draw.randint(int((part - 0.1) * STEPS) + 1, int(part * STEPS)) * saes
        child = Child(words, tmp_path / "logs")
        child.until(lambda target=target: len(steps_logged(run)) >= target)  # type: ignore[misc]
        time.sleep(draw.random() * 0.03)
        child.send(signal.SIGKILL)
        killed += child.wait().code == -signal.SIGKILL
        words = ["train", "--resume", run]
    assert killed >= 3  # else this test does not say what it means to say
    answer = Child(["train", "--resume", run], tmp_path / "logs").wait()
    assert answer.code == 0, answer.err
    assert_same(weights(whole), weights(run))
    assert steps_logged(run) == [step for step in range(1, STEPS + 1) for _ in KINDS]
    same_numbers(whole, run)
    assert not list((run / "checkpoints").glob(".*"))


def _die_at(place: str, number: int) -> None:
    """From the ``number``-th checkpoint on, kills this process at ``place`` in the writing of it."""
    from kanary import files
    from kanary.training import checkpoint

    save, count = checkpoint.save, 0

    def die(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def half(tensors: dict[str, torch.Tensor], path: Path, metadata: object) -> None:
        path.write_bytes(b"half of it")
        die()

    def counted(*given: object) -> Path:
        nonlocal count
        count += 1
        if count == number:
            if place == "within a file":
                safetensors.torch.save_file = half  # type: ignore[assignment]
            elif place == "between two files":
                checkpoint.write_json = die
            elif place == "before it gets its name":
                files._replace = die
            else:
                shutil.rmtree = die  # type: ignore[assignment]
        return save(*given)  # type: ignore[arg-type]

    checkpoint.save = counted  # type: ignore[assignment]


@pytest.mark.parametrize(
    "place", ["within a file", "between two files", "before it gets its name", "before old ones are forgotten"]
)
def test_a_run_killed_while_it_writes_a_checkpoint_goes_on(
    place: str, uninterrupted: dict[str, Path], tmp_path: Path
) -> None:
    whole, run = uninterrupted["text"], tmp_path / "run"
    child = Child(
        ["train", "--config", whole / "config.yaml", "--out", run],
        tmp_path / "logs",
        functools.partial(_die_at, place, 4),
    )
    assert child.wait().code == -signal.SIGKILL
    assert len(checkpoints(run)) >= 2
    # resumed with another interval, so that the checkpoint cut short is never written again under its own name
    assert kanary("train", "--resume", run, "--checkpoint", 45 * 64).code == 0
    assert_same(weights(whole), weights(run))
    assert not list((run / "checkpoints").glob(".*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_a_polite_kill_save_and_say_how_to_resume(
    number: int, uninterrupted: dict[str, Path], tmp_path: Path
) -> None:
    whole, run = uninterrupted["text"], tmp_path / "run"
    child = Child(["train", "--config", whole / "config.yaml", "--out", run], tmp_path / "logs")
    child.until(lambda: len(steps_logged(run)) >= 13)
    child.send(number)
    answer = child.wait()
    assert answer.code == 130, answer.err
    assert answer.err.strip().endswith(f"everything is saved. Go on with: kanary train --resume {run}")
    assert checkpoints(run)[-1] == f"step-{steps_logged(run)[-1]:08d}"
    assert f"of {STEPS} steps. Go on with: kanary train --resume {run}" in kanary("info", run).out
    assert kanary("train", "--resume", run).code == 0
    assert_same(weights(whole), weights(run))
    same_numbers(whole, run)


def _interrupt_the_measuring() -> None:
    import kanary.jobs

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    kanary.jobs.numbers = interrupted  # type: ignore[assignment]


def test_ctrl_c_after_the_last_step_says_how_to_go_on_and_keeps_the_sae(
    tiny_llama: Path, text: Path, tmp_path: Path
) -> None:
    fields = small(tiny_llama, text, out=tmp_path / "run")
    answer = Child(["train", *flags(fields)], tmp_path / "logs", _interrupt_the_measuring).wait()
    assert answer.code == 130
    assert answer.err.strip().endswith(f"Go on with: kanary train --resume {tmp_path / 'run'}")
    before = weights(tmp_path / "run")
    assert kanary("train", "--resume", tmp_path / "run").code == 0
    assert_same(before, weights(tmp_path / "run"))


def test_a_spent_budget_stops_cleanly_and_resume_finishes_to_the_same_weights(
    uninterrupted: dict[str, Path], tmp_path: Path
) -> None:
    whole, run = uninterrupted["text"], tmp_path / "run"
    answer = kanary("train", "--config", whole / "config.yaml", "--out", run, "--budget", "0.05s")
    assert answer.code == 0, answer.err
    assert f"The budget is spent; everything is saved. Go on with: kanary train --resume {run}" in answer.err
    done = steps_logged(run)[-1]
    assert 0 < done < STEPS
    answer = kanary("train", "--resume", run, "--budget", "0.05s")
    assert answer.code == 0
    assert done < steps_logged(run)[-1] < STEPS
    assert kanary("train", "--resume", run, "--budget", "1h").code == 0
    assert_same(weights(whole), weights(run))


def test_a_finished_run_may_be_resumed_and_stays_as_it_is(uninterrupted: dict[str, Path], tmp_path: Path) -> None:
    whole, run = uninterrupted["text"], tmp_path / "run"
    shutil.copytree(whole, run)
    assert kanary("train", "--resume", run).code == 0
    assert_same(weights(whole), weights(run))
    same_numbers(whole, run)


@pytest.fixture
def half_done(uninterrupted: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of a run that has its last two checkpoints but was not finished."""
    run = tmp_path / "run"
    shutil.copytree(uninterrupted["text"], run)
    shutil.rmtree(run / "sae")
    (run / "metrics.json").unlink()
    shutil.rmtree(run / "checkpoints" / checkpoints(run)[-1])
    return run


def test_resuming_with_another_config_says_which_fields_differ(half_done: Path) -> None:
    message = kanary("train", "--resume", half_done, "--tokens", "8K", "--lr", "0.5").message
    assert "begun with another config" in message
    assert f"tokens was {STEPS * 64}, now 8000" in message
    assert "lr was 0.01, now 0.5" in message
    assert "seed" not in message
    message = kanary("train", "--resume", half_done, "--sae", "topk").message
    assert "begun with another config" in message
    assert kanary("train", "--resume", half_done, "--learning-rate", "1").message.startswith("No such option")
    assert kanary("train", "--resume", half_done, "--tokens", STEPS * 64).code == 0  # the same value is no difference


def test_resuming_after_the_config_file_was_edited_says_what_changed(half_done: Path) -> None:
    path = half_done / "config.yaml"
    path.write_text(path.read_text().replace("batch: 64", "batch: 32").replace("width: 64", "width: 128"))
    message = kanary("train", "--resume", half_done).message
    assert "width was 64, now 128" in message
    assert "batch was 64, now 32" in message


def test_resuming_on_another_model_at_the_same_place_is_refused(tiny_llama: Path, text: Path, tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    model = tmp_path / "model"
    shutil.copytree(tiny_llama, model)
    library.train(**small(model, text, out=tmp_path / "run", eval_tokens=0), quiet=True)
    changed = LlamaForCausalLM.from_pretrained(model)
    with torch.no_grad():
        changed.model.embed_tokens.weight.mul_(1.5)
    changed.save_pretrained(model)
    assert "was trained on a model with the fingerprint" in kanary("train", "--resume", tmp_path / "run").message


def test_a_folder_in_use_by_another_process_is_refused_and_free_when_that_process_dies(
    uninterrupted: dict[str, Path], tmp_path: Path
) -> None:
    whole, run = uninterrupted["text"], tmp_path / "run"
    child = Child(["train", "--config", whole / "config.yaml", "--out", run], tmp_path / "logs")
    child.until(lambda: len(steps_logged(run)) >= 1)
    child.send(signal.SIGSTOP)
    try:
        for words in (["--resume", run], ["--config", whole / "config.yaml", "--out", run]):
            message = kanary("train", *words).message
            assert message.startswith(f"{run} is in use by another process (id {child.process.pid}).")
    finally:
        child.send(signal.SIGKILL)
    child.wait()
    with exclusive(run):
        pass


@pytest.mark.parametrize("damage", ["cut", "one bit", "missing", "state cut", "state edited", "state of another kind"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_the_way_out(
    damage: str, half_done: Path, uninterrupted: dict[str, Path]
) -> None:
    shutil.copytree(
        half_done / "checkpoints" / checkpoints(half_done)[-1], half_done / f"checkpoints/step-{STEPS - 3:08d}"
    )
    newest = half_done / f"checkpoints/step-{STEPS - 3:08d}"
    file = newest / ("state.json" if damage.startswith("state") else f"{sorted(newest.glob('*.safetensors'))[0].name}")
    content = bytearray(file.read_bytes())
    if damage in ("cut", "state cut"):
        file.write_bytes(content[: len(content) // 2])
    elif damage == "one bit":
        content[-3] ^= 1
        file.write_bytes(content)
    elif damage == "missing":
        file.unlink()
    elif damage == "state edited":
        file.write_text(json.dumps(json.loads(content) | {"batch": 3}))
    else:
        file.write_text('{"sha256": [1, 2]}')
    message = kanary("train", "--resume", half_done).message
    assert str(file) in message
    way_out = f"Delete {newest} to resume from {checkpoints(half_done)[0]}."
    assert message.endswith(way_out)
    if damage == "cut":  # what is left is the same whatever was damaged
        shutil.rmtree(newest)
        assert kanary("train", "--resume", half_done).code == 0
        assert_same(weights(uninterrupted["text"]), weights(half_done))


def test_a_damaged_only_checkpoint_says_that_there_is_no_other(half_done: Path) -> None:
    only = half_done / "checkpoints" / checkpoints(half_done)[0]
    (only / "state.json").write_text("{")
    assert kanary("train", "--resume", half_done).message.endswith("There is no earlier checkpoint; train anew.")


def _full_at(number: int) -> None:
    """From the ``number``-th checkpoint on, no file of this process may grow beyond 8,000 bytes."""
    from kanary.training import checkpoint

    save, count = checkpoint.save, 0

    def counted(*given: object) -> Path:
        nonlocal count
        count += 1
        if count == number:
            resource.setrlimit(resource.RLIMIT_FSIZE, (8000, resource.RLIM_INFINITY))
        return save(*given)  # type: ignore[arg-type]

    checkpoint.save = counted  # type: ignore[assignment]


def test_a_disk_that_fills_up_loses_nothing_that_was_saved(uninterrupted: dict[str, Path], tmp_path: Path) -> None:
    whole, run = uninterrupted["text"], tmp_path / "run"
    words = ["train", "--config", whole / "config.yaml", "--out", run]
    answer = Child(words, tmp_path / "logs", functools.partial(_full_at, 3)).wait()
    assert answer.message.startswith(f"The disk is full: {run / 'checkpoints'}")
    assert "Nothing already written was lost" in answer.message
    assert checkpoints(run) == ["step-00000006", "step-00000012"]
    assert not list((run / "checkpoints").glob(".*"))
    assert kanary("train", "--resume", run).code == 0
    assert_same(weights(whole), weights(run))


def _with_a_full_disk(words: list[str]) -> None:
    """The whole command while nothing can be written; what it says is kept in memory until that is over."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    answer = kanary(*words)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(answer.err, file=sys.stderr)
    raise SystemExit(answer.code)


def test_a_disk_that_is_full_from_the_start_is_one_line(tiny_llama: Path, text: Path, tmp_path: Path) -> None:
    words = ["train", *flags(small(tiny_llama, text, out=tmp_path / "run"))]
    message = Child([], tmp_path / "logs", functools.partial(_with_a_full_disk, words)).wait().message
    assert message.startswith(f"The disk is full: {tmp_path / 'run'} could not be written")
    assert not (tmp_path / "run").exists()


def test_a_run_whose_log_cannot_grow_stops_with_one_line(uninterrupted: dict[str, Path], tmp_path: Path) -> None:
    whole, run = uninterrupted["text"], tmp_path / "run"
    child = Child(
        ["train", "--config", whole / "config.yaml", "--out", run, "--checkpoint", 1000 * 64],
        tmp_path / "logs",
        functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY)),
    )
    message = child.wait().message
    assert message.startswith(f"The disk is full: {run / 'metrics.jsonl'}")
    assert kanary("train", "--resume", run).code == 0
    assert_same(weights(whole), weights(run))


def test_a_lock_is_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(KanaryError, match="is not a run"):
        library.train(resume=tmp_path / "nothing", quiet=True)
    assert not (tmp_path / "nothing").exists()
