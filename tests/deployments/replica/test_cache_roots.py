"""Requests of different cache roots find nothing of each other: neither blocks, nor replicas, nor sessions."""

from __future__ import annotations

import asyncio
import functools

import pytest

from deployments.cluster.routing import PrefixIndex
from deployments.protocol import EditorSession, GenerationRequest
from deployments.replica.admission import Admission
from deployments.replica.service import EngineService
from deployments.replica.sessions import Sessions
from model.limits import StepLimits
from model.request import SamplingParams
from model.text.tokenizer import Tokenizer
from tests.support.recorded_metrics import RecordedMetrics
from tests.support.simulated_engine import SimulatedEngine, Speed
from tests.support.tokenizers import starcoder_rules

PROMPT = list(range(20, 120))


@functools.cache
def tokens() -> Tokenizer:
    return Tokenizer(starcoder_rules())


def request(id: str, cache_root: str, session: str | None = None) -> GenerationRequest:
    key = session and EditorSession(key=session, prefix="x = ", prefix_length=4, surroundings="")
    params = SamplingParams(max_tokens=3, temperature=0.0)
    return GenerationRequest(
        request_id=id, prompts=[PROMPT], params=params, cache_root=cache_root, tenant=cache_root, session=key or None
    )


@pytest.mark.virtual_time
async def test_cached_tokens_are_those_of_ones_own_root() -> None:
    engine = SimulatedEngine(Speed(), StepLimits.on("cpu", 64, None, None))
    clock = asyncio.get_running_loop().time
    service = EngineService(engine, tokens(), Admission(64, 64), 30, RecordedMetrics(), clock=clock)
    found = []
    for number, root in enumerate(("one", "other", "one", "", "")):
        (delta,) = await service.generate(request(str(number), root))
        found.append(delta.cached_tokens)
    assert found == [0, 0, 96, 0, 96]
    await engine.shutdown()


@pytest.mark.virtual_time
async def test_sessions_of_one_name_and_different_roots_do_not_end_each_other() -> None:
    sessions = Sessions(tokens())
    with sessions.turn(request("a", "one", "s")) as mine, sessions.turn(request("b", "other", "s")) as foreign:
        assert mine.generation is not None
        assert not mine.ended
        assert foreign.typed is None
        assert mine.key != foreign.key
        with sessions.turn(request("c", "one", "s")):
            assert mine.ended
            assert not foreign.ended


def test_routes_of_different_roots_are_different_prefixes() -> None:
    index = PrefixIndex(block_size=16)
    index.remember(index.hashes(PROMPT, "one"), "replica")
    assert index.holders(index.hashes(PROMPT, "one")) == {"replica": 6}
    assert index.holders(index.hashes(PROMPT, "other")) == index.holders(index.hashes(PROMPT)) == {}


def test_without_roots_hashes_are_what_they_were() -> None:
    index = PrefixIndex(block_size=16)
    assert index.hashes(PROMPT)[0].hex() == "10b0c71b70673a75f27a2a1b964c4b53"
    assert set(index.hashes(PROMPT, "one")).isdisjoint(index.hashes(PROMPT))
