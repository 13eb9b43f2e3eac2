"""The asyncio face of an engine, over a fake one."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator

import msgspec
import pytest

from deployments.errors import EngineNotFiniteError, EngineOutOfMemoryError, EngineUnavailableError, OverloadedError
from deployments.protocol import Delta, GenerationRequest
from deployments.replica.admission import Admission
from deployments.replica.service import EngineService
from model.request import SamplingParams
from model.statistics import EngineStats
from model.text.tokenizer import Tokenizer
from monitoring.metrics import ENGINE_STEPS, REQUESTS_RUNNING
from tests.support.fake_engine import FakeEngine
from tests.support.recorded_metrics import RecordedMetrics
from tests.support.tokenizers import starcoder_rules
from tests.support.waiting import eventually

pytestmark = pytest.mark.virtual_time


@functools.cache
def tokens() -> Tokenizer:
    return Tokenizer(starcoder_rules())


@pytest.fixture
async def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def metrics() -> RecordedMetrics:
    return RecordedMetrics()


@pytest.fixture
async def service(engine: FakeEngine, metrics: RecordedMetrics) -> EngineService:
    clock = asyncio.get_running_loop().time
    return EngineService(engine, tokens(), Admission(4, 4), step_timeout_s=0.5, metrics=metrics, clock=clock)


def request(id: str = "r", prompts: int = 1, n: int = 1, stop: tuple[str, ...] = ()) -> GenerationRequest:
    return GenerationRequest(request_id=id, prompts=[[1]] * prompts, params=SamplingParams(), n=n, best_of=n, stop=stop)


async def next_of(stream: AsyncGenerator[list[Delta], None]) -> list[Delta]:
    async with asyncio.timeout(10):
        return await anext(stream)


async def test_stream_ends_with_the_sequence(service: EngineService, engine: FakeEngine) -> None:
    stream = service.stream(request())
    engine.say("r-0", *tokens().encode("ab"))
    first = await next_of(stream)
    await asyncio.sleep(0.3)
    engine.say("r-0", *tokens().encode("cd"), finish="length")
    rest = [delta async for batch in stream for delta in batch]
    assert [d.text for d in first + rest] == ["ab", "cd"]
    assert rest[-1].ended_seconds == pytest.approx(first[0].first_token_seconds + 0.3)
    assert rest[-1].finish_reason == "length"
    assert engine.aborted == []
    assert (service.open_streams, service.admission.open) == (0, 0)


async def test_what_comes_while_nobody_asks_is_merged(service: EngineService, engine: FakeEngine) -> None:
    stream = service.stream(request())
    engine.say("r-0", 100)
    assert len((await next_of(stream))[0].token_ids) == 1
    for _ in range(10):
        await asyncio.sleep(0)
        engine.say("r-0", 100)
    assert len((await next_of(stream))[0].token_ids) == 10
    assert engine.fetched["r-0"] == 2
    await stream.aclose()


@pytest.mark.parametrize(("prompts", "n"), [(1, 3), (2, 2)])
async def test_many_sequences_meet_in_one_stream(
    service: EngineService, engine: FakeEngine, prompts: int, n: int
) -> None:
    stream = service.stream(request(prompts=prompts, n=n))
    started = asyncio.create_task(next_of(stream))
    await eventually(lambda: len(engine.requests) == prompts * n)
    for i in range(prompts * n):
        engine.say(f"r-{i}", *tokens().encode(f"text {i}"), finish="stop", stop_token_id=None)
    batches = [await started] + [batch async for batch in stream]
    deltas = [delta for batch in batches for delta in batch]
    assert {d.index: d.text for d in deltas} == {i: f"text {i}" for i in range(prompts * n)}
    assert engine.aborted == []


async def test_generate_gives_one_whole_delta_each(service: EngineService, engine: FakeEngine) -> None:
    task = asyncio.create_task(service.generate(request(n=2)))
    await eventually(lambda: len(engine.requests) == 2)
    engine.say("r-1", *tokens().encode("one"))
    await eventually(lambda: engine.fetched.get("r-1") == 1)
    engine.say("r-0", *tokens().encode("zero"), finish="length")
    engine.say("r-1", *tokens().encode("!"), finish="length")
    assert [(d.index, d.text, d.finish_reason) for d in await task] == [(0, "zero", "length"), (1, "one!", "length")]


async def test_stop_string_takes_the_sequence_out_of_the_engine(service: EngineService, engine: FakeEngine) -> None:
    engine.say("r-0", *tokens().encode("a\nb"))
    (delta,) = await service.generate(request(stop=("\n",)))
    assert (delta.text, delta.finish_reason, delta.stop_reason) == ("a", "stop", "\n")
    assert engine.aborted == ["r-0"]


@pytest.mark.parametrize("n", [1, 3])
async def test_closing_a_stream_aborts_what_is_open(service: EngineService, engine: FakeEngine, n: int) -> None:
    stream = service.stream(request(n=n))
    task = asyncio.create_task(next_of(stream))
    await eventually(lambda: len(engine.requests) == n)
    engine.say("r-0", 100)
    await task
    await stream.aclose()
    assert sorted(engine.aborted) == [f"r-{i}" for i in range(n)]
    assert (service.open_streams, service.admission.open) == (0, 0)


@pytest.mark.parametrize("n", [1, 3])
async def test_cancelling_a_waiting_call_aborts(service: EngineService, engine: FakeEngine, n: int) -> None:
    task = asyncio.create_task(service.generate(request(n=n)))
    await eventually(lambda: len(engine.requests) == n)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(engine.aborted) == [f"r-{i}" for i in range(n)]


async def test_a_full_queue_refuses_before_the_engine_hears_of_it(service: EngineService, engine: FakeEngine) -> None:
    tasks = [asyncio.create_task(service.generate(request(str(i)))) for i in range(8)]
    await eventually(lambda: len(engine.requests) == 8)
    with pytest.raises(OverloadedError):
        await service.generate(request("late"))
    assert "late-0" not in engine.requests
    engine.say("0-0", 100, finish="length")
    await tasks[0]
    tasks.append(asyncio.create_task(service.generate(request("later"))))
    await eventually(lambda: "later-0" in engine.requests)
    for task in tasks:
        task.cancel()


@pytest.mark.parametrize("n", [1, 2])
async def test_death_ends_streams_with_an_error_after_what_had_arrived(
    service: EngineService, engine: FakeEngine, n: int
) -> None:
    stream = service.stream(request(n=n))
    task = asyncio.create_task(next_of(stream))
    await eventually(lambda: len(engine.requests) == n)
    engine.say("r-0", 100)
    await task
    engine.fail("a rank died")
    with pytest.raises(EngineUnavailableError, match="a rank died") as error:
        await next_of(stream)
    assert error.value.status == 503
    assert error.value.retry_after
    with pytest.raises(EngineUnavailableError):
        await service.generate(request("new"))
    assert await service.drained(1)


@pytest.mark.parametrize("n", [1, 2])
async def test_a_request_that_memory_ran_out_for_ends_with_an_error_after_what_had_arrived(
    service: EngineService, engine: FakeEngine, metrics: RecordedMetrics, n: int
) -> None:
    """The client of the engine merges what arrives together: the last tokens come with the failure."""
    stream = service.stream(request(n=n))
    task = asyncio.create_task(next_of(stream))
    await eventually(lambda: len(engine.requests) == n)
    engine.say("r-0", *tokens().encode("ab"))
    if n > 1:
        await eventually(lambda: engine.fetched.get("r-0") == 1)
    engine.say("r-0", finish="abort", failure="out_of_memory")
    (delta,) = await task
    assert (delta.text, delta.finish_reason) == ("ab", None)
    with pytest.raises(EngineOutOfMemoryError, match="ran out of memory") as error:
        await next_of(stream)
    assert (error.value.status, error.value.code) == (503, "engine_out_of_memory")
    assert error.value.retry_after
    assert metrics.finished == ["error"] + ["abort"] * (n - 1)
    assert engine.aborted == [f"r-{i}" for i in range(1, n)]
    engine.say("next-0", 100, finish="length")
    assert (await service.generate(request("next")))[0].finish_reason == "length", "the engine lives"


async def test_a_request_whose_logits_are_no_numbers_ends_with_an_error(
    service: EngineService, engine: FakeEngine, metrics: RecordedMetrics
) -> None:
    engine.say("r-0", *tokens().encode("ab"))
    engine.say("r-0", finish="abort", failure="not_finite")
    with pytest.raises(EngineNotFiniteError) as error:
        await service.generate(request())
    assert (error.value.status, error.value.code) == (500, "engine_not_finite")
    assert metrics.finished == ["error"]


async def test_a_text_that_a_stop_string_ends_is_whole_though_memory_ran_out(
    service: EngineService, engine: FakeEngine
) -> None:
    engine.say("r-0", *tokens().encode("a\nb"))
    engine.say("r-0", finish="abort", failure="out_of_memory")
    (delta,) = await service.generate(request(stop=("\n",)))
    assert (delta.text, delta.finish_reason) == ("a", "stop")


async def test_a_hanging_step_is_noticed(service: EngineService, engine: FakeEngine) -> None:
    watch = asyncio.create_task(service.watch())
    stream = service.stream(request())
    task = asyncio.create_task(next_of(stream))
    with pytest.raises(EngineUnavailableError, match=r"no step ended for 0.5 s"):
        await task
    assert "hangs" in str(await watch)


async def test_a_slow_engine_that_still_steps_is_left_alone(service: EngineService, engine: FakeEngine) -> None:
    watch = asyncio.create_task(service.watch())
    stream = service.stream(request())
    for _ in range(8):
        engine.say("r-0", 100)
        await next_of(stream)
        await asyncio.sleep(0.15)
    assert not watch.done()
    await stream.aclose()
    watch.cancel()


async def test_an_idle_engine_has_no_deadline(service: EngineService, engine: FakeEngine) -> None:
    watch = asyncio.create_task(service.watch())
    await asyncio.sleep(1000)
    assert not watch.done()
    watch.cancel()


async def test_an_engine_that_was_idle_has_the_whole_deadline(service: EngineService, engine: FakeEngine) -> None:
    watch = asyncio.create_task(service.watch())
    for id in ("a", "b"):
        await asyncio.sleep(1000)
        answer = asyncio.create_task(service.generate(request(id)))
        await asyncio.sleep(0.4)
        engine.say(f"{id}-0", 100, finish="length")
        await answer
    assert not watch.done()
    watch.cancel()


async def test_an_engine_that_has_ended_runs_nothing(
    service: EngineService, engine: FakeEngine, metrics: RecordedMetrics
) -> None:
    watch = asyncio.create_task(service.watch())
    engine.stats = EngineStats(running=1, kv_blocks_total=10, kv_blocks_used=5)
    await eventually(lambda: metrics._gauges[REQUESTS_RUNNING]._value.get() == 1)
    engine.fail("told to", "stopped")
    await watch
    assert [gauge._value.get() for gauge in metrics._gauges.values()] == [0] * len(metrics._gauges)
    assert metrics.lost == []


async def test_a_request_with_a_limit_of_time_is_not_kept_until_then(
    service: EngineService, engine: FakeEngine
) -> None:
    asked = msgspec.structs.replace(request(), max_time_ms=10**9)
    engine.say("r-0", 100, finish="length")
    await service.generate(asked)
    timers = [handle for handle in asyncio.get_running_loop()._scheduled if not handle.cancelled()]  # type: ignore[attr-defined]
    assert [handle.when() for handle in timers if handle.when() > asyncio.get_running_loop().time() + 1000] == []


async def test_health_is_a_real_heartbeat(service: EngineService, engine: FakeEngine) -> None:
    engine.stats = EngineStats(running=1, waiting=2, kv_blocks_total=10, kv_blocks_used=5)
    report = await service.health()
    assert (report.healthy, report.running, report.waiting, report.kv_cache_usage) == (True, 1, 2, 0.5)
    engine.answers_pings = False
    report = await service.health()
    assert not report.healthy
    assert "heartbeat" in (report.reason or "")
    engine.fail("gone")
    report = await service.health()
    assert (report.healthy, report.reason) == (False, "gone")


async def test_every_sequence_is_measured_and_ends_once(
    service: EngineService, engine: FakeEngine, metrics: RecordedMetrics
) -> None:
    engine.say("a-0", 100)
    stream = service.stream(request("a"))
    await next_of(stream)
    engine.say("a-0", 100, 100, finish="length")
    async for _ in stream:
        pass
    left = service.stream(request("b"))
    engine.say("b-0", 100)
    await next_of(left)
    await left.aclose()
    dying = asyncio.create_task(service.generate(request("c", n=2)))
    await eventually(lambda: engine.open_requests == 2)
    engine.fail("gone")
    with pytest.raises(EngineUnavailableError):
        await dying
    assert len(metrics.first) == 2
    assert metrics.between == [2]
    assert metrics.finished == ["length", "abort", "error", "error"]
    assert metrics.cancelled_tokens == [1]  # one token of the request whose client left


async def test_a_failed_engine_is_counted_by_cause_and_a_stopped_one_not(
    service: EngineService, engine: FakeEngine, metrics: RecordedMetrics
) -> None:
    watch = asyncio.create_task(service.watch())
    await asyncio.sleep(0)
    watch.cancel()  # what a replica does that is told to stop
    await asyncio.gather(watch, return_exceptions=True)
    assert metrics.lost == []
    watch = asyncio.create_task(service.watch())
    engine.fail("a rank hangs", "hung")
    await watch
    assert metrics.lost == ["hung"]


async def test_a_request_is_recorded_for_its_team_and_dialect(
    service: EngineService, engine: FakeEngine, metrics: RecordedMetrics
) -> None:
    engine.say("a-0", 100, finish="length")
    await service.generate(msgspec.structs.replace(request("a"), team="red", dialect="tgi"))
    assert metrics.asked_for[-1] == ("red", "tgi")


async def test_stats_are_recorded_after_the_last_request_too(
    service: EngineService, engine: FakeEngine, metrics: RecordedMetrics
) -> None:
    watch = asyncio.create_task(service.watch())
    engine.say("r-0", 100, finish="length")
    await service.generate(request())
    engine.stats = EngineStats(totals={ENGINE_STEPS.name: 7})
    await eventually(lambda: metrics.newest is not None and metrics.newest[ENGINE_STEPS] == 7)
    watch.cancel()


async def test_prompts_are_demand_until_they_are_computed(service: EngineService, engine: FakeEngine) -> None:
    """What is refused, too. The background is none."""
    demand = service.demand
    stream = service.stream(request(prompts=8))
    started = asyncio.create_task(next_of(stream))
    await eventually(lambda: demand.backlog.tokens == 8)
    with pytest.raises(OverloadedError):
        await service.generate(request("refused", prompts=3))
    assert (demand.open, demand.backlog.prompts, demand._offered) == (8, 8, 11)
    engine.say("r-0", 100)
    await started
    assert (demand.open, demand.backlog.prompts, demand.computed_share) == (8, 7, 1)
    await stream.aclose()
    assert (demand.open, demand.backlog.prompts, demand.backlog.tokens) == (0, 0, 0)
    background = asyncio.create_task(service.generate(msgspec.structs.replace(request("b"), priority=1)))
    await eventually(lambda: "b-0" in engine.requests)
    assert (demand.open, demand._offered) == (0, 11)
    background.cancel()
