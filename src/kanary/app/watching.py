"""Addresses that write texts and watch them: a stream of pieces, the watches of a run, and its recorded traces."""

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Request
from fastapi import Path as Part
from pydantic import BaseModel, ConfigDict, Field

from kanary.app.answers import Json, Refused
from kanary.app.events import Events, page_events
from kanary.app.lanes import Stop
from kanary.app.library import Entry
from kanary.app.orders import Asked, Edits, edits_of
from kanary.app.streams import Client, Order
from kanary.app.texts import Whole
from kanary.interventions.making import Examples, make_watch
from kanary.interventions.steerable import Steerable
from kanary.interventions.traces import read_trace, trace_names
from kanary.interventions.watch import FOLDER, NAME, Action, Watch, named, open_watch, save, watch_names

if TYPE_CHECKING:
    from kanary.app.api import Service

TRACES = 200
"""The newest that are listed."""
WatchName = Annotated[str, Part(pattern=f"^{NAME.pattern}$")]
Texts = Annotated[list[Annotated[Whole, Field(max_length=20_000)]], Field(max_length=2000)]


class NewWatch(BaseModel):
    """A watch to make. Addresses that are told of alarms can be named on the command line only, not by a page."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    weights: Annotated[list[tuple[Annotated[int, Field(ge=0)], float]], Field(max_length=64)] = []
    """(latent, weight); none: the feature that separates the texts best."""
    positive: Texts
    negative: Texts
    false_alarms: Annotated[float, Field(ge=0, lt=1)] = 0.01
    on_alarm: Action = "log"
    steer: Edits = []


def add_watching(app: FastAPI, service: "Service") -> None:
    """Adds all of them to ``app``."""
    _add_writing(app, service)
    _add_watches(app, service)
    _add_traces(app, service)


def _add_writing(app: FastAPI, service: "Service") -> None:
    @app.post("/api/saes/{run}/{sae}/write", response_model=None)
    async def write(request: Request, run: str, sae: str, body: Asked) -> Events:
        """Writes a text, steered and watched as is asked; server-sent events, a piece per token."""
        entry = service.library.entry(run, sae)

        def work(_: Stop) -> Order:
            return service.orders.of_page(entry, body)

        order = await service.reading.run(request, work)
        client = Client([order])
        service.desks.of(order.lm).put(client.texts)
        return Events(page_events(client, entry.id, body.features), client.leave)


def _add_watches(app: FastAPI, service: "Service") -> None:
    library = service.library

    @app.get("/api/saes/{run}/{sae}/watches")
    def watches(run: str, sae: str) -> Json:
        """Those of the run that read this SAE."""
        entry = library.entry(run, sae)
        found = [open_watch(entry.run_folder, name) for name in watch_names(entry.run_folder)]
        return Json([watch.to_json() for watch in found if watch.sae == entry.own_name])

    @app.put("/api/saes/{run}/{sae}/watches/{name}")
    async def make(request: Request, run: str, sae: str, name: WatchName, body: NewWatch) -> Json:
        """Chooses a threshold on the texts, measures it, and keeps the watch under that name."""
        entry = library.entry(run, sae)

        def work(_: Stop) -> Json:
            watch = _made(service, entry, name, body)
            save(watch, entry.run_folder)
            return Json(watch.to_json())

        return await service.reading.run(request, work)

    @app.delete("/api/saes/{run}/{sae}/watches/{name}")
    def delete(run: str, sae: str, name: WatchName) -> Json:
        entry = library.entry(run, sae)
        if name not in watch_names(entry.run_folder):
            raise Refused(404, f"{entry.run} has no watch {name!r}.", "Look at …/watches for those that are there.")
        (entry.run_folder / FOLDER / f"{name}.json").unlink(missing_ok=True)
        return Json({})


def _made(service: "Service", entry: Entry, name: str, body: NewWatch) -> Watch:
    lm = service.library.model(entry)
    steer = edits_of(body.steer, entry)
    if steer and {edit.sae for edit in steer} != {entry.id}:
        raise Refused(422, "steer: a watch steers with features of its own SAE.", "Leave sae out.")
    ranges = service.orders.ranges(entry)
    panel = Steerable(
        lm, {entry.own_name: service.library.sae(entry)}, ranges=None if ranges is None else {entry.own_name: ranges}
    )
    return make_watch(
        panel,
        entry.own_name,
        name,
        dict(body.weights) or None,
        Examples(body.positive, body.negative),
        false_alarms=body.false_alarms,
        on_alarm=body.on_alarm,
        steer=named(steer, entry.own_name),
        quiet=True,
    )


def _add_traces(app: FastAPI, service: "Service") -> None:
    @app.get("/api/saes/{run}/{sae}/traces")
    def traces(run: str, sae: str) -> Json:
        """The newest recorded texts of the run, without their tokens."""
        entry = service.library.entry(run, sae)
        rows: list[dict[str, Any]] = []
        for name in trace_names(entry.run_folder)[:TRACES]:
            trace = read_trace(entry.run_folder, name)
            rows.append({**trace.to_json(), "tokens": len(trace.tokens), "alarms": len(trace.alarms)})
        return Json(rows)

    @app.get("/api/saes/{run}/{sae}/traces/{name}")
    def trace(run: str, sae: str, name: str) -> Json:
        """A recorded text with every value."""
        entry = service.library.entry(run, sae)
        if name not in trace_names(entry.run_folder):
            raise Refused(404, f"{entry.run} has no trace {name[:80]!r}.", "Look at …/traces for those that are there.")
        return Json(read_trace(entry.run_folder, name).to_json())
