"""How a server of many engines is asked how it is, and what it serves: by calls of replicas that may not answer."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from deployments.errors import EngineAwayError, EngineUnavailableError, NodeLostError, ServeError
from deployments.health import HealthReport, Member, Members, Question
from deployments.http.channels import RETRY_AFTER_S
from deployments.http.handle_backend import (
    ANSWER_MARGIN_S,
    ASKED_AGAIN_S,
    HEALTH_FRESH_S,
    HEALTH_PATIENCE_S,
    HEALTH_TAKEN_S,
    TAKEN_S,
    HandleBackend,
)
from deployments.protocol import ModelInfo
from tests.deployments.http.test_handle_backend import LAST, REQUEST, SILENT, Response, backend, item

pytestmark = pytest.mark.virtual_time

INFO = ModelInfo(id="m", max_model_len=8, created=1)


def now() -> float:
    return asyncio.get_running_loop().time()


def asking(responses: dict[str | None, Response], **options: Any) -> tuple[HandleBackend, list[str | None]]:
    """Over replicas that are asked how they are by name, or one of them without; and who was asked."""
    asked: list[str | None] = []

    def health(*question: Question) -> Response:
        asked.append(question[0].engine if question else None)
        return responses[asked[-1]]

    one = backend(Response(INFO), **options)
    one._handle.health.remote = health
    return one, asked


async def test_each_engine_that_is_known_is_asked_by_its_name() -> None:
    async def members() -> Members:
        return Members(engines=[Member(id=name, state="ready", since=1.0) for name in ("a", "b")])

    answers = {name: Response(HealthReport(healthy=True, engine=name, running=2)) for name in ("a", "b")}
    one, asked = asking(answers, members=members)
    report = await one.health()
    assert (asked, report.healthy, report.running) == (["a", "b"], True, 4)
    assert [engine.id for engine in report.engines] == ["a", "b"]


async def test_where_nobody_knows_who_there_is_one_is_asked() -> None:
    async def nobody() -> None:
        return None

    for options in ({}, {"members": nobody}):
        one, asked = asking({None: Response(HealthReport(healthy=True, running=2))}, **options)
        assert ((await one.health()).running, asked) == (2, [None])


@pytest.mark.parametrize("known", [True, False])
async def test_engines_that_hang_have_their_time_and_no_more(known: bool) -> None:
    async def members() -> Members:
        return Members(engines=[Member(id="a", state="ready", since=1.0)])

    hangs = Response(None)
    one, _ = asking({"a": hangs, None: hangs}, heartbeat_s=8.0, **({"members": members} if known else {}))
    if known:
        assert not (await one.health()).healthy
    else:
        with pytest.raises(EngineUnavailableError, match="does not answer") as error:
            await one.health()
        assert (error.value.retry_after, isinstance(error.value, EngineAwayError)) == (RETRY_AFTER_S, False)
    assert now() == pytest.approx(HEALTH_TAKEN_S + 8.0 + ANSWER_MARGIN_S)
    assert hangs.cancelled


async def test_a_replica_that_nobody_takes_is_no_health_soon() -> None:
    one, _ = asking({None: Response(taken=False)}, timeout_s=30.0)
    with pytest.raises(EngineAwayError, match=f"No engine is there, for {HEALTH_TAKEN_S:g} s") as error:
        await one.health()
    assert (now(), error.value.retry_after) == (pytest.approx(HEALTH_TAKEN_S), RETRY_AFTER_S)


async def test_an_answer_about_the_health_is_that_of_a_moment() -> None:
    one, asked = asking({None: Response(*[HealthReport(healthy=True)] * 3)})
    await one.health()
    await asyncio.sleep(0.9 * HEALTH_FRESH_S)
    await one.health()
    assert len(asked) == 1
    await asyncio.sleep(0.2 * HEALTH_FRESH_S)
    await one.health()
    assert len(asked) == 2


async def test_who_asks_while_an_engine_hangs_waits_for_another_answer_in_the_end() -> None:
    answers = [Response(None), Response(HealthReport(healthy=True))]
    one, _ = asking({})
    one._handle.health.remote = lambda: answers.pop(0)
    first = asyncio.create_task(one.health())
    await asyncio.sleep(HEALTH_PATIENCE_S + 0.01)
    assert (await one.health()).healthy
    assert not first.done()
    first.cancel()


@pytest.mark.parametrize("known", [True, False])
async def test_what_it_serves_is_asked_with_a_requests_patience(known: bool) -> None:
    response = Response(INFO if known else ServeError("It cannot say."), taken=False)
    one = backend(response, timeout_s=30.0)
    asked = asyncio.create_task(one.info())
    await asyncio.sleep(HEALTH_TAKEN_S + 1)
    response.take()
    if known:
        assert await asked == INFO
    else:
        with pytest.raises(ServeError, match="It cannot say"):
            await asked


async def test_a_request_that_no_replica_takes_is_asked_again_from_time_to_time() -> None:
    """And has one place among those that wait, until its time is over."""
    response, waiting = Response(taken=False), list[int]()
    metrics: Any = SimpleNamespace(waiting_for_engine=waiting.append)
    one, times = backend(response, timeout_s=TAKEN_S + 2 * ASKED_AGAIN_S + 1, metrics=metrics), list[float]()

    def asked(*_: object) -> Response:
        times.append(now())
        return response

    one._streaming.stream.remote = asked
    with pytest.raises(EngineAwayError, match="No engine is there, for 12 s") as error:
        await one.generate(REQUEST)
    again = [0.0, TAKEN_S, TAKEN_S + ASKED_AGAIN_S, TAKEN_S + 2 * ASKED_AGAIN_S]
    assert times == pytest.approx(again)
    assert (now(), error.value.retry_after) == (pytest.approx(again[-1] + 1), RETRY_AFTER_S)
    assert waiting == [1, 0]


async def test_where_too_many_wait_it_is_said_how_many() -> None:
    response = Response(taken=False)
    one = backend(response, timeout_s=30.0, most_waiting=2)
    calls = [asyncio.create_task(one.generate(REQUEST)) for _ in range(3)]
    await asyncio.sleep(TAKEN_S + 0.1)
    assert [call.done() for call in calls] == [False, False, True]
    error: Any = calls[2].exception()
    assert (error.message, error.retry_after) == ("No engine is there, and 2 requests wait for one.", RETRY_AFTER_S)
    for call in calls[:2]:
        call.cancel()
    await asyncio.wait(calls)
    response.take()
    response.results = (LAST,)
    assert len(await one.generate(REQUEST)) == 1


async def test_a_lost_node_is_said_to_who_may_try_again_elsewhere() -> None:
    one = backend(Response(LAST))
    one.lose_node()
    with pytest.raises(NodeLostError, match="The server's node ended") as error:
        await one.generate(REQUEST)
    assert error.value.retry_after == RETRY_AFTER_S
    assert not one._calls


@pytest.mark.parametrize(
    ("items", "whole", "listened"),
    [
        ([item("a"), LAST], False, ["engine-1"]),
        ([item("a"), item("b"), LAST], False, ["engine-1"] * 2),  # which is nothing where it does already
        ([SILENT, item("a"), LAST], False, ["engine-1"]),
        ([SILENT, LAST], False, []),
        ([LAST], False, []),
        ([item("a"), LAST], True, []),
    ],
)
async def test_more_of_an_answer_comes_with_all_others_where_there_is_more(
    items: list[object], whole: bool, listened: list[str]
) -> None:
    one, heard = backend(Response(*items)), list[str]()
    one._channels.listen = heard.append  # type: ignore[method-assign]
    asked: list[bool] = []
    stream = one._streaming.stream.remote

    def told(request: object, whole: bool) -> Any:
        asked.append(whole)
        return stream(request)

    one._streaming.stream.remote = told
    if whole:
        assert [delta.text for delta in await one.generate(REQUEST)] == ["a", "b"]
    else:
        assert "".join([delta.text async for batch in one.stream(REQUEST) for delta in batch]).endswith("b")
    assert (heard, asked) == (listened, [whole])
    await asyncio.sleep(1)  # until it is said that it has arrived


async def test_where_nobody_says_how_long_it_waits_half_a_minute_and_for_a_health_a_minute() -> None:
    with pytest.raises(EngineAwayError):
        await backend(Response(taken=False)).generate(REQUEST)
    assert now() == pytest.approx(30.0)
    with pytest.raises(EngineUnavailableError):
        await asking({None: Response(None)})[0].health()
    assert now() == pytest.approx(30.0 + HEALTH_TAKEN_S + 60.0 + ANSWER_MARGIN_S)
