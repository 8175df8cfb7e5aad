"""From what a client asks for to an order for a model: prompt, steering and watches, looked up and checked."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from kanary.app.answers import Refused
from kanary.app.library import Entry, Kept, Library, indexed
from kanary.app.streams import Order
from kanary.app.texts import Whole
from kanary.errors import KanaryError
from kanary.interventions.edits import Edit
from kanary.interventions.generation import Request, check
from kanary.interventions.ranges import Ranges, ranges_of
from kanary.interventions.steer import Steering
from kanary.interventions.steerable import Steerable
from kanary.interventions.watch import Watch, open_watch, watch_names
from kanary.interventions.writing import watched
from kanary.lm import LanguageModel

LONGEST, MOST = 100_000, 4096
"""Characters of a prompt; tokens that may be asked for."""
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Stops = Annotated[list[Annotated[Whole, Field(max_length=200)]], Field(max_length=4)]
Edits = Annotated[list[dict[str, Any]], Field(max_length=64)]


class Asked(BaseModel):
    """A text to write, as the page asks for it."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    prompt: Annotated[Whole, Field(max_length=LONGEST)]
    tokens: Annotated[int, Field(ge=1, le=MOST)] = 64
    temperature: Annotated[float, Field(ge=0, le=10)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: Seed = 0
    stop: Stops = []
    edits: Edits = []
    """As :meth:`kanary.interventions.edits.Edit.to_json`; an SAE is named ``run/sae``, by default that of the address."""
    watch: Annotated[list[str], Field(max_length=16)] = []
    features: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=32)] = []
    """Latents whose codes are told for every token."""
    record: bool = False


class Orders:
    """Makes orders; keeps the measures of latents that strengths are given in."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self._ranges: Kept[Ranges] = Kept(16)
        self._fitting: Kept[None] = Kept(64)
        """Watches that were held against the weights of their SAE, which takes a hash of all of them."""

    def of_page(self, entry: Entry, asked: Asked) -> Order:
        """For ``POST …/write``: not on the event loop, because it may load the model.

        Raises:
            Refused, KanaryError: something is not there, or does not fit.
        """
        lm = self.library.model(entry)
        watches = tuple((entry, self.watch(entry, name)) for name in dict.fromkeys(asked.watch))
        request = Request(
            prompt_of(lm, asked.prompt),
            asked.tokens,
            asked.temperature,
            asked.top_p,
            asked.seed,
            edits=edits_of(asked.edits, entry),
            watched=_together(watched_by(watches), {entry.id: asked.features} if asked.features else {}),
        )
        about = {"model": lm.name, "prompt": asked.prompt, "seed": asked.seed, "temperature": asked.temperature}
        record = entry.run_folder if asked.record and watches else None
        return self.checked(lm, request, watches, stops=tuple(asked.stop), record=record, about=about)

    def watch(self, entry: Entry, name: str) -> Watch:
        """Raises :class:`Refused` (404) if the run has no such watch, or one of another SAE."""
        if name not in watch_names(entry.run_folder):
            raise Refused(
                404, f"{entry.run} has no watch {name[:80]!r}.", "Make it on the page Watch, or with kanary watch."
            )
        watch = open_watch(entry.run_folder, name)
        if watch.sae != entry.own_name:
            raise Refused(
                409, f"The watch {name!r} reads the SAE {watch.sae}, not {entry.own_name}.", "Choose that SAE."
            )
        self._fitting.get((entry.version, watch), lambda: watch.refuse_other(self.library.sae(entry)))
        return watch

    def reads(self, entry: Entry, name: str) -> bool:
        """Whether the watch called ``name`` of the SAE's run reads this SAE."""
        return open_watch(entry.run_folder, name).sae == entry.own_name

    def checked(
        self, lm: LanguageModel, request: Request, watches: Sequence[tuple[Entry, Watch]], **more: Any
    ) -> Order:
        """The order, once everything in it has been looked up. ``more`` as the fields of :class:`Order`.

        Raises:
            Refused, KanaryError: see :meth:`of_page`.
        """
        check(request, lm)
        steering = tuple(edit for entry, watch in watches for edit in watch.edits(entry.id))
        saes, ranges = {}, {}
        for id in dict.fromkeys([*_named((*request.edits, *steering)), *request.watched]):
            entry = self.library.entry(*id.split("/", 1)) if "/" in id else None
            if entry is None or self.library.model(entry) is not lm:
                raise Refused(422, f"There is no SAE {id[:80]!r} of this model.", "Name it as in /api/runs: run/sae.")
            saes[id] = self.library.sae(entry)
            if (found := self.ranges(entry)) is not None:
                ranges[id] = found
        if saes:
            panel = Steerable(lm, saes, ranges=ranges)
            for edits in (request.edits, steering):
                Steering(panel, list(edits), observe=request.watched)
        return Order(lm, request, saes, ranges, tuple(watches), **more)

    def ranges(self, entry: Entry) -> Ranges | None:
        """How large the SAE's codes get, if it has an index."""
        if not indexed(entry):
            return None
        return self._ranges.get(entry.version, lambda: ranges_of(self.library.index(entry)))


def prompt_of(lm: LanguageModel, text: str) -> tuple[int, ...]:
    """BOS, where the model has one, and the text's tokens; names of special tokens in the text are just text of theirs."""
    ids = lm.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return (*([] if lm.bos_id is None else [lm.bos_id]), *ids)


def edits_of(asked: Iterable[Mapping[str, Any]], entry: Entry | None) -> tuple[Edit, ...]:
    """Raises :class:`Refused` (422) at one that does not fit. ``entry``: the SAE of those that name none."""
    found = []
    for each in asked:
        try:
            edit = Edit.from_json(each)
        except KanaryError as error:
            raise Refused(422, f"edits: {error}", "Look at docs/steering.md for what an edit is.") from error
        named = edit.sae or (entry.id if entry else None)
        if named is None:
            raise Refused(422, f"edits: {edit.target} of which SAE?", 'Name it as in /api/runs: "sae": "run/sae".')
        when = None if edit.when is None else replace(edit.when, sae=edit.when.sae or named)
        found.append(replace(edit, sae=named, when=when))
    return tuple(found)


def watched_by(watches: Sequence[tuple[Entry, Watch]]) -> dict[str, list[int]]:
    """SAE's id -> the latents that the watches read.

    Raises:
        Refused: two of one name, whose values could not be told apart.
    """
    ids = {watch.name: entry.id for entry, watch in watches}
    if len(ids) < len(watches):
        raise Refused(422, "watch: two watches have the same name.", "Watch them in two requests.")
    return watched([watch for _, watch in watches], lambda watch: ids[watch.name])


def _together(*parts: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for part in parts:
        for sae, latents in part.items():
            found[sae] = list(dict.fromkeys([*found.get(sae, []), *latents]))
    return found


def _named(edits: Iterable[Edit]) -> list[str]:
    return [str(id) for edit in edits for id in (edit.sae, edit.when.sae if edit.when else None) if id is not None]
