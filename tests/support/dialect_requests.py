"""What clients ask: a completion in each dialect, whole and as a stream."""

from __future__ import annotations

from typing import Any

from tests.support.fake_backend import MODEL

Ask = tuple[str, str, dict[str, Any]]
"""Dialect, path, body."""


def whole(text: str) -> list[Ask]:
    """Five tokens behind `text`, in one piece where the dialect has that."""
    openai = {"prompt": text, "suffix": text, "stop": [text], "max_tokens": 5}
    return [
        ("openai", "/v1/completions", openai),
        ("deepseek", "/beta/completions", {"prompt": text, "max_tokens": 5}),
        ("openai_chat", "/v1/chat/completions", {"messages": [{"role": "user", "content": text}], "max_tokens": 5}),
        ("mistral", "/v1/fim/completions", {"prompt": text, "suffix": text, "max_tokens": 5}),
        ("tgi", "/generate", {"inputs": text, "parameters": {"max_new_tokens": 5}}),
        ("tgi", "/generate_stream", {"inputs": text, "parameters": {"max_new_tokens": 5}}),
        ("llamacpp", "/infill", {"input_prefix": text, "input_suffix": text, "n_predict": 5}),
        ("ollama", "/api/generate", {"model": MODEL, "prompt": text, "options": {"num_predict": 5}}),
        ("tabby", "/v1/completions", {"segments": {"prefix": text, "suffix": text}, "language": "python"}),
        ("refactor", "/v1/refactor", {"code": text, "instruction": text, "max_tokens": 5}),
    ]


def either_way(text: str) -> list[Ask]:
    """The same, and once more with the other choice of `stream`, which Tabby's clients have not."""
    asks = whole(text)
    for dialect, path, body in whole(text):
        if dialect not in ("tabby", "tgi"):
            asks.append((dialect, path, {**body, "stream": dialect != "ollama"}))
    return asks
