"""Refactoring: `POST /v1/refactor` changes code as an instruction says, and answers with the new code and a diff.

A route of this server's own, over StarCoder's commit format (`model/text/commit.py`). What the model says is taken as
the whole new code. The format has no place for a language or a path: they name the files in the diff.
"""

from __future__ import annotations

import asyncio
import difflib
import re
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response

from deployments.api.common.context import ApiContext
from deployments.api.common.dialect import Dialect
from deployments.api.common.examples import example
from deployments.api.common.fitting import fit_prompts
from deployments.api.common.given_up import check_not_given_up
from deployments.api.common.json_body import JsonRoute
from deployments.api.common.line_ends import dos_prompts, unix
from deployments.api.common.rendering import Rendering
from deployments.api.common.sampling import SamplingFields
from deployments.api.common.section import CHAT
from deployments.api.common.streaming import DONE, EVENT_STREAM_CONTENT, EventStream, sse
from deployments.api.openai.schemas import ERROR_RESPONSES, Usage, UsageCounter
from deployments.api.parameters.length import MAX_TOKENS
from deployments.api.parameters.temperature import TEMPERATURE
from deployments.errors import ContextLengthError, InvalidRequestError
from deployments.protocol import Delta, GenerationRequest
from model.text.commit import render_commit
from model.text.fim import UnsupportedError
from model.text.prompts import Plain

DIALECT = Dialect("refactor", "")

_TEMPERATURE = 0.2
_MAX_DIFF_CHARS = 200_000
_MAX_DIFF_PAIRS = 2_000_000
"""Lines of the old code times lines of the new between what they begin and end with alike: about 0.3 s of comparing."""

_GROWTH, _LEAST_TOKENS = 2, 256
"""Without `max_tokens`, new code may have twice the tokens of the old, and these at least."""


class RefactorRequest(SamplingFields):
    """Unknown fields are ignored; null stands for a field's default."""

    model_config = example(
        "Rename a name",
        code="def total(a, b):\n    x = a + b\n    return x\n",
        instruction="Rename x to result",
        filename="total.py",
        temperature=0,
    )

    model: str | None = Field(default=None, description="Id of the model; the served one if left out.")
    code: str = Field(description="The code to change. Plain text always.")
    instruction: str = Field(
        min_length=1, description="What to change, as a commit message says it. Plain text always."
    )
    language: str | None = Field(
        default=None, max_length=64, description="Language of the code: names the file in the diff without `filename`."
    )
    filename: str | None = Field(default=None, max_length=4096, description="Path of the file: named in the diff.")
    temperature: float = TEMPERATURE.field(default=_TEMPERATURE)
    max_tokens: int | None = MAX_TOKENS.field(
        default=None, ge=1, description="Most tokens of the new code; left out: twice those of the old."
    )
    stream: bool = Field(default=False, description="Answer with server-sent events as tokens come.")
    user: str | None = Field(default=None, max_length=1024, description="Your name for your end user.")

    @property
    def path(self) -> str:
        return (self.filename or self.language or "code").translate({10: " ", 13: " "})


class Refactoring(BaseModel):
    id: str = Field(description="Unique to the request.")
    object: Literal["refactoring"] = Field(description="`refactoring.chunk` in a stream.")
    model: str = Field(description="Id of the model that answered.")
    code: str = Field(description="The new code; in a stream, the part that is new.")
    diff: str | None = Field(
        description="Unified diff from the old code to the new, empty where they are equal. Null if the code is too "
        "long to compare."
    )
    finish_reason: Literal["stop", "length"] = Field(description="`length`: the new code is cut off.")
    usage: Usage = Field(description="Tokens used.")


async def to_generation_request(body: RefactorRequest, api: ApiContext) -> GenerationRequest:
    """Translate; raise InvalidRequestError, ContextLengthError or ModelNotFoundError."""
    model = await api.served_model(body.model)
    if api.tokenizer.least_tokens(body.code, body.instruction) >= model.max_model_len:
        raise _too_long(model.max_model_len, "more")
    try:
        ids = await asyncio.to_thread(render_commit, api.tokenizer, unix(body.code), unix(body.instruction))
    except UnsupportedError as error:
        raise InvalidRequestError(f"{error}.", code="invalid_value") from error
    try:
        unasked = max(_GROWTH * len(ids), _LEAST_TOKENS)
        fitted = await fit_prompts(api, model, [ids], Rendering(), body.max_tokens, unasked=unasked)
    except ContextLengthError:
        raise _too_long(model.max_model_len, str(len(ids) + (body.max_tokens or 1))) from None
    return GenerationRequest(
        request_id=uuid.uuid4().hex,
        prompts=fitted.prompts,
        params=body.to_params(max_tokens=fitted.max_tokens, limits=api.limits, vocab_size=api.tokenizer.vocab_size),
        stop=body.stop,
        skip_special=body.skip_special_tokens,
        special_tokens=not body.skip_special_tokens,
        user=body.user,
        dos_prompts=dos_prompts(api.tokenizer, [body.code], Plain()),
    )


