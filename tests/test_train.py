"""A model and a text go in; trained SAEs with honest numbers come out, the same ones every time."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import kanary as library
from kanary.errors import KanaryError
from kanary.lm import LanguageModel
from kanary.training.config import TrainConfig, grid
from kanary.training.learner import StepStats
from kanary.training.progress import TrainingProgress
from kanary.training.revival import REVIVALS
from runs import KINDS, Child, assert_same, checkpoints, flags, kanary, small, steps_logged, weights, write_stories

METRICS = {"l0", "explained_variance", "ce_loss_score", "ce_loss_without_sae", "ce_loss_with_sae", "kl_div_score"}


def flat(row: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Every metric of a row of ``metrics.json`` by its name."""
    return {name: metric for group in row.values() for name, metric in group.items()}


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stories(tmp_path_factory.mktemp("text") / "stories.jsonl", 120)


def test_no_speed_and_no_time_left_are_said_before_they_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    config = TrainConfig(model="tiny", site="resid_post.0", text="text", batch=100, tokens=1_000)
    with TrainingProgress({"topk": config}, 0, quiet=False) as progress:
        progress.show(1, {"topk": StepStats(3.0, 2.0, 4.0, 0.5, 0, 1e-3)})
        progress.show(2, {"topk": StepStats(3.0, 2.0, 4.0, 0.5, 0, 1e-3)})
    first, second = capsys.readouterr().err.splitlines()
    assert first == "step 1/10  loss 3  L0 4.0  EV 0.500  dead 0"
    assert second.endswith(" left")


def options(kind: str) -> dict[str, object]:
    return {"sae": kind} if "topk" in kind else {"sae": kind, "k": None, "target_l0": 4.0}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_sae_goes_from_model_and_text_to_a_folder_that_loads(
    kind: str, tiny_llama: Path, text: Path, tiny_lm: LanguageModel, tmp_path: Path
) -> None:
    run = library.train(**small(tiny_llama, text, out=tmp_path / "run", **options(kind)), quiet=True)
    assert run.ending == "finished"
    held = {p.name for p in run.folder.iterdir() if not p.name.startswith(".")}
    assert held == {"config.yaml", "sae", "checkpoints", "metrics.jsonl", "metrics.json"}

    sae = library.SAE.from_pretrained(run)
    tokens = torch.randint(3, tiny_lm.vocab_size, (2, 16), generator=torch.Generator().manual_seed(0))
    x = tiny_lm.capture(tokens, ["resid_post.1"])["resid_post.1"]
    codes = sae.encode(x)
    assert codes.shape == (2, 16)
    assert 0 < len(codes.values) <= 32 * 64
    assert sae.decode(codes).shape == x.shape
    assert torch.allclose(sae.W_dec.norm(dim=1), torch.ones(64), atol=1e-5)
    assert sae.config.trained_on["site"] == "resid_post.1"
    assert sae.config.trained_on["fingerprint"] == tiny_lm.fingerprint


@pytest.mark.parametrize(
    ("encoder", "decoder"), [("kan-hidden", "kan-bend"), ("kan-edge", "kan-curve"), ("kan-node", "kan-gain")]
)
def test_kan_parts_are_words_on_the_command_line(
    encoder: str, decoder: str, tiny_llama: Path, text: Path, tmp_path: Path
) -> None:
    fields = small(tiny_llama, text, out=tmp_path / "run", encoder=encoder, decoder=decoder, eval_tokens=2000)
    assert kanary("train", *flags(fields)).code == 0
    config = library.SAE.from_pretrained(tmp_path / "run").config
    assert (config.encoder["name"], config.decoder["name"]) == (encoder, decoder)
    rows = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert "straight twin of topk" in json.dumps(rows)


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_stand_beside_controls_and_carry_intervals(
    kind: str, tiny_llama: Path, text: Path, tmp_path: Path
) -> None:
    fields = small(tiny_llama, text, out=tmp_path / "run", eval_tokens=2000, **options(kind))
    answer = kanary("train", *flags(fields))
    assert answer.code == 0, answer.err
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert list(metrics["saes"]) == [kind]
    assert metrics["about"][kind]["recipe"] == json.loads(json.dumps(TrainConfig(**fields).recipe))
    assert len(metrics["controls"]) == 4
    assert "dead_share" in flat(metrics["saes"][kind])
    for row in map(flat, [*metrics["saes"].values(), *metrics["controls"].values()]):
        assert row.keys() >= METRICS
        for metric in row.values():
            assert metric.keys() == {"value", "low", "high", "n"}
            assert metric["n"] > 0
            if metric["value"] is not None:
                assert metric["low"] <= metric["value"] <= metric["high"]
    identity = next(flat(row) for name, row in metrics["controls"].items() if name.startswith("identity"))
    twin = next(flat(row) for name, row in metrics["controls"].items() if name.startswith("random"))
    assert identity["explained_variance"]["value"] == pytest.approx(1)
    assert identity["ce_loss_score"]["value"] == pytest.approx(1)
    if "topk" in kind:  # the others have not reached their L0 after forty steps
        assert twin["explained_variance"]["value"] < flat(metrics["saes"][kind])["explained_variance"]["value"] < 1
    assert "held-out" in answer.out
    assert "kanary info" in answer.out


