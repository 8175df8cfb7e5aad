"""The forms of OpenAI's interface, as far as Kanary fills them in: bodies of requests, and answers.

What a request may hold is what OpenAI's own clients send. A field that would change the text and is not supported is refused
unless it asks for nothing; fields that change nothing (``user``, ``metadata`` …) are ignored.
"""

import secrets
import time
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from kanary.app.orders import LONGEST, Edits, Seed
from kanary.app.texts import Whole

Id = Annotated[int, Field(ge=0)]
Content = Annotated[Whole, Field(max_length=LONGEST)]
Stop = Annotated[Whole, Field(max_length=200)]
MOST_TEXTS = 8
"""Prompts times ``n`` of one request."""


class Extra(BaseModel):
    """What Kanary adds: clients give it as ``extra_body={"kanary": {…}}``."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    watch: Annotated[list[str], Field(max_length=16)] | None = None
    """Names of watches; by default those of ``kanary serve --watch``."""
    steer: Edits = []
    """As :meth:`kanary.interventions.edits.Edit.to_json`, with ``sae`` as ``run/sae`` where the model has several."""


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="ignore")
    include_usage: bool = False


class Settings(BaseModel):
    """What both kinds of request have."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)
    model: Annotated[str, Field(max_length=1000)]
    temperature: Annotated[float, Field(ge=0, le=2)] | None = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] | None = 1.0
    n: Annotated[int, Field(ge=1, le=MOST_TEXTS)] | None = 1
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    kanary: Extra = Extra()
    presence_penalty: float | None = 0
    frequency_penalty: float | None = 0
    logit_bias: dict[str, float] | None = None

    @field_validator("presence_penalty", "frequency_penalty", "logit_bias")
    @classmethod
    def _neutral(cls, value: Any) -> Any:
        if value:
            raise ValueError(
                "this server does not change the model's probabilities so; leave it out, or steer a feature"
            )
        return value

    @property
    def stops(self) -> tuple[str, ...]:
        return tuple([self.stop] if isinstance(self.stop, str) else self.stop or ())

    def seeds(self, count: int) -> list[Seed]:
        """One for each text: from ``seed`` on, or made up."""
        first = secrets.randbits(62) if self.seed is None else self.seed
        return [(first + i) % 2**63 for i in range(count)]


class Part(BaseModel):
    model_config = ConfigDict(extra="ignore")
    type: Literal["text"]
    text: Content


class Message(BaseModel):
    model_config = ConfigDict(extra="ignore")
    role: Literal["system", "developer", "user", "assistant"]
    content: Content | Annotated[list[Part], Field(max_length=256)]

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class Chat(Settings):
    """``POST /v1/chat/completions``"""

    messages: Annotated[list[Message], Field(min_length=1, max_length=256)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: Literal[False] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None


class Completion(Settings):
    """``POST /v1/completions``"""

    prompt: (
        Content
        | Annotated[list[Id], Field(min_length=1, max_length=LONGEST)]
        | Annotated[list[Content], Field(min_length=1, max_length=MOST_TEXTS)]
        | Annotated[list[Annotated[list[Id], Field(min_length=1)]], Field(min_length=1, max_length=MOST_TEXTS)]
    )
    max_tokens: Annotated[int, Field(ge=1)] | None = 16
    echo: Literal[False] | None = None
    logprobs: Literal[0] | None = None
    suffix: Literal[""] | None = None
    best_of: Literal[1] | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """One or several, each as text or as ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [[int(id) for id in self.prompt]]
        return list(self.prompt)


def head(kind: Literal["chat.completion", "chat.completion.chunk", "text_completion"], model: str) -> dict[str, Any]:
    """What every part of one answer begins with."""
    prefix = "cmpl" if kind == "text_completion" else "chatcmpl"
    return {"id": f"{prefix}-{secrets.token_hex(12)}", "object": kind, "created": int(time.time()), "model": model}


def usage(prompt: int, written: int) -> dict[str, int]:
    """``prompt`` and ``written``: tokens."""
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}
