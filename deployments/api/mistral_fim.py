"""Fill-in-the-middle as Mistral's Codestral serves it: `POST /v1/fim/completions`.

Source: https://docs.mistral.ai/api/#tag/fim. A chat completion answers; a prompt that is too long
is cut, where Mistral refuses it: editors send whole files. Both sides of the cursor are plain text.
"""

from __future__ import annotations

import uuid

from fastapi import APIRouter
from pydantic import Field
from starlette.responses import Response

from deployments.api.common.code_fields import ANYBODY, Caller, CallerOf, CodeFields, CompletionModeField
from deployments.api.common.context import ApiContext
from deployments.api.common.dialect import Dialect
from deployments.api.common.examples import example
from deployments.api.common.fitting import fit_prompts
from deployments.api.common.json_body import JsonRoute
from deployments.api.common.off_loop import is_long, off_loop
from deployments.api.common.rendering import Rendering
from deployments.api.common.section import INFILLING
from deployments.api.common.streaming import EVENT_STREAM_CONTENT, EventStream
from deployments.api.openai.chat_answers import ChatCompletion, ChatWriter
from deployments.api.openai.schemas import ERROR_RESPONSES
from deployments.api.parameters.length import MAX_TOKENS
from deployments.api.parameters.seed import SEED
from deployments.api.parameters.temperature import TEMPERATURE
from deployments.protocol import GenerationRequest

DIALECT = Dialect("mistral", "Mistral")

_TEMPERATURE = 0.2


class FimRequest(CodeFields):
    """Unknown fields are ignored; null stands for a field's default."""

    model_config = example(
        "Fill the gap at a cursor",
        prompt="def mean(values):\n    return sum(values) / len(",
        suffix="\n\nprint(mean([1, 2, 3]))\n",
        max_tokens=16,
        temperature=0,
    )

    model: str | None = Field(default=None, description="Id of the model; the served one if left out.")
    prompt: str = Field(description="Text before the cursor.")
    suffix: str = Field(default="", description="Text after the cursor.")
    temperature: float = TEMPERATURE.field(default=_TEMPERATURE)
    max_tokens: int | None = MAX_TOKENS.field(
        default=None, ge=1, description="Most tokens to generate; left out: what the window holds."
    )
    random_seed: int | None = SEED.field(description=SEED.brief)
    completion_mode: CompletionModeField = "auto"
    stream: bool = Field(default=False, description="Answer with server-sent events as tokens come.")


async def to_generation_request(body: FimRequest, api: ApiContext, caller: Caller = ANYBODY) -> GenerationRequest:
    """Translate; raise InvalidRequestError, ContextLengthError or ModelNotFoundError."""
    model = await api.served_model(body.model)
    form = api.gap(body.suffix)
    fitted = await fit_prompts(api, model, [body.prompt], Rendering(form, truncate=-1), body.max_tokens)
    sampling = body if body.random_seed is None else body.model_copy(update={"seed": body.random_seed})
    return GenerationRequest(
        request_id=uuid.uuid4().hex,
        prompts=fitted.prompts,
        params=sampling.to_params(max_tokens=fitted.max_tokens, limits=api.limits, vocab_size=api.tokenizer.vocab_size),
        stop=body.stop,
        **body.options(api.tokenizer, [body.prompt], form, caller),
    )


def create_router(api: ApiContext) -> APIRouter:
    router = APIRouter(route_class=JsonRoute.of(DIALECT), tags=[INFILLING.name])

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
        deltas = await api.backend.generate(request)
        whole = await off_loop(is_long(deltas), writer.to_json, deltas)
        return Response(whole, media_type="application/json")

    return router
