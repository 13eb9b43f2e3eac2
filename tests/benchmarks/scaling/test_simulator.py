"""Small fleets in simulated time: what is counted, and that the policy keeps what it promises."""

from __future__ import annotations

import itertools
import logging
from typing import Any

import numpy as np
import pytest

from benchmarks.scaling import command, contenders, traces
from benchmarks.scaling.engines import EngineModel, Request
from benchmarks.scaling.simulator import Outcome, Simulation
from benchmarks.scaling.traces import Trace

MODEL = EngineModel("small", floor_s=0.005, per_token_s=1e-4, per_sequence_s=1e-4, batched_tokens=500, kv_tokens=10**6)


@pytest.fixture(autouse=True)
def quiet() -> None:
    logging.getLogger("ray.serve").setLevel(logging.WARNING)


def poisson(rate: dict[float, float], seconds: float, prompt: int = 400, seed: int = 0) -> Trace:
    """Requests of strangers, whose prompts nobody has cached. rate: a second, from a time on."""
    generator, times = np.random.default_rng(seed), []
    starts = [*rate, seconds]
    for start, end in itertools.pairwise(starts):
        count = generator.poisson(rate[start] * (end - start))
        times += sorted(generator.uniform(start, end, count).tolist())
    return Trace("poisson", seconds, lambda: [Request(at, i, prompt, prompt, 10) for i, at in enumerate(times)])


def simulate(trace: Trace, scaling: Any, cold_start: float = 60.0) -> Outcome:
    return Simulation(MODEL, trace, scaling, cold_start).run()


def test_a_fixed_fleet_costs_its_hours() -> None:
    outcome = simulate(poisson({0: 5}, 600), 3)
    assert outcome.replica_seconds == 3 * 600
    assert (outcome.peak, outcome.changes, outcome.refused) == (3, 0, 0)
    assert outcome.share_in_time > 0.99


def test_the_policy_finds_the_fleet_that_the_load_needs() -> None:
    """60 a second of 40 ms each are 2.4 engines' work: as good as a fixed fleet, from one engine on."""
    trace = poisson({0: 60}, 500)
    few, enough, ours = simulate(trace, 2), simulate(trace, 4), simulate(trace, contenders.ours(8))
    assert few.share_in_time < 0.9
    assert enough.share_in_time > 0.97
    settled = ours.ttft[len(ours.ttft) // 2 :]
    assert np.mean(np.array(settled) <= 0.3) > 0.97, "once they are there"
    assert 3 <= ours.peak <= 6


def test_it_neither_runs_away_while_engines_start_nor_flaps() -> None:
    outcome = simulate(poisson({0: 5, 100: 60}, 600), contenders.ours(20), cold_start=180)
    assert outcome.peak <= 6
    assert outcome.changes <= 6


def test_quiet_gives_engines_back() -> None:
    outcome = simulate(poisson({0: 60, 200: 2}, 600), contenders.ours(8, downscale_delay_s=60), cold_start=30)
    assert outcome.peak > 2
    assert outcome.replica_seconds < 270 * outcome.peak + 340


def test_the_background_asks_for_no_engines() -> None:
    trace = poisson({0: 2}, 900)
    peaks = [
        simulate(
            Trace("bulk", 900, trace.requests, traces.Bulk(60, 2000, 100, 400, 50, priority)), contenders.ours(8)
        ).peak
        for priority in (1, 0)
    ]
    assert peaks[0] == 1 < peaks[1]


def test_a_bulk_job_ends_and_is_timed() -> None:
    job = Trace("bulk", 600, list, traces.Bulk(60, 100, 10, 400, 50))
    outcome = simulate(job, 1)
    # 100 prompts of 40 ms, ten at a time; their 50 tokens take a step each beside that.
    assert outcome.bulk_seconds == pytest.approx(100 * 0.04 + 10 * 49 * 0.006, rel=0.25)
    assert outcome.ttft == []


def test_a_newer_request_of_a_session_ends_the_one_before() -> None:
    asks = [Request(at, 1, 8000, 8000, 10) for at in (1.0, 1.1, 1.8)]
    outcome = simulate(Trace("one", 10, lambda: asks), 1)
    assert outcome.superseded == 1, "nobody can say"
    assert outcome.late == 1, "0.7 s were too long"
    assert len(outcome.ttft) == 1


def test_a_session_that_moves_finds_nothing_in_the_cache() -> None:
    asks = [Request(float(at), 1, 1000, 1000 if at == 1 else 16, 10) for at in (1, 2)]
    assert simulate(Trace("one", 10, lambda: asks), 1).ttft == pytest.approx([0.1, 0.005], abs=0.001)


def test_what_finds_no_room_is_refused() -> None:
    outcome = simulate(poisson({0: 2000}, 10), 1)
    assert outcome.refused > 0
    assert outcome.figures()["percent_refused"] > 50


def test_the_same_seed_is_the_same_outcome() -> None:
    sizes = traces.Sizes(300, 400)
    first, second = (simulate(traces.burst(sizes, 10, seed=3), contenders.ours(4)).figures() for _ in range(2))
    assert first == second
    assert first != simulate(traces.burst(sizes, 10, seed=4), contenders.ours(4)).figures()


def test_better_than_counts_and_than_serves_default() -> None:
    """What the long run shows (docs/scaling.md), in small: a larger share than counts, for fewer hours than Serve's."""
    sizes = traces.Sizes(300, 480, jump=0.3)
    trace = traces.burst(sizes, 40, seed=0)
    ours, counts, serve = (
        simulate(trace, scaling(8)) for scaling in (contenders.ours, contenders.counts, contenders.serve_default)
    )
    assert ours.share_in_time >= counts.share_in_time
    assert ours.replica_seconds < serve.replica_seconds


def test_a_day_has_its_lunch() -> None:
    requests = traces.day(traces.Sizes(300, 480), 20, seed=0).requests()
    times = np.array([request.at for request in requests])
    morning, lunch, afternoon = (np.count_nonzero((times > 3600 * h) & (times < 3600 * (h + 0.5))) for h in (2, 3.9, 5))
    assert lunch < 0.7 * min(morning, afternoon)
    assert np.all(np.diff(times) >= 0)


def test_the_command_tells_its_table(tmp_path: Any) -> None:
    options = command.argparse.Namespace(
        engine=["pico"], trace=["burst"], cold_start=[30.0], people=4, quick=True, jobs=1, seed=0
    )
    found = [(one, command.simulate(one, 4, 0)) for one in command.plan("pico", "burst", [30.0], quick=True)]
    result = command.result(options, found)
    assert "predicted delay (ours), default" in result.text()
    written = result.to_json()
    assert "machine" not in written
    assert "date" not in written
    assert len(written["details"]) == 3
