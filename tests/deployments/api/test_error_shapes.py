"""What reaches no route fails as the dialect of its path does; and HEAD is answered as GET is, without the body."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from starlette.routing import Mount, Route

from deployments.api import ollama
from deployments.api.common.dialect import Dialect
from deployments.api.error_shapes import ErrorShapes
from deployments.errors import InternalError, InvalidRequestError
from deployments.http.middleware import openai_error
from tests.support.fake_backend import FakeBackend

OPENAI, OLLAMA, TGI, LLAMACPP = "openai", "ollama", "tgi", "llamacpp"


def shape_of(body: Any) -> str:
    if isinstance(body["error"], str):
        return TGI if "error_type" in body else OLLAMA
    return LLAMACPP if isinstance(body["error"]["code"], int) else OPENAI


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("/v1/completions", OPENAI),
        ("/v1/chat/completions", OPENAI),
        ("/v1/fim/completions", OPENAI),
        ("/v1/events", OPENAI),
        ("/api/generate", OLLAMA),
        ("/api/show", OLLAMA),
        ("/generate", TGI),
        ("/generate_stream", TGI),
        ("/models/some/model", TGI),
        ("/infill", LLAMACPP),
        ("/completion", LLAMACPP),
    ],
)
async def test_what_a_path_refuses_has_the_shape_of_its_dialect(
    client: httpx.AsyncClient, path: str, shape: str
) -> None:
    wrong_method = await client.delete(path)
    assert (wrong_method.status_code, shape_of(wrong_method.json())) == (405, shape)
    assert wrong_method.headers["allow"] == "POST"
    headers = {"content-type": "application/json"}
    too_large = await client.post(path, content=b"x" * 100_001, headers=headers)
    assert (too_large.status_code, shape_of(too_large.json())) == (413, shape)
    foreign = await client.post(path, json={}, headers={"origin": "https://evil.example"})
    assert (foreign.status_code, shape_of(foreign.json())) == (403, shape)
    broken = await client.post(path, content=b"{", headers=headers)
    assert (broken.status_code, shape_of(broken.json())) == (400, shape)


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("/nowhere", OPENAI),
        ("/v1/nowhere", OPENAI),
        ("/api/chat", OLLAMA),
        ("/api/tags/x", OLLAMA),
        ("/generate/x", TGI),
        ("/infill/", LLAMACPP),
        ("/completions", OPENAI),
    ],
)
async def test_a_path_that_is_not_there(client: httpx.AsyncClient, path: str, shape: str) -> None:
    for method in ("GET", "POST"):
        response = await client.request(method, path)
        assert (response.status_code, shape_of(response.json())) == (404, shape)


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/",
            "/docs",
            "/openapi.json",
            "/health",
            "/version",
            "/metrics",
            "/v1/models",
            "/v1/models/bigcode/tiny-starcoder",
        ),
        *("/api/tags", "/api/version", "/info", "/v1/health", "/v1beta/server_setting", "/playground/theme.css"),
    ],
)
async def test_head_is_get_without_the_body(client: httpx.AsyncClient, path: str) -> None:
    get, head = await client.get(path), await client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-type", "content-length", "etag"):
        if name != "content-length" or path not in ("/metrics", "/docs"):
            assert head.headers.get(name) == get.headers.get(name)


async def test_head_where_there_is_no_get(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    assert (await client.head("/v1/completions")).status_code == 405
    assert (await client.head("/nowhere")).status_code == 404
    assert (await client.post("/version")).headers["allow"] == "GET, HEAD"
    assert fake_backend.requests == []


async def test_broken_utf8_is_found_in_the_body(client: httpx.AsyncClient) -> None:
    for body in (b'{"prompt": "\xff"}', b'{"a": "\xc3\xa4", "prompt": "x\xed\xa0\x80"}', b'{"\xff": 1}'):
        where = next(i for i in range(len(body)) if body[i] in (0xFF, 0xED))
        response = await client.post("/v1/completions", content=body, headers={"content-type": "application/json"})
        assert f"at byte {where}." in response.json()["error"]["message"]


def test_a_path_fails_as_its_dialect_does() -> None:
    def own(error: Any) -> tuple[int, Any]:
        return 400, "own"

    def other(error: Any) -> tuple[int, Any]:
        return 400, "other"

    async def endpoint(request: Any) -> Any: ...

    def route(path: str, method: str, shape: Any = None) -> Route:
        made = Route(path, endpoint, methods=[method])
        if shape is not None:
            made.dialect = Dialect("d", "D", error_shape=shape)  # type: ignore[attr-defined]
        return made

    shapes = ErrorShapes(
        [
            Mount("/static", routes=[route("/x", "GET", own)]),
            route("/", "GET"),
            route("/", "POST", own),
            route("/both/a", "POST", own),
            route("/both/b", "POST", other),
            route("/both/c", "GET"),
            route("/own/{name}", "POST", own),
            route("/own/{name}", "DELETE", other),
            route("/sole/{name}", "POST", own),
            route("/plain", "GET"),
        ]
    )
    for method, path, shape in (
        ("GET", "/", openai_error),
        ("POST", "/", own),
        ("PUT", "/", own),
        ("POST", "/both/a", own),
        ("PUT", "/both/b", other),
        ("POST", "/both/x", openai_error),
        ("POST", "/own/x", own),
        ("DELETE", "/own/x", other),
        ("PUT", "/own/x", own),
        ("PUT", "/own", openai_error),
        ("PUT", "/sole", own),
        ("PUT", "//sole/x/y", own),
        ("PUT", "/plain", openai_error),
        ("PUT", "/static/x", openai_error),
        ("PUT", "/nowhere", openai_error),
    ):
        assert shapes(method, path) is shape, (method, path)
    assert ollama.ollama_error(InternalError("Lost.")) == (500, {"error": "Lost."})
    assert ollama.ollama_error(InvalidRequestError("Odd.")) == (400, {"error": "Odd."})
