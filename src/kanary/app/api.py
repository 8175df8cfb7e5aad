"""The addresses of the server: each takes what is asked for out of the library and answers in JSON."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi import Path as Part
from fastapi.telemetry import TelemetryConfig
from pydantic import BaseModel, ConfigDict, Field
from starlette.types import ASGIApp

from kanary.app import documents, reading, twins
from kanary.app.answers import Json, Problem, Refused, answer_errors
from kanary.app.export import html
from kanary.app.guard import Access, Limits, guarded
from kanary.app.lanes import Lane, Stop
from kanary.app.layout import Layout, layout
from kanary.app.library import Entry, Kept, Library
from kanary.app.openai import OpenAI, add_openai
from kanary.app.orders import Orders
from kanary.app.pages import STATIC, serve_page
from kanary.app.search import LATEST, search, with_scores
from kanary.app.search import Query as Search
from kanary.app.streams import Desks
from kanary.app.studying import add_studying
from kanary.app.texts import Whole
from kanary.app.watching import add_watching
from kanary.errors import KanaryError
from kanary.features.index import FeatureIndex
from kanary.features.lists import listed
from kanary.features.rounding import rounded

VERSION = version("kanary")
WAITING = 64
"""Requests that may wait for a model, or for long work, the one being served included."""
MOST_EXPORTED = 2000
Number = Annotated[int, Part(ge=0, le=LATEST)]
ListName = Annotated[str, Part(min_length=1, max_length=80, pattern=r"^[^\x00-\x1f\x7f/\\]+$")]


class Text(BaseModel):
    """A text to read, or one that a person wrote about a feature."""

    model_config = ConfigDict(extra="forbid")
    text: Whole


class Latents(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    latents: list[Annotated[int, Field(ge=0, le=LATEST)]]


class Service:
    """What the addresses share: the library, and a thread for each kind of long work, so that none waits for another."""

    def __init__(self, library: Library, watching: Sequence[str] = ()) -> None:
        """``watching``: names of watches that are on for every text that clients of OpenAI's interface ask for."""
        self.library = library
        self.reading, self.drawing, self.comparing, self.studying = self.lanes = [
            Lane(name, WAITING) for name in ("reading", "drawing", "comparing", "studying")
        ]
        self.orders, self.desks = Orders(library), Desks()
        self.openai = OpenAI(library, self.orders, self.reading, self.desks, watching)
        self.layouts: Kept[Layout] = Kept(16)
        self.comparisons: Kept[dict[str, Any]] = Kept(16)

    def close(self) -> None:
        self.desks.close()
        for lane in self.lanes:
            lane.close()

    def index(self, run: str, sae: str) -> FeatureIndex:
        return self.library.index(self.library.entry(run, sae))

    def within(self, index: FeatureIndex, latents: Sequence[int]) -> None:
        """Raises :class:`Refused` (404) at a latent that the SAE does not have."""
        if latents and max(latents) >= len(index):
            raise Refused(404, f"There is no latent {max(latents)}.", f"They go from 0 to {len(index) - 1}.")


def create_app(
    service: Service, access: Access | None = None, limits: Limits | None = None, static: Path = STATIC
) -> ASGIApp:
    """The whole application, guarded."""
    app = FastAPI(
        title="Kanary",
        version=VERSION,
        openapi_url="/api/openapi.json",
        docs_url=None,  # that page loads its scripts from elsewhere
        redoc_url=None,
        telemetry=TelemetryConfig(tracing=False, metrics=False, logs=False, auto_configure=False),
        redirect_slashes=False,
        default_response_class=Json,
        responses={422: {"model": Problem, "description": "A value that does not fit; other problems look alike"}},
    )
    answer_errors(app)
    for add in (_add_saes, _add_features, _add_people, _add_live, _add_long, add_watching, add_studying):
        add(app, service)
    add_openai(app, service.openai)
    serve_page(app, static)
    return guarded(app, access or Access(), limits)


