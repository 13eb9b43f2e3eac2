"""One engine's replica from its start to its end, over a fake engine whose ranks are fake, and without Ray."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn
from unittest.mock import Mock

import msgspec
import pytest

from deployments.cluster import succession
from deployments.errors import InternalError, OverloadedError
from deployments.health import HealthReport
from deployments.protocol import Attach, GenerationRequest, News, Receipt
from deployments.replica import replica as module
from deployments.replica.replica import EngineReplica
from deployments.settings import Settings
from model.config import EngineConfig
from model.request import SamplingParams
from model.statistics import EngineStats, ForwardPath, GpuMemory
from monitoring.process import init, render
from monitoring.version import package_version
from tests.support.fake_engine import FakeEngine
from tests.support.fake_rank_group import FakeGroup
from tests.support.log_lines import LogLines, captured
from tests.support.waiting import eventually

NAME = "SERVE_REPLICA::starcoder#engine#abc"
SETTINGS = Settings(
    model="pico",
    served_model_name="fast",
    tensor_parallel_size=2,
    health_check_period_s=0.01,
    max_num_seqs=3,
    max_queued_requests=1,
    num_threads=3,
    device_bandwidth=3e12,
    enable_prefix_caching=False,
)
BUNDLE = {"CPU": 1.0}


class Ended(BaseException):
    """Where the process would have."""


class Replica(EngineReplica):
    """Serve begins one in a coroutine, and ends it in another; the tests call `_start` and `end`."""

    def __init__(self) -> None:
        self._actor_name, self._name = NAME, "abc"
        self._tracing = module.tracing.OFF

    def __del__(self) -> None:  # type: ignore[override]
        pass

    async def end(self) -> None:
        await EngineReplica.__del__(self)


class Stand:
    """What is around a replica. listed: what it noted where its successor will look; started: with what its ranks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.group, self.engine, self.replica = FakeGroup(), FakeEngine(), Replica()
        self.engine.gpus = [GpuMemory("GPU-1", 5, 9)]  # type: ignore[attr-defined]
        self.listed: list[tuple[str, str]] = []
        self.started: tuple[Any, ...] = ()
        self.exits: list[int] = []

        async def start(config: EngineConfig, *others: Any) -> FakeGroup:
            self.started = (config, *others)
            return self.group

        async def connect(path: str, timeout_s: float) -> FakeEngine:
            assert path == "/nowhere/engine.sock"
            return self.engine

        def leave(code: int) -> NoReturn:
            self.exits.append(code)
            raise Ended

        self.placement = SimpleNamespace(bundle_specs=[{"CPU": 0.1}, BUNDLE, BUNDLE])
        monkeypatch.setattr(succession, "enlist", lambda name: None)
        monkeypatch.setattr(succession, "counted", lambda name: self.listed.append(("counted", name)))
        monkeypatch.setattr(succession, "strike_off", lambda name: self.listed.append(("struck off", name)))
        monkeypatch.setattr(module, "record_on_this_node", lambda settings: None)
        monkeypatch.setattr(module, "on_node_end", lambda call: None)
        monkeypatch.setattr(module, "get_current_placement_group", lambda: self.placement)
        monkeypatch.setattr(module.RankGroup, "start", start)
        monkeypatch.setattr(module.EngineClient, "connect", connect)
        monkeypatch.setattr(module.os, "_exit", leave)
        monkeypatch.setattr(module, "HANDOVER_S", 0.0)

    async def serve(self) -> EngineReplica:
        await self.replica._start(SETTINGS, 0.0)
        return self.replica

    async def dies(self) -> None:
        """Until the process would have ended."""
        with pytest.raises(Ended):
            await self.replica._watchers[0]
        assert self.exits == [1]


@pytest.fixture(autouse=True)
def _in_memory() -> Iterator[None]:
    init(None)
    yield
    init(None)


@pytest.fixture
def lines() -> Iterator[LogLines]:
    with captured() as lines:
        yield lines