def _too_long(window: int, needed: str) -> ContextLengthError:
    return ContextLengthError(
        f"This model's maximum context length is {window} tokens, but the code, the instruction and the new code "
        f"need {needed}. Send the part that is to change.",
        param="code",
    )


def unified_diff(before: str, after: str, path: str) -> str | None:
    """As `diff -u` writes it, for `patch` and `git apply`; None where that would take long.

    `difflib` takes time by the product of both.
    """
    old, new = _lines(before), _lines(after)
    alike = _alike(old, new)
    alike += _alike(old[alike:][::-1], new[alike:][::-1])
    if len(before) + len(after) > _MAX_DIFF_CHARS or (len(old) - alike) * (len(new) - alike) > _MAX_DIFF_PAIRS:
        return None
    lines = difflib.unified_diff(old, new, f"a/{path}", f"b/{path}")
    return "".join(line if line.endswith("\n") else line + "\n\\ No newline at end of file\n" for line in lines)


def _alike(old: list[str], new: list[str]) -> int:
    """How many lines both begin with."""
    pairs = enumerate(zip(old, new, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(old), len(new)))


def _lines(text: str) -> list[str]:
    # `splitlines` would also split where `patch` sees one line: at form feeds, U+2028 and others.
    return [line for line in re.split(r"(?<=\n)", text) if line]


@dataclass
class RefactorWriter:
    """Turns the deltas of one request into refactorings."""

    api: ApiContext
    body: RefactorRequest
    request: GenerationRequest
    model: str

    def __post_init__(self) -> None:
        self.usage = UsageCounter(self.request, self.request.params.max_tokens)
        self.head = {"id": f"refactor-{self.request.request_id}", "model": self.model}

    async def to_response(self, delta: Delta) -> dict[str, Any]:
        """One `Refactoring`."""
        self.usage.add([delta])
        return {**self.head, "object": "refactoring", "code": delta.text, **await self.ending(delta, delta.text)}

    async def to_events(self) -> AsyncGenerator[bytes, None]:
        """The new code in parts; the last chunk carries the diff."""
        code, head = "", {**self.head, "object": "refactoring.chunk"}
        async with aclosing(self.api.backend.stream(self.request)) as updates:
            async for (delta,) in updates:
                self.usage.add([delta])
                code += delta.text
                if delta.finish_reason is not None:
                    yield sse({**head, "code": delta.text, **await self.ending(delta, code)})
                elif delta.text:
                    yield sse({**head, "code": delta.text, "finish_reason": None})
        yield DONE

    async def ending(self, delta: Delta, code: str) -> dict[str, Any]:
        check_not_given_up(delta)
        diff = await asyncio.to_thread(unified_diff, self.body.code, code, self.body.path)
        return {"diff": diff, "finish_reason": delta.finish_reason, "usage": self.usage.usage()}


def create_router(api: ApiContext) -> APIRouter:
    router = APIRouter(route_class=JsonRoute.of(DIALECT), tags=[CHAT.name])

    @router.post(
        "/v1/refactor",
        response_model=Refactoring,
        responses={
            200: {
                "description": "The new code and a diff; with `stream`, server-sent events of `refactoring.chunk` "
                "objects, the last with the diff.",
                "content": EVENT_STREAM_CONTENT,
            },
            **ERROR_RESPONSES,
        },
        summary="Change code as an instruction says",
    )
    async def refactor(body: RefactorRequest) -> Response:
        request = await to_generation_request(body, api)
        writer = RefactorWriter(api, body, request, (await api.model()).id)
        if body.stream:
            return await EventStream.open(writer.to_events())
        (delta,) = await api.backend.generate(request)
        return Response(msgspec.json.encode(await writer.to_response(delta)), media_type="application/json")

    return router