def _add_saes(app: FastAPI, service: Service) -> None:
    library = service.library

    @app.get("/api/state")
    def state() -> Json:
        runs = {entry.run for entry in library.entries.values()}
        return Json({"version": VERSION, "runs": len(runs), "live": library.live()})

    @app.get("/api/runs")
    def runs() -> Json:
        """Every SAE at hand, with its numbers."""
        library.refresh()
        found: dict[str, dict[str, Any]] = {}
        for entry in library.entries.values():
            run = found.setdefault(entry.run, {"id": entry.run, "folder": str(entry.run_folder), "saes": []})
            run["saes"].append(library.row(entry))
        return Json(list(found.values()))

    @app.get("/api/saes/{run}/{sae}")
    def sae(run: str, sae: str) -> Json:
        """What the index is of, and the SAE's numbers."""
        entry = library.entry(run, sae)
        return Json({**library.index(entry).meta, "numbers": library.row(entry)})


def _add_features(app: FastAPI, service: Service) -> None:
    @app.get("/api/saes/{run}/{sae}/features/{latent}")
    def feature(run: str, sae: str, latent: Number) -> Json:
        """Everything that is known of a feature."""
        index = service.index(run, sae)
        service.within(index, [latent])
        return Json(index[latent].to_json())

    @app.get("/api/saes/{run}/{sae}/logit-moments")
    def moments(run: str, sae: str) -> Json:
        """Std, skewness and kurtosis of every feature's logit weights; empty where the SAE writes into no residual stream."""
        found = service.index(run, sae).logit_moments()
        return Json({name: rounded(values) for name, values in found.items()})

    @app.get("/api/saes/{run}/{sae}/search")
    def find(run: str, sae: str, query: Annotated[Search, Query()]) -> Json:
        """Features that have all that is asked for."""
        entry = service.library.entry(run, sae)
        index = service.library.index(entry)
        if query.like is not None:
            service.within(index, [query.like])
        return Json(search(index, query, lambda: service.library.sae(entry).W_dec))


def _add_people(app: FastAPI, service: Service) -> None:
    """What people write: their explanations and lists."""

    @app.put("/api/saes/{run}/{sae}/features/{latent}/human")
    def human(run: str, sae: str, latent: Number, body: Text) -> Json:
        """Replaces a person's text about a feature; an empty one deletes it."""
        index = service.index(run, sae)
        service.within(index, [latent])
        return Json(index.labels.set_human(latent, body.text) or {"text": "", "edited": None})

    @app.get("/api/saes/{run}/{sae}/lists")
    def lists(run: str, sae: str) -> Json:
        return Json(service.index(run, sae).labels.lists())

    @app.put("/api/saes/{run}/{sae}/lists/{name}")
    def save_list(run: str, sae: str, name: ListName, body: Latents) -> Json:
        index = service.index(run, sae)
        service.within(index, body.latents)
        latents = list(dict.fromkeys(body.latents))
        index.labels.save_list(name, latents)
        return Json({name: latents})

    @app.delete("/api/saes/{run}/{sae}/lists/{name}")
    def delete_list(run: str, sae: str, name: ListName) -> Json:
        labels = service.index(run, sae).labels
        if name not in labels.lists():
            raise Refused(404, f"There is no list {name!r}.", "Look at …/lists for those that are there.")
        labels.delete_list(name)
        return Json({})


def _add_live(app: FastAPI, service: Service) -> None:
    """What runs a model."""
    library = service.library

    @app.post("/api/saes/{run}/{sae}/live")
    async def live(request: Request, run: str, sae: str, body: Text) -> Json:
        """The latents on every token of a text."""
        entry = library.entry(run, sae)

        def work(stop: Stop) -> Json:
            lm = library.model(entry)
            return Json(reading.read(lm, library.sae(entry), body.text, stop))

        return await service.reading.run(request, work)

    @app.get("/api/saes/{run}/{sae}/documents/{id}")
    async def document(request: Request, run: str, sae: str, id: Number, latent: Annotated[int, Query(ge=0)]) -> Json:
        """A document, and the values of one latent in it."""
        entry = library.entry(run, sae)

        def work(stop: Stop) -> Json:
            index = library.index(entry)
            service.within(index, [latent])
            return Json(documents.document(index, id, latent, lambda: (library.model(entry), library.sae(entry)), stop))

        return await service.reading.run(request, work)


