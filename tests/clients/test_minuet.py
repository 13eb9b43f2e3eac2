"""minuet-ai.nvim, set up as documented: its requests, and answers read as it reads them.

Sources: `lua/minuet/config.lua`, `utils.lua` and `backends/openai_base.lua` of milanglacier/minuet-ai.nvim at 479487c
(2026-08-07).
"""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.clients.configured import KEY, neovim
from tests.clients.conftest import starts
from tests.support.fake_backend import ANSWER, MODEL, FakeBackend

MINUET = "minuet-ai.nvim"

BEFORE, AFTER = "# language: python\n# indentation: use 4 spaces for a tab\n\ndef 漢(", "\nx"
"""`default_fim_prompt` begins with comments; the suffix has a line end always."""


def complete(options: dict[str, Any]) -> str:
    """`complete_openai_fim_base`, and `stream_decode`, which passes over lines that are no JSON."""
    body = {"model": options["model"], "stream": True, **options["optional"], "prompt": BEFORE, "suffix": AFTER}
    headers = {"accept": "application/json", "authorization": f"Bearer {options['api_key']}"}
    text = ""
    for line in httpx.post(options["end_point"], json=body, headers=headers).text.split("\n"):
        try:
            chunk = json.loads(line.removeprefix("data:"))
        except ValueError:
            continue
        text += chunk["choices"][0]["text"]
    return text


@pytest.mark.client(MINUET, "OpenAI")
def test_as_documented(url: str, backend: FakeBackend, keys: list[str | None]) -> None:
    given = neovim("minuet-ai-nvim", "minuet", url)
    assert given["n_completions"] == 1  # as many requests
    assert starts(complete(given["provider_options"][given["provider"]]), ANSWER)
    (request,) = backend.requests
    assert request.params.max_tokens == 64
    assert request.rules
    assert keys == [KEY]


@pytest.mark.client(MINUET, "OpenAI")
@pytest.mark.parametrize("path", ["/v1/completions", "/beta/completions"])
def test_openai_and_deepseek(url: str, path: str) -> None:
    options = {"model": MODEL, "end_point": url + path, "api_key": KEY, "optional": {"max_tokens": 64}}
    assert complete(options) == ANSWER


@pytest.mark.client(MINUET, "Mistral")
def test_codestral(url: str) -> None:
    body = {"model": MODEL, "stream": True, "prompt": BEFORE, "suffix": AFTER, "max_tokens": 64}
    *lines, done = [line for line in httpx.post(f"{url}/v1/fim/completions", json=body).text.split("\n") if line]
    assert done == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data:")) for line in lines]
    assert starts("".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks), ANSWER)