@pytest.fixture
async def stand(monkeypatch: pytest.MonkeyPatch, lines: LogLines) -> AsyncIterator[Stand]:
    stand = Stand(monkeypatch)
    yield stand
    watchers = getattr(stand.replica, "_watchers", [])
    for watcher in watchers:
        watcher.cancel()
    await asyncio.gather(*watchers, return_exceptions=True)


def request(id: str = "r") -> GenerationRequest:
    return GenerationRequest(request_id=id, client_request_id="theirs", prompts=[[1]], params=SamplingParams())


async def test_what_a_replica_that_is_ready_says_of_itself(stand: Stand, lines: LogLines) -> None:
    replica = await stand.serve()
    config, placement, bundle, _, configure_logs, rank_class = stand.started
    assert (config.tensor_parallel_size, config.device, config.num_threads) == (2, "cpu", 3)
    assert (placement, bundle, rank_class) == (stand.placement, BUNDLE, module.RankProcess)
    assert configure_logs.keywords == {"process": "rank", "replica": "abc"}
    assert stand.group.done == ["socket removed"]
    info = await replica.info()
    assert (info.id, info.dtype, info.tensor_parallel_size, info.parameter_bytes) == ("fast", "bfloat16", 2, [100, 101])
    assert (info.max_model_len, info.block_size) == (2048, SETTINGS.block_size)
    assert info.forward == ForwardPath("torch", "several ranks")
    assert replica._instance() == {"instance.id": "starcoder#engine#abc"}
    (ready,) = lines.all("engine.ready")
    assert {name: ready[name] for name in ("model", "load_seconds", "device", "parameter_bytes", "kv_cache_bytes")} == {
        "model": "fast",
        "load_seconds": 2.5,
        "device": "cpu",
        "parameter_bytes": 201,
        "kv_cache_bytes": 2000,
    }
    assert ready["kv_cache_tokens"] == 69 * SETTINGS.block_size, "the rank with the fewest blocks has the last word"
    assert (ready["forward"], ready["forward_reason"], ready["max_model_len"]) == ("torch", "several ranks", 2048)
    page = render().decode()
    for series in (
        'engines_up{model="fast"} 1.0',
        'weight_bytes{model="fast",rank="1"} 101.0',
        'gpu_memory_used_bytes{gpu="GPU-1",model="fast"} 5.0',
        'gpu_memory_total_bytes{gpu="GPU-1",model="fast"} 9.0',
    ):
        assert series in page


async def test_its_health_is_its_engines(stand: Stand) -> None:
    replica = await stand.serve()
    stand.engine.stats = EngineStats(running=2, waiting=1, kv_blocks_total=10, kv_blocks_used=5)
    found = await replica.health()
    assert found.heartbeat_seconds is not None
    assert found == HealthReport(
        healthy=True,
        heartbeat_seconds=found.heartbeat_seconds,
        running=2,
        waiting=1,
        kv_cache_usage=0.5,
        engine="abc",
        since=replica._ready_at,
        version=package_version(),
    )


@pytest.mark.parametrize("whole", [False, True])
async def test_answers_come_in_parts_or_whole(stand: Stand, whole: bool) -> None:
    replica = await stand.serve()
    answer = replica.stream(request(), whole)
    first = asyncio.ensure_future(anext(answer))
    await eventually(lambda: "r-0" in stand.engine.requests)
    stand.engine.say("r-0", 100)
    await eventually(lambda: stand.engine.fetched.get("r-0") == 1)
    if not whole:
        await first
    stand.engine.say("r-0", 101, finish="length")
    batches = [await first, *[item async for item in answer]]
    assert [name for name, _ in batches] == ["abc"] * (1 if whole else 2)  # type: ignore[misc]
    assert await replica.received(Receipt(engine="abc", reader="", request_ids=["r"]))
    assert not await replica.received(Receipt(engine="another", reader="", request_ids=["r"]))


