"""`POST /v1/completions`, where OpenAI's and Tabby's clients meet: a body with `segments` is Tabby's.

What is refused before that is known is refused as OpenAI's.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import Discriminator, Tag
from starlette.requests import Request
from starlette.responses import Response

from deployments.api import tabby
from deployments.api.common.code_fields import CallerOf
from deployments.api.common.context import ApiContext
from deployments.api.common.json_body import JsonRoute
from deployments.api.common.section import COMPLETIONS
from deployments.api.openai import completions
from deployments.api.openai.completions import CompletionRequest
from deployments.api.openai.schemas import Completion
from deployments.api.tabby import SegmentsCompletion, SegmentsRequest
from deployments.http.request_record import set_dialect


def _dialect(body: Any) -> str:
    """body: as it was sent, or validated already."""
    segments = body.get("segments") if isinstance(body, dict) else getattr(body, "segments", None)
    return "(openai)" if segments is None else "(tabby)"


Body = Annotated[
    Annotated[CompletionRequest, Tag("(openai)")] | Annotated[SegmentsRequest, Tag("(tabby)")],
    Discriminator(_dialect),
]


def create_router(api: ApiContext) -> APIRouter:
    router = APIRouter(route_class=JsonRoute.of(completions.DIALECT), tags=[COMPLETIONS.name])

    @router.post(
        "/v1/completions",
        response_model=Completion | SegmentsCompletion,
        responses=completions.RESPONSES,
        summary="Complete a prompt, or fill the gap before a suffix",
    )
    async def complete(body: Body, request: Request, caller: CallerOf) -> Response:
        """As OpenAI does, with more fields; as Tabby does where the body has `segments`.

        - `suffix` makes it an infill: what belongs between `prompt` and `suffix`, both plain text.
        - `completion_mode` ends it where the code does: `line`, `block`, or `auto`, by what is around the cursor.
        - `stream` sends the text as it comes, as server-sent events.
        """
        if isinstance(body, SegmentsRequest):
            set_dialect(tabby.DIALECT.name)
            return await tabby.answer(body, api, caller)
        return await completions.answer(body, api, caller)

    return router
