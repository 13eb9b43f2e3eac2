"""llm-ls, the language server of llm.nvim and llm-vscode: its requests, and answers read as its types are.

Sources: `crates/llm-ls/src/backend.rs` and `main.rs` of huggingface/llm-ls at 1c52b94 (2026-04-07); defaults from
`lua/llm/config.lua` of huggingface/llm.nvim at ce69731 (2025-01-09) and `package.json` of huggingface/llm-vscode 0.2.2
at 0661296 (2024-07-17). Its answers are untagged enums: the first variant whose fields are all there wins, and what
fits none is an error that an editor shows as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from model.text.prompts import Raw
from tests.clients.configured import KEY, neovim, settings
from tests.clients.conftest import starts
from tests.support.fake_backend import ANSWER, MODEL, FakeBackend

LLM_LS = "llm-ls: llm.nvim, llm-vscode"

PROMPT = "<fim_prefix>def größe(<fim_suffix>\n\nprint(1)\n<fim_middle>"
PARAMETERS = {"max_new_tokens": 60, "temperature": 0.2, "top_p": 0.95, "return_full_text": False}
HEADERS = {"user-agent": "llm-ls/0.5.3; rust/unknown; ide/Neovim", "authorization": "Bearer unused"}


def ask(url: str, path: str, body: dict[str, Any]) -> Any:
    return httpx.post(url + path, json=body, headers=HEADERS, timeout=120).json()


def by_prompt(**options: Any) -> dict[str, Any]:
    return {"prompt": PROMPT, "model": MODEL, "stream": False, **options}


@dataclass(frozen=True)
class Plugin:
    """What a plugin asks its language server with, by the names of `GetCompletionsParams`."""

    backend: str
    url: str
    context_window: int
    request_body: dict[str, Any]
    api_token: str | None

    def complete(self, before: str, after: str) -> str:
        """`build_prompt`, which counts bytes where no tokenizer is named; `build_url`; `build_body`."""
        prompt = f"<fim_prefix>{before}<fim_suffix>{after}<fim_middle>"
        assert len(prompt.encode()) <= self.context_window
        assert self.backend == "tgi"
        parameters = {**self.request_body["parameters"], "return_full_text": False}
        headers = {"authorization": f"Bearer {self.api_token}"} if self.api_token else {}
        body = {**self.request_body, "inputs": prompt, "parameters": parameters}
        answer = httpx.post(f"{self.url}/generate", json=body, headers=headers, timeout=120).json()
        return answer["generated_text"].replace("<|endoftext|>", "")


@pytest.fixture
def llm_nvim(url: str) -> Plugin:
    given = neovim("llm-nvim", "llm", url)
    return Plugin(given["backend"], given["url"], given["context_window"], given["request_body"], given["api_token"])


@pytest.fixture
def llm_vscode(url: str) -> Plugin:
    """The key is what its command asked for."""
    given = {name.removeprefix("llm."): value for name, value in settings("llm-vscode", url).items()}
    return Plugin(given["backend"], given["url"], given["contextWindow"], given["requestBody"], KEY)


@pytest.fixture(autouse=True)
def _the_template_counts(backend: FakeBackend) -> Iterator[None]:
    """llm-ls writes the FIM template itself: the tokens in it are meant."""
    yield
    for request in backend.requests:
        assert request.prompts == [Raw().encode(backend.tokenizer, PROMPT)]


@pytest.mark.client(LLM_LS, "TGI")
@pytest.mark.parametrize("name", ["llm_nvim", "llm_vscode"])
def test_as_documented(name: str, request: pytest.FixtureRequest, backend: FakeBackend, keys: list[str | None]) -> None:
    plugin: Plugin = request.getfixturevalue(name)
    assert starts(plugin.complete("def größe(", "\n\nprint(1)\n"), ANSWER)
    assert backend.requests[0].params.max_tokens == 60
    assert backend.requests[0].rules
    assert keys == [KEY]


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
