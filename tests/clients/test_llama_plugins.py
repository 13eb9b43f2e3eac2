"""llama.vim and llama.vscode, set up as documented: requests as their sources build them, answers read as strictly.

Sources: `autoload/llama.vim` of ggml-org/llama.vim at a1c8e6e (2026-01-31); `src/llama-server.ts`, `completion.ts` and
`statusbar.ts` of ggml-org/llama.vscode 0.0.63 at 3938fb3 (2026-08-19).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.clients.configured import KEY, settings, vim
from tests.clients.conftest import starts
from tests.support.fake_backend import ANSWER, FakeBackend

VIM = "llama.vim"
VSCODE = "llama.vscode"

CHUNK = {"text": "RATE = 7\n", "time": [17123, 456], "filename": "tax.py"}
TIMINGS = ["n", "ms", "per_token_ms", "per_second"]
VIM_FIELDS = [
    *("content", *(f"timings/{phase}_{field}" for phase in ("prompt", "predicted") for field in TIMINGS)),
    *("truncated", "tokens_cached"),
]
VIM_FIM = {
    "id_slot": 0,
    "input_prefix": "import math\n\n",
    "input_suffix": "\n",
    "input_extra": [CHUNK],
    "prompt": "def ",
    "n_predict": 128,
    "stop": [],
    "n_indent": 0,
    "top_k": 40,
    "top_p": 0.90,
    "samplers": ["top_k", "top_p", "infill"],
    "stream": False,
    "cache_prompt": True,
    "t_max_prompt_ms": 500,
    "t_max_predict_ms": 100_000,  # 250 there: a slow machine here must not cut the answer that is compared
    "response_fields": VIM_FIELDS,
}
"""`llama#fim`"""
VIM_WARM_UP = {
    "id_slot": 0,
    "input_prefix": "",
    "input_suffix": "",
    "input_extra": [CHUNK],
    "prompt": "",
    "n_predict": 0,
    "temperature": 0.0,
    "samplers": [],
    "stream": False,
    "cache_prompt": True,
    "t_max_prompt_ms": 1,
    "t_max_predict_ms": 1,
    "response_fields": [""],
}
"""`s:ring_update`"""
VIM_MESSAGES = [{"role": "system", "content": "You are a text-editing assistant.\n"}, {"role": "user", "content": ""}]
"""`llama#inst_build`, shortened"""
VIM_INSTRUCT_WARM_UP = {
    "id_slot": 0,
    "messages": VIM_MESSAGES,
    "samplers": [],
    "n_predict": 0,
    "stream": False,
    "cache_prompt": True,
    "response_fields": [""],
}
"""`llama#inst`"""
VIM_INSTRUCT = {
    "id_slot": 0,
    "messages": [VIM_MESSAGES[0], {"role": "user", "content": "INSTRUCTION: add types"}],
    "min_p": 0.1,
    "temperature": 0.1,
    "samplers": ["min_p", "temperature"],
    "stream": True,
    "cache_prompt": True,
}
"""`llama#inst_send`"""
VSCODE_FIM = {
    "id_slot": 0,
    "input_prefix": "import math\n\n",
    "input_suffix": "\n\n",
    "input_extra": [{"text": "RATE = 7\n", "time": 1753, "filename": "tax.py"}],
    "prompt": "def ",
    "n_predict": 128,
    "n_cmpl": 3,
    "top_k": 40,
    "top_p": 0.99,
    "stream": False,
    "samplers": ["top_k", "top_p", "infill"],
    "cache_prompt": True,
    "t_max_prompt_ms": 500,
    "t_max_predict_ms": 100_000,
}
"""`createRequestPayload`, with the extension's default of three completions"""
VSCODE_WARM_UP = {
    "id_slot": 0,
    "input_prefix": "",
    "input_suffix": "",
    "input_extra": [{"text": "RATE = 7\n", "time": 1753, "filename": "tax.py"}],
    "prompt": "",
    "n_predict": 0,
    "samplers": [],
    "cache_prompt": True,
    "t_max_prompt_ms": 500,
    "t_max_predict_ms": 1,
}


