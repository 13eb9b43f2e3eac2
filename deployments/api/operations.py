"""What operators and load balancers ask: `/health`, `/version` and `/metrics`."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from deployments.api.context import ApiContext
from deployments.api.openai_schemas import ERROR_RESPONSES
from deployments.errors import EngineUnavailableError


class Version(BaseModel):
    version: str = Field(description="Version of StarCoder Serve.")


class Health(BaseModel):
    """The engine answered a heartbeat between two of its steps."""

    status: Literal["ok"] = "ok"
    running: int = Field(description="Sequences in the batch.")
    waiting: int = Field(description="Sequences that wait for a place in the batch.")
    kv_cache_usage: float = Field(description="Share of the cache that running sequences hold, 0 to 1.")
    heartbeat_seconds: float | None = Field(description="Age of the engine's newest sign of life.")


@cache
def package_version() -> str:
    try:
        return version("starcoder-serve")
    except PackageNotFoundError:
        return "0+source"


def create_router(api: ApiContext) -> APIRouter:
    router = APIRouter(tags=["operations"])

    @router.get("/health", responses=ERROR_RESPONSES, summary="Ask the engine for a sign of life")
    async def health() -> Health:
        report = await api.backend.health()
        if not report.healthy:
            raise EngineUnavailableError(report.reason or "The engine is not healthy.", retry_after=5.0)
        return Health(
            running=report.running,
            waiting=report.waiting,
            kv_cache_usage=report.kv_cache_usage,
            heartbeat_seconds=report.heartbeat_seconds,
        )

    @router.get("/version", summary="Version of the server")
    async def get_version() -> Version:
        return Version(version=package_version())

    return router
