"""The ground-truth evaluation takes no more memory than it must, and says beforehand what it cannot have."""

from __future__ import annotations

import re
import weakref
from pathlib import Path

import pytest
import torch

from allocations import at_most
from kanary.errors import KanaryError
from kanary.evaluation.concepts import measure, memory
from kanary.evaluation.concepts.measure import concept_scores, encoded, firings
from kanary.evaluation.concepts.sample import Sample, _laid, check_sample, sample
from kanary.evaluation.standin import Spliced
from kanary.lm import LanguageModel
from kanary.sae import SAE, SAEConfig
from kanary.text import open_text
from kanary.text.labelled import known
from labelled_sample import OTHER, SITE, TEXT, made_up, reading


def test_a_sample_is_laid_out_without_a_second_copy() -> None:
    parts = [torch.randn(n, 8, generator=torch.Generator().manual_seed(n)) for n in (100, 1, 50)]
    whole, places = torch.cat(parts), torch.randperm(151, generator=torch.Generator().manual_seed(0))
    kept = [weakref.ref(part) for part in parts]
    with at_most(151 * 8 * 4):
        found = _laid(parts, places)
    assert torch.equal(found[places], whole)
    assert not any(each() is not None for each in kept)


def test_more_tokens_than_fit_are_refused_before_they_are_read(
    tiny_lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kanary.evaluation.concepts.sample.free_memory", lambda: 50_000_000)
    monkeypatch.setattr("kanary.evaluation.concepts.sample._read", lambda *_: pytest.fail("it was read"))
    labelled = open_text(TEXT)
    size = rf"1,000,000 tokens .* at {SITE}, {OTHER} take (3\.\d\d) GB of memory, but 0\.05 GB are free\."
    with pytest.raises(KanaryError, match=rf"{size} Read fewer: --concept-tokens \d+\.") as error:
        sample(tiny_lm, labelled, [SITE, OTHER], tokens=1_000_000, window=64)
    each = 1000 * float(re.search(size, str(error.value))[1])  # type: ignore[index]
    assert each > 3 * 4 * 16 + 5 * len(known())  # two sites and random directions; labels
    with pytest.raises(KanaryError, match=size):
        check_sample(tiny_lm, labelled, [SITE, OTHER], 1_000_000, "all")
    advice = int(str(error.value).rstrip(".").split()[-1])
    assert 0.75 * 50_000_000 < advice * each < 50_000_000
    check_sample(tiny_lm, labelled, [SITE, OTHER], advice, "all")
    monkeypatch.setattr("kanary.evaluation.concepts.sample.free_memory", lambda: None)  # a system that does not say
    check_sample(tiny_lm, labelled, [SITE, OTHER], 10**12, "all")


def test_memory_is_what_is_free_here_and_what_the_container_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def says(file: str, text: str) -> None:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)

    monkeypatch.setattr(memory, "_ROOT", tmp_path)
    assert memory.free_memory() is None
    says("proc/meminfo", "MemTotal:  900 kB\nMemFree:  20 kB\nMemAvailable:   500 kB\n")
    assert memory.free_memory() == 512_000
    for folder, limit, used, key in (
        ("sys/fs/cgroup/memory", "limit_in_bytes", "usage_in_bytes", "total_inactive_file"),
        ("sys/fs/cgroup", "max", "current", "inactive_file"),
    ):
        says(f"{folder}/memory.{limit}", "max\n")
        says(f"{folder}/memory.{used}", "250000\n")
        assert memory.free_memory() == 512_000
        says(f"{folder}/memory.{limit}", "300000\n")
        assert memory.free_memory() == 50_000
        says(f"{folder}/memory.stat", f"anon 3\n{key} 20000\n")
        assert memory.free_memory() == 70_000
        says(f"{folder}/memory.{used}", "400000\n")
        assert memory.free_memory() == 0
        says(f"{folder}/memory.{limit}", str(2**63 - 4096))
    assert [memory.round_down(n) for n in (0.2, 50, 1234.5, 200_000)] == [1, 45, 1100, 180_000]


def thirds() -> tuple[Sample, SAE]:
    """4,000 tokens, a third of them of one concept, and an SAE with two latents that always fire."""
    held = torch.arange(4000)[:, None] % 3 == 0
    x = torch.rand(4000, 2, generator=torch.Generator().manual_seed(0))
    return made_up(("domain.code",), held, 0.1 + x), reading(2)


def dense(width: int, latents: int) -> SAE:
    """What an untrained SAE with a threshold at zero does: every latent fires on about half of the tokens."""
    sae = SAE(SAEConfig(width, latents, sparsifier={"name": "relu"}, trained_on={"site": SITE}))
    with torch.no_grad():
        sae.encoder.W_enc.copy_(torch.randn(latents, width, generator=torch.Generator().manual_seed(2)))
        sae.encoder.b_enc.zero_()
    return sae


def test_a_control_that_is_too_dense_is_left_out_and_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    read, sae = thirds()
    twins = {"untrained": Spliced(SITE, dense(2, 64)), "sparse": Spliced(SITE, sae)}
    x = read.x[SITE]
    exact = sum(len(codes.values) for codes in encoded(twins["untrained"].sae, x))
    about = firings(twins["untrained"].sae, x)
    assert about == pytest.approx(exact, rel=0.02)
    assert about > 20 * len(x)
    assert firings(sae, x) == 8000
    shown: list[int] = []
    monkeypatch.setattr(measure, "FIRINGS", about - 1)
    found = concept_scores(read, {"relu": sae}, twins, show=shown.append)
    assert list(found.left_out) == ["untrained"]
    words = rf"^\d\d of its 64 latents are active .* about {about:,} values on 4,000 tokens, more than {about - 1:,}$"
    assert re.match(words, found.left_out["untrained"])
    assert "untrained" not in found.rows
    assert "sparse" in found.rows
    assert sum(shown) == len(found.rows) + 1
    monkeypatch.setattr(measure, "FIRINGS", about)
    assert not concept_scores(read, {"relu": sae}, twins).left_out
    monkeypatch.setattr(measure, "FIRINGS", 0)  # the SAEs set the measure
    assert list(concept_scores(read, {"relu": sae}, twins).left_out) == ["untrained"]
    assert not concept_scores(read, {"dense": twins["untrained"].sae}, {"twin": twins["untrained"]}).left_out


def test_an_sae_whose_codes_do_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    read, _ = thirds()
    sae = dense(2, 64)
    needed = firings(sae, read.x[SITE]) * measure.PER_FIRING
    monkeypatch.setattr(measure, "free_memory", lambda: needed // 2)
    with pytest.raises(KanaryError, match=r"wide has \d\d active latents .* 4,000 tokens .* --concept-tokens 1800\."):
        concept_scores(read, {"wide": sae}, {})
    monkeypatch.setattr(measure, "free_memory", lambda: needed)
    assert "wide" in concept_scores(read, {"wide": sae}, {}).rows
