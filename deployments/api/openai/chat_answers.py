"""Answers in the shape of OpenAI's chat completions, which Mistral's fill-in-the-middle shares.

Source: https://platform.openai.com/docs/api-reference/chat/object and `.../chat/streaming`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from pydantic import BaseModel, Field

from deployments.api.common.context import ApiContext
from deployments.api.common.ended_by import EndedBy
from deployments.api.common.given_up import check_not_given_up
from deployments.api.common.streaming import DONE, sse
from deployments.api.openai.logprobs import chat_logprobs
from deployments.api.openai.schemas import (
    WARNINGS,
    Attributed,
    Usage,
    UsageCounter,
    attribution,
    ending,
    finish_reason,
)
from deployments.protocol import Delta, GenerationRequest
from monitoring.version import package_version


class ChatTopLogprob(BaseModel):
    token: str = Field(description="The token's text; what is no whole UTF-8 text shows as U+FFFD.")
    logprob: float = Field(description="Natural logarithm of its probability.")
    bytes: list[int] = Field(description="The token's bytes.")


class ChatTokenLogprob(ChatTopLogprob):
    top_logprobs: list[ChatTopLogprob] = Field(description="The most likely tokens at this place.")


class ChatLogprobs(BaseModel):
    content: list[ChatTokenLogprob] = Field(description="One entry for each generated token.")


class AnswerMessage(BaseModel):
    role: Literal["assistant"] = Field(description="Who speaks.")
    content: str = Field(description="The completion.")


class ChatChoice(BaseModel):
    index: int = Field(description="Number of the completion.")
    message: AnswerMessage = Field(description="The completion; in a stream, `delta` with the part that is new.")
    logprobs: ChatLogprobs | None = Field(default=None, description="Where they are asked for.")
    finish_reason: Literal["stop", "length", "content_filter"] = Field(
        description="`stop`: end-of-text or a stop string; `content_filter`: it would have repeated too much of "
        "somebody's code."
    )
    ended_by: EndedBy = None
    attribution: Attributed = None


class ChatCompletion(BaseModel):
    id: str = Field(description="Unique to the request; the same in every chunk of a stream.")
    object: Literal["chat.completion"] = Field(description="`chat.completion.chunk` in a stream.")
    created: int = Field(description="Unix seconds.")
    model: str = Field(description="Id of the model that answered.")
    system_fingerprint: str = Field(description="Name and version of the server: another one may answer otherwise.")
    choices: list[ChatChoice] = Field(description="The completions.")
    usage: Usage = Field(description="Tokens used.")
    warnings: list[str] | None = Field(default=None, description=WARNINGS)


UsageChunk = Literal["none", "own", "last"]
"""Where a stream says its usage: nowhere, in a chunk of its own, or in the chunk that ends the last completion."""


@dataclass
class ChatWriter:
    """Turns the deltas of one request with one prompt into chat completions.

    top_logprobs: alternatives to report for each token; None reports nothing.
    strip_start: drop white space before an answer's first word, which some prompts make the model begin with.
    silent: nothing was to be generated; the one token that the engine makes anyway is nobody's business.
    """

    api: ApiContext
    request: GenerationRequest
    model: str
    top_logprobs: int | None = None
    strip_start: bool = False
    usage_chunk: UsageChunk = "none"
    silent: bool = False

    def __post_init__(self) -> None:
        self.usage = UsageCounter(self.request, 0 if self.silent else self.request.params.max_tokens)
        self.head = {
            "id": f"chatcmpl-{self.request.request_id}",
            "created": int(time.time()),
            "model": self.model,
            "system_fingerprint": f"starcoder-serve-{package_version()}",
        }
        self.spoken: set[int] = set()
        self.dropped: dict[int, int] = {}  # characters before an answer's first word

    def to_json(self, deltas: list[Delta]) -> bytes:
        return msgspec.json.encode(self.to_response(deltas))

    def to_response(self, deltas: list[Delta]) -> dict[str, Any]:
        """One `ChatCompletion` of whole completions."""
        self.usage.add(deltas)
        choices = []
        for delta in sorted(deltas, key=lambda delta: delta.index):
            message = {"role": "assistant", "content": self.text(delta)}
            choices.append({"index": delta.index, "message": message, **self.rest(delta)})
        return {**self.head, "object": "chat.completion", "choices": choices, "usage": self.usage.usage()}

    async def to_events(self) -> AsyncGenerator[bytes, None]:
        """The chunks of a stream; the first of each completion carries its role."""
        head = {**self.head, "object": "chat.completion.chunk"}
        extra: dict[str, Any] = {"usage": None} if self.usage_chunk == "own" else {}
        introduced: set[int] = set()
        unfinished = self.request.best_of
        async with aclosing(self.api.backend.stream(self.request)) as updates:
            async for deltas in updates:
                self.usage.add(deltas)
                events = b""
                for delta in deltas:
                    content: dict[str, Any] = {"content": self.text(delta)}
                    choice = {"index": delta.index, "delta": content, **self.rest(delta)}
                    if not (content["content"] or choice["logprobs"] or delta.finish_reason):
                        continue
                    if delta.index not in introduced:
                        introduced.add(delta.index)
                        choice["delta"] = {"role": "assistant", **content}
                    unfinished -= delta.finish_reason is not None
                    if self.usage_chunk == "last" and not unfinished:
                        extra = {"usage": self.usage.usage()}
                    events += sse({**head, "choices": [choice], **extra})
                if events:
                    yield events
        if self.usage_chunk == "own":
            yield sse({**head, "choices": [], "usage": self.usage.usage()})
        yield DONE

    def text(self, delta: Delta) -> str:
        if self.silent:
            return ""
        if not self.strip_start or delta.index in self.spoken:
            return delta.text
        text = delta.text.lstrip()
        self.dropped[delta.index] = self.dropped.get(delta.index, 0) + len(delta.text) - len(text)
        if text:
            self.spoken.add(delta.index)
        return text

    def rest(self, delta: Delta) -> dict[str, Any]:
        check_not_given_up(delta)
        logprobs = None
        if self.top_logprobs is not None and delta.logprobs:
            logprobs = chat_logprobs(self.api.tokenizer, delta.logprobs, self.top_logprobs)
        if self.silent:
            return {"logprobs": None, "finish_reason": delta.finish_reason and "length", **ending(delta)}
        attributed = attribution(delta, shift=-self.dropped.get(delta.index, 0))
        return {"logprobs": logprobs, "finish_reason": finish_reason(delta), **ending(delta), **attributed}
