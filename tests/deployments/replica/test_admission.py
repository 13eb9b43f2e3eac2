"""The queue's bound and Retry-After."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from deployments.errors import InvalidRequestError, OverloadedError
from deployments.replica.admission import Admission
from model.statistics import EngineStats

IDLE = EngineStats()


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_room_is_what_runs_plus_what_may_wait() -> None:
    admission = Admission(max_running=4, max_waiting=2)
    with ExitStack() as stack:
        for _ in range(6):
            stack.enter_context(admission.admit(1, IDLE))
        with pytest.raises(OverloadedError), admission.admit(1, IDLE):
            pass
        assert admission.open == 6
    assert admission.open == 0
    with admission.admit(6, IDLE):
        pass


def test_a_request_of_many_sequences_is_taken_whole_or_not_at_all() -> None:
    admission = Admission(max_running=4, max_waiting=0)
    with admission.admit(3, IDLE), pytest.raises(OverloadedError), admission.admit(2, IDLE):
        pass
    assert admission.open == 0


def test_sequences_that_wait_for_cache_blocks_fill_the_queue() -> None:
    """The engine runs 2 of its 64 because the cache is full; 3 wait, and no more than 3 may."""
    admission = Admission(max_running=64, max_waiting=3)
    with admission.admit(5, IDLE):
        full = EngineStats(running=2, waiting=3, lacks_blocks=True)
        with pytest.raises(OverloadedError), admission.admit(1, full):
            pass
        with admission.admit(1, EngineStats(running=3, waiting=2, lacks_blocks=True)):
            pass


def test_sequences_that_wait_for_the_next_step_fill_no_queue() -> None:
    """Seven come while the engine is in a step: three of them run in the next one."""
    admission = Admission(max_running=4, max_waiting=4)
    with admission.admit(7, IDLE), admission.admit(1, EngineStats(running=1, waiting=6)):
        assert admission.open == 8
        with pytest.raises(OverloadedError), admission.admit(1, EngineStats(running=1, waiting=7)):
            pass


def test_stale_stats_of_an_engine_that_is_idle_now_do_not_count() -> None:
    admission = Admission(max_running=4, max_waiting=2)
    with admission.admit(4, EngineStats(waiting=50, lacks_blocks=True)):
        assert admission.open == 4


def test_retry_after_follows_the_observed_rate() -> None:
    clock = Clock()
    admission = Admission(max_running=1, max_waiting=0, clock=clock)
    assert admission.retry_after(3) == 5.0
    for _ in range(10):
        with admission.admit(1, IDLE):
            clock.now += 1.0
    assert admission.retry_after(4) == pytest.approx(4 * 0.9, rel=0.2)
    assert admission.retry_after(1000) == 60.0
    clock.now += 31.0
    assert admission.retry_after(4) == 5.0


def test_what_has_just_begun_is_taken_for_a_second_old() -> None:
    clock = Clock()
    admission = Admission(max_running=4, max_waiting=0, clock=clock)
    with admission.admit(4, IDLE):
        pass
    assert admission.retry_after(8) == pytest.approx(2.0)  # four a second
    clock.now += 1.5
    assert admission.retry_after(8) == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("admitted", "waiting", "asked", "seconds"),
    [
        (8, 0, 1, 5 + 1),  # 3 run, 5 wait
        (7, 0, 3, 4 + 3),
        (7, 5, 2, 5 + 2),  # as the engine says: its cache has room for 2 only
        (7, 2, 2, 4 + 2),  # it has not heard of the last ones yet
    ],
)
def test_who_is_refused_is_told_when_the_queue_before_them_will_have_gone(
    admitted: int, waiting: int, asked: int, seconds: float
) -> None:
    clock = Clock()
    admission = Admission(max_running=3, max_waiting=5, clock=clock)
    for _ in range(10):  # one ends each second
        with admission.admit(1, IDLE):
            pass
        clock.now += 1.0
    stats = EngineStats(running=admitted - waiting, waiting=waiting)
    with admission.admit(admitted, IDLE), pytest.raises(OverloadedError) as refused, admission.admit(asked, stats):
        pass
    assert (refused.value.status, refused.value.retry_after) == (429, seconds)
    assert refused.value.message == (
        f"The queue is full: {admitted} sequences run or wait. Try again in {seconds:.0f} s."
    )


def test_what_can_never_be_admitted_is_refused_for_good() -> None:
    admission = Admission(max_running=2, max_waiting=3)
    with pytest.raises(InvalidRequestError, match="at most 5 at once"), admission.admit(6, EngineStats()):
        pass
    with admission.admit(5, EngineStats()):
        assert admission.open == 5
    assert admission.open == 0
