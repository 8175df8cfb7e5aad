"""Addresses for studies of a running model that take seconds: strengths, attribution, features by prompts."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

from fastapi import FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field

from kanary.app.answers import Json
from kanary.app.events import Events, told
from kanary.app.lanes import Stop
from kanary.app.library import Entry
from kanary.app.orders import LONGEST, Edits, Seed, edits_of
from kanary.app.texts import Whole
from kanary.app.watching import Texts
from kanary.interventions.attribution import attribute
from kanary.interventions.prompt_search import search_prompts
from kanary.interventions.steerable import Steerable
from kanary.interventions.strength import SEEDS, sweep

if TYPE_CHECKING:
    from kanary.app.api import Service

Prompt = Annotated[Whole, Field(max_length=LONGEST)]


class AskedSweep(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    edits: Edits
    prompts: Annotated[list[Prompt], Field(min_length=1, max_length=8)]
    seeds: Annotated[list[Seed], Field(min_length=1, max_length=8)] = [*SEEDS]
    tokens: Annotated[int, Field(ge=4, le=200)] = 40
    temperature: Annotated[float, Field(ge=0, le=10)] = 0.7
    strengths: Annotated[list[float], Field(max_length=16)] = []


class AskedAttribution(BaseModel):
    model_config = ConfigDict(extra="forbid")
    prompt: Prompt
    token: Annotated[Whole, Field(max_length=200)] | None = None
    """By default the model's likeliest."""
    against: Annotated[Whole, Field(max_length=200)] | None = None
    position: int = -1


class AskedPrompts(BaseModel):
    model_config = ConfigDict(extra="forbid")
    positive: Texts
    negative: Texts


def add_studying(app: FastAPI, service: "Service") -> None:
    """Adds all of them to ``app``."""
    library = service.library

    @app.post("/api/saes/{run}/{sae}/sweep", response_model=None)
    async def try_strengths(request: Request, run: str, sae: str, body: AskedSweep) -> Json | Events:
        """How much of a feature is in the text, and how fluent it is, at several strengths.

        Server-sent events say how far it has come, if the client asks for these.
        """
        entry = library.entry(run, sae)

        def work(stop: Stop, tell: Callable[[int, int], None] | None = None) -> object:
            return _swept(service, entry, body, stop, tell)

        if "text/event-stream" in request.headers.get("accept", ""):
            return told(service.studying, work)
        return Json(await service.studying.run(request, work))

    @app.post("/api/saes/{run}/{sae}/attribute")
    async def attributed(request: Request, run: str, sae: str, body: AskedAttribution) -> Json:
        """Which features, at which tokens, raise the next token."""
        entry = library.entry(run, sae)

        def work(_: Stop) -> Json:
            lm = library.model(entry)
            found = attribute(
                lm, library.sae(entry), body.prompt, token=body.token, against=body.against, position=body.position
            )
            return Json(found.to_json())

        return await service.studying.run(request, work)

    @app.post("/api/saes/{run}/{sae}/search-prompts")
    async def separated(request: Request, run: str, sae: str, body: AskedPrompts) -> Json:
        """Which features tell the positive texts from the negative ones."""
        entry = library.entry(run, sae)

        def work(_: Stop) -> Json:
            lm = library.model(entry)
            return Json(search_prompts(lm, library.sae(entry), body.positive, body.negative).to_json())

        return await service.studying.run(request, work)


def _swept(
    service: "Service", entry: Entry, body: AskedSweep, stop: Stop, tell: Callable[[int, int], None] | None
) -> object:
    def counted(done: int, of: int) -> None:
        stop.check()
        if tell:
            tell(done, of)

    lm, ranges = service.library.model(entry), service.orders.ranges(entry)
    known = None if ranges is None else {entry.id: ranges}
    panel = Steerable(lm, {entry.id: service.library.sae(entry)}, ranges=known)
    edits = edits_of(body.edits, entry)
    return sweep(
        panel,
        edits,
        body.prompts,
        strengths=body.strengths or None,
        seeds=body.seeds,
        tokens=body.tokens,
        temperature=body.temperature,
        quiet=True,
        tell=counted,
    ).to_json()
