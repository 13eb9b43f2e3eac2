"""A Serve handle as a backend: errors come out unwrapped, and a call that nobody waits for is cancelled."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import AsyncGenerator, Coroutine, Generator
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

import pytest

from deployments.errors import (
    EngineAwaitedError,
    EngineAwayError,
    EngineUnavailableError,
    InternalError,
    OverloadedError,
)
from deployments.http.handle_backend import HEALTH_TAKEN_S, HandleBackend
from tests.support.virtual_time import VirtualTimeLoop


class Response:
    """One call of a replica: `results` one after the other; an exception among them is raised.

    taken: whether a replica takes it at once.
    """

    def __init__(self, *results: object, taken: bool = True) -> None:
        self.results = results
        self.cancelled = False
        self._replica_result_future: concurrent.futures.Future[object] = concurrent.futures.Future()
        if taken:
            self.take()

    def take(self) -> None:
        self._replica_result_future.set_result(None)

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


def backend(response: Response, **options: Any) -> HandleBackend:
    method = SimpleNamespace(remote=lambda *_: response)
    handle = SimpleNamespace(generate=method, stream=method, health=method, info=method, options=lambda stream: handle)
    return HandleBackend(handle, **options)  # type: ignore[arg-type]


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


def in_virtual_time(coroutine: Coroutine[Any, Any, float]) -> float:
    """Seconds that it says."""
    loop = VirtualTimeLoop()
    try:
        return loop.run_until_complete(coroutine)
    finally:
        loop.close()


@pytest.mark.parametrize(
    ("method", "seconds"), [("stream", 30.0), ("generate", 30.0), ("info", 30.0), ("health", HEALTH_TAKEN_S)]
)
def test_no_engine_is_said_in_time(method: str, seconds: float) -> None:
    """Serve's own handle would wait for ever."""

    async def run() -> float:
        response = Response([1], taken=False)
        one = backend(response, timeout_s=30.0)
        ask = getattr(one, method)
        call = anext(ask(None)) if method == "stream" else ask(*([None] if method == "generate" else []))
        with pytest.raises(EngineAwayError) as error:
            await call
        assert (error.value.status, error.value.code) == (503, "engine_unavailable")
        assert error.value.retry_after
        assert response.cancelled, "nobody waits, and still it would be sent"
        return asyncio.get_running_loop().time()

    assert in_virtual_time(run()) == pytest.approx(seconds)


@pytest.mark.parametrize("taken", [True, False])
def test_not_to_wait_is_to_ask_all_the_same(taken: bool) -> None:
    async def run() -> float:
        response = Response([1], taken=False)
        call = asyncio.create_task(backend(response, timeout_s=0.0).generate(None))  # type: ignore[arg-type]
        await asyncio.sleep(0.5)
        if taken:
            response.take()
            assert await call == [1]
        else:
            with pytest.raises(EngineAwayError):
                await call
        return asyncio.get_running_loop().time()

    assert in_virtual_time(run()) < 2


def test_only_so_many_wait_for_an_engine_and_those_are_served_when_it_comes() -> None:
    async def run() -> float:
        response, gauge = Response([1], taken=False), list[int]()
        metrics = SimpleNamespace(waiting_for_engine=gauge.append)
        one = backend(response, timeout_s=30.0, most_waiting=3, metrics=metrics)
        calls = [asyncio.create_task(one.generate(None)) for _ in range(64)]  # type: ignore[arg-type]
        await asyncio.sleep(2)
        refused = [call for call in calls if call.done()]
        assert len(refused) == 61
        assert all(isinstance(call.exception(), EngineAwaitedError) for call in refused)
        response.take()
        assert [await call for call in calls if call not in refused] == [[1]] * 3
        assert (max(gauge), gauge[-1]) == (3, 0)
        return asyncio.get_running_loop().time()

    assert in_virtual_time(run()) < 3


def test_a_replica_that_took_the_question_and_hangs_is_no_health() -> None:
    async def run() -> float:
        with pytest.raises(EngineUnavailableError, match="does not answer"):
            await backend(Response(), heartbeat_s=8.0).health()
        return asyncio.get_running_loop().time()

    assert in_virtual_time(run()) < 30
