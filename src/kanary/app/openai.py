"""OpenAI's interface to the models at hand, so that a client that exists needs nothing but another base URL.

Every answer carries, in a field ``kanary`` of each choice that other clients ignore, the watches' values on every token.
"""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request

from kanary.app.answers import Json, Refused, openai_error
from kanary.app.events import DONE, Events, digits, event
from kanary.app.lanes import Lane, Stop
from kanary.app.library import Entry, Library
from kanary.app.openai_forms import MOST_TEXTS, Chat, Completion, Settings, head, usage
from kanary.app.orders import MOST, Orders, edits_of, prompt_of, watched_by
from kanary.app.streams import Client, Desks, End, Order
from kanary.errors import KanaryError, nearest
from kanary.interventions.generation import Request as Text
from kanary.interventions.watch import Watch, open_watch, watch_names
from kanary.interventions.writing import Piece
from kanary.lm import LanguageModel

REASONS = {"length": "length", "alarm": "content_filter"}
"""Why a text ended, in OpenAI's words; the others are ``stop``."""


class OpenAI:
    """Answers OpenAI's requests out of the library."""

    def __init__(self, library: Library, orders: Orders, lane: Lane, desks: Desks, watching: Sequence[str]) -> None:
        """
        Args:
            lane: where models are loaded.
            watching: names of the watches that are on unless a request names others.
        """
        self.library, self.orders, self.lane, self.desks, self.watching = library, orders, lane, desks, watching

    def models(self) -> dict[str, list[Entry]]:
        """A name for every model -> the SAEs that read it."""
        found: dict[str, list[Entry]] = {}
        for entry in self.library.entries.values():
            if name := self.library.model_name(entry):
                found.setdefault(Path(name).name if Path(name).is_absolute() else name, []).append(entry)
        return found

    async def orders_for(self, request: Request, body: Chat | Completion) -> list[Order]:
        """``n`` texts for each prompt.

        Raises:
            Refused, KanaryError: a model, watch or feature that is not there, or a prompt that is too long.
        """
        models = self.models()
        if body.model not in models:
            raise Refused(404, f"There is no model {body.model[:80]!r} here.", nearest(body.model, models))

        def work(_: Stop) -> list[Order]:
            return self._orders(body, models[body.model])

        return await self.lane.run(request, work)

    def _orders(self, body: Chat | Completion, entries: Sequence[Entry]) -> list[Order]:
        lm = self.library.model(entries[0])
        watches = self._watches(body, entries)
        prompts = [chat_ids(lm, body)] if isinstance(body, Chat) else [_ids(lm, each) for each in body.prompts]
        times = body.n or 1
        if len(prompts) * times > MOST_TEXTS:
            raise Refused(422, f"{len(prompts)} prompts times n={times}: {MOST_TEXTS} texts at most.", "Ask for fewer.")
        edits = edits_of(body.kanary.steer, entries[0] if len(entries) == 1 else None)
        most = body.max_tokens or (body.max_completion_tokens if isinstance(body, Chat) else None) or MOST
        texts = [prompt for prompt in prompts for _ in range(times)]
        found = []
        for prompt, seed in zip(texts, body.seeds(len(texts)), strict=True):
            text = Text(
                prompt,
                min(most, MOST),
                1.0 if body.temperature is None else body.temperature,
                body.top_p or 1.0,
                seed,
                edits=edits,
                watched=watched_by(watches),
            )
            found.append(self.orders.checked(lm, text, watches, stops=body.stops))
        return found

    def _watches(self, body: Settings, entries: Sequence[Entry]) -> list[tuple[Entry, Watch]]:
        """Those that the request names, or else those that the server was started with, as far as they are this model's."""
        asked = body.kanary.watch
        found = []
        for name in dict.fromkeys(self.watching if asked is None else asked):
            here = [entry for entry in entries if name in watch_names(entry.run_folder)]
            fits = [entry for entry in here if self.orders.reads(entry, name)]
            if fits:
                found.append((fits[0], self.orders.watch(fits[0], name)))
            elif asked is not None:
                raise Refused(404, f"No run of this model has a watch {name[:80]!r}.", "Make it with kanary watch.")
        return found


def watched_by_default(library: Library, watching: Sequence[str]) -> list[tuple[Entry, Watch]]:
    """Of every model the SAEs that the watches read, as requests get them; nothing is loaded.

    Raises:
        KanaryError: a watch that no run has, one whose SAE is not in its run any more, or a damaged file.
    """
    known = {name for entry in library.entries.values() for name in watch_names(entry.run_folder)}
    found: dict[tuple[str, str | None], tuple[Entry, Watch]] = {}
    for name in watching:
        if name not in known:
            hint = nearest(name, known) if known else "They have none: make one with kanary watch RUN --make NAME."
            raise KanaryError(f"None of these runs has a watch {name!r}. {hint}")
        for entry in library.entries.values():
            if name in watch_names(entry.run_folder):
                watch = open_watch(entry.run_folder, name)
                if watch.sae == entry.own_name:
                    found.setdefault((name, library.model_name(entry)), (entry, watch))
        if name not in {each for each, _ in found}:
            raise KanaryError(f"The SAE that the watch {name!r} reads is in none of these runs. Make the watch again.")
    return list(found.values())


