"""Pearson's correlation of latents over the text, from sums of products over the tokens on which both fire.

The sums of all pairs are exact where the text has at most ``PRODUCTS`` such products; of a larger one every n-th window is
taken, evenly over the text, and the numbers are estimates. Memory is bounded by ``BLOCK`` however many latents there are:
the codes on disk are gone over once for every block of latents.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kanary.features.spool import Chunks, Codes
from kanary.sae import SparseCodes

PRODUCTS = 2**28
"""Products that are added up: some seconds on a CPU."""
LEAST, BLOCK = 2**24, 2**28
"""Bytes of sums held at a time: an eighth of all, between these two."""
PASSES = 8
"""Over the codes, where an eighth lies between these."""
PIECE = 2**20
"""Numbers of a piece of these that is worked on."""
DENSE = 1024
"""Tokens whose codes are held as whole matrices, where there is no other way."""


class Correlated(NamedTuple):
    """For every latent those that go with it most."""

    latents: NDArray[np.int32]
    """``[d_sae, count]``, the most correlated first; -1 where there is none."""
    values: NDArray[np.float32]
    """``[d_sae, count]``"""
    asked: NDArray[np.float32]
    """``[d_sae]``: the correlations that were asked for; NaN where one of the two does not vary."""
    exact: bool
    """Over the whole text, or over some of its windows."""
    tokens: int
    """How many tokens they are over."""


@dataclass(frozen=True)
class Sums:
    """Of the values of every latent, ``[d_sae]`` float64, over the tokens that are looked at."""

    total: Tensor
    squares: Tensor

    def spread(self, tokens: int) -> Tensor:
        """Of every latent, the root of n times its summed squared deviation; 0 where it does not vary."""
        spread = tokens * self.squares - self.total.square()
        return torch.where(spread > 1e-12 * tokens * self.squares, spread, 0).clamp_min(0).sqrt()


@dataclass(frozen=True)
class Text:
    """The codes of two SAEs (or twice of one) on the same tokens."""

    chunks: Chunks
    first: int
    """Which of a chunk's codes: 0 for its own, then those of its twins."""
    second: int
    special_ids: list[int]

    def products(self) -> int:
        """How many products there are: over all tokens, those that fire in the first times those in the second."""
        both = ((chunk.all_codes[self.first], chunk.all_codes[self.second]) for chunk in self.chunks())
        return sum(int(a.counts.astype(np.int64) @ b.counts.astype(np.int64)) for a, b in both)

    def pieces(self, every: int) -> Iterator[tuple[Codes, Codes, int]]:
        """The codes of both for every ``every``-th window, and how many of its tokens count."""
        for chunk in self.chunks():
            kept = (np.arange(len(chunk.tokens)) + chunk.first) % every == 0
            n = int((~np.isin(chunk.tokens[kept], self.special_ids)).sum())
            tokens = np.repeat(kept, chunk.window)
            yield _thinned(chunk.all_codes[self.first], tokens), _thinned(chunk.all_codes[self.second], tokens), n


