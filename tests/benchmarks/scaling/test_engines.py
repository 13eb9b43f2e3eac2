"""The simulated engine: against closed forms, and against what the real scheduler promises."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.scaling.engines import Engine, EngineModel, Request
from benchmarks.scaling.simulator import Simulation
from benchmarks.scaling.traces import Trace

ONE_AT_A_TIME = EngineModel(
    "one at a time",
    floor_s=0,
    per_token_s=1e-4,
    per_sequence_s=0,
    batched_tokens=1000,
    kv_tokens=10**9,
    max_queued=10**6,
)
MODEL = EngineModel("any", floor_s=0.01, per_token_s=1e-4, per_sequence_s=1e-3, batched_tokens=400, kv_tokens=10**6)


class Run:
    """One engine, and when each request had its first token and its end."""

    def __init__(self, model: EngineModel) -> None:
        self.now = 0.0
        self.first: dict[int, float] = {}
        self.end: dict[int, float] = {}
        self.engine = Engine(model, lambda: self.now, self._told)

    def _told(self, request: Request, at: float) -> None:
        (self.end if request.gone else self.first)[request.session] = at

    def ask(
        self, session: int, prompt: int, output: int = 1, priority: int = 0, computed: int | None = None
    ) -> Request:
        request = Request(self.now, session, prompt, prompt if computed is None else computed, output, priority)
        assert self.engine.offer(request, self.now)
        return request

    def until(self, end: float = math.inf) -> None:
        while self.engine.until is not None and self.engine.until <= end:
            self.now = self.engine.until
            self.engine.end_step()
        self.now = end if end < math.inf else self.now


@pytest.mark.parametrize("utilization", [0.3, 0.6, 0.8])
def test_one_engine_waits_as_m_d_1(utilization: float) -> None:
    """Steps of one prompt of 0.1 s each: the wait is u / (1 - u) * S / 2 (Pollaczek and Khinchine)."""
    generator, service = np.random.default_rng(1), 0.1
    times = np.cumsum(generator.exponential(service / utilization, 20_000)).tolist()
    trace = Trace("M/D/1", times[-1] + 60, lambda: [Request(at, i, 1000, 1000, 1) for i, at in enumerate(times)])
    outcome = Simulation(ONE_AT_A_TIME, trace, 1, cold_start=0).run()
    assert len(outcome.ttft) == len(times)
    waited = np.mean(outcome.ttft) - service
    assert waited == pytest.approx(utilization / (1 - utilization) * service / 2, rel=0.1)


def test_what_the_engine_reports_predicts_that_wait() -> None:
    generator, service, utilization = np.random.default_rng(2), 0.1, 0.7
    run, delays, waits = Run(ONE_AT_A_TIME), [], []
    for session, gap in enumerate(generator.exponential(service / utilization, 10_000)):
        run.until(run.now + float(gap))
        report = run.engine.demand.report()
        if session > 500:
            delays.append(report["queue_delay"])
            waits.append(report["utilization"])
        run.ask(session, 1000)
    expected = utilization / (1 - utilization) * service / 2
    # What it counts of the prompt at work is all of it, not the half that is left on average.
    assert np.mean(delays) == pytest.approx(expected + utilization * service / 2, rel=0.15)
    assert np.mean(waits) == pytest.approx(utilization, rel=0.1)
    assert run.engine.demand.report()["residual"] == pytest.approx(service / 2, rel=0.01)


def test_steps_cost_what_the_model_says() -> None:
    run = Run(MODEL)
    run.ask(0, 50, output=3)
    run.until()
    assert run.first[0] == pytest.approx(0.01)
    assert run.end[0] == pytest.approx(0.01 + 2 * 0.011)
    run = Run(MODEL)
    run.ask(0, 1000)
    run.until()
    assert run.first[0] == pytest.approx(0.04 + 0.04 + 0.02)


def test_a_short_prompt_does_not_wait_behind_a_long_one() -> None:
    run = Run(MODEL)
    run.ask(0, 10_000)
    run.ask(1, 90)
    run.until()
    assert run.first[1] == pytest.approx(0.08)  # the step that ran when it came, and one more
    assert run.first[0] > 1.0


def test_the_background_waits_for_others() -> None:
    run = Run(MODEL)
    for session in range(3):
        run.ask(session, 400, priority=1)
    run.ask(9, 400)
    run.until()
    assert run.first[9] < run.first[1] < run.first[2]
    assert run.engine.demand.backlog.tokens == run.engine.open == run.engine.kv_tokens == run.engine.running == 0


def test_a_full_batch_gives_the_place_of_the_background_to_others() -> None:
    run = Run(EngineModel("small", 0.01, 1e-4, 0, 400, 10**6, max_num_seqs=2))
    run.ask(0, 10, output=500, priority=1)
    run.ask(1, 10, output=500, priority=1)
    run.until(0.5)
    run.ask(2, 10)
    run.until()
    assert run.first[2] < 0.6
    assert run.end[1] > 5.0
    assert set(run.end) == {0, 1, 2}


def test_an_aborted_request_leaves_nothing_behind() -> None:
    run = Run(MODEL)
    waiting, decoding = run.ask(0, 4000), run.ask(1, 10, output=60)
    run.until(0.2)
    run.engine.abort(decoding)
    run.engine.abort(waiting)
    run.until()
    assert run.engine.open == run.engine.running == run.engine.kv_tokens == run.engine.demand.open == 0
    assert 0 not in run.first


def test_a_long_decode_is_the_same_whoever_comes_meanwhile_asks_nothing_of_it() -> None:
    """A stretch of steps alike is one event, cut where somebody comes."""
    alone, other = Run(MODEL), Run(MODEL)
    for run in (alone, other):
        run.ask(0, 10, output=100)
    alone.until()
    other.until(0.305)
    request = other.ask(1, 4000)
    other.engine.abort(request)
    other.until()
    assert other.end[0] == pytest.approx(alone.end[0])


def test_more_than_fit_are_refused() -> None:
    run = Run(EngineModel("small", 0.01, 1e-4, 0, 400, 10**6, max_num_seqs=2, max_queued=1))
    for session in range(3):
        run.ask(session, 10, output=50)
    assert not run.engine.offer(Request(0.0, 9, 10, 10, 1), 0.0)
