"""From what is asked of every row to :mod:`kanary.interventions.plan`; here everything that cannot be done is refused."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kanary.errors import KanaryError
from kanary.interventions.edits import Edit, Vector
from kanary.interventions.plan import NEVER, AtSite, Change, Directions, Gates, Held, Latents
from kanary.interventions.steerable import Steerable
from kanary.sae.decoders.linear import LinearDecoder
from kanary.sae.some import SomeLatents


class Asked(NamedTuple):
    """One edit of one row."""

    row: int
    edit: Edit


def compiled(
    panel: Steerable, rows: Sequence[Sequence[Edit]], observe: Mapping[str, Sequence[int]]
) -> dict[str, AtSite]:
    """By site, what is done to a batch of ``len(rows)`` texts, and which latents are read (``observe``, by SAE).

    Raises:
        KanaryError: no such feature, SAE or site; a unit that is not known; a width that does not fit.
    """
    asked = [Asked(row, edit) for row, edits in enumerate(rows) for edit in edits]
    for _, edit in asked:
        _refuse(panel, edit)
    looked = _looked_at(panel, asked, observe)
    sites = {panel.site_of(each.edit): None for each in asked} | {panel.sites[name]: None for name in looked}
    found = {}
    for site in sites:
        names = [name for name in looked if panel.sites[name] == site]
        here = [each for each in asked if panel.site_of(each.edit) == site]
        latents = tuple(_latents(panel, name, here, looked, observe, asked) for name in names)
        pushes = [each for each in here if each.edit.kind == "add" and isinstance(each.edit.feature, Vector)]
        outs = [each for each in here if each.edit.kind == "project_out"]
        found[site] = AtSite(latents, _directions(panel, pushes, looked), _directions(panel, outs, looked))
    return found


def _refuse(panel: Steerable, edit: Edit) -> None:
    for each in (edit, edit.when):
        if each is not None and not isinstance(each.feature, Vector):
            panel.latent(each.sae, each.feature)
    if isinstance(edit.feature, Vector):
        site, shape = edit.feature.site, tuple(edit.feature.values.shape)
        if shape != (width := panel.lm.width(site),):
            raise KanaryError(f"{edit.target} has shape {[*shape]}, but activations at {site} have width {width}.")
        if not bool(torch.isfinite(edit.feature.values).all()):
            raise KanaryError(f"{edit.target} holds NaN or infinity.")


def _looked_at(panel: Steerable, asked: Sequence[Asked], observe: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    """The latents whose codes are needed, by SAE, in order of their numbers."""
    found: dict[str, set[int]] = {}
    for name, latents in observe.items():
        found.setdefault(panel.name(name), set()).update(panel.latent(name, latent) for latent in latents)
    for _, edit in asked:
        if not isinstance(edit.feature, Vector) and edit.kind != "project_out":
            found.setdefault(panel.name(edit.sae), set()).add(edit.feature)
        if edit.when is not None:
            found.setdefault(panel.name(edit.when.sae), set()).add(edit.when.feature)
    return {name: sorted(latents) for name, latents in found.items()}


def _latents(
    panel: Steerable,
    name: str,
    here: Sequence[Asked],
    looked: Mapping[str, list[int]],
    observe: Mapping[str, Sequence[int]],
    asked: Sequence[Asked],
) -> Latents:
    sae, device = panel.saes[name], panel.lm.device
    columns = torch.tensor(looked[name], dtype=torch.int64, device=device)
    lookup = torch.full((sae.d_sae,), -1, dtype=torch.int64, device=device)
    lookup[columns] = torch.arange(len(columns), device=device)
    mine = [
        each
        for each in here
        if not isinstance(each.edit.feature, Vector)
        and each.edit.kind != "project_out"
        and panel.name(each.edit.sae) == name
    ]
    changes = tuple(_change(panel, name, some, looked) for some in _rounds(mine))
    needed = name in {panel.name(n) for n in observe} or any(
        each.edit.when is not None and panel.name(each.edit.when.sae) == name for each in asked
    )
    straight = type(sae.decoder) is LinearDecoder and all(each.edit.kind == "add" for each in mine)
    return Latents(name, sae, columns, lookup, changes, SomeLatents(sae, columns), straight and not needed)


def _rounds(asked: Iterable[Asked]) -> list[list[Asked]]:
    """No round holds two edits of one latent in one row; they are made one after the other."""
    rounds: list[list[Asked]] = []
    times: dict[tuple[int, int], int] = {}
    for each in asked:
        assert isinstance(each.edit.feature, int)
        key = (each.row, each.edit.feature)
        times[key] = times.get(key, -1) + 1
        if times[key] == len(rounds):
            rounds.append([])
        rounds[times[key]].append(each)
    return rounds


def _change(panel: Steerable, name: str, asked: Sequence[Asked], looked: Mapping[str, list[int]]) -> Change:
    numbers = [_numbers(panel, each.edit) for each in asked]
    like = panel.saes[name].mean
    factor, shift, low, high = (
        torch.tensor(column, dtype=torch.float64).to(like) for column in zip(*numbers, strict=True)
    )
    columns = [looked[name].index(each.edit.feature) for each in asked]  # type: ignore[arg-type]
    return Change(
        _gates(panel, asked, looked),
        torch.tensor(columns, device=like.device),
        factor,
        shift,
        low,
        high,
        _drawn(panel, asked, like),
    )


def _numbers(panel: Steerable, edit: Edit) -> tuple[float, float, float, float]:
    """(factor, shift, low, high) of a :class:`Change`."""
    low, high = -math.inf, math.inf
    if edit.kind == "scale":
        return edit.amount, 0.0, low, high
    if edit.kind == "ablate":
        mean = 0.0
        if edit.to == "mean":
            mean = float(panel.ranges(edit.sae).mean[edit.feature])  # type: ignore[index]
        return 0.0, mean, low, high
    size = panel.size(edit)
    if edit.kind == "clamp":
        return (
            1.0,
            0.0,
            low if edit.low is None else edit.low * size,
            high if edit.high is None else edit.high * size,
        )
    return (1.0 if edit.kind == "add" else 0.0), edit.amount * size, low, high


def _drawn(panel: Steerable, asked: Sequence[Asked], like: Tensor) -> Tensor | None:
    """``[E, context]``; a value depends on seed, feature and position alone, so that a cache changes nothing."""
    if not any(each.edit.kind == "ablate" and each.edit.to == "resample" for each in asked):
        return None
    found = torch.zeros(len(asked), panel.lm.context, dtype=torch.float64)
    for row, (_, edit) in zip(found, asked, strict=True):
        if edit.kind == "ablate" and edit.to == "resample":
            assert isinstance(edit.feature, int)
            draw = torch.Generator().manual_seed((edit.seed * 1_000_003 + edit.feature) % 2**63)
            uniform = torch.rand(len(row), generator=draw, dtype=torch.float64)
            row.copy_(panel.ranges(edit.sae).drawn(edit.feature, uniform))
    return found.to(like)


def _directions(panel: Steerable, asked: Sequence[Asked], looked: Mapping[str, list[int]]) -> Directions | None:
    if not asked:
        return None
    vectors = []
    for _, edit in asked:
        if isinstance(edit.feature, Vector):
            vectors.append(edit.feature.values)
        else:
            vectors.append(panel.saes[panel.name(edit.sae)].W_dec[edit.feature].detach())
    device = panel.lm.device
    wide = torch.float64 if any(v.dtype == torch.float64 for v in vectors) else torch.float32
    stacked = torch.stack([v.to(device=device, dtype=wide) for v in vectors])
    amounts = torch.tensor([each.edit.amount for each in asked], dtype=wide, device=device)
    return Directions(_gates(panel, asked, looked), stacked, amounts)


def _gates(panel: Steerable, asked: Sequence[Asked], looked: Mapping[str, list[int]]) -> Gates:
    device = panel.lm.device

    def column(numbers: Iterable[int]) -> Tensor:
        return torch.tensor(list(numbers), dtype=torch.int64, device=device)

    wheres = [each.edit.where for each in asked]
    patterns = []
    for pattern in dict.fromkeys(where.pattern for where in wheres):
        if pattern is not None:
            words = torch.tensor([bool(re.search(pattern, word)) for word in panel.words], device=device)
            patterns.append((column(i for i, where in enumerate(wheres) if where.pattern == pattern), words))
    conditions = []
    for when in dict.fromkeys(each.edit.when for each in asked):
        if when is not None:
            size, name = panel.size(when), panel.name(when.sae)
            conditions.append(
                Held(
                    column(i for i, each in enumerate(asked) if each.edit.when == when),
                    name,
                    looked[name].index(when.feature),
                    -math.inf if when.above is None else when.above * size,
                    math.inf if when.below is None else when.below * size,
                    f"The condition on feature {when.feature}",
                )
            )
    return Gates(
        column(each.row for each in asked),
        column(where.start for where in wheres),
        column(NEVER if where.stop is None else where.stop for where in wheres),
        column(-NEVER if where.generated is None else where.generated for where in wheres),
        all((where.start, where.stop, where.generated) == (0, None, None) for where in wheres),
        tuple(patterns),
        tuple(conditions),
    )
