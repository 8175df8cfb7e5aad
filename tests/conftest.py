"""What tests share: the real model and texts where they lie beside the repository, and a tiny model everywhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:
    # There is a worker for every core: more threads would only wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from kanary.lm import LanguageModel, load_model

settings.register_profile("untimed", deadline=None)  # a busy machine is no fault of the code
settings.load_profile("untimed")

SENTENCES = [
    "Once upon a time, there was a little girl named Lily. She loved to play in the park.",
    "The big dog ran to the red ball and jumped. He was happy, and his friend was happy too.",
    'Tom said, "I don\'t want to go home!" His mom smiled and gave him a small cake.',
]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real models and texts that lies beside the repository."""
    folder = Path(__file__).resolve().parent.parent.parent / "shared"
    if not folder.is_dir():
        pytest.skip("../shared is not here")
    return folder


@pytest.fixture(scope="session")
def corpora(shared: Path) -> Path:
    return shared / "corpora"


@pytest.fixture(scope="session")
def stories_path(shared: Path) -> Path:
    """A real Llama of 5 layers, d_model 64, vocabulary 512, window 512."""
    return shared / "models" / "stories260K"


@pytest.fixture(scope="session")
def stories(stories_path: Path) -> LanguageModel:
    return load_model(stories_path, device="cpu")


def small_tokenizer(*, bos: bool = True) -> Any:
    """A byte-level BPE tokenizer of about 300 tokens; ``<s>`` = 0, ``</s>`` = 1, ``<pad>`` = 2."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>", "</s>", "<pad>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    names = {"eos_token": "</s>", "pad_token": "<pad>"} | ({"bos_token": "<s>"} if bos else {})
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with a real tokenizer, saved as a folder: 3 layers, d_model 16, window 64. Not to be changed."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    tokenizer = small_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_lm(tiny_llama: Path) -> LanguageModel:
    return load_model(tiny_llama, device="cpu")
