"""Loading a model: what is refused, and what is learned from it."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import small_tokenizer
from hub import Repository, running_hub
from kanary.errors import KanaryError
from kanary.lm import LanguageModel, load_model


@pytest.fixture
def copy(tiny_llama: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model to spoil."""
    return Path(shutil.copytree(tiny_llama, tmp_path / "copy"))


def test_a_model_knows_its_sizes_and_special_tokens(tiny_lm: LanguageModel) -> None:
    assert (tiny_lm.d_model, tiny_lm.n_layers, tiny_lm.context) == (16, 3, 64)
    assert tiny_lm.vocab_size == len(tiny_lm.tokenizer)
    assert (tiny_lm.bos_id, tiny_lm.special_ids) == (0, frozenset({0, 1, 2}))
    assert not tiny_lm.model.training
    assert not any(p.requires_grad for p in tiny_lm.model.parameters())


def test_the_real_model_is_what_its_notes_say(stories: LanguageModel) -> None:
    assert (stories.d_model, stories.n_layers, stories.vocab_size, stories.context) == (64, 5, 512, 512)
    assert stories.site("resid_post.2").describe() == "after block 3 of 5"


def test_dtype_auto_is_that_of_the_checkpoint(copy: Path) -> None:
    assert load_model(copy).dtype == torch.float32
    load_model(copy, dtype="bfloat16").model.save_pretrained(copy)
    assert load_model(copy).dtype == torch.bfloat16
    assert load_model(copy, dtype="float32").dtype == torch.float32


def test_the_fingerprint_names_the_weights_and_not_their_dtype_or_place(tiny_lm: LanguageModel, copy: Path) -> None:
    assert load_model(copy).fingerprint == tiny_lm.fingerprint
    assert load_model(copy, dtype="bfloat16").fingerprint == tiny_lm.fingerprint
    weights = load_file(copy / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"] *= 1.1
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    assert load_model(copy).fingerprint != tiny_lm.fingerprint


def test_a_folder_has_no_revisions(copy: Path) -> None:
    """Else the folder's one version would be read and another one recorded."""
    _refused(copy, "is a folder here and has no revisions", "revision='v2'", revision="v2")


def test_ids_that_only_the_config_calls_special_are_ordinary(copy: Path) -> None:
    settings = json.loads((copy / "generation_config.json").read_text())
    (copy / "generation_config.json").write_text(json.dumps(settings | {"eos_token_id": [1, 50]}))
    assert load_model(copy).special_ids == frozenset({0, 1, 2})


def _refused(path: Path | str, *words: str, **options: str) -> str:
    with pytest.raises(KanaryError) as error:
        load_model(path, **options)  # type: ignore[arg-type]
    message = str(error.value)
    assert "\n" not in message
    assert all(word in message for word in words), message
    return message


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    _refused(tmp_path / "none", "none", "does not exist")
    _refused("./models/none", "'./models/none'", "does not exist")
    _refused("", "No model was given")


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    _refused(tmp_path, str(tmp_path), "no config.json")


def test_a_hub_id_without_a_network_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    _refused("nobody/no-such-model", "'nobody/no-such-model'", "cannot be reached")


def test_where_nothing_can_be_reached_the_hub_is_asked_once_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import huggingface_hub.constants

    def again(seconds: float) -> None:
        raise AssertionError("it was tried again")

    with socket.socket() as closed:  # bound, but not listening
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in {
            "ENDPOINT": address,
            "HUGGINGFACE_CO_URL_TEMPLATE": template,
            "HF_HUB_OFFLINE": False,
        }.items():
            monkeypatch.setattr(huggingface_hub.constants, name, value)
        monkeypatch.setattr("time.sleep", again)
        _refused("nobody/no-such-model", "no folder of that name is here, and", "cannot be reached")
        assert capsys.readouterr().err == "Asking the Hugging Face Hub for nobody/no-such-model …\n"
        (tmp_path / "models" / "llama").mkdir(parents=True)
        monkeypatch.chdir(tmp_path)
        _refused("models/lama", "the folder models is, and has llama")


def test_a_model_on_the_hub_is_read_from_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running_hub(monkeypatch, tmp_path / "cache") as hub:
        repository = hub.repositories["someone/tiny"] = Repository(private=False)
        repository.commit({path.name: path.read_bytes() for path in copy.iterdir()})
        assert load_model("someone/tiny").fingerprint == load_model(copy).fingerprint
        assert "Asking the Hugging Face Hub for someone/tiny" in capsys.readouterr().err
        _refused("someone/tine", "neither a folder here nor a model on the Hugging Face Hub")


def test_weights_cut_short_are_refused(copy: Path) -> None:
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    _refused(copy, str(copy), "damaged or cut short")


def test_a_config_that_is_not_json_is_refused(copy: Path) -> None:
    (copy / "config.json").write_text("{")
    _refused(copy, str(copy), "config.json")


def test_pickled_weights_are_refused(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    torch.save(weights, copy / "pytorch_model.bin")
    _refused(copy, "safetensors", "unpickles nothing")


def test_a_weight_that_is_missing_is_refused_by_name(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    _refused(copy, "lack model.layers.1.mlp.up_proj.weight")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_in_the_weights_is_refused_by_name(copy: Path, value: float) -> None:
    weights = load_file(copy / "model.safetensors")
    weights["model.layers.2.mlp.up_proj.weight"][3, 5] = value
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    _refused(copy, "NaN or Inf in 1 of 512 values of model.layers.2.mlp.up_proj.weight")


@pytest.mark.parametrize("size", [100, 1000])
def test_a_tokenizer_of_another_vocabulary_is_refused(tmp_path: Path, size: int) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=size, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    small_tokenizer().save_pretrained(tmp_path)
    _refused(tmp_path, f"the model has {size:,}", "do not belong together")


def test_a_folder_without_a_tokenizer_is_refused(copy: Path) -> None:
    for file in copy.glob("token*"):
        file.unlink()
    _refused(copy, str(copy), "its tokenizer is missing or damaged")


def test_weights_of_another_shape_are_refused_by_name(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"intermediate_size": 48}))
    _refused(copy, "another shape than the config for model.layers.0.mlp.down_proj.weight and 8 more")


def test_an_added_token_beyond_the_vocabulary_does_no_harm(copy: Path) -> None:
    tokenizer = small_tokenizer()  # like the image token of Gemma 3
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.save_pretrained(copy)
    lm = load_model(copy)
    assert len(lm.tokenizer) == lm.vocab_size + 1


def test_ctrl_c_while_a_library_is_imported_is_no_fault_of_the_model(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as stop:
            raise ModuleNotFoundError("Could not import module 'LlamaForCausalLM'.") from stop

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", stopped)
    with pytest.raises(KeyboardInterrupt):
        load_model(tiny_llama, device="cpu")


def test_unknown_dtypes_and_devices_are_refused(tiny_llama: Path) -> None:
    _refused(tiny_llama, "'bf16'", "Did you mean 'bfloat16'", dtype="bf16")
    _refused(tiny_llama, "'gpu'", "write auto, cpu, cuda", device="gpu")