def add_openai(app: FastAPI, openai: OpenAI) -> None:
    """Adds ``/v1/…`` to ``app``."""

    @app.get("/v1/models")
    def models() -> Json:
        """The language models that the SAEs at hand read."""
        rows = [{"id": name, "object": "model", "created": 0, "owned_by": "kanary"} for name in openai.models()]
        return Json({"object": "list", "data": rows})

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(request: Request, body: Chat) -> Json | Events:
        """What the model says next in a conversation."""
        return await _answer(openai, request, body)

    @app.post("/v1/completions", response_model=None)
    async def completions(request: Request, body: Completion) -> Json | Events:
        """How the model goes on with a text."""
        return await _answer(openai, request, body)


async def _answer(openai: OpenAI, request: Request, body: Chat | Completion) -> Json | Events:
    orders = await openai.orders_for(request, body)
    client = Client(orders)
    openai.desks.of(orders[0].lm).put(client.texts)
    if body.stream:
        return Events(_chunks(client, body), client.leave)
    texts = await client.collected(request)
    if problem := next((end.problem for _, end in texts if end.why == "error"), None):
        return Json(openai_error(problem, 409), 409)
    chat = isinstance(body, Chat)
    choices = [_choice(at, orders[at], pieces, end, chat) for at, (pieces, end) in enumerate(texts)]
    prompts = sum(len(order.request.prompt) for order in orders[:: body.n or 1])
    written = sum(piece.written for pieces, _ in texts for piece in pieces)
    kind = head("chat.completion" if chat else "text_completion", body.model)
    return Json({**kind, "choices": choices, "usage": usage(prompts, written)})


def _choice(at: int, order: Order, pieces: Sequence[Piece], end: End, chat: bool) -> dict[str, Any]:
    text = "".join(piece.text for piece in pieces) + end.rest
    said = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    tokens = [{"token": piece.token, "values": _values(piece)} for piece in pieces if piece.written]
    alarms = [alarm._asdict() for piece in pieces for alarm in piece.alarms]
    kanary = {"watches": _thresholds(order), "tokens": tokens if order.watches else [], "alarms": alarms}
    reason = REASONS.get(end.why, "stop")
    return {"index": at, **said, "finish_reason": reason, "logprobs": None, "kanary": {**kanary, "ended": end.why}}


async def _chunks(client: Client, body: Chat | Completion) -> AsyncIterator[str]:
    chat = isinstance(body, Chat)
    beginning = head("chat.completion.chunk" if chat else "text_completion", body.model)

    def chunk(at: int, text: str, reason: str | None, **more: Any) -> str:
        said: dict[str, Any] = {"delta": {"content": text} if text or not reason else {}} if chat else {"text": text}
        choice = {"index": at, **said, "finish_reason": reason, "logprobs": None, **more}
        return event({**beginning, "choices": [choice]})

    for at, text in enumerate(client.texts):
        more: dict[str, Any] = {"kanary": {"watches": _thresholds(text.order)}}
        if chat:
            start = {"index": at, "delta": {"role": "assistant", "content": ""}, "finish_reason": None, **more}
            yield event({**beginning, "choices": [start]})
        else:
            yield chunk(at, "", None, **more)
    written = 0
    async for at, each in client.events():
        if isinstance(each, Piece):
            written += each.written
            if each.written and (each.text or each.values):
                alarms = [alarm._asdict() for alarm in each.alarms]
                yield chunk(
                    at, each.text, None, kanary={"token": each.token, "values": _values(each), "alarms": alarms}
                )
        elif each.why == "error":
            yield event(openai_error(each.problem, 409))
        else:
            yield chunk(at, each.rest, REASONS.get(each.why, "stop"), kanary={"ended": each.why})
    if body.stream_options is not None and body.stream_options.include_usage:
        prompts = sum(len(text.order.request.prompt) for text in client.texts[:: body.n or 1])
        yield event({**beginning, "choices": [], "usage": usage(prompts, written)})
    yield DONE


def chat_ids(lm: LanguageModel, body: Chat) -> tuple[int, ...]:
    """A conversation in tokens: by the model's own template, or, where it has none, the messages under one another.

    Raises:
        Refused: the template does not take this conversation.
    """
    if not getattr(lm.tokenizer, "chat_template", None):
        return prompt_of(lm, "\n".join(message.text for message in body.messages))
    from jinja2 import TemplateError

    messages = [{"role": message.role, "content": message.text} for message in body.messages]
    try:
        text = lm.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except (TemplateError, ValueError, TypeError) as error:
        raise Refused(422, f"messages: the model's template refuses them: {error}", "Change roles or order.") from error
    return tuple(lm.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _ids(lm: LanguageModel, prompt: str | list[int]) -> tuple[int, ...]:
    if isinstance(prompt, str):
        return prompt_of(lm, prompt)
    if max(prompt) >= lm.vocab_size:
        raise Refused(422, f"prompt: there is no token {max(prompt)}.", f"They go from 0 to {lm.vocab_size - 1}.")
    return tuple(prompt)


def _values(piece: Piece) -> dict[str, float]:
    return {name: digits(value) for name, value in piece.values.items()}


def _thresholds(order: Order) -> dict[str, float]:
    return {watch.name: watch.threshold for _, watch in order.watches}