def test_every_step_leaves_one_line_of_numbers(tiny_llama: Path, text: Path, tmp_path: Path) -> None:
    run = library.train(**small(tiny_llama, text, out=tmp_path / "run"), quiet=True)
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 41))
    assert [line["tokens"] for line in lines] == list(range(64, 64 * 40 + 1, 64))
    assert {"loss", "l0", "explained_variance", "dead", "lr", "sae"} <= lines[0].keys()
    assert lines[-1]["explained_variance"] > lines[0]["explained_variance"]
    assert len(checkpoints(run.folder)) == 2  # the last, and one before it


def test_many_saes_on_one_stream_equal_the_same_saes_trained_alone(
    tiny_llama: Path, text: Path, tmp_path: Path
) -> None:
    common = {"tokens": 20 * 64}
    many = tmp_path / "many"
    assert kanary("train", *flags(small(tiny_llama, text, out=many, **common, k=[4, 8], seeds=[0, 1]))).code == 0
    assert sorted(p.name for p in (many / "sae").iterdir()) == [
        f"topk-k{k}-seed{seed}" for k in (4, 8) for seed in (0, 1)
    ]
    for k, seed in ((4, 0), (8, 1)):
        alone = tmp_path / f"alone-{k}-{seed}"
        library.train(**small(tiny_llama, text, out=alone, **common, k=k, seed=seed), quiet=True)
        among = {key.split(": ")[1]: t for key, t in weights(many).items() if f"k{k}-seed{seed}/" in key}
        assert_same(among, {key.split(": ")[1]: t for key, t in weights(alone).items()})
    with pytest.raises(KanaryError, match="holds 4 SAEs; name one of them"):
        library.SAE.from_pretrained(many)


def test_kinds_that_form_no_grid_share_a_stream_and_their_folder_says_how(
    tiny_llama: Path, text: Path, tmp_path: Path
) -> None:
    fields = small(tiny_llama, text, out=str(tmp_path / "run"), tokens=20 * 64, k=None)
    configs = [
        TrainConfig(**fields, sae="topk", k=4),
        TrainConfig(**fields, sae="jumprelu", target_l0=4.0),
        TrainConfig(**fields, sae="gated", l1=0.1),
    ]
    run = library.train(configs, quiet=True)
    assert len(run.metrics["saes"]) == 3
    assert grid(yaml.safe_load((run.folder / "config.yaml").read_text())) == configs
    library.train(**small(tiny_llama, text, out=tmp_path / "alone", tokens=20 * 64), quiet=True)
    among = {key.split(": ")[1]: t for key, t in weights(run).items() if key.startswith("topk")}
    assert_same(among, {key.split(": ")[1]: t for key, t in weights(tmp_path / "alone").items()})


def test_several_sites_share_a_stream(tiny_llama: Path, text: Path, tmp_path: Path) -> None:
    run = library.train(
        **small(tiny_llama, text, out=tmp_path / "run", tokens=20 * 64, site=["resid_post.0", "mlp_out.1"]), quiet=True
    )
    sites = {library.SAE.from_pretrained(p).config.trained_on["site"] for p in (run.folder / "sae").iterdir()}
    assert sites == {"resid_post.0", "mlp_out.1"}


def test_the_same_seed_gives_the_same_weights_and_another_gives_others(
    tiny_llama: Path, text: Path, tmp_path: Path
) -> None:
    def trained(name: str, **fields: object) -> dict[str, torch.Tensor]:
        fields = small(tiny_llama, text, out=tmp_path / name, tokens=20 * 64, eval_tokens=0, **fields)
        return weights(library.train(**fields, quiet=True))

    first = trained("a")
    assert_same(first, trained("b"))
    assert_same(first, trained("c", overlap=False))
    for other in (trained("d", seed=1), trained("e", data_seed=1)):
        assert not torch.equal(other["sae.safetensors: decoder.W_dec"], first["sae.safetensors: decoder.W_dec"])


@pytest.mark.parametrize("revive", sorted(REVIVALS))
def test_every_way_to_revive_dead_latents_trains(revive: str, tiny_llama: Path, text: Path, tmp_path: Path) -> None:
    fields = small(tiny_llama, text, out=tmp_path / "run", revive=revive, k=1, width=256, dead_after=64, eval_tokens=0)
    library.train(**fields, quiet=True)
    assert all(torch.isfinite(t).all() for t in weights(tmp_path / "run").values())


