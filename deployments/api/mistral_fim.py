"""Fill-in-the-middle as Mistral's Codestral and DeepSeek serve it.

`POST /v1/fim/completions`: https://docs.mistral.ai/api/#tag/fim. A chat completion answers; a prompt that is too long
is cut, where Mistral refuses it: editors send whole files. Both sides of the cursor are plain text.
`POST /beta/completions`, `/v1/beta/completions`: https://api-docs.deepseek.com/api/create-completion, which is
OpenAI's completion with `suffix`.
"""

from __future__ import annotations

import uuid

import msgspec
from fastapi import APIRouter
from pydantic import Field
from starlette.responses import Response

from deployments.api.common.code_fields import ANYBODY, MODE_DESCRIPTION, Caller, CallerOf, CodeFields
from deployments.api.common.context import ApiContext
from deployments.api.common.fitting import fit_prompts
from deployments.api.common.json_body import JsonRoute
from deployments.api.common.rendering import Rendering
from deployments.api.common.sampling import INT32_MAX, INT64_MAX
from deployments.api.common.streaming import EVENT_STREAM_CONTENT, EventStream
from deployments.api.openai import completions
from deployments.api.openai.chat_answers import ChatCompletion, ChatWriter
from deployments.api.openai.schemas import ERROR_RESPONSES, Completion
from deployments.http.request_record import set_dialect
from deployments.protocol import CompletionMode, GenerationRequest
from model.text.prompts import Infill, Plain

_TEMPERATURE = 0.2


class FimRequest(CodeFields):
    """Unknown fields are ignored; null stands for a field's default."""

    model: str | None = Field(default=None, description="Id of the model; the served one if left out.")
    prompt: str = Field(description="Text before the cursor.")
    suffix: str = Field(default="", description="Text after the cursor; without it, `prompt` is continued.")
    temperature: float = Field(
        default=_TEMPERATURE, ge=0, le=2, description="0 always takes the most likely token; higher values vary more."
    )
    max_tokens: int | None = Field(
        default=None, ge=1, le=INT32_MAX, description="Most tokens to generate; left out: what the window holds."
    )
    random_seed: int | None = Field(
        default=None, ge=-INT64_MAX - 1, le=INT64_MAX, description="The same seed gives the same text."
    )
    completion_mode: CompletionMode = Field(default="auto", description=MODE_DESCRIPTION)
    stream: bool = Field(default=False, description="Answer with server-sent events as tokens come.")


async def to_generation_request(body: FimRequest, api: ApiContext, caller: Caller = ANYBODY) -> GenerationRequest:
    """Translate; raise InvalidRequestError, ContextLengthError or ModelNotFoundError."""
    model = await api.served_model(body.model)
    form = Infill(api.fim_mode(), body.suffix) if body.suffix else Plain()
    fitted = await fit_prompts(api, model, [body.prompt], Rendering(form, truncate=-1), body.max_tokens)
    sampling = body if body.random_seed is None else body.model_copy(update={"seed": body.random_seed})
    return GenerationRequest(
        request_id=uuid.uuid4().hex,
        prompts=fitted.prompts,
        params=sampling.to_params(max_tokens=fitted.max_tokens, limits=api.limits, vocab_size=api.tokenizer.vocab_size),
        stop=body.stop,
        **body.options(api.tokenizer, [body.prompt], body.suffix, caller),
    )


def create_router(api: ApiContext) -> APIRouter:
    router = APIRouter(route_class=JsonRoute, tags=["fill in the middle"])

    @router.post(
        "/v1/fim/completions",
        response_model=ChatCompletion,
        responses={
            200: {
                "description": "The completion; with `stream`, server-sent events of `chat.completion.chunk` objects, "
                "the last with `usage`.",
                "content": EVENT_STREAM_CONTENT,
            },
            **ERROR_RESPONSES,
        },
        summary="Fill the gap between prompt and suffix, as Mistral's Codestral does",
    )
    async def fill(body: FimRequest, caller: CallerOf) -> Response:
        request = await to_generation_request(body, api, caller)
        writer = ChatWriter(api, request, (await api.model()).id, usage_chunk="last")
        if body.stream:
            return await EventStream.open(writer.to_events())
        whole = writer.to_response(await api.backend.generate(request))
        return Response(msgspec.json.encode(whole), media_type="application/json")

    for path in ("/beta/completions", "/v1/beta/completions"):

        @router.post(
            path,
            response_model=Completion,
            responses=completions.RESPONSES,
            summary="The same as /v1/completions, where clients of DeepSeek look for it",
        )
        async def complete(body: completions.CompletionRequest, caller: CallerOf) -> Response:
            set_dialect("deepseek")
            return await completions.answer(body, api, caller)

    return router
