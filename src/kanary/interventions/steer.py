"""``with kanary.steer(model, sae, {1234: +2}):`` every forward pass in the block is steered, cached generation too."""

import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from kanary.errors import KanaryError
from kanary.interventions.compile import compiled
from kanary.interventions.edits import Edits, as_edits
from kanary.interventions.passing import Follower, Passing
from kanary.interventions.plan import AtSite
from kanary.interventions.steerable import SAEs, Steerable
from kanary.lm import LanguageModel
from kanary.lm.sites import attach

MOST = 1e15
"""The largest number an activation may hold: squares of larger ones, of which norms are made, leave float32."""


def steer(
    model: LanguageModel,
    sae: SAEs | None,
    edits: Edits,
    *,
    observe: Mapping[str, Sequence[int]] | None = None,
    index: str | os.PathLike[str] | None = None,
    text: str | None = None,
) -> "Steering":
    """A block in which features have other strengths: ``with kanary.steer(model, sae, {1234: +2}): model.model.generate(…)``.

    Args:
        sae: an SAE, the folder of one or of a run, or several by name.
        edits: feature -> by how many of its maxima its code rises at every token ((SAE, feature) where there are several
            SAEs), or edits made by the functions in :mod:`kanary.interventions.edits`.
        observe: SAE -> latents whose codes are kept in :attr:`Steering.observed` after every forward pass.
        index: the run or index that maxima are taken from, unless ``sae`` was read from a run that has one.
        text: measure maxima on this text where there is no index.

    Raises:
        KanaryError: no such feature, an SAE of another model or site, or a maximum that nobody knows.
    """
    return Steering(Steerable(model, sae, index=index, text=text), edits, observe=observe)


class Steering:
    """Edits of one session, on their way into a model that others use too.

    Inside the block the model's forward passes of this thread are steered; other threads that use it through Kanary wait,
    and a forward pass that one of them makes without Kanary is refused, because it would be steered unasked. The block may
    be entered as often as one likes, for one generation or for every step of one.
    """

    observed: dict[str, Tensor]
    """By SAE, ``[batch, position, latents]``: codes in the last forward pass, before the edits at their site; 0 at special
    tokens."""

    def __init__(
        self,
        panel: Steerable,
        edits: Edits | None = None,
        *,
        rows: Sequence[Edits | None] | None = None,
        observe: Mapping[str, Sequence[int]] | None = None,
        prompts: Sequence[int] | None = None,
    ) -> None:
        """
        Args:
            edits: for every row of every batch.
            rows: for each row of the batch its own, None where it is left alone; then batches must have as many rows.
            observe: SAE -> latents to keep the codes of.
            prompts: how many tokens of each row are its prompt, BOS counted; by default the first forward pass tells.
        """
        if (edits is None) == (rows is None):
            raise KanaryError("Give either edits for every row, or rows with the edits of each.")
        self.panel, self.lm = panel, panel.lm
        self._rows = None if rows is None else [as_edits(each or ()) for each in rows]
        self._all = as_edits(edits or ())
        self._observe = {panel.name(name): torch.tensor(list(each)) for name, each in (observe or {}).items()}
        self._plans: dict[int, dict[str, AtSite]] = {}
        first = self._plan(1 if self._rows is None else len(self._rows))
        self._sites = {site: panel.lm.site(site) for site in first}  # fast because looking one up walks the whole model
        self._follower = Follower(panel.lm, prompts)
        self._passing: Passing | None = None
        self._codes: dict[str, Tensor] = {}
        self._undo = ExitStack()
        self._thread: int | None = None
        self.observed = {}

    def __enter__(self) -> "Steering":
        if self._thread is not None:
            raise KanaryError(
                "This steering is in use already: make one for every thread, and leave it before entering again."
            )
        with ExitStack() as undo:
            undo.enter_context(self.lm.alone())
            self._thread = threading.get_ident()
            undo.callback(self._ended)
            model = self.lm.model
            undo.callback(model.register_forward_pre_hook(self._begin, with_kwargs=True).remove)
            for site, place in self._sites.items():
                undo.callback(attach(model, place, self._writer(site)).remove)
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._undo.close()

    def _ended(self) -> None:
        self._thread, self._passing = None, None

    def _plan(self, rows: int) -> dict[str, AtSite]:
        if rows not in self._plans:
            asked = [self._all] * rows if self._rows is None else self._rows
            if len(asked) != rows:
                raise KanaryError(f"Edits were given for {len(asked)} rows, but the batch has {rows}.")
            self._plans[rows] = compiled(self.panel, asked, {n: each.tolist() for n, each in self._observe.items()})
        return self._plans[rows]

    def _begin(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if threading.get_ident() != self._thread:
            raise KanaryError(
                "Another thread is steering this model: use it through Kanary (model.logits, model.alone, kanary.steer), "
                "which waits, and open the steering in the thread that generates."
            )
        self._passing, self._codes = self._follower.read(args, kwargs), {}
        self._plan(len(self._passing.special))  # refuses a batch of another size than rows were given for

    def _writer(self, site: str) -> Any:
        @torch.no_grad()
        def change(x: Tensor) -> tuple[Tensor, Tensor] | None:
            """Where, and to what."""
            passing = self._passing
            if passing is None or x.shape[:-1] != passing.special.shape:
                raise KanaryError(
                    f"{site} has activations of shape {[*x.shape]}, not one for every token: nothing can be steered there."
                )
            plan = self._plan(len(x))[site]
            self._read(plan, x, passing)
            return changed(plan, x, passing, self._codes)

        def write(x: Tensor) -> Tensor | None:
            found = change(x)
            if found is None:
                return None
            touched, added = found
            new = (x.to(added.dtype) + added).to(x.dtype)
            if not bool(touched.all()):
                new = torch.where(touched[..., None], new, x)  # what is not touched stays as it is, bit by bit
            self._refuse_absurd(new, site)
            return new

        return write

    def _read(self, plan: AtSite, x: Tensor, passing: Passing) -> None:
        for each in plan.latents:
            self._codes[each.name] = codes = each.read(x, passing.special)
            if each.name in self._observe:
                self.observed[each.name] = codes[..., each.lookup[self._observe[each.name]]]

    def _refuse_absurd(self, new: Tensor, site: str) -> None:
        if bool(new.detach().abs().amax() <= MOST):  # also false where it is NaN
            return
        rows = [self._all] if self._rows is None else self._rows
        edits = [edit for edits in rows for edit in edits if self.panel.site_of(edit) == site]
        named = ", ".join(f"{edit.kind} {edit.amount:g} on {edit.target}" for edit in edits[:3])
        raise KanaryError(
            f"{named} pushes activations at {site} beyond what {self.lm.dtype} can carry: use a smaller strength."
        )


def changed(plan: AtSite, x: Tensor, passing: Passing, codes: Mapping[str, Tensor]) -> tuple[Tensor, Tensor] | None:
    """(``[batch, position]`` bool where ``x [batch, position, d_model]`` changes, what is added to it), or None."""
    parts = [each.added(passing, codes) for each in plan.latents if each.changes]
    parts += [plan.added.pushed(passing, codes)] if plan.added else []
    found = _together([part for part in parts if part is not None])
    if plan.removed is None:
        return found
    moved = x if found is None else x.to(found[1].dtype) + found[1]
    out = plan.removed.remove(moved, passing, codes)
    return _together([part for part in (found, out) if part is not None])


def _together(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor] | None:
    if not parts:
        return None
    touched, added = parts[0]
    for where, more in parts[1:]:
        touched, added = touched | where, added + more
    return touched, added
