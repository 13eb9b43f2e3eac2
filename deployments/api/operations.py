"""What operators and load balancers ask: `/health`, `/version` and `/metrics`."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import PlainTextResponse, Response

import monitoring
from deployments.api.common.context import ApiContext
from deployments.api.common.health_answer import Health, Live, NotReady, not_ready
from deployments.api.common.section import OPERATIONS
from deployments.api.openai.schemas import ERROR_RESPONSES
from deployments.http.needs import needs, public
from model.statistics import Products
from model.text.commit import CommitKnowledge, commit_knowledge
from model.text.fim import FimMode
from monitoring.version import package_version

ASKING_S = 1.0
"""So long the version waits for an engine that has never answered here."""


class Forward(BaseModel):
    """What computes the engines' steps."""

    path: Literal["native", "triton", "torch"] = Field(
        description="`native`: our forward pass in C, on a CPU; `triton`: our kernels, on a GPU; `torch`: PyTorch's "
        "operations, which are slower."
    )
    reason: str | None = Field(description="Why it is not the fast one of its device; null where it is.")
    products: Products | None = Field(
        description="How our forward pass in C multiplies bfloat16: `amx` by AMX, `bf16` by AVX512-BF16, `int16` in "
        "blocks of 16-bit integers by AVX512-VNNI. Null where it does not run."
    )


class Version(BaseModel):
    version: str = Field(description="Version of StarCoder Serve.")
    forward: Forward | None = Field(description="What computes the engines' steps; null until one has started.")
    dtype: str | None = Field(description="Number format of weights and cache; null until an engine has started.")
    quantization: str | None = Field(
        description="Of the weights: `int8`, `fp8`, or `none`; null until an engine has started."
    )
    fim_mode: FimMode | None = Field(
        description="Order of a fill-in-the-middle prompt where the request leaves it open; null: the model has none."
    )
    fim_mode_chosen_by: str | None = Field(
        description="Why it is that: `setting`, `checkpoint` (its tokenizer_config.json), `family` (BigCode's models "
        "were trained in both orders, and SPM keeps the cache while people type), `default`."
    )
    commits: CommitKnowledge = Field(
        description="What the model makes of `/v1/refactor`: `trained`: it has the tokens of commits; `untrained`: its "
        "checkpoint says that it has seen none, so answers are noise; `none`: it has no such tokens, and every request "
        "is refused."
    )


def create_router(api: ApiContext) -> APIRouter:
    router = APIRouter(tags=[OPERATIONS.name])

    @router.get(
        "/health",
        response_model=Health,
        responses={**ERROR_RESPONSES, 503: {"model": NotReady, "description": "No request should be sent here."}},
        summary="Ask every engine for a sign of life: whether requests should be sent here",
        response_description="At least one engine is ready.",
    )
    @public
    async def health() -> Health | Response:
        report = await api.backend.health()
        if report.healthy:
            return Health.of(report)
        return not_ready(report)

    @router.get(
        "/health/live",
        summary="Whether this process answers at all, whatever its engines do",
        response_description="It does.",
    )
    @public
    async def live() -> Live:
        return Live()

    @router.get(
        "/version",
        summary="Version of the server, what computes, and the order of prompts",
        response_description="They.",
    )
    @public
    async def get_version() -> Version:
        known = api.known_model
        if known is None:
            with contextlib.suppress(Exception):  # whatever an engine's absence raises, the version is known
                async with asyncio.timeout(ASKING_S):
                    known = await api.model()
        path = known and known.forward
        order = api.fim_order() if api.tokenizer.fim is not None else None
        return Version(
            version=package_version(),
            forward=Forward(path=path.path, reason=path.reason, products=path.products) if path else None,
            dtype=known and known.dtype,
            quantization=known and known.quantization,
            fim_mode=order and order.mode,
            fim_mode_chosen_by=order and order.chosen_by,
            commits=commit_knowledge(api.tokenizer),
        )

    @router.get(
        "/metrics",
        response_class=PlainTextResponse,
        summary="Metrics of this node, in Prometheus' text format",
        response_description="The metrics.",
    )
    @needs("metrics")
    async def metrics() -> Response:
        text = await asyncio.to_thread(monitoring.render, api.metrics_directory)
        return Response(text, media_type=monitoring.CONTENT_TYPE)

    return router
