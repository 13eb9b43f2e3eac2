"""Documents with DOS line ends: the model reads what it reads of others, and what is inserted has the document's."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.api.common.line_ends import DosText
from model.text.tokenizer import Tokenizer
from tests.support.fake_backend import ANSWER, MODEL, FakeBackend

BEFORE, AFTER, OTHER = "import os\n\n\ndef size(a, b):\n    ", "\n\n\nprint(size(1, 2))\n", "def other():\n    pass\n"
TEMPLATE = f"<fim_prefix>{BEFORE}<fim_suffix>{AFTER}<fim_middle>"
CONTEXT = {"filepath": "a.py", "body": OTHER}

REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "openai": ("/v1/completions", {"prompt": BEFORE, "suffix": AFTER, "max_tokens": 200}),
    "openai, the end of a file": ("/v1/completions", {"prompt": BEFORE, "fim_mode": "psm", "max_tokens": 200}),
    "openai with context": (
        "/v1/completions",
        {"prompt": BEFORE, "repository": {"files": [{"path": "a", "content": OTHER}]}, "max_tokens": 200},
    ),
    "openai with a template": ("/v1/completions", {"prompt": TEMPLATE, "max_tokens": 200}),
    "deepseek": ("/beta/completions", {"prompt": BEFORE, "suffix": AFTER, "max_tokens": 200}),
    "mistral": ("/v1/fim/completions", {"prompt": BEFORE, "suffix": AFTER, "completion_mode": "raw"}),
    "mistral, the end of a file": ("/v1/fim/completions", {"prompt": BEFORE, "completion_mode": "raw"}),
    "ollama": (
        "/api/generate",
        {"model": MODEL, "prompt": BEFORE, "suffix": AFTER, "options": {"completion_mode": "raw"}},
    ),
    "llama.cpp": (
        "/infill",
        {
            "input_prefix": BEFORE,
            "prompt": "x = ",
            "input_suffix": AFTER,
            "input_extra": [{"filename": "a", "text": OTHER}],
            "completion_mode": "raw",
        },
    ),
    "tgi with a template": ("/generate", {"inputs": TEMPLATE, "parameters": {"details": True}}),
    "tabby": (
        "/v1/completions",
        {
            "segments": {"prefix": BEFORE, "suffix": AFTER, "declarations": [CONTEXT]},
            "completion_mode": "raw",
        },
    ),
}


def dos(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\n", "\r\n")
    if isinstance(value, dict):
        return {name: dos(item) for name, item in value.items()}
    return [dos(item) for item in value] if isinstance(value, list) else value


def text_of(answer: Any) -> str:
    """Of a whole answer or of a part of a stream, in any dialect."""
    if "choices" in answer:
        (choice,) = answer["choices"] or [{"text": ""}]
        return choice.get("text") or (choice.get("message") or choice.get("delta") or {}).get("content", "")
    if "token" in answer:
        return "" if answer["token"]["special"] else answer["token"]["text"]
    return answer.get("response") or answer.get("content") or answer.get("generated_text") or ""


async def streamed(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> str:
    response = await client.post("/generate_stream" if path == "/generate" else path, json={**body, "stream": True})
    assert response.status_code == 200, response.text
    lines = [line.removeprefix("data: ") for line in response.text.split("\n") if line]
    return "".join(text_of(json.loads(line)) for line in lines if line != "[DONE]")


@pytest.mark.parametrize("name", REQUESTS)
async def test_every_dialect_normalises_and_restores(
    client: httpx.AsyncClient, fake_backend: FakeBackend, name: str
) -> None:
    path, body = REQUESTS[name]
    body = {"stream": False, **body} if name == "ollama" else body
    answers = [(await client.post(path, json=variant)).json() for variant in (body, dos(body))]
    unix, other = fake_backend.requests
    assert other.prompts == unix.prompts
    assert other.rules == unix.rules
    assert (text_of(answers[0]), text_of(answers[1])) == (ANSWER, dos(ANSWER))
    if name == "tgi with a template":
        tokens = answers[1]["details"]["tokens"]
        assert "".join(token["text"] for token in tokens if not token["special"]) == dos(ANSWER)
    if name != "tabby":
        assert await streamed(client, path, dos(body)) == dos(ANSWER)


async def test_a_refactoring_keeps_the_line_ends(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    for code in (OTHER, dos(OTHER)):
        body = {"code": code, "instruction": "x", "max_tokens": 100}
        answer = (await client.post("/v1/refactor", json=body)).json()
        assert answer["code"] == (ANSWER if code == OTHER else dos(ANSWER))
        assert f"-{code.splitlines(keepends=True)[0]}" in answer["diff"]
    first, second = fake_backend.requests
    assert first.prompts == second.prompts


async def test_the_rules_see_what_the_model_sees(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    body = {"prompt": BEFORE, "suffix": AFTER, "completion_mode": "auto", "session_id": "a"}
    for variant in (body, dos(body)):
        await client.post("/v1/completions", json=variant)
    unix, other = fake_backend.requests
    assert other.rules == unix.rules
    assert other.rules is not None
    assert other.session is not None
    assert unix.session is not None
    assert (other.session.key, other.session.prefix) == (unix.session.key, unix.session.prefix)


async def test_plain_text_is_its_own(
    client: httpx.AsyncClient, fake_backend: FakeBackend, tokenizer: Tokenizer
) -> None:
    """What is scored, or continued without a cursor, is the client's text, byte by byte."""
    answer = await client.post("/v1/completions", json={"prompt": dos(BEFORE), "echo": True, "max_tokens": 200})
    assert fake_backend.requests[0].prompts == [tokenizer.encode(dos(BEFORE))]
    assert answer.json()["choices"][0]["text"] == dos(BEFORE) + ANSWER


