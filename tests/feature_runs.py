"""What tests of the feature index share: a run with a random SAE, and the same numbers worked out the slow way."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

import kanary
from kanary.features.index import FeatureIndex
from kanary.lm import LanguageModel, load_model
from kanary.sae import SAE, SAEConfig
from kanary.text import Windows, open_text
from runs import write_stories

SITE, WINDOW, BATCH = "resid_post.1", 32, 4


def make_run(
    folder: Path, model: Path, text: Path, *, d_sae: int = 48, k: int = 4, seed: int = 0, site: str = SITE, **parts: Any
) -> Path:
    """A run folder with an SAE of random weights, standardised for the model; its last latent never fires."""
    lm = load_model(model, device="cpu")
    trained_on = {
        "model": str(model),
        "text": str(text),
        "site": site,
        "window": WINDOW,
        "fingerprint": lm.fingerprint,
        "special_ids": sorted(lm.special_ids),
    }
    options = {"sparsifier": {"name": "topk", "k": k}} | parts
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sae = SAE(SAEConfig(lm.d_model, d_sae, trained_on=trained_on, **options))
        x = torch.cat([x for x, _ in _activations(lm, text, site)])
        sae.mean.copy_(x.mean(0))
        sae.scale.copy_((lm.d_model / (x - x.mean(0)).square().sum(1).mean()).sqrt())
        with torch.no_grad():
            sae.encoder.get_parameter("W_enc").normal_()
            sae.encoder.get_parameter("b_enc")[-1] = -1e4
            sae.W_dec.normal_()
            sae.W_dec.div_(sae.W_dec.norm(dim=1, keepdim=True))
    sae.save_pretrained(folder / "sae")
    return folder


def _activations(lm: LanguageModel, text: Path, site: str) -> list[tuple[torch.Tensor, Any]]:
    windows = Windows(open_text(str(text)), lm, window=WINDOW, batch=BATCH, part="all")
    return [(lm.capture(batch.tokens, [site])[site][~batch.special], batch) for batch in windows]


def build(run: Path, **fields: Any) -> FeatureIndex:
    values: dict[str, Any] = {"part": "all", "lm_batch": BATCH, "effects": "none"}
    return next(iter(kanary.index(run, quiet=True, device="cpu", **(values | fields)).values()))


@dataclass(frozen=True)
class Dense:
    """The text of a run read the slow way: everything in whole matrices, in float64."""

    run: Path
    lm: LanguageModel

    @cached_property
    def sae(self) -> SAE:
        return SAE.from_pretrained(self.run)

    @cached_property
    def batches(self) -> list[Any]:
        text = open_text(str(self.sae.config.trained_on["text"]))
        return list(Windows(text, self.lm, window=WINDOW, batch=BATCH, part="all"))

    def whole(self, name: str) -> np.ndarray:
        """``[windows, window]``: tokens, documents, positions or special."""
        return torch.cat([getattr(batch, name) for batch in self.batches]).numpy()

    def at(self, site: str) -> np.ndarray:
        """``[windows, window, width]``, raw."""
        return torch.cat([self.lm.capture(batch.tokens, [site])[site] for batch in self.batches]).numpy()

    @cached_property
    def codes(self) -> np.ndarray:
        """``[windows, window, d_sae]`` float64."""
        site = str(self.sae.config.trained_on["site"])
        parts = [
            self.sae.encode(self.lm.capture(batch.tokens, [site])[site], batch.special).to_dense()
            for batch in self.batches
        ]
        return torch.cat(parts).double().detach().numpy()

    @cached_property
    def counted(self) -> np.ndarray:
        """``[tokens, d_sae]``: the codes of tokens that are not special."""
        return self.codes[~self.whole("special")]


def stories(folder: Path, documents: int = 60) -> Path:
    return write_stories(folder / "stories.jsonl", documents, words=35)
