"""One key's flood of editor sessions beside another team's editor, before a simulated engine of two cores."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from deployments.protocol import EditorSession, GenerationRequest
from deployments.replica.admission import Admission
from deployments.replica.service import EngineService
from model.limits import StepLimits
from model.request import SamplingParams
from model.text.tokenizer import Tokenizer
from tests.support.recorded_metrics import RecordedMetrics
from tests.support.simulated_engine import SimulatedEngine, Speed
from tests.support.tokenizers import starcoder_rules

pytestmark = pytest.mark.virtual_time


def opened(number: int, tenant: str, service_class: int = 1) -> GenerationRequest:
    """A file of 4,000 tokens that an editor has just opened, like no other."""
    return GenerationRequest(
        request_id=f"{tenant}-{number}",
        prompts=[[1000 + number] * 4000],
        params=SamplingParams(max_tokens=8, temperature=0.0),
        session=EditorSession(key=f"window {number}", prefix="", prefix_length=0, surroundings=""),
        tenant=tenant,
        cache_root=tenant,
        service_class=service_class,
    )


async def first_token(flood: int, flood_class: int = 1) -> float:
    """Seconds until the team's editor has one, which asks when the flood is there."""
    engine = SimulatedEngine(Speed(), StepLimits.on("cpu", 64, None, None))
    clock = asyncio.get_running_loop().time
    service = EngineService(engine, Tokenizer(starcoder_rules()), Admission(64, 512), 30, RecordedMetrics(), clock)
    engine.on_step = service.stepped
    service.pieces.pace.stepped(512, 0.33)
    requests = [opened(number, "flood", flood_class) for number in range(flood)]
    tasks = [asyncio.create_task(service.generate(request)) for request in requests]
    await asyncio.sleep(1)
    began = clock()
    async with contextlib.aclosing(service.stream(opened(0, "team"))) as stream:
        async for _ in stream:
            break
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await engine.shutdown()
    return clock() - began


async def test_a_flood_of_another_team_costs_no_more_than_one_of_its_editors() -> None:
    alone, beside_one, beside_many = [await first_token(flood) for flood in (0, 1, 40)]
    assert alone < beside_many < 1.2 * beside_one


async def test_a_flood_of_batch_work_costs_next_to_nothing() -> None:
    assert await first_token(40, flood_class=2) < 1.1 * await first_token(0)
