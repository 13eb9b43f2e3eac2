"""What is recorded of one sequence's tokens, in seconds from its submission."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock, call

import pytest

from deployments.replica.sequence import SequenceTimes
from model.request import Output, Request
from monitoring import RequestMetrics


class Stand:
    def __init__(self, output_ids: list[int] | None = None) -> None:
        self.now = 100.0
        self.recorder = Mock(spec_set=RequestMetrics)
        sequence = Request("r-0", [1, 2, 3], service_class=2, output_ids=output_ids or [])
        self.times = SequenceTimes(self.recorder, sequence, lambda: self.now)

    def says(self, after: float, tokens: int, queue_seconds: float = 0.0) -> None:
        self.now += after
        self.times.saw(Output("r-0", [7] * tokens, queue_seconds=queue_seconds))

    def recorded(self) -> list[Any]:
        calls = self.recorder.mock_calls[:]
        self.recorder.reset_mock()
        return calls


def test_a_sequence_is_timed_from_its_submission_to_its_last_token() -> None:
    stand = Stand()
    stand.says(0.5, 0)
    assert stand.recorded() == [], "there is no token"
    stand.says(1.5, 2, queue_seconds=0.75)
    assert stand.recorded() == [call.queued(0.75, 2), call.prefilled(1.25), call.first_token(2.0)]
    stand.says(0.25, 1)
    stand.says(0.5, 0)
    stand.says(0.5, 4, queue_seconds=0.75)
    assert stand.recorded() == [call.inter_token(0.25, 1), call.inter_token(1.0, 4)]
    stand.now += 5
    stand.times.ended("length")
    assert stand.recorded() == [call.request_finished("length", 8.25), call.tokens(3, 7), call.decoded(1.25)]
    stand.times.ended("error")
    stand.times.engine_died()
    stand.times.cancelled()
    assert stand.recorded() == [], "only the first end counts"


def test_a_queue_that_is_said_to_be_longer_than_the_wait_leaves_no_time_to_compute() -> None:
    stand = Stand()
    stand.says(1.0, 1, queue_seconds=3.0)
    assert stand.recorded() == [call.queued(3.0, 2), call.prefilled(0.0), call.first_token(1.0)]


def test_one_that_goes_on_has_had_its_first_token_and_counts_all_of_them() -> None:
    stand = Stand(output_ids=[5, 6])
    stand.says(1.0, 1)
    assert stand.recorded() == [call.queued(0.0, 2), call.prefilled(1.0)]
    stand.times.ended("stop")
    assert stand.recorded() == [call.request_finished("stop", 1.0), call.tokens(3, 3), call.decoded(0.0)]


@pytest.mark.parametrize("tokens", [0, 4])
def test_tokens_of_a_client_that_left_are_wasted_and_those_of_a_dead_engine_counted_later(tokens: int) -> None:
    left, dead = Stand(), Stand()
    for stand in (left, dead):
        stand.says(2.0, tokens)
        stand.recorded()
        stand.now += 1
    decoded = [call.decoded(0.0)] if tokens else []
    left.times.cancelled()
    assert left.recorded() == [
        call.cancelled(tokens),
        call.request_finished("abort", 3.0),
        call.tokens(3, tokens),
        *decoded,
    ]
    dead.times.engine_died()
    assert dead.recorded() == [call.request_finished("error", 3.0), *decoded]