class Vim:
    """llama.vim: where it sends what."""

    def __init__(self, url: str) -> None:
        self._config = vim("llama-vim", "g:llama_config", url)

    def post(self, endpoint: str, body: dict[str, Any]) -> httpx.Response:
        """endpoint: `fim` or `inst`. Its `model` is always there: it asks whether the name of the option is empty."""
        model = self._config.get(f"model_{endpoint}", "")
        headers = {"authorization": f"Bearer {self._config.get('api_key', '')}"}
        response = httpx.post(
            self._config[f"endpoint_{endpoint}"], json={**body, "model": model}, headers=headers, timeout=120
        )
        assert response.status_code == 200, response.text
        return response


class Code:
    """llama.vscode: `getComplModelProperties` and `getChatModelProperties`, where no model is chosen from its lists."""

    def __init__(self, url: str) -> None:
        defaults = {"endpoint": "", "endpoint_chat": "", "ai_model": "google/gemini-2.5-flash", "ai_api_version": "v1"}
        given = {name.removeprefix("llama-vscode."): value for name, value in settings("llama-vscode", url).items()}
        self._config = {**defaults, "api_key": "", "api_key_chat": "", **given}

    def infill(self, body: dict[str, Any]) -> httpx.Response:
        return self._post(f"{self._config['endpoint']}/infill", "api_key", body)

    def chat(self, body: dict[str, Any]) -> Any:
        address = f"{self._config['endpoint_chat']}/{self._config['ai_api_version']}/chat/completions"
        response = self._post(address, "api_key_chat", body)
        assert response.status_code == 200, response.text
        return response.json()["choices"][0]["message"]["content"]

    def health(self) -> Any:
        return httpx.get(f"{self._config['endpoint']}/health", headers=self._headers("api_key")).json()["status"]

    def _post(self, address: str, key: str, body: dict[str, Any]) -> httpx.Response:
        named = {**body, "model": self._config["ai_model"]}
        return httpx.post(address, json=named, headers=self._headers(key), timeout=120)

    def _headers(self, key: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self._config[key]}"} if self._config[key] else {}


@pytest.fixture
def llama_vim(url: str) -> Vim:
    return Vim(url)


@pytest.fixture
def llama_vscode(url: str) -> Code:
    return Code(url)


@pytest.fixture(autouse=True)
def _the_key_goes_along(keys: list[str | None]) -> Iterator[None]:
    yield
    assert set(keys) == {KEY}


@pytest.mark.client(VIM, "llama.cpp")
def test_llama_vim_completes(llama_vim: Vim, backend: FakeBackend) -> None:
    """`s:fim_on_response` reads only what its two patterns match; Vim, unlike Neovim, hands it line after line."""
    raw = llama_vim.post("fim", VIM_FIM).text
    assert re.match(r"^\s*\{", raw)
    assert re.search(r'"content"\s*:"', raw)
    assert "\n" not in raw
    answer = json.loads(raw)
    assert answer.keys() == set(VIM_FIELDS)
    assert starts(answer["content"], ANSWER)
    assert all(isinstance(answer[field], int | float) for field in VIM_FIELDS if field.startswith("timings/"))
    prompt = backend.tokenizer.decode(backend.requests[0].prompts[0], skip_special=False)
    assert "<filename>tax.py\nRATE = 7\n" in prompt
    assert prompt.endswith("<fim_prefix><fim_suffix>\n<fim_middle>import math\n\ndef ")


@pytest.mark.client(VIM, "llama.cpp")
def test_llama_vim_warms_the_cache(llama_vim: Vim, backend: FakeBackend) -> None:
    assert llama_vim.post("fim", VIM_WARM_UP).json() == {}
    assert backend.requests[0].params.max_tokens == 1


