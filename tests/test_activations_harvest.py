"""A harvest writes the same bytes however often it is stopped, and what is wrong is said before work is lost."""

import functools
import json
import random
import re
import resource
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kanary.activations.harvest import HarvestConfig, config_sites, harvest, predicted_bytes
from kanary.activations.live import LiveActivations
from kanary.activations.store import ActivationStore
from kanary.errors import KanaryError
from kanary.files import exclusive
from kanary.lm import LanguageModel, load_model
from kanary.text import open_text
from runs import Child, context, flags

SITES = "resid_post.1,mlp_out.0"
WORDS = [
    "Once",
    "upon",
    "a",
    "time",
    "there",
    "was",
    "a",
    "little",
    "girl",
    "named",
    "Lily",
    "who",
    "loved",
    "to",
    "play",
    "in",
    "the",
    "park",
    "with",
    "her",
    "big",
    "red",
    "ball",
]


@pytest.fixture(scope="session")
def story_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 documents of 5 to 44 words."""
    path = tmp_path_factory.mktemp("text") / "stories.jsonl"
    documents = [" ".join(WORDS[(i * j) % len(WORDS)] for j in range(5 + i * 7 % 40)) for i in range(200)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    return path


@pytest.fixture
def config(tmp_path: Path, tiny_llama: Path, story_file: Path) -> HarvestConfig:
    return HarvestConfig(
        model=str(tiny_llama),
        text=str(story_file),
        site=SITES,
        out=tmp_path / "store",
        device="cpu",
        window=16,
        lm_batch=3,
        shard=256,
        tokens=2000,
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.suffix in (".json", ".safetensors")
    }


def words(config: HarvestConfig) -> list[str]:
    """The command that harvests what ``config`` says."""
    names = ("model", "text", "site", "out", "device", "window", "lm_batch", "shard", "tokens")
    return ["harvest", *flags({name: getattr(config, name) for name in names})]


def shards_written(folder: Path) -> int:
    manifest = folder / "manifest.json"
    return len(json.loads(manifest.read_text())["shards"]) if manifest.exists() else 0


def test_the_store_holds_the_live_stream(tiny_lm: LanguageModel, config: HarvestConfig) -> None:
    store = harvest(config, tiny_lm)
    store.verify()
    source = LiveActivations.from_config(config, tiny_lm, open_text(config.text), config_sites(SITES), pool=2000)
    pool = next(source.pools())
    rows = store.read(0, 2000)
    assert store.complete
    assert store.n_tokens == 2000
    assert store.shard_rows == [256] * 7 + [208]
    for name in ("tokens", "documents", "positions"):
        assert torch.equal(getattr(rows, name), getattr(pool, name))
    for site in store.sites:
        assert torch.equal(rows.x[site], pool.x[site])


def test_several_sites_in_one_pass_equal_a_store_of_each(
    tiny_lm: LanguageModel, config: HarvestConfig, tmp_path: Path
) -> None:
    both = harvest(config, tiny_lm)
    for site in both.sites:
        alone = harvest(replace(config, site=site, out=tmp_path / site), tiny_lm)
        for shard in range(len(both.shard_rows)):
            assert both.path(site, shard).read_bytes() == alone.path(site, shard).read_bytes()
            assert both.path("ids", shard).read_bytes() == alone.path("ids", shard).read_bytes()


def test_a_harvest_killed_again_and_again_ends_in_the_same_bytes(config: HarvestConfig, tmp_path: Path) -> None:
    config = replace(config, shard=64)
    whole = harvest(replace(config, out=tmp_path / "whole"), quiet=True)
    assert config.out is not None
    chance = random.Random(0)
    killed = []
    for goal in (0, 5, 15):
        child = Child(words(config), tmp_path / "logs")
        child.until(lambda goal=goal: shards_written(config.out) > goal)  # type: ignore[misc,arg-type]
        time.sleep(chance.random() * 0.01)
        child.send(signal.SIGKILL)
        child.wait()
        killed.append(ActivationStore.open(config.out).complete)
    assert killed[0] is False
    harvest(config).verify()
    assert contents(config.out) == contents(whole.folder)


def test_a_full_disk_loses_nothing_that_was_written(config: HarvestConfig, tmp_path: Path) -> None:
    """The limit on the size of a file makes real writes fail half-way, as a full disk does."""
    harvest(replace(config, tokens=300), quiet=True)
    small = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (10_000, 10_000))
    message = Child(words(config), tmp_path / "logs", small).wait().message
    assert "disk is full" in message
    assert "shard-00002.safetensors" in message
    assert config.out is not None
    store = ActivationStore.open(config.out)
    store.verify()
    assert store.n_tokens == 300
    assert not [path.name for path in config.out.rglob("*.partial")]
    grown = harvest(config).read(0, 2000)
    fresh = harvest(replace(config, out=tmp_path / "fresh")).read(0, 2000)
    assert all(torch.equal(grown.x[site], fresh.x[site]) for site in fresh.x)
    assert torch.equal(grown.positions, fresh.positions)


def test_a_disk_that_is_too_small_is_refused_before_the_harvest(tiny_lm: LanguageModel, config: HarvestConfig) -> None:
    with pytest.raises(KanaryError, match=r"needs 148000.00 GB"):
        harvest(replace(config, tokens=10**12), tiny_lm)


def test_the_predicted_size_is_the_size(tiny_lm: LanguageModel, config: HarvestConfig) -> None:
    store = harvest(replace(config, shard=1000), tiny_lm)
    predicted = predicted_bytes(2000, store.widths, store.dtype)
    assert predicted <= store.n_bytes < predicted * 1.02


def _hold(folder: Path, held: Any) -> None:
    with exclusive(folder):
        held.set()
        signal.pause()


def test_a_second_process_is_refused_while_one_writes(tiny_lm: LanguageModel, config: HarvestConfig) -> None:
    held = context.Event()
    process = context.Process(target=_hold, args=(config.out, held))
    process.start()
    assert held.wait(240)
    with pytest.raises(KanaryError, match=f"in use by another process .id {process.pid}"):
        harvest(config, tiny_lm)
    process.kill()
    process.join()
    assert harvest(config, tiny_lm).complete


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("window", 32),
        ("site", "resid_post.1"),
        ("store_dtype", "bfloat16"),
        ("part", "all"),
        ("shard", 512),
        ("lm_batch", 4),
    ],
)
def test_going_on_with_another_option_is_refused_by_name(
    tiny_lm: LanguageModel, config: HarvestConfig, name: str, value: object
) -> None:
    harvest(replace(config, tokens=100), tiny_lm)
    shown = {"site": "sites", "store_dtype": "dtype"}.get(name, name)
    with pytest.raises(KanaryError, match=f"was begun with other options: {shown}=.* .now "):
        harvest(replace(config, **{name: value}), tiny_lm)  # type: ignore[arg-type]


def test_the_same_text_by_another_spelling_of_its_path_goes_on_and_another_is_named(
    tiny_lm: LanguageModel, config: HarvestConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    harvest(replace(config, tokens=100), tiny_lm)
    text = Path(config.text)
    monkeypatch.chdir(text.parent)
    assert harvest(replace(config, text=text.name), tiny_lm).complete
    other = text.with_name(f"other{text.suffix}")
    other.write_bytes(text.read_bytes())
    with pytest.raises(KanaryError, match=rf"text=\S*{text.name}\S* \(now \S*{other.name}"):
        harvest(replace(config, text=str(other)), tiny_lm)


def test_going_on_with_another_model_is_refused(
    tiny_llama: Path, tiny_lm: LanguageModel, config: HarvestConfig
) -> None:
    harvest(replace(config, tokens=100), tiny_lm)
    other = load_model(tiny_llama, device="cpu")
    other.model.model.norm.weight.data.mul_(2)
    with pytest.raises(KanaryError, match=r"begun with another model"):
        harvest(config, other)


def test_a_long_harvest_shows_its_rate(
    tiny_lm: LanguageModel, config: HarvestConfig, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("kanary.progress.LINE_EVERY", 0.0)
    harvest(config, tiny_lm)
    harvest(replace(config, tokens=4000), tiny_lm, quiet=True)
    shown = capfd.readouterr().err
    assert re.search(r"harvesting: 2,000 of 2,000 tokens  [\d,.]+ tokens/s  0 s left", shown), shown
    assert "4,000" not in shown


def test_a_finished_store_is_opened_as_it_is(tiny_lm: LanguageModel, config: HarvestConfig) -> None:
    before = contents(harvest(config, tiny_lm).folder)
    store = harvest(config, tiny_lm)
    assert contents(store.folder) == before
    assert harvest(replace(config, tokens=500), tiny_lm).n_tokens == 2000


def test_a_text_that_ends_early_gives_a_finished_smaller_store(tiny_lm: LanguageModel, config: HarvestConfig) -> None:
    store = harvest(replace(config, tokens=10**6), tiny_lm)
    assert store.complete
    assert 2000 < store.n_tokens < 10**6
    assert harvest(replace(config, tokens=10**6), tiny_lm).n_tokens == store.n_tokens


@pytest.mark.parametrize("store_dtype", ["float32", "bfloat16", "float16"])
def test_the_store_keeps_the_numbers_as_well_as_its_dtype_can(
    tiny_lm: LanguageModel, config: HarvestConfig, store_dtype: str
) -> None:
    x = harvest(replace(config, store_dtype=store_dtype), tiny_lm).read(0, 2000).x["resid_post.1"]
    source = LiveActivations.from_config(config, tiny_lm, open_text(config.text), ["resid_post.1"], pool=2000)
    assert torch.equal(x, next(source.pools()).x["resid_post.1"].to(getattr(torch, store_dtype)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"site": ""}, "--site resid_post.2"),
        ({"site": "mlp_out.0,mlp_out.0"}, "twice"),
        ({"site": "resid_post.9"}, "resid_post.9"),
        ({"out": None}, "--out"),
        ({"model": ""}, "--model"),
        ({"text": ""}, "--text"),
        ({"tokens": 0}, "tokens=0"),
        ({"store_dtype": "float8"}, "Did you mean 'float"),
        ({"part": "test"}, "Unknown part 'test'"),
    ],
)
def test_a_wrong_option_is_said_and_leaves_no_folder(
    config: HarvestConfig, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(KanaryError, match=message):
        harvest(replace(config, **changes))  # type: ignore[arg-type]
    assert config.out is not None
    assert not config.out.exists()


def test_a_folder_with_other_files_is_left_alone(tiny_lm: LanguageModel, config: HarvestConfig) -> None:
    assert config.out is not None
    config.out.mkdir()
    (config.out / "thesis.tex").write_text("mine")
    with pytest.raises(KanaryError, match=r"thesis\.tex"):
        harvest(config, tiny_lm)
    assert (config.out / "thesis.tex").read_text() == "mine"


def test_the_real_model_is_harvested(stories: LanguageModel, corpora: Path, tmp_path: Path) -> None:
    text = str(corpora / "stories-validation.parquet")
    config = HarvestConfig(model=stories.name, text=text, site="resid_post.2", out=tmp_path / "store", tokens=20_000)
    store = harvest(config, stories)
    assert (store.n_tokens, store.d_model) == (20_000, 64)
    rows = store.read(0, 50)
    document = next(d for d in open_text(text).documents() if d.id == rows.documents[0])
    assert stories.tokenizer.decode(rows.tokens[:20].tolist()).strip() in document.text
