"""Continue's own providers, which are in no registry, and minuet-ai.nvim: their requests, and how they read answers.

Sources: `core/llm/llms/Ollama.ts`, `HuggingFaceTGI.ts` and `LlamaCpp.ts` of continuedev/continue at d0a3c0b
(2026-06-18); `lua/minuet/backends/openai_base.lua` and `utils.lua` of milanglacier/minuet-ai.nvim at 479487c
(2026-08-07). What Continue sends through its npm package is in `test_continue_js.py`.
"""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.clients.conftest import starts
from tests.clients.test_continue_js import STOPS
from tests.support.fake_backend import ANSWER, MODEL, FakeBackend

CORE = "Continue's core"
MINUET = "minuet-ai.nvim"


@pytest.mark.client(CORE, "Ollama")
def test_ollama(url: str, backend: FakeBackend) -> None:
    """A template with `.Suffix` is what makes it fill gaps; the lines of the answer are JSON with `response`."""
    shown = httpx.post(f"{url}/api/show", json={"name": MODEL}).json()
    assert ".Suffix" in shown["template"]
    assert isinstance(shown["parameters"], str)
    (name,) = [model["name"] for model in httpx.get(f"{url}/api/tags").json()["models"]]
    options = {"temperature": 0.01, "num_predict": 256, "stop": STOPS, "num_ctx": 8192, "use_mmap": None}
    body = {"model": name, "prompt": "def 漢(", "suffix": "\nx", "options": options, "keep_alive": 1800, "stream": True}
    text = httpx.post(f"{url}/api/generate", json=body).text
    assert text.endswith("\n")  # what follows the last line end is never read
    assert starts("".join(json.loads(line)["response"] for line in text.split("\n") if line.strip()), ANSWER)
    prompt = backend.tokenizer.decode(backend.requests[0].prompts[0], skip_special=False)
    assert prompt == "<fim_prefix><fim_suffix>\nx<fim_middle>def 漢("


@pytest.mark.client(CORE, "TGI")
def test_tgi(url: str, backend: FakeBackend) -> None:
    info = httpx.get(f"{url}/info").json()
    assert (info["model_id"], int(info["max_input_length"])) == (MODEL, backend.window - 1)
    parameters = {"max_new_tokens": 99, "best_of": 1, "temperature": 0.01, "stop": STOPS[:4]}
    body = {"inputs": "<fim_prefix>x<fim_suffix>y<fim_middle>", "parameters": parameters}
    events = events_of(httpx.post(f"{url}/generate_stream", json=body))
    assert "".join(event["token"]["text"] for event in events) == ANSWER + "<|endoftext|>"


@pytest.mark.client(CORE, "llama.cpp")
def test_llamacpp(url: str) -> None:
    """Every event may have `content`; there is no `[DONE]`."""
    body = {"model": MODEL, "prompt": "<fim_prefix>x<fim_suffix>y<fim_middle>", "stream": True, "stop": STOPS}
    events = events_of(httpx.post(f"{url}/completion", json={**body, "n_predict": 256, "temperature": 0.01}))
    assert "".join(event["content"] for event in events if event["content"]) == ANSWER


def events_of(response: httpx.Response) -> list[Any]:
    """As `streamSse` of its npm package reads lines."""
    lines = [line for line in response.text.split("\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    return [json.loads(line.removeprefix("data: ")) for line in lines]


@pytest.mark.client(MINUET, "OpenAI")
@pytest.mark.parametrize("path", ["/v1/completions", "/beta/completions"])
def test_minuet(url: str, backend: FakeBackend, path: str) -> None:
    """`stream_decode`: lines that are no JSON or have no `choices[1].text` are passed over."""
    optional = {"max_tokens": 64, "truncate_prompt_tokens": -1}
    body = {"model": MODEL, "stream": True, **optional, "prompt": "def 漢(", "suffix": "\nx"}
    headers = {"accept": "application/json", "authorization": "Bearer xterm"}
    text = ""
    for line in httpx.post(url + path, json=body, headers=headers).text.split("\n"):
        try:
            chunk = json.loads(line.removeprefix("data:"))
        except ValueError:
            continue
        text += chunk["choices"][0]["text"]
    assert text == ANSWER
    assert backend.requests[0].params.max_tokens == 64


@pytest.mark.client(MINUET, "Mistral")
def test_minuet_for_codestral(url: str) -> None:
    body = {"model": MODEL, "stream": True, "prompt": "def 漢(", "suffix": "\nx", "max_tokens": 64}
    *lines, done = [line for line in httpx.post(f"{url}/v1/fim/completions", json=body).text.split("\n") if line]
    assert done == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data:")) for line in lines]
    assert starts("".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks), ANSWER)