@pytest.mark.client(VIM, "OpenAI")
def test_llama_vim_warms_the_cache_for_an_instruction(llama_vim: Vim, backend: FakeBackend) -> None:
    answer = llama_vim.post("inst", VIM_INSTRUCT_WARM_UP).json()
    assert backend.requests[0].params.max_tokens == 1
    (choice,) = answer["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("", "length")
    assert answer["usage"]["completion_tokens"] == 0


@pytest.mark.client(VIM, "OpenAI")
def test_llama_vim_instructs(llama_vim: Vim, backend: FakeBackend) -> None:
    """As `s:inst_on_response` reads it: line by line, and nothing but JSON counts."""
    content = ""
    for line in llama_vim.post("inst", VIM_INSTRUCT).text.split("\n"):
        data = line.removeprefix("data: ")
        if data.strip() and data != "[DONE]":
            choices = json.loads(data)["choices"]
            assert "delta" in choices[0]
            content += choices[0]["delta"].get("content", "")
    assert content == ANSWER
    assert backend.requests[0].params.min_p == 0.1


@pytest.mark.client(VSCODE, "llama.cpp")
def test_llama_vscode_completes(llama_vscode: Code, backend: FakeBackend) -> None:
    """`getComplFromContent` takes an object with `content`, or a list of them."""
    answers = llama_vscode.infill(VSCODE_FIM).json()
    assert isinstance(answers, list)
    assert [answer["index"] for answer in answers] == [0, 1, 2]
    for number, answer in enumerate(answers):
        assert starts(answer["content"], backend.tokenizer.decode(backend.tokens(number)))
    one = llama_vscode.infill({**VSCODE_FIM, "n_cmpl": 1, "n_indent": 4}).json()
    assert one["content"].split("\n")[0] == "def größe(a, b):"


@pytest.mark.client(VSCODE, "llama.cpp")
def test_llama_vscode_shows_statistics(llama_vscode: Code, backend: FakeBackend) -> None:
    """`showInfo` of its status bar calls `toFixed` on what it finds."""
    answer = llama_vscode.infill({**VSCODE_FIM, "n_cmpl": 1}).json()
    assert answer["generation_settings"]["n_ctx"] == backend.window
    assert isinstance(answer["tokens_cached"], int)
    for field in ("prompt_n", "prompt_ms", "prompt_per_second", "predicted_n", "predicted_ms", "predicted_per_second"):
        assert isinstance(answer["timings"][field], int | float)


@pytest.mark.client(VSCODE, "llama.cpp")
def test_llama_vscode_warms_the_cache_and_looks_after_the_server(llama_vscode: Code, backend: FakeBackend) -> None:
    assert llama_vscode.infill(VSCODE_WARM_UP).json()["content"] == ""
    assert backend.requests[0].params.max_tokens == 1
    assert llama_vscode.health() == "ok"
    refused = llama_vscode.infill({**VSCODE_FIM, "n_cmpl": 100_000})
    assert "100000" in refused.json()["error"]["message"]


@pytest.mark.client(VSCODE, "OpenAI")
def test_llama_vscode_edits(llama_vscode: Code) -> None:
    """`createChatEditRequestPayload`, which names `ai_model`, as every request of its chat does."""
    messages = [{"role": "system", "content": "You are an expert coder.\n"}, {"role": "user", "content": "Add types."}]
    body = {"messages": messages, "stream": False, "cache_prompt": True, "temperature": 0.8, "top_p": 0.95}
    assert llama_vscode.chat(body) == ANSWER


@pytest.mark.client(VSCODE, "OpenAI")
def test_llama_vscode_talks(llama_vscode: Code) -> None:
    """`createChatRequestPayload`: of its chat with context, and for messages of commits."""
    messages = [{"role": "system", "content": "You are an expert coder."}, {"role": "user", "content": "Why?"}]
    assert llama_vscode.chat({"messages": messages, "stream": False, "temperature": 0.8}) == ANSWER
