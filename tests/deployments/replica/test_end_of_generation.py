"""What a real engine still computes after the text of a request has ended."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from deployments.protocol import Delta, GenerationRequest, StopRules
from deployments.replica.admission import Admission
from deployments.replica.service import EngineService
from model.process.client import EngineClient
from model.process.loop import EngineLoop
from model.request import Output, SamplingParams
from monitoring.metrics import ENGINE_STEPS, GENERATION_TOKENS
from tests.support.recorded_metrics import RecordedMetrics
from tests.support.toy_engine import toy_engine
from tests.support.waiting import eventually, settle


class LetterTokenizer:
    """Token i is a letter; every seventh is a newline."""

    special_ids: frozenset[int] = frozenset()
    fim_ids: frozenset[int] = frozenset()
    special: dict[str, int] = {}  # noqa: RUF012
    eos_id = 0

    def token_bytes(self, id: int) -> bytes:
        return b"\n" if id % 7 == 6 else bytes([97 + id % 7])


async def test_a_rule_ends_generation_within_two_steps(tmp_path: Path) -> None:
    """Behind the end the engine's loop runs the step that was under way, and no other."""
    path = str(tmp_path / "engine.sock")
    engine = toy_engine(num_blocks=400, max_model_len=1024)
    step, may_step = engine.step, threading.Semaphore(0)

    def step_when_told() -> list[Output]:
        may_step.acquire()
        return step()

    engine.step = step_when_told  # type: ignore[method-assign]
    thread = threading.Thread(target=EngineLoop(engine, path, []).run, daemon=True)
    thread.start()
    client = await EngineClient.connect(path, 60)
    metrics = RecordedMetrics()
    service = EngineService(client, LetterTokenizer(), Admission(4, 4), step_timeout_s=600, metrics=metrics)  # type: ignore[arg-type]
    rules = StopRules(mode="line", language="python", prefixes=("",), suffixes=("",))
    params = SamplingParams(max_tokens=900, temperature=0.0, ignore_eos=True)
    request = GenerationRequest(request_id="r", prompts=[[1, 2, 3]], params=params, rules=rules)

    async def answer() -> list[Delta]:
        return [delta async for batch in service.stream(request) for delta in batch]

    task = asyncio.create_task(answer())
    for steps in range(1, 901):
        may_step.release()
        await eventually(lambda steps=steps: client.stats[ENGINE_STEPS] >= steps)  # type: ignore[misc]
        await settle()  # the service reads what has come, and aborts the request where that ends its text
        if task.done():
            break
    deltas = await task
    assert (deltas[-1].finish_reason, deltas[-1].ended_by) == ("stop", "line")
    for _ in range(5):
        may_step.release()
    await eventually(lambda: not engine.has_work())
    assert engine.stats()[GENERATION_TOKENS] <= sum(len(delta.token_ids) for delta in deltas) + 1
    await client.shutdown()
    await asyncio.to_thread(thread.join, 120)
