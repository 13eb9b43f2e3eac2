"""A counter of the engine is declared once: everything that tells of it finds it there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import pytest

from model.process.wire import HEADER, Step, frame, report
from model.request import Request, SamplingParams
from monitoring import metrics
from monitoring.labels import NOTHING_DECLARED
from monitoring.process import init, render
from monitoring.reference import reference
from monitoring.replica import ReplicaMetrics
from monitoring.specs import EngineCounterSpec
from tests.support.toy_engine import ToyExecutor, run_to_end, toy_engine


@pytest.fixture
def made_up() -> Iterator[EngineCounterSpec]:
    counter = metrics.STEPS.engine_counter("made_up_total", "What a test made up.")
    init(None)
    yield counter
    metrics.STEPS.specs.remove(counter)
    init(None)


def test_a_counter_needs_its_declaration_and_the_line_that_increments_it(made_up: EngineCounterSpec) -> None:
    engine = toy_engine()
    engine.counters.add(made_up, 3)
    arrived = report(frame(Step([], engine.stats()))[HEADER.size :])
    assert isinstance(arrived, Step)
    assert arrived.stats[made_up] == 3
    ReplicaMetrics("pico").engine_stats(arrived.stats)
    assert 'starcoder_made_up_total{model="pico"} 3.0\n' in render().decode()
    assert "| `starcoder_made_up_total` | counter | model | What a test made up. |\n" in reference(NOTHING_DECLARED)


def test_the_engine_counts_what_is_declared_and_nothing_else(made_up: EngineCounterSpec) -> None:
    names = {counter.name for counter in metrics.engine_counters()}
    assert made_up.name in names
    assert set(toy_engine().stats().totals) == names


def test_totals_of_a_snapshot_stay() -> None:
    engine = toy_engine()
    before = engine.stats()
    engine.counters.add(metrics.ENGINE_STEPS)
    assert (before[metrics.ENGINE_STEPS], engine.stats()[metrics.ENGINE_STEPS]) == (0, 1)


def test_kernels_compiled_while_serving_are_counted_once() -> None:
    engine = toy_engine()
    executor = cast(ToyExecutor, engine.executor)
    for late in (0, 2, 2, 3):
        executor.late_compilations = late
        engine.add(Request("x", [5, 6], SamplingParams(max_tokens=1)))
        run_to_end(engine)
        assert engine.counters[metrics.LATE_COMPILATIONS] == late
