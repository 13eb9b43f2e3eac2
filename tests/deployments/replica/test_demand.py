"""What one engine reports of the prompts that come to it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.replica.demand import Demand, StepCost


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def trained(clock: Clock, batched_tokens: int = 1000) -> Demand:
    """Of an engine whose steps take 10 ms and 0.1 ms a token."""
    demand = Demand(batched_tokens, clock)
    for tokens in (1, 200, 1000, 1, 500):
        demand.step(tokens, 0.01 + tokens * 1e-4)
    return demand


def test_steps_tell_what_a_token_costs() -> None:
    cost = StepCost()
    for tokens in (1, 300, 7, 900):
        cost.add(tokens, 0.02 + tokens * 1e-3)
    cost.fit()
    assert (cost.fixed, cost.per_token) == (pytest.approx(0.02), pytest.approx(1e-3))


def test_steps_alike_tell_no_more_than_their_pace_and_forget_nothing() -> None:
    cost = StepCost()
    cost.fit()
    assert cost.per_token == 0
    for _ in range(10):
        cost.add(100, 0.05)
    cost.fit()
    assert (cost.fixed, cost.per_token) == (0, pytest.approx(5e-4))
    cost.add(1, 0.01)
    cost.fit()
    known = cost.per_token
    for _ in range(10_000):
        cost.add(100, 0.05)
    cost.fit()
    assert cost.per_token == pytest.approx(known)


def test_new_steps_outweigh_old_ones() -> None:
    cost = StepCost()
    for _ in range(1000):
        cost.add(1, 0.01)
        cost.add(1000, 0.1)
    for _ in range(2000):
        cost.add(1, 0.01)
        cost.add(1000, 0.5)
    cost.fit()
    assert cost.per_token == pytest.approx(0.49 / 999, rel=0.01)


def test_what_waits_is_told_in_seconds() -> None:
    demand = trained(Clock())
    prompts = [demand.prompt(1100), demand.prompt(1100)]
    throughput = 1000 / 0.11
    assert demand.report()["queue_delay"] == pytest.approx(2200 / throughput)
    prompts[0].computed(1100)
    prompts[1].end()
    assert demand.report()["queue_delay"] == 0
    assert demand.open == 1
    for prompt in prompts:
        prompt.end()
        prompt.computed(5)
    assert (demand.open, demand.backlog.prompts, demand.backlog.tokens) == (0, 0, 0)


def test_those_who_decode_take_their_part_of_each_step() -> None:
    """Those who wait do not: a long queue makes no engine slower."""
    demand = trained(Clock())
    alone = demand.report() and demand.throughput()
    for _ in range(100):
        demand.prompt(500)
    assert demand.throughput() == alone
    for _ in range(100):
        demand.prompt(500).computed(500)
    assert demand.throughput() == pytest.approx(alone * 0.9)


def test_what_arrives_is_a_share_of_the_engine() -> None:
    clock = Clock()
    demand = trained(clock)
    for _ in range(10):
        demand.offer(1000)
    clock.now = 2.0
    assert demand.report()["utilization"] == pytest.approx(10_000 / 2 * 0.11 / 1000)
    clock.now = 2.1
    assert demand.report()["utilization"] > 0.5, "too soon to say anything new"
    clock.now = 4.0
    assert demand.report()["utilization"] == 0


def test_cached_tokens_ask_for_nothing() -> None:
    clock = Clock()
    demand = trained(clock)
    for _ in range(100):
        demand.prompt(1000).computed(100)
    demand.offer(1000)
    clock.now = 1.0
    assert demand.report()["utilization"] == pytest.approx(100 * 0.11 / 900, rel=0.01)  # 100 decode meanwhile


def test_the_background_is_no_demand() -> None:
    clock = Clock()
    demand = trained(clock)
    demand.offer(1000, priority=1)
    prompt = demand.prompt(1000, priority=1)
    clock.now = 1.0
    assert demand.report() == {"open": 0, "queue_delay": 0, "utilization": 0, "residual": 0}
    prompt.computed(1000)
    prompt.end()
    assert demand.report() == {"open": 0, "queue_delay": 0, "utilization": 0, "residual": 0}


def test_an_engine_that_has_run_nothing_says_nothing() -> None:
    clock = Clock()
    demand = Demand(512, clock)
    demand.offer(1000)
    demand.prompt(1000)
    clock.now = 5.0
    assert demand.report() == {"open": 1, "queue_delay": 0, "utilization": 0, "residual": 0}


def test_the_prompt_at_work_is_found_half_done_on_average() -> None:
    """E[S^2] / 2 E[S]: half of it where all are alike, more where they differ."""
    alike, different = trained(Clock()), trained(Clock())
    for tokens in (100, 1900) * 50:
        alike.prompt(1000).computed(1000)
        different.prompt(2000).computed(tokens)
    assert alike.report()["residual"] == pytest.approx(0.11 / 2)
    assert different.report()["residual"] == pytest.approx((0.02**2 + 0.2**2) / 2 / (2 * 0.11), rel=0.02)


@given(st.lists(st.tuples(st.integers(1, 4096), st.floats(1e-5, 10)), min_size=1, max_size=50), st.integers(0, 9000))
def test_reports_are_numbers_whatever_steps_took(steps: list[tuple[int, float]], tokens: int) -> None:
    clock = Clock()
    demand = Demand(512, clock)
    for size, seconds in steps:
        demand.step(size, seconds)
    demand.offer(tokens)
    demand.prompt(max(tokens, 1)).computed(tokens)
    demand.prompt(tokens)
    clock.now = 1.0
    assert all(0 <= value < 1e9 for value in demand.report().values())
