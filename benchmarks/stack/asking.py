"""The requests of a load, as bytes that only have to be written."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.stack.load import Kind
from benchmarks.stack.table import prompts
from model.text.tokenizer import Tokenizer

PATH = "/v1/completions"
MANY_PROMPTS = 256

PromptForm = Literal["text", "ids"]


@dataclass(frozen=True)
class Shape:
    """One kind of load. step_ms: of the table engine's steps, 0 as fast as it can. tokens: of an answer."""

    name: str
    kind: Kind
    streams: int
    tokens: int
    step_ms: float

    @property
    def measures_requests(self) -> bool:
        """Whether its cost is told by the request rather than by the token."""
        return self.kind == "get" or self.tokens == 1


class Asking:
    """Writes requests with realistic prompts: different ones, so that no cache has them all."""

    def __init__(
        self, tokenizer: Tokenizer, prompt_tokens: int, form: PromptForm, seed: int = 0, key: str | None = None
    ) -> None:
        """key: that each request brings."""
        found = prompts(tokenizer, MANY_PROMPTS, prompt_tokens, seed)
        self._prompts: Sequence[Any] = found if form == "ids" else [tokenizer.decode(ids) for ids in found]
        self._seed = seed
        self._fields = "" if key is None else f"authorization: Bearer {key}\r\n"

    def first(self, shape: Shape) -> list[bytes]:
        """One a stream, answered with up to `tokens` tokens each: so they are out of step afterwards."""
        if shape.kind == "get":
            return self.requests(shape)
        generator = random.Random(self._seed)
        lengths = [generator.randint(1, shape.tokens) for _ in range(shape.streams)]
        return [self.request(shape, number, length) for number, length in enumerate(lengths)]

    def requests(self, shape: Shape) -> list[bytes]:
        if shape.kind == "get":
            return [f"GET /version HTTP/1.1\r\nhost: 127.0.0.1\r\n{self._fields}\r\n".encode()]
        return [self.request(shape, number, shape.tokens) for number in range(len(self._prompts))]

    def request(self, shape: Shape, number: int, tokens: int) -> bytes:
        body: dict[str, Any] = {
            "model": "pico",
            "prompt": self._prompts[-number % len(self._prompts)],
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
            "seed": round(shape.step_ms * 1000),
        }
        if shape.kind == "stream":
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return post(PATH, body, self._fields)


def post(path: str, body: dict[str, Any], fields: str = "") -> bytes:
    """fields: more of the head, each with its line end."""
    written = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {len(written)}"
    )
    return f"{head}\r\n{fields}\r\n".encode() + written
