"""Pieces of long prompts on their way to an engine."""

from __future__ import annotations

import asyncio

import pytest

from deployments.replica.pieces import Pieces
from deployments.replica.turns import STALLED_S
from model.request import Output, Request, SamplingParams
from tests.support.fake_engine import FakeEngine
from tests.support.waiting import eventually

pytestmark = pytest.mark.virtual_time

PROMPT = list(range(2000))


@pytest.fixture
async def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def counted() -> list[None]:
    return []


@pytest.fixture
async def pieces(engine: FakeEngine, counted: list[None]) -> Pieces:
    found = Pieces(engine, asyncio.get_running_loop().time, lambda: counted.append(None))
    found.pace.stepped(512, 0.512)
    return found


def ask(
    pieces: Pieces, id: str, key: str = "s", tenant: str = "", service_class: int = 1, weight: float = 1.0
) -> asyncio.Task[list[Output]]:
    async def outputs() -> list[Output]:
        params = SamplingParams(max_tokens=5, seed=3)
        request = Request(id, PROMPT, params, tenant=tenant, weight=weight, service_class=service_class)
        return [output async for output in pieces.generate(key, request)]

    return asyncio.create_task(outputs())


async def computed(engine: FakeEngine, id: str, cached: int) -> Request:
    await eventually(lambda: id in engine.requests)
    engine.say(id, 1, finish="length", cached_tokens=cached)
    return engine.requests[id]


async def test_a_prompt_arrives_in_pieces_and_then_whole(
    pieces: Pieces, engine: FakeEngine, counted: list[None]
) -> None:
    task = ask(pieces, "a")
    end = 0
    for number in range(1, 8):
        piece = await computed(engine, f"a-piece-{number}", cached=end)
        assert (piece.is_piece, piece.params.max_tokens) == (True, 1)
        end += 256
        assert piece.prompt_ids == PROMPT[:end]
    whole = await computed(engine, "a", cached=0)
    assert (whole.prompt_ids, whole.params.seed, whole.ahead, whole.is_piece) == (PROMPT, 3, end, False)
    assert [output.token_ids for output in await task] == [[1]]
    assert len(counted) == 7
    assert await ask_again_takes_no_pieces(pieces, engine)


async def ask_again_takes_no_pieces(pieces: Pieces, engine: FakeEngine) -> bool:
    task = ask(pieces, "b")
    whole = await computed(engine, "b", cached=1984)
    await task
    return whole.ahead == 0


async def test_a_cache_that_keeps_nothing_is_not_asked_piece_by_piece(pieces: Pieces, engine: FakeEngine) -> None:
    """Or a prompt would be computed once for each of its pieces."""
    task = ask(pieces, "a")
    for number in (1, 2):
        await computed(engine, f"a-piece-{number}", cached=0)
    assert (await computed(engine, "a", cached=0)).ahead == 256 + 512
    await task


async def test_who_leaves_makes_room_and_takes_his_piece_out(pieces: Pieces, engine: FakeEngine) -> None:
    leaving, other = ask(pieces, "a"), ask(pieces, "b", "t")
    await eventually(lambda: "a-piece-1" in engine.requests)
    leaving.cancel()
    await eventually(lambda: engine.aborted == ["a-piece-1"])
    await eventually(lambda: "b-piece-1" in engine.requests)
    other.cancel()
    await asyncio.gather(leaving, other, return_exceptions=True)
    third = ask(pieces, "c")
    await eventually(lambda: "c-piece-1" in engine.requests)
    third.cancel()
    await asyncio.gather(third, return_exceptions=True)


async def test_a_piece_that_waits_in_the_engine_holds_up_its_own_tenant_alone(
    pieces: Pieces, engine: FakeEngine
) -> None:
    tasks = [ask(pieces, "night", tenant="night", service_class=2), ask(pieces, "more", "t", "night", 2)]
    await eventually(lambda: "night-piece-1" in engine.requests)
    tasks.append(ask(pieces, "editor", tenant="editors", service_class=0))
    await eventually(lambda: "editor-piece-1" in engine.requests)
    assert engine.requests["editor-piece-1"].service_class == 0
    tasks.append(ask(pieces, "other", tenant="other", service_class=0))
    began = asyncio.get_running_loop().time()
    await eventually(lambda: "other-piece-1" in engine.requests)
    assert asyncio.get_running_loop().time() - began == pytest.approx(STALLED_S, abs=0.1)
    assert "more-piece-1" not in engine.requests
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_turn_that_comes_to_one_who_is_leaving_goes_on_to_the_next(pieces: Pieces, engine: FakeEngine) -> None:
    tasks = [ask(pieces, "a"), ask(pieces, "b", "t"), ask(pieces, "c", "u")]
    await eventually(lambda: "a-piece-1" in engine.requests)
    tasks[0].cancel()
    tasks[1].cancel()  # whose turn is next, before it runs again
    await eventually(lambda: "c-piece-1" in engine.requests)
    assert "b-piece-1" not in engine.requests
    tasks[2].cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(error) for error in ended} == {asyncio.CancelledError}


async def test_a_tenant_keeps_its_turn_between_two_pieces_of_its_only_prompt(
    pieces: Pieces, engine: FakeEngine
) -> None:
    """Or it would have one piece of two, whatever its weight."""
    tasks = [ask(pieces, "one", tenant="one"), ask(pieces, "three", "t", "three", weight=3.0)]
    seen: dict[str, int] = {}
    while len(seen) < 10:
        await eventually(lambda: engine.open_requests == 1 and engine.requests.keys() - seen.keys() != set())
        (id,) = engine.requests.keys() - seen.keys()
        seen[id] = len(engine.requests[id].prompt_ids)
        engine.say(id, 1, finish="length", cached_tokens=seen[id])
    assert [id.partition("-")[0] for id in seen].count("three") == 7
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
