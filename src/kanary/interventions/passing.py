"""What a forward pass is about: which position of its text every token has, which are special, and where prompts end."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kanary.errors import KanaryError
from kanary.lm import LanguageModel


class Passing(NamedTuple):
    """The tokens of one forward pass; with a KV cache these are only the new ones."""

    positions: Tensor
    """``[batch, position]`` int64, in its text: BOS is 0, padding before it does not count."""
    special: Tensor
    """``[batch, position]`` bool: BOS, EOS and padding."""
    ids: Tensor | None
    """``[batch, position]`` int64; None where the model was given embeddings."""
    prompts: Tensor
    """``[batch]`` int64: how many tokens of each text are its prompt."""


class Follower:
    """Reads the inputs of a model's forward passes, one after the other.

    Where nobody says how long the prompts are, a pass of several tokens ends a prompt, unless it is the last one over again
    with one more token, which is how text is generated without a cache.
    """

    def __init__(self, lm: LanguageModel, prompts: Sequence[int] | None = None) -> None:
        self._special = torch.tensor(sorted(lm.special_ids), dtype=torch.int64, device=lm.device)
        self._given = None if prompts is None else torch.tensor(list(prompts), device=lm.device)
        self._prompts: Tensor | None = None
        self._last: Tensor | None = None

    def read(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Passing:
        """From what the model's forward is called with."""
        ids = kwargs.get("input_ids", args[0] if args else None)
        embedded = kwargs.get("inputs_embeds")
        if ids is None and embedded is None:
            raise KanaryError("A steered model was called without input_ids and without inputs_embeds.")
        rows, length = (ids if ids is not None else embedded).shape[:2]  # type: ignore[union-attr]
        device = self._special.device
        mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
        if isinstance(mask, Tensor) and mask.ndim == 2:
            seen = mask.to(device)
            positions = (seen.cumsum(1) - 1)[:, -length:].clamp_min(0)
            padding = seen[:, -length:] == 0
        else:
            cache = kwargs.get("past_key_values")
            past = int(cache.get_seq_length()) if cache is not None else 0
            positions = torch.arange(past, past + length, device=device).expand(rows, length)
            padding = torch.zeros(rows, length, dtype=torch.bool, device=device)
        special = padding if ids is None else padding | torch.isin(ids.to(device), self._special)
        return Passing(positions, special, ids, self._prompt_lengths(ids, positions))

    def _prompt_lengths(self, ids: Tensor | None, positions: Tensor) -> Tensor:
        rows, length = positions.shape
        if self._given is not None:
            if len(self._given) != rows:
                raise KanaryError(f"{len(self._given)} prompt lengths were given, but the batch has {rows} rows.")
            return self._given
        known, last = self._prompts, self._last
        same = known is not None and len(known) == rows
        again = length > 1 and last is not None and ids is not None and last.shape == (rows, length - 1)
        continued = same and (length == 1 or (again and torch.equal(ids[:, :-1], last)))  # type: ignore[index, arg-type]
        if not continued:
            self._prompts = known = positions[:, -1] + 1
        self._last = ids
        assert known is not None
        return known
