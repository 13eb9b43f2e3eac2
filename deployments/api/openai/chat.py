"""OpenAI's chat completions: `POST /v1/chat/completions`.

Source: https://platform.openai.com/docs/api-reference/chat. StarCoder completes text: a conversation is written as
one (`chat_prompt`), and what follows is the answer. Without `max_completion_tokens` or `max_tokens` it may fill the
window; llama.cpp's `n_predict` 0 warms the cache. Tools are not offered to the model; an answer is text always.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import Literal

from fastapi import APIRouter
from pydantic import Field, model_validator
from starlette.responses import Response

from deployments.api.common.context import ApiContext
from deployments.api.common.dialect import Dialect
from deployments.api.common.examples import example
from deployments.api.common.fitting import fit_prompts
from deployments.api.common.json_body import JsonRoute
from deployments.api.common.off_loop import is_long, off_loop
from deployments.api.common.rendering import Rendering
from deployments.api.common.sampling import DialectModel, SamplingFields
from deployments.api.common.section import CHAT
from deployments.api.common.streaming import EVENT_STREAM_CONTENT, EventStream
from deployments.api.openai.chat_answers import ChatCompletion, ChatWriter
from deployments.api.openai.chat_prompt import Turn, render_chat
from deployments.api.openai.completions import StreamOptions
from deployments.api.openai.schemas import ERROR_RESPONSES, ModelName
from deployments.api.parameters.bounds import INT32_MAX
from deployments.api.parameters.length import MAX_TOKENS
from deployments.api.parameters.logprobs import LOGPROBS
from deployments.errors import ContextLengthError
from deployments.protocol import GenerationRequest, ModelInfo

DIALECT = Dialect("openai_chat", "OpenAI")


class ContentPart(DialectModel):
    type: Literal["text"] = Field(description="Text is all this model reads.")
    text: str = Field(description="The text.")


class ChatMessage(DialectModel):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"] = Field(description="Who speaks.")
    content: str | list[ContentPart] = Field(default="", description="What is said.")

    def to_turn(self) -> Turn:
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Turn("system" if self.role == "developer" else self.role, text)


class ResponseFormat(DialectModel):
    type: Literal["text"] = Field(description="JSON modes are not offered.")


class ChatRequest(SamplingFields):
    """Unknown fields are ignored; null stands for a field's default."""

    passed_over = frozenset({"cache_prompt", "id_slot", "response_fields", "samplers"})  # of llama.cpp's clients
    model_config = example(
        "Ask for code",
        messages=[{"role": "user", "content": "Write a Python function that reverses a string."}],
        max_completion_tokens=64,
        temperature=0,
    )

    model: ModelName = Field(default=None, description="Id of the model; the served one if left out.")
    messages: list[ChatMessage] = Field(
        min_length=1, max_length=4096, description="The conversation. An assistant's message at its end is continued."
    )
    max_completion_tokens: int | None = MAX_TOKENS.field(
        default=None, ge=1, description="Most tokens of the answer; left out: what the window holds."
    )
    max_tokens: int | None = MAX_TOKENS.field(default=None, ge=1, description="Older name of the same.")
    n_predict: int | None = MAX_TOKENS.field(
        default=None,
        ge=-2,
        description="llama.cpp's name of it. 0 reads the conversation into the cache only; less: as if left out.",
    )
    n: int = Field(default=1, ge=1, le=INT32_MAX, description="Answers to give.")
    logprobs: bool = Field(default=False, description="Report the log-probability of each token.")
    top_logprobs: int | None = LOGPROBS.field(description="Report this many alternatives too; needs `logprobs`.")
    response_format: ResponseFormat | None = Field(default=None, description="Text only.")
    stream: bool = Field(default=False, description="Answer with server-sent events as tokens come.")
    stream_options: StreamOptions | None = Field(default=None, description="Only with `stream`.")
    user: str | None = Field(default=None, max_length=1024, description="Your name for your end user.")

    @model_validator(mode="after")
    def _fields_agree(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs is only allowed with logprobs")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is only allowed with stream")
        return self

    @property
    def limit(self) -> int | None:
        """Most tokens of the answer; 0 wants none, None leaves it open."""
        given = self.max_completion_tokens or self.max_tokens
        return self.n_predict if given is None and (self.n_predict or 0) >= 0 else given

    @property
    def alternatives(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None


async def to_generation_request(body: ChatRequest, api: ApiContext) -> tuple[GenerationRequest, bool]:
    """Translate; the flag says that the prompt is a dialogue in plain text.

    Raises InvalidRequestError, ContextLengthError or ModelNotFoundError.
    """
    model = await api.served_model(body.model)
    api.check_fan_out(1, body.n)
    turns = [message.to_turn() for message in body.messages]
    wanted = body.limit
    least = api.tokenizer.least_tokens(*(turn.content for turn in turns))
    if least >= model.max_model_len:
        # Said without tokenizing megabytes first.
        raise _too_long(model, f"at least {least}", wanted)
    prompt = await asyncio.to_thread(render_chat, api.tokenizer, turns)
    try:
        fitted = await fit_prompts(api, model, [prompt.ids], Rendering(), wanted)
    except ContextLengthError:
        raise _too_long(model, str(len(prompt.ids)), wanted) from None
    params = body.to_params(
        max_tokens=fitted.max_tokens,
        limits=api.limits,
        vocab_size=api.tokenizer.vocab_size,
        logprobs=body.alternatives,
    )
    request = GenerationRequest(
        request_id=uuid.uuid4().hex,
        prompts=fitted.prompts,
        params=params,
        n=body.n,
        best_of=body.n,
        stop=(*body.stop, *prompt.stops),
        include_stop=body.include_stop_str_in_output,
        skip_special=body.skip_special_tokens,
        special_tokens=not (body.skip_special_tokens and prompt.plain),  # a template's turns end in some
        user=body.user,
    )
    return request, prompt.plain


def _too_long(model: ModelInfo, message_tokens: str, wanted: int | None) -> ContextLengthError:
    return ContextLengthError(
        f"This model's maximum context length is {model.max_model_len} tokens, but the request needs "
        f"{message_tokens} for the messages and {wanted or 1} for the completion. Shorten the conversation "
        "or lower max_completion_tokens.",
        param="messages",
    )


def create_router(api: ApiContext) -> APIRouter:
    router = APIRouter(route_class=JsonRoute.of(DIALECT), tags=[CHAT.name])

    @router.post(
        "/v1/chat/completions",
        response_model=ChatCompletion,
        responses={
            200: {
                "description": "The answers; with `stream`, server-sent events of `chat.completion.chunk` objects.",
                "content": EVENT_STREAM_CONTENT,
            },
            **ERROR_RESPONSES,
        },
        summary="Answer a conversation",
    )
    async def chat(body: ChatRequest) -> Response:
        request, plain = await to_generation_request(body, api)
        include_usage = body.stream_options is not None and body.stream_options.include_usage
        writer = ChatWriter(
            api,
            request,
            (await api.model()).id,
            top_logprobs=body.alternatives,
            strip_start=plain,
            usage_chunk="own" if include_usage else "none",
            silent=body.limit == 0,
        )
        if body.stream:
            return await EventStream.open(writer.to_events())
        deltas = await api.backend.generate(request)
        answer = await off_loop(is_long(deltas, body.alternatives), writer.to_json, deltas)
        return Response(answer, media_type="application/json")

    return router
