"""`POST /v1/completions/render`: the exact prompt that a completion would run, token by token.

The route is vLLM's; the answer is ours. It runs nothing on the engine.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response

from deployments.api.common.context import ApiContext
from deployments.api.common.json_body import JsonRoute
from deployments.api.common.section import COMPLETIONS
from deployments.api.openai.completions import CompletionRequest, to_generation_request
from deployments.api.openai.logprobs import token_string
from deployments.api.openai.schemas import ERROR_RESPONSES
from deployments.errors import InvalidRequestError


class CompletionRendering(BaseModel):
    object: Literal["text_completion.rendering"] = Field(description="What this is.")
    model: str = Field(description="Id of the model whose tokens these are.")
    max_model_len: int = Field(description="The window: longest prompt plus completion, in tokens.")
    remaining_tokens: int = Field(description="Tokens of the window that this prompt leaves free.")
    token_ids: list[int] = Field(description="The prompt as the engine gets it: templated, with context, cut to fit.")
    tokens: list[str] = Field(
        description="The tokens' texts. A token that is no whole UTF-8 text is written `bytes:\\xe2`."
    )
    special_positions: list[int] = Field(
        description="Places of special tokens, counted from 0: plain tokens may spell the same text."
    )


async def render(body: CompletionRequest, api: ApiContext) -> dict[str, Any]:
    """A `CompletionRendering`; raises what the completion itself would, and for more than one prompt."""
    if len(body.prompt) != 1:
        # Otherwise one body could ask for a hundred windows of tokens, and each token makes some 20 bytes.
        raise InvalidRequestError(
            f"`prompt`: one prompt can be rendered at a time, not {len(body.prompt)}.",
            param="prompt",
            code="invalid_value",
        )
    request = await to_generation_request(body, api)
    model, tokenizer, (ids,) = await api.model(), api.tokenizer, request.prompts
    strings = {token_id: token_string(tokenizer, token_id) for token_id in set(ids)}
    return {
        "object": "text_completion.rendering",
        "model": model.id,
        "max_model_len": model.max_model_len,
        "remaining_tokens": model.max_model_len - len(ids),
        "token_ids": ids,
        "tokens": [strings[token_id] for token_id in ids],
        "special_positions": [at for at, token_id in enumerate(ids) if token_id in tokenizer.special_ids],
    }


def create_router(api: ApiContext) -> APIRouter:
    router = APIRouter(route_class=JsonRoute, tags=[COMPLETIONS.name])

    @router.post(
        "/v1/completions/render",
        response_model=CompletionRendering,
        responses=ERROR_RESPONSES,
        summary="Show the exact prompt of a completion, and run nothing",
        response_description="The prompt's tokens.",
    )
    async def render_completion(body: CompletionRequest) -> Response:
        return Response(msgspec.json.encode(await render(body, api)), media_type="application/json")

    return router
