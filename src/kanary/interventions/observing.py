"""Codes are read off forward passes that nothing is changed in: what watching costs where nobody steers."""

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from kanary.errors import KanaryError
from kanary.interventions.steerable import Steerable
from kanary.lm.sites import attach
from kanary.sae.some import SomeLatents


class Observing:
    """A block in which the codes of some latents are kept after every forward pass of this thread.

    Other threads that use the model through Kanary wait. Nothing but the activations at the SAEs' sites is looked at: which
    tokens are special is for the caller to say.
    """

    observed: dict[str, Tensor]
    """By SAE, ``[batch, position, latents]``: codes in the last forward pass; 0 at special tokens."""
    special: Tensor | None = None
    """``[batch, position]`` bool, of the next forward pass: BOS, EOS and padding. None: there are none."""

    def __init__(self, panel: Steerable, observe: Mapping[str, Sequence[int]]) -> None:
        """
        Args:
            observe: SAE -> latents.

        Raises:
            KanaryError: no such SAE or latent.
        """
        self.lm = panel.lm
        sites: dict[str, list[tuple[str, SomeLatents]]] = {}
        for sae, latents in observe.items():
            name = panel.name(sae)
            numbers = torch.tensor([panel.latent(name, latent) for latent in latents], device=panel.lm.device)
            sites.setdefault(panel.sites[name], []).append((name, SomeLatents(panel.saes[name], numbers)))
        self._hooks = [(panel.lm.site(site), self._reader(site, each)) for site, each in sites.items()]
        self._undo = ExitStack()
        self._thread: int | None = None
        self.observed = {}

    def __enter__(self) -> "Observing":
        with ExitStack() as undo:
            undo.enter_context(self.lm.alone())
            self._thread = threading.get_ident()
            for place, read in self._hooks:
                undo.callback(attach(self.lm.model, place, read).remove)
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._thread = None
        self._undo.close()

    def _reader(self, site: str, saes: Sequence[tuple[str, SomeLatents]]) -> Callable[[Tensor], None]:
        def read(x: Tensor) -> None:
            if threading.get_ident() != self._thread:  # a pass that somebody makes without Kanary
                return
            if x.ndim != 3 or (self.special is not None and x.shape[:-1] != self.special.shape):
                raise KanaryError(f"{site} has activations of shape {[*x.shape]}, not one for every token.")
            for name, codes in saes:
                self.observed[name] = codes(x, self.special)

        return read
