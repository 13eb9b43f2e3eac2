"""A Serve handle as a backend: errors come out unwrapped, and a call that nobody waits for is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

import pytest

from deployments.errors import InternalError, OverloadedError
from deployments.http.handle_backend import HandleBackend


class Response:
    """One call of a replica: `results` one after the other; an exception among them is raised."""

    def __init__(self, *results: object) -> None:
        self.results = results
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True

    def __await__(self) -> Generator[Any, None, object]:
        return self._only().__await__()

    async def _only(self) -> object:
        async for result in self:
            return result
        return await asyncio.Event().wait()

    async def __aiter__(self) -> AsyncGenerator[object, None]:
        for result in self.results:
            if isinstance(result, RuntimeError):
                raise result
            yield result


def backend(response: Response) -> HandleBackend:
    method = SimpleNamespace(remote=lambda *_: response)
    handle = SimpleNamespace(generate=method, stream=method, options=lambda stream: handle)
    return HandleBackend(handle)  # type: ignore[arg-type]


async def drain(response: Response) -> list[object]:
    async with aclosing(backend(response).stream(None)) as batches:  # type: ignore[arg-type]
        return [batch async for batch in batches]


async def test_what_is_answered_arrives() -> None:
    call, stream = Response([1]), Response([1], [2])
    assert await backend(call).generate(None) == [1]  # type: ignore[arg-type]
    assert await drain(stream) == [[1], [2]]
    assert not call.cancelled
    assert not stream.cancelled


@pytest.mark.parametrize(
    ("result", "error"), [(OverloadedError("full"), OverloadedError), (RuntimeError("?"), InternalError)]
)
async def test_errors_come_out_unwrapped(result: Exception, error: type[Exception]) -> None:
    call, stream = Response(result), Response([1], result)
    with pytest.raises(error):
        await backend(call).generate(None)  # type: ignore[arg-type]
    with pytest.raises(error):
        await drain(stream)
    assert not call.cancelled
    assert not stream.cancelled


async def test_a_call_that_nobody_waits_for_is_cancelled() -> None:
    call, stream = Response(), Response([1], [2])
    task = asyncio.create_task(backend(call).generate(None))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with aclosing(backend(stream).stream(None)) as batches:  # type: ignore[arg-type]
        await anext(batches)
    assert call.cancelled
    assert stream.cancelled
