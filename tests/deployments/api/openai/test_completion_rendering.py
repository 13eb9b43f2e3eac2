"""`POST /v1/completions/render`: the prompt that the engine would get, and nothing is run."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.support.fake_backend import MODEL, WINDOW, FakeBackend

BODIES: list[dict[str, Any]] = [
    {"prompt": "def größe(a):\n    return ", "suffix": "\n# 🎉\n"},
    {"prompt": "x = 1", "suffix": "y", "fim_mode": "spm"},
    {"prompt": "a<fim_prefix>b"},
    {"prompt": [40, 41, 0, 42]},
    {"prompt": "word " * 900, "suffix": "z " * 900, "truncate_prompt_tokens": -1, "max_tokens": 100},
    {
        "prompt": "total(",
        "suffix": ")",
        "repository": {"name": "a/b", "path": "c.py", "files": [{"path": "d.py", "content": "RATE = 7\n"}]},
    },
]


async def render(client: httpx.AsyncClient, body: dict[str, Any]) -> httpx.Response:
    return await client.post("/v1/completions/render", json=body)


@pytest.mark.parametrize("body", BODIES)
async def test_it_is_what_a_completion_runs(
    client: httpx.AsyncClient, fake_backend: FakeBackend, body: dict[str, Any]
) -> None:
    answer = (await render(client, body)).json()
    assert fake_backend.requests == []
    await client.post("/v1/completions", json=body)
    (ids,) = fake_backend.requests[0].prompts
    tokenizer = fake_backend.tokenizer
    assert answer["token_ids"] == ids
    assert (answer["object"], answer["model"]) == ("text_completion.rendering", MODEL)
    assert answer["max_model_len"] == WINDOW
    assert answer["remaining_tokens"] == WINDOW - len(ids)
    assert [ids[at] for at in answer["special_positions"]] == [i for i in ids if i in tokenizer.special_ids]
    raw = b"".join(
        bytes.fromhex(token[len("bytes:") :].replace("\\x", "")) if token.startswith("bytes:") else token.encode()
        for token in answer["tokens"]
    )
    assert raw.decode() == tokenizer.decode(ids, skip_special=False)


async def test_what_looks_special_is_told_apart(client: httpx.AsyncClient) -> None:
    answer = (await render(client, {"prompt": "<fim_middle>", "suffix": "<fim_prefix>"})).json()
    special = [answer["tokens"][at] for at in answer["special_positions"]]
    assert special == ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"]
    assert "".join(answer["tokens"]) == "<fim_prefix><fim_suffix><fim_prefix><fim_middle><fim_middle>"


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({"prompt": ["a", "b"]}, 400, "invalid_value", "prompt"),
        ({"prompt": "word " * 2000}, 400, "context_length_exceeded", "prompt"),
        ({"prompt": "x", "model": "other"}, 404, "model_not_found", "model"),
        ({"prompt": ""}, 400, "invalid_value", "prompt"),
    ],
)
async def test_refusals(client: httpx.AsyncClient, body: dict[str, Any], status: int, code: str, param: str) -> None:
    answer = await render(client, body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param)
