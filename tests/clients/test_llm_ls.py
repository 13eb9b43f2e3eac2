"""llm-ls, the language server of llm.nvim and llm-vscode: its requests, and answers read as its types are.

Sources: `crates/llm-ls/src/backend.rs` and `main.rs` of huggingface/llm-ls at 1c52b94 (2026-04-07); defaults from
`lua/llm/config.lua` of huggingface/llm.nvim at ce69731 (2025-01-09). Its answers are untagged enums: the first
variant whose fields are all there wins, and what fits none is an error that an editor shows as it is.
"""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from model.text.prompts import Raw
from tests.support.fake_backend import ANSWER, MODEL, FakeBackend

LLM_LS = "llm-ls: llm.nvim, llm-vscode"

PROMPT = "<fim_prefix>def größe(<fim_suffix>\n\nprint(1)\n<fim_middle>"
PARAMETERS = {"max_new_tokens": 60, "temperature": 0.2, "top_p": 0.95, "return_full_text": False}
HEADERS = {"user-agent": "llm-ls/0.5.3; rust/unknown; ide/Neovim", "authorization": "Bearer unused"}


def ask(url: str, path: str, body: dict[str, Any]) -> Any:
    return httpx.post(url + path, json=body, headers=HEADERS, timeout=120).json()


def by_prompt(**options: Any) -> dict[str, Any]:
    return {"prompt": PROMPT, "model": MODEL, "stream": False, **options}


@pytest.fixture(autouse=True)
def _the_template_counts(backend: FakeBackend) -> Any:
    """llm-ls writes the FIM template itself: the tokens in it are meant."""
    yield
    for request in backend.requests:
        assert request.prompts == [Raw().encode(backend.tokenizer, PROMPT)]


@pytest.mark.client(LLM_LS, "TGI")
def test_tgi(url: str, backend: FakeBackend) -> None:
    """`parse_tgi_text` refuses arrays."""
    answer = ask(url, "/generate", {"inputs": PROMPT, "parameters": PARAMETERS})
    assert isinstance(answer["generated_text"], str)
    assert answer["generated_text"] == ANSWER


@pytest.mark.client(LLM_LS, "TGI")
def test_tgi_without_parameters(url: str, backend: FakeBackend) -> None:
    """`build_body` then writes `parameters` into `parameters`."""
    body = {"inputs": PROMPT, "parameters": {"parameters": {"return_full_text": False}}}
    assert ask(url, "/generate", body)["generated_text"] == ANSWER


@pytest.mark.client(LLM_LS, "TGI")
def test_hugging_faces_api(url: str, backend: FakeBackend) -> None:
    """`parse_api_text` takes arrays."""
    (answer,) = ask(url, f"/models/{MODEL}", {"inputs": PROMPT, "parameters": PARAMETERS})
    assert answer["generated_text"] == ANSWER


@pytest.mark.client(LLM_LS, "TGI")
def test_an_error_is_text(url: str) -> None:
    """`APIError` has a string in `error`."""
    body = {"inputs": PROMPT, "parameters": {**PARAMETERS, "max_new_tokens": 10**6}}
    for path in ("/generate", f"/models/{MODEL}"):
        assert "maximum context length" in ask(url, path, body)["error"]


@pytest.mark.client(LLM_LS, "Ollama")
def test_ollama(url: str) -> None:
    answer = ask(url, "/api/generate", by_prompt(options={"temperature": 0.2, "top_p": 0.95}))
    assert answer["response"] == ANSWER
    assert isinstance(ask(url, "/api/generate", {**by_prompt(), "model": "other"})["error"], str)


@pytest.mark.client(LLM_LS, "OpenAI")
@pytest.mark.parametrize("options", [{"temperature": 0.2, "top_p": 0.95, "max_tokens": 60}, {}])
def test_openai_and_llamacpp(url: str, options: dict[str, Any]) -> None:
    """Both backends ask `/v1/completions`. Without `max_tokens`, OpenAI's default of 16 holds."""
    (choice,) = ask(url, "/v1/completions", by_prompt(**options))["choices"]
    assert isinstance(choice["text"], str)
    assert ANSWER.startswith(choice["text"].rstrip("\ufffd"))
    assert (choice["text"] == ANSWER) == bool(options)
