"""People who type before an engine of an H100, in simulated time, beside what `starcoder plan --developers` says of it.

`python -m tests.deployments.command.at_once` prints the table of docs/deploy.md; it takes minutes. The scheduler, the
cache and the sessions are the real ones; a step takes what `gpus.py` says.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

from benchmarks.report import markdown_table
from deployments.command.developers import Habits, capacity
from deployments.command.gpus import GPUS, StepTimes, step_times
from deployments.replica.admission import Admission
from deployments.replica.service import EngineService
from model.checkpoint.family import FAMILY
from model.checkpoint.memory import plan
from model.config import EngineConfig
from model.limits import StepLimits
from model.text.tokenizer import Tokenizer
from tests.deployments.replica.test_typing import FILES
from tests.support.recorded_metrics import RecordedMetrics
from tests.support.simulated_engine import SimulatedEngine, Speed
from tests.support.tokenizers import starcoder_rules
from tests.support.typists import Typist
from tests.support.virtual_time import VirtualTimeLoop

LINES = 12
BEGIN_WITHIN_S = 60.0


@dataclass
class Found:
    """Of all pauses: percent_in_time. Of those answered before the next: answers, in seconds, sorted."""

    percent_in_time: float
    answers: list[float]
    percent_cached: float

    def percentile(self, share: float) -> float:
        return self.answers[int(share * len(self.answers))]


async def typing(people: int, times: StepTimes, habits: Habits) -> Found:
    """So many people open a file each within a minute, and type twelve lines."""
    config = EngineConfig(model="starcoder")
    engine = SimulatedEngine(
        Speed(times.base, times.token, 0.0), StepLimits.on("cuda", config.max_num_seqs, None, None), blocks=120_000
    )
    clock = asyncio.get_running_loop().time
    admission = Admission(config.max_num_seqs, 512)
    service = EngineService(engine, Tokenizer(starcoder_rules()), admission, 30, RecordedMetrics(), clock=clock)
    engine.on_step = service.stepped
    generator = random.Random(1)
    typists = [Typist(n, *FILES[n % len(FILES)], max_tokens=habits.answer_tokens) for n in range(people)]
    await asyncio.gather(*(t.type(service, LINES, generator.uniform(0, BEGIN_WITHIN_S)) for t in typists))
    cached = engine.percent_cached
    await engine.shutdown()
    asked = [at for typist in typists for at in typist.lines_at]
    answers = sorted(at for at in asked if at is not None)
    in_time = sum(at <= habits.within_s for at in answers)
    return Found(100 * in_time / len(asked), answers, cached)


def main() -> None:
    habits, model = Habits(), FAMILY["starcoder"]
    times = step_times("h100", model, habits.prompt_tokens)
    config = EngineConfig(model="starcoder")
    cache = plan(model, config, GPUS["h100"].memory, 2).cache_tokens
    planned = capacity(times, habits, config.max_num_seqs, cache).developers
    rows: list[tuple[str, ...]] = [("people", "answered in 1 s, %", "mean", "p95", "cached, %")]
    for people in (planned // 4, planned, planned * 8 // 5):
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            found = runner.run(typing(people, times, habits))
        mean = sum(found.answers) / len(found.answers)
        figures = (f"{found.percent_in_time:.0f}", f"{mean:.2f} s", f"{found.percentile(0.95):.2f} s")
        rows.append((str(people), *figures, f"{found.percent_cached:.0f}"))
    print(markdown_table(rows))


if __name__ == "__main__":
    main()
