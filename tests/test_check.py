"""``kanary check``: a healthy run of every kind passes, and every planted fault is named."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import kanary
from conftest import small_tokenizer
from kanary.errors import KanaryError
from kanary.evaluation.checks.check import Check, check, lines
from kanary.lm import LanguageModel, Trace
from kanary.sae import SAE
from kanary.text import TokenBatch, Windows
from kanary.training.config import grid
from planted import KINDS
from runs import small, write_stories

NOISE = "the model knows the text"  # which the tiny model, whose weights are random, does not
FEW = [("topk", "stories"), ("jumprelu", "tiny"), ("relu", "tiny")]


@dataclasses.dataclass(frozen=True)
class Trained:
    """A run with an SAE of every kind."""

    run: Path
    model: Path
    site: str
    fails: set[str]
    """What rightly fails although the SAEs are healthy."""

    def sae(self, kind: str) -> SAE:
        return SAE.from_pretrained(next((self.run / "sae").glob(f"{kind}*")))


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Trained]:
    made: dict[str, Trained] = {}

    def get(which: str) -> Trained:
        if which not in made:
            make = _stories if which == "stories" else _tiny
            made[which] = make(request, tmp_path_factory.mktemp(which))
        return made[which]

    return get


def _stories(request: pytest.FixtureRequest, folder: Path) -> Trained:
    model, corpora = request.getfixturevalue("stories_path"), request.getfixturevalue("corpora")
    fields = small(
        model,
        corpora / "stories-train.parquet",
        **{"site": "resid_post.2", "width": 256, "k": None, "lr": None, "dead_after": None, "checkpoint": None},
        **{"tokens": 50_000, "batch": 512, "pool": 16_384, "window": 128, "lm_batch": 32, "eval_tokens": 10_000},
    )
    return _trained(model, folder, 16, fields, set())


def _tiny(request: pytest.FixtureRequest, folder: Path) -> Trained:
    model = request.getfixturevalue("tiny_llama")
    text = write_stories(folder / "text.jsonl", 2000)
    fields = small(
        model,
        text,
        **{"k": None, "lr": None, "dead_after": None, "checkpoint": None},
        **{"tokens": 60_000, "batch": 512, "pool": 8192, "lm_batch": 64, "eval_tokens": 3000},
    )
    return _trained(model, folder, 4, fields, {NOISE})


def _trained(model: Path, folder: Path, k: int, fields: dict[str, Any], fails: set[str]) -> Trained:
    sparsity = {kind: {"k": k} if "topk" in kind else {"target_l0": float(k)} for kind in KINDS}
    each = [{"sae": kind, **sparsity[kind]} for kind in KINDS]
    kanary.train(grid({**fields, "each": each, "out": str(folder / "run")}), quiet=True)
    return Trained(folder / "run", model, fields["site"], fails)


def failed(checks: list[Check], run: Trained) -> dict[str, str]:
    """Name of each check that failed, beside those that rightly do -> what it says."""
    return {c.name: c.says for c in checks if c.passed is False and c.name not in run.fails}


def spoiled(run: Trained, kind: str, folder: Path, fault: Callable[[SAE], object]) -> dict[str, str]:
    """What fails for an SAE of ``run`` that ``fault`` has changed."""
    _spoil(run, kind, fault, folder / "sae")
    return failed(check(folder / "sae", device="cpu", quiet=True), run)


def _spoil(run: Trained, kind: str, fault: Callable[[SAE], object], folder: Path) -> None:
    sae = run.sae(kind)
    with torch.no_grad():
        fault(sae)
    sae.save_pretrained(folder)


@pytest.fixture(scope="module")
def together(
    runs: Callable[[str], Trained], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], dict[str, dict[str, str]]]:
    """What fails for each SAE of ``SPOILED``, checked in one folder because the model and the text take longest."""
    made: dict[str, dict[str, dict[str, str]]] = {}

    def get(which: str) -> dict[str, dict[str, str]]:
        if which not in made:
            folder = tmp_path_factory.mktemp("together")
            for name, (kind, fault) in SPOILED[which].items():
                _spoil(runs(which), kind, fault, folder / name)
            found = check(folder, device="cpu", quiet=True)
            made[which] = {name: failed([c for c in found if c.about == name], runs(which)) for name in SPOILED[which]}
        return made[which]

    return get


@pytest.mark.parametrize("which", ["stories", "tiny"])
def test_a_healthy_run_of_every_kind_passes_everything(runs: Callable[[str], Trained], which: str) -> None:
    run = runs(which)
    found = check(run.run, device="cpu", quiet=True)
    assert failed(found, run) == {}
    assert not [c for c in found if c.passed is None]
    assert len({c.about for c in found}) == 2 + len(KINDS)
    assert all("last checkpoint" in c.says for c in found if c.name == "saved and loaded")


def shuffle(weight: Tensor) -> None:
    weight.copy_(weight[torch.randperm(len(weight), generator=torch.Generator().manual_seed(0))])


def constant(sae: Any) -> None:
    sae.encoder.W_enc.zero_()
    sae.encoder.b_enc.copy_(100.0 * (torch.arange(sae.d_sae) < 3))


def busiest(sae: Any) -> int:
    """The latent that fires most on activations of the mean and size that the SAE expects."""
    x = sae.mean + torch.randn(2000, sae.d_model, generator=torch.Generator().manual_seed(0)) / sae.scale
    return int(sae.encode(x).indices.bincount().argmax())


FAULTS: dict[str, tuple[Callable[[Any], object], str, str]] = {  # what is done, the check that names it, and its words
    "scale unfolded": (lambda sae: sae.scale.fill_(1), "input scale", "scale stored with the SAE was lost"),
    "scale folded twice": (lambda sae: sae.encoder.W_enc.mul_(3), "size of the output", "weights were scaled"),
    "decoder scaled": (lambda sae: sae.decoder.W_dec.mul_(1.1), "unit directions", "from 1.1 to 1.1"),
    "mean zeroed": (lambda sae: sae.mean.zero_(), "input mean", "set to zero"),
    "decoder rows shuffled": (lambda sae: shuffle(sae.decoder.W_dec), "planted directions", "not the same latent"),
    "encoder rows shuffled": (lambda sae: shuffle(sae.encoder.W_enc), "planted directions", "not the same latent"),
    "never fires": (lambda sae: sae.encoder.b_enc.fill_(-1e4), "firing", "never fires"),
    "always the same": (constant, "firing", "always the same ones"),
    "explains nothing": (lambda sae: shuffle(sae.decoder.W_dec), "shuffled control", "do not belong together"),
    "one row negated": (lambda sae: sae.decoder.W_dec[busiest(sae)].neg_(), "planted directions", "1 of "),
    "an inaudible edit": (lambda sae: sae.encoder.W_enc[0, 0].mul_(1.001), "trained weights", "edited after training"),
    "rounded": (
        lambda sae: sae.decoder.W_dec.copy_(sae.decoder.W_dec.bfloat16()),
        "trained weights",
        "rounded to bfloat16",
    ),
    "b_enc lost": (lambda sae: sae.encoder.b_enc.zero_(), "recorded numbers", "Other than recorded"),
    "weights blurred": (
        lambda sae: sae.encoder.W_enc.add_(0.3 * sae.encoder.W_enc.std() * torch.randn_like(sae.encoder.W_enc)),
        "recorded numbers",
        "Other than recorded at training",
    ),
}


# of kinds that read a site and a scale alike, one each is enough
WRONG_SITES = [("topk", "resid_post.1"), ("jumprelu", "resid_post.3"), ("relu", "mlp_out.2")]
FACTORS = [("topk", 0.5), ("jumprelu", 2.0), ("relu", 0.5)]
SPOILED: dict[str, dict[str, tuple[str, Callable[[Any], object]]]] = {  # by model and name: a kind, and what is done
    which: {f"{kind}, {fault}": (kind, FAULTS[fault][0]) for kind, model in FEW if model == which for fault in FAULTS}
    for which in ("stories", "tiny")
}
SPOILED["stories"] |= {
    f"{kind}, {wrong}": (kind, lambda sae, wrong=wrong: sae.remember(site=wrong)) for kind, wrong in WRONG_SITES
}
SPOILED["stories"] |= {
    f"{kind}, {factor}": (kind, lambda sae, factor=factor: sae.scale.mul_(factor)) for kind, factor in FACTORS
}


@pytest.mark.parametrize(("kind", "which"), FEW)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_named(
    together: Callable[[str], dict[str, dict[str, str]]], kind: str, which: str, fault: str
) -> None:
    _, name, words = FAULTS[fault]
    found = together(which)[f"{kind}, {fault}"]
    assert words in found[name], found


@pytest.mark.parametrize(("kind", "wrong"), WRONG_SITES)
def test_a_shifted_site_is_named(together: Callable[[str], dict[str, dict[str, str]]], kind: str, wrong: str) -> None:
    found = together("stories")[f"{kind}, {wrong}"]
    assert "trained_on.site in its config.json to 'resid_post.2'" in found["its own site"], found
    assert "recorded numbers" in found


def test_a_shifted_site_is_named_even_where_nothing_is_explained(
    runs: Callable[[str], Trained], tmp_path: Path
) -> None:
    """The stored mean and scale tell, too."""

    def shift(sae: Any) -> None:
        sae.remember(site="resid_post.1")
        sae.encoder.b_enc.fill_(-1e4)

    found = spoiled(runs("stories"), "topk", tmp_path, shift)
    assert "its stored mean and scale are those of resid_post.2: yet not" in found["its own site"], found


@pytest.mark.parametrize(("kind", "factor"), FACTORS)
def test_a_lost_scale_is_no_other_site(
    together: Callable[[str], dict[str, dict[str, str]]], kind: str, factor: float
) -> None:
    """By chance it may be that of another site: following the advice to go there would hide the fault."""
    found = together("stories")[f"{kind}, {factor}"]
    assert "input scale" in found
    assert "Set trained_on.site" not in found.get("its own site", ""), found


def test_rounded_directions_are_not_called_scaled(runs: Callable[[str], Trained], tmp_path: Path) -> None:
    found = spoiled(runs("stories"), "topk", tmp_path, lambda sae: sae.bfloat16().float())
    assert list(found) == ["trained weights"], found


def test_an_SAE_that_never_fires_says_nothing_of_shuffling(runs: Callable[[str], Trained], tmp_path: Path) -> None:
    found = spoiled(runs("tiny"), "topk", tmp_path, lambda sae: sae.encoder.b_enc.fill_(-1e4))
    assert "firing" in found
    assert "shuffled control" not in found


def test_what_was_not_recorded_is_said_to_be_unknown(runs: Callable[[str], Trained], tmp_path: Path) -> None:
    sae = runs("stories").sae("topk")
    old = {k: v for k, v in sae.config.trained_on.items() if k not in ("weights", "bos_id", "metrics")}
    sae.config = dataclasses.replace(sae.config, trained_on=old)
    sae.save_pretrained(tmp_path / "sae")
    found = check(tmp_path / "sae", device="cpu", quiet=True)
    assert failed(found, runs("stories")) == {}
    unknown = {c.name: c.says for c in found if c.passed is None}
    assert set(unknown) == {"BOS and special tokens", "recorded numbers", "trained weights"}
    assert all("recorded" in says for says in unknown.values())


def test_another_name_for_the_same_point_is_no_fault(runs: Callable[[str], Trained], tmp_path: Path) -> None:
    assert spoiled(runs("stories"), "topk", tmp_path, lambda sae: sae.remember(site="resid_pre.3")) == {}


def test_dense_codes_are_named(runs: Callable[[str], Trained], tmp_path: Path) -> None:
    found = spoiled(runs("tiny"), "relu", tmp_path, lambda sae: sae.encoder.b_enc.fill_(100.0))
    assert "not sparse" in found["firing"], found


@pytest.mark.parametrize("which", ["stories", "tiny"])
def test_a_tokenizer_that_lost_its_BOS_is_named(runs: Callable[[str], Trained], which: str, tmp_path: Path) -> None:
    run, model = runs(which), tmp_path / "model"
    shutil.copytree(run.model, model, copy_function=shutil.copyfile)
    path = model / "tokenizer_config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "bos_token"}))
    found = failed(check(run.run, model=str(model), device="cpu", quiet=True), run)
    assert "names no token as BOS" in found["BOS and special tokens"], found


def test_another_token_as_BOS_is_named(runs: Callable[[str], Trained], tmp_path: Path) -> None:
    run, model = runs("stories"), tmp_path / "model"
    shutil.copytree(run.model, model, copy_function=shutil.copyfile)
    path = model / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "bos_token": config["eos_token"], "eos_token": config["bos_token"]}))
    found = failed(check(run.run, model=str(model), device="cpu", quiet=True), run)
    assert "but the SAE was trained with token 1" in found["BOS and special tokens"], found


def test_windows_without_BOS_are_named(runs: Callable[[str], Trained], monkeypatch: pytest.MonkeyPatch) -> None:
    put = Windows._put_separator
    monkeypatch.setattr(Windows, "_put_separator", lambda self, d, at, *rest: put(self, d, at, *rest) if at else at)
    run = runs("tiny")
    found = failed(check(run.run, device="cpu", quiet=True), run)
    assert "do not begin with BOS" in found["BOS and special tokens"], found


def test_special_tokens_that_are_not_marked_are_named(
    runs: Callable[[str], Trained], monkeypatch: pytest.MonkeyPatch
) -> None:
    changed_windows(monkeypatch, lambda b: dataclasses.replace(b, special=torch.zeros_like(b.special)))
    run = runs("tiny")
    found = failed(check(run.run, device="cpu", quiet=True), run)
    assert "are marked wrongly" in found["BOS and special tokens"], found


def test_token_ids_that_are_off_by_one_are_named(
    runs: Callable[[str], Trained], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs("tiny")

    def off(batch: TokenBatch) -> TokenBatch:
        wrong = torch.where(batch.tokens < batch.tokens.max(), batch.tokens + 1, batch.tokens)
        return dataclasses.replace(batch, tokens=torch.where(batch.special, batch.tokens, wrong))

    changed_windows(monkeypatch, off)
    assert "another tokenizer" in failed(check(run.run, device="cpu", quiet=True), run)["token ids"]


def changed_windows(monkeypatch: pytest.MonkeyPatch, change: Callable[[TokenBatch], TokenBatch]) -> None:
    read = Windows.__next__
    monkeypatch.setattr(Windows, "__next__", lambda self: change(read(self)))


@pytest.mark.parametrize(
    ("two", "says"), [(False, "tokenised by another tokenizer"), (True, "the text of training, but not")]
)
def test_a_tokenizer_with_other_ids_is_named(
    runs: Callable[[str], Trained], two: bool, says: str, tmp_path: Path
) -> None:
    """The words are all there, but under the ids of others, be it two of them: only the model itself can tell."""
    run, model = runs("stories"), tmp_path / "model"
    shutil.copytree(run.model, model, copy_function=shutil.copyfile)
    path = model / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    first = 259  # after the special tokens and the bytes
    moved = {
        word: i if i < first else first + (i - first + 1) % (len(vocabulary) - first) for word, i in vocabulary.items()
    }
    if two:
        moved = vocabulary | {"▁the": vocabulary["▁a"], "▁a": vocabulary["▁the"]}
    path.write_text(json.dumps({**tokenizer, "model": {**tokenizer["model"], "vocab": moved}}))
    with pytest.raises(KanaryError, match="splits text otherwise"):
        check(run.run, model=str(model), device="cpu", quiet=True)
    sae = run.sae("topk")
    sae.remember(tokenizer_fingerprint=None)  # as before it was recorded
    sae.save_pretrained(tmp_path / "sae")
    found = failed(check(tmp_path / "sae", model=str(model), device="cpu", quiet=True), run)
    assert says in found[NOISE], found


def test_a_text_that_the_model_hardly_knows_is_named(runs: Callable[[str], Trained], corpora: Path) -> None:
    found = check(runs("stories").run, text=str(corpora / "tinyshakespeare.txt"), device="cpu", quiet=True)
    assert list(failed(found, runs("stories"))) == [NOISE]
    assert "at training: 1." in found[0].says
    assert all(c.passed is None for c in found if c.name == "recorded numbers")


def test_other_text_of_the_same_kind_is_no_fault(runs: Callable[[str], Trained], corpora: Path) -> None:
    found = check(runs("stories").run, text=str(corpora / "stories-validation.parquet"), device="cpu", quiet=True)
    assert failed(found, runs("stories")) == {}


def test_an_SAE_of_another_model_is_refused(runs: Callable[[str], Trained], tmp_path: Path) -> None:
    run = runs("tiny")
    other = another_model(tmp_path / "other", hidden_size=16)
    with pytest.raises(KanaryError, match="another model") as refused:
        check(run.run, model=str(other), device="cpu", quiet=True)
    assert str(run.model) in str(refused.value)
    assert str(other) in str(refused.value)


def test_an_SAE_of_another_width_is_refused(runs: Callable[[str], Trained], tmp_path: Path) -> None:
    sae, other = runs("tiny").sae("topk"), another_model(tmp_path / "other", hidden_size=32)
    sae.remember(fingerprint=None)
    sae.save_pretrained(tmp_path / "sae")
    with pytest.raises(KanaryError, match=r"width 16, but resid_post\.1 .* width 32"):
        check(tmp_path / "sae", model=str(other), device="cpu", quiet=True)


def test_other_special_tokens_are_refused(runs: Callable[[str], Trained], tmp_path: Path) -> None:
    run, model = runs("tiny"), tmp_path / "model"
    shutil.copytree(run.model, model)
    tokenizer = small_tokenizer()
    tokenizer.pad_token = "!"
    tokenizer.save_pretrained(model)
    with pytest.raises(KanaryError, match=r"special tokens \[0, 1, 2\]"):
        check(run.run, model=str(model), device="cpu", quiet=True)


def another_model(folder: Path, hidden_size: int) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = small_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
    )
    torch.manual_seed(1)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_an_SAE_that_is_not_that_of_the_last_checkpoint_is_named(
    runs: Callable[[str], Trained], tmp_path: Path
) -> None:
    run = runs("tiny")
    shutil.copytree(run.run, tmp_path / "run")
    folder = next((tmp_path / "run" / "sae").glob("topk*"))
    sae = SAE.from_pretrained(folder)
    with torch.no_grad():
        sae.encoder.W_enc.mul_(1.0001)
    sae.save_pretrained(folder)
    (found,) = [
        c for c in check(tmp_path / "run", device="cpu", quiet=True) if c.name == "saved and loaded" and not c.passed
    ]
    assert "not those that training wrote last" in found.says


def test_a_damaged_checkpoint_is_named(runs: Callable[[str], Trained], tmp_path: Path) -> None:
    shutil.copytree(runs("tiny").run, tmp_path / "run")
    file = next(sorted((tmp_path / "run" / "checkpoints").glob("step-*"))[-1].glob("topk*"))
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    found = failed(check(tmp_path / "run", device="cpu", quiet=True), runs("tiny"))
    assert f"{file} is damaged" in found["saved and loaded"]


def test_a_model_that_answers_differently_each_time_is_named(
    runs: Callable[[str], Trained], monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = LanguageModel.logits
    monkeypatch.setattr(LanguageModel, "logits", lambda *a, **k: (y := logits(*a, **k)) + 1e-6 * torch.rand_like(y))
    found = failed(check(runs("tiny").run, device="cpu", quiet=True), runs("tiny"))
    assert "other numbers every time" in found["writing back"]


def test_reading_at_another_point_than_writing_is_named(
    runs: Callable[[str], Trained], monkeypatch: pytest.MonkeyPatch
) -> None:
    capture = LanguageModel.capture

    def shifted(self: LanguageModel, tokens: Tensor, sites: list[str], mask: Tensor | None = None) -> dict[str, Tensor]:
        found = capture(self, tokens, [*sites, "resid_post.0"], mask)
        return found | {"resid_post.1": found["resid_post.0"]}

    monkeypatch.setattr(LanguageModel, "capture", shifted)
    found = failed(check(runs("tiny").run, device="cpu", quiet=True), runs("tiny"))
    assert "use different points" in found["reading and writing"]
    assert "should equal the hidden state" in found["where the site lies"]


def test_a_shortcut_that_is_not_the_whole_model_is_named(
    runs: Callable[[str], Trained], monkeypatch: pytest.MonkeyPatch
) -> None:
    replay = Trace.replay
    monkeypatch.setattr(Trace, "replay", lambda self, site, new: replay(self, site, new * 1.001))
    found = failed(check(runs("tiny").run, device="cpu", quiet=True), runs("tiny"))
    assert "not the same as running all of it" in found["exact CE scores"]


def test_an_SAE_that_changes_special_tokens_is_named(
    runs: Callable[[str], Trained], monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = SAE.forward
    monkeypatch.setattr(SAE, "forward", lambda self, x, special=None: forward(self, x))
    found = failed(check(runs("tiny").run, device="cpu", quiet=True), runs("tiny"))
    assert "are changed" in found["special tokens pass"]


def test_a_module_named_by_hand_is_checked_too(runs: Callable[[str], Trained], tmp_path: Path) -> None:
    sae = runs("tiny").sae("topk")
    sae.remember(site="module:model.layers.1")
    sae.save_pretrained(tmp_path / "sae")
    found = check(tmp_path / "sae", device="cpu", quiet=True)
    assert failed(found, runs("tiny")) == {}
    assert [c.name for c in found if c.passed is None] == ["where the site lies"]


def test_lines_have_a_mark_each_and_are_counted() -> None:
    found = [
        Check("input scale", True, "It is 1.", "topk"),
        Check("firing", False, "It never fires.", "topk"),
        Check("recorded numbers", None, "There are none.", "gated"),
    ]
    assert lines(found).splitlines() == [
        "topk",
        "  ✓ input scale       It is 1.",
        "  ✗ firing            It never fires.",
        "gated",
        "  – recorded numbers  There are none.",
        "1 passed, 1 failed, 1 could not be done.",
    ]
