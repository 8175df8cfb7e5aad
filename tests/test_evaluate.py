"""``kanary evaluate`` as people meet it: what it writes, what it refuses, and that nothing is lost when it fails."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

import kanary as library
from kanary.errors import KanaryError
from kanary.evaluation.evaluate import EvaluateConfig
from kanary.evaluation.sums import FEWEST, GROUPS, STRETCH, bootstrap, groups_of
from kanary.jobs import refuse_leaking_site
from kanary.lm import LanguageModel
from kanary.sae import SAE
from kanary.text import TokenBatch, Windows, open_text
from runs import Child, kanary, small, write_stories

FILES = {"metrics.json", "report.html", "l0.csv", "losses.csv", "capability.csv", "logit_weights.csv"}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stories(tmp_path_factory.mktemp("text") / "stories.jsonl", 300)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path, text: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    library.train(**small(tiny_llama, text, out=folder, eval_tokens=0), quiet=True)
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


QUICK = ["--tokens", "1K", "--loss-tokens", "500", "--prompts", "10"]


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES if (folder / name).exists()}


def edit_sae(run: Path, **facts: object) -> None:
    """Changes what the SAE remembers of its training, as somebody might by hand."""
    path = run / "sae" / "config.json"
    config = json.loads(path.read_text())
    config["trained_on"] |= facts
    path.write_text(json.dumps(config))


# what it writes


def test_every_file_is_written_and_says_the_same(run: Path) -> None:
    answer = kanary("evaluate", run, *QUICK)
    assert answer.code == 0, answer.err
    assert f"{run}/report.html" in answer.out
    assert {path.name for path in run.iterdir()} >= FILES
    metrics = json.loads((run / "metrics.json").read_text())
    found = library.evaluate(run, tokens="1K", loss_tokens=500, prompts=10, quiet=True)
    assert found.to_json() == metrics
    assert found.capability is not None
    assert len(found.capability.prompts) == 10
    assert found.capability.rows["identity at resid_post.1"] == found.capability.without
    assert "held-out" in answer.out


def test_the_warnings_of_the_report_are_printed_too(run: Path) -> None:
    answer = kanary("evaluate", run, *QUICK)
    assert "topk: " in answer.err
    assert "tokens" in answer.err  # a thousand are few


@pytest.mark.parametrize("peer", ["saebench", "saelens"])
def test_a_peers_json_is_written_and_goes_when_it_is_not_asked_for(run: Path, peer: str) -> None:
    assert kanary("evaluate", run, "--like", peer, "--prompts", 0).code == 0
    held = json.loads((run / "metrics.json").read_text())["held_out"]
    assert held["window"] == 64  # the peer's 128, as far as this model can read
    assert (run / f"{peer}.json").is_file()
    assert not (run / "capability.csv").exists()
    assert kanary("evaluate", run, *QUICK).code == 0
    assert not (run / f"{peer}.json").exists()


def _full_disk() -> None:
    import kanary.evaluation.evaluate as job

    def broken(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    job.report = broken


def test_a_full_disk_leaves_the_earlier_evaluation_whole(run: Path, tmp_path: Path) -> None:
    assert kanary("evaluate", run, *QUICK).code == 0
    before = contents(run)
    answer = Child(["evaluate", run, *QUICK, "--seed", "5"], tmp_path / "logs", _full_disk).wait()
    assert answer.code != 0
    assert contents(run) == before
    assert not list(run.glob(".evaluation-*"))


def test_a_run_trained_with_relative_paths_is_evaluated_from_anywhere(
    tiny_llama: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    shutil.copytree(tiny_llama, tmp_path / "here" / "model")
    shutil.copy(text, tmp_path / "here" / "text.jsonl")
    monkeypatch.chdir(tmp_path / "here")
    fields = small(Path("model"), Path("text.jsonl"), out="run", eval_tokens=0)
    library.train(**fields, quiet=True)
    monkeypatch.chdir(tmp_path)
    answer = kanary("evaluate", "here/run", *QUICK)
    assert answer.code == 0, answer.err
    (tmp_path / "here" / "model").rename(tmp_path / "moved")
    assert "--model" in kanary("evaluate", "here/run", *QUICK).message
    assert kanary("evaluate", "here/run", *QUICK, "--model", "moved").code == 0


# what it refuses


@pytest.mark.parametrize("flag", ["--tokens", "--window", "--seed", "--loss-tokens", "--lm-batch"])
def test_like_leaves_no_room_for_another_sampling(run: Path, flag: str) -> None:
    message = kanary("evaluate", run, "--like", "saebench", flag, 7).message
    assert flag[2:].replace("-", "_") in message


def test_an_unknown_peer_names_both() -> None:
    with pytest.raises(KanaryError, match="saebench or saelens"):
        EvaluateConfig(like="saebanch")


def test_another_runs_numbers_are_not_replaced(run: Path, trained: Path, tmp_path: Path) -> None:
    other = shutil.copytree(trained, tmp_path / "other")
    assert "is another run" in kanary("evaluate", run, *QUICK, "--out", other).message
    assert kanary("evaluate", run, *QUICK, "--out", run).code == 0


@pytest.mark.parametrize("what", ["nowhere", "sae", "empty"])
def test_what_is_no_run_is_named(run: Path, tmp_path: Path, what: str) -> None:
    (tmp_path / "empty").mkdir()
    path = {"nowhere": Path("nowhere"), "sae": run / "sae", "empty": tmp_path / "empty"}[what]
    wanted = {"nowhere": "does not exist", "sae": "--out FOLDER", "empty": "no SAE"}[what]
    assert wanted in kanary("evaluate", path, *QUICK).message


@pytest.mark.parametrize(
    ("key", "value"), [("window", "x"), ("seed", "x"), ("site", None), ("fingerprint", 3), ("special_ids", 1)]
)
def test_a_damaged_memory_of_training_is_named(run: Path, key: str, value: object) -> None:
    edit_sae(run, **{key: value})
    for command in ("evaluate", "check"):
        assert key in kanary(command, run).message


def test_another_tokenizer_is_refused_by_both_names(run: Path, tiny_llama: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny_llama, tmp_path / "model"))
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokenizer["normalizer"] = {"type": "Lowercase"}
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    message = kanary("evaluate", run, *QUICK, "--model", model).message
    assert str(tiny_llama) in message
    assert str(model) in message


def test_an_sae_whose_output_overflows_is_refused(run: Path, tmp_path: Path) -> None:
    sae = SAE.from_pretrained(run)
    with torch.no_grad():
        sae.encoder.W_enc.mul_(1e30)
        sae.decoder.b_dec.fill_(3e38)
        sae.scale.fill_(1e-3)
    shutil.rmtree(run / "sae")
    sae.save_pretrained(run / "sae")
    assert "NaN or infinity" in kanary("evaluate", run, *QUICK).message


@pytest.mark.parametrize(
    "damage", [{"saes": []}, {"format": "kanary-metrics-0"}, {"held_out": None}, {"saes": {"a": {"b": {"l0": 3}}}}]
)
def test_info_names_a_damaged_metrics_file(run: Path, damage: dict[str, object]) -> None:
    assert kanary("evaluate", run, *QUICK).code == 0
    metrics = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps(metrics | damage))
    assert "metrics.json" in kanary("info", run).message


def test_training_refuses_a_site_that_the_model_does_not_use(tiny_lm: LanguageModel, text: Path) -> None:
    batch = next(Windows(open_text(text), tiny_lm, window=16, batch=2, part="all"))
    refuse_leaking_site(tiny_lm, batch, ["resid_post.1", "mlp_out.0"])
    norm = "module:model.norm"
    scale = tiny_lm.model.lm_head.weight.data.clone()
    tiny_lm.model.lm_head.weight.data.zero_()
    try:
        with pytest.raises(KanaryError, match=r"whatever is written at module:model\.norm"):
            refuse_leaking_site(tiny_lm, batch, [norm])
    finally:
        tiny_lm.model.lm_head.weight.data.copy_(scale)


def test_a_trained_sae_knows_its_weights_and_its_tokenizer(run: Path, tiny_lm: LanguageModel) -> None:
    sae = SAE.from_pretrained(run)
    known = sae.config.trained_on
    assert known["weights"] == sae.digest()
    assert known["tokenizer_fingerprint"] == tiny_lm.tokenizer_fingerprint
    assert known["bos_id"] == tiny_lm.bos_id
    with torch.no_grad():
        sae.decoder.W_dec[0].neg_()
    assert known["weights"] != sae.digest()


# intervals


def batch_of(documents: Tensor, positions: Tensor) -> TokenBatch:
    shape = (len(documents), 4)
    tokens, special = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.bool)
    return TokenBatch(tokens, documents[:, None].expand(shape), positions[:, None].expand(shape), special)


def test_windows_of_one_document_stay_together_and_long_documents_are_cut() -> None:
    documents = torch.arange(2000).repeat_interleave(3)
    groups = groups_of(batch_of(documents, torch.tensor([0, 100, STRETCH - 1], dtype=torch.int32).repeat(2000)))
    assert bool((groups.view(2000, 3) == groups.view(2000, 3)[:, :1]).all())
    assert 0 <= int(groups.min()) <= int(groups.max()) < GROUPS
    counts = torch.bincount(groups[::3], minlength=GROUPS)
    assert int(counts.max()) <= 12  # 2,000 documents in 512 groups: about four in each
    long = groups_of(batch_of(torch.zeros(40, dtype=torch.long), torch.arange(40, dtype=torch.int32) * STRETCH))
    assert len(long.unique()) > 30
    held_out = groups_of(batch_of(torch.arange(19, 20 * 512, 20), torch.zeros(512, dtype=torch.int32)))
    assert len(held_out.unique()) > 250  # every twentieth document must not fall into few groups


def test_few_groups_give_no_interval() -> None:
    tokens = torch.zeros(GROUPS, dtype=torch.float64)
    tokens[: FEWEST - 1] = 10
    assert bootstrap(tokens, 0).shape == (1, GROUPS)
    tokens[FEWEST - 1] = 10
    counts = bootstrap(tokens, 0)
    assert len(counts) > 100
    assert bool((counts[1:, FEWEST:] == 0).all())
    assert bool((counts[1:].sum(1) == FEWEST).all())


def test_intervals_do_not_shrink_when_every_window_is_said_twice(
    tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory, run: Path, tmp_path: Path
) -> None:
    """A document that repeats itself says nothing new, so it must not make a number look surer."""
    write_stories(tmp_path / "once.jsonl", 40, words=60, seed=3)
    lines = [json.loads(line)["text"] for line in (tmp_path / "once.jsonl").read_text().splitlines()]
    (tmp_path / "often.jsonl").write_text("".join(json.dumps({"text": " ".join([t] * 8)}) + "\n" for t in lines))
    widths = []
    for name in ("once", "often"):
        found = library.evaluate(
            run, text=str(tmp_path / f"{name}.jsonl"), out=str(tmp_path / name), prompts=0, tokens="50K", quiet=True
        )
        metric = found.saes["topk"]["reconstruction_quality"]["explained_variance"]
        widths.append(metric.high - metric.low)
    assert widths[1] > 0.6 * widths[0]


# sharing


def test_a_published_sae_does_not_tell_the_folders_of_its_maker(run: Path, tiny_llama: Path) -> None:
    from kanary.sae.store import _public

    sae = SAE.from_pretrained(run)
    assert sae.config.trained_on["model"] == str(tiny_llama)
    assert _public(sae).config.trained_on["model"] == tiny_llama.name
    assert sae.config.trained_on["model"] == str(tiny_llama)


def test_one_seed_named_twice_is_not_two(run: Path, tmp_path: Path) -> None:
    assert kanary("evaluate", run, *QUICK).code == 0
    copy = shutil.copytree(run, tmp_path / "copy")
    answer = kanary("compare", run, copy, "--out", tmp_path / "both.html")
    assert answer.code == 0, answer.err
    assert "once" in answer.err
    assert (tmp_path / "both.html").is_file()
