"""`/openapi.json`, and `/docs`, where Swagger UI shows it.

FastAPI's page loads Swagger UI from elsewhere, which a closed network does not reach and a strict policy forbids: here
it comes from the package `fastapi-standalone-docs`, which has it as its makers built it, with its licence. Our own part
of the page is in `deployments/playground/static`.
"""

from __future__ import annotations

import asyncio
from functools import cache
from importlib.resources import files

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from deployments.api.common.context import ApiContext
from deployments.api.pages.static_content import POLICY_OF_OTHERS, StaticContent
from deployments.http.needs import public
from deployments.playground import STATIC

_MEDIA_TYPES = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
    "LICENSE": "text/plain; charset=utf-8",
}


class OpenApiDocument:
    """Made when it is first asked for, which takes half a second: in a thread."""

    def __init__(self) -> None:
        self._content: StaticContent | None = None

    @public
    async def respond(self, request: Request) -> Response:
        if self._content is None:
            document = await asyncio.to_thread(request.app.openapi)
            self._content = StaticContent(msgspec.json.encode(document), "application/json")
        return await self._content.respond(request)


@cache
def resources() -> dict[str, StaticContent]:
    """What the page is made of, beside the document, by path: the same for all servers of a process."""
    swagger_ui = files("fastapi_standalone_docs") / "static" / "swagger"
    page = StaticContent((STATIC / "docs.html").read_bytes(), "text/html; charset=utf-8", POLICY_OF_OTHERS)
    return {
        "/docs": page,
        **{
            f"/docs/{name}": StaticContent((swagger_ui / name).read_bytes(), media_type)
            for name, media_type in _MEDIA_TYPES.items()
        },
    }


def create_router(api: ApiContext) -> APIRouter:
    router = APIRouter(include_in_schema=False)
    router.add_api_route("/openapi.json", OpenApiDocument().respond, methods=["GET", "HEAD"])
    for path, content in resources().items():
        router.add_api_route(path, content.respond, methods=["GET", "HEAD"])
    return router
