"""Building a feature index: stopped and gone on with, refused, damaged; effects, twins, functions, concepts, odd tokens."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import small_tokenizer
from feature_runs import BATCH, SITE, WINDOW, Dense, build, make_run, stories
from kanary.errors import KanaryError
from kanary.evaluation.concepts.sample import Sample
from kanary.features import concepts, effects, reading
from kanary.features.arrays import Arrays, Pieces, write_arrays
from kanary.features.build import index as kanary_index
from kanary.features.index import FeatureIndex
from kanary.features.options import IndexConfig
from kanary.features.vocabulary import shown, token_bytes
from kanary.files import read_json
from kanary.lm import LanguageModel, load_model
from kanary.sae import SAE
from runs import Child, kanary

CHUNK = 256
"""Tokens of a chunk in these tests: about ten chunks."""
FLAGS = ["--part", "all", "--lm-batch", str(BATCH), "--effects", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    folder = tmp_path_factory.mktemp("build")
    return make_run(folder / "run", tiny_llama, stories(folder, 40))


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy, to be indexed and damaged."""
    return Path(shutil.copytree(made, tmp_path / "run"))


@pytest.fixture(scope="module")
def indexed(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = Path(shutil.copytree(made, tmp_path_factory.mktemp("indexed") / "run"))
    build(run)
    return run


@pytest.fixture
def built(indexed: Path, tmp_path: Path) -> Path:
    """A copy of a run with an index, to be damaged."""
    return Path(shutil.copytree(indexed, tmp_path / "built"))


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small chunks, and progress that is kept after every one."""
    monkeypatch.setattr(reading, "TOKENS", CHUNK)
    monkeypatch.setattr(reading, "SAVE_EVERY", 0.0)


def small_chunks() -> None:
    reading.TOKENS, reading.SAVE_EVERY = CHUNK, 0.0


def files(index: FeatureIndex) -> dict[str, str]:
    return dict(index.meta["files"])


# --- stopped and gone on with ---------------------------------------------------------------------------------------


def killed_while_reading() -> None:
    small_chunks()
    write = reading.Pass._write

    def killed(self: Any, held: Any) -> None:
        write(self, held)
        if self.progress.chunks == 4:
            os.kill(os.getpid(), signal.SIGKILL)

    reading.Pass._write = killed  # type: ignore[method-assign]


def test_a_build_that_was_killed_while_reading_ends_with_the_same_files(
    run: Path, tmp_path: Path, pieces: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = build(Path(shutil.copytree(run, tmp_path / "whole")), effects="1")
    child = Child(["index", run, *FLAGS], tmp_path / "logs", killed_while_reading)
    assert child.wait().code == -signal.SIGKILL
    assert not (run / "index" / "topk").exists()
    assert Path(run / "index" / ".topk.work" / reading.PROGRESS).exists()
    first, read = read_json(run / "index" / ".topk.work" / reading.PROGRESS)["chunks"], reading.Pass._codes
    assert first == 4
    batches: list[Any] = []

    def counted(self: Any, batch: Any) -> Any:
        batches.append(batch)
        return read(self, batch)

    monkeypatch.setattr(reading.Pass, "_codes", counted)
    index = build(run, effects="1")
    assert len(batches) == -(-(index.meta["windows"] - 4 * CHUNK // WINDOW) // BATCH)
    assert files(index) == files(whole)
    assert not (run / "index" / ".topk.work").exists()


def test_sums_that_were_written_before_the_progress_they_belong_to_do_not_count(
    run: Path, tmp_path: Path, pieces: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, write = build(Path(shutil.copytree(run, tmp_path / "whole"))), reading.write_json

    def stopped(path: Path, value: Any) -> None:
        if value["chunks"] == 3:
            raise KeyboardInterrupt
        write(path, value)

    with monkeypatch.context() as patch:
        patch.setattr(reading, "write_json", stopped)
        with pytest.raises(KeyboardInterrupt):
            build(run)
    assert read_json(run / "index" / ".topk.work" / reading.PROGRESS)["chunks"] == 2
    assert files(build(run)) == files(whole)


def test_a_build_that_was_stopped_among_the_effects_does_not_begin_them_again(
    run: Path, tmp_path: Path, pieces: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = build(Path(shutil.copytree(run, tmp_path / "whole")), effects="1")
    of, chunks = effects.Effects.of, []

    def stopped(self: Any, chunk: Any, wanted: Any, show: Any) -> Any:
        if len(chunks) == 3:
            raise KeyboardInterrupt
        chunks.append(chunk.first)
        return of(self, chunk, wanted, show)

    monkeypatch.setattr(effects.Effects, "of", stopped)
    with pytest.raises(KeyboardInterrupt):
        build(run, effects="1")
    before = list(chunks)
    chunks.clear()
    monkeypatch.setattr(
        effects.Effects, "of", lambda self, chunk, *rest: (chunks.append(chunk.first), of(self, chunk, *rest))[1]
    )
    index = build(run, effects="1")
    assert not {*before} & {*chunks}
    assert files(index) == files(whole)


def test_what_was_begun_with_other_options_is_begun_again(
    run: Path, pieces: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(self: Any, *_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(effects.Effects, "of", stopped)
        with pytest.raises(KeyboardInterrupt):
            build(run, effects="1", seed=1)
    one = build(run, seed=2)
    assert one.meta["seed"] == 2
    assert files(one) != files(build(run, seed=1))


def test_a_damaged_work_folder_is_named(run: Path, pieces: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(effects.Effects, "of", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            build(run, effects="1")
    chunk = run / "index" / ".topk.work" / "chunk-00001.safetensors"
    chunk.write_bytes(chunk.read_bytes()[:-7])
    with pytest.raises(KanaryError, match=r"chunk-00001\.safetensors is damaged or cut short"):
        build(run, effects="1")


# --- refused, damaged -------------------------------------------------------------------------------------------------


def test_the_index_of_another_sae_is_refused_by_name(built: Path, tiny_llama: Path, tmp_path: Path) -> None:
    assert len(FeatureIndex.open(built)) == 48
    other = make_run(tmp_path / "other", tiny_llama, stories(tmp_path), seed=1)
    shutil.rmtree(built / "sae")
    shutil.copytree(other / "sae", built / "sae")
    with pytest.raises(KanaryError, match=r"is the index of another SAE .* Make it again: kanary index"):
        FeatureIndex.open(built)
    assert build(built)[0].sae["digest"] == SAE.from_pretrained(built).digest()


@pytest.mark.parametrize("name", ["text", "features", "examples"])
def test_a_file_that_is_cut_short_or_changed_is_named(built: Path, name: str) -> None:
    index = FeatureIndex.open(built)
    path = index.folder / f"{name}.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(KanaryError, match=rf"{name}\.safetensors is damaged or cut short"):
        FeatureIndex.open(built)
    path.write_bytes(b"")
    with pytest.raises(KanaryError, match=rf"{name}\.safetensors is damaged or cut short"):
        FeatureIndex.open(built)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    FeatureIndex.open(built)
    with pytest.raises(KanaryError, match=rf"{name}\.safetensors is damaged: its SHA-256"):
        FeatureIndex.open(built).verify()
    path.unlink()
    with pytest.raises(KanaryError, match=rf"{name}\.safetensors cannot be read: No such file"):
        FeatureIndex.open(built)


@pytest.mark.parametrize(("name", "says"), [("maximum", "maximum of latent 3 is no number"), ("logit_mean", "SHA-256")])
def test_an_index_with_numbers_that_are_none_is_not_exported(built: Path, name: str, says: str) -> None:
    path = FeatureIndex.open(built).folder / "features.safetensors"
    stored = {key: array.copy() for key, array in Arrays(path).items()}
    stored[name][3] = np.nan
    write_arrays(path, stored)
    message = kanary("export", str(built), "--csv", str(built / "features.csv")).message
    assert "features.safetensors is damaged" in message
    assert says in message
    assert f"kanary index {built}" in message


def test_numbers_that_lead_out_of_the_files_are_one_clear_line(built: Path) -> None:
    index = FeatureIndex.open(built)
    stored = dict(Arrays(index.folder / "examples.safetensors").items())
    stored["windows"] = stored["windows"] + 10_000
    write_arrays(index.folder / "examples.safetensors", stored)
    with pytest.raises(KanaryError, match="is damaged at latent 3: index the run again"):
        FeatureIndex.open(built)[3]


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"format": 1}', '{"format": 2, "sae": 3}', '{"format": 2, "sae": {}, "tokens": "many"}']
)
def test_a_damaged_description_is_one_clear_line(built: Path, text: str) -> None:
    index = FeatureIndex.open(built)
    (index.folder / "index.json").write_text(text)
    with pytest.raises(KanaryError, match=r"index\.json") as error:
        FeatureIndex.open(built)
    assert "\n" not in str(error.value)


def test_a_run_without_an_index_says_how_to_make_one(run: Path) -> None:
    with pytest.raises(KanaryError, match=r"There is no feature index in .* Make one: kanary index"):
        FeatureIndex.open(run)


def test_two_saes_of_a_run_have_an_index_each(made: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for name in ("one", "two"):
        shutil.copytree(made / "sae", run / "sae" / name)
    found = kanary_index(run, quiet=True, part="all", effects="none", device="cpu", lm_batch=BATCH)
    assert list(found) == ["one", "two"]
    with pytest.raises(KanaryError, match=r"has the indices of 2 SAEs; name one of them: one, two\."):
        FeatureIndex.open(run)
    assert FeatureIndex.open(run, "two").meta["sae"]["name"] == "two"
    with pytest.raises(KanaryError, match=r"has no index of an SAE 'tow'\. Did you mean 'two'"):
        FeatureIndex.open(run, "tow")


def test_arrays_are_read_as_they_were_written(tmp_path: Path) -> None:
    arrays = {"a": np.arange(6, dtype=np.uint16).reshape(2, 3), "none": np.zeros((0, 4)), "b": np.array([True, False])}
    parts = Pieces(np.int32, (5, 2), (np.full((n, 2), n) for n in (2, 3)))
    write_arrays(tmp_path / "x.safetensors", {**arrays, "parts": parts})
    found = Arrays(tmp_path / "x.safetensors")
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
    assert found["parts"].tolist() == [[2, 2]] * 2 + [[3, 3]] * 3
    with pytest.raises(ValueError, match="read-only"):
        found["a"][0, 0] = 1


# --- effects ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("site", ["resid_post.1", "mlp_out.1", "attn_out.0"])
def test_effects_are_the_losses_without_the_latent_minus_those_with_it(
    site: str, tiny_llama: Path, tiny_lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", tiny_llama, stories(tmp_path, 12), site=site)
    monkeypatch.setattr(effects, "LEAST", 1e-4)
    monkeypatch.setattr(effects, "CHUNK", 5 * WINDOW * tiny_lm.vocab_size)  # five windows at a time
    index, sae = build(run, effects="all"), SAE.from_pretrained(run)
    assert index.meta["effects"] == "all"
    dense, found = Dense(run, tiny_lm), 0
    tokens, special = torch.from_numpy(dense.whole("tokens")), dense.whole("special")
    for latent in (0, 5, 17, 30):
        for e in index[latent].examples[:6]:
            window = tokens[e.window][None]
            codes = torch.from_numpy(dense.codes[e.window, :, latent]).float()
            contribution = codes[:, None] * sae.W_dec[latent].detach() / sae.scale
            without = tiny_lm.logits(window, replace={site: lambda x, c=contribution: x - c})
            expected = _losses(without, window) - _losses(tiny_lm.logits(window), window)
            expected[special[e.window][:-1]] = 0  # what follows a special token is not predicted
            values = np.zeros(WINDOW)
            for at, value in e.effects:
                values[at] = value
            np.testing.assert_allclose(values[1:], expected, atol=1.2e-4)
            assert all(at > e.activations[0][0] for at, _ in e.effects)
            found += len(e.effects)
    assert found > 50


def _losses(logits: torch.Tensor, tokens: torch.Tensor) -> np.ndarray:
    return torch.nn.functional.cross_entropy(logits[0, :-1].double(), tokens[0, 1:], reduction="none").numpy()


def test_effects_are_those_of_as_many_examples_as_asked(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effects, "LEAST", 1e-6)
    for feature in build(run, effects="2"):
        strongest = {feature.examples[i].window for i in feature.top[:2]}
        assert {e.window for e in feature.examples if e.effects} <= strongest
    config = IndexConfig()
    assert config.shown_effects(1_000_000, 2048, 128) == 3
    assert config.shown_effects(1_000, 2048, 128) == 1
    assert config.shown_effects(10**9, 2048, 128) == 20
    with pytest.raises(KanaryError, match="effects='some' must be auto, none, all or a number"):
        IndexConfig(effects="some")


# --- beside other SAEs, and their parts -------------------------------------------------------------------------------


def test_a_permuted_copy_is_a_twin_latent_by_latent(run: Path, tiny_llama: Path, tmp_path: Path) -> None:
    sae = SAE.from_pretrained(run)
    order = torch.randperm(48, generator=torch.Generator().manual_seed(0))
    state = {name: tensor[order] if tensor.shape[:1] == (48,) else tensor for name, tensor in sae.state_dict().items()}
    twin = SAE(sae.config)
    twin.load_state_dict(state)
    twin.save_pretrained(tmp_path / "other" / "sae")
    index = build(run, twins=[str(tmp_path / "other"), str(run)])  # itself is no twin
    digest = SAE.from_pretrained(tmp_path / "other").digest()  # known by it, wherever its run is moved to
    assert index.meta["twins"] == [{"run": str(tmp_path / "other"), "sae": "topk", "digest": digest}]
    for latent in (0, 9, 33):
        (found,) = index[latent].twins
        assert found["latent"] == order.tolist().index(latent)
        assert found["cosine"] == pytest.approx(1, abs=1e-6)
        assert found["correlation"] == pytest.approx(1, abs=1e-6)
    (dead,) = index[47].twins  # only its direction is known
    assert dead["correlation"] is None
    assert dead["cosine"] == pytest.approx(1, abs=1e-6)


def test_a_twin_of_another_width_and_layer_is_the_latent_that_numpy_finds(
    run: Path, tiny_llama: Path, tiny_lm: LanguageModel, tmp_path: Path
) -> None:
    text = Path(str(SAE.from_pretrained(run).config.trained_on["text"]))
    other = make_run(tmp_path / "other", tiny_llama, text, d_sae=20, k=2, seed=5, site="resid_post.0")
    index = build(run, twins=[str(other)])
    a, b = Dense(run, tiny_lm).counted, Dense(other, tiny_lm).counted
    for latent in (2, 8, 25):
        with np.errstate(invalid="ignore"):
            r = np.nan_to_num([np.corrcoef(a[:, latent], b[:, i])[0, 1] for i in range(20)], nan=-2)
        first = index[latent].twins[0]
        assert first["latent"] == int(np.argmax(r))
        assert first["correlation"] == pytest.approx(r.max(), abs=1e-6)


def test_learned_functions_are_those_of_the_sae_with_where_their_values_lie(
    tiny_llama: Path, tiny_lm: LanguageModel, tmp_path: Path, pieces: None
) -> None:
    run = make_run(
        tmp_path / "run", tiny_llama, stories(tmp_path), encoder={"name": "kan-node"}, decoder={"name": "kan-bend"}
    )
    index, sae = build(run), SAE.from_pretrained(run)
    counted = Dense(run, tiny_lm).counted
    latent = int(np.count_nonzero(counted, axis=0).argmax())
    found = index[latent].functions
    assert [(f["part"], f["name"]) for f in found] == [("encoder", "kan-node"), ("decoder", "kan-bend")]
    straight = (found[0]["x"], [0.0] * len(found[1]["x"]))  # a score itself; an arc's coordinate off its line
    for function, curve, line in zip(found, sae.splines(latent), straight, strict=True):
        assert function["says"] == curve.says
        assert function["straight"] == pytest.approx(line, abs=1e-6)
        assert function["y"] == pytest.approx(line, abs=1e-6), "as they begin"
        assert function["range"] == [0, function["x"][-1]]
        filled = np.flatnonzero(function["density"]["counts"])[-1]
        assert function["x"][-1] == pytest.approx(function["density"]["edges"][filled + 1]), "to where values end"
        assert sum(function["density"]["counts"]) == np.count_nonzero(counted[:, latent]) == index[latent].fired
        assert len(function["density"]["edges"]) == len(function["density"]["counts"]) + 1
    values = counted[:, latent][counted[:, latent] > 0]
    assert values.max() <= found[1]["x"][-1]
    edges = np.array(found[1]["density"]["edges"])
    assert found[1]["density"]["counts"][:10] == np.histogram(values, edges)[0][:10].tolist()
    assert found[0]["turns"] is None
    assert found[1]["turns"] == pytest.approx(0, abs=1e-3)  # as they begin: straight
    assert len(found[1]["tokens_along"]) == 3
    at = [row["at"] for row in found[1]["tokens_along"]]
    assert values.min() < at[0] < at[1] < at[2] < values.max()
    json.dumps([feature.to_json() for feature in index], allow_nan=False)


def test_concepts_of_a_latent_are_what_it_tells_in_the_test_half(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    n, names = 4000, ("honesty.lie", "honesty.claim", "gender.female")
    labels = torch.rand(n, 3, generator=draw) < torch.tensor([0.1, 0.5, 0.05])
    x = torch.randn(n, 16, generator=draw)
    x[:, 3] = labels[:, 0] * 5.0  # the third coordinate says whether the first concept holds
    test = torch.arange(n) >= n // 2
    read = Sample({SITE: x}, labels, torch.ones_like(labels), torch.zeros(n, 0), torch.arange(n) // 10, test, names, ())
    monkeypatch.setattr(concepts, "sample", lambda *_, **__: read)
    sae = SAE.from_pretrained(run)
    with torch.no_grad():
        sae.mean.zero_()
        sae.scale.fill_(1)
        sae.encoder.get_parameter("W_enc")[:, 3] = 0
        sae.encoder.get_parameter("W_enc")[7] = 10 * torch.eye(16)[3]
    found, columns = concepts.concept_columns(sae, None, None, tokens=1, show=lambda _: None)  # type: ignore[arg-type]
    assert found == [*names]
    assert columns["concepts"][7, 0] == 0
    assert columns["concept_f1"][7, 0] > 0.95
    assert columns["concept_auroc"][7, 0] > 0.95
    assert columns["concept_n"][7, 0] == int(labels[test, 0].sum())
    others = np.delete(columns["concepts"], 7, axis=0)
    assert (others[:, 0] >= 0).mean() < 0.1  # they fire at random, and saying always yes is no skill


def test_an_index_of_the_labelled_corpus_names_concepts(run: Path) -> None:
    from kanary.text.labelled.concepts import known

    index = build(run, text="labelled", tokens=1000, concept_tokens=6000)
    assert {*index.meta["concepts"]} <= {*known()}
    assert index.meta["concepts"]
    named = index.columns()["concept"]
    for feature in index:
        for row in feature.concepts:
            assert row["concept"] in index.meta["concepts"]
            assert 0 <= row["f1"] <= 1
            assert row["n"] >= 50
        assert named[feature.latent] == (feature.concepts[0]["concept"] if feature.concepts else None)
    assert build(run, text="labelled", tokens=1000, concept_tokens=0).columns().keys().isdisjoint({"concept"})


# --- tokens that are no text ------------------------------------------------------------------------------------------


def test_half_characters_control_characters_and_markup_come_through(
    tiny_llama: Path, tiny_lm: LanguageModel, tmp_path: Path
) -> None:
    line = "<script>alert('x')</script> \x07\x1b[31m \u202eright-to-left\u202c 🙂 naïve\t\"&amp;\" שלום\n"
    path = tmp_path / "odd.jsonl"
    path.write_text("".join(json.dumps({"text": line * 3 + str(i)}) + "\n" for i in range(20)))
    run = make_run(tmp_path / "run", tiny_llama, path)
    index = build(run)
    found = index.document(4)
    assert b"".join(token_bytes(tiny_lm)[id] for id in found["ids"]).decode() == line * 3 + "4"
    halves = [token for token in found["tokens"] if token.startswith("⟨") and token != "⟨"]
    assert "⟨f0⟩" in halves  # the first byte of the smile, which has no token of its own
    assert "\x07" in found["tokens"]
    for feature in index:
        page = feature._repr_html_()
        assert "<script" not in page
        assert "\x07" not in page
        json.dumps(feature.to_json(), allow_nan=False)


def test_tokens_of_sentencepiece_keep_their_space_and_their_bytes(stories: LanguageModel) -> None:
    found = token_bytes(stories)
    ids = stories.tokenizer("Once upon a time, naïve 🙂", add_special_tokens=False)["input_ids"]
    assert b"".join(found[id] for id in ids).decode() == " Once upon a time, naïve 🙂"
    assert [text for text in found if text == b"\xe2"]


def test_bytes_that_are_no_utf8_are_shown_as_numbers() -> None:
    assert shown(b"a\xe2\x80") == "a⟨e2⟩⟨80⟩"
    assert shown("é🙂\n".encode()) == "é🙂\n"


def test_a_vocabulary_with_more_ids_than_tokens_is_named_by_number(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = small_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer) + 3, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    found = token_bytes(load_model(tmp_path, device="cpu"))
    assert found[0] == b"<s>"
    assert found[-1].decode() == f"⟨id {len(tokenizer) + 2}⟩"


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_makes_an_index_and_says_where(run: Path) -> None:
    answer = kanary("index", run, *FLAGS, "--tokens", "500")
    assert answer.code == 0, answer
    assert "48 latents, " in answer.out
    assert str(run / "index" / "topk") in answer.out
    assert FeatureIndex.open(run).meta["tokens"] < 700


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sae", "tpok"], "has no SAE 'tpok'. Did you mean 'topk'?"),
        (["--part", "some"], "Unknown part 'some'."),
        (["--tokens", "0"], "must be 1 or more"),
        (["--twins", "nowhere/run"], "nowhere/run"),
        (["--window", "4000"], "window=4000"),
    ],
)
def test_the_command_refuses_what_cannot_work_in_one_line(run: Path, flags: list[str], message: str) -> None:
    assert message in kanary("index", run, "--device", "cpu", *flags).message
    assert not (run / "index" / "topk").exists()


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "is no folder here" in kanary("index", tmp_path / "none").message
