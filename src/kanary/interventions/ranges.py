"""How large the codes of every latent get: what strengths in maxima and sigmas, and ablations to the mean, are measured in."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kanary.errors import KanaryError
from kanary.features.index import FeatureIndex
from kanary.features.selection import BINS
from kanary.lm import LanguageModel
from kanary.progress import bar
from kanary.sae import SAE, SparseCodes
from kanary.text import Windows, open_text

TOKENS = 50_000
"""Of a text that are read when ranges are measured on it."""


@dataclass(frozen=True)
class Ranges:
    """The codes of every latent over the tokens of a text, special ones left out."""

    source: str
    """Where the numbers come from, in words."""
    tokens: int
    maximum: Tensor
    """``[d_sae]`` float64; 0 where a latent never fired."""
    mean: Tensor
    """``[d_sae]`` float64, over all tokens."""
    sigma: Tensor
    """``[d_sae]`` float64: the standard deviation over all tokens."""
    counts: Tensor
    """``[d_sae, 50]`` int64: a histogram of the codes that are not 0, in even bins over (0, maximum]."""

    @property
    def density(self) -> Tensor:
        """``[d_sae]`` float64, share of the tokens on which a latent fires."""
        return self.counts.sum(1).double() / self.tokens

    def unit(self, latent: int, unit: str) -> float:
        """How large one ``maximum``, ``sigma`` or ``raw`` unit of a latent's code is.

        Raises:
            KanaryError: the latent never fired, so that it has none.
        """
        if unit == "raw":
            return 1.0
        size = float((self.maximum if unit == "maximum" else self.sigma)[latent])
        if not size > 0:
            raise KanaryError(
                f"Feature {latent} never fired on {self.source}, so its {unit} is 0 and no measure of strength: choose "
                "another feature, or give the strength with unit='raw' (--unit raw)."
            )
        return size

    def drawn(self, latent: int, uniform: Tensor) -> Tensor:
        """Codes of the latent as the text has them, 0 included: the values at the ranks ``uniform [...]`` in [0, 1)."""
        counts = self.counts[latent].double()
        silent = self.tokens - counts.sum()
        below = torch.cat([silent[None], silent + counts.cumsum(0)]) / self.tokens  # [bins + 1]
        u = uniform.double()
        bins = (torch.searchsorted(below, u, right=True) - 1).clamp(0, len(counts) - 1)
        inside = ((u - below[bins]) / (below[bins + 1] - below[bins]).clamp_min(1e-300)).clamp(0, 1)
        codes = (bins + inside) / len(counts) * self.maximum[latent]
        return torch.where(u < below[0], 0.0, codes)


def ranges_of(index: FeatureIndex) -> Ranges:
    """Those that a feature index holds; sigma from its histogram, within one part in a thousand of the maximum."""
    columns, tokens = index.columns(), int(index.meta["tokens"])
    counts = torch.tensor(index.histograms(), dtype=torch.int64)
    maximum = torch.tensor(columns["maximum"], dtype=torch.float64)
    fired = torch.tensor(columns["fired"], dtype=torch.float64)
    mean = torch.tensor(columns["mean_active"], dtype=torch.float64).nan_to_num() * fired / tokens
    middles = (torch.arange(counts.shape[1]).double() + 0.5) / counts.shape[1]
    squares = (counts.double() * middles.square()).sum(1) * maximum.square() / tokens
    sigma = (squares - mean.square()).clamp_min(0).sqrt()
    return Ranges(f"the {tokens:,} tokens of {index.folder}", tokens, maximum, mean, sigma, counts)


@torch.no_grad()
def measure_ranges(lm: LanguageModel, sae: SAE, text: str, *, tokens: int = TOKENS, quiet: bool = False) -> Ranges:
    """Those on the first ``tokens`` tokens of a text: a file, a folder, or ``labelled``.

    Raises:
        KanaryError: the text cannot be read, or has no token that counts.
    """
    site, window = str(sae.config.trained_on["site"]), int(sae.config.trained_on.get("window") or 256)
    windows = Windows(open_text(text), lm, window=min(window, lm.context), batch=16, part="all")
    found: list[SparseCodes] = []
    count = 0
    with bar(f"measuring features on {text}", tokens, "tok", quiet) as show:
        for batch in windows:
            x = lm.capture(batch.tokens, [site])[site]
            found.append(sae.encode(x[~batch.special.to(x.device)]).to("cpu"))
            count += batch.n_tokens
            show(batch.n_tokens)
            if count >= tokens:
                break
    if not count:
        raise KanaryError(f"{text} has no tokens to measure features on.")
    codes = SparseCodes.cat(found)
    return counted(codes.indices, codes.values.double(), sae.d_sae, count, f"{count:,} tokens of {text}")


def counted(latents: Tensor, values: Tensor, d_sae: int, tokens: int, source: str) -> Ranges:
    """From all codes that are not zero: ``latents [nnz]``, ``values [nnz]`` float64."""
    zeros = torch.zeros(d_sae, dtype=torch.float64)
    maximum = zeros.scatter_reduce(0, latents, values, "amax")
    mean = zeros.index_add(0, latents, values) / tokens
    squares = zeros.index_add(0, latents, values.square()) / tokens
    bins = (values / maximum[latents].clamp_min(1e-300) * BINS).ceil().long().clamp(1, BINS) - 1
    counts = torch.bincount(latents * BINS + bins, minlength=d_sae * BINS).view(d_sae, BINS)
    return Ranges(source, tokens, maximum, mean, (squares - mean.square()).clamp_min(0).sqrt(), counts)


def find_ranges(sae: SAE, near: str | os.PathLike[str] | None = None) -> Ranges | None:
    """From the feature index of ``sae`` in the run that it was read from, or in the run or index folder ``near``.

    Raises:
        KanaryError: ``near`` is given and holds no index of this SAE.
    """
    digest = sae.digest()
    for folder in _indices(Path(near)) if near is not None else _beside(sae):
        index = FeatureIndex(folder)
        if index.meta["sae"]["digest"] == digest:
            return ranges_of(index)
    if near is None:
        return None
    raise KanaryError(f"{near} holds no feature index of this SAE ({digest[:12]}…): make one with kanary index RUN.")


def _indices(path: Path) -> Iterator[Path]:
    return (
        file.parent
        for base in (path, path / "index")
        for file in sorted({*base.glob("index.json"), *base.glob("*/index.json")})
    )


def _beside(sae: SAE) -> Iterator[Path]:
    """The indices of the run whose folder ``sae`` or ``sae/NAME`` it was read from."""
    if sae.folder is None:
        return iter(())
    runs = [each for each in (sae.folder.parent, sae.folder.parent.parent, sae.folder) if (each / "index").is_dir()]
    return (folder for run in runs for folder in _indices(run))