def test_matryoshka_bf16_and_a_k_schedule_are_flags(tiny_llama: Path, text: Path, tmp_path: Path) -> None:
    fields = small(tiny_llama, text, out=tmp_path / "run", matryoshka=[4, 2], precision="bf16", k_schedule=True)
    assert kanary("train", *flags(fields | {"k_start": 32})).code == 0
    l0 = [json.loads(line)["l0"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert l0[0] > 8
    assert l0[-1] <= 4


def test_a_store_trains_without_naming_its_model_and_text_again(tiny_llama: Path, text: Path, tmp_path: Path) -> None:
    given = {"model": tiny_llama, "text": text, "site": "resid_post.0,resid_post.1", "device": "cpu", "window": 32}
    made = kanary("harvest", *flags({**given, "tokens": "1600", "shard": 512, "out": tmp_path / "store"}))
    assert made.code == 0, made.err
    assert "1,600 tokens at resid_post.0, resid_post.1" in made.out
    fields = small(tiny_llama, text, store=tmp_path / "store", out=tmp_path / "run", window=None)
    del fields["model"], fields["text"]
    answer = kanary("train", *flags(fields))
    assert answer.code == 0, answer.err
    sae = library.SAE.from_pretrained(tmp_path / "run")
    assert sae.config.trained_on["site"] == "resid_post.1"
    assert sae.config.trained_on["model"] == str(tiny_llama)
    assert sae.config.trained_on["window"] == 32
    row = flat(json.loads((tmp_path / "run/metrics.json").read_text())["saes"]["topk"])
    assert row["l0"]["value"] == 4


def test_a_store_of_held_out_documents_too_gives_no_numbers_that_would_flatter(
    tiny_llama: Path, text: Path, tmp_path: Path
) -> None:
    given = {"model": tiny_llama, "text": text, "site": "resid_post.1", "device": "cpu", "part": "all", "window": 32}
    assert kanary("harvest", *flags({**given, "tokens": "1600", "out": tmp_path / "store"})).code == 0
    answer = kanary("train", *flags(small(tiny_llama, text, store=tmp_path / "store", out=tmp_path / "run")))
    assert answer.code == 0
    assert "no text is held out" in answer.err
    assert json.loads((tmp_path / "run/metrics.json").read_text())["saes"] == {}


@pytest.mark.parametrize("documents", [1, 19])
def test_a_text_without_held_out_documents_gives_an_sae_and_says_why_there_are_no_numbers(
    documents: int, tiny_llama: Path, tmp_path: Path
) -> None:
    short = write_stories(tmp_path / "short.jsonl", documents, words=400)
    answer = kanary("train", *flags(small(tiny_llama, short, out=tmp_path / "run")))
    assert answer.code == 0, answer.err
    assert "No numbers on held-out text: " in answer.err
    assert "one document in 20 is held out" in answer.err
    library.SAE.from_pretrained(tmp_path / "run")
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["saes"] == {}
    assert "held out" in metrics["held_out"]["missing"]
    assert "No numbers on held-out text" in kanary("info", tmp_path / "run").out


def test_a_trained_sae_survives_whatever_goes_wrong_while_it_is_measured(
    tiny_llama: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("kanary.jobs.numbers", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        library.train(**small(tiny_llama, text, out=tmp_path / "run"), quiet=True)
    before = weights(tmp_path / "run")
    monkeypatch.undo()
    assert library.train(resume=tmp_path / "run", quiet=True).metrics["saes"]
    assert_same(before, weights(tmp_path / "run"))


def test_tensorboard_gets_the_numbers_too(tiny_llama: Path, text: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    answer = kanary("train", *flags(small(tiny_llama, text, out=tmp_path / "run", log="tensorboard", eval_tokens=0)))
    assert answer.code == 0, answer.err
    events = EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    assert [e.step for e in events.Scalars("topk/l0")] == list(range(1, 41))
    assert steps_logged(tmp_path / "run") == list(range(1, 41))


def test_the_default_folder_is_named_after_the_day_and_the_kind_and_is_never_taken_twice(
    tiny_llama: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fields = small(tiny_llama, text, tokens=5 * 64, eval_tokens=0)
    first, second = (library.train(**fields, quiet=True).folder for _ in range(2))
    assert first.parent == second.parent == Path("runs")
    assert first.name.endswith("-topk")
    assert second.name == first.name + "-2"


def test_the_command_in_a_process_of_its_own_trains_on_the_real_llama(
    stories_path: Path, corpora: Path, tmp_path: Path
) -> None:
    words = ["train", "--model", stories_path, "--site", "resid_post.2", "--text", corpora / "stories-train.parquet"]
    words += ["--sae", "topk", "--k", "16", "--width", "256", "--tokens", "20K", "--batch", "512", "--pool", "8K"]
    words += ["--eval-tokens", "2K", "--device", "cpu", "--out", tmp_path / "run"]
    done = Child(words, tmp_path / "logs").wait()
    assert done.code == 0, done.err
    assert "Warning" not in done.err
    assert "About to take 39 steps" in done.err
    row = flat(json.loads((tmp_path / "run/metrics.json").read_text())["saes"]["topk"])
    assert row["l0"]["value"] == 16
    assert row["explained_variance"]["low"] > 0.5
    assert row["ce_loss_score"]["low"] > 0.5
