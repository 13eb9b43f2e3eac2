"""Where the reference has OpenAI's routes, and how they say that they fail."""

from __future__ import annotations

import httpx
import pytest
from fastapi import FastAPI

from deployments.api.common.section import CHAT, COMPLETIONS, MODELS, Section
from deployments.api.openai.models import to_card
from deployments.protocol import ModelInfo
from tests.support.fake_backend import MODEL, WINDOW

ROUTES = {
    ("post", "/v1/completions"): COMPLETIONS,
    ("post", "/v1/completions/render"): COMPLETIONS,
    ("post", "/v1/chat/completions"): CHAT,
    ("get", "/v1/models"): MODELS,
    ("get", "/v1/models/{model_id}"): MODELS,
}


@pytest.mark.parametrize(("route", "section"), ROUTES.items(), ids=str)
def test_a_route_stands_in_its_section_and_says_how_it_fails(
    new_app: FastAPI, route: tuple[str, str], section: Section
) -> None:
    method, path = route
    operation = new_app.openapi()["paths"][path][method]
    assert operation["tags"] == [section.name]
    for status, response in operation["responses"].items():
        shown = response["content"]["application/json"]["schema"]
        if status == "200":
            assert shown != {"$ref": "#/components/schemas/ErrorBody"}
        else:
            assert shown == {"$ref": "#/components/schemas/ErrorBody"}
        assert response["description"] not in ("", "Successful Response")
    assert {"200", "4XX", "429", "500", "503"} <= operation["responses"].keys()
    streams = "text/event-stream" in operation["responses"]["200"]["content"]
    assert streams == (path in ("/v1/completions", "/v1/chat/completions"))


async def test_models(new_client: httpx.AsyncClient) -> None:
    card = {
        "id": MODEL,
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "bigcode",
        "max_model_len": WINDOW,
    }
    assert (await new_client.get("/v1/models")).json() == {"object": "list", "data": [card]}
    for path in (MODEL, MODEL.replace("/", "%2F")):
        assert (await new_client.get(f"/v1/models/{path}")).json() == card
    response = await new_client.get("/v1/models/bigcode/other")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("name", "owner"),
    [("bigcode/starcoder", "bigcode"), ("a/b/c", "a"), ("starcoder", "starcoder-serve"), ("/x", "starcoder-serve")],
)
def test_a_model_without_an_owner_is_ours(name: str, owner: str) -> None:
    assert to_card(ModelInfo(id=name, max_model_len=8, created=1)).owned_by == owner