def correlated(
    text: Text, sizes: tuple[int, int], count: int, *, itself: bool = False, asked: NDArray[np.int32] | None = None
) -> Correlated:
    """For every latent of the first SAE the ``count`` of the second with the largest correlation.

    Args:
        sizes: latents of both.
        itself: the two are one SAE, and a latent is not paired with itself.
        asked: ``[d_sae]``, for every latent one of the second SAE whose correlation is wanted in any case.
    """
    every = max(1, -(-text.products() // PRODUCTS))
    tokens, first, second = _sums(text, sizes, every)
    which = np.full((sizes[0], count), -1, np.int32)
    values, answers = np.full((sizes[0], count), np.nan, np.float32), np.full(sizes[0], np.nan, np.float32)
    most = min(count, sizes[1] - itself)
    for rows in _blocks(sizes):
        products = _products(text, rows, sizes[1], every)
        for start, piece in zip(*_pieces(products), strict=True):
            here = slice(rows.start + start, rows.start + start + len(piece))
            r = _pearson(piece, first, second, here, tokens)
            if itself:
                r.diagonal(here.start).fill_(-torch.inf)
            best = r.topk(most, dim=1)
            some = best.values.isfinite().numpy()
            which[here, :most] = np.where(some, best.indices.numpy(), -1)
            values[here, :most] = np.where(some, best.values.numpy(), np.nan)
            if asked is not None:
                answer = r.gather(1, torch.from_numpy(asked[here].astype(np.int64))[:, None])[:, 0]
                answers[here] = answer.masked_fill(~answer.isfinite(), torch.nan).numpy()
    return Correlated(which, values, answers, every == 1, tokens)


def _blocks(sizes: tuple[int, int]) -> Iterator[slice]:
    held = min(BLOCK, max(LEAST, 8 * sizes[0] * sizes[1] // PASSES))
    rows = max(1, held // (8 * sizes[1]))
    return (slice(start, min(start + rows, sizes[0])) for start in range(0, sizes[0], rows))


def _sums(text: Text, sizes: tuple[int, int], every: int) -> tuple[int, Sums, Sums]:
    tokens, found = 0, [np.zeros((2, size)) for size in sizes]
    for first, second, n in text.pieces(every):
        tokens += n
        for codes, sums in zip((first, second), found, strict=True):
            values = codes.values.astype(np.float64)
            sums += np.stack([np.bincount(codes.latents, v, sums.shape[1]) for v in (values, values * values)])
    first_sums, second_sums = (Sums(*map(torch.from_numpy, sums)) for sums in found)
    return tokens, first_sums, second_sums


def _products(text: Text, rows: slice, columns: int, every: int) -> Tensor:
    """``[rows, columns]`` float64: the summed products of the latents ``rows`` with all of the other SAE."""
    total = torch.zeros(rows.stop - rows.start, columns, dtype=torch.float64)
    for first, second, _ in text.pieces(every):
        if not torch.backends.mkl.is_available():
            _add_by_dense(total, _sparse(first, rows.stop), _sparse(second, columns), rows)
            continue
        firings, matrix = _ByLatent(first, rows), _matrix(second, columns)
        for start, piece in zip(*_pieces(total), strict=True):
            here = firings.transposed(rows.start + start, rows.start + start + len(piece))
            torch.addmm(piece, here, matrix, out=piece)  # `here @ matrix` would never give its memory back (torch 2.13)
    return total


def _add_by_dense(total: Tensor, first: SparseCodes, second: SparseCodes, rows: slice) -> None:
    """Where torch cannot multiply two sparse matrices (it is built without MKL): by dense ones, some tokens at a time."""
    for start in range(0, first.tokens, DENSE):
        some = slice(start, start + DENSE)
        total += first[some].to_dense()[:, rows].T @ second[some].to_dense()


def _sparse(codes: Codes, d_sae: int) -> SparseCodes:
    """The codes of latents below ``d_sae``."""
    latents, values = (
        torch.from_numpy(codes.latents.astype(np.int64)),
        torch.from_numpy(codes.values.astype(np.float64)),
    )
    tokens = torch.arange(len(codes.counts)).repeat_interleave(torch.from_numpy(codes.counts.astype(np.int64)))
    kept = latents < d_sae
    counts = torch.bincount(tokens[kept], minlength=len(codes.counts))
    offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    return SparseCodes(latents[kept], values[kept], offsets, d_sae, (len(counts),))


def _pieces(matrix: Tensor) -> tuple[range, tuple[Tensor, ...]]:
    """Some rows at a time, and where they begin: what is made of a piece takes little memory beside the whole."""
    rows = max(1, PIECE // matrix.shape[1])
    return range(0, len(matrix), rows), matrix.split(rows)


def _matrix(codes: Codes, columns: int) -> Tensor:
    """``[tokens, columns]`` in compressed rows."""
    offsets = torch.from_numpy(np.concatenate([[0], codes.counts.cumsum()]).astype(np.int32))
    latents, values = (
        torch.from_numpy(codes.latents.astype(np.int32)),
        torch.from_numpy(codes.values.astype(np.float64)),
    )
    return torch.sparse_csr_tensor(offsets, latents, values, (len(codes.counts), columns), check_invariants=False)


class _ByLatent:
    """The firings of the latents ``rows`` on some tokens, latent after latent."""

    def __init__(self, codes: Codes, rows: slice) -> None:
        here = ((codes.latents >= rows.start) & (codes.latents < rows.stop)).nonzero()[0]
        here = here[np.argsort(codes.latents[here], kind="stable")]
        self.tokens, self.latents = len(codes.counts), codes.latents[here].astype(np.int32)
        self.at = np.repeat(np.arange(self.tokens, dtype=np.int32), codes.counts)[here]
        self.values = codes.values[here].astype(np.float64)

    def transposed(self, first: int, last: int) -> Tensor:
        """``[last - first, tokens]`` in compressed rows."""
        a, b = np.searchsorted(self.latents, np.array([first, last], np.int32))
        counts = np.bincount(self.latents[a:b] - first, minlength=last - first)
        offsets = torch.from_numpy(np.concatenate([[0], counts.cumsum()]).astype(np.int32))
        at, values = torch.from_numpy(self.at[a:b]), torch.from_numpy(self.values[a:b])
        return torch.sparse_csr_tensor(offsets, at, values, (last - first, self.tokens), check_invariants=False)


def _pearson(products: Tensor, first: Sums, second: Sums, rows: slice, tokens: int) -> Tensor:
    """``[rows, columns]``; minus infinity where one of the two does not vary."""
    covariance = tokens * products - first.total[rows, None] * second.total
    size = first.spread(tokens)[rows, None] * second.spread(tokens)
    return torch.where(size > 0, covariance / size, -torch.inf)


def _thinned(codes: Codes, kept: NDArray[np.bool_]) -> Codes:
    """The codes of some of the tokens."""
    if kept.all():
        return codes
    firings = np.repeat(kept, codes.counts)
    return Codes(codes.counts[kept], codes.latents[firings], codes.values[firings])
