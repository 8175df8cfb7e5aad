"""One forward pass from which others branch off at a site, so that what lies before the site is computed once."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kanary.errors import KanaryError
from kanary.lm.model import LanguageModel
from kanary.lm.sites import Site, attach, find_blocks


@dataclass(frozen=True)
class Trace:
    """A batch's clean forward pass, and the ways on from its sites."""

    lm: LanguageModel
    tokens: Tensor
    """``[batch, position]``"""
    logits: Tensor
    """``[batch, position, vocab]`` of the untouched model."""
    x: Mapping[str, Tensor]
    """Site -> ``[batch, position, width]``, raw."""
    block_inputs: Mapping[int, Tensor]
    """Block -> ``[batch, position, d_model]``, where a site lies inside the block."""
    tuples: bool
    """Whether blocks return tuples (transformers 4) or tensors."""

    def replay(self, site: str, new: Tensor) -> Tensor:
        """The logits ``[batch, position, vocab]`` with ``new`` (shaped like ``x[site]``) in the place of the activation.

        Blocks before the site are not run again. A module named by hand may lie anywhere, so there everything is.
        """
        place = self.lm.site(site)
        if new.shape != self.x[site].shape:
            raise KanaryError(
                f"The replacement at {site!r} has shape {[*new.shape]}, expected {[*self.x[site].shape]}."
            )
        new = new.to(self.x[site])
        skip, carried = self._skipped(place, new)
        with self.lm.alone(), ExitStack() as undo:
            if skip:
                undo.enter_context(_skipping(self.lm.model, skip, (carried,) if self.tuples else carried))
            replace: Mapping[str, Callable[[Tensor], Tensor]] = {} if carried is new else {site: lambda _: new}
            return self.lm.logits(self.tokens, replace=replace)

    def _skipped(self, place: Site, new: Tensor) -> tuple[int, Tensor | None]:
        """How many blocks need not run, and what the last of them hands on."""
        if place.layer is None:
            return 0, None
        if place.kind == "resid_post":
            return place.layer + 1, new
        if place.layer == 0:
            return 0, None
        return place.layer, new if place.kind == "resid_pre" else self.block_inputs[place.layer]


def trace(lm: LanguageModel, tokens: Tensor, sites: Sequence[str]) -> Trace:
    """Runs the model once on ``tokens [batch, position]`` and keeps its logits and the activations at ``sites``.

    Raises:
        KanaryError: unknown site, or a module that the forward never reaches.
    """
    places = {name: lm.site(name) for name in sites}
    x: dict[str, Tensor] = {}
    inputs: dict[int, Tensor] = {}
    found = find_blocks(lm.model)
    kinds: list[bool] = []

    def keeper(kept: dict[Any, Tensor], key: Any, copied: bool) -> Callable[[Tensor], None]:
        def keep(value: Tensor) -> None:
            kept.setdefault(key, value.clone() if copied else value)

        return keep

    with lm.alone(), torch.no_grad(), ExitStack() as hooks:
        for name, place in places.items():
            hooks.callback(attach(lm.model, place, keeper(x, name, place.layer is None)).remove)
            if place.kind in ("attn_out", "mlp_out") and place.layer:
                before = lm.site(f"resid_pre.{place.layer}")
                hooks.callback(attach(lm.model, before, keeper(inputs, place.layer, False)).remove)
        if found is not None:
            first = found[1][0]
            hooks.callback(first.register_forward_hook(lambda *io: kinds.append(isinstance(io[2], tuple))).remove)
        logits = lm.logits(tokens)
    if missing := [name for name in places if name not in x]:
        raise KanaryError(f"The forward pass never reaches the site {missing[0]!r}; choose a module that it uses.")
    return Trace(lm, tokens, logits, x, inputs, any(kinds))


@contextmanager
def _skipping(model: nn.Module, count: int, result: Any) -> Iterator[None]:
    """Inside the block the first ``count`` blocks of the model compute nothing and return ``result``."""
    found = find_blocks(model)
    assert found is not None
    blocks = list(found[1])[:count]
    before = [block.__dict__.get("forward") for block in blocks]
    try:
        for block in blocks:
            block.forward = lambda *_, **__: result
        yield
    finally:
        for block, old in zip(blocks, before, strict=True):
            if old is None:
                del block.__dict__["forward"]
            else:
                block.forward = old
