"""A Hugging Face model on this machine as a back end: it fills in a form, so that its answers always have the right shape.

The braces and keys of the answer are written for it; it chooses among the values that the schema allows, token by token, and
writes texts until it closes the quotation. So a model of any size answers, fewer tokens are computed, and the probabilities of
digits come for free.
"""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kanary.explain.asking import Answer, Request
from kanary.explain.schema import Schema
from kanary.explain.spending import Spent
from kanary.explain.types import Failed
from kanary.lm import LanguageModel, load_model

_LONGEST_TEXT = 80  # tokens of one text in an answer
_CANDIDATES = 64  # likeliest tokens, of which one that does not close the quotation begins a text


class Local:
    """
    Args:
        model: a folder, an id on the Hub, or a model that is loaded. No code that comes with it runs.

    Raises:
        KanaryError: the model cannot be loaded.
    """

    def __init__(self, model: str | LanguageModel) -> None:
        self.lm = model if isinstance(model, LanguageModel) else load_model(model)
        self.calls = self.tokens_in = self.tokens_out = self.failures = 0
        self.reason = ""
        self._turn = asyncio.Lock()

    @property
    def name(self) -> str:
        return f"local:{self.lm.name}"

    @property
    def identity(self) -> str:
        return f"local {self.lm.fingerprint} {self.lm.tokenizer_fingerprint} {self.lm.dtype}"

    @property
    def spent(self) -> Spent:
        return Spent(self.calls, 0, self.tokens_in, self.tokens_out, None, 0.0, 0, self.failures, self.reason)

    async def answer(self, request: Request) -> Answer:
        """Raises :class:`Failed` when the question does not fit into the model's window."""
        async with self._turn:
            try:
                found = await asyncio.to_thread(self._filled, request)
            except Failed as failure:
                self.failures += 1
                self.reason = str(failure).removeprefix(f"{self.name} ")
                raise
        self.calls += 1
        self.tokens_in += found.tokens_in
        self.tokens_out += found.tokens_out
        return found

    def _filled(self, request: Request) -> Answer:
        ids = prompt_ids(self.lm, request)
        if (room := self.lm.context - len(ids)) < request.max_tokens // 4:
            raise Failed(f"{self.name} reads {self.lm.context:,} tokens, and the question alone has {len(ids):,}")
        with self.lm.alone(), torch.no_grad():
            pen = _Pen(self.lm, ids, room)
            text, chances = _fill(pen, request.schema)
        return Answer(text, len(ids), pen.written, chances=chances)


def prompt_ids(lm: LanguageModel, request: Request) -> list[int]:
    """The question as the model's own chat template puts it; as plain text where it has none."""
    tokenizer = lm.tokenizer
    messages = [{"role": message.role, "content": message.text} for message in request.messages]
    if getattr(tokenizer, "chat_template", None):
        try:
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception:  # a template of its own may refuse the role of a system
            first = {"role": "user", "content": f"{messages[0]['content']}\n\n{messages[1]['content']}"}
            text = tokenizer.apply_chat_template([first, *messages[2:]], tokenize=False, add_generation_prompt=True)
        return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    text = "\n\n".join(message["content"] for message in messages) + "\n\nAnswer: "
    start = [] if lm.bos_id is None else [lm.bos_id]
    return start + list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


class _Pen:
    """Writes after a prompt, keeping what the model has computed."""

    def __init__(self, lm: LanguageModel, prompt: Sequence[int], room: int) -> None:
        self.lm, self.room, self.written = lm, room, 0
        self._cache: Any = None
        self._logits = self._read(prompt)

    def write(self, text: str) -> None:
        self._add(self._ids(text))

    def choose(self, options: Sequence[str]) -> list[float]:
        """The probability of each option, of which none begins another, as the next text; the likeliest one is written."""
        ids = [self._ids(option) for option in options]
        chances = [1.0] * len(options)
        alive, depth = list(range(len(options))), 0
        while len(alive) > 1:
            tokens = sorted({ids[i][depth] for i in alive})
            logits = self._logits[tokens].double()
            weights = dict(zip(tokens, logits.softmax(0).tolist(), strict=True))
            for i in alive:
                chances[i] *= weights[ids[i][depth]]
            best = max(tokens, key=lambda token: weights[token])
            for i in set(alive) - {i for i in alive if ids[i][depth] == best}:
                chances[i] /= sum(ids[j][depth] == ids[i][depth] for j in alive)
            alive = [i for i in alive if ids[i][depth] == best]
            depth += 1
            self._add([best])
        self._add(ids[alive[0]][depth:])
        return chances

    def text(self) -> str:
        """What the model writes until it closes the quotation or the line; at least one word, or a question mark."""
        ids: list[int] = []
        found = ""
        while len(ids) < _LONGEST_TEXT:
            token, found, ends = self._next(ids)
            if ends:
                break
            ids.append(token)
            self._add([token])
        return found.strip(" \\\ufffd") or "?"

    def _next(self, ids: list[int]) -> tuple[int, str, bool]:
        """The likeliest next token, the text with it, and whether it ends there; an empty text does not if it need not."""
        first: tuple[int, str, bool] | None = None
        for token in self._logits.topk(min(_CANDIDATES, len(self._logits))).indices.tolist():
            whole = self.lm.tokenizer.decode([*ids, *([] if token in self.lm.special_ids else [token])])
            text = whole.replace("\n", '"').partition('"')[0]
            option = token, text, text != whole or token in self.lm.special_ids
            if text.strip():
                return option
            first = first or option
        assert first is not None
        return first

    def _ids(self, text: str) -> list[int]:
        return list(self.lm.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _add(self, ids: Sequence[int]) -> None:
        if ids:
            self.written += len(ids)
            if self.written > self.room:
                raise Failed(f"local:{self.lm.name} reads {self.lm.context:,} tokens, and the answer goes beyond them")
            self._logits = self._read(ids)

    def _read(self, ids: Sequence[int]) -> Tensor:
        tokens = torch.tensor([list(ids)], device=self.lm.device)
        out = self.lm.model(input_ids=tokens, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        self._cache = out.past_key_values
        logits: Tensor = out.logits[0, -1].float().cpu()
        return logits


def _fill(pen: _Pen, schema: Schema) -> tuple[str, dict[int, tuple[float, ...]]]:
    """The answer as JSON, and the probabilities of its digits by their places."""
    text, chances = "{", {}
    pen.write("{")
    for number, (name, part) in enumerate(schema["properties"].items()):
        key = f"{', ' if number else ''}{json.dumps(name)}: "
        text += key
        if part["type"] == "string" and "enum" not in part:
            pen.write(key + '"')
            value = json.dumps(pen.text(), ensure_ascii=False)
            pen.write('"')
        else:
            pen.write(key.rstrip())
            value, digits = _choice(pen, part)
            if digits:
                chances[len(text)] = digits
        text += value
    return text + "}", chances


def _choice(pen: _Pen, schema: Schema) -> tuple[str, tuple[float, ...]]:
    """One of the values that are allowed, as JSON; of digits also their probabilities."""
    if schema["type"] == "string":
        options = [json.dumps(option) for option in schema["enum"]]
        return options[_best(pen.choose([f" {option}" for option in options]))], ()
    low, high = schema["minimum"], schema["maximum"]
    found = pen.choose([f" {value}" for value in range(low, high + 1)])
    digits = [0.0] * low + found + [0.0] * (9 - high)
    return str(low + _best(found)), tuple(digits) if 0 <= low < high <= 9 else ()


def _best(chances: Sequence[float]) -> int:
    return max(range(len(chances)), key=lambda i: chances[i])
