"""How many developers who type one engine carries: their requests, and steps of a known length, in a steady state.

Somebody who types asks `requests_per_s` times a second. Of a request's prompt the cache has all but `new_tokens`, which
are computed once, and each of the answer's tokens takes its sequence through one more step. With R requests a second
and steps of S seconds, R S new_tokens prompt tokens are in a step, and R S answer_tokens sequences (Little's law), so

    S = base + R S work,  work = answer_tokens * sequence + new_tokens * token
    R = (1 - base / S) / work

A request waits for half a step on average and then runs for one a token. So an answer takes S * (answer_tokens + 1/2)
on average, and whoever wants 95 of 100 in time plans for less than that: SPREAD says how much. Requests that a newer
one ends before their answer are counted as if they had been answered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from deployments.command.gpus import StepTimes

Limit = Literal["steps", "sequences", "cache", "front"]

SPREAD = 1.5
"""What 95 of 100 answers take over the mean one, of those that nobody typed past. With the engine's own scheduler,
cache and sessions in simulated time 1.45 where as many type as this plans, 1.7 at 1.6 times as many
(`python -m tests.deployments.command.at_once`)."""

CORE_S_A_REQUEST, CORE_S_A_TOKEN = 0.0045, 0.000122
"""Processor time around the engine, measured on two cores of an Intel Xeon (benchmarks/results/stack.json). More than a
core's is not planned for one engine, whose replica is one process."""


@dataclass(frozen=True)
class Habits:
    """requests_per_s: of one who types, by the model of keystrokes (benchmarks/server/typing_model.py), which asks
    after 0.35 s without a key. prompt_tokens, cached: as measured with SPM prompts in editor sessions
    (benchmarks/results/editors.json, 164M: 1,000 to 3,000 tokens; 95 % of them in the cache with four people, the first
    request of each file included). answer_tokens: of a completion that ends where the code does
    (benchmarks/results/stop-rules.md: 26 to 33). within_s: from a request to the last token of its answer, for 95 of
    100."""

    requests_per_s: float = 0.7
    prompt_tokens: int = 3000
    cached: float = 0.95
    answer_tokens: int = 32
    within_s: float = 1.0

    @property
    def new_tokens(self) -> float:
        return self.prompt_tokens * (1 - self.cached)

    @property
    def core_s(self) -> float:
        """Processor time of a request around the engine."""
        return CORE_S_A_REQUEST + self.answer_tokens * CORE_S_A_TOKEN


@dataclass(frozen=True)
class Capacity:
    """Of one engine. developers: who type at the same moment. step_s: then. limit: what keeps it from more."""

    developers: int
    step_s: float
    limit: Limit

    def engines(self, developers: int) -> int:
        """For so many who type at the same moment. Raises ZeroDivisionError where an engine carries nobody."""
        return -(-developers // self.developers)


def capacity(times: StepTimes, habits: Habits, max_num_seqs: int, cache_tokens: int) -> Capacity:
    """What one engine carries, with so many places, and a cache that has to keep everybody's prompt."""
    work = habits.answer_tokens * times.sequence + habits.new_tokens * times.token
    longest_step = habits.within_s / SPREAD / (habits.answer_tokens + 0.5)
    requests: dict[Limit, float] = {
        "steps": (1 - times.base / longest_step) / work,
        # as many sequences as places, R S answer_tokens, with S = base / (1 - R work)
        "sequences": max_num_seqs / (habits.answer_tokens * times.base + max_num_seqs * work),
        "cache": habits.requests_per_s * cache_tokens / (habits.prompt_tokens + habits.answer_tokens),
        "front": 1 / habits.core_s,
    }
    limit = min(requests, key=lambda name: requests[name])
    developers = max(int(requests[limit] / habits.requests_per_s), 0)
    return Capacity(developers, times.base / (1 - developers * habits.requests_per_s * work), limit)