def _add_long(app: FastAPI, service: Service) -> None:
    """What takes seconds."""
    library = service.library

    @app.get("/api/saes/{run}/{sae}/columns")
    async def columns(request: Request, run: str, sae: str) -> Json:
        """A number of every feature in each column, and its place on the map."""
        entry = library.entry(run, sae)

        def work(_: Stop) -> Json:
            found = service.layouts.get(entry.version, lambda: layout(library.sae(entry).W_dec))
            return Json(_columns(library.index(entry), found))

        return await service.drawing.run(request, work)

    @app.get("/api/compare")
    async def compare(request: Request, sae: Annotated[list[str], Query(min_length=2, max_length=6)]) -> Json:
        """SAEs side by side."""
        entries = [library.entry(*_two(id)) for id in dict.fromkeys(sae)]
        if len(entries) < 2:
            raise Refused(422, "sae: only one SAE is named.", "Name two to six different ones.")

        def work(stop: Stop) -> Json:
            rows = [library.row(entry) for entry in entries]
            key = tuple(entry.version for entry in entries)
            return Json({"saes": rows, **service.comparisons.get(key, lambda: _compared(entries, library, stop))})

        return await service.comparing.run(request, work)

    @app.get("/api/saes/{run}/{sae}/export.html")
    async def export(
        request: Request, run: str, sae: str, features: Annotated[str, Query(max_length=20_000)]
    ) -> Response:
        """A file that opens offline, with the features asked for: ``1,5,10:20``."""
        index = service.index(run, sae)
        latents = chosen(index, features)

        def work(_: Stop) -> Response:
            file = f"{run}-{sae}.html"  # of the address, so of harmless characters alone
            headers = {"content-disposition": f'attachment; filename="{file}"', "content-security-policy": "sandbox"}
            return Response(html(index, latents), media_type="text/html", headers=headers)

        return await service.comparing.run(request, work)


def chosen(index: FeatureIndex, text: str) -> list[int]:
    """The latents that ``text`` names, see :func:`kanary.features.lists.listed`.

    Raises:
        Refused: it names none, something else, or too many.
    """
    try:
        found = listed(index, text)
    except KanaryError as error:
        raise Refused(422, f"features: {error}", "Write for example 1,5,10:20.") from error
    if len(found) > MOST_EXPORTED:
        raise Refused(422, f"features: {len(found):,} are asked for.", f"A file holds 1 to {MOST_EXPORTED:,}.")
    return found


def _columns(index: FeatureIndex, place: Layout) -> dict[str, Any]:
    columns, titles = with_scores(index), index.labels.titles()
    concepts = columns.get("concept")
    return {
        "density": rounded(columns["density"]),
        "maximum": rounded(columns["maximum"]),
        "fired": columns["fired"].tolist(),
        "label": [titles.get(latent) for latent in range(len(index))],
        "best_concept": [None] * len(index) if concepts is None else list(concepts),
        "score": rounded(columns["score"]),
        "x": rounded(place.xy[:, 0]),
        "y": rounded(place.xy[:, 1]),
        "map": {"method": "PCA of the decoder directions", "explained": place.explained},
    }


def _compared(entries: Sequence[Entry], library: Library, stop: Stop) -> dict[str, Any]:
    rows = [library.row(entry) for entry in entries]
    directions = [library.sae(entry).W_dec.detach().cpu() for entry in entries]
    known = [entry.known for entry in entries]
    return {**twins.comparison(rows, directions, stop), "notes": twins.notes(known, directions)}


def _two(id: str) -> tuple[str, str]:
    run, _, name = id.partition("/")
    return run, name
