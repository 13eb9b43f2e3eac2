"""People who type before a replica whose engine is as fast as one of 164M on two cores, in virtual time.

`python -m tests.deployments.replica.test_typing` prints a table of it.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Any

import pytest

from benchmarks.report import markdown_table
from deployments.replica.admission import Admission
from deployments.replica.service import EngineService
from model.limits import StepLimits
from model.text.tokenizer import Tokenizer
from tests.support.recorded_metrics import RecordedMetrics
from tests.support.simulated_engine import SimulatedEngine, Speed
from tests.support.tokenizers import starcoder_rules
from tests.support.typists import Typist, percent_finished, percent_within
from tests.support.virtual_time import VirtualTimeLoop

pytestmark = pytest.mark.virtual_time

FILES = [(5000, 1900), (900, 900), (600, 400), (1500, 1500), (2000, 3000), (300, 500), (900, 3000), (1200, 700)]
"""Tokens before and after the cursor."""

GPU = Speed(step=0.012, token=6e-5, look_back=1e-9)


@dataclass
class Day:
    """What became of it."""

    typists: list[Typist]
    percent_cached: float
    pieces: int


async def day(editors: int, speed: Speed, lines: int = 12, device: str = "cpu", **options: Any) -> Day:
    """So many people, who begin within five seconds, type so many lines each."""
    engine = SimulatedEngine(speed, StepLimits.on(device, 64, None, None))
    recorded = RecordedMetrics()
    clock = asyncio.get_running_loop().time
    tokenizer = Tokenizer(starcoder_rules())
    service = EngineService(engine, tokenizer, Admission(64, 512), 30, recorded, clock=clock)
    engine.on_step = service.stepped
    generator = random.Random(1)
    typists = [Typist(number, *FILES[number % len(FILES)], **options) for number in range(editors)]
    await asyncio.gather(*(typist.type(service, lines, generator.uniform(0, 5)) for typist in typists))
    assert (service.admission.open, service.open_streams) == (0, 0)
    engine.scheduler.check_integrity()
    await engine.shutdown()
    return Day(typists, engine.percent_cached, recorded.pieces)


async def test_four_editors_have_a_line_in_time_at_a_third_of_their_pauses() -> None:
    found = await day(4, Speed())
    assert percent_within(found.typists, 1.0) > 100 / 3
    assert found.percent_cached > 90
    assert all(percent_finished([typist]) > 25 for typist in found.typists)


async def test_in_psm_hardly_anybody_has() -> None:
    """Which is why it is not what `auto` means."""
    found = await day(4, Speed(), mode="psm")
    assert percent_within(found.typists, 1.0) < 10
    assert found.percent_cached < 60


@pytest.mark.parametrize(("editors", "mode", "times"), [(16, "spm", 2), (4, "psm", 2)])
async def test_pieces_serve_more_where_there_is_too_much_to_do(editors: int, mode: str, times: int) -> None:
    """Beside the same people in no session, whose prompts are computed as they come."""
    with_pieces = await day(editors, Speed(), mode=mode)
    without = await day(editors, Speed(), mode=mode, session=False)
    assert with_pieces.pieces > 0 == without.pieces
    assert percent_finished(with_pieces.typists) > times * percent_finished(without.typists)


async def test_nobody_is_left_without_an_answer_where_there_is_too_much_to_do() -> None:
    found = await day(8, Speed())
    assert all(percent_finished([typist]) > 0 for typist in found.typists)


async def test_where_prompts_are_fast_nothing_is_in_pieces() -> None:
    found = await day(16, GPU, lines=4, device="cuda")
    assert found.pieces == 0
    assert percent_within(found.typists, 1.0) > 60


def simulated_table() -> list[tuple[str, ...]]:
    """People before an engine of 164M on two cores: as it was, in SPM, and with pieces."""
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("PSM, no session", {"mode": "psm", "session": False}),
        ("SPM, no session", {"session": False}),
        ("SPM, in sessions", {}),
    ]
    rows = [
        ("editors", *(f"{name}: {what}" for name, _ in kinds for what in ("answered, %", "in 1 s, %", "cached, %")))
    ]
    for editors in (1, 2, 4, 8, 16, 32):
        row = [str(editors)]
        for _, options in kinds:
            with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
                found = runner.run(day(editors, Speed(), **options))
            shares = (percent_finished(found.typists), percent_within(found.typists, 1.0), found.percent_cached)
            row += [f"{share:.0f}" for share in shares]
        rows.append(tuple(row))
    return rows


if __name__ == "__main__":
    print(markdown_table(simulated_table()))