async def test_what_nobody_expected_is_told_without_details_and_written_here(
    stand: Stand, lines: LogLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = await stand.serve()

    async def answer(error: Exception) -> Any:
        async def failing(request: GenerationRequest) -> Any:
            raise error

        monkeypatch.setattr(replica._service, "generate", failing)
        (item,) = [item async for item in replica.stream(request(), True)]
        return item

    told = await answer(KeyError("a secret " * 9))
    assert isinstance(told, InternalError)
    assert "a secret" not in told.message
    (line,) = lines.all("engine.request_failed")
    assert (line["request_id"], line["completion_id"]) == ("theirs", "r")
    assert line["exception"].endswith("KeyError: '…'"), "what a client sent may be in the message"
    assert isinstance(await answer(OverloadedError("full")), OverloadedError)
    assert len(lines.all("engine.request_failed")) == 1


@pytest.mark.parametrize(
    ("stats", "admitted", "expected"),
    [
        (EngineStats(running=1, waiting=5, kv_blocks_total=10, kv_blocks_used=5), 3, (1.0, 2.0, 0.5)),
        (EngineStats(running=3, kv_blocks_total=10, kv_blocks_used=5), 1, (1.0, 0.0, 0.5)),  # it has not heard yet
        (EngineStats(running=3, kv_blocks_total=10, kv_blocks_used=5), 0, (0.0, 0.0, 0.0)),
    ],
)
async def test_what_scaling_is_decided_on(
    stand: Stand, stats: EngineStats, admitted: int, expected: tuple[float, float, float]
) -> None:
    replica = await stand.serve()
    stand.engine.stats = stats
    with replica._service.admission.admit(max(admitted, 1), EngineStats()) as lease:
        if not admitted:
            lease.release()
        found = await replica.record_autoscaling_stats()
    assert (found["running"], found["waiting"], found["kv_usage"]) == expected
    assert found.keys() == {"running", "waiting", "kv_usage", "open", "queue_delay", "utilization", "residual"}


async def test_no_more_is_taken_than_the_settings_say(stand: Stand) -> None:
    replica = await stand.serve()
    with replica._service.admission.admit(4, EngineStats()):
        (refused,) = [item async for item in replica.stream(request(), True)]
    assert isinstance(refused, OverloadedError)


async def test_where_a_rank_ends_so_does_the_process_and_says_why(stand: Stand, lines: LogLines) -> None:
    await stand.serve()
    stand.group.why.set_result("rank 1 died: OOM")
    await stand.dies()
    assert str(stand.engine.dead) == "rank 1 died: OOM"
    assert [line["message"] for line in lines.all("engine.dead")] == ["rank 1 died: OOM"]
    assert (stand.group.done, stand.listed) == (["socket removed", "killed"], [("counted", NAME)])
    assert 'rank_failures_total{cause="died",model="fast"} 1.0' in render().decode()


async def test_an_idle_engine_that_misses_a_heartbeat_is_given_up(stand: Stand, lines: LogLines) -> None:
    replica = await stand.serve()
    replica._service._step_timeout_s = 0.01
    stand.group.why.set_result("rank 0 stopped")  # it is asked for its reason, and by then was ended
    replica._watchers[1].cancel()
    stand.engine.answers_pings = False
    await stand.dies()
    assert stand.engine.dead is not None
    assert (stand.engine.dead.kind, str(stand.engine.dead)) == (
        "heartbeat",
        "the engine did not answer its heartbeat",
    )
    assert 'rank_failures_total{cause="heartbeat",model="fast"} 1.0' in render().decode()


@pytest.mark.parametrize("stops", [True, False])
async def test_it_stops_in_order_or_else_its_ranks_are_killed(stand: Stand, lines: LogLines, stops: bool) -> None:
    replica = await stand.serve()
    stand.group.stops = stops
    await stand.replica.end()
    assert stand.engine.shut_down
    await eventually(lambda: all(watcher.done() for watcher in replica._watchers))
    assert stand.group.done == ["socket removed", "released" if stops else "killed"]
    assert stand.listed == [("struck off", NAME)]
    assert stand.exits == []
    said = [line["event"] for line in lines.all()]
    assert said[said.index("engine.stopping") :] == [
        "engine.stopping",
        *([] if stops else ["rank.killed"]),
        "engine.stopped",
    ]
    await stand.replica.end()
    assert len(stand.group.done) == 2, "it has ended"


async def test_ranks_that_nobody_can_talk_to_are_killed(stand: Stand) -> None:
    stand.engine.fail("it ended at once")
    with pytest.raises(Exception, match="it ended at once"):
        await stand.serve()
    assert stand.group.done == ["socket removed", "killed"]
    assert 'rank_failures_total{cause="start",model="fast"} 1.0' in render().decode()
    await stand.replica.end()
    assert stand.group.done == ["socket removed", "killed", "killed"]


async def test_what_is_said_seldom_is_said_together(stand: Stand) -> None:
    replica = await stand.serve()
    answer = replica.stream(msgspec.structs.replace(request(), news_s=1e6), False)
    first = asyncio.ensure_future(anext(answer))
    await eventually(lambda: "r-0" in stand.engine.requests)
    for number in range(4):
        stand.engine.say("r-0", 100 + number, finish="length" if number == 3 else None)
        await eventually(lambda number=number: stand.engine.fetched.get("r-0") == number + 1)
    batches = [await first, *[item async for item in answer]]
    assert [[delta.token_ids for delta in deltas] for _, deltas in batches] == [[[100]], [[101, 102, 103]]]  # type: ignore[misc, union-attr]


async def test_an_ingress_that_listens_hears_the_rest_there(stand: Stand) -> None:
    replica = await stand.serve()
    assert [news async for news in replica.attach(Attach(engine="another", reader="i"))] == []
    heard = replica.attach(Attach(engine="abc", reader="i"))
    message = asyncio.ensure_future(anext(heard))
    await asyncio.sleep(0)
    answer = replica.stream(msgspec.structs.replace(request(), reader="i"), False)
    first = asyncio.ensure_future(anext(answer))
    await eventually(lambda: "r-0" in stand.engine.requests)
    stand.engine.say("r-0", 100)
    await first
    stand.engine.say("r-0", 101)
    assert await anext(answer) == ("abc", None)
    news = msgspec.msgpack.decode(await message, type=News)
    assert [(id, [delta.token_ids for delta in deltas]) for id, deltas in news.deltas] == [("r", [[101]])]
    await answer.aclose()
    await heard.aclose()


async def test_an_engine_that_answers_its_heartbeats_is_left_alone_and_asked_again(stand: Stand) -> None:
    await stand.serve()
    for used in (6, 7):
        stand.engine.gpus = [GpuMemory("GPU-1", used, 9)]  # type: ignore[attr-defined]
        await eventually(lambda used=used: f'gpu="GPU-1",model="fast"}} {used}.0' in render().decode())
    assert stand.engine.dead is None


async def test_a_rank_that_never_says_why_keeps_nobody_waiting(
    stand: Stand, lines: LogLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TOLD_S", 0.01)
    await stand.serve()
    stand.engine.fail("its socket was closed")
    await stand.dies()
    assert [(line["message"], line["level"]) for line in lines.all("engine.dead")] == [
        ("its socket was closed", "error")
    ]


async def test_its_ranks_have_the_draft_model_and_its_spans_are_its_own(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracing: Any = Mock(enabled=True)
    stand.replica._tracing = tracing
    monkeypatch.setattr(module, "find_draft", lambda *_: SimpleNamespace(directory=Path("/draft")))
    replica = await stand.serve()
    assert stand.started[0].draft_model == "/draft"
    stand.engine.say("r-0", 100, finish="length")
    traced = msgspec.structs.replace(request(), trace={"traceparent": "caller"})
    assert len([item async for item in replica.stream(traced, True)]) == 1
    assert tracing.start.call_args_list[0].args == ("engine", {"traceparent": "caller"})


async def test_only_what_serve_places_can_start(stand: Stand) -> None:
    stand.placement = None  # type: ignore[assignment]
    with pytest.raises(AssertionError, match=r"^deploy this with deployments\.app\.build: .* placement group$"):
        await stand.serve()
    await stand.replica.end()
    assert stand.group.done == [], "there is none"
