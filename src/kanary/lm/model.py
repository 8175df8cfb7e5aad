"""A causal language model whose activations can be read and replaced."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from kanary.errors import KanaryError
from kanary.lm.sites import Site, attach, find_site, site_names

_SAMPLE = (
    'Once  upon a TIME, 1234.5 naïve\tÉlan\n\nsaid: "don\'t!" — שלום مرحبا x+=y'  # shows case, spaces, digits, scripts
)
Replacement = Callable[[Tensor], Tensor]


class LanguageModel:
    """A Hugging Face causal language model with its tokenizer.

    Forward passes of one model take turns between threads, because the hooks that read and write live in the modules.
    """

    model: Any
    """The Hugging Face model (a torch module), in eval mode, without gradients of its weights."""
    tokenizer: Any
    """The Hugging Face tokenizer."""
    name: str
    """The folder or Hub id that it was loaded from."""
    revision: str | None
    """Branch, tag or commit on the Hub, when one was asked for."""
    d_model: int
    """Width of the residual stream."""
    n_layers: int
    vocab_size: int
    """Rows of the logits; at least the number of the tokenizer's ordinary tokens."""
    context: int
    """The longest window, in tokens."""
    bos_id: int | None
    """The token that starts a text, if the tokenizer has one."""
    special_ids: frozenset[int]
    """BOS, EOS and padding: never trained on, counted or averaged."""

    def __init__(self, model: Any, tokenizer: Any, name: str, revision: str | None = None) -> None:
        config = model.config.get_text_config(decoder=True)
        self.model, self.tokenizer, self.name, self.revision = model, tokenizer, name, revision
        self.d_model = int(config.hidden_size)
        self.n_layers = int(config.num_hidden_layers)
        self.vocab_size = int(config.vocab_size)
        self.context = int(getattr(config, "max_position_embeddings", None) or 2048)
        self.bos_id = self._inside(tokenizer.bos_token_id)
        self.eos_id = self._inside(tokenizer.eos_token_id)
        self.special_ids = self._special_ids()
        self._turn = threading.RLock()

    @property
    def device(self) -> torch.device:
        return torch.device(self.model.device)

    @property
    def dtype(self) -> torch.dtype:
        """Of the activations."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    @property
    def tokenizer_name(self) -> str:
        """What the tokenizer calls itself: the folder or Hub id that it came from."""
        return str(getattr(self.tokenizer, "name_or_path", "") or self.name)

    @cached_property
    def sites(self) -> list[str]:
        """Every named site, block by block; empty for a family that Kanary does not know (name modules by hand)."""
        return site_names(self.model)

    def site(self, name: str) -> Site:
        """The site called ``name``; raises :class:`KanaryError` with the nearest name if there is none."""
        return find_site(self.model, name)

    def width(self, site: str) -> int:
        """The size of an activation at ``site``: d_model, except at modules named by hand (found by one forward)."""
        if self.site(site).layer is not None:
            return self.d_model
        return self.capture(torch.zeros(1, 1, dtype=torch.long), [site])[site].shape[-1]

    def capture(self, tokens: Tensor, sites: Sequence[str], attention_mask: Tensor | None = None) -> dict[str, Tensor]:
        """The activations at ``sites``; the forward stops after the last of them: no later layers, no logits.

        Args:
            tokens: ``[batch, position]`` token ids, padded on the right.
            sites: names, in any order.
            attention_mask: ``[batch, position]``, 0 at padding.

        Returns:
            ``[batch, position, d_model]`` per site, raw, in the model's dtype and on its device.

        Raises:
            KanaryError: unknown site, or a module that the forward never reaches.
        """
        found: dict[str, Tensor] = {}
        wanted = {name: self.site(name) for name in sites}
        if not wanted:
            raise KanaryError("No site to capture was given.")

        def keeper(site: Site) -> Callable[[Tensor], None]:
            def keep(x: Tensor) -> None:
                # A module named by hand may be followed by an operation in place (ReLU), which would change our copy.
                found.setdefault(site.name, x.detach().clone() if site.layer is None else x.detach())
                if len(found) == len(wanted):
                    raise _Stop

            return keep

        with self._turn, torch.no_grad(), ExitStack() as hooks:
            for site in wanted.values():
                hooks.callback(attach(self.model, site, keeper(site)).remove)
            with suppress(_Stop):
                self._forward(tokens, attention_mask)
        if missing := [name for name in wanted if name not in found]:
            raise KanaryError(f"The forward pass never reaches the site {missing[0]!r}; choose a module that it uses.")
        return {name: found[name] for name in wanted}

    def logits(
        self, tokens: Tensor, attention_mask: Tensor | None = None, *, replace: Mapping[str, Replacement] | None = None
    ) -> Tensor:
        """The logits ``[batch, position, vocab]``, the activations at the sites in ``replace`` put through functions.

        Args:
            tokens: ``[batch, position]`` token ids, padded on the right.
            attention_mask: ``[batch, position]``, 0 at padding.
            replace: site → function from ``[batch, position, d_model]`` to the same shape.
        """
        with torch.no_grad(), self.replacing(replace or {}):
            logits: Tensor = self._forward(tokens, attention_mask).logits
            return logits

    @contextmanager
    def replacing(self, replace: Mapping[str, Replacement]) -> Iterator[None]:
        """Inside the block every forward of this model, ``model.generate`` too, puts activations through ``replace``.

        Other threads wait for the end of the block before they run this model.

        Raises:
            KanaryError: unknown site; a function that returns another shape.
        """
        with self._turn, ExitStack() as hooks:
            for name, function in replace.items():
                hooks.callback(attach(self.model, self.site(name), _checked(name, function)).remove)
            yield

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Inside the block no other thread runs this model."""
        with self._turn:
            yield

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hex digits by which this model is known again: its shape and 16 values of every weight.

        The values are taken as bfloat16, so that a float32 copy and a bfloat16 copy of one checkpoint look the same.
        """
        shape = [self.model.config.model_type, self.d_model, self.n_layers, self.vocab_size]
        digest = hashlib.sha256(json.dumps(shape).encode())
        for name, weight in sorted(self.model.named_parameters()):
            digest.update(name.encode())
            if weight.is_floating_point():
                flat = weight.detach().flatten()
                some = flat[:: max(1, flat.numel() // 16)][:16].to(torch.bfloat16).cpu()
                digest.update(some.view(torch.int16).numpy().tobytes())
        return digest.hexdigest()[:12]

    @cached_property
    def tokenizer_fingerprint(self) -> str:
        """Twelve hex digits by which this tokenizer is known again: its vocabulary, and what it makes of a sample."""
        vocabulary = sorted(self.tokenizer.get_vocab().items())
        sample = self.tokenizer(_SAMPLE, add_special_tokens=False)["input_ids"]
        return hashlib.sha256(json.dumps([vocabulary, sample]).encode()).hexdigest()[:12]

    def _forward(self, tokens: Tensor, attention_mask: Tensor | None) -> Any:
        mask = None if attention_mask is None else attention_mask.to(self.device)
        return self.model(input_ids=tokens.to(self.device), attention_mask=mask, use_cache=False)

    def _inside(self, token: Any) -> int | None:
        """``token`` if it is an id that the model has a row for."""
        return token if isinstance(token, int) and 0 <= token < self.vocab_size else None

    def _special_ids(self) -> frozenset[int]:
        tokenizer = self.tokenizer
        ids = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
        # The model's own lists (Llama 3 has three EOS tokens) count only where the tokenizer agrees that the token is
        # special: a config left at its defaults names ids that are ordinary words of another tokenizer.
        agreed = {i for i, token in getattr(tokenizer, "added_tokens_decoder", {}).items() if token.special}
        generation = getattr(self.model, "generation_config", None)
        for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
            value = getattr(generation, key, None)
            ids |= agreed & set(value if isinstance(value, (list, tuple)) else [value])
        return frozenset(i for i in ids if self._inside(i) is not None)


class _Stop(Exception):
    """Raised by the last hook: nothing after it is needed."""


def _checked(name: str, function: Replacement) -> Replacement:
    def replaced(x: Tensor) -> Tensor:
        new = function(x)
        if new.shape != x.shape:
            raise KanaryError(f"The replacement at {name!r} returned shape {[*new.shape]}, expected {[*x.shape]}.")
        return new.to(device=x.device, dtype=x.dtype)

    return replaced
