"""Drives the `text-generation` package for the tests, in an environment of its own: see `run.mjs` for the protocol."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from typing import Any

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from text_generation import Client


def client(url: str) -> Client:
    return Client(url, headers={"Authorization": "Bearer unused"}, timeout=120)


def generate(url: str, prompt: str, **options: Any) -> Any:
    return client(url).generate(prompt, **options).model_dump(mode="json")


def generate_stream(url: str, prompt: str, abort_after: int | None = None, **options: Any) -> Any:
    parts, stream = [], client(url).generate_stream(prompt, **options)
    for part in stream:
        parts.append(part.model_dump(mode="json"))
        if len(parts) == abort_after:
            stream.close()
            break
    return parts


def chat(url: str, messages: list[dict[str, str]], **options: Any) -> Any:
    return client(url).chat(messages, **options).model_dump(mode="json")


CALLS: dict[str, Callable[..., Any]] = {function.__name__: function for function in (generate, generate_stream, chat)}


def main() -> None:
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = {"id": asked["id"], "result": CALLS[asked["call"]](**asked["options"])}
        except Exception as error:
            answer = {"id": asked["id"], "error": {"name": type(error).__name__, "message": str(error)}}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
