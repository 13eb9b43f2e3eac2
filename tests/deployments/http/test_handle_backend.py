"""A Serve handle as a backend: errors come out unwrapped, and a call that nobody waits for is cancelled."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import AsyncGenerator, Coroutine, Generator
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from deployments.errors import (
    EngineAwaitedError,
    EngineAwayError,
    EngineUnavailableError,
    InternalError,
    NodeLostError,
    OverloadedError,
)
from deployments.health import HealthReport
from deployments.http.channels import RETRY_AFTER_S, SILENCE_S
from deployments.http.handle_backend import HEALTH_TAKEN_S, TAKEN_S, HandleBackend
from deployments.http.receipts import SENT_S, TOGETHER_S
from deployments.http.request_record import RequestRecord
from deployments.protocol import Attach, Delta, GenerationRequest, News, Receipt
from deployments.replica.outbox import HEARTBEAT_S
from model.request import SamplingParams
from tests.support.virtual_time import VirtualTimeLoop
from tests.support.waiting import settle


class Response:
    """One call of a replica: `results` one after the other; a RuntimeError among them is raised, None is silence.

    taken: whether a replica takes it at once. asked: how often it was begun.
    """

    def __init__(self, *results: object, taken: bool = True) -> None:
        self.results = results
        self.cancelled = False
        self.asked = 0
        self._items = self._each()
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

    def __aiter__(self) -> AsyncGenerator[object, None]:
        return self._items

    async def __anext__(self) -> object:
        return await anext(self._items)

    async def _each(self) -> AsyncGenerator[object, None]:
        for result in self.results:
            if isinstance(result, RuntimeError | asyncio.CancelledError):
                raise result
            if result is None:
                await asyncio.Event().wait()
            yield result


def backend(response: Response, received: Response | None = None, **options: Any) -> HandleBackend:
    """received: how receipts are answered; what they say is in its `receipts`."""
    receipts = list[object]()

    def receive(receipt: object) -> Response:
        receipts.append(receipt)
        return received or Response(True)

    if received is not None:
        received.receipts = receipts  # type: ignore[attr-defined]

    def ask(*_: object) -> Response:
        response.asked += 1
        return response

    method = SimpleNamespace(remote=ask)
    methods = dict.fromkeys(("stream", "health", "info"), method)
    methods["attach"] = SimpleNamespace(remote=lambda _: Response())  # such a replica sends nothing that way
    handle = SimpleNamespace(**methods, received=SimpleNamespace(remote=receive), options=lambda **_: handle)
    return HandleBackend(handle, **options)  # type: ignore[arg-type]


REQUEST = GenerationRequest(request_id="cmpl-1", prompts=[[1]], params=SamplingParams(max_tokens=2))


def item(text: str, finish: str | None = None) -> tuple[str, list[Delta]]:
    return ("engine-1", [Delta(index=0, text=text, finish_reason=finish)])  # type: ignore[arg-type]


SILENT = ("engine-1", list[Delta]())
LAST = item("b", "stop")


async def drain(response: Response, **options: Any) -> list[str]:
    async with aclosing(backend(response, **options).stream(REQUEST)) as batches:
        return ["".join(delta.text for delta in batch) async for batch in batches]


async def test_what_is_answered_arrives() -> None:
    call, stream = Response(SILENT, LAST), Response(item("a"), SILENT, LAST)
    assert [delta.text for delta in await backend(call).generate(REQUEST)] == ["b"]
    assert await drain(stream) == ["a", "b"]
    assert not call.cancelled
    assert not stream.cancelled


@pytest.mark.parametrize(
    ("result", "error"), [(OverloadedError("full"), OverloadedError), (RuntimeError("?"), InternalError)]
)
async def test_errors_come_out_unwrapped(result: Exception, error: type[Exception]) -> None:
    call, stream = Response(result), Response(item("a"), result)
    with pytest.raises(error):
        await backend(call).generate(REQUEST)
    with pytest.raises(error):
        await drain(stream)
    assert not call.cancelled
    assert not stream.cancelled


async def test_a_call_that_nobody_waits_for_is_cancelled() -> None:
    call, stream = Response(None), Response(item("a"), LAST)
    task = asyncio.create_task(backend(call).generate(REQUEST))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with aclosing(backend(stream).stream(REQUEST)) as batches:
        await anext(batches)
    assert call.cancelled
    assert stream.cancelled


@pytest.mark.parametrize("results", [(item("a"),), (asyncio.CancelledError(),), ()])
async def test_an_answer_that_ends_before_its_end_is_that_of_an_engine_that_died(results: tuple[object, ...]) -> None:
    """Serve raises here what its replica raised there: to be cancelled there is not to be cancelled here."""
    ended = "call" if results[:1] and isinstance(results[0], asyncio.CancelledError) else "answer before the end"
    with pytest.raises(EngineUnavailableError, match=f"^The replica ended (its|the) {ended}.$") as error:
        await drain(Response(*results))
    assert error.value.retry_after == RETRY_AFTER_S
    assert not isinstance(error.value, EngineAwayError), "it would not be resumed"


async def test_a_client_that_left_is_no_engine_that_died_though_serve_says_so_first() -> None:
    reading = asyncio.create_task(drain(Response(item("a"), asyncio.CancelledError())))
    await asyncio.sleep(0.01)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


def test_a_replica_that_says_nothing_is_given_up() -> None:
    async def run() -> float:
        response = Response(item("a"), None)
        with pytest.raises(EngineUnavailableError, match="said nothing"):
            await drain(response)
        assert response.cancelled
        return asyncio.get_running_loop().time()

    assert in_virtual_time(run()) == pytest.approx(SILENCE_S)
    assert SILENCE_S > 3 * HEARTBEAT_S


def test_the_replica_hears_when_its_answer_has_been_passed_on() -> None:
    async def run() -> float:
        received, response = Response(True), Response(item("a"), LAST)
        one = backend(response, received)
        async with aclosing(one.stream(REQUEST)) as batches:
            async for _ in batches:
                await asyncio.sleep(5)  # it is written to a client that reads slowly
                assert received.receipts == []  # type: ignore[attr-defined]
        await asyncio.sleep(1)
        [receipt] = received.receipts  # type: ignore[attr-defined]
        assert receipt == Receipt(engine="engine-1", reader=one._channels.reader, request_ids=["cmpl-1"])
        assert not response.cancelled
        return 0.0

    in_virtual_time(run())


def test_every_ingress_is_another_reader() -> None:
    """A replica tells answers apart by whom they are for: it is asked, listened to and thanked under one name."""
    rest = msgspec.msgpack.encode(News(sent_at=0.0, deltas=[("cmpl-1", [Delta(index=0, finish_reason="stop")])]))

    async def names() -> set[str | None]:
        told, received, response = list[str | None](), Response(True), Response(item("a"), ("engine-1", None))
        one = backend(response, received)

        def asked(request: GenerationRequest, whole: bool) -> Response:
            told.append(request.reader)
            return response

        def attached(attach: Attach) -> Response:
            told.append(attach.reader)
            return Response(rest)

        one._streaming.stream.remote = asked
        one._channels._attach = attached  # type: ignore[assignment]
        assert len([batch async for batch in one.stream(REQUEST)]) == 2
        await asyncio.sleep(1)
        told += [receipt.reader for receipt in received.receipts]  # type: ignore[attr-defined]
        assert len(told) == 3
        return set(told)

    async def run() -> float:
        (one,), (other,) = await names(), await names()
        assert one is not None
        assert other not in (None, one)
        return 0.0

    in_virtual_time(run())


def in_virtual_time(coroutine: Coroutine[Any, Any, float]) -> float:
    """Seconds that it says."""
    loop = VirtualTimeLoop()
    try:
        seconds = loop.run_until_complete(coroutine)
        loop.run_until_complete(asyncio.sleep(TOGETHER_S + SENT_S))  # receipts are still being sent
        return seconds
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
        call = anext(ask(REQUEST)) if method == "stream" else ask(*([REQUEST] if method == "generate" else []))
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
        response = Response(LAST, taken=False)
        call = asyncio.create_task(backend(response, timeout_s=0.0).generate(REQUEST))
        await asyncio.sleep(0.5)
        if taken:
            response.take()
            assert len(await call) == 1
        else:
            with pytest.raises(EngineAwayError):
                await call
        return asyncio.get_running_loop().time()

    assert in_virtual_time(run()) < 2


@pytest.mark.parametrize("taken", [True, False])
async def test_whether_a_replica_took_it_is_in_the_record(taken: bool) -> None:
    """Whoever leaves before it says anything pays for what it may have computed."""
    response = Response(None, taken=taken)
    record = RequestRecord("http-1", "POST", "/v1/completions")

    async def ask() -> None:
        record.make_current()
        again = msgspec.structs.replace(REQUEST, request_id=f"{REQUEST.request_id}~1", attempt=1)
        await backend(response).generate(again)

    task = asyncio.create_task(ask())
    await settle()
    task.cancel()
    await asyncio.wait([task])
    assert record.taken_ids == ({"cmpl-1"} if taken else set())


def test_only_so_many_wait_for_an_engine_and_those_are_served_when_it_comes() -> None:
    async def run() -> float:
        response, gauge = Response(*[LAST] * 3, taken=False), list[int]()
        metrics = SimpleNamespace(waiting_for_engine=gauge.append)
        one = backend(response, timeout_s=30.0, most_waiting=3, metrics=metrics)
        calls = [asyncio.create_task(one.generate(REQUEST)) for _ in range(64)]
        await asyncio.sleep(2)
        refused = [call for call in calls if call.done()]
        assert len(refused) == 61
        assert all(isinstance(call.exception(), EngineAwaitedError) for call in refused)
        response.take()
        assert [len(await call) for call in calls if call not in refused] == [1] * 3
        assert (max(gauge), gauge[-1]) == (3, 0)
        return asyncio.get_running_loop().time()

    assert in_virtual_time(run()) < 3


def test_a_call_that_no_replica_takes_is_taken_back_and_sent_again() -> None:
    """The router leads it elsewhere, where there is another replica."""

    async def run() -> float:
        first, second = Response(LAST, taken=False), Response(LAST)
        one, responses = backend(first, timeout_s=30.0), [first, second]
        one._streaming.stream.remote = lambda *_: responses.pop(0)
        assert len(await one.generate(REQUEST)) == 1
        assert first.cancelled
        assert not second.cancelled
        return asyncio.get_running_loop().time()

    assert in_virtual_time(run()) == pytest.approx(TAKEN_S)


async def test_when_the_node_is_lost_whatever_waits_is_told_and_nothing_begins() -> None:
    responses = {"begun": Response(item("a"), None), "taken": Response(None), "asked": Response(taken=False)}
    calls = {name: backend(response) for name, response in responses.items()}
    begun = calls["begun"].stream(REQUEST)
    assert (await anext(begun))[0].text == "a"
    waiting: list[asyncio.Task[Any]] = [asyncio.create_task(calls[n].generate(REQUEST)) for n in ("taken", "asked")]
    waiting.append(asyncio.create_task(anext(begun)))  # type: ignore[arg-type]
    reading = backend(Response(item("a"), LAST))
    stream = reading.stream(REQUEST)
    await anext(stream)  # and its client is being written to
    await asyncio.sleep(0)
    for one in (*calls.values(), reading):
        one.lose_node()
    for call in waiting:
        with pytest.raises(NodeLostError):
            await call
        assert not call.cancelling()
    with pytest.raises(NodeLostError):
        await anext(stream)
    with pytest.raises(NodeLostError):
        await reading.info()
    assert not issubclass(NodeLostError, EngineUnavailableError), "it would be resumed"


def test_a_replica_that_took_the_question_and_hangs_is_no_health() -> None:
    async def run() -> float:
        with pytest.raises(EngineUnavailableError, match="does not answer"):
            await backend(Response(None), heartbeat_s=8.0).health()
        return asyncio.get_running_loop().time()

    assert in_virtual_time(run()) < 30


async def test_a_flood_of_questions_about_the_health_asks_the_engine_once() -> None:
    """Each would else have a place among those that wait for an engine, which requests for work need."""
    waiting = list[int]()
    call = Response(HealthReport(healthy=True), taken=False)
    metrics = SimpleNamespace(waiting_for_engine=waiting.append)
    one = backend(call, metrics=metrics)
    asking = [asyncio.create_task(one.health()) for _ in range(100)]
    await settle()
    asking.pop().cancel()
    call.take()
    assert all(report.healthy for report in await asyncio.gather(*asking))
    assert call.asked == 1
    assert max(waiting, default=0) <= 1
