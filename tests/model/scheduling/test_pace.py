"""Prompts beside those who decode, on simulated devices: next tokens come in time, and prompts come to an end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.shapes import shape_config
from model.config import ModelConfig
from model.limits import BATCHED_TOKENS, PrefillFloor
from model.scheduling.costs import StepCosts
from model.scheduling.pace import LEAST_SHARE
from model.scheduling.step_time import Exchange, StepTime
from monitoring import metrics
from tests.support.timed_device import BLOCK, Speed, Step, TimedEngine, timed_engine

TARGET = 0.05
LARGE = ModelConfig.model_validate(shape_config("15b"))
COSTS = StepCosts(LARGE, 31_000_000_000, 2)
FLOOR = PrefillFloor.on("cuda")

speeds = st.builds(
    Speed,
    weights=st.floats(0.004, 0.02),
    token=st.floats(20e-6, 150e-6),
    context=st.floats(0, 1e-8),
    look=st.floats(0, 4e-9),
    overlaps=st.booleans(),
)


def engine_on(speed: Speed, target: float = TARGET, decoders: int = 0, **options: Any) -> TimedEngine:
    """An engine of a model of 15.5B, in which so many decode as long as anything else goes on."""
    timed = timed_engine(speed, **{"target_inter_token_latency_s": target, "costs": COSTS, **options})
    for number in range(decoders):
        timed.add(f"decoder {number}", 40, max_tokens=8000)
    timed.run(until=lambda: len(timed.tokens_at) == decoders)
    return timed


def prompts_of(timed: TimedEngine, lengths: list[int], name: str = "prompt") -> list[Step]:
    """The steps until all of these prompts have their token."""
    names = [f"{name} {number}" for number in range(len(lengths))]
    for each, length in zip(names, lengths, strict=True):
        timed.add(each, length, max_tokens=1)
    before = len(timed.device.steps)
    timed.run(until=lambda: all(each in timed.tokens_at for each in names))
    return timed.device.steps[before:]


def least(speed: Speed, step: Step) -> float:
    """Seconds that a step of this many decodes takes with no more of prompts than always go on."""
    rows = step.decodes
    tokens = rows + -(-FLOOR.tokens(rows) // BLOCK) * BLOCK
    floor = speed.seconds(tokens, step.contexts, step.contexts + tokens * 8000)
    return max(floor, (1 + LEAST_SHARE) * speed.seconds(rows, step.contexts, step.contexts))


@given(
    speed=speeds,
    target=st.floats(0.02, 0.15),
    decoders=st.integers(1, 40),
    lengths=st.lists(st.integers(1, 8000), min_size=1, max_size=8),
)
@settings(max_examples=60, deadline=None)
def test_tokens_come_in_time_wherever_that_is_possible(
    speed: Speed, target: float, decoders: int, lengths: list[int]
) -> None:
    timed = engine_on(speed, target, decoders)
    prompts_of(timed, [8000, 8000], "first")
    steps = prompts_of(timed, lengths)
    assert all(s.decodes >= decoders for s in steps), "who decodes was held up"
    late = [s for s in steps if s.seconds > 1.25 * max(target, least(speed, s))]
    assert not late, f"of {len(steps)}: {late[0]}"


@given(speed=speeds, target=st.sampled_from([0.02, 0.05]), decoders=st.integers(1, 40))
@settings(max_examples=20, deadline=None)
def test_even_the_first_prompts_hold_nobody_up_for_long(speed: Speed, target: float, decoders: int) -> None:
    timed = engine_on(speed, target, decoders)
    steps = prompts_of(timed, [8000])
    assert all(s.seconds <= 2 * max(target, least(speed, s)) for s in steps)


@given(
    speed=speeds,
    target=st.floats(1e-6, 0.02),
    decoders=st.integers(1, 63),
    lengths=st.lists(st.integers(1, 3000), min_size=1, max_size=4),
)
@settings(max_examples=20, deadline=None)
def test_prompts_go_on_under_a_target_that_cannot_be_kept(
    speed: Speed, target: float, decoders: int, lengths: list[int]
) -> None:
    timed = engine_on(speed, target, decoders)
    steps = prompts_of(timed, lengths)
    assert len(steps) <= sum(-(-length // (FLOOR.least // 2)) for length in lengths) + 3


@given(
    speed=speeds,
    lengths=st.lists(st.integers(1, 8000), min_size=1, max_size=6),
    device=st.sampled_from(["cpu", "cuda"]),
)
@settings(max_examples=20, deadline=None)
def test_where_nobody_decodes_steps_are_full(speed: Speed, lengths: list[int], device: str) -> None:
    found = []
    for target in (0.0, 0.001):
        timed = engine_on(speed, target, device=device)
        found.append([s.tokens for s in prompts_of(timed, lengths)])
    assert found[0] == found[1]
    assert all(tokens == BATCHED_TOKENS[device] for tokens in found[0][:-1])


@pytest.mark.parametrize(("before", "after"), [(1.0, 4.0), (4.0, 1.0)])
@pytest.mark.parametrize("overlaps", [False, True])
def test_a_device_that_changes_its_speed_is_known_again_soon(before: float, after: float, overlaps: bool) -> None:
    speed = Speed(overlaps=overlaps, times=before)
    timed = engine_on(speed, 0.15, decoders=8)
    prompts_of(timed, [8000] * 4, "before")
    speed.times = after
    steps = [s for s in prompts_of(timed, [8000] * 8, "after") if s.tokens > s.decodes]
    known = [s.seconds for s in steps[12:-1]]
    assert max(known) <= 1.2 * 0.15
    assert np.median(known) >= 0.8 * 0.15, "it is taken to be slower than it is"


def test_on_a_cpu_chunks_follow_what_tokens_cost() -> None:
    """As measured of a model of 164M on two cores."""
    speed = Speed(weights=0.010, token=620e-6, context=0, look=3e-7, overlaps=False)
    timed = engine_on(speed, 0.1, decoders=4, device="cpu", costs=None)
    steps = prompts_of(timed, [2000] * 3)
    assert np.median([s.seconds for s in steps]) == pytest.approx(0.1, rel=0.15)
    assert max(s.seconds for s in steps) < 0.13
    without = engine_on(speed, 0.0, decoders=4, device="cpu", costs=None)
    assert max(s.seconds for s in prompts_of(without, [2000] * 3)) > 0.3


def test_a_cpu_that_cannot_keep_the_target_still_computes_prompts() -> None:
    """Steps that are held up by others on the machine, most of their time."""
    speed = Speed(weights=0.2, token=100e-6, context=0, look=0, overlaps=False)
    timed = engine_on(speed, 0.01, decoders=4, device="cpu", costs=None)
    for _ in range(50):
        timed.step()
    steps = prompts_of(timed, [8000] * 2)
    assert sum(s.seconds for s in steps) < 12 * speed.token * 16_000
    assert max(s.seconds for s in steps) < 1.5 * speed.weights


def test_who_waits_is_not_slowed_down_for_the_background() -> None:
    timed = timed_engine(Speed(), costs=COSTS, target_inter_token_latency_s=0.03)
    timed.add("background", 40, max_tokens=500, priority=1)
    timed.run(until=lambda: "background" in timed.tokens_at)
    assert prompts_of(timed, [6000])[1].tokens == BATCHED_TOKENS["cuda"]


def test_chunks_end_with_blocks() -> None:
    timed = engine_on(Speed(), decoders=3)
    steps = [s for s in prompts_of(timed, [8000]) if s.tokens > s.decodes]
    assert all((s.tokens - s.decodes) % BLOCK == 0 for s in steps[:-1])


def test_paced_steps_and_the_error_of_what_was_expected_are_counted() -> None:
    timed = engine_on(Speed(), decoders=3)
    assert timed.engine.counters[metrics.PACED_STEPS] == 0
    steps = prompts_of(timed, [8000] * 4)
    counters = timed.engine.counters
    assert len(steps) - 4 <= counters[metrics.PACED_STEPS] <= len(steps)
    assert counters[metrics.EXPECTED_STEP_TIME] == pytest.approx(sum(s.seconds for s in steps), rel=0.2)
    assert 0 < counters[metrics.STEP_TIME_ERROR] < 0.1 * counters[metrics.EXPECTED_STEP_TIME]


def test_without_a_target_nothing_is_learned() -> None:
    for device, target in (("cpu", None), ("cuda", 0.0)):
        assert timed_engine(Speed(), device, target_inter_token_latency_s=target).engine.pace is None
    pace = timed_engine(Speed()).engine.pace
    assert pace is not None
    assert pace.target == 0.05


@given(
    prices=st.tuples(st.floats(0, 4), st.floats(0, 4), st.floats(0.3, 4), st.floats(0, 4)),
    seed=st.integers(0, 1000),
    outlier=st.floats(5, 1000),
)
@settings(max_examples=50)
def test_step_times_of_any_prices_are_found(
    prices: tuple[float, float, float, float], seed: int, outlier: float
) -> None:
    """From steps of all kinds; one that was held up moves what is expected by less than itself."""
    random = np.random.default_rng(seed)
    exchange = Exchange(256, 1e-4, 3e-5)
    steps = StepTime(exchange)

    def some() -> np.ndarray:
        tokens, contexts = int(random.integers(256, 2048)), int(random.integers(0, 200_000))
        return exchange.parts(tokens, contexts, tokens * int(random.integers(1, 8000)))

    for _ in range(200):
        parts = some()
        steps.learn(parts, float(parts @ np.array(prices)) * 50e-6 * float(random.normal(1, 0.02)))
    parts = some()
    truth = float(parts @ np.array(prices)) * 50e-6
    assert steps.seconds(parts) == pytest.approx(truth, rel=0.2)
    steps.learn(parts, outlier * truth)
    assert steps.seconds(parts) < 2 * truth


@given(seconds=st.lists(st.floats(0, 1e4), min_size=1, max_size=200), tokens=st.integers(256, 2048))
@settings(max_examples=50)
def test_no_measurement_breaks_the_estimate(seconds: list[float], tokens: int) -> None:
    exchange = Exchange(256, 1e-4, 3e-5)
    steps = StepTime(exchange)
    parts = exchange.parts(tokens, 1000, 1000)
    for one in seconds:
        steps.learn(parts, one)
        assert 0 <= steps.seconds(parts) < float("inf")
        assert not steps.known or steps.tokens_within(0.05, exchange.parts(3, 100, 100), 50) < float("inf")


def test_what_no_step_tells_is_never_less_certain_than_at_the_start() -> None:
    """However long all steps are alike: else the first of another kind would set prices by its own noise."""
    exchange = Exchange(256, 1e-4, 3e-5)
    steps = StepTime(exchange)
    parts = exchange.parts(8, 1000, 1000)
    for _ in range(2000):
        steps.learn(parts, 0.01)
    assert np.trace(steps._spread) <= 4.001 * (0.01 / parts.sum()) ** 2
    assert steps.seconds(parts) == pytest.approx(0.01)


def test_a_look_costs_what_the_roofline_says() -> None:
    """An exchange of shares: a step's parts are its operations, over those of one token's linear layers."""
    exchange = COSTS.exchange(256)
    assert exchange.look * LARGE.n_positions == pytest.approx(0.27, abs=0.01)
    assert exchange.read * 1_000_000 == pytest.approx(256 * LARGE.kv_bytes_per_token(2) * 1e6 / COSTS.weights_read)


def test_what_a_draft_models_passes_take_is_not_there_for_prompts() -> None:
    timed = engine_on(Speed(weights=0.01, token=40e-6, context=1e-9, look=1e-9, overlaps=True), decoders=2)
    timed.add("prompt", 4000, max_tokens=2)
    for _ in range(5):
        timed.step()
    pace, running = timed.engine.pace, timed.engine.scheduler.running
    assert pace is not None
    decoding, prompts = [s for s in running if s.pending == 1], [s for s in running if s.pending > 1]
    found = []
    for pace.before in (0.0, 0.01, 0.02, 1.0):
        found.append(pace.prompt_tokens(decoding, prompts) or 0)
    assert found[0] > found[1] > found[2] >= found[3] >= FLOOR.least
