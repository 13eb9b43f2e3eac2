"""Continue's own providers, which are in no registry: their requests, and how they read answers.

Sources: `core/llm/llms/Ollama.ts`, `HuggingFaceTGI.ts` and `LlamaCpp.ts` of continuedev/continue at d0a3c0b
(2026-06-18). What Continue sends through its npm package is in `test_continue_js.py`.
"""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.clients.configured import KEY, models
from tests.clients.conftest import starts
from tests.clients.test_continue_js import STOPS
from tests.support.fake_backend import ANSWER, MODEL, FakeBackend

CORE = "Continue's core"


@pytest.mark.client(CORE, "Ollama")
def test_ollama(url: str, backend: FakeBackend, keys: list[str | None]) -> None:
    """A template with `.Suffix` makes it fill gaps; before it has seen that, it writes the FIM template itself."""
    model = models("continue", url)["ollama"]
    assert model["roles"] == ["autocomplete"]
    headers = {"authorization": f"Bearer {model['apiKey']}"}
    length = model["defaultCompletionOptions"]["maxTokens"]
    options = {"temperature": 0.01, "num_predict": length, "stop": STOPS, "num_ctx": 8192, "use_mmap": None}
    body = {"model": model["model"], "options": options, "keep_alive": 1800, "stream": True}
    template = "<fim_prefix>def 漢(<fim_suffix>\nx<fim_middle>"
    gap = {"prompt": "def 漢(", "suffix": "\nx"}
    with httpx.Client(base_url=model["apiBase"], headers=headers, timeout=120) as http:
        (name,) = [model["name"] for model in http.get("/api/tags").json()["models"]]
        assert name == f"{model['model']}:latest"
        assert response_of(http.post("/api/generate", json={**body, "prompt": template, "raw": True})) == ANSWER
        shown = http.post("/api/show", json={"name": model["model"]}).json()
        assert ".Suffix" in shown["template"]
        assert isinstance(shown["parameters"], str)
        assert starts(response_of(http.post("/api/generate", json={**body, **gap})), ANSWER)
    prompts = [backend.tokenizer.decode(asked.prompts[0], skip_special=False) for asked in backend.requests]
    assert prompts == [template, "<fim_prefix><fim_suffix>\nx<fim_middle>def 漢("]
    assert set(keys) == {KEY}


def response_of(answer: httpx.Response) -> str:
    """Lines of JSON with `response`; what follows the last line end is never read."""
    *lines, unread = answer.text.split("\n")
    assert unread == ""
    return "".join(json.loads(line)["response"] for line in lines if line.strip())


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
