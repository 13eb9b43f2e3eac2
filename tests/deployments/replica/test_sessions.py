"""Editor sessions and time limits of a replica, over a fake engine."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator

import pytest

from deployments.cluster.routing import home
from deployments.protocol import Delta, EditorSession, GenerationRequest, StopRules
from deployments.replica.admission import Admission
from deployments.replica.service import EngineService
from deployments.replica.sessions import Sessions
from model.request import Output, SamplingParams
from model.text.tokenizer import Tokenizer
from tests.support.fake_engine import FakeEngine
from tests.support.recorded_metrics import RecordedMetrics
from tests.support.tokenizers import starcoder_rules
from tests.support.waiting import eventually

pytestmark = pytest.mark.virtual_time


@functools.cache
def tokens() -> Tokenizer:
    return Tokenizer(starcoder_rules())


@pytest.fixture
def metrics() -> RecordedMetrics:
    return RecordedMetrics()


@pytest.fixture
async def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def service(engine: FakeEngine, metrics: RecordedMetrics) -> EngineService:
    clock = asyncio.get_running_loop().time
    return EngineService(engine, tokens(), Admission(1, 0), step_timeout_s=30, metrics=metrics, clock=clock)


def request(
    id: str, prefix: str = "x = ", key: str | None = "s", surroundings: str = "after the cursor", **changes
) -> GenerationRequest:
    session = key and EditorSession(key=key, prefix=prefix, prefix_length=len(prefix), surroundings=surroundings)
    params = SamplingParams(**({"max_tokens": 40} | changes.pop("params", {})))
    fields = {"prompts": [tokens().encode(prefix)], "params": params} | changes
    return GenerationRequest(request_id=id, session=session, **fields)


async def rest(stream: AsyncGenerator[list[Delta], None]) -> Delta:
    """What is left of a stream with one completion, as one delta."""
    async with asyncio.timeout(30):
        deltas = [delta for batch in [batch async for batch in stream] for delta in batch]
    last = deltas[-1]
    last.text = "".join(delta.text for delta in deltas)
    last.token_ids = [id for delta in deltas for id in delta.token_ids]
    return last


async def start(
    service: EngineService, engine: FakeEngine, wanted: GenerationRequest, text: str
) -> asyncio.Task[Delta]:
    """A request that is being answered and has said `text`."""
    task = asyncio.create_task(rest(service.stream(wanted)))
    id = f"{wanted.request_id}-0"
    await eventually(lambda: id in engine.requests or task.done())
    engine.say(id, *tokens().encode(text))
    await eventually(lambda: bool(engine.fetched.get(id)) or task.done())
    return task


async def test_the_older_request_ends_well_and_gives_its_place_to_the_newer(
    service: EngineService, engine: FakeEngine, metrics: RecordedMetrics
) -> None:
    """Even where there is room for one request only."""
    older = await start(service, engine, request("a"), "foo(1)")
    newer = await start(service, engine, request("b", "y = "), "2")
    ended = await older
    assert (ended.text, ended.finish_reason, ended.ended_by) == ("foo(1)", "stop", "superseded")
    assert engine.aborted == ["a-0"]
    engine.say("b-0", finish="length")
    assert (await newer).text == "2"
    assert metrics.superseded_tokens == [len(tokens().encode("foo(1)"))]
    assert metrics.finished == ["abort", "length"]
    assert (service.admission.open, service.open_streams) == (0, 0)


async def test_one_that_still_waits_is_superseded_too(service: EngineService, engine: FakeEngine) -> None:
    older = asyncio.create_task(rest(service.stream(request("a"))))
    await eventually(lambda: "a-0" in engine.requests)
    newer = asyncio.create_task(rest(service.stream(request("b", "y = "))))
    ended = await older
    assert (ended.text, ended.token_ids, ended.ended_by) == ("", [], "superseded")
    await eventually(lambda: engine.aborted == ["a-0"])
    await eventually(lambda: "b-0" in engine.requests)
    engine.say("b-0", *tokens().encode("1"), finish="stop")
    assert (await newer).text == "1"


async def test_the_engine_is_freed_although_nobody_reads_the_older_stream(
    service: EngineService, engine: FakeEngine
) -> None:
    stream = service.stream(request("a"))
    engine.say("a-0", *tokens().encode("1"))
    await anext(stream)
    newer = await start(service, engine, request("b", "y = "), "2")
    assert engine.aborted == ["a-0"]
    assert service.admission.open == 1
    last = await rest(stream)
    assert last.ended_by == "superseded"
    engine.say("b-0", finish="length")
    await newer
    assert service.admission.open == 0


async def test_sessions_and_requests_without_one_do_not_meet(engine: FakeEngine, metrics: RecordedMetrics) -> None:
    service = EngineService(engine, tokens(), Admission(9, 9), step_timeout_s=30, metrics=metrics)
    wanted = [
        request("a"),
        request("b", key="t"),
        request("c", key=None),
        request("d", cache_root="another"),
        request("e", "x = f", "t", cache_root="another"),
    ]
    tasks = [await start(service, engine, one, "foo") for one in wanted]
    for one in wanted:
        assert engine.requests[f"{one.request_id}-0"].prompt_ids == one.prompts[0], "nothing is inherited"
        engine.say(f"{one.request_id}-0", finish="length")
    assert [(await task).ended_by for task in tasks] == [None] * 5
    assert engine.aborted == []


async def test_what_was_typed_ahead_is_answered_at_once_and_continued(
    service: EngineService, engine: FakeEngine, metrics: RecordedMetrics
) -> None:
    said = tokens().encode("foo(1, 2)")
    older = await start(service, engine, request("a"), "foo(1, 2)")
    stream = service.stream(request("b", "x = fo"))
    async with asyncio.timeout(30):
        first = (await anext(stream))[0]
    assert first.text == "o(1, 2)"
    assert first.cached_tokens == len(tokens().encode("x = fo"))
    assert first.replayed_tokens == len(first.token_ids) > 0
    assert (await older).ended_by == "superseded"
    task = asyncio.create_task(rest(stream))
    await eventually(lambda: "b-0" in engine.requests)
    resumed = engine.requests["b-0"]
    assert resumed.prompt_ids == [*tokens().encode("x = "), *said]
    assert resumed.params.max_tokens == 40 - len(first.token_ids)
    engine.say("b-0", *tokens().encode(" + 3"), finish="length")
    last = await task
    assert (last.text, last.replayed_tokens) == (" + 3", 0)
    assert (metrics.superseded_tokens, metrics.reused) == ([0], 1)
    # And again, with all that both have said.
    assert await following(service, "x = foo(1", ", 2) + 3")


async def following(service: EngineService, prefix: str, text: str) -> bool:
    stream = service.stream(request("c", prefix))
    async with asyncio.timeout(30):
        first = (await anext(stream))[0]
    await stream.aclose()
    return first.text == text


async def test_what_a_cancelled_request_said_is_used(service: EngineService, engine: FakeEngine) -> None:
    """Editors hang up before they ask again."""
    stream = service.stream(request("a"))
    engine.say("a-0", *tokens().encode("foo(1)"))
    await anext(stream)
    await stream.aclose()
    assert await following(service, "x = f", "oo(1)")


async def test_an_answer_that_has_ended_needs_no_engine(
    service: EngineService, engine: FakeEngine, metrics: RecordedMetrics
) -> None:
    older = await start(service, engine, request("a"), "foo(1)")
    engine.say("a-0", tokens().eos_id, finish="stop", stop_token_id=tokens().eos_id)
    await older
    ended = await rest(service.stream(request("b", "x = foo")))
    assert (ended.text, ended.finish_reason, ended.ended_by) == ("(1)", "stop", None)
    assert ended.replayed_tokens == len(ended.token_ids) > 0
    assert "b-0" not in engine.requests
    assert metrics.superseded_tokens == []


async def test_no_more_is_reused_than_was_asked_for(service: EngineService, engine: FakeEngine) -> None:
    """The older request had more tokens to go, and has used them."""
    older = await start(service, engine, request("a"), "foo(1, 2) + bar(3, 4) + baz(5, 6)")
    ended = await rest(service.stream(request("b", "x = fo", params={"max_tokens": 3})))
    assert (len(ended.token_ids), ended.finish_reason) == (3, "length")
    assert "o(1, 2) + bar(3, 4)".startswith(ended.text)
    assert ended.text
    assert "b-0" not in engine.requests
    assert (await older).ended_by == "superseded"


@pytest.mark.parametrize(
    "newer",
    [
        request("b", "x = fa"),
        request("b", "x = foo(1)"),
        request("b", "y = fo"),
        request("b", "x ="),
        request("b", "x = fo", surroundings="something else"),
        request("b", "x = fo", surroundings=""),
        request("b", "x = fo", params={"temperature": 0.5}),
        request("b", "x = fo", params={"logprobs": 1}),
        request("b", "x = fo", params={"seed": 7}),
        request("b", "x = fo", n=2, best_of=2),
        request("b", "x = fo", stop=("z",)),
        request("b", "x = fo", rules=StopRules(mode="line", prefixes=("",), suffixes=("",))),
    ],
)  # fmt: skip
async def test_anything_else_starts_anew(
    engine: FakeEngine, metrics: RecordedMetrics, newer: GenerationRequest
) -> None:
    service = EngineService(engine, tokens(), Admission(9, 9), step_timeout_s=30, metrics=metrics)
    older = await start(service, engine, request("a"), "foo(1)")
    task = asyncio.create_task(rest(service.stream(newer)))
    await eventually(lambda: "b-0" in engine.requests)
    assert (await older).ended_by == "superseded"
    assert engine.requests["b-0"].prompt_ids == newer.prompts[0]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert metrics.reused == 0


async def test_rules_look_at_reused_text_from_the_new_cursor(service: EngineService, engine: FakeEngine) -> None:
    def ruled(id: str, prefix: str) -> GenerationRequest:
        rules = StopRules(mode="auto", language="python", prefixes=(prefix,), suffixes=("",))
        return request(id, prefix, rules=rules)

    older = await start(service, engine, ruled("a", "if x:"), "\n    y = 1\n    z = 2\n")
    engine.say("a-0", tokens().eos_id, finish="stop", stop_token_id=tokens().eos_id)
    assert (await older).text == "\n    y = 1\n    z = 2\n"
    ended = await rest(service.stream(ruled("b", "if x:\n    y")))
    assert (ended.text, ended.ended_by) == (" = 1", "block")


async def test_time_is_up_in_the_queue_and_in_the_middle(
    service: EngineService, engine: FakeEngine, metrics: RecordedMetrics
) -> None:
    waited = await rest(service.stream(request("a", key=None, max_time_ms=30)))
    assert (waited.text, waited.finish_reason, waited.ended_by) == ("", "length", "max_time")
    assert waited.ended_seconds == pytest.approx(0.03)
    task = await start(service, engine, request("b", key=None, max_time_ms=200, stop=("1)",)), "foo(1")
    ended = await task
    assert (ended.text, ended.ended_by) == ("foo(1", "max_time")
    assert ended.ended_seconds == pytest.approx(0.2)
    assert engine.aborted == ["a-0", "b-0"]
    assert metrics.finished == ["length", "length"]
    assert metrics.rules == ["max_time", "max_time"]


async def test_whole_answers_end_alike(service: EngineService, engine: FakeEngine) -> None:
    older = asyncio.create_task(service.generate(request("a")))
    await eventually(lambda: "a-0" in engine.requests)
    newer = asyncio.create_task(service.generate(request("b", "z = ", max_time_ms=50)))
    assert [delta.ended_by for delta in await older] == ["superseded"]
    assert [delta.ended_by for delta in await newer] == ["max_time"]


async def test_state_is_bounded_and_forgotten() -> None:
    now = [0.0]
    sessions = Sessions(tokens(), capacity=3, lifetime_s=10, clock=lambda: now[0])
    for number in range(9):
        with sessions.turn(request("r", key=f"s{number}")):
            pass
    assert len(sessions) == 3
    now[0] = 11.0
    with sessions.turn(request("r", key="new")):
        pass
    assert len(sessions) == 1
    with sessions.turn(request("r", key=None)):
        assert len(sessions) == 1


async def test_a_flood_of_made_up_sessions_empties_nobody_elses() -> None:
    sessions = Sessions(tokens(), capacity=10)
    with sessions.turn(request("mine", "x = ", tenant="team")) as mine:
        mine.add(Output("mine", tokens().encode("foo(1)")))
    for number in range(99):
        with sessions.turn(request("r", key=f"s{number}", tenant="flood")):
            pass
    with sessions.turn(request("next", "x = fo", tenant="team")) as turn:
        assert turn.typed == 2
    assert len(sessions) == 10


def test_every_handle_sends_a_session_to_the_same_replica() -> None:
    replicas = [f"replica-{i}" for i in range(5)]
    homes = {f"s{i}": home(f"s{i}", replicas) for i in range(500)}
    assert all(home(session, reversed(replicas)) == where for session, where in homes.items())
    assert min(list(homes.values()).count(replica) for replica in replicas) > 50
    moved = [session for session, where in homes.items() if home(session, replicas[:4]) != where]
    assert {homes[session] for session in moved} == {"replica-4"}