async def test_a_few_dos_lines_do_not_make_a_dos_document(client: httpx.AsyncClient) -> None:
    for prompt, ends in (("a\nb\r\nc\nd\n", "\n"), ("a\r\nb\r\nc\n", "\r\n"), ("a", "\n")):
        body = {"prompt": prompt, "suffix": "x", "max_tokens": 200}
        assert (await client.post("/v1/completions", json=body)).json()["choices"][0]["text"] == ANSWER.replace(
            "\n", ends
        )


async def test_stop_strings_are_met_whatever_their_line_ends(
    client: httpx.AsyncClient, fake_backend: FakeBackend
) -> None:
    body = {"prompt": dos(BEFORE), "suffix": dos(AFTER), "stop": [":\r\n", "z"], "max_tokens": 200}
    (choice,) = (await client.post("/v1/completions", json=body)).json()["choices"]
    assert (choice["text"], choice["stop_reason"]) == (ANSWER[: ANSWER.index(":")], ":\r\n")
    assert fake_backend.requests[0].stop == (":\r\n", "z", ":\n")


async def test_offsets_are_those_of_the_restored_text(client: httpx.AsyncClient) -> None:
    body = {"prompt": dos(BEFORE), "suffix": dos(AFTER), "logprobs": 0, "max_tokens": 200}
    (choice,) = (await client.post("/v1/completions", json=body)).json()["choices"]
    offsets, text = choice["logprobs"]["text_offset"], choice["text"]
    places = [*offsets[1:], len(text)]
    said = [text[start:end] for start, end in zip(offsets, places, strict=True)]
    assert "".join(said) == dos(ANSWER)
    for piece, token in zip(said, choice["logprobs"]["tokens"], strict=True):
        if not token.startswith(("bytes:", "<|")):
            assert piece == dos(token)


async def test_each_prompt_has_its_own_line_ends(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    body = {"prompt": [BEFORE, dos(BEFORE)], "suffix": "x", "n": 2, "max_tokens": 200}
    texts = [choice["text"] for choice in (await client.post("/v1/completions", json=body)).json()["choices"]]
    assert ["\r" in text for text in texts] == [False, False, True, True]
    assert fake_backend.requests[0].dos_prompts == (1,)


@given(st.lists(st.text(alphabet="\r\na", max_size=4)))
def test_pieces_join_to_the_whole(pieces: list[str]) -> None:
    text = "".join(pieces)
    growing = DosText()
    assert "".join(growing.push(piece) for piece in pieces) == DosText().push(text)
    assert DosText().push(text).replace("\r\n", "\n") == text.replace("\r\n", "\n")
