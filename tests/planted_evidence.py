"""Evidence of latents that fire on one word, made by hand."""

from __future__ import annotations

import numpy as np

from kanary.explain.types import Evidence, Excerpt, Half

SENTENCE = "the big red dog ran to a small blue house and cat sat on my old green mat with her best friend"
WORDS = SENTENCE.split()


def excerpt(text: str, word: str, value: float = 1.0, document: int = 0) -> Excerpt:
    """A token a word (with its space); the latent fires on ``word``."""
    tokens = tuple(f" {part}" for part in text.split())
    activations = np.array([value * (part.strip().lower() == word) for part in tokens], np.float32)
    return Excerpt(document, 0, document, 0, np.arange(len(tokens)), tokens, activations)


def planted(word: str, latent: int = 7, seed: int = 0, n: int = 10) -> Evidence:
    """Random words; where it fires, ``word`` stands among them."""
    draw = np.random.default_rng([seed, latent])

    def half(first: int) -> Half:
        firing = [excerpt(_sentence(draw, word), word, 4.0 - 0.1 * i, first + i) for i in range(2 * n)]
        silent = [excerpt(_sentence(draw, None, word), word, 0.0, first + 100 + i) for i in range(2 * n)]
        return Half(tuple(firing[:n]), tuple(firing[n:]), tuple(silent), (), ())

    return Evidence(latent, 4.0, 0.05, (" park", " home"), (" zero",), half(0), half(1000))


def _sentence(draw: np.random.Generator, word: str | None, without: str = "") -> str:
    words = [w for w in WORDS if w not in (word, without)]
    chosen = list(draw.choice(words, 9, replace=False))
    if word:
        chosen.insert(int(draw.integers(10)), word)
    return " ".join(chosen)
