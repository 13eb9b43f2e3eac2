"""Adding a dialect is adding one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

import deployments.api
from deployments.ingress import create_app, dialect_modules
from model.text.tokenizer import Tokenizer
from tests.support.fake_backend import ANSWER, MODEL, FakeBackend

DIALECT = '''
"""A dialect with one field and a bare answer."""

import uuid

from fastapi import APIRouter
from starlette.responses import PlainTextResponse

from deployments.api.common.context import ApiContext
from deployments.api.common.json_body import JsonRoute
from deployments.api.common.rendering import Rendering, render_prompts
from deployments.api.common.sampling import SamplingFields
from deployments.protocol import GenerationRequest
from model.text.prompts import Infill


class InfillRequest(SamplingFields):
    before: str
    after: str


async def to_generation_request(body: InfillRequest, api: ApiContext) -> GenerationRequest:
    rendering = Rendering(Infill("spm", body.after))
    return GenerationRequest(
        request_id=uuid.uuid4().hex,
        prompts=await render_prompts(api, await api.model(), [body.before], rendering, 100),
        params=body.to_params(max_tokens=100, limits=api.limits, vocab_size=api.tokenizer.vocab_size),
        stop=body.stop,
    )


def create_router(api: ApiContext) -> APIRouter:
    router = APIRouter(route_class=JsonRoute)

    @router.post("/bare_infill")
    async def infill(body: InfillRequest) -> PlainTextResponse:
        (delta,) = await api.backend.generate(await to_generation_request(body, api))
        return PlainTextResponse(delta.text)

    return router
'''


async def test_a_file_is_a_dialect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_backend: FakeBackend, tokenizer: Tokenizer
) -> None:
    (tmp_path / "bare_infill.py").write_text(DIALECT)
    monkeypatch.setattr(deployments.api, "__path__", [*deployments.api.__path__, str(tmp_path)])
    assert "deployments.api.bare_infill" in [module.__name__ for module in dialect_modules()]
    app = create_app(backend=fake_backend, tokenizer=tokenizer)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        answer = await client.post("/bare_infill", json={"before": "a", "after": "b", "stop": "return"})
        assert answer.text == ANSWER.split("return")[0]
        refused = await client.post("/bare_infill", json={"before": "a", "after": "b", "temperature": 5})
        assert refused.json()["error"]["param"] == "temperature"
        too_long = await client.post("/bare_infill", json={"before": "a " * 9000, "after": "b"})
        assert too_long.json()["error"]["code"] == "context_length_exceeded"
        assert (await client.post("/v1/completions", json={"prompt": "x"})).status_code == 200


@pytest.mark.parametrize("header", ["authorization", "x-api-key", "api-key"])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "x"}),
        ("/v1/completions", {"segments": {"prefix": "x"}}),
        ("/v1/fim/completions", {"prompt": "x"}),
        ("/beta/completions", {"prompt": "x", "suffix": "y"}),
        ("/generate", {"inputs": "x"}),
        ("/infill", {"input_prefix": "x"}),
        ("/completion", {"prompt": "x"}),
        ("/api/generate", {"model": MODEL, "prompt": "x"}),
        ("/v1/refactor", {"code": "x", "instruction": "y"}),
    ],
)
async def test_any_key_and_any_unknown_field_are_let_through(
    client: httpx.AsyncClient, path: str, body: dict[str, Any], header: str
) -> None:
    response = await client.post(path, json={**body, "no_such_field": [1]}, headers={header: "Bearer anything"})
    assert response.status_code == 200, response.text
