"""Planning a step takes work in proportion to its sequences, counted in calls: clocks differ from run to run."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from tests.support.timed_device import Speed, TimedEngine, timed_engine


def calls_of_steps(timed: TimedEngine, steps: int = 32) -> int:
    """Calls of Python's and of C's functions in the scheduler and while batches are built: whole blocks' worth."""
    count = 0

    def note(frame: Any, event: str, arg: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    schedule = timed.engine.scheduler.schedule

    def counted() -> Any:
        sys.setprofile(note)
        try:
            return schedule()
        finally:
            sys.setprofile(None)

    timed.engine.scheduler.schedule = counted  # type: ignore[method-assign]
    for _ in range(steps):
        timed.step()
    return count


def engine_of(decoders: int, waiting: int, **options: Any) -> TimedEngine:
    timed = timed_engine(Speed(), max_num_seqs=decoders, target_inter_token_latency_s=0.05, **options)
    for number in range(decoders):
        timed.add(f"decoder {number}", 20 + number % 16, max_tokens=8000)
    timed.run(until=lambda: len(timed.tokens_at) == decoders)
    for number in range(waiting):
        timed.add(f"waits {number}", 50, max_tokens=1)
    return timed


@pytest.mark.parametrize("async_scheduling", [False, True])
@pytest.mark.parametrize("caching", [False, True])
def test_decode_steps_are_planned_in_linear_time(async_scheduling: bool, caching: bool) -> None:
    few, many = (
        calls_of_steps(engine_of(n, 0, async_scheduling=async_scheduling, enable_prefix_caching=caching))
        for n in (64, 256)
    )
    assert many < 4.4 * few
    assert many < 32 * 256 * 20, "a sequence that goes on in its block takes few calls"


def test_who_waits_costs_nothing_while_no_place_is_free() -> None:
    assert calls_of_steps(engine_of(64, 1024)) < 1.1 * calls_of_steps(engine_of(64, 16))


@pytest.mark.parametrize("tenants", [1, 50])
def test_an_admission_looks_at_few_of_those_who_wait(tenants: int) -> None:
    """Places become free in every step; thousands wait."""

    def calls(waiting: int) -> int:
        timed = timed_engine(Speed(), max_num_seqs=64, target_inter_token_latency_s=0.05)
        for number in range(waiting):
            timed.add(f"waits {number}", 50, max_tokens=1 + number % 40, tenant=f"t{number % tenants}")
        timed.run(until=lambda: len(timed.tokens_at) > 64)
        return calls_of_steps(timed)

    assert calls(4000) < 1.2 * calls(250)
