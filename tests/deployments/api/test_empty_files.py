"""An editor that has just made a file asks with nothing around the cursor, and every dialect of infills answers."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from model.text.tokenizer import Tokenizer
from tests.support.fake_backend import FakeBackend

FILE = {"path": "a.py", "content": "A = 1\n"}
GAP = "<fim_prefix><fim_suffix><fim_middle>"

REQUESTS: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/completions", {"prompt": "", "suffix": ""}, GAP),
    ("/v1/completions", {"prompt": "", "fim_mode": "psm"}, GAP),
    ("/v1/completions", {"prompt": "", "repository": {"files": [FILE]}}, f"<filename>a.py\nA = 1\n<|endoftext|>{GAP}"),
    ("/beta/completions", {"prompt": "", "suffix": ""}, GAP),
    ("/v1/fim/completions", {"prompt": "", "suffix": ""}, GAP),
    ("/v1/fim/completions", {"prompt": ""}, GAP),
    ("/infill", {"input_prefix": "", "input_suffix": ""}, GAP),
    ("/infill", {}, GAP),
    ("/v1/completions", {"segments": {"prefix": "", "suffix": ""}}, GAP),
    ("/completion", {"prompt": GAP}, GAP),
    ("/generate", {"inputs": GAP}, GAP),
]


@pytest.mark.parametrize(("path", "body", "prompt"), REQUESTS)
async def test_an_empty_file_is_filled(
    client: httpx.AsyncClient,
    fake_backend: FakeBackend,
    tokenizer: Tokenizer,
    path: str,
    body: dict[str, Any],
    prompt: str,
) -> None:
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    (request,) = fake_backend.requests
    assert [tokenizer.decode(ids, skip_special=False) for ids in request.prompts] == [prompt]


async def test_nothing_at_all_to_be_continued_is_refused(client: httpx.AsyncClient) -> None:
    for prompt in ("", ["a", ""]):
        assert (await client.post("/v1/completions", json={"prompt": prompt})).status_code == 400
