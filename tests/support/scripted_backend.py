"""A backend that says what it is given, whatever it is asked."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from deployments.protocol import Delta, GenerationRequest
from model.text.tokenizer import Tokenizer
from tests.support.fake_backend import FakeBackend


class Scripted(FakeBackend):
    """batches: of news, as a stream brings them."""

    def __init__(self, tokenizer: Tokenizer, *batches: list[Delta]) -> None:
        super().__init__(tokenizer)
        self._batches = batches

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[list[Delta], None]:
        for batch in self._batches:
            yield batch
