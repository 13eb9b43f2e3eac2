"""With one tenant in one class the order of service is what it is without tenants: priority, then arrival."""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Iterator
from typing import Any

from hypothesis import given, settings

from model.scheduling.fairness import FairQueue
from model.scheduling.sequence import Sequence
from tests.support.loads import Arrival, arrivals, engine_options, run_load
from tests.support.toy_engine import toy_engine


class ByRank(FairQueue):
    """One list of all that wait, sorted by priority and arrival: the definition."""

    def __init__(self) -> None:
        super().__init__()
        self.line: list[Sequence] = []

    def __len__(self) -> int:
        return len(self.line)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self.line)

    def add(self, sequence: Sequence) -> None:
        bisect.insort(self.line, sequence, key=lambda s: s.rank)

    def remove(self, sequence: Sequence) -> None:
        self.line.remove(sequence)

    def first(self) -> Sequence:
        return self.line[0]

    def in_order(self, prompts: Any, most: int, looks: int) -> Iterator[Sequence]:
        waiting = [s for s in self.line if not s.in_check] if most else []
        return heapq.merge(list(prompts), waiting, key=lambda s: s.rank)

    def overtaken(self, prompts: Any, admitted: Any, served: Any) -> list[Sequence]:
        return []

    def check_integrity(self) -> None:
        assert self.line == sorted(self.line, key=lambda s: s.rank)


def steps_of(arrivals: list[Arrival], options: dict[str, Any], queue: FairQueue) -> list[Any]:
    engine = toy_engine(**options, seed=0)
    engine.scheduler.waiting = queue
    schedule, steps = engine.scheduler.schedule, []

    def noted() -> Any:
        plan = schedule()
        steps.append([(s.sequence.request.request_id, s.count, s.draft) for s in plan])
        return plan

    engine.scheduler.schedule = noted  # type: ignore[method-assign]
    run_load(engine, arrivals).check()
    return steps


@given(arrivals=arrivals, options=engine_options)
@settings(max_examples=100, deadline=None)
def test_one_tenant_is_served_by_priority_and_arrival(arrivals: list[Arrival], options: dict[str, Any]) -> None:
    alone = [Arrival(*(one.prompt, one.max_tokens, one.priority, one.gap, one.abort_after, None)) for one in arrivals]
    options = options | {"target_inter_token_latency_s": 0.0}  # a clock would decide
    assert steps_of(alone, options, FairQueue()) == steps_of(alone, options, ByRank())
