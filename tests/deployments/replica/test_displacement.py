"""A full queue: whoever has less of it than another gets a place of that one's."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.errors import OverloadedError
from deployments.protocol import Earlier, GenerationRequest
from deployments.replica.admission import Admission, Lease
from deployments.replica.service import EngineService
from model.request import SamplingParams
from model.statistics import EngineStats
from model.text.tokenizer import Tokenizer
from monitoring import metrics as declared
from monitoring.process import families
from tests.support.fake_engine import FakeEngine
from tests.support.recorded_metrics import RecordedMetrics
from tests.support.tokenizers import starcoder_rules
from tests.support.waiting import eventually

IDLE = EngineStats()


class Answer:
    """That does not come."""

    def __init__(self, cancelled: Callable[[], None] = lambda: None, done: bool = False) -> None:
        self._cancelled = cancelled
        self._done = done

    def done(self) -> bool:
        return self._done

    def cancel(self) -> bool:
        self._cancelled()
        return True


@dataclass
class Queue:
    """A queue, and those in it that wait. ended: whose places were lost, in order."""

    admission: Admission
    ended: list[str] = field(default_factory=list)
    open: dict[Lease, ExitStack] = field(default_factory=dict)

    def ask(self, tenant: str, sequences: int = 1, weight: float = 1.0, stats: EngineStats = IDLE) -> Lease | None:
        stack = ExitStack()
        try:
            lease = stack.enter_context(self.admission.admit(sequences, stats, tenant, weight))
        except OverloadedError:
            return None
        self.open[lease] = stack
        stack.enter_context(self.admission.waits(lease, Answer(lambda: self.lost(lease))))
        return lease

    def lost(self, lease: Lease) -> None:
        self.ended.append(lease.tenant)
        self.open.pop(lease).close()

    def end(self, lease: Lease) -> None:
        self.open.pop(lease).close()

    def of(self, tenant: str) -> int:
        return sum(lease.sequences for lease in self.open if lease.tenant == tenant)


def test_a_flood_leaves_room_for_a_tenant_that_comes() -> None:
    queue = Queue(Admission(4, 4))
    assert all(queue.ask("flood") for _ in range(8)), "alone it may have everything"
    assert queue.ask("flood") is None
    assert all(queue.ask("team") for _ in range(4))
    assert queue.ask("team") is None, "it has its half"
    assert queue.ask("flood") is None
    assert (queue.of("flood"), queue.of("team"), queue.admission.open) == (4, 4, 8)
    assert queue.ended == ["flood"] * 4


def test_shares_follow_weights() -> None:
    queue = Queue(Admission(4, 4))
    assert all(queue.ask("one") for _ in range(8))
    while queue.ask("three", weight=3.0):
        pass
    assert (queue.of("one"), queue.of("three")) == (2, 6)


def test_the_newest_of_whoever_has_most_goes() -> None:
    queue = Queue(Admission(3, 3))
    small = [queue.ask("small") for _ in range(2)]
    large = [queue.ask("large") for _ in range(4)]
    assert queue.ask("third")
    assert large[3] is not None
    assert large[3].displaced
    assert not any(lease.displaced for lease in (*small, *large[:3]) if lease is not None)


def test_who_is_being_answered_keeps_his_place() -> None:
    admission = Admission(1, 1)
    with admission.admit(2, IDLE, "flood") as lease:
        with pytest.raises(OverloadedError), admission.admit(1, IDLE, "team"):
            pass
        with (
            pytest.raises(OverloadedError),
            admission.waits(lease, Answer(done=True)),
            admission.admit(1, IDLE, "team"),
        ):
            pass
        assert not lease.displaced
        with admission.waits(lease, Answer()), admission.admit(1, IDLE, "team"):
            assert lease.displaced
    assert admission.open == 0


def test_nobody_goes_for_one_who_would_not_fit_even_so() -> None:
    queue = Queue(Admission(4, 4))
    for _ in range(8):
        queue.ask("flood")
    assert queue.ask("team", sequences=6) is None, "it would have more than the flood has"
    assert queue.ended == []
    assert queue.ask("team", sequences=3)
    assert queue.ended == ["flood"] * 3


def test_where_blocks_are_short_what_waits_in_the_engine_is_shared() -> None:
    """The engine runs 2 of its 64 and 3 wait, which is all that may."""
    queue = Queue(Admission(64, 3))
    for _ in range(5):
        assert queue.ask("flood")
    full = EngineStats(running=2, waiting=3, lacks_blocks=True)
    assert queue.ask("flood", stats=full) is None
    assert queue.ask("team", stats=full)
    assert (queue.of("flood"), queue.of("team")) == (4, 1)


@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.integers(1, 4), st.sampled_from([1.0, 2.0, 5.0]), st.booleans()),
        max_size=80,
    )
)
@settings(max_examples=200)
def test_whoever_is_refused_had_no_less_than_others_by_weight(asks: list[tuple[str, int, float, bool]]) -> None:
    """And places add up, whoever comes, ends and is displaced."""
    queue = Queue(Admission(6, 6))
    weights: dict[str, float] = {}
    for tenant, sequences, weight, ends in asks:
        weight = weights.setdefault(tenant, weight)
        if ends and queue.open:
            queue.end(next(iter(queue.open)))
        before = {name: queue.of(name) for name in weights}
        if queue.ask(tenant, sequences, weight) is None:
            wanted = (before[tenant] + sequences) / weight
            more = [name for name, held in before.items() if name != tenant and held / weights[name] > wanted]
            assert {name: queue.of(name) for name in weights} == before, "somebody lost a place for nothing"
            if sequences == 1:
                assert not more, "another one had more"
        assert queue.admission.open == sum(queue.of(name) for name in weights) <= 12
    for lease in list(queue.open):
        queue.end(lease)
    assert queue.admission.open == 0


@functools.cache
def tokens() -> Tokenizer:
    return Tokenizer(starcoder_rules())


def request(id: str, tenant: str, **more: object) -> GenerationRequest:
    return GenerationRequest(request_id=id, prompts=[[1]], params=SamplingParams(), tenant=tenant, **more)  # type: ignore[arg-type]


@pytest.mark.virtual_time
async def test_the_displaced_are_told_to_come_again_and_leave_the_engine() -> None:
    engine, recorded = FakeEngine(), RecordedMetrics()
    clock = asyncio.get_running_loop().time
    service = EngineService(engine, tokens(), Admission(2, 2), step_timeout_s=5, metrics=recorded, clock=clock)
    displaced = families().counter(declared.DISPLACED, "test", "default")
    before = displaced._value.get()  # type: ignore[attr-defined]
    flood = [asyncio.create_task(service.generate(request(f"f{n}", "flood"))) for n in range(4)]
    await eventually(lambda: len(engine.requests) == 4)
    engine.say("f3-0", 100)
    await eventually(lambda: engine.fetched.get("f3-0") == 1)
    team = asyncio.create_task(service.generate(request("t0", "team")))
    await eventually(lambda: "t0-0" in engine.requests)
    with pytest.raises(OverloadedError) as refused:
        await flood[2]
    assert refused.value.retry_after is not None
    assert refused.value.retry_after >= 1
    assert engine.aborted == ["f2-0"], "the newest that has no answer yet"
    assert recorded.cancelled_tokens == [], "no client has left"
    assert displaced._value.get() == before + 1  # type: ignore[attr-defined]
    for id in ("f0", "f1", "f3", "t0"):
        engine.say(f"{id}-0", 100, finish="length")
    await asyncio.gather(flood[0], flood[1], flood[3], team)
    assert (service.open_streams, service.admission.open) == (0, 0)


@pytest.mark.virtual_time
@pytest.mark.parametrize("many", [False, True])
async def test_a_stream_that_has_begun_goes_on(many: bool) -> None:
    """Here or on an engine before: its client has a part of the answer."""
    engine = FakeEngine()
    clock = asyncio.get_running_loop().time
    service = EngineService(engine, tokens(), Admission(1, 1), 5, RecordedMetrics(), clock)
    more = {"stop": ("never",)} if many else {}
    begun = service.stream(request("f0", "flood", **more))
    engine.say("f0-0", 100)
    await anext(begun)
    resumed = asyncio.create_task(
        service.generate(request("f1", "flood", earlier=(Earlier(token_ids=[100]),), attempt=1, **more))
    )
    await eventually(lambda: "f1-0" in engine.requests)
    with pytest.raises(OverloadedError):
        await service.generate(request("t0", "team"))
    assert engine.aborted == []
    engine.say("f1-0", 100, finish="length")
    await resumed
    await begun.aclose()


@pytest.mark.virtual_time
async def test_cancelling_a_call_that_waits_is_no_displacement() -> None:
    engine = FakeEngine()
    clock = asyncio.get_running_loop().time
    service = EngineService(engine, tokens(), Admission(1, 1), 5, RecordedMetrics(), clock)
    task = asyncio.create_task(service.generate(request("f0", "flood")))
    await eventually(lambda: "f0-0" in engine.requests)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert engine.aborted == ["f0-0"]
    assert service.admission.open == 0


@pytest.mark.virtual_time
async def test_an_answer_without_a_beginning_is_none_and_weights_come_with_the_request() -> None:
    async def nothing() -> AsyncGenerator[int, None]:
        return
        yield

    admission = Admission(2, 2)
    with admission.admit(1, IDLE) as lease:
        assert await lease.first(nothing()) is None
    engine, clock = FakeEngine(), asyncio.get_running_loop().time
    service = EngineService(engine, tokens(), admission, 5, RecordedMetrics(), clock)
    asked = [request(f"a{n}", "one") for n in range(4)] + [request(f"b{n}", "three", weight=3.0) for n in range(3)]
    tasks = []
    for number, one in enumerate(asked, start=1):
        tasks.append(asyncio.create_task(service.generate(one)))
        await eventually(lambda number=number: len(engine.requests) == number)
    assert sorted(engine.aborted) == ["a1-0", "a2-0", "a3-0"]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
