"""Fill-in-the-middle as DeepSeek serves it: `POST /beta/completions`, `/v1/beta/completions`.

Source: https://api-docs.deepseek.com/api/create-completion, which is OpenAI's completion with `suffix`.
"""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from deployments.api.common.code_fields import CallerOf
from deployments.api.common.context import ApiContext
from deployments.api.common.dialect import Dialect
from deployments.api.common.json_body import JsonRoute
from deployments.api.common.section import INFILLING
from deployments.api.openai import completions
from deployments.api.openai.schemas import Completion

DIALECT = Dialect("deepseek", "DeepSeek")


def create_router(api: ApiContext) -> APIRouter:
    router = APIRouter(route_class=JsonRoute.of(DIALECT), tags=[INFILLING.name])

    for path in ("/beta/completions", "/v1/beta/completions"):

        @router.post(
            path,
            response_model=Completion,
            responses=completions.RESPONSES,
            summary="The same as /v1/completions, where clients of DeepSeek look for it",
        )
        async def complete(body: completions.CompletionRequest, caller: CallerOf) -> Response:
            return await completions.answer(body, api, caller)

    return router
