"""Fields that a route does not have: who is told, and how often."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.api.common import unknown_fields as module
from deployments.api.common.unknown_fields import MOST_LOGGED, MOST_TOLD, unknown_fields
from deployments.api.openai.completions import CompletionRequest
from tests.support.fake_backend import MODEL
from tests.support.log_lines import captured

PROMPT = {"prompt": "x"}


@pytest.fixture(autouse=True)
def nothing_was_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_logged", set())


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        ("/v1/completions", {**PROMPT, "max_token": 3}, "max_token (did you mean 'max_tokens'?)"),
        ("/v1/completions", {"segments": {"prefix": "x", "sufix": "y"}}, "segments.sufix (did you mean 'suffix'?)"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "tools": []}, "tools"),
        ("/v1/fim/completions", {**PROMPT, "sufix": "y"}, "sufix (did you mean 'suffix'?)"),
        (
            "/generate",
            {"inputs": "x", "parameters": {"max_new_token": 3}},
            "parameters.max_new_token (did you mean 'max_new_tokens'?)",
        ),
        (
            "/api/generate",
            {"model": MODEL, "prompt": "x", "stream": False, "options": {"repetition_penalty": 1.1}},
            "options.repetition_penalty (did you mean 'repeat_penalty'?)",
        ),
        ("/v1/completions/render", {**PROMPT, "promt": "y"}, "promt (did you mean 'prompt'?)"),
    ],
)
async def test_the_client_is_told(client: httpx.AsyncClient, path: str, body: dict[str, Any], told: str) -> None:
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    assert response.json()["warnings"] == [f"there is no field {told}"]
    assert response.headers["x-warnings"] == f"there is no field {told}"
    assert int(response.headers["content-length"]) == len(response.content)


async def test_a_stream_is_as_it_was_and_has_the_header(client: httpx.AsyncClient) -> None:
    body = {**PROMPT, "stream": True, "stream_options": {"include_usag": True}, "seed": 1}
    told = await client.post("/v1/completions", json=body)
    assert told.headers["x-warnings"].startswith("there is no field stream_options.include_usag (did you mean")
    assert told.text.endswith("data: [DONE]\n\n")
    assert "warnings" not in told.text


@pytest.mark.parametrize("body", [PROMPT, {**PROMPT, "no_such_field": None}])
async def test_nothing_is_told_where_nothing_is_wrong(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    response = await client.post("/v1/completions", json=body)
    assert "x-warnings" not in response.headers
    assert "warnings" not in response.json()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/infill", {"input_prefix": "x", "id_slot": 0, "cache_prompt": True, "samplers": [], "t_max_prompt_ms": 500}),
        ("/completion", {**PROMPT, "model": ""}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "id_slot": 0, "samplers": []}),
        ("/generate", {"inputs": "x", "parameters": {"watermark": False}}),
        ("/api/generate", {"model": MODEL, **PROMPT, "stream": False, "keep_alive": 1, "options": {"num_ctx": 4096}}),
    ],
)
async def test_what_clients_send_unasked_is_passed_over(
    client: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    assert "x-warnings" not in response.headers
    assert "warnings" not in response.json()


async def test_a_missing_field_is_looked_for_among_those_sent(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/completions", json={"promt": "x", "max_tokens": 3})
    assert response.json()["error"]["message"] == "`prompt` is required (`promt` was sent)."


async def test_the_log_has_each_name_once_and_no_text(client: httpx.AsyncClient) -> None:
    text = "def secret():\n    return 'a password'"
    with captured() as log:
        for _ in range(3):
            await client.post("/v1/completions", json={**PROMPT, "max_token": 3, text: 1})
        for number in range(0, MOST_LOGGED + 8, MOST_TOLD):
            names = {f"name_{number + i}": 1 for i in range(MOST_TOLD)}
            await client.post("/v1/completions", json={**PROMPT, **names})
    lines = log.all("request.unknown_field")
    assert [line["field"] for line in lines].count("max_token") == 1
    assert {line["path"] for line in lines} == {"/v1/completions"}
    assert len(lines) == MOST_LOGGED
    assert "secret" not in log.text


@settings(max_examples=40)
@given(st.dictionaries(st.text(), st.none() | st.integers() | st.lists(st.integers(), max_size=1), max_size=12))
def test_whatever_is_sent_fits_a_header_and_a_line(sent: dict[str, Any]) -> None:
    """Nothing that somebody calls a field breaks the answer's head."""
    known = CompletionRequest.model_fields
    found = unknown_fields({**sent, **PROMPT}, CompletionRequest(prompt=["x"]))
    strange = [name for name, value in sent.items() if name not in known and value is not None]
    assert len(found) == min(len(strange), MOST_TOLD)
    header = "; ".join(map(str, found))
    assert header.isascii()
    assert header.isprintable()
    assert len(header) < 1000
    assert json.loads(json.dumps(header)) == header
