"""Pieces of long prompts on their way to an engine."""

from __future__ import annotations

import asyncio

import pytest

from deployments.replica.pieces import Pieces
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


def ask(pieces: Pieces, id: str, key: str = "s") -> asyncio.Task[list[Output]]:
    async def outputs() -> list[Output]:
        request = Request(id, PROMPT, SamplingParams(max_tokens=5, seed=3))
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
