"""What the smallest embedded model fills in, asked as editors ask: all of the server but Ray, its rules included."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.asyncio(loop_scope="session")

PUSH = "class Stack:\n    def __init__(self):\n        self._items = []\n\n    def push(self, item):\n        "
LOGGING = "import logging\n\nlogger = logging."
INFILLS = [
    ("for key, value in data.", "items", "():\n    print(key, value)\n"),
    ("    @", "property", "\n    def name(self):\n        return self._name\n"),
    ("def f(*args, **", "kwargs", "):\n    return g(*args, **kwargs)\n"),
    ("def f(*args, **kwargs):\n    return g(*args, **", "kwargs", ")\n"),
    ("def f(*", "args", ", **kwargs):\n    return g(*args, **kwargs)\n"),
    (LOGGING, "getLogger", "(__name__)\n"),
    (LOGGING + "get", "Logger", "(__name__)\n"),
    (LOGGING + "getLogger(__", "name__", ")\n"),
    ("    def push(self, item):\n        self.items.append(", "item", ")\n\n    def pop(self):\n        pass\n"),
    (PUSH + "self._items.append(", "item", ")\n"),
    ("try:\n    value = int(text)\nexcept Value", "Error", ":\n    value = 0\n"),
    ("from __future__ import", " annotations", "\n\nimport os\n"),
    ("MAX_RETRIES = 3\n\nfor attempt in range(MAX_", "RETRIES", "):\n    print(attempt)\n"),
    ("def greet(user_name):\n    print(user_", "name", ")\n"),
    ('with open(path, encoding="', "utf-8", '") as f:\n    text = f.read()\n'),
    ("    def close(self):\n        if self._file is not No", "ne", ":\n            self._file.close()\n"),
    ("from pathlib import", " Path", '\n\nroot = Path(".")\n'),
]


@pytest.mark.parametrize(("prefix", "middle", "suffix"), INFILLS)
async def test_known_idioms_are_filled(pico: httpx.AsyncClient, prefix: str, middle: str, suffix: str) -> None:
    body = {"input_prefix": prefix, "input_suffix": suffix, "n_predict": 24, "temperature": 0}
    assert (await pico.post("/infill", json=body)).json()["content"] == middle


@pytest.mark.parametrize(("prefix", "middle", "suffix"), INFILLS)
async def test_they_are_filled_in_files_with_dos_line_ends(
    pico: httpx.AsyncClient, prefix: str, middle: str, suffix: str
) -> None:
    body = {"prompt": prefix.replace("\n", "\r\n"), "suffix": suffix.replace("\n", "\r\n"), "temperature": 0}
    body |= {"max_tokens": 24, "completion_mode": "auto"}
    assert (await pico.post("/v1/completions", json=body)).json()["choices"][0]["text"] == middle


def at_the_end_of_a_file(prefix: str) -> list[tuple[str, dict[str, Any]]]:
    """What editors of each dialect send where nothing is behind the cursor."""
    greedy = {"temperature": 0}
    ollama = {"model": "pico", "prompt": prefix, "suffix": "", "stream": False}
    return [
        ("/v1/completions", {"prompt": prefix, "suffix": "", "completion_mode": "auto", "max_tokens": 48, **greedy}),
        ("/v1/completions", {"segments": {"prefix": prefix}, **greedy}),
        ("/v1/fim/completions", {"prompt": prefix, "max_tokens": 48, **greedy}),
        ("/infill", {"input_prefix": prefix, "n_predict": 48, **greedy}),
        ("/api/generate", {**ollama, "options": {"num_predict": 48, **greedy}}),
    ]


def text_of(answer: dict[str, Any]) -> str:
    found: str = answer.get("content") or answer.get("response") or ""
    for choice in answer.get("choices", []):
        found = choice.get("text") or choice["message"]["content"]
    return found


@pytest.mark.parametrize(
    ("prefix", "line"),
    [
        (LOGGING, "getLogger(__name__)"),
        ("if __name__", ' == "__main__":'),
        (PUSH + "self._items.", "append(item)"),
        ("def greet(name):\n    ", '"""Greet for greeting '),
    ],
)
async def test_what_is_written_at_the_end_of_a_file(pico: httpx.AsyncClient, prefix: str, line: str) -> None:
    """In every dialect. What goes in circles is kept once."""
    for path, body in at_the_end_of_a_file(prefix):
        answer = (await pico.post(path, json=body)).json()
        assert text_of(answer).split("\n")[0] == line, (path, answer)


@pytest.mark.parametrize("prefix", ["def greet(name):\n    ", "class Stack:\n    ", "def greet(name):\n"])
async def test_no_special_token_takes_the_place_of_an_answer(pico: httpx.AsyncClient, prefix: str) -> None:
    """Where the likeliest token is one, as it is here; a request may allow it."""
    body = {"prompt": prefix, "temperature": 0, "max_tokens": 8, "logprobs": 1}
    (allowed,) = (await pico.post("/v1/completions", json={**body, "skip_special_tokens": False})).json()["choices"]
    assert allowed["text"].startswith("<fim_suffix>")
    for mode in ("raw", "auto"):
        (choice,) = (await pico.post("/v1/completions", json={**body, "completion_mode": mode})).json()["choices"]
        assert choice["text"].strip()
        assert "<fim_" not in choice["text"]
        assert "<fim_suffix>" in choice["logprobs"]["top_logprobs"][0], "it is reported, but not drawn"
