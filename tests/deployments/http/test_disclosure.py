"""Answers that the model wrote say so in their head, and nothing else does."""

from __future__ import annotations

from typing import Any
from urllib.parse import urljoin

import httpx
import pytest

from deployments.http.disclosure import DisclosureMiddleware, generated_by, links
from monitoring.version import package_version
from tests.support.fake_backend import MODEL

ASKED: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "x", "max_tokens": 3},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 3},
    "/infill": {"input_prefix": "x", "input_suffix": "", "n_predict": 3},
    "/": {"inputs": "x", "parameters": {"max_new_tokens": 3}},
    "/api/generate": {"prompt": "x", "stream": False, "options": {"num_predict": 3}},
}


@pytest.mark.parametrize("path", ASKED)
@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_says_by_what_it_was_made(new_client: httpx.AsyncClient, path: str, stream: bool) -> None:
    response = await new_client.post(path, json={**ASKED[path], "stream": stream})
    assert response.status_code in (200, 400), response.text
    if response.status_code == 200:
        assert response.headers["x-generated-by"] == f"starcoder-serve/{package_version()} (model {MODEL})"
        assert response.links["terms-of-service"]["url"] == "../" * (path.count("/") - 1) + "terms"
        for relation in ("describedby", "terms-of-service"):
            linked = await new_client.get(urljoin(f"http://test{path}", response.links[relation]["url"]))
            assert linked.status_code == 200


async def test_what_no_model_wrote_says_nothing(client: httpx.AsyncClient) -> None:
    for response in (
        await client.get("/v1/models"),
        await client.get("/"),
        await client.post("/v1/completions/render", json={"prompt": "x"}),
        await client.post("/v1/completions", json={"prompt": "x", "max_tokens": 10**6}),
    ):
        assert "x-generated-by" not in response.headers
        assert "link" not in response.headers


async def test_what_is_no_request_passes_as_it_is() -> None:
    passed: list[object] = []

    async def app(*given: object) -> None:
        passed.extend(given)

    async def receive() -> Any:
        raise AssertionError("nobody asks")

    async def send(_: object) -> None:
        raise AssertionError("nobody answers")

    scope = {"type": "lifespan"}
    await DisclosureMiddleware(app)(scope, receive, send)
    assert passed == [scope, receive, send]


def test_names_fit_into_a_header() -> None:
    assert generated_by("größe (x)\r\n").endswith(" (model gr%C3%B6%C3%9Fe%20%28x%29%0D%0A)")
    assert generated_by(None) == f"starcoder-serve/{package_version()}"


@pytest.mark.parametrize("prefix", ["", "/code/serve"])
@pytest.mark.parametrize("path", ["/v1/completions", "/infill", "/", "/v1/fim/completions"])
def test_links_lead_to_the_pages_of_this_server(prefix: str, path: str) -> None:
    found = httpx.Response(200, headers={"link": links(path)}).links
    assert urljoin(f"http://test{prefix}{path}", found["describedby"]["url"]) == f"http://test{prefix}/model-card"
