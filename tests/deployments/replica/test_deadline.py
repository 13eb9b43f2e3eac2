"""What cannot be begun in time is refused at once; whose prompts come before it, the scheduler decides."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.errors import TooLateError, unwrap
from deployments.ingress import refusal_reason
from deployments.protocol import Earlier, EditorSession, GenerationRequest
from deployments.replica.admission import Admission
from deployments.replica.backlog import Backlog, Standing
from deployments.replica.demand import Demand
from deployments.replica.service import EngineService
from model.request import SamplingParams
from model.text.tokenizer import Tokenizer
from tests.support.fake_engine import FakeEngine
from tests.support.recorded_metrics import RecordedMetrics
from tests.support.tokenizers import starcoder_rules
from tests.support.waiting import eventually

standings = st.builds(Standing, st.sampled_from("abc"), st.just(1.0), st.integers(0, 2))


def test_ones_own_come_before_and_better_classes_and_of_others_as_much_as_is_fair() -> None:
    backlog = Backlog()
    backlog.add(Standing("flood"), 10_000)
    backlog.add(Standing("team"), 300)
    backlog.add(Standing("urgent", service_class=0), 50)
    backlog.add(Standing("night", service_class=2), 4000)
    assert backlog.before(Standing("team"), 100) == 300 + 400 + 50
    assert backlog.before(Standing("team", weight=4.0), 100) == 300 + 100 + 50
    assert backlog.before(Standing("new"), 100) == 100 + 100 + 50
    assert backlog.before(Standing("new", service_class=0), 100) == 50
    assert backlog.before(Standing("flood"), 100) == 10_000 + 300 + 50
    assert backlog.before(Standing("night", service_class=2), 1) == backlog.tokens


@given(st.lists(st.tuples(standings, st.integers(0, 500)), max_size=30), st.data())
def test_what_was_added_is_removed(added: list[tuple[Standing, int]], data: st.DataObject) -> None:
    backlog = Backlog()
    for standing, tokens in added:
        backlog.add(standing, tokens)
        assert 0 <= backlog.before(standing, 1) <= backlog.tokens
    for standing, tokens in data.draw(st.permutations(added)):
        backlog.remove(standing, tokens)
    assert (backlog.tokens, backlog.prompts, backlog._lines) == (0, 0, {})


def service_of(engine: FakeEngine) -> EngineService:
    """Of an engine that computes 1,000 tokens of prompts a second, of which none are cached."""
    clock = asyncio.get_running_loop().time
    demand = Demand(500, clock)
    for _ in range(20):
        demand.step(500, 0.5)
        demand.step(1, 0.001)
    tokenizer = Tokenizer(starcoder_rules())
    return EngineService(engine, tokenizer, Admission(8, 8), 60, RecordedMetrics(), clock, demand)


def request(id: str, length: int, deadline_s: float | None = None, tenant: str = "") -> GenerationRequest:
    return GenerationRequest(
        request_id=id, prompts=[[1] * length], params=SamplingParams(), deadline_s=deadline_s, tenant=tenant
    )


@pytest.mark.virtual_time
async def test_who_would_wait_too_long_is_refused_at_once() -> None:
    engine = FakeEngine()
    service = service_of(engine)
    queued = asyncio.create_task(service.generate(request("queued", 4000)))
    await eventually(lambda: "queued-0" in engine.requests)
    with pytest.raises(TooLateError, match=r"within 3 s, but would wait for 4\.") as refused:
        await service.generate(request("late", 10, deadline_s=3.0))
    assert (refused.value.status, refused.value.code) == (429, "overloaded")
    assert refused.value.retry_after == pytest.approx(1.0, abs=0.2)
    assert "late-0" not in engine.requests
    assert service.admission.open == 1
    others = [request("patient", 10), request("in time", 10, 5.0), request("other", 10, 3.0, tenant="other")]
    resumed = GenerationRequest(
        **{name: getattr(request("resumed", 10, 3.0), name) for name in ("request_id", "prompts", "params")},
        deadline_s=3.0,
        earlier=(Earlier(token_ids=[100]),),
    )
    tasks = [asyncio.create_task(service.generate(one)) for one in (*others, resumed)]
    await eventually(lambda: len(engine.requests) == 5)
    for id in engine.requests:
        engine.say(id, 100, finish="length")
    await asyncio.gather(queued, *tasks)


@pytest.mark.virtual_time
async def test_pieces_of_long_prompts_count_with_the_rests_between_them() -> None:
    """They wait before the engine, one at a time, while others are answered."""
    engine = FakeEngine()
    service = service_of(engine)
    service.pieces.pace.stepped(500, 0.5)
    service.pieces.pace._interval = 1.8  # as it becomes where somebody always is being answered

    def typed(id: str, deadline_s: float | None = None, tenant: str = "") -> GenerationRequest:
        session = EditorSession(key=id, prefix="", prefix_length=0, surroundings="")
        return msgspec.structs.replace(request(id, 2000, deadline_s, tenant), session=session)

    queued = asyncio.create_task(service.generate(typed("queued")))
    await eventually(lambda: "queued-0-piece-1" in engine.requests)
    with pytest.raises(TooLateError, match="within 5 s, but would wait for 14"):
        await service.generate(typed("late", 5.0))
    short = asyncio.create_task(service.generate(request("short", 10, 5.0)))
    await eventually(lambda: "short-0" in engine.requests)
    for task in (queued, short):
        task.cancel()
    await asyncio.gather(queued, short, return_exceptions=True)


@pytest.mark.virtual_time
async def test_an_engine_of_which_nothing_is_known_refuses_nobody() -> None:
    engine = FakeEngine()
    clock = asyncio.get_running_loop().time
    service = EngineService(engine, Tokenizer(starcoder_rules()), Admission(8, 8), 60, RecordedMetrics(), clock)
    tasks = [asyncio.create_task(service.generate(request(str(n), 4000, 0.001))) for n in range(2)]
    await eventually(lambda: len(engine.requests) == 2)
    for id in engine.requests:
        engine.say(id, 100, finish="length")
    await asyncio.gather(*tasks)


def test_the_ingress_counts_it_by_its_own_reason() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(TooLateError("late", retry_after=2.0)))
    assert refusal_reason(unwrap(error)) == "deadline"
